"""What crosses a cut of the chain."""

from mmfree_neuro.graph.nodes import MLGRU, AnyNode, Embedding


def copyable(node: AnyNode) -> bool:
    """Whether several cores may hold the same neurons of a node: those without weights and without
    state."""
    return not isinstance(node, MLGRU | Embedding) and all(
        entry.how != "ternary" for entry in node.inputs
    )
