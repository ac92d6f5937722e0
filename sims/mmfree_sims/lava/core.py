"""Neurocores as plain objects: they take packets, fire shards whose inputs are complete, and count.

A packet is what one shard sent for one token: all its outputs side by side, behind a header.  Core to core inside a
tile a packet is handed over; between tiles it is an int32 vector on a Lava channel.  A shard fires for a token when a
packet of every source shard has come, and each channel keeps order, so a shard sees its tokens in order whatever the
timing: a Kahn network, in which timing cannot change a result.
"""

from collections.abc import Callable, Iterable
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from mmfree_neuro.fixedpoint import Ints
from mmfree_neuro.ir import Graph, Input
from mmfree_neuro.mapping import HOST, Location, Mapping, Shard
from mmfree_sims.neurons import Neurons, Sent

HEADER = 4
"""Header words of a packet: sequence, token, flags, source shard."""
END, ERROR, GENERATED = 1, 2, 4
"""Flags: end of the stream; its sender has failed; the token was generated, not part of a prompt."""


TOGETHER = 16
"""How many ready tokens a shard computes at once at most."""


@dataclass(frozen=True)
class Packet:
    """What shard `source` sent for one token of one sequence, by port."""

    sequence: int
    token: int
    flags: int
    source: int
    sent: Sent

    def goes_with(self, other: "Packet") -> bool:
        """Whether both tokens belong to one phase of one sequence."""
        return (self.sequence, self.flags) == (other.sequence, other.flags)


def payload_words(graph: Graph, shard: Shard) -> int:
    """How many words the outputs of a shard take in a packet."""
    return sum(min(output.size, shard.size) for output in graph.node(shard.node).outputs)


def packet_words(graph: Graph, mapping: Mapping) -> int:
    """The size of the vectors on every channel: header and the largest payload of a shard that sends between tiles."""
    return HEADER + max(payload_words(graph, mapping.shards[route.source]) for route in mapping.routes)


def encode(graph: Graph, shard: Shard, packet: Packet, words: int) -> NDArray[np.int32]:
    """A packet as the int32 vector that a channel carries."""
    vector = np.zeros(words, np.int32)
    vector[:HEADER] = packet.sequence, packet.token, packet.flags, packet.source
    at = HEADER
    for output in graph.node(shard.node).outputs:
        values = packet.sent[output.port]
        vector[at : at + len(values)] = values
        at += len(values)
    return vector


def control(flags: int, words: int) -> NDArray[np.int32]:
    """A packet without payload: END or ERROR."""
    vector = np.zeros(words, np.int32)
    vector[2] = flags
    return vector


def decode(graph: Graph, mapping: Mapping, vector: NDArray[np.int32]) -> Packet:
    """The packet of a vector."""
    sequence, token, flags, source = (int(word) for word in vector[:HEADER])
    shard, at, sent = mapping.shards[source], HEADER, {}
    for output in graph.node(shard.node).outputs:
        size = min(output.size, shard.size)
        sent[output.port] = vector[at : at + size].astype(np.int64)
        at += size
    return Packet(sequence, token, flags, source, sent)


@dataclass(frozen=True, eq=False)
class Board:
    """Counts of all shards and routes, one row for prefill and one for generation; each tile writes its own columns.

    Rows of shape [2, shards], `messages` [2, routes]; in shared memory when the tiles are processes.
    """

    fired: Ints
    synops: Ints
    reads: Ints
    saturations: Ints
    messages: Ints


@dataclass
class _Waiting:
    payloads: dict[str, Ints]
    missing: int


