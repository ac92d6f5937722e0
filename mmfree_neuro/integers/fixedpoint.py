"""Fixed-point formats and multipliers.

A `QType` of `bits` bits and `frac` fractional bits holds the integers -(2^(bits-1)-1) …
2^(bits-1)-1, each standing for itself times 2^-frac.  Formats are symmetric, so a negation never
overflows.
"""

import math
from dataclasses import dataclass
from typing import TypeVar

import numpy as np
from numpy.typing import ArrayLike, NDArray

from mmfree_neuro.errors import RangeError

Ints = NDArray[np.int64]
Signed = TypeVar("Signed", NDArray[np.int32], NDArray[np.int64])


@dataclass(frozen=True)
class QType:
    """A symmetric fixed-point format, written like s16.11: 16 bits, 11 of them fractional."""

    bits: int
    frac: int

    @property
    def high(self) -> int:
        """The largest integer of the format; the smallest is its negative."""
        return int((1 << (self.bits - 1)) - 1)

    def __str__(self) -> str:
        return f"s{self.bits}.{self.frac}"


def fit(x: Ints, qtype: QType, name: str, low: int | None = None) -> Ints:
    """The same integers, or a RangeError when one of them is outside the format, which is symmetric
    unless its lowest integer is said."""
    low = -qtype.high if low is None else low
    if x.size and (x.max() > qtype.high or x.min() < low):
        worst = np.maximum(x - qtype.high, low - x).argmax()
        raise RangeError(f"{name}: {int(x.flat[worst])} does not fit {qtype}")
    return x


def frac_for(largest: float, bits: int) -> int:
    """The most fractional bits with which a symmetric format of `bits` bits still holds
    ±largest."""
    if not math.isfinite(largest) or largest < 0:
        raise RangeError(
            f"a range of {largest} has no fixed-point format, must be finite and not negative"
        )
    high = (1 << (bits - 1)) - 1
    if largest == 0:
        return bits - 1
    frac = math.floor(math.log2(high / largest))
    while math.floor(largest * 2.0**frac + 0.5) > high:
        frac -= 1
    return frac


def quantise(values: ArrayLike, qtype: QType) -> Ints:
    """Real values to the nearest integers of a format, halves up, clipped at its ends."""
    scaled = np.floor(np.asarray(values, np.float64) * 2.0**qtype.frac + 0.5)
    return np.clip(scaled, -qtype.high, qtype.high).astype(np.int64)


@dataclass(frozen=True)
class Multiplier:
    """A positive real factor as `mantissa` / 2^`shift`, for multiply-and-shift-right."""

    mantissa: int
    shift: int


def multiplier(factor: float, bits: int = 16) -> Multiplier:
    """The nearest multiplier with a mantissa of `bits` - 1 bits; its relative error is at most
    2^-(bits-1).

    Raises RangeError for a factor that is not positive or so large that it would need a left shift.
    """
    if not math.isfinite(factor) or factor <= 0:
        raise RangeError(f"a factor of {factor} has no multiplier, must be positive and finite")
    fraction, exponent = math.frexp(factor)
    mantissa, shift = round(fraction * 2 ** (bits - 1)), bits - 1 - exponent
    if mantissa == 1 << (bits - 1):
        mantissa, shift = mantissa // 2, shift - 1
    if shift < 0:
        raise RangeError(
            f"a factor of {factor} has no multiplier of {bits} bits, must be below "
            f"{2.0 ** (bits - 1)}"
        )
    excess = max(0, shift - 62)
    return Multiplier(mantissa >> excess, shift - excess)


def wrapped(x: Signed, bits: int) -> Signed:
    """The same integers as an accumulator of `bits` bits holds them, in two's complement.

    Of 4 bits, 7 stays, 8 becomes -8 and 17 becomes 1; fewer bits than those of the array's type.
    """
    sign = 1 << (bits - 1)
    return ((x & (2 * sign - 1)) ^ sign) - sign


def rshift_half_up(x: Ints, shift: int) -> Ints:
    """x / 2^shift, rounded to the nearest integer, halves towards plus infinity."""
    return x if shift == 0 else (x + (1 << (shift - 1))) >> shift
