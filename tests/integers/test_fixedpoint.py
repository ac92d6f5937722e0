"""Formats hold what they say, multipliers are as near as promised, and shifts round as they are
named."""

import math
from fractions import Fraction

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from mmfree_neuro.errors import RangeError
from mmfree_neuro.integers.fixedpoint import (
    Multiplier,
    QType,
    fit,
    frac_for,
    multiplier,
    quantise,
    rshift_half_up,
    wrapped,
)

LARGEST = st.floats(1e-12, 1e12)


def test_a_format_is_symmetric_and_has_a_name() -> None:
    assert QType(8, 0).high == 127
    assert QType(16, 11).high == 32767
    assert str(QType(16, 11)) == "s16.11"
    assert str(QType(8, -3)) == "s8.-3"


def test_fit_returns_what_fits() -> None:
    x = np.array([-127, 0, 127])
    assert fit(x, QType(8, 0), "x") is x
    assert fit(np.array([], np.int64), QType(8, 0), "nothing").size == 0


@pytest.mark.parametrize(
    ("values", "worst"), [([128, 5], 128), ([3, -128], -128), ([200, -300], -300)]
)
def test_fit_names_the_worst_of_what_does_not(values: list[int], worst: int) -> None:
    with pytest.raises(RangeError) as error:
        fit(np.array(values), QType(8, 3), "layer3.x")
    assert str(error.value) == f"layer3.x: {worst} does not fit s8.3"


@pytest.mark.parametrize(
    ("largest", "bits", "frac"),
    [(0, 8, 7), (1, 8, 6), (127, 8, 0), (127.4, 8, -1), (254, 8, -1), (0.5, 16, 15)],
)
def test_frac_for_by_hand(largest: float, bits: int, frac: int) -> None:
    assert frac_for(largest, bits) == frac


@given(LARGEST, st.integers(2, 32))
def test_frac_for_is_the_most_that_holds(largest: float, bits: int) -> None:
    frac, high = frac_for(largest, bits), (1 << (bits - 1)) - 1
    assert math.floor(largest * 2.0**frac + 0.5) <= high
    assert largest * 2.0 ** (frac + 1) > high  # one more bit would at best round down onto the end


@pytest.mark.parametrize("largest", [float("inf"), float("nan"), -1.0])
def test_frac_for_what_has_no_format(largest: float) -> None:
    with pytest.raises(RangeError) as error:
        frac_for(largest, 8)
    assert (
        str(error.value)
        == f"a range of {largest} has no fixed-point format, must be finite and not negative"
    )


def test_quantise_by_hand() -> None:
    assert quantise([0.25, -0.25, 0.3, 100, -100], QType(8, 1)).tolist() == [1, 0, 1, 127, -127]
    assert quantise([5, -5], QType(8, -1)).tolist() == [3, -2]


def test_a_multiplier_by_hand() -> None:
    assert multiplier(1.0) == Multiplier(16384, 14)
    assert multiplier(0.75, 3) == Multiplier(3, 2)
    assert multiplier(1 - 2**-20) == Multiplier(
        16384, 14
    )  # the mantissa rounds up to a power of two


@given(st.floats(1e-9, 16384), st.integers(4, 24))
def test_a_multiplier_is_near(factor: float, bits: int) -> None:
    if factor >= 2.0 ** (bits - 2):
        return
    found = multiplier(factor, bits)
    assert 0 < found.mantissa < 1 << (bits - 1)
    assert 0 <= found.shift <= 62
    assert abs(Fraction(found.mantissa, 1 << found.shift) / Fraction(factor) - 1) <= Fraction(
        1, 1 << (bits - 1)
    )


def test_a_tiny_multiplier_never_shifts_by_more_than_62() -> None:
    assert multiplier(2.0**-60).shift <= 62
    assert multiplier(2.0**-100) == Multiplier(0, 62)


@pytest.mark.parametrize("factor", [0.0, -1.0, float("inf"), float("nan")])
def test_no_multiplier(factor: float) -> None:
    with pytest.raises(RangeError) as error:
        multiplier(factor)
    assert (
        str(error.value) == f"a factor of {factor} has no multiplier, must be positive and finite"
    )


def test_a_multiplier_does_not_shift_left() -> None:
    assert multiplier(32767.0).shift == 0
    with pytest.raises(RangeError) as error:
        multiplier(32768.0)
    assert (
        str(error.value)
        == "a factor of 32768.0 has no multiplier of 16 bits, must be below 32768.0"
    )


def test_shifts_by_hand() -> None:
    x = np.array([-3, -2, -1, 0, 1, 2, 3])
    assert rshift_half_up(x, 1).tolist() == [-1, -1, 0, 0, 1, 1, 2]
    assert rshift_half_up(x, 0) is x


@given(st.integers(-(2**60), 2**60), st.integers(0, 60))
def test_shifts_round_as_they_are_named(x: int, shift: int) -> None:
    exact = Fraction(x, 1 << shift)
    assert rshift_half_up(np.array([x]), shift)[0] == math.floor(exact + Fraction(1, 2))


@pytest.mark.parametrize("kind", [np.int32, np.int64])
def test_wrapped_by_hand(kind: type) -> None:
    values = np.array([7, 8, 17, -8, -9, 0, 2**31 - 1, -(2**31)], kind)
    found = wrapped(values, 4)
    assert found.tolist() == [7, -8, 1, -8, 7, 0, -1, 0]
    assert found.dtype == kind


@given(st.integers(-(2**31), 2**31 - 1), st.integers(2, 31))
def test_wrapped_is_equal_modulo_the_accumulator(x: int, bits: int) -> None:
    (found,) = wrapped(np.array([x]), bits).tolist()
    assert -(1 << bits - 1) <= found < 1 << bits - 1
    assert (found - x) % (1 << bits) == 0


def test_a_lowest_integer_of_its_own() -> None:
    values = np.array([-8, 7])
    assert fit(values, QType(4, 0), "sum", -8) is values
    with pytest.raises(RangeError) as error:
        fit(values - 1, QType(4, 0), "sum", -8)
    assert str(error.value) == "sum: -9 does not fit s4.0"
    with pytest.raises(RangeError) as error:
        fit(np.array([-1, 7]), QType(4, 0), "sum", 0)
    assert str(error.value) == "sum: -1 does not fit s4.0"
