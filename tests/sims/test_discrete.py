"""The discrete-event simulation beside the formulas: equal where one resource takes all the time,
else in bounds."""

import importlib.util
import sys
from collections.abc import Callable
from dataclasses import fields, replace
from functools import partial

import numpy as np
import pytest

from mmfree_neuro.cost import timing
from mmfree_neuro.cost.constants import central
from mmfree_neuro.cost.counted import counted
from mmfree_neuro.cost.load import BETWEEN, MESH, PER_CORE, Load, load
from mmfree_neuro.cost.timing import Timing
from mmfree_neuro.errors import EngineError, InputError
from mmfree_neuro.graph.nodes import Graph, InverseRms, QuantScale
from mmfree_neuro.graph.partial_sums import by_columns
from mmfree_neuro.graph.summary import summarise
from mmfree_neuro.mapping.mapping import HOST, Location, Mapping, Shard
from mmfree_neuro.run.activity import expected
from mmfree_neuro.systems.load import load_system
from mmfree_neuro.systems.spec import ChipSpec, Quantity, SystemSpec
from mmfree_partition.route import route
from mmfree_sims.second_opinions import discrete
from mmfree_sims.second_opinions.discrete import Outcome, simulate

pytestmark = [
    pytest.mark.slow,
    pytest.mark.skipif(importlib.util.find_spec("simpy") is None, reason="SimPy is not installed"),
]
NS = 1e-9


def at_central(mode: Callable[..., Timing]) -> Callable[..., Timing]:
    """A mode with the central figures of a system."""
    return lambda load, system, *in_flight: mode(load, central(system), *in_flight)


FORMULAS = {
    "pipelined": at_central(timing.pipelined),
    "fall-through": at_central(timing.fall_through),
    "interleaved": at_central(partial(timing.interleaved, in_flight=2)),
    "asynchronous prefill": at_central(timing.asynchronous_prefill),
    "asynchronous generation": at_central(timing.asynchronous_generation),
}
TIMES = [
    field.name
    for field in fields(ChipSpec)
    if field.name.startswith(("time_", "barrier_", "fall_through_step"))
]
BY_HAND = {
    "time_per_instruction_ns": 10,
    "time_per_synop_ns": 6,
    "time_per_word_ns": 1,
    "time_per_message_ns": 100,
    "time_per_arrival_ns": 20,
    "time_per_hop_ns": 5,
    "time_per_crossing_ns": 50,
    "time_per_host_message_ns": 30,
    "fall_through_step_ns": 300,
    "barrier_one_chip_ns": 200,
    "barrier_few_chips_ns": 1000,
    "barrier_many_chips_ns": 9000,
}
ISSUED = 9
"""Instructions of a neuron of the head."""


def timed(system: SystemSpec, **figures: float) -> SystemSpec:
    """A system whose other times are nil, and whose cores each have a router."""
    given = dict.fromkeys(TIMES, 0.0) | {"cores_per_router": 1} | figures
    chip = replace(
        system.chip, **{name: Quantity(ns, ns, ns, "made up") for name, ns in given.items()}
    )
    return replace(system, chip=chip)


def loaded(graph: Graph, mapping: Mapping, system: SystemSpec) -> Load:
    """The load of a token whose payloads are all sent."""
    return load(counted(mapping, summarise(graph), expected(graph, mapping), system))


def nanoseconds(outcome: Outcome) -> float:
    """What a token takes."""
    return outcome.seconds_per_token / NS


def test_the_head_issues_what_the_hand_counts_with(hand_graph: Graph) -> None:
    head = summarise(hand_graph).nodes[1]
    assert (head.name, sum(head.instructions.values())) == ("head", ISSUED)


# Three payloads leave the host one after another: at core 0 after 30, 60 and 90 ns, at core 1 a hop
# of 5 ns later.  An arrival takes 20 ns, so the last is over at 110 on core 0, and at 115 on core
# 1.  A head reads 3 words of 1 ns and does 2 operations of 6 ns beside that, issues 9
# instructions of 10 ns and sends a payload, 100 ns.  That of core 1 takes a hop to core 0 and then
# waits for the other on the link to the host, 30 ns each.
FROM_HOST = 90 + 5 + 20
HEAD = 2 * 6 + ISSUED * 10 + 100


