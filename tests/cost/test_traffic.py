"""Trees of links and messages, by hand on chips of 2 x 4 cores, and beside a list of every link of
every way."""

from collections import Counter
from dataclasses import fields
from itertools import pairwise

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from mmfree_neuro.cost import load
from mmfree_neuro.cost.counted import Counted, counted
from mmfree_neuro.cost.traffic import Traffic, traffic
from mmfree_neuro.graph.summary import GraphSummary, NodeSummary
from mmfree_neuro.mapping.mapping import HOST, Location, Mapping, Route, Shard
from mmfree_neuro.mapping.trees import MeshLink, RouteTrees, chip_path, route_trees
from mmfree_neuro.run.activity import Activity, nothing
from mmfree_neuro.systems.spec import ChipSpec, Quantity, SystemSpec

HOST_CORE = Location(HOST, 0)


def exactly(value: float) -> Quantity:
    """A figure without a range."""
    return Quantity(value, value, value, "made up")


def board(
    mesh_columns: int = 4,
    chip_columns: int = 2,
    chip_rows: int = 2,
    cores: int = 8,
    cores_per_router: int = 1,
) -> SystemSpec:
    """A system of which only the grids matter."""
    figures = {field.name: exactly(1) for field in fields(ChipSpec) if field.name != "name"}
    figures |= {
        "mesh_columns": exactly(mesh_columns),
        "cores": exactly(cores),
        "cores_per_router": exactly(cores_per_router),
    }
    grid = exactly(chip_columns), exactly(chip_rows)
    return SystemSpec(
        "board", "made up", exactly(8), *grid, exactly(0), exactly(0), ChipSpec("chip", **figures)
    )


def sending(source: Location, *destinations: Location) -> Mapping:
    """One payload from one core to some."""
    return Mapping(
        "", "board", "by hand", (Shard("a", 0, 1),), (source,), (Route(0, "x", destinations, 0, 1),)
    )


def tree(found: RouteTrees) -> tuple[int, int, int, int, int, int]:
    """The only route of a mapping: deliveries, chips reached, crossings, hops; the farthest core
    and chip."""
    arrays = (
        found.deliveries,
        found.chips_reached,
        found.crossings,
        found.hops,
        found.depth,
        found.far,
    )
    return tuple(int(array[0]) for array in arrays)  # type: ignore[return-value]


@pytest.mark.parametrize(
    ("source", "destinations", "expected"),
    [
        (Location(0, 2), [Location(0, 2)], (1, 0, 0, 0, 0, 0)),
        (Location(0, 0), [Location(0, 7)], (1, 0, 0, 3 + 1, 4, 0)),
        (Location(0, 5), [Location(0, 2)], (1, 0, 0, 1 + 1, 2, 0)),
        # along the row together, then a column each; the core on the way needs no link of its own
        (
            Location(0, 0),
            [Location(0, 2), Location(0, 6), Location(0, 7)],
            (3, 0, 0, 3 + 1 + 1, 4, 0),
        ),
        (
            Location(0, 1),
            [Location(0, 0), Location(0, 3)],
            (2, 0, 0, 1 + 2, 2, 0),
        ),  # both ways from where it starts
        (
            Location(0, 0),
            [Location(0, 3), Location(0, 4)],
            (2, 0, 0, 3 + 1, 3, 0),
        ),  # the farthest is not the corner
        (
            Location(0, 5),
            [Location(1, 6)],
            (1, 1, 1, 2 + 3, 5, 1),
        ),  # to core 0, over the link, from core 0
        (
            Location(0, 5),
            [Location(0, 0), Location(1, 0)],
            (2, 1, 1, 2, 2, 1),
        ),  # the way to core 0 serves both
        (Location(0, 5), [Location(0, 7), Location(1, 0)], (2, 1, 1, 2 + 2, 2, 1)),
        (Location(0, 0), [Location(3, 0)], (1, 1, 2, 0, 0, 2)),  # one row and one column of chips
        (
            Location(0, 0),
            [Location(1, 0), Location(3, 0)],
            (2, 2, 2, 0, 0, 2),
        ),  # the one lies on the way
        (Location(0, 0), [Location(1, 0), Location(2, 0), Location(3, 0)], (3, 3, 3, 0, 0, 2)),
        (Location(0, 0), [Location(7, 0)], (1, 1, 3, 0, 0, 3)),  # and a layer
        (
            HOST_CORE,
            [Location(3, 5)],
            (1, 1, 1, 2, 2, 1),
        ),  # the host is one crossing from every chip
        (HOST_CORE, [Location(0, 0), Location(3, 0), Location(3, 1)], (3, 2, 2, 1, 1, 1)),
        (Location(2, 7), [HOST_CORE], (1, 1, 1, 4, 4, 1)),
        (Location(2, 7), [HOST_CORE, Location(3, 4)], (2, 2, 2, 4 + 1, 5, 1)),
        (HOST_CORE, [HOST_CORE], (1, 0, 0, 0, 0, 0)),
    ],
)
def test_a_payload_passes_every_link_of_its_tree_once(
    source: Location, destinations: list[Location], expected: tuple[int, ...]
) -> None:
    assert tree(route_trees(sending(source, *destinations), board())) == expected


