"""The chips by Mt-KaHyPar, a partitioner of hypergraphs that knows nothing of chains: an outside
yardstick.

Needs the package of that name; its deterministic preset with one thread gives the same result on
every run.
"""

from collections.abc import Sequence
from functools import cache
from typing import Any

from mmfree_neuro.errors import CapacityError, InputError
from mmfree_neuro.graph.nodes import Graph
from mmfree_neuro.mapping.request import Request
from mmfree_neuro.systems.spec import SystemSpec
from mmfree_partition.chain import filling
from mmfree_partition.chain.chain import Chain
from mmfree_partition.chain.crossing import streams_of
from mmfree_partition.chain.layout import chips_for, cores_of, lay_out
from mmfree_partition.chain.links import Piece
from mmfree_partition.place.best_cuts import SLACK
from mmfree_partition.placement import Placement

GRAIN = 32
"""Neurons that stay together at least."""
ROOMS = (SLACK - 1, 0.07, 0.1, 0.2, 0.5)
"""How much heavier than the mean a chip may be; the first with which every chip holds its part
counts."""


def place(graph: Graph, system: SystemSpec, request: Request) -> Placement:
    """The fewest messages between chips that the partitioner finds, chips about as even as `chain`
    has them.

    Raises CapacityError where the system has too little room, InputError where the package is
    missing.
    """
    chain = Chain(graph, system.chip, request.on_host(graph), dict(request.entries))
    filling.need_room(chain)
    chips = chips_for(chain, system, request)
    for room in ROOMS:
        parts = partition(chain, chips, room, request.seed)
        held = [cores for part in parts if (cores := cores_of(chain, part, request))]
        if len(held) == chips:
            return lay_out(chain, held, system, request)
    raise CapacityError(
        f"{graph.name}: Mt-KaHyPar found no parts that fit {chips} chips of "
        f"{request.cores_of(system.chip)} cores"
    )


def partition(chain: Chain, chips: int, room: float, seed: int) -> list[list[Piece]]:
    """The pieces of every chip."""
    mtkahypar, library = _library()
    grains, nets, weights = hypergraph(chain)
    if chips == 1:
        return [chain.whole()]
    context = library.context_from_preset(mtkahypar.PresetType.DETERMINISTIC)
    context.set_partitioning_parameters(chips, room, mtkahypar.Objective.KM1)
    context.logging = False
    mtkahypar.set_seed(seed)
    loads = [max(1, round(max(chain.nanoseconds[k]) * (last - first))) for k, first, last in grains]
    graph = library.create_hypergraph(context, len(grains), len(nets), nets, loads, weights)
    partitioned = graph.partition(context)
    parts: list[list[Piece]] = [[] for _ in range(chips)]
    for number, grain in enumerate(grains):
        parts[partitioned.block_id(number)].append(grain)
    return [_joined(part) for part in parts]


@cache
def _library() -> tuple[Any, Any]:
    """The package, and what it starts once in a process, with one thread."""
    try:
        import mtkahypar
    except ImportError:
        raise InputError(
            "mtkahypar is not installed, must be for this placer: pip install mtkahypar"
        ) from None
    return mtkahypar, mtkahypar.initialize(1)


def _joined(grains: Sequence[Piece]) -> list[Piece]:
    """Neighbouring grains as one piece."""
    joined: list[Piece] = []
    for k, first, last in grains:
        if joined and joined[-1][0] == k and joined[-1][2] == first:
            joined[-1] = k, joined[-1][1], last
        else:
            joined.append((k, first, last))
    return joined


def hypergraph(chain: Chain) -> tuple[list[Piece], list[list[int]], list[int]]:
    """Grains of neurons, and nets: what a grain sends with all grains that read it, and how many
    payloads that is."""
    grains: list[Piece] = []
    start: list[int] = []
    for k, link in enumerate(chain.links):
        start.append(len(grains))
        edges = list(range(0, link.node.size, GRAIN))
        grains += [(k, a, min(a + GRAIN, link.node.size)) for a in edges]
    start.append(len(grains))
    nets: dict[tuple[int, ...], int] = {}
    for stream in streams_of(chain):
        if stream.source < 0:
            continue
        for number in range(start[stream.source], start[stream.source + 1]):
            _, first, last = grains[number]
            pins = {number}
            for reader, how in stream.readers:
                every = range(start[reader], start[reader + 1])
                pins.update(
                    [every[min(first * len(every) // stream.size, len(every) - 1)]]
                    if how in ALONE
                    else every
                )
            key = tuple(sorted(pins))
            if len(key) > 1:
                nets[key] = nets.get(key, 0) + last - first
    return grains, [list(net) for net in nets], list(nets.values())


ALONE = ("aligned", "group")
"""How an input reads when a payload reaches one neuron."""
