"""Graphs that choose words themselves: the words that the host would choose of their logits."""

from collections.abc import Callable
from dataclasses import replace
from typing import Any

import numpy as np
import pytest

from mmfree_neuro.errors import GraphError
from mmfree_neuro.graph import greedy, programs
from mmfree_neuro.graph.greedy import with_greedy
from mmfree_neuro.graph.local_roots import ALL, with_local_roots
from mmfree_neuro.graph.machine import CheckedMachine, Value
from mmfree_neuro.graph.nodes import (
    HERE,
    PRESENCE,
    Embedding,
    Graph,
    Head,
    Input,
    InverseRms,
    Largest,
    Output,
    Relay,
)
from mmfree_neuro.graph.partial_sums import by_columns, evenly
from mmfree_neuro.graph.slots import with_slots
from mmfree_neuro.graph.steps import steps
from mmfree_neuro.graph.verify import verify
from mmfree_neuro.integers.fixedpoint import Ints, QType
from mmfree_neuro.integers.ternary import pack
from mmfree_neuro.pipeline.quality import in_one_place
from mmfree_neuro.run import reference
from mmfree_neuro.run.job import Job

Graphs = Callable[[str, str], Graph]
LIMITS = (62, 31), (5, 3), (2, 2)
"""How many logits, and how many values with words, a neuron looks at."""


def limited(patch: pytest.MonkeyPatch, most: tuple[int, int]) -> None:
    patch.setattr(greedy, "MOST_LOGITS", most[0])
    patch.setattr(greedy, "MOST_VALUES", most[1])


def of_words(hand_graph: Graph, words: int) -> Graph:
    """The graph made by hand with another number of words."""
    embedding, head = hand_graph.embedding, hand_graph.head
    matrix = pack(np.resize(np.array([[1, -1, 0], [0, 1, 1]], np.int8), (words, 3)))
    codes = np.resize(embedding.codes, (words, 3))
    (entry,) = head.inputs
    told = Output(HERE, 3, QType(2, 0), unsigned=True)
    nodes = (
        replace(
            embedding,
            codes=codes,
            scales=np.ones(words, np.int64),
            outputs=(*embedding.outputs, told),
        ),
        replace(
            head,
            size=words,
            inputs=(replace(entry, matrix=matrix),),
            outputs=(replace(head.outputs[0], size=words),),
        ),
    )
    return verify(replace(hand_graph, nodes=nodes))


def chosen(graph: Graph, logits: Ints) -> int:
    """What the nodes behind the head send to the host of some logits."""
    signals = {(graph.head.name, "logits"): logits}
    for node in graph.nodes[graph.nodes.index(graph.head) + 1 :]:
        inputs: dict[str, Value] = {}
        for entry in node.inputs:
            if entry.port != PRESENCE:
                source = signals[entry.source, entry.source_port]
                padded = np.zeros(node.size * node.group, np.int64)
                padded[: len(source)] = source
                inputs[entry.port] = list(padded.reshape(node.size, node.group).T)
        machine = CheckedMachine(node.name)
        sent, _ = programs.run(machine, node, graph.sigmoid, node.constants, inputs)
        for port, values in sent.items():
            signals[node.name, port] = np.broadcast_to(values, node.size)
    name, output = graph.to_host
    (word,) = signals[name, output.port]
    return int(word)


