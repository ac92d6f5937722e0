"""Every payload reaches every core that needs it, once."""

from collections import Counter
from collections.abc import Callable
from itertools import pairwise

import pytest
from hypothesis import given
from hypothesis import strategies as st

from mmfree_neuro.ir import Graph, span
from mmfree_neuro.mapping import HOST, Location, Mapping, Route, Shard
from mmfree_partition.route import _merged, route


@given(st.lists(st.tuples(st.integers(0, 40), st.integers(1, 9)), max_size=12))
def test_merged_spans_hold_the_same_and_neither_overlap_nor_touch(drawn: list[tuple[int, int]]) -> None:
    spans = [(start, start + length) for start, length in drawn]
    merged = _merged(spans)
    assert {k for a, b in merged for k in range(a, b)} == {k for a, b in spans for k in range(a, b)}
    assert all(before[1] < after[0] for before, after in pairwise(merged))


def test_routes_by_hand(hand_graph: Graph) -> None:
    shards = Shard("embedding", 0, 3), Shard("head", 0, 1), Shard("head", 1, 2)
    host, core = Location(HOST, 0), Location(2, 5)
    # Both rows on one core share one stream of payloads.
    assert route(hand_graph, shards, (host, core, core)) == (
        Route(0, "x", core, 0, 3), Route(1, "logits", host, 0, 1), Route(2, "logits", host, 1, 2),
    )  # fmt: skip
    assert route(hand_graph, shards, (host, core, Location(0, 0))) == (
        Route(0, "x", Location(0, 0), 0, 3), Route(0, "x", core, 0, 3),
        Route(1, "logits", host, 0, 1), Route(2, "logits", host, 1, 2),
    )  # fmt: skip


@pytest.mark.parametrize("seed", range(3))
def test_what_is_needed_arrives_once(seed: int, graph: Graph, make_mapping: Callable[..., Mapping]) -> None:
    mapping = make_mapping(graph, "random", seed)
    arrived: Counter[tuple[str, str, int, Location]] = Counter()
    for one in mapping.routes:
        assert mapping.shards[one.source].start <= one.start < one.stop <= mapping.shards[one.source].stop
        for payload in range(one.start, one.stop):
            arrived[mapping.shards[one.source].node, one.port, payload, one.destination] += 1
    needed = {(graph.head.name, "logits", logit, Location(HOST, 0)) for logit in range(graph.head.size)}
    for shard, place in zip(mapping.shards, mapping.locations, strict=True):
        node = graph.node(shard.node)
        for entry in node.inputs:
            size = graph.node(entry.source).output(entry.source_port).size
            first, last = span(node, entry, shard.start, shard.stop, size)
            needed |= {(entry.source, entry.source_port, payload, place) for payload in range(first, last)}
    assert set(arrived) == needed
    assert set(arrived.values()) == {1}
