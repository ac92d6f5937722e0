"""A valid mapping passes; whatever is broken in it has one clear line."""

from collections.abc import Callable
from dataclasses import replace

import pytest

from mmfree_neuro.errors import MappingError
from mmfree_neuro.graph.nodes import AnyNode, Graph, Input, MaxAbs, Output
from mmfree_neuro.integers.fixedpoint import QType
from mmfree_neuro.mapping.mapping import HOST, Location, Mapping, Route, Shard
from mmfree_neuro.systems.spec import SystemSpec
from mmfree_partition.check import check
from mmfree_partition.route import route

Change = Callable[..., SystemSpec]
HOST_0, CORE_0, CORE_1 = Location(HOST, 0), Location(0, 0), Location(0, 1)


def test_valid_mappings_come_back(graph: Graph, mapping: Mapping, system: SystemSpec) -> None:
    assert check(graph, mapping, system) is mapping


@pytest.mark.parametrize("seed", range(6))
def test_any_placement_is_valid_once_it_is_routed(
    seed: int, graph: Graph, make_mapping: Callable[..., Mapping], system: SystemSpec
) -> None:
    mapping = make_mapping(graph, "random", seed)
    assert check(graph, mapping, system) is mapping


def shards(mapping: Mapping, *last: Shard) -> Mapping:
    """The mapping with other shards of the head."""
    return replace(mapping, shards=(mapping.shards[0], *last))


def routes(mapping: Mapping, position: int, *instead: Route) -> Mapping:
    """The mapping with other routes in the place of one."""
    return replace(
        mapping, routes=(*mapping.routes[:position], *instead, *mapping.routes[position + 1 :])
    )


def moved(mapping: Mapping, *places: Location) -> Mapping:
    """The mapping with its shards elsewhere, and the routes as they were."""
    return replace(mapping, locations=places)


A, B = Shard("head", 0, 1), Shard("head", 1, 2)
X = Route(0, "x", (CORE_0, CORE_1), 0, 3)
"""The first route of the mapping by hand; the others are one logit each to the host."""

