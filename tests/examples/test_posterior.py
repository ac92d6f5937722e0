"""The draws of constants are in proportion to how likely published rows are under them, and the
script's own formulas are those of the package."""

from collections.abc import Callable
from types import ModuleType, SimpleNamespace

import numpy as np
import pytest

from mmfree_neuro.cost import constants, timing
from mmfree_neuro.cost.counted import counted
from mmfree_neuro.cost.energy import energy
from mmfree_neuro.cost.load import load
from mmfree_neuro.graph.summary import summarise
from mmfree_neuro.mapping.request import Request
from mmfree_neuro.pipeline import map
from mmfree_neuro.run.activity import expected
from mmfree_neuro.systems.load import load_system
from mmfree_neuro.systems.spec import Quantity
from mmfree_neuro.testing import published_graph


@pytest.fixture(scope="module")
def posterior(benchmark_script: Callable[[str], ModuleType]) -> ModuleType:
    """The script, as a module."""
    return benchmark_script("posterior")


@pytest.mark.parametrize("product", [1.3, 10.0, 60.0])
def test_draws_are_as_dense_as_rows_are_likely(posterior: ModuleType, product: float) -> None:
    """Two constants from 1 to 10, whose product is a row: a ridge, into a corner or across; beside
    all places of a fine grid, each weighed by its likelihood."""
    prior = {name: Quantity(1, 10**0.5, 10, "made up") for name in ("a", "b")}
    row = SimpleNamespace(error=0.1, value=product, model=lambda draws, _: draws["a"] * draws["b"])
    found = posterior.weighed(prior, [(row, None)], 4000, seed=3)
    side = (np.arange(600) + 0.5) / 600
    grid = np.stack(np.meshgrid(side, side), -1).reshape(-1, 2)
    weights = np.exp(posterior.likelihood(grid, prior, [(row, None)]))
    along = weights.reshape(600, 600).sum(0).cumsum() / weights.sum()
    exact = np.interp([0.05, 0.25, 0.5, 0.75, 0.95], along, side)
    for places in found.T:
        quantiles = np.quantile(places, [0.05, 0.25, 0.5, 0.75, 0.95])
        assert quantiles == pytest.approx(exact, abs=0.025)


def test_the_formulas_are_those_of_the_package(posterior: ModuleType) -> None:
    """Where links carry what they do here, a block has as many steps and a weight as many bits."""
    system, request = load_system("kapoho-point"), Request("block-per-chip", head_on_host=True)
    graph, mapping = map.place(published_graph("370m", blocks=2), "", system, request)
    counts = counted(mapping, summarise(graph), expected(graph, mapping), system)
    what, asked, drawn = posterior.asked(counts), load(counts), constants.drawn(system)
    draws = {**drawn.values, posterior.STEPS: np.full(500, asked.steps / 2)}
    draws[posterior.BITS] = np.full(500, 2.0)
    full, alone = timing.pipelined(asked, drawn), timing.fall_through(asked, drawn)
    assert posterior.prefill_us(draws, what) == pytest.approx(1e6 * full.seconds)
    assert posterior.generation_us(draws, what, 2) == pytest.approx(1e6 * alone.seconds)
    for phase, times in (("prefill", full), ("generate", alone)):
        row = posterior.Anchor(
            "made up", 2, "kapoho-point", phase, "mJ/token", 1, 1.0, 0.1, True, "made up"
        )
        spent = energy(counts, times, drawn)
        assert row.model(draws, what) == pytest.approx(spent.whole)
