"""The fast engine gives the reference's integers and counts, bit for bit."""

from collections.abc import Callable
from dataclasses import replace

import numpy as np
import pytest

from mmfree_neuro.graph.nodes import Graph
from mmfree_neuro.mapping.mapping import Mapping
from mmfree_neuro.run import reference
from mmfree_neuro.run.job import Job
from mmfree_neuro.run.sampling import Sampling
from mmfree_sims import fast
from mmfree_sims.neurons import Neurons, forget


def test_neurons_by_hand(hand_graph: Graph) -> None:
    both, second = (
        Neurons(hand_graph, hand_graph.head, 0, 2),
        Neurons(hand_graph, hand_graph.head, 1, 2),
    )
    assert both.fire([np.array([[3, -5, 7]], np.int32)])["logits"].tolist() == [[12, 3]]
    assert second.fire([np.array([[3, -5, 7], [-1, 0, -2]], np.int32)])["logits"].tolist() == [
        [3],
        [-3],
    ]
    assert both.program.saturated.tolist() == [0, 0]
    assert both.program.events["logits"].tolist() == [1, 1]
    assert second.program.events["logits"].tolist() == [2]
    forget(second.program)
    assert second.program.events["logits"].tolist() == [0]


def test_equal_to_the_reference_by_hand(hand_graph: Graph, hand_mapping: Mapping) -> None:
    job = Job(np.array([[0, 1, 1, 0]]), 2)
    expected, found = (engine.run(hand_graph, hand_mapping, job) for engine in (reference, fast))
    assert np.array_equal(found.logits, expected.logits)
    assert found.prefill == expected.prefill
    assert found.generate == expected.generate


def test_equal_to_the_reference(graph: Graph, mapping: Mapping, tokens: np.ndarray) -> None:
    job = Job(tokens[:2, :5], 4, Sampling(0.8, 11))
    expected, found = reference.run(graph, mapping, job), fast.run(graph, mapping, job)
    assert np.array_equal(found.logits, expected.logits)
    assert np.array_equal(found.chosen, expected.chosen)
    assert found.prefill == expected.prefill
    assert found.generate == expected.generate
    assert (found.prefill.tokens, found.generate.tokens) == (10, 6)


def test_equal_to_the_reference_where_values_saturate(
    graph: Graph, make_mapping: Callable[..., Mapping], tokens: np.ndarray
) -> None:
    embedding = replace(graph.embedding, scales=graph.embedding.scales * 6)
    loud, mapping = (
        replace(graph, nodes=(embedding, *graph.nodes[1:])),
        make_mapping(graph, "random", 5),
    )
    job = Job(tokens[:1, :6], 2)
    expected, found = reference.run(loud, mapping, job), fast.run(loud, mapping, job)
    assert expected.prefill.saturations.sum() > 0
    assert np.array_equal(found.logits, expected.logits)
    assert found.prefill == expected.prefill
    assert found.generate == expected.generate


def test_no_mapping_changes_the_logits(
    graph: Graph, mapping: Mapping, make_mapping: Callable[..., Mapping]
) -> None:
    job = Job(np.arange(20)[None])
    assert np.array_equal(
        fast.run(graph, mapping, job).logits,
        fast.run(graph, make_mapping(graph, "chain"), job).logits,
    )


@pytest.mark.parametrize("seed", range(4))
def test_mappings_share_counts_but_not_routes(
    seed: int, graph: Graph, make_mapping: Callable[..., Mapping], tokens: np.ndarray
) -> None:
    job = Job(tokens[:1, :9])
    chain, spread = make_mapping(graph, "chain"), make_mapping(graph, "random", seed)
    whole, parts = fast.run(graph, chain, job).prefill, fast.run(graph, spread, job).prefill
    for name in ("synops", "reads", "saturations"):
        assert getattr(whole, name).sum() == getattr(parts, name).sum()


def test_no_cut_of_the_prefill_changes_anything(
    graph: Graph, make_mapping: Callable[..., Mapping], tokens: np.ndarray
) -> None:
    mapping = make_mapping(graph, "random", 1)
    whole, pieces = fast.Fast(graph, mapping), fast.Fast(graph, mapping)
    expected = whole.feed(tokens[0])
    found = np.concatenate([pieces.feed(part) for part in np.split(tokens[0], [1, 2, 9, 30])])
    assert np.array_equal(found, expected)
    assert pieces.take_activity() == whole.take_activity()
    whole.reset()
    assert np.array_equal(whole.feed(tokens[0]), expected)
