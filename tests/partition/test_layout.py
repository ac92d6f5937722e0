"""Pieces come to lie on chips along a line and on their cores, or there is one line that says why
not."""

from collections.abc import Callable
from dataclasses import replace
from itertools import pairwise

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from mmfree_neuro.errors import CapacityError
from mmfree_neuro.graph.nodes import Graph
from mmfree_neuro.mapping.mapping import HOST, Location, Shard
from mmfree_neuro.mapping.request import Request
from mmfree_neuro.mapping.trees import chip_path
from mmfree_neuro.systems.load import load_system, system_names
from mmfree_neuro.systems.spec import Quantity, SystemSpec
from mmfree_partition.chain import filling
from mmfree_partition.chain.chain import Chain
from mmfree_partition.chain.layout import (
    chip_order,
    chips_for,
    core_order,
    cores_of,
    lay_out,
    on_chips,
    parts_of,
    shares,
)
from mmfree_partition.placement import Placement, host_shards


@pytest.fixture(scope="module")
def system(roomy: SystemSpec) -> SystemSpec:
    """Eight chips of cores that hold whatever lies on them."""
    return roomy


Change = Callable[..., SystemSpec]
EMBEDDING = frozenset({"embedding"})
HOST_0 = Location(HOST, 0)
BOTH, FIRST, SECOND = Shard("head", 0, 2), Shard("head", 0, 1), Shard("head", 1, 2)


def grid(chips: int, columns: int, rows: int) -> SystemSpec:
    """A system with so many chips on grids of that size."""
    counts = (Quantity(n, n, n, "made up") for n in (chips, columns, rows))
    names = "chips", "chip_columns", "chip_rows"
    return replace(load_system("kapoho-point"), **dict(zip(names, counts, strict=True)))


@pytest.mark.parametrize(
    ("chips", "columns", "rows", "order"),
    [
        (1, 1, 1, [0]),
        (8, 4, 2, [0, 1, 2, 3, 7, 6, 5, 4]),
        (8, 2, 2, [0, 1, 3, 2, 6, 7, 5, 4]),
        (12, 2, 3, [0, 1, 3, 2, 4, 5, 11, 10, 8, 9, 7, 6]),
        (5, 3, 2, [0, 1, 2, 4, 3]),
    ],
)
def test_chips_lie_along_a_line(chips: int, columns: int, rows: int, order: list[int]) -> None:
    """The third: up the second layer, row by row."""
    assert chip_order(grid(chips, columns, rows)) == order


@given(st.integers(1, 7), st.integers(1, 7), st.integers(1, 4), st.data())
def test_neighbours_of_the_line_are_linked(
    columns: int, rows: int, layers: int, data: st.DataObject
) -> None:
    system = grid(columns * rows * layers, columns, rows)
    order = chip_order(system)
    assert sorted(order) == list(range(columns * rows * layers))
    assert all(len(chip_path(a, b, columns, rows)) == 2 for a, b in pairwise(order))
    fewer = data.draw(st.integers(1, len(order)))
    assert sorted(chip_order(grid(fewer, columns, rows))) == list(range(fewer))


@pytest.mark.parametrize("name", system_names())
def test_every_chip_of_a_known_system_is_on_its_line(name: str) -> None:
    system = load_system(name)
    assert sorted(chip_order(system)) == list(range(int(system.chips.central)))


def test_cores_lie_along_a_line(system: SystemSpec, with_figures: Change) -> None:
    narrow = with_figures(system, mesh_columns=3, cores_per_router=1)
    assert core_order(narrow, 1) == [0]
    assert core_order(narrow, 7) == [0, 1, 2, 5, 4, 3, 6]
    assert core_order(narrow, 5) == [0, 1, 2, 4, 3]
    assert sorted(core_order(system, 120)) == list(range(120))
    pairs = with_figures(system, mesh_columns=2, cores_per_router=2)
    assert core_order(pairs, 7) == [0, 1, 2, 3, 6, 5, 4]


def test_what_stays_on_the_host() -> None:
    assert host_shards({"a": 3, "b": 4, "c": 5}, frozenset({"a", "c"})) == (
        [Shard("a", 0, 3), Shard("c", 0, 5)],
        [HOST_0] * 2,
    )


