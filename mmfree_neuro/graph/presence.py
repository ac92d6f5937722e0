"""Proves that a graph can run on a machine whose neurons run at every step, token or not."""

from mmfree_neuro.errors import GraphError
from mmfree_neuro.graph import programs
from mmfree_neuro.graph.bounds import Bounds, Interval
from mmfree_neuro.graph.machine import Value
from mmfree_neuro.graph.nodes import AnyNode, Graph
from mmfree_neuro.graph.steps import delay

NeverZero = set[tuple[str, str]]
"""Outputs, by node and port, of which no payload is zero when a token is there."""


def check_delays(node: AnyNode, step: dict[str, int]) -> None:
    """GraphError where an input brings what it reads earlier or later than others of its token."""
    for entry in node.inputs:
        due = delay(step, node, entry)
        if entry.delay != due:
            raise GraphError(
                f"{node.name}: input {entry.port}: waits {entry.delay} steps, must wait {due}, "
                "for all sums of one token to meet"
            )


def check_presence(graph: Graph, node: AnyNode, never_zero: NeverZero) -> None:
    """GraphError where a node would do something at a step without a token.

    A node with presence does nothing then, if what arrives there is never zero otherwise.  Any
    other must keep no state, and answer sums of zero with nothing.
    """
    if node.presence is not None:
        for entry in node.ports[node.presence]:
            signal = entry.source, entry.source_port
            if entry.how != "broadcast" or signal not in never_zero:
                raise GraphError(
                    f"{node.name}: input {entry.port}: what arrives from {entry.source}."
                    f"{entry.source_port} can be zero, must say that a token is there"
                )
        return
    if node.state_type is not None:
        raise GraphError(f"{node.name}: keeps a state, must have an input of presence")
    nothing: dict[str, Value] = {
        port: [_ZERO] * node.group if node.reads_group(port) else _ZERO for port in node.reads
    }
    sent, _ = programs.run(Bounds(node.name), node, graph.sigmoid, node.constants, nothing)
    for port, reached in sent.items():
        if reached != _ZERO:
            raise GraphError(
                f"{node.name}: output {port} is {reached.low} … {reached.high} when nothing "
                "arrives, must have an input of presence"
            )


_ZERO = Interval(0, 0)
