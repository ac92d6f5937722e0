"""What no mapping can go below, beside what a mapping has: cores, chips, the slowest core, messages
between chips.

Each bound holds for every mapping of the graph, divided as this one divides it, on the same chip,
whatever places it:

- cores and chips: whatever the nodes take of a limit, as if all lay on one core, over that limit;
- slowest core: the busiest of the resources that no mapping can spare (memory words read, synaptic
  operations, instructions), spread evenly over all cores of the chips in use;
- messages from chip to chip, of mappings that divide no product by columns: what
  `fewest_messages` finds for chips no core of which is slower than the mapping's slowest.  A
  mapping that divides some can send less: for that nothing is proven, and the figure stands beside
  it only to compare with.
"""

from dataclasses import dataclass
from math import ceil

from mmfree_neuro.graph.nodes import Graph
from mmfree_neuro.mapping.footprint import EMPTY
from mmfree_neuro.mapping.mapping import HOST, Location, Mapping, Shard
from mmfree_neuro.systems.spec import SystemSpec
from mmfree_partition.bound.fewest_messages import fewest_messages
from mmfree_partition.chain.chain import Chain


@dataclass(frozen=True)
class Gap:
    """A figure of a mapping and what it is at least."""

    found: float
    least: float | None
    """None where nothing is proven."""

    @property
    def ratio(self) -> float | None:
        """How many times the bound; None without one, or where that is zero."""
        return self.found / self.least if self.least else None


@dataclass(frozen=True)
class Gaps:
    """A mapping beside its bounds."""

    cores: Gap
    chips: Gap
    slowest_core_ns: Gap
    """A token, every payload non-zero, at central figures: what its synapses or its instructions
    take."""
    messages_between_chips: Gap
    """Payloads a token from chip to chip, once for every chip that one goes to."""
    messages_by_rows_alone: float
    """What any mapping that divides no product by columns has of these at least."""


def gaps(graph: Graph, mapping: Mapping, system: SystemSpec, cores_per_chip: int) -> Gaps:
    """A mapping beside its bounds, of which at most so many cores of a chip may be in use."""
    host = frozenset(
        shard.node
        for shard, place in zip(mapping.shards, mapping.locations, strict=True)
        if place.chip == HOST
    )
    chain = Chain(graph, system.chip, host)
    cores = _fewest_cores(chain)
    slowest = _slowest(chain, mapping)
    chips = len(mapping.chips)
    least_slowest = chain.least_slowest(chips * cores_per_chip)
    by_rows_alone = fewest_messages(chain, chips, slowest * cores_per_chip)
    return Gaps(
        Gap(len(mapping.cores), cores),
        Gap(chips, ceil(cores / cores_per_chip)),
        Gap(slowest, least_slowest),
        Gap(messages_between_chips(mapping), None if mapping.columns else by_rows_alone),
        by_rows_alone,
    )


def messages_between_chips(mapping: Mapping) -> int:
    """Payloads from chip to chip for a token of which none is zero; those from and to the host do
    not count."""
    total = 0
    for route in mapping.routes:
        source = mapping.locations[route.source].chip
        if source != HOST:
            total += (route.stop - route.start) * len(
                {place.chip for place in route.destinations} - {HOST, source}
            )
    return total


def _fewest_cores(chain: Chain) -> int:
    """The most of any limit that all nodes together take, over that limit.

    Of what shards of a core take, all grows with their neurons, and no shard takes less than its
    share of the whole node; but input axons, headers of lists, rows and programs are counted once a
    node, as if it was never cut.
    """
    whole = [Shard(link.node.name, 0, link.node.size) for link in chain.links]
    taken = sum((chain.sizes.of(shard).own for shard in whole), EMPTY)
    return max(
        ceil(getattr(taken, name) / limit)
        for name, limit in chain.room.items()
        if limit is not None and name not in ONCE
    )


ONCE = ("state_per_neuron", "input_channels", "output_channels", "instructions", "groups")
"""Limits that say nothing of how many cores are needed."""


def _slowest(chain: Chain, mapping: Mapping) -> float:
    """Nanoseconds of the mapping's slowest core."""
    held: dict[Location, list[Shard]] = {}
    for shard, place in zip(mapping.shards, mapping.locations, strict=True):
        if place.chip != HOST:
            held.setdefault(place, []).append(shard)
    return max(chain.busiest(core) for core in held.values())
