"""Drives an engine that lives in this process through a job: prompts in chunks, then token by
token, those of all sequences that are under way together."""

import time
from typing import Protocol

import numpy as np
from numpy.typing import NDArray

from mmfree_neuro.graph.nodes import mark
from mmfree_neuro.integers.fixedpoint import Ints
from mmfree_neuro.run.activity import Activity
from mmfree_neuro.run.job import (
    PHASES,
    Job,
    Model,
    Outcome,
    Progress,
    Result,
    RunState,
    Saving,
    Stand,
    check,
    check_saving,
)
from mmfree_neuro.run.sequences import Seats, Walk


class Session(Protocol):
    """An engine that lives in this process: it is fed tokens, and keeps a state for the sequence in
    each slot."""

    def reset(self) -> None:
        """Back to zero states; the counts go on."""

    def feed(self, tokens: Ints, marks: Ints | None = None) -> NDArray[np.int32] | Ints:
        """The logits [n, vocabulary] after each of n tokens; of a model that chooses words itself
        the words plus 1 [n, 1].

        `marks` [n] say whose they are (`nodes.mark`); unless told, all are of the sequence in slot
        0, which goes on.  Tokens of one sequence stand in their order.
        """

    def take_activity(self, slot: int = 0) -> Activity:
        """The counts of tokens in a slot since they were last taken."""

    def states(self) -> dict[str, Ints]:
        """The states [slots, neurons] of every recurrent node."""

    def restore(self, states: dict[str, Ints]) -> None:
        """Go on from such states."""


def marked(tokens: Ints, marks: Ints | None) -> Ints:
    """The marks of tokens; those of a sequence that goes on in slot 0 unless told."""
    if marks is None:
        return mark(np.zeros(len(tokens), np.int64), np.zeros(len(tokens), np.bool_))
    return marks


def drive(
    model: Model,
    session: Session,
    job: Job,
    chunk: int,
    progress: Progress,
    start_seconds: float,
    saving: Saving | None = None,
) -> Result:
    """Run a job on a session, at most `chunk` tokens at a time."""
    check(model, job)
    check_saving(job, saving)
    return _Drive(model, session, job, chunk, progress, saving, start_seconds).run()


class _Drive:
    """A job on its way through a session."""

    def __init__(
        self,
        model: Model,
        session: Session,
        job: Job,
        chunk: int,
        progress: Progress,
        saving: Saving | None,
        start_seconds: float,
    ) -> None:
        self.model, self.session, self.job = model, session, job
        self.chunk, self.progress = chunk, progress
        self.saving = saving or Saving(0, lambda _: None)
        self.seats = Seats(job, self.saving.stands)
        self.seconds = {"start": start_seconds, **dict.fromkeys(PHASES, 0.0)}
        self.prompted = sum(min(one.fed, one.length) for one in self.seats.walks)
        """Tokens of prompts that were fed."""
        self.chosen = sum(len(one.chosen) for one in self.seats.walks)
        nothing = session.take_activity()
        self.counted = [[nothing, nothing] for _ in job.sequences]
        kept: Ints = np.zeros((job.kept_from[-1], model.vocabulary), np.int64)
        self.logits = np.split(kept, job.kept_from[1:-1])
        if self.saving.resumed is not None:
            self.resume(self.saving.resumed)

    def resume(self, state: RunState) -> None:
        """Go on from a state."""
        self.session.restore(state.states)
        self.counted = [[stand.prefill, stand.generate] for stand in state.stands]
        self.seconds |= {name: state.seconds[name] for name in PHASES}

    def run(self) -> Result:
        """Feed all sequences until they have ended."""
        self.seats.seat()
        while self.seats.seated:
            begin, share = time.monotonic(), self.feed()
            saves = self.saving.due(self.seats.fed) and not self.seats.ended
            for walk in self.seats.seated:
                if saves or walk.ended or walk.fed == walk.length:
                    self.count(walk)
            took = time.monotonic() - begin
            self.seconds["prefill"] += took * share
            self.seconds["generate"] += took * (1 - share)
            self.seats.seat()
            if saves:
                self.saving.write(self.state())
        outcomes = (
            Outcome(logits[: walk.fed], np.array(walk.chosen, np.int64), *counted)
            for walk, logits, counted in zip(
                self.seats.walks, self.logits, self.counted, strict=True
            )
        )
        return Result(tuple(outcomes), self.seconds)

    def feed(self) -> float:
        """Feed the next tokens, and choose what follows them; the share of prompts among them."""
        most = min(self.chunk, self.saving.until(self.seats.fed) or self.chunk)
        gathered = self.seats.gathered(most)
        prompting = [walk.prompting for walk, _ in gathered]
        taken = [walk.take(tokens) for walk, tokens in gathered]
        tokens, marks = (np.concatenate(parts) for parts in zip(*taken, strict=True))
        found, at = self.session.feed(tokens, marks), 0
        for walk, count in gathered:
            sent = found[at : at + count]
            at += count
            kept = self.logits[walk.number][walk.fed : walk.fed + count]
            kept[:] = sent[: len(kept)]
            self.take(walk, sent)
        return sum(count for (_, count), one in zip(gathered, prompting, strict=True) if one) / at

    def take(self, walk: Walk, sent: NDArray[np.int32] | Ints) -> None:
        """Take what came of a sequence's next tokens, and tell."""
        if walk.fed < walk.length:
            self.prompted += len(sent)
            self.progress("prefill", self.prompted, self.job.prompted, ())
        for row in sent:
            chosen = walk.arrived(row, self.model)
            if chosen is not None:
                self.chosen += 1
                self.progress("generate", self.chosen, self.job.to_choose, (chosen,))

    def count(self, walk: Walk) -> None:
        """Add what the session counted of a sequence to the counts of the phase that it is in."""
        counted = self.counted[walk.number]
        counted[walk.fed > walk.length] += self.session.take_activity(walk.slot)

    def state(self) -> RunState:
        """Where all sequences are."""
        stands = (
            Stand(walk.standing, walk.fed, np.array(walk.chosen, np.int64), *counted)
            for walk, counted in zip(self.seats.walks, self.counted, strict=True)
        )
        return RunState(tuple(stands), self.session.states(), dict(self.seconds))