def test_falling_through_by_hand(
    hand_graph: Graph, hand_mapping: Mapping, system: SystemSpec
) -> None:
    found = simulate(hand_graph, hand_mapping, timed(system, **BY_HAND), "fall-through")
    assert found.steps == pytest.approx((FROM_HOST * NS, (HEAD + 2 * 30) * NS))
    assert nanoseconds(found) == pytest.approx(FROM_HOST + HEAD + 2 * 30 + 2 * (200 + 300))
    assert (found.tokens, found.seconds) == (1, found.seconds_per_token)


def test_pipelined_by_hand(hand_graph: Graph, hand_mapping: Mapping, system: SystemSpec) -> None:
    """The host's payloads come while the heads work on the token before."""
    found = simulate(hand_graph, hand_mapping, timed(system, **BY_HAND), "pipelined")
    assert found.steps == pytest.approx(((HEAD + 2 * 30) * NS,))
    assert nanoseconds(found) == pytest.approx(HEAD + 2 * 30 + 200)


def test_one_sequence_falls_through(
    hand_graph: Graph, hand_mapping: Mapping, system: SystemSpec
) -> None:
    slow = timed(system, **BY_HAND)
    one, alone = (
        simulate(hand_graph, hand_mapping, slow, mode, 1)
        for mode in ("interleaved", "fall-through")
    )
    assert (one.steps, one.seconds_per_token) == (alone.steps, alone.seconds_per_token)


@pytest.mark.parametrize("sequences", [2, 5])
def test_sequences_that_fill_the_machine_by_hand(
    sequences: int, hand_graph: Graph, hand_mapping: Mapping, system: SystemSpec
) -> None:
    """A token takes two steps, so two sequences fill it, and more gain nothing."""
    slow = timed(system, **BY_HAND)
    found = simulate(hand_graph, hand_mapping, slow, "interleaved", sequences)
    assert found.steps == pytest.approx([(HEAD + 2 * 30) * NS] * 2)
    assert nanoseconds(found) == pytest.approx(HEAD + 2 * 30 + 200)


@pytest.mark.parametrize("sequences", [2, 3, 7])
def test_the_formula_of_interleaved_sequences_is_near_the_simulation(
    sequences: int, graph: Graph, mapping: Mapping, system: SystemSpec
) -> None:
    load = loaded(graph, mapping, system)
    formula = timing.interleaved(load, central(system), sequences).seconds_per_token.central
    found = simulate(graph, mapping, system, "interleaved", sequences, bundle=4)
    local = not any(isinstance(node, InverseRms | QuantScale) for node in graph.nodes)
    most = 1.4 if local else 1.25
    assert 1 <= found.seconds_per_token / formula * (1 + 1e-9) <= most


def test_a_token_alone_by_hand(
    hand_graph: Graph, hand_mapping: Mapping, system: SystemSpec
) -> None:
    """Without a barrier a payload is read when it has arrived; core 1 begins 5 ns later, and must
    wait all the same."""
    found = simulate(
        hand_graph, hand_mapping, timed(system, **BY_HAND), "asynchronous generation", 3
    )
    last_payload = 90 + 20 + 6 * 2 / 3  # of two thirds of an operation for each synapse
    assert nanoseconds(found) == pytest.approx(last_payload + ISSUED * 10 + 100 + 2 * 30)
    assert found.seconds == pytest.approx(3 * found.seconds_per_token)


def test_tokens_that_follow_each_other_by_hand(
    hand_graph: Graph, hand_mapping: Mapping, system: SystemSpec
) -> None:
    """With four tokens under way the link from the host, the slowest server, always has payloads
    that wait for it."""
    slow_host = timed(system, **(BY_HAND | {"time_per_host_message_ns": 70}))
    found = simulate(hand_graph, hand_mapping, slow_host, "asynchronous prefill", 40)
    assert nanoseconds(found) == pytest.approx(3 * 70)  # a token alone takes 234 + 90 + 100 + 140
    formula = FORMULAS["asynchronous prefill"](
        loaded(hand_graph, hand_mapping, slow_host), slow_host
    )
    assert formula.seconds_per_token.central == pytest.approx(found.seconds_per_token)


