"""A graph is legal or has one clear line that says why not."""

from collections.abc import Callable
from dataclasses import replace
from typing import Any

import numpy as np
import pytest

from mmfree_neuro.errors import GraphError, RangeError
from mmfree_neuro.graph.machine import INSTRUCTIONS
from mmfree_neuro.graph.nodes import (
    AnyNode,
    Graph,
    Input,
    InverseRms,
    InverseRoot,
    MaxAbs,
    Output,
    PartialSum,
    QuantScale,
    Residual,
    Squares,
)
from mmfree_neuro.graph.steps import delayed
from mmfree_neuro.graph.verify import instruction_counts, sum_bound, verify, verify_matrices
from mmfree_neuro.integers.fixedpoint import QType
from mmfree_neuro.integers.ternary import pack


def broken(graph: Graph, **changes: Any) -> Graph:
    """The graph with another head."""
    return replace(graph, nodes=(graph.nodes[0], replace(graph.head, **changes)))


def read(graph: Graph, **changes: Any) -> Graph:
    """The graph with another input of its head."""
    return broken(graph, inputs=(replace(graph.head.inputs[0], **changes),))


def inserted(graph: Graph, size: int, how: str, qtype: QType, arity: int) -> Graph:
    """The graph with a MaxAbs before its head."""
    entry = Input("v", "embedding", "x", how)
    node = MaxAbs("top", size, (entry,), (Output("max", size, qtype, unsigned=True),), arity)
    return replace(graph, nodes=(graph.nodes[0], node, graph.head))


def named(graph: Graph, name: str) -> Graph:
    """The graph with another name of its first node."""
    head = replace(graph.head, inputs=(replace(graph.head.inputs[0], source=name),))
    return replace(graph, nodes=(replace(graph.nodes[0], name=name), head))


def shared(graph: Graph, how: str) -> Graph:
    """The graph with the largest of its values added to the sums of its head, or to the first
    alone."""
    size = 1 if how == "broadcast" else 2
    largest = inserted(graph, size, "group", QType(8, 0), 4 - size)
    return replace(
        largest,
        nodes=delayed(
            (
                *largest.nodes[:2],
                replace(graph.head, inputs=(*graph.head.inputs, Input("y", "top", "max", how))),
            )
        ),
    )


def test_legal_graphs_come_back(hand_graph: Graph, a16: Graph, a8: Graph) -> None:
    for graph in (hand_graph, a16, a8, inserted(hand_graph, 2, "group", QType(8, 0), 2)):
        assert verify(graph) is graph


def test_instructions_are_counted_for_every_node(a8: Graph) -> None:
    counts = instruction_counts(a8)
    assert list(counts) == [node.name for node in a8.nodes]
    for issued in counts.values():
        assert set(issued) <= set(INSTRUCTIONS)
        assert issued["SPIKE"] >= 1


def test_instructions_by_hand(hand_graph: Graph) -> None:
    assert dict(instruction_counts(hand_graph)["head"]) == {
        "RDC": 1,
        "MUL_SHR": 2,
        "ADD": 1,
        "MIN": 1,
        "LT": 1,
        "SEL": 1,
        "SPIKE": 1,
    }


def test_sum_bounds_by_hand(hand_graph: Graph) -> None:
    head, x = hand_graph.head, hand_graph.embedding.output("x")
    assert sum_bound(head, head.inputs[0], x) == 2 * 127
    assert sum_bound(head, Input("y", "embedding", "x", "sum"), x) == 3 * 127
    assert sum_bound(head, Input("y", "embedding", "x", "aligned"), x) == 127


