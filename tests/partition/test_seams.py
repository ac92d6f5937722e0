"""Cuts that divide sums: what they say crosses is what routes carry, and the divided graph is the
same function."""

import random

import numpy as np
import pytest
from hypothesis import HealthCheck, example, given, settings
from hypothesis import strategies as st

from mmfree_neuro.graph.nodes import Graph, InverseRms, QuantScale
from mmfree_neuro.graph.partial_sums import by_columns
from mmfree_neuro.mapping.mapping import Mapping
from mmfree_neuro.mapping.request import Request
from mmfree_neuro.pipeline.map import place
from mmfree_neuro.pipeline.quality import in_one_place
from mmfree_neuro.run import reference
from mmfree_neuro.run.job import Job
from mmfree_neuro.systems.load import load_system
from mmfree_neuro.systems.spec import SystemSpec
from mmfree_neuro.testing import published_graph
from mmfree_partition.bound.gaps import messages_between_chips
from mmfree_partition.chain.chain import Chain
from mmfree_partition.chain.layout import on_chips
from mmfree_partition.chain.seams import Cut, Seams
from mmfree_partition.check import check
from mmfree_partition.route import route
from mmfree_sims import fast


@pytest.fixture(scope="module")
def system(roomy: SystemSpec) -> SystemSpec:
    """Eight chips of cores that hold whatever lies on them."""
    return roomy


some = settings(
    max_examples=settings.default.max_examples // 3,
    suppress_health_check=[HealthCheck.function_scoped_fixture],
)


def mapped(
    graph: Graph, system: SystemSpec, ends: list[Cut], host: frozenset[str], *, divide: bool = True
) -> tuple[Graph, Mapping]:
    """The stretches between cuts on a chip each."""
    chain = Chain(graph, system.chip, host)
    seams = Seams(chain, divide=divide)
    columns = seams.columns(ends)
    divided = by_columns(graph, columns)
    whole = Chain(divided, system.chip, host)
    placed = on_chips(whole, seams.parts(ends, whole), system, Request(cores=120, divide=False))
    routes = route(divided, placed.shards, placed.locations)
    mapping = Mapping("", system.name, "by hand", placed.shards, placed.locations, routes, columns)
    return divided, check(divided, mapping, system)


@pytest.mark.slow
@pytest.mark.parametrize("divide", [False, True])
def test_one_cut_costs_what_routes_carry(graph: Graph, system: SystemSpec, divide: bool) -> None:
    """Many places to cut the tiny model in two."""
    host = frozenset({"embedding"})
    places = Seams(Chain(graph, system.chip, host), divide=divide).places(16)
    for number in range(1, len(places.cuts) - 1, 13):
        ends = [places.cuts[0], places.cuts[number], places.cuts[-1]]
        _, mapping = mapped(graph, system, ends, host, divide=divide)
        assert messages_between_chips(mapping) == places.crossed[number], places.cuts[number]


@pytest.mark.slow
@some
@given(st.integers(0, 2**32), st.booleans())
@example(52, False)
@example(53, True)
def test_cuts_cost_what_links_carry(
    graph: Graph, system: SystemSpec, seed: int, head_on_host: bool
) -> None:
    """Several cuts: what crosses each, summed, is at least what goes from chip to chip, each
    payload once a chip."""
    names = {node.name for node in graph.nodes if not node.name.startswith("layers.")}
    host = frozenset(names if head_on_host else {"embedding"})
    places = Seams(Chain(graph, system.chip, host), divide=True).places(16)
    rng = random.Random(seed)
    inner = sorted(rng.sample(range(1, len(places.cuts) - 1), rng.randint(1, 5)))
    ends = [places.cuts[0], *(places.cuts[k] for k in inner), places.cuts[-1]]
    divided, mapping = mapped(graph, system, ends, host)
    assert messages_between_chips(mapping) <= places.crossed[inner].sum()
    job = Job(np.random.default_rng(seed).integers(0, 256, (1, 2)), 2)
    expected = fast.run(graph, in_one_place(graph), job)
    assert np.array_equal(fast.run(divided, mapping, job).logits, expected.logits)


def test_places_inside_a_gate_by_hand(system: SystemSpec) -> None:
    """The costs that the docstring of `places` works out."""
    graph = published_graph("370m", blocks=2)
    chain = Chain(graph, system.chip, frozenset({"embedding"}))
    places = Seams(chain, divide=True).places(16)
    crossed = dict(zip(places.cuts, places.crossed.tolist(), strict=True))
    gate = chain.number["layers.1.glu"]
    assert crossed[Cut(gate, 512)] == 1026 + 512
    assert crossed[Cut(gate, 1024)] == 1026 + 1024
    assert crossed[Cut(gate, 1024, 512)] == 1026 + 512 + 1024 + 1 == 2563
    assert crossed[Cut(gate, 1040, 1040)] == crossed[Cut(gate, 2048, 2048)] == 1026 + 1024 + 1
    assert not {cut.node for cut in crossed} & {gate + 1, gate + 2, gate + 3}


def test_the_reference_agrees(graph: Graph, system: SystemSpec) -> None:
    host = frozenset({"embedding"})
    places = Seams(Chain(graph, system.chip, host), divide=True).places(16)
    deepest = [c for c in places.cuts if c.columns] or [
        c for c in places.cuts if c.offset and c.node < 20
    ]
    ends = [places.cuts[0], deepest[len(deepest) // 3], deepest[-1], places.cuts[-1]]
    divided, mapping = mapped(graph, system, ends, host)
    # Where all roots are local, no norm and no sum for one neuron alone is there to be divided.
    assert mapping.columns or not any(isinstance(n, InverseRms | QuantScale) for n in graph.nodes)
    job = Job(np.array([[7, 1, 200]]), 2)
    slow, quick = reference.run(divided, mapping, job), fast.run(divided, mapping, job)
    assert np.array_equal(slow.logits, fast.run(graph, in_one_place(graph), job).logits)
    assert (slow.prefill, slow.generate) == (quick.prefill, quick.generate)


def test_without_division_there_are_no_columns(graph: Graph, system: SystemSpec) -> None:
    assert place(graph, "", system, Request("chain", 5, divide=False))[1].columns == ()


@pytest.mark.slow
@pytest.mark.parametrize(("chips", "rows", "columns"), [(24, 72_400, 37_500), (32, 91_400, 53_400)])
def test_division_saves_a_third_of_the_messages_of_a_published_model(
    chips: int, rows: int, columns: int
) -> None:
    graph, system = published_graph("370m", scheme="a14"), load_system("alia-point-32")
    by_rows = place(graph, "", system, Request("chain", chips, divide=False))[1]
    divided = place(graph, "", system, Request("chain", chips))[1]
    assert messages_between_chips(by_rows) == pytest.approx(rows, rel=0.01)
    assert messages_between_chips(divided) == pytest.approx(columns, rel=0.01)
