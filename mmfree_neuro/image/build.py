"""Builds the cores of a machine image, chip by chip, from a graph and its mapping."""

from collections.abc import Iterator
from dataclasses import dataclass, field
from functools import cached_property

import numpy as np
from numpy.typing import NDArray

from mmfree_neuro.errors import CapacityError
from mmfree_neuro.graph.assembler import Assembled, assemble, ports_of
from mmfree_neuro.graph.nodes import MARK, Embedding, Graph
from mmfree_neuro.image.synapses import Group, Signal, lists, payloads, readings
from mmfree_neuro.integers.fixedpoint import Ints
from mmfree_neuro.mapping.mapping import HOST, Location, Mapping
from mmfree_neuro.target.layout import (
    AWAY,
    CURRENT_AND_NEXT,
    HERE,
    HOST_CHIP,
    MOST_CORES,
    MOST_PORTS,
    RESULT,
    SECTION_TYPES,
    SECTIONS,
    Bytes,
    Core,
    Rows,
)

HOST_CORE = Location(HOST, 0)


@dataclass(eq=False)
class _Sections:
    """The sections of a core while they grow, in pieces that follow each other."""

    pieces: dict[str, list[NDArray[np.generic]]] = field(
        default_factory=lambda: {name: [] for name in SECTIONS}
    )
    sizes: dict[str, int] = field(default_factory=lambda: dict.fromkeys(SECTIONS, 0))

    def add(self, name: str, rows: NDArray[np.generic]) -> int:
        """Put rows at the end of a section; where they begin."""
        self.pieces[name].append(rows)
        at = self.sizes[name]
        self.sizes[name] += len(rows)
        return at

    def core(self, number: int) -> Core:
        """The core."""
        made = {}
        for name, pieces in self.pieces.items():
            kind, width = SECTION_TYPES[name]
            empty = np.zeros((0, width) if width > 1 else 0, kind)
            made[name] = np.concatenate([empty, *pieces]).astype(kind)
        return Core(number, **made)


@dataclass(frozen=True, eq=False)
class Builder:
    """Makes the cores of a mapping; `graph` is divided as the mapping says."""

    graph: Graph
    mapping: Mapping
    weight_bits: int
    """What a stored weight takes: 2, or more, which are stored as 8."""

    @cached_property
    def programs(self) -> dict[str, Assembled]:
        """The program of every node."""
        return {node.name: assemble(node, self.graph.sigmoid) for node in self.graph.nodes}

    @cached_property
    def groups(self) -> dict[Location, list[tuple[int, Group]]]:
        """The groups of every core, each with the number of its shard, in the order of shards."""
        found: dict[Location, list[tuple[int, Group]]] = {HOST_CORE: []}
        ports: dict[Location, int] = {}
        pairs = zip(self.mapping.shards, self.mapping.locations, strict=True)
        for position, (shard, place) in enumerate(pairs):
            node, here = self.graph.node(shard.node), found.setdefault(place, [])
            here.append((position, Group(len(here), node, shard, ports.get(place, 0))))
            ports[place] = ports.get(place, 0) + len(ports_of(node))
        return found

    @cached_property
    def axons(self) -> dict[tuple[Location, Signal], tuple[Ints, int]]:
        """The payloads of every signal that a core reads, and the axon of the first of them."""
        found = {}
        for place, groups in self.groups.items():
            at = 0
            for signal, some in readings(self.graph, [group for _, group in groups]).items():
                read = payloads(some)
                found[place, signal] = read, at
                at += len(read)
        return found

    @cached_property
    def routes(self) -> dict[int, list[int]]:
        """The routes of every shard."""
        found: dict[int, list[int]] = {}
        for number, route in enumerate(self.mapping.routes):
            found.setdefault(route.source, []).append(number)
        return found

    def host(self) -> Core:
        """The host, with the table of the embedding."""
        return self.core(HOST_CORE)

    def chips(self) -> Iterator[tuple[int, tuple[Core, ...]]]:
        """The chips in use with their cores, in order."""
        places = sorted(place for place in self.groups if place.chip != HOST)
        for chip in self.mapping.chips:
            yield chip, tuple(self.core(place) for place in places if place.chip == chip)

    def core(self, place: Location) -> Core:
        """One core."""
        sections = _Sections()
        starts: dict[str, tuple[int, ...]] = {}
        tables: dict[bytes, int] = {}
        rows, accumulators = [], 0
        for position, group in self.groups[place]:
            name = group.node.name
            if name not in starts:
                starts[name] = _add_program(sections, self.programs[name], tables)
            ports, accumulators = _ports(group, accumulators)
            first_port = sections.add("port", ports)
            rows.append(self._row(sections, position, group, place, starts[name], first_port))
        sections.add("group", np.array(rows, np.uint32).reshape(-1, 16))
        for what, count, most in (
            ("ports", sections.sizes["port"], MOST_PORTS),
            ("cores", place.core + 1, MOST_CORES),
        ):
            if count > most:
                raise CapacityError(
                    f"{self.mapping.system}: core {place.core} of chip {place.chip} needs {count} "
                    f"{what}, an image has room for {most}"
                )
        for signal, some in readings(
            self.graph, [group for _, group in self.groups[place]]
        ).items():
            read, at = self.axons[place, signal][0], sections.sizes["syn"]
            axons, words = lists(some, read, at, self.weight_bits)
            sections.add("axon", axons)
            sections.add("syn", words)
        if place == HOST_CORE:
            sections.add("embed", _embedded(self.graph.embedding, self.groups[place]))
        return sections.core(place.core)

    def _row(
        self,
        sections: _Sections,
        position: int,
        group: Group,
        place: Location,
        program: tuple[int, ...],
        first_port: int,
    ) -> list[int]:
        """The row of a group in GROUP, with what else belongs to it added to its sections."""
        node, shard = group.node, group.shard
        assembled = self.programs[node.name]
        code, pool, first_table = program
        own = [node.constants[name][shard.start : shard.stop] for name in assembled.constants]
        constants = sections.add("const", np.concatenate([np.zeros(0, np.int64), *own]))
        states = node.state_slots
        state = sections.add("state", np.zeros(states * shard.size, np.int32))
        entries = self._entries(position, place, assembled.outputs)
        first_entry = sections.add("out", entries)
        return [
            code,
            len(assembled.code),
            shard.size,
            first_port,
            len(assembled.ports),
            pool,
            len(assembled.immediates),
            constants,
            len(own),
            state,
            states,
            first_table,
            len(assembled.tables),
            first_entry,
            len(entries),
            len(assembled.outputs),
        ]

    def _entries(self, position: int, place: Location, outputs: tuple[str, ...]) -> Rows:
        """The output entries of a shard: for each of its routes, one for each destination."""
        rows = []
        last, sent = self.graph.to_host
        result = last, sent.port
        for number in self.routes.get(position, ()):
            route = self.mapping.routes[number]
            shard = self.mapping.shards[route.source]
            output = outputs.index(route.port)
            for there in route.destinations:
                chip = HOST_CHIP if there.chip == HOST else there.chip
                if (shard.node, route.port) == result:
                    kind, to = RESULT, route.start
                else:
                    read, first = self.axons[there, (shard.node, route.port)]
                    kind = HERE if there.chip == place.chip else AWAY
                    to = first + int(np.searchsorted(read, route.start))
                what = output | kind << 4 | there.core << 8 | chip << 16
                rows.append([what, route.start - shard.start, route.stop - route.start, to])
        return np.array(rows, np.uint32).reshape(-1, 4)


