"""What a placer gives: records only."""

from dataclasses import dataclass

from mmfree_neuro.graph.partial_sums import Columns
from mmfree_neuro.mapping.mapping import HOST, Location, Shard


@dataclass(frozen=True)
class Placement:
    """Shards and the core that each lies on."""

    shards: tuple[Shard, ...]
    locations: tuple[Location, ...]
    columns: Columns = ()
    """Where the sums of the graph are divided; shards are those of the divided graph."""


def host_shards(sizes: dict[str, int], host: frozenset[str]) -> tuple[list[Shard], list[Location]]:
    """The shards of the nodes that stay on the host, with the sizes of all nodes."""
    shards = [Shard(name, 0, size) for name, size in sizes.items() if name in host]
    return shards, [Location(HOST, 0)] * len(shards)
