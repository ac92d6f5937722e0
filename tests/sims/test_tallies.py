"""What tiles count and keep lies where it belongs, and nobody else's is touched."""

from dataclasses import dataclass, field
from itertools import pairwise
from typing import Any

import numpy as np
import pytest

from mmfree_neuro.graph.nodes import MLGRU, Graph
from mmfree_neuro.graph.slots import with_slots
from mmfree_sims.counts import Layout
from mmfree_sims.neurons import Neurons
from mmfree_sims.tiles.packets import GENERATED, SLOT
from mmfree_sims.tiles.plan import Stretch
from mmfree_sims.tiles.tallies import Ledger, Tallies, allocate, private


@dataclass
class Counted:
    """The counts of a program."""

    saturated: Any
    events: dict[str, Any]
    state: Any = None

    def __post_init__(self) -> None:
        self.wrapped = 10 * self.saturated


@dataclass
class Memory:
    """Writes down what it was asked for."""

    asked: list[tuple[tuple[int, ...], Any]] = field(default_factory=list)

    def __call__(self, shape: tuple[int, ...], dtype: Any) -> Any:
        self.asked.append((shape, dtype))
        return private(shape, dtype)


def recurrent(graph: Graph) -> list[str]:
    return [node.name for node in graph.nodes if isinstance(node, MLGRU)]


def filled(graph: Graph, seed: int) -> Tallies:
    """A tallies of two sequences, full of numbers."""
    tallies, random = allocate(graph, 2), np.random.default_rng(seed)
    for array in (tallies.events, tallies.saturated, tallies.wrapped, tallies.states):
        array[:] = random.integers(1, 1000, array.shape)
    return tallies


@pytest.mark.parametrize(("sequences", "slots"), [(1, 1), (5, 1), (5, 3)])
def test_an_empty_board(sequences: int, slots: int, graph: Graph) -> None:
    graph, memory = with_slots(graph, slots), Memory()
    tallies, layout = allocate(graph, sequences, memory), Layout(graph)
    size, rows = graph.node(recurrent(graph)[0]).size, 2 * sequences
    neurons = rows, layout.saturated_size
    shapes = (rows, layout.events_size), neurons, neurons, (slots, 2 * size)
    assert memory.asked == [(shape, np.int64) for shape in shapes]
    arrays = tallies.events, tallies.saturated, tallies.wrapped, tallies.states
    assert not any(array.any() for array in arrays)
    assert tallies.offsets == {name: k * size for k, name in enumerate(recurrent(graph))}


def test_counts_by_hand(hand_graph: Graph) -> None:
    """Row 1 of the head counts for its phase; what is counted is forgotten where it was, and what
    is counted in another slot stays."""
    tallies, stretch = allocate(hand_graph, 1), Stretch(1, "head", 1, 2, 0)
    program = Counted(np.array([[5], [4]]), {"logits": np.array([[6], [9]])})
    assert tallies.add(stretch, 1, program, 1) == (9, 4)
    assert tallies.add(stretch, 1, program, 1) == (0, 0)
    assert (program.saturated.tolist(), program.events["logits"].tolist()) == (
        [[5], [0]],
        [[6], [0]],
    )
    assert program.wrapped.tolist() == [[50], [0]]
    assert tallies.events.tolist() == [[0] * 8, [0] * 7 + [9]]
    assert tallies.saturated.tolist() == [[0] * 5, [0] * 4 + [4]]
    tallies.add(stretch, 0, Counted(np.array([[1]]), {"logits": np.array([[2]])}), 0)
    assert tallies.events[:, 7].tolist() == [2, 9]
    sent = {"x": np.array([[4, 5, 6]]), "sq": np.array([[7, 8, 9]])}
    words = Counted(np.array([[1, 2, 3]]), sent)
    assert tallies.add(Stretch(0, "embedding", 0, 3, -1), 0, words, 0) == (39, 6)
    assert tallies.events[0].tolist() == [4, 5, 6, 7, 8, 9, 0, 2]
    assert tallies.saturated[0].tolist() == [1, 2, 3, 0, 1]
    assert tallies.wrapped.tolist() == [[10, 20, 30, 0, 10], [0] * 4 + [40]]
    assert tallies.states_by_node(hand_graph) == {}


