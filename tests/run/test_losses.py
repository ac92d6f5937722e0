"""What was lost is told with its figures, and nothing where nothing was."""

from dataclasses import replace

import numpy as np
import pytest

from mmfree_neuro.graph.nodes import Graph
from mmfree_neuro.graph.summary import summarise
from mmfree_neuro.mapping.mapping import Mapping
from mmfree_neuro.run.activity import nothing
from mmfree_neuro.run.losses import count_warnings, quality_warnings


@pytest.mark.parametrize("agreement", [0.9, 1.0, None])
def test_a_graph_that_is_as_its_checkpoint_was(agreement: float | None) -> None:
    assert quality_warnings({} if agreement is None else {"greedy_agreement": agreement}) == ()


def test_a_graph_of_little_agreement() -> None:
    assert quality_warnings({"greedy_agreement": 0.0911, "tokens": 1024.0}) == (
        "the integers choose the float model's token in 9.1 % of 1024 tokens, fewer than 90 %; "
        "calibrate on text of the kind that the model was trained on, or take another scheme",
    )


def test_what_did_not_fit(hand_graph: Graph, hand_mapping: Mapping) -> None:
    """Three in the embedding and seven in the two neurons of the head, each of which lies on a core
    of its own."""
    summary, none = summarise(hand_graph), replace(nothing(hand_mapping), tokens=10)
    assert count_warnings(summary, hand_mapping, none) == ()
    some = replace(none, saturations=np.array([3, 5, 2]))
    assert count_warnings(summary, hand_mapping, some) == (
        "10 values were saturated in 10 tokens, 7 of them in head (35 % of its firings); they did "
        "not fit the ranges that calibration found",
    )
    wrapped = (
        "7 sums wrapped around in 10 tokens, 7 of them in head (35 % of its firings); they did not "
        "fit the accumulators in which calibration was to hold them; calibrate on text of this "
        "kind, or take scheme a16",
    )
    over = np.array([0, 3, 4])
    assert count_warnings(summary, hand_mapping, replace(none, wrapped=over)) == wrapped
    both = count_warnings(summary, hand_mapping, replace(some, wrapped=over))
    assert both == (*count_warnings(summary, hand_mapping, some), *wrapped)