class ShardOnCore:
    """One shard: its neurons, what it waits for, and its counts."""

    def __init__(self, graph: Graph, mapping: Mapping, position: int, sources: dict[str, list[int]]) -> None:
        self.position, self.shard = position, mapping.shards[position]
        self.node = graph.node(self.shard.node)
        self.neurons = Neurons(graph, self.node, self.shard.start, self.shard.stop)
        self.spans = self.neurons.spans
        self.pieces: dict[int, list[tuple[str, str, slice, slice, bool]]] = {}
        for entry in self.node.inputs:
            self._connect(mapping, entry, sources[entry.source])
        self.waiting: dict[tuple[int, int], _Waiting] = {}
        self.ready: list[tuple[Packet, dict[str, Ints]]] = []
        self.expected = (0, 0)
        self.reads = {(entry.source, entry.source_port): entry.port for entry in self.node.inputs}
        self.events = {key: np.zeros((2, _length(self.spans[port])), np.int64) for key, port in self.reads.items()}
        self.sent = {o.port: np.zeros((2, min(o.size, self.shard.size)), np.int64) for o in self.node.outputs}
        self.fired, self.saturated = np.zeros(2, np.int64), np.zeros(2, np.int64)

    def _connect(self, mapping: Mapping, entry: Input, sources: list[int]) -> None:
        first, last = self.spans[entry.port]
        for source in sources:
            shard = mapping.shards[source]
            low, high = max(first, shard.start), min(last, shard.stop)
            if low < high:
                there, here = slice(low - shard.start, high - shard.start), slice(low - first, high - first)
                whole = (low, high) == (first, last) == (shard.start, shard.stop)
                self.pieces.setdefault(source, []).append((entry.port, entry.source_port, there, here, whole))

    def take(self, packet: Packet) -> None:
        """Take one packet; the token is ready to fire if that was the last one missing for it."""
        key = packet.sequence, packet.token
        waiting = self.waiting.get(key)
        if waiting is None:
            waiting = self.waiting[key] = _Waiting({}, len(self.pieces))
        for port, source_port, there, here, whole in self.pieces[packet.source]:
            values = packet.sent[source_port]
            if whole:
                waiting.payloads[port] = values
                continue
            if port not in waiting.payloads:
                waiting.payloads[port] = np.zeros(_length(self.spans[port]), np.int64)
            waiting.payloads[port][here] = values[there]
        waiting.missing -= 1
        if not waiting.missing:
            del self.waiting[key]
            self.ready.append((packet, waiting.payloads))

    def fire(self) -> list[Packet]:
        """Run the shard's program for every token that is ready; what it sends, token by token.

        Tokens of one sequence and phase that are ready together are computed together, which changes no bit of them.
        """
        sent: list[Packet] = []
        while self.ready:
            first = self.ready[0][0]
            many = [item for item in self.ready[:TOGETHER] if item[0].goes_with(first)]
            del self.ready[: len(many)]
            sent += self._fire([packet for packet, _ in many], [payloads for _, payloads in many])
        return sent

    def _fire(self, packets: list[Packet], payloads: list[dict[str, Ints]]) -> list[Packet]:
        if packets[0].token == 0:
            self.neurons.reset()
            self.expected = (packets[0].sequence, 0)
        for packet in packets:
            if (packet.sequence, packet.token) != self.expected:
                raise RuntimeError(
                    f"{self.shard.node}: token {packet.token} of sequence {packet.sequence} came out of order"
                )
            self.expected = (packet.sequence, packet.token + 1)
        phase, alone = int(bool(packets[0].flags & GENERATED)), len(packets) == 1
        together = payloads[0] if alone else {port: np.stack([p[port] for p in payloads]) for port in payloads[0]}
        sent = self.neurons.fire(together)
        self._count(phase, len(packets), together, sent)
        rows = [sent] if alone else [{port: v[k] for port, v in sent.items()} for k in range(len(packets))]
        return [Packet(p.sequence, p.token, p.flags, self.position, row) for p, row in zip(packets, rows, strict=True)]

    def _count(self, phase: int, tokens: int, payloads: dict[str, Ints], sent: Sent) -> None:
        self.fired[phase] += tokens
        self.saturated[phase] += self.neurons.take_saturations().sum()
        for key, port in self.reads.items():
            self.events[key][phase] += np.count_nonzero(np.atleast_2d(payloads[port]), axis=0)
        for port, values in sent.items():
            self.sent[port][phase] += np.count_nonzero(np.atleast_2d(values), axis=0)

    def write(self, board: Board, mapping: Mapping) -> None:
        """Write the counts into the board's columns of this shard and of its routes."""
        board.fired[:, self.position] = self.fired
        board.saturations[:, self.position] = self.saturated
        synops, reads = np.zeros(2, np.int64), np.zeros(2, np.int64)
        for entry in self.node.inputs:
            events = self.events[entry.source, entry.source_port]
            if entry.matrix is not None:
                synops += events @ np.count_nonzero(entry.matrix[self.shard.start : self.shard.stop], axis=0)
            else:
                synops += events.sum(1) * (self.shard.size if entry.how == "broadcast" else 1)
            each = self.shard.size if entry.how in ("ternary", "broadcast") else 1
            reads += events.sum(1) * each
        board.synops[:, self.position], board.reads[:, self.position] = synops, reads
        write_messages(board, mapping, self.position, self.sent)


