"""Constants that are drawn together: inside their ranges, and at their places in others."""

from dataclasses import replace

import numpy as np
import pytest

from mmfree_neuro.systems.draws import DRAWN_FOR, SHARE, draws_of
from mmfree_neuro.systems.figures import figures, with_figures
from mmfree_neuro.systems.load import load_system, system_names
from mmfree_neuro.systems.spec import Quantity


def test_every_draw_lies_in_its_range() -> None:
    system = load_system(DRAWN_FOR)
    draws, have = draws_of(system), figures(system)
    assert draws is not None and set(draws) == {*have, SHARE}
    for name, value in have.items():
        assert draws[name].shape == (500,)
        assert value.low * 0.999 <= draws[name].min() <= draws[name].max() <= value.high * 1.001
    assert 0.2 <= draws[SHARE].min() <= draws[SHARE].max() <= 1
    assert len(set(draws["chip.static_power_w"].tolist())) > 100
    assert set(draws["chip.cores"].tolist()) == {120}


@pytest.mark.parametrize("name", system_names())
def test_systems_of_the_chips_that_were_drawn(name: str) -> None:
    system = load_system(name)
    draws = draws_of(system)
    assert (draws is None) == (system.chip.name != "loihi2")
    if draws is not None:
        board = system.board_power_w
        assert board.low <= draws["system.board_power_w"].min()
        assert draws["system.board_power_w"].max() <= board.high


def test_a_board_keeps_its_place_in_its_range() -> None:
    ours, theirs = (draws_of(load_system(name)) for name in (DRAWN_FOR, "kapoho-point"))
    assert ours is not None and theirs is not None
    board, other = (load_system(name).board_power_w for name in (DRAWN_FOR, "kapoho-point"))
    share = (ours["system.board_power_w"] - board.low) / (board.high - board.low)
    assert np.allclose(theirs["system.board_power_w"], other.low + share * (other.high - other.low))


def test_figures_that_are_set() -> None:
    """To a number, they are that number; to a range, they keep their place of logarithms."""
    system = load_system(DRAWN_FOR)
    before = draws_of(system)
    settings = {"chip.barrier_many_chips_ns": 5.0, "chip.static_power_w": (0.24, 0.34, 0.56)}
    after = draws_of(with_figures(system, settings))
    assert before is not None and after is not None
    assert set(after["chip.barrier_many_chips_ns"].tolist()) == {5.0}
    assert np.allclose(after["chip.static_power_w"], 2 * before["chip.static_power_w"])
    for name in set(before) - set(settings):
        assert np.array_equal(before[name], after[name])


def test_a_chip_of_another_kind() -> None:
    system = load_system(DRAWN_FOR)
    other = {
        name.partition(".")[2]: Quantity(1, 1, 1, "mine")
        for name in figures(system)
        if name.startswith(("chip.energy", "chip.time", "chip.barrier"))
    }
    assert draws_of(replace(system, chip=replace(system.chip, **other))) is None