WRONG: dict[str, tuple[Callable[[Mapping], Mapping], str]] = {
    "locations": (lambda m: moved(m, HOST_0, CORE_0), "mapping: 3 shards have 2 locations"),
    "nobody": (
        lambda m: shards(m, A, Shard("nobody", 0, 1)),
        "mapping: shard nobody[0:1] is not part of the graph",
    ),
    "too-far": (
        lambda m: shards(m, A, Shard("head", 1, 3)),
        "mapping: shard head[1:3] is not part of the graph",
    ),
    "before": (
        lambda m: shards(m, A, Shard("head", -1, 2)),
        "mapping: shard head[-1:2] is not part of the graph",
    ),
    "empty": (
        lambda m: shards(m, A, Shard("head", 1, 1)),
        "mapping: shard head[1:1] is not part of the graph",
    ),
    "twice": (
        lambda m: shards(m, A, Shard("head", 0, 2)),
        "mapping: neuron 0 of head is held 2 times, must be held once",
    ),
    "never": (
        lambda m: replace(shards(m, A), locations=m.locations[:2]),
        "mapping: neuron 1 of head is held 0 times, must be held once",
    ),
    "on-chip": (
        lambda m: moved(m, CORE_0, CORE_0, CORE_1),
        "mapping: embedding is on chip 0; the host holds the embedding, and nothing else but "
        "the head with its norm",
    ),
    "core-of-host": (
        lambda m: moved(m, HOST_0, CORE_0, Location(HOST, 1)),
        "mapping: head is on chip -1; the host holds the embedding, and nothing else but the "
        "head with its norm",
    ),
    "half-on-host": (
        lambda m: moved(m, HOST_0, HOST_0, CORE_1),
        "mapping: head is on a chip, must be on the host as the rest of the head",
    ),
    "no-core": (
        lambda m: moved(m, HOST_0, CORE_0, Location(7, 120)),
        "mapping: head is on core 120 of chip 7, which kapoho-point does not have",
    ),
    "negative-core": (
        lambda m: moved(m, HOST_0, CORE_0, Location(7, -1)),
        "mapping: head is on core -1 of chip 7, which kapoho-point does not have",
    ),
    "no-chip": (
        lambda m: moved(m, HOST_0, CORE_0, Location(8, 0)),
        "mapping: head is on core 0 of chip 8, which kapoho-point does not have",
    ),
    "below": (
        lambda m: moved(m, HOST_0, CORE_0, Location(-2, 0)),
        "mapping: head is on core 0 of chip -2, which kapoho-point does not have",
    ),
    "no-source": (
        lambda m: routes(m, 0, X._replace(source=3)),
        "mapping: a route begins at shard 3, which does not exist",
    ),
    "negative-source": (
        lambda m: routes(m, 0, X._replace(source=-1)),
        "mapping: a route begins at shard -1, which does not exist",
    ),
    "no-port": (
        lambda m: routes(m, 0, X._replace(port="z")),
        "mapping: a route sends embedding.z[0:3], which its shard does not have",
    ),
    "no-payload": (
        lambda m: routes(m, 1, Route(1, "logits", (HOST_0,), 0, 2)),
        "mapping: a route sends head.logits[0:2], which its shard does not have",
    ),
    "no-payloads": (
        lambda m: routes(m, 1, Route(1, "logits", (HOST_0,), 0, 0)),
        "mapping: a route sends head.logits[0:0], which its shard does not have",
    ),
    "no-destination": (
        lambda m: routes(m, 0, X._replace(destinations=())),
        "mapping: a route of embedding.x has destinations that are not in order, none twice",
    ),
    "unsorted": (
        lambda m: routes(m, 0, X._replace(destinations=(CORE_1, CORE_0))),
        "mapping: a route of embedding.x has destinations that are not in order, none twice",
    ),
    "same-destination": (
        lambda m: routes(m, 0, X._replace(destinations=(CORE_0, CORE_0, CORE_1))),
        "mapping: a route of embedding.x has destinations that are not in order, none twice",
    ),
    "shared": (
        lambda m: routes(
            m, 0, X._replace(destinations=(CORE_0,)), X._replace(destinations=(CORE_1,), start=2)
        ),
        "mapping: two routes of shard 0 share payloads of port x",
    ),
    "missing": (
        lambda m: routes(m, 0, X._replace(start=1)),
        "mapping: payload 0 of embedding.x reaches core 0 of chip 0 0 times, must 1",
    ),
    "missing-core": (
        lambda m: routes(m, 0, X._replace(destinations=(CORE_0,))),
        "mapping: payload 0 of embedding.x reaches core 1 of chip 0 0 times, must 1",
    ),
    "needless": (
        lambda m: routes(m, 0, X, Route(0, "sq", (CORE_1,), 2, 3)),
        "mapping: payload 2 of embedding.sq reaches core 1 of chip 0 1 times, must 0",
    ),
    "needless-core": (
        lambda m: routes(m, 0, X._replace(destinations=(HOST_0, CORE_0, CORE_1))),
        "mapping: payload 0 of embedding.x reaches core 0 of chip -1 1 times, must 0",
    ),
    "no-logit": (
        lambda m: routes(m, 2),
        "mapping: payload 1 of head.logits reaches core 0 of chip -1 0 times, must 1",
    ),
}


@pytest.mark.parametrize("case", WRONG)
def test_broken_mappings(
    case: str, hand_graph: Graph, hand_mapping: Mapping, system: SystemSpec
) -> None:
    assert hand_mapping.routes[0] == X
    assert check(hand_graph, hand_mapping, system) is hand_mapping
    make, message = WRONG[case]
    with pytest.raises(MappingError) as error:
        check(hand_graph, make(hand_mapping), system)
    assert str(error.value) == message


