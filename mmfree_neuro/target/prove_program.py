"""What is refused of a program, whoever runs it, and what a group must have for it."""

from functools import lru_cache

import numpy as np

from mmfree_neuro.files.reading import Misfit
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

NEEDED = ("ports", "immediates", "constants", "states", "tables", "outputs")


@lru_cache(maxsize=1024)
def needs_of(code: bytes) -> tuple[int, ...]:
    """How many of each of `NEEDED` a group must have at least for a program; Misfit where it is
    none."""
    program = [_instruction(place, word) for place, word in enumerate(np.frombuffer(code, "<u8"))]
    _prove_registers(program)
    _prove_once(program)
    operands = [operand for one in program for operand in one.operands]

    def most(kind: str) -> int:
        numbers = (
            one.s
            for one in program
            if SHAPES[one.op].number == kind and not (kind == "table" and one.s == OWN_STATES)
        )
        return 1 + max(numbers, default=-1)

    def above(first: int, behind: int) -> int:
        return 1 + max((x - first for x in operands if first <= x < behind), default=-1)

    stateful = STATE in operands or any(
        one.op == Op.RMW or (one.op, one.s) == (Op.MOV, OWN_STATES) for one in program
    )
    return (
        most("port"),
        above(IMMEDIATE, CONSTANT),
        above(CONSTANT, STATE),
        int(stateful),
        most("table"),
        most("output"),
    )


def _instruction(place: int, word: np.uint64) -> Instruction:
    try:
        return instruction(int(word))
    except ValueError as problem:
        raise Misfit(f"instruction {place}: {problem}") from None


def _prove_registers(program: list[Instruction]) -> None:
    """Misfit where a register may be read that was not written, or a skip leads past the end.

    At each instruction, sets of registers that are written for sure are bits of an integer; one
    that is reached by skips as well has what all ways have in common.
    """
    written, behind_skips = 0, {len(program): -1}
    for place, one in enumerate(program):
        written &= behind_skips.pop(place, -1)
        for operand in one.operands:
            if operand < IMMEDIATE and not written >> operand & 1:
                raise Misfit(
                    f"instruction {place}: {one.op.name} reads register {operand}, which was not "
                    "written"
                )
        if one.op == Op.SKP_C:
            target = len(program) if one.s == THE_REST else place + 1 + one.s
            if target > len(program):
                raise Misfit(
                    f"instruction {place}: SKP_C skips {one.s}, past the end of the program"
                )
            behind_skips[target] = behind_skips.get(target, -1) & written
        if SHAPES[one.op].writes:
            written |= 1 << one.d


def _prove_once(program: list[Instruction]) -> None:
    """Misfit where a neuron would send twice at one output, or write two states."""
    once = [(one.op, one.s) for one in program if one.op in (Op.SPIKE, Op.RMW)]
    for op, output in once:
        if once.count((op, output)) > 1:
            at = f" at output {output}" if op == Op.SPIKE else ""
            raise Misfit(f"the program has {op.name}{at} more than once")