WRONG: dict[str, tuple[Callable[[Graph], Graph], str]] = {
    "empty": (
        lambda g: replace(g, nodes=()),
        "hand: a graph begins with an Embedding and ends with a Head, or behind it "
        "with the nodes that find its largest logit",
    ),
    "no-embedding": (
        lambda g: replace(g, nodes=g.nodes[1:]),
        "hand: a graph begins with an Embedding and ends with a Head, or behind it "
        "with the nodes that find its largest logit",
    ),
    "no-head": (
        lambda g: replace(g, nodes=g.nodes[:1]),
        "hand: a graph begins with an Embedding and ends with a Head, or behind it "
        "with the nodes that find its largest logit",
    ),
    "same-name": (lambda g: broken(g, name="embedding"), "embedding: two nodes have this name"),
    "constants": (
        lambda g: replace(
            g,
            nodes=(
                replace(g.nodes[0], squares=Squares(np.ones(2, np.int64), 0, QType(8, 0), 0)),
                g.nodes[1],
            ),
        ),
        "embedding: squares has shape [2], must have [3]",
    ),
    "nobody": (
        lambda g: read(g, source="nobody"),
        "head: input y reads nobody.x, which no earlier node sends",
    ),
    "no-port": (
        lambda g: read(g, source_port="z"),
        "head: input y reads embedding.z, which no earlier node sends",
    ),
    "no-matrix": (
        lambda g: read(g, matrix=None),
        "head: input y: the matrix has shape None, must have 2 rows",
    ),
    "turned": (
        lambda g: read(g, matrix=pack(np.ones((3, 2), np.int8))),
        "head: input y: the matrix has shape [3, 2], must have 2 rows",
    ),
    "behind": (
        lambda g: read(g, first=1),
        "head: input y: the matrix reads values 1 … 3, must read among 0 … 2",
    ),
    "before": (
        lambda g: read(g, first=-1),
        "head: input y: the matrix reads values -1 … 1, must read among 0 … 2",
    ),
    "first": (
        lambda g: read(g, how="broadcast", matrix=None, first=1),
        "head: input y: reads broadcast from value 1, must read all from 0",
    ),
    "wide-group": (
        lambda g: inserted(g, 1, "group", QType(8, 0), 65),
        "top: input v: reads groups of 65 values, must have 1 … 64",
    ),
    "no-group": (
        lambda g: inserted(g, 1, "group", QType(8, 0), 0),
        "top: input v: reads groups of 0 values, must have 1 … 64",
    ),
    "matrix-elsewhere": (
        lambda g: read(g, how="aligned"),
        "head: input y: reads aligned by a matrix, must read ternary",
    ),
    "count-of-a-matrix": (
        lambda g: read(g, count=3),
        "head: input y: reads 3 values by a matrix, must read its columns",
    ),
    "sum-before": (
        lambda g: read(g, how="sum", matrix=None, first=-1, count=2),
        "head: input y: sums 2 values from value -1 on, must sum some of 0 … 2",
    ),
    "negative-sum": (
        lambda g: read(g, how="sum", matrix=None, count=-1),
        "head: input y: sums -1 values from value 0 on, must sum some of 0 … 2",
    ),
    "count-of-aligned": (
        lambda g: read(g, how="aligned", matrix=None, count=3),
        "head: input y: reads aligned from value 0, must read all from 0",
    ),
    "two-outputs": (
        lambda g: broken(g, outputs=g.head.outputs * 2),
        "head: 2 outputs are named logits, must have one each",
    ),
    "no-neurons": (
        lambda g: replace(g, nodes=(replace(g.nodes[0], size=0), g.head)),
        "embedding: has 0 neurons, must have some",
    ),
    "more-words": (
        lambda g: replace(
            g,
            nodes=(
                replace(g.nodes[0], codes=np.ones((3, 3), np.int8), scales=np.ones(3, np.int64)),
                g.head,
            ),
        ),
        "hand: the embedding has 3 words, must have 2 as the head",
    ),
    "blocks": (lambda g: replace(g, blocks=3), "hand: has 3 blocks, must have 0 … 2"),
    "no-block": (
        lambda g: named(g, "layers.x.y"),
        "'layers.x.y': names no block, must be such as layers.0.mlgru",
    ),
    "a-block-alone": (
        lambda g: named(g, "layers.0"),
        "'layers.0': names no block, must be such as layers.0.mlgru",
    ),
    "sum-beyond": (
        lambda g: read(g, how="sum", matrix=None, first=2, count=2),
        "head: input y: sums 2 values from value 2 on, must sum some of 0 … 2",
    ),
    "sum-of-none": (
        lambda g: read(g, how="sum", matrix=None, count=0),
        "head: input y: sums 0 values from value 0 on, must sum some of 0 … 2",
    ),
    "shared": (
        lambda g: shared(g, "broadcast"),
        "head: input y: reads broadcast at a port that inputs share, must read ternary, sum or "
        "aligned there",
    ),
    "aligned": (
        lambda g: read(g, how="aligned", matrix=None),
        "head: input y: reads 3 values aligned, must read 2",
    ),
    "broadcast": (
        lambda g: read(g, how="broadcast", matrix=None),
        "head: input y: reads 3 values broadcast, must read 1",
    ),
    "one-sum-and-many": (
        lambda g: broken(
            g, inputs=(Input("y", "embedding", "x", "sum"), replace(g.head.inputs[0]))
        ),
        "head: input y: reads one sum for all and a value for each neuron at one port, must read "
        "either there",
    ),
    "no-slots": (
        lambda g: replace(g, nodes=(replace(g.nodes[0], slots=0), g.head)),
        "embedding: has 0 slots, must have 1 … 4096",
    ),
    "many-slots": (
        lambda g: replace(g, nodes=(replace(g.nodes[0], slots=4097), g.head)),
        "embedding: has 4097 slots, must have 1 … 4096",
    ),
    "group": (
        lambda g: inserted(g, 1, "group", QType(8, 0), 2),
        "top: input v: 3 values in groups of 2 need another number of neurons than 1",
    ),
}


