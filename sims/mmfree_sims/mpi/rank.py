"""One rank at work: its tile, and the packets that it sends and takes."""

import time
from collections import deque
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np

from mmfree_neuro.graph.nodes import Graph
from mmfree_neuro.integers.fixedpoint import Ints
from mmfree_neuro.mapping.mapping import HOST, Location, Mapping
from mmfree_sims.mpi.ranks import MPI, meet, rest, wait_for, world
from mmfree_sims.neurons import Int32
from mmfree_sims.tiles import tallies
from mmfree_sims.tiles.packets import END, Packet, Reassembly, control, encode
from mmfree_sims.tiles.plan import Plan
from mmfree_sims.tiles.tallies import Tallies
from mmfree_sims.tiles.tile import Tile

PACKET, COLLECT = 1, 2
"""Tags: a packet, or END; and the wish of rank 0 to have the states that were kept."""
MOST_VALUES = 1 << 28
"""The largest payload of one message."""


@dataclass
class RankTraffic:
    """What one rank did besides computing."""

    messages: int = 0
    """Sent to other ranks."""
    values: int = 0
    """Payloads in them, of 32 bits."""
    waiting: float = 0.0
    """Seconds without anything to do."""
    sending: float = 0.0
    """Seconds in calls that send."""
    receiving: float = 0.0
    """Seconds in calls that receive a message that has come."""


class Rank:
    """One rank: its tile, its messages and its counts."""

    def __init__(
        self, graph: Graph, mapping: Mapping, ranks_of_chips: Sequence[int], sequences: int
    ) -> None:
        self.comm = world()
        self.number = self.comm.Get_rank()
        self.ranks = self.comm.Get_size()
        rank_of = dict(zip(mapping.chips, ranks_of_chips, strict=True))

        def tile_of(place: Location) -> int:
            return HOST if place.chip == HOST else rank_of[place.chip]

        self.plan = Plan(graph, mapping, tile_of)
        self.sequences = sequences
        self.tallies = tallies.allocate(graph, sequences)
        self.kept = tallies.allocate(graph, sequences)
        self.tile = Tile(self.plan, [self.number], self.tallies, self.kept)
        self.for_host = self.plan.read_by(HOST) if self.number == 0 else frozenset()
        self.packets = Reassembly(self.plan, self.tile.wanted | self.for_host)
        self.outgoing: deque[tuple[Any, Int32]] = deque()
        self.local: deque[Packet] = deque()
        """Packets for the host, on rank 0."""
        self.traffic = RankTraffic()
        self.ended = False

    def send(self, packet: Packet) -> None:
        """Send a packet to every other rank that reads it, and to the host where that is here."""
        if packet.stretch in self.for_host:
            self.local.append(packet)
        readers = {max(reader, 0) for reader in self.plan.abroad[packet.stretch]}
        for reader in sorted(readers - {self.number}):
            self.send_to(packet, reader)

    def send_to(self, packet: Packet, rank: int) -> None:
        """Send a packet to one other rank, in as many messages as it takes."""
        for vector in encode(packet, MOST_VALUES):
            self.post(vector, rank)

    def post(self, vector: Int32, rank: int) -> None:
        """Begin to send a vector; it is kept until it has gone."""
        begin = time.perf_counter()
        request = self.comm.Isend([vector, MPI.INT32_T], dest=rank, tag=PACKET)
        self.outgoing.append((request, vector))
        while self.outgoing and self.outgoing[0][0].Test():
            self.outgoing.popleft()
        self.traffic.messages += 1
        self.traffic.values += len(vector)
        self.traffic.sending += time.perf_counter() - begin

    def arrived(self) -> list[Packet]:
        """Every packet that has come; notes the end of the stream, and answers the wish for kept
        states."""
        packets = []
        status = MPI.Status()
        while not self.ended and self.comm.Iprobe(
            source=MPI.ANY_SOURCE, tag=MPI.ANY_TAG, status=status
        ):
            if status.Get_tag() == COLLECT:
                self.comm.Recv(
                    [np.empty(0, np.int32), MPI.INT32_T], source=status.Get_source(), tag=COLLECT
                )
                self.collect(self.kept)
                continue
            begin = time.perf_counter()
            vector = np.empty(status.Get_count(MPI.INT32_T), np.int32)
            self.comm.Recv([vector, MPI.INT32_T], source=status.Get_source(), tag=PACKET)
            self.traffic.receiving += time.perf_counter() - begin
            self.ended = bool(vector[0] & END)
            packet = None if self.ended else self.packets.take(vector)
            if packet is not None:
                packets.append(packet)
        return packets

    def wait(self) -> list[Packet]:
        """Packets that have come, at least one, unless the stream has ended."""
        packets = self.arrived()
        if not packets and not self.ended:
            begin = time.perf_counter()
            while not packets and not self.ended:
                rest(begin)
                packets = self.arrived()
            self.traffic.waiting += time.perf_counter() - begin
        return packets

    def serve(self) -> None:
        """Run the tile until rank 0 ends the stream."""
        while not self.ended:
            self.tile.take(self.wait(), self.send)
        self.tile.settle()
        self.flush()

    def flush(self) -> None:
        """Wait until everything has been sent."""
        while self.outgoing:
            wait_for(self.outgoing.popleft()[0])

    def end_stream(self) -> None:
        """On rank 0, have all ranks finish, this one included."""
        for rank in range(1, self.ranks):
            self.post(control(END), rank)
        self.tile.settle()
        self.flush()

    def restore(self, fed: Sequence[int], states: dict[str, Ints] | None) -> None:
        """Go on after so many tokens of every sequence from the states of all neurons, if there are
        any.

        The states of other ranks' neurons are left at zero, since those of all ranks are summed.
        """
        if states is not None:
            self.tallies.load_states(states)
        self.tile.restore(fed)
        mine = {firing.stretch.number for firing in self.tile.firings}
        for stretch in self.plan.stretches:
            if stretch.node in self.tallies.offsets and stretch.number not in mine:
                self.tallies.state_of(stretch)[:] = 0

    def collect_kept(self) -> Tallies:
        """On rank 0, the counts and states that all ranks have kept; the others answer when they
        next look for packets."""
        for rank in range(1, self.ranks):
            self.comm.Send([np.empty(0, np.int32), MPI.INT32_T], dest=rank, tag=COLLECT)
        return self.collect(self.kept)

    def collect(self, ours: Tallies) -> Tallies:
        """On rank 0, what all ranks have on such a tallies: every neuron's counts and state are on
        one rank alone."""
        meet()
        whole = tallies.allocate(self.plan.graph, self.sequences) if self.number == 0 else ours
        for name in ("events", "saturated", "wrapped", "states"):
            self.comm.Reduce(
                getattr(ours, name),
                getattr(whole, name) if self.number == 0 else None,
                op=MPI.SUM,
                root=0,
            )
        return whole
