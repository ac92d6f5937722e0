"""Proves that a mapping is valid, from the mapping, the graph and the system alone; shares no code with the placers."""

from collections import Counter, defaultdict

import numpy as np
from numpy.typing import NDArray

from mmfree_neuro.errors import MappingError
from mmfree_neuro.hardware import SystemSpec
from mmfree_neuro.ir import GLU, MLGRU, AnyNode, Embedding, Graph, MaxAbs, constants
from mmfree_neuro.mapping import HOST, Location, Mapping

Stream = tuple[str, str, Location]
"""A node, one of its ports, and a core that payloads of this port reach."""


def _coverage(graph: Graph, mapping: Mapping) -> None:
    if len(mapping.shards) != len(mapping.locations):
        raise MappingError(f"mapping: {len(mapping.shards)} shards have {len(mapping.locations)} locations")
    held = {node.name: np.zeros(node.size, np.int64) for node in graph.nodes}
    for shard in mapping.shards:
        if shard.node not in held or not 0 <= shard.start < shard.stop <= held[shard.node].size:
            raise MappingError(f"mapping: shard {shard.node}[{shard.start}:{shard.stop}] is not part of the graph")
        held[shard.node][shard.start : shard.stop] += 1
    for name, count in held.items():
        if (count != 1).any():
            neuron = int(np.flatnonzero(count != 1)[0])
            raise MappingError(f"mapping: neuron {neuron} of {name} is held {count[neuron]} times, must be held once")


def _places(graph: Graph, mapping: Mapping, system: SystemSpec) -> None:
    chips, cores = int(system.chips.central), int(system.chip.cores.central)
    for shard, place in zip(mapping.shards, mapping.locations, strict=True):
        if isinstance(graph.node(shard.node), Embedding) != (place == Location(HOST, 0)):
            raise MappingError(
                f"mapping: {shard.node} is on chip {place.chip}; the host holds the embedding and nothing else"
            )
        if place.chip != HOST and not (0 <= place.chip < chips and 0 <= place.core < cores):
            raise MappingError(
                f"mapping: {shard.node} is on core {place.core} of chip {place.chip}, which {system.name} does not have"
            )


def _capacity(graph: Graph, mapping: Mapping, system: SystemSpec) -> None:
    chip, bits = system.chip, int(system.chip.weight_bits.central)
    used: dict[Location, Counter[str]] = defaultdict(Counter)
    for shard, place in zip(mapping.shards, mapping.locations, strict=True):
        node, rows = graph.node(shard.node), shard.stop - shard.start
        if place.chip == HOST:
            continue
        synapses = words = 0
        arriving = {}
        for entry in node.inputs:
            columns = graph.node(entry.source).output(entry.source_port).size
            each = {
                "ternary": (rows * columns, columns),
                "broadcast": (rows, 1),
                "sum": (columns, columns),
                "aligned": (rows, rows),
            }
            last = min(shard.stop * getattr(node, "arity", 1), columns)
            each["group"] = (last - shard.start * getattr(node, "arity", 1),) * 2
            synapses += each[entry.how][0]
            arriving[entry.source, entry.source_port] = each[entry.how][1]
            words += node.arity if isinstance(node, MaxAbs) else 1
        words += len(constants(node)) + (1 if isinstance(node, MLGRU) else 0)
        tables = 8 * graph.sigmoid.values.size if isinstance(node, MLGRU | GLU) else 0
        synaptic = (synapses * bits + 7) // 8
        used[place].update(
            memory=synaptic + 4 * words * rows + tables, synaptic=synaptic, neurons=rows, axons=sum(arriving.values())
        )
        if 4 * words > chip.state_bytes_per_neuron.central:
            raise MappingError(
                f"mapping: {shard.node} has {4 * words} bytes a neuron, {chip.name} has "
                f"{chip.state_bytes_per_neuron.central:g}"
            )
    limits = {"memory": chip.memory_bytes_per_core, "synaptic": chip.synaptic_memory_bytes_per_core,
              "neurons": chip.neurons_per_core, "axons": chip.input_axons_per_core}  # fmt: skip
    for place, amounts in used.items():
        for what, amount in amounts.items():
            if amount > limits[what].central:
                raise MappingError(
                    f"mapping: core {place.core} of chip {place.chip} needs {amount} of {what}, {chip.name} has "
                    f"{limits[what].central:g}"
                )


def _needed(node: AnyNode, how: str, start: int, stop: int, size: int) -> range:
    if how == "aligned":
        return range(start, stop)
    if how == "group":
        arity = node.arity if isinstance(node, MaxAbs) else 1
        return range(start * arity, min(stop * arity, size))
    return range(size)


def _delivered(graph: Graph, mapping: Mapping) -> dict[Stream, list[range]]:
    """The payloads that routes carry, route by route."""
    delivered: dict[Stream, list[range]] = defaultdict(list)
    for route in mapping.routes:
        if not 0 <= route.source < len(mapping.shards):
            raise MappingError(f"mapping: a route begins at shard {route.source}, which does not exist")
        shard = mapping.shards[route.source]
        ports = {output.port for output in graph.node(shard.node).outputs}
        if route.port not in ports or not shard.start <= route.start < route.stop <= shard.stop:
            raise MappingError(
                f"mapping: a route sends {shard.node}.{route.port}[{route.start}:{route.stop}], which its shard "
                "does not have"
            )
        delivered[shard.node, route.port, route.destination].append(range(route.start, route.stop))
    return delivered


def _wanted(graph: Graph, mapping: Mapping) -> dict[Stream, list[range]]:
    """The payloads that shards read, input by input."""
    wanted: dict[Stream, list[range]] = defaultdict(list)
    for shard, place in zip(mapping.shards, mapping.locations, strict=True):
        node = graph.node(shard.node)
        for entry in node.inputs:
            size = graph.node(entry.source).output(entry.source_port).size
            needed = _needed(node, entry.how, shard.start, shard.stop, size)
            wanted[entry.source, entry.source_port, place].append(needed)
    wanted[graph.head.name, "logits", Location(HOST, 0)].append(range(graph.head.size))
    return wanted


def _times(spans: list[range], size: int) -> NDArray[np.int64]:
    """How often each payload lies in the spans."""
    times = np.zeros(size, np.int64)
    for span in spans:
        times[span.start : span.stop] += 1
    return times


def _routes(graph: Graph, mapping: Mapping) -> None:
    delivered, wanted = _delivered(graph, mapping), _wanted(graph, mapping)
    for key in wanted | delivered:
        sent, read = delivered.get(key, []), wanted.get(key, [])
        size = max(span.stop for span in sent + read)
        times, due = _times(sent, size), _times(read, size) > 0
        wrong = np.flatnonzero(times != due)
        if wrong.size:
            name, port, place = key
            raise MappingError(
                f"mapping: payload {wrong[0]} of {name}.{port} reaches core {place.core} of chip "
                f"{place.chip} {times[wrong[0]]} times, must {int(due[wrong[0]])}"
            )


def check(graph: Graph, mapping: Mapping, system: SystemSpec) -> Mapping:
    """The same mapping, proved valid: every neuron held once, every limit kept, every payload delivered once.

    Raises MappingError otherwise.
    """
    _coverage(graph, mapping)
    _places(graph, mapping, system)
    _capacity(graph, mapping, system)
    _routes(graph, mapping)
    return mapping