def _length(bounds: tuple[int, int]) -> int:
    return bounds[1] - bounds[0]


def write_messages(board: Board, mapping: Mapping, position: int, sent: dict[str, Ints]) -> None:
    """Write how many payloads went along each route of one shard, from the non-zero counts [2, neurons] by port."""
    start = mapping.shards[position].start
    for number, route in enumerate(mapping.routes):
        if route.source == position:
            board.messages[:, number] = sent[route.port][:, route.start - start : route.stop - start].sum(1)


class Core:
    """A neurocore: the shards that lie on it."""

    def __init__(self, graph: Graph, mapping: Mapping, positions: Iterable[int], sources: dict[str, list[int]]) -> None:
        self.shards = [ShardOnCore(graph, mapping, position, sources) for position in positions]
        self.readers: dict[int, list[ShardOnCore]] = {}
        for shard in self.shards:
            for source in shard.pieces:
                self.readers.setdefault(source, []).append(shard)

    def take(self, packet: Packet) -> None:
        """Deliver a packet to every shard here that reads it."""
        for shard in self.readers.get(packet.source, ()):
            shard.take(packet)


class Tile:
    """Cores that share one process: all of a chip, or one."""

    def __init__(self, graph: Graph, mapping: Mapping, locations: Iterable[Location]) -> None:
        self.graph, self.mapping = graph, mapping
        sources: dict[str, list[int]] = {}
        for position, shard in enumerate(mapping.shards):
            sources.setdefault(shard.node, []).append(position)
        held: dict[Location, list[int]] = {location: [] for location in locations}
        for position, location in enumerate(mapping.locations):
            if location in held:
                held[location].append(position)
        self.cores = {location: Core(graph, mapping, positions, sources) for location, positions in held.items()}
        self.shards = sorted((s for c in self.cores.values() for s in c.shards), key=lambda shard: shard.position)
        self.leaving = {r.source for r in mapping.routes if r.destination not in held}
        self.inside = {
            source: [core for core in self.cores.values() if source in core.readers]
            for source in {s for core in self.cores.values() for s in core.readers}
        }

    def take(self, packets: Iterable[Packet], send: Callable[[Packet], None]) -> None:
        """Deliver packets from outside and all that follows from them here; `send` gets what must leave the tile.

        Shards fire in the order of the graph, so one round serves all that is ready.
        """
        for packet in packets:
            self._deliver(packet)
        for shard in self.shards:
            for fired in shard.fire():
                if fired.source in self.leaving:
                    send(fired)
                self._deliver(fired)

    def _deliver(self, packet: Packet) -> None:
        for core in self.inside.get(packet.source, ()):
            core.take(packet)

    def write(self, board: Board) -> None:
        """Write the counts of every shard here."""
        for core in self.cores.values():
            for shard in core.shards:
                shard.write(board, self.mapping)


def linked(mapping: Mapping) -> dict[int, tuple[int, ...]]:
    """For each chip, and the host, the other chips (or the host) that it sends packets to."""
    links: dict[int, set[int]] = {chip: set() for chip in (HOST, *mapping.chips)}
    for route in mapping.routes:
        sender = mapping.locations[route.source].chip
        if sender != route.destination.chip:
            links[sender].add(route.destination.chip)
    return {chip: tuple(sorted(others)) for chip, others in links.items()}
