"""Divides sums by columns: ternary products, and the sums of squares of norms.

Where one row, or its input, is too much for a core, or where a node's input is made on two chips,
some neurons can add up the columns that lie near them.  Every range of columns but the last becomes
a `PartialSum`, which adds what the one before it sends; the node keeps the last range and adds the
last of them in its own accumulators.  So one sum a row goes from part to part (of squares one for
all rows), and all bits are
those of the undivided graph.  A part that can leave its accumulator sends what the accumulator
holds: the sums are those of the undivided graph modulo 2^accumulator_bits.

A `down_proj` of 128 columns that is cut before columns 32 and 80 becomes three nodes:

    down_proj.y.part1    columns  0 … 31
    down_proj.y.part2    columns 32 … 79, and what part1 sends
    down_proj            columns 80 … 127, and what part2 sends
"""

from dataclasses import replace
from itertools import pairwise

import numpy as np

from mmfree_neuro.errors import GraphError
from mmfree_neuro.graph.nodes import AnyNode, Graph, How, Input, Output, PartialSum
from mmfree_neuro.graph.steps import delayed
from mmfree_neuro.graph.verify import verify
from mmfree_neuro.integers.fixedpoint import Ints, QType
from mmfree_neuro.integers.ternary import TILE

Columns = tuple[tuple[str, tuple[int, ...]], ...]
"""Names of nodes, and the columns before which their sums are cut."""


def by_columns(graph: Graph, columns: Columns) -> Graph:
    """The same function of tokens, bit for bit, with the sums of the named nodes cut into parts.

    Columns are multiples of 16, in order.  Raises GraphError where a node cannot be divided so.
    """
    if not columns:
        return graph
    cuts = dict(columns)
    for name in cuts:
        _check(graph, name, cuts[name])
    nodes: list[AnyNode] = []
    for node in graph.nodes:
        nodes += _divided(graph, node, cuts[node.name]) if cuts.get(node.name) else [node]
    return verify(replace(graph, nodes=delayed(nodes)))


def evenly(graph: Graph, parts: tuple[tuple[str, int], ...]) -> Columns:
    """The cuts of nodes into so many parts, about even.

    Groups of 16 columns are packed together and stay together.  So three parts of 128 columns,
    which are 8 groups, are cut before groups 8 * 1 // 3 = 2 and 8 * 2 // 3 = 5: columns 32 and 80.
    """
    columns = []
    for name, count in parts:
        groups = -(-min(sums(graph, graph.node(name)).values()) // TILE)
        columns.append((name, tuple(TILE * (groups * k // count) for k in range(1, count))))
    return tuple(columns)


def sums(graph: Graph, node: AnyNode) -> dict[Input, int]:
    """The inputs of a node that are sums over columns, and how many columns each has."""
    widths = {}
    for entry in node.inputs:
        if entry.matrix is not None:
            widths[entry] = entry.matrix.columns
        elif entry.how == "sum":
            widths[entry] = graph.node(entry.source).output(entry.source_port).size
    return widths


def widest_part(graph: Graph, node: AnyNode) -> int:
    """The bits that are sure to hold any partial sum of a node."""
    widest = 0
    for entry, columns in sums(graph, node).items():
        source = graph.node(entry.source).output(entry.source_port)
        terms = columns if entry.matrix is None else entry.matrix.fullest
        widest = max(widest, _bits(source.largest * terms, _limit(graph)))
    return widest


def _limit(graph: Graph) -> int:
    """The largest sum that an accumulator holds."""
    return (1 << (graph.accumulator_bits - 1)) - 1


def _bits(reach: int, limit: int) -> int:
    """The bits of a partial sum of a magnitude of at most so much, in accumulators that hold sums
    up to `limit`.

    A format of n bits holds ±(2^(n - 1) - 1).  Ten payloads of 8 bits reach 10 * 127 = 1270, which
    has 11 bits, so the sum is sent with 12: ±2047.  A sum that wraps has as many as an accumulator.
    """
    if reach > limit:
        return limit.bit_length() + 1
    return 1 + max(1, reach).bit_length()


def _check(graph: Graph, name: str, cuts: tuple[int, ...]) -> None:
    node = next((node for node in graph.nodes if node.name == name), None)
    if node is None:
        raise GraphError(f"{name}: divided by columns, but no node of {graph.name} has this name")
    if not (widths := sums(graph, node)):
        raise GraphError(f"{name}: reads no sum, must read one to be divided by columns")
    edges = [0, *cuts, min(widths.values())]
    if any(a >= b for a, b in pairwise(edges)) or any(cut % TILE for cut in cuts):
        shown = ", ".join(map(str, cuts))
        raise GraphError(
            f"{name}: divided before columns {shown}, must be multiples of {TILE} in order "
            f"between 0 and {edges[-1]}"
        )


def _divided(graph: Graph, node: AnyNode, cuts: tuple[int, ...]) -> list[AnyNode]:
    """The partial sums of a node, and the node itself, which reads the last of each sum."""
    widths, limit = sums(graph, node), _limit(graph)
    inputs: list[Input] = []
    parts: list[AnyNode] = []
    how: How
    for entry in node.inputs:
        if entry not in widths:
            inputs.append(entry)
            continue
        source = graph.node(entry.source).output(entry.source_port)
        reach: Ints | int = 0  # the largest magnitude of a sum so far; for a matrix, of each row's
        last: Input | None = None
        for number, (first, stop) in enumerate(pairwise((0, *cuts)), start=1):
            part = _part(entry, first, stop)
            terms = stop - first if part.matrix is None else part.matrix.filled
            reach = np.minimum(reach + source.largest * terms, limit + 1)
            wraps = bool(np.max(reach) > limit)
            bits = _bits(int(np.max(reach)), limit)
            unsigned = source.unsigned and part.matrix is None
            name = f"{node.name}.{entry.port}.part{number}"
            own = replace(part, port="y", calibrated=wraps)
            reads = (own, *([] if last is None else [replace(last, port="y")]))
            # A sum that is the same for all neurons is added up by one.
            size, how = (1, "sum") if part.matrix is None else (node.size, "aligned")
            output = Output("sum", size, QType(bits, source.qtype.frac), unsigned, wraps)
            parts.append(PartialSum(name, size, reads, (output,)))
            last = Input(entry.port, name, "sum", how, calibrated=wraps)
        assert last is not None
        inputs += [_part(entry, cuts[-1], widths[entry]), last]
    return [*parts, replace(node, inputs=tuple(inputs))]


def _part(entry: Input, first: int, stop: int) -> Input:
    """The columns `first` … `stop` - 1 of an input."""
    if entry.matrix is None:
        return replace(entry, first=entry.first + first, count=stop - first)
    matrix = entry.matrix.groups_between(first // TILE, -(-stop // TILE))
    return replace(entry, matrix=matrix, first=entry.first + first)
