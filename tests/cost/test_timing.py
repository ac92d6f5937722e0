"""Step times, worked out by hand for three shards on two chips."""

import re
from collections.abc import Callable
from dataclasses import fields, replace

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from mmfree_neuro.cost import load, timing
from mmfree_neuro.cost.counted import counted
from mmfree_neuro.cost.load import Load
from mmfree_neuro.cost.span import Span
from mmfree_neuro.cost.timing import Timing
from mmfree_neuro.errors import HardwareError, InputError
from mmfree_neuro.graph.summary import GraphSummary, NodeSummary
from mmfree_neuro.mapping.mapping import HOST, Location, Mapping, Route, Shard
from mmfree_neuro.run.activity import Activity, nothing
from mmfree_neuro.systems.spec import ChipSpec, Quantity, SystemSpec

NS = 1e-9
HOST_CORE, FIRST, SECOND, LAST = Location(HOST, 0), Location(0, 0), Location(0, 5), Location(1, 6)
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
MODES = [
    timing.pipelined,
    timing.fall_through,
    timing.asynchronous_prefill,
    timing.asynchronous_generation,
]
TIMES = [
    field.name
    for field in fields(ChipSpec)
    if field.name.startswith(("time_", "barrier_", "fall_through_step"))
]
CENTRAL = {
    "time_per_instruction_ns": 10,
    "time_per_synop_ns": 2,
    "time_per_synapse_ns": 1,
    "time_per_message_ns": 100,
    "time_per_arrival_ns": 20,
    "time_per_hop_ns": 5,
    "time_per_crossing_ns": 50,
    "time_per_host_message_ns": 30,
    "fall_through_step_ns": 300,
    "barrier_one_chip_ns": 100,
    "barrier_few_chips_ns": 1000,
    "barrier_many_chips_ns": 9000,
}


def board(**central: float) -> SystemSpec:
    """Two rows of four cores a chip; times are half the central figures at the low end and twice at
    the high end."""
    figures = {
        field.name: Quantity(1, 1, 1, "made up")
        for field in fields(ChipSpec)
        if field.name != "name"
    }
    figures |= {
        name: Quantity(value / 2, value, value * 2, "made up") for name, value in central.items()
    }
    figures |= {"mesh_columns": Quantity(4, 4, 4, "made up"), "cores": Quantity(8, 8, 8, "made up")}
    two, nil = Quantity(2, 2, 2, "made up"), Quantity(0, 0, 0, "made up")
    return SystemSpec("board", "made up", two, two, two, nil, nil, ChipSpec("chip", **figures))


def only(figure: str) -> SystemSpec:
    """A board where one use of one resource takes 1 ns, and nothing else takes time."""
    return board(**(dict.fromkeys(TIMES, 0) | {figure: 1}))


def mapped(*places: Location) -> Mapping:
    """The embedding on the host; two halves of a mixer and a head at the places given."""
    shards = Shard("embedding", 0, 4), Shard("mix", 0, 2), Shard("mix", 2, 4), Shard("head", 0, 2)
    first, second, last = places
    routes = (
        Route(0, "x", tuple(sorted({first, second})), 0, 4),
        Route(1, "v", tuple(sorted({second, last})), 0, 2),
        Route(2, "v", (last,), 2, 4),
        Route(3, "logits", (HOST_CORE,), 0, 2),
    )
    return Mapping("", "board", "by hand", shards, (HOST_CORE, *places), routes)


def active() -> Activity:
    """Two tokens; the host's own work is not the chips' time."""
    fired, synops, reads = (
        np.array([2, 2, 2, 2]),
        np.array([0, 6, 8, 10]),
        np.array([0, 12, 16, 14]),
    )
    return Activity(2, fired, synops, reads, *np.zeros((2, 4), np.int64), np.array([7, 4, 3, 4]))


def loaded(*places: Location) -> Load:
    """The load of that activity on that mapping."""
    mapping = mapped(*(places or (FIRST, SECOND, LAST)))
    return load.load(counted(mapping, SUMMARY, active(), board()))


def bounds(span: Span) -> tuple[float, float, float]:
    """A range in nanoseconds."""
    return span.low / NS, span.central / NS, span.high / NS


