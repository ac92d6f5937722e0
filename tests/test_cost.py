"""Energy, worked out by hand for three shards on two chips."""

from collections import Counter
from dataclasses import fields

import numpy as np
import pytest

from mmfree_neuro import cost
from mmfree_neuro.activity import Activity
from mmfree_neuro.hardware import ChipSpec, Quantity, SystemSpec
from mmfree_neuro.mapping import HOST, Location, Mapping, Route, Shard
from mmfree_neuro.summary import GraphSummary, NodeSummary
from mmfree_neuro.timing import Span, Timing

PJ = 1e-9  # in millijoule
SUMMARY = GraphSummary(
    "made up", "a16", 1, 2, 32, {},
    (
        NodeSummary("embedding", "Embedding", 4, None, 0, {"ADD": 100}, 0, 0),
        NodeSummary("mix", "MLGRU", 4, 0, 1, {"ADD": 2, "MUL_SHR": 1}, 16, 12),
        NodeSummary("head", "Head", 2, None, 2, {"ADD": 1}, 8, 5),
    ),
)  # fmt: skip
SECONDS = Span(1e-6, 2e-6, 4e-6)
TIMING = Timing(Span(250_000, 500_000, 1_000_000), SECONDS, SECONDS, 2, Location(0, 0), 0.5)


def board() -> SystemSpec:
    """Energies with round numbers, each with a source of its own."""
    figures = {field.name: Quantity(1, 1, 1, "made up") for field in fields(ChipSpec) if field.name != "name"}
    figures |= {
        "mesh_columns": Quantity(4, 4, 4, "made up"),
        "energy_per_synop_pj": Quantity(5, 10, 20, "source of synops"),
        "energy_per_instruction_pj": Quantity(1, 1, 2, "source of instructions"),
        "energy_per_message_pj": Quantity(0, 100, 100, "source of messages"),
        "energy_per_hop_pj": Quantity(10, 10, 10, "source of hops"),
        "energy_per_crossing_pj": Quantity(500, 1000, 3000, "source of crossings"),
        "static_power_w": Quantity(0.25, 0.5, 1, "source of static power"),
    }
    two = Quantity(2, 2, 2, "made up")
    return SystemSpec(
        "board", "made up", two, two, Quantity(0, 2, 3, "source of board power"), ChipSpec("chip", **figures)
    )


def example() -> tuple[Mapping, Activity]:
    """Two tokens through two cores of chip 0 and one of chip 1; what the host does costs the chips nothing."""
    shards = Shard("embedding", 0, 4), Shard("mix", 0, 2), Shard("mix", 2, 4), Shard("head", 0, 2)
    host, first, second, last = Location(HOST, 0), Location(0, 0), Location(0, 5), Location(1, 6)
    routes = (
        Route(0, "x", first, 0, 4), Route(0, "x", second, 0, 4), Route(1, "v", last, 0, 2),
        Route(2, "v", last, 2, 4), Route(3, "logits", host, 0, 2), Route(1, "v", second, 0, 2),
    )  # fmt: skip
    mapping = Mapping("", "board", "by hand", shards, (host, first, second, last), routes)
    fired, synops, reads = np.array([2, 2, 2, 2]), np.array([0, 6, 8, 10]), np.array([0, 12, 16, 14])
    return mapping, Activity(2, fired, synops, reads, np.zeros(4, np.int64), np.array([8, 6, 4, 3, 4, 3]))


def test_instructions_are_those_of_the_neurons_on_chips() -> None:
    mapping, activity = example()
    assert cost.instructions(mapping, SUMMARY, activity) == Counter(ADD=2 * 2 * 4 + 2 * 1 * 2, MUL_SHR=2 * 1 * 4)


@pytest.mark.parametrize(
    ("name", "operations", "low", "central", "high", "source"),
    [
        ("synaptic operations", 24 / 2, 60 * PJ, 120 * PJ, 240 * PJ, "source of synops"),
        ("neuron instructions", 28 / 2, 14 * PJ, 14 * PJ, 28 * PJ, "source of instructions"),
        ("messages", 28 / 2, 0, 1400 * PJ, 1400 * PJ, "source of messages"),
        ("mesh hops", 57 / 2, 285 * PJ, 285 * PJ, 285 * PJ, "source of hops"),
        ("link crossings", 25 / 2, 6250 * PJ, 12500 * PJ, 37500 * PJ, "source of crossings"),
        ("static power of the chips in use", 2, 0.5e-3, 2e-3, 8e-3, "source of static power"),  # 2 chips, W, us
        ("power of the board beyond the chips", 1, 0, 4e-3, 12e-3, "source of board power"),
    ],
)
def test_a_part_is_operations_times_the_figure(
    name: str, operations: float, low: float, central: float, high: float, source: str
) -> None:
    found = {part.name: part for part in cost.energy(*with_timing()).parts}[name]
    assert found.operations_per_token == operations
    span = found.millijoule_per_token
    assert (span.low, span.central, span.high) == pytest.approx((low, central, high))
    assert found.source == source


def with_timing() -> tuple[Mapping, GraphSummary, Activity, SystemSpec, Timing]:
    """What `energy` takes."""
    mapping, activity = example()
    return mapping, SUMMARY, activity, board(), TIMING


def test_the_whole_is_the_sum_of_its_parts() -> None:
    found = cost.energy(*with_timing())
    assert len(found.parts) == 7
    whole = found.millijoule_per_token
    assert whole.low == pytest.approx((60 + 14 + 285 + 6250) * PJ + 0.5e-3)
    assert whole.central == pytest.approx((120 + 14 + 1400 + 285 + 12500) * PJ + 6e-3)
    assert whole.high == pytest.approx((240 + 28 + 1400 + 285 + 37500) * PJ + 20e-3)
