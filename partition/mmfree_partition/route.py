"""Finds which payloads must travel to which core."""

from mmfree_neuro.ir import Graph, span
from mmfree_neuro.mapping import HOST, Location, Route, Shard


def _merged(spans: list[tuple[int, int]]) -> list[tuple[int, int]]:
    """The same integers as a list of spans that neither overlap nor touch."""
    merged: list[tuple[int, int]] = []
    for start, stop in sorted(spans):
        if merged and start <= merged[-1][1]:
            merged[-1] = (merged[-1][0], max(stop, merged[-1][1]))
        else:
            merged.append((start, stop))
    return merged


def route(graph: Graph, shards: tuple[Shard, ...], locations: tuple[Location, ...]) -> tuple[Route, ...]:
    """Every stream of messages of a placement, a payload at most once to a core; the logits go to the host."""
    by_node: dict[str, list[int]] = {}
    for position, shard in enumerate(shards):
        by_node.setdefault(shard.node, []).append(position)
    needs: dict[tuple[str, str, Location], list[tuple[int, int]]] = {}
    for shard, place in zip(shards, locations, strict=True):
        node = graph.node(shard.node)
        for entry in node.inputs:
            size = graph.node(entry.source).output(entry.source_port).size
            key = entry.source, entry.source_port, place
            needs.setdefault(key, []).append(span(node, entry, shard.start, shard.stop, size))
    head = graph.head
    needs[head.name, "logits", Location(HOST, 0)] = [(0, head.size)]
    routes = []
    for (name, port, place), spans in needs.items():
        for start, stop in _merged(spans):
            for source in by_node[name]:
                low, high = max(start, shards[source].start), min(stop, shards[source].stop)
                if low < high:
                    routes.append(Route(source, port, place, low, high))
    return tuple(sorted(routes, key=lambda r: (r.source, r.port, r.destination, r.start)))
