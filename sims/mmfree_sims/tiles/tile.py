"""Tiles fire their stretches on packets: what every engine of many processes is made of.

A stretch fires for a token when what all its sources sent for that token has come.  Packets of one
source come in the order of the tokens, so a stretch sees its tokens in order whatever the timing: a
Kahn network, in which timing cannot change a result.

Say that tokens 0 … 4 of one source have come, in packets of two and three, and tokens 0 … 2 of
another.  Then the stretch fires for tokens 0 … 2 together, and 3 and 4 of the first source wait.

Tokens of several sequences follow each other in the order in which the host has sent them, the same
everywhere.  So a token is also a marker: when every stretch has kept its states right after it, the
states that were kept belong together.
"""

from collections import deque
from collections.abc import Callable, Iterable, Sequence
from itertools import islice

import numpy as np

from mmfree_neuro.graph.nodes import Input
from mmfree_neuro.integers.fixedpoint import Ints
from mmfree_sims.neurons import Int32, Neurons
from mmfree_sims.tiles.packets import FLAGS, SAVE, SLOT, Packet
from mmfree_sims.tiles.plan import Plan, Stretch
from mmfree_sims.tiles.tallies import Ledger, Tallies

TOGETHER = 16
"""How many ready tokens a stretch computes at once at most."""


class _Arrivals:
    """The packets of one source that one stretch has not used yet."""

    def __init__(self) -> None:
        self.packets: deque[Packet] = deque()
        self.used = 0
        """Tokens of the first packet that have been used."""
        self.came = 0
        """Tokens of all packets."""

    def ready(self) -> int:
        """How many tokens have come but not been used.

        Packets of two and three tokens, of which one has been used, are four.
        """
        return self.came - self.used

    def add(self, packet: Packet) -> None:
        """Another packet has come."""
        self.packets.append(packet)
        self.came += len(packet.labels)

    def labels(self, tokens: int) -> Int32:
        """The labels of the next tokens."""
        first = self.packets[0].labels[self.used : self.used + tokens]
        if len(first) == tokens:
            return first
        found = np.concatenate([packet.labels for packet in islice(self.packets, tokens + 1)])
        return found[self.used : self.used + tokens]

    def take(self, tokens: int, ports: Iterable[str]) -> dict[str, Int32]:
        """What the source sent for the next tokens, by port, each [tokens, size]."""
        pieces: dict[str, list[Int32]] = {port: [] for port in ports}
        while tokens:
            packet = self.packets[0]
            size = len(packet.labels)
            stop = min(self.used + tokens, size)
            for port, parts in pieces.items():
                parts.append(packet.sent[port][self.used : stop])
            tokens -= stop - self.used
            self.used = stop
            if stop == size:
                self.packets.popleft()
                self.came -= size
                self.used = 0
        return {
            port: parts[0] if len(parts) == 1 else np.concatenate(parts)
            for port, parts in pieces.items()
        }


