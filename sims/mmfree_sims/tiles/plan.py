"""Who computes what, and who sends to whom, when the cores of a mapping are spread over tiles.

A tile is what one process holds: the cores of a chip, of several, or a single one; the host is a
tile of its own. Neighbouring neurons of one node that lie in the same tile are a stretch: they are
computed together, on whichever cores of the tile they lie, since cores of one tile share its
memory.  Counts are kept neuron by neuron, so those of cores and routes are not touched by this.

Neurons that several tiles hold are computed in each that reads them, so that they need not be sent
there; one copy, the primary, is what other tiles read, and what counts.  Copies that nobody would
read are not computed: when logits or words come out, all that was computed for their token has
been.
"""

from collections.abc import Callable
from dataclasses import dataclass
from itertools import groupby, pairwise

from mmfree_neuro.graph.nodes import AnyNode, Graph, Input, span
from mmfree_neuro.mapping.mapping import HOST, Location, Mapping


@dataclass(frozen=True)
class Stretch:
    """The neurons `start` … `stop` - 1 of one node, all in one tile."""

    number: int
    node: str
    start: int
    stop: int
    tile: int
    primary: bool = True
    """Whether its counts are those of its neurons: it is not a copy of others."""

    @property
    def size(self) -> int:
        """How many neurons."""
        return self.stop - self.start


class Plan:
    """The stretches of a mapping, in the order of the graph, and their readers."""

    def __init__(self, graph: Graph, mapping: Mapping, tile_of: Callable[[Location], int]) -> None:
        """`tile_of` gives the tile of every core; the host's must be HOST."""
        self.graph = graph
        self.stretches = _stretches(graph, mapping, tile_of)
        self.by_node: dict[str, list[Stretch]] = {}
        for stretch in self.stretches:
            self.by_node.setdefault(stretch.node, []).append(stretch)
        self.sources = {s.number: self._sources(s) for s in self.stretches}
        """For each stretch, those that it reads, in the order of the graph."""
        readers: dict[int, set[int]] = {s.number: set() for s in self.stretches}
        for stretch in self.stretches:
            for source in self.sources[stretch.number]:
                readers[source.number].add(stretch.tile)
        self.to_host = frozenset(stretch.number for stretch in self.by_node[graph.to_host[0]])
        """The stretches whose payloads go to the host."""
        for number in self.to_host:
            readers[number].add(HOST)
        self.abroad = {
            n: tuple(sorted(tiles - {self.stretches[n].tile})) for n, tiles in readers.items()
        }
        """For each stretch, the other tiles that read it."""

    def _sources(self, stretch: Stretch) -> list[Stretch]:
        """The stretches that a stretch reads, by any input, in the order of the graph."""
        entries = self.graph.node(stretch.node).inputs
        sources = {
            source.number: source
            for entry in entries
            for source, _, _ in self.pieces(entry, stretch)
        }
        return [sources[number] for number in sorted(sources)]

    def pieces(self, entry: Input, stretch: Stretch) -> list[tuple[Stretch, int, int]]:
        """Who sends a stretch the values of an input, in order, and which.

        A stretch reads in its own tile what is computed there, and the rest from the primary.  Say
        that tile 0 has neurons 0 … 2 and tile 1 a copy of 1 and 2.  A stretch of tile 1 that needs
        all three reads neuron 0 from tile 0 and the others from its own: (…, 0, 1), (…, 1, 3).
        """
        first, last = self.span(self.graph.node(stretch.node), entry, stretch)
        sources = [s for s in self.by_node[entry.source] if s.start < last and first < s.stop]
        able = [s for s in sources if s.tile == stretch.tile] + [s for s in sources if s.primary]
        ends = {
            first,
            last,
            *(min(max(end, first), last) for s in able for end in (s.start, s.stop)),
        }
        # Between two ends no stretch starts or stops: who has one of the values has them all.
        sent = [
            (next(s for s in able if s.start <= start < s.stop), start, stop)
            for start, stop in pairwise(sorted(ends))
        ]
        runs = [list(run) for _, run in groupby(sent, key=lambda piece: piece[0].number)]
        return [(run[0][0], run[0][1], run[-1][2]) for run in runs]

    def span(self, node: AnyNode, entry: Input, stretch: Stretch) -> tuple[int, int]:
        """Which of its source's values an input of a stretch needs."""
        source = self.graph.node(entry.source).output(entry.source_port)
        return span(node, entry, stretch.start, stretch.stop, source.size)

    def read_by(self, tile: int) -> frozenset[int]:
        """The stretches of other tiles that a tile reads."""
        return frozenset(number for number, readers in self.abroad.items() if tile in readers)

    def words(self, stretch: Stretch) -> int:
        """How many values a stretch sends for one token."""
        return len(self.graph.node(stretch.node).outputs) * stretch.size

    def linked(self) -> dict[int, tuple[int, ...]]:
        """For each tile, the tiles that it sends to."""
        links: dict[int, set[int]] = {stretch.tile: set() for stretch in self.stretches}
        for stretch in self.stretches:
            links[stretch.tile].update(self.abroad[stretch.number])
        return {tile: tuple(sorted(others)) for tile, others in links.items()}


