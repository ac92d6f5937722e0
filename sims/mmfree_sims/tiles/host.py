"""The host of a run on many processes: feeds tokens, reads logits and chooses what comes
next, or reads what a greedy graph has chosen.

Several sequences may be under way at once: a token of each that generates, and as many of prompts
as have room.  Where a mapping leaves the head to the host, it fires the nodes behind the last block
itself, as a tile does.  It knows nothing of how packets travel: a `Wire` carries them.
"""

import time
from collections import deque
from collections.abc import Sequence
from dataclasses import dataclass
from typing import NamedTuple, Protocol

import numpy as np
from numpy.typing import NDArray

from mmfree_neuro.integers.fixedpoint import Ints
from mmfree_neuro.mapping.mapping import HOST
from mmfree_neuro.run.job import Job
from mmfree_neuro.run.sequences import Seats, Walk
from mmfree_sims.neurons import EmbeddingNeurons
from mmfree_sims.tiles.book import Start
from mmfree_sims.tiles.packets import (
    FLAGS,
    GENERATED,
    LABEL,
    POSITION,
    SAVE,
    SEQUENCE,
    SLOT,
    Packet,
)
from mmfree_sims.tiles.plan import Plan
from mmfree_sims.tiles.tallies import Ledger, Tallies
from mmfree_sims.tiles.tile import Tile

TOGETHER = 8
"""How many tokens the host sends in one packet."""


class Wire(Protocol):
    """How the host is connected, and whom it tells how far it is."""

    def send(self, packet: Packet) -> None:
        """Send a packet of the embedding to the tiles that read it."""

    def receive(self) -> Packet:
        """The next packet that the host reads: logits, words, or what its nodes wait for."""

    def arrived(self, sequence: int, position: int, sent: Ints) -> None:
        """What the host gets of a token is complete: its logits, or its word."""

    def chose(self, sequence: int, number: int, token: int) -> None:
        """A token was chosen."""

    def timed(self, seconds: NDArray[np.float64]) -> None:
        """How long prefill and generation have taken so far [2]."""

    def save(self, stands: Ints) -> None:
        """Every tile has kept its states where the sequences stand so, [sequences, 3] as `stands`
        gives them; the next may be kept on return."""


def stands(walks: Sequence[Walk]) -> Ints:
    """The slot of every sequence, how many of its tokens have been fed and how many chosen."""
    rows = [[walk.standing, walk.fed, len(walk.chosen)] for walk in walks]
    return np.array(rows, np.int64)


@dataclass
class _Pending:
    sent: Ints  # [vocabulary], or [1]
    missing: int
    """How many of them have not come."""


class _UnderWay(NamedTuple):
    walk: Walk
    generated: bool
    saves: bool
    """Whether states are kept behind it."""


