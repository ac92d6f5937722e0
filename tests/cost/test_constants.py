"""Costs under many variants of the constants: every draw is an estimate with its figures."""

from collections.abc import Callable

import numpy as np
import pytest

from mmfree_neuro.cost import constants
from mmfree_neuro.cost.counted import Counted, counted
from mmfree_neuro.cost.energy import energy_of, operations
from mmfree_neuro.cost.estimate import estimate, modes
from mmfree_neuro.cost.load import load
from mmfree_neuro.graph.nodes import Graph
from mmfree_neuro.graph.summary import summarise
from mmfree_neuro.mapping.request import Request
from mmfree_neuro.pipeline import map
from mmfree_neuro.run.activity import expected
from mmfree_neuro.systems.draws import SAVED
from mmfree_neuro.systems.figures import figures, with_figures
from mmfree_neuro.systems.load import load_system

MODES = ("prefill", 1), ("generate", 1), ("generate", 3), ("generate", 99)


def mapped(graph: Graph, chips: int) -> Counted:
    """The graph on so many chips of a board of eight."""
    system = load_system("kapoho-point")
    divided, mapping = map.place(graph, "", system, Request("chain", chips, cores=4))
    return counted(mapping, summarise(divided), expected(divided, mapping), system)


@pytest.mark.parametrize(("phase", "in_flight"), MODES)
@pytest.mark.parametrize("chips", [1, 3, 6])
def test_every_draw_is_an_estimate_with_its_figures(
    phase: str, in_flight: int, chips: int, random_graph: Callable[[str, str], Graph]
) -> None:
    counts = mapped(random_graph("48x2x80", "a16-late"), chips)
    drawn = constants.drawn(counts.system)
    asked, did = load(counts), operations(counts)
    for mode in modes(phase, in_flight):
        times = mode(asked, drawn)
        spent = energy_of(did, times, drawn)
        for k in (0, 17, 499):
            set_to = {
                name: float(drawn[name][k])
                for name in figures(counts.system)
                if name in drawn.values
            }
            one = constants.central(with_figures(counts.system, set_to))
            one.values[SAVED][:] = drawn[SAVED][k]
            alone = mode(asked, one)
            assert alone.seconds[0] == pytest.approx(times.seconds[k])
            assert energy_of(did, alone, one).whole[0] == pytest.approx(spent.whole[k])


@pytest.mark.parametrize("phase", ["prefill", "generate"])
def test_an_estimate_is_the_median_and_its_interval(
    phase: str, random_graph: Callable[[str, str], Graph]
) -> None:
    counts = mapped(random_graph("48x2x80", "a16-late"), 6)
    found = estimate(counts, phase)
    quantiles = np.quantile(found.timing.seconds, [0.05, 0.5, 0.95])
    rate = found.tokens_per_s
    assert [rate.high, rate.central, rate.low] == pytest.approx((1 / quantiles).tolist())
    energy = found.millijoule_per_token
    wanted = np.quantile(found.energy.whole, [0.05, 0.5, 0.95]).tolist()
    assert [energy.low, energy.central, energy.high] == wanted
    watts = np.quantile(1e-3 * found.energy.whole / found.timing.seconds, [0.05, 0.5, 0.95])
    power = found.energy.watts
    assert [power.low, power.central, power.high] == pytest.approx(watts.tolist())
    assert found.chip_millijoule_per_token.central < energy.central
    corners = found.corners
    for inside, outside in (
        (rate, corners.tokens_per_s),
        (energy, corners.millijoule_per_token),
        (found.chip_millijoule_per_token, corners.chip_millijoule_per_token),
    ):
        assert outside.low < inside.low < inside.central < inside.high < outside.high
        assert outside.central == pytest.approx(inside.central, rel=0.1)


def test_variants_in_order_and_central_ones_alone() -> None:
    system = load_system("loihi1-nahuku")
    three, one = constants.corners(system), constants.central(system)
    barrier = system.chip.barrier_one_chip_ns
    assert three["chip.barrier_one_chip_ns"].tolist() == [
        barrier.low,
        barrier.central,
        barrier.high,
    ]
    assert one["chip.barrier_one_chip_ns"].tolist() == [barrier.central]
    span = three.span(three["chip.barrier_one_chip_ns"])
    assert (span.low, span.central, span.high) == (barrier.low, barrier.central, barrier.high)
    only = one.span(one["chip.barrier_one_chip_ns"])
    assert only.low == only.central == only.high == barrier.central
    assert constants.drawn(system) is constants.drawn(load_system("loihi1-nahuku"))
