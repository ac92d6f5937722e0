"""What stretches of the chain ask for is what cores hold and what routes carry; the cuts found are
the best there are.

The cost of a cut is proved against routes: two chips that hold what lies before and behind it, and
every payload that goes from the one to the other counted.
"""

from collections.abc import Callable, Sequence
from itertools import combinations, pairwise

import numpy as np
import pytest
from hypothesis import assume, given, settings
from hypothesis import strategies as st

from mmfree_neuro.errors import CapacityError
from mmfree_neuro.graph.nodes import Graph, block_of
from mmfree_neuro.graph.partial_sums import by_columns, evenly, sums
from mmfree_neuro.integers.fixedpoint import Ints
from mmfree_neuro.mapping.footprint import NOTHING, Sizes
from mmfree_neuro.mapping.mapping import HOST, Location, Mapping, Shard
from mmfree_neuro.mapping.request import Request
from mmfree_neuro.systems.load import load_system
from mmfree_neuro.systems.spec import SystemSpec
from mmfree_neuro.testing import published_graph
from mmfree_partition.bound.gaps import messages_between_chips
from mmfree_partition.chain import filling
from mmfree_partition.chain.chain import Chain
from mmfree_partition.chain.crossing import (
    Crossings,
    Stream,
    before,
    copied,
    copyable,
    crossings_of,
    inside,
    streams_of,
    with_copies,
)
from mmfree_partition.chain.layout import parts_of, shares
from mmfree_partition.chain.links import Piece, Position
from mmfree_partition.chain.seams import Seams
from mmfree_partition.place import best_cuts
from mmfree_partition.route import route


@pytest.fixture(scope="module")
def system(roomy: SystemSpec) -> SystemSpec:
    """Eight chips of cores that hold whatever lies on them."""
    return roomy


