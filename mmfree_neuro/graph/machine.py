"""The instructions of a neuron program, and the machines that run them.

A program is a straight line of calls on a machine, so one text gives its meaning, its legality and
its cost:

- `Machine` computes on int64 arrays; every engine uses it, or a subclass with the same results.
- `CheckedMachine` computes the same and raises when a value leaves the register; the reference uses
  it.
- `recorder.Recorder` writes a program down, for interpreters outside Python.
- `Bounds` computes on intervals: it proves that no input can overflow a register, and counts the
  instructions.

Instruction classes are those in Intel's Loihi 2 technology brief.  What it leaves open is fixed
here: registers are 32 bits wide; MUL_SHR multiplies two registers into 64 bits, shifts right
rounding down, and saturates at the register's ends (so a result that is stored next may pass them);
a table look-up is an indexed MOV; an accumulator or an arrived message is read with RDC and a state
variable written with RMW.  Branches are not used: both sides run and SEL chooses.
"""

from collections.abc import Callable
from typing import Any

import numpy as np

from mmfree_neuro.errors import RangeError
from mmfree_neuro.integers.fixedpoint import Ints, QType, rshift_half_up
from mmfree_neuro.integers.tables import (
    GATE_FRAC,
    SIGMOID_INPUT_BITS,
    SIGMOID_INPUT_FRAC,
    SigmoidTable,
)

INSTRUCTIONS = (
    "RMW",
    "RDC",
    "MOV",
    "SEL",
    "AND",
    "OR",
    "SHL",
    "ADD",
    "NEG",
    "MIN",
    "MUL_SHR",
    "LT",
    "GE",
    "EQ",
    "SPIKE",
)
REGISTER_BITS = 32
MOST_SHIFT = 62
"""The widest shift of a product of two registers, which has 64 bits, that leaves something of
it."""
REGISTER_HIGH = (1 << (REGISTER_BITS - 1)) - 1

Value = Any
"""What a machine computes on: int64 arrays, intervals, or the names of results."""


class Machine:
    """Runs programs on int64 arrays of any shape, element by element; counts the values that `fit`
    saturates."""

    def __init__(self) -> None:
        self.saturations = 0

    def read(self, x: Value) -> Value:
        """RDC: take what arrived: an accumulated sum or a message's payload."""
        return x

    def send(self, x: Value) -> Value:
        """SPIKE: emit a payload; a zero is not sent."""
        return x

    def add(self, a: Value, b: Value) -> Value:
        """ADD."""
        return a + b

    def neg(self, a: Value) -> Value:
        """NEG."""
        return -a

    def min(self, a: Value, b: Value) -> Value:
        """MIN."""
        return np.minimum(a, b)

    def lt(self, a: Value, b: Value) -> Value:
        """LT: a truth value."""
        return a < b

    def bit_and(self, a: Value, mask: int) -> Value:
        """AND with a constant mask."""
        return a & mask

    def shl(self, a: Value, shift: int) -> Value:
        """SHL by a constant."""
        return a << shift

    def select(self, condition: Value, a: Value, b: Value) -> Value:
        """SEL: a where the condition holds, b elsewhere."""
        return np.where(condition, a, b)

    def lookup(self, table: Ints, index: Value) -> Value:
        """MOV from a table in the core's memory."""
        return table[index]

    def mul_shr(self, a: Value, b: Value, shift: int) -> Value:
        """MUL_SHR: floor(a · b / 2^shift)."""
        return (a * b) >> shift

    def mul_round(self, a: Value, b: Value, shift: int) -> Value:
        """a · b / 2^shift to the nearest, halves up: MUL_SHR by one bit less, ADD 1, MUL_SHR by one
        bit."""
        return rshift_half_up(a * b, shift)

    def clip(self, a: Value, low: int, high: int) -> Value:
        """a held inside [low, high]: MIN, LT, SEL."""
        return np.clip(a, low, high)

    def fit(self, a: Value, qtype: QType) -> Value:
        """`clip` to a format before a store or a send; every value that changes is counted as a
        saturation."""
        high = qtype.high
        if a.size and (a.max() > high or a.min() < -high):
            self.saturations += int(np.count_nonzero((a > high) | (a < -high)))
            return np.clip(a, -high, high)
        return a

    def mul_fit(self, a: Value, b: Value, shift: int, qtype: QType) -> Value:
        """`mul_round` and then `fit`; the product may pass the register's ends, where MUL_SHR
        saturates."""
        return self.fit(rshift_half_up(a * b, shift), qtype)

    def scan(
        self,
        step: Callable[[Value, Value, Value], Value],
        states: Value,
        a: Value,
        b: Value,
        slot: Value = 0,
        start: Value = 0,
    ) -> tuple[Value, Value]:
        """One step of a recurrence: what it gives for this token, and the states [slots, neurons]
        after it; of them it takes the one in `slot`, or zero where `start` is not zero.

        MOV from the neuron's states where there are several, and SEL; the one of a single slot is
        an operand as it is.  RMW writes the state.
        """
        neuron = np.arange(states.shape[-1])
        after = step(np.where(start, 0, states[slot, neuron]), a, b)
        states = states.copy()
        states[slot, neuron] = after
        return after, states

    def abs(self, a: Value) -> Value:
        """LT, NEG, SEL."""
        return np.abs(a)

    def max(self, a: Value, b: Value) -> Value:
        """LT, SEL."""
        return np.maximum(a, b)

    def sub(self, a: Value, b: Value) -> Value:
        """NEG, ADD."""
        return a - b

    def sigmoid(self, x: Value, frac: int, table: SigmoidTable) -> Value:
        """σ(x) with GATE_FRAC fractional bits, x having `frac`: chords on the magnitude, σ(-x) = 1
        - σ(x)."""
        return _sigmoid(self, x, frac, table)


