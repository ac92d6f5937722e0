"""What an engine is asked for and what it gives back; every engine has the same signature.

run(graph, mapping, job, progress) -> Result
"""

from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from functools import cached_property
from itertools import accumulate
from typing import Protocol

import numpy as np
from numpy.typing import NDArray

from mmfree_neuro.errors import InputError
from mmfree_neuro.integers.fixedpoint import Ints, QType
from mmfree_neuro.run.activity import Activity, total
from mmfree_neuro.run.sampling import Sampling

PHASES = "prefill", "generate"
"""What a sequence goes through: its prompt, and its continuation."""

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
class Asked:
    """One sequence of a job."""

    tokens: NDArray[np.int64]  # [time]
    new_tokens: int
    sampling: Sampling

    def fed_for(self, chosen: int) -> int:
        """How many tokens are fed where so many are chosen: the last is not fed back."""
        return len(self.tokens) + max(chosen - 1, 0)


@dataclass(frozen=True, eq=False)
class Job:
    """Sequences, each from a zero state: a prompt, which is then continued by `new_tokens` tokens,
    or up to one of `stop`.

    Prompts are an array [sequences, time], or a list of arrays [time] that may differ in length.
    Where sequences differ in what is asked of them, that is a list, too.
    """

    tokens: NDArray[np.int64] | Sequence[NDArray[np.int64]]
    new_tokens: int | Sequence[int] = 0
    sampling: Sampling | Sequence[Sampling] = field(default_factory=Sampling)
    keep_logits: bool = True
    """Whether the result holds the logits of every token; a long run has no room for them."""
    stop: tuple[int, ...] = ()
    """Tokens that end a sequence when they are chosen.  What comes of it is then the same as if as
    many `new_tokens` had been asked for as were chosen, the last one among them."""
    in_flight: int = 1
    """How many sequences are under way at once, at most."""

    @cached_property
    def sequences(self) -> tuple[Asked, ...]:
        """The sequences in their order."""
        count, new_tokens, sampling = len(self.tokens), self.new_tokens, self.sampling
        if not isinstance(new_tokens, Sequence):
            new_tokens = [new_tokens] * count
        if not isinstance(sampling, Sequence):
            sampling = [sampling] * count
        each = zip(self.tokens, new_tokens, sampling, strict=True)
        return tuple(Asked(*asked) for asked in each)

    @cached_property
    def chosen_from(self) -> list[int]:
        """Where each sequence begins among the tokens that all choose, and behind the last one."""
        return _sums([asked.new_tokens for asked in self.sequences])

    @cached_property
    def kept_from(self) -> list[int]:
        """Where each sequence begins among the logits that all keep, and behind the last one."""
        kept = self.keep_logits
        return _sums([kept * asked.fed_for(asked.new_tokens) for asked in self.sequences])

    @property
    def under_way(self) -> int:
        """How many sequences really are under way at once, at most."""
        return min(self.in_flight, len(self.sequences))

    @property
    def prompted(self) -> int:
        """How many tokens all prompts have."""
        return sum(len(asked.tokens) for asked in self.sequences)

    @property
    def to_choose(self) -> int:
        """How many tokens are chosen at most."""
        return sum(asked.new_tokens for asked in self.sequences)


def _sums(sizes: Sequence[int]) -> list[int]:
    """The sum of the first k sizes, from k = 0 on."""
    return [0, *accumulate(sizes)]


@dataclass(frozen=True, eq=False)
class Outcome:
    """What came of one sequence: integer logits [fed tokens, vocabulary], the tokens chosen, and
    counts.

    Without `keep_logits` there are no logits: [0, vocabulary].
    """

    logits: Ints
    chosen: NDArray[np.int64]  # [chosen tokens]
    prefill: Activity
    generate: Activity


@dataclass(frozen=True, eq=False)
class Result:
    """What came of a job, sequence by sequence."""

    outcomes: tuple[Outcome, ...]
    seconds: dict[str, float]
    """Wall-clock seconds by phase: "start", "prefill", "generate"."""

    @cached_property
    def logits(self) -> Ints:
        """Those of sequences that are of one length, [sequences, fed tokens, vocabulary]."""
        return np.stack([outcome.logits for outcome in self.outcomes])

    @cached_property
    def chosen(self) -> NDArray[np.int64]:
        """Those of sequences that have chosen as many, [sequences, chosen tokens]."""
        return np.stack([outcome.chosen for outcome in self.outcomes])

    @cached_property
    def prefill(self) -> Activity:
        """The counts of all prompts."""
        return total([outcome.prefill for outcome in self.outcomes])

    @cached_property
    def generate(self) -> Activity:
        """The counts of all continuations."""
        return total([outcome.generate for outcome in self.outcomes])


@dataclass(frozen=True, eq=False)
class Stand:
    """Where a sequence stands."""

    slot: int
    """-1 where it has not begun or has ended."""
    fed: int
    """Tokens of the prompt and of the continuation that have been fed."""
    chosen: Ints
    """The tokens chosen so far; the last of them is fed next."""
    prefill: Activity
    generate: Activity


@dataclass(frozen=True, eq=False)
class RunState:
    """Where a run stands: enough to go on as if it had never stopped, on any engine.

    A draw depends on the seed and the position alone, so these need no state of a random generator.
    """

    stands: tuple[Stand, ...]
    states: dict[str, Ints]
    """The states [slots, neurons] of every recurrent node."""
    seconds: dict[str, float]

    @property
    def fed(self) -> int:
        """Tokens of all sequences that have been fed."""
        return sum(stand.fed for stand in self.stands)


