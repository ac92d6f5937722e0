"""Graphs whose ternary products are divided by columns compute the same bits."""

import random
from collections.abc import Callable
from dataclasses import replace

import numpy as np
import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from mmfree_kernels.cpu import programs as cpu
from mmfree_neuro.errors import GraphError, RangeError
from mmfree_neuro.graph.nodes import Graph, Input, Output, PartialSum
from mmfree_neuro.graph.partial_sums import Columns, by_columns, evenly, sums
from mmfree_neuro.graph.recorder import Op, record
from mmfree_neuro.graph.steps import delayed
from mmfree_neuro.graph.summary import summarise
from mmfree_neuro.graph.verify import instruction_counts, verify, verify_matrices
from mmfree_neuro.integers.fixedpoint import QType
from mmfree_neuro.integers.ternary import TILE, pack
from mmfree_neuro.mapping.mapping import HOST, Location, Mapping, Shard
from mmfree_neuro.pipeline.quality import in_one_place
from mmfree_neuro.run import reference
from mmfree_neuro.run.activity import Activity
from mmfree_neuro.run.job import Job
from mmfree_partition.route import route
from mmfree_sims import fast
from mmfree_sims.tiles.plan import Plan, by_core

few = settings(
    max_examples=settings.default.max_examples // 5,
    suppress_health_check=[HealthCheck.function_scoped_fixture],
)


@pytest.fixture
def by_hand(hand_graph: Graph) -> Graph:
    """The graph made by hand; the last two columns [[-1, 0], [1, 1]] of its head are summed by a
    node of their own."""
    first, rest = (pack(np.array(codes, np.int8)) for codes in ([[1], [0]], [[-1, 0], [1, 1]]))
    part = PartialSum(
        "part",
        2,
        (Input("y", "embedding", "x", "ternary", rest, 1),),
        (Output("sum", 2, QType(9, 0)),),
    )
    inputs = Input("y", "embedding", "x", "ternary", first), Input("y", "part", "sum", "aligned")
    return verify(
        replace(
            hand_graph,
            nodes=delayed((hand_graph.nodes[0], part, replace(hand_graph.head, inputs=inputs))),
        )
    )


def test_bits_and_counts_by_hand(by_hand: Graph) -> None:
    """Payloads [3, -5, 7], [-1, 0, -2]: partial sums [5, 2], [0, -2]; sums [8, 2], [-1, -2]; times
    3/2, halves up."""
    shards = Shard("embedding", 0, 3), Shard("part", 0, 2), Shard("head", 0, 1), Shard("head", 1, 2)
    places = Location(HOST, 0), Location(0, 0), Location(0, 1), Location(0, 2)
    mapping = Mapping("", "", "hand", shards, places, route(by_hand, shards, places))
    assert [(r.source, r.port, r.destinations, r.start, r.stop) for r in mapping.routes] == [
        (0, "x", places[2:], 0, 1),
        (0, "x", places[1:2], 1, 3),
        (1, "sum", places[2:3], 0, 1),
        (1, "sum", places[3:], 1, 2),
        (2, "logits", places[:1], 0, 1),
        (3, "logits", places[:1], 1, 2),
    ]
    job = Job(np.array([[0, 1]]))
    expected = Activity(
        2,
        np.full(4, 2),
        np.array([0, 1 + 2 + 1, 2 + 1, 2]),
        np.array([0, 6, 2 + 1, 2 + 2]),
        np.zeros(4, np.int64),
        np.zeros(4, np.int64),
        np.array([2, 3, 1, 2, 2, 2]),
    )
    for engine in (reference, fast):
        result = engine.run(by_hand, mapping, job)
        assert result.logits.tolist() == [[[12, 3], [-1, -3]]]
        assert result.prefill == expected


def test_a_plan_by_hand(by_hand: Graph) -> None:
    shards = Shard("embedding", 0, 3), Shard("part", 0, 2), Shard("head", 0, 1), Shard("head", 1, 2)
    places = Location(HOST, 0), Location(0, 0), Location(0, 1), Location(0, 2)
    mapping = Mapping("", "", "hand", shards, places, ())
    words, part, upper, lower = (plan := Plan(by_hand, mapping, by_core(mapping))).stretches
    assert plan.sources == {0: [], 1: [words], 2: [words, part], 3: [words, part]}
    head = by_hand.head
    assert [plan.span(head, entry, upper) for entry in head.inputs] == [(0, 1), (0, 1)]
    assert [plan.span(head, entry, lower) for entry in head.inputs] == [(0, 1), (1, 2)]
    assert plan.span(by_hand.node("part"), by_hand.node("part").inputs[0], part) == (1, 3)


