"""Splits a graph's nodes, by rows, into shards that each fit a core."""

import heapq
from itertools import pairwise

from mmfree_neuro.errors import CapacityError
from mmfree_neuro.footprint import footprint, limits
from mmfree_neuro.hardware import ChipSpec
from mmfree_neuro.ir import AnyNode, Embedding, Graph, block_of
from mmfree_neuro.mapping import Shard

NEURON_LOAD = 64
"""What a neuron's program weighs against one synapse when shards are balanced."""


def _pieces(node: AnyNode, parts: int) -> list[Shard]:
    cuts = [node.size * k // parts for k in range(parts + 1)]
    return [Shard(node.name, a, b) for a, b in pairwise(cuts)]


def _fewest(graph: Graph, node: AnyNode, chip: ChipSpec) -> int:
    """The fewest even parts of a node of which each fits an empty core."""
    room, bits = limits(chip), int(chip.weight_bits.central)
    low, high = 1, node.size
    if not footprint(graph, node, Shard(node.name, 0, 1), bits).fits(room):
        raise CapacityError(f"{node.name}: not even one neuron fits a core of {chip.name}")
    while low < high:
        middle = (low + high) // 2
        largest = Shard(node.name, 0, -(-node.size // middle))
        if footprint(graph, node, largest, bits).fits(room):
            high = middle
        else:
            low = middle + 1
    return low


def _load(node: AnyNode) -> int:
    synapses = sum(entry.matrix.size for entry in node.inputs if entry.matrix is not None)
    return synapses + NEURON_LOAD * node.size


def _spread(nodes: list[AnyNode], parts: dict[str, int], cores: int) -> None:
    """Give the nodes of one block more parts, always the one with the heaviest, until there is one for every core.

    Nodes that have more parts than that already get one for every core of as many chips as they need.
    """
    loads = [_load(node) for node in nodes]
    heaviest = [(-loads[k] / parts[n.name], k) for k, n in enumerate(nodes) if parts[n.name] < n.size]
    heapq.heapify(heaviest)
    for _ in range(-sum(parts[n.name] for n in nodes) % cores):
        if not heaviest:
            return
        node = nodes[k := heaviest[0][1]]
        parts[node.name] += 1
        if parts[node.name] < node.size:
            heapq.heapreplace(heaviest, (-loads[k] / parts[node.name], k))
        else:
            heapq.heappop(heaviest)


def split(graph: Graph, chip: ChipSpec, cores_per_block: int | None = None) -> tuple[Shard, ...]:
    """Shards of every node, in the graph's order; each fits an empty core of the chip.

    As few as fit; with `cores_per_block`, each block's nodes are spread evenly over that many cores, or over a multiple
    of it where they need more, and so is the head.  Raises CapacityError where one neuron does not fit a core.
    """
    on_chip = [n for n in graph.nodes if not isinstance(n, Embedding)]
    parts = {n.name: _fewest(graph, n, chip) for n in on_chip}
    if cores_per_block is not None:
        for block in sorted({block_of(n.name) for n in on_chip}, key=lambda b: -1 if b is None else b):
            _spread([n for n in on_chip if block_of(n.name) == block], parts, cores_per_block)
    shards = [Shard(graph.embedding.name, 0, graph.embedding.size)]
    for node in on_chip:
        shards += _pieces(node, parts[node.name])
    return tuple(shards)
