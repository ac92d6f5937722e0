"""How far messages travel: hops on a chip's mesh and crossings between chips."""

from dataclasses import dataclass

from mmfree_neuro.activity import Activity
from mmfree_neuro.hardware import SystemSpec
from mmfree_neuro.mapping import HOST, Location, Mapping


@dataclass(frozen=True)
class Distance:
    """The way of one message: mesh hops inside chips, links crossed between chips or to the host."""

    hops: int
    crossings: int


def distance(a: Location, b: Location, system: SystemSpec) -> Distance:
    """Dimension-ordered on the mesh of a chip; between chips by way of core 0 of both, over the chips' own grid.

    The host is one crossing away from every chip.
    """
    columns, chip_columns = int(system.chip.mesh_columns.central), int(system.chip_columns.central)

    def from_corner(place: Location) -> int:
        return 0 if place.chip == HOST else place.core // columns + place.core % columns

    if a.chip == b.chip:
        rows_apart = abs(a.core // columns - b.core // columns)
        return Distance(rows_apart + abs(a.core % columns - b.core % columns), 0)
    hops = from_corner(a) + from_corner(b)
    if HOST in (a.chip, b.chip):
        return Distance(hops, 1)
    rows = abs(a.chip // chip_columns - b.chip // chip_columns)
    return Distance(hops, rows + abs(a.chip % chip_columns - b.chip % chip_columns))


@dataclass(frozen=True)
class Traffic:
    """Messages of a run and the way they went in all."""

    messages: int
    silent: int
    """Payloads that were zero and so were not sent."""
    hops: int
    crossings: int
    between_chips: int
    """Messages that left their chip for another chip or the host, or came from the host."""


def traffic(mapping: Mapping, activity: Activity, system: SystemSpec) -> Traffic:
    """The traffic of a run; every route is a unicast of its own."""
    messages = silent = hops = crossings = between = 0
    for route, sent in zip(mapping.routes, activity.messages.tolist(), strict=True):
        way = distance(mapping.locations[route.source], route.destination, system)
        messages += sent
        silent += (route.stop - route.start) * activity.tokens - sent
        hops += sent * way.hops
        crossings += sent * way.crossings
        between += sent if way.crossings else 0
    return Traffic(messages, silent, hops, crossings, between)
