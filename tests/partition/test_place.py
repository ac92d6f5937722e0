"""What every placer promises, and what each alone does."""

import importlib.util
import sys
from collections import Counter
from collections.abc import Callable
from dataclasses import replace
from functools import lru_cache

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from mmfree_neuro.errors import CapacityError, InputError
from mmfree_neuro.graph.nodes import Graph, block_of
from mmfree_neuro.graph.partial_sums import by_columns
from mmfree_neuro.lowering.scheme import SCHEMES
from mmfree_neuro.mapping.mapping import HOST, Location, Mapping
from mmfree_neuro.mapping.request import Request
from mmfree_neuro.mapping.trees import route_trees
from mmfree_neuro.systems.load import load_system
from mmfree_neuro.systems.spec import Quantity, SystemSpec
from mmfree_neuro.testing import published_graph
from mmfree_partition.bound.gaps import gaps, messages_between_chips
from mmfree_partition.chain import filling
from mmfree_partition.chain.chain import Chain
from mmfree_partition.chain.layout import chip_order
from mmfree_partition.check import check
from mmfree_partition.fit import fit
from mmfree_partition.place import anneal, mtkahypar
from mmfree_partition.place.anneal import refine
from mmfree_partition.place.best_cuts import GRAIN, SLACK, slowest_allowed
from mmfree_partition.placement import Placement
from mmfree_partition.placers import PLACERS
from mmfree_partition.route import route


@pytest.fixture(scope="module")
def system(roomy: SystemSpec) -> SystemSpec:
    """Eight chips of cores that hold whatever lies on them."""
    return roomy


Change = Callable[..., SystemSpec]
EMBEDDING = frozenset({"embedding"})
yardstick = pytest.mark.skipif(
    importlib.util.find_spec("mtkahypar") is None, reason="mtkahypar is not installed"
)
every_placer = pytest.mark.parametrize(
    "placer",
    [pytest.param(name, marks=yardstick if name == "mtkahypar" else ()) for name in PLACERS],
)


def on_host(graph: Graph, head_on_host: bool) -> frozenset[str]:
    """The nodes that stay on the host."""
    return (
        frozenset(node.name for node in graph.nodes if block_of(node.name) is None)
        if head_on_host
        else EMBEDDING
    )


def mapped(graph: Graph, system: SystemSpec, placed: Placement) -> Mapping:
    """The checked mapping of a placement."""
    graph = by_columns(graph, placed.columns)
    routes = route(graph, placed.shards, placed.locations)
    mapping = Mapping("", system.name, "", placed.shards, placed.locations, routes, placed.columns)
    return check(graph, mapping, system)


def slowest(graph: Graph, system: SystemSpec, placed: Placement) -> float:
    """Nanoseconds of the slowest core."""
    return gaps(graph, mapped(graph, system, placed), system, 120).slowest_core_ns.found


# What all promise.


CASES = [
    (196608, 120, False, True, False),
    (196608, 60, True, False, False),
    (196608, 3, True, True, True),
    (16000, 17, False, False, True),
    (16000, 17, True, True, True),
]
"""Bytes of a core, cores of a chip, whether nodes are spread, the head is on the host, sums may be
divided."""
GRAPHS = [*sorted(SCHEMES), "a14-late", "a14-local"]
EVERY_OTHER = [
    (*case, graph)
    for number, case in enumerate(CASES)
    for other, graph in enumerate(GRAPHS)
    if (number + other) % 2 == 0
]
"""Each case with every other graph, so that each graph has every other case."""


@pytest.mark.slow
@every_placer
@pytest.mark.parametrize(
    ("memory", "cores", "spread", "head_on_host", "divide", "graph"),
    EVERY_OTHER,
    indirect=["graph"],
)
def test_placements_are_valid(
    placer: str,
    memory: int,
    cores: int,
    spread: bool,
    head_on_host: bool,
    divide: bool,
    graph: Graph,
    system: SystemSpec,
    with_figures: Change,
) -> None:
    """On as few chips as it takes, and on exactly those asked for; twice the same; no core that was
    not given."""
    system = with_figures(system, memory_bytes_per_core=memory)
    request = Request(cores=cores, head_on_host=head_on_host, spread=spread, divide=divide)
    request = replace(request, placer=placer)
    _, fewest = fit(graph, "", system, request)
    least = len(fewest.chips)
    assert fit(graph, "", system, replace(request, chips=least))[1] == fewest
    found = {least: fewest}
    if placer != "block-per-chip":
        _, found[least + 2] = fit(graph, "", system, replace(request, chips=least + 2))
    for chips, placed in found.items():
        assert divide or not placed.columns
        assert placed.chips == tuple(sorted(chip_order(system)[:chips]))
        assert max(place.core for place in placed.locations) < cores
        at_home = {
            s.node for s, p in zip(placed.shards, placed.locations, strict=True) if p.chip == HOST
        }
        assert at_home == request.on_host(graph)
        number = {node.name: k for k, node in enumerate(by_columns(graph, placed.columns).nodes)}
        order = [(number[shard.node], shard.start) for shard in placed.shards]
        assert order == sorted(order)


