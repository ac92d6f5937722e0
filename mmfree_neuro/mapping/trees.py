"""How messages travel: a tree of links for every route, its hops on the meshes of chips and its
crossings between them.

A payload that goes to many cores is sent once and branches on the way, so it passes a link at most
once.  On a chip it goes along its row and then along the columns; between chips along the rows, the
columns and the layers of their grid, by way of core 0 of each, where a chip's links are taken to
end (assumed; no source says where they do).  The host is one crossing away from every chip.
"""

from dataclasses import dataclass
from functools import cached_property, lru_cache
from itertools import pairwise

import numpy as np

from mmfree_neuro.integers.fixedpoint import Ints
from mmfree_neuro.mapping.mapping import HOST, Location, Mapping
from mmfree_neuro.systems.spec import SystemSpec

Link = tuple[int, int]
"""From one chip to a neighbour, or from or to the host."""


@dataclass(frozen=True, eq=False)
class Ways:
    """The trees of a mapping's routes.  `run_*`: stretches of mesh links, numbered so that each is
    contiguous."""

    deliveries: Ints  # [routes], how many cores a payload reaches
    chips_reached: Ints  # [routes], chips other than its own, and the host
    crossings: Ints  # [routes]
    depth: Ints  # [routes], mesh links to the farthest core, on all chips on the way
    far: Ints  # [routes], crossings to the farthest chip
    link_route: Ints  # [link uses]
    link: Ints  # [link uses], number in `links`
    links: tuple[Link, ...]
    run_route: Ints  # [runs]
    run_start: Ints
    run_stop: Ints

    @cached_property
    def hops(self) -> Ints:
        """Mesh links of each route's tree [routes]."""
        lengths = self.run_stop - self.run_start
        return np.bincount(self.run_route, lengths, len(self.deliveries)).astype(np.int64)


