"""What an engine is asked for and what it gives back; every engine has the same signature.

run(graph, mapping, job, progress) -> Result
"""

from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from typing import Protocol

import numpy as np
from numpy.typing import NDArray

from mmfree_neuro.errors import InputError
from mmfree_neuro.integers.fixedpoint import Ints, QType
from mmfree_neuro.run.activity import Activity
from mmfree_neuro.run.sampling import Sampling

MOST_LOGITS = 1 << 30
"""Logits that a job may keep, all in memory at 8 bytes each."""

MOST_TOKENS = 1 << 24
"""Tokens of a job; a day of the fastest engine makes as many."""

Progress = Callable[[str, int, int, Sequence[int]], None]
"""Called with the phase ("prefill" or "generate"), the tokens done, the tokens in all, and those
that were chosen since the last call."""


def silent(_phase: str, _done: int, _total: int, _chosen: Sequence[int]) -> None:
    """The progress that says nothing."""


@dataclass(frozen=True, eq=False)
class Job:
    """Tokens [sequences, time], each row from a zero state; each row is then continued by
    `new_tokens` tokens, or up to one of `stop`."""

    tokens: NDArray[np.int64]
    new_tokens: int = 0
    sampling: Sampling = field(default_factory=Sampling)
    keep_logits: bool = True
    """Whether the result holds the logits of every token; a long run has no room for them."""
    stop: tuple[int, ...] = ()
    """Tokens that end a job of one sequence when they are chosen.  What it gives back is then the
    same as if as many `new_tokens` had been asked for as were chosen, the last one among them."""

    @property
    def fed(self) -> int:
        """How many tokens of a sequence are fed at most."""
        return self.fed_for(self.new_tokens)

    def fed_for(self, chosen: int) -> int:
        """How many tokens of a sequence are fed where so many are chosen: the last is not fed
        back."""
        return int(self.tokens.shape[1]) + max(chosen - 1, 0)


@dataclass(frozen=True, eq=False)
class Result:
    """Integer logits [sequences, fed tokens, vocabulary], the tokens chosen, counts and seconds.

    Without `keep_logits` there are none: [sequences, 0, vocabulary].
    """

    logits: Ints
    chosen: NDArray[np.int64]  # [sequences, chosen tokens]
    prefill: Activity
    generate: Activity
    seconds: dict[str, float]
    """Wall-clock seconds by phase: "start", "prefill", "generate"."""


@dataclass(frozen=True, eq=False)
class RunState:
    """Where a run of one sequence stands: enough to go on as if it had never stopped, on any
    engine.

    A draw depends on the seed and the position alone, so these need no state of a random generator.
    """

    fed: int
    """Tokens of the prompt and of the continuation that have been fed."""
    chosen: Ints
    """The tokens chosen so far; the last of them is fed next."""
    states: dict[str, Ints]
    """The state of every recurrent neuron, by node."""
    prefill: Activity
    generate: Activity
    seconds: dict[str, float]


@dataclass(frozen=True, eq=False)
class Saving:
    """Saves the state of a run whenever `every` more tokens have been fed, and goes on from an
    earlier state."""

    every: int
    write: Callable[[RunState], None]
    resumed: RunState | None = None

    def due(self, fed: int, end: int) -> bool:
        """Whether the state is saved after that many tokens of a run that feeds `end`."""
        return self.every > 0 and fed % self.every == 0 and fed < end


def check_shape(tokens: NDArray[np.int64]) -> None:
    """InputError where tokens are not [sequences, time] with at least one token."""
    if tokens.ndim != 2 or tokens.shape[0] < 1 or tokens.shape[1] < 1:
        raise InputError(
            f"the tokens have shape {list(tokens.shape)}, must be [sequences, time] with at "
            "least one token"
        )


def check_new_tokens(
    tokens: NDArray[np.int64], new_tokens: int, vocabulary: int, *, keep_logits: bool = True
) -> None:
    """InputError where the number of tokens to generate is negative or the logits would not fit
    memory."""
    if new_tokens < 0:
        raise InputError(f"{new_tokens} new tokens were asked for, must not be negative")
    length = tokens.shape[1] + new_tokens
    values = tokens.shape[0] * length * vocabulary
    if keep_logits and values > MOST_LOGITS:
        raise InputError(
            f"the job has {values} logits, must have at most {MOST_LOGITS}; ask for fewer tokens"
        )
    if tokens.shape[0] * length > MOST_TOKENS:
        raise InputError(
            f"the job has {tokens.shape[0] * length} tokens, must have at most {MOST_TOKENS}"
        )


class Model(Protocol):
    """What is run: a graph, or an image of one."""

    @property
    def vocabulary(self) -> int:
        """How many tokens there are."""

    @property
    def logit_scale(self) -> float:
        """What one step of an integer logit is worth in natural units."""

    @property
    def recurrent(self) -> dict[str, tuple[int, QType]]:
        """The nodes that keep a state: how many neurons, and its format."""

    @property
    def bos(self) -> int | None:
        """The token that stands before a text of bytes, where the model has one."""

    @property
    def eos(self) -> tuple[int, ...]:
        """The tokens that end a text."""

    @property
    def tokenizer(self) -> str | None:
        """The content of the checkpoint's `tokenizer.json`."""

    @property
    def as_bytes(self) -> bool:
        """Whether text is read as bytes although the vocabulary is not one of bytes."""


def check(model: Model, job: Job) -> None:
    """InputError where a job does not fit a model."""
    check_shape(job.tokens)
    if not np.issubdtype(job.tokens.dtype, np.integer):
        raise InputError(f"the tokens are {job.tokens.dtype}, must be integers")
    low, high = int(job.tokens.min()), int(job.tokens.max())
    if low < 0 or high >= model.vocabulary:
        wrong = low if low < 0 else high
        raise InputError(
            f"token {wrong} is outside the vocabulary, must be 0 … {model.vocabulary - 1}"
        )
    if job.stop and job.tokens.shape[0] != 1:
        raise InputError(
            f"a job of {job.tokens.shape[0]} sequences cannot end at a token, must have one "
            "sequence"
        )
    check_new_tokens(job.tokens, job.new_tokens, model.vocabulary, keep_logits=job.keep_logits)


def check_saving(job: Job, saving: Saving | None) -> None:
    """InputError where the state of a job cannot be saved or gone on from."""
    if saving is None:
        return
    if saving.every < 0:
        raise InputError(f"a state every {saving.every} tokens was asked for, must not be negative")
    if job.tokens.shape[0] != 1 or job.keep_logits:
        raise InputError("only a run of one sequence that keeps no logits can be saved")
    if saving.resumed is not None and saving.resumed.fed > job.fed:
        raise InputError(
            f"the saved state is {saving.resumed.fed} tokens into the run, must be at most "
            f"{job.fed}; ask for more "
            "tokens"
        )