@pytest.mark.parametrize("case", WRONG)
def test_wrongly_wired(case: str, hand_graph: Graph) -> None:
    make, message = WRONG[case]
    with pytest.raises(GraphError) as error:
        verify(make(hand_graph))
    assert str(error.value) == message


BEYOND: dict[str, tuple[Callable[[Graph], Graph], str]] = {
    "no-bits": (
        lambda g: broken(g, outputs=(Output("logits", 2, QType(1, 0)),)),
        "head: a format is s1.0, must have 2 … 32 bits, -1000 … 1000 of them fractional",
    ),
    "endless-bits": (
        lambda g: broken(g, outputs=(Output("logits", 2, QType(1 << 62, 0)),)),
        f"head: a format is s{1 << 62}.0, must have 2 … 32 bits, -1000 … 1000 of them fractional",
    ),
    "endless-fraction": (
        lambda g: broken(g, outputs=(Output("logits", 2, QType(16, -1001)),)),
        "head: a format is s16.-1001, must have 2 … 32 bits, -1000 … 1000 of them fractional",
    ),
    "format-inside": (
        lambda g: replace(
            g, nodes=(replace(g.nodes[0], squares=Squares(None, 0, QType(65, 0), 0)), g.head)
        ),
        "embedding: a format is s65.0, must have 2 … 32 bits, -1000 … 1000 of them fractional",
    ),
    "no-accumulator": (
        lambda g: replace(g, accumulator_bits=1),
        "hand: has accumulators of 1 bits, must be 2 … 32",
    ),
    "endless-accumulator": (
        lambda g: replace(g, accumulator_bits=1 << 62),
        f"hand: has accumulators of {1 << 62} bits, must be 2 … 32",
    ),
    "negative-scale": (
        lambda g: replace(g, nodes=(replace(g.nodes[0], scales=np.array([1, -1])), g.head)),
        "embedding: a scale is -1, must not be negative",
    ),
    "code-of-8-bits": (
        lambda g: replace(
            g, nodes=(replace(g.nodes[0], codes=np.full((2, 3), -128, np.int8)), g.head)
        ),
        "embedding: a code is -128, must be -127 … 127",
    ),
    "code-of-16-bits": (
        lambda g: replace(
            g, nodes=(replace(g.nodes[0], codes=np.full((2, 3), -32768, np.int16)), g.head)
        ),
        "embedding: a code is -32768, must be -32767 … 32767",
    ),
}


