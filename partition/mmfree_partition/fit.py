"""From a placer to a checked mapping that cores have room for.

How many output entries a core needs is known only once all is placed and routed.  Where that is
more than its memory has left, everything is placed again, with the shards of every node counted
with as many entries as the fullest of them had.
"""

from dataclasses import replace

from mmfree_neuro.errors import CapacityError
from mmfree_neuro.graph.greedy import with_greedy
from mmfree_neuro.graph.local_roots import chosen, with_local_roots
from mmfree_neuro.graph.nodes import Graph
from mmfree_neuro.graph.partial_sums import by_columns
from mmfree_neuro.graph.slots import with_slots
from mmfree_neuro.graph.steps import steps
from mmfree_neuro.mapping.footprint import entries_of_nodes, limits, over, use_of_cores
from mmfree_neuro.mapping.mapping import Mapping
from mmfree_neuro.mapping.request import Request
from mmfree_neuro.systems.spec import ChipSpec, SystemSpec
from mmfree_partition.check import check
from mmfree_partition.place.anneal import refine
from mmfree_partition.placers import PLACERS
from mmfree_partition.route import route

ROUNDS = 6
"""How often a graph is placed at most."""


def fit(graph: Graph, digest: str, system: SystemSpec, request: Request) -> tuple[Graph, Mapping]:
    """The graph as the mapping has it, and the mapping, proved valid; `digest` is the graph's.

    Raises CapacityError where the system has too little room, and GraphError where the graph has
    not the norms that are to find their roots by themselves, or cannot have so many sequences under
    way.
    """
    request = replace(request, local_roots=chosen(graph, request.local_roots))
    rooted = with_local_roots(graph, request.local_roots)
    if request.in_flight != "fill":
        return _fit(rooted, digest, system, request, request.in_flight)
    # Where sums are divided, a token takes more steps than the graph says.
    in_flight, needed = 0, _steps(with_greedy(rooted) if request.greedy_on_chips else rooted)
    while in_flight < needed:
        in_flight = needed
        divided, mapping = _fit(rooted, digest, system, request, in_flight)
        needed = _steps(divided)
    return divided, mapping


def _steps(graph: Graph) -> int:
    """How many steps a token takes, that of its entry among them."""
    return 1 + max(steps(graph.nodes).values())


def _fit(
    rooted: Graph, digest: str, system: SystemSpec, request: Request, in_flight: int
) -> tuple[Graph, Mapping]:
    """The same of a graph with the local roots that were asked for, and a number of sequences."""
    slotted = with_slots(rooted, in_flight)
    graph = with_greedy(slotted) if request.greedy_on_chips else slotted
    _need_widths(graph, system.chip)
    entries: dict[str, int] = {}
    passed: str | None = None
    for _ in range(ROUNDS):
        counted = replace(request, entries=tuple(entries.items()))
        divided, mapping = _placed(graph, digest, system, counted)
        passed = _passed(divided, mapping, system.chip)
        if passed is None:
            return divided, check(divided, mapping, system)
        found = entries_of_nodes(mapping)
        entries |= {name: max(count, entries.get(name, 0)) for name, count in found.items()}
    assert passed is not None
    raise CapacityError(passed)


def _need_widths(graph: Graph, chip: ChipSpec) -> None:
    """CapacityError where accumulators or messages of a chip are too narrow."""
    if graph.accumulator_bits > chip.accumulator_bits.central:
        raise CapacityError(
            f"{graph.name}: needs accumulators of {graph.accumulator_bits} bits, {chip.name} has "
            f"{chip.accumulator_bits.central:g}"
        )
    for node in graph.nodes:
        for output in node.outputs:
            if output.qtype.bits > chip.payload_bits.central:
                raise CapacityError(
                    f"{node.name}.{output.port}: has payloads of {output.qtype.bits} bits, "
                    f"{chip.name} has {chip.payload_bits.central:g}"
                )


def _placed(
    graph: Graph, digest: str, system: SystemSpec, request: Request
) -> tuple[Graph, Mapping]:
    placed = PLACERS[request.placer](graph, system, request)
    if request.refine:
        placed = refine(graph, system, request, placed)
    divided = by_columns(graph, placed.columns)
    routes = route(divided, placed.shards, placed.locations)
    return divided, Mapping(
        digest,
        system.name,
        request.placer,
        placed.shards,
        placed.locations,
        routes,
        placed.columns,
        request.local_roots,
        graph.slots,
        graph.greedy,
    )


def _passed(graph: Graph, mapping: Mapping, chip: ChipSpec) -> str | None:
    """A core of a mapping that has more of something than it may, in words."""
    room = limits(chip)
    for place, used in use_of_cores(graph, mapping, chip).items():
        if passed := over(used, room):
            what, need, limit = passed
            pairs = zip(mapping.shards, mapping.locations, strict=True)
            names = dict.fromkeys(shard.node for shard, other in pairs if other == place)
            return (
                f"{', '.join(names)}: core {place.core} of chip {place.chip} needs {need} of "
                f"{what}, {chip.name} has {limit}"
            )
    return None
