"""Proves that a mapping is valid, from the mapping, the graph and the system alone; shares no code
with the placers but the sizes, which machine images prove."""

from collections import Counter, defaultdict
from collections.abc import Iterable
from itertools import pairwise

import numpy as np
from numpy.typing import NDArray

from mmfree_neuro.errors import MappingError
from mmfree_neuro.graph.nodes import AnyNode, Graph, Input
from mmfree_neuro.mapping.footprint import limits, over, use_of_cores
from mmfree_neuro.mapping.mapping import HOST, Location, Mapping
from mmfree_neuro.systems.spec import ChipSpec, SystemSpec

Stream = tuple[str, str, Location]
"""A node, one of its ports, and a core that payloads of this port reach."""


def _coverage(graph: Graph, mapping: Mapping) -> None:
    if len(mapping.shards) != len(mapping.locations):
        raise MappingError(
            f"mapping: {len(mapping.shards)} shards have {len(mapping.locations)} locations"
        )
    held = {node.name: np.zeros(node.size, np.int64) for node in graph.nodes}
    for shard in mapping.shards:
        if shard.node not in held or not 0 <= shard.start < shard.stop <= held[shard.node].size:
            raise MappingError(
                f"mapping: shard {shard.node}[{shard.start}:{shard.stop}] is not part of the graph"
            )
        held[shard.node][shard.start : shard.stop] += 1
    for node in graph.nodes:
        count = held[node.name]
        weights = any(entry.matrix is not None for entry in node.inputs)
        once = weights or not node.inputs or node.state_type is not None
        wrong = np.flatnonzero(count != 1 if once else count < 1)
        if wrong.size:
            raise MappingError(
                f"mapping: neuron {wrong[0]} of {node.name} is held {count[wrong[0]]} times, "
                "must be held once"
                f"{'' if once else ' at least'}"
            )


def _places(graph: Graph, mapping: Mapping, system: SystemSpec) -> None:
    chips = int(system.chips.central)
    cores = int(system.chip.cores.central)
    on_host = {node.name for node in graph.nodes if not node.name.startswith("layers.")}
    at_home: set[str] = set()
    away: set[str] = set()
    for shard, place in zip(mapping.shards, mapping.locations, strict=True):
        if place == Location(HOST, 0) and shard.node in on_host:
            at_home.add(shard.node)
        elif place.chip == HOST or shard.node == graph.nodes[0].name:
            raise MappingError(
                f"mapping: {shard.node} is on chip {place.chip}; the host holds the embedding, "
                "and nothing else but "
                "the head with its norm"
            )
        elif not (0 <= place.chip < chips and 0 <= place.core < cores):
            raise MappingError(
                f"mapping: {shard.node} is on core {place.core} of chip {place.chip}, which "
                f"{system.name} does not have"
            )
        else:
            away.add(shard.node)
    stray = min(on_host & away, default=None)
    if len(at_home) > 1 and stray is not None:
        raise MappingError(
            f"mapping: {stray} is on a chip, must be on the host as the rest of the head"
        )


def _capacity(graph: Graph, mapping: Mapping, system: SystemSpec) -> None:
    room = limits(system.chip)
    for place, used in use_of_cores(graph, mapping, system.chip).items():
        if passed := over(used, room):
            what, need, limit = passed
            raise MappingError(
                f"mapping: core {place.core} of chip {place.chip} needs {need} of {what}, "
                f"{system.chip.name} has {limit}"
            )


def _payloads(graph: Graph, chip: ChipSpec) -> None:
    """What the chip's messages and accumulators can carry."""
    if graph.accumulator_bits > chip.accumulator_bits.central:
        raise MappingError(
            f"mapping: {graph.name} needs accumulators of {graph.accumulator_bits} bits, "
            f"{chip.name} has "
            f"{chip.accumulator_bits.central:g}"
        )
    for node in graph.nodes:
        for output in node.outputs:
            if output.qtype.bits > chip.payload_bits.central:
                raise MappingError(
                    f"mapping: {node.name}.{output.port} has payloads of {output.qtype.bits} "
                    f"bits, {chip.name} has "
                    f"{chip.payload_bits.central:g}"
                )


def _needed(node: AnyNode, entry: Input, start: int, stop: int, size: int) -> range:
    """The payloads of its source that an input of some neurons reads."""
    if entry.how == "aligned":
        return range(start, stop)
    if entry.how == "group":
        return range(start * node.group, min(stop * node.group, size))
    if entry.how == "broadcast":
        return range(1)
    if entry.matrix is not None:
        return range(entry.first, entry.first + entry.matrix.columns)
    return range(entry.first, size if entry.count is None else entry.first + entry.count)


Spans = list[tuple[int, int]]
"""Payloads of a port: from the first of each span to before its second number."""


