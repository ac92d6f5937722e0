"""What a graph of integers loses against the float model."""

from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray

from mmfree_neuro.graph.nodes import Graph
from mmfree_neuro.graph.summary import summarise
from mmfree_neuro.integers.fixedpoint import Ints
from mmfree_neuro.lowering.ternarise import TernaryWeights
from mmfree_neuro.mapping.mapping import Mapping
from mmfree_neuro.model.checkpoint import Checkpoint
from mmfree_neuro.pipeline.families import float_model
from mmfree_neuro.run.losses import count_warnings, quality_warnings


def nats(logits: NDArray[np.float64], following: Ints) -> NDArray[np.float64]:
    """Nats per predicted token, from logits [..., vocabulary] and the tokens that followed."""
    shifted = logits - logits.max(-1, keepdims=True)
    chosen = np.take_along_axis(shifted, following[..., None], -1)[..., 0]
    lost: NDArray[np.float64] = np.log(np.exp(shifted).sum(-1)) - chosen
    return lost


def in_one_place(graph: Graph) -> Mapping:
    """A mapping that only serves to compute logits: every node whole, on a core of its own of one
    chip."""
    from mmfree_neuro.mapping.mapping import HOST, Location, Shard
    from mmfree_partition.route import route

    shards = tuple(Shard(node.name, 0, node.size) for node in graph.nodes)
    locations = (Location(HOST, 0), *(Location(0, core) for core in range(len(shards) - 1)))
    return Mapping("", "", "none", shards, locations, route(graph, shards, locations))


LARGEST_LOG = 700.0
"""A ratio of perplexities beyond its exponential has no number; no graph of use comes near."""


@dataclass(frozen=True)
class Measured:
    """What a graph loses against the float model, and what there is to say of it."""

    quality: dict[str, float]
    warnings: tuple[str, ...]
    saturated: int
    """Values that did not fit their formats."""
    wrapped: int
    """Sums that did not fit their accumulators."""


def quality(
    checkpoint: Checkpoint[Any],
    graph: Graph,
    windows: NDArray[np.int64],
    weights: TernaryWeights | None = None,
) -> dict[str, float]:
    """The quality of `measure` alone."""
    return measure(checkpoint, graph, windows, weights).quality


def measure(
    checkpoint: Checkpoint[Any],
    graph: Graph,
    windows: NDArray[np.int64],
    weights: TernaryWeights | None = None,
) -> Measured:
    """What a graph loses against the float model on windows [n, time + 1], each from a zero state.

    `weights` are the checkpoint's ternary weights where they are at hand.
    """
    from mmfree_sims import fast

    inputs, following = np.ascontiguousarray(windows[:, :-1]), windows[:, 1:]
    floats = float_model(checkpoint, "measuring quality").scores(checkpoint, windows, weights)
    mapping = in_one_place(graph)
    session, lost, agreed = fast.Fast(graph, mapping), 0.0, 0
    for number, row in enumerate(inputs):
        session.reset()
        for at in range(0, len(row), fast.CHUNK):  # so that few logits are in memory at a time
            here = slice(at, at + fast.CHUNK)
            logits = session.feed(row[here])
            lost += float(
                nats(logits.astype(np.float64) * graph.logit_scale, following[number, here]).sum()
            )
            agreed += int((logits.argmax(-1) == floats.chosen[number, here]).sum())
    float_nats, integer_nats = float(floats.nats.mean()), lost / following.size
    found = {
        "tokens": following.size,
        "float_nats": float_nats,
        "integer_nats": integer_nats,
        "perplexity_ratio": float(np.exp(min(integer_nats - float_nats, LARGEST_LOG))),
        "greedy_agreement": agreed / following.size,
    }
    activity = session.take_activity()
    counted = count_warnings(summarise(graph), mapping, activity)
    told = (*quality_warnings(found), *counted)
    return Measured(found, told, int(activity.saturations.sum()), int(activity.wrapped.sum()))
