"""Bounds by hand, and no mapping that goes below one."""

from collections.abc import Callable
from dataclasses import replace
from itertools import pairwise

import numpy as np
import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from mmfree_neuro.graph.nodes import Graph, block_of
from mmfree_neuro.mapping.mapping import HOST, Location, Mapping, Shard
from mmfree_neuro.systems.spec import SystemSpec
from mmfree_partition.bound import fewest_messages
from mmfree_partition.bound.gaps import Gap, gaps, messages_between_chips
from mmfree_partition.chain.crossing import copyable
from mmfree_partition.check import check
from mmfree_partition.route import route


@pytest.fixture(scope="module")
def system(roomy: SystemSpec) -> SystemSpec:
    """Eight chips of cores that hold whatever lies on them."""
    return roomy


Change = Callable[..., SystemSpec]
HOST_0 = Location(HOST, 0)


def elsewhere(graph: Graph, mapping: Mapping, *places: Location) -> Mapping:
    """The mapping with its shards elsewhere."""
    return replace(mapping, locations=places, routes=route(graph, mapping.shards, places))


def test_a_gap() -> None:
    assert Gap(3, 2).ratio == 1.5
    assert Gap(3, 0).ratio is None


def test_bounds_by_hand(hand_graph: Graph, hand_mapping: Mapping, system: SystemSpec) -> None:
    """Two rows of eight instructions of 0.431 ns; their three columns come from the host."""
    found = gaps(hand_graph, hand_mapping, system, 120)
    assert found.cores == Gap(2, 1)
    assert found.chips == Gap(1, 1)
    assert found.slowest_core_ns.found == pytest.approx(9 * 0.417)
    assert found.slowest_core_ns.least == pytest.approx(2 * 9 * 0.417 / 120)
    assert found.messages_between_chips == Gap(0, 0)
    together = elsewhere(hand_graph, hand_mapping, HOST_0, Location(5, 1), Location(5, 1))
    found = gaps(hand_graph, together, system, 1)
    assert found.cores == Gap(1, 1)
    assert found.slowest_core_ns == Gap(pytest.approx(18 * 0.417), pytest.approx(18 * 0.417))
    assert found.messages_between_chips == Gap(0, 0)


def test_bounds_of_two_chips_by_hand(
    hand_graph: Graph, hand_mapping: Mapping, system: SystemSpec
) -> None:
    """With one core a chip, no single chip would be as fast; with two, it would."""
    apart = elsewhere(hand_graph, hand_mapping, HOST_0, Location(0, 0), Location(1, 0))
    found = gaps(hand_graph, apart, system, 1)
    assert found.chips == Gap(2, 1)
    assert found.slowest_core_ns == Gap(pytest.approx(9 * 0.417), pytest.approx(9 * 0.417))
    assert found.messages_between_chips == Gap(0, 0)


@pytest.mark.parametrize(
    ("figures", "cores"),
    [
        ({"neurons_per_core": 1}, 2),
        # Three lists of a header and a word, as if both rows lay on one core; 64 bytes of a row
        # of GROUP, 8 of a port, 12 of axons and 16 of accumulators.
        ({"synaptic_memory_bytes_per_core": 48}, 1),
        ({"synaptic_memory_bytes_per_core": 47}, 2),
        ({"memory_bytes_per_core": 148}, 1),
        ({"memory_bytes_per_core": 147}, 2),
        ({"input_axons_per_core": 2}, 2),
        ({"axon_map_entries_per_core": 1}, 2),
        ({"accumulators_per_core": 3}, 2),
    ],
)
def test_the_fewest_cores_by_hand(
    figures: dict[str, int],
    cores: int,
    hand_graph: Graph,
    hand_mapping: Mapping,
    system: SystemSpec,
    with_figures: Change,
) -> None:
    found = gaps(hand_graph, hand_mapping, with_figures(system, **figures), 1)
    assert (found.cores.least, found.chips.least) == (cores, cores)


