"""Graphs for several sequences under way at once."""

from collections.abc import Callable
from dataclasses import replace

import numpy as np
import pytest

from mmfree_neuro.errors import GraphError, RangeError
from mmfree_neuro.graph.nodes import (
    HERE,
    MLGRU,
    PACE,
    PRESENCE,
    Embedding,
    Graph,
    Relay,
    largest_mark,
    mark,
    slots_of,
)
from mmfree_neuro.graph.partial_sums import by_columns, evenly
from mmfree_neuro.graph.slots import with_slots
from mmfree_neuro.graph.steps import steps
from mmfree_neuro.graph.verify import instruction_counts, verify
from mmfree_neuro.integers.fixedpoint import QType
from mmfree_neuro.pipeline.quality import in_one_place
from mmfree_neuro.run import reference
from mmfree_neuro.run.job import Job

Graphs = Callable[[str, str], Graph]
PROMPTS = [np.array(tokens) for tokens in ([7, 1, 200], [33], [0, 255, 9, 9], [5, 5])]
NEW_TOKENS = 2, 3, 0, 1


def test_marks_are_never_zero_and_name_their_slots() -> None:
    slots = np.array([0, 0, 1, 6])
    marks = mark(slots, np.array([True, False, True, False]))
    assert marks.tolist() == [3, 2, 5, 14]
    assert slots_of(marks).tolist() == slots.tolist()
    assert largest_mark(7) == mark(np.array(6), np.array(True)) == 15


@pytest.mark.parametrize("slots", [2, 3, 7])
def test_each_sequence_is_as_if_alone(slots: int, graph: Graph) -> None:
    """In every scheme; and a slot that another sequence has left is as new."""
    many = with_slots(graph, slots)
    alone = reference.run(graph, in_one_place(graph), Job(PROMPTS, NEW_TOKENS))
    found = reference.run(many, in_one_place(many), Job(PROMPTS, NEW_TOKENS, in_flight=slots))
    for one, other in zip(alone.outcomes, found.outcomes, strict=True):
        assert np.array_equal(one.logits, other.logits)
        assert np.array_equal(one.chosen, other.chosen)


def test_a_token_takes_no_more_steps(graph: Graph) -> None:
    before, after = (max(steps(g.nodes).values()) for g in (graph, with_slots(graph, 5)))
    assert before == after


def test_marks_go_from_block_to_block(random_graph: Graphs) -> None:
    """The last block's relay, which nobody would read, is left out; others wait for what the end of
    their block reads last."""
    graph = with_slots(random_graph("64x3x32", "a14"), 5)
    relays = [node for node in graph.nodes if isinstance(node, Relay)]
    assert [node.name for node in relays] == ["layers.0.here", "layers.1.here"]
    firing = steps(graph.nodes)
    for block, relay in enumerate(relays):
        ports = {entry.port: entry.source for entry in relay.inputs}
        assert set(ports) == {HERE, PACE}
        assert ports[HERE] == ("embedding" if block == 0 else relays[block - 1].name)
        end = next(n for n in reversed(graph.nodes) if n.name.startswith(f"layers.{block}."))
        assert firing[relay.name] == firing[end.name]
    sources = [graph.embedding.name, *(relay.name for relay in relays)]
    mixers = [node for node in graph.nodes if isinstance(node, MLGRU)]
    for mixer, source in zip(mixers, sources, strict=True):
        (here,) = mixer.ports[HERE]
        assert (here.source, here.how, mixer.presence) == (source, "broadcast", HERE)
        assert PRESENCE not in mixer.ports


def test_relays_of_local_roots_pass_marks_on_as_well(random_graph: Graphs) -> None:
    graph = random_graph("lower-bounds", "a14-local")
    names = [node.name for node in with_slots(graph, 2).nodes]
    assert names == [node.name for node in graph.nodes]


