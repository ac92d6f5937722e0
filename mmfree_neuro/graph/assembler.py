"""A neuron program as instruction words of the reference machine.

`assemble` runs the one text of `programs` on a machine that writes single instructions down, as
`bounds` counts them.  A program begins with its guard: where no token is there, the rest is skipped
(docs/machine.md, "Presence").
"""

from collections import Counter
from collections.abc import Callable
from dataclasses import dataclass, replace

from mmfree_neuro.errors import GraphError
from mmfree_neuro.graph import programs
from mmfree_neuro.graph.machine import REGISTER_HIGH, SpeltMachine, Value
from mmfree_neuro.graph.nodes import AnyNode
from mmfree_neuro.integers.fixedpoint import Ints, QType
from mmfree_neuro.integers.tables import SigmoidTable
from mmfree_neuro.target.instructions import (
    CONSTANT,
    IMMEDIATE,
    OWN_STATES,
    REGISTERS,
    STATE,
    THE_REST,
    Instruction,
    Op,
)
from mmfree_neuro.target.layout import MOST_CONSTANTS, MOST_IMMEDIATES, MOST_OUTPUTS


@dataclass(frozen=True, eq=False)
class Assembled:
    """A program, and what its fields number."""

    code: tuple[Instruction, ...]
    immediates: tuple[int, ...]
    constants: tuple[str, ...]
    tables: tuple[Ints, ...]
    ports: tuple[str, ...]
    """Those of the node in order; the members of a group are `port/0`, `port/1` …"""
    outputs: tuple[str, ...]


def ports_of(node: AnyNode) -> tuple[str, ...]:
    """The accumulators of a neuron by name, in order."""
    if not node.inputs:
        return node.reads
    names: list[str] = []
    for port in node.ports:
        members = [f"{port}/{k}" for k in range(node.group)]
        names += members if node.reads_group(port) else [port]
    return tuple(names)


def guard(node: AnyNode) -> Counter[str]:
    """What a node's program issues beyond what `verify` counts: to find out whether a token is
    there."""
    if not node.inputs:
        return Counter()
    if node.presence is not None:
        return Counter({"SKP_C": 1, "RDC": int(node.presence not in node.reads)})
    return Counter({"SKP_C": 1, "OR": len(ports_of(node)) - 1})


@dataclass(frozen=True)
class _Result:
    """What an instruction writes, before it has a register."""

    number: int


@dataclass(frozen=True)
class _Operand:
    """An operand that is no register."""

    field: int


class _Assembler(SpeltMachine):
    """Writes the instructions of a program down."""

    def __init__(self, node: AnyNode) -> None:
        super().__init__()
        self.ports = {name: number for number, name in enumerate(ports_of(node))}
        self.arrived: dict[str, _Result] = {}
        self.rows: list[tuple[Instruction, _Result | None, tuple[_Result | _Operand, ...]]] = []
        self.immediates: list[int] = []
        self.tables: list[Ints] = []
        self.results = 0

    def operand(self, x: Value) -> _Result | _Operand:
        """A value as an operand; a number becomes an immediate."""
        if isinstance(x, _Result | _Operand):
            return x
        if x not in self.immediates:
            self.immediates.append(int(x))
        return _Operand(IMMEDIATE + self.immediates.index(x))

    def emit(self, op: Op, *operands: Value, s: int = 0, counts: bool = False) -> _Result:
        """One more instruction that writes a register."""
        result = _Result(self.results)
        self.results += 1
        reads = tuple(self.operand(x) for x in operands)
        self.rows.append((Instruction(op, s=s, counts=counts), result, reads))
        return result

    def only(self, op: Op, *operands: Value, s: int = 0) -> None:
        """One more instruction that writes none."""
        self.rows.append((Instruction(op, s=s), None, tuple(self.operand(x) for x in operands)))

    def guard(self, node: AnyNode) -> None:
        """Find out whether a token is there, and skip the rest where it is not; a node without
        inputs runs when it is given a token."""
        if not node.inputs:
            return
        if node.presence is not None:
            seen = self.read(node.presence)
        else:
            first, *rest = (self.read(name) for name in self.ports)
            seen = first
            for other in rest:
                seen = self.emit(Op.OR, seen, other)
        self.only(Op.SKP_C, seen, s=THE_REST)

    def read(self, x: Value) -> Value:
        if x not in self.arrived:
            self.arrived[x] = self.emit(Op.RDC, s=self.ports[x])
        return self.arrived[x]

    def add(self, a: Value, b: Value) -> Value:
        return self.emit(Op.ADD, a, b)

    def neg(self, a: Value) -> Value:
        return self.emit(Op.NEG, a)

    def min(self, a: Value, b: Value) -> Value:
        return self.emit(Op.MIN, a, b)

    def lt(self, a: Value, b: Value) -> Value:
        return self.emit(Op.LT, a, b)

    def bit_and(self, a: Value, mask: int) -> Value:
        return self.emit(Op.AND, a, mask)

    def shl(self, a: Value, shift: int) -> Value:
        return self.emit(Op.SHL, a, s=shift)

    def select(self, condition: Value, a: Value, b: Value) -> Value:
        return self.emit(Op.SEL, condition, a, b)

    def lookup(self, table: Ints, index: Value) -> Value:
        known = [number for number, other in enumerate(self.tables) if other is table]
        if not known:
            self.tables.append(table)
        return self.emit(Op.MOV, index, s=known[0] if known else len(self.tables) - 1)

    def mul_shr(self, a: Value, b: Value, shift: int) -> Value:
        return self.emit(Op.MUL_SHR, a, b, s=shift)

    def mul_round(self, a: Value, b: Value, shift: int) -> Value:
        if shift == 0:
            return self.mul_shr(a, b, 0)
        return self.mul_shr(self.add(self.mul_shr(a, b, shift - 1), 1), 1, 1)

    def counted(self, a: Value, low: int, high: int) -> Value:
        """`clip`, with values that change counted as saturated."""
        below = self.emit(Op.MIN, a, high, counts=True)
        return self.emit(Op.SEL, self.lt(below, low), low, below, counts=True)

    def fit(self, a: Value, qtype: QType) -> Value:
        return self.counted(a, -qtype.high, qtype.high)

    def mul_fit(self, a: Value, b: Value, shift: int, qtype: QType) -> Value:
        high = qtype.high
        if shift == 0 or 2 * high + 1 > REGISTER_HIGH:
            return self.fit(self.mul_round(a, b, shift), qtype)
        # Clipped before it is rounded, as a product that MUL_SHR has saturated has no room for the
        # rounding's 1.  (2 high + 1) >> 1 is high, and (-2 high - 1 + 1) >> 1 is -high.
        twice = self.mul_shr(a, b, shift - 1)
        twice = self.counted(twice, -2 * high - 1, 2 * high)
        return self.mul_shr(self.add(twice, 1), 1, 1)

    def scan(
        self,
        step: Callable[[Value, Value, Value], Value],
        states: Value,
        a: Value,
        b: Value,
        slot: Value = 0,
        start: Value = 0,
    ) -> tuple[Value, Value]:
        before = states
        if isinstance(slot, _Result):
            before = self.select(start, 0, self.emit(Op.MOV, slot, s=OWN_STATES))
        after = step(before, a, b)
        self.only(Op.RMW, after, slot)
        return after, after


