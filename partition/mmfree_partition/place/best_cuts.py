"""Cuts the chain into chips where least crosses: the best cuts of all, by dynamic programming over
the places to cut.

Every chip holds a part of the chain and no core may be slower than the slack over the bound
allows.  Within that, and up to the grain of the places, no other way to cut the chain has less
cross its cuts; but where neurons are so large that few cuts fill whole cores, the cuts between
evenly filled cores may have less, and stay.  Where the request allows it, sums are passed from chip
to chip in parts (see `seams`).
"""

from collections import Counter
from contextlib import suppress
from dataclasses import replace

import numpy as np
from numpy.typing import NDArray

from mmfree_neuro.errors import CapacityError
from mmfree_neuro.graph.nodes import Graph
from mmfree_neuro.graph.partial_sums import Columns, by_columns
from mmfree_neuro.integers.fixedpoint import Ints
from mmfree_neuro.mapping.mapping import Shard
from mmfree_neuro.mapping.request import Request
from mmfree_neuro.systems.spec import SystemSpec
from mmfree_partition.chain import crossing, filling
from mmfree_partition.chain.chain import Chain
from mmfree_partition.chain.layout import (
    behind_the_head,
    beside_the_head,
    chips_for,
    lay_out,
    on_chips,
    parts_of,
    share,
    shares,
)
from mmfree_partition.chain.links import Piece
from mmfree_partition.chain.seams import Seams
from mmfree_partition.placement import Placement

SLACK = 1.05
"""How much slower than the bound the slowest core may be."""
REACHED = 1.01
LOOSER = (1.0, 1.02, 1.05, 1.1, 1.2, 1.5, 2.0, 4.0)
"""Times that, or times what `balanced` about reaches where that is slower; the first that can be
kept counts.

Where memory allows none of them, cores are filled evenly instead.
"""
GRAIN = 16
TIGHTER = (1.0, 0.99, 0.98, 0.96, 0.94, 0.9, 0.85, 0.8, 0.7)
"""How full chips may be by the sum of their neurons, tried one after another until cores hold what
chips do."""
MUCH = 1 << 60


def place(graph: Graph, system: SystemSpec, request: Request) -> Placement:
    """The least across all cuts with cores within 5 % of the bound, or as near to it as the order
    of neurons allows.

    A payload that passes a chip by counts at both of its ends, and what comes from the host does
    not count.

    Raises CapacityError where the system has too little room.
    """
    chain = Chain(graph, system.chip, request.on_host(graph), dict(request.entries))
    filling.need_room(chain)
    chips = chips_for(chain, system, request)
    if request.spread and (placed := _head_on_all(chain, chips, system, request)):
        return placed
    if (behind := behind_the_head(chain)) and (before := chain.without(behind)).neurons >= chips:
        divided, parts, columns = best_cuts(before, chips, request)
        whole = chain.of(divided.graph)
        with suppress(CapacityError):
            placed = on_chips(whole, beside_the_head(whole, parts), system, request)
            return replace(placed, columns=columns)
    divided, parts, columns = best_cuts(chain, chips, request)
    return replace(on_chips(divided, parts, system, request), columns=columns)


def _head_on_all(
    chain: Chain, chips: int, system: SystemSpec, request: Request
) -> Placement | None:
    """The best cuts of what stands before the head, and of the head and what finds its largest
    logits a share on every chip; None where chips have no room for it, or the head is on the host.

    A token waits for all rows of the head at one step: on two of 24 chips the published 370M model
    has 133 of its 32,000 rows on a core, on all of them 11.
    """
    head, cores = chain.graph.head, request.cores_of(chain.chip)
    if head.name in chain.host or head.size < chips:
        return None
    last = chain.graph.nodes[chain.graph.nodes.index(head) :]
    # Whoever sends to all neurons of these sends to all cores, and has an output entry for each.
    entries = dict(request.entries)
    inputs = (entry for node in last for entry in node.inputs if entry.reaches_all)
    to_all = {(entry.source, entry.source_port) for entry in inputs}
    for source, streams in Counter(source for source, _ in to_all).items():
        entries[source] = max(entries.get(source, 0), streams * chips * cores)
    chain = Chain(chain.graph, chain.chip, chain.host, entries)
    behind = frozenset(node.name for node in last)
    before = Chain(chain.graph, chain.chip, chain.host | behind, entries)
    one_neuron = (chain.sizes.of(Shard(link.node.name, 0, 1)) for link in chain.links)
    if before.neurons < chips or not all(map(chain.fits, one_neuron)):
        return None
    if filling.evenly(before, before.whole(), chips * cores) is None:
        return None
    divided, parts, columns = best_cuts(before, chips, request)
    whole = chain.of(divided.graph)
    held = []
    for number, part in enumerate(parts):
        numbers = (whole.number[node.name] for node in last)
        pieces = [*part, *(share(whole, k, number, number + 1, chips) for k in numbers)]
        on_cores = filling.spread(whole, [one for one in pieces if one[1] < one[2]], cores)
        if on_cores is None:
            return None
        held.append(on_cores)
    return replace(lay_out(whole, held, system, request), columns=columns)


