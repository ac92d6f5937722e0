"""How messages travel: a tree of links for every route, with its hops and its crossings.

A chip's mesh is one of routers, each with a few cores: cores of one router reach each other without
a hop.  A hop is a link of the mesh, a crossing a link between two chips or a chip and the host.

A payload that goes to many cores is sent once and branches on the way, so it passes a link at most
once.  On a chip it goes along its row and then along the columns; between chips along the rows, the
columns and the layers of their grid, by way of router 0 of each, where a chip's links are taken
to end (assumed; no source says where they do).  The host is one crossing away from every chip.
"""

from dataclasses import dataclass
from functools import cached_property, lru_cache
from itertools import pairwise
from typing import NamedTuple

import numpy as np

from mmfree_neuro.integers.fixedpoint import Ints
from mmfree_neuro.mapping.mapping import HOST, Location, Mapping
from mmfree_neuro.systems.spec import SystemSpec

Link = tuple[int, int]
"""From one chip to a neighbour, or from or to the host."""


class MeshLink(NamedTuple):
    """A link of a chip's mesh, between the places (column, row) of two neighbouring routers."""

    chip: int
    source: tuple[int, int]
    destination: tuple[int, int]


class Mesh(NamedTuple):
    """How the links of all meshes are numbered; see `_runs`."""

    columns: int
    rows: int
    direction: int
    """How many numbers each direction takes."""

    def link(self, number: int) -> MeshLink:
        """The link of a number."""
        way, at = divmod(number, self.direction)
        if way < 2:  # right or left
            line, column = divmod(at, self.columns)
            chip, row = divmod(line, self.rows)
            here, there = (column, row), (column + 1, row)
        else:  # down or up
            line, row = divmod(at, self.rows)
            chip, column = divmod(line, self.columns)
            here, there = (column, row), (column, row + 1)
        return MeshLink(chip, there, here) if way % 2 else MeshLink(chip, here, there)


_Targets = dict[tuple[int, tuple[int, ...]], tuple[list[int], list[int]]]
"""For a chip and routers of it: the routes that go there, and the router where each enters the
chip."""


@dataclass(frozen=True, eq=False)
class RouteTrees:
    """The trees of a mapping's routes.

    A run is a row of mesh links on one line of a mesh, in one direction.  Links are numbered so
    that the links of a run are `run_start` … `run_stop` - 1; see `_runs`.
    """

    deliveries: Ints  # [routes], how many cores a payload reaches
    chips_reached: Ints  # [routes], chips other than its own, and the host
    crossings: Ints  # [routes]
    depth: Ints  # [routes], mesh links to the farthest router, on all chips on the way
    far: Ints  # [routes], crossings to the farthest chip
    link_route: Ints  # [link uses]
    link: Ints  # [link uses], number in `links`
    links: tuple[Link, ...]
    run_route: Ints  # [runs]
    run_start: Ints
    run_stop: Ints
    mesh: Mesh

    @cached_property
    def hops(self) -> Ints:
        """Mesh links of each route's tree [routes]."""
        lengths = self.run_stop - self.run_start
        return np.bincount(self.run_route, lengths, len(self.deliveries)).astype(np.int64)


