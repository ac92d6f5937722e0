"""What a run did, counted: no time, no energy.  Every engine gives the same counts for the same
mapping."""

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np

from mmfree_neuro.graph.nodes import AnyNode, Graph, Input, span
from mmfree_neuro.integers.fixedpoint import Ints
from mmfree_neuro.mapping.mapping import Mapping


@dataclass(frozen=True, eq=False)
class Activity:
    """Counts over `tokens` tokens; the arrays run parallel to the mapping's shards, `messages` to
    its routes.

    `synops` are synaptic operations with a non-zero weight and a non-zero payload.  `reads` are
    synapses read from memory when storage is dense: every arriving payload reads its whole column
    of the shard, zeros included. `messages` counts a non-zero payload of a route once, however many
    cores it is delivered to.  A payload of zero is no message; how many were saved is the size of
    the route times the tokens, less its messages.  `wrapped` are the sums that did not fit their
    accumulators, of those that calibration holds there.
    """

    tokens: int
    fired: Ints
    synops: Ints
    reads: Ints
    saturations: Ints
    wrapped: Ints
    messages: Ints

    def __eq__(self, other: object) -> bool:
        return isinstance(other, Activity) and all(
            np.array_equal(a, b) for a, b in zip(self.arrays(), other.arrays(), strict=True)
        )

    def __add__(self, other: "Activity") -> "Activity":
        return Activity(
            self.tokens + other.tokens,
            *(a + b for a, b in zip(self.arrays()[1:], other.arrays()[1:], strict=True)),
        )

    def arrays(self) -> tuple[Ints, Ints, Ints, Ints, Ints, Ints, Ints]:
        """All counts, the token count first."""
        return (
            np.array(self.tokens),
            self.fired,
            self.synops,
            self.reads,
            self.saturations,
            self.wrapped,
            self.messages,
        )


def total(some: Sequence[Activity]) -> Activity:
    """The counts of several, of which there is at least one."""
    added = (sum(counts[1:], counts[0]) for counts in zip(*(a.arrays() for a in some), strict=True))
    tokens, *others = added
    return Activity(int(tokens), *others)


def nothing(mapping: Mapping) -> Activity:
    """The activity of no tokens."""
    shards, routes = len(mapping.shards), len(mapping.routes)
    return Activity(0, *(np.zeros(n, np.int64) for n in (*[shards] * 5, routes)))


def expected(graph: Graph, mapping: Mapping) -> Activity:
    """The activity of one token whose payloads are all non-zero: what a run counts at most."""
    shards = len(mapping.shards)
    synops: Ints = np.zeros(shards, np.int64)
    reads: Ints = np.zeros(shards, np.int64)
    for position, shard in enumerate(mapping.shards):
        node = graph.node(shard.node)
        for entry in node.inputs:
            count = _synapses(graph, node, entry, shard.start, shard.stop)
            reads[position] += count
            matrix = entry.matrix
            synops[position] += (
                count if matrix is None else round(matrix.nonzero / matrix.size * count)
            )
    sent = np.array([route.stop - route.start for route in mapping.routes], np.int64)
    none, lost = (np.zeros(shards, np.int64) for _ in range(2))
    return Activity(1, np.ones(shards, np.int64), synops, reads, lost, none, sent)


def _synapses(graph: Graph, node: AnyNode, entry: Input, start: int, stop: int) -> int:
    """Synapses of some neurons at one input."""
    first, last = span(
        node, entry, start, stop, graph.node(entry.source).output(entry.source_port).size
    )
    return (last - first) * (stop - start if entry.reaches_all else 1)