Change = Callable[..., SystemSpec]
some = settings(max_examples=settings.default.max_examples // 2)
both_hosts = pytest.mark.parametrize(
    "head_on_host", [False, True], ids=["head-on-chip", "head-on-host"]
)


def chain_of(graph: Graph, system: SystemSpec, *, head_on_host: bool = False) -> Chain:
    """The chain of a graph; the head with its norm may be on the host."""
    ends = {node.name for node in graph.nodes if block_of(node.name) is None}
    return Chain(graph, system.chip, frozenset(ends if head_on_host else {graph.embedding.name}))


# Neurons.


def test_a_chain_by_hand(hand_graph: Graph, system: SystemSpec) -> None:
    """A neuron reads three payloads, has a program of eight instructions; four of six weights are
    not zero."""
    chain, chip = chain_of(hand_graph, system), system.chip
    (link,) = chain.links
    assert (link.node.name, link.reads, link.instructions) == ("head", 3, 9)
    assert chain.number == {"head": 0}
    assert chain.end == (1, 0)
    assert chain.whole() == [(0, 0, 2)]
    read, done, issued = 3 / 32 * 5.46, 2 * 0.762, 9 * 0.417
    assert chip.time_per_word_ns.central == 5.46
    assert chain.chip_times == [pytest.approx((read, done, issued))]
    assert chain.nanoseconds == [pytest.approx((done, issued))]
    assert chain.least_slowest(4) == pytest.approx(2 * issued / 4)
    assert chain.load([(0, 0, 2)]) == pytest.approx(2 * issued)
    assert chain.load([]) == 0
    assert streams_of(chain) == (Stream(-1, 3, ((0, "ternary"),)),)


def test_with_slow_synapses_these_are_the_load(
    hand_graph: Graph, system: SystemSpec, with_figures: Change
) -> None:
    chain = chain_of(
        hand_graph, with_figures(system, time_per_synop_ns=5, time_per_instruction_ns=1)
    )
    assert chain.chip_times == [pytest.approx((3 / 32 * 5.46, 10, 9))]
    assert chain.nanoseconds == [(10, 9)]
    assert chain.least_slowest(1) == 20


def test_what_is_left_to_the_host_is_no_part_of_it(graph: Graph, system: SystemSpec) -> None:
    names = [node.name for node in graph.nodes]
    assert [link.node.name for link in chain_of(graph, system).links] == names[1:]
    blocks = [name for name in names if name.startswith("layers.")]
    assert [link.node.name for link in chain_of(graph, system, head_on_host=True).links] == blocks


def test_what_may_be_copied(graph: Graph) -> None:
    kept = {"Embedding", "MLGRU", "GLU", "Residual", "Head"}
    assert {type(node).__name__ for node in graph.nodes if not copyable(node)} == kept


def test_footprints_are_those_of_the_shards(graph: Graph, system: SystemSpec) -> None:
    """Of shards of one size the first asks for all; only the end of a node may be less."""
    chain = chain_of(graph, system)
    for link in chain.links:
        size = link.node.size
        for start, stop in (
            (0, size),
            (0, 1),
            (size // 2, size),
            (size - 1, size),
            (size // 3, size // 3 + 1),
        ):
            shard = Shard(link.node.name, start, stop)
            assert chain.sizes.of(shard) == Sizes(graph, system.chip).of(shard)


@pytest.mark.parametrize(
    ("figure", "value", "message"),
    [
        (
            "memory_bytes_per_core",
            467,
            "head: one neuron needs 468 of memory, a core of loihi2 has 467",
        ),
        (
            "synaptic_memory_bytes_per_core",
            47,
            "head: one neuron needs 48 of synaptic memory, a core of loihi2 has 47",
        ),
        ("neurons_per_core", 0, "head: one neuron needs 1 of neurons, a core of loihi2 has 0"),
        (
            "state_bytes_per_neuron",
            3,
            "head: one neuron needs 4 of state per neuron, a core of loihi2 has 3",
        ),
        (
            "input_axons_per_core",
            2,
            "head: one neuron needs 3 of input axons, a core of loihi2 has 2",
        ),
    ],
)
def test_one_neuron_fits_a_core(
    figure: str,
    value: int,
    message: str,
    hand_graph: Graph,
    system: SystemSpec,
    with_figures: Change,
) -> None:
    filling.need_room(chain_of(hand_graph, with_figures(system, **{figure: value + 1})))
    with pytest.raises(CapacityError) as error:
        filling.need_room(chain_of(hand_graph, with_figures(system, **{figure: value})))
    assert str(error.value) == message


# Cores.

ROWS = Shard("head", 0, 2), Shard("head", 0, 1), Shard("head", 1, 2)


def test_filling_cores_by_hand(hand_graph: Graph, system: SystemSpec, with_figures: Change) -> None:
    both, first, second = ROWS
    chain = chain_of(hand_graph, system)
    assert filling.fill(chain, [(0, 0, 2)], 2 * 9 * 0.417, 1) == [[both]]
    assert filling.fill(chain, [(0, 0, 2)], 2 * 9 * 0.417 - 0.01, 2) == [[first], [second]]
    assert filling.fill(chain, [(0, 0, 2)], 9 * 0.417 - 0.01, 9) is None
    assert filling.fill(chain, [], 1, 1) == []
    for figure, one in (("memory_bytes_per_core", 468), ("neurons_per_core", 1)):
        narrow = chain_of(hand_graph, with_figures(system, **{figure: one}))
        assert filling.fill(narrow, [(0, 0, 2)], 1e9, 2) == [[first], [second]]
        assert filling.fill(narrow, [(0, 0, 2)], 1e9, 1) is None
        assert filling.fill(narrow, [(0, 0, 1)], 1e9, 1) == [[first]]
    assert filling.evenly(chain, [(0, 0, 2)], 1) == [[both]]
    assert filling.evenly(chain, [(0, 0, 2)], 2) == [[first], [second]]
    assert filling.evenly(narrow, [(0, 0, 2)], 1) is None


def test_spreading_over_cores_by_hand(
    hand_graph: Graph, system: SystemSpec, with_figures: Change
) -> None:
    both, first, second = ROWS
    chain = chain_of(hand_graph, system)
    assert filling.spread(chain, [(0, 0, 2)], 1) == [[both]]
    assert filling.spread(chain, [(0, 0, 2)], 2) == [[first], [second]]
    assert filling.spread(chain, [(0, 0, 2)], 9) == [[first], [second]]
    narrow = chain_of(hand_graph, with_figures(system, neurons_per_core=1))
    assert filling.spread(narrow, [(0, 0, 2)], 1) is None


def places_of(chain: Chain, grain: int) -> tuple[list[Position], Ints]:
    """Places to cut a chain, sums undivided, and what crosses each."""
    found = Seams(chain, divide=False).places(grain)
    return [(cut.node, cut.offset) for cut in found.cuts], found.crossed


def neurons(shards: Sequence[Shard]) -> list[tuple[str, int]]:
    """Every neuron of some shards, in order."""
    return [(shard.node, k) for shard in shards for k in range(shard.start, shard.stop)]


@pytest.mark.slow
@some
@given(data=st.data())
def test_cores_hold_the_pieces_and_keep_every_limit(
    data: st.DataObject, graph: Graph, system: SystemSpec, with_figures: Change
) -> None:
    """Filled, evenly or spread: the same neurons, no core too full, none empty, none slower than is
    said."""
    memory, axons = data.draw(st.integers(6000, 60000)), data.draw(st.integers(192, 2000))
    chain = chain_of(
        graph, with_figures(system, memory_bytes_per_core=memory, input_axons_per_core=axons)
    )
    places, _ = places_of(chain, data.draw(st.integers(1, 16)))
    start, stop = sorted(
        data.draw(st.lists(st.sampled_from(places), min_size=2, max_size=2, unique=True))
    )
    pieces = with_copies(crossings_of(chain), start, stop)
    cores = data.draw(st.integers(1, 40))
    wanted = [
        (chain.links[k].node.name, neuron)
        for k, first, last in pieces
        for neuron in range(first, last)
    ]
    most = data.draw(st.floats(chain.load(pieces) / cores, chain.load(pieces)))
    filled, evenly, spread = (
        filling.fill(chain, pieces, most, cores),
        filling.evenly(chain, pieces, cores),
        filling.spread(chain, pieces, cores),
    )
    for found in (filled, evenly, spread):
        if found is None:
            continue
        assert len(found) <= cores
        assert all(found)
        held = [shard for core in found for shard in core]
        assert (
            neurons(held) == wanted
            if found is not spread
            else sorted(neurons(held)) == sorted(wanted)
        )
        for core in found:
            assert chain.fits(sum(map(chain.sizes.of, core), NOTHING))
    assert all(slowest(chain, [core]) <= most + 1e-6 for core in filled or [])
    assert (
        evenly is None
        or filled is None
        or slowest(chain, evenly) <= 1.002 * slowest(chain, filled) + 1e-6
    )


def slowest(chain: Chain, cores: list[list[Shard]]) -> float:
    """Nanoseconds of the slowest core."""
    return max(
        chain.load([(chain.number[s.node], s.start, s.stop) for s in core]) for core in cores
    )


# Cuts.


def pieces_held(crossings: Crossings, places: Sequence[Position]) -> list[list[Piece]]:
    """The pieces of the chips that a chain is cut into."""
    ends = [(0, 0), *places, crossings.chain.end]
    return [with_copies(crossings, a, b) for a, b in pairwise(ends)]


def carried(crossings: Crossings, places: Sequence[Position]) -> int:
    """Payloads from chip to chip, by the routes of a mapping that cuts a chain into chips there."""
    return carried_by(crossings.chain, pieces_held(crossings, places))


def carried_by(chain: Chain, parts: Sequence[Sequence[Piece]]) -> int:
    """The same, of parts on chips of their own."""
    graph = chain.graph
    shards = [
        Shard(node.name, 0, node.size) for node in graph.nodes if node.name not in chain.number
    ]
    locations = [Location(HOST, 0)] * len(shards)
    for chip, pieces in enumerate(parts):
        shards += [Shard(chain.links[k].node.name, first, last) for k, first, last in pieces]
        locations += [Location(chip, 0)] * len(pieces)
    routes = route(graph, tuple(shards), tuple(locations))
    return messages_between_chips(Mapping("", "", "", tuple(shards), tuple(locations), routes))


@pytest.mark.parametrize("cores", [3, 10, 40])
def test_what_crosses_between_evenly_filled_chips_is_what_routes_carry(
    cores: int, graph: Graph, system: SystemSpec
) -> None:
    """Wherever the cut falls, without copies."""
    chain = chain_of(graph, system)
    evenly = filling.evenly(chain, chain.whole(), 2 * cores)
    assert evenly is not None
    parts = parts_of(chain, shares(evenly, 2))
    crossed = best_cuts.crossed_between(Seams(chain, divide=False), parts)
    assert carried_by(chain, parts) == crossed


@pytest.mark.slow
@both_hosts
def test_what_crosses_a_cut_is_what_routes_carry(
    head_on_host: bool, graph: Graph, system: SystemSpec
) -> None:
    """Every eighth place of all, in every node, and its first and last."""
    chain = chain_of(graph, system, head_on_host=head_on_host)
    places, crossed = places_of(chain, 1)
    assert len(places) == 1 + sum(link.node.size for link in chain.links)
    assert (crossed[0], crossed[-1]) == (0, 0)
    crossings = crossings_of(chain)
    sizes = [link.node.size for link in chain.links]
    tried = 0
    for place, cost in zip(places[1:-1], crossed[1:-1].tolist(), strict=True):
        if place[1] % 8 in (0, 1) or place[1] == sizes[place[0]] - 1:
            assert carried(crossings, [place]) == cost, place
            tried += 1
    assert tried > 2 * len(chain.links)


def test_what_crosses_by_hand(a16: Graph, system: SystemSpec) -> None:
    """Of 64 values a block's first norm makes three formats for the recurrence."""
    chain = chain_of(a16, system)
    places, crossed = places_of(chain, 16)
    cost = dict(zip(places, crossed.tolist(), strict=True))
    norm, mlgru, residual = (
        chain.number[f"layers.1.{name}"] for name in ("attn.norm", "mlgru", "o_proj")
    )
    assert cost[norm, 0] == 64 + 1  # the residual stream and the root of its squares
    # The residual stream, what the norm made of it, and the root, which says that a token is there.
    assert cost[mlgru, 0] == 64 + 3 * 64 + 1
    # A copy of the norm needs the stream and the root; 16 finished neurons send their value and its
    # square.
    crossings = crossings_of(chain)
    assert copied(crossings, (mlgru, 16)) == [norm]
    assert cost[mlgru, 16] == 64 + 1 + 16 * 2
    assert with_copies(crossings, (mlgru, 16), (mlgru, 32)) == [(norm, 0, 64), (mlgru, 16, 32)]
    # No copy pays inside a projection: 64 normalised values, the stream of its last neurons, what
    # the first finished.
    assert cost[residual, 48] == 64 + 64 - 48 + 48 * 2 + 1
    assert copied(crossings, (residual, 48)) == []


def test_what_crosses_a_published_block_by_hand() -> None:
    """The numbers that docstrings work out."""
    graph = published_graph("370m", blocks=2)
    chain = chain_of(graph, load_system("alia-point-32"))
    crossings = crossings_of(chain)
    o_proj = chain.number["layers.1.o_proj"]
    assert inside(crossings, o_proj, divided=False) == (1024 + 1024 + 1, -1 + 2)
    assert inside(crossings, o_proj, divided=True) == (1024 + 1024 + 2, 0)
    mlgru, norm = chain.number["layers.1.mlgru"], chain.number["layers.1.attn.norm"]
    assert before(crossings, mlgru) == 4097
    assert inside(crossings, mlgru, divided=False) == (1025, 2)
    assert copied(crossings, (mlgru, 1)) == [norm]


@pytest.mark.slow
@both_hosts
@some
@given(data=st.data())
def test_several_cuts_carry_no_more_than_they_cost(
    head_on_host: bool, data: st.DataObject, graph: Graph, system: SystemSpec
) -> None:
    """The cost takes a payload to go through all chips on its way; one that passes a chip by is
    carried once."""
    chain = chain_of(graph, system, head_on_host=head_on_host)
    places, crossed = places_of(chain, 1)
    cuts = sorted(data.draw(st.sets(st.integers(1, len(places) - 2), min_size=1, max_size=6)))
    assert carried(crossings_of(chain), [places[cut] for cut in cuts]) <= crossed[cuts].sum()


@some
@given(data=st.data())
def test_cuts_between_neighbours_carry_what_they_cost(
    data: st.DataObject, graph: Graph, system: SystemSpec
) -> None:
    """No payload passes a chip by whose stretch begins and ends with the residual stream: that of a
    whole block."""
    chain = chain_of(graph, system)
    places, crossed = places_of(chain, 1)
    blocks = [block_of(link.node.name) for link in chain.links]
    first = [k for k, (before, here) in enumerate(pairwise(blocks), 1) if before != here]
    cuts = [
        places.index((k, 0)) for k in sorted(data.draw(st.sets(st.sampled_from(first), min_size=1)))
    ]
    assert carried(crossings_of(chain), [places[cut] for cut in cuts]) == crossed[cuts].sum()


@pytest.mark.slow
@some
@given(data=st.data())
def test_cuts_of_divided_products_carry_no_more_than_they_cost(
    data: st.DataObject, graph: Graph, system: SystemSpec
) -> None:
    """A part of a sum reads some columns only; the cost takes all of them."""
    names = [node.name for node in graph.nodes if sums(graph, node)]
    parts = data.draw(
        st.dictionaries(st.sampled_from(names), st.integers(2, 4), min_size=1, max_size=3)
    )
    chain = chain_of(by_columns(graph, evenly(graph, tuple(parts.items()))), system)
    places, crossed = places_of(chain, 1)
    cut = data.draw(st.integers(1, len(places) - 2))
    assert carried(crossings_of(chain), [places[cut]]) <= crossed[cut]


# The best cuts.


def every_way(count: int, chips: int) -> list[list[int]]:
    """All ways to cut that many places into stretches of chips, ends included."""
    return [[0, *inner, count - 1] for inner in combinations(range(1, count - 1), chips - 1)]


@given(data=st.data())
def test_the_cheapest_cuts_by_brute_force(data: st.DataObject) -> None:
    count = data.draw(st.integers(2, 9))
    steps = data.draw(st.lists(st.integers(0, 3), min_size=count - 1, max_size=count - 1))
    crossed = np.array(
        [0, *data.draw(st.lists(st.integers(0, 9), min_size=count - 2, max_size=count - 2)), 0]
    )
    first, chips = (
        np.minimum(np.cumsum([0, *steps]) // 2, np.arange(count)),
        data.draw(st.integers(1, 5)),
    )
    allowed = [
        cuts for cuts in every_way(count, chips) if all(first[b] <= a for a, b in pairwise(cuts))
    ]
    found = best_cuts._cheapest(first, crossed, chips)
    if found is None:
        assert not allowed
        return
    assert found in allowed
    assert crossed[found].sum() == min(crossed[cuts].sum() for cuts in allowed)


@given(st.lists(st.integers(0, 20), min_size=1, max_size=40), st.integers(1, 40))
def test_windows_have_the_least_of_their_values(values: list[int], width: int) -> None:
    first = np.maximum(np.arange(len(values)) - width, 0)
    best, where = best_cuts._window_minimum(np.array(values), first)
    assert best[0] == best_cuts.MUCH
    for q in range(1, len(values)):
        assert best[q] == min(values[first[q] : q]) == values[where[q]]
        assert first[q] <= where[q] < q


def test_what_stretches_take_is_a_difference_of_prefixes(graph: Graph, system: SystemSpec) -> None:
    chain = chain_of(graph, system)
    (places, _), loads = places_of(chain, 5), Seams(chain, divide=False).places(5).loads
    assert not loads[0].any()
    for a, b in ((0, len(places) - 1), (3, 20), (10, 11)):
        times = np.zeros(2)
        for k, first, last in chain.pieces(places[a], places[b]):
            times += np.array(chain.nanoseconds[k]) * (last - first)
        assert np.allclose(loads[b, :2] - loads[a, :2], times)
    room = loads[-1] * np.linspace(0.1, 0.3, loads.shape[1])
    first = best_cuts._first(loads, room)
    for b in range(len(places)):
        fits = [a for a in range(b + 1) if (loads[b] - loads[a] <= room + 1e-6).all()]
        assert first[b] == fits[0]


@pytest.mark.slow
@some
@given(
    memory=st.sampled_from([12000, 20000, 196608]),
    cores=st.integers(2, 40),
    chips=st.integers(1, 3),
)
def test_the_best_cuts_by_brute_force(
    memory: int, cores: int, chips: int, a16: Graph, system: SystemSpec, with_figures: Change
) -> None:
    """The first slack and fullness at which cheapest cuts fit their cores decide, and nothing is
    cheaper there, but perhaps the cuts between evenly filled cores."""
    chain = chain_of(a16, with_figures(system, memory_bytes_per_core=memory), head_on_host=True)
    filled = filling.fill(chain, chain.whole(), float("inf"), 1 << 40)
    assert filled is not None
    assume(len(filled) <= chips * cores)
    _, parts, columns = best_cuts.best_cuts(chain, chips, Request(cores=cores, divide=False))
    assert columns == ()
    crossings = crossings_of(chain)
    places, crossed = places_of(chain, best_cuts.GRAIN)
    ways = np.array(every_way(len(places), chips))
    costs, seams = crossed[ways].sum(1), Seams(chain, divide=False)
    evenly = filling.evenly(chain, chain.whole(), chips * cores)
    assert evenly is not None
    even = parts_of(chain, shares(evenly, chips))
    for most in best_cuts.slowest_allowed(chain, evenly, chips * cores):
        found = seams.places(best_cuts.GRAIN, most)
        held = np.diff(found.loads[ways], axis=1)  # [ways, chips, resources]
        limits = [chain.room[name] for name in found.limits]
        for tight in best_cuts.TIGHTER:
            room = tight * cores * np.array([most, most, *limits], np.float64)
            allowed = np.flatnonzero((held <= room + 1e-6).all((1, 2)))
            best = allowed[costs[allowed] == costs[allowed].min(initial=best_cuts.MUCH)]
            cheapest = [
                pieces_held(crossings, [places[b] for b in ways[way][1:-1]]) for way in best
            ]
            fitting = [
                all(filling.fill(chain, pieces, most, cores) is not None for pieces in way)
                for way in cheapest
            ]
            if parts in cheapest and fitting[cheapest.index(parts)]:
                return
            if any(fitting) and best_cuts.crossed_between(seams, even) < costs[best[0]]:
                assert parts == even
                return
            assert not fitting or not all(fitting)
    assert parts == even  # memory allows none of these
