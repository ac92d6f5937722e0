"""What is asked of a graph about text: what it loses on the tokens that followed, and what it would
have chosen; many texts side by side."""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Protocol

import numpy as np
from numpy.typing import NDArray

from mmfree_neuro.graph.nodes import mark
from mmfree_neuro.integers.fixedpoint import Ints

Nats = NDArray[np.float64]


@dataclass(frozen=True)
class Scores:
    """What a model lost in nats on tokens that followed, and its likeliest tokens; of windows
    [windows, length], or of one text's questions [questions]."""

    nats: Nats
    chosen: Ints


class Scoring(Protocol):
    """A session that can say what tokens lose without giving their logits away."""

    def score(self, tokens: Ints, marks: Ints, at: Ints, following: Ints) -> Scores:
        """Feeds n tokens with these marks, those of one sequence in their order; what is lost on
        each of m tokens that followed one of them, which `at` [m] says."""


@dataclass(frozen=True)
class Asked:
    """A text [time], and the tokens that followed some of its tokens."""

    tokens: Ints
    at: Ints  # [questions]
    following: Ints  # [questions]


def nats(logits: Nats, following: Ints) -> Nats:
    """Nats per predicted token, from logits [..., vocabulary] and the tokens that followed."""
    shifted = logits - logits.max(-1, keepdims=True)
    chosen = np.take_along_axis(shifted, following[..., None], -1)[..., 0]
    lost: Nats = np.log(np.exp(shifted).sum(-1)) - chosen
    return lost


def of_logits(logits: Nats, asked: Asked) -> Scores:
    """The answers that logits [time, vocabulary] behind all tokens of a text give."""
    rows = logits[asked.at]
    return Scores(nats(rows, asked.following), rows.argmax(-1))


def answered(session: Scoring, texts: Sequence[Asked], slots: int, chunk: int) -> list[Scores]:
    """The answers to all questions, each text from a zero state: `slots` of them under way at once,
    in turns of about `chunk` tokens."""
    found = [Scores(np.zeros(len(t.at)), np.zeros(len(t.at), np.int64)) for t in texts]
    waiting = [number for number, text in enumerate(texts) if len(text.tokens)][::-1]
    free = list(range(slots))[::-1]
    seated: dict[int, list[int]] = {}  # by slot: the number of its text, and the tokens fed
    while waiting or seated:
        while waiting and free:
            seated[free.pop()] = [waiting.pop(), 0]
        step, fed, parts = max(1, chunk // len(seated)), 0, []
        questions: list[tuple[int, NDArray[np.bool_]]] = []
        for slot, (number, begin) in list(seated.items()):
            text = texts[number]
            tokens = text.tokens[begin : begin + step]
            here = (text.at >= begin) & (text.at < begin + step)
            starts = np.arange(begin, begin + len(tokens)) == 0
            marks = mark(np.full(len(tokens), slot), starts)
            parts.append((tokens, marks, text.at[here] - begin + fed, text.following[here]))
            questions.append((number, here))
            fed += len(tokens)
            seated[slot][1] += len(tokens)
            if seated[slot][1] == len(text.tokens):
                del seated[slot]
                free.append(slot)
        scores, answer = session.score(*map(np.concatenate, zip(*parts, strict=True))), 0
        for number, here in questions:
            some = slice(answer, answer + int(here.sum()))
            found[number].nats[here] = scores.nats[some]
            found[number].chosen[here] = scores.chosen[some]
            answer = some.stop
    return found


def scored(session: Scoring, windows: Ints, slots: int, chunk: int) -> Scores:
    """Losses and choices on windows [windows, length + 1], each from a zero state."""
    everywhere = np.arange(windows.shape[1] - 1)
    texts = [Asked(window[:-1], everywhere, window[1:]) for window in windows]
    found = answered(session, texts, slots, chunk)
    return Scores(np.stack([one.nats for one in found]), np.stack([one.chosen for one in found]))