def test_what_a_copy_counts_is_told_and_not_added(hand_graph: Graph) -> None:
    tallies, kept, copy = (
        allocate(hand_graph, 1),
        allocate(hand_graph, 1),
        Stretch(2, "head", 0, 2, 1, primary=False),
    )
    program = Counted(np.array([[4, 0]]), {"logits": np.array([[9, 2]])})
    assert tallies.add(copy, 0, program, 0) == (11, 4)
    assert (program.saturated.tolist(), program.events["logits"].tolist()) == ([[0, 0]], [[0, 0]])
    assert not any(array.any() for array in (tallies.events, tallies.saturated, tallies.wrapped))
    tallies.events[:], tallies.saturated[:], tallies.wrapped[:] = 7, 7, 7
    tallies.copy_to(kept, copy, ["logits"], [0, 1])
    assert not any(array.any() for array in (kept.events, kept.saturated, kept.wrapped))


def test_states_are_kept_by_neuron(graph: Graph) -> None:
    graph = with_slots(graph, 2)
    tallies, (first, second) = allocate(graph, 1), recurrent(graph)
    size = graph.node(first).size
    stretch = Stretch(0, second, 3, 5, 0)
    ports = [output.port for output in graph.node(second).outputs]
    nothing = np.zeros((2, 2), int)
    program = Counted(nothing, {p: nothing for p in ports}, np.array([[70, -80], [1, 2]]))
    Ledger(tallies, stretch, program).settle()
    expected = np.zeros((2, 2 * size), np.int64)
    expected[:, size + 3 : size + 5] = [[70, -80], [1, 2]]
    assert np.array_equal(tallies.states, expected)
    assert tallies.state_of(stretch).tolist() == [[70, -80], [1, 2]]
    states = tallies.states_by_node(graph)
    assert list(states) == [first, second]
    assert states[second][:, 3:5].tolist() == [[70, -80], [1, 2]]
    states[second][:] = 1  # a copy
    assert np.array_equal(tallies.states, expected)


def test_states_come_back(graph: Graph) -> None:
    graph = with_slots(graph, 3)
    one, other = filled(graph, 1), allocate(graph, 1)
    other.load_states(one.states_by_node(graph))
    assert np.array_equal(other.states, one.states)
    assert not other.events.any()


@pytest.mark.parametrize("node", ["layers.0.mlgru", "layers.1.glu", "head", "embedding"])
def test_a_copy_is_of_one_stretch(node: str, graph: Graph) -> None:
    """In some rows, all its outputs, and its states; the rest stays as it was."""
    graph = with_slots(graph, 2)
    one, other, before = filled(graph, 2), filled(graph, 3), filled(graph, 3)
    start, stop = (0, 1) if graph.node(node).size == 1 else (5, 9)
    stretch, ports = (
        Stretch(0, node, start, stop, 0),
        [output.port for output in graph.node(node).outputs],
    )
    one.copy_to(other, stretch, ports, [0, 2, 3])
    expected = before
    for port in ports:
        at = one.layout.events[node, port]
        for row in (0, 2, 3):
            expected.events[row, at + start : at + stop] = one.events[row, at + start : at + stop]
    at = one.layout.saturated[node]
    for mine, others in ((expected.saturated, one.saturated), (expected.wrapped, one.wrapped)):
        for row in (0, 2, 3):
            mine[row, at + start : at + stop] = others[row, at + start : at + stop]
    if node in one.offsets:
        at = one.offsets[node]
        expected.states[:, at + start : at + stop] = one.states[:, at + start : at + stop]
    for name in ("events", "saturated", "wrapped", "states"):
        assert np.array_equal(getattr(other, name), getattr(expected, name))


