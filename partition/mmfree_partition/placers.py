"""The placers: one table of what each is called and what it needs.

Each takes a graph, a system and a request, and gives shards and a core for every one.
"""

from collections.abc import Callable
from dataclasses import dataclass

from mmfree_neuro.graph.nodes import Graph
from mmfree_neuro.mapping.request import Request
from mmfree_neuro.systems.spec import SystemSpec
from mmfree_partition.placement import Placement

Place = Callable[[Graph, SystemSpec, Request], Placement]


@dataclass(frozen=True)
class Placer:
    """One placer; `load` imports it."""

    name: str
    needs: str
    """Beyond the project's own dependencies, in words; empty for nothing."""
    load: Callable[[], Place]

    def __call__(self, graph: Graph, system: SystemSpec, request: Request) -> Placement:
        """Place a graph on a system.  Raises CapacityError where it has too little room."""
        return self.load()(graph, system, request)


def _chain() -> Place:
    from mmfree_partition.place import best_cuts

    return best_cuts.place


def _anneal() -> Place:
    from mmfree_partition.place import anneal

    return anneal.place


def _balanced() -> Place:
    from mmfree_partition.place import balanced

    return balanced.place


def _block_per_chip() -> Place:
    from mmfree_partition.place import block_per_chip

    return block_per_chip.place


def _greedy() -> Place:
    from mmfree_partition.place import greedy

    return greedy.place


def _mtkahypar() -> Place:
    from mmfree_partition.place import mtkahypar

    return mtkahypar.place


PLACERS = {
    placer.name: placer
    for placer in (
        Placer("chain", "", _chain),
        Placer("anneal", "", _anneal),
        Placer("balanced", "", _balanced),
        Placer("block-per-chip", "", _block_per_chip),
        Placer("greedy", "", _greedy),
        Placer("mtkahypar", "the package mtkahypar", _mtkahypar),
    )
}


def names_and_needs() -> str:
    """The placers by name, each with what it needs."""
    return ", ".join(
        placer.name + (f" (needs {placer.needs})" if placer.needs else "")
        for placer in PLACERS.values()
    )
