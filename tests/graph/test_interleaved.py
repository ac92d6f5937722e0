"""Tokens of several sequences enter in any order, and each sequence gives what it gives alone."""

from collections.abc import Callable
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from mmfree_neuro.graph import graph_file
from mmfree_neuro.graph.nodes import HERE, Graph, mark
from mmfree_neuro.graph.partial_sums import by_columns, evenly
from mmfree_neuro.graph.slots import with_slots
from mmfree_neuro.integers.fixedpoint import QType
from mmfree_neuro.mapping.mapping import Mapping
from mmfree_neuro.pipeline.quality import in_one_place
from mmfree_neuro.run import reference
from mmfree_sims import fast

Fed = tuple[int, int, int]
"""A token that is fed: whose it is, its place in its sequence, and the slot of that."""


def test_what_the_embedding_reads(hand_graph: Graph) -> None:
    """The mark, only where there are several slots."""
    one = hand_graph.embedding
    several = replace(one, slots=2)
    tokens, marks = np.array([1, 0]), np.array([2, 5])
    assert list(one.read(tokens, marks)) == list(one.reads) == ["x", "scale"]
    found = several.read(tokens, marks)
    assert list(found) == list(several.reads) == ["x", "scale", "mark"]
    assert found["mark"].tolist() == [[2], [5]]
    assert [several.stride(name) for name in several.reads] == [1, 0, 0]
    assert (replace(hand_graph, nodes=(several, hand_graph.head)).slots, hand_graph.slots) == (2, 1)


@pytest.mark.parametrize(("slots", "bits"), [(2, 4), (3, 4), (4, 5), (4096, 15)])
def test_marks_have_the_width_that_they_need(slots: int, bits: int, a16: Graph) -> None:
    """The largest mark of two slots is 5, of four 9, of 4096 8193."""
    nodes = with_slots(a16, slots).nodes
    told = [output for node in nodes for output in node.outputs if output.port == HERE]
    assert len(told) == 2
    assert {(output.qtype, output.unsigned) for output in told} == {(QType(bits, 0), True)}


def test_a_graph_for_several_sequences_is_kept_in_a_file(
    a16: Graph, tmp_path: Path, same: Callable[..., bool]
) -> None:
    graph = with_slots(a16, 3)
    graph_file.save_graph(graph, tmp_path / "a.graph")
    loaded, _ = graph_file.load_graph(tmp_path / "a.graph")
    assert loaded.slots == 3
    assert same(loaded, graph)


def seated(lengths: list[int], order: list[int], slots: int) -> list[Fed]:
    """The tokens of sequences in an order, as far as there are slots: a sequence that finds none
    begins when one is free."""
    rest, taken, at, found = list(order), dict[int, int](), [0] * len(lengths), list[Fed]()
    while rest:
        place = next(k for k, n in enumerate(rest) if n in taken or len(taken) < slots)
        number = rest.pop(place)
        if number not in taken:
            taken[number] = min(set(range(slots)) - set(taken.values()))
        found.append((number, at[number], taken[number]))
        at[number] += 1
        if at[number] == lengths[number]:
            del taken[number]
    return found


@pytest.mark.slow
@settings(deadline=None)
@given(
    slots=st.sampled_from([2, 3]),
    lengths=st.lists(st.integers(1, 6), min_size=1, max_size=6),
    cuts=st.sets(st.integers(1, 36), max_size=4),
    seed=st.integers(0, 1 << 30),
)
def test_a_sequence_gives_what_it_gives_alone(
    graph: Graph, slots: int, lengths: list[int], cuts: set[int], seed: int
) -> None:
    """In pieces of any length, in slots that other sequences have left."""
    rng = np.random.default_rng(seed)
    sequences = [rng.integers(0, graph.vocabulary, length) for length in lengths]
    order = rng.permutation(np.repeat(np.arange(len(lengths)), lengths)).tolist()
    fed = np.array(seated(lengths, order, slots))
    tokens = np.array([sequences[number][at] for number, at, _ in fed])
    marks, many = mark(fed[:, 2], fed[:, 1] == 0), with_slots(graph, slots)
    session, parts = fast.Fast(many, in_one_place(many)), sorted(cuts)
    pieces = zip(np.split(tokens, parts), np.split(marks, parts), strict=True)
    logits = np.concatenate([session.feed(*both) for both in pieces if len(both[0])])
    for number, sequence in enumerate(sequences):
        alone = fast.Fast(graph, in_one_place(graph)).feed(sequence)
        assert np.array_equal(logits[fed[:, 0] == number], alone)


def test_the_reference_gives_and_counts_the_same(
    graph: Graph, make_mapping: Callable[..., Mapping]
) -> None:
    """Slot by slot, and of a graph that is divided, too."""
    many = with_slots(graph, 2)
    many = by_columns(many, evenly(many, (("layers.1.down_proj", 2),)))
    mapping = make_mapping(many, "random", 4)
    tokens, slots = np.array([7, 9, 200, 7, 31]), np.array([1, 0, 1, 1, 0])
    marks = mark(slots, np.array([True, True, False, True, False]))
    slow, quick = reference.Reference(many, mapping), fast.Fast(many, mapping)
    assert np.array_equal(slow.feed(tokens, marks), quick.feed(tokens, marks))
    for name, states in slow.states().items():
        assert states.shape == (2, many.node(name).size)
        assert np.array_equal(quick.states()[name], states)
    for slot, count in ((1, 3), (0, 2)):
        found = slow.take_activity(slot)
        assert found.tokens == count
        assert found == quick.take_activity(slot)
        assert slow.take_activity(slot).tokens == 0
