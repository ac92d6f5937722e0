"""Stretches, tiles and who sends to whom, by hand."""

from collections.abc import Callable

import numpy as np
import pytest

from mmfree_neuro.graph.nodes import Embedding, Graph, Head, Input, MaxAbs, Output, Rescale, Squares
from mmfree_neuro.graph.verify import verify
from mmfree_neuro.integers.fixedpoint import Multiplier, QType
from mmfree_neuro.integers.tables import sigmoid_table
from mmfree_neuro.integers.ternary import pack
from mmfree_neuro.mapping.mapping import HOST, Location, Mapping, Shard
from mmfree_sims.tiles.plan import Plan, Stretch, by_chip, by_core


def placed(*parts: tuple[str, int, int, int, int]) -> Mapping:
    """Shards and where they lie: node, start, stop, chip, core."""
    shards = tuple(Shard(node, start, stop) for node, start, stop, _, _ in parts)
    return Mapping(
        "", "", "hand", shards, tuple(Location(chip, core) for *_, chip, core in parts), ()
    )


def test_by_chip_by_hand(hand_graph: Graph, hand_mapping: Mapping) -> None:
    """Both rows of the head lie on chip 0: one stretch."""
    plan = Plan(hand_graph, hand_mapping, by_chip)
    assert plan.stretches == (Stretch(0, "embedding", 0, 3, HOST), Stretch(1, "head", 0, 2, 0))
    assert plan.by_node == {"embedding": [plan.stretches[0]], "head": [plan.stretches[1]]}
    assert plan.sources == {0: [], 1: [plan.stretches[0]]}
    assert plan.abroad == {0: (0,), 1: (HOST,)}
    assert plan.linked() == {HOST: (0,), 0: (HOST,)}
    assert [plan.words(stretch) for stretch in plan.stretches] == [2 * 3, 2]
    assert [stretch.size for stretch in plan.stretches] == [3, 2]


def test_by_core_by_hand(hand_graph: Graph, hand_mapping: Mapping) -> None:
    plan = Plan(hand_graph, hand_mapping, by_core(hand_mapping))
    assert plan.stretches == (
        Stretch(0, "embedding", 0, 3, HOST),
        Stretch(1, "head", 0, 1, 0),
        Stretch(2, "head", 1, 2, 1),
    )
    assert plan.sources == {0: [], 1: [plan.stretches[0]], 2: [plan.stretches[0]]}
    assert plan.abroad == {0: (0, 1), 1: (HOST,), 2: (HOST,)}
    assert plan.linked() == {HOST: (0, 1), 0: (HOST,), 1: (HOST,)}
    assert plan.span(hand_graph.head, hand_graph.head.inputs[0], plan.stretches[2]) == (0, 3)


def test_cores_are_numbered_in_order(hand_graph: Graph) -> None:
    mapping = placed(("embedding", 0, 3, HOST, 0), ("head", 0, 1, 2, 5), ("head", 1, 2, 0, 7))
    tile_of = by_core(mapping)
    assert [tile_of(place) for place in mapping.locations] == [HOST, 1, 0]
    assert by_chip(Location(3, 7)) == 3
    assert by_chip(Location(HOST, 0)) == HOST


def test_the_order_of_shards_does_not_matter(hand_graph: Graph) -> None:
    parts = ("embedding", 0, 3, HOST, 0), ("head", 0, 1, 0, 0), ("head", 1, 2, 1, 0)
    plans = [
        Plan(hand_graph, placed(*(parts[k] for k in order)), by_chip)
        for order in ((0, 1, 2), (2, 1, 0))
    ]
    assert plans[0].stretches == plans[1].stretches
    assert plans[0].abroad == plans[1].abroad


@pytest.fixture
def groups() -> Graph:
    """Eight values, their maxima by threes, and logits of those."""
    x, top = QType(8, 0), Output("max", 3, QType(8, 0), unsigned=True)
    outputs = Output("x", 8, x), Output("sq", 8, QType(16, 0), unsigned=True)
    matrix = pack(np.ones((2, 3), np.int8))
    nodes = (
        Embedding(
            "x",
            8,
            (),
            outputs,
            np.zeros((2, 8), np.int8),
            np.array([1, 1]),
            0,
            Squares(None, 0, x, 0),
        ),
        MaxAbs("max", 3, (Input("v", "x", "x", "group"),), (top,), 3),
        Head(
            "head",
            2,
            (Input("y", "max", "max", "ternary", matrix),),
            (Output("logits", 2, QType(16, 0)),),
            {"y": Rescale(Multiplier(1, 0), None)},
        ),
    )
    return verify(Graph("groups", "a8", nodes, sigmoid_table(8), 32, 0, None, {}))


def spans(plan: Plan) -> list[tuple[str, int, int, int]]:
    return [(stretch.node, stretch.start, stretch.stop, stretch.tile) for stretch in plan.stretches]


WORDS = ("x", 0, 8, HOST, 0)


def test_neighbours_merge_in_one_tile_only(groups: Graph) -> None:
    """On two cores of one chip they do, on two chips they do not."""
    mapping = placed(
        WORDS, ("max", 0, 1, 0, 0), ("max", 1, 2, 0, 1), ("max", 2, 3, 1, 0), ("head", 0, 2, 1, 0)
    )
    plan = Plan(groups, mapping, by_chip)
    assert spans(plan) == [("x", 0, 8, HOST), ("max", 0, 2, 0), ("max", 2, 3, 1), ("head", 0, 2, 1)]
    assert [stretch.number for stretch in plan.stretches] == [0, 1, 2, 3]
    together = Plan(groups, mapping, lambda place: min(place.chip, 0))
    assert spans(together) == [("x", 0, 8, HOST), ("max", 0, 3, 0), ("head", 0, 2, 0)]


