"""What costing and reporting need to know of a graph, without its weights."""

from dataclasses import dataclass

from mmfree_neuro.graph.nodes import Graph, block_of
from mmfree_neuro.graph.steps import steps
from mmfree_neuro.graph.verify import instruction_counts


@dataclass(frozen=True)
class NodeSummary:
    """One node: its neurons, the step at which it fires, what a neuron issues for one token, and
    its synapses."""

    name: str
    kind: str
    size: int
    block: int | None
    step: int
    """How many steps after the embedding: one more than the latest of its sources."""
    instructions: dict[str, int]
    ternary_synapses: int
    nonzero_synapses: int
    states: int = 0
    """What its neurons keep from token to token, one each where they keep anything."""


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

    @property
    def steps(self) -> int:
        """How many steps a token takes from the embedding to its logits."""
        return max(node.step for node in self.nodes)


def summarise(graph: Graph) -> GraphSummary:
    """The summary of a verified graph."""
    counts, nodes = instruction_counts(graph), []
    step = steps(graph.nodes)
    for node in graph.nodes:
        matrices = [entry.matrix for entry in node.inputs if entry.matrix is not None]
        nodes.append(
            NodeSummary(
                node.name,
                type(node).__name__,
                node.size,
                block_of(node.name),
                step[node.name],
                dict(sorted(counts[node.name].items())),
                sum(matrix.size for matrix in matrices),
                sum(matrix.nonzero for matrix in matrices),
                0 if node.state_type is None else node.size,
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
    )