@dataclass(frozen=True, eq=False)
class Saving:
    """Saves the state of a run whenever `every` more tokens have been fed, and goes on from an
    earlier state."""

    every: int
    write: Callable[[RunState], None]
    resumed: RunState | None = None

    @property
    def stands(self) -> tuple[Stand, ...]:
        """Where the sequences of the earlier state are; none without one."""
        return () if self.resumed is None else self.resumed.stands

    def due(self, fed: int) -> bool:
        """Whether the state is saved after that many tokens of a run that goes on."""
        return self.every > 0 and fed % self.every == 0

    def until(self, fed: int) -> int | None:
        """How many more tokens are fed after that many before the state is saved; None for ever."""
        return self.every - fed % self.every if self.every else None


def check_shape(job: Job) -> None:
    """InputError where prompts are none, or what is asked of sequences is not there for each."""
    if isinstance(job.tokens, np.ndarray) and (job.tokens.ndim != 2 or not job.tokens.size):
        raise InputError(
            f"the tokens have shape {list(job.tokens.shape)}, must be [sequences, time] with at "
            "least one token"
        )
    shapes = [list(np.shape(prompt)) for prompt in job.tokens]
    if not shapes:
        raise InputError("the job has no sequence, must have at least one")
    for shape in shapes:
        if len(shape) != 1 or shape[0] < 1:
            raise InputError(
                f"the tokens of a sequence have shape {shape}, must be [time] with at least one "
                "token"
            )
    for name, several in (("new_tokens", job.new_tokens), ("sampling", job.sampling)):
        if isinstance(several, Sequence) and len(several) != len(shapes):
            raise InputError(
                f"{name} is there for {len(several)} sequences, must be for {len(shapes)}"
            )


def check_number_of_new_tokens(new_tokens: int) -> None:
    """InputError where a number of tokens to generate is negative."""
    if new_tokens < 0:
        raise InputError(f"{new_tokens} new tokens were asked for, must not be negative")


def check_new_tokens(job: Job, vocabulary: int) -> None:
    """InputError where a number of tokens to generate is negative or the logits would not fit
    memory."""
    check_number_of_new_tokens(min(asked.new_tokens for asked in job.sequences))
    tokens = job.prompted + job.to_choose
    if job.keep_logits and tokens * vocabulary > MOST_LOGITS:
        raise InputError(
            f"the job has {tokens * vocabulary} logits, must have at most {MOST_LOGITS}; ask for "
            "fewer tokens"
        )
    if tokens > MOST_TOKENS:
        raise InputError(f"the job has {tokens} tokens, must have at most {MOST_TOKENS}")


class Model(Protocol):
    """What is run: a graph, or an image of one."""

    @property
    def vocabulary(self) -> int:
        """How many tokens there are."""

    @property
    def logit_scale(self) -> float:
        """What one step of an integer logit is worth in natural units."""

    @property
    def greedy(self) -> bool:
        """Whether it chooses words itself, and sends no logits."""

    @property
    def slots(self) -> int:
        """How many sequences can be under way at once."""

    @property
    def recurrent(self) -> dict[str, tuple[int, QType]]:
        """The nodes that keep states, [slots, neurons]: how many neurons, and the format."""

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


def check_known(texts: Sequence[NDArray[np.int64]], vocabulary: int) -> None:
    """InputError where a token of texts is outside the vocabulary."""
    low = min((int(text.min()) for text in texts if text.size), default=0)
    high = max((int(text.max()) for text in texts if text.size), default=0)
    if low < 0 or high >= vocabulary:
        wrong = low if low < 0 else high
        raise InputError(f"token {wrong} is outside the vocabulary, must be 0 … {vocabulary - 1}")


def check(model: Model, job: Job) -> None:
    """InputError where a job does not fit a model."""
    check_shape(job)
    for asked in job.sequences:
        if not np.issubdtype(asked.tokens.dtype, np.integer):
            raise InputError(f"the tokens are {asked.tokens.dtype}, must be integers")
    check_known([asked.tokens for asked in job.sequences], model.vocabulary)
    check_new_tokens(job, model.vocabulary)
    if model.greedy:
        _check_greedy(job)
    if not 1 <= job.in_flight <= model.slots:
        more = "" if job.in_flight < 1 else "; map the graph for more with --in-flight"
        raise InputError(
            f"{job.in_flight} sequences in flight were asked for, must be 1 … {model.slots}{more}"
        )


def _check_greedy(job: Job) -> None:
    """InputError where a job asks for more than the words of the largest logits."""
    if job.keep_logits:
        raise InputError(
            "the chips choose the words here, so no logits come to the host; a mapping without "
            "greedy-on-chips has them"
        )
    for asked in job.sequences:
        check_drawn(asked.sampling)


def check_drawn(sampling: Sampling) -> None:
    """InputError where words are to be drawn that the chips choose."""
    if sampling.temperature:
        raise InputError(
            "the chips choose the words here, and greedily, so the temperature is "
            f"{sampling.temperature:g}, must be 0; a mapping without greedy-on-chips can draw"
        )


def check_saving(job: Job, saving: Saving | None) -> None:
    """InputError where the state of a job cannot be saved or gone on from."""
    if saving is None:
        return
    if saving.every < 0:
        raise InputError(f"a state every {saving.every} tokens was asked for, must not be negative")
    if job.keep_logits:
        raise InputError("only a run that keeps no logits can be saved")
    for stand, asked in zip(saving.stands, job.sequences, strict=False):
        most = asked.fed_for(asked.new_tokens)
        if stand.fed > most:
            raise InputError(
                f"the saved state is {stand.fed} tokens into the run, must be at most {most}; ask "
                "for more tokens"
            )