# The graph made by hand: two neurons behind an embedding.


@pytest.fixture
def chain(hand_graph: Graph, system: SystemSpec) -> Chain:
    return Chain(hand_graph, system.chip, EMBEDDING)


def test_a_layout_by_hand(chain: Chain, system: SystemSpec) -> None:
    """The fifth chip of the line is number 7; the second core is number 1."""
    request = Request(cores=2, divide=False)
    on_one = lay_out(chain, [[[BOTH]]], system, request)
    assert on_one == Placement((Shard("embedding", 0, 3), BOTH), (HOST_0, Location(0, 0)))
    on_two = lay_out(chain, [[[SECOND], [FIRST]]], system, request)
    assert on_two == Placement(
        (Shard("embedding", 0, 3), FIRST, SECOND), (HOST_0, Location(0, 1), Location(0, 0))
    )
    apart = lay_out(chain, [[[FIRST]], [], [], [], [[SECOND]]], system, request)
    assert apart.locations == (HOST_0, Location(0, 0), Location(7, 0))


def test_more_chips_than_there_are(chain: Chain, system: SystemSpec) -> None:
    with pytest.raises(CapacityError) as error:
        lay_out(chain, [[[FIRST]]] * 9, system, Request(cores=2, divide=False))
    assert str(error.value) == "hand: the mapping needs 9 chips, kapoho-point has 8"


def test_pieces_that_do_not_fit_their_chip(
    hand_graph: Graph, system: SystemSpec, with_figures: Change
) -> None:
    chain = Chain(hand_graph, with_figures(system, neurons_per_core=1).chip, EMBEDDING)
    assert len(on_chips(chain, [[(0, 0, 2)]], system, Request(cores=2, divide=False)).shards) == 3
    with pytest.raises(CapacityError) as error:
        on_chips(chain, [[(0, 0, 2)]], system, Request(cores=1, divide=False))
    assert str(error.value) == "hand: head … head do not fit 1 cores of chip 0"


def test_cores_of_a_chip_by_hand(chain: Chain) -> None:
    whole = [(0, 0, 2)]
    assert cores_of(chain, whole, Request(cores=1, divide=False)) == [[BOTH]]
    for spread in (False, True):
        assert cores_of(chain, whole, Request(cores=2, spread=spread, divide=False)) == [
            [FIRST],
            [SECOND],
        ]


def test_what_has_no_room_spread_fills_cores(
    a8: Graph, system: SystemSpec, with_figures: Change
) -> None:
    """Spread, a core needs the axons of several nodes."""
    chain = Chain(a8, with_figures(system, input_axons_per_core=260).chip, EMBEDDING)
    request = Request(cores=20, spread=True, divide=False)
    assert filling.spread(chain, chain.whole(), 20) is None
    in_order = filling.evenly(chain, chain.whole(), 20)
    assert in_order is not None
    assert cores_of(chain, chain.whole(), request) == in_order


# How many chips.


def test_how_many_chips_by_hand(
    hand_graph: Graph, system: SystemSpec, with_figures: Change
) -> None:
    narrow = with_figures(system, neurons_per_core=1)
    chain = Chain(hand_graph, narrow.chip, EMBEDDING)
    assert chips_for(chain, narrow, Request(cores=2, divide=False)) == 1
    assert chips_for(chain, narrow, Request(cores=1, divide=False)) == 2
    assert chips_for(chain, narrow, Request(chips=2, cores=2, divide=False)) == 2
    with pytest.raises(CapacityError) as error:
        chips_for(chain, narrow, Request(chips=3, cores=2, divide=False))
    assert str(error.value) == "hand: 2 neurons are too few to use 3 chips"
    with pytest.raises(CapacityError) as error:
        chips_for(chain, narrow, Request(chips=1, cores=1, divide=False))
    assert str(error.value) == (
        "head: does not fit behind what comes before it: all nodes need 2 chips of 1 cores, 1 "
        "were asked for"
    )
    alone = replace(narrow, chips=Quantity(1, 1, 1, "made up"))
    with pytest.raises(CapacityError) as error:
        chips_for(chain, alone, Request(cores=1, divide=False))
    assert str(error.value) == (
        "head: does not fit behind what comes before it: all nodes need 2 chips of 1 cores, "
        "kapoho-point has 1"
    )