@pytest.mark.parametrize("placer", [name for name in PLACERS if name != "mtkahypar"])
@pytest.mark.parametrize("cores", [1, 7, 40])
def test_spread_nodes_are_at_work_on_all_cores_of_a_chip(
    placer: str, cores: int, graph: Graph, system: SystemSpec
) -> None:
    chips = None if placer == "block-per-chip" else 2
    placed = PLACERS[placer](
        graph, system, Request(chips=chips, cores=cores, spread=True, divide=False)
    )
    assert_spread(placed, cores)


def assert_spread(placed: Placement, cores: int) -> None:
    """What a chip has of a node is shared evenly by its cores."""
    held: dict[tuple[str, int], dict[Location, int]] = {}
    for shard, place in zip(placed.shards, placed.locations, strict=True):
        if place.chip != HOST:
            assert place not in held.setdefault((shard.node, place.chip), {})
            held[shard.node, place.chip][place] = shard.size
    for parts in held.values():
        assert len(parts) == min(sum(parts.values()), cores)
        assert max(parts.values()) - min(parts.values()) <= 1


@pytest.mark.slow
def test_the_head_is_spread_over_all_chips(
    graph: Graph, system: SystemSpec, with_figures: Change
) -> None:
    """Beside the blocks where there is room for it, and behind them where there is not."""
    request = Request(chips=3, cores=40, spread=True)
    placed = PLACERS["chain"](graph, system, request)
    rows = Counter[int]()
    for shard, place in zip(placed.shards, placed.locations, strict=True):
        if shard.node == "head":
            rows[place.chip] += shard.size
    assert len(rows) == 3
    assert sum(rows.values()) == graph.head.size
    assert max(rows.values()) - min(rows.values()) <= 1
    divided, mapping = fit(graph, "", system, request)
    assert check(divided, mapping, system) is mapping
    # No more than an entry of 16 bytes for each of 960 cores, and programs take room, too.
    narrow = with_figures(system, memory_bytes_per_core=960 * 16)
    behind = PLACERS["chain"](graph, narrow, replace(request, chips=8, cores=120))
    held = zip(behind.shards, behind.locations, strict=True)
    assert len({place.chip for shard, place in held if shard.node == "head"}) < 8