def test_what_servers_do_by_hand(
    hand_graph: Graph, hand_mapping: Mapping, system: SystemSpec
) -> None:
    found = simulate(
        hand_graph, hand_mapping, timed(system, **BY_HAND), "asynchronous generation", 2
    )
    both = (0, 0), (0, 1)
    each = {
        "instructions": 90,
        "synaptic operations": 12,
        "memory words read": 3,
        "messages sent": 100,
    }
    assert {server: seconds / NS for server, seconds in found.busy.items()} == pytest.approx(
        {
            (name, core): ns
            for name, ns in (each | {"messages that arrive": 60}).items()
            for core in both
        }
        | {(MESH, (0, 0, 1)): 15, (MESH, (0, 1, 0)): 5}
        | {("links to the host", (HOST, 0)): 90, ("links to the host", (0, HOST)): 60}
    )
    assert found.busiest("links to the host") == pytest.approx(90 * NS)
    assert found.busiest("links between chips") == 0


def chained(graph: Graph, *places: Location) -> Mapping:
    """Heads at places, the first of all the rest."""
    shards = Shard("embedding", 0, 3), *(Shard("head", k, k + 1) for k in range(len(places)))
    locations = Location(HOST, 0), *places
    return Mapping("", "kapoho-point", "hand", shards, locations, route(graph, shards, locations))


def test_a_payload_branches_and_waits_for_links(hand_graph: Graph, system: SystemSpec) -> None:
    """Cores 1 and 2 share the first link of the mesh, which a payload passes once; another chip has
    its own link."""
    hops, far = timed(system, time_per_hop_ns=5), timed(system, time_per_host_message_ns=30)
    together = simulate(
        hand_graph, chained(hand_graph, Location(0, 1), Location(0, 2)), hops, "fall-through"
    )
    assert together.steps[0] == pytest.approx(
        (3 + 1) * 5 * NS
    )  # the last waits for two, and goes on by one
    assert (
        together.busy[MESH, (0, 0, 1)]
        == together.busy[MESH, (0, 1, 2)]
        == pytest.approx(3 * 5 * NS)
    )
    apart = simulate(
        hand_graph, chained(hand_graph, Location(0, 1), Location(1, 2)), far, "fall-through"
    )
    assert apart.steps == pytest.approx((3 * 30 * NS, 30 * NS))


def test_bundles_move_on_when_they_are_whole(hand_graph: Graph, system: SystemSpec) -> None:
    hops, mapping = (
        timed(system, time_per_hop_ns=5),
        chained(hand_graph, Location(0, 1), Location(0, 2)),
    )
    one, two, three = (
        simulate(hand_graph, mapping, hops, "fall-through", bundle=n).steps[0] / NS
        for n in (1, 2, 3)
    )
    assert (one, two, three) == pytest.approx(((3 + 1) * 5, (2 + 2 + 1) * 5, (3 + 3) * 5))


@pytest.mark.parametrize("figure", [*PER_CORE.values(), "time_per_host_message_ns"])
def test_where_one_resource_takes_the_time_formula_and_simulation_are_equal(
    graph: Graph, mapping: Mapping, system: SystemSpec, figure: str
) -> None:
    """No message passes two servers of one of these resources in a step, so the busiest is the
    step."""
    only = timed(system, **{figure: 1.0}, barrier_few_chips_ns=100, fall_through_step_ns=10)
    load = loaded(graph, mapping, only)
    for mode in ("pipelined", "fall-through"):
        formula = FORMULAS[mode](load, only).seconds_per_token.central
        assert simulate(graph, mapping, only, mode, bundle=16).seconds_per_token == pytest.approx(
            formula, rel=1e-9
        )


def work(load: Load, system: SystemSpec, step: int) -> tuple[float, float, float]:
    """Nanoseconds of a step: of its slowest resource, of all resources and the longest way, of
    cores and all links."""
    chip = system.chip
    core = {
        name: load.per_core[name][step].max() * getattr(chip, figure).central
        for name, figure in PER_CORE.items()
    }
    between = {
        name: max(
            (
                load.links[step, k]
                for k, ends in enumerate(load.trees.links)
                if (HOST in ends) == host
            ),
            default=0,
        )
        * getattr(chip, figure).central
        for (name, figure), host in zip(BETWEEN.items(), (False, True), strict=True)
    }
    mesh = load.mesh.messages[step] * chip.time_per_hop_ns.central
    hops, crossings = (int(most[step]) for most in load.farthest)
    way = hops * chip.time_per_hop_ns.central + crossings * chip.time_per_crossing_ns.central
    stages = sum(core.values()) - min(
        core["memory words read"], core["synaptic operations"]
    )  # these are side by side
    here = load.route_step == step
    host = np.array([HOST in ends for ends in load.trees.links], np.bool_)
    links = int((load.sent * load.trees.hops)[here].sum()) * chip.time_per_hop_ns.central
    links += load.links[step][~host].sum() * chip.time_per_crossing_ns.central
    links += load.links[step][host].sum() * chip.time_per_host_message_ns.central
    slowest = max(*core.values(), *between.values(), mesh)
    return slowest, stages + mesh + sum(between.values()) + way, stages + links


