"""The order in which tokens meet the neurons: parts of sequences, one after another."""

from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray
from torch import Tensor

from mmfree_neuro.graph.nodes import slots_of
from mmfree_neuro.integers.fixedpoint import Ints

PIECE = 32
"""Tokens of a piece: where neurons keep no state, pieces of a sequence are computed side by
side."""


@dataclass(frozen=True)
class Parts:
    """A division of tokens that stand in a row into parts, each of one sequence."""

    bounds: Tensor  # int32 [parts + 1]
    slots: Tensor  # int32 [parts]

    def __len__(self) -> int:
        return len(self.slots)


@dataclass(frozen=True)
class Walk:
    """Tokens on a device, those of a sequence side by side."""

    tokens: Tensor  # int32 [n]
    marks: Tensor  # int32 [n]
    sequences: Parts
    """All that there is of each sequence."""
    pieces: Parts
    """The same in pieces of `PIECE` tokens at most."""


Shape = tuple[int, int, int]
"""How many tokens, sequences and pieces there are: walks of one shape lie alike in memory."""


@dataclass(frozen=True)
class Planned:
    """A walk as one vector of numbers, to be brought to a device at once."""

    shape: Shape
    numbers: NDArray[np.int32]
    order: Ints | None
    """Which token stands where; None where they stand as they came."""


def plan(tokens: Ints, marks: Ints) -> Planned:
    """The walk of tokens with these marks; where tokens of one sequence stand apart, they are
    brought together, in their order."""
    slots, order = slots_of(marks), None
    firsts = _firsts(slots)
    if len(np.unique(slots[firsts])) < len(firsts):
        order = np.argsort(slots, kind="stable")
        tokens, marks, slots = tokens[order], marks[order], slots[order]
        firsts = _firsts(slots)
    ends = np.append(firsts[1:], len(slots))
    pieces = np.concatenate([np.arange(a, b, PIECE) for a, b in zip(firsts, ends, strict=True)])
    end = [len(slots)]
    parts = (firsts, end, slots[firsts], pieces, end, slots[pieces])
    numbers = np.concatenate([tokens, marks, *parts]).astype(np.int32)
    return Planned((len(slots), len(firsts), len(pieces)), numbers, order)


def _firsts(slots: Ints) -> Ints:
    """Where another slot than the one before begins."""
    return np.append(0, np.flatnonzero(np.diff(slots)) + 1)


def read(numbers: Tensor, shape: Shape) -> Walk:
    """The walk of such a shape that a vector on a device holds."""
    count, sequences, pieces = shape
    lengths = count, count, sequences + 1, sequences, pieces + 1, pieces
    tokens, marks, *parts = numbers.split(lengths)
    return Walk(tokens, marks, Parts(*parts[:2]), Parts(*parts[2:]))
