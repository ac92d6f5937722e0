"""Checkpoints and graphs of the published sizes with made-up weights, to measure without a
download.

What a model costs depends on its shapes and on how many of its codes are zero, not on what it
learned.  So the weights are drawn: those of matrices from a logistic distribution, of which exactly
a third lies within half its mean magnitude and becomes the code 0 (trained models: 0.32 to 0.35 per
matrix).  Spreads are those of the trained model in `tests/golden/trained`: 1.2 / √columns for
matrices, so that a projection of a normalised input has a deviation of about 0.75, gains of 1 ±
0.15, embeddings of 0.05.  The head's is larger, for logits with a deviation of about 2.5.
"""

from dataclasses import replace

import numpy as np

from mmfree_neuro.graph.nodes import Graph
from mmfree_neuro.graph.summary import GraphSummary
from mmfree_neuro.hgrn_bit import lowering
from mmfree_neuro.hgrn_bit.config import PUBLISHED, ModelConfig
from mmfree_neuro.hgrn_bit.names import is_ternary, ternary_weights
from mmfree_neuro.integers.ternary import TILE, TernaryMatrix, pack, packed_shape
from mmfree_neuro.lowering.scheme import Range, Root, Scheme, scheme_named
from mmfree_neuro.lowering.ternarise import TernaryWeight
from mmfree_neuro.model.checkpoint import Checkpoint
from mmfree_neuro.systems.spec import Quantity, SystemSpec

ZEROS = 0.354
"""How many weights of the published 370M model are zero (arXiv 2503.18002v2)."""


class _EveryRange(dict[str, Range]):
    """The same range for whatever is asked."""

    def __missing__(self, name: str) -> Range:
        return Range(0.1, 4.0)


def graph_of(
    checkpoint: Checkpoint[ModelConfig], scheme: Scheme, name: str, tokenizer: str | None = None
) -> Graph:
    """The graph of a checkpoint whose ranges nobody measured, and so without torch; its tensors
    should be about as large as those of `write_synthetic`."""
    weights = ternary_weights(checkpoint)
    graph = lowering.lower(checkpoint, weights, _EveryRange(), scheme, name)
    return replace(graph, tokenizer=tokenizer)


def published_graph(
    model: str,
    *,
    scheme: str = "a16",
    root: Root = "before",
    blocks: int | None = None,
    zeros: float = ZEROS,
    seed: int | None = None,
) -> Graph:
    """The graph of a model of a published size, for all that does not read its weights: mapping,
    counts and costs.

    The roots of norms come before products, as in the published deployment, unless `root` says
    otherwise.

    `blocks` of it instead of all; a share `zeros` of the weights is zero, the same in every row.
    With a `seed` the codes are drawn, so that the graph can be saved and opened.
    """
    rng = None if seed is None else np.random.default_rng(seed)
    config = replace(
        PUBLISHED[model], num_hidden_layers=blocks or PUBLISHED[model].num_hidden_layers
    )
    weights = {}
    for name, (rows, columns) in ((n, s) for n, s in config.shapes().items() if is_ternary(n)):
        halves = 2 if name.endswith("gate_proj.weight") else 1
        if rng is None:
            parts = (_claimed(rows // halves, columns, zeros),) * halves
        else:
            parts = tuple(_drawn(rng, rows // halves, columns, zeros) for _ in range(halves))
        weights[name] = TernaryWeight(parts, 0.02)
    tensors = {
        n: np.broadcast_to(np.float32(len(s) == 1 or 0.05), s) for n, s in config.shapes().items()
    }
    return lowering.lower(
        Checkpoint(config, tensors), weights, _EveryRange(), scheme_named(scheme, root), model
    )


def with_room(system: SystemSpec) -> SystemSpec:
    """The same system with cores that hold whatever lies on them, and messages of 32 bits."""
    much = Quantity(1 << 30, 1 << 30, 1 << 30, "made up")
    chip = replace(
        system.chip,
        memory_bytes_per_core=much,
        synaptic_memory_bytes_per_core=much,
        neurons_per_core=much,
        input_axons_per_core=much,
        neuron_groups_per_core=None,
        axon_map_entries_per_core=None,
        accumulators_per_core=None,
        payload_bits=Quantity(32, 32, 32, "made up"),
    )
    return replace(system, chip=chip)


def blocks_alone(summary: GraphSummary) -> GraphSummary:
    """The summary of blocks whose head is on the host and not waited for, as in published figures
    of one block: the head takes no steps of its own."""
    last = max(node.step for node in summary.nodes if node.block is not None)
    nodes = tuple(replace(node, step=min(node.step, last)) for node in summary.nodes)
    return replace(summary, nodes=nodes)


def _drawn(rng: np.random.Generator, rows: int, columns: int, zeros: float) -> TernaryMatrix:
    """A matrix whose codes are drawn."""
    draws = rng.random((rows, columns), np.float32)
    codes = (draws > (1 + zeros) / 2).astype(np.int8) - (draws < (1 - zeros) / 2)
    return pack(codes.astype(np.int8))


def _claimed(rows: int, columns: int, zeros: float) -> TernaryMatrix:
    """A matrix that takes hardly any memory: in all rows the same weights are zero, evenly spaced,
    and the others are 1."""
    filled = np.diff(np.floor((1 - zeros) * np.arange(columns + 1) + 0.5)).astype(np.int8)
    tile = pack(np.broadcast_to(filled, (TILE, columns)))
    data = np.broadcast_to(tile.data, packed_shape(rows, columns))
    return TernaryMatrix(data, rows, columns, tile.fullest, tile.fullest * rows)
