"""Turns what neurons counted into the `Activity` of a mapping.

Engines count, neuron by neuron, the non-zero payloads of every output, the saturated values and the
sums that wrapped.
All else follows: a synaptic operation is a non-zero payload that meets a non-zero weight, a message
a non-zero payload on a route.
"""

from collections.abc import Mapping
from itertools import accumulate

import numpy as np

from mmfree_kernels.cpu.products import synops
from mmfree_neuro.graph.nodes import AnyNode, Graph, Input, span
from mmfree_neuro.integers.fixedpoint import Ints
from mmfree_neuro.mapping.mapping import Mapping as Placed
from mmfree_neuro.run.activity import Activity


class Layout:
    """Where the counts of every neuron stand in flat vectors: `events` by output and neuron,
    `saturated` by neuron; wrapped sums as saturated values."""

    def __init__(self, graph: Graph) -> None:
        keys = [
            (node.name, output.port, output.size) for node in graph.nodes for output in node.outputs
        ]
        ends = list(accumulate(size for *_, size in keys))
        self.events = {
            (name, port): end - size for (name, port, size), end in zip(keys, ends, strict=True)
        }
        self.events_size = ends[-1]
        sizes = list(accumulate(node.size for node in graph.nodes))
        self.saturated = {
            node.name: end - node.size for node, end in zip(graph.nodes, sizes, strict=True)
        }
        self.saturated_size = sizes[-1]


def _before(counts: Ints) -> Ints:
    """Entry k is the sum of the first k counts."""
    return np.concatenate([[0], counts.cumsum()])


class Counting:
    """The counts of a mapping from those of the neurons."""

    def __init__(self, graph: Graph, mapping: Placed) -> None:
        self.graph, self.mapping, self.layout = graph, mapping, Layout(graph)
        at = [self.layout.events[mapping.shards[r.source].node, r.port] for r in mapping.routes]
        self.route_start = np.array(
            [a + r.start for a, r in zip(at, mapping.routes, strict=True)], np.int64
        )
        self.route_stop = np.array(
            [a + r.stop for a, r in zip(at, mapping.routes, strict=True)], np.int64
        )
        self.shards: dict[str, list[int]] = {}
        for position, shard in enumerate(mapping.shards):
            self.shards.setdefault(shard.node, []).append(position)

    def of_neurons(
        self,
        events: Mapping[tuple[str, str], Ints],
        saturated: Mapping[str, Ints],
        wrapped: Mapping[str, Ints],
        tokens: int,
    ) -> Activity:
        """The activity of `tokens` tokens, from events by node and output, and saturations and
        wrapped sums by node, of every node."""
        sent: Ints = np.zeros(self.layout.events_size, np.int64)
        for signal, counted in events.items():
            at = self.layout.events[signal]
            sent[at : at + len(counted)] = counted
        return self.activity(sent, self._flat(saturated), self._flat(wrapped), tokens)

    def _flat(self, counts: Mapping[str, Ints]) -> Ints:
        """Counts by node as one vector."""
        found: Ints = np.zeros(self.layout.saturated_size, np.int64)
        for name, counted in counts.items():
            at = self.layout.saturated[name]
            found[at : at + len(counted)] = counted
        return found

    def activity(self, events: Ints, saturated: Ints, wrapped: Ints, tokens: int) -> Activity:
        """The activity of `tokens` tokens; the vectors are laid out as `Layout` says."""
        before, shards = _before(events), self.mapping.shards
        changed, left = _before(saturated), _before(wrapped)
        done, read, lost, over = (np.zeros(len(shards), np.int64) for _ in range(4))
        for node in self.graph.nodes:
            positions = self.shards[node.name]
            start, stop = (
                np.array([getattr(shards[p], side) for p in positions])
                for side in ("start", "stop")
            )
            at = self.layout.saturated[node.name]
            lost[positions] = changed[at + stop] - changed[at + start]
            over[positions] = left[at + stop] - left[at + start]
            for entry in node.inputs:
                did, took = self._synapses(node, entry, start, stop, events, before)
                done[positions] += did
                read[positions] += took
        messages = before[self.route_stop] - before[self.route_start]
        return Activity(tokens, np.full(len(shards), tokens), done, read, lost, over, messages)

    def _synapses(
        self, node: AnyNode, entry: Input, start: Ints, stop: Ints, events: Ints, before: Ints
    ) -> tuple[Ints, Ints]:
        """Synaptic operations and dense reads of shards at one input."""
        at, size = self.layout.events[entry.source, entry.source_port], self._size(entry)
        spans = [span(node, entry, int(a), int(b), size) for a, b in zip(start, stop, strict=True)]
        first, last = (np.array(side) for side in zip(*spans, strict=True))
        arrived: Ints = before[at + last] - before[at + first]
        if entry.matrix is not None:
            columns = slice(at + entry.first, at + entry.first + entry.matrix.columns)
            rows = _before(synops(entry.matrix, events[columns]))
            return rows[stop] - rows[start], arrived * (stop - start)
        each = arrived * (stop - start) if entry.reaches_all else arrived
        return each, each

    def _size(self, entry: Input) -> int:
        return self.graph.node(entry.source).output(entry.source_port).size
