"""Formats of values, gains and squares, chosen from calibrated ranges."""

import numpy as np

from mmfree_neuro.integers.fixedpoint import Ints, QType, frac_for, quantise
from mmfree_neuro.lowering.scheme import Range
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
