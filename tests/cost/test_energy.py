"""Energy, worked out by hand for three shards on two chips."""

from collections import Counter
from dataclasses import fields, replace

import numpy as np
import pytest

from mmfree_neuro.cost import energy
from mmfree_neuro.cost.constants import corners
from mmfree_neuro.cost.counted import counted
from mmfree_neuro.cost.span import Span
from mmfree_neuro.cost.timing import Factor, Timing
from mmfree_neuro.graph.summary import GraphSummary, NodeSummary
from mmfree_neuro.mapping.mapping import HOST, Location, Mapping, Route, Shard
from mmfree_neuro.run.activity import Activity
from mmfree_neuro.systems.spec import ChipSpec, Quantity, SystemSpec

PJ = 1e-9  # in millijoule
SUMMARY = GraphSummary(
    "made up",
    "a16",
    1,
    2,
    32,
    {},
    (
        NodeSummary("embedding", "Embedding", 4, None, 0, {"ADD": 100}, 0, 0),
        NodeSummary("mix", "MLGRU", 4, 0, 1, {"ADD": 2, "MUL_SHR": 1}, 16, 12, 4, 3),
        NodeSummary("head", "Head", 2, None, 2, {"ADD": 1}, 8, 5, 0, 2),
    ),
)
SECONDS = Span(1e-6, 2e-6, 4e-6)
PIPELINED = Timing(
    "pipelined",
    Span(250_000, 500_000, 1_000_000),
    SECONDS,
    Span(3e-6, 6e-6, 12e-6),
    SECONDS,
    3,
    1,
    1.0,
    (),
    Location(0, 0),
    "instructions",
    0.5,
    np.array([1e-6, 2e-6, 4e-6]),
)


def factor(*values: float) -> tuple[Factor, ...]:
    """What the energy of what is counted is multiplied by, at the corners."""
    return (Factor("made up", "made up", np.array(values)),)


ALONE = replace(PIPELINED, dynamic=factor(0.5, 0.75, 1))
"""A token that falls through alone takes less."""


def board() -> SystemSpec:
    """Energies with round numbers, each with a source of its own."""
    figures = {
        field.name: Quantity(1, 1, 1, "made up")
        for field in fields(ChipSpec)
        if field.name != "name"
    }
    figures |= {
        "cores": Quantity(8, 8, 8, "made up"),
        "mesh_columns": Quantity(4, 4, 4, "made up"),
        "energy_per_synop_pj": Quantity(5, 10, 20, "source of synops"),
        "energy_per_instruction_pj": Quantity(1, 1, 2, "source of instructions"),
        "energy_per_message_pj": Quantity(0, 100, 100, "source of messages"),
        "energy_per_hop_pj": Quantity(10, 10, 10, "source of hops"),
        "energy_per_crossing_pj": Quantity(500, 1000, 3000, "source of crossings"),
        "static_power_w": Quantity(0.25, 0.5, 1, "source of static power"),
        "fall_through_energy_ratio": Quantity(0.5, 0.75, 1, "made up"),
    }
    two, watts = Quantity(2, 2, 2, "made up"), Quantity(0, 2, 3, "source of board power")
    host = Quantity(0, 1, 10, "source of host power")
    powered = Quantity(3, 3, 3, "made up")
    return SystemSpec(
        "board", "made up", two, two, two, watts, host, ChipSpec("chip", **figures), powered
    )


def example() -> tuple[Mapping, Activity]:
    """Two tokens through two cores of chip 0 and one of chip 1; what the host computes costs the
    chips nothing."""
    shards = Shard("embedding", 0, 4), Shard("mix", 0, 2), Shard("mix", 2, 4), Shard("head", 0, 2)
    host, first, second, last = Location(HOST, 0), Location(0, 0), Location(0, 5), Location(1, 6)
    routes = (
        Route(0, "x", (first, second), 0, 4),
        Route(1, "v", (second, last), 0, 2),
        Route(2, "v", (last,), 2, 4),
        Route(3, "logits", (host,), 0, 2),
    )
    mapping = Mapping("", "board", "by hand", shards, (host, first, second, last), routes)
    fired, synops, reads = (
        np.array([2, 2, 2, 2]),
        np.array([0, 6, 8, 10]),
        np.array([0, 12, 16, 14]),
    )
    return mapping, Activity(
        2, fired, synops, reads, *np.zeros((2, 4), np.int64), np.array([7, 4, 3, 4])
    )


