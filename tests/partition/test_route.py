"""Every payload reaches every core that needs it, once, and from the nearest copy."""

from collections import Counter
from collections.abc import Callable
from dataclasses import replace

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from mmfree_neuro.graph.nodes import Graph, Input, MaxAbs, Output, span
from mmfree_neuro.integers.fixedpoint import QType
from mmfree_neuro.mapping.mapping import HOST, Location, Mapping, Route, Shard
from mmfree_partition.chain.crossing import copyable
from mmfree_partition.route import _segments, route

HOST_0 = Location(HOST, 0)


def test_routes_by_hand(hand_graph: Graph) -> None:
    shards = Shard("embedding", 0, 3), Shard("head", 0, 1), Shard("head", 1, 2)
    core, other = Location(2, 5), Location(0, 0)
    # Both rows on one core share one stream of payloads.
    assert route(hand_graph, shards, (HOST_0, core, core)) == (
        Route(0, "x", (core,), 0, 3),
        Route(1, "logits", (HOST_0,), 0, 1),
        Route(2, "logits", (HOST_0,), 1, 2),
    )
    assert route(hand_graph, shards, (HOST_0, core, other)) == (
        Route(0, "x", (other, core), 0, 3),
        Route(1, "logits", (HOST_0,), 0, 1),
        Route(2, "logits", (HOST_0,), 1, 2),
    )


def test_payloads_that_go_to_different_cores_have_routes_of_their_own(hand_graph: Graph) -> None:
    """The words of the embedding, in two shards, are read in groups of two by two neurons on two
    cores."""
    top = MaxAbs(
        "top", 2, (Input("v", "embedding", "x", "group"),), (Output("max", 2, QType(8, 0)),), 2
    )
    graph = replace(hand_graph, nodes=(hand_graph.embedding, top, hand_graph.head))
    parts = (
        Shard("embedding", 0, 1),
        Shard("embedding", 1, 3),
        Shard("top", 0, 1),
        Shard("top", 1, 2),
        Shard("head", 0, 2),
    )
    a, b, c = Location(0, 3), Location(1, 0), Location(1, 1)
    assert route(graph, parts, (HOST_0, HOST_0, a, b, c)) == (
        Route(0, "x", (a, c), 0, 1),
        Route(1, "x", (a, c), 1, 2),
        Route(1, "x", (b, c), 2, 3),
        Route(4, "logits", (HOST_0,), 0, 2),
    )


@given(
    st.lists(
        st.lists(st.tuples(st.integers(0, 40), st.integers(1, 9)), min_size=1, max_size=4),
        max_size=5,
    )
)
def test_segments_have_the_cores_that_read_each_of_their_payloads(
    drawn: list[list[tuple[int, int]]],
) -> None:
    needs = {
        Location(k % 2, k): [(a, a + length) for a, length in spans]
        for k, spans in enumerate(drawn)
    }
    found: dict[int, tuple[Location, ...]] = {}
    for start, stop, places in _segments(needs):
        assert places
        for payload in range(start, stop):
            assert payload not in found
            found[payload] = places
    for payload in range(50):
        readers = [
            place for place, spans in needs.items() if any(a <= payload < b for a, b in spans)
        ]
        assert found.get(payload, ()) == tuple(sorted(readers))


def assert_what_is_needed_arrives_once(graph: Graph, mapping: Mapping) -> None:
    arrived: Counter[tuple[str, str, int, Location]] = Counter()
    for one in mapping.routes:
        assert (
            mapping.shards[one.source].start
            <= one.start
            < one.stop
            <= mapping.shards[one.source].stop
        )
        assert tuple(sorted(set(one.destinations))) == one.destinations
        for payload in range(one.start, one.stop):
            arrived.update(
                (mapping.shards[one.source].node, one.port, payload, place)
                for place in one.destinations
            )
    needed = {(graph.head.name, "logits", logit, HOST_0) for logit in range(graph.head.size)}
    for shard, place in zip(mapping.shards, mapping.locations, strict=True):
        node = graph.node(shard.node)
        for entry in node.inputs:
            size = graph.node(entry.source).output(entry.source_port).size
            first, last = span(node, entry, shard.start, shard.stop, size)
            needed |= {
                (entry.source, entry.source_port, payload, place) for payload in range(first, last)
            }
    assert set(arrived) == needed
    assert set(arrived.values()) == {1}