def assemble(node: AnyNode, table: SigmoidTable) -> Assembled:
    """The program of a node's neurons.  Raises GraphError where the machine has no room for it."""
    m = _Assembler(node)
    m.guard(node)
    inputs: dict[str, Value] = {
        port: [f"{port}/{k}" for k in range(node.group)] if node.reads_group(port) else port
        for port in node.reads
    }
    preset = {name: _Operand(CONSTANT + k) for k, name in enumerate(node.constants)}
    sent, _ = programs.run(m, node, table, preset, inputs, _Operand(STATE))  # type: ignore[arg-type]
    outputs = tuple(output.port for output in node.outputs)
    for number, port in enumerate(outputs):
        m.only(Op.SPIKE, sent[port], s=number)
    code, registers = _with_registers(m.rows)
    for what, count, most in (
        ("registers", registers, REGISTERS),
        ("immediates", len(m.immediates), MOST_IMMEDIATES),
        ("constants", len(preset), MOST_CONSTANTS),
        ("outputs", len(outputs), MOST_OUTPUTS),
    ):
        if count > most:
            raise GraphError(
                f"{node.name}: its program takes {count} {what}, must take at most {most}"
            )
    return Assembled(
        code, tuple(m.immediates), tuple(preset), tuple(m.tables), tuple(m.ports), outputs
    )


def _with_registers(
    rows: list[tuple[Instruction, _Result | None, tuple[_Result | _Operand, ...]]],
) -> tuple[tuple[Instruction, ...], int]:
    """The instructions with registers for values, and how many registers they take.

    A register is free again once its value has been read for the last time; operands are read
    before a result is written, so that it may take a register of theirs.
    """
    last_read = {
        operand: number
        for number, (_, _, reads) in enumerate(rows)
        for operand in reads
        if isinstance(operand, _Result)
    }
    register_of: dict[_Result, int] = {}
    free: list[int] = []
    registers, code = 0, []
    for number, (instruction, result, reads) in enumerate(rows):
        fields = [x.field if isinstance(x, _Operand) else register_of[x] for x in reads]
        done = {x for x in reads if isinstance(x, _Result) and last_read[x] == number}
        free += sorted((register_of[x] for x in done), reverse=True)
        target = 0
        if result is not None:
            target = free.pop() if free else registers
            registers = max(registers, target + 1)
            register_of[result] = target
            if result not in last_read:
                free.append(target)
        a, b, c = (*fields, 0, 0, 0)[:3]
        code.append(replace(instruction, d=target, a=a, b=b, c=c))
    return tuple(code), registers
