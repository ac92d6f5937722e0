"""What an engine is asked for and what it gives back; every engine has the same signature.

run(graph, mapping, job, progress) -> Result
"""

import time
from collections.abc import Callable
from dataclasses import dataclass, field
from typing import Protocol

import numpy as np
from numpy.typing import NDArray

from mmfree_neuro.activity import Activity
from mmfree_neuro.errors import InputError
from mmfree_neuro.fixedpoint import Ints
from mmfree_neuro.ir import Graph
from mmfree_neuro.sampling import Sampling, choose

MOST_LOGITS = 1 << 30
"""Logits of a job, all kept in memory at 8 bytes each."""

Report = Callable[[str, int, int], None]
"""Called with the phase ("prefill" or "generate"), the tokens done and the tokens in all."""


def silent(_phase: str, _done: int, _total: int) -> None:
    """The report that says nothing."""


@dataclass(frozen=True, eq=False)
class Job:
    """Tokens [sequences, time], each row from a zero state; each row is then continued by `new_tokens` tokens."""

    tokens: NDArray[np.int64]
    new_tokens: int = 0
    sampling: Sampling = field(default_factory=Sampling)


@dataclass(frozen=True, eq=False)
class Result:
    """Integer logits [sequences, time + max(new_tokens - 1, 0), vocabulary], the tokens chosen, counts and seconds.

    The last chosen token is not fed back, so its logits are not computed.
    """

    logits: Ints
    chosen: NDArray[np.int64]  # [sequences, new_tokens]
    prefill: Activity
    generate: Activity
    seconds: dict[str, float]
    """Wall-clock seconds by phase: "start", "prefill", "generate"."""


class Session(Protocol):
    """An engine that lives in this process: it is fed tokens and keeps the state of one sequence."""

    def reset(self) -> None:
        """Back to a zero state; the counts go on."""

    def feed(self, tokens: Ints) -> Ints:
        """The logits [n, vocabulary] after each of n tokens."""

    def take_activity(self) -> Activity:
        """The counts since they were last taken."""


def check_shape(tokens: NDArray[np.int64]) -> None:
    """InputError where tokens are not [sequences, time] with at least one token."""
    if tokens.ndim != 2 or tokens.shape[0] < 1 or tokens.shape[1] < 1:
        raise InputError(
            f"the tokens have shape {list(tokens.shape)}, must be [sequences, time] with at least one token"
        )


def check_new_tokens(tokens: NDArray[np.int64], new_tokens: int, vocabulary: int) -> None:
    """InputError where the number of tokens to generate is negative or the logits would not fit memory."""
    if new_tokens < 0:
        raise InputError(f"{new_tokens} new tokens were asked for, must not be negative")
    values = tokens.shape[0] * (tokens.shape[1] + new_tokens) * vocabulary
    if values > MOST_LOGITS:
        raise InputError(f"the job has {values} logits, must have at most {MOST_LOGITS}; ask for fewer tokens")


def check(graph: Graph, job: Job) -> None:
    """InputError where a job does not fit a graph."""
    check_shape(job.tokens)
    if not np.issubdtype(job.tokens.dtype, np.integer):
        raise InputError(f"the tokens are {job.tokens.dtype}, must be integers")
    low, high = int(job.tokens.min()), int(job.tokens.max())
    if low < 0 or high >= graph.vocabulary:
        wrong = low if low < 0 else high
        raise InputError(f"token {wrong} is outside the vocabulary, must be 0 … {graph.vocabulary - 1}")
    check_new_tokens(job.tokens, job.new_tokens, graph.vocabulary)


def drive(graph: Graph, session: Session, job: Job, chunk: int, report: Report, start_seconds: float) -> Result:
    """Run a job on a session: prefill `chunk` tokens at a time, then generate one by one."""
    check(graph, job)
    rows, length = job.tokens.shape
    steps = max(job.new_tokens - 1, 0)
    logits = np.zeros((rows, length + steps, graph.vocabulary), np.int64)
    chosen = np.zeros((rows, job.new_tokens), np.int64)
    seconds = {"start": start_seconds, "prefill": 0.0, "generate": 0.0}
    prefill, generate = session.take_activity(), session.take_activity()
    for row, tokens in enumerate(job.tokens):
        session.reset()
        begin = time.monotonic()
        for at in range(0, length, chunk):
            logits[row, at : min(at + chunk, length)] = session.feed(tokens[at : at + chunk])
            report("prefill", row * length + min(at + chunk, length), rows * length)
        middle = time.monotonic()
        prefill += session.take_activity()
        for n in range(job.new_tokens):
            position = length + n
            chosen[row, n] = choose(logits[row, position - 1], graph.logit_scale, job.sampling, position)
            if n < steps:
                logits[row, position] = session.feed(chosen[row, n : n + 1])[0]
            report("generate", row * job.new_tokens + n + 1, rows * job.new_tokens)
        generate += session.take_activity()
        seconds["prefill"] += middle - begin
        seconds["generate"] += time.monotonic() - middle
    return Result(logits, chosen, prefill, generate, seconds)
