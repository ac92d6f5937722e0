"""What shards take up on a core, limit by limit: the one source of sizes.

The sizes are those of a machine image (docs/machine.md): programs, immediates and tables,
constants, states, accumulators with their slots, input axons, synapse lists with their headers, and
output entries.  What several shards of a core share in an image, its programs and tables, counts
once.  Two things count as if nothing was shared, so that sizes can be added up: the input axons of
payloads that two shards of a core read, and immediates, for which a program is given all the room
that it may have.  So a core's image is never larger than this, and tests hold the one against the
other.
"""

import operator
from collections.abc import Hashable
from collections.abc import Mapping as ReadOnly
from dataclasses import dataclass
from typing import NamedTuple

import numpy as np

from mmfree_neuro.graph.assembler import guard, ports_of
from mmfree_neuro.graph.nodes import AnyNode, Graph, span
from mmfree_neuro.graph.verify import instruction_counts, tables
from mmfree_neuro.integers.fixedpoint import Ints
from mmfree_neuro.mapping.mapping import HOST, Location, Mapping, Shard
from mmfree_neuro.systems.spec import ChipSpec, Quantity
from mmfree_neuro.target.layout import (
    ACCUMULATOR_BYTES,
    CURRENT_AND_NEXT,
    LONGEST_LIST,
    MOST_IMMEDIATES,
    list_size,
    row_bytes,
)


class Footprint(NamedTuple):
    """Use of a core: memory in bytes, the rest in pieces; the last three are those of the neuron
    that has most."""

    memory: int = 0
    synaptic_memory: int = 0
    """Of it, what synapse lists take."""
    groups: int = 0
    neurons: int = 0
    input_axons: int = 0
    map_entries: int = 0
    """Payloads that its neurons can send, each once, wherever they go."""
    output_axons: int = 0
    """Pairs of such a payload and a core that it goes to."""
    accumulators: int = 0
    """With all slots."""
    instructions: int = 0
    state_per_neuron: int = 0
    """Bytes of the accumulators, constants and states of a neuron."""
    input_channels: int = 0
    output_channels: int = 0

    def __add__(self, other: "Footprint") -> "Footprint":  # type: ignore[override]
        """What both take of one core together."""
        added = map(operator.add, self[:-OF_A_NEURON], other[:-OF_A_NEURON])
        return Footprint(*added, *map(max, self[-OF_A_NEURON:], other[-OF_A_NEURON:]))


OF_A_NEURON = 3
"""How many figures of a footprint are those of the neuron that has most."""
EMPTY = Footprint()
FIGURES = {
    "memory": "memory_bytes_per_core",
    "synaptic_memory": "synaptic_memory_bytes_per_core",
    "groups": "neuron_groups_per_core",
    "neurons": "neurons_per_core",
    "input_axons": "input_axons_per_core",
    "map_entries": "axon_map_entries_per_core",
    "output_axons": "output_axons_per_core",
    "accumulators": "accumulators_per_core",
    "instructions": "program_instructions_per_core",
    "state_per_neuron": "state_bytes_per_neuron",
    "input_channels": "input_channels_per_neuron",
    "output_channels": "output_channels_per_neuron",
}
"""Which figure of a chip limits each of a footprint."""
ADDED = tuple(FIGURES)[:-OF_A_NEURON]
"""The figures of a footprint that add up on a core."""
Limits = dict[str, int | None]
"""What one core may have of each figure of a footprint; None where the chip's file leaves it
open."""


def limits(chip: ChipSpec, bound: str = "central") -> Limits:
    """What one core of a chip has, by its central figures or by another end of their ranges."""
    found: Limits = {}
    for name, figure in FIGURES.items():
        quantity: Quantity | None = getattr(chip, figure)
        found[name] = None if quantity is None else int(getattr(quantity, bound))
    return found


def over(used: Footprint, room: Limits) -> tuple[str, int, int] | None:
    """The first limit that is passed, as its name, the need and what there is; None where all are
    kept."""
    for name, limit in room.items():
        need = getattr(used, name)
        if limit is not None and need > limit:
            return name.replace("_", " "), need, limit
    return None


@dataclass(frozen=True)
class Part:
    """What shards of a core share: a program or a table."""

    key: str | bytes
    memory: int
    instructions: int = 0