_Part = tuple[int, int, int]
"""Neurons from … to - 1, and a tile that holds or reads them."""


def _stretches(
    graph: Graph, mapping: Mapping, tile_of: Callable[[Location], int]
) -> tuple[Stretch, ...]:
    """From the last node to the first, since what is computed of a node depends on who reads it."""
    held: dict[str, list[_Part]] = {}
    for shard, place in zip(mapping.shards, mapping.locations, strict=True):
        held.setdefault(shard.node, []).append((shard.start, shard.stop, tile_of(place)))
    last, output = graph.to_host
    read: dict[str, set[_Part]] = {last: {(0, output.size, HOST)}}
    backwards: list[tuple[str, _Part, bool]] = []
    for node in reversed(graph.nodes):
        computed = _computed(_joined(held[node.name]), read.get(node.name, set()))
        backwards += [(node.name, part, primary) for part, primary in reversed(computed)]
        for entry in node.inputs:
            size = graph.node(entry.source).output(entry.source_port).size
            for (start, stop, tile), _ in computed:
                read.setdefault(entry.source, set()).add(
                    (*span(node, entry, start, stop, size), tile)
                )
    return tuple(
        Stretch(number, node, *part, primary)
        for number, (node, part, primary) in enumerate(reversed(backwards))
    )


def _joined(parts: list[_Part]) -> list[_Part]:
    """The same neurons in each tile, in parts that neither overlap nor touch there; in order.

    (0, 2, 7), (1, 3, 7), (4, 5, 7), (3, 4, 9) become (0, 3, 7), (3, 4, 9), (4, 5, 7).
    """
    joined: list[_Part] = []
    for start, stop, tile in sorted(parts, key=lambda part: (part[2], part)):
        if joined and joined[-1][2] == tile and start <= joined[-1][1]:
            before = joined.pop()
            start, stop = before[0], max(before[1], stop)
        joined.append((start, stop, tile))
    return sorted(joined)


def _computed(held: list[_Part], read: set[_Part]) -> list[tuple[_Part, bool]]:
    """Which of the parts of a node are computed, and whether they are primary.

    Of the tiles that hold a neuron, those compute it that also read it, and the first of them is
    primary; where none of them does, the first that holds it.  Say that tiles 1 and 3 hold neurons
    0 … 2.  If both read them, both compute them and tile 3 has the copy.  If tiles 0 and 3 read
    them, tile 3 alone computes them; if tiles 0 and 2, tile 1 does.
    """
    if all(one[1] <= other[0] for one, other in pairwise(held)):
        return [(part, True) for part in held]
    parts: dict[bool, list[_Part]] = {True: [], False: []}
    ends = {end for part in (*held, *read) for end in part[:2]}
    # Between two ends all neurons have the same holders and readers.
    for start, stop in pairwise(sorted(ends)):
        holders = [tile for first, last, tile in held if first <= start < last]
        readers = {tile for first, last, tile in read if first <= start < last}
        for number, tile in enumerate([tile for tile in holders if tile in readers] or holders[:1]):
            parts[number == 0].append((start, stop, tile))
    return sorted((part, primary) for primary, some in parts.items() for part in _joined(some))


def by_chip(place: Location) -> int:
    """Every chip is a tile."""
    return place.chip


def by_core(mapping: Mapping) -> Callable[[Location], int]:
    """Every core is a tile, numbered in the order of `mapping.cores`."""
    numbers = {place: number for number, place in enumerate(mapping.cores)}
    return lambda place: numbers.get(place, HOST)
