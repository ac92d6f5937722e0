"""Places shards in the order of the graph, each core filled before the next is begun."""

from mmfree_neuro.errors import CapacityError
from mmfree_neuro.footprint import EMPTY, Footprint, limits
from mmfree_neuro.hardware import SystemSpec
from mmfree_neuro.mapping import HOST, Location, Shard


def place(
    shards: tuple[Shard, ...], footprints: tuple[Footprint, ...], system: SystemSpec, *, chips: int | None, cores: int
) -> tuple[Location, ...]:
    """A core for every shard, the first shard (the embedding) on the host.

    Uses the fewest chips, or exactly `chips`, each with about the same share of the memory in use; at most `cores`
    cores of a chip.  Raises CapacityError where the system has too little room.
    """
    available, room = int(system.chips.central), limits(system.chip)
    if chips is not None and len(shards) - 1 < chips:
        raise CapacityError(f"{system.name}: {len(shards) - 1} shards are too few to use {chips} chips")
    total = sum(f.memory for f in footprints[1:])
    places, chip, core, filled, done = [Location(HOST, 0)], 0, 0, EMPTY, 0
    for position, needed in enumerate(footprints[1:], start=1):
        left = len(footprints) - position
        if chips is not None and chip + 1 < chips and (done * chips >= total * (chip + 1) or left <= chips - chip - 1):
            chip, core, filled = chip + 1, 0, EMPTY
        if not (filled + needed).fits(room):
            core, filled = core + 1, EMPTY
        if core >= cores:
            chip, core = chip + 1, 0
        if chip >= (available if chips is None else chips):
            raise CapacityError(
                f"{system.name}: {len(shards) - 1} shards do not fit {chip} chips of {cores} cores, "
                f"{len(shards) - position} are left over"
            )
        filled, done = filled + needed, done + needed.memory
        places.append(Location(chip, core))
    return tuple(places)