def as_one_step(load: Load) -> Load:
    """A load whose steps are all one, as in a full pipeline."""
    together = {name: uses.sum(0, keepdims=True) for name, uses in load.per_core.items()}
    farthest = tuple(most.max(keepdims=True) for most in load.farthest)
    return replace(load, per_core=together, route_step=0 * load.route_step, farthest=farthest)


def with_idle(load: Load) -> Load:
    """A load whose instructions are also those of idle visits, as where a token falls through."""
    idle = load.guards.sum(0) - load.guards  # every neuron but those that fire at a step
    instructions = load.per_core["instructions"] + idle
    return replace(load, per_core=load.per_core | {"instructions": instructions})


def test_a_step_lasts_as_long_as_its_slowest_resource_at_least_and_at_most_as_all_of_them(
    graph: Graph, mapping: Mapping, system: SystemSpec
) -> None:
    """At most all stages of the slowest cores and all links: whoever ends last waited for a busy
    server, that for another, and so on, and no server was busy longer than its work.  Here, the
    busiest link of each kind and the longest way are enough, which is no theorem.
    """
    load = loaded(graph, mapping, system)
    whole = simulate(graph, mapping, system, "pipelined").steps
    falling = simulate(graph, mapping, system, "fall-through").steps
    cases = [(whole[0], work(as_one_step(load), system, 0))]
    load = with_idle(load)
    cases += [(seconds, work(load, system, step)) for step, seconds in enumerate(falling)]
    for seconds, (slowest, resources, everything) in cases:
        assert slowest * NS <= seconds * (1 + 1e-9)
        assert seconds <= min(resources, everything) * NS * (1 + 1e-9)


@pytest.mark.parametrize(("mode", "most"), [("pipelined", 1.4), ("fall-through", 1.08)])
def test_with_a_barrier_the_formula_is_below_the_simulation_but_not_far(
    graph: Graph, mapping: Mapping, system: SystemSpec, mode: str, most: float
) -> None:
    """Where every neuron finds its roots, a step sends and reads more, one after another."""
    local = not any(isinstance(node, InverseRms | QuantScale) for node in graph.nodes)
    if local and mode == "fall-through":
        most = 1.25
    formula = FORMULAS[mode](loaded(graph, mapping, system), system).seconds_per_token.central
    assert (
        1 <= simulate(graph, mapping, system, mode).seconds_per_token / formula * (1 + 1e-9) <= most
    )


def test_a_token_alone_without_a_barrier_is_near_the_formula(
    graph: Graph, mapping: Mapping, system: SystemSpec
) -> None:
    """Which is no bound: stages of a step follow each other, but steps overlap.  What a server does
    is one."""
    load = loaded(graph, mapping, system)
    found = simulate(graph, mapping, system, "asynchronous generation").seconds_per_token
    assert found >= timing.asynchronous_prefill(load, central(system)).seconds_per_token.central
    assert found <= sum(simulate(graph, mapping, system, "fall-through").steps)
    assert (
        0.9
        <= found / timing.asynchronous_generation(load, central(system)).seconds_per_token.central
        <= 1.55
    )