def test_instructions_are_those_of_the_neurons_on_chips() -> None:
    mapping, activity = example()
    assert energy.instructions(counted(mapping, SUMMARY, activity, board())) == Counter(
        ADD=2 * 2 * 4 + 2 * 1 * 2, MUL_SHR=2 * 1 * 4
    )


def test_a_neuron_is_idle_at_every_step_of_the_machine_but_its_own() -> None:
    """Three steps a token: four neurons of the mixer with guards of 3 instructions, and two heads
    with 2, are idle at two of them; the embedding, on the host, never is."""
    mapping, activity = example()
    found = energy.idle_instructions(counted(mapping, SUMMARY, activity, board()))
    assert found == 2 * 2 * (4 * 3 + 2 * 2)


MESSAGES, HOPS, CROSSINGS = (
    7 * 2 + 4 * 2 + 3 + 4,
    7 * 2 + 4 * (2 + 3) + 3 * (2 + 3) + 4 * 3,
    7 + 4 + 3 + 4,
)
DYNAMIC = [
    ("synaptic operations", 24 / 2, (60, 120, 240), "source of synops"),
    ("neuron instructions", 28 / 2, (14, 14, 28), "source of instructions"),
    ("idle visits", 0, (0, 0, 0), "source of instructions"),
    ("messages", MESSAGES / 2, (0, 1450, 1450), "source of messages"),
    ("mesh hops", HOPS / 2, (305, 305, 305), "source of hops"),
    ("link crossings", CROSSINGS / 2, (4500, 9000, 27000), "source of crossings"),
]
"""Name, operations a token, and picojoules in a full pipeline."""
POWER = [
    (
        "static power of the chips in use",
        2,
        (0.5e-3, 2e-3, 8e-3),
        "source of static power",
    ),  # 2 chips, W x us
    (
        "static power of chips that are powered and not used",
        1,
        (0.25e-3, 1e-3, 4e-3),
        "source of static power",
    ),  # the third
    ("power of the board beyond the chips", 1, (0, 4e-3, 12e-3), "source of board power"),
    ("power of the host", 1, (0, 2e-3, 40e-3), "source of host power"),
]


def energy_of(timing: Timing) -> energy.Energy:
    """The energy of the example at that time."""
    mapping, activity = example()
    return energy.energy(counted(mapping, SUMMARY, activity, board()), timing, corners(board()))


def bounds(span: Span) -> tuple[float, float, float]:
    """A range as a tuple."""
    return span.low, span.central, span.high


@pytest.mark.parametrize(
    ("timing", "ratios"),
    [
        (PIPELINED, (1, 1, 1)),
        (ALONE, (0.5, 0.75, 1)),
        (replace(PIPELINED, dynamic=factor(0.5, 1, 1) + factor(1, 0.5, 2)), (0.5, 0.5, 2)),
    ],
)
def test_a_part_is_operations_times_the_figure(
    timing: Timing, ratios: tuple[float, float, float]
) -> None:
    wanted = [
        (
            name,
            count,
            tuple(pj * ratio * PJ for pj, ratio in zip(all_pj, ratios, strict=True)),
            source,
        )
        for name, count, all_pj, source in DYNAMIC
    ] + POWER  # power times time is the same with and without company
    parts = energy_of(timing).parts
    assert [part.name for part in parts] == [name for name, *_ in wanted]
    for part, (_, count, millijoule, source) in zip(parts, wanted, strict=True):
        assert part.operations_per_token == count
        assert bounds(part.millijoule_per_token) == pytest.approx(millijoule)
        assert part.source == source