@pytest.mark.parametrize("case", BEYOND)
def test_beyond_all_formats(case: str, hand_graph: Graph) -> None:
    make, message = BEYOND[case]
    with pytest.raises(RangeError) as error:
        verify(make(hand_graph))
    assert str(error.value) == message


def changed(graph: Graph, kind: type[AnyNode], **changes: Any) -> Graph:
    """The graph with another first node of a kind."""
    at = next(n for n, node in enumerate(graph.nodes) if isinstance(node, kind))
    node = replace(graph.nodes[at], **changes)
    return replace(graph, nodes=(*graph.nodes[:at], node, *graph.nodes[at + 1 :]))


@pytest.mark.parametrize("bits", [-1, 32, 10**11])
def test_a_low_digit_has_few_bits(bits: int, a16: Graph) -> None:
    squares = replace(a16.node("layers.0.o_proj").squares, low_bits=bits)  # type: ignore[union-attr]
    with pytest.raises(RangeError) as error:
        verify(changed(a16, Residual, squares=squares))
    assert str(error.value) == f"layers.0.o_proj: a low digit has {bits} bits, must have 0 … 31"


def inverse_of(graph: Graph, kind: type[InverseRms | QuantScale]) -> InverseRoot:
    """How the first node of a kind finds its root."""
    return next(node.inverse for node in graph.nodes if isinstance(node, kind))


@pytest.mark.parametrize("steps", [-1, 17, 10**9])
def test_a_root_takes_few_steps(steps: int, a8: Graph, a16: Graph) -> None:
    for graph, kind in ((a16, InverseRms), (a8, QuantScale)):
        with pytest.raises(GraphError) as error:
            verify(changed(graph, kind, inverse=replace(inverse_of(graph, kind), newton=steps)))
        name = next(node.name for node in graph.nodes if isinstance(node, kind))
        assert str(error.value) == f"{name}: has {steps} Newton steps, must have 0 … 16"


def test_a_table_is_a_row(a16: Graph) -> None:
    with pytest.raises(RangeError) as error:
        table = replace(inverse_of(a16, InverseRms), powers=np.ones((16, 2), np.int64))
        verify(changed(a16, InverseRms, inverse=table))
    name = next(node.name for node in a16.nodes if isinstance(node, InverseRms))
    assert str(error.value) == f"{name}: a table has 2 axes, must have 1"


def test_a_sum_of_partial_sums_is_as_large_as_all_of_them(hand_graph: Graph) -> None:
    """Two neurons of up to 254 each are summed, and three of the values of the embedding, 381: 889
    in all, of which accumulators of 11 bits hold 1023, and those of 10 bits 511."""
    entry = hand_graph.head.inputs[0]
    part = PartialSum("part", 2, (entry,), (Output("sum", 2, QType(12, 0)),))
    reads = Input("y", "embedding", "x", "sum"), Input("y", "part", "sum", "sum")
    nodes = (hand_graph.nodes[0], part, replace(hand_graph.head, inputs=reads))
    graph = replace(hand_graph, nodes=delayed(nodes))
    assert verify(replace(graph, accumulator_bits=11))
    with pytest.raises(RangeError) as error:
        verify(replace(graph, accumulator_bits=10))
    assert (
        str(error.value)
        == "head: input y: the sum can reach 889, which a 10-bit accumulator cannot hold"
    )


def test_a_sum_fits_the_accumulator(hand_graph: Graph) -> None:
    assert verify(replace(hand_graph, accumulator_bits=9))
    with pytest.raises(RangeError) as error:
        verify(replace(hand_graph, accumulator_bits=8))
    assert (
        str(error.value)
        == "head: input y: the sum can reach 254, which a 8-bit accumulator cannot hold"
    )