def test_prefill_without_a_barrier_is_as_fast_as_its_slowest_server(
    a16: Graph, make_mapping: Callable[..., Mapping], system: SystemSpec
) -> None:
    mapping = make_mapping(a16, "block-per-chip")
    tokens, under_way = 500, 2 * (summarise(a16).steps + 1)
    found = simulate(a16, mapping, system, "asynchronous prefill", tokens, bundle=16)
    formula = timing.asynchronous_prefill(
        loaded(a16, mapping, system), central(system)
    ).seconds_per_token.central
    assert found.seconds >= tokens * formula  # every server does all its work, one thing at a time
    counted = (tokens - under_way) - (tokens - under_way) // 2
    assert found.seconds_per_token >= formula * (
        1 - under_way / counted
    )  # what was under way before may be done
    assert found.seconds_per_token == pytest.approx(formula, rel=0.1)


def test_servers_do_what_the_formulas_count_of_divided_matrices(
    a16: Graph, make_mapping: Callable[..., Mapping], system: SystemSpec
) -> None:
    divided = by_columns(a16, (("head", (16, 48)), ("layers.1.glu", (32,))))
    test_servers_do_what_the_formulas_count(divided, make_mapping(divided, "random", 2), system)


def test_servers_do_what_the_formulas_count(
    graph: Graph, mapping: Mapping, system: SystemSpec
) -> None:
    each_step = loaded(graph, mapping, system)
    for mode, bundle in (("pipelined", 1), ("fall-through", 7), ("asynchronous generation", 16)):
        load = as_one_step(with_idle(each_step) if mode == "fall-through" else each_step)
        found = simulate(graph, mapping, system, mode, bundle=bundle)
        for name, figure in PER_CORE.items():
            ns = getattr(system.chip, figure).central
            uses = {
                place: count
                for place, count in zip(load.cores, load.per_core[name][0], strict=True)
                if count
            }
            each = {
                Location(*at): seconds
                for (kind, at), seconds in found.busy.items()
                if kind == name and seconds
            }
            assert each == pytest.approx({place: count * ns * NS for place, count in uses.items()})
        assert found.busiest(MESH) == pytest.approx(
            load.mesh.messages[0] * system.chip.time_per_hop_ns.central * NS
        )
        for name, figure in BETWEEN.items():
            ns = getattr(system.chip, figure).central
            links = {at: seconds for (kind, at), seconds in found.busy.items() if kind == name}
            counts = zip(load.trees.links, load.links[0], strict=True)
            wanted = {
                ends: n * ns * NS
                for ends, n in counts
                if (HOST in ends) == (name == "links to the host")
            }
            assert links == pytest.approx(wanted)


def test_bundles_cost_time_but_no_work(graph: Graph, mapping: Mapping, system: SystemSpec) -> None:
    for mode, most in (
        ("pipelined", 1.1),
        ("fall-through", 1.03),
        ("asynchronous generation", 1.25),
    ):
        exact, bundled = (simulate(graph, mapping, system, mode, bundle=n) for n in (1, 16))
        assert 1 <= bundled.seconds_per_token / exact.seconds_per_token * (1 + 1e-9) <= most
        assert bundled.busy == pytest.approx(exact.busy)


def test_without_simpy(
    hand_graph: Graph, hand_mapping: Mapping, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setitem(sys.modules, "simpy", None)  # as if it were not installed
    with pytest.raises(EngineError) as raised:
        simulate(hand_graph, hand_mapping, load_system("kapoho-point"), "pipelined")
    assert (
        str(raised.value)
        == "simpy is not installed, must be for the discrete-event simulation: pip install simpy"
    )


@pytest.mark.parametrize(
    ("mode", "tokens", "bundle", "message"),
    [
        (
            "serial",
            1,
            1,
            "mode 'serial' is not known, must be one of pipelined, fall-through, interleaved, "
            "asynchronous "
            "prefill, "
            "asynchronous generation",
        ),
        ("pipelined", 0, 1, "tokens is 0, must be at least 1"),
        ("pipelined", 1, 0, "bundle is 0, must be at least 1"),
        ("asynchronous prefill", 5, 1, "tokens is 5, must be at least 12 where 4 are under way"),
    ],
)
def test_what_cannot_be_simulated(
    hand_graph: Graph,
    hand_mapping: Mapping,
    system: SystemSpec,
    mode: str,
    tokens: int,
    bundle: int,
    message: str,
) -> None:
    with pytest.raises(InputError) as raised:
        simulate(hand_graph, hand_mapping, system, mode, tokens, bundle=bundle)
    assert str(raised.value) == message


def test_the_modes_are_those_of_the_formulas() -> None:
    assert list(discrete.MODES) == list(FORMULAS)
