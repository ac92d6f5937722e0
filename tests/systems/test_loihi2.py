"""The shipped figures of Loihi 2 give back the published rows that they were fitted to.

The rows are those of arXiv 2503.18002v2 for the 370M model: one block on one chip, and a block on
each of several.
"""

import json
from dataclasses import dataclass
from functools import lru_cache
from pathlib import Path

import pytest

from mmfree_neuro.cost import energy, timing
from mmfree_neuro.cost.counted import counted
from mmfree_neuro.cost.energy import Energy
from mmfree_neuro.cost.load import load
from mmfree_neuro.cost.span import BOUNDS
from mmfree_neuro.cost.timing import Timing
from mmfree_neuro.graph.summary import summarise
from mmfree_neuro.mapping.request import Request
from mmfree_neuro.pipeline import map
from mmfree_neuro.run.activity import expected
from mmfree_neuro.systems.load import load_system
from mmfree_neuro.systems.spec import ChipSpec
from mmfree_neuro.testing import blocks_alone, published_graph

FITTED = Path(__file__).parents[2] / "examples" / "benchmarks" / "results" / "fit_loihi2.json"
BLOCKS = 24
STEPS = 1 + 12
"""That of entry and those of a block; the head, which is on the host, is no part of the published
figures."""
PREFILL_STEP_US, PREFILL_MJ = 71.6, 2.8
GENERATION_BLOCK_US, GENERATION_MJ = 584.4, 59
GENERATION_DYNAMIC_UJ = 0.117 * GENERATION_BLOCK_US


def chip() -> ChipSpec:
    """The shipped figures."""
    return load_system("oheo-gulch").chip


@dataclass(frozen=True)
class Estimate:
    """What the figures give for a token whose payloads are all non-zero."""

    prefill: Timing
    prefill_energy: Energy
    generation: Timing
    generation_energy: Energy


@lru_cache
def estimate(blocks: int, name: str) -> Estimate:
    """So many blocks, each on a chip of its own of a system."""
    system, asked = load_system(name), Request("block-per-chip", head_on_host=True)
    graph, mapping = map.place(published_graph("370m", blocks=blocks), "", system, asked)
    assert len(mapping.chips) == blocks
    summary = blocks_alone(summarise(graph))
    counts = counted(mapping, summary, expected(graph, mapping), system)
    asked = load(counts)
    times = timing.pipelined(asked, system), timing.fall_through(asked, system)
    prefill, generation = (energy.energy(counts, each) for each in times)
    return Estimate(times[0], prefill, times[1], generation)


def dynamic_mj(energy: Energy, bound: str = "central") -> float:
    """What the chips take without their static power."""
    static = {
        "static power of the chips in use",
        "power of the board beyond the chips",
        "power of the host",
    }
    return sum(
        getattr(part.millijoule_per_token, bound)
        for part in energy.parts
        if part.name not in static
    )


def block_us() -> float:
    """A token that falls through one block, with its way from the host."""
    found = estimate(1, "oheo-gulch").generation
    assert found.steps_per_token == STEPS
    return found.seconds_per_token.central * 1e6


def test_a_step_of_a_full_pipeline_on_one_chip() -> None:
    found = estimate(1, "oheo-gulch").prefill
    assert found.step_seconds.central * 1e6 == pytest.approx(PREFILL_STEP_US, rel=0.01)
    assert found.resource == "synapses read"


def test_the_energy_of_a_token_in_prefill() -> None:
    found = estimate(1, "oheo-gulch").prefill_energy.chip_millijoule_per_token
    assert BLOCKS * found.central == pytest.approx(PREFILL_MJ, rel=0.015)


def test_a_token_that_falls_through_one_block() -> None:
    assert block_us() == pytest.approx(GENERATION_BLOCK_US, rel=0.01)


def test_the_energy_of_a_token_in_generation() -> None:
    """The blocks one after another, and all chips on meanwhile."""
    seconds = BLOCKS * GENERATION_BLOCK_US * 1e-6
    dynamic = BLOCKS * dynamic_mj(estimate(1, "oheo-gulch").generation_energy)
    static = BLOCKS * chip().static_power_w.central * seconds * 1e3
    assert dynamic + static == pytest.approx(GENERATION_MJ, rel=0.015)


def test_the_dynamic_energy_of_a_block_that_a_token_falls_through() -> None:
    found = estimate(1, "oheo-gulch").generation_energy
    assert dynamic_mj(found) * 1e3 == pytest.approx(GENERATION_DYNAMIC_UJ, rel=0.015)