def test_a_partial_sum_is_read_and_sent(by_hand: Graph) -> None:
    counts = instruction_counts(by_hand)
    assert dict(counts["part"]) == {"RDC": 1, "SPIKE": 1}
    assert counts["head"]["RDC"] == 1  # one accumulator, whatever adds up in it
    assert [(n.name, n.kind, n.step, n.ternary_synapses) for n in summarise(by_hand).nodes[1:]] == [
        ("part", "PartialSum", 1, 4),
        ("head", "Head", 2, 2),
    ]


def test_recorded_programs(by_hand: Graph) -> None:
    """A sum is read and sent; what shares a port is one input."""
    program = record(by_hand.node("part"), by_hand.sigmoid)
    assert program.code.tolist() == [[Op.INPUT, 0, 0, 0, 0, 0, 0], [Op.OUTPUT, 0, 0, 0, 0, 0, 0]]
    assert (program.inputs, program.outputs, program.registers) == (("y",), ("sum",), 1)
    assert record(by_hand.head, by_hand.sigmoid).inputs == ("y",)


def wrapping(graph: Graph, columns: Columns) -> Graph:
    """The graph made by hand with 17 columns: sums of [100, -28, 0 … 0, 7] in accumulators of 8
    bits, which calibration holds, and so [128 + 7, 100 - 28] leaves them in the first row."""
    codes, rows = np.zeros((1, 17), np.int8), np.zeros((2, 17), np.int8)
    codes[0, [0, 1, 16]], rows[:, [0, 1, 16]] = (100, -28, 7), [[1, -1, 1], [1, 1, 0]]
    outputs = tuple(replace(output, size=17) for output in graph.embedding.outputs)
    embedding = replace(
        graph.embedding, size=17, codes=codes, scales=np.array([1]), outputs=outputs
    )
    entry = Input("y", "embedding", "x", "ternary", pack(rows), calibrated=True)
    head = replace(graph.head, inputs=(entry,))
    same_words = replace(embedding, codes=codes.repeat(2, 0), scales=np.array([1, 1]))
    whole = replace(graph, nodes=(same_words, head), accumulator_bits=8)
    return by_columns(verify(whole), columns)


def test_sums_wrap_by_hand(hand_graph: Graph) -> None:
    """128 is sent as -128, and -128 + 7 = -121 fits; 3/2 times it, halves up, is -181."""
    whole, divided = wrapping(hand_graph, ()), wrapping(hand_graph, (("head", (16,)),))
    for graph, wrapped in ((whole, [0, 1]), (divided, [0, 1, 0])):
        mapping = in_one_place(graph)
        for engine in (reference, fast):
            result = engine.run(graph, mapping, Job(np.array([[0]])))
            assert result.logits.tolist() == [[[-181, 108]]]
            assert result.prefill.wrapped.tolist() == wrapped
    part = divided.node("head.y.part1")
    assert part.outputs == (Output("sum", 2, QType(8, 0), wraps=True),)
    assert (part.outputs[0].low, part.outputs[0].largest) == (-128, 128)
    assert [entry.calibrated for entry in (*part.inputs, *divided.head.inputs)] == [True] * 3


def test_a_wrapped_sum_needs_its_lowest_integer(hand_graph: Graph) -> None:
    graph = wrapping(hand_graph, (("head", (16,)),))
    part = graph.node("head.y.part1")
    plain = replace(part, outputs=(Output("sum", 2, QType(8, 0)),))
    with pytest.raises(RangeError) as error:
        verify(replace(graph, nodes=(graph.embedding, plain, graph.head)))
    assert str(error.value) == ("head.y.part1: output sum can be -128 … 127, must be -127 … 127")


