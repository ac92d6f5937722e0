"""What crosses a cut of the chain."""

from mmfree_neuro.graph.nodes import AnyNode


def copyable(node: AnyNode) -> bool:
    """Whether several cores may hold the same neurons of a node: those without weights and without
    state."""
    weights = any(entry.how == "ternary" for entry in node.inputs)
    return bool(node.inputs) and node.state_type is None and not weights