def _ports(group: Group, accumulators: int) -> tuple[Rows, int]:
    """The rows of a group's ports in PORT, and how many accumulators there are after them."""
    rows = []
    node = group.node
    for port in ports_of(node):
        entries = node.ports.get(port.partition("/")[0], ())
        waits = max((entry.delay for entry in entries), default=0)
        rows.append([accumulators, CURRENT_AND_NEXT + waits])
        accumulators += (CURRENT_AND_NEXT + waits) * group.shard.size
    return np.array(rows, np.uint32), accumulators


def _add_program(
    sections: _Sections, program: Assembled, tables: dict[bytes, int]
) -> tuple[int, int, int]:
    """Add a program, its immediates and its tables; where each begins.

    `tables` has the tables that the core holds already by their content.
    """
    words = np.array([one.word for one in program.code], np.uint64)
    rows = []
    for table in program.tables:
        data = table.astype(np.int32)
        key = data.tobytes()
        if key not in tables:
            tables[key] = sections.add("table", data)
        rows.append([tables[key], len(data)])
    return (
        sections.add("code", words),
        sections.add("pool", np.array(program.immediates, np.int64)),
        sections.add("tables", np.array(rows, np.uint32).reshape(-1, 2)),
    )


def _embedded(node: Embedding, groups: list[tuple[int, Group]]) -> Bytes:
    """The section EMBED."""
    group = next(one for _, one in groups if one.node.name == node.name)
    tokens, values = node.codes.shape
    marks = [node.reads.index(MARK)] if MARK in node.reads else [0]
    ports = [node.reads.index("x"), node.reads.index("scale"), *marks]
    head = [tokens, values, node.codes.itemsize, group.number, *ports, node.slots]
    codes = np.ascontiguousarray(node.codes).reshape(-1).view(np.uint8)
    scales = node.scales.astype("<i4").view(np.uint8)
    padding = np.zeros(-len(codes) % 8, np.uint8)
    return np.concatenate([np.array(head, "<u4").view(np.uint8), codes, padding, scales])
