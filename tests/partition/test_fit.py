"""Placed again until cores have room for their output entries, or refused in one line."""

from collections.abc import Callable
from dataclasses import replace

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from mmfree_neuro.errors import CapacityError, GraphError
from mmfree_neuro.graph.nodes import Graph
from mmfree_neuro.graph.steps import steps
from mmfree_neuro.graph.verify import verify
from mmfree_neuro.mapping.footprint import Sizes, limits, over, use_of_cores
from mmfree_neuro.mapping.mapping import Shard
from mmfree_neuro.mapping.request import Request
from mmfree_neuro.systems.spec import SystemSpec
from mmfree_partition.chain import filling
from mmfree_partition.chain.chain import Chain
from mmfree_partition.fit import fit
from mmfree_partition.placers import PLACERS
from mmfree_partition.route import route

Change = Callable[..., SystemSpec]
EMBEDDING = frozenset({"embedding"})


def test_what_has_no_room_for_its_entries_is_placed_again(
    a16: Graph, system: SystemSpec, with_figures: Change
) -> None:
    """Greedy fills cores to the brim, so the first placement has none left for output entries."""
    narrow = with_figures(system, memory_bytes_per_core=20_000)
    request = Request("greedy", cores=40, divide=False)
    first = PLACERS["greedy"](a16, narrow, request)
    routes = route(a16, first.shards, first.locations)
    _, mapping = fit(a16, "", narrow, request)
    assert mapping.shards != first.shards
    once = replace(mapping, shards=first.shards, locations=first.locations, routes=routes)
    room = limits(narrow.chip)
    assert any(over(use, room) for use in use_of_cores(a16, once, narrow.chip).values())
    assert not any(over(use, room) for use in use_of_cores(a16, mapping, narrow.chip).values())


def test_a_limit_that_only_routes_pass_is_said(
    hand_graph: Graph, system: SystemSpec, with_figures: Change
) -> None:
    narrow = with_figures(system, output_axons_per_core=1)
    with pytest.raises(CapacityError) as error:
        fit(hand_graph, "", narrow, Request("greedy", divide=False))
    assert str(error.value) == "head: core 0 of chip 0 needs 2 of output axons, loihi2 has 1"


@pytest.mark.parametrize(
    ("figure", "value", "message"),
    [
        ("accumulator_bits", 31, "hand: needs accumulators of 32 bits, loihi2 has 31"),
        ("payload_bits", 15, "embedding.sq: has payloads of 16 bits, loihi2 has 15"),
    ],
)
def test_widths_of_a_chip(
    figure: str,
    value: int,
    message: str,
    hand_graph: Graph,
    system: SystemSpec,
    with_figures: Change,
) -> None:
    fit(hand_graph, "", with_figures(system, **{figure: value + 1}), Request("greedy"))
    with pytest.raises(CapacityError) as error:
        fit(hand_graph, "", with_figures(system, **{figure: value}), Request("greedy"))
    assert str(error.value) == message


@settings(
    max_examples=settings.default.max_examples // 3,
    suppress_health_check=[HealthCheck.function_scoped_fixture],
)
@given(data=st.data())
def test_as_many_neurons_as_fit(
    data: st.DataObject, graph: Graph, system: SystemSpec, with_figures: Change
) -> None:
    """The tables say what trying one number after another finds."""
    narrow = with_figures(
        system,
        memory_bytes_per_core=data.draw(st.integers(8000, 40_000)),
        accumulators_per_core=data.draw(st.integers(100, 2000)),
        neuron_groups_per_core=data.draw(st.integers(1, 3)),
    )
    sizes, room = Sizes(graph, narrow.chip), limits(narrow.chip)
    nodes = graph.nodes[1:]
    there = data.draw(st.sampled_from(nodes))
    used = sizes.of(Shard(there.name, 0, data.draw(st.integers(1, there.size))))
    node = data.draw(st.sampled_from(nodes))
    found = sizes.most(node.name, used)
    fitting = [
        count
        for count in range(1, node.size)
        if over((used + sizes.of(Shard(node.name, 0, count))).all, room) is None
    ]
    if node.size > 1 and found < node.size:
        assert found == max(fitting, default=0)


def test_nodes_are_spread_over_as_many_cores_as_groups_allow(
    graph: Graph, roomy: SystemSpec, with_figures: Change
) -> None:
    for groups in (2, 4, 8):
        chain = Chain(graph, with_figures(roomy, neuron_groups_per_core=groups).chip, EMBEDDING)
        pieces = chain.whole()[:9]
        held = filling.spread(chain, pieces, 30)
        assert held is not None
        counts = [len(core) for core in held]
        assert max(counts) <= groups
        sizes: dict[str, list[int]] = {}
        for core in held:
            for shard in core:
                sizes.setdefault(shard.node, []).append(shard.size)
        for k, first, last in pieces:
            parts = sizes[chain.links[k].node.name]
            assert sum(parts) == last - first
            assert max(parts) - min(parts) <= 1
        large = [len(parts) for parts in sizes.values() if max(parts) > 1]
        room = 30 * groups - sum(len(p) for p in sizes.values() if max(p) == 1)
        fits = [int(share * 30) for share in filling.WIDTHS if int(share * 30) * len(large) <= room]
        assert min(large) == fits[0]
        # What takes longest has what is left.
        assert room - sum(large) < 0.1 * 30 or min(large) == 30


