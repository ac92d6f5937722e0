"""What a summary and a mapping of a file must be, by themselves and together, where no graph is
there to hold them against."""

from mmfree_neuro.errors import shown
from mmfree_neuro.files.reading import Misfit
from mmfree_neuro.graph.summary import GraphSummary
from mmfree_neuro.mapping.mapping import HOST, Location, Mapping, Shard
from mmfree_neuro.systems.spec import SystemSpec
from mmfree_neuro.target.layout import MOST_STATES

MOST = 1 << 40
"""No count of a node is larger."""
MOST_INSTRUCTIONS = 1 << 16
"""No program issues more of a class."""


def check_summary(summary: GraphSummary) -> None:
    """Misfit where a summary is not one that a graph has."""
    names = [node.name for node in summary.nodes]
    if len(set(names)) < len(names) or not names:
        raise Misfit(f"its graph has {len(names)} nodes, must have some, each with its own name")
    for node in summary.nodes:
        counts = node.step, node.ternary_synapses, node.nonzero_synapses, node.states
        issued = (*node.instructions.values(), node.idle_instructions)
        if node.size < 1 or min(*counts, *issued, node.block or 0) < 0:
            raise Misfit(f"{node.name} has no neuron or a negative count, must have neither")
        if max(node.size, *counts) > MOST or max(issued) > MOST_INSTRUCTIONS:
            raise Misfit(f"{node.name} has a count that no graph has")
        if node.step > len(names):
            raise Misfit(f"{node.name} fires at step {node.step}, of {len(names)} nodes")
    if min(summary.vocabulary, summary.accumulator_bits) < 1 or summary.blocks < 0:
        raise Misfit(f"{summary.name} must have words, bits of its accumulators, and blocks")


def check_mapping(mapping: Mapping, summary: GraphSummary, system: SystemSpec) -> None:
    """Misfit where a mapping is not one of the nodes and chips that a run tells of; more than that
    only the graph could say."""
    sizes = {node.name: node.size for node in summary.nodes}
    held: dict[str, list[Shard]] = {name: [] for name in sizes}
    if mapping.system != system.name:
        raise Misfit(f"its mapping is for {shown(mapping.system)}, must be for {system.name}")
    if not 1 <= mapping.in_flight <= MOST_STATES:
        raise Misfit(
            f"its mapping is for {mapping.in_flight} sequences in flight, must be 1 … {MOST_STATES}"
        )
    if len(mapping.shards) != len(mapping.locations):
        raise Misfit(
            f"{len(mapping.shards)} shards have {len(mapping.locations)} locations, must have one "
            "each"
        )
    for shard, place in zip(mapping.shards, mapping.locations, strict=True):
        if not 0 <= shard.start < shard.stop <= sizes.get(shard.node, 0):
            raise Misfit(f"shard {shard.node}[{shard.start}:{shard.stop}] must be a part of a node")
        held[shard.node].append(shard)
        _check_place(place, system)
    for name, size in sizes.items():
        reached = 0
        for shard in sorted(held[name], key=lambda shard: shard.start):
            if shard.start <= reached:
                reached = max(reached, shard.stop)
        if reached < size:
            raise Misfit(f"neuron {reached} of {name} lies nowhere, must lie on a core")
    for route in mapping.routes:
        source = mapping.shards[route.source] if 0 <= route.source < len(mapping.shards) else None
        if source is None or not source.start <= route.start < route.stop <= source.stop:
            raise Misfit(f"a route of shard {route.source} must send what the shard has")
    # Many routes share their destinations, which are looked at once.
    for route in {id(route.destinations): route for route in mapping.routes}.values():
        if not route.destinations or sorted(set(route.destinations)) != [*route.destinations]:
            raise Misfit(f"a route of shard {route.source} must go to cores in order, none twice")
        for place in route.destinations:
            _check_place(place, system)


def _check_place(place: Location, system: SystemSpec) -> None:
    """Misfit where a system has no such core."""
    chips, cores = int(system.chips.central), int(system.chip.cores.central)
    on_host = place == Location(HOST, 0)
    if not on_host and not (0 <= place.chip < chips and 0 <= place.core < cores):
        raise Misfit(f"core {place.core} of chip {place.chip} must be one of {system.name}")
