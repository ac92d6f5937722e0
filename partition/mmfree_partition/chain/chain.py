"""The neurons of a graph as one chain, in the order of its nodes: what stretches of it ask of a
core and of a chip.

Data flows along the chain, so whoever cuts it into chips, or a chip's part into cores, cuts few
streams.  A stretch is a list of pieces, each some neighbouring neurons of one node.
"""

from collections.abc import Sequence
from functools import cached_property

import numpy as np

from mmfree_neuro.graph.nodes import Graph
from mmfree_neuro.graph.verify import instruction_counts
from mmfree_neuro.mapping.footprint import EMPTY, Footprint, footprint, limits
from mmfree_neuro.mapping.mapping import Shard
from mmfree_neuro.systems.spec import ChipSpec
from mmfree_partition.chain.crossing import copyable
from mmfree_partition.chain.links import Link, Piece, Position, reads


class Chain:
    """The nodes of a graph that lie on chips, and what a core of a chip can take."""

    def __init__(self, graph: Graph, chip: ChipSpec, host: frozenset[str]) -> None:
        issued = instruction_counts(graph)
        self.graph, self.chip, self.host, self.room = graph, chip, host, limits(chip)
        self.bits = int(chip.weight_bits.central)
        self.links = tuple(
            Link(node, reads(graph, node), sum(issued[node.name].values()))
            for node in graph.nodes
            if node.name not in host
        )
        self.number = {link.node.name: k for k, link in enumerate(self.links)}
        self._known: dict[tuple[str, int, int], Footprint] = {}

    @property
    def end(self) -> Position:
        """Behind the last neuron."""
        return len(self.links), 0

    def footprint(self, shard: Shard) -> Footprint:
        """What a shard takes on a core; of equal size, shards that do not end their node take the
        same."""
        node = self.graph.node(shard.node)
        key = shard.node, shard.size, node.size if shard.stop == node.size else -1
        if key not in self._known:
            self._known[key] = footprint(self.graph, node, shard, self.chip)
        return self._known[key]

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
        for link in self.links:
            size = link.node.size
            full = link.reads * size
            ternary = [e.matrix for e in link.node.inputs if e.matrix is not None]
            zeros = sum(matrix.size - matrix.nonzero for matrix in ternary)
            times.append(
                (
                    link.reads * self.chip.time_per_synapse_ns.central,
                    (full - zeros) / size * self.chip.time_per_synop_ns.central,
                    link.instructions * self.chip.time_per_instruction_ns.central,
                )
            )
        return times

    def fill(self, pieces: Sequence[Piece], most_ns: float, cores: int) -> list[list[Shard]] | None:
        """Pieces on cores, each filled before the next; None where they need more cores than that.

        No core takes longer than `most_ns` for its synapses or for its instructions.
        """
        filled: list[list[Shard]] = []
        core, used, left = list[Shard](), EMPTY, [most_ns, most_ns]
        for k, first, last in pieces:
            while first < last:
                count = self._fitting(k, first, last, used, left)
                if count:
                    shard = Shard(self.links[k].node.name, first, first + count)
                    core.append(shard)
                    used += self.footprint(shard)
                    left = [
                        have - count * each
                        for have, each in zip(left, self.nanoseconds[k], strict=True)
                    ]
                    first += count
                if first < last:
                    filled.append(core)
                    if not core or len(filled) == cores:
                        return None
                    core, used, left = [], EMPTY, [most_ns, most_ns]
        return [*filled, core] if core else filled

    def _fitting(self, k: int, offset: int, last: int, used: Footprint, left: list[float]) -> int:
        """How many neurons of node k, from `offset` on and before `last`, still fit a core."""
        node, most = self.links[k].node, last - offset
        for have, each in zip(left, self.nanoseconds[k], strict=True):
            if each:
                most = int(min(most, have / each + 1e-9))

        def fits(count: int) -> bool:
            return (used + self.footprint(Shard(node.name, offset, offset + count))).fits(self.room)

        if most < 1 or fits(most):
            return max(most, 0)
        low, high = 0, most  # the first fits, the second does not
        while high - low > 1:
            middle = (low + high) // 2
            low, high = (middle, high) if fits(middle) else (low, middle)
        return low

    def evenly(self, pieces: Sequence[Piece], cores: int) -> list[list[Shard]] | None:
        """`fill` with the slowest core as fast as this order allows; None where the cores have too
        little room."""
        if self.fill(pieces, float("inf"), cores) is None:
            return None
        low = max(self.load(pieces) / cores, 1e-6)
        high = low
        while (best := self.fill(pieces, high, cores)) is None:
            low, high = high, high * 1.1
        while high - low > 0.002 * high:
            middle = (low + high) / 2
            found = self.fill(pieces, middle, cores)
            if found is None:
                low = middle
            else:
                high, best = middle, found
        return best

    def spread(self, pieces: Sequence[Piece], cores: int) -> list[list[Shard]] | None:
        """Pieces on cores, each of them over all cores, so that every step has them all at work."""
        held: list[list[Shard]] = [[] for _ in range(cores)]
        load = np.zeros(cores)
        for k, first, last in pieces:
            count, extra = divmod(last - first, cores)
            more = set(np.argsort(load, kind="stable")[:extra].tolist())
            for core in range(cores):
                size = count + (core in more)
                if size:
                    held[core].append(Shard(self.links[k].node.name, first, first + size))
                    load[core] += size * max(self.nanoseconds[k])
                    first += size
        for shards in held:
            if not sum((self.footprint(shard) for shard in shards), EMPTY).fits(self.room):
                return None
        return [shards for shards in held if shards]

    def whole(self) -> list[Piece]:
        """All of it."""
        return self.pieces((0, 0), self.end)

    def pieces(self, start: Position, stop: Position) -> list[Piece]:
        """The nodes of a stretch; one that begins inside a node has copies of what comes before
        where that pays."""
        found = [
            (k, 0, self.links[k].node.size) for k in (self.copied(start) if start < stop else [])
        ]
        for k in range(start[0], min(stop[0] + 1, len(self.links))):
            size = self.links[k].node.size
            first, last = (start[1] if k == start[0] else 0), (stop[1] if k == stop[0] else size)
            if first < last:
                found.append((k, first, last))
        return found

    def load(self, pieces: Sequence[Piece]) -> float:
        """Nanoseconds of the busier resource, all neurons of these pieces together."""
        times = np.array(
            [np.array(self.nanoseconds[k]) * (last - first) for k, first, last in pieces]
        )
        return float(times.sum(0).max())

    @cached_property
    def streams(self) -> list[tuple[int, int, list[tuple[int, str]]]]:
        """For every output: its node (-1 on the host), its size, and its readers' nodes with how
        they read."""
        read: dict[tuple[str, str], list[tuple[int, str]]] = {}
        for k, link in enumerate(self.links):
            for entry in link.node.inputs:
                read.setdefault((entry.source, entry.source_port), []).append((k, entry.how))
        return [
            (self.number.get(name, -1), self.graph.node(name).output(port).size, readers)
            for (name, port), readers in read.items()
        ]

    def _crossing(
        self, k: int, copied: frozenset[int], *, divided: bool = False
    ) -> tuple[int, int]:
        """Payloads that cross a cut inside node k: a constant, and how many more for each neuron
        before the cut.

        Behind the cut are copies of the nodes `copied`, which need what these read in place of what
        they send.  Where sums are divided, what node k sends to them crosses as one sum.
        """
        constant = slope = 0
        for source, size, readers in self.streams:
            behind = [(r, how) for r, how in readers if r >= k] if source not in copied else []
            again = any(r in copied for r, _ in readers)
            if source < 0 or source > k or not (behind or again):
                continue
            if source == k and divided and all(how == "sum" for _, how in behind):
                constant += 1
            elif source == k:
                slope += any(r > k for r, _ in behind)
            elif again or any(r > k or how != "aligned" for r, how in behind):
                constant += size
            else:
                constant, slope = constant + size, slope - 1
        return constant, slope

    def before(self, k: int) -> int:
        """Payloads that cross a cut in front of node k."""
        return sum(
            size
            for source, size, readers in self.streams
            if 0 <= source < k <= max(r for r, _ in readers)
        )

    @cached_property
    def _inside(self) -> list[tuple[int, int, frozenset[int]]]:
        """For each node: what crosses a cut inside it, as `_crossing` says, and the nodes that are
        copied for that."""
        found = []
        for k, link in enumerate(self.links):
            sources = {
                self.number.get(entry.source, -1)
                for entry in link.node.inputs
                if entry.how == "ternary"
            }
            copies = frozenset(
                source for source in sources if source >= 0 and copyable(self.links[source].node)
            )
            plain, copied = self._crossing(k, frozenset()), self._crossing(k, copies)
            found.append((*copied, copies) if copied[0] < plain[0] else (*plain, frozenset[int]()))
        return found

    def inside(self, k: int, *, divided: bool) -> tuple[int, int]:
        """What crosses a cut inside node k, as a constant and how much more for each neuron before
        the cut."""
        return self._crossing(k, self._inside[k][2], divided=divided)

    def copied(self, start: Position) -> list[int]:
        """The nodes of which a stretch that begins there holds copies."""
        return sorted(self._inside[start[0]][2]) if start[1] else []