LIMITS = [
    ("memory_bytes_per_core", "needs 484 of memory", 484),
    ("synaptic_memory_bytes_per_core", "needs 48 of synaptic memory", 48),
    ("neuron_groups_per_core", "needs 1 of groups", 1),
    ("neurons_per_core", "needs 1 of neurons", 1),
    ("input_axons_per_core", "needs 3 of input axons", 3),
    ("axon_map_entries_per_core", "needs 1 of map entries", 1),
    ("output_axons_per_core", "needs 1 of output axons", 1),
    ("accumulators_per_core", "needs 2 of accumulators", 2),
    ("program_instructions_per_core", "needs 9 of instructions", 9),
    ("state_bytes_per_neuron", "needs 4 of state per neuron", 4),
    ("input_channels_per_neuron", "needs 1 of input channels", 1),
    ("output_channels_per_neuron", "needs 1 of output channels", 1),
]
"""A row of three weights: an axon, a header and a word of 8 bytes for each of three payloads, and
an accumulator of two slots; a program of nine instructions, and one logit that goes to one
place."""


@pytest.mark.parametrize(("figure", "needs", "enough"), LIMITS)
def test_limits_of_a_core(
    figure: str,
    needs: str,
    enough: int,
    hand_graph: Graph,
    hand_mapping: Mapping,
    system: SystemSpec,
    with_figures: Change,
) -> None:
    assert check(hand_graph, hand_mapping, with_figures(system, **{figure: enough})) is hand_mapping
    with pytest.raises(MappingError) as error:
        check(hand_graph, hand_mapping, with_figures(system, **{figure: enough - 1}))
    assert str(error.value) == f"mapping: core 0 of chip 0 {needs}, loihi2 has {enough - 1}"


ALL = [
    ("payload_bits", 16, "mapping: embedding.sq has payloads of 16 bits, loihi2 has 15"),
    ("accumulator_bits", 32, "mapping: hand needs accumulators of 32 bits, loihi2 has 31"),
]


@pytest.mark.parametrize(("figure", "enough", "message"), ALL)
def test_limits_of_all_cores(
    figure: str,
    enough: int,
    message: str,
    hand_graph: Graph,
    hand_mapping: Mapping,
    system: SystemSpec,
    with_figures: Change,
) -> None:
    assert check(hand_graph, hand_mapping, with_figures(system, **{figure: enough})) is hand_mapping
    with pytest.raises(MappingError) as error:
        check(hand_graph, hand_mapping, with_figures(system, **{figure: enough - 1}))
    assert str(error.value) == message


def whole(graph: Graph, on_host: set[str], *copies: tuple[Shard, Location]) -> Mapping:
    """Every node whole on a core of its own, some of them on the host, and copies elsewhere."""
    nodes = enumerate(graph.nodes[1:])
    held = [
        (Shard(n.name, 0, n.size), HOST_0 if n.name in on_host else Location(0, core))
        for core, n in nodes
    ]
    both = [(Shard(graph.embedding.name, 0, graph.embedding.size), HOST_0), *held, *copies]
    parts, places = zip(*both, strict=True)
    return Mapping("", "kapoho-point", "whole", parts, places, route(graph, parts, places))


def test_the_head_is_on_the_host_as_a_whole(graph: Graph, system: SystemSpec) -> None:
    ends = {node.name for node in graph.nodes if not node.name.startswith("layers.")}
    mapping = whole(graph, ends)
    assert check(graph, mapping, system) is mapping
    inner = ends - {graph.embedding.name}
    for stray in inner if len(inner) > 1 else ():
        with pytest.raises(MappingError) as error:
            check(graph, whole(graph, ends - {stray}), system)
        assert (
            str(error.value)
            == f"mapping: {stray} is on a chip, must be on the host as the rest of the head"
        )
        with pytest.raises(MappingError) as error:
            check(graph, whole(graph, {stray}), system)
        assert str(error.value) == (
            f"mapping: {min(inner - {stray})} is on a chip, must be on the host as the rest of "
            "the head"
        )


