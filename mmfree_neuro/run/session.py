"""Drives an engine that lives in this process through a job: prefill in chunks, then one token
at a time."""

import time
from typing import Protocol

import numpy as np
from numpy.typing import NDArray

from mmfree_neuro.integers.fixedpoint import Ints
from mmfree_neuro.run.activity import Activity
from mmfree_neuro.run.job import Job, Model, Progress, Result, RunState, Saving, check, check_saving
from mmfree_neuro.run.sampling import choose


class Session(Protocol):
    """An engine that lives in this process: it is fed tokens and keeps the state of one
    sequence."""

    def reset(self) -> None:
        """Back to a zero state; the counts go on."""

    def feed(self, tokens: Ints) -> NDArray[np.int32] | Ints:
        """The logits [n, vocabulary] after each of n tokens."""

    def take_activity(self) -> Activity:
        """The counts since they were last taken."""

    def states(self) -> dict[str, Ints]:
        """The state of every recurrent neuron, by node."""

    def restore(self, states: dict[str, Ints]) -> None:
        """Go on from such a state."""


def drive(
    model: Model,
    session: Session,
    job: Job,
    chunk: int,
    progress: Progress,
    start_seconds: float,
    saving: Saving | None = None,
) -> Result:
    """Run a job on a session: prefill `chunk` tokens at a time, then generate one by one."""
    check(model, job)
    check_saving(job, saving)
    rows, nothing_yet = job.tokens.shape[0], session.take_activity()
    logits = np.zeros((rows, job.fed if job.keep_logits else 0, model.vocabulary), np.int64)
    walk = _Walk(
        model, session, job, chunk, progress, saving, nothing_yet, {"start": start_seconds}
    )
    chosen = np.stack([walk.sequence(row, logits[row]) for row in range(rows)])
    logits = logits[:, : job.fed_for(chosen.shape[1])]
    return Result(logits, chosen, walk.prefill, walk.generate, walk.seconds)


class _Walk:
    """A job on its way through a session."""

    def __init__(
        self,
        model: Model,
        session: Session,
        job: Job,
        chunk: int,
        progress: Progress,
        saving: Saving | None,
        nothing_yet: Activity,
        seconds: dict[str, float],
    ) -> None:
        self.model, self.session, self.job, self.chunk, self.progress = (
            model,
            session,
            job,
            chunk,
            progress,
        )
        self.saving, self.prefill, self.generate = saving, nothing_yet, nothing_yet
        self.seconds = {"prefill": 0.0, "generate": 0.0} | seconds
        self.length, self.last = int(job.tokens.shape[1]), np.zeros(0, np.int64)

    def sequence(self, row: int, logits: Ints) -> Ints:
        """Feed one row and continue it; `logits` takes what it has room for."""
        self.session.reset()
        chosen: Ints = np.zeros(self.job.new_tokens, np.int64)
        fed, known, end = 0, 0, self.job.fed
        if self.saving is not None and self.saving.resumed is not None:
            fed, known = self.resume(self.saving.resumed, chosen)
        while fed < end:
            begin, phase = time.monotonic(), "prefill" if fed < self.length else "generate"
            fed = self.feed(row, fed, chosen, logits)
            if known == fed - self.length < self.job.new_tokens:
                chosen[known] = choose(self.last, self.model.logit_scale, self.job.sampling, fed)
                known += 1
                self.progress(
                    "generate",
                    row * self.job.new_tokens + known,
                    len(self.job.tokens) * self.job.new_tokens,
                    chosen[known - 1 : known].tolist(),
                )
                if chosen[known - 1] in self.job.stop:
                    end = fed
            self.seconds[phase] += time.monotonic() - begin
            save = self.saving is not None and self.saving.due(fed, end)
            if save or fed in (self.length, end):
                self.count(phase)
            if save:
                self.save(self.saving, fed, chosen[:known])
        return chosen[:known]

    def feed(self, row: int, fed: int, chosen: Ints, logits: Ints) -> int:
        """Feed the next tokens, all of one phase; how many have been fed then."""
        prompting = fed < self.length
        stop = min(fed + self.chunk, self.length) if prompting else fed + 1
        if self.saving is not None and self.saving.every:
            stop = min(stop, (fed // self.saving.every + 1) * self.saving.every)
        tokens = (
            self.job.tokens[row, fed:stop]
            if prompting
            else chosen[fed - self.length : stop - self.length]
        )
        found = self.session.feed(tokens)
        logits[fed:stop] = found[: len(logits[fed:stop])]
        self.last = found[-1].astype(np.int64)
        if prompting:
            self.progress(
                "prefill", row * self.length + stop, len(self.job.tokens) * self.length, ()
            )
        return stop

    def count(self, phase: str) -> None:
        """Add what the session counted to the counts of a phase."""
        if phase == "prefill":
            self.prefill += self.session.take_activity()
        else:
            self.generate += self.session.take_activity()

    def save(self, saving: Saving | None, fed: int, chosen: Ints) -> None:
        """Hand out the state after `fed` tokens."""
        assert saving is not None
        state = RunState(
            fed,
            chosen.copy(),
            self.session.states(),
            self.prefill,
            self.generate,
            dict(self.seconds),
        )
        saving.write(state)

    def resume(self, state: RunState, chosen: Ints) -> tuple[int, int]:
        """Go on from a state; how many tokens were fed and how many chosen."""
        self.session.restore(state.states)
        known = min(len(state.chosen), len(chosen))
        chosen[:known] = state.chosen[:known]
        self.prefill, self.generate = state.prefill, state.generate
        self.seconds |= {name: state.seconds[name] for name in ("prefill", "generate")}
        return state.fed, known
