"""Packets come back from their vectors, whatever the room, the order of senders and what nobody
wants."""

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from mmfree_neuro.graph.nodes import Graph
from mmfree_neuro.mapping.mapping import HOST, Location, Mapping, Shard
from mmfree_partition.route import route
from mmfree_sims.tiles.packets import (
    END,
    ERROR,
    GENERATED,
    HEADER,
    LABEL,
    POSITION,
    SAVE,
    Packet,
    Reassembly,
    control,
    encode,
)
from mmfree_sims.tiles.plan import Plan, by_chip


@pytest.fixture(scope="module")
def plan(hand_graph: Graph) -> Plan:
    """The embedding of three values and two outputs, and the rows of the head on a chip each: three
    stretches."""
    shards = Shard("embedding", 0, 3), Shard("head", 0, 1), Shard("head", 1, 2)
    places = Location(HOST, 0), Location(0, 0), Location(1, 0)
    return Plan(
        hand_graph, Mapping("", "", "", shards, places, route(hand_graph, shards, places)), by_chip
    )


def packet(
    plan: Plan, stretch: int, tokens: int, seed: int, labels: np.ndarray | None = None
) -> Packet:
    """A packet of a stretch with any payloads, and any labels unless told."""
    one, random = plan.stretches[stretch], np.random.default_rng(seed)
    ends = np.iinfo(np.int32)
    sent = {
        output.port: random.integers(
            ends.min, ends.max, (tokens, one.size), np.int32, endpoint=True
        )
        for output in plan.graph.node(one.node).outputs
    }
    if labels is None:
        labels = random.integers(0, ends.max, (tokens, LABEL), np.int32, endpoint=True)
    return Packet(labels, stretch, sent)


def assert_same(found: Packet | None, expected: Packet) -> None:
    assert found is not None
    assert (found.stretch, found.tokens) == (expected.stretch, expected.tokens)
    assert found.labels.dtype == np.int32
    assert found.labels.tolist() == expected.labels.tolist()
    assert list(found.sent) == list(expected.sent)
    for port, values in expected.sent.items():
        assert found.sent[port].dtype == np.int32
        assert found.sent[port].tolist() == values.tolist()


def test_vectors_by_hand(plan: Plan) -> None:
    """A token of each of two sequences, of two outputs of three values, in vectors with room for
    nine."""
    x, squares = (
        np.array([[3, -5, 7], [-1, 0, -2]], np.int32),
        np.array([[9, 25, 49], [1, 0, 4]], np.int32),
    )
    labels = np.array([[4, 11, GENERATED, 2], [7, 0, SAVE, 1]], np.int32)
    one = Packet(labels, 0, {"x": x, "sq": squares})
    vectors = list(encode(one, 9))
    assert [vector.tolist() for vector in vectors] == [
        [0, 0, 2, 0, 4, 11, 1, 2, 7, 0, 2, 1, 3],
        [0, 0, 2, 1, -5, 7, -1, 0, -2, 9, 25, 49, 1],
        [0, 0, 2, 2, 0, 4],
    ]
    assert one.tokens == 2
    assert all(vector.dtype == np.int32 for vector in vectors)
    packets = Reassembly(plan, frozenset([0]))
    assert [packets.take(vector) for vector in vectors[:2]] == [None, None]
    assert_same(packets.take(vectors[2]), one)
    assert packets.parts == {}


def test_the_end_of_a_stream() -> None:
    assert control(END).tolist() == [1, 0, 0, 0]
    assert control(ERROR).tolist() == [2, 0, 0, 0]
    assert control(END).shape == (HEADER,)
    assert (END, ERROR, GENERATED, SAVE) == (1, 2, 1, 2)


@given(
    stretch=st.integers(0, 2),
    tokens=st.integers(1, 9),
    room=st.one_of(st.integers(1, 12), st.just(1 << 28)),
    longer=st.integers(0, 3),
    seed=st.integers(0, 1 << 20),
)
def test_round_trip(
    stretch: int, tokens: int, room: int, longer: int, seed: int, plan: Plan
) -> None:
    """On channels of one size the last vector may be longer than what it carries."""
    one = packet(plan, stretch, tokens, seed)
    vectors = list(encode(one, room))
    words = (LABEL + plan.words(plan.stretches[stretch])) * tokens
    assert [len(vector) - HEADER for vector in vectors] == [
        min(room, words - at) for at in range(0, words, room)
    ]
    assert [vector[3] for vector in vectors] == list(range(len(vectors)))
    packets = Reassembly(plan, frozenset([stretch]))
    assert all(packets.take(vector) is None for vector in vectors[:-1])
    assert_same(packets.take(np.concatenate([vectors[-1], np.full(longer, -1, np.int32)])), one)


@given(
    room=st.integers(1, 9),
    wanted=st.sets(st.integers(0, 2)),
    counts=st.lists(st.lists(st.integers(1, 4), max_size=4), min_size=3, max_size=3),
    data=st.data(),
)
def test_senders_in_any_order(
    room: int, wanted: set[int], counts: list[list[int]], data: st.DataObject, plan: Plan
) -> None:
    """Every stretch sends packets in its own order; what nobody wants is dropped, and keeps
    nothing."""
    sent: list[list[Packet]] = []
    for stretch, tokens in enumerate(counts):
        begins = np.concatenate([[0], np.cumsum(tokens)]).astype(int)
        labels = np.zeros((begins[-1], LABEL), np.int32)
        labels[:, POSITION] = range(begins[-1])
        parts = np.split(labels, begins[1:-1]) if tokens else []
        sent.append(
            [
                packet(plan, stretch, len(part), 7 * stretch + k, part)
                for k, part in enumerate(parts)
            ]
        )
    channels = [[vector for one in packets for vector in encode(one, room)] for packets in sent]
    order = data.draw(st.permutations([k for k, vectors in enumerate(channels) for _ in vectors]))
    packets, found = Reassembly(plan, frozenset(wanted)), [[], [], []]
    for stretch in order:
        one = packets.take(channels[stretch].pop(0))
        if one is not None:
            assert one.stretch == stretch
            found[stretch].append(one)
    for stretch, expected in enumerate(sent):
        assert len(found[stretch]) == (len(expected) if stretch in wanted else 0)
        for one, other in zip(found[stretch], expected, strict=False):
            assert_same(one, other)
    assert packets.parts == {}