def test_nothing_of_a_block_is_on_the_host(graph: Graph, system: SystemSpec) -> None:
    with pytest.raises(MappingError) as error:
        check(graph, whole(graph, {"layers.1.glu"}), system)
    assert str(error.value) == (
        "mapping: layers.1.glu is on chip -1; the host holds the embedding, and nothing else "
        "but the head with its norm"
    )


def test_a_copy_of_the_head_s_norm_is_not_on_a_chip_beside_the_host(
    graph: Graph, system: SystemSpec
) -> None:
    ends = {node.name for node in graph.nodes if not node.name.startswith("layers.")}
    stray = next(
        (node for node in graph.nodes if node.name in ends and node.name.startswith("head.")), None
    )
    if stray is None:
        pytest.skip("the head finds its root by itself")
    with pytest.raises(MappingError) as error:
        check(graph, whole(graph, ends, (Shard(stray.name, 0, stray.size), CORE_0)), system)
    assert (
        str(error.value)
        == f"mapping: {stray.name} is on a chip, must be on the host as the rest of the head"
    )


WEIGHED = "Embedding", "MLGRU", "GLU", "Residual", "Head"
"""Nodes with weights or a state."""


def test_only_what_has_neither_weights_nor_state_is_copied(
    graph: Graph, system: SystemSpec
) -> None:
    for node in graph.nodes[1:]:
        copy = Shard(node.name, node.size // 2, node.size)
        mapping = whole(graph, set(), (copy, Location(1, 3)))
        if type(node).__name__ not in WEIGHED:
            assert check(graph, mapping, system) is mapping
            continue
        with pytest.raises(MappingError) as error:
            check(graph, mapping, system)
        assert (
            str(error.value)
            == f"mapping: neuron {copy.start} of {node.name} is held 2 times, must be held once"
        )


def copyable(graph: Graph) -> AnyNode:
    """The node without weights and state that has most neurons: a norm or gains, where there are
    any."""
    return max(
        (node for node in graph.nodes[1:] if type(node).__name__ not in WEIGHED),
        key=lambda node: node.size,
    )


def test_what_may_be_copied_is_held_at_least_once(graph: Graph, system: SystemSpec) -> None:
    norm = copyable(graph)
    mapping = whole(graph, set())
    if norm.size == 1:
        pytest.skip("relays alone may be copied")
    parts = tuple(s._replace(start=1) if s.node == norm.name else s for s in mapping.shards)
    with pytest.raises(MappingError) as error:
        check(graph, replace(mapping, shards=parts), system)
    assert (
        str(error.value)
        == f"mapping: neuron 0 of {norm.name} is held 0 times, must be held once at least"
    )


def test_two_copies_do_not_both_send_to_a_core(graph: Graph, system: SystemSpec) -> None:
    norm = copyable(graph)
    mapping = whole(graph, set(), (Shard(norm.name, 0, norm.size), Location(1, 3)))
    position, sent = next(
        (k, r) for k, r in enumerate(mapping.routes) if mapping.shards[r.source].node == norm.name
    )
    again = sent._replace(source=len(mapping.shards) - 1)
    place = sent.destinations[0]
    with pytest.raises(MappingError) as error:
        check(graph, routes(mapping, position, sent, again), system)
    assert str(error.value) == (
        f"mapping: payload 0 of {norm.name}.{sent.port} reaches core {place.core} of chip "
        f"{place.chip} 2 times, must 1"
    )


def test_what_waits_for_itself(hand_graph: Graph, system: SystemSpec) -> None:
    """Two nodes that read each other, which no legal graph has."""
    a, b = (
        MaxAbs(name, 2, (Input("v", other, "max", "group"),), (Output("max", 2, QType(8, 0)),), 1)
        for name, other in (("layers.0.a", "layers.0.b"), ("layers.0.b", "layers.0.a"))
    )
    graph = replace(hand_graph, nodes=(hand_graph.nodes[0], a, b, hand_graph.head))
    with pytest.raises(MappingError) as error:
        check(graph, whole(graph, set()), system)
    assert (
        str(error.value)
        == "mapping: layers.0.a waits for messages that wait for it, must have an order"
    )
