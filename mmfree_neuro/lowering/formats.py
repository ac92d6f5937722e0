"""Formats of values, gains and squares, chosen from calibrated ranges."""

import math
from collections.abc import Mapping
from dataclasses import dataclass

import numpy as np

from mmfree_neuro.errors import RangeError
from mmfree_neuro.graph.machine import REGISTER_HIGH
from mmfree_neuro.graph.nodes import Output, Squares
from mmfree_neuro.integers.fixedpoint import Ints, QType, frac_for, quantise
from mmfree_neuro.integers.ternary import TernaryMatrix
from mmfree_neuro.lowering.scheme import Range, Ranges, Scheme
from mmfree_neuro.lowering.ternarise import TernaryWeight
from mmfree_neuro.model.tensors import Float32

GAIN_BITS = 16


SQUARE_BITS = 16


WIDEST_ACTIVATIONS = 16
"""The bits of activations where more than the scheme's are proved to fit."""


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


def low_bits(size: int, high: int, floor: int, limit: int) -> int | None:
    """How many bits of each of `size` squares up to `high` go by themselves, so that no sum passes
    `limit`; 0 where whole squares and the floor fit, None where two digits do not.

    As many as fit, for then the other digit is most often zero.  256 squares of 23 bits in
    accumulators of 24: 256 * 32767 fits, so 15 bits go by themselves, and 8 are left.
    """
    if size * high + floor <= limit:
        return 0
    low = min((limit // size + 1).bit_length(), high.bit_length()) - 1
    return low if low > 0 and size * (high >> low) <= limit else None


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

    @property
    def limit(self) -> int:
        """The largest sum that an accumulator holds."""
        return (1 << (self.scheme.accumulator_bits - 1)) - 1

    def value_type(self, *names: str, bits: int | None = None, at_most: int = 62) -> QType:
        """A format that holds the calibrated ranges of these names with head room."""
        bits = bits or self.scheme.value_bits
        return QType(
            bits, min(at_most, frac_for(self.room * max(self.ranges[n].high for n in names), bits))
        )

    def squares(
        self, norm: str, size: int, source: QType
    ) -> tuple[Squares, tuple[Output, ...], int]:
        """How a node squares for a norm, its outputs of squares, and the norm's floor in units of
        whole squares."""
        gains = self.norms[norm]
        width = QType(
            SQUARE_BITS, frac_for(self.room * self.ranges[f"{norm}.inner"].high, SQUARE_BITS)
        )
        integer, gain_frac = (None, 0) if gains.inner is None else integer_gain(gains.inner)
        width = QType(SQUARE_BITS, min(width.frac, source.frac + gain_frac))
        for bits in range(min(self.scheme.value_bits, 31), 1, -1):
            square_shift = max(0, 2 * (SQUARE_BITS - 1) - (bits - 1))
            frac = 2 * width.frac - square_shift
            floor = max(1, round(gains.floor * size * 2.0**frac))
            high = QType(bits, frac).high
            low = low_bits(size, high, floor, self.limit)
            if size * high + floor <= REGISTER_HIGH and low is not None:
                shift = source.frac + gain_frac - width.frac
                outputs = [Output("sq", size, QType(bits - low, frac - low), unsigned=True)]
                if low:
                    outputs.append(Output("sq.low", size, QType(low + 1, frac), unsigned=True))
                return Squares(integer, shift, width, square_shift, low), tuple(outputs), floor
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

    def activations(self, name: str, weight: TernaryWeight, at_most: int) -> QType:
        """The widest format, of those that the scheme allows, for the output `name` of a norm that
        a product reads: the fullest row's sum is sure to fit the accumulator, or calibration holds
        it there.

        Where the root comes after the product, these are the values and sums without the root.
        """
        before = self.scheme.root == "before"
        values, sums = (name, f"{name}.sum") if before else (f"{name}.largest", f"{name}.folded")
        own = self.scheme.activation_bits
        widest = max(own, WIDEST_ACTIVATIONS) if self.scheme.calibrated_sums else own
        for bits in range(widest, 1, -1):
            found = self.value_type(values, bits=bits, at_most=at_most)
            if weight.fullest * found.high <= self.limit:
                break
            if self.scheme.calibrated_sums and bits <= own:
                # A sum of integers is the natural one in units of the weights' scale.
                seen = self.ranges[sums].high * 2.0**found.frac / weight.scale
                if self.room * seen <= self.limit:
                    break
        return found

    def is_calibrated(self, matrix: TernaryMatrix, read: QType) -> bool:
        """Whether calibration holds the sums of a matrix that reads such values."""
        allowed = self.scheme.calibrated_sums and self.scheme.activations == "static"
        return allowed and matrix.fullest * read.high > self.limit
