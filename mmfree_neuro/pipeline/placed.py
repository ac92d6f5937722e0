"""A model on the cores of a system, as the records of its runs have it."""

from dataclasses import dataclass

from mmfree_neuro.graph.nodes import Graph
from mmfree_neuro.graph.summary import GraphSummary, summarise
from mmfree_neuro.mapping.footprint import Footprint, use_of_cores
from mmfree_neuro.mapping.mapping import Location, Mapping
from mmfree_neuro.systems.spec import SystemSpec


@dataclass(frozen=True)
class Placed:
    """A model without its weights, where it lies, and what each core in use holds."""

    summary: GraphSummary
    mapping: Mapping
    system: SystemSpec
    use: dict[Location, Footprint]


def placed(graph: Graph, mapping: Mapping, system: SystemSpec) -> Placed:
    """A graph as a mapping has it."""
    return Placed(summarise(graph), mapping, system, use_of_cores(graph, mapping, system.chip))