def chip_path(a: int, b: int, columns: int, rows: int) -> list[int]:
    """The chips on the way from one to another, both included."""
    layer = columns * rows
    # Chips are numbered row by row, layer by layer.  On a grid of 2 x 2 chip 7 is column 1, row 1
    # of layer 1, and the path from chip 0 to it is 0, 1, 3, 7: column, then row, then layer.
    here = [a % columns, a % layer // columns, a // layer]
    path = [a]
    for axis, goal in enumerate((b % columns, b % layer // columns, b // layer)):
        while here[axis] != goal:
            here[axis] += 1 if goal > here[axis] else -1
            path.append(here[0] + columns * (here[1] + rows * here[2]))
    return path


def _chip_tree(
    source: int, chips: tuple[int, ...], columns: int, rows: int
) -> tuple[tuple[Link, ...], int]:
    """The links that a payload crosses, each once, and the crossings to the farthest chip."""
    # Paths from one chip share their beginnings, so together they are a tree.  On a grid of 2 x 2
    # chips 1 and 3 are reached from chip 0 by 0-1 and 0-1-3: the tree has the links (0, 1) and
    # (1, 3), and the farthest chip is two crossings away.
    links: dict[Link, None] = {}  # a set that keeps its order
    far = 0
    for chip in chips:
        path = [source, chip] if HOST in (source, chip) else chip_path(source, chip, columns, rows)
        links.update(dict.fromkeys(pairwise(path)))
        far = max(far, len(path) - 1)
    return tuple(links), far


def route_trees(mapping: Mapping, system: SystemSpec) -> RouteTrees:
    """The trees of all routes of a mapping on a system."""
    columns, rows = int(system.chip_columns.central), int(system.chip_rows.central)
    mesh_columns, each = (
        int(q.central) for q in (system.chip.mesh_columns, system.chip.cores_per_router)
    )
    sources = [mapping.locations[route.source] for route in mapping.routes]
    reached, depth, far = (np.zeros(len(sources), np.int64) for _ in range(3))
    link_route, links = [], []
    link_numbers: dict[Link, int] = {}
    # Many routes share a tuple of destinations, or a tree between chips: each is computed once.
    split: dict[int, dict[int, tuple[int, ...]]] = {}  # by the identity of the destinations
    trees: dict[tuple[int, tuple[int, ...]], tuple[tuple[Link, ...], int]] = {}
    targets: _Targets = {}
    for number, (source, route) in enumerate(zip(sources, mapping.routes, strict=True)):
        if id(route.destinations) not in split:
            split[id(route.destinations)] = _by_chip(route.destinations, each)
        on_chip = split[id(route.destinations)]
        router = source.core // each
        depth[number] = _depth(source.chip, router, on_chip, mesh_columns)
        others = tuple(chip for chip in on_chip if chip != source.chip)
        leaving: set[int] = set()
        if others:
            key = source.chip, others
            if key not in trees:
                trees[key] = _chip_tree(source.chip, others, columns, rows)
            tree, far[number] = trees[key]
            reached[number] = len(others)
            leaving = {link[0] for link in tree}
            for link in tree:
                link_route.append(number)
                links.append(link_numbers.setdefault(link, len(link_numbers)))
        for chip in sorted((on_chip.keys() | leaving) - {HOST}):
            routers = on_chip.get(chip, ())
            if chip in leaving and 0 not in routers:
                routers = (0, *routers)  # the links to other chips begin there
            routes, entries = targets.setdefault((chip, routers), ([], []))
            routes.append(number)
            entries.append(router if source.chip == chip else 0)
    crossed = np.array(link_route, np.int64)
    mesh_rows = -(-int(system.chip.cores.high) // (each * mesh_columns))
    meshes = 1 + max((chip for chip, _ in targets), default=0)
    mesh = Mesh(mesh_columns, mesh_rows, meshes * mesh_rows * mesh_columns)
    return RouteTrees(
        np.array([len(route.destinations) for route in mapping.routes], np.int64),
        reached,
        np.bincount(crossed, minlength=len(sources)).astype(np.int64),
        depth,
        far,
        crossed,
        np.array(links, np.int64),
        tuple(link_numbers),
        *_runs(targets, mesh),
        mesh,
    )


def _by_chip(destinations: tuple[Location, ...], each: int) -> dict[int, tuple[int, ...]]:
    """The routers of each chip, in order, of so many cores each."""
    routers: dict[int, dict[int, None]] = {}
    for place in destinations:
        routers.setdefault(place.chip, {})[place.core // each] = None
    return {chip: tuple(numbers) for chip, numbers in routers.items()}


def _depth(chip: int, router: int, on_chip: dict[int, tuple[int, ...]], columns: int) -> int:
    """Mesh links from a router of a chip to the farthest: all on that chip, or by way of router 0
    of both."""
    own = _reach(on_chip.get(chip, ()), router, columns)
    others = [_reach(routers, 0, columns) for other, routers in on_chip.items() if other != chip]
    return max(own, _reach((0,), router, columns) + max(others)) if others else own


@lru_cache(maxsize=4096)
def _reach(routers: tuple[int, ...], entry: int, columns: int) -> int:
    """Mesh links from one router of a chip to the farthest of others."""
    row, column = divmod(entry, columns)
    return max(
        (abs(one // columns - row) + abs(one % columns - column) for one in routers), default=0
    )


def _runs(targets: _Targets, mesh: Mesh) -> tuple[Ints, Ints, Ints]:
    """The runs of every route: the route, the first link and the one behind the last, each [runs].

    Links have numbers of their own for each direction: first those to the right, row by row and
    chip by chip, then those to the left, then down and up, column by column.  A link has the number
    of its left or upper router in this order, so neighbouring links of a line have neighbouring
    numbers.

    A mesh of 4 columns and 2 rows on one chip takes 8 numbers for each direction.  A payload that
    goes from router 1 to router 3 (row 0, column 3) and to router 4 (row 1, column 0) has three
    runs:

        right, on row 0 from column 1 to column 3:  from  0 + 4 * 0 + 1,  links 1 and 2
        left, on row 0 from column 1 to column 0:   from  8 + 4 * 0 + 0,  link 8
        down, on column 0 from row 0 to row 1:      from 16 + 2 * 0 + 0,  link 16
    """
    columns, rows, direction = mesh
    runs = []

    def run(
        routes: Ints, line: Ints, length: int, base: int, entry: Ints, low: Ints, high: Ints
    ) -> None:
        """Links along a line of the mesh, both ways from where it is entered; they may be none."""
        start = base + line * length
        runs.append((routes, start + entry, start + np.maximum(high, entry)))
        runs.append((routes, start + direction + np.minimum(low, entry), start + direction + entry))

    # Where one router of a chip is reached, a tree is an L: all of these are found in one go.
    single = [
        (route, chip, reached[0], entry)
        for (chip, reached), entering in targets.items()
        if len(reached) == 1
        for route, entry in zip(*entering, strict=True)
    ]
    routes, chips, router, entry = np.array(single, np.int64).reshape(-1, 4).T
    row, column = np.divmod(router, columns)
    entry_row, entry_column = np.divmod(entry, columns)
    run(routes, chips * rows + entry_row, columns, 0, entry_column, column, column)
    run(routes, chips * columns + column, rows, 2 * direction, entry_row, row, row)
    # Else it is a comb: the entry's row as far as the outermost columns, and from this row each
    # column that holds one of them, as far as its highest and its lowest.
    for (chip, reached), (numbers, entries) in targets.items():
        if len(reached) == 1:
            continue
        routes, entry = np.array(numbers), np.array(entries)
        row, column = np.divmod(np.array(reached), columns)
        entry_row, entry_column = np.divmod(entry, columns)
        ends = np.full(len(routes), column.min()), np.full(len(routes), column.max())
        run(routes, chip * rows + entry_row, columns, 0, entry_column, *ends)
        order = np.lexsort((row, column))  # by column, from top to bottom within each
        teeth, first = np.unique(column[order], return_index=True)
        top, bottom = row[order][first], row[order][np.append(first[1:], len(order)) - 1]
        run(
            routes.repeat(len(teeth)),
            np.tile(chip * columns + teeth, len(routes)),
            rows,
            2 * direction,
            entry_row.repeat(len(teeth)),
            np.tile(top, len(routes)),
            np.tile(bottom, len(routes)),
        )
    route, start, stop = (np.concatenate(side) for side in zip(*runs, strict=True))
    used = stop > start
    return route[used], start[used], stop[used]