def test_a_load_is_what_every_core_does_at_every_step() -> None:
    found = loaded()
    assert (found.chips, found.tokens, found.steps, found.cores) == (2, 2, 3, (FIRST, SECOND, LAST))
    assert {name: uses.tolist() for name, uses in found.per_core.items()} == {
        "instructions": [[0, 0, 0], [2 * 2 * 3, 2 * 2 * 3, 0], [0, 0, 2 * 2 * 1]],
        "synaptic operations": [[0, 0, 0], [6, 8, 0], [0, 0, 10]],
        "synapses read": [[0, 0, 0], [12, 16, 0], [0, 0, 14]],
        "messages sent": [
            [0, 0, 0],
            [4 * 2, 3, 0],
            [0, 0, 4],
        ],  # one to each core; the host is no core
        "messages that arrive": [[7, 7, 0], [0, 4, 4 + 3], [0, 0, 0]],
    }


def test_a_neuron_is_idle_at_all_steps_but_its_own() -> None:
    """Two neurons a core, for two tokens: guards of 3 instructions, and of 2 in the head."""
    mix, head = 2 * 2 * 3, 2 * 2 * 2
    assert loaded().idle.tolist() == [[mix, mix, head], [0, 0, head], [mix, mix, 0]]
    together = loaded(FIRST, FIRST, FIRST).idle
    assert together.tolist() == [[mix + mix + head], [head], [mix + mix]]


def test_a_load_is_what_every_link_does_at_every_step() -> None:
    found = loaded()
    each = {link: found.links[:, k].tolist() for k, link in enumerate(found.trees.links)}
    assert each == {(HOST, 0): [7, 0, 0], (0, 1): [0, 4 + 3, 0], (1, HOST): [0, 0, 4]}
    by_step, in_all = found.mesh
    assert by_step.tolist() == [
        7,
        4 + 3,
        4,
    ]  # core 0 to 1 of chip 0, of chip 1, and core 6 to 5 of chip 1
    assert in_all == 7 + 4  # core 0 to 1 of chip 0
    hops, crossings = found.farthest
    assert (hops.tolist(), crossings.tolist()) == ([2, 2 + 3, 3], [1, 1, 1])


ALONE = [
    ("time_per_instruction_ns", "instructions", 6, FIRST, 6 + 2),
    ("time_per_synop_ns", "synaptic operations", 5, LAST, 4 + 5),
    ("time_per_synapse_ns", "synapses read", 8, SECOND, 8 + 7),
    ("time_per_message_ns", "messages sent", 4, FIRST, 4 + 2),
    ("time_per_arrival_ns", "messages that arrive", 3.5 + 2, SECOND, 3.5 + 3.5),
    ("time_per_hop_ns", "links of the mesh", 3.5 + 2, FIRST, 3.5 + 3.5 + 2),
    ("time_per_crossing_ns", "links between chips", 3.5, Location(1, 0), 3.5),
    ("time_per_host_message_ns", "links to the host", 3.5, Location(0, 0), 3.5 + 2),
]
"""A figure, its resource, the uses of the busiest for a token and where that is; the sum over every
step's busiest."""


@pytest.mark.parametrize(("figure", "resource", "uses", "place", "by_step"), ALONE)
def test_every_resource_can_be_the_slowest(
    figure: str, resource: str, uses: float, place: Location, by_step: float
) -> None:
    found, system = loaded(), only(figure)
    for mode in (timing.pipelined, timing.asynchronous_prefill):
        whole = mode(found, system)
        assert bounds(whole.seconds_per_token) == pytest.approx((uses / 2, uses, uses * 2))
        assert (whole.resource, whole.slowest) == (resource, place)
    falling = timing.fall_through(replace(found, idle=0 * found.idle), system)
    assert bounds(falling.seconds_per_token) == pytest.approx((by_step / 2, by_step, by_step * 2))
    assert falling.resource == resource
    latency = {"time_per_hop_ns": 2 + 5 + 3, "time_per_crossing_ns": 3}.get(figure, 0)
    alone = timing.asynchronous_generation(found, system)
    assert alone.seconds_per_token.central == pytest.approx((by_step + latency) * NS)