def _sigmoid(m: Machine, x: Value, frac: int, table: SigmoidTable) -> Value:
    magnitude = m.abs(x)
    if frac < SIGMOID_INPUT_FRAC:
        up = SIGMOID_INPUT_FRAC - frac
        magnitude = m.shl(
            m.min(magnitude, 1 << max(0, SIGMOID_INPUT_BITS - up)), min(up, SIGMOID_INPUT_BITS)
        )
    else:
        magnitude = m.mul_shr(magnitude, 1, frac - SIGMOID_INPUT_FRAC)
    magnitude = m.min(magnitude, (1 << SIGMOID_INPUT_BITS) - 1)
    segment = m.mul_shr(magnitude, 1, table.segment_bits)
    rest = m.bit_and(magnitude, (1 << table.segment_bits) - 1)
    rise = m.mul_round(m.lookup(table.slopes, segment), rest, table.segment_bits)
    y = m.add(m.lookup(table.values, segment), rise)
    return m.select(m.lt(x, 0), m.sub(1 << GATE_FRAC, y), y)


class SpeltMachine(Machine):
    """The same, with every helper that is several instructions spelt in these."""

    def abs(self, a: Value) -> Value:
        return self.select(self.lt(a, 0), self.neg(a), a)

    def max(self, a: Value, b: Value) -> Value:
        return self.select(self.lt(a, b), b, a)

    def sub(self, a: Value, b: Value) -> Value:
        return self.add(a, self.neg(b))

    def clip(self, a: Value, low: int, high: int) -> Value:
        return self.max(self.min(a, high), low)


class CheckedMachine(SpeltMachine):
    """The same, slowly: every helper is spelt in instructions and every result must fit the
    register."""

    def __init__(self, name: str) -> None:
        super().__init__()
        self.name = name

    def _in_register(self, x: Value) -> Value:
        if np.any(np.abs(x) > REGISTER_HIGH):
            raise RangeError(f"{self.name}: a value left the {REGISTER_BITS}-bit register")
        return x

    def add(self, a: Value, b: Value) -> Value:
        return self._in_register(a + b)

    def shl(self, a: Value, shift: int) -> Value:
        return self._in_register(a << shift)

    def mul_shr(self, a: Value, b: Value, shift: int) -> Value:
        return self._in_register((self._in_register(a) * self._in_register(b)) >> shift)

    def mul_round(self, a: Value, b: Value, shift: int) -> Value:
        if shift == 0:
            return self.mul_shr(a, b, 0)
        down = (self._in_register(a) * self._in_register(b)) >> (shift - 1)
        return self._in_register((down + 1) >> 1)