def test_a_mixer_takes_six_instructions_more(random_graph: Graphs) -> None:
    """RDC of the mark, MUL_SHR and ADD for the slot, AND for the start, MOV of the state, SEL."""
    graph = random_graph("lower-bounds", "a14")
    before, after = (instruction_counts(g)["layers.0.mlgru"] for g in (graph, with_slots(graph, 9)))
    more = dict.fromkeys(("RDC", "MUL_SHR", "ADD", "AND", "MOV", "SEL"), 1)
    assert after - before == more
    assert after.total() == before.total() + 6


def test_one_sequence_changes_nothing(graph: Graph) -> None:
    assert with_slots(graph, 1) is graph


@pytest.mark.parametrize("slots", [0, -1, 4097])
def test_a_number_of_sequences_that_cannot_be(slots: int, hand_graph: Graph) -> None:
    message = f"hand: {slots} sequences in flight were asked for, must be 1 … 4096"
    with pytest.raises(GraphError, match=f"^{message}$"):
        with_slots(hand_graph, slots)


def test_slots_are_given_once(random_graph: Graphs) -> None:
    many = with_slots(random_graph("lower-bounds", "a14"), 4)
    with pytest.raises(GraphError, match=r"^tiny: is for 4 sequences in flight already$"):
        with_slots(many, 2)


def test_sums_are_divided_afterwards(random_graph: Graphs) -> None:
    graph = random_graph("lower-bounds", "wraps")
    parts = evenly(graph, (("layers.0.down_proj", 2),))
    message = r"^tiny: has sums that are divided, must be given slots before$"
    with pytest.raises(GraphError, match=message):
        with_slots(by_columns(graph, parts), 2)
    many = with_slots(graph, 2)
    assert by_columns(many, evenly(many, (("layers.0.down_proj", 2),))).slots == 2


def _with_node(graph: Graph, node: Embedding | MLGRU) -> Graph:
    nodes = tuple(node if other.name == node.name else other for other in graph.nodes)
    return replace(graph, nodes=nodes)


def test_a_mixer_has_as_many_slots_as_marks_name(random_graph: Graphs) -> None:
    graph = with_slots(random_graph("lower-bounds", "a14"), 4)
    mixer = graph.node("layers.0.mlgru")
    assert isinstance(mixer, MLGRU)
    with pytest.raises(
        GraphError, match=r"^layers\.0\.mlgru: has 3 slots, must have 4 as the embedding$"
    ):
        verify(_with_node(graph, replace(mixer, slots=3)))


@pytest.mark.parametrize("slots", [0, 4097])
def test_an_embedding_of_no_such_slots(slots: int, random_graph: Graphs) -> None:
    graph = random_graph("lower-bounds", "a14")
    message = rf"^embedding: has {slots} slots, must have 1 … 4096$"
    with pytest.raises(GraphError, match=message):
        verify(_with_node(graph, replace(graph.embedding, slots=slots)))


def test_marks_must_fit_what_passes_them_on(random_graph: Graphs) -> None:
    graph = with_slots(random_graph("lower-bounds", "a14"), 4)
    outputs = tuple(
        replace(o, qtype=QType(3, 0)) if o.port == HERE else o for o in graph.embedding.outputs
    )
    message = r"^embedding: output here can be 2 … 9, must be 0 … 3$"
    with pytest.raises(RangeError, match=message):
        verify(_with_node(graph, replace(graph.embedding, outputs=outputs)))


def test_a_state_is_read_where_there_is_one(random_graph: Graphs) -> None:
    """A mixer that would read presence for marks names slots that it has not."""
    graph = with_slots(random_graph("lower-bounds", "a14"), 4)
    mixer = graph.node("layers.0.mlgru")
    inputs = tuple(
        replace(e, source="layers.0.attn.rms", source_port="r", delay=0) if e.port == HERE else e
        for e in mixer.inputs
    )
    message = r"^layers\.0\.mlgru: the state of slot 32767 … 4194302 is read, of 4$"
    with pytest.raises(RangeError, match=message):
        assert isinstance(mixer, MLGRU)
        verify(_with_node(graph, replace(mixer, inputs=inputs)))
