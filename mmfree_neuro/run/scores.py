"""What the integers of a graph lose on text: windows through an engine, many of them side by
side."""

from dataclasses import dataclass
from typing import Protocol

import numpy as np
from numpy.typing import NDArray

from mmfree_neuro.graph.nodes import mark
from mmfree_neuro.integers.fixedpoint import Ints

Nats = NDArray[np.float64]


class Scoring(Protocol):
    """A session that can say what tokens lose without giving their logits away."""

    def score(self, tokens: Ints, marks: Ints, following: Ints) -> tuple[Nats, Ints]:
        """What n tokens with these marks lose in nats on those that followed, and what would have
        been chosen, each [n]; tokens of one sequence stand in their order."""


@dataclass(frozen=True)
class Scores:
    """What a graph made of windows [windows, length + 1]."""

    nats: Nats  # [windows, length], per predicted token
    chosen: Ints  # [windows, length], the likeliest token


def nats(logits: Nats, following: Ints) -> Nats:
    """Nats per predicted token, from logits [..., vocabulary] and the tokens that followed."""
    shifted = logits - logits.max(-1, keepdims=True)
    chosen = np.take_along_axis(shifted, following[..., None], -1)[..., 0]
    lost: Nats = np.log(np.exp(shifted).sum(-1)) - chosen
    return lost


def scored(session: Scoring, windows: Ints, slots: int, chunk: int) -> Scores:
    """Losses and choices on windows [windows, length + 1], each from a zero state: `slots` of them
    under way at once, in turns of about `chunk` tokens."""
    inputs, following = windows[:, :-1], windows[:, 1:]
    found = Scores(np.empty(inputs.shape), np.empty(inputs.shape, np.int64))
    for first in range(0, len(windows), slots):
        rows = slice(first, first + slots)
        many = len(inputs[rows])
        step = max(1, chunk // many)
        for at in range(0, inputs.shape[1], step):
            here = rows, slice(at, at + step)
            tokens = inputs[here]
            starts = np.broadcast_to(np.arange(tokens.shape[1]) == -at, tokens.shape)
            marks = mark(np.broadcast_to(np.arange(many)[:, None], tokens.shape), starts)
            lost, chosen = session.score(tokens.ravel(), marks.ravel(), following[here].ravel())
            found.nats[here] = lost.reshape(tokens.shape)
            found.chosen[here] = chosen.reshape(tokens.shape)
    return found
