"""Tables are as near to the functions they stand for as their docstrings say."""

import math

import numpy as np
import pytest

from mmfree_neuro.graph.machine import Machine
from mmfree_neuro.integers.tables import (
    GATE_FRAC,
    POWER_SHIFT,
    ROOT_FRAC,
    SIGMOID_INPUT_BITS,
    SIGMOID_INPUT_FRAC,
    inverse_root_guess,
    power_table,
    reciprocal_guess,
    sigmoid_table,
)


def test_a_sigmoid_of_two_segments_by_hand() -> None:
    table = sigmoid_table(1)
    one, half, eight = 2**20, 2**19, round(2**20 / (1 + math.exp(-8)))
    assert table.values.tolist() == [half, eight]
    assert table.slopes.tolist() == [eight - half, one - eight]
    assert table.segment_bits == 14


@pytest.mark.parametrize("log2_segments", [4, 6, 8, 10])
def test_the_chords_of_a_sigmoid_are_near(log2_segments: int) -> None:
    x = np.arange(-(1 << SIGMOID_INPUT_BITS) + 1, 1 << SIGMOID_INPUT_BITS)
    found = Machine().sigmoid(x, SIGMOID_INPUT_FRAC, sigmoid_table(log2_segments)) / 2**GATE_FRAC
    exact = 1 / (1 + np.exp(-x / 2**SIGMOID_INPUT_FRAC))
    rounding = 1.5 / 2**GATE_FRAC  # of both ends of a chord and of the rise
    assert np.abs(found - exact).max() <= (16 / 2**log2_segments) ** 2 / 83 + rounding


def test_a_sigmoid_never_falls_and_stays_a_share() -> None:
    x = np.arange(-(1 << 16), 1 << 16)
    y = Machine().sigmoid(x, SIGMOID_INPUT_FRAC, sigmoid_table(8))
    assert (np.diff(y) >= 0).all()
    assert y.min() >= 0
    assert y.max() <= 1 << GATE_FRAC
    assert np.array_equal(y[1:] + y[:0:-1], np.full(y.size - 1, 1 << GATE_FRAC))


def test_guesses_of_roots_and_reciprocals() -> None:
    roots, reciprocals = inverse_root_guess(), reciprocal_guess()
    assert roots.size == 24
    assert reciprocals.size == 16
    assert roots[0] == round(2**22 / math.sqrt(8.5 / 32))
    assert reciprocals[-1] == round(2**22 / (31.5 / 32))
    for guesses in (roots, reciprocals):
        assert (np.diff(guesses) < 0).all()
        assert guesses.min() >= 2**ROOT_FRAC
        assert guesses.max() <= 2 * 2**ROOT_FRAC


def test_a_power_table_doubles_until_it_is_cut_off() -> None:
    assert power_table(1.0, 5).tolist() == [2**POWER_SHIFT, 2**29, 2**30, 2**31 - 1, 2**31 - 1]
    assert power_table(0.0, 2).tolist() == [0, 0]
    assert power_table(3 * 2.0**-28, 3).tolist() == [3, 6, 12]
