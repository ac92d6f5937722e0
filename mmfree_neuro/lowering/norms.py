"""Norms as integer nodes: one weighted sum of squares and one inverse root for two norms in a
row."""

import math
from collections.abc import Mapping
from dataclasses import dataclass

from mmfree_neuro.integers.fixedpoint import Ints, QType
from mmfree_neuro.integers.tables import ROOT_FRAC, power_table
from mmfree_neuro.model.tensors import Float32

CODE = QType(8, 0)


MAX_ARITY = 32
"""How many accumulators a neuron that finds a maximum has."""


@dataclass(frozen=True)
class NormGains:
    """The gains that one norm of the lowered graph works with, in natural units."""

    inner: Float32 | None
    """Weights of the squares [n], None for all one."""
    outer: Mapping[str, Float32]
    """For each output, what its values are multiplied by [n]."""
    floor: float
    """What is added to the mean of the weighted squares."""


@dataclass(frozen=True)
class Source:
    """Where a ternary matrix reads: a node's port, and for per-token scales the scale's."""

    node: str
    port: str
    format: QType
    scale: tuple[str, str, QType] | None


def root_powers(size: int, squares: QType, root: QType) -> Ints:
    return power_table(
        math.sqrt(size) * 2.0 ** (squares.frac / 2 + root.frac - ROOT_FRAC - 15.5), 16
    )
