"""Relays: what says that there is a token, passed on from block to block in step with the end of
each."""

from collections.abc import Collection, Sequence
from dataclasses import dataclass
from functools import cached_property

from mmfree_neuro.graph.nodes import (
    HERE,
    PACE,
    PRESENCE,
    AnyNode,
    Input,
    InverseRms,
    Output,
    QuantScale,
    Relay,
    block_of,
)

TELLERS = InverseRms, QuantScale, Relay
"""The nodes on chips whose first output tells of a token."""


def teller(nodes: Sequence[AnyNode]) -> tuple[str, str]:
    """The last node and its output that tell of a token; the embedding where no other does."""
    for node in reversed(nodes):
        if isinstance(node, TELLERS):
            return node.name, node.outputs[0].port
    return nodes[0].name, HERE


@dataclass(frozen=True, eq=False)
class Ends:
    """The ends of the blocks of some nodes, where relays stand."""

    nodes: Sequence[AnyNode]

    @cached_property
    def last(self) -> dict[int | None, str]:
        """The last node of every block."""
        return {block_of(node.name): node.name for node in self.nodes}

    @cached_property
    def step(self) -> dict[str, int]:
        """The step of every node by what it computes with; what only tells of a token decides
        none."""
        found: dict[str, int] = {}
        for node in self.nodes:
            reads = [entry for entry in node.inputs if entry.port not in (PRESENCE, HERE)]
            found[node.name] = max((found[entry.source] + 1 for entry in reads), default=0)
        return found

    def of(self, node: AnyNode) -> int | None:
        """The block that a node is the end of; None for others."""
        block = block_of(node.name)
        return block if node.name == self.last[block] else None

    def relay(self, node: AnyNode, source: str, told: Output) -> Relay:
        """A relay of what a node sends, which fires together with the node at the end of a block:
        by what arrives there last."""
        last = max(node.inputs, key=lambda entry: self.step.get(entry.source, 0))
        inputs = (
            Input(HERE, source, told.port, "broadcast"),
            Input(PACE, last.source, last.source_port, "broadcast"),
        )
        output = Output(HERE, 1, told.qtype, told.unsigned)
        return Relay(f"layers.{block_of(node.name)}.{HERE}", 1, inputs, (output,))


def without_unread(nodes: Collection[AnyNode]) -> list[AnyNode]:
    """The same nodes without relays that nobody reads."""
    read: set[str] = set()
    kept: list[AnyNode] = []
    for node in reversed([*nodes]):
        if not isinstance(node, Relay) or node.name in read:
            kept.append(node)
            read.update(entry.source for entry in node.inputs)
    return kept[::-1]
