"""Step times, worked out by hand for three shards on two chips."""

import re
from collections.abc import Callable
from dataclasses import fields, replace
from functools import partial
from itertools import pairwise

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from mmfree_neuro.cost import estimate, load, timing
from mmfree_neuro.cost.constants import corners, drawn
from mmfree_neuro.cost.counted import counted
from mmfree_neuro.cost.load import Load
from mmfree_neuro.cost.span import Span
from mmfree_neuro.cost.timing import LinkOfChips, Timing, Where
from mmfree_neuro.errors import HardwareError, InputError
from mmfree_neuro.graph.summary import GraphSummary, NodeSummary
from mmfree_neuro.mapping.mapping import HOST, Location, Mapping, Route, Shard
from mmfree_neuro.mapping.trees import MeshLink
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


def at_corners(mode: Callable[..., Timing]) -> Callable[..., Timing]:
    """A mode with all figures of a system at their low ends, all central ones, and all at their
    high ends."""

    def found(load: Load, system: SystemSpec, in_flight: int | None = None) -> Timing:
        more = () if in_flight is None else (in_flight,)
        return mode(load, corners(system), *more)

    return found


pipelined, fall_through, asynchronous_prefill, asynchronous_generation, generation, interleaved = (
    at_corners(mode)
    for mode in (
        timing.pipelined,
        timing.fall_through,
        timing.asynchronous_prefill,
        timing.asynchronous_generation,
        timing.generation,
        timing.interleaved,
    )
)


def dynamic(found: Timing) -> tuple[float, ...]:
    """What the energy of what is counted is multiplied by, at the corners."""
    return tuple(np.prod([np.ones(3), *(one.values for one in found.dynamic)], axis=0).tolist())


