"""What a shard takes up on a core, limit by limit."""

from dataclasses import astuple, dataclass

from mmfree_neuro.hardware import ChipSpec
from mmfree_neuro.ir import GLU, MLGRU, AnyNode, Graph, MaxAbs, constants, span
from mmfree_neuro.mapping import HOST, Location, Mapping, Shard

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
        return all(used <= limit for used, limit in zip(astuple(self), astuple(limits), strict=True))


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


def footprint(graph: Graph, node: AnyNode, shard: Shard, weight_bits: int) -> Footprint:
    """What one shard takes: dense synapses, one more synapse for every other connection, words per neuron, axons.

    Two inputs that read the same payloads (gate and up) share their axons.
    """
    rows, synapses, accumulators = shard.size, 0, 0
    axons: dict[tuple[str, str], int] = {}
    for entry in node.inputs:
        source = graph.node(entry.source).output(entry.source_port)
        first, last = span(node, entry, shard.start, shard.stop, source.size)
        synapses += (last - first) * (rows if entry.how in ("ternary", "broadcast") else 1)
        accumulators += node.arity if isinstance(node, MaxAbs) else 1
        axons[entry.source, entry.source_port] = last - first
    words = accumulators + len(constants(node)) + isinstance(node, MLGRU)
    table = 2 * len(graph.sigmoid.values) * BYTES_PER_WORD if isinstance(node, MLGRU | GLU) else 0
    synaptic = -(-synapses * weight_bits // 8)
    state = words * BYTES_PER_WORD
    return Footprint(synaptic + rows * state + table, synaptic, rows, state, sum(axons.values()))


def use_of_cores(graph: Graph, mapping: Mapping, weight_bits: int) -> dict[Location, Footprint]:
    """What the shards on each core in use take up together, core by core in order."""
    used: dict[Location, Footprint] = {}
    for shard, place in zip(mapping.shards, mapping.locations, strict=True):
        if place.chip != HOST:
            used[place] = used.get(place, EMPTY) + footprint(graph, graph.node(shard.node), shard, weight_bits)
    return dict(sorted(used.items()))
