"""Where time and energy go: the parts are the whole."""

from collections.abc import Callable
from dataclasses import replace

import pytest

from mmfree_neuro.cost import estimate, load, timing
from mmfree_neuro.cost.breakdown import Dynamic, by_step, dynamic, each_step
from mmfree_neuro.cost.constants import central
from mmfree_neuro.cost.counted import Counted, counted
from mmfree_neuro.cost.energy import energy
from mmfree_neuro.cost.sensitivity import Cost, sensitivity
from mmfree_neuro.graph.nodes import Graph
from mmfree_neuro.graph.summary import summarise
from mmfree_neuro.mapping.mapping import HOST, Location
from mmfree_neuro.mapping.request import Request
from mmfree_neuro.pipeline import map
from mmfree_neuro.run.activity import expected
from mmfree_neuro.systems.figures import figures, with_figures
from mmfree_neuro.systems.spec import SystemSpec


@pytest.fixture(scope="module")
def counts(random_graph: Callable[[str, str], Graph], system: SystemSpec) -> Counted:
    """A small model on three chips, its words chosen there."""
    request = Request("chain", 3, cores=4, greedy_on_chips=True)
    graph, mapping = map.place(random_graph("48x2x80", "a16-late"), "", system, request)
    return counted(mapping, summarise(graph), expected(graph, mapping), system)


@pytest.mark.parametrize("phase", ["prefill", "generate"])
def test_the_dynamic_energy_in_parts_is_that_of_the_whole(phase: str, counts: Counted) -> None:
    mode, figures_of = estimate.modes(phase)[0], central(counts.system)
    times = mode(load.load(counts), figures_of)
    found: Dynamic = dynamic(counts, times)
    whole = energy(counts, times, figures_of)
    parts = [p for p in whole.parts if p.unit == "pJ" and p.name != "idle visits"]
    total = sum(part.millijoule_per_token.central for part in parts)
    for of in (found.kinds, found.blocks, found.cores, found.chips):
        assert sum(of.values()) == pytest.approx(total)
        assert list(of.values()) == sorted(of.values(), reverse=True)
    (crossings,) = (p for p in parts if p.name == "link crossings")
    assert sum(found.links.values()) == pytest.approx(crossings.millijoule_per_token.central)
    assert set(found.chips) == {HOST, *counts.mapping.chips}
    assert set(found.cores) == {Location(HOST, 0), *counts.mapping.cores}
    assert {None, 0, 1} == set(found.blocks)
    assert set(found.kinds) == {node.kind for node in counts.summary.nodes}


def test_the_steps_by_what_fires_are_the_time_of_a_token(counts: Counted) -> None:
    rows = by_step(each_step(load.load(counts), counts))
    whole = estimate.estimate(counts, "generate")
    seconds = timing.fall_through(load.load(counts), central(counts.system)).seconds_per_token
    assert sum(row.seconds for row in rows) == pytest.approx(seconds.central)
    assert seconds.central == pytest.approx(whole.timing.seconds_per_token.central, rel=0.1)
    assert sum(row.steps for row in rows) == counts.summary.steps + 1
    kinds = [row.kinds for row in rows]
    assert len(set(kinds)) == len(kinds)
    assert ("Embedding",) in kinds and ("Head",) in kinds and ("Largest",) in kinds
    assert [row.seconds for row in rows] == sorted((row.seconds for row in rows), reverse=True)


def test_each_step_has_its_block_and_what_is_busy_in_it(counts: Counted) -> None:
    steps = each_step(load.load(counts), counts)
    assert len(steps) == counts.summary.steps + 1
    chip = counts.system.chip
    more = 1e-9 * (timing.barrier(chip, 2).central + chip.fall_through_step_ns.central)
    for step in steps:
        assert step.seconds - step.busy_seconds == pytest.approx(more)
    blocks = [step.block for step in steps]
    assert blocks[0] is None and blocks[-1] is None and set(blocks) == {None, 0, 1}
    inner = [block for block in blocks if block is not None]
    assert inner == sorted(inner)


@pytest.mark.parametrize("phase", ["prefill", "generate"])
def test_each_figure_alone_at_its_ends(phase: str, counts: Counted) -> None:
    """As if it had been set; what has no range, or changes nothing, is left out."""
    found = sensitivity(counts, phase)
    named = figures(counts.system)
    widths = [swing.widest(found.base) for swing in found.swings]
    assert widths == sorted(widths, reverse=True) and widths[-1] > 0
    assert {"chip.static_power_w", "system.board_power_w"} <= {s.figure for s in found.swings}
    assert not {"chip.cores", "chip.weight_bits", "chip.mesh_columns"} & {
        swing.figure for swing in found.swings
    }
    for swing in found.swings:
        value = named[swing.figure]
        assert (swing.low, swing.high, swing.source) == (value.low, value.high, value.source)
        for end, cost in ((value.low, swing.at_low), (value.high, swing.at_high)):
            changed = with_figures(counts.system, {swing.figure: end})
            again = estimate.estimate(
                counted(counts.mapping, counts.summary, counts.activity, changed), phase
            ).corners
            assert cost == Cost(
                again.tokens_per_s.central,
                again.chip_millijoule_per_token.central,
                again.millijoule_per_token.central,
            )
    left_out = named.keys() - {swing.figure for swing in found.swings}
    for name in left_out:
        value = named[name]
        for end in {value.low, value.high} - {value.central}:
            if name.startswith(("chip.time", "chip.energy", "chip.barrier")):
                changed = with_figures(counts.system, {name: end})
                again = estimate.estimate(
                    counted(counts.mapping, counts.summary, counts.activity, changed), phase
                ).corners
                assert again.tokens_per_s.central == found.base.tokens_per_s


def test_shares_of_the_variance(counts: Counted) -> None:
    """The board decides the energy in generation and no speed; what is counted alone, little."""
    found = {swing.figure: swing for swing in sensitivity(counts, "generate").swings}
    board, step = found["system.board_power_w"], found["chip.fall_through_step_ns"]
    assert board.share_of_rate < 0.05 and step.share_of_rate > 0.5
    for swing in found.values():
        assert 0 <= swing.share_of_rate <= 1 and 0 <= swing.share_of_energy <= 1
    settled = {
        name: float(value.central)
        for name, value in figures(counts.system).items()
        if name in found and name != "system.board_power_w"
    }
    rest = replace(counts, system=with_figures(counts.system, settled))
    (only,) = sensitivity(rest, "generate").swings
    assert (only.share_of_rate, only.share_of_energy) == (0, pytest.approx(1))
