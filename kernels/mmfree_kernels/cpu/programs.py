"""Neuron programs on many neurons and tokens at once: interpreted in C where that was built, else
on NumPy arrays.

Both count what the neurons send and saturate, for each slot by itself, and give the integers of
`mmfree_neuro.graph.machine.Machine` for programs of verified graphs, bit for bit.
"""

from collections.abc import Mapping
from functools import lru_cache
from typing import Protocol

import numpy as np
from numpy.typing import NDArray

from mmfree_neuro.graph import programs
from mmfree_neuro.graph.machine import Machine, Value
from mmfree_neuro.graph.nodes import AnyNode
from mmfree_neuro.graph.recorder import Program, record
from mmfree_neuro.integers.fixedpoint import Ints, QType
from mmfree_neuro.integers.tables import (
    GATE_FRAC,
    SIGMOID_INPUT_BITS,
    SIGMOID_INPUT_FRAC,
    SigmoidTable,
)

try:
    from mmfree_kernels.cpu import _programs
except ImportError:  # no compiler was found when the package was installed
    _programs = None  # type: ignore[assignment]

Int32 = NDArray[np.int32]

LEVELS = ("avx512", "avx2", "portable", "numpy")
"""The instruction sets that the interpreter is compiled for, fastest first, and NumPy."""
WORTH_A_THREAD = 1 << 18
"""Instructions times neurons times tokens below which a second thread costs more than it saves."""

Stream = tuple[Int32, int, int]
"""An input: an array [tokens, width], the element that neuron 0 reads, and how many elements lie
between what two neurons read: 1 where each reads its own, 0 where all read one."""


@lru_cache
def available() -> tuple[str, ...]:
    """The levels that run here, fastest first."""
    compiled = (
        ()
        if _programs is None
        else tuple(level for level in LEVELS[:-1] if _programs.supports(level))
    )
    return (*compiled, "numpy")


class Neurons(Protocol):
    """A program bound to some neurons: their constants, their states, and what they counted; of all
    arrays [slots, neurons], a row is about the sequence in that slot."""

    events: dict[str, Int32]
    """How many non-zero values each neuron sent, by output."""
    saturated: Int32
    """How many values each neuron saturated."""
    wrapped: Int32
    """How many sums of each neuron did not fit their accumulators; who makes the sums counts them
    here."""
    state: Int32 | None
    """The recurrent states of each neuron."""

    def run(self, inputs: Mapping[str, Stream], slots: Int32) -> dict[str, Int32]:
        """What the neurons send for some tokens, by output, each [tokens, neurons].

        `slots` [tokens] says in which row each token counts; of which state it is, the program
        reads by itself.
        """


def bind(
    node: AnyNode,
    table: SigmoidTable,
    constants: Mapping[str, Ints],
    neurons: int,
    *,
    slots: int = 1,
    threads: int = 1,
    level: str | None = None,
) -> Neurons:
    """The program of a node on neurons with these constants, each [neurons], for sequences in so
    many slots; the fastest level unless named."""
    program, level = record(node, table), level or available()[0]
    if level == "numpy":
        return Interpreted(node, program, constants, neurons, slots)
    return Compiled(program, constants, neurons, slots, threads, level)


def _states(program: Program, neurons: int) -> Int32 | None:
    """The states of neurons before the first token."""
    return np.zeros((program.slots, neurons), np.int32) if program.slots else None


class Compiled:
    """Runs in C."""

    def __init__(
        self,
        program: Program,
        constants: Mapping[str, Ints],
        neurons: int,
        slots: int,
        threads: int,
        level: str,
    ) -> None:
        self.program, self.neurons, self.threads, self.level = program, neurons, threads, level
        self.lone = neurons == 1 and not program.slots and not program.constants
        self.state = _states(program, neurons)
        self.events = {port: np.zeros((slots, neurons), np.int32) for port in program.outputs}
        self.saturated = np.zeros((slots, neurons), np.int32)
        self.wrapped = np.zeros((slots, neurons), np.int32)
        self._code = np.ascontiguousarray(program.code)
        self._immediates = np.array(program.immediates, np.int32)
        self._constants = tuple(_narrow(constants[name]) for name in program.constants)
        self._tables = tuple(_narrow(table) for table in program.tables)
        sigmoid = program.sigmoid
        self._sigmoid = _narrow(sigmoid.values), _narrow(sigmoid.slopes), sigmoid.segment_bits
        self._counters = tuple(self.events.values())

    def run(self, inputs: Mapping[str, Stream], slots: Int32) -> dict[str, Int32]:
        tokens = len(slots)
        neurons, steps = (tokens, 1) if self.lone else (self.neurons, tokens)
        streams: list[Int32 | int] = []
        for name in self.program.inputs:
            array, first, stride = inputs[name]
            width = array.shape[1]
            streams += [array, first, *((0, width) if self.lone else (width, stride))]
        sent = {port: np.empty((tokens, self.neurons), np.int32) for port in self.program.outputs}
        counters, saturated, rows = self._counters, self.saturated, slots
        if self.lone:  # the tokens take the lanes that neurons take elsewhere
            counters = tuple(np.zeros((1, tokens), np.int32) for _ in counters)
            saturated, rows = np.zeros((1, tokens), np.int32), np.zeros(1, np.int32)
        threads = self.threads if len(self._code) * neurons * steps > WORTH_A_THREAD else 1
        _programs.run(
            self._code,
            self._immediates,
            self._constants,
            self._tables,
            self._sigmoid,
            self.program.registers,
            neurons,
            steps,
            tuple(streams),
            self.state,
            tuple(sent.values()),
            rows,
            counters,
            saturated,
            threads,
            self.level,
        )
        if self.lone:
            totals = self.saturated, *self._counters
            for total, counted in zip(totals, (saturated, *counters), strict=True):
                if len(total) == 1:
                    total += counted.sum()
                else:
                    np.add.at(total[:, 0], slots, counted[0])
        return sent


