"""What costing and reporting need to know of a graph, without its weights."""

from collections import Counter
from dataclasses import dataclass
from itertools import pairwise

from mmfree_neuro.graph.assembler import assemble
from mmfree_neuro.graph.nodes import Graph, block_of
from mmfree_neuro.graph.steps import steps
from mmfree_neuro.graph.verify import verify
from mmfree_neuro.target.instructions import Instruction, Op

COUNTS_VERSION = 2
"""Which way of counting runs and benchmarks were made with; what does not say one is of version 1.

1. A visit to a neuron issues what `verify` counts; steps are those at which something on a chip
   fires.
2. A visit with a token issues the whole program, its guard among it; a visit without a token
   issues the guard; steps are those of the machine, that of entry and those of a head on the host
   among them.
"""


@dataclass(frozen=True)
class NodeSummary:
    """One node: its neurons, the step at which it fires, what a visit to a neuron issues with and
    without a token, and its synapses."""

    name: str
    kind: str
    size: int
    block: int | None
    step: int
    """How many steps after the embedding: one more than the latest of its sources."""
    instructions: dict[str, int]
    """Of a visit with a token, by class: the whole program, its guard among it."""
    ternary_synapses: int
    nonzero_synapses: int
    states: int = 0
    """What its neurons keep of a sequence from token to token, one each where they keep
    anything."""
    idle_instructions: int = 0
    """Of a visit without a token: the guard alone.  The embedding has none, for it runs only when
    it is given a token."""


@dataclass(frozen=True)
class GraphSummary:
    """A graph without its weights."""

    name: str
    scheme: str
    blocks: int
    vocabulary: int
    accumulator_bits: int
    quality: dict[str, float]
    nodes: tuple[NodeSummary, ...]
    payload_bits: int = 0
    """Of the widest payload."""

    @property
    def steps(self) -> int:
        """How many steps a token takes from the embedding to its logits."""
        return max(node.step for node in self.nodes)

    @property
    def steps_per_block(self) -> int:
        """How many steps a token takes through a block, of the longest block; 0 without any."""
        last: dict[int, int] = {}
        for node in self.nodes:
            if node.block is not None:
                last[node.block] = max(last.get(node.block, 0), node.step)
        ends = [0, *(last[block] for block in sorted(last))]
        return max((b - a for a, b in pairwise(ends)), default=0)


def summarise(graph: Graph) -> GraphSummary:
    """The summary of a graph, which is verified on the way.  Raises GraphError where the machine
    has no room for a program."""
    step, nodes = steps(verify(graph).nodes), []
    for node in graph.nodes:
        code = assemble(node, graph.sigmoid).code
        matrices = [entry.matrix for entry in node.inputs if entry.matrix is not None]
        nodes.append(
            NodeSummary(
                node.name,
                type(node).__name__,
                node.size,
                block_of(node.name),
                step[node.name],
                dict(sorted(Counter(one.op.name for one in code).items())),
                sum(matrix.size for matrix in matrices),
                sum(matrix.nonzero for matrix in matrices),
                0 if node.state_type is None else node.size,
                _guard(code),
            )
        )
    return GraphSummary(
        graph.name,
        graph.scheme,
        graph.blocks,
        graph.vocabulary,
        graph.accumulator_bits,
        graph.quality,
        tuple(nodes),
        graph.payload_bits,
    )


def _guard(code: tuple[Instruction, ...]) -> int:
    """How many instructions a program executes where no token is there: all of them up to the skip
    over the rest; none where there is no skip."""
    return next((number for number, one in enumerate(code, 1) if one.op == Op.SKP_C), 0)