def test_the_runs_of_a_payload() -> None:
    """Two links to the right, one to the left, one down; 8 numbers for each direction of a chip."""
    found = route_trees(sending(Location(0, 1), Location(0, 3), Location(0, 4)), board())
    assert list(zip(found.run_start, found.run_stop, strict=True)) == [(1, 3), (8, 9), (16, 17)]


def test_cores_of_one_router_reach_each_other_without_a_hop() -> None:
    """Two routers side by side, of four cores each: to one's own router, and to the other once for
    all of its cores."""
    two = board(mesh_columns=2, cores_per_router=4)
    near, far = Location(0, 3), [Location(0, core) for core in (4, 6, 7)]
    assert tree(route_trees(sending(Location(0, 1), near), two)) == (1, 0, 0, 0, 0, 0)
    assert tree(route_trees(sending(Location(0, 1), near, *far), two)) == (4, 0, 0, 1, 1, 0)
    assert tree(route_trees(sending(Location(0, 1), Location(1, 5)), two)) == (1, 1, 1, 1, 1, 1)
    assert route_trees(sending(Location(0, 1), *far), two).mesh.link(0) == MeshLink(
        0, (0, 0), (1, 0)
    )


def test_the_grids_come_from_the_system() -> None:
    assert tree(route_trees(sending(Location(0, 0), Location(0, 7)), board(mesh_columns=8)))[3] == 7
    assert tree(route_trees(sending(Location(0, 0), Location(3, 0)), board(chip_columns=4)))[2] == 3
    assert tree(route_trees(sending(Location(0, 0), Location(4, 0)), board(chip_rows=2)))[2] == 1
    assert tree(route_trees(sending(Location(0, 0), Location(4, 0)), board(chip_rows=4)))[2] == 2


def test_between_chips_the_way_goes_along_rows_then_columns_then_layers() -> None:
    assert chip_path(0, 7, 2, 2) == [0, 1, 3, 7]
    assert chip_path(7, 0, 2, 2) == [7, 6, 4, 0]
    assert chip_path(5, 5, 2, 2) == [5]


def test_links_between_chips_have_a_direction() -> None:
    shards, locations = (Shard("a", 0, 1), Shard("b", 0, 1)), (Location(0, 0), Location(1, 0))
    routes = (
        Route(0, "x", (Location(1, 0), HOST_CORE), 0, 1),
        Route(1, "x", (Location(0, 0),), 0, 1),
    )
    found = route_trees(Mapping("", "board", "by hand", shards, locations, routes), board())
    used = [
        (int(route), found.links[k]) for route, k in zip(found.link_route, found.link, strict=True)
    ]
    assert used == [(0, (0, 1)), (0, (0, HOST)), (1, (1, 0))]


def example() -> tuple[Mapping, Activity]:
    """Host to two cores of chip 0, these to one core of chip 1, one to a core beside it too, that
    to the host."""
    shards = Shard("embedding", 0, 4), Shard("mix", 0, 2), Shard("mix", 2, 4), Shard("head", 0, 2)
    first, second, last = Location(0, 0), Location(0, 5), Location(1, 6)
    routes = (
        Route(0, "x", (first, second), 0, 4),
        Route(1, "v", (second, last), 0, 2),
        Route(2, "v", (last,), 2, 4),
        Route(3, "logits", (HOST_CORE,), 0, 2),
    )
    mapping = Mapping("", "board", "by hand", shards, (HOST_CORE, first, second, last), routes)
    none = np.zeros(4, np.int64)
    return mapping, Activity(2, none, none, none, none, none, np.array([7, 4, 3, 4]))


