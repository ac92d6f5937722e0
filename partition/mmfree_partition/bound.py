"""What no mapping can go below, beside what a mapping has: cores, chips, the slowest core, messages between chips.

Each bound holds for every mapping of the graph on the same chip, whatever places it:

- cores and chips: whatever the nodes take of a limit, without rounding to words and without copies, over that limit;
- slowest core: the busiest of the resources that no mapping can spare (synapses read, synaptic operations,
  instructions), spread evenly over all cores of the chips in use;
- messages, of mappings that divide no product by columns (others could send less, in principle): every chip that holds
  weights receives, from other chips or from the host, as many payloads as the narrowest ternary input has columns.
  For of its nodes with weights take the first in the graph's order: no earlier one lies on this chip, so every
  column's value has to come from elsewhere, as itself or as what a norm made it from, one value a column.  And at
  least so many chips hold weights as these need memory, or as the nodes with weights need for a token with cores that
  are no slower than the mapping's slowest.
"""

from dataclasses import dataclass
from math import ceil

import numpy as np

from mmfree_neuro.hardware import SystemSpec
from mmfree_neuro.ir import MLGRU, Graph, MaxAbs, constants
from mmfree_neuro.mapping import HOST, Mapping
from mmfree_partition.chain import Chain


@dataclass(frozen=True)
class Gap:
    """A figure of a mapping and what it is at least."""

    found: float
    least: float

    @property
    def ratio(self) -> float | None:
        """How many times the bound; None where that is zero."""
        return self.found / self.least if self.least else None


@dataclass(frozen=True)
class Gaps:
    """A mapping beside its bounds."""

    cores: Gap
    chips: Gap
    slowest_core_ns: Gap
    """A token, every payload non-zero, at central figures: what its synapses or its instructions take."""
    messages_between_chips: Gap
    """Payloads a token into chips, from other chips and the host."""


def gaps(graph: Graph, mapping: Mapping, system: SystemSpec, cores_per_chip: int) -> Gaps:
    """A mapping beside its bounds, of which at most so many cores of a chip may be in use."""
    host = frozenset(
        shard.node for shard, place in zip(mapping.shards, mapping.locations, strict=True) if place.chip == HOST
    )
    chain = Chain(graph, system.chip, host)
    cores = _fewest_cores(chain)
    slowest, chips = _slowest(chain, mapping), len(mapping.chips)
    least_slowest = chain.least_slowest(chips * cores_per_chip)
    holders = _chips_of_weights(chain, cores_per_chip, slowest)
    return Gaps(
        Gap(len(mapping.cores), cores),
        Gap(chips, ceil(cores / cores_per_chip)),
        Gap(slowest, least_slowest),
        Gap(messages_into_chips(mapping), holders * _narrowest(chain)),
    )


def messages_into_chips(mapping: Mapping) -> int:
    """Payloads that go to a chip from another chip or the host, for a token of which none is zero."""
    total = 0
    for route in mapping.routes:
        reached = {place.chip for place in route.destinations} - {HOST, mapping.locations[route.source].chip}
        total += (route.stop - route.start) * len(reached)
    return total


def _fewest_cores(chain: Chain) -> int:
    synapses = words = neurons = 0
    for link in chain.links:
        node = link.node
        neurons += node.size
        each = len(node.ports) * (node.arity if isinstance(node, MaxAbs) else 1)
        words += node.size * (each + len(constants(node)) + isinstance(node, MLGRU))
        for entry in node.inputs:
            synapses += node.size if entry.matrix is None else entry.matrix.size
    synaptic = synapses * chain.bits / 8
    room = chain.room
    return ceil(max(synaptic / room.synaptic_memory, (synaptic + 4 * words) / room.memory, neurons / room.neurons))


def _chips_of_weights(chain: Chain, cores: int, slowest_ns: float) -> int:
    """The fewest chips of so many cores that hold all weights, none of the cores slower than that."""
    weights, times = 0, np.zeros(3)
    for link, each in zip(chain.links, chain.chip_times, strict=True):
        held = sum(entry.matrix.size for entry in link.node.inputs if entry.matrix is not None)
        weights += held
        times += link.node.size * np.array(each) * (held > 0)
    by_time = times.max() / slowest_ns - 1e-9 if slowest_ns else 0.0
    return ceil(max(weights * chain.bits / 8 / chain.room.synaptic_memory, by_time) / cores)


def _narrowest(chain: Chain) -> int:
    return min(
        chain.graph.node(entry.source).output(entry.source_port).size
        for link in chain.links
        for entry in link.node.inputs
        if entry.matrix is not None
    )


def _slowest(chain: Chain, mapping: Mapping) -> float:
    """Nanoseconds of the mapping's slowest core."""
    times: dict[tuple[int, int], list[float]] = {}
    for shard, place in zip(mapping.shards, mapping.locations, strict=True):
        if place.chip != HOST:
            core = times.setdefault((place.chip, place.core), [0.0, 0.0])
            for k, each in enumerate(chain.nanoseconds[chain.number[shard.node]]):
                core[k] += shard.size * each
    return max(max(core) for core in times.values())