class Firing:
    """A stretch at work: its neurons, what it waits for, and its counts."""

    def __init__(self, plan: Plan, stretch: Stretch, tallies: Tallies, kept: Tallies) -> None:
        self.plan, self.stretch, self.tallies, self.kept = plan, stretch, tallies, kept
        self.node = plan.graph.node(stretch.node)
        self.neurons = Neurons(plan.graph, self.node, stretch.start, stretch.stop)
        self.sources = plan.sources[stretch.number]
        self.arrivals = {source.number: _Arrivals() for source in self.sources}
        self.ports = {
            source.number: sorted(
                {e.source_port for e in self.node.inputs if e.source == source.node}
            )
            for source in self.sources
        }
        self.inputs = [(e.source_port, self._pieces(e)) for e in self.node.inputs]
        self.ledger = Ledger(tallies, stretch, self.neurons.program)
        self.expected: dict[int, int] = {}
        """The position of the next token of every sequence that has begun; 0 begins it anew."""

    def _pieces(self, entry: Input) -> list[tuple[int, int, int]]:
        """The stretches whose payloads an input reads: the number and the neurons of each."""
        pieces = self.plan.pieces(entry, self.stretch)
        return [(s.number, first - s.start, last - s.start) for s, first, last in pieces]

    def take(self, packet: Packet) -> None:
        """Take what a source sent."""
        self.arrivals[packet.stretch].add(packet)

    def restore(self, fed: Sequence[int]) -> None:
        """Go on after so many tokens of every sequence from the states that the tallies holds."""
        self.expected = dict(enumerate(fed))
        if self.neurons.program.state is not None:
            self.neurons.program.state[:] = self.tallies.state_of(self.stretch)

    def fire(self) -> list[Packet]:
        """Run the neurons for every token that is ready, as many together as belong together."""
        sent = []
        while tokens := min(TOGETHER, *(arrivals.ready() for arrivals in self.arrivals.values())):
            # Labels come from the host and are the same at all sources.
            labels = next(iter(self.arrivals.values())).labels(tokens)
            listed = labels.tolist()
            # States are kept behind a token that says so, so it is the last of those.
            saving = [n for n, label in enumerate(listed, 1) if label[FLAGS] & SAVE][:1]
            if saving:
                labels, listed = labels[: saving[0]], listed[: saving[0]]
            self._begin(listed)
            arrived = {
                n: arrivals.take(len(labels), self.ports[n])
                for n, arrivals in self.arrivals.items()
            }
            payloads = self.neurons.fire(
                [_joined(pieces, arrived, port) for port, pieces in self.inputs],
                np.array([label[SLOT] for label in listed], np.int32),
            )
            if saving:
                self.ledger.keep(self.kept)
            sent.append(Packet(labels, self.stretch.number, payloads))
        return sent

    def _begin(self, labels: list[list[int]]) -> None:
        """Tokens with these labels come next."""
        for sequence, position, _, _ in labels:
            if position not in (0, self.expected.get(sequence, 0)):
                raise RuntimeError(
                    f"{self.stretch.node}: token {position} of sequence {sequence} came out of "
                    "order"
                )
            if position == 0 and self.plan.graph.slots == 1:
                self.neurons.reset()
            self.expected[sequence] = position + 1
        self.ledger.begin(labels)


def _joined(
    pieces: list[tuple[int, int, int]], arrived: dict[int, dict[str, Int32]], port: str
) -> Int32:
    """The payloads of one input [tokens, span], put together from the stretches that sent them.

    The pieces (1, 0, 1) and (2, 0, 2) are neuron 0 of stretch 1 and then neurons 0, 1 of stretch 2.
    """
    parts = [arrived[number][port][:, first:last] for number, first, last in pieces]
    return np.ascontiguousarray(parts[0] if len(parts) == 1 else np.concatenate(parts, axis=1))


class Tile:
    """The stretches of one tile."""

    def __init__(self, plan: Plan, tiles: Iterable[int], tallies: Tallies, kept: Tallies) -> None:
        """Holds the stretches of `tiles`; counts go to `tallies`, what is to be saved to `kept`.

        The embedding is not among them: it reads tokens, not packets.
        """
        held = set(tiles)
        self.plan = plan
        self.firings = [
            Firing(plan, s, tallies, kept)
            for s in plan.stretches
            if s.tile in held and plan.sources[s.number]
        ]
        self.readers: dict[int, list[Firing]] = {}
        for firing in self.firings:
            for source in firing.sources:
                self.readers.setdefault(source.number, []).append(firing)
        self.wanted = frozenset(self.readers)

    def restore(self, fed: Sequence[int]) -> None:
        """Go on after so many tokens of every sequence from the states that the tallies holds."""
        for firing in self.firings:
            firing.restore(fed)

    def take(self, packets: Iterable[Packet], send: Callable[[Packet], None]) -> None:
        """Deliver packets from outside, and fire all that can fire after them.

        `send` gets what other tiles and the host read.  Stretches fire in the order of the graph
        and read earlier ones alone, so one round serves all that is ready.
        """
        for packet in packets:
            self._deliver(packet)
        for firing in self.firings:
            for packet in firing.fire():
                if self.plan.abroad[packet.stretch] or packet.stretch in self.plan.to_host:
                    send(packet)
                self._deliver(packet)

    def _deliver(self, packet: Packet) -> None:
        for firing in self.readers.get(packet.stretch, ()):
            firing.take(packet)

    def settle(self) -> None:
        """Move everything that was counted to the tallies."""
        for firing in self.firings:
            firing.ledger.settle()

    def totals(self) -> Ints:
        """Non-zero payloads sent and values saturated, up to the last `settle`."""
        return sum((firing.ledger.counted for firing in self.firings), np.zeros(2, np.int64))