@dataclass(frozen=True)
class Taken:
    """What some shards take of one core together: what each has of its own, and what they share."""

    own: Footprint
    parts: frozenset[Part] = frozenset()

    def __add__(self, other: "Taken") -> "Taken":
        return Taken(self.own + other.own, self.parts | other.parts)

    @property
    def all(self) -> Footprint:
        """With what is shared, once."""
        return self.with_parts(EMPTY)

    def with_parts(self, more: Footprint) -> Footprint:
        """With what is shared, once, and with something else."""
        memory = more.memory + sum(part.memory for part in self.parts)
        instructions = more.instructions + sum(part.instructions for part in self.parts)
        return self.own + more._replace(memory=memory, instructions=instructions)


NOTHING = Taken(EMPTY)
GROWING = (
    "memory",
    "synaptic_memory",
    "groups",
    "neurons",
    "input_axons",
    "map_entries",
    "accumulators",
)
"""The figures of a footprint of which more neurons take more."""


class Sizes:
    """What the shards of a graph take of the cores of a chip.

    How many output entries a shard has is known only when it has been placed: `entries` says, for
    some nodes, with how many of them a shard is to be counted.
    """

    def __init__(
        self, graph: Graph, chip: ChipSpec, entries: ReadOnly[str, int] | None = None
    ) -> None:
        self.graph, self.chip, self.entries = graph, chip, entries or {}
        self.nodes = {node.name: node for node in graph.nodes}
        self.weight_bits = int(chip.weight_bits.central)
        self.read = {
            (entry.source, entry.source_port) for node in graph.nodes for entry in node.inputs
        } | {(graph.to_host[0], graph.to_host[1].port)}
        self.room = limits(chip)
        self._issued, self._looked_up = instruction_counts(graph), tables(graph)
        self._programs: dict[str, frozenset[Part]] = {}
        self._shapes: dict[str, Hashable] = {}
        self._known: dict[tuple[Hashable, int, bool], Footprint] = {}
        self._tables: dict[Hashable, Ints] = {}

    def divided(self, graph: Graph) -> "Sizes":
        """The same of the same graph with some sums divided; what is known already is shared."""
        other = Sizes(graph, self.chip, self.entries)
        other._known, other._tables = self._known, self._tables
        return other

    def of(self, shard: Shard) -> Taken:
        """What a shard takes; of equal size, shards that do not end their node take the same."""
        node = self.nodes[shard.node]
        key = self._shape(node), shard.size, shard.stop == node.size
        if key not in self._known:
            self._known[key] = self._own(node, shard)
        return Taken(self._known[key], self._parts(node))

    def most(self, name: str, used: Taken) -> int:
        """How many neurons of a node fit a core beside what is there already: so many, or a few
        more where they are the last of the node."""
        node, have = self.nodes[name], used.all
        new = self._parts(node) - used.parts
        more = Footprint(
            memory=sum(part.memory for part in new),
            instructions=sum(part.instructions for part in new),
        )
        if over(have + more, self.room):
            return 0
        table = self._table(node)
        counts = [
            np.searchsorted(column, limit - getattr(have, kind) - getattr(more, kind), "right")
            for column, kind in zip(table, GROWING, strict=True)
            if (limit := self.room[kind]) is not None
        ]
        return int(min(counts, default=table.shape[1])) - 1

    def _table(self, node: AnyNode) -> Ints:
        """What any number of neurons of a node takes, up to as many as an empty core holds
        [GROWING, numbers]."""
        shape = self._shape(node)
        if shape not in self._tables:
            rows = [(0,) * len(GROWING)]
            for count in range(1, node.size + 1):
                own = self._own(node, Shard(node.name, 0, count))
                if over(own, self.room):
                    break
                rows.append(tuple(getattr(own, kind) for kind in GROWING))
            self._tables[shape] = np.array(rows, np.int64).T.copy()
        return self._tables[shape]

    def _shape(self, node: AnyNode) -> Hashable:
        """What decides how much the neurons of a node take, but for their program: nodes of the
        same shape take the same."""
        if node.name not in self._shapes:
            signals: dict[tuple[str, str], int] = {}
            inputs = tuple(
                (
                    entry.port,
                    entry.how,
                    signals.setdefault((entry.source, entry.source_port), len(signals)),
                    self.nodes[entry.source].output(entry.source_port).size,
                    entry.first,
                    entry.count,
                    entry.delay,
                    entry.matrix and entry.matrix.columns,
                )
                for entry in node.inputs
            )
            read = sum((node.name, output.port) in self.read for output in node.outputs)
            own = node.size, node.group, len(node.constants), node.state_slots, read
            self._shapes[node.name] = inputs, own, self.entries.get(node.name, 0)
        return self._shapes[node.name]

    def _own(self, node: AnyNode, shard: Shard) -> Footprint:
        rows, words, ports = shard.size, 0, ports_of(node)
        arriving: dict[tuple[str, str], set[tuple[int, int]]] = {}
        for entry in node.inputs:
            source = self.nodes[entry.source].output(entry.source_port)
            first, last = span(node, entry, shard.start, shard.stop, source.size)
            reached = rows if entry.reaches_all else 1
            bits = self.weight_bits if entry.matrix is not None else 0
            whole, rest = divmod(reached, LONGEST_LIST)
            each = whole * list_size(LONGEST_LIST, bits) + (rest and list_size(rest, bits))
            words += (last - first) * each
            # Two inputs that read the same payloads (gate and up) share their axons.
            arriving.setdefault((entry.source, entry.source_port), set()).add((first, last))
        axons = sum(map(_covered, arriving.values()))
        outputs = [o.port for o in node.outputs if (node.name, o.port) in self.read]
        constants, states = len(node.constants), node.state_slots
        accumulators = rows * sum(slots(node, port) for port in ports)
        memory = (
            words * row_bytes("syn")
            + row_bytes("group")
            + len(ports) * row_bytes("port")
            + axons * row_bytes("axon")
            + rows * (constants * row_bytes("const") + states * row_bytes("state"))
            + accumulators * ACCUMULATOR_BYTES
            + self.entries.get(node.name, 0) * row_bytes("out")
        )
        return Footprint(
            memory=memory,
            synaptic_memory=words * row_bytes("syn"),
            groups=1,
            neurons=rows,
            input_axons=axons,
            map_entries=rows * len(outputs),
            accumulators=accumulators,
            state_per_neuron=ACCUMULATOR_BYTES * (len(ports) + constants + states),
            input_channels=len(ports),
            output_channels=len(outputs),
        )

    def _parts(self, node: AnyNode) -> frozenset[Part]:
        """The program of a node and its tables."""
        if node.name not in self._programs:
            counts = self._issued[node.name] + guard(node)
            issued = counts.total()
            memory = (
                issued * row_bytes("code")
                + MOST_IMMEDIATES * row_bytes("pool")
                + counts["MOV"] * row_bytes("tables")
            )
            program = Part(node.name, memory, issued)
            looked_up = self._looked_up[node.name].items()
            held = (Part(table, entries * row_bytes("table")) for table, entries in looked_up)
            self._programs[node.name] = frozenset((program, *held))
        return self._programs[node.name]


