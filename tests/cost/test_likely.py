"""Intervals under constants that are drawn together: every draw is an estimate with its figures."""

from collections.abc import Callable

import numpy as np
import pytest

from mmfree_neuro.cost import likely as module
from mmfree_neuro.cost.counted import Counted, counted
from mmfree_neuro.cost.energy import energy_of, operations
from mmfree_neuro.cost.estimate import estimate, modes
from mmfree_neuro.cost.load import load
from mmfree_neuro.graph.nodes import Graph
from mmfree_neuro.graph.summary import summarise
from mmfree_neuro.mapping.request import Request
from mmfree_neuro.pipeline import map
from mmfree_neuro.run.activity import expected
from mmfree_neuro.systems.draws import SHARE, draws_of
from mmfree_neuro.systems.figures import figures, with_figures
from mmfree_neuro.systems.load import load_system

MODES = ("prefill", 1), ("generate", 1), ("generate", 3), ("generate", 99)


def mapped(graph: Graph, chips: int) -> Counted:
    system = load_system("kapoho-point")
    divided, mapping = map.place(graph, "", system, Request("chain", chips, cores=4))
    return counted(mapping, summarise(divided), expected(divided, mapping), system)


@pytest.mark.parametrize(("phase", "in_flight"), MODES)
@pytest.mark.parametrize("chips", [1, 3, 6])
def test_every_draw_is_an_estimate(
    phase: str, in_flight: int, chips: int, random_graph: Callable[[str, str], Graph]
) -> None:
    """With the figures of the draw; but that operations take a share on several chips."""
    counts = mapped(random_graph("48x2x80", "a16-late"), chips)
    draws = draws_of(counts.system)
    assert draws is not None
    found, did, (mode, _) = load(counts), operations(counts), modes(phase, in_flight)
    times = mode(found, counts.system)
    ns = module._nanoseconds(found, draws, times)
    picojoule = module._picojoule(did, draws, times)
    for k in (0, 17, 499):
        names = [
            name
            for name, value in figures(counts.system).items()
            if value.low < value.high
            and name.partition(".")[2].startswith(
                ("time", "energy", "barrier", "fall", "static", "board")
            )
        ]
        system = with_figures(counts.system, {name: float(draws[name][k]) for name in names})
        one = mode(found, system)
        assert one.seconds_per_token.central == pytest.approx(1e-9 * ns[k])
        parts = [part for part in energy_of(did, system, one).parts if part.unit == "pJ"]
        share = draws[SHARE][k] if chips > 1 else 1
        total = share * sum(part.millijoule_per_token.central for part in parts)
        assert total == pytest.approx(1e-9 * picojoule[k])


@pytest.mark.parametrize("phase", ["prefill", "generate"])
def test_the_interval_of_an_estimate(phase: str, random_graph: Callable[[str, str], Graph]) -> None:
    counts = mapped(random_graph("48x2x80", "a16-late"), 6)
    whole = estimate(counts, phase)
    found, draws = whole.likely, draws_of(counts.system)
    assert found is not None and draws is not None
    seconds = 1e-9 * module._nanoseconds(load(counts), draws, whole.timing)
    rates = np.quantile(1 / seconds, [0.05, 0.5, 0.95])
    spans = found.tokens_per_s, found.chip_millijoule_per_token, found.millijoule_per_token
    assert [found.tokens_per_s.low, found.tokens_per_s.central, found.tokens_per_s.high] == (
        rates.tolist()
    )
    for span in spans:
        assert 0 < span.low < span.central < span.high
    assert found.chip_millijoule_per_token.central < found.millijoule_per_token.central
    corners = whole.tokens_per_s
    assert corners.low < found.tokens_per_s.low and found.tokens_per_s.high < corners.high


def test_no_interval_where_nothing_was_drawn(random_graph: Callable[[str, str], Graph]) -> None:
    graph, system = random_graph("48x2x80", "a16-late"), load_system("loihi1-nahuku")
    divided, mapping = map.place(graph, "", load_system("kapoho-point"), Request("chain", 2))
    counts = counted(mapping, summarise(divided), expected(divided, mapping), system)
    assert estimate(counts, "prefill").likely is None
