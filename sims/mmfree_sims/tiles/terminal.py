"""The host's end of the chips: embeds tokens, sends them, and gathers what comes of each.

Where a mapping leaves the head to the host, the nodes behind the last block fire here, as in a
tile.  How packets travel is another's matter: a `Wire` carries them.
"""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Protocol

import numpy as np

from mmfree_neuro.integers.fixedpoint import Ints
from mmfree_neuro.mapping.mapping import HOST
from mmfree_sims.neurons import EmbeddingNeurons, Int32
from mmfree_sims.tiles.packets import POSITION, SEQUENCE, Packet
from mmfree_sims.tiles.plan import Plan
from mmfree_sims.tiles.tallies import Ledger, Tallies
from mmfree_sims.tiles.tile import Tile

TOGETHER = 8
"""How many tokens the host sends in one packet."""


class Wire(Protocol):
    """How the host is connected."""

    def send(self, packet: Packet) -> None:
        """Send a packet of the embedding to the tiles that read it."""

    def receive(self) -> Packet:
        """The next packet that the host reads: logits, words, or what its nodes wait for."""


@dataclass
class _Pending:
    sent: Ints  # [vocabulary], or [1]
    missing: int
    """How many of them have not come."""


class Terminal:
    """Tokens go in, and their logits, or the words that chips choose, come out."""

    def __init__(
        self, plan: Plan, tallies: Tallies, kept: Tallies, wire: Wire, fed: Sequence[int] = ()
    ) -> None:
        """Counts and states of the host's neurons lie in the tallies; so many tokens of every
        sequence have been fed before."""
        self.graph, self.plan, self.kept, self.wire = plan.graph, plan, kept, wire
        self.words = EmbeddingNeurons(plan.graph)
        self.stretch = plan.by_node[plan.graph.embedding.name][0]
        self.ledger = Ledger(tallies, self.stretch, self.words.program)
        self.tile = Tile(plan, [HOST], tallies, kept)
        self.tile.restore(fed)
        self.pending: dict[tuple[int, int], _Pending] = {}
        """What has come so far, by sequence and position."""

    def send(self, labels: Int32, tokens: Ints, marks: Ints, *, saves: bool = False) -> None:
        """Embed tokens and send them in one packet; `saves` says that states are kept behind it."""
        self.ledger.begin(labels.tolist())
        packet = Packet(labels, self.stretch.number, self.words.fire(tokens, marks))
        if saves:
            self.ledger.keep(self.kept)
        self.wire.send(packet)
        self.tile.take([packet], self._note)

    def complete(self, sequence: int, position: int) -> bool:
        """Whether all that the host gets of a token has come."""
        found = self.pending.get((sequence, position))
        return found is not None and not found.missing

    def wait_for(self, sequence: int, position: int) -> None:
        """Receive until all that the host gets of a token has come."""
        # Where several stretches compute the head, a packet holds a part of a token's logits, and
        # a part of the next token's may come before the rest.
        while not self.complete(sequence, position):
            packet = self.wire.receive()
            if packet.stretch in self.plan.to_host:
                self._note(packet)
            else:
                self.tile.take([packet], self._note)

    def take(self, sequence: int, position: int) -> Ints:
        """What came of a token that is complete: its logits [vocabulary], or its word [1]."""
        return self.pending.pop((sequence, position)).sent

    def settle(self) -> None:
        """Move everything that was counted to the tallies."""
        self.ledger.settle()
        self.tile.settle()

    def totals(self) -> Ints:
        """Non-zero payloads sent and values saturated by the host's nodes, up to the last
        `settle`."""
        return self.ledger.counted + self.tile.totals()

    def _note(self, packet: Packet) -> None:
        """Take logits, from wherever the head is, or what the last node chose."""
        stretch, output = self.plan.stretches[packet.stretch], self.graph.to_host[1]
        for label, row in zip(packet.labels.tolist(), packet.sent[output.port], strict=True):
            key, size = (label[SEQUENCE], label[POSITION]), output.size
            if key not in self.pending:
                self.pending[key] = _Pending(np.zeros(size, np.int64), size)
            pending = self.pending[key]
            pending.sent[stretch.start : stretch.stop] = row
            pending.missing -= stretch.size
