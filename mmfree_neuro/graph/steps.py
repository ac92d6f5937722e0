"""The step at which each node fires, and how long its inputs wait for each other."""

from collections.abc import Iterable
from dataclasses import replace

from mmfree_neuro.graph.nodes import AnyNode, Input


def steps(nodes: Iterable[AnyNode]) -> dict[str, int]:
    """The step of every node: one more than the latest of its sources, which stand before it; 0
    for the embedding."""
    found: dict[str, int] = {}
    for node in nodes:
        found[node.name] = step_of(node, found)
    return found


def step_of(node: AnyNode, earlier: dict[str, int]) -> int:
    """The step of one node from those of its sources."""
    return max((earlier[entry.source] + 1 for entry in node.inputs), default=0)


def delay(step: dict[str, int], node: AnyNode, entry: Input) -> int:
    """How many steps what an input brings must wait: what is sent at one step is there at the
    next."""
    return step[node.name] - 1 - step[entry.source]


def delayed(nodes: Iterable[AnyNode]) -> tuple[AnyNode, ...]:
    """The same nodes, their inputs with the delays that make all sums of one token meet."""
    nodes = tuple(nodes)
    step = steps(nodes)
    return tuple(_delayed(step, node) for node in nodes)


def _delayed(step: dict[str, int], node: AnyNode) -> AnyNode:
    if all(entry.delay == delay(step, node, entry) for entry in node.inputs):
        return node
    inputs = tuple(replace(entry, delay=delay(step, node, entry)) for entry in node.inputs)
    return replace(node, inputs=inputs)