def test_stretches_own_their_parts(graph: Graph) -> None:
    """All neurons of a graph, cut anywhere, cover every count once."""
    tallies, random = allocate(graph, 1), np.random.default_rng(4)
    for node in graph.nodes:
        cuts = sorted({0, node.size, *random.integers(0, node.size, 2).tolist()})
        for start, stop in pairwise(cuts):
            one = np.ones((1, stop - start), np.int64)
            ones = {output.port: one.copy() for output in node.outputs}
            state = one.copy() if isinstance(node, MLGRU) else None
            stretch = Stretch(0, node.name, start, stop, 0)
            ledger = Ledger(tallies, stretch, Counted(one.copy(), ones, state), {0: 0})
            ledger.settle()
    assert (tallies.events == [[1], [0]]).all()
    assert (tallies.saturated == [[1], [0]]).all()
    assert (tallies.wrapped == [[10], [0]]).all()
    assert (tallies.states == 1).all()


def test_neurons_on_a_board(hand_graph: Graph) -> None:
    """What real neurons count is what is added."""
    tallies, neurons = allocate(hand_graph, 1), Neurons(hand_graph, hand_graph.head, 0, 2)
    neurons.fire([np.array([[3, -5, 7], [0, 0, 0]], np.int32)], np.zeros(2, np.int32))
    tallies.add(Stretch(1, "head", 0, 2, 0), 0, neurons.program, 0)
    assert tallies.events[0].tolist() == [0] * 6 + [1, 1]
    assert not neurons.program.events["logits"].any()


def label(sequence: int, slot: int, *, generated: bool) -> np.ndarray:
    """Of the first token of a sequence in a slot."""
    return np.array([[sequence, 0, GENERATED * generated, slot]], np.int32)


def test_a_ledger_knows_whose_counts_are_in_a_slot(hand_graph: Graph) -> None:
    """They are put down when the sequence goes on to generate, when another has its slot, and at
    the end; what is counted in other slots stays."""
    tallies, stretch = allocate(hand_graph, 3), Stretch(1, "head", 1, 2, 0)
    program = Counted(np.array([[0], [0]]), {"logits": np.array([[0], [0]])})
    ledger = Ledger(tallies, stretch, program)

    def count(labels: np.ndarray, events: int, saturated: int) -> None:
        ledger.begin(labels.tolist())
        program.events["logits"][labels[0, SLOT]] += events
        program.saturated[labels[0, SLOT]] += saturated

    count(label(0, 0, generated=False), 3, 1)
    count(label(1, 1, generated=False), 5, 0)
    count(label(0, 0, generated=False), 4, 0)
    assert not tallies.events.any()
    count(label(0, 0, generated=True), 10, 2)
    assert tallies.events[:, 7].tolist() == [7, 0, 0, 0, 0, 0]
    count(label(2, 0, generated=False), 100, 0)
    assert tallies.events[:, 7].tolist() == [7, 10, 0, 0, 0, 0]
    ledger.settle()
    assert tallies.events[:, 7].tolist() == [7, 10, 5, 0, 100, 0]
    assert tallies.saturated[:, 4].tolist() == [1, 2, 0, 0, 0, 0]
    assert ledger.counted.tolist() == [122, 3]


def test_what_is_kept_is_what_may_have_changed(hand_graph: Graph) -> None:
    """Rows that were put down since states were last kept, and no others."""
    tallies, kept = allocate(hand_graph, 3), allocate(hand_graph, 3)
    program = Counted(np.array([[0]]), {"logits": np.array([[0]])})
    ledger = Ledger(tallies, Stretch(1, "head", 1, 2, 0), program)
    copied = [5, 0, 0, 0, 0, 0], [5, 0, 5, 0, 0, 0], [0, 0, 5, 0, 5, 0]
    for sequence, expected in enumerate(copied):
        kept.events[:] = 0
        ledger.begin(label(sequence, 0, generated=False).tolist())
        program.events["logits"][0] += 5
        ledger.keep(kept)
        assert kept.events[:, 7].tolist() == expected
    assert tallies.events[:, 7].tolist() == [5, 0, 5, 0, 5, 0]
