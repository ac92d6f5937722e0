"""A host whose tokens come from whoever uses the model: it answers each with the one that follows.

Tokens travel as words: the number of the token plus 1, and 0 where there is none, as on the chips.
"""

from collections import deque
from typing import Any

import numpy as np
from numpy.typing import NDArray

from mmfree_neuro.graph.nodes import mark
from mmfree_neuro.integers.fixedpoint import Ints
from mmfree_neuro.run.sampling import Sampling
from mmfree_neuro.run.sequences import chosen_by
from mmfree_sims.tiles.packets import GENERATED
from mmfree_sims.tiles.plan import Plan
from mmfree_sims.tiles.tallies import Tallies
from mmfree_sims.tiles.terminal import TOGETHER, Terminal, Wire

NOTHING, AGAIN, RESTART = 0, -1, -2
"""What else a word may be: no token; the token that was chosen last; the next token begins a new
sequence."""


class Answers:
    """One sequence after another, and what has been chosen so far."""

    def __init__(
        self, plan: Plan, sampling: Sampling, tallies: Tallies, kept: Tallies, wire: Wire
    ) -> None:
        self.graph, self.sampling = plan.graph, sampling
        self.terminal = Terminal(plan, tallies, kept, wire)
        self.position, self.chosen = 0, NOTHING
        """Tokens of this sequence that were fed, and the word chosen after the last of them."""
        self.refused = 0
        """Words so far that were none of those that there are."""

    def answer(self, words: NDArray[np.number[Any]]) -> Ints:
        """The words chosen after each of `words`, [words]; 0 where nothing was fed.

        What is no whole number, or no word of the vocabulary, and AGAIN where nothing has been
        chosen, is refused.
        """
        answers: Ints = np.zeros(len(words), np.int64)
        waiting: deque[tuple[int, int]] = deque()
        for at, word in enumerate(words.tolist()):
            if word in (AGAIN, RESTART):
                self._feed(waiting, answers)
            if word == RESTART:
                self.position, self.chosen = 0, NOTHING
            elif word == AGAIN and self.chosen:
                waiting.append((at, self.chosen))
                self._feed(waiting, answers, GENERATED)
            elif 0 < word <= self.graph.vocabulary and word == int(word):
                waiting.append((at, int(word)))
            else:
                self.refused += word != NOTHING
        self._feed(waiting, answers)
        return answers

    def _feed(self, waiting: deque[tuple[int, int]], answers: Ints, flags: int = 0) -> None:
        """Send the words that wait, and write down what follows each."""
        first = self.position
        fed = [word - 1 for _, word in waiting]
        for start in range(0, len(fed), TOGETHER):
            tokens = np.array(fed[start : start + TOGETHER], np.int64)
            positions = first + start + np.arange(len(tokens))
            zeros = np.zeros_like(positions)
            labels = np.stack([zeros, positions, zeros + flags, zeros], 1).astype(np.int32)
            self.terminal.send(labels, tokens, mark(zeros, positions == 0))
        while waiting:
            at, _ = waiting.popleft()
            self.terminal.wait_for(0, self.position)
            sent = self.terminal.take(0, self.position)
            self.position += 1
            self.chosen = 1 + chosen_by(sent, self.graph, self.sampling, self.position)
            answers[at] = self.chosen