def test_what_a_token_waits_for_is_its_time() -> None:
    """The slowest resources of all steps, and what every step takes besides."""
    found, system = loaded(), board(**CENTRAL)
    waits = timing.waits(found, system.chip)
    assert len(waits) == found.steps
    besides = timing.barrier(system.chip, found.chips).central + 300
    whole = sum(ns for ns, _ in waits) + found.steps * besides
    falling = timing.fall_through(found, system)
    assert falling.seconds_per_token.central == pytest.approx(whole * NS)
    assert falling.resource in {name for _, name in waits}


def test_idle_visits_take_time_where_a_token_falls_through() -> None:
    """Two guards of the mixer are 6 instructions a token, as many as its two programs: so each of
    the three steps takes 6, and not only the second."""
    found, system = loaded(), only("time_per_instruction_ns")
    falling = timing.fall_through(found, system)
    assert falling.seconds_per_token.central == pytest.approx((6 + 6 + 6) * NS)
    assert (falling.resource, falling.idle_visits) == ("instructions", True)
    for mode in MODES:
        if mode is not timing.fall_through:
            assert mode(found, system) == mode(replace(found, idle=0 * found.idle), system)
            assert not mode(found, system).idle_visits


def test_pipelined_a_step_is_the_slowest_resource_and_the_barrier() -> None:
    found = timing.pipelined(loaded(), board(**CENTRAL))
    low, central, high = (
        200 + 500,
        400 + 1000,
        800 + 2000,
    )  # the messages of the first core: 4 x 100 ns
    assert bounds(found.step_seconds) == pytest.approx((low, central, high))
    assert found.seconds_per_token == found.step_seconds
    rates = found.tokens_per_s.low, found.tokens_per_s.central, found.tokens_per_s.high
    assert rates == pytest.approx((1e9 / high, 1e9 / central, 1e9 / low))
    assert (found.mode, found.steps_per_token, found.alone) == ("pipelined", 3, False)
    assert (found.resource, found.slowest) == ("messages sent", FIRST)
    assert found.barrier_share == pytest.approx(1000 / 1400)


# From the host: 3.5 messages x 30 ns; the messages of the first core, 4 x 100 ns; those of the
# last, 2 x 100 ns.
STEPS_NS = 105 + 400 + 200


def test_falling_through_every_step_has_its_own_slowest_resource() -> None:
    found = timing.fall_through(loaded(), board(**CENTRAL))
    central = STEPS_NS + 3 * (1000 + 300)
    assert bounds(found.seconds_per_token) == pytest.approx((central / 2, central, central * 2))
    assert bounds(found.step_seconds) == pytest.approx((central / 6, central / 3, central / 1.5))
    rates = found.tokens_per_s.low, found.tokens_per_s.central, found.tokens_per_s.high
    assert rates == pytest.approx((5e8 / central, 1e9 / central, 2e9 / central))
    assert (found.mode, found.steps_per_token, found.alone) == ("fall-through", 3, True)
    assert (found.resource, found.slowest) == ("messages sent", FIRST)
    assert found.barrier_share == pytest.approx(3 * 1000 / central)


def test_without_a_barrier_a_token_leaves_when_the_slowest_resource_has_served_it() -> None:
    found = timing.asynchronous_prefill(loaded(), board(**CENTRAL))
    assert bounds(found.seconds_per_token) == pytest.approx((200, 400, 800))
    assert found.step_seconds == found.seconds_per_token
    assert (found.mode, found.alone, found.barrier_share) == ("asynchronous", False, 0)


def test_without_a_barrier_what_travels_takes_its_time() -> None:
    found = timing.asynchronous_generation(loaded(), board(**CENTRAL))
    central = STEPS_NS + (2 + 5 + 3) * 5 + 3 * 50
    assert bounds(found.seconds_per_token) == pytest.approx((central / 2, central, central * 2))
    assert bounds(found.step_seconds) == pytest.approx((central / 6, central / 3, central / 1.5))
    assert (found.mode, found.alone, found.barrier_share) == ("asynchronous", True, 0)


