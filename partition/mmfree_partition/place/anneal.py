"""Refines where the cores of a chip lie on its mesh: seeded annealing that swaps two of them, and
keeps what is better.

It refines any placement; the placer of this name refines that of `chain`.  Chips and what their
cores hold stay as they are; messages take fewer hops.
"""

from dataclasses import replace

import numpy as np
from numpy.typing import NDArray

from mmfree_neuro.graph.nodes import Graph
from mmfree_neuro.graph.partial_sums import by_columns
from mmfree_neuro.mapping.mapping import HOST, Location, Mapping, Route, Shard
from mmfree_neuro.mapping.request import Request
from mmfree_neuro.mapping.trees import route_trees
from mmfree_neuro.systems.spec import ChipSpec, SystemSpec
from mmfree_partition.place.best_cuts import place as place_chain
from mmfree_partition.placement import Placement
from mmfree_partition.route import route

SWAPS = 6000
"""Tried swaps of a chip."""
COOLEST = 1e-3
"""The last temperature over the first."""


def place(graph: Graph, system: SystemSpec, request: Request) -> Placement:
    """The placement of `chain` with cores swapped on their chips where that saves hops.

    Raises CapacityError where the system has too little room.
    """
    return refine(graph, system, request, place_chain(graph, system, request))


def refine(graph: Graph, system: SystemSpec, request: Request, placed: Placement) -> Placement:
    """Any placement with cores swapped on their chips, or the placement itself where that saves no
    hops."""
    graph = by_columns(graph, placed.columns)
    routes = route(graph, placed.shards, placed.locations)
    moved: dict[Location, Location] = {}
    for chip in sorted({place.chip for place in placed.locations} - {HOST}):
        flow = _flow(routes, placed.locations, chip, request.cores_of(system.chip))
        order = _anneal(flow, system.chip, np.random.default_rng((request.seed, chip)))
        moved |= {
            Location(chip, core): Location(chip, int(order[core]))
            for core in range(request.cores_of(system.chip))
        }
    locations = tuple(moved.get(place, place) for place in placed.locations)
    moved_routes = route(graph, placed.shards, locations)
    before = _hops(system, placed.shards, placed.locations, routes)
    better = _hops(system, placed.shards, locations, moved_routes) < before
    return replace(placed, locations=locations) if better else placed


def _hops(
    system: SystemSpec,
    shards: tuple[Shard, ...],
    locations: tuple[Location, ...],
    routes: tuple[Route, ...],
) -> int:
    """Mesh links that a token's payloads take, all of them non-zero."""
    trees = route_trees(Mapping("", system.name, "", shards, locations, routes), system)
    taken = zip(trees.hops.tolist(), routes, strict=True)
    return int(sum(hops * (one.stop - one.start) for hops, one in taken))


def _flow(
    routes: tuple[Route, ...], locations: tuple[Location, ...], chip: int, cores: int
) -> NDArray[np.float64]:
    """Payloads between the cores of a chip, both ways [cores + 1, cores + 1]; what leaves the chip
    ends in the last.

    A payload that branches counts in parts, since its tree shares links.
    """
    flow = np.zeros((cores + 1, cores + 1))
    for one in routes:
        source = locations[one.source]
        here = [place.core for place in one.destinations if place.chip == chip]
        away = len(here) < len(one.destinations)
        if source.chip == chip:
            start = source.core
            ends = [*here, *([cores] if away else [])]
        elif here:
            start = cores
            ends = here
        else:
            continue
        share = (one.stop - one.start) / len(ends)
        flow[start, ends] += share
    return flow + flow.T


def _anneal(
    flow: NDArray[np.float64], chip: ChipSpec, random: np.random.Generator
) -> NDArray[np.int64]:
    """Where each core goes [cores]; the last row of `flow` is the gateway, which stays at place 0
    of the mesh."""
    cores = len(flow) - 1
    places = np.append(np.arange(cores), 0)
    router = np.arange(cores) // int(chip.cores_per_router.central)
    row, column = np.divmod(router, int(chip.mesh_columns.central))
    distance = np.abs(row[:, None] - row) + np.abs(column[:, None] - column)
    best = places.copy()
    best_cost = 0.0
    cost = 0.0
    hottest = float(flow.sum()) / max(cores, 1) ** 1.5
    pairs = random.integers(cores, size=(SWAPS, 2))
    draws = random.random(SWAPS)
    for number, (a, b) in enumerate(pairs):
        if a == b:
            continue
        change = (flow[a] - flow[b]) @ (distance[places[b], places] - distance[places[a], places])
        # The product takes b to stand still when a moves, and a when b does; in truth the way
        # between the two stays as long as it was.
        change += 2 * flow[a, b] * distance[places[a], places[b]]
        heat = hottest * COOLEST ** (number / SWAPS)
        if change <= 0 or draws[number] < np.exp(-change / heat):
            places[a], places[b] = places[b], places[a]
            cost += float(change)
            if cost < best_cost:
                best = places.copy()
                best_cost = cost
    return best[:-1]
