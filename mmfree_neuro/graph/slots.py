"""Graphs for several sequences that are under way at once: the same function of each of them.

A recurrence keeps a state for each sequence, in slots, and a token carries a mark that says whose
it is and whether its sequence begins (`nodes.mark`).  The embedding sends the mark in the place of
the 1 that says that there is a token.  One relay in each block passes it on in step with the end of
the block, so it waits a few steps at most where it is read, and no token takes longer.

    embedding ── mark ──→ relay of block 0 ──→ relay of block 1 ──→ …
                   ↘ mixer of block 0      ↘ mixer of block 1

What else only asks whether a token is there reads what it read before.
"""

from dataclasses import replace

from mmfree_neuro.errors import GraphError
from mmfree_neuro.graph.nodes import (
    HERE,
    MLGRU,
    OF_TOKENS,
    AnyNode,
    Embedding,
    Graph,
    Input,
    Relay,
    largest_mark,
)
from mmfree_neuro.graph.relays import Ends, without_unread
from mmfree_neuro.graph.steps import delayed
from mmfree_neuro.graph.verify import verify
from mmfree_neuro.integers.fixedpoint import QType
from mmfree_neuro.target.layout import MOST_STATES


def with_slots(graph: Graph, slots: int) -> Graph:
    """The same function of every sequence, bit for bit, for as many of them under way at once.

    Raises GraphError where there are less than one or more than `MOST_STATES`, or the graph has
    several already, or sums that are divided: those are divided afterwards.
    """
    if not 1 <= slots <= MOST_STATES:
        raise GraphError(
            f"{graph.name}: {slots} sequences in flight were asked for, must be 1 … {MOST_STATES}"
        )
    if graph.slots != 1:
        raise GraphError(f"{graph.name}: is for {graph.slots} sequences in flight already")
    if slots == 1:
        return graph
    if any(node.passes_on for node in graph.nodes):
        raise GraphError(f"{graph.name}: has sums that are divided, must be given slots before")
    return verify(replace(graph, nodes=delayed(_marked(graph, slots))))


def _marked(graph: Graph, slots: int) -> list[AnyNode]:
    """The nodes with marks on their way from block to block."""
    ends = Ends(graph.nodes)
    width = QType(largest_mark(slots).bit_length() + 1, 0)
    embedding = _marking(graph.embedding, slots, width)
    source, told = embedding.name, embedding.output(HERE)
    found: list[AnyNode] = [embedding]
    for node in graph.nodes[1:]:
        if isinstance(node, Relay):  # one that passes marks on takes its place
            continue
        if ends.of(node) is not None:
            relay = ends.relay(node, source, told)
            found.append(relay)
        if isinstance(node, MLGRU):
            reads = [entry for entry in node.inputs if entry.port not in OF_TOKENS]
            here = Input(HERE, source, told.port, "broadcast")
            node = replace(node, slots=slots, inputs=(*reads, here))
        found.append(node)
        if ends.of(node) is not None:
            source, told = relay.name, relay.output(HERE)
    return without_unread(found)


def _marking(embedding: Embedding, slots: int, width: QType) -> Embedding:
    """The embedding that sends marks."""
    outputs = tuple(
        replace(output, qtype=width) if output.port == HERE else output
        for output in embedding.outputs
    )
    return replace(embedding, slots=slots, outputs=outputs)
