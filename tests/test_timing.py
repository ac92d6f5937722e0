"""Step times, worked out by hand for three shards on two chips."""

import re
from collections.abc import Callable
from dataclasses import fields, replace

import numpy as np
import pytest

from mmfree_neuro import timing
from mmfree_neuro.activity import Activity, nothing
from mmfree_neuro.errors import HardwareError, InputError
from mmfree_neuro.hardware import ChipSpec, Quantity, SystemSpec
from mmfree_neuro.mapping import HOST, Location, Mapping, Route, Shard
from mmfree_neuro.summary import GraphSummary, NodeSummary

NS = 1e-9
HOST_CORE, FIRST, SECOND, LAST = Location(HOST, 0), Location(0, 0), Location(0, 5), Location(1, 6)
SUMMARY = GraphSummary(
    "made up", "a16", 1, 2, 32, {},
    (
        NodeSummary("embedding", "Embedding", 4, None, 0, {"ADD": 100}, 0, 0),
        NodeSummary("mix", "MLGRU", 4, 0, 1, {"ADD": 2, "MUL_SHR": 1}, 16, 12),
        NodeSummary("head", "Head", 2, None, 2, {"ADD": 1}, 8, 5),
    ),
)  # fmt: skip

# Per token, at the central figures:  reads x 1 ns + instructions x 10 ns + messages x 100 ns
FIRST_NS = 6 + 2 * 3 * 10 + 3.5 * 100
SECOND_NS = 8 + 2 * 3 * 10 + 1.5 * 100
LAST_NS = 7 + 2 * 1 * 10 + 2 * 100


def board() -> SystemSpec:
    """Every time is half its central figure at the low end and twice that at the high end, barriers but for one."""
    figures = {field.name: Quantity(1, 1, 1, "made up") for field in fields(ChipSpec) if field.name != "name"}
    figures |= {
        "time_per_synapse_ns": Quantity(0.5, 1, 2, "made up"),
        "time_per_instruction_ns": Quantity(5, 10, 20, "made up"),
        "time_per_message_ns": Quantity(50, 100, 200, "made up"),
        "barrier_one_chip_ns": Quantity(100, 100, 100, "made up"),
        "barrier_few_chips_ns": Quantity(500, 1000, 3000, "made up"),
        "barrier_many_chips_ns": Quantity(9000, 9000, 9000, "made up"),
    }
    one = Quantity(1, 1, 1, "made up")
    return SystemSpec("board", "made up", one, one, one, ChipSpec(name="chip", **figures))


def mapped(*places: Location) -> Mapping:
    """The embedding on the host; two halves of a mixer and a head at the places given."""
    shards = Shard("embedding", 0, 4), Shard("mix", 0, 2), Shard("mix", 2, 4), Shard("head", 0, 2)
    routes = (
        Route(0, "x", places[0], 0, 4), Route(0, "x", places[1], 0, 4), Route(1, "v", places[2], 0, 2),
        Route(2, "v", places[2], 2, 4), Route(3, "logits", HOST_CORE, 0, 2), Route(1, "v", places[1], 0, 2),
    )  # fmt: skip
    return Mapping("", "board", "by hand", shards, (HOST_CORE, *places), routes)


def active() -> Activity:
    """Two tokens; the host's own work and messages are not the chips' time."""
    fired, synops, reads = np.array([2, 2, 2, 2]), np.array([0, 6, 8, 10]), np.array([0, 12, 16, 14])
    return Activity(2, fired, synops, reads, np.zeros(4, np.int64), np.array([8, 6, 4, 3, 4, 3]))


