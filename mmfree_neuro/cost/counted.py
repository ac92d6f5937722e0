"""What was counted where: all that time and energy are made of."""

from dataclasses import dataclass

from mmfree_neuro.graph.summary import GraphSummary
from mmfree_neuro.mapping.mapping import Mapping
from mmfree_neuro.mapping.trees import RouteTrees, route_trees
from mmfree_neuro.run.activity import Activity
from mmfree_neuro.systems.spec import SystemSpec


@dataclass(frozen=True, eq=False)
class Counted:
    """The counts of a phase of a run, what they belong to, and the system.

    `dataclasses.replace` gives the same with other counts, and keeps the trees.
    """

    mapping: Mapping
    summary: GraphSummary
    activity: Activity
    system: SystemSpec
    trees: RouteTrees
    """How the mapping's messages travel on the system."""


def counted(
    mapping: Mapping, summary: GraphSummary, activity: Activity, system: SystemSpec
) -> Counted:
    """The record, with the trees of the mapping's routes."""
    return Counted(mapping, summary, activity, system, route_trees(mapping, system))
