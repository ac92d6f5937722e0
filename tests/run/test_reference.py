"""The reference on graphs that a person can compute."""

from collections.abc import Callable
from dataclasses import replace

import numpy as np
import pytest

from mmfree_neuro.errors import RangeError
from mmfree_neuro.graph.nodes import MLGRU, Graph, Input, MaxAbs, Output
from mmfree_neuro.graph.slots import with_slots
from mmfree_neuro.integers.fixedpoint import QType
from mmfree_neuro.mapping.mapping import HOST, Location, Mapping
from mmfree_neuro.pipeline import quality
from mmfree_neuro.run import reference
from mmfree_neuro.run.activity import Activity
from mmfree_neuro.run.job import Job


def test_logits_by_hand(hand_graph: Graph, hand_mapping: Mapping) -> None:
    result = reference.run(hand_graph, hand_mapping, Job(np.array([[0, 1]])))
    # Sums [8, 2], [-1, -2]; times 3/2, halves up.
    assert result.logits.tolist() == [[[12, 3], [-1, -3]]]


def test_counts_by_hand(hand_graph: Graph, hand_mapping: Mapping) -> None:
    activity = reference.run(hand_graph, hand_mapping, Job(np.array([[0, 1]]))).prefill
    assert [(r.source, r.port, r.destinations) for r in hand_mapping.routes] == [
        (0, "x", (Location(0, 0), Location(0, 1))),
        (1, "logits", (Location(HOST, 0),)),
        (2, "logits", (Location(HOST, 0),)),
    ]
    # Payloads [3, -5, 7], [-1, 0, -2]; rows [1, -1, 0] and [0, 1, 1].
    expected = Activity(
        2,
        np.array([2, 2, 2]),
        np.array([0, 2 + 1, 2 + 1]),
        np.array([0, 5, 5]),
        np.array([0, 0, 0]),
        np.array([0, 0, 0]),
        np.array([5, 2, 2]),
    )
    assert activity == expected


def test_saturations_by_hand(hand_graph: Graph, hand_mapping: Mapping) -> None:
    head = replace(
        hand_graph.head, outputs=(replace(hand_graph.head.outputs[0], qtype=QType(4, 0)),)
    )
    result = reference.run(
        replace(hand_graph, nodes=(hand_graph.nodes[0], head)),
        hand_mapping,
        Job(np.array([[0, 1]])),
    )
    assert result.logits.tolist() == [[[7, 3], [-1, -3]]]
    assert result.prefill.saturations.tolist() == [0, 1, 0]


def test_what_an_output_cannot_hold_is_an_error(hand_graph: Graph) -> None:
    narrow = Output("max", 1, QType(3, 0), unsigned=True)
    top = MaxAbs("top", 1, (Input("v", "embedding", "x", "group"),), (narrow,), 3)
    graph = replace(hand_graph, nodes=(hand_graph.nodes[0], top, hand_graph.head))
    with pytest.raises(RangeError) as error:
        reference.run(graph, quality.in_one_place(graph), Job(np.array([[0]])))
    assert str(error.value) == "top: output max: 7 does not fit s3.0"


def test_rows_start_from_a_zero_state(
    graph: Graph, make_mapping: Callable[..., Mapping], tokens: np.ndarray
) -> None:
    mapping = make_mapping(graph, "chain")
    both = reference.run(graph, mapping, Job(tokens[:2, :4]))
    for row in range(2):
        alone = reference.run(graph, mapping, Job(tokens[row : row + 1, :4]))
        assert np.array_equal(both.logits[row], alone.logits[0])


def test_the_state_matters(graph: Graph, make_mapping: Callable[..., Mapping]) -> None:
    session = reference.Reference(graph, make_mapping(graph, "chain"))
    on = 2  # the mark of a token that begins no sequence, in slot 0
    first, second = session.token(65, on), session.token(65, on)
    assert not np.array_equal(first, second)
    assert {name for name, state in session.states().items() if state.any()} == {
        node.name for node in graph.nodes if isinstance(node, MLGRU)
    }
    session.reset()
    assert np.array_equal(session.token(65, on), first)
    assert np.array_equal(session.token(65, on + 1), first)
    assert np.array_equal(session.token(65, on), second)
    assert session.take_activity().tokens == 5
    assert session.take_activity().tokens == 0


def test_each_slot_has_a_state_and_counts(
    graph: Graph, make_mapping: Callable[..., Mapping]
) -> None:
    """Two sequences in turns, and a third in a slot that the first has left."""
    many = with_slots(graph, 2)
    session = reference.Reference(many, make_mapping(many, "chain"))
    alone = reference.Reference(graph, make_mapping(graph, "chain"))
    words = np.array([65, 66, 67])
    expected, marks = alone.feed(words), (np.array([3, 2, 2]), np.array([5, 4, 4]))
    for at in range(3):
        for each in marks:
            assert np.array_equal(session.token(int(words[at]), int(each[at])), expected[at])
    assert np.array_equal(session.feed(words, marks[0]), expected)
    assert all(state.shape[0] == 2 for state in session.states().values())
    assert all(np.array_equal(a, b) for a, b in session.states().values())
    first, second = session.take_activity(0), session.take_activity(1)
    assert (first.tokens, second.tokens) == (6, 3)
    assert first == second + second
    assert session.take_activity(0).tokens == session.take_activity(1).tokens == 0
