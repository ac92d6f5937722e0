"""Counts of neurons become the activity of a mapping, by hand and as the reference counts."""

from collections.abc import Callable

import numpy as np
import pytest

from mmfree_neuro.graph.nodes import Graph
from mmfree_neuro.mapping.mapping import Mapping
from mmfree_neuro.run import reference
from mmfree_neuro.run.activity import Activity
from mmfree_neuro.run.job import Job
from mmfree_sims.counts import Counting, Layout


def test_the_layout_by_hand(hand_graph: Graph) -> None:
    """Outputs one after another, and behind them those of the next node."""
    layout = Layout(hand_graph)
    assert layout.events == {("embedding", "x"): 0, ("embedding", "sq"): 3, ("head", "logits"): 6}
    assert layout.events_size == 8
    assert layout.saturated == {"embedding": 0, "head": 3}
    assert layout.saturated_size == 5


def test_the_layout_leaves_no_gap(graph: Graph) -> None:
    layout, at = Layout(graph), 0
    for node in graph.nodes:
        for output in node.outputs:
            assert layout.events[node.name, output.port] == at
            at += output.size
    assert at == layout.events_size
    assert layout.saturated_size == sum(node.size for node in graph.nodes)


def test_an_activity_by_hand(hand_graph: Graph, hand_mapping: Mapping) -> None:
    """Rows [1, -1, 0] and [0, 1, 1] read values that were sent 5, 3 and 2 times in 9 tokens."""
    events = np.array([5, 3, 2, 7, 7, 7, 4, 6])  # the squares go nowhere
    saturated, wrapped = np.array([1, 0, 2, 0, 30]), np.array([0, 0, 0, 5, 7])
    expected = Activity(
        9,
        np.array([9, 9, 9]),
        np.array([0, 5 + 3, 3 + 2]),
        np.array([0, 10, 10]),
        np.array([3, 0, 30]),
        np.array([0, 5, 7]),
        np.array([10, 4, 6]),
    )
    found = Counting(hand_graph, hand_mapping).activity(events, saturated, wrapped, 9)
    assert found == expected
    assert all(array.dtype == np.int64 for array in found.arrays())


def test_nothing_counted(hand_graph: Graph, hand_mapping: Mapping) -> None:
    found = Counting(hand_graph, hand_mapping).activity(
        np.zeros(8, np.int64), *np.zeros((2, 5), np.int64), 0
    )
    assert all(not array.any() for array in found.arrays())


def test_counts_of_a_long_run(hand_graph: Graph, hand_mapping: Mapping) -> None:
    """More than 32 bits hold."""
    events = np.full(8, 1 << 40)
    lost = np.full(5, 1 << 33), np.full(5, 1 << 34)
    found = Counting(hand_graph, hand_mapping).activity(events, *lost, 1 << 41)
    assert found.synops.tolist() == [0, 2 << 40, 2 << 40]
    assert found.reads.tolist() == [0, 3 << 40, 3 << 40]
    assert found.saturations.tolist() == [3 << 33, 1 << 33, 1 << 33]
    assert found.wrapped.tolist() == [3 << 34, 1 << 34, 1 << 34]
    assert found.messages.tolist() == [3 << 40, 1 << 40, 1 << 40]


@pytest.mark.parametrize("kind", ["random", "chain"])
def test_as_the_reference_counts(
    kind: str, graph: Graph, make_mapping: Callable[..., Mapping]
) -> None:
    """What the reference's neurons sent and saturated, token by token, gives the counts that it
    makes itself."""
    mapping, tokens = make_mapping(graph, kind, 9), np.array([[7, 200, 31]])
    layout = Layout(graph)
    events = np.zeros(layout.events_size, np.int64)
    saturated, wrapped = np.zeros((2, layout.saturated_size), np.int64)

    class Watched(reference.Reference):
        def count(self, signals: reference.Signals, *rest: object) -> None:
            for key, values in signals.items():
                events[layout.events[key] :][: values.size] += values != 0
            super().count(signals, *rest)  # type: ignore[arg-type]

        def saturations(self, node: object, shard: object, *rest: object) -> int:
            found = super().saturations(node, shard, *rest)  # type: ignore[arg-type]
            saturated[layout.saturated[shard.node] + shard.start] += found  # type: ignore[attr-defined]
            return found

    session = Watched(graph, mapping)
    session.feed(tokens[0])
    expected = session.take_activity()
    assert expected == reference.run(graph, mapping, Job(tokens)).prefill
    assert Counting(graph, mapping).activity(events, saturated, wrapped, 3) == expected
