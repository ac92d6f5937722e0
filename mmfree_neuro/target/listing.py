"""Programs as text that a person can read, and that assembles to the same words.

    program 3
    ; GLU
    table t0: 8192 7168
        RDC     r0, port 3
        SKP_C   r0, rest
        MOV     r1, t0[r0]
        MIN     r1, r1, #8388607  counts
        SPIKE   1, r1

r0 is a register, #5 an immediate, c0 a constant of the neuron, h its first state, and h[r0] the one
that a register names.  The comment names the
kinds of nodes that run the program.
"""

import re
from collections.abc import Iterable, Iterator
from dataclasses import dataclass

import numpy as np

from mmfree_neuro.errors import ImageError
from mmfree_neuro.target.instructions import (
    CONSTANT,
    IMMEDIATE,
    OWN_STATES,
    SHAPES,
    STATE,
    THE_REST,
    Instruction,
    Op,
    instruction,
)
from mmfree_neuro.target.layout import Core


@dataclass(frozen=True)
class Listed:
    """A program with the immediates and tables that its fields number."""

    code: tuple[Instruction, ...]
    immediates: tuple[int, ...]
    tables: tuple[tuple[int, ...], ...]


def text(program: Listed, number: int, kinds: Iterable[str]) -> str:
    """A program as text; `kinds` are those of the nodes that run it."""
    lines = [f"program {number}", f"; {', '.join(kinds)}"]
    for position, table in enumerate(program.tables):
        lines.append(f"table t{position}: {' '.join(map(str, table))}")
    lines += [f"    {_line(one, program.immediates)}".rstrip() for one in program.code]
    return "\n".join(lines) + "\n"


def texts(programs: Iterable[tuple[str, Listed]]) -> str:
    """The text of programs, each of them once; before each stands the kind of a node that runs
    it."""
    kinds: dict[Listed, dict[str, None]] = {}
    for kind, program in programs:
        kinds.setdefault(program, {})[kind] = None
    return "\n".join(text(one, number, some) for number, (one, some) in enumerate(kinds.items()))


def _line(one: Instruction, immediates: tuple[int, ...]) -> str:
    fields = [f"r{one.d}"] if SHAPES[one.op].writes else []
    operands = [_operand(x, immediates) for x in one.operands]
    match SHAPES[one.op].number:
        case "port":
            fields.append(f"port {one.s}")
        case "table":
            operands = [f"{'h' if one.s == OWN_STATES else f't{one.s}'}[{operands[0]}]"]
        case "output":
            fields.append(str(one.s))
        case "shift":
            operands.append(f">> {one.s}" if one.op == Op.MUL_SHR else f"<< {one.s}")
        case "skip":
            operands.append("rest" if one.s == THE_REST else str(one.s))
    return f"{one.op.name:7} {', '.join([*fields, *operands])}" + ("  counts" * one.counts)


def _operand(field: int, immediates: tuple[int, ...]) -> str:
    if field < IMMEDIATE:
        return f"r{field}"
    if field < CONSTANT:
        return f"#{immediates[field - IMMEDIATE]}"
    return f"c{field - CONSTANT}" if field < STATE else "h"


def programs(lines: Iterable[str]) -> Iterator[Listed]:
    """The programs of a text.  Raises ImageError with the number of a line that is none."""
    made: _Program | None = None
    for number, line in enumerate(lines, start=1):
        try:
            if line.startswith("program "):
                if made is not None:
                    yield made.done()
                made = _Program([], [], [])
            elif line.strip() and not line.startswith(";"):
                _read(made, line)
        except (ValueError, KeyError, IndexError) as problem:
            raise ImageError(
                f"line {number} is {line.strip()!r}, must be an instruction"
            ) from problem
    if made is not None:
        yield made.done()


@dataclass
class _Program:
    code: list[Instruction]
    immediates: list[int]
    tables: list[tuple[int, ...]]

    def done(self) -> Listed:
        return Listed(tuple(self.code), tuple(self.immediates), tuple(self.tables))


_LINE = re.compile(r"    (\w+) +(.*?)(  counts)?$")
_TABLE = re.compile(r"table t\d+: (.*)$")


def _read(program: _Program | None, line: str) -> None:
    """Add what a line says to a program; ValueError, KeyError or IndexError where it says
    nothing."""
    if program is None:
        raise ValueError("no program has begun")
    if table := _TABLE.match(line):
        program.tables.append(tuple(int(entry) for entry in table[1].split()))
        return
    found = _LINE.match(line.rstrip())
    if found is None:
        raise ValueError("no instruction")
    op, parts = Op[found[1]], found[2].split(", ")
    shape, values = SHAPES[op], {"d": 0, "a": 0, "b": 0, "c": 0, "s": 0}
    if shape.writes:
        values["d"] = int(parts.pop(0).removeprefix("r"))
    match shape.number:
        case "port":
            values["s"] = int(parts.pop().removeprefix("port "))
        case "table":
            table_, _, index = parts[0].removesuffix("]").partition("[")
            own = table_ == "h"
            values["s"], parts = OWN_STATES if own else int(table_.removeprefix("t")), [index]
        case "output":
            values["s"] = int(parts.pop(0))
        case "shift":
            values["s"] = int(parts.pop()[3:])
        case "skip":
            last = parts.pop()
            values["s"] = THE_REST if last == "rest" else int(last)
    for name, part in zip("abc", parts, strict=False):
        values[name] = _field(part, program.immediates)
    if len(parts) != shape.reads:
        raise ValueError(f"{len(parts)} operands")
    program.code.append(Instruction(op, **values, counts=found[3] is not None))


def _field(part: str, immediates: list[int]) -> int:
    """The field of an operand; a new immediate goes into the pool."""
    if part == "h":
        return STATE
    kind, number = part[0], int(part[1:])
    if kind == "#":
        if number not in immediates:
            immediates.append(number)
        return IMMEDIATE + immediates.index(number)
    return {"r": 0, "c": CONSTANT}[kind] + number


def listed(
    code: tuple[Instruction, ...], immediates: Iterable[int], tables: Iterable[Iterable[int]]
) -> Listed:
    """A program, from whatever holds its parts."""
    return Listed(code, tuple(immediates), tuple(tuple(np.asarray(t).tolist()) for t in tables))


def programs_of(core: Core) -> list[Listed]:
    """The programs that the groups of a core run, from its words."""
    found, known = [], {}
    for row in core.group.tolist():
        parts = tuple(row[k] for k in (0, 1, 5, 6, 11, 12))
        if parts not in known:
            known[parts] = _in_words(core, *parts)
        found.append(known[parts])
    return found


def _in_words(
    core: Core, code: int, words: int, pool: int, immediates: int, table: int, tables: int
) -> Listed:
    """A program, from where it and what belongs to it begin in their sections, and how long they
    are."""
    return listed(
        tuple(instruction(int(word)) for word in core.code[code : code + words]),
        core.pool[pool : pool + immediates].tolist(),
        (
            core.table[first : first + count]
            for first, count in core.tables[table : table + tables].tolist()
        ),
    )