def chip_path(a: int, b: int, columns: int, rows: int) -> list[int]:
    """The chips on the way from one to another, both included."""
    layer = columns * rows
    at, path = [a % columns, a % layer // columns, a // layer], [a]
    for axis, goal in enumerate((b % columns, b % layer // columns, b // layer)):
        while at[axis] != goal:
            at[axis] += 1 if goal > at[axis] else -1
            path.append(at[0] + columns * (at[1] + rows * at[2]))
    return path


def _chip_tree(
    source: int, chips: tuple[int, ...], columns: int, rows: int
) -> tuple[tuple[Link, ...], int]:
    """The links that a payload crosses to reach other chips, each once, and how many to the
    farthest."""
    found: dict[Link, None] = {}
    far = 0
    for chip in chips:
        path = [source, chip] if HOST in (source, chip) else chip_path(source, chip, columns, rows)
        found.update(dict.fromkeys(pairwise(path)))
        far = max(far, len(path) - 1)
    return tuple(found), far


def ways(mapping: Mapping, system: SystemSpec) -> Ways:
    """The trees of all routes of a mapping on a system."""
    columns, rows = int(system.chip_columns.central), int(system.chip_rows.central)
    place = [mapping.locations[route.source] for route in mapping.routes]
    trees: dict[tuple[int, tuple[int, ...]], tuple[tuple[Link, ...], int]] = {}
    numbers: dict[Link, int] = {}
    link_route, links = [], []
    reached, depth, far = (np.zeros(len(place), np.int64) for _ in range(3))
    mesh = int(system.chip.mesh_columns.central)
    targets: dict[tuple[int, tuple[int, ...]], tuple[list[int], list[int]]] = {}
    split: dict[int, dict[int, tuple[int, ...]]] = {}
    for number, (at, route) in enumerate(zip(place, mapping.routes, strict=True)):
        if id(route.destinations) not in split:
            split[id(route.destinations)] = _by_chip(route.destinations)
        on_chip = split[id(route.destinations)]
        others = tuple(chip for chip in on_chip if chip != at.chip)
        depth[number] = _depth(at, on_chip, mesh)
        leaving: set[int] = set()
        if others:
            key = at.chip, others
            if key not in trees:
                trees[key] = _chip_tree(at.chip, others, columns, rows)
            tree, far[number] = trees[key]
            reached[number] = len(others)
            leaving = {link[0] for link in tree}
            for link in tree:
                link_route.append(number)
                links.append(numbers.setdefault(link, len(numbers)))
        for chip in sorted((on_chip.keys() | leaving) - {HOST}):
            cores = on_chip.get(chip, ())
            if chip in leaving and 0 not in cores:
                cores = (0, *cores)
            which, entries = targets.setdefault((chip, cores), ([], []))
            which.append(number)
            entries.append(at.core if at.chip == chip else 0)
    crossed = np.array(link_route, np.int64)
    runs = _runs(targets, system)
    return Ways(
        np.array([len(route.destinations) for route in mapping.routes], np.int64),
        reached,
        np.bincount(crossed, minlength=len(place)).astype(np.int64),
        depth,
        far,
        crossed,
        np.array(links, np.int64),
        tuple(numbers),
        *runs,
    )


def _by_chip(destinations: tuple[Location, ...]) -> dict[int, tuple[int, ...]]:
    """The cores of each chip, in order."""
    found: dict[int, list[int]] = {}
    for place in destinations:
        found.setdefault(place.chip, []).append(place.core)
    return {chip: tuple(cores) for chip, cores in found.items()}


def _depth(at: Location, on_chip: dict[int, tuple[int, ...]], columns: int) -> int:
    """Mesh links to the farthest core: on the source's chip, or to core 0 of it and from core 0 of
    another."""
    own = _reach(on_chip.get(at.chip, ()), at.core, columns)
    others = [_reach(cores, 0, columns) for chip, cores in on_chip.items() if chip != at.chip]
    return max(own, _reach((0,), at.core, columns) + max(others)) if others else own


@lru_cache(maxsize=4096)
def _reach(cores: tuple[int, ...], entry: int, columns: int) -> int:
    """Mesh links from one core of a chip to the farthest of others."""
    row, column = divmod(entry, columns)
    return max(
        (abs(core // columns - row) + abs(core % columns - column) for core in cores), default=0
    )


def _runs(
    targets: dict[tuple[int, tuple[int, ...]], tuple[list[int], list[int]]], system: SystemSpec
) -> tuple[Ints, Ints, Ints]:
    """The mesh links of every route [runs]: its number, the first link, and the one behind the
    last.

    `targets`: a chip and cores of it, the routes that go there, and the core at which each enters
    the chip.
    """
    columns, cores = int(system.chip.mesh_columns.central), int(system.chip.cores.high)
    rows = -(-cores // columns)
    grid = (1 + max((chip for chip, _ in targets), default=0)) * rows * columns
    found = []

    def run(
        which: Ints, line: Ints, length: int, base: int, entry: Ints, low: Ints, high: Ints
    ) -> None:
        """Links along a line of the mesh, both ways from where it is entered."""
        start = base + line * length
        found.append((which, start + entry, start + np.maximum(high, entry)))
        found.append((which, start + grid + np.minimum(low, entry), start + grid + entry))

    single = [
        (n, chip, there[0], e)
        for (chip, there), known in targets.items()
        if len(there) == 1
        for n, e in zip(*known, strict=True)
    ]
    which, chips, core, entry = np.array(single, np.int64).reshape(-1, 4).T
    row, column = np.divmod(core, columns)
    entry_row, entry_column = np.divmod(entry, columns)
    run(which, chips * rows + entry_row, columns, 0, entry_column, column, column)
    run(which, chips * columns + column, rows, 2 * grid, entry_row, row, row)
    for (chip, there), (numbers, entries) in targets.items():
        if len(there) == 1:
            continue
        which, entry = np.array(numbers), np.array(entries)
        row, column = np.divmod(np.array(there), columns)
        entry_row, entry_column = np.divmod(entry, columns)
        ends = np.full(len(which), column.min()), np.full(len(which), column.max())
        run(which, chip * rows + entry_row, columns, 0, entry_column, *ends)
        order = np.lexsort((row, column))
        each, at = np.unique(column[order], return_index=True)
        top, bottom = row[order][at], row[order][np.append(at[1:], len(order)) - 1]
        routes, lines = len(which), len(each)
        run(
            which.repeat(lines),
            np.tile(chip * columns + each, routes),
            rows,
            2 * grid,
            entry_row.repeat(lines),
            np.tile(top, routes),
            np.tile(bottom, routes),
        )
    number, first, last = (np.concatenate(side) for side in zip(*found, strict=True))
    used = last > first
    return number[used], first[used], last[used]