@pytest.mark.parametrize("seed", range(3))
def test_what_is_needed_arrives_once(
    seed: int, graph: Graph, make_mapping: Callable[..., Mapping]
) -> None:
    assert_what_is_needed_arrives_once(graph, make_mapping(graph, "random", seed))


# Copies.


def test_a_core_reads_the_copy_of_its_own_chip_or_the_first_of_all(hand_graph: Graph) -> None:
    """Three values that are their own largest, held on chips 0 and 1, and in part on chip 2; the
    head is everywhere."""
    top = MaxAbs(
        "top", 3, (Input("v", "embedding", "x", "aligned"),), (Output("max", 3, QType(8, 0)),), 1
    )
    (entry,) = hand_graph.head.inputs
    head = replace(hand_graph.head, inputs=(replace(entry, source="top", source_port="max"),))
    graph = replace(hand_graph, nodes=(hand_graph.embedding, top, head))
    parts = (
        Shard("embedding", 0, 3),
        Shard("top", 0, 2),
        Shard("top", 2, 3),
        Shard("top", 0, 3),
        Shard("top", 1, 2),
        Shard("head", 0, 1),
        Shard("head", 1, 2),
    )
    held = HOST_0, Location(0, 0), Location(0, 1), Location(1, 0), Location(2, 0)

    def sent(*heads: Location) -> list[Route]:
        found = route(graph, parts, (*held, *heads))
        assert_what_is_needed_arrives_once(
            graph, Mapping("", "", "", parts, (*held, *heads), found)
        )
        return [one for one in found if one.port == "max"]

    one, two, far = (Location(chip, 7) for chip in (1, 2, 3))
    assert sent(one, one) == [Route(3, "max", (one,), value, value + 1) for value in range(3)]
    assert sent(two, far) == [
        Route(1, "max", (two, far), 0, 1),
        Route(1, "max", (far,), 1, 2),
        Route(2, "max", (two, far), 2, 3),
        Route(4, "max", (two,), 1, 2),
    ]


@settings(max_examples=settings.default.max_examples // 2)
@given(data=st.data())
def test_copies_send_what_is_needed_once_and_to_their_own_chip_first(
    data: st.DataObject, graph: Graph, make_mapping: Callable[..., Mapping]
) -> None:
    mapping = make_mapping(graph, "random", data.draw(st.integers(0, 99)))
    shards, places = list(mapping.shards), list(mapping.locations)
    for node in data.draw(
        st.lists(st.sampled_from([n for n in graph.nodes if copyable(n)]), max_size=8)
    ):
        start = data.draw(st.integers(0, node.size - 1))
        shards.append(Shard(node.name, start, data.draw(st.integers(start + 1, node.size))))
        places.append(Location(data.draw(st.integers(0, 4)), data.draw(st.integers(0, 12))))
    mapping = replace(
        mapping,
        shards=tuple(shards),
        locations=tuple(places),
        routes=route(graph, tuple(shards), tuple(places)),
    )
    assert_what_is_needed_arrives_once(graph, mapping)
    holders: dict[tuple[str, int], set[int]] = {}
    for shard, place in zip(shards, places, strict=True):
        for payload in range(shard.start, shard.stop):
            holders.setdefault((shard.node, payload), set()).add(place.chip)
    for one in mapping.routes:
        name, source = shards[one.source].node, places[one.source].chip
        for payload in range(one.start, one.stop):
            away = {place.chip for place in one.destinations} - {source}
            assert not away & holders[name, payload]