def test_parts_of_a_sum_that_wraps(wraps: Graph) -> None:
    """Parts that cannot leave their accumulators declare nothing; from the first that can on, all
    do, and the bits are those of the whole."""
    parts = tuple((node.name, 4) for node in wraps.nodes if sums(wraps, node))
    divided, job = by_columns(wraps, evenly(wraps, parts)), Job(np.array([[7, 200, 31]]))
    passed_on = [node.outputs[0] for node in divided.nodes if isinstance(node, PartialSum)]
    assert {output.wraps for output in passed_on} == {True, False}
    assert {output.qtype.bits for output in passed_on if output.wraps} == {17}
    assert max(output.qtype.bits for output in passed_on) == 17
    expected = reference.run(wraps, in_one_place(wraps), job)
    slow, quick = (e.run(divided, in_one_place(divided), job) for e in (reference, fast))
    assert np.array_equal(slow.logits, expected.logits)
    assert np.array_equal(quick.logits, expected.logits)
    assert quick.prefill == slow.prefill
    assert slow.prefill.wrapped.sum() > 0


@pytest.mark.parametrize("level", cpu.available())
def test_the_program_of_a_partial_sum(level: str, by_hand: Graph) -> None:
    sums = np.array([[5, -2, 0], [2**31 - 1, 0, 1 - 2**31]], np.int32)
    held = cpu.bind(by_hand.node("part"), by_hand.sigmoid, {}, 3, level=level)
    rows = np.zeros(2, np.int32)
    assert held.run({"y": (sums, 0, 1)}, rows)["sum"].tolist() == sums.tolist()
    assert held.events["sum"].tolist() == [[2, 1, 1]]
    assert held.saturated.tolist() == [[0, 0, 0]]
    assert held.state is None


def test_a_partial_sum_is_wide_enough(by_hand: Graph) -> None:
    part = by_hand.node("part")
    narrow = replace(part, outputs=(Output("sum", 2, QType(8, 0)),))
    with pytest.raises(RangeError) as error:
        verify(replace(by_hand, nodes=(by_hand.nodes[0], narrow, by_hand.head)))
    assert str(error.value) == "part: output sum can be -254 … 254, must be -127 … 127"


def division(graph: Graph, seed: int) -> Columns:
    """Some nodes of a graph, and where each is divided."""
    rng, found = random.Random(seed), []
    for node in graph.nodes:
        width = min(sums(graph, node).values(), default=0)
        cuts = [at for at in range(TILE, width, TILE) if rng.random() < 0.4]
        if cuts and rng.random() < 0.5:
            found.append((node.name, tuple(cuts)))
    return tuple(found)


def test_nothing_divided_is_the_graph_itself(graph: Graph) -> None:
    assert by_columns(graph, ()) is graph
    assert by_columns(graph, (("head", ()),)).node("head") is graph.head


def test_parts_are_about_even(graph: Graph) -> None:
    found = evenly(graph, (("layers.1.down_proj", 3), ("layers.0.glu", 2), ("layers.0.mlgru", 1)))
    assert found == (
        ("layers.1.down_proj", (32, 80)),
        ("layers.0.glu", (32,)),
        ("layers.0.mlgru", ()),
    )


def test_what_a_division_makes(graph: Graph) -> None:
    """Every part but the last is a node of its own that adds what the one before it sends; the last
    stays.  (Sums that every neuron needs are divided in test_local_roots.py.)"""
    if any(entry.how == "sum" for entry in graph.node("layers.0.glu").inputs):
        pytest.skip("its parts are others")
    divided = by_columns(graph, (("layers.1.down_proj", (32, 80)), ("layers.0.glu", (32,))))
    names = [node.name for node in divided.nodes]
    assert [name for name in names if "part" not in name] == [node.name for node in graph.nodes]
    at = names.index("layers.0.glu")
    assert names[at - 2 : at] == ["layers.0.glu.gate.part1", "layers.0.glu.up.part1"]
    at = names.index("layers.1.down_proj")
    assert names[at - 2 : at] == ["layers.1.down_proj.y.part1", "layers.1.down_proj.y.part2"]
    assert len(names) == len(graph.nodes) + 4
    whole = next(
        entry for entry in graph.node("layers.1.down_proj").inputs if entry.matrix is not None
    )
    ends = [divided.node(name) for name in (*names[at - 2 : at], "layers.1.down_proj")]
    found = [node.ports["y"][0] for node in ends]
    assert [(e.first, e.matrix.columns) for e in found if e.matrix] == [(0, 32), (32, 48), (80, 48)]
    assert [(e.source, e.source_port) for e in found] == [(whole.source, whole.source_port)] * 3
    assert [[(e.source, e.how) for e in node.ports["y"][1:]] for node in ends] == [
        [],
        [(names[at - 2], "aligned")],
        [(names[at - 1], "aligned")],
    ]
    codes = np.concatenate([entry.matrix.codes() for entry in found if entry.matrix], axis=1)
    assert whole.matrix is not None
    assert np.array_equal(codes, whole.matrix.codes())
    output, source = ends[1].outputs[0], graph.node(whole.source).output(whole.source_port).qtype
    reach = int(np.count_nonzero(codes[:, :80], axis=1).max()) * source.high
    assert (output.port, output.size, output.qtype.frac) == ("sum", ends[2].size, source.frac)
    assert output.qtype.high // 2 < reach <= output.qtype.high
    assert verify_matrices(divided) is divided


