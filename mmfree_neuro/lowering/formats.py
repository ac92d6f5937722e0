"""Formats of values, gains and squares, chosen from calibrated ranges."""

import math
from collections.abc import Mapping
from dataclasses import dataclass

import numpy as np

from mmfree_neuro.errors import RangeError
from mmfree_neuro.graph.nodes import Output, Squares
from mmfree_neuro.integers.fixedpoint import Ints, QType, frac_for, quantise
from mmfree_neuro.lowering.scheme import Range, Ranges, Scheme
from mmfree_neuro.model.tensors import Float32

GAIN_BITS = 16


SQUARE_BITS = 16


WIDEST_RANGE = 4096.0
"""Up to which ratio of largest to smallest a token's scale keeps its precision; smaller tokens
saturate it."""


def integer_gain(values: Float32) -> tuple[Ints, int]:
    """Gains as integers of GAIN_BITS bits, and their fractional bits."""
    frac = min(frac_for(float(np.abs(values).max()), GAIN_BITS), 30)
    return quantise(values, QType(GAIN_BITS, frac)), frac


def smallest_seen(seen: Range, widest: float) -> float:
    """The low end of a range, or its high end over `widest` where that is more; 1 where nothing was
    ever seen."""
    return max(seen.low, seen.high / widest) or 1.0


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
class Formats:
    """Chooses formats: what calibration measured, the scheme's widths, and the norms' gains."""

    ranges: Ranges
    scheme: Scheme
    norms: Mapping[str, NormGains]

    @property
    def room(self) -> float:
        return float(2.0**self.scheme.headroom_bits)

    def value_type(self, *names: str, bits: int | None = None, at_most: int = 62) -> QType:
        """A format that holds the calibrated ranges of these names with head room."""
        bits = bits or self.scheme.value_bits
        return QType(
            bits, min(at_most, frac_for(self.room * max(self.ranges[n].high for n in names), bits))
        )

    def squares(self, norm: str, size: int, source: QType) -> tuple[Squares, Output, int]:
        """How a node squares for a norm, its output of squares, and the norm's floor in their
        units."""
        gains = self.norms[norm]
        width = QType(
            SQUARE_BITS, frac_for(self.room * self.ranges[f"{norm}.inner"].high, SQUARE_BITS)
        )
        integer, gain_frac = (None, 0) if gains.inner is None else integer_gain(gains.inner)
        width = QType(SQUARE_BITS, min(width.frac, source.frac + gain_frac))
        limit = (1 << (self.scheme.accumulator_bits - 1)) - 1
        for bits in range(min(self.scheme.value_bits, 31), 1, -1):
            square_shift = max(0, 2 * (SQUARE_BITS - 1) - (bits - 1))
            frac = 2 * width.frac - square_shift
            floor = max(1, round(gains.floor * size * 2.0**frac))
            if size * QType(bits, frac).high + floor <= limit:
                output = Output("sq", size, QType(bits, frac), unsigned=True)
                return (
                    Squares(integer, source.frac + gain_frac - width.frac, width, square_shift),
                    output,
                    floor,
                )
        raise RangeError(
            f"{norm}: the sum of {size} squares does not fit {self.scheme.accumulator_bits} bits"
        )

    def root_type(self, norm: str) -> QType:
        """The format of a norm's inverse root: the smallest mean square seen, and head room below
        it."""
        smallest = smallest_seen(self.ranges[f"{norm}.mean_square"], WIDEST_RANGE**2)
        return QType(
            self.scheme.value_bits,
            frac_for(self.room / math.sqrt(smallest), self.scheme.value_bits),
        )

    def activation_bits(self, fullest: int) -> int:
        """The scheme's width, or the widest with which the fullest row's sum is sure to fit the
        accumulator."""
        limit, bits = (1 << (self.scheme.accumulator_bits - 1)) - 1, self.scheme.activation_bits
        while bits > 2 and fullest * ((1 << (bits - 1)) - 1) > limit:
            bits -= 1
        return bits
