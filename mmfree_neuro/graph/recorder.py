"""A neuron program as a list of instructions, for engines that run it outside Python.

`record` runs the one text of `programs` on a machine that writes down what it is asked for.
`Machine`'s operations are the instructions; a sigmoid is one of them.  Registers hold 32 bits,
which `verify` proves to suffice for every value that a program keeps; products and the sums that
round them have 64 bits inside an instruction.
"""

from collections.abc import Callable
from dataclasses import dataclass
from enum import IntEnum, auto

import numpy as np
from numpy.typing import NDArray

from mmfree_neuro.graph import programs
from mmfree_neuro.graph.machine import Machine, Value
from mmfree_neuro.graph.nodes import AnyNode
from mmfree_neuro.integers.fixedpoint import Ints, QType
from mmfree_neuro.integers.tables import SigmoidTable


class Op(IntEnum):
    """What an instruction does.

    d is the register that it writes; a, b and c are those it reads; s is a shift, k a constant.
    """

    INPUT = 0  # d = input number a
    ADD = auto()  # d = a + b
    SUB = auto()  # d = a - b
    NEG = auto()  # d = -a
    ABS = auto()  # d = |a|
    MIN = auto()  # d = min(a, b)
    MAX = auto()  # d = max(a, b)
    LESS = auto()  # d = a < b
    AND = auto()  # d = a & k
    SHL = auto()  # d = a << s
    SELECT = auto()  # d = b where a, else c
    LOOKUP = auto()  # d = table number b at a
    MUL_SHR = auto()  # d = floor(a · b / 2^s)
    MUL_ROUND = auto()  # d = a · b / 2^s, halves up
    FIT = auto()  # d = a inside ±k, changes counted
    MUL_FIT = auto()  # d = a · b / 2^s, halves up, inside ±k, changes counted
    SIGMOID = auto()  # d = σ(a), a with s fractional bits
    OUTPUT = auto()  # output number d = a, non-zeros counted
    LOAD = auto()  # d = the state of slot a
    STORE = auto()  # the state of slot b = a


WIDTH = 7
"""Fields of an instruction: op, d, a, b, c, s, k."""


@dataclass(frozen=True, eq=False)
class Program:
    """A straight line of instructions on `registers` registers, whose first ones are preset.

    Registers 0 … len(immediates) - 1 hold the immediates, the next len(constants) the constants of
    the neurons by name.  Inputs are named by their port; a group's members are `port/0`, `port/1` …
    Every neuron has `slots` states; a token reads and writes that of one slot, the same in all
    neurons.
    """

    code: NDArray[np.int32]  # [instructions, WIDTH]
    immediates: tuple[int, ...]
    constants: tuple[str, ...]
    slots: int
    registers: int
    inputs: tuple[str, ...]
    outputs: tuple[str, ...]
    tables: tuple[Ints, ...]
    sigmoid: SigmoidTable


@dataclass(frozen=True)
class _Result:
    """The value that an instruction gives, or a preset one."""

    number: int


class Recorder(Machine):
    """Writes down the instructions of a program."""

    def __init__(self) -> None:
        super().__init__()
        self.rows: list[
            tuple[Op, list[_Result | None], int, int]
        ] = []  # operation, operands, shift, constant
        self.immediates: dict[int, _Result] = {}
        self.results: list[_Result] = []
        self.tables: list[Ints] = []

    def fresh(self) -> _Result:
        """A value of its own."""
        self.results.append(_Result(len(self.results)))
        return self.results[-1]

    def operand(self, x: Value) -> _Result:
        """A value as an operand; a number becomes an immediate."""
        if isinstance(x, _Result):
            return x
        if x not in self.immediates:
            self.immediates[int(x)] = self.fresh()
        return self.immediates[int(x)]

    def emit(self, op: Op, *operands: Value, shift: int = 0, constant: int = 0) -> _Result:
        """One more instruction, and its value."""
        reads = [self.operand(x) for x in operands]
        result = self.fresh()
        padding: list[_Result | None] = [None] * (3 - len(reads))
        self.rows.append((op, [result, *reads, *padding], shift, constant))
        return result

    def add(self, a: Value, b: Value) -> Value:
        return self.emit(Op.ADD, a, b)

    def neg(self, a: Value) -> Value:
        return self.emit(Op.NEG, a)

    def min(self, a: Value, b: Value) -> Value:
        return self.emit(Op.MIN, a, b)

    def lt(self, a: Value, b: Value) -> Value:
        return self.emit(Op.LESS, a, b)

    def bit_and(self, a: Value, mask: int) -> Value:
        return self.emit(Op.AND, a, constant=mask)

    def shl(self, a: Value, shift: int) -> Value:
        return self.emit(Op.SHL, a, shift=shift)

    def select(self, condition: Value, a: Value, b: Value) -> Value:
        return self.emit(Op.SELECT, condition, a, b)

    def lookup(self, table: Ints, index: Value) -> Value:
        self.tables.append(table)
        return self.emit(Op.LOOKUP, index, constant=len(self.tables) - 1)

    def mul_shr(self, a: Value, b: Value, shift: int) -> Value:
        return self.emit(Op.MUL_SHR, a, b, shift=shift)

    def mul_round(self, a: Value, b: Value, shift: int) -> Value:
        return self.emit(Op.MUL_ROUND, a, b, shift=shift)

    def clip(self, a: Value, low: int, high: int) -> Value:
        return self.emit(Op.MAX, self.emit(Op.MIN, a, high), low)

    def fit(self, a: Value, qtype: QType) -> Value:
        return self.emit(Op.FIT, a, constant=qtype.high)

    def mul_fit(self, a: Value, b: Value, shift: int, qtype: QType) -> Value:
        return self.emit(Op.MUL_FIT, a, b, shift=shift, constant=qtype.high)

    def scan(
        self,
        step: Callable[[Value, Value, Value], Value],
        states: Value,
        a: Value,
        b: Value,
        slot: Value = 0,
        start: Value = 0,
    ) -> tuple[Value, Value]:
        before = self.emit(Op.LOAD, slot)
        if isinstance(start, _Result):
            before = self.select(start, 0, before)
        after = self.operand(step(before, a, b))
        self.rows.append((Op.STORE, [None, after, self.operand(slot), None], 0, 0))
        return after, after

    def abs(self, a: Value) -> Value:
        return self.emit(Op.ABS, a)

    def max(self, a: Value, b: Value) -> Value:
        return self.emit(Op.MAX, a, b)

    def sub(self, a: Value, b: Value) -> Value:
        return self.emit(Op.SUB, a, b)

    def sigmoid(self, x: Value, frac: int, table: SigmoidTable) -> Value:
        return self.emit(Op.SIGMOID, x, shift=frac)


