"""The host of a run on many processes: feeds tokens, reads logits, chooses what comes next.

Where a mapping leaves the head to the host, it fires the nodes behind the last block itself, as a
tile does.  It knows nothing of how packets travel: a `Wire` carries them.
"""

import time
from dataclasses import dataclass
from typing import Protocol

import numpy as np
from numpy.typing import NDArray

from mmfree_neuro.integers.fixedpoint import Ints
from mmfree_neuro.mapping.mapping import HOST
from mmfree_neuro.run.job import Job
from mmfree_neuro.run.sampling import choose
from mmfree_sims.neurons import EmbeddingNeurons
from mmfree_sims.tiles.book import Start
from mmfree_sims.tiles.packets import GENERATED, SAVE, Packet
from mmfree_sims.tiles.plan import Plan
from mmfree_sims.tiles.tallies import Tallies
from mmfree_sims.tiles.tile import Tile

TOGETHER = 8
"""How many tokens of a prompt the host sends in one packet."""


class Wire(Protocol):
    """How the host is connected, and whom it tells how far it is."""

    def send(self, packet: Packet) -> None:
        """Send a packet of the embedding to the tiles that read it."""

    def receive(self) -> Packet:
        """The next packet that the host reads: logits, or what the nodes that it holds wait for."""

    def arrived(self, sequence: int, position: int, logits: Ints) -> None:
        """The logits of a token are complete."""

    def chose(self, sequence: int, number: int, token: int) -> None:
        """A token was chosen."""

    def timed(self, seconds: NDArray[np.float64]) -> None:
        """How long prefill and generation have taken so far [2]."""

    def save(self, fed: int) -> None:
        """Every tile has kept its state after `fed` tokens; the next may be kept on return."""