def _covered(spans: set[tuple[int, int]]) -> int:
    """How many numbers lie in some spans."""
    covered = reached = 0
    for first, last in sorted(spans):
        covered += max(0, last - max(first, reached))
        reached = max(reached, last)
    return covered


def slots(node: AnyNode, port: str) -> int:
    """How many accumulators a neuron has at a port, one for each step that something may wait."""
    entries = node.ports.get(port.partition("/")[0], ())
    return CURRENT_AND_NEXT + max((entry.delay for entry in entries), default=0)


def use_of_cores(graph: Graph, mapping: Mapping, chip: ChipSpec) -> dict[Location, Footprint]:
    """What the shards on each core in use take up together, core by core in order."""
    sizes = Sizes(graph, chip)
    taken: dict[Location, Taken] = {}
    for shard, place in zip(mapping.shards, mapping.locations, strict=True):
        if place.chip != HOST:
            taken[place] = taken.get(place, NOTHING) + sizes.of(shard)
    entries = dict.fromkeys(taken, 0)
    axons = dict.fromkeys(taken, 0)
    for route in mapping.routes:
        place = mapping.locations[route.source]
        if place.chip != HOST:
            entries[place] += len(route.destinations)
            axons[place] += (route.stop - route.start) * len(route.destinations)
    entry = row_bytes("out")
    return {
        place: held.with_parts(Footprint(memory=entries[place] * entry, output_axons=axons[place]))
        for place, held in sorted(taken.items())
    }


def entries_of_nodes(mapping: Mapping) -> dict[str, int]:
    """For every node, how many output entries the shard of it has that has most."""
    of_shard = [0] * len(mapping.shards)
    for route in mapping.routes:
        of_shard[route.source] += len(route.destinations)
    most: dict[str, int] = {}
    for shard, count in zip(mapping.shards, of_shard, strict=True):
        most[shard.node] = max(most.get(shard.node, 0), count)
    return most
