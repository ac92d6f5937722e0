"""What a conversion or a run lost that a person should be told of, a sentence each."""

from collections.abc import Mapping as Mapping_

from mmfree_neuro.graph.summary import GraphSummary
from mmfree_neuro.integers.fixedpoint import Ints
from mmfree_neuro.mapping.mapping import Mapping
from mmfree_neuro.run.activity import Activity

LEAST_AGREEMENT = 0.9
"""Below this share of equal greedy tokens, a graph is hardly the model that its checkpoint was."""


def quality_warnings(quality: Mapping_[str, float]) -> tuple[str, ...]:
    """What there is to say of a graph's measured quality; nothing where it was not measured."""
    agreement = quality.get("greedy_agreement")
    if agreement is None or agreement >= LEAST_AGREEMENT:
        return ()
    return (
        f"the integers choose the float model's token in {100 * agreement:.1f} % of "
        f"{quality.get('tokens', 0):.0f} tokens, fewer than {100 * LEAST_AGREEMENT:.0f} %; "
        "calibrate on text of the kind that the model was trained on, or take another scheme",
    )


def count_warnings(summary: GraphSummary, mapping: Mapping, activity: Activity) -> tuple[str, ...]:
    """What there is to say of values that did not fit their formats, and of sums that did not fit
    their accumulators: how many, and in which node most of them."""
    found = []
    if activity.saturations.any():
        most = _most(summary, mapping, activity.saturations, activity.tokens)
        found.append(
            f"{int(activity.saturations.sum()):,} values were saturated in {activity.tokens:,} "
            f"tokens, {most}; they did not fit the ranges that calibration found"
        )
    if activity.wrapped.any():
        most = _most(summary, mapping, activity.wrapped, activity.tokens)
        found.append(
            f"{int(activity.wrapped.sum()):,} sums wrapped around in {activity.tokens:,} tokens, "
            f"{most}; they did not fit the accumulators in which calibration was to hold them; "
            "calibrate on text of this kind, or take scheme a16"
        )
    return tuple(found)


def _most(summary: GraphSummary, mapping: Mapping, lost: Ints, tokens: int) -> str:
    """In which node most of what each shard lost was lost."""
    counts: dict[str, int] = {}
    for shard, count in zip(mapping.shards, lost.tolist(), strict=True):
        counts[shard.node] = counts.get(shard.node, 0) + count
    worst = max(counts, key=lambda name: counts[name])
    size = next(node.size for node in summary.nodes if node.name == worst)
    share = 100 * counts[worst] / (size * tokens)
    return f"{counts[worst]:,} of them in {worst} ({share:.3g} % of its firings)"