MODES = [pipelined, fall_through, asynchronous_prefill, asynchronous_generation]
INTERLEAVED = [partial(interleaved, in_flight=count) for count in range(1, 8)]
"""Of a token of three steps, so all but the first two fill the machine."""
ALL_MODES = [*MODES, *INTERLEAVED, partial(asynchronous_generation, in_flight=2)]
TIMES = [
    field.name
    for field in fields(ChipSpec)
    if field.name.startswith(("time_", "barrier_", "fall_through_step"))
]
CENTRAL = {
    "time_per_instruction_ns": 10,
    "time_per_synop_ns": 2,
    "time_per_word_ns": 1,
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
        "memory words read": [[0, 0, 0], [6, 8, 0], [0, 0, 7]],  # one for the two of a shard
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
    guards = loaded().guards
    assert guards.tolist() == [[0, 0, 0], [mix, mix, 0], [0, 0, head]]
    idle = guards.sum(0) - guards
    assert idle.tolist() == [[mix, mix, head], [0, 0, head], [mix, mix, 0]]
    together = loaded(FIRST, FIRST, FIRST).guards
    assert together.tolist() == [[0], [mix + mix], [head]]
    assert (together.sum(0) - together).tolist() == [[mix + mix + head], [head], [mix + mix]]


def test_a_load_is_what_every_link_does_at_every_step() -> None:
    found = loaded()
    each = {link: found.links[:, k].tolist() for k, link in enumerate(found.trees.links)}
    assert each == {(HOST, 0): [7, 0, 0], (0, 1): [0, 4 + 3, 0], (1, HOST): [0, 0, 4]}
    by_step, in_all = found.mesh.messages, found.whole_mesh.messages[0]
    assert by_step.tolist() == [
        7,
        4 + 3,
        4,
    ]  # core 0 to 1 of chip 0, of chip 1, and core 6 to 5 of chip 1
    assert in_all == 7 + 4  # core 0 to 1 of chip 0
    hops, crossings = found.farthest
    assert (hops.tolist(), crossings.tolist()) == ([2, 2 + 3, 3], [1, 1, 1])


@pytest.mark.parametrize(("bits", "words"), [(2, [1, 1, 2, 2]), (8, [1, 3, 5, 8])])
def test_a_payload_reads_whole_words_of_weights(bits: int, words: list[int]) -> None:
    """1, 20, 40 and 64 weights, of which a word holds 32 or 8."""
    shards = [Shard("mix", 0, size) for size in (1, 20, 40, 64)]
    chip = replace(board().chip, weight_bits=Quantity(bits, bits, bits, "made up"))
    system = replace(board(), chip=chip)
    found = load.words_per_synapse(shards, SUMMARY, system)
    assert (found * [1, 20, 40, 64]).tolist() == pytest.approx(words)
    assert load.words_per_synapse([Shard("embedding", 0, 4)], SUMMARY, system).tolist() == [0]


def without_guards(found: Load) -> Load:
    """The same load, where a visit without a token takes nothing."""
    return replace(found, guards=0 * found.guards)


ALONE = [
    ("time_per_instruction_ns", "instructions", 6, FIRST, 6 + 2),
    ("time_per_synop_ns", "synaptic operations", 5, LAST, 4 + 5),
    ("time_per_word_ns", "memory words read", 4, SECOND, 4 + 3.5),
    ("time_per_message_ns", "messages sent", 4, FIRST, 4 + 2),
    ("time_per_arrival_ns", "messages that arrive", 3.5 + 2, SECOND, 3.5 + 3.5),
    ("time_per_hop_ns", "links of the mesh", 3.5 + 2, MeshLink(0, (0, 0), (1, 0)), 3.5 + 3.5 + 2),
    ("time_per_crossing_ns", "links between chips", 3.5, LinkOfChips(0, 1), 3.5),
    ("time_per_host_message_ns", "links to the host", 3.5, LinkOfChips(HOST, 0), 3.5 + 2),
]
"""A figure, its resource, the uses of the busiest for a token and where that is; the sum over every
step's busiest."""


@pytest.mark.parametrize(
    ("place", "text"),
    [
        (FIRST, "core 0 of chip 0"),
        (LinkOfChips(7, 6), "link chip 7 → chip 6"),
        (LinkOfChips(HOST, 0), "link the host → chip 0"),
        (LinkOfChips(3, HOST), "link chip 3 → the host"),
        (MeshLink(2, (4, 5), (4, 6)), "mesh link of chip 2, column 4, row 5 → column 4, row 6"),
    ],
)
def test_what_is_slow_has_its_own_name(place: Where, text: str) -> None:
    assert timing.where(place) == text


@pytest.mark.parametrize(("figure", "resource", "uses", "place", "by_step"), ALONE)
def test_every_resource_can_be_the_slowest(
    figure: str, resource: str, uses: float, place: Where, by_step: float
) -> None:
    found, system = loaded(), only(figure)
    for mode in (pipelined, asynchronous_prefill):
        whole = mode(found, system)
        assert bounds(whole.seconds_per_token) == pytest.approx((uses / 2, uses, uses * 2))
        assert (whole.resource, whole.slowest) == (resource, place)
    falling = fall_through(without_guards(found), system)
    assert bounds(falling.seconds_per_token) == pytest.approx((by_step / 2, by_step, by_step * 2))
    assert falling.resource == resource
    latency = {"time_per_hop_ns": 2 + 5 + 3, "time_per_crossing_ns": 3}.get(figure, 0)
    alone = asynchronous_generation(found, system)
    assert alone.seconds_per_token.central == pytest.approx((by_step + latency) * NS)


def test_what_a_token_waits_for_is_its_time() -> None:
    """The slowest resources of all steps, and what every step takes besides."""
    found, system = loaded(), board(**CENTRAL)
    waits = timing.waits(found, system.chip)
    assert len(waits) == found.steps
    besides = timing.barrier(system.chip, found.chips).central + 300
    whole = sum(ns for ns, _, _ in waits) + found.steps * besides
    falling = fall_through(found, system)
    assert falling.seconds_per_token.central == pytest.approx(whole * NS)
    assert falling.resource in {name for _, name, _ in waits}


def test_idle_visits_take_time_where_a_token_falls_through() -> None:
    """Two guards of the mixer are 6 instructions a token, as many as its two programs: so each of
    the three steps takes 6, and not only the second."""
    found, system = loaded(), only("time_per_instruction_ns")
    falling = fall_through(found, system)
    assert falling.seconds_per_token.central == pytest.approx((6 + 6 + 6) * NS)
    assert (falling.resource, falling.steps_apart) == ("instructions", 3)
    for mode in (*MODES, *INTERLEAVED[2:]):
        if mode is not fall_through:
            assert mode(found, system) == mode(without_guards(found), system)
            assert mode(found, system).steps_apart == 1


def test_pipelined_a_step_is_the_slowest_resource_and_the_barrier() -> None:
    found = pipelined(loaded(), board(**CENTRAL, fall_through_energy_ratio=0.5))
    low, central, high = (
        200 + 500,
        400 + 1000,
        800 + 2000,
    )  # the messages of the first core: 4 x 100 ns
    assert bounds(found.step_seconds) == pytest.approx((low, central, high))
    assert found.seconds_per_token == found.step_seconds
    rates = found.tokens_per_s.low, found.tokens_per_s.central, found.tokens_per_s.high
    assert rates == pytest.approx((1e9 / high, 1e9 / central, 1e9 / low))
    assert bounds(found.latency_seconds) == pytest.approx((3 * low, 3 * central, 3 * high))
    assert (found.mode, found.steps_per_token, found.in_flight) == ("pipelined", 3, 1)
    assert (found.steps_apart, dynamic(found)) == (1, (1, 1, 1))
    assert (found.resource, found.slowest) == ("messages sent", FIRST)
    assert found.barrier_share == pytest.approx(1000 / 1400)


# From the host: 3.5 messages x 30 ns; the messages of the first core, 4 x 100 ns; those of the
# last, 2 x 100 ns.
STEPS_NS = 105 + 400 + 200


def test_falling_through_every_step_has_its_own_slowest_resource() -> None:
    found = fall_through(loaded(), board(**CENTRAL, fall_through_energy_ratio=0.5))
    central = STEPS_NS + 3 * (1000 + 300)
    assert bounds(found.seconds_per_token) == pytest.approx((central / 2, central, central * 2))
    assert bounds(found.step_seconds) == pytest.approx((central / 6, central / 3, central / 1.5))
    rates = found.tokens_per_s.low, found.tokens_per_s.central, found.tokens_per_s.high
    assert rates == pytest.approx((5e8 / central, 1e9 / central, 2e9 / central))
    assert found.latency_seconds == found.seconds_per_token
    assert (found.mode, found.steps_per_token, found.in_flight) == ("fall-through", 3, 1)
    assert (found.steps_apart, dynamic(found)) == (3, (0.25, 0.5, 1))
    assert (found.resource, found.slowest) == ("messages sent", FIRST)
    assert found.barrier_share == pytest.approx(3 * 1000 / central)


def test_without_a_barrier_a_token_leaves_when_the_slowest_resource_has_served_it() -> None:
    found = asynchronous_prefill(loaded(), board(**CENTRAL, fall_through_energy_ratio=0.5))
    assert bounds(found.seconds_per_token) == pytest.approx((200, 400, 800))
    assert found.step_seconds == found.seconds_per_token
    assert bounds(found.latency_seconds) == pytest.approx((600, 1200, 2400))
    assert (found.mode, dynamic(found), found.barrier_share) == ("asynchronous", (1, 1, 1), 0)
    assert (found.in_flight, found.steps_apart) == (1, 1)


def test_without_a_barrier_what_travels_takes_its_time() -> None:
    system = board(**CENTRAL, fall_through_energy_ratio=0.5)
    found = asynchronous_generation(loaded(), system)
    central = STEPS_NS + (2 + 5 + 3) * 5 + 3 * 50
    assert bounds(found.seconds_per_token) == pytest.approx((central / 2, central, central * 2))
    assert bounds(found.step_seconds) == pytest.approx((central / 6, central / 3, central / 1.5))
    assert found.latency_seconds == found.seconds_per_token
    alone = (0.25, 0.5, 1)
    assert (found.mode, dynamic(found), found.barrier_share) == ("asynchronous", alone, 0)
    assert (found.in_flight, found.steps_apart) == (1, 1)


def test_without_a_barrier_sequences_share_what_is_slowest() -> None:
    """A token takes 705 ns and 200 ns of travel, and the first core sends for 400 ns of it."""
    system = board(**CENTRAL, fall_through_energy_ratio=0.5)
    two, three = (asynchronous_generation(loaded(), system, count) for count in (2, 3))
    assert bounds(two.seconds_per_token) == pytest.approx((905 / 4, 905 / 2, 905))
    assert bounds(two.latency_seconds) == pytest.approx((905 / 2, 905, 905 * 2))
    assert bounds(three.seconds_per_token) == pytest.approx((200, 400, 800))
    assert bounds(three.latency_seconds) == pytest.approx((600, 1200, 2400))
    assert (two.in_flight, three.in_flight) == (2, 3)
    for found in (two, three):
        assert (found.mode, dynamic(found)) == ("asynchronous", (1, 1, 1))
        assert (found.steps_apart, found.barrier_share) == (1, 0)
        assert (found.resource, found.slowest) == ("messages sent", FIRST)


# Two sequences, of whose tokens the second enters a step behind the first.  So the machine works on
# steps 0 and 2 of a token together, then on 1 and 0, then on 2 and 1.


def test_which_steps_of_tokens_are_worked_at_together() -> None:
    assert timing._steps(loaded(), 1).tolist() == [[1, 0, 0], [0, 1, 0], [0, 0, 1]]
    assert timing._steps(loaded(), 2).tolist() == [[1, 0, 1], [1, 1, 0], [0, 1, 1]]
    longer = timing._steps(replace(loaded(), last=3), 2)
    assert longer.tolist() == [[1, 0, 1, 0], [0, 1, 0, 1], [1, 0, 1, 0], [0, 1, 0, 1]]


def test_interleaved_a_step_is_what_its_tokens_ask_for_together() -> None:
    """The messages of the last core, 2 x 100 ns, and twice those of the first, 4 x 100 ns, which do
    not add up as they are of two cores."""
    system = board(**CENTRAL, fall_through_energy_ratio=0.5)
    found = interleaved(loaded(), system, 2)
    latency = 200 + 400 + 400 + 3 * (1000 + 300)
    assert bounds(found.latency_seconds) == pytest.approx((latency / 2, latency, latency * 2))
    assert bounds(found.seconds_per_token) == pytest.approx((latency / 4, latency / 2, latency))
    rates = found.tokens_per_s.low, found.tokens_per_s.central, found.tokens_per_s.high
    assert rates == pytest.approx((1e9 / latency, 2e9 / latency, 4e9 / latency))
    assert bounds(found.step_seconds) == pytest.approx((latency / 6, latency / 3, latency / 1.5))
    assert (found.mode, found.steps_per_token, found.in_flight) == ("interleaved", 3, 2)
    # What two tokens take of the dynamic energy lies between what one alone takes and all of it.
    assert (found.steps_apart, dynamic(found)) == (1.5, (0.25, 0.75, 1))
    assert (found.resource, found.slowest) == ("messages sent", FIRST)
    assert found.barrier_share == pytest.approx(3 * 1000 / latency)


def test_interleaved_tokens_on_one_core_share_its_time() -> None:
    system = board(**(dict.fromkeys(TIMES, 0) | {"time_per_arrival_ns": 20}))
    found = interleaved(loaded(FIRST, SECOND, SECOND), system, 2)
    # What arrives at the second core: 3.5 messages at step 0, and 2 + 1.5 at step 1.
    assert bounds(found.latency_seconds)[1] == pytest.approx((3.5 + (3.5 + 3.5) + 3.5) * 20)
    assert (found.resource, found.slowest) == ("messages that arrive", SECOND)


def test_fewer_visits_are_idle_where_tokens_are_interleaved() -> None:
    """The guards of the mixer are 6 instructions a token, as many as its two programs, so each of
    the three steps takes 6; the first would take the head's 2 without guards."""
    found, system = loaded(), only("time_per_instruction_ns")
    two = interleaved(found, system, 2)
    assert bounds(two.latency_seconds)[1] == pytest.approx(6 + 6 + 6)
    without = interleaved(without_guards(found), system, 2)
    assert bounds(without.latency_seconds)[1] == pytest.approx(2 + 6 + 6)
    assert (two.resource, two.steps_apart) == ("instructions", 1.5)


@pytest.mark.parametrize("in_flight", [3, 4, 9])
def test_a_full_machine_works_as_in_prefill_and_more_sequences_wait(in_flight: int) -> None:
    system = board(**CENTRAL, fall_through_energy_ratio=0.5)
    full, found = (pipelined(loaded(), system), interleaved(loaded(), system, in_flight))
    latency = in_flight * 1400
    assert bounds(found.latency_seconds) == pytest.approx((latency / 2, latency, latency * 2))
    assert bounds(found.seconds_per_token) == pytest.approx(bounds(full.seconds_per_token))
    assert bounds(found.step_seconds) == pytest.approx(bounds(full.step_seconds))
    rates = found.tokens_per_s.low, found.tokens_per_s.central, found.tokens_per_s.high
    assert rates == pytest.approx((1e9 / 2800, 1e9 / 1400, 1e9 / 700))
    assert (found.mode, found.in_flight) == ("interleaved", in_flight)
    for name in ("steps_per_token", "steps_apart", "dynamic", "slowest", "resource"):
        assert getattr(found, name) == getattr(full, name)
    assert found.barrier_share == pytest.approx(full.barrier_share)


def test_what_operations_take_depends_on_the_system_and_not_on_the_chips_in_use() -> None:
    """On a board of one chip a factor less; of several, the same for one chip in use as for two."""
    several = board(**CENTRAL, multi_chip_energy_ratio=0.5)
    one = replace(several, chips=Quantity(1, 1, 1, "made up"))
    for found in (loaded(), replace(loaded(), chips=1)):
        assert dynamic(pipelined(found, several)) == (0.25, 0.5, 1)
        assert dynamic(pipelined(found, one)) == (1, 1, 1)


def test_one_sequence_falls_through() -> None:
    found, system = loaded(), board(**CENTRAL)
    assert generation(found, system) == fall_through(found, system)
    assert generation(found, system, 1) == fall_through(found, system)
    assert generation(found, system, 2) == interleaved(found, system, 2)


def test_shards_that_share_a_core_share_its_time() -> None:
    together, system = loaded(FIRST, FIRST, FIRST), board(**CENTRAL)
    assert pipelined(together, system).step_seconds.central == pytest.approx(
        (2 + 1.5 + 2 + 1) * 100 * NS
    )
    falling = fall_through(together, system)
    assert falling.seconds_per_token.central == pytest.approx(
        ((6 + 6 + 4) * 10 + 350 + 200 + 3 * (100 + 300)) * NS
    )
    assert falling.slowest == FIRST


def test_the_core_that_is_slowest_most_often_is_named() -> None:
    assert (
        fall_through(loaded(SECOND, FIRST, SECOND), only("time_per_message_ns")).slowest == SECOND
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
    assert pipelined(found, system).step_seconds.central == pytest.approx(barrier * NS)
    assert pipelined(found, system).barrier_share == pytest.approx(1)
    assert fall_through(found, system).step_seconds.central == pytest.approx((barrier + 300) * NS)


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


@given(systems(), st.permutations([FIRST, SECOND, LAST]))
def test_more_sequences_are_never_slower_and_never_faster_than_a_full_machine(
    system: SystemSpec, places: list[Location]
) -> None:
    """And the tokens that leave in the time of one are as many as the sequences."""
    found = loaded(*places)
    full, alone = pipelined(found, system), fall_through(found, system)
    times = [mode(found, system) for mode in INTERLEAVED]
    for count, one in enumerate(times, 1):
        rate, latency = one.tokens_per_s, one.latency_seconds
        assert rising(rate) and rising(latency) and rising(one.step_seconds)
        assert 0 <= one.barrier_share < 1
        assert one.in_flight == count
        for product in (
            rate.low * latency.high,
            rate.central * latency.central,
            rate.high * latency.low,
        ):
            assert product == pytest.approx(count)
        for bound in ("low", "central", "high"):
            assert getattr(rate, bound) <= getattr(full.tokens_per_s, bound) * (1 + 1e-9)
            if count >= found.steps:
                assert getattr(rate, bound) == pytest.approx(getattr(full.tokens_per_s, bound))
    assert bounds(times[0].seconds_per_token) == pytest.approx(bounds(alone.seconds_per_token))
    for fewer, more in pairwise(times):
        assert fewer.tokens_per_s.central <= more.tokens_per_s.central * (1 + 1e-9)
    for few, many in ((1, 2), (2, 3), (3, 7)):
        first, second = (asynchronous_generation(found, system, count) for count in (few, many))
        assert first.tokens_per_s.central <= second.tokens_per_s.central * (1 + 1e-9)
        assert many * second.seconds_per_token.central == pytest.approx(
            second.latency_seconds.central
        )


def test_a_phase_without_tokens_cannot_be_timed() -> None:
    mapping = mapped(FIRST, SECOND, LAST)
    message = "the run has no token in this phase, must have at least one to be timed"
    with pytest.raises(InputError, match=f"^{re.escape(message)}$"):
        load.load(counted(mapping, SUMMARY, nothing(mapping), board()))


@pytest.mark.parametrize("mode", ALL_MODES)
def test_a_system_that_takes_no_time_has_no_throughput(
    mode: Callable[[Load, SystemSpec], Timing],
) -> None:
    message = (
        "board: a token takes no time at its lowest figures, must have at least one above zero"
    )
    with pytest.raises(HardwareError, match=f"^{re.escape(message)}$"):
        mode(loaded(), board(**dict.fromkeys(TIMES, 0)))


@pytest.mark.parametrize(
    ("modes", "names"),
    [
        (timing.PREFILL, ["pipelined", "asynchronous"]),
        (timing.generating(1), ["fall-through", "asynchronous"]),
        (timing.generating(2), ["interleaved", "asynchronous"]),
        (timing.generating(3), ["interleaved", "asynchronous"]),
        (estimate.modes("prefill"), ["pipelined", "asynchronous"]),
        (estimate.modes("prefill", 2), ["pipelined", "asynchronous"]),
        (estimate.modes("generate"), ["fall-through", "asynchronous"]),
        (estimate.modes("generate", 2), ["interleaved", "asynchronous"]),
    ],
)
def test_each_phase_has_its_modes_and_the_silicon_comes_first(
    modes: tuple[timing.Mode, timing.Mode], names: list[str]
) -> None:
    found, system = loaded(), board(**CENTRAL)
    assert [mode(found, corners(system)).mode for mode in modes] == names


def test_an_estimate_is_of_the_sequences_that_are_under_way() -> None:
    counts = counted(mapped(FIRST, SECOND, LAST), SUMMARY, active(), board(**CENTRAL))
    found, system = loaded(), board(**CENTRAL)
    for in_flight in (1, 2, 3):
        estimated = estimate.estimate(counts, "generate", in_flight)
        assert estimated.timing == timing.generation(found, drawn(system), in_flight)
        free = timing.asynchronous_generation(found, drawn(system), in_flight)
        assert estimated.without_barrier == free
    assert estimate.estimate(counts, "prefill", 2).timing == timing.pipelined(found, drawn(system))
