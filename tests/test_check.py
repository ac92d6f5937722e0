"""A valid mapping passes; whatever is broken in it has one clear line."""

from collections.abc import Callable
from dataclasses import replace

import pytest

from mmfree_neuro.errors import MappingError
from mmfree_neuro.footprint import use_of_cores
from mmfree_neuro.hardware import SystemSpec
from mmfree_neuro.ir import Graph
from mmfree_neuro.mapping import HOST, Location, Mapping, Route, Shard
from mmfree_partition.check import check

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
    return replace(mapping, routes=(*mapping.routes[:position], *instead, *mapping.routes[position + 1 :]))


A, B = Shard("head", 0, 1), Shard("head", 1, 2)

WRONG: dict[str, tuple[Callable[[Mapping], Mapping], str]] = {
    "locations": (lambda m: replace(m, locations=m.locations[:2]), "mapping: 3 shards have 2 locations"),
    "nobody": (lambda m: shards(m, A, Shard("nobody", 0, 1)), "mapping: shard nobody[0:1] is not part of the graph"),
    "too-far": (lambda m: shards(m, A, Shard("head", 1, 3)), "mapping: shard head[1:3] is not part of the graph"),
    "before": (lambda m: shards(m, A, Shard("head", -1, 2)), "mapping: shard head[-1:2] is not part of the graph"),
    "empty": (lambda m: shards(m, A, Shard("head", 1, 1)), "mapping: shard head[1:1] is not part of the graph"),
    "twice": (
        lambda m: shards(m, A, Shard("head", 0, 2)),
        "mapping: neuron 0 of head is held 2 times, must be held once",
    ),
    "never": (
        lambda m: replace(shards(m, A), locations=m.locations[:2]),
        "mapping: neuron 1 of head is held 0 times, must be held once",
    ),
    "on-chip": (
        lambda m: replace(m, locations=(CORE_0, CORE_0, CORE_1)),
        "mapping: embedding is on chip 0; the host holds the embedding and nothing else",
    ),
    "on-host": (
        lambda m: replace(m, locations=(HOST_0, HOST_0, CORE_1)),
        "mapping: head is on chip -1; the host holds the embedding and nothing else",
    ),
    "no-core": (
        lambda m: replace(m, locations=(HOST_0, CORE_0, Location(7, 120))),
        "mapping: head is on core 120 of chip 7, which kapoho-point does not have",
    ),
    "no-chip": (
        lambda m: replace(m, locations=(HOST_0, CORE_0, Location(8, 0))),
        "mapping: head is on core 0 of chip 8, which kapoho-point does not have",
    ),
    "below": (
        lambda m: replace(m, locations=(HOST_0, CORE_0, Location(-2, 0))),
        "mapping: head is on core 0 of chip -2, which kapoho-point does not have",
    ),
    "no-source": (
        lambda m: routes(m, 0, replace(m.routes[0], source=3)),
        "mapping: a route begins at shard 3, which does not exist",
    ),
    "negative-source": (
        lambda m: routes(m, 0, replace(m.routes[0], source=-1)),
        "mapping: a route begins at shard -1, which does not exist",
    ),
    "no-port": (
        lambda m: routes(m, 0, replace(m.routes[0], port="z")),
        "mapping: a route sends embedding.z[0:3], which its shard does not have",
    ),
    "no-payload": (
        lambda m: routes(m, 2, Route(1, "logits", HOST_0, 0, 2)),
        "mapping: a route sends head.logits[0:2], which its shard does not have",
    ),
    "no-payloads": (
        lambda m: routes(m, 2, Route(1, "logits", HOST_0, 0, 0)),
        "mapping: a route sends head.logits[0:0], which its shard does not have",
    ),
    "missing": (
        lambda m: routes(m, 0, Route(0, "x", CORE_0, 1, 3)),
        "mapping: payload 0 of embedding.x reaches core 0 of chip 0 0 times, must 1",
    ),
    "doubled": (
        lambda m: routes(m, 0, m.routes[0], Route(0, "x", CORE_0, 2, 3)),
        "mapping: payload 2 of embedding.x reaches core 0 of chip 0 2 times, must 1",
    ),
    "needless": (
        lambda m: routes(m, 0, m.routes[0], Route(0, "sq", CORE_1, 2, 3)),
        "mapping: payload 2 of embedding.sq reaches core 1 of chip 0 1 times, must 0",
    ),
    "no-logit": (lambda m: routes(m, 3), "mapping: payload 1 of head.logits reaches core 0 of chip -1 0 times, must 1"),
}


@pytest.mark.parametrize("case", WRONG)
def test_broken_mappings(case: str, hand_graph: Graph, hand_mapping: Mapping, system: SystemSpec) -> None:
    assert check(hand_graph, hand_mapping, system) is hand_mapping
    make, message = WRONG[case]
    with pytest.raises(MappingError) as error:
        check(hand_graph, make(hand_mapping), system)
    assert str(error.value) == message


LIMITS = [
    ("memory_bytes_per_core", "needs 5 of memory", 5),
    ("synaptic_memory_bytes_per_core", "needs 1 of synaptic", 1),
    ("neurons_per_core", "needs 1 of neurons", 1),
    ("input_axons_per_core", "needs 3 of axons", 3),
]
"""A row of three 2-bit weights: a byte of synapses, a word of accumulator, an axon a payload."""


@pytest.mark.parametrize(("figure", "needs", "enough"), LIMITS)
def test_limits_of_a_core(
    figure: str, needs: str, enough: int, hand_graph: Graph, hand_mapping: Mapping, system: SystemSpec,
    with_figures: Callable[..., SystemSpec],
) -> None:  # fmt: skip
    assert check(hand_graph, hand_mapping, with_figures(system, **{figure: enough})) is hand_mapping
    with pytest.raises(MappingError) as error:
        check(hand_graph, hand_mapping, with_figures(system, **{figure: enough - 1}))
    assert str(error.value) == f"mapping: core 0 of chip 0 {needs}, loihi2 has {enough - 1}"


def test_the_limit_of_a_neuron(
    hand_graph: Graph, hand_mapping: Mapping, system: SystemSpec, with_figures: Callable[..., SystemSpec]
) -> None:
    with pytest.raises(MappingError) as error:
        check(hand_graph, hand_mapping, with_figures(system, state_bytes_per_neuron=3))
    assert str(error.value) == "mapping: head has 4 bytes a neuron, loihi2 has 3"


def test_what_the_checker_counts_is_what_the_placers_count(
    graph: Graph, mapping: Mapping, system: SystemSpec, with_figures: Callable[..., SystemSpec]
) -> None:
    use = use_of_cores(graph, mapping, 2).values()
    most = {
        "memory_bytes_per_core": max(u.memory for u in use),
        "synaptic_memory_bytes_per_core": max(u.synaptic_memory for u in use),
        "neurons_per_core": max(u.neurons for u in use),
        "state_bytes_per_neuron": max(u.state_per_neuron for u in use),
        "input_axons_per_core": max(u.input_axons for u in use),
    }
    assert check(graph, mapping, with_figures(system, **most)) is mapping
    for figure, value in most.items():
        with pytest.raises(MappingError):
            check(graph, mapping, with_figures(system, **(most | {figure: value - 1})))