def test_too_few_groups_to_spread_anything(
    graph: Graph, roomy: SystemSpec, with_figures: Change
) -> None:
    chain = Chain(graph, with_figures(roomy, neuron_groups_per_core=1).chip, EMBEDDING)
    assert filling.spread(chain, chain.whole(), 3) is None


def steps_of(graph: Graph) -> int:
    """How many steps of the machine a token takes, that of its entry among them."""
    return 1 + max(steps(graph.nodes).values())


@pytest.mark.parametrize("in_flight", [1, 2, 5])
def test_a_mapping_has_room_for_the_sequences_that_were_asked_for(
    in_flight: int, random_graph: Callable[[str, str], Graph], system: SystemSpec
) -> None:
    graph = random_graph("lower-bounds", "a14-late")
    divided, mapping = fit(graph, "", system, Request("chain", 2, in_flight=in_flight))
    assert (divided.slots, mapping.in_flight) == (in_flight, in_flight)
    assert verify(divided) is divided


@pytest.mark.parametrize("asked", [Request("chain", 2), Request("chain", 7, spread=True)])
def test_as_many_sequences_as_fill_the_machine(
    asked: Request, random_graph: Callable[[str, str], Graph], system: SystemSpec
) -> None:
    """Sums that are divided make a token take more steps, and then there is room for more."""
    graph = random_graph("lower-bounds", "a14-late")
    divided, mapping = fit(graph, "", system, replace(asked, in_flight="fill"))
    assert mapping.in_flight == divided.slots >= steps_of(divided) >= steps_of(graph)
    if not mapping.columns:
        assert mapping.in_flight == steps_of(graph)


@pytest.mark.slow
@pytest.mark.parametrize(
    ("chips", "spread", "placer"),
    [  # each with each, two by two
        (1, False, "chain"),
        (1, True, "balanced"),
        (3, False, "balanced"),
        (3, True, "chain"),
        (7, False, "chain"),
        (7, True, "balanced"),
        (8, False, "balanced"),
        (8, True, "chain"),
    ],
)
def test_the_largest_logits_are_found_where_the_logits_are(
    chips: int,
    spread: bool,
    placer: str,
    random_graph: Callable[[str, str], Graph],
    system: SystemSpec,
    with_figures: Change,
) -> None:
    """So less than a group of logits at each seam between chips crosses, and not all of them."""
    graph = random_graph("lower-bounds", "a14-late")
    narrow = with_figures(system, neurons_per_core=90)
    request = Request(placer, chips, spread=spread, greedy_on_chips=True, in_flight="fill")
    divided, mapping = fit(graph, "", narrow, request)
    assert (mapping.greedy_on_chips, divided.greedy) == (True, True)
    assert mapping.in_flight >= steps_of(divided) >= steps_of(graph) + 2
    assert len(mapping.chips) == chips
    chips_of: dict[str, dict[int, int]] = {}
    for shard, place in zip(mapping.shards, mapping.locations, strict=True):
        for neuron in range(shard.start, shard.stop):
            chips_of.setdefault(shard.node, {})[neuron] = place.chip
    first = divided.node("largest.0")
    assert set(chips_of["largest.0"].values()) <= set(chips_of["head"].values())
    away = sum(
        chips_of["head"][word] != chips_of["largest.0"][neuron]
        for neuron in range(first.size)
        for word in range(neuron * first.group, min((neuron + 1) * first.group, graph.vocabulary))
    )
    assert away <= first.group * (len(set(chips_of["head"].values())) - 1)


def test_sequences_that_a_core_has_no_room_for(
    random_graph: Callable[[str, str], Graph], system: SystemSpec
) -> None:
    graph = random_graph("lower-bounds", "a14-late")
    with pytest.raises(CapacityError) as error:
        fit(graph, "", system, Request("chain", in_flight=4096))
    assert str(error.value) == (
        "layers.0.mlgru: one neuron needs 16408 of state per neuron, a core of loihi2 has 4096"
    )


@pytest.mark.parametrize("in_flight", [0, -1, 4097, 5000])
def test_sequences_that_no_graph_can_have(
    in_flight: int, random_graph: Callable[[str, str], Graph], system: SystemSpec
) -> None:
    graph = random_graph("lower-bounds", "a14-late")
    with pytest.raises(GraphError) as error:
        fit(graph, "", system, Request("chain", in_flight=in_flight))
    assert str(error.value) == (
        f"tiny: {in_flight} sequences in flight were asked for, must be 1 … 4096"
    )