def counts(mapping: Mapping, activity: Activity) -> Counted:
    """Those counts on that mapping; traffic asks nothing of a graph."""
    return counted(mapping, GraphSummary("", "a16", 0, 2, 32, {}, ()), activity, board())


def test_messages_are_weighed_with_their_trees() -> None:
    mapping, activity = example()
    messages = 7 * 2 + 4 * 2 + 3 + 4
    hops = 7 * 2 + 4 * (2 + 3) + 3 * (2 + 3) + 4 * 3
    expected = Traffic(
        messages, 2 * (4 * 2 + 2 * 2 + 2 + 2) - messages, hops, 7 + 4 + 3 + 4, 7 + 4 + 3 + 4
    )
    assert traffic(counts(mapping, activity)) == expected


def test_a_message_over_two_links_is_one_message_and_two_crossings() -> None:
    mapping, none = sending(Location(0, 0), Location(3, 0)), np.zeros(1, np.int64)
    activity = Activity(5, none, none, none, none, none, np.array([3]))
    assert traffic(counts(mapping, activity)) == Traffic(3, 2, 0, crossings=6, between_chips=3)


def test_no_token_is_no_traffic() -> None:
    mapping, _ = example()
    assert traffic(counts(mapping, nothing(mapping))) == Traffic(0, 0, 0, 0, 0)


def test_without_routes_there_are_no_ways() -> None:
    mapping = Mapping("", "board", "by hand", (Shard("a", 0, 1),), (Location(0, 0),), ())
    found = route_trees(mapping, board())
    assert (len(found.deliveries), len(found.hops), len(found.link), len(found.run_start)) == (
        0,
        0,
        0,
        0,
    )
    assert found.links == ()


Step = tuple[tuple[int, int], tuple[int, int]]
"""A link: from one (chip, core) to another; between chips from core 0 to core 0."""


def across(chip: int, a: int, b: int, columns: int) -> list[Step]:
    """The mesh links from one core to another, a core at a time."""
    cores = [a]
    while cores[-1] % columns != b % columns:
        cores.append(cores[-1] + (1 if b % columns > cores[-1] % columns else -1))
    while cores[-1] != b:
        cores.append(cores[-1] + (columns if b > cores[-1] else -columns))
    return [((chip, x), (chip, y)) for x, y in pairwise(cores)]


def between(a: int, b: int, columns: int, rows: int) -> list[Step]:
    """The links between chips, a chip at a time; the host is beside every chip."""
    chips = [a]
    while HOST not in (a, b) and chips[-1] != b:
        for size, stride in ((columns, 1), (rows, columns), (1 << 20, columns * rows)):
            here, there = chips[-1] // stride % size, b // stride % size
            if here != there:
                chips.append(chips[-1] + (stride if there > here else -stride))
                break
    return [((x, 0), (y, 0)) for x, y in pairwise([*chips, b] if chips[-1] != b else chips)]


def way(source: Location, destination: Location, system: SystemSpec) -> list[Step]:
    """Every link from a core's router to that of another, in order."""
    mesh, each = (int(q.central) for q in (system.chip.mesh_columns, system.chip.cores_per_router))
    first, last = source.core // each, destination.core // each
    if source.chip == destination.chip:
        return [] if source.chip == HOST else across(source.chip, first, last, mesh)
    leave = [] if source.chip == HOST else across(source.chip, first, 0, mesh)
    enter = [] if destination.chip == HOST else across(destination.chip, 0, last, mesh)
    grid = int(system.chip_columns.central), int(system.chip_rows.central)
    return leave + between(source.chip, destination.chip, *grid) + enter


def is_mesh(link: Step) -> bool:
    """Whether both ends lie on one chip."""
    return link[0][0] == link[1][0]