@pytest.mark.parametrize("most", LIMITS)
@pytest.mark.parametrize("words", [1, 2, 3, 5, 6, 30, 31, 62, 63, 124, 125, 200])
def test_the_first_of_the_largest_logits(
    words: int, most: tuple[int, int], hand_graph: Graph, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Also where all are negative, so that no group may take a value that is not there for one of
    zero, and where many are equal."""
    limited(monkeypatch, most)
    graph, rng = with_greedy(of_words(hand_graph, words)), np.random.default_rng(words)
    high = graph.head.outputs[0].qtype.high
    drawn = [rng.integers(-reach, reach + 1, words) for reach in (1, 2, 100, high)]
    equal = [np.full(words, value) for value in (0, 7, -7, high, -high)]
    negative = [-1 - np.abs(logits) // 2 for logits in drawn]
    for logits in (*drawn, *equal, *negative, *(one[::-1] for one in drawn)):
        assert chosen(graph, logits) == int(logits.argmax()) + 1
    for word in {0, words // 2, words - 1}:
        one = np.full(words, -5)
        one[word] = -4
        assert chosen(graph, one) == word + 1


@pytest.mark.parametrize("most", LIMITS)
def test_the_same_words_as_of_the_logits(
    most: tuple[int, int], graph: Graph, monkeypatch: pytest.MonkeyPatch
) -> None:
    """In every scheme, with all words of a model of bytes."""
    limited(monkeypatch, most)
    choosing, prompts = with_greedy(graph), [np.array([7, 1, 200]), np.array([33])]
    expected = reference.run(graph, in_one_place(graph), Job(prompts, 4))
    job = Job(prompts, 4, keep_logits=False)
    found = reference.run(choosing, in_one_place(choosing), job)
    for one, other in zip(found.outcomes, expected.outcomes, strict=True):
        assert one.chosen.tolist() == other.chosen.tolist()
        assert one.logits.shape == (0, graph.vocabulary)


@pytest.mark.parametrize(
    ("words", "arities"),
    [
        (1, [1]),
        (2, [2]),
        (62, [62]),
        (63, [9, 7]),
        (260, [20, 13]),
        (32_000, [40, 29, 28]),
        (50_257, [53, 31, 31]),
        (59_582, [62, 31, 31]),
        (59_583, [16, 19, 14, 14]),
    ],
)
def test_as_few_levels_as_can_be(words: int, arities: list[int]) -> None:
    assert greedy._arities(words) == arities
    groups = words
    for arity in arities:
        groups = -(-groups // arity)
    assert groups == 1


def test_nodes_behind_the_head(random_graph: Graphs) -> None:
    """A step for each level, and one payload for the host; each level learns of a token from the
    last root."""
    graph = random_graph("64x3x32", "a14-late")
    choosing = with_greedy(graph)
    assert (graph.greedy, choosing.greedy) == (False, True)
    first, second = choosing.nodes[len(graph.nodes) :]
    assert isinstance(first, Largest) and isinstance(second, Largest)
    assert (first.name, first.size, first.arity) == ("largest.0", 7, 11)
    assert (second.name, second.size, second.arity) == ("largest.1", 1, 7)
    assert [(o.port, o.size) for o in first.outputs] == [("word", 7), ("value", 7)]
    assert [(o.port, o.size) for o in second.outputs] == [("word", 1)]
    assert choosing.head is graph.head
    assert (graph.to_host, choosing.to_host) == (
        ("head", graph.head.outputs[0]),
        ("largest.1", second.outputs[0]),
    )
    firing = steps(choosing.nodes)
    assert [firing[n.name] - firing["head"] for n in (first, second)] == [1, 2]
    assert first.constants["first"].tolist() == [1, 12, 23, 34, 45, 56, 67]
    assert (len(first.constants), second.constants) == (1, {})
    for node, delay in ((first, 1), (second, 2)):
        (told,) = node.ports[PRESENCE]
        assert (told.source, told.source_port, told.delay) == ("head.rms", "r", delay)


def test_groups_of_which_the_last_has_fewer_values(hand_graph: Graph) -> None:
    first = with_greedy(of_words(hand_graph, 127)).nodes[2]
    assert isinstance(first, Largest)
    assert (first.size, first.arity, first.fewest) == (11, 12, 7)
    assert {name: values.tolist() for name, values in first.constants.items()} == {
        "first": [1, 13, 25, 37, 49, 61, 73, 85, 97, 109, 121],
        "members": [12] * 10 + [7],
    }


def test_who_tells_of_a_token(random_graph: Graphs) -> None:
    """The last root or relay; without any, the embedding."""
    late = random_graph("64x3x32", "a14-late")
    kinds: list[type[Any]] = []
    for graph in (late, with_local_roots(late, [ALL]), with_slots(late, 3)):
        (told,) = with_greedy(graph).nodes[-1].ports[PRESENCE]
        kinds.append(type(graph.node(told.source)))
    assert kinds == [InverseRms, Relay, InverseRms]
    alone = with_local_roots(random_graph("16x1x24", "a14-late"), [ALL])
    (told,) = with_greedy(alone).nodes[-1].ports[PRESENCE]
    assert isinstance(alone.node(told.source), Embedding)


def test_sums_can_be_divided_behind(random_graph: Graphs) -> None:
    graph = with_greedy(random_graph("64x3x32", "a14-late"))
    divided = by_columns(graph, evenly(graph, (("head", 2),)))
    assert divided.greedy and divided.head.name == "head"
    assert divided.to_host == graph.to_host


def test_graphs_that_cannot_choose(random_graph: Graphs) -> None:
    graph = random_graph("64x3x32", "a14-late")
    for wrong, said in (
        (with_greedy(graph), "tiny: chooses words already"),
        (
            by_columns(graph, evenly(graph, (("head", 2),))),
            "tiny: has sums that are divided, must choose words before",
        ),
    ):
        with pytest.raises(GraphError) as error:
            with_greedy(wrong)
        assert str(error.value) == said


def behind(graph: Graph, number: int, **changes: Any) -> Graph:
    """The graph with another node behind the head."""
    at = graph.nodes.index(graph.head) + 1 + number
    changed = replace(graph.nodes[at], **changes)
    return replace(graph, nodes=(*graph.nodes[:at], changed, *graph.nodes[at + 1 :]))


def reading(node: Any, port: str, **changes: Any) -> tuple[Input, ...]:
    """The inputs of a node, with another one at a port."""
    return tuple(replace(e, **changes) if e.port == port else e for e in node.inputs)


WRONG: dict[str, Callable[[Graph], Graph]] = {
    "the last has a value": lambda g: behind(
        g, 1, outputs=(*g.nodes[-1].outputs, Output("value", 1, g.head.outputs[0].qtype))
    ),
    "the last is not one": lambda g: replace(g, nodes=g.nodes[:-1]),
    "other values": lambda g: behind(g, 0, values=36),
    "no values": lambda g: behind(g, 0, arity=0),
    "too many values": lambda g: behind(g, 0, arity=65),
    "more than any number": lambda g: behind(g, 0, values=1 << 80, arity=1 << 70),
    "no words": lambda g: behind(
        g, 1, inputs=tuple(e for e in g.nodes[-1].inputs if e.port != "word")
    ),
    "words of no logits": lambda g: behind(
        g, 0, inputs=(*g.nodes[-2].inputs, Input("word", "largest.0", "word", "group"))
    ),
    "values of the head": lambda g: behind(
        g, 1, inputs=reading(g.nodes[-1], "value", source="head", source_port="logits")
    ),
    "words of another": lambda g: behind(
        g, 1, inputs=reading(g.nodes[-1], "word", source="head.rms", source_port="r")
    ),
    "values summed": lambda g: behind(g, 1, inputs=reading(g.nodes[-1], "value", how="sum")),
    "something else behind": lambda g: replace(
        g, nodes=(*g.nodes, replace(g.node("head.rms"), name="more"))
    ),
    "before the head": lambda g: replace(
        g, nodes=(*g.nodes[:-3], replace(g.nodes[-2], name="early"), *g.nodes[-3:])
    ),
    "two heads": lambda g: replace(g, nodes=(*g.nodes, replace(g.head, name="again"))),
}


@pytest.mark.parametrize("case", WRONG)
def test_what_does_not_find_the_largest_logit(case: str, random_graph: Graphs) -> None:
    wrong = WRONG[case](with_greedy(random_graph("64x3x32", "a14-late")))
    with pytest.raises(GraphError) as error:
        verify(wrong)
    assert str(error.value) == (
        "tiny: a graph begins with an Embedding and ends with a Head, or behind it with the nodes "
        "that find its largest logit"
    )


def test_two_heads_are_a_head_that_nobody_reads(hand_graph: Graph) -> None:
    """The last one is the head."""
    graph = replace(hand_graph, nodes=(*hand_graph.nodes, replace(hand_graph.head, name="again")))
    assert isinstance(verify(graph).head, Head) and graph.head.name == "again"