def test_the_first_node_that_does_not_fit_is_named(
    a16: Graph, system: SystemSpec, with_figures: Change
) -> None:
    """64 neurons a core: the first root and 63 of its norm, then one of it and 63 of the
    recurrence; 1609 in all."""
    narrow = with_figures(system, neurons_per_core=64)
    with pytest.raises(CapacityError) as error:
        chips_for(
            Chain(a16, narrow.chip, EMBEDDING), narrow, Request(chips=1, cores=2, divide=False)
        )
    assert str(error.value) == (
        "layers.0.mlgru: does not fit behind what comes before it: all nodes need 13 chips of 2 "
        "cores, "
        "1 were asked for"
    )


# Shares.


def test_shares_by_hand() -> None:
    cores = [[Shard("a", 0, 2)], [Shard("a", 2, 4), Shard("b", 0, 3)], [Shard("c", 0, 1)]]
    assert shares(cores, 1) == [cores]
    assert shares(cores, 2) == [cores[:1], cores[1:]]
    assert shares(cores, 3) == [[core] for core in cores]
    # The largest core gives half of its five neurons.
    assert shares(cores, 4) == [[cores[0]], [[Shard("a", 2, 4)]], [[Shard("b", 0, 3)]], [cores[2]]]


@given(
    st.lists(st.lists(st.integers(1, 5), min_size=1, max_size=4), min_size=1, max_size=6),
    st.integers(1, 12),
)
def test_shares_hold_everything_in_order_and_none_is_empty(
    drawn: list[list[int]], chips: int
) -> None:
    cores = [
        [Shard(f"{k}.{n}", 0, size) for n, size in enumerate(core)] for k, core in enumerate(drawn)
    ]
    total = sum(map(sum, drawn))
    found = shares(cores, min(chips, total))
    assert len(found) == min(chips, total)
    assert all(found) and all(core for chip in found for core in chip)
    held = [
        (s.node, k) for chip in found for core in chip for s in core for k in range(s.start, s.stop)
    ]
    assert held == [(s.node, k) for core in cores for s in core for k in range(s.stop)]
    sizes = [len(chip) for chip in found]
    assert max(sizes) - min(sizes) <= 1


def test_the_pieces_of_shares(a16: Graph, system: SystemSpec) -> None:
    """Neighbouring shards of one node are one piece, on however many cores of a chip they lie."""
    chain = Chain(a16, system.chip, EMBEDDING)
    rms, norm = (link.node.name for link in chain.links[:2])
    share = [
        [[Shard(rms, 0, 1), Shard(norm, 0, 20)], [Shard(norm, 20, 30)]],
        [[Shard(norm, 30, 64)]],
    ]
    assert parts_of(chain, share) == [[(0, 0, 1), (1, 0, 30)], [(1, 30, 64)]]


@pytest.mark.slow
@settings(max_examples=settings.default.max_examples // 3)
@given(cores=st.integers(1, 60), chips=st.integers(1, 8), spread=st.booleans())
def test_shares_fit_their_chips(
    cores: int, chips: int, spread: bool, graph: Graph, system: SystemSpec
) -> None:
    chain, request = (
        Chain(graph, system.chip, EMBEDDING),
        Request(chips=chips, cores=cores, spread=spread, divide=False),
    )
    found = filling.evenly(chain, chain.whole(), chips * cores)
    assert found is not None
    placed = on_chips(chain, parts_of(chain, shares(found, chips)), system, request)
    assert {place.chip for place in placed.locations} == {HOST, *chip_order(system)[:chips]}
    assert max(place.core for place in placed.locations) < cores
    held = np.zeros(sum(node.size for node in graph.nodes), np.int64)
    before = dict(
        zip(
            (n.name for n in graph.nodes),
            np.cumsum([0, *(n.size for n in graph.nodes)]),
            strict=False,
        )
    )
    for shard in placed.shards:
        held[before[shard.node] + shard.start : before[shard.node] + shard.stop] += 1
    assert (held == 1).all()