def test_a_block_on_several_chips_is_spread_over_each(
    graph: Graph, system: SystemSpec, with_figures: Change
) -> None:
    narrow = with_figures(system, neurons_per_core=50)
    placed = PLACERS["block-per-chip"](
        graph, narrow, Request(cores=11, head_on_host=True, spread=True, divide=False)
    )
    neurons = sum(node.size for node in graph.nodes if block_of(node.name) == 0)
    chips = 2 * -(-neurons // (11 * 50))
    assert {place.chip for place in placed.locations} == {HOST, *range(chips)}
    assert_spread(placed, 11)


# Whoever has too little room says so.

MESSAGES = [
    (
        Request(cores=1, divide=False),
        {},
        "head: does not fit behind what comes before it: all nodes need 2 chips of 1 "
        "cores, kapoho-point has 1",
    ),
    (
        Request(chips=1, cores=1, divide=False),
        {},
        "head: does not fit behind what comes before it: all nodes need 2 chips of 1 "
        "cores, 1 were asked for",
    ),
    (
        Request(cores=1, divide=False),
        {"memory_bytes_per_core": 467},
        "head: one neuron needs 468 of memory, a core of loihi2 has 467",
    ),
]


@every_placer
@pytest.mark.parametrize(("request_", "figures", "message"), MESSAGES)
def test_too_little_room(
    placer: str,
    request_: Request,
    figures: dict[str, int],
    message: str,
    hand_graph: Graph,
    with_figures: Change,
) -> None:
    system = with_figures(alone(load_system("kapoho-point")), **{"neurons_per_core": 1} | figures)
    if placer == "block-per-chip" and not figures:
        message = "hand: the mapping needs 2 chips, kapoho-point has 1"
        if request_.chips:
            message = "hand: one block per chip needs 2 chips, 1 were asked for"
    with pytest.raises(CapacityError) as error:
        PLACERS[placer](hand_graph, system, request_)
    assert str(error.value) == message


def alone(system: SystemSpec) -> SystemSpec:
    """One chip of a system."""
    return replace(system, chips=Quantity(1, 1, 1, "made up"))


@pytest.mark.parametrize("chips", [1, 2, 4])
def test_blocks_need_the_chips_that_they_need(chips: int, a16: Graph, system: SystemSpec) -> None:
    with pytest.raises(CapacityError) as error:
        PLACERS["block-per-chip"](a16, system, Request(chips=chips, cores=40, divide=False))
    assert str(error.value) == f"tiny: one block per chip needs 3 chips, {chips} were asked for"


# Each alone.


def test_a_chip_for_every_block(graph: Graph, system: SystemSpec) -> None:
    placed = PLACERS["block-per-chip"](graph, system, Request(cores=20, divide=False))
    found = {
        (block_of(s.node), place.chip)
        for s, place in zip(placed.shards, placed.locations, strict=True)
    }
    assert found == {(None, HOST), (0, 0), (1, 1), (None, 2)}
    assert len({place for place in placed.locations if place.chip == 0}) == 20


@pytest.mark.parametrize("neurons", [33, 64, 1000])
def test_greedy_fills_core_after_core(
    neurons: int, a16: Graph, system: SystemSpec, with_figures: Change
) -> None:
    """No placer needs fewer cores; here neurons alone limit them, so all but the last are full."""
    narrow = with_figures(system, neurons_per_core=neurons)
    placed = PLACERS["greedy"](a16, narrow, Request(cores=120, divide=False))
    filled: Counter[Location] = Counter()
    for shard, place in zip(placed.shards, placed.locations, strict=True):
        filled[place] += shard.size
    used = [filled[place] for place in dict.fromkeys(placed.locations) if place.chip != HOST]
    assert used[:-1] == [neurons] * (len(used) - 1)
    assert sum(used) == sum(node.size for node in a16.nodes[1:])


@pytest.mark.slow
@settings(max_examples=settings.default.max_examples // 3)
@given(cores=st.integers(1, 5))
def test_balanced_is_as_fast_as_any_way_to_cut_the_chain_into_cores(
    cores: int, hand_graph: Graph, a16: Graph, system: SystemSpec
) -> None:
    """By dynamic programming over every place to cut, neuron by neuron."""
    for graph in (hand_graph, a16):
        chain = Chain(graph, system.chip, on_host(graph, graph is a16))
        each = np.repeat(
            np.array(chain.nanoseconds), [link.node.size for link in chain.links], axis=0
        )
        before = np.vstack([np.zeros(2), each.cumsum(0)])
        best = before.max(1)
        for _ in range(min(cores, len(each)) - 1):
            tail = (before[:, None] - before[None, :]).max(2)
            best = np.where(tail >= 0, np.maximum(best[None, :], tail), np.inf).min(1)
        placed = PLACERS["balanced"](
            graph, system, Request(chips=1, cores=cores, head_on_host=graph is a16, divide=False)
        )
        assert best[-1] - 1e-6 <= slowest(graph, system, placed) <= 1.002 * best[-1] + 1e-6


@pytest.mark.slow
@pytest.mark.parametrize(("chips", "cores"), [(2, 40), (3, 10), (5, 40)])
def test_a_chain_has_the_fewest_messages_that_its_slack_permits(
    chips: int, cores: int, graph: Graph, system: SystemSpec
) -> None:
    """Others that are no slower have more messages, but for the grain of the places that it may cut
    at."""
    host = on_host(graph, True)
    request = Request(chips=chips, cores=cores, divide=False)
    found = PLACERS["chain"](graph, system, request)
    messages, most = (
        messages_between_chips(mapped(graph, system, found)),
        slowest(graph, system, found),
    )
    chain = Chain(graph, system.chip, host)
    evenly = filling.evenly(chain, chain.whole(), chips * cores)
    assert evenly is not None
    allowed = next(
        ns for ns in slowest_allowed(chain, evenly, chips * cores) if most <= ns * 1.0001
    )
    for other in ("balanced", "greedy"):
        placed = PLACERS[other](graph, system, request)
        if slowest(graph, system, placed) <= allowed:
            assert messages <= messages_between_chips(mapped(graph, system, placed)) + GRAIN * (
                chips - 1
            )


def hops(graph: Graph, system: SystemSpec, placed: Placement) -> int:
    """Mesh links that a token's payloads take, all of them non-zero."""
    mapping = mapped(graph, system, placed)
    found = route_trees(mapping, system).hops.tolist()
    return sum(
        count * (one.stop - one.start) for count, one in zip(found, mapping.routes, strict=True)
    )


@pytest.mark.parametrize("chips", [1, 3])
def test_annealing_moves_cores_of_a_chip_and_saves_hops(
    chips: int, graph: Graph, system: SystemSpec
) -> None:
    request = Request(chips=chips, cores=40, divide=False)
    before, after = (
        PLACERS["chain"](graph, system, request),
        PLACERS["anneal"](graph, system, request),
    )
    assert after.shards == before.shards
    assert len(set(zip(before.locations, after.locations, strict=True))) == len(
        set(before.locations)
    )
    assert all(a.chip == b.chip for a, b in zip(before.locations, after.locations, strict=True))
    assert hops(graph, system, after) < hops(graph, system, before) or after == before


def test_annealing_draws(a16: Graph, system: SystemSpec) -> None:
    """Another seed finds another way to save hops."""
    before = hops(
        a16, system, PLACERS["chain"](a16, system, Request(chips=3, cores=40, divide=False))
    )
    one, other = (
        PLACERS["anneal"](a16, system, Request(chips=3, cores=40, seed=seed, divide=False))
        for seed in (0, 1)
    )
    assert one != other
    assert max(hops(a16, system, one), hops(a16, system, other)) < before


def test_annealing_by_hand(system: SystemSpec) -> None:
    """Four routers of one core in two rows of two; one that talks to the gateway alone goes beside
    it, its partner stays near.  Where all are at one router, nothing is gained."""
    of_one, of_two = Quantity(1, 1, 1, "made up"), Quantity(2, 2, 2, "made up")
    chip = replace(system.chip, mesh_columns=of_two, cores_per_router=of_one)
    flow = np.zeros((5, 5))
    flow[3, 4] = flow[4, 3] = 9
    flow[3, 0] = flow[0, 3] = 5
    at = anneal._anneal(flow, chip, np.random.default_rng(0)).tolist()
    assert sorted(at) == [0, 1, 2, 3]
    assert at[3] == 0
    assert at[0] in (1, 2)
    assert anneal._anneal(flow, system.chip, np.random.default_rng(0)).tolist() == [0, 1, 2, 3]


def test_what_flows_between_cores(hand_graph: Graph, hand_mapping: Mapping) -> None:
    """Three payloads from outside branch to two cores; each sends a logit out."""
    flow = anneal._flow(hand_mapping.routes, hand_mapping.locations, 0, 2)
    assert flow.tolist() == [[0, 0, 2.5], [0, 0, 2.5], [2.5, 2.5, 0]]


# The outside yardstick.


def test_the_hypergraph_by_hand(a16: Graph, system: SystemSpec) -> None:
    """Grains of 32; the recurrence of the first block is read by the sum of its squares and by the
    next norm."""
    chain = Chain(a16, system.chip, on_host(a16, True))
    grains, nets, weights = mtkahypar.hypergraph(chain)
    assert grains[:5] == [(0, 0, 1), (1, 0, 32), (1, 32, 64), (2, 0, 32), (2, 32, 64)]
    assert len(nets) == len(weights)
    found = {tuple(net): weight for net, weight in zip(nets, weights, strict=True)}
    assert found[0, 1, 2, 3, 4, 5] == 1  # the root, also where it says that a token is there
    assert found[1, 3, 4] == 3 * 32  # half of the normalised values, for three projections
    assert found[3, 5] == 32  # squares
    assert found[3, 6] == 32  # values, one by one
    assert (4, 6) not in found and found[4, 7] == 32


def test_grains_that_touch_are_one_piece() -> None:
    grains = [(0, 0, 32), (0, 32, 64), (0, 96, 128), (1, 0, 32), (2, 32, 40)]
    assert mtkahypar._joined(grains) == [(0, 0, 64), (0, 96, 128), (1, 0, 32), (2, 32, 40)]


def test_the_yardstick_may_be_missing(
    hand_graph: Graph, system: SystemSpec, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setitem(sys.modules, "mtkahypar", None)
    monkeypatch.setattr(mtkahypar, "_library", mtkahypar._library.__wrapped__)
    with pytest.raises(InputError) as error:
        PLACERS["mtkahypar"](hand_graph, system, Request(cores=1, divide=False))
    assert (
        str(error.value)
        == "mtkahypar is not installed, must be for this placer: pip install mtkahypar"
    )


@yardstick
def test_parts_that_do_not_fit(a16: Graph, system: SystemSpec, with_figures: Change) -> None:
    """1288 neurons of the blocks just fit 2 chips, one grain after another."""
    narrow = with_figures(system, neurons_per_core=46)
    PLACERS["greedy"](a16, narrow, Request(chips=2, cores=14, head_on_host=True, divide=False))
    with pytest.raises(CapacityError) as error:
        PLACERS["mtkahypar"](
            a16, narrow, Request(chips=2, cores=14, head_on_host=True, divide=False)
        )
    assert str(error.value) == "tiny: Mt-KaHyPar found no parts that fit 2 chips of 14 cores"


# Published sizes.


@lru_cache
def placed_370m(placer: str, chips: int | None, head_on_host: bool) -> Mapping:
    """The 370M model on up to 32 chips."""
    graph, system = full_size("370m"), load_system("alia-point-32")
    return mapped(
        graph,
        system,
        PLACERS[placer](
            graph, system, Request(chips=chips, cores=120, head_on_host=head_on_host, divide=False)
        ),
    )


@lru_cache
def full_size(model: str) -> Graph:
    """The graph of a model of a published size."""
    return published_graph(model)


def test_a_published_model_has_a_block_on_each_chip_and_uses_every_core() -> None:
    mapping = placed_370m("block-per-chip", None, False)
    order = chip_order(load_system("alia-point-32"))
    assert Counter(place.chip for place in mapping.cores) == dict.fromkeys(order[:25], 120)
    blocks = {
        place.chip: block_of(s.node)
        for s, place in zip(mapping.shards, mapping.locations, strict=True)
    }
    assert blocks == {HOST: None, order[24]: None} | {order[block]: block for block in range(24)}


@pytest.mark.parametrize(("asked", "chips"), [(None, 8), (8, 8), (24, 24)])
def test_a_published_model_on_few_chips(asked: int | None, chips: int) -> None:
    mapping = placed_370m("greedy", asked, False)
    assert (len(mapping.chips), len(mapping.cores)) == (chips, 888)


@pytest.mark.slow
def test_the_fewest_messages_of_a_published_model() -> None:
    """The head on the host and 24 chips, as published; the mapping that was published sends two
    streams a block."""
    graph, system = full_size("370m"), load_system("alia-point-32")
    found = {
        name: placed_370m(name, 24, True)
        for name in ("chain", "balanced", "greedy", "block-per-chip")
    }
    messages = {name: messages_between_chips(mapping) for name, mapping in found.items()}
    assert all(len(mapping.chips) == 24 for mapping in found.values())
    assert messages["block-per-chip"] == 23 * (2 * 1024 + 1)  # and a root, as presence
    assert (
        messages["chain"] == 23 * 1024 + 23
    )  # the residual stream to every chip but the first, and roots of norms
    assert (
        messages["chain"]
        < messages["block-per-chip"]
        < min(messages["balanced"], messages["greedy"])
    )
    least = gaps(graph, found["chain"], system, 120)
    assert least.slowest_core_ns.ratio < SLACK
    assert least.messages_between_chips.least == 23 * 1024


@pytest.mark.slow
@yardstick
def test_no_partitioner_of_hypergraphs_finds_fewer_messages() -> None:
    messages = messages_between_chips(placed_370m("mtkahypar", 24, True))
    assert messages_between_chips(placed_370m("chain", 24, True)) <= messages


@pytest.mark.slow
@every_placer
def test_any_placement_can_be_refined(placer: str, graph: Graph, system: SystemSpec) -> None:
    """Shards stay on their chips with the neurons that share their cores, and messages take no more
    hops."""
    request = Request(chips=3, cores=40, head_on_host=True, seed=2, divide=False)
    placed = PLACERS[placer](
        graph, system, replace(request, chips=None if placer == "block-per-chip" else 3)
    )
    found = refine(graph, system, request, placed)
    assert found.shards == placed.shards
    moved = dict(zip(placed.locations, found.locations, strict=True))
    assert len(set(moved.values())) == len(moved)
    assert all(a.chip == b.chip for a, b in moved.items())
    assert hops(graph, system, found) <= hops(graph, system, placed)
