"""Cores filled with neighbouring pieces: each before the next, evenly, or all of them with a share
of everything."""

from collections.abc import Sequence

import numpy as np

from mmfree_neuro.errors import CapacityError
from mmfree_neuro.mapping.footprint import NOTHING, Taken, over
from mmfree_neuro.mapping.mapping import Shard
from mmfree_partition.chain.chain import Chain
from mmfree_partition.chain.links import Piece


def need_room(chain: Chain) -> None:
    """CapacityError where not even one neuron of a node fits an empty core."""
    for link in chain.links:
        if passed := over(chain.sizes.of(Shard(link.node.name, 0, 1)).all, chain.room):
            name, need, limit = passed
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
    used = NOTHING
    left = [most_ns, most_ns]
    for k, first, last in pieces:
        while first < last:
            count = fitting(chain, k, first, last, used, left)
            if count:
                shard = Shard(chain.links[k].node.name, first, first + count)
                core.append(shard)
                used += chain.sizes.of(shard)
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
                used = NOTHING
                left = [most_ns, most_ns]
    return [*filled, core] if core else filled


def fitting(
    chain: Chain, k: int, offset: int, last: int, used: Taken, left: Sequence[float]
) -> int:
    """How many neurons of node k, from `offset` on and before `last`, still fit a core."""
    node = chain.links[k].node
    most = last - offset
    for have, each in zip(left, chain.nanoseconds[k], strict=True):
        if each:
            most = int(min(most, have / each + 1e-9))

    def fits(count: int) -> bool:
        return chain.fits(used + chain.sizes.of(Shard(node.name, offset, offset + count)))

    if most < 1 or fits(most):
        return max(most, 0)
    return min(most, chain.sizes.most(node.name, used))


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


WIDTHS = (1.0, 0.9, 0.8, 0.7, 0.6, 0.5, 0.4, 0.3, 0.2, 0.1)
"""Shares of the cores of a chip over which every node is spread, tried one after another: the more
cores, the more input axons and list headers there are in all."""


def spread(chain: Chain, pieces: Sequence[Piece], cores: int) -> list[list[Shard]] | None:
    """Pieces on cores, each of them over as many as can be, so that every step has many at work.

    Each piece takes neighbouring cores, and begins where the one before it ends, around the ring of
    all cores.  So no core holds more pieces than another by more than one.  Say that a chip of 120
    cores with 8 groups each has 13 pieces, of which four have one neuron: the other nine take up to
    (960 - 4) // 9 = 106 cores each, or fewer where lists and axons leave no room for as many.
    """
    most = chain.room["groups"]
    small = sum(min(last - first, cores) for _, first, last in pieces if last - first < cores)
    large = sum(last - first >= cores for _, first, last in pieces)
    if most is not None and large and cores * most <= small:
        return None
    widest = cores if most is None or not large else min(cores, (cores * most - small) // large)
    for share in WIDTHS:
        held = _around(chain, pieces, cores, max(1, int(share * widest)))
        if all(chain.fits(sum(map(chain.sizes.of, shards), NOTHING)) for shards in held):
            return [shards for shards in held if shards]
    return None


def _around(chain: Chain, pieces: Sequence[Piece], cores: int, width: int) -> list[list[Shard]]:
    """Every piece over `width` neighbouring cores of a ring, or over as many as it has neurons; of
    those, the least busy have a neuron more where they do not come out even."""
    held: list[list[Shard]] = [[] for _ in range(cores)]
    load = np.zeros(cores)
    at = 0
    for k, first, last in pieces:
        here = [(at + number) % cores for number in range(min(width, last - first))]
        at += len(here)
        count, extra = divmod(last - first, len(here))
        more = {here[position] for position in np.argsort(load[here], kind="stable")[:extra]}
        for core in here:
            size = count + (core in more)
            held[core].append(Shard(chain.links[k].node.name, first, first + size))
            load[core] += size * max(chain.nanoseconds[k])
            first += size
    return held
