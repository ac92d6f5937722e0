"""Tokens are chosen from integers, the same everywhere."""

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from mmfree_neuro.errors import InputError
from mmfree_neuro.run.sampling import Sampling, choose, weights


@pytest.mark.parametrize("temperature", [-0.5, 100.5, float("nan")])
def test_temperatures_that_cannot_be(temperature: float) -> None:
    with pytest.raises(InputError) as error:
        Sampling(temperature)
    assert str(error.value) == f"the temperature is {temperature}, must be between 0 and 100"


def test_a_seed_is_not_negative() -> None:
    with pytest.raises(InputError) as error:
        Sampling(1.0, -1)
    assert str(error.value) == "the seed is -1, must not be negative"


def test_greedy_takes_the_first_of_equals() -> None:
    assert choose(np.array([1, 7, 7, 3]), 1.0, Sampling(), 5) == 1


def test_weights_by_hand() -> None:
    halves = weights(np.array([0, -1, -2, -100]), float(np.log(2)), 1.0)  # every step halves
    assert halves.tolist() == [2**30, 2**29, 2**28, 0]


@given(
    st.lists(st.integers(-(2**20), 2**20), min_size=1, max_size=20),
    st.sampled_from([0.25, 1.0, 3.0]),
)
def test_weights_are_near(logits: list[int], temperature: float) -> None:
    scale = 2.0**-14
    found = weights(np.array(logits), scale, temperature)
    exact = 2.0**30 * np.exp((np.array(logits) - max(logits)) * scale / temperature)
    assert found.max() == 2**30
    assert (np.abs(found - exact) <= exact / 360 + 1).all()


def test_a_draw_depends_on_the_seed_and_the_position_alone() -> None:
    logits = np.arange(50)
    drawn = [choose(logits, 0.05, Sampling(1.0, 3), n) for n in range(200)]
    assert drawn == [choose(logits, 0.05, Sampling(1.0, 3), n) for n in range(200)]
    assert drawn != [choose(logits, 0.05, Sampling(1.0, 4), n) for n in range(200)]


def test_draws_are_as_frequent_as_their_weights() -> None:
    logits = np.array([0, 1, 2])
    drawn = [choose(logits, float(np.log(2)), Sampling(1.0, 0), n) for n in range(2000)]
    share = np.bincount(drawn, minlength=3) / 2000
    assert np.abs(share - np.array([1, 2, 4]) / 7).max() < 0.05


def test_what_has_no_weight_is_never_drawn() -> None:
    logits = np.array([-(2**20), 0, -(2**20)])
    assert {choose(logits, 1.0, Sampling(1.0, 0), n) for n in range(100)} == {1}


@given(
    st.lists(st.integers(-(2**22), 2**22), min_size=2, max_size=20, unique=True),
    st.sampled_from([1e-7, 1e-8, 1e-12, 1e-30, 5e-324]),
)
def test_a_tiny_temperature_is_as_good_as_none(logits: list[int], temperature: float) -> None:
    found = weights(np.array(logits), 2.0**-14, temperature)
    assert found.tolist() == [2**30 if logit == max(logits) else 0 for logit in logits]
