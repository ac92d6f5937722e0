"""Constants that are drawn together: inside their ranges, and at their places in others."""

import json
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest

from mmfree_neuro.systems.draws import DRAWN_FOR, SAVED, draws_of, is_cost, left
from mmfree_neuro.systems.figures import figures, with_figures
from mmfree_neuro.systems.load import load_system, system_names
from mmfree_neuro.systems.spec import Quantity, SystemSpec

ROWS = Path(__file__).parents[2] / "examples" / "benchmarks" / "results" / "posterior.json"


@pytest.mark.parametrize("name", system_names())
def test_every_draw_lies_in_its_range(name: str) -> None:
    """And its median is the central figure, of a fitted chip to what is written in its file."""
    system = load_system(name)
    drawn = draws_of(system)
    have = {figure: value for figure, value in figures(system).items() if is_cost(figure)}
    assert set(drawn) == {*have, SAVED}
    for figure, value in have.items():
        values = drawn[figure]
        assert values.shape == (500,)
        assert value.low * 0.999 <= values.min() <= values.max() <= value.high * 1.001
        slack = 0.011 * (value.high - value.low)
        assert np.median(values) == pytest.approx(value.central, rel=0.011, abs=slack)
    assert 0 < drawn[SAVED].min() < 0.01 and 0.99 < drawn[SAVED].max() < 1


def test_the_same_figures_are_drawn_together_wherever_they_are() -> None:
    """Another board is none of these, though its chips are."""
    ours, theirs = (load_system(name) for name in (DRAWN_FOR, "kapoho-point"))
    for name, values in draws_of(ours).items():
        if name.startswith("chip."):
            assert np.array_equal(values, draws_of(theirs)[name])
    board = draws_of(theirs)["system.board_power_w"]
    assert np.quantile(board, [0.05, 0.95]) == pytest.approx([0.29, 6.41], rel=0.02)
    nothing_shared = set(left(load_system("loihi1-nahuku")))
    assert nothing_shared == set()


def test_figures_that_are_set() -> None:
    """To a number, they are that number; to a range, they are drawn inside it."""
    system = load_system(DRAWN_FOR)
    before = draws_of(system)
    settings = {"chip.barrier_many_chips_ns": 5.0, "chip.energy_per_synop_pj": (3, 5, 9)}
    after = draws_of(with_figures(system, settings))
    assert set(after["chip.barrier_many_chips_ns"].tolist()) == {5.0}
    synop = np.quantile(after["chip.energy_per_synop_pj"], [0, 0.05, 0.5, 0.95, 1])
    assert synop == pytest.approx([3, 3.16, 5, 8.49, 9], rel=0.01)
    for name in set(before) - set(settings):
        assert np.array_equal(before[name], after[name])


@pytest.mark.parametrize(
    "numbers",
    [(0, 0, 0), (0, 0, 5), (0, 5, 5), (0, 5, 9), (3, 3, 9), (1e-320, 1, 5), (1e-300, 1, 1e29)],
)
def test_ranges_with_one_end_in_the_middle(numbers: tuple[float, float, float]) -> None:
    drawn = draws_of(with_figures(load_system(DRAWN_FOR), {"chip.time_per_hop_ns": numbers}))
    values = drawn["chip.time_per_hop_ns"]
    low, central, high = numbers
    assert low <= values.min() <= values.max() <= high
    below, above = values <= central * (1 + 1e-9), values >= central * (1 - 1e-9)
    assert np.count_nonzero(below) >= 250 <= np.count_nonzero(above)


def other_kind() -> SystemSpec:
    """A system whose chip has other ranges for nearly all figures."""
    system = load_system(DRAWN_FOR)
    changed = {
        name.partition(".")[2]: Quantity(1, 2, 8, "mine")
        for name in figures(system)
        if name.startswith(("chip.energy", "chip.time", "chip.barrier"))
    }
    return replace(system, chip=replace(system.chip, **changed))


def test_a_chip_of_another_kind_is_drawn_inside_its_own_ranges() -> None:
    """Below the central figure as often as above; figures do not follow each other."""
    drawn = draws_of(other_kind())
    values = drawn["chip.energy_per_synop_pj"]
    assert np.count_nonzero(values < 2) == np.count_nonzero(values > 2) == 250
    assert np.quantile(values, 0.75) == pytest.approx(4, rel=0.02)  # of logarithms: 2, 4, 8
    others = [drawn[name] for name in ("chip.time_per_hop_ns", "chip.energy_per_hop_pj")]
    assert all(abs(np.corrcoef(values, other)[0, 1]) < 0.15 for other in others)
    joint = {name for name in left(other_kind())}
    assert joint and not any("energy_per" in name or "time_per" in name for name in joint)


def test_what_rows_leave_of_a_range() -> None:
    """All of it would be 1; where they pin a figure it is little."""
    shares = left(load_system(DRAWN_FOR))
    assert set(shares) == {
        name
        for name, v in figures(load_system(DRAWN_FOR)).items()
        if is_cost(name) and v.low < v.high
    }
    assert all(0 < share < 1.1 for share in shares.values())
    assert shares["chip.barrier_many_chips_ns"] < 0.1 < 0.9 < shares["chip.time_per_hop_ns"]
    assert "system.board_power_w" not in left(load_system("kapoho-point"))


def test_the_central_figures_are_the_medians_of_the_rows() -> None:
    """Of the script that draws them, to three digits."""
    have = figures(load_system(DRAWN_FOR))
    found = {
        row["what"]: row for row in json.loads(ROWS.read_text(encoding="utf-8")) if "range" in row
    }
    shares = left(load_system(DRAWN_FOR))
    assert set(shares) == set(found) - {"steps of a published block", "bits of a published weight"}
    for name in shares:
        row = found[name]
        assert have[name].central == pytest.approx(row["value"], rel=0.006)
        assert [have[name].low, have[name].high] == [row["range"][0], row["range"][2]]