def test_shards_that_share_a_core_share_its_time() -> None:
    together, system = loaded(FIRST, FIRST, FIRST), board(**CENTRAL)
    assert timing.pipelined(together, system).step_seconds.central == pytest.approx(
        (2 + 1.5 + 2 + 1) * 100 * NS
    )
    falling = timing.fall_through(together, system)
    assert falling.seconds_per_token.central == pytest.approx(
        ((6 + 6 + 4) * 10 + 350 + 200 + 3 * (100 + 300)) * NS
    )
    assert falling.slowest == FIRST


def test_the_core_that_is_slowest_most_often_is_named() -> None:
    assert (
        timing.fall_through(loaded(SECOND, FIRST, SECOND), only("time_per_message_ns")).slowest
        == SECOND
    )


@pytest.mark.parametrize(
    ("chips", "barrier"), [(1, 100), (2, 1000), (4, 1000), (5, 9000), (32, 9000)]
)
def test_the_barrier_depends_on_how_many_chips_are_in_use(chips: int, barrier: int) -> None:
    shards = Shard("embedding", 0, 4), *(Shard("head", 0, 2) for _ in range(chips))
    places = HOST_CORE, *(Location(chip, 0) for chip in range(chips))  # the host is no chip
    mapping, system = Mapping("", "board", "by hand", shards, places, ()), board(**CENTRAL)
    activity = replace(nothing(mapping), tokens=1)
    found = load.load(counted(mapping, SUMMARY, activity, system))
    assert timing.barrier(system.chip, chips).central == barrier
    assert timing.pipelined(found, system).step_seconds.central == pytest.approx(barrier * NS)
    assert timing.pipelined(found, system).barrier_share == pytest.approx(1)
    assert timing.fall_through(found, system).step_seconds.central == pytest.approx(
        (barrier + 300) * NS
    )


@st.composite
def systems(draw: st.DrawFn) -> SystemSpec:
    """Any times, above zero."""
    value = st.floats(0.001, 1e5, allow_nan=False)
    figures = {
        name: Quantity(*sorted(draw(st.tuples(value, value, value))), "made up") for name in TIMES
    }
    return replace(board(), chip=replace(board().chip, **figures))


def rising(span: Span) -> bool:
    """Whether a range is one."""
    return 0 < span.low <= span.central <= span.high


@given(systems(), st.permutations([FIRST, SECOND, LAST]))
def test_ranges_are_ranges_and_a_barrier_never_helps(
    system: SystemSpec, places: list[Location]
) -> None:
    found = loaded(*places)
    times = [mode(found, system) for mode in MODES]
    for one in times:
        assert (
            rising(one.seconds_per_token) and rising(one.step_seconds) and rising(one.tokens_per_s)
        )
        assert 0 <= one.barrier_share < 1
    pipelined, falling, prefill, generation = (one.seconds_per_token.central for one in times)
    assert prefill < pipelined
    assert prefill <= generation * (1 + 1e-9)
    assert pipelined <= falling * (1 + 1e-9)


def test_a_phase_without_tokens_cannot_be_timed() -> None:
    mapping = mapped(FIRST, SECOND, LAST)
    message = "the run has no token in this phase, must have at least one to be timed"
    with pytest.raises(InputError, match=f"^{re.escape(message)}$"):
        load.load(counted(mapping, SUMMARY, nothing(mapping), board()))


@pytest.mark.parametrize("mode", MODES)
def test_a_system_that_takes_no_time_has_no_throughput(
    mode: Callable[[Load, SystemSpec], Timing],
) -> None:
    message = "board: a token takes no time at the low figures, must have at least one above zero"
    with pytest.raises(HardwareError, match=f"^{re.escape(message)}$"):
        mode(loaded(), board(**dict.fromkeys(TIMES, 0)))


def test_each_phase_has_its_modes_and_the_silicon_comes_first() -> None:
    assert list(timing.PREFILL) == ["pipelined", "asynchronous"]
    assert list(timing.GENERATION) == ["fall-through", "asynchronous"]
    found, system = loaded(), board(**CENTRAL)
    for modes in (timing.PREFILL, timing.GENERATION):
        assert [mode(found, system).mode for mode in modes.values()] == list(modes)