def test_idle_visits_are_a_part_where_a_token_falls_through() -> None:
    falling = energy_of(replace(ALONE, steps_apart=3.0))
    part = next(part for part in falling.parts if part.name == "idle visits")
    assert part.operations_per_token == 32
    assert bounds(part.millijoule_per_token) == pytest.approx(
        (32 * 1 * 0.5 * PJ, 32 * 1 * 0.75 * PJ, 32 * 2 * PJ)
    )
    without = energy_of(ALONE)
    assert falling.chip_millijoule_per_token.central == pytest.approx(
        without.chip_millijoule_per_token.central + part.millijoule_per_token.central
    )


@pytest.mark.parametrize(("steps_apart", "idle"), [(3.0, 32), (2.0, 16), (1.5, 8), (1.0, 0)])
def test_the_more_tokens_are_under_way_the_fewer_visits_are_idle(
    steps_apart: float, idle: float
) -> None:
    """Between two tokens a neuron is visited once for each step, and has one of the tokens."""
    found = energy_of(replace(PIPELINED, steps_apart=steps_apart))
    part = next(part for part in found.parts if part.name == "idle visits")
    assert part.operations_per_token == idle
    assert bounds(part.millijoule_per_token) == pytest.approx(
        (idle * 1 * PJ, idle * 1 * PJ, idle * 2 * PJ)
    )
    full = energy_of(PIPELINED)
    assert found.millijoule_per_token.central == pytest.approx(
        full.millijoule_per_token.central + idle * PJ
    )


def test_one_sum_is_of_the_chips_and_one_of_the_system() -> None:
    found = energy_of(PIPELINED)
    low, central, high = (sum(pj[k] for _, _, pj, _ in DYNAMIC) * PJ for k in range(3))
    assert bounds(found.chip_millijoule_per_token) == pytest.approx(
        (low + 0.5e-3, central + 2e-3, high + 8e-3)
    )
    assert bounds(found.millijoule_per_token) == pytest.approx(
        (low + 0.75e-3, central + 9e-3, high + 64e-3)
    )
    # A power pairs each energy with its own time.
    watts = (low + 0.75e-3) / 1e-3, (central + 9e-3) / 2e-3, (high + 64e-3) / 4e-3
    assert bounds(found.watts) == pytest.approx(watts)
    assert found.whole.tolist() == list(bounds(found.millijoule_per_token))


def test_chips_that_are_powered_are_all_of_the_system_where_its_file_leaves_it_open() -> None:
    """And never fewer than are in use."""
    mapping, activity = example()
    watts = {}
    for powered in (None, Quantity(1, 1, 1, "made up"), Quantity(2, 5, 8, "made up")):
        system = replace(board(), powered_chips=powered)
        counts = counted(mapping, SUMMARY, activity, system)
        parts = energy.energy(counts, PIPELINED, corners(system)).parts
        (unused,) = (part for part in parts if "not used" in part.name)
        watts[powered] = unused.operations_per_token, unused.millijoule_per_token.central
    none, one, some = watts.values()
    assert none == one == (0, 0)  # the system has two chips, both in use
    assert some == (3, pytest.approx(3 * 0.5 * 2e-3))


def test_copies_share_chips_that_are_powered_and_not_used() -> None:
    mapping, activity = example()
    system = replace(board(), powered_chips=Quantity(10, 10, 10, "made up"))
    counts = counted(mapping, SUMMARY, activity, system)
    found = energy.energy(counts, PIPELINED, corners(system), copies=3)
    (unused,) = (part for part in found.parts if "not used" in part.name)
    assert unused.operations_per_token == pytest.approx((10 - 3 * 2) / 3)


def test_ranges_are_ranges() -> None:
    for timing in (PIPELINED, ALONE, replace(ALONE, steps_apart=3.0)):
        found = energy_of(timing)
        spans = [part.millijoule_per_token for part in found.parts]
        for span in (*spans, found.chip_millijoule_per_token, found.millijoule_per_token):
            assert 0 <= span.low <= span.central <= span.high