def best_cuts(
    chain: Chain, chips: int, request: Request
) -> tuple[Chain, list[list[Piece]], Columns]:
    """The chain of the graph as the best cuts divide it, its pieces on every chip, and the columns
    of the division."""
    seams = Seams(chain, divide=request.divide)
    evenly = filling.evenly(chain, chain.whole(), chips * request.cores_of(chain.chip))
    assert evenly is not None
    even_parts = parts_of(chain, shares(evenly, chips))
    for most in slowest_allowed(chain, evenly, chips * request.cores_of(chain.chip)):
        places = seams.places(GRAIN, most)
        limits = [float(chain.room[name] or 0) for name in places.limits]
        for tight in TIGHTER:
            room = tight * request.cores_of(chain.chip) * np.array([most, most, *limits])
            cuts = _cheapest(_first(places.loads, room), places.crossed, chips)
            if cuts is None:
                break
            ends = [places.cuts[number] for number in cuts]
            columns = seams.columns(ends)
            divided = _divided(chain, columns)
            parts = seams.parts(ends, divided)
            if all(
                filling.fill(divided, part, most, request.cores_of(chain.chip)) is not None
                for part in parts
            ):
                if crossed_between(seams, even_parts) < int(places.crossed[cuts].sum()):
                    return chain, even_parts, ()
                return divided, parts, columns
    return chain, even_parts, ()


def crossed_between(seams: Seams, parts: list[list[Piece]]) -> int:
    """What crosses all cuts between some parts without copies, of which each begins where the last
    one ends."""
    crossed = 0
    for k, first, _ in (part[0] for part in parts[1:]):
        if first:
            constant, slope = crossing.inside(seams.crossings, k, divided=False, copying=False)
            crossed += constant + slope * first
        else:
            crossed += crossing.before(seams.crossings, k)
    return crossed


def slowest_allowed(chain: Chain, evenly: list[list[Shard]], cores: int) -> list[float]:
    """Nanoseconds that the slowest core may take, one after another; `evenly` is what evenly filled
    cores hold."""
    reached = max(chain.busiest(core) for core in evenly)
    return [
        looser * max(SLACK * chain.least_slowest(cores), REACHED * reached) for looser in LOOSER
    ]


def _divided(chain: Chain, columns: Columns) -> Chain:
    """The chain of the divided graph."""
    return chain.of(by_columns(chain.graph, columns)) if columns else chain


def _first(loads: NDArray[np.float64], room: NDArray[np.float64]) -> Ints:
    """For every place, the first from which the part up to it fits a chip [places]."""
    first: Ints = np.zeros(len(loads), np.int64)
    for column, limit in zip(loads.T, room, strict=True):
        first = np.maximum(first, np.searchsorted(column, column - limit - 1e-6))
    return first


def _cheapest(first: Ints, crossed: Ints, chips: int) -> list[int] | None:
    """The places that cut exactly `chips` chips with the least crossing in all, ends included; None
    without any."""
    count = len(first)
    cost: Ints = np.full(count, MUCH, np.int64)
    cost[0] = 0
    origin = []
    for _ in range(chips):
        best, where = _window_minimum(cost, first)
        origin.append(where)
        cost = np.where(best < MUCH, best + crossed, MUCH)
    if cost[-1] >= MUCH:
        return None
    ends = [count - 1]
    for where in reversed(origin):
        ends.append(int(where[ends[-1]]))
    return ends[::-1]


def _window_minimum(cost: Ints, first: Ints) -> tuple[Ints, Ints]:
    """The least cost among first[q] … q - 1 for every q, and where it is.

    Table k has, for every place, the least of the 2^k costs from there on, made of two entries of
    the table before.  A window of 5 … 10 is two runs of four, which overlap: 5 … 8 and 7 … 10.
    """
    count = len(cost)
    tables = [(cost, np.arange(count))]
    width = 1
    while 2 * width <= count:
        least, place = tables[-1]
        left = least[:-width] <= least[width:]
        tables.append(
            (
                np.where(left, least[:-width], least[width:]),
                np.where(left, place[:-width], place[width:]),
            )
        )
        width *= 2
    q = np.arange(count)
    length = q - first
    level = np.where(length > 0, np.log2(np.maximum(length, 1)).astype(np.int64), -1)
    best = np.full(count, MUCH, np.int64)
    where = np.zeros(count, np.int64)
    for k, (least, place) in enumerate(tables):
        here = np.flatnonzero(level == k)
        if len(here):
            start = first[here]
            end = q[here] - (1 << k)
            left = least[start] <= least[end]
            best[here] = np.where(left, least[start], least[end])
            where[here] = np.where(left, place[start], place[end])
    return best, where
