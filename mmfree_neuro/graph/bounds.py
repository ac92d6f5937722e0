"""A machine on intervals: proves that a program cannot overflow a register, and counts its
instructions."""

from collections import Counter
from collections.abc import Callable
from dataclasses import dataclass

import numpy as np

from mmfree_neuro.errors import RangeError
from mmfree_neuro.graph.machine import MOST_SHIFT, REGISTER_BITS, REGISTER_HIGH, Machine, Value
from mmfree_neuro.integers.fixedpoint import Ints, QType
from mmfree_neuro.integers.tables import SigmoidTable


@dataclass(frozen=True)
class Interval:
    """All integers from low to high."""

    low: int
    high: int


def _interval(x: Value) -> Interval:
    if isinstance(x, Interval):
        return x
    if isinstance(x, int):
        return Interval(x, x)
    return Interval(int(x.min()), int(x.max()))


class Bounds(Machine):
    """Runs a program on intervals: proves that every register holds every value, and counts
    `issued` instructions."""

    def __init__(self, name: str, slots: int = 1) -> None:
        """`slots` is how many states a neuron keeps."""
        super().__init__()
        self.name, self.slots = name, slots
        self.issued: Counter[str] = Counter()
        self.tables: dict[bytes, int] = {}
        """Tables that were read, by their content, with how many entries each has."""
        self.read_sigmoid = False

    def _issue(self, *classes: str) -> None:
        self.issued.update(classes)

    def _hold(self, low: int, high: int) -> Interval:
        worst = max(high, -low)
        if worst > REGISTER_HIGH:
            raise RangeError(
                f"{self.name}: a value can reach {worst}, which a {REGISTER_BITS}-bit register "
                "cannot hold"
            )
        return Interval(low, high)

    def _shift(self, shift: int) -> None:
        if not 0 <= shift <= MOST_SHIFT:
            raise RangeError(f"{self.name}: a shift by {shift} bits, must be 0 … {MOST_SHIFT}")

    def _union(self, a: Value, b: Value) -> Interval:
        a, b = _interval(a), _interval(b)
        return self._hold(min(a.low, b.low), max(a.high, b.high))

    def _product(self, a: Value, b: Value) -> Interval:
        same = a is b
        a, b = _interval(a), _interval(b)
        self._hold(a.low, a.high)
        self._hold(b.low, b.high)
        corners = [x * y for x in (a.low, a.high) for y in (b.low, b.high)]
        return Interval(0 if same else min(corners), max(corners))  # a square is not negative

    def read(self, x: Value) -> Value:
        self._issue("RDC")
        return _interval(x)

    def send(self, x: Value) -> Value:
        self._issue("SPIKE")
        return _interval(x)

    def add(self, a: Value, b: Value) -> Value:
        self._issue("ADD")
        a, b = _interval(a), _interval(b)
        return self._hold(a.low + b.low, a.high + b.high)

    def neg(self, a: Value) -> Value:
        self._issue("NEG")
        a = _interval(a)
        return self._hold(-a.high, -a.low)

    def min(self, a: Value, b: Value) -> Value:
        self._issue("MIN")
        a, b = _interval(a), _interval(b)
        return Interval(min(a.low, b.low), min(a.high, b.high))

    def lt(self, a: Value, b: Value) -> Value:
        self._issue("LT")
        return Interval(0, 1)

    def bit_and(self, a: Value, mask: int) -> Value:
        self._issue("AND")
        return Interval(0, min(mask, _interval(a).high) if _interval(a).low >= 0 else mask)

    def shl(self, a: Value, shift: int) -> Value:
        self._issue("SHL")
        self._shift(shift)
        a = _interval(a)
        return self._hold(a.low << shift, a.high << shift)

    def select(self, condition: Value, a: Value, b: Value) -> Value:
        self._issue("SEL")
        return self._union(a, b)

    def lookup(self, table: Ints, index: Value) -> Value:
        self._issue("MOV")
        index = _interval(index)
        if table.ndim != 1:
            raise RangeError(f"{self.name}: a table has {table.ndim} axes, must have 1")
        if index.low < 0 or index.high >= len(table):
            raise RangeError(
                f"{self.name}: a table of {len(table)} entries is read at {index.low} … "
                f"{index.high}"
            )
        self.tables[table.astype(np.int32).tobytes()] = len(table)
        return _interval(table[index.low : index.high + 1])

    def mul_shr(self, a: Value, b: Value, shift: int) -> Value:
        self._issue("MUL_SHR")
        self._shift(shift)
        product = self._product(a, b)
        return self._hold(product.low >> shift, product.high >> shift)

    def mul_round(self, a: Value, b: Value, shift: int) -> Value:
        if shift == 0:
            return self.mul_shr(a, b, 0)
        self._issue("MUL_SHR", "ADD", "MUL_SHR")
        self._shift(shift)
        twice = self._twice(self._product(a, b), shift)
        return self._hold(twice.low >> 1, twice.high >> 1)

    def _twice(self, product: Interval, shift: int) -> Interval:
        """What is in the register before the last bit is rounded away: a MUL_SHR that saturates
        would leave no room for the 1 that is added."""
        return self._hold((product.low >> (shift - 1)) + 1, (product.high >> (shift - 1)) + 1)

    def clip(self, a: Value, low: int, high: int) -> Value:
        self._issue("MIN", "LT", "SEL")
        a = _interval(a)
        return Interval(min(max(a.low, low), high), max(min(a.high, high), low))

    def fit(self, a: Value, qtype: QType) -> Value:
        return self.clip(a, -qtype.high, qtype.high)

    def mul_fit(self, a: Value, b: Value, shift: int, qtype: QType) -> Value:
        self._issue("MUL_SHR", *(("ADD", "MUL_SHR") if shift else ()))
        self._shift(shift)
        product, half = self._product(a, b), (1 << shift) >> 1
        if shift and 2 * qtype.high + 1 > REGISTER_HIGH:  # else it is clipped before it is rounded
            self._twice(product, shift)
        return self.fit(
            Interval((product.low + half) >> shift, (product.high + half) >> shift), qtype
        )

    def abs(self, a: Value) -> Value:
        self._issue("LT", "NEG", "SEL")
        a = _interval(a)
        return Interval(
            0 if a.low <= 0 <= a.high else min(abs(a.low), abs(a.high)), max(-a.low, a.high)
        )

    def max(self, a: Value, b: Value) -> Value:
        self._issue("LT", "SEL")
        a, b = _interval(a), _interval(b)
        return Interval(max(a.low, b.low), max(a.high, b.high))

    def sub(self, a: Value, b: Value) -> Value:
        return self.add(a, self.neg(b))

    def scan(
        self,
        step: Callable[[Value, Value, Value], Value],
        states: Value,
        a: Value,
        b: Value,
        slot: Value = 0,
        start: Value = 0,
    ) -> tuple[Value, Value]:
        asked = _interval(slot)
        if asked.low < 0 or asked.high >= self.slots:
            raise RangeError(
                f"{self.name}: the state of slot {asked.low} … {asked.high} is read, of "
                f"{self.slots}"
            )
        if isinstance(slot, Interval):
            self._issue("MOV", "SEL")
        self._issue("RMW")
        after = step(self._union(states, 0), a, b)
        return after, after

    def sigmoid(self, x: Value, frac: int, table: SigmoidTable) -> Value:
        self.read_sigmoid = True
        return super().sigmoid(x, frac, table)