def _delivered(graph: Graph, mapping: Mapping) -> dict[Stream, list[Spans]]:
    """The payloads that routes carry to every core, one list for all routes that go to the same
    cores."""
    ports = {node.name: {output.port for output in node.outputs} for node in graph.nodes}
    carried: dict[tuple[str, str, tuple[Location, ...]], Spans] = defaultdict(list)
    sent: dict[tuple[int, str], Spans] = defaultdict(list)
    ordered: set[tuple[Location, ...]] = set()
    for source, port, destinations, start, stop in mapping.routes:
        if not 0 <= source < len(mapping.shards):
            raise MappingError(f"mapping: a route begins at shard {source}, which does not exist")
        shard = mapping.shards[source]
        if port not in ports[shard.node] or not shard.start <= start < stop <= shard.stop:
            raise MappingError(
                f"mapping: a route sends {shard.node}.{port}[{start}:{stop}], which its shard "
                "does not have"
            )
        if destinations not in ordered:
            if not destinations or tuple(sorted(set(destinations))) != destinations:
                raise MappingError(
                    f"mapping: a route of {shard.node}.{port} has destinations that are not "
                    "in order, none twice"
                )
            ordered.add(destinations)
        sent[source, port].append((start, stop))
        carried[shard.node, port, destinations].append((start, stop))
    for (source, port), spans in sent.items():
        if len(spans) > 1 and any(a[1] > b[0] for a, b in pairwise(sorted(spans))):
            raise MappingError(
                f"mapping: two routes of shard {source} share payloads of port {port}"
            )
    delivered: dict[Stream, list[Spans]] = defaultdict(list)
    for (name, port, destinations), spans in carried.items():
        for destination in destinations:
            delivered[name, port, destination].append(spans)
    return delivered


def _sizes(graph: Graph) -> dict[tuple[str, str], int]:
    """How many payloads every output has, by node and port."""
    return {(node.name, out.port): out.size for node in graph.nodes for out in node.outputs}


def _wanted(graph: Graph, mapping: Mapping) -> dict[Stream, set[tuple[int, int]]]:
    """The payloads that shards read, input by input."""
    sizes = _sizes(graph)
    wanted: dict[Stream, set[tuple[int, int]]] = defaultdict(set)
    for shard, place in zip(mapping.shards, mapping.locations, strict=True):
        node = graph.node(shard.node)
        for entry in node.inputs:
            size = sizes[entry.source, entry.source_port]
            needed = _needed(node, entry, shard.start, shard.stop, size)
            wanted[entry.source, entry.source_port, place].add((needed.start, needed.stop))
    name, output = graph.to_host
    wanted[name, output.port, Location(HOST, 0)].add((0, output.size))
    return wanted


def _joined(spans: Iterable[tuple[int, int]]) -> Spans:
    """The same payloads as spans in order, between which others lie."""
    joined: Spans = []
    for start, stop in sorted(spans):
        if joined and start <= joined[-1][1]:
            joined[-1] = joined[-1][0], max(joined[-1][1], stop)
        elif start < stop:
            joined.append((start, stop))
    return joined


def _times(spans: Iterable[tuple[int, int]], size: int) -> NDArray[np.int64]:
    """How often each payload lies in the spans."""
    ends = np.zeros(size + 1, np.int64)
    for start, stop in spans:
        ends[start] += 1
        ends[stop] -= 1
    return ends[:-1].cumsum()


def _length(spans: Iterable[tuple[int, int]]) -> int:
    return sum(stop - start for start, stop in spans)


def _routes(graph: Graph, mapping: Mapping) -> None:
    sizes = _sizes(graph)
    delivered = _delivered(graph, mapping)
    wanted = _wanted(graph, mapping)
    proved = set()
    for stream in wanted | delivered:
        lists, needed = delivered.get(stream, ()), wanted.get(stream, ())
        name, port, place = stream
        # Most cores of a chip read the same payloads, by the same routes.
        case = (name, port, *map(id, lists), *sorted(needed))
        if case in proved:
            continue
        proved.add(case)
        arriving = [span for spans in lists for span in spans]
        due = _joined(needed)
        if _joined(arriving) == due and _length(arriving) == _length(due):
            continue
        times, once = _times(arriving, sizes[name, port]), _times(due, sizes[name, port])
        wrong = np.flatnonzero(times != once)
        raise MappingError(
            f"mapping: payload {wrong[0]} of {name}.{port} reaches core {place.core} of chip "
            f"{place.chip} {times[wrong[0]]} times, must {once[wrong[0]]}"
        )


def _order(graph: Graph, mapping: Mapping) -> None:
    """A token can go through: nodes fire after those that send to them, and none waits for itself
    in the end."""
    reading: dict[tuple[Location, str, str], set[str]] = defaultdict(set)
    for shard, place in zip(mapping.shards, mapping.locations, strict=True):
        for entry in graph.node(shard.node).inputs:
            reading[place, entry.source, entry.source_port].add(shard.node)
    behind: dict[str, set[str]] = {node.name: set() for node in graph.nodes}
    for name, port, destinations in {
        (mapping.shards[r.source].node, r.port, r.destinations) for r in mapping.routes
    }:
        for place in destinations:
            behind[name] |= reading[place, name, port]
    waiting = Counter(follower for followers in behind.values() for follower in followers)
    ready = [name for name in behind if not waiting[name]]
    fired = set()
    while ready:
        fired.add(name := ready.pop())
        for follower in behind[name]:
            waiting[follower] -= 1
            if not waiting[follower]:
                ready.append(follower)
    stuck = [name for name in behind if name not in fired]
    if stuck:
        raise MappingError(
            f"mapping: {stuck[0]} waits for messages that wait for it, must have an order"
        )


def check(graph: Graph, mapping: Mapping, system: SystemSpec) -> Mapping:
    """The same mapping, proved valid.  Raises MappingError otherwise.

    Every neuron is held once (or more than once where it has neither weights nor state), every
    limit of the chip is kept, every payload that a core needs is delivered to it once, and no token
    can get stuck.
    """
    _coverage(graph, mapping)
    _places(graph, mapping, system)
    _payloads(graph, system.chip)
    _routes(graph, mapping)
    _order(graph, mapping)
    _capacity(graph, mapping, system)
    return mapping
