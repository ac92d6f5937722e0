"""Finds which payloads must travel to which cores, and from which copy where several cores hold the
same neurons."""

from bisect import bisect_left
from collections.abc import Iterator
from itertools import pairwise

from mmfree_neuro.graph.nodes import Graph, span
from mmfree_neuro.mapping.mapping import HOST, Location, Route, Shard

Span = tuple[int, int]


def route(
    graph: Graph, shards: tuple[Shard, ...], locations: tuple[Location, ...]
) -> tuple[Route, ...]:
    """Every multicast stream of a placement, a payload at most once to a core; the host gets the
    logits, or the words that the graph chooses.

    A core takes a payload from the first shard of its own chip that holds it, or else from the
    first of all.
    """
    held: dict[str, list[int]] = {}
    for position, shard in enumerate(shards):
        held.setdefault(shard.node, []).append(position)
    for positions in held.values():
        positions.sort(key=lambda position: shards[position].start)
    routes: list[Route] = []
    known: dict[tuple[Location, ...], tuple[Location, ...]] = {}
    for (name, port), spans in _needs(graph, shards, locations).items():
        for start, stop, places in _segments(spans):
            for position, low, high, readers in _sources(
                start, stop, places, held[name], shards, locations
            ):
                routes.append(Route(position, port, known.setdefault(readers, readers), low, high))
    return tuple(sorted(routes, key=lambda one: (one.source, one.port, one.start)))


def _needs(
    graph: Graph, shards: tuple[Shard, ...], locations: tuple[Location, ...]
) -> dict[tuple[str, str], dict[Location, list[Span]]]:
    """For every output that is read: the cores that read it, and which payloads."""
    needs: dict[tuple[str, str], dict[Location, list[Span]]] = {}
    for shard, place in zip(shards, locations, strict=True):
        node = graph.node(shard.node)
        for entry in node.inputs:
            size = graph.node(entry.source).output(entry.source_port).size
            spans = needs.setdefault((entry.source, entry.source_port), {}).setdefault(place, [])
            spans.append(span(node, entry, shard.start, shard.stop, size))
    name, output = graph.to_host
    needs[name, output.port] = {Location(HOST, 0): [(0, output.size)]}
    return needs


def _segments(needs: dict[Location, list[Span]]) -> Iterator[tuple[int, int, tuple[Location, ...]]]:
    """Ranges of payloads that the same cores read, and these cores in order."""
    begins: dict[int, list[Location]] = {}
    ends: dict[int, list[Location]] = {}
    for place, spans in needs.items():
        for start, stop in spans:
            begins.setdefault(start, []).append(place)
            ends.setdefault(stop, []).append(place)
    reading: dict[Location, int] = {}
    for start, stop in pairwise(sorted(begins.keys() | ends.keys())):
        for place in ends.get(start, ()):
            reading[place] -= 1
        for place in begins.get(start, ()):
            reading[place] = reading.get(place, 0) + 1
        places = tuple(sorted(place for place, count in reading.items() if count))
        if places:
            yield start, stop, places


def _sources(
    start: int,
    stop: int,
    places: tuple[Location, ...],
    held: list[int],
    shards: tuple[Shard, ...],
    locations: tuple[Location, ...],
) -> Iterator[tuple[int, int, int, tuple[Location, ...]]]:
    """The shards that send a range of payloads: each with the part that it sends and the cores that
    take it from it.

    `held` are the shards of the node, by where they start.
    """
    copies = (
        sum(shards[position].size for position in held)
        > shards[max(held, key=lambda p: shards[p].stop)].stop
    )
    if not copies:
        first = max(
            0, bisect_left(held, start + 1, key=lambda position: shards[position].start) - 1
        )
        for position in held[first:]:
            low, high = max(start, shards[position].start), min(stop, shards[position].stop)
            if low >= high:
                return
            yield position, low, high, places
        return
    within = [p for p in held if shards[p].start < stop and start < shards[p].stop]
    edges = {start, stop} | {
        e for p in within for e in (shards[p].start, shards[p].stop) if start < e < stop
    }
    for low, high in pairwise(sorted(edges)):
        holders = sorted(p for p in within if shards[p].start <= low and high <= shards[p].stop)
        takers: dict[int, list[Location]] = {}
        for place in places:
            near = [p for p in holders if locations[p].chip == place.chip]
            takers.setdefault((near or holders)[0], []).append(place)
        for position, readers in takers.items():
            yield position, low, high, tuple(readers)