def test_no_neighbours_where_others_lie_between(groups: Graph) -> None:
    mapping = placed(
        WORDS, ("max", 0, 1, 0, 0), ("max", 1, 2, 1, 0), ("max", 2, 3, 0, 0), ("head", 0, 2, 0, 0)
    )
    assert spans(Plan(groups, mapping, by_chip))[1:] == [
        ("max", 0, 1, 0),
        ("max", 1, 2, 1),
        ("max", 2, 3, 0),
        ("head", 0, 2, 0),
    ]


def test_sources_are_what_is_read(groups: Graph) -> None:
    """Of a node that is cut, those stretches with a value that an input needs."""
    mapping = placed(
        WORDS, ("max", 0, 1, 0, 0), ("max", 1, 3, 1, 0), ("head", 0, 1, 0, 0), ("head", 1, 2, 2, 0)
    )
    plan = Plan(groups, mapping, by_chip)
    x, first, second, upper, lower = plan.stretches
    assert plan.sources == {0: [], 1: [x], 2: [x], 3: [first, second], 4: [first, second]}
    node = groups.node("max")
    assert plan.span(node, node.inputs[0], first) == (0, 3)
    assert plan.span(node, node.inputs[0], second) == (3, 8)  # the last group is not full
    assert plan.abroad == {0: (0, 1), 1: (2,), 2: (0, 2), 3: (HOST,), 4: (HOST,)}
    assert plan.linked() == {HOST: (0, 1), 0: (HOST, 2), 1: (0, 2), 2: (HOST,)}
    assert [plan.words(stretch) for stretch in plan.stretches] == [16, 1, 2, 1, 1]
    assert (upper.tile, lower.tile) == (0, 2)


def test_copies_by_hand(groups: Graph) -> None:
    """What its own tile holds a stretch reads there, the rest of the primary; x is sent to both."""
    mapping = placed(
        WORDS,
        ("max", 1, 3, 1, 0),
        ("max", 0, 2, 0, 0),
        ("max", 1, 3, 0, 1),
        ("head", 0, 1, 0, 0),
        ("head", 1, 2, 1, 0),
    )
    plan = Plan(groups, mapping, by_chip)
    assert plan.stretches == (
        Stretch(0, "x", 0, 8, HOST),
        Stretch(1, "max", 0, 3, 0),
        Stretch(2, "max", 1, 3, 1, primary=False),
        Stretch(3, "head", 0, 1, 0),
        Stretch(4, "head", 1, 2, 1),
    )
    x, first, copy, upper, lower = plan.stretches
    assert plan.sources == {0: [], 1: [x], 2: [x], 3: [first], 4: [first, copy]}
    entry = groups.head.inputs[0]
    assert plan.pieces(entry, upper) == [(first, 0, 3)]
    assert plan.pieces(entry, lower) == [(first, 0, 1), (copy, 1, 3)]
    assert plan.abroad == {0: (0, 1), 1: (1,), 2: (), 3: (HOST,), 4: (HOST,)}


@pytest.mark.parametrize(
    ("heads", "computed"),
    [
        ((1, 3), [(0, 3, 1, True), (0, 3, 3, False)]),  # both are read where they lie
        ((3, 3), [(0, 3, 3, True)]),  # the one on chip 1 is read by nobody
        ((0, 3), [(0, 3, 3, True)]),  # chip 0 reads that of chip 3
        ((0, 2), [(0, 3, 1, True)]),  # all read the first
        ((HOST, HOST), [(0, 3, 1, True)]),
    ],
)
def test_copies_that_nobody_reads_are_not_computed(
    heads: tuple[int, int], computed: list[tuple[int, int, int, bool]], groups: Graph
) -> None:
    rows = (("head", row, row + 1, chip, 0) for row, chip in enumerate(heads))
    plan = Plan(groups, placed(WORDS, ("max", 0, 3, 3, 0), ("max", 0, 3, 1, 0), *rows), by_chip)
    found = [
        (stretch.start, stretch.stop, stretch.tile, stretch.primary)
        for stretch in plan.by_node["max"]
    ]
    assert found == computed


def test_only_readers_are_linked(graph: Graph, make_mapping: Callable[..., Mapping]) -> None:
    """Every route of a mapping has its link, and every link a route."""
    for seed in range(4):
        mapping = make_mapping(graph, "random", seed)
        for tile_of in (by_chip, by_core(mapping)):
            plan = Plan(graph, mapping, tile_of)
            links = {(tile, other) for tile, others in plan.linked().items() for other in others}
            routes = {
                (tile_of(mapping.locations[r.source]), tile_of(end))
                for r in mapping.routes
                for end in r.destinations
            }
            assert links == {(a, b) for a, b in routes if a != b}
            covered = {node.name: 0 for node in graph.nodes}
            for stretch in plan.stretches:
                assert stretch.start == covered[stretch.node]
                covered[stretch.node] = stretch.stop
            assert covered == {node.name: node.size for node in graph.nodes}
