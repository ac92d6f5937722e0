"""What a conversion or a run lost that a person should be told of, a sentence each."""

from collections.abc import Mapping as Mapping_

from mmfree_neuro.graph.summary import GraphSummary
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
        "calibrate on text of the kind that the model was trained on, or take the other scheme",
    )


def saturation_warnings(
    summary: GraphSummary, mapping: Mapping, activity: Activity
) -> tuple[str, ...]:
    """What there is to say of values that did not fit their formats: how many, and in which node
    most of them."""
    total = int(activity.saturations.sum())
    if total == 0:
        return ()
    counts: dict[str, int] = {}
    for shard, count in zip(mapping.shards, activity.saturations.tolist(), strict=True):
        counts[shard.node] = counts.get(shard.node, 0) + count
    worst = max(counts, key=lambda name: counts[name])
    size = next(node.size for node in summary.nodes if node.name == worst)
    share = 100 * counts[worst] / (size * activity.tokens)
    return (
        f"{total:,} values were saturated in {activity.tokens:,} tokens, {counts[worst]:,} of "
        f"them in {worst} ({share:.3g} % of its firings); they did not fit the ranges that "
        "calibration found",
    )