def test_a_sum_of_squares_is_divided_too(a16: Graph) -> None:
    divided = by_columns(a16, (("layers.0.o.rms", (16, 48)),))
    parts = [divided.node(f"layers.0.o.rms.total.part{k}") for k in (1, 2)]
    ends = [*parts, divided.node("layers.0.o.rms")]
    assert [(node.inputs[0].first, node.inputs[0].count) for node in ends] == [
        (0, 16),
        (16, 32),
        (48, 16),
    ]
    assert [node.inputs[1].source for node in ends[1:]] == [part.name for part in parts]
    assert all(part.outputs[0].unsigned for part in parts)


@pytest.mark.slow
@few
@given(st.integers(0, 2**32))
def test_a_divided_graph_gives_the_same_bits(
    graph: Graph, make_mapping: Callable[..., Mapping], seed: int
) -> None:
    """On the reference and the fast engine, which count the same on any mapping."""
    divided = by_columns(graph, division(graph, seed))
    mapping = make_mapping(divided, "random", seed)
    job = Job(np.random.default_rng(seed).integers(0, 256, (1, 2)), 2)
    expected = fast.run(graph, make_mapping(graph, "chain"), job)
    slow, quick = reference.run(divided, mapping, job), fast.run(divided, mapping, job)
    for result in (slow, quick):
        assert np.array_equal(result.logits, expected.logits)
        assert np.array_equal(result.chosen, expected.chosen)
    assert (slow.prefill, slow.generate) == (quick.prefill, quick.generate)


@few
@given(st.integers(0, 2**32))
def test_a_sum_in_parts_is_proved_to_be_no_larger(graph: Graph, seed: int) -> None:
    """Every graph that is legal as a whole is legal in parts: bounds add up neuron by neuron."""
    divided = by_columns(graph, division(graph, seed))
    bits = 32
    while verifies(replace(graph, accumulator_bits=bits - 1)):
        bits -= 1
    assert verifies(replace(divided, accumulator_bits=bits))
    assert not verifies(replace(divided, accumulator_bits=bits - 1))


def verifies(graph: Graph) -> bool:
    """Whether every sum fits the accumulators."""
    try:
        verify(graph)
    except RangeError:
        return False
    return True


HEAD = "head: divided before columns {}, must be multiples of 16 in order between 0 and 64"
WRONG = {
    "nobody": ("nobody", (16,), "nobody: divided by columns, but no node of tiny has this name"),
    "no-sum": (
        "head.norm",
        (16,),
        "head.norm: reads no sum, must read one to be divided by columns",
    ),
    "none": ("head", (0,), HEAD.format("0")),
    "end": ("head", (16, 64), HEAD.format("16, 64")),
    "order": ("head", (32, 16), HEAD.format("32, 16")),
    "odd": ("head", (17,), HEAD.format("17")),
}


@pytest.mark.parametrize("case", WRONG)
def test_what_cannot_be_divided(case: str, a16: Graph) -> None:
    name, cuts, message = WRONG[case]
    with pytest.raises(GraphError) as error:
        by_columns(a16, ((name, cuts),))
    assert str(error.value) == message
