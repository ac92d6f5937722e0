"""What a placer is asked for and what it gives: records only."""

from dataclasses import dataclass

from mmfree_neuro.graph.partial_sums import Columns
from mmfree_neuro.mapping.mapping import HOST, Location, Shard


@dataclass(frozen=True)
class Request:
    """How a graph is to be placed."""

    chips: int | None
    """Exactly so many chips; None for as few as the placer can do with."""
    cores: int
    """At most so many cores of a chip."""
    host: frozenset[str]
    """The nodes that stay on the host: the embedding, and perhaps the head with its norm."""
    spread: bool = False
    """Every node of a chip over all of its cores, instead of each core filled before the next."""
    divide: bool = False
    """Sums may be divided by columns where that saves messages."""
    seed: int = 0
    """Of placers that draw."""


@dataclass(frozen=True)
class Placement:
    """Shards and the core that each lies on."""

    shards: tuple[Shard, ...]
    locations: tuple[Location, ...]
    columns: Columns = ()
    """Where the sums of the graph are divided; shards are those of the divided graph."""


def host_shards(sizes: dict[str, int], request: Request) -> tuple[list[Shard], list[Location]]:
    """The shards that stay on the host, with the sizes of their nodes."""
    shards = [Shard(name, 0, size) for name, size in sizes.items() if name in request.host]
    return shards, [Location(HOST, 0)] * len(shards)