@pytest.mark.parametrize(("chips", "step_us"), [(2, 122.8), (4, 122.8), (5, 150), (8, 150)])
def test_a_step_over_several_chips(chips: int, step_us: float) -> None:
    found = estimate(chips, "kapoho-point").prefill
    assert found.step_seconds.central * 1e6 == pytest.approx(step_us, rel=0.05)
    assert found.resource == "links between chips"


def test_the_ranges_hold_what_was_published() -> None:
    """Every published figure lies between what the low ends and the high ends give."""
    one, four, eight = (
        estimate(1, "oheo-gulch"),
        estimate(4, "kapoho-point"),
        estimate(8, "kapoho-point"),
    )
    for found, step_us in ((one, PREFILL_STEP_US), (four, 122.8), (eight, 150)):
        assert found.prefill.step_seconds.low < step_us * 1e-6 < found.prefill.step_seconds.high
    energy = one.prefill_energy.chip_millijoule_per_token
    assert BLOCKS * energy.low < PREFILL_MJ < BLOCKS * energy.high
    assert (
        one.generation.seconds_per_token.low
        < GENERATION_BLOCK_US * 1e-6
        < one.generation.seconds_per_token.high
    )
    alone = one.generation_energy
    assert dynamic_mj(alone, "low") < GENERATION_DYNAMIC_UJ * 1e-3 < dynamic_mj(alone, "high")


FIGURES = {
    "static_power_w": "static_power_w",
    "energy_per_synops_pj": "energy_per_synop_pj",
    "energy_per_instructions_pj": "energy_per_instruction_pj",
    "energy_per_messages_pj": "energy_per_message_pj",
    "energy_per_hops_pj": "energy_per_hop_pj",
    "fall_through_energy_ratio": "fall_through_energy_ratio",
    "time_per_synapse_ns": "time_per_synapse_ns",
    "fall_through_step_ns": "fall_through_step_ns",
    "time_per_crossing_ns": "time_per_crossing_ns",
    "barrier_few_chips_ns": "barrier_few_chips_ns",
    "barrier_many_chips_ns": "barrier_many_chips_ns",
}
"""What the fit calls a figure, and what the file of the chip calls it."""


@pytest.fixture(scope="module")
def fitted() -> dict[str, float]:
    """What the fit printed."""
    return {row["what"]: row["value"] for row in json.loads(FITTED.read_text(encoding="utf-8"))}


@pytest.mark.parametrize("name", FIGURES)
def test_a_fitted_figure_is_the_central_one_that_ships(name: str, fitted: dict[str, float]) -> None:
    assert getattr(chip(), FIGURES[name]).central == pytest.approx(fitted[name], rel=0.01)


def test_every_figure_that_is_said_to_be_fitted_was() -> None:
    """A source that begins with the fit belongs to a figure of it, and each names how it came
    about."""
    figures = chip()
    said = {name for name in FIGURES.values() if "fitted" in getattr(figures, name).source}
    assert said == set(FIGURES.values()) - {"barrier_few_chips_ns"}  # that one is Loihi 1's own
    for name in BOUNDS:
        assert getattr(figures.time_per_crossing_ns, name) > 0


def test_the_counts_of_the_fit_are_those_of_a_block(fitted: dict[str, float]) -> None:
    """Its energies times its counts are the published energy of a block and token in a full
    pipeline."""
    counts = {
        name: fitted[f"a block and token: {name}"]
        for name in ("synops", "instructions", "messages", "hops")
    }
    parts = estimate(1, "oheo-gulch").prefill_energy.parts
    operations = {part.name: part.operations_per_token for part in parts}
    names = "synaptic operations", "neuron instructions", "messages", "mesh hops"
    assert list(counts.values()) == [operations[name] for name in names]
    picojoule = sum(count * fitted[f"energy_per_{name}_pj"] for name, count in counts.items())
    assert picojoule * 1e-6 == pytest.approx(
        fitted["dynamic_uj_of_a_block_and_token_in_prefill"], rel=1e-4
    )


def test_the_idle_visits_of_the_fit_are_those_of_a_block(fitted: dict[str, float]) -> None:
    parts = estimate(1, "oheo-gulch").generation_energy.parts
    idle = next(part for part in parts if part.name == "idle visits").operations_per_token
    assert fitted["a block and token: instructions_of_idle_visits"] == idle
    assert fitted["idle_visits_uj_of_a_block_and_token"] == pytest.approx(
        idle * fitted["energy_per_instructions_pj"] * 1e-6, rel=1e-3
    )
