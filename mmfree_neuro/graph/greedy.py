"""Graphs that choose the next word themselves: the word that the host would choose of their
logits.

Behind the head stand neurons that each find the largest of a group of logits, and whose it is; then
neurons that find the largest of these, until one is left.  Of equal logits the first wins, as on
the host.  So one payload goes to the host for a token, not as many as there are words.

    head ── logits ──→ largest.0 ── value, word ──→ largest.1 ── … ── word ──→ host

Sampling needs the logits, so it stays with graphs whose logits go to the host.
"""

from dataclasses import replace

from mmfree_neuro.errors import GraphError
from mmfree_neuro.graph.nodes import PRESENCE, AnyNode, Graph, Input, Largest, Output
from mmfree_neuro.graph.relays import teller
from mmfree_neuro.graph.steps import delayed
from mmfree_neuro.graph.verify import verify
from mmfree_neuro.integers.fixedpoint import QType

MOST_LOGITS = 62
"""How many logits a neuron looks at, at most."""
MOST_VALUES = 31
"""How many values a neuron looks at that come with their words."""


def with_greedy(graph: Graph) -> Graph:
    """The same graph, which sends the first word of the largest logit, plus 1, instead of all
    logits.

    Raises GraphError where it chooses already, or has sums that are divided: those are divided
    afterwards.
    """
    if graph.greedy:
        raise GraphError(f"{graph.name}: chooses words already")
    if any(node.passes_on for node in graph.nodes):
        raise GraphError(f"{graph.name}: has sums that are divided, must choose words before")
    found: list[AnyNode] = [*graph.nodes]
    told = Input(PRESENCE, *teller(graph.nodes), "broadcast")
    source, values = graph.to_host
    arities = _arities(values.size)
    words = QType((arities[0] + values.size).bit_length() + 1, 0)
    for level, arity in enumerate(arities):
        inputs = [Input("value", source, values.port, "group")]
        if level:
            inputs.append(Input("word", source, "word", "group"))
        size = -(-values.size // arity)
        outputs = [Output("word", size, words, unsigned=True)]
        if level + 1 < len(arities):
            outputs.append(Output("value", size, values.qtype))
        name = f"largest.{level}"
        found.append(Largest(name, size, (*inputs, told), tuple(outputs), arity, values.size))
        source, values = name, replace(values, port="value", size=size)
    return verify(replace(graph, nodes=delayed(found)))


def _arities(size: int) -> list[int]:
    """How many values a neuron looks at, level by level, until one is left: with as few levels as
    can be about as many at each, and rather so many that no group has fewer than the others.

    For 32,000 logits, 40, 29 and 28: of 32,000 groups of 40 are 800, of these groups of 29 are 28.
    """
    most, found = MOST_LOGITS, list[int]()
    while size > 1 or not found:
        levels = max(1, _levels(size, most))
        enough = [
            a
            for a in range(1, most + 1)
            if a**levels >= size and _levels(-(-size // a), MOST_VALUES) < levels
        ]
        found.append(min(enough, key=lambda a: (size % a != 0, a)))
        size, most = -(-size // found[-1]), MOST_VALUES
    return found


def _levels(size: int, most: int) -> int:
    """How many levels are enough for so many values, of which the first looks at so many."""
    levels = 0
    while size > 1:
        size, most, levels = -(-size // most), MOST_VALUES, levels + 1
    return levels