class Host:
    """Runs one job over a wire."""

    def __init__(
        self,
        plan: Plan,
        job: Job,
        start: Start,
        tallies: Tallies,
        kept: Tallies,
        wire: Wire,
        in_flight: int,
    ) -> None:
        """At most `in_flight` tokens are under way, or one of each sequence where that is more; the
        host's nodes use the tallies."""
        self.graph, self.plan, self.every = plan.graph, plan, start.every
        self.tallies, self.kept, self.wire = tallies, kept, wire
        self.most = max(in_flight, job.in_flight)
        self.words = EmbeddingNeurons(plan.graph)
        self.stretch = plan.by_node[plan.graph.embedding.name][0]
        self.ledger = Ledger(tallies, self.stretch, self.words.program)
        self.tile = Tile(plan, [HOST], tallies, kept)
        self.tile.restore(start.fed)
        self.seats = Seats(job, start.stands)
        self.under_way: deque[_UnderWay] = deque()
        """Tokens in the order in which they were sent, which is that in which they come out."""
        self.holding = False
        """Whether states are kept that have not been taken."""
        self.pending: dict[tuple[int, int], _Pending] = {}
        self.seconds = np.zeros(2)
        """Spent in prefill and generating."""
        self.since = time.monotonic()

    def run(self) -> None:
        """Prefill and generate until all sequences have ended."""
        self.seats.seat()
        self.since = time.monotonic()
        while self.seats.seated:
            self.send_ready()
            self.read()
            self.seats.seat()
        self.ledger.settle()
        self.tile.settle()

    def totals(self) -> Ints:
        """Non-zero payloads sent and values saturated by the host's nodes."""
        return self.ledger.counted + self.tile.totals()

    def send_ready(self) -> None:
        """Send what can be sent now, in packets of `TOGETHER` tokens."""
        while tokens := self._next():
            self._send(tokens)

    def _next(self) -> int:
        """How many tokens the next packet takes; 0 where it has to wait.

        Tokens that travel together cost less, so rather wait than cut a packet short: if 12 may be
        under way and 8 are, the next 8 leave when 4 have come out.
        """
        tokens, room = min(TOGETHER, self.seats.ready), self.most - len(self.under_way)
        if tokens > room:
            if self.under_way:
                return 0
            tokens = room
        if self.every:
            # A packet ends with the token behind which states are kept, unless some are kept still.
            left = self.every - self.seats.sent % self.every
            tokens = min(tokens, left - self.holding)
        return tokens

    def _send(self, count: int) -> None:
        """Embed the next tokens and send them."""
        saves = self.every > 0 and (self.seats.sent + count) % self.every == 0
        tokens, marks, labels = [], [], []
        for walk, some in self.seats.gathered(count):
            generated, first = not walk.prompting, walk.sent
            taken = walk.take(some)
            tokens.append(taken[0])
            marks.append(taken[1])
            label = np.empty((some, LABEL), np.int32)
            label[:, SEQUENCE], label[:, FLAGS] = walk.number, GENERATED * generated
            label[:, POSITION], label[:, SLOT] = np.arange(first, first + some), walk.slot
            labels.append(label)
            self.under_way += [_UnderWay(walk, generated, False)] * some
        label = np.concatenate(labels)
        if saves:
            label[-1, FLAGS] |= SAVE
            self.under_way[-1] = self.under_way[-1]._replace(saves=True)
            self.holding = True
        self.ledger.begin(label.tolist())
        sent = self.words.fire(np.concatenate(tokens), np.concatenate(marks))
        packet = Packet(label, self.stretch.number, sent)
        if saves:
            self.ledger.keep(self.kept)
        self.wire.send(packet)
        self.tile.take([packet], self.note)

    def read(self) -> None:
        """Wait for what comes of the next token, and take that of all that have come in order."""
        # Where several stretches compute the head, a packet holds a part of a token's logits, and
        # a part of the next token's may come before the rest.
        while not self._complete():
            packet = self.wire.receive()
            if packet.stretch in self.plan.to_host:
                self.note(packet)
            else:
                self.tile.take([packet], self.note)
        while self.under_way and self._complete():
            self._take(self.under_way.popleft())
        self.wire.timed(self.seconds)

    def _complete(self) -> bool:
        """Whether all that the host gets of the next token has come."""
        walk = self.under_way[0].walk
        found = self.pending.get((walk.number, walk.fed))
        return found is not None and not found.missing

    def _take(self, token: _UnderWay) -> None:
        """Take what came of a token, choose the one that follows where one is to be chosen, and
        have states written that were kept behind it."""
        walk, position = token.walk, token.walk.fed
        sent = self.pending.pop((walk.number, position)).sent
        self.wire.arrived(walk.number, position, sent)
        chosen = walk.arrived(sent, self.graph)
        now = time.monotonic()
        self.seconds[int(token.generated)] += now - self.since
        self.since = now
        if chosen is not None:
            self.wire.chose(walk.number, len(walk.chosen) - 1, chosen)
        if token.saves:
            self.holding = False
            if not self.seats.ended:
                self.wire.timed(self.seconds)
                self.wire.save(stands(self.seats.walks))

    def note(self, packet: Packet) -> None:
        """Take logits, from wherever the head is, or what the last node chose."""
        stretch, output = self.plan.stretches[packet.stretch], self.graph.to_host[1]
        for label, row in zip(packet.labels.tolist(), packet.sent[output.port], strict=True):
            key, size = (label[SEQUENCE], label[POSITION]), output.size
            if key not in self.pending:
                self.pending[key] = _Pending(np.zeros(size, np.int64), size)
            pending = self.pending[key]
            pending.sent[stretch.start : stretch.stop] = row
            pending.missing -= stretch.size
