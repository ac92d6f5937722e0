"""Some neurons of one node, ready to fire: what the fast engine and the Lava cores are made of.

A ternary sum is a float matrix product where that is exact: every partial sum is below 2^24 in float32, or below
2^53 in float64, because the fullest row times the largest payload is.
"""

from functools import lru_cache
from typing import Any

import numpy as np
from numpy.typing import NDArray

from mmfree_neuro import programs
from mmfree_neuro.fixedpoint import Ints, QType
from mmfree_neuro.ir import MLGRU, AnyNode, Graph, Input, InverseRms, MaxAbs, QuantScale, constants, span
from mmfree_neuro.ops import Machine, ScalarMachine, Value
from mmfree_neuro.tables import GATE_FRAC, SIGMOID_INPUT_BITS, SIGMOID_INPUT_FRAC, SigmoidTable

Sent = dict[str, Ints]
_EXACT_FLOAT32 = 1 << 24


@lru_cache
def _all_sigmoids(table: SigmoidTable) -> Ints:
    """The sigmoid program run on every magnitude that it can read."""
    magnitudes = np.arange(1 << SIGMOID_INPUT_BITS, dtype=np.int64)
    found: Ints = Machine().sigmoid(magnitudes, SIGMOID_INPUT_FRAC, table)
    return found


class VectorMachine(Machine):
    """Runs programs on one token [n] or on many [tokens, n] at once; counts saturations neuron by neuron."""

    def __init__(self, size: int) -> None:
        super().__init__()
        self.saturated = np.zeros(size, np.int64)

    def fit(self, a: Value, qtype: QType) -> Value:
        high = qtype.high
        if a.max() > high or a.min() < -high:
            outside = (a > high) | (a < -high)
            self.saturated += outside.reshape(-1, outside.shape[-1]).sum(0)
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

    def scan(self, step: Value, state: Value, a: Value, b: Value) -> tuple[Value, Value]:
        if a.ndim == 1:
            return super().scan(step, state, a, b)
        states = np.empty_like(a)
        for t in range(len(a)):
            states[t] = state = step(state, a[t], b[t])
        return states, state


class Neurons:
    """The neurons `start` … `stop` - 1 of a node: constants, synapses, and the state of one sequence."""

    def __init__(self, graph: Graph, node: AnyNode, start: int, stop: int) -> None:
        self.node, self.start, self.stop, self.table = node, start, stop, graph.sigmoid
        self.constants = {name: values[start:stop] for name, values in constants(node).items()}
        self.matrices: dict[str, NDArray[Any]] = {}
        self.spans: dict[str, tuple[int, int]] = {}
        for entry in node.inputs:
            source = graph.node(entry.source).output(entry.source_port)
            self.spans[entry.port] = span(node, entry, start, stop, source.size)
            if entry.matrix is not None:
                rows = entry.matrix[start:stop]
                bound = int(np.count_nonzero(rows, axis=1).max()) * source.qtype.high
                self.matrices[entry.port] = rows.astype(np.float32 if bound < _EXACT_FLOAT32 else np.float64)
        self.machine = VectorMachine(stop - start)
        self.scalar = ScalarMachine()
        self.alone = isinstance(node, InverseRms | QuantScale)
        self.state: Ints | None = None
        self.reset()

    def reset(self) -> None:
        """The state to zero."""
        self.state = np.zeros(self.stop - self.start, np.int64) if isinstance(self.node, MLGRU) else None

    def take_saturations(self) -> Ints:
        """How many values each neuron saturated since this was last asked."""
        taken = self.machine.saturated.copy()
        taken[0] += self.scalar.saturations
        self.machine.saturated[:] = 0
        self.scalar.saturations = 0
        return taken

    def arrived(self, entry: Input, payloads: Ints) -> Value:
        """What a program reads of the payloads [..., span] that came in at one input."""
        match entry.how:
            case "ternary":
                matrix = self.matrices[entry.port]
                return (payloads.astype(matrix.dtype) @ matrix.T).astype(np.int64)
            case "sum":
                return payloads.sum(-1, keepdims=True)
            case "group":
                assert isinstance(self.node, MaxAbs)
                shape = (*payloads.shape[:-1], (self.stop - self.start) * self.node.arity)
                padded = np.zeros(shape, np.int64)
                padded[..., : payloads.shape[-1]] = payloads
                groups = padded.reshape(*shape[:-1], self.stop - self.start, self.node.arity)
                return [groups[..., k] for k in range(self.node.arity)]
            case _:
                return payloads

    def fire(self, payloads: dict[str, Ints]) -> Sent:
        """What the neurons send for the payloads of one token [span] or of several [tokens, span], by port."""
        inputs = {entry.port: self.arrived(entry, payloads[entry.port]) for entry in self.node.inputs}
        if self.alone and next(iter(inputs.values())).ndim == 1:
            lone = {port: int(value[0]) for port, value in inputs.items()}
            sent, _ = programs.run(self.scalar, self.node, self.table, self.constants, lone)
            return {port: np.array([value]) for port, value in sent.items()}
        sent, self.state = programs.run(self.machine, self.node, self.table, self.constants, inputs, self.state)
        return sent