@st.composite
def mapped(draw: st.DrawFn) -> tuple[Mapping, SystemSpec, Activity]:
    """Some shards anywhere, which send to any cores; the grids differ in both directions."""
    columns, rows, mesh = draw(st.integers(1, 3)), draw(st.integers(1, 3)), draw(st.integers(1, 5))
    each = draw(st.integers(1, 4))
    places = st.one_of(
        st.just(HOST_CORE), st.builds(Location, st.integers(0, 11), st.integers(0, 10))
    )
    locations = draw(st.lists(places, min_size=1, max_size=5))
    shards = tuple(Shard(f"n{k}", 0, 9) for k in range(len(locations)))
    routes = draw(
        st.lists(
            st.builds(
                Route,
                st.integers(0, len(shards) - 1),
                st.just("x"),
                st.sets(places, min_size=1, max_size=6).map(lambda found: tuple(sorted(found))),
                st.just(0),
                st.just(9),
            ),
            max_size=8,
        )
    )
    sent = np.array([draw(st.integers(0, 9)) for _ in routes], np.int64)
    ends = sorted({place for route in routes for place in route.destinations})
    shards += tuple(Shard("end", k, k + 1) for k in range(len(ends)))
    none = np.zeros(len(shards), np.int64)
    mapping = Mapping("", "board", "drawn", shards, (*locations, *ends), tuple(routes))
    return (
        mapping,
        board(mesh, columns, rows, cores=11, cores_per_router=each),
        Activity(1, none, none, none, none, none, sent),
    )


@given(mapped())
def test_ways_are_the_links_of_all_single_ways_each_once(
    case: tuple[Mapping, SystemSpec, Activity],
) -> None:
    mapping, system, activity = case
    found, crossing, loads = (
        route_trees(mapping, system),
        Counter[tuple[int, int]](),
        Counter[Step](),
    )
    for number, route in enumerate(mapping.routes):
        source = mapping.locations[route.source]
        single = [way(source, place, system) for place in route.destinations]
        links = {link for one in single for link in one}
        mesh = {link for link in links if is_mesh(link)}
        loads.update({link: int(activity.messages[number]) for link in mesh})
        crossing.update({(a[0], b[0]): int(activity.messages[number]) for a, b in links - mesh})
        assert found.deliveries[number] == len(route.destinations)
        assert found.chips_reached[number] == len(
            {place.chip for place in route.destinations} - {source.chip}
        )
        assert (found.hops[number], found.crossings[number]) == (len(mesh), len(links - mesh))
        assert found.depth[number] == max(sum(map(is_mesh, one)) for one in single)
        assert found.far[number] == max(len(one) - sum(map(is_mesh, one)) for one in single)
    sums = Counter[tuple[int, int]]()
    for route_number, link in zip(found.link_route.tolist(), found.link.tolist(), strict=True):
        sums[found.links[link]] += int(activity.messages[route_number])
    assert sums == crossing
    drawn_out(mapping, found, activity, loads)


def places(link: MeshLink, columns: int) -> Step:
    """The cores at both ends of a link of a mesh."""
    ends = (column + columns * row for column, row in (link.source, link.destination))
    first, second = (Location(link.chip, core) for core in ends)
    return first, second


def drawn_out(
    mapping: Mapping, found: RouteTrees, activity: Activity, loads: Counter[Step]
) -> None:
    """Runs, link by link, hold every message of every mesh link, and the busiest is found, by step
    and in all."""
    each = Counter[int]()
    for route, start, stop in zip(found.run_route, found.run_start, found.run_stop, strict=True):
        each.update({link: int(activity.messages[route]) for link in range(start, stop)})
    assert {
        places(found.mesh.link(number), found.mesh.columns): sent for number, sent in each.items()
    } == loads
    names = dict.fromkeys(shard.node for shard in mapping.shards if shard.node != "end")
    nodes = tuple(NodeSummary(name, "", 9, None, k % 2, {}, 0, 0) for k, name in enumerate(names))
    summary = GraphSummary(
        "drawn", "a16", 0, 2, 32, {}, (*nodes, NodeSummary("end", "", 1, None, 2, {}, 0, 0))
    )
    asked = load.load(Counted(mapping, summary, activity, board(), found))
    by_step, in_all = asked.mesh.messages, asked.whole_mesh.messages[0]
    assert in_all == max(loads.values(), default=0)
    halves = [Counter[int](), Counter[int]()]
    for route, start, stop in zip(found.run_route, found.run_start, found.run_stop, strict=True):
        step = mapping.routes[route].source % 2
        halves[step].update({link: int(activity.messages[route]) for link in range(start, stop)})
    assert by_step.tolist() == [max(half.values(), default=0) for half in halves] + [0]
    assert each[int(asked.whole_mesh.link[0])] == in_all
    for half, link, sent in zip(halves, asked.mesh.link.tolist(), by_step.tolist(), strict=False):
        assert half[link] == sent
