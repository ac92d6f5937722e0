"""Pieces of the chain: what is placed, where it stands, and what passes between two."""

from dataclasses import dataclass

from mmfree_neuro.graph.nodes import AnyNode, Graph, span

Piece = tuple[int, int, int]
"""Some neurons of a node: its number along the chain, the first of them, the one behind the
last."""


Position = tuple[int, int]
"""A place to cut: before a neuron of a node, both counted along the chain."""


@dataclass(frozen=True)
class Link:
    """The neurons of one node, all alike: what each asks for a token with every payload
    non-zero."""

    node: AnyNode
    reads: int
    """Synapses that a neuron reads."""
    instructions: int


def reads(graph: Graph, node: AnyNode) -> int:
    """Synapses that a neuron reads where every payload is non-zero."""
    sizes = (graph.node(entry.source).output(entry.source_port).size for entry in node.inputs)
    spans = (span(node, entry, 0, 1, size) for entry, size in zip(node.inputs, sizes, strict=True))
    return sum(last - first for first, last in spans)
