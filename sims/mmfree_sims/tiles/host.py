"""The host of a run on many processes: feeds tokens, reads logits and chooses what comes
next, or reads what a greedy graph has chosen.

Several sequences may be under way at once: a token of each that generates, and as many of prompts
as have room.
"""

import time
from collections import deque
from collections.abc import Sequence
from typing import NamedTuple, Protocol

import numpy as np
from numpy.typing import NDArray

from mmfree_neuro.integers.fixedpoint import Ints
from mmfree_neuro.run.job import Job
from mmfree_neuro.run.sequences import Seats, Walk
from mmfree_sims.tiles.book import Start
from mmfree_sims.tiles.packets import FLAGS, GENERATED, LABEL, POSITION, SAVE, SEQUENCE, SLOT
from mmfree_sims.tiles.plan import Plan
from mmfree_sims.tiles.tallies import Tallies
from mmfree_sims.tiles.terminal import TOGETHER, Terminal, Wire


class JobWire(Wire, Protocol):
    """How the host is connected, and whom it tells how far it is."""

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
        wire: JobWire,
        in_flight: int,
    ) -> None:
        """At most `in_flight` tokens are under way, or one of each sequence where that is more; the
        host's nodes use the tallies."""
        self.graph, self.every, self.wire = plan.graph, start.every, wire
        self.most = max(in_flight, job.in_flight)
        self.terminal = Terminal(plan, tallies, kept, wire, start.fed)
        self.seats = Seats(job, start.stands)
        self.under_way: deque[_UnderWay] = deque()
        """Tokens in the order in which they were sent, which is that in which they come out."""
        self.holding = False
        """Whether states are kept that have not been taken."""
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
        self.terminal.settle()

    def totals(self) -> Ints:
        """Non-zero payloads sent and values saturated by the host's nodes."""
        return self.terminal.totals()

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
        self.terminal.send(label, np.concatenate(tokens), np.concatenate(marks), saves=saves)

    def read(self) -> None:
        """Wait for what comes of the next token, and take that of all that have come in order."""
        first = self.under_way[0].walk
        self.terminal.wait_for(first.number, first.fed)
        while self.under_way and self._complete(self.under_way[0].walk):
            self._take(self.under_way.popleft())
        self.wire.timed(self.seconds)

    def _complete(self, walk: Walk) -> bool:
        """Whether all that the host gets of the next token of a sequence has come."""
        return self.terminal.complete(walk.number, walk.fed)

    def _take(self, token: _UnderWay) -> None:
        """Take what came of a token, choose the one that follows where one is to be chosen, and
        have states written that were kept behind it."""
        walk, position = token.walk, token.walk.fed
        sent = self.terminal.take(walk.number, position)
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
