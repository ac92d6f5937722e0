"""Which neurons lie on which core of which chip, and which messages travel where: records only.

What there are many of are named tuples: thousands of them are made and looked up in no time.
"""

from dataclasses import dataclass, field
from typing import NamedTuple

HOST = -1
"""The chip number of the host, which embeds tokens, and reads logits or the words that the chips
choose."""


class Location(NamedTuple):
    """A core of a chip; the host is chip -1, core 0."""

    chip: int
    core: int


class Shard(NamedTuple):
    """The neurons `start` … `stop` - 1 of one node; they lie on one core."""

    node: str
    start: int
    stop: int

    @property
    def size(self) -> int:
        """How many neurons."""
        return self.stop - self.start


class Route(NamedTuple):
    """A multicast stream: payloads `start` … `stop` - 1 of a shard's port, delivered once to each
    of some cores.

    Routes of one port never share a payload, so a payload has one tree of links.
    """

    source: int
    port: str
    destinations: tuple[Location, ...]
    start: int
    stop: int


@dataclass(frozen=True, repr=False)
class Mapping:
    """A whole mapping; `locations` runs parallel to `shards`, and `routes` follows from both."""

    graph: str
    """SHA-256 of the graph file that it belongs to."""
    system: str
    placer: str
    shards: tuple[Shard, ...]
    locations: tuple[Location, ...]
    routes: tuple[Route, ...]
    columns: tuple[tuple[str, tuple[int, ...]], ...] = ()
    """The nodes whose sums are divided by columns, and before which of these;
    `partial_sums.by_columns` does it."""
    local_roots: tuple[str, ...] = ()
    """The kinds of norms whose roots every neuron finds for itself;
    `local_roots.with_local_roots` does it, before sums are divided."""
    in_flight: int = 1
    """How many sequences can be under way at once; `slots.with_slots` does it, between the two."""
    greedy_on_chips: bool = False
    """Whether the chips choose words themselves; `greedy.with_greedy` does it, behind the slots."""
    options: tuple[str, ...] = field(default=(), compare=False)
    """The options of `mmfree-neuro map` that give it, but for its files; none where they are not
    known."""

    def __repr__(self) -> str:
        return (
            f"<Mapping on {self.system}, {self.placer}: {len(self.chips)} chips, "
            f"{len(self.cores)} cores, {len(self.routes)} routes>"
        )

    @property
    def chips(self) -> tuple[int, ...]:
        """The chips in use, in order."""
        return tuple(sorted({place.chip for place in self.locations} - {HOST}))

    @property
    def cores(self) -> tuple[Location, ...]:
        """The cores in use, in order."""
        return tuple(sorted(place for place in set(self.locations) if place.chip != HOST))
