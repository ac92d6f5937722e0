"""Cores filled with neighbouring pieces: each before the next, evenly, or all of them with a share
of everything."""

from collections.abc import Sequence

import numpy as np
from numpy.typing import NDArray

from mmfree_neuro.errors import CapacityError
from mmfree_neuro.mapping.footprint import ADDED, NOTHING, Taken, over
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


WIDTHS = (1.0, 0.95, 0.9, 0.85, 0.8, 0.75, 0.7, 0.65, 0.6, 0.55, 0.5, 0.4, 0.3, 0.2, 0.1)
"""Shares of the cores of a chip over which a node is spread, tried one after another: the more
cores, the more input axons and list headers there are in all."""


def spread(chain: Chain, pieces: Sequence[Piece], cores: int) -> list[list[Shard]] | None:
    """Pieces on cores, each of them over as many as can be, so that every step has many at work.

    All take the same share of the cores first, the largest for which there is room; then those that
    take longest take more, as far as there is room.

    A token waits for every piece in turn, so a chip of the published 370M model, whose recurrence,
    `o_proj`, gate and `down_proj` take 6144, 2048, 4096 and 5632 words of lists on every core that
    they are on, has them on three of four cores each, and not on one after another: a core has
    16,000 words, for any three of them.
    """
    choices = list(dict.fromkeys(max(1, int(share * cores)) for share in WIDTHS))
    for width in choices:
        widths = [width] * len(pieces)
        if held := _shared(chain, pieces, cores, widths):
            break
    else:
        return None
    each = [
        (last - first) * max(chain.nanoseconds[k]) / width
        for (k, first, last), width in zip(pieces, widths, strict=True)
    ]
    for number in sorted(range(len(pieces)), key=lambda number: -each[number]):
        for width in choices:
            if width <= widths[number]:
                break
            wider = [*widths[:number], width, *widths[number + 1 :]]
            if found := _shared(chain, pieces, cores, wider):
                held, widths = found, wider
                break
    return [shards for shards in held if shards]


def _shared(
    chain: Chain, pieces: Sequence[Piece], cores: int, widths: Sequence[int]
) -> list[list[Shard]] | None:
    """Every piece over so many cores, or over as many as it has neurons; None where there is no
    room.

    Those that take most of a core are placed first, and each on the cores that have most room left;
    of those, the least busy have a neuron more where a piece does not come out even.
    """
    counts = [
        (last - first, min(width, last - first, cores))
        for (_, first, last), width in zip(pieces, widths, strict=True)
    ]
    shares = [
        _share(chain, Shard(chain.links[k].node.name, first, first + -(-size // width)))
        for (k, first, _), (size, width) in zip(pieces, counts, strict=True)
    ]
    used, expected = np.zeros((cores, len(shares[0]))), np.zeros(cores)
    places: list[list[int]] = [[]] * len(pieces)
    for number in sorted(range(len(pieces)), key=lambda number: -shares[number].max()):
        after = (used + shares[number]).max(1)
        here = np.lexsort((expected, after))[: counts[number][1]]
        if after[here].max() > 1:
            return None
        used[here] += shares[number]
        work = max(chain.nanoseconds[pieces[number][0]]) * counts[number][0]
        expected[here] += work / len(here)
        places[number] = sorted(here.tolist())
    held: list[list[Shard]] = [[] for _ in range(cores)]
    load = np.zeros(cores)
    for (k, first, _), (size, width), here in zip(pieces, counts, places, strict=True):
        count, extra = divmod(size, width)
        more = {here[position] for position in np.argsort(load[here], kind="stable")[:extra]}
        for core in here:
            stop = first + count + (core in more)
            held[core].append(Shard(chain.links[k].node.name, first, stop))
            load[core] += (stop - first) * max(chain.nanoseconds[k])
            first = stop
    if all(chain.fits(sum(map(chain.sizes.of, shards), NOTHING)) for shards in held):
        return held
    return None


def _share(chain: Chain, shard: Shard) -> NDArray[np.float64]:
    """What a shard takes of each limit of a core, as shares of these."""
    taken = chain.sizes.of(shard).all
    shares = [
        getattr(taken, kind) / room for kind in ADDED if (room := chain.room[kind]) is not None
    ]
    return np.array(shares or [0.0])
