"""What a graph of integers loses against the float model."""

from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray

from mmfree_neuro.graph.nodes import Graph
from mmfree_neuro.graph.slots import with_slots
from mmfree_neuro.graph.summary import summarise
from mmfree_neuro.lowering.ternarise import TernaryWeights
from mmfree_neuro.mapping.mapping import Mapping
from mmfree_neuro.model.checkpoint import Checkpoint
from mmfree_neuro.pipeline import engines
from mmfree_neuro.pipeline.families import float_model
from mmfree_neuro.run.losses import count_warnings, quality_warnings
from mmfree_neuro.run.scores import scored


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
    engine: str
    """What computed the integers."""


def quality(
    checkpoint: Checkpoint[Any],
    graph: Graph,
    windows: NDArray[np.int64],
    weights: TernaryWeights | None = None,
    engine: str | None = None,
) -> dict[str, float]:
    """The quality of `measure` alone."""
    return measure(checkpoint, graph, windows, weights, engine).quality


def measure(
    checkpoint: Checkpoint[Any],
    graph: Graph,
    windows: NDArray[np.int64],
    weights: TernaryWeights | None = None,
    engine: str | None = None,
) -> Measured:
    """What a graph loses against the float model on windows [n, time + 1], each from a zero state.

    `weights` are the checkpoint's ternary weights where they are at hand; the integers are those of
    an engine that scores, the fastest here unless named.
    """
    following = windows[:, 1:]
    floats = float_model(checkpoint, "measuring quality").scores(checkpoint, windows, weights)
    scorer = engines.scorer_named(engines.default_scorer() if engine is None else engine)
    many = with_slots(graph, min(scorer.side_by_side, len(windows)))
    mapping = in_one_place(many)
    session = scorer.session(many, mapping)
    integers = scored(session, windows, many.slots, scorer.chunk)
    float_nats, integer_nats = float(floats.nats.mean()), float(integers.nats.mean())
    found = {
        "tokens": following.size,
        "float_nats": float_nats,
        "integer_nats": integer_nats,
        "perplexity_ratio": float(np.exp(min(integer_nats - float_nats, LARGEST_LOG))),
        "greedy_agreement": float((integers.chosen == floats.chosen).mean()),
    }
    activity = session.take_all_activity()
    counted = count_warnings(summarise(many), mapping, activity)
    told = (*quality_warnings(found), *counted)
    saturated, wrapped = int(activity.saturations.sum()), int(activity.wrapped.sum())
    return Measured(found, told, saturated, wrapped, scorer.name)
