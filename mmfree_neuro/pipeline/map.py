"""From a graph to mappings: one that is wished for, or many to compare; the command line and the
examples call these.

The folder `partition/` is imported where it is needed.
"""

from collections.abc import Callable
from dataclasses import dataclass, fields, replace
from pathlib import Path

from mmfree_neuro.errors import CapacityError, InputError
from mmfree_neuro.graph import graph_file
from mmfree_neuro.graph.nodes import Graph, block_of
from mmfree_neuro.graph.partial_sums import by_columns
from mmfree_neuro.mapping import mapping_file
from mmfree_neuro.mapping.footprint import need_programs
from mmfree_neuro.mapping.mapping import Mapping
from mmfree_neuro.mapping.mapping_file import StoredMapping
from mmfree_neuro.report.terminal import Bounds
from mmfree_neuro.systems.load import load_system
from mmfree_neuro.systems.spec import Quantity, SystemSpec

PLACERS = ("chain", "anneal", "balanced", "block-per-chip", "greedy", "mtkahypar")
Stage = Callable[[str], None]


@dataclass(frozen=True)
class Wish:
    """How a graph is to be mapped onto a system."""

    placer: str = "chain"
    chips: int | None = None
    """Exactly so many; None for as few as the placer can do with."""
    cores: int | None = None
    """At most so many of a chip; None for all."""
    spread: bool = False
    """Every node of a chip over all of its cores."""
    head_on_host: bool = False
    weight_bits: int | None = None
    """What a stored weight takes; None for what the chip's description says."""
    divide: bool = True
    """Sums may be divided by columns where that saves messages between chips."""
    refine: bool = False
    """Cores are swapped on their chips while that saves hops, whatever placed them."""
    seed: int = 0


def with_weight_bits(system: SystemSpec, bits: int | None) -> SystemSpec:
    """The system with weights stored at that many bits.  Raises InputError where its chip does not
    allow them."""
    if bits is None:
        return system
    allowed = system.chip.weight_bits
    low = max(2, int(allowed.low))
    if not low <= bits <= allowed.high:
        raise InputError(
            f"weights of {bits} bits were asked for, {system.chip.name} has {low} to "
            f"{allowed.high:g}"
        )
    chosen = Quantity(bits, bits, bits, f"chosen; {allowed.source}")
    return replace(system, chip=replace(system.chip, weight_bits=chosen))


def place(graph: Graph, digest: str, system: SystemSpec, wish: Wish) -> tuple[Graph, Mapping]:
    """Place, route and check a graph on a system, whose weights are already as wide as is wished.

    The graph that comes back is divided where the mapping divides it.
    """
    from mmfree_partition.check import check
    from mmfree_partition.place import PLACERS as known
    from mmfree_partition.place.anneal import refine
    from mmfree_partition.request import Request
    from mmfree_partition.route import route

    if wish.placer not in known:
        raise InputError(
            f"placer {wish.placer!r} is not known, must be one of {', '.join(sorted(known))}"
        )
    most = int(system.chip.cores.central)
    if wish.cores is not None and not 1 <= wish.cores <= most:
        raise InputError(f"{wish.cores} cores per chip were asked for, must be 1 … {most}")
    if wish.chips is not None and not 1 <= wish.chips <= int(system.chips.central):
        raise InputError(
            f"{wish.chips} chips were asked for, must be 1 … {int(system.chips.central)}, as "
            f"{system.name} has"
        )
    if wish.seed < 0:
        raise InputError(f"the seed is {wish.seed}, must not be negative")
    if graph.accumulator_bits > system.chip.accumulator_bits.central:
        raise CapacityError(
            f"{graph.name}: needs accumulators of {graph.accumulator_bits} bits, "
            f"{system.chip.name} has "
            f"{system.chip.accumulator_bits.central:g}"
        )
    host = (
        {node.name for node in graph.nodes if block_of(node.name) is None}
        if wish.head_on_host
        else set()
    )
    request = Request(
        wish.chips,
        wish.cores or most,
        frozenset(host | {graph.embedding.name}),
        wish.spread,
        wish.divide,
        wish.seed,
    )
    placed = known[wish.placer](graph, system, request)
    if wish.refine:
        placed = refine(graph, system, request, placed)
    graph = by_columns(graph, placed.columns)
    routes = route(graph, placed.shards, placed.locations)
    mapping = Mapping(
        digest, system.name, wish.placer, placed.shards, placed.locations, routes, placed.columns
    )
    need_programs(graph, mapping, system.chip)
    return graph, check(graph, mapping, system)


def bounds(graph: Graph, mapping: Mapping, system: SystemSpec, cores: int | None = None) -> Bounds:
    """A mapping's cores, chips, slowest core and messages between chips, each with its proven bound
    and the ratio."""
    from mmfree_partition.bound.gaps import gaps

    found = gaps(graph, mapping, system, cores or int(system.chip.cores.central))
    return {
        field.name: {"found": gap.found, "least": gap.least, "ratio": gap.ratio}
        for field in fields(found)
        for gap in (getattr(found, field.name),)
    }


def map_graph(
    graph_path: Path, system_name: str, output: Path, wish: Wish
) -> tuple[Graph, StoredMapping]:
    """Map a graph file onto a system and write the mapping file."""
    graph, digest = graph_file.load_graph(graph_path)
    system = with_weight_bits(load_system(system_name), wish.weight_bits)
    divided, mapping = place(graph, digest, system, wish)
    stored = StoredMapping(mapping, system, graph_path, wish.cores)
    mapping_file.save_mapping(stored, output)
    return divided, stored