def test_in_prefill_a_step_is_the_slowest_core_and_the_barrier() -> None:
    found = timing.prefill(mapped(FIRST, SECOND, LAST), SUMMARY, active(), board())
    low, central, high = FIRST_NS / 2 + 500, FIRST_NS + 1000, FIRST_NS * 2 + 3000
    assert (found.step_seconds.low, found.step_seconds.central, found.step_seconds.high) == pytest.approx(
        (low * NS, central * NS, high * NS)
    )
    assert found.seconds_per_token == found.step_seconds
    assert (found.tokens_per_s.low, found.tokens_per_s.central, found.tokens_per_s.high) == pytest.approx(
        (1e9 / high, 1e9 / central, 1e9 / low)
    )
    assert (found.steps_per_token, found.slowest) == (2, FIRST)
    assert found.barrier_share == pytest.approx(1000 / central)


def test_in_generation_every_step_has_its_own_slowest_core() -> None:
    found = timing.generation(mapped(FIRST, SECOND, LAST), SUMMARY, active(), board())
    cores = FIRST_NS + LAST_NS
    low, central, high = cores / 2 + 2 * 500, cores + 2 * 1000, cores * 2 + 2 * 3000
    assert (
        found.seconds_per_token.low,
        found.seconds_per_token.central,
        found.seconds_per_token.high,
    ) == pytest.approx((low * NS, central * NS, high * NS))
    assert found.step_seconds.central == pytest.approx(central / 2 * NS)
    assert (found.tokens_per_s.low, found.tokens_per_s.high) == pytest.approx((1e9 / high, 1e9 / low))
    assert found.steps_per_token == 2
    assert found.barrier_share == pytest.approx(2000 / central)


def test_shards_that_share_a_core_share_its_time() -> None:
    together = mapped(FIRST, FIRST, FIRST)
    pipelined = timing.prefill(together, SUMMARY, active(), board())
    assert pipelined.step_seconds.central == pytest.approx((FIRST_NS + SECOND_NS + LAST_NS + 100) * NS)
    falling = timing.generation(together, SUMMARY, active(), board())
    assert falling.seconds_per_token.central == pytest.approx((FIRST_NS + SECOND_NS + LAST_NS + 2 * 100) * NS)
    assert falling.slowest == FIRST


def test_the_core_that_is_slowest_most_often_is_named() -> None:
    crowded = mapped(SECOND, FIRST, SECOND)
    assert timing.generation(crowded, SUMMARY, active(), board()).slowest == SECOND


@pytest.mark.parametrize(("chips", "barrier"), [(1, 100), (2, 1000), (4, 1000), (5, 9000), (32, 9000)])
def test_the_barrier_depends_on_how_many_chips_are_in_use(chips: int, barrier: int) -> None:
    shards = tuple(Shard("head", 0, 2) for _ in range(chips))
    mapping = Mapping("", "board", "by hand", shards, tuple(Location(chip, 0) for chip in range(chips)), ())
    found = timing.prefill(mapping, SUMMARY, replace(nothing(mapping), tokens=1), board())
    assert found.step_seconds.central == pytest.approx(barrier * NS)
    assert found.barrier_share == pytest.approx(1)


@pytest.mark.parametrize("phase", [timing.prefill, timing.generation])
def test_a_phase_without_tokens_cannot_be_timed(phase: Callable[..., timing.Timing]) -> None:
    mapping = mapped(FIRST, SECOND, LAST)
    message = "the run has no token in this phase, must have at least one to be timed"
    with pytest.raises(InputError, match=f"^{re.escape(message)}$"):
        phase(mapping, SUMMARY, nothing(mapping), board())


@pytest.mark.parametrize("phase", [timing.prefill, timing.generation])
def test_a_system_that_takes_no_time_has_no_throughput(phase: Callable[..., timing.Timing]) -> None:
    nil = Quantity(0, 0, 0, "made up")
    names = [field.name for field in fields(ChipSpec) if field.name.startswith(("time_", "barrier_"))]
    fast = replace(board(), chip=replace(board().chip, **dict.fromkeys(names, nil)))
    message = "board: a token takes no time at the low figures, must have at least one above zero"
    with pytest.raises(HardwareError, match=f"^{re.escape(message)}$"):
        phase(mapped(FIRST, SECOND, LAST), SUMMARY, active(), fast)