class Interpreted:
    """Runs on NumPy arrays."""

    def __init__(
        self,
        node: AnyNode,
        program: Program,
        constants: Mapping[str, Ints],
        neurons: int,
        slots: int,
    ) -> None:
        self.node, self.program, self.constants, self.neurons = node, program, constants, neurons
        self.machine = VectorMachine(neurons, slots)
        self.saturated = self.machine.saturated
        self.wrapped = np.zeros((slots, neurons), np.int32)
        self.state = _states(program, neurons)
        self.events = {port: np.zeros((slots, neurons), np.int32) for port in program.outputs}

    def run(self, inputs: Mapping[str, Stream], slots: Int32) -> dict[str, Int32]:
        self.machine.rows = slots
        read: dict[str, Value] = {}
        for name in self.program.inputs:
            array, first, stride = inputs[name]
            last = first + 1 if stride == 0 else first + (self.neurons - 1) * stride + 1
            value = array[:, first : last : stride or 1].astype(np.int64)
            # What all neurons read is a value of each, so that saturations are counted for each.
            value = np.broadcast_to(value, (len(value), self.neurons))
            port = name.partition("/")[0]
            if self.node.reads_group(port):
                read.setdefault(port, []).append(value)
            else:
                read[name] = value
        state = None if self.state is None else self.state.astype(np.int64)
        sent, after = programs.run(
            self.machine, self.node, self.program.sigmoid, self.constants, read, state
        )
        if self.state is not None:
            self.state[:] = after
        shape = len(slots), self.neurons
        found = {
            p: np.array(np.broadcast_to(sent[p], shape), np.int32, order="C")
            for p in self.program.outputs
        }
        for port, values in found.items():
            np.add.at(self.events[port], slots, values != 0)
        return found


@lru_cache
def _all_sigmoids(table: SigmoidTable) -> Ints:
    """The sigmoid program run on every magnitude that it can read."""
    magnitudes = np.arange(1 << SIGMOID_INPUT_BITS, dtype=np.int64)
    found: Ints = Machine().sigmoid(magnitudes, SIGMOID_INPUT_FRAC, table)
    return found


class VectorMachine(Machine):
    """Runs programs on several tokens [tokens, n] at once; counts saturations neuron by neuron
    [slots, n], each token's in the row that `rows` [tokens] says."""

    def __init__(self, size: int, slots: int = 1) -> None:
        super().__init__()
        self.saturated = np.zeros((slots, size), np.int32)
        self.rows = np.zeros(1, np.int32)

    def fit(self, a: Value, qtype: QType) -> Value:
        high = qtype.high
        if a.max() > high or a.min() < -high:
            outside = (a > high) | (a < -high)
            np.add.at(self.saturated, self.rows, outside)
            return a.clip(-high, high)
        return a

    def sigmoid(self, x: Value, frac: int, table: SigmoidTable) -> Value:
        shift = frac - SIGMOID_INPUT_FRAC
        magnitude = np.abs(x)
        if shift >= 0:
            magnitude >>= shift
        else:
            magnitude <<= min(-shift, SIGMOID_INPUT_BITS)
        y = _all_sigmoids(table).take(magnitude, mode="clip")
        return np.subtract(1 << GATE_FRAC, y, out=y, where=x < 0)

    def scan(
        self, step: Value, states: Value, a: Value, b: Value, slot: Value = 0, start: Value = 0
    ) -> tuple[Value, Value]:
        # What all neurons read alike is here once for each of them.
        slots, starts = (np.broadcast_to(told, a.shape)[:, 0] for told in (slot, start))
        rows, found, every = self.rows, np.empty_like(a), states.copy()
        for t in range(len(a)):
            self.rows = rows[t : t + 1]
            before = np.zeros_like(a[t]) if starts[t] else every[slots[t]]
            found[t] = every[slots[t]] = step(before, a[t], b[t])
        self.rows = rows
        return found, every


def _narrow(values: Ints) -> Int32:
    narrow = np.ascontiguousarray(values, np.int32)
    if not np.array_equal(narrow, values):
        raise ValueError("a constant of a program does not fit 32 bits")
    return narrow
