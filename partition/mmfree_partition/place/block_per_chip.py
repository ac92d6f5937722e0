"""Places each block on a chip of its own, or on as many as it needs, and the head on the chips after the last block.

The mapping of arXiv 2503.18002: one block per chip, spread over all usable cores.
"""

from mmfree_neuro.errors import CapacityError
from mmfree_neuro.footprint import EMPTY, Footprint, limits
from mmfree_neuro.hardware import SystemSpec
from mmfree_neuro.ir import block_of
from mmfree_neuro.mapping import HOST, Location, Shard


def place(
    shards: tuple[Shard, ...], footprints: tuple[Footprint, ...], system: SystemSpec, *, chips: int | None, cores: int
) -> tuple[Location, ...]:
    """A core for every shard, the first shard (the embedding) on the host; at most `cores` cores of a chip.

    A shard goes to the emptiest core of its block's chip that has room.  Raises CapacityError where the system has too
    few chips, or `chips` is not the number that this mapping needs.
    """
    available, room = int(system.chips.central), limits(system.chip)
    places, chip, filled = [Location(HOST, 0)], -1, [EMPTY] * cores
    block: int | None = -1
    for shard, needed in zip(shards[1:], footprints[1:], strict=True):
        own = block_of(shard.node)
        if own != block:
            chip, block, filled = chip + 1, own, [EMPTY] * cores
        core = _emptiest(filled, needed, room)
        if core is None:
            chip, filled, core = chip + 1, [EMPTY] * cores, 0
        if chip >= available:
            raise CapacityError(f"{system.name}: one block per chip needs more than its {available} chips")
        filled[core] += needed
        places.append(Location(chip, core))
    if chips not in (None, chip + 1):
        raise CapacityError(f"{system.name}: one block per chip needs {chip + 1} chips, {chips} were asked for")
    return tuple(places)


def _emptiest(filled: list[Footprint], needed: Footprint, room: Footprint) -> int | None:
    by_memory = sorted(range(len(filled)), key=lambda core: filled[core].memory)
    return next((core for core in by_memory if (filled[core] + needed).fits(room)), None)