def test_what_shares_a_port_adds_up_in_its_accumulator(hand_graph: Graph) -> None:
    """A row of two entries and one value of 127: 3 · 127."""
    graph = shared(hand_graph, "aligned")
    assert verify(replace(graph, accumulator_bits=10)).head.ports == {"y": graph.head.inputs}
    with pytest.raises(RangeError) as error:
        verify(replace(graph, accumulator_bits=9))
    assert (
        str(error.value)
        == "head: input y: the sum can reach 381, which a 9-bit accumulator cannot hold"
    )


def test_a_sum_can_be_negative_where_an_input_can(hand_graph: Graph) -> None:
    """The head reads squares, which are not: with the weight -1, and in a sum with what may be
    negative, it can."""
    entry = replace(
        hand_graph.head.inputs[0],
        source_port="sq",
        matrix=pack(np.array([[-1, 0, 0]] * 2, np.int8)),
    )
    unsigned = Output("logits", 2, QType(17, 0), unsigned=True)
    for inputs, low, high in (
        ((entry,), -49150, 49151),
        ((Input("y", "top", "max", "aligned"), entry), -49341, 49341),
    ):
        graph = inserted(hand_graph, 2, "group", QType(8, 0), 2)
        head = replace(hand_graph.head, inputs=inputs, outputs=(unsigned,))
        with pytest.raises(RangeError) as error:
            verify(replace(graph, nodes=delayed((*graph.nodes[:2], head))))
        assert str(error.value) == f"head: output logits can be {low} … {high}, must be 0 … 65535"


def test_an_output_holds_what_its_program_can_give(hand_graph: Graph) -> None:
    with pytest.raises(RangeError) as error:
        verify(inserted(hand_graph, 2, "group", QType(7, 0), 2))
    assert str(error.value) == "top: output max can be 0 … 127, must be 0 … 63"


def test_an_unsigned_output_is_not_negative(hand_graph: Graph) -> None:
    with pytest.raises(RangeError) as error:
        verify(broken(hand_graph, outputs=(Output("logits", 2, QType(8, 0), unsigned=True),)))
    assert str(error.value) == "head: output logits can be -127 … 127, must be 0 … 127"


def test_a_register_holds_every_value(hand_graph: Graph) -> None:
    wide = replace(hand_graph.nodes[0], squares=Squares(np.full(3, 2**31), 0, QType(8, 0), 0))
    with pytest.raises(RangeError) as error:
        verify(replace(hand_graph, nodes=(wide, hand_graph.head)))
    assert (
        str(error.value)
        == "embedding: a value can reach 2147483648, which a 32-bit register cannot hold"
    )


def test_the_embedding_table_fits(hand_graph: Graph) -> None:
    embedding, head = hand_graph.embedding, hand_graph.head
    for wrong, codes, scales in (
        (replace(embedding, codes=embedding.codes[:, :-1]), [2, 2], [2]),
        (replace(embedding, scales=embedding.scales[:-1]), [2, 3], [1]),
    ):
        with pytest.raises(GraphError) as error:
            verify(replace(hand_graph, nodes=(wrong, head)))
        assert str(error.value) == (
            f"embedding: {codes} codes have {scales} scales, must be [vocabulary, 3] and "
            "[vocabulary]"
        )
    large = replace(embedding, scales=np.array([1, 2**31]))
    with pytest.raises(RangeError) as range_error:
        verify(replace(hand_graph, nodes=(large, head)))
    assert (
        str(range_error.value)
        == "embedding: scale can be 2147483648, which a 32-bit accumulator cannot hold"
    )


