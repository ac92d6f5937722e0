"""Input axons of a core and their synapse lists, from what its shards read."""

from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from mmfree_neuro.errors import CapacityError
from mmfree_neuro.graph.nodes import AnyNode, Graph, Input, span
from mmfree_neuro.integers.fixedpoint import Ints
from mmfree_neuro.mapping.mapping import Shard
from mmfree_neuro.target.layout import (
    ALL_ONES,
    LONGEST_LIST,
    MOST_LISTS,
    MOST_WORDS,
    TERNARY,
    Rows,
    format_of,
    headers,
    list_size,
    packed_bytes,
    packed_ternary,
)

Signal = tuple[str, str]
"""A node and one of its outputs."""


@dataclass(frozen=True)
class Group:
    """A shard as a group of a core."""

    number: int
    node: AnyNode
    shard: Shard
    first_port: int
    """The row of its first port."""


@dataclass(frozen=True)
class Reading:
    """Lists of one kind: what the payloads `first` … `stop` - 1 of a signal have at one input of
    some neurons of a group."""

    group: Group
    entry: Input
    first: int
    stop: int
    start_neuron: int
    """The first neuron of the node that they reach, where all reach the same ones."""
    neurons: int


def readings(graph: Graph, groups: list[Group]) -> dict[Signal, list[Reading]]:
    """What the groups of a core read, by signal in the order of the graph."""
    found: dict[Signal, list[Reading]] = {
        (node.name, output.port): [] for node in graph.nodes for output in node.outputs
    }
    for group in groups:
        for entry in group.node.inputs:
            signal = entry.source, entry.source_port
            size = graph.node(entry.source).output(entry.source_port).size
            shard = group.shard
            first, stop = span(group.node, entry, shard.start, shard.stop, size)
            for begin in range(shard.start, shard.stop, LONGEST_LIST):
                neurons = min(LONGEST_LIST, shard.stop - begin)
                if entry.reaches_all:
                    found[signal].append(Reading(group, entry, first, stop, begin, neurons))
            if not entry.reaches_all:
                found[signal].append(Reading(group, entry, first, stop, shard.start, 1))
    return {signal: some for signal, some in found.items() if some}


def payloads(some: list[Reading]) -> Ints:
    """The payloads of a signal that a core reads, in order; each has an axon of its own."""
    return np.unique(np.concatenate([np.arange(one.first, one.stop) for one in some]))


def lists(
    some: list[Reading], read: Ints, at: int, weight_bits: int
) -> tuple[Rows, NDArray[np.uint64]]:
    """The rows of AXON for the payloads of a signal, and the words of their lists, of which the
    first is word `at` of SYN."""
    kind = format_of(weight_bits)
    pack = packed_ternary if kind == TERNARY else packed_bytes
    counts: Ints = np.zeros(len(read), np.int64)
    sizes: Ints = np.zeros(len(read), np.int64)
    places = [slice(*np.searchsorted(read, (one.first, one.stop))) for one in some]
    for one, place in zip(some, places, strict=True):
        counts[place] += 1
        sizes[place] += _words(one, weight_bits)
    ends = sizes.cumsum()
    words: NDArray[np.uint64] = np.zeros(int(ends[-1]), np.uint64)
    for what, count, most in (
        ("lists for a payload", int(counts.max()), MOST_LISTS),
        ("words of lists", at + int(ends[-1]), MOST_WORDS),
    ):
        if count > most:
            entry = some[0].entry
            raise CapacityError(
                f"{entry.source}.{entry.source_port}: a core needs {count} {what}, an image has "
                f"room for {most}"
            )
    here = ends - sizes
    axons = (here + at) | counts << 24
    for one, place in zip(some, places, strict=True):
        words[here[place]] = _headers(one, ALL_ONES if one.entry.matrix is None else kind)
        size = _words(one, weight_bits)
        if one.entry.matrix is not None:
            codes = one.entry.matrix.codes(one.start_neuron, one.start_neuron + one.neurons)
            words[here[place, None] + np.arange(1, size)] = pack(codes.T)
        here[place] += size
    return axons.astype(np.uint32), words


def _words(one: Reading, weight_bits: int) -> int:
    """Words of each list."""
    return list_size(one.neurons, 0 if one.entry.matrix is None else weight_bits)


def _headers(one: Reading, kind: int) -> NDArray[np.uint64]:
    """The headers of the lists of one reading, payload by payload, in a format."""
    entry, node, group = one.entry, one.group.node, one.group
    port = group.first_port + _first_port(node, entry.port)
    offset = np.full(one.stop - one.first, one.start_neuron - group.shard.start, np.int64)
    number: Ints = np.full(one.stop - one.first, port, np.int64)
    if entry.how == "aligned":
        offset = np.arange(one.first, one.stop) - group.shard.start
    elif entry.how == "group":
        offset = np.arange(one.first, one.stop) // node.group - group.shard.start
        number = port + np.arange(one.first, one.stop) % node.group
    return headers(kind, entry.delay, one.neurons, number, offset)


def _first_port(node: AnyNode, port: str) -> int:
    """How many accumulators of a neuron stand before those of a port."""
    before = 0
    for name in node.ports:
        if name == port:
            break
        before += node.group if node.reads_group(name) else 1
    return before