def test_messages_between_chips_by_hand(a16: Graph) -> None:
    """Once for every chip but the sender's, however many cores of it; none from or to the host."""
    shards = tuple(Shard(node.name, 0, node.size) for node in a16.nodes)
    on_one = (HOST_0, *[Location(0, 0)] * (len(shards) - 1))
    assert (
        messages_between_chips(Mapping("", "", "", shards, on_one, route(a16, shards, on_one))) == 0
    )
    head = (*on_one[:-1], Location(1, 0))
    assert messages_between_chips(Mapping("", "", "", shards, head, route(a16, shards, head))) == 64


def test_a_chip_without_weights_need_not_receive_a_whole_stream(
    a16: Graph, system: SystemSpec
) -> None:
    """All lies on one core of chip 0, but for a neuron of a norm on chip 1: it receives one value
    and the root."""
    shards, places = [Shard("embedding", 0, 64)], [HOST_0]
    for node in a16.nodes[1:]:
        first = 1 if node.name == "layers.0.attn.norm" else 0
        shards += [Shard(node.name, 0, first), Shard(node.name, first, node.size)][not first :]
        places += [Location(1, 0), Location(0, 0)][not first :]
    mapping = Mapping(
        "", "", "", tuple(shards), tuple(places), route(a16, tuple(shards), tuple(places))
    )
    found = gaps(a16, mapping, system, 1).messages_between_chips
    assert found == Gap(
        1 + 3, 0
    )  # the root; what a norm made of the value that comes from the host


@pytest.fixture
def coarse(monkeypatch: pytest.MonkeyPatch) -> None:
    """Coarse steps of the bound of messages, which holds at any."""
    monkeypatch.setattr(fewest_messages, "MOST_STEPS", 40)


def test_the_best_content_by_hand() -> None:
    """At the prices of the docstring, and where E is so dear that a chip holds all of it."""
    d = fewest_messages.Item(40, 4, 4, False)
    e = fewest_messages.Item(80, 10, 6, True)
    pricing = fewest_messages._Pricing([d, e], [(0, 1), (1, 0)], 100)
    gain, content, cost = pricing.best(np.array([6.0, 12.0]))
    assert (gain, content.tolist(), cost) == (11, [1, 0.75], 4)
    gain, content, cost = pricing.best(np.array([2.0, 20.0]))
    assert (gain, content.tolist(), cost) == (14, [0.5, 1], 7)


@pytest.mark.slow
@settings(suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(data=st.data())
def test_no_mapping_beats_a_bound(
    data: st.DataObject, graph: Graph, system: SystemSpec, with_figures: Change, coarse: None
) -> None:
    """Any shards on any cores, with copies and the head on the host or without, as long as they are
    valid."""
    chips, cores = data.draw(st.integers(1, 5)), data.draw(st.integers(1, 4))
    head_on_host = data.draw(st.booleans())
    places = st.builds(Location, st.integers(0, chips - 1), st.integers(0, cores - 1))
    shards, locations = [Shard("embedding", 0, 64)], [HOST_0]
    gathered = data.draw(st.none() | places)
    for node in graph.nodes[1:]:
        cuts = (
            data.draw(st.sets(st.integers(1, node.size - 1), max_size=2))
            if node.size > 1
            else set()
        )
        edges = [0, *sorted(cuts), node.size]
        for start, stop in pairwise(edges):
            shards.append(Shard(node.name, start, stop))
            home = head_on_host and block_of(node.name) is None
            locations.append(
                HOST_0 if home else gathered if gathered and start == 0 else data.draw(places)
            )
        if copyable(node) and not home and data.draw(st.booleans()):
            shards.append(Shard(node.name, 0, node.size))
            locations.append(data.draw(places))
    routes = route(graph, tuple(shards), tuple(locations))
    roomy = with_figures(
        system, memory_bytes_per_core=1 << 24, synaptic_memory_bytes_per_core=1 << 24
    )
    mapping = check(graph, Mapping("", "", "", tuple(shards), tuple(locations), routes), roomy)
    found = gaps(graph, mapping, roomy, cores)
    for gap in (found.cores, found.chips, found.slowest_core_ns, found.messages_between_chips):
        assert gap.found >= gap.least * (1 - 1e-9)
