"""What a shard takes up on a core, limit by limit."""

from dataclasses import dataclass, fields

from mmfree_neuro.errors import CapacityError
from mmfree_neuro.graph.nodes import AnyNode, Graph, span
from mmfree_neuro.graph.verify import instruction_counts
from mmfree_neuro.mapping.mapping import HOST, Location, Mapping, Shard
from mmfree_neuro.systems.spec import ChipSpec

BYTES_PER_WORD = 4
"""An accumulator, a state variable, a constant or a table entry."""


@dataclass(frozen=True)
class Footprint:
    """Use of a core, or its limits: memory in bytes, the rest in pieces."""

    memory: int
    synaptic_memory: int
    neurons: int
    state_per_neuron: int
    input_axons: int

    def __add__(self, other: "Footprint") -> "Footprint":
        return Footprint(
            self.memory + other.memory,
            self.synaptic_memory + other.synaptic_memory,
            self.neurons + other.neurons,
            max(self.state_per_neuron, other.state_per_neuron),
            self.input_axons + other.input_axons,
        )

    def fits(self, limits: "Footprint") -> bool:
        """Whether no use is above its limit."""
        return (
            self.memory <= limits.memory
            and self.synaptic_memory <= limits.synaptic_memory
            and self.neurons <= limits.neurons
            and self.state_per_neuron <= limits.state_per_neuron
            and self.input_axons <= limits.input_axons
        )

    def over(self, limits: "Footprint") -> tuple[str, int, int] | None:
        """The first limit that is passed, as its name, the need and what there is; None where all
        are kept."""
        for field in fields(self):
            need, limit = getattr(self, field.name), getattr(limits, field.name)
            if need > limit:
                return field.name.replace("_", " "), need, limit
        return None


EMPTY = Footprint(0, 0, 0, 0, 0)


def limits(chip: ChipSpec) -> Footprint:
    """What one core of a chip has."""
    return Footprint(
        int(chip.memory_bytes_per_core.central),
        int(chip.synaptic_memory_bytes_per_core.central),
        int(chip.neurons_per_core.central),
        int(chip.state_bytes_per_neuron.central),
        int(chip.input_axons_per_core.central),
    )


def footprint(graph: Graph, node: AnyNode, shard: Shard, chip: ChipSpec) -> Footprint:
    """What one shard takes on a core: synapses as they are stored, words of its neurons, tables and
    axons.

    Every payload that arrives has an axon and a list of synapses in whole words: one for each
    neuron that it reaches, ternary weights dense, zeros included.  Two inputs that read the same
    payloads (gate and up) share both.
    """
    rows = shard.size
    reached: dict[tuple[str, str], tuple[int, int]] = {}
    for entry in node.inputs:
        source = graph.node(entry.source).output(entry.source_port)
        first, last = span(node, entry, shard.start, shard.stop, source.size)
        axons, each = reached.get((entry.source, entry.source_port), (0, 0))
        more = rows if entry.how in ("ternary", "broadcast") else 1
        reached[entry.source, entry.source_port] = max(axons, last - first), each + more
    bits, word = int(chip.weight_bits.central), int(chip.synaptic_word_bits.central)
    synaptic = sum(axons * -(-each * bits // word) for axons, each in reached.values()) * word // 8
    words = node.accumulators + len(node.constants) + (node.state_type is not None)
    table = 2 * len(graph.sigmoid.values) * BYTES_PER_WORD if node.reads_sigmoid else 0
    state = words * BYTES_PER_WORD
    arriving = sum(axons for axons, _ in reached.values())
    return Footprint(synaptic + rows * state + table, synaptic, rows, state, arriving)


def use_of_cores(graph: Graph, mapping: Mapping, chip: ChipSpec) -> dict[Location, Footprint]:
    """What the shards on each core in use take up together, core by core in order."""
    used: dict[Location, Footprint] = {}
    for shard, place in zip(mapping.shards, mapping.locations, strict=True):
        if place.chip != HOST:
            used[place] = used.get(place, EMPTY) + footprint(
                graph, graph.node(shard.node), shard, chip
            )
    return dict(sorted(used.items()))


def need_programs(graph: Graph, mapping: Mapping, chip: ChipSpec) -> None:
    """CapacityError where programs or outgoing axons pass a limit that the chip's description
    gives."""
    issued = instruction_counts(graph) if chip.program_instructions_per_core else {}
    programs: dict[Location, dict[str, int]] = {}
    for shard, place in zip(mapping.shards, mapping.locations, strict=True):
        programs.setdefault(place, {})[shard.node] = sum(issued.get(shard.node, {}).values())
    axons: dict[Location, int] = {}
    for route in mapping.routes:
        place = mapping.locations[route.source]
        axons[place] = axons.get(place, 0) + (route.stop - route.start) * len(route.destinations)
    instructions = {place: sum(held.values()) for place, held in programs.items()}
    for what, limit, used in (
        ("instructions", chip.program_instructions_per_core, instructions),
        ("outgoing axons", chip.output_axons_per_core, axons),
    ):
        for place, need in used.items():
            if limit is not None and place.chip != HOST and need > limit.central:
                raise CapacityError(
                    f"{', '.join(programs[place])}: core {place.core} of chip {place.chip} "
                    f"needs {need} {what}, "
                    f"{chip.name} has {limit.central:g}"
                )
