"""Who computes what, and who sends to whom, when the cores of a mapping are spread over tiles.

A tile is what one process holds: the cores of a chip, of several, or a single one; the host is a tile of its own.
Neighbouring neurons of one node that lie in the same tile are a stretch: they are computed together, on whichever cores
of the tile they lie, since cores of one tile share its memory.  Counts are kept neuron by neuron, so those of cores
and routes are not touched by this.
"""

from collections.abc import Callable
from dataclasses import dataclass

from mmfree_neuro.ir import AnyNode, Graph, Input, span
from mmfree_neuro.mapping import HOST, Location, Mapping


@dataclass(frozen=True)
class Stretch:
    """The neurons `start` … `stop` - 1 of one node, all in one tile."""

    number: int
    node: str
    start: int
    stop: int
    tile: int

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
        for stretch in self.by_node[graph.head.name]:
            readers[stretch.number].add(HOST)
        self.abroad = {n: tuple(sorted(tiles - {self.stretches[n].tile})) for n, tiles in readers.items()}
        """For each stretch, the other tiles that read it."""

    def _sources(self, stretch: Stretch) -> list[Stretch]:
        node, found = self.graph.node(stretch.node), {}
        for entry in node.inputs:
            first, last = self.span(node, entry, stretch)
            for source in self.by_node[entry.source]:
                if source.start < last and first < source.stop:
                    found[source.number] = source
        return [found[number] for number in sorted(found)]

    def span(self, node: AnyNode, entry: Input, stretch: Stretch) -> tuple[int, int]:
        """Which of its source's values an input of a stretch needs."""
        source = self.graph.node(entry.source).output(entry.source_port)
        return span(node, entry, stretch.start, stretch.stop, source.size)

    def words(self, stretch: Stretch) -> int:
        """How many values a stretch sends for one token."""
        return len(self.graph.node(stretch.node).outputs) * stretch.size

    def linked(self) -> dict[int, tuple[int, ...]]:
        """For each tile, the tiles that it sends to."""
        links: dict[int, set[int]] = {stretch.tile: set() for stretch in self.stretches}
        for stretch in self.stretches:
            links[stretch.tile].update(self.abroad[stretch.number])
        return {tile: tuple(sorted(others)) for tile, others in links.items()}


def _stretches(graph: Graph, mapping: Mapping, tile_of: Callable[[Location], int]) -> tuple[Stretch, ...]:
    order = {node.name: number for number, node in enumerate(graph.nodes)}
    placed = sorted(
        (order[s.node], s.start, s.stop, s.node, tile_of(place))
        for s, place in zip(mapping.shards, mapping.locations, strict=True)
    )
    merged: list[tuple[str, int, int, int]] = []
    for _, start, stop, node, tile in placed:
        if merged and (merged[-1][0], merged[-1][3]) == (node, tile):
            merged[-1] = node, merged[-1][1], stop, tile
        else:
            merged.append((node, start, stop, tile))
    return tuple(Stretch(number, *one) for number, one in enumerate(merged))


def by_chip(place: Location) -> int:
    """Every chip is a tile."""
    return place.chip


def by_core(mapping: Mapping) -> Callable[[Location], int]:
    """Every core is a tile, numbered in the order of `mapping.cores`."""
    numbers = {place: number for number, place in enumerate(mapping.cores)}
    return lambda place: numbers.get(place, HOST)