def _inputs(node: AnyNode, m: Recorder) -> tuple[tuple[str, ...], dict[str, Value]]:
    """The names of a node's inputs and the values that its program reads; each is read once, at the
    beginning."""
    names: list[str] = []
    values: dict[str, Value] = {}
    for name in node.reads:
        if node.reads_group(name):
            names += [f"{name}/{k}" for k in range(node.group)]
            values[name] = [m.emit(Op.INPUT) for _ in range(node.group)]
        else:
            names.append(name)
            values[name] = m.emit(Op.INPUT)
    return tuple(names), values


def record(node: AnyNode, table: SigmoidTable) -> Program:
    """The program of a node's neurons."""
    m = Recorder()
    preset = {name: m.fresh() for name in node.constants}
    names, inputs = _inputs(node, m)
    sent, _ = programs.run(m, node, table, preset, inputs)  # type: ignore[arg-type]
    outputs = tuple(output.port for output in node.outputs)
    for port in outputs:
        m.rows.append((Op.OUTPUT, [None, m.operand(sent[port]), None, None], 0, 0))
    # Only now are all immediates known: an output that is a number is one, too.
    fixed = [*m.immediates.values(), *preset.values()]
    code, registers = _allocate(m.rows, fixed)
    return Program(
        code,
        tuple(m.immediates),
        tuple(preset),
        node.state_slots,
        registers,
        names,
        outputs,
        tuple(m.tables),
        table,
    )


def _allocate(
    rows: list[tuple[Op, list[_Result | None], int, int]], fixed: list[_Result]
) -> tuple[NDArray[np.int32], int]:
    """The instructions with registers for values, and how many registers they take.

    A register is free again once its value has been read for the last time, so there are as many as
    values that are needed at once.  Two inputs x and y, sent as (x + y) + x and x + y:

        INPUT   x            writes register 0
        INPUT   y            writes register 1
        ADD     x + y        reads 0 and 1, writes 1: y is not read again, x is
        ADD     (x + y) + x  reads 1 and 0, writes 0: x is not read again, x + y is
        OUTPUT  (x + y) + x  reads 0
        OUTPUT  x + y        reads 1

    The number of an input or an output stands in field a or d; that of a table in field b.
    """
    last_read = {
        value.number: row
        for row, (_, operands, _, _) in enumerate(rows)
        for value in operands[1:]
        if value
    }
    register_of = {value.number: register for register, value in enumerate(fixed)}
    free: list[int] = []
    registers = len(fixed)
    ports = {Op.INPUT: 0, Op.OUTPUT: 0}  # how many of each have been met
    code = []
    for row, (op, (result, *operands), shift, constant) in enumerate(rows):
        fields = [0 if value is None else register_of[value.number] for value in operands]
        # Operands are read before the result is written, so it may take a register of theirs.  A
        # set, since a value may be two of the operands.  Presets stay: the next token reads them.
        for number in {value.number for value in operands if value}:
            if last_read[number] == row and register_of[number] >= len(fixed):
                free.append(register_of[number])
        target = ports[op] if op == Op.OUTPUT else 0
        if result is not None:
            target = free.pop() if free else registers
            registers = max(registers, target + 1)
            register_of[result.number] = target
            if result.number not in last_read:  # nobody reads it: free from the next row on
                free.append(target)
        if op == Op.INPUT:
            fields[0] = ports[op]
        if op == Op.LOOKUP:
            fields[1], constant = constant, 0  # the table's number, which no register holds
        if op in ports:
            ports[op] += 1
        code.append([op, target, *fields, shift, constant])
    return np.array(code, np.int32).reshape(-1, WIDTH), registers