def test_matrices_are_what_they_say(hand_graph: Graph) -> None:
    matrix = hand_graph.head.inputs[0].matrix
    assert matrix is not None
    assert verify_matrices(hand_graph) is hand_graph
    wrong = matrix.data.copy()
    wrong[0, 0, 0] |= 3
    with pytest.raises(GraphError) as error:
        verify_matrices(read(hand_graph, matrix=replace(matrix, data=wrong)))
    assert str(error.value) == "head: input y: the matrix holds a code other than -1, 0, +1"
    for fullest, nonzero in ((3, 4), (2, 5)):
        with pytest.raises(GraphError) as error:
            verify_matrices(
                read(hand_graph, matrix=replace(matrix, fullest=fullest, nonzero=nonzero))
            )
        assert str(error.value) == (
            "head: input y: the matrix has 4 non-zero codes, 2 in its fullest row, must have "
            f"{nonzero} and {fullest}"
        )


def held(graph: Graph, bits: int) -> Graph:
    """The graph with accumulators of so many bits, in which calibration holds the sums of its
    head."""
    return replace(read(graph, calibrated=True), accumulator_bits=bits)


def test_a_sum_that_calibration_holds(hand_graph: Graph) -> None:
    """254 leaves 8 bits, and is refused where nobody says that calibration holds it."""
    assert verify(held(hand_graph, 8)).head.calibrated == {"y"}
    assert not hand_graph.head.calibrated


def wide(graph: Graph) -> Graph:
    """The graph with values of 32 bits."""
    x, *others = graph.embedding.outputs
    outputs = replace(x, qtype=QType(32, 0)), *others
    squares = replace(graph.embedding.squares, shift=24)
    embedding = replace(graph.embedding, outputs=outputs, squares=squares)
    return replace(graph, nodes=(embedding, graph.head))


NOT_HELD = {
    "sure": (
        lambda g: held(g, 9),
        GraphError,
        "head: input y: is held by calibration, but the sum cannot pass 254, which a 9-bit "
        "accumulator holds, must not declare it",
    ),
    "group": (
        lambda g: replace(
            inserted(g, 2, "group", QType(8, 0), 2),
            nodes=(
                g.embedding,
                MaxAbs(
                    "top",
                    2,
                    (Input("v", "embedding", "x", "group", calibrated=True),),
                    (Output("max", 2, QType(8, 0), unsigned=True),),
                    2,
                ),
                g.head,
            ),
        ),
        GraphError,
        "top: input v: is held by calibration, but reads group, must read ternary or a sum that "
        "wraps",
    ),
    "aligned": (
        lambda g: replace(
            shared(g, "aligned"),
            nodes=(
                *shared(g, "aligned").nodes[:2],
                replace(
                    shared(g, "aligned").head,
                    inputs=tuple(
                        replace(entry, calibrated=entry.how == "aligned")
                        for entry in shared(g, "aligned").head.inputs
                    ),
                ),
            ),
        ),
        GraphError,
        "head: input y: is held by calibration, but reads aligned, must read ternary or a sum that "
        "wraps",
    ),
    "exact": (
        lambda g: held(wide(g), 32),
        RangeError,
        f"head: input y: the sum can reach {2 * (2**31 - 1)}, which does not fit the 32 bits of an "
        "exact sum",
    ),
    "output": (
        lambda g: broken(g, outputs=(Output("logits", 2, QType(16, 0), wraps=True),)),
        GraphError,
        "head: output logits wraps, must pass on a sum that is held by calibration",
    ),
    "scale": (
        lambda g: replace(
            g, nodes=(replace(g.embedding, scales=np.array([1, 512])), g.head), accumulator_bits=10
        ),
        RangeError,
        "embedding: scale can be 512, which a 10-bit accumulator cannot hold",
    ),
    "codes": (
        lambda g: replace(g, accumulator_bits=7),
        RangeError,
        "embedding: x can be 127, which a 7-bit accumulator cannot hold",
    ),
}


@pytest.mark.parametrize("case", NOT_HELD)
def test_what_calibration_cannot_hold(case: str, hand_graph: Graph) -> None:
    make, kind, message = NOT_HELD[case]
    with pytest.raises(kind) as error:
        verify(make(hand_graph))
    assert str(error.value) == message
