"""The neurons of a graph as one chain, in the order of its nodes: what parts of it ask of a
core and of a chip.

Data flows along the chain, so whoever cuts it into chips, or a chip's part into cores, cuts few
streams.  A part is a list of pieces, each some neighbouring neurons of one node.
"""

from collections.abc import Mapping, Sequence
from functools import cached_property

import numpy as np

from mmfree_neuro.graph.assembler import guard
from mmfree_neuro.graph.nodes import Graph
from mmfree_neuro.graph.verify import instruction_counts
from mmfree_neuro.mapping.footprint import Sizes, Taken, limits, over
from mmfree_neuro.mapping.mapping import Shard
from mmfree_neuro.systems.spec import ChipSpec
from mmfree_neuro.target.layout import weight_words
from mmfree_partition.chain.links import Link, Piece, Position, reads

FULL = 32
"""Weights that leave no part of a memory word empty, however many bits they have."""


class Chain:
    """The nodes of a graph that lie on chips, and what a core of a chip can take."""

    def __init__(
        self,
        graph: Graph,
        chip: ChipSpec,
        host: frozenset[str],
        entries: Mapping[str, int] | None = None,
        sizes: Sizes | None = None,
    ) -> None:
        """`entries` as `footprint.Sizes` has them; `sizes` where they are known already."""
        issued = instruction_counts(graph)
        counts = {node.name: issued[node.name] + guard(node) for node in graph.nodes}
        self.graph, self.chip, self.host, self.room = graph, chip, host, limits(chip)
        self.sizes = sizes or Sizes(graph, chip, entries)
        self.links = tuple(
            Link(node, reads(graph, node), counts[node.name].total())
            for node in graph.nodes
            if node.name not in host
        )
        self.number = {link.node.name: k for k, link in enumerate(self.links)}

    @property
    def end(self) -> Position:
        """Behind the last neuron."""
        return len(self.links), 0

    @property
    def neurons(self) -> int:
        """How many neurons it has."""
        return sum(link.node.size for link in self.links)

    def of(self, graph: Graph) -> "Chain":
        """The chain of the same graph with some sums divided."""
        return Chain(graph, self.chip, self.host, sizes=self.sizes.divided(graph))

    def without(self, names: frozenset[str]) -> "Chain":
        """The chain without some nodes at its end."""
        return Chain(self.graph, self.chip, self.host | names, sizes=self.sizes)

    def fits(self, taken: Taken) -> bool:
        """Whether a core holds so much."""
        return over(taken.all, self.room) is None

    @cached_property
    def nanoseconds(self) -> list[tuple[float, float]]:
        """For each node: what a neuron takes of its core's synapses, read and worked off, and of
        its instructions."""
        return [(max(read, done), issued) for read, done, issued in self.chip_times]

    def busiest(self, core: Sequence[Shard]) -> float:
        """Nanoseconds that a core takes."""
        return self.load([(self.number[shard.node], shard.start, shard.stop) for shard in core])

    def least_slowest(self, cores: int) -> float:
        """Nanoseconds that the slowest of so many cores takes at least: the busiest resource,
        spread evenly."""
        sizes = np.array([link.node.size for link in self.links])
        return float((np.array(self.chip_times) * sizes[:, None]).sum(0).max() / cores)

    @cached_property
    def chip_times(self) -> list[tuple[float, float, float]]:
        """For each node: what a neuron takes of synaptic memory, of synaptic operations and of
        instructions."""
        times = []
        words = weight_words(FULL, int(self.chip.weight_bits.central)) / FULL
        for link in self.links:
            size = link.node.size
            full = link.reads * size
            ternary = [e.matrix for e in link.node.inputs if e.matrix is not None]
            zeros = sum(matrix.size - matrix.nonzero for matrix in ternary)
            weighed = link.reads * words if ternary else 0.0
            times.append(
                (
                    weighed * self.chip.time_per_word_ns.central,
                    (full - zeros) / size * self.chip.time_per_synop_ns.central,
                    link.instructions * self.chip.time_per_instruction_ns.central,
                )
            )
        return times

    def whole(self) -> list[Piece]:
        """All of it."""
        return self.pieces((0, 0), self.end)

    def pieces(self, start: Position, stop: Position) -> list[Piece]:
        """The neurons from one place to another, node by node."""
        pieces = []
        for k in range(start[0], min(stop[0] + 1, len(self.links))):
            size = self.links[k].node.size
            first, last = (start[1] if k == start[0] else 0), (stop[1] if k == stop[0] else size)
            if first < last:
                pieces.append((k, first, last))
        return pieces

    def load(self, pieces: Sequence[Piece]) -> float:
        """Nanoseconds of the busier resource, all neurons of these pieces together."""
        times = np.array(
            [np.array(self.nanoseconds[k]) * (last - first) for k, first, last in pieces]
        )
        return float(times.sum(0).max())