@dataclass
class _Pending:
    logits: Ints  # [vocabulary]
    missing: int
    """Neurons of the head whose logits have not come."""


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
        """At most `in_flight` tokens of a prompt are under way; the host's nodes use the
        tallies."""
        self.graph, self.plan, self.job, self.start = plan.graph, plan, job, start
        self.tallies, self.kept, self.wire, self.in_flight = tallies, kept, wire, in_flight
        self.words = EmbeddingNeurons(plan.graph)
        self.stretch = plan.by_node[plan.graph.embedding.name][0]
        self.tile = Tile(plan, [HOST], tallies, kept)
        self.tile.restore(start.fed)
        self.counted: Ints = np.zeros(2, np.int64)
        self.length, self.phase = int(job.tokens.shape[1]), 0
        self.end = job.fed
        """After how many fed tokens a sequence ends: earlier than asked for where a token ends
        it."""
        self.pending: dict[int, _Pending] = {}
        self.last: Ints = np.zeros(0, np.int64)
        self.seconds = np.zeros(2)
        """Spent in prefill and generating."""
        self.since = time.monotonic()

    def run(self) -> None:
        """Prefill and generate, sequence after sequence."""
        for sequence in range(len(self.job.tokens)):
            chosen: Ints = np.zeros(self.job.new_tokens, np.int64)
            known = min(len(self.start.chosen), len(chosen))
            chosen[:known] = self.start.chosen[:known]
            fed = self.prefill(sequence, self.start.fed, chosen)
            self.generate(sequence, fed, chosen)
        self.settle()
        self.tile.settle()

    def settle(self) -> None:
        """Move what the embedding counted to the tallies."""
        self.counted += self.tallies.add(self.stretch, self.phase, self.words.program)

    def totals(self) -> Ints:
        """Non-zero payloads sent and values saturated by the host's nodes."""
        return self.counted + self.tile.totals()

    def feed(
        self, sequence: int, position: int, tokens: Ints, *, generated: bool, save: bool
    ) -> None:
        """Embed tokens and send them."""
        if self.phase != int(generated):
            self.settle()
            self.phase = int(generated)
        flags = (GENERATED if generated else 0) | (SAVE if save else 0)
        packet = Packet(
            sequence, position, flags, self.stretch.number, len(tokens), self.words.fire(tokens)
        )
        if save:
            self.settle()
            self.tallies.copy_to(self.kept, self.stretch, self.words.program.events)
        self.wire.send(packet)
        self.tile.take([packet], self.note)

    def due(self, fed: int) -> bool:
        """Whether the state is kept after `fed` tokens."""
        return self.start.every > 0 and fed % self.start.every == 0 and fed < self.end

    def prefill(self, sequence: int, fed: int, chosen: Ints) -> int:
        """Send a prompt from token `fed` on; returns how many tokens have been fed then.

        The logits of `fed` tokens have come, and `sent` tokens have been sent.  So `sent` - `fed`
        tokens are under way.
        """
        prompt = self.job.tokens[sequence]
        sent = fed
        self.since = time.monotonic()
        holding = False  # a state that is kept has to be taken before the next is
        while fed < self.length:
            while (
                sent < self.length
                and sent - fed < self.in_flight
                and not (holding and self.due(sent + 1))
            ):
                stop = self._stop(sent)
                if sent > fed and stop - fed > self.in_flight:
                    # Rather wait than cut a packet short: tokens that travel together cost less.
                    # If 12 may be under way and 8 are, the next 8 leave when 4 have come out.
                    break
                stop = min(stop, fed + self.in_flight)
                save = self.due(stop) and stop == sent + 1
                self.feed(sequence, sent, prompt[sent:stop], generated=False, save=save)
                holding = holding or save
                sent = stop
            self.read(sequence, fed)
            fed += 1
            self.choose_after(sequence, fed, chosen)
            if self.due(fed):
                self.save(0, fed)
                holding = False
        self.tell(0)
        return fed

    def _stop(self, sent: int) -> int:
        """Where the next packet of a prompt ends: a token whose state is kept travels alone.

        A prompt of 21 tokens whose state is kept every 10 tokens goes as tokens 0 … 7, 8, 9 (kept),
        10 … 17, 18, 19 (kept), 20.
        """
        if self.due(sent + 1):
            return sent + 1
        stop = min(sent + TOGETHER, self.length)
        if self.start.every:
            stop = min(stop, (sent // self.start.every + 1) * self.start.every - 1)
        return max(stop, sent + 1)

    def tell(self, phase: int) -> None:
        """Add the time since it was last told to a phase."""
        now = time.monotonic()
        self.seconds[phase] += now - self.since
        self.since = now
        self.wire.timed(self.seconds)

    def save(self, phase: int, fed: int) -> None:
        """Have the state after `fed` tokens written."""
        self.tell(phase)
        self.wire.save(fed)

    def choose_after(self, sequence: int, fed: int, chosen: Ints) -> None:
        """Choose the token that follows `fed` tokens, where one is to be chosen."""
        number = fed - self.length  # 0 behind the prompt: its last logits choose the first token
        if 0 <= number < self.job.new_tokens:
            chosen[number] = choose(self.last, self.graph.logit_scale, self.job.sampling, fed)
            self.wire.chose(sequence, number, int(chosen[number]))
            if chosen[number] in self.job.stop:
                self.end = fed

    def generate(self, sequence: int, fed: int, chosen: Ints) -> None:
        """Feed the chosen tokens one by one, each when the last has come out."""
        while fed < self.end:
            token = chosen[fed - self.length : fed - self.length + 1]
            self.feed(sequence, fed, token, generated=True, save=self.due(fed + 1))
            self.read(sequence, fed)
            fed += 1
            self.choose_after(sequence, fed, chosen)
            if self.due(fed):
                self.save(1, fed)
        self.tell(1)

    def read(self, sequence: int, position: int) -> None:
        """Wait for the logits of the token at `position`, the next in order."""
        # Where several stretches compute the head, a packet holds a part of a token's logits, and
        # a part of the next token's may come before the rest.
        while position not in self.pending or self.pending[position].missing:
            packet = self.wire.receive()
            if packet.stretch in self.plan.logits:
                self.note(packet)
            else:
                self.tile.take([packet], self.note)
        self.last = self.pending.pop(position).logits
        self.wire.arrived(sequence, position, self.last)

    def note(self, packet: Packet) -> None:
        """Take logits, from wherever the head is."""
        stretch, logits = self.plan.stretches[packet.stretch], packet.sent["logits"]
        for number in range(packet.tokens):
            position = packet.token + number
            if position not in self.pending:
                self.pending[position] = _Pending(
                    np.zeros(self.graph.vocabulary, np.int64), self.graph.vocabulary
                )
            pending = self.pending[position]
            pending.logits[stretch.start : stretch.stop] = logits[number]
            pending.missing -= stretch.size
