"""The book that the host keeps of a job that is under way."""

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from mmfree_neuro.graph.nodes import Graph
from mmfree_neuro.integers.fixedpoint import Ints
from mmfree_neuro.mapping.mapping import Mapping
from mmfree_neuro.run.activity import Activity
from mmfree_neuro.run.job import PHASES, Job, Outcome, RunState, Saving, Stand
from mmfree_sims.counts import Counting
from mmfree_sims.tiles.tallies import Tallies


@dataclass(frozen=True)
class Start:
    """Where a run begins: where its sequences are, none of them begun unless told, and that states
    are saved every `every` tokens."""

    stands: tuple[Stand, ...] = ()
    every: int = 0

    @property
    def fed(self) -> list[int]:
        """How many tokens of every sequence have been fed."""
        return [stand.fed for stand in self.stands]


FROM_ZERO = Start()


def start_of(saving: Saving | None) -> Start:
    """The start of a run."""
    return FROM_ZERO if saving is None else Start(saving.stands, saving.every)


class Book:
    """What a run has counted in all: before it was resumed, and since."""

    def __init__(self, graph: Graph, mapping: Mapping, job: Job, saving: Saving | None) -> None:
        self.graph, self.job, self.saving = graph, job, saving
        self.resumed = None if saving is None else saving.resumed
        self.stands = () if saving is None else saving.stands
        self.counting = Counting(graph, mapping)
        self.known_counts: dict[int, tuple[int, list[Activity]]] = {}
        """What was found of a sequence after so many tokens, which is the same whenever asked."""

    def chosen(self) -> Ints:
        """The tokens of all sequences one after another, of which those are there that were chosen
        before."""
        found: Ints = np.zeros(self.job.chosen_from[-1], np.int64)
        for n, stand in enumerate(self.stands):
            before = stand.chosen[: self.job.sequences[n].new_tokens]
            found[self.job.chosen_from[n] :][: len(before)] = before
        return found

    def known(self) -> list[int]:
        """How many tokens of each sequence were chosen before."""
        stands = self.stands or [None] * len(self.job.sequences)
        return [
            0 if stand is None else min(len(stand.chosen), asked.new_tokens)
            for stand, asked in zip(stands, self.job.sequences, strict=True)
        ]

    def done(self) -> list[int]:
        """Tokens through prefill, and chosen, before."""
        pairs = zip(self.stands, self.job.sequences, strict=False)
        return [sum(min(s.fed, len(a.tokens)) for s, a in pairs), sum(self.known())]

    def seconds(self, clock: Sequence[float] | NDArray[np.float64]) -> dict[str, float]:
        """Seconds by phase, from those of this run."""
        before = dict.fromkeys(PHASES, 0.0) if self.resumed is None else self.resumed.seconds
        return {phase: before[phase] + float(clock[k]) for k, phase in enumerate(PHASES)}

    def counts(self, tallies: Tallies, fed: Sequence[int]) -> list[list[Activity]]:
        """The counts of prefill and of generation of every sequence, after so many of its
        tokens."""
        for number, after in enumerate(fed):
            if self.known_counts.get(number, (-1, []))[0] != after:
                self.known_counts[number] = after, self._of(tallies, number, after)
        return [self.known_counts[number][1] for number in range(len(fed))]

    def _of(self, tallies: Tallies, number: int, fed: int) -> list[Activity]:
        length = len(self.job.sequences[number].tokens)
        begun = self.stands[number].fed if self.stands else 0
        now = (min(fed, length) - min(begun, length), max(fed - length, 0) - max(begun - length, 0))
        rows = 2 * number, 2 * number + 1
        found = [
            self.counting.activity(
                tallies.events[row], tallies.saturated[row], tallies.wrapped[row], tokens
            )
            for row, tokens in zip(rows, now, strict=True)
        ]
        if self.stands:
            before = self.stands[number]
            found = [before.prefill + found[0], before.generate + found[1]]
        return found

    def outcomes(
        self, tallies: Tallies, stands: Ints, chosen: Ints, logits: Ints
    ) -> tuple[Outcome, ...]:
        """What came of every sequence: `stands` has [slot, fed, chosen] of each, `chosen` and
        `logits` those of all, one after another."""
        counts = self.counts(tallies, stands[:, 1].tolist())
        parts = zip(
            np.split(logits, self.job.kept_from[1:-1]),
            np.split(chosen, self.job.chosen_from[1:-1]),
            stands[:, 1:].tolist(),
            counts,
            strict=True,
        )
        return tuple(
            Outcome(np.array(kept[:fed]), np.array(tokens[:known]), *counted)
            for kept, tokens, (fed, known), counted in parts
        )

    def save(self, kept: Tallies, stands: Ints, chosen: Ints, clock: NDArray[np.float64]) -> None:
        """Write the state in which the sequences stand so, `chosen` as in `outcomes`."""
        assert self.saving is not None
        counts = self.counts(kept, stands[:, 1].tolist())
        tokens = np.split(chosen, self.job.chosen_from[1:-1])
        standing = (
            Stand(slot, fed, np.array(some[:known]), *counted)
            for (slot, fed, known), some, counted in zip(
                stands.tolist(), tokens, counts, strict=True
            )
        )
        states = kept.states_by_node(self.graph)
        seconds = {"start": 0.0} | self.seconds(clock)
        self.saving.write(RunState(tuple(standing), states, seconds))
