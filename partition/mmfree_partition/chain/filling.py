"""Cores filled with neighbouring pieces: each before the next, evenly, or all of them with a share
of everything."""

from collections.abc import Sequence

import numpy as np

from mmfree_neuro.errors import CapacityError
from mmfree_neuro.mapping.footprint import EMPTY, Footprint
from mmfree_neuro.mapping.mapping import Shard
from mmfree_partition.chain.chain import Chain
from mmfree_partition.chain.links import Piece


def need_room(chain: Chain) -> None:
    """CapacityError where not even one neuron of a node fits an empty core."""
    for link in chain.links:
        footprint_ = chain.footprint(Shard(link.node.name, 0, 1))
        if over := footprint_.over(chain.room):
            name, need, limit = over
            raise CapacityError(
                f"{link.node.name}: one neuron needs {need} of {name}, a core of "
                f"{chain.chip.name} has {limit}"
            )


def fill(
    chain: Chain, pieces: Sequence[Piece], most_ns: float, cores: int
) -> list[list[Shard]] | None:
    """Pieces on cores, each filled before the next; None where they need more cores than that.

    No core takes longer than `most_ns` for its synapses or for its instructions.
    """
    filled: list[list[Shard]] = []
    core: list[Shard] = []
    used = EMPTY
    left = [most_ns, most_ns]
    for k, first, last in pieces:
        while first < last:
            count = _fitting(chain, k, first, last, used, left)
            if count:
                shard = Shard(chain.links[k].node.name, first, first + count)
                core.append(shard)
                used += chain.footprint(shard)
                left = [
                    have - count * each
                    for have, each in zip(left, chain.nanoseconds[k], strict=True)
                ]
                first += count
            if first < last:
                filled.append(core)
                if not core or len(filled) == cores:
                    return None
                core = []
                used = EMPTY
                left = [most_ns, most_ns]
    return [*filled, core] if core else filled


def _fitting(
    chain: Chain, k: int, offset: int, last: int, used: Footprint, left: list[float]
) -> int:
    """How many neurons of node k, from `offset` on and before `last`, still fit a core."""
    node = chain.links[k].node
    most = last - offset
    for have, each in zip(left, chain.nanoseconds[k], strict=True):
        if each:
            most = int(min(most, have / each + 1e-9))

    def fits(count: int) -> bool:
        return (used + chain.footprint(Shard(node.name, offset, offset + count))).fits(chain.room)

    if most < 1 or fits(most):
        return max(most, 0)
    low, high = 0, most  # the first fits, the second does not
    while high - low > 1:
        middle = (low + high) // 2
        low, high = (middle, high) if fits(middle) else (low, middle)
    return low


def evenly(chain: Chain, pieces: Sequence[Piece], cores: int) -> list[list[Shard]] | None:
    """`fill` with the slowest core as fast as this order allows; None where the cores have too
    little room."""
    if fill(chain, pieces, float("inf"), cores) is None:
        return None
    low = max(chain.load(pieces) / cores, 1e-6)
    high = low
    while (best := fill(chain, pieces, high, cores)) is None:
        low = high
        high *= 1.1
    while high - low > 0.002 * high:
        middle = (low + high) / 2
        filled = fill(chain, pieces, middle, cores)
        if filled is None:
            low = middle
        else:
            high = middle
            best = filled
    return best


def spread(chain: Chain, pieces: Sequence[Piece], cores: int) -> list[list[Shard]] | None:
    """Pieces on cores, each of them over all cores, so that every step has them all at work."""
    held: list[list[Shard]] = [[] for _ in range(cores)]
    load = np.zeros(cores)
    for k, first, last in pieces:
        count, extra = divmod(last - first, cores)
        more = set(np.argsort(load, kind="stable")[:extra].tolist())
        for core in range(cores):
            size = count + (core in more)
            if size:
                held[core].append(Shard(chain.links[k].node.name, first, first + size))
                load[core] += size * max(chain.nanoseconds[k])
                first += size
    for shards in held:
        if not sum((chain.footprint(shard) for shard in shards), EMPTY).fits(chain.room):
            return None
    return [shards for shards in held if shards]
