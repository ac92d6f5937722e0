"""The sequences of a job on their way through an engine: which tokens come next, and whose each
slot is.

An engine has slots for so many sequences at once.  They enter in the order of the job; when one has
ended, the next takes its slot.  The order in which tokens of several sequences enter changes
nothing of what comes out.
"""

from collections.abc import Iterable
from dataclasses import dataclass, field

import numpy as np
from numpy.typing import NDArray

from mmfree_neuro.errors import EngineError
from mmfree_neuro.graph.nodes import mark
from mmfree_neuro.integers.fixedpoint import Ints
from mmfree_neuro.run.job import Asked, Job, Model, Stand
from mmfree_neuro.run.sampling import Sampling, choose

NOWHERE = -1
"""The slot of a sequence that has not begun or has ended."""


@dataclass(eq=False)
class Walk:
    """A sequence on its way."""

    number: int
    asked: Asked
    stop: tuple[int, ...]
    slot: int = NOWHERE
    fed: int = 0
    """Tokens that have been fed and whose logits have come."""
    sent: int = 0
    """Tokens that have been fed."""
    chosen: list[int] = field(default_factory=list)

    @property
    def length(self) -> int:
        """How many tokens the prompt has."""
        return len(self.asked.tokens)

    @property
    def end(self) -> int:
        """After how many tokens it ends, as far as is known."""
        ended = bool(self.chosen) and self.chosen[-1] in self.stop
        return self.asked.fed_for(len(self.chosen) if ended else self.asked.new_tokens)

    @property
    def ended(self) -> bool:
        """Whether all of its tokens have been fed and chosen."""
        return self.fed == self.end

    @property
    def standing(self) -> int:
        """The slot whose states are its own: none where it has not begun or has ended."""
        return self.slot if self.fed and not self.ended else NOWHERE

    @property
    def prompting(self) -> bool:
        """Whether the next token is one of the prompt."""
        return self.sent < self.length

    @property
    def ready(self) -> int:
        """How many tokens of one phase can be fed now."""
        if self.prompting:
            return self.length - self.sent
        return min(self.end, self.length + len(self.chosen)) - self.sent

    def take(self, tokens: int) -> tuple[Ints, Ints]:
        """The next tokens, which are fed now, and their marks."""
        first, last = self.sent, self.sent + tokens
        held = self.asked.tokens
        if not self.prompting:
            held, first, last = np.array(self.chosen), first - self.length, last - self.length
        self.sent += tokens
        starts = np.arange(self.sent - tokens, self.sent) == 0
        return held[first:last], mark(np.full(tokens, self.slot), starts)

    def arrived(self, sent: NDArray[np.integer], model: Model) -> int | None:
        """Take what a model sends of the next token, its logits or the word that it chose plus 1;
        the token that is chosen by them, if one is."""
        self.fed += 1
        if self.fed != self.length + len(self.chosen) or len(self.chosen) == self.asked.new_tokens:
            return None
        if self.chosen and self.chosen[-1] in self.stop:
            return None
        chosen = chosen_by(sent, model, self.asked.sampling, self.fed)
        self.chosen.append(chosen)
        return chosen


def chosen_by(sent: NDArray[np.integer], model: Model, sampling: Sampling, position: int) -> int:
    """The token that follows what a model sends after `position` tokens: its logits [vocabulary],
    or the word that it chose plus 1, [1]."""
    if model.greedy:
        return _told(int(sent[0]), model.vocabulary)
    return choose(sent.astype(np.int64), model.logit_scale, sampling, position)


def _told(word: int, vocabulary: int) -> int:
    """The token of a word that a model sends, which is 1 for the first; EngineError for none."""
    if not 1 <= word <= vocabulary:
        raise EngineError(f"the model chose word {word}, must be 1 … {vocabulary}")
    return word - 1


class Seats:
    """All sequences of a job, of which some have a slot."""

    def __init__(self, job: Job, stands: Iterable[Stand] = ()) -> None:
        """`stands` says where the sequences of a run that is gone on with are."""
        self.walks = [Walk(n, asked, job.stop) for n, asked in enumerate(job.sequences)]
        for walk, stand in zip(self.walks, stands, strict=False):
            walk.slot, walk.fed, walk.sent = stand.slot, stand.fed, stand.fed
            walk.chosen = stand.chosen[: walk.asked.new_tokens].tolist()
            if walk.ended:
                walk.slot = NOWHERE
        self.most = job.in_flight

    @property
    def seated(self) -> list[Walk]:
        """The sequences that are under way, in their order."""
        return [walk for walk in self.walks if walk.slot != NOWHERE]

    @property
    def fed(self) -> int:
        """Tokens of all sequences that have been fed and whose logits have come."""
        return sum(walk.fed for walk in self.walks)

    @property
    def sent(self) -> int:
        """Tokens of all sequences that have been fed."""
        return sum(walk.sent for walk in self.walks)

    @property
    def ready(self) -> int:
        """How many tokens can be fed now."""
        return sum(walk.ready for walk in self.seated)

    def gathered(self, most: int) -> list[tuple[Walk, int]]:
        """Which sequences are fed next, and how many tokens of each: one of each that generates,
        and of prompts what else has room."""
        found: list[tuple[Walk, int]] = []
        for walk in sorted(self.seated, key=lambda walk: walk.prompting):
            tokens = min(walk.ready, most)
            if tokens:
                found.append((walk, tokens))
                most -= tokens
        return found

    @property
    def ended(self) -> bool:
        """Whether all sequences have ended."""
        return all(walk.ended for walk in self.walks)

    def seat(self) -> None:
        """Give free slots to the sequences that come next, and take those of sequences that have
        ended."""
        for walk in self.seated:
            if walk.ended:
                walk.slot = NOWHERE
        taken = {walk.slot for walk in self.seated}
        free = [slot for slot in range(self.most) if slot not in taken]
        waiting = [walk for walk in self.walks if walk.slot == NOWHERE and not walk.ended]
        for walk, slot in zip(waiting, free[: max(0, self.most - len(taken))], strict=False):
            walk.slot = slot
