"""Instruction words of the reference machine, and what may stand in them.

docs/machine.md is the manual.  A word has 64 bits: an instruction, up to four operands of 8 bits,
a number s (a shift, a port, a table, an output, a distance), and a flag.
"""

from dataclasses import dataclass
from enum import IntEnum

REGISTERS = 64
"""Operands 0 … 63 are registers."""
IMMEDIATE, CONSTANT, STATE = 64, 128, 192
"""Operands from 64 on are immediates, from 128 on the neuron's constants, and 192 is its first
state."""
OWN_STATES = 255
"""The number of a `MOV` that reads the neuron's own states instead of a table."""
MOST_SHIFT = 62
THE_REST = 255
"""The number of a `SKP_C` that skips all that follows."""


class Op(IntEnum):
    """The instructions, by the names of Intel's technology brief for Loihi 2."""

    RDC = 1
    RMW = 2
    MOV = 3
    SEL = 4
    AND = 5
    OR = 6
    SHL = 7
    ADD = 8
    NEG = 9
    MIN = 10
    MUL_SHR = 11
    LT = 12
    GE = 13
    EQ = 14
    SKP_C = 15
    SPIKE = 16


@dataclass(frozen=True)
class Shape:
    """What an instruction has: whether it writes a register, how many operands it reads, and what
    its number s is."""

    writes: bool
    reads: int
    number: str
    """"" for none, or "port", "table", "shift", "skip", "output"."""
    counts: bool = False
    """Whether it may carry the flag that counts saturated values."""


SHAPES = {
    Op.RDC: Shape(True, 0, "port"),
    Op.RMW: Shape(False, 2, ""),
    Op.MOV: Shape(True, 1, "table"),
    Op.SEL: Shape(True, 3, "", counts=True),
    Op.AND: Shape(True, 2, ""),
    Op.OR: Shape(True, 2, ""),
    Op.SHL: Shape(True, 1, "shift"),
    Op.ADD: Shape(True, 2, ""),
    Op.NEG: Shape(True, 1, ""),
    Op.MIN: Shape(True, 2, "", counts=True),
    Op.MUL_SHR: Shape(True, 2, "shift"),
    Op.LT: Shape(True, 2, ""),
    Op.GE: Shape(True, 2, ""),
    Op.EQ: Shape(True, 2, ""),
    Op.SKP_C: Shape(False, 1, "skip"),
    Op.SPIKE: Shape(False, 1, "output"),
}


@dataclass(frozen=True)
class Instruction:
    """One instruction: register `d`, operands `a`, `b`, `c`, number `s`; what it has none of is
    0."""

    op: Op
    d: int = 0
    a: int = 0
    b: int = 0
    c: int = 0
    s: int = 0
    counts: bool = False

    @property
    def operands(self) -> tuple[int, ...]:
        """Those that it reads."""
        return (self.a, self.b, self.c)[: SHAPES[self.op].reads]

    @property
    def word(self) -> int:
        """Its 64 bits."""
        fields = (self.op, self.d, self.a, self.b, self.c, self.s, int(self.counts))
        return sum(int(value) << (8 * place) for place, value in enumerate(fields))


def instruction(word: int) -> Instruction:
    """The instruction of a word.  Raises ValueError where the word is none, in a few words that say
    why."""
    op, d, a, b, c, s, flag, rest = ((word >> 8 * place) & 255 for place in range(8))
    if op not in Op._value2member_map_:
        raise ValueError(f"instruction {op} is not known")
    made = Instruction(Op(op), d, a, b, c, s, bool(flag & 1))
    shape = SHAPES[made.op]
    if rest or flag > 1 or (made.counts and not shape.counts):
        raise ValueError(f"{made.op.name} has bits that it does not use")
    if (not shape.writes and d) or any((a, b, c)[shape.reads :]) or (not shape.number and s):
        raise ValueError(f"{made.op.name} has fields that it does not use")
    if d >= REGISTERS:
        raise ValueError(f"{made.op.name} writes register {d}, must write one of {REGISTERS}")
    if any(operand > STATE for operand in made.operands):
        raise ValueError(
            f"{made.op.name} reads operand {max(made.operands)}, must read 0 … {STATE}"
        )
    if shape.number == "shift" and s > (31 if made.op == Op.SHL else MOST_SHIFT):
        raise ValueError(f"{made.op.name} shifts by {s} bits")
    return made
