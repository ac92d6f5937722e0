"""The fast engine gives the reference's integers and counts, bit for bit."""

from collections.abc import Callable
from dataclasses import replace

import numpy as np
import pytest

from mmfree_neuro.graph.nodes import Graph, mark
from mmfree_neuro.graph.slots import with_slots
from mmfree_neuro.mapping.mapping import Mapping
from mmfree_neuro.run import reference
from mmfree_neuro.run.job import Job
from mmfree_neuro.run.sampling import Sampling
from mmfree_sims import fast
from mmfree_sims.neurons import EmbeddingNeurons, Neurons, forget


def test_neurons_by_hand(hand_graph: Graph) -> None:
    both, second = (
        Neurons(hand_graph, hand_graph.head, 0, 2),
        Neurons(hand_graph, hand_graph.head, 1, 2),
    )
    one, two = (np.zeros(tokens, np.int32) for tokens in (1, 2))
    assert both.fire([np.array([[3, -5, 7]], np.int32)], one)["logits"].tolist() == [[12, 3]]
    payloads = np.array([[3, -5, 7], [-1, 0, -2]], np.int32)
    assert second.fire([payloads], two)["logits"].tolist() == [[3], [-3]]
    assert both.program.saturated.tolist() == [[0, 0]]
    assert both.program.events["logits"].tolist() == [[1, 1]]
    assert second.program.events["logits"].tolist() == [[2]]
    forget(second.program, 0)
    assert second.program.events["logits"].tolist() == [[0]]


def test_counts_are_forgotten_slot_by_slot(hand_graph: Graph) -> None:
    graph = replace(hand_graph, nodes=(replace(hand_graph.embedding, slots=3), hand_graph.head))
    neurons, words = Neurons(graph, graph.head, 0, 2), EmbeddingNeurons(graph)
    sums = np.array([[3, -5, 7]] * 4, np.int32)
    neurons.fire([sums], np.array([0, 2, 2, 1], np.int32))
    sent = words.fire(np.array([0, 1, 1]), mark(np.array([2, 0, 2]), np.array([True, True, False])))
    assert sent["x"].tolist() == [[3, -5, 7], [-1, 0, -2], [-1, 0, -2]]
    assert neurons.program.events["logits"].tolist() == [[1, 1], [1, 1], [2, 2]]
    assert words.program.events["x"].tolist() == [[1, 0, 1], [0, 0, 0], [2, 1, 2]]
    for program in (neurons.program, words.program):
        program.saturated[:], program.wrapped[:] = 7, 8
        forget(program, 2)
        assert [row.any() for row in program.saturated] == [True, True, False]
        assert [row.any() for row in program.wrapped] == [True, True, False]
    assert neurons.program.events["logits"].tolist() == [[1, 1], [1, 1], [0, 0]]
    assert words.program.events["x"].tolist() == [[1, 0, 1], [0, 0, 0], [0, 0, 0]]


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


@pytest.mark.parametrize("in_flight", [1, 2, 3])
def test_equal_to_the_reference_with_several_sequences_under_way(
    in_flight: int, graph: Graph, make_mapping: Callable[..., Mapping], tokens: np.ndarray
) -> None:
    """Prompts and continuations of all lengths; each sequence gives and counts what it does
    alone."""
    many = with_slots(graph, 3)
    mapping, plain = make_mapping(many, "random", 6), make_mapping(graph, "chain")
    prompts = [tokens[0, :5], tokens[1, :1], tokens[2, :3], tokens[3, :2]]
    new_tokens, draws = [2, 4, 0, 3], [Sampling(0.8, seed) for seed in (11, 5, 1, 2)]
    job = Job(prompts, new_tokens, draws, in_flight=in_flight)
    expected, found = reference.run(many, mapping, job), fast.run(many, mapping, job)
    for one, other in zip(found.outcomes, expected.outcomes, strict=True):
        assert np.array_equal(one.logits, other.logits)
        assert np.array_equal(one.chosen, other.chosen)
        assert (one.prefill, one.generate) == (other.prefill, other.generate)
    for outcome, prompt, new, draw in zip(found.outcomes, prompts, new_tokens, draws, strict=True):
        alone = fast.run(graph, plain, Job(prompt[None], new, draw))
        assert np.array_equal(outcome.logits, alone.logits[0])
        assert np.array_equal(outcome.chosen, alone.chosen[0])
        only = fast.run(many, mapping, Job(prompt[None], new, draw))
        assert (outcome.prefill, outcome.generate) == (only.prefill, only.generate)


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
