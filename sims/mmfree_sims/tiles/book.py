"""The book that the host keeps of a job that is under way."""

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from mmfree_neuro.graph.nodes import Graph
from mmfree_neuro.integers.fixedpoint import Ints
from mmfree_neuro.mapping.mapping import Mapping
from mmfree_neuro.run.activity import Activity
from mmfree_neuro.run.job import Job, RunState, Saving
from mmfree_sims.counts import Counting
from mmfree_sims.tiles.tallies import Tallies


@dataclass(frozen=True)
class Start:
    """Where a run begins: after `fed` tokens, of which the host chose some, saving every `every`
    tokens."""

    fed: int = 0
    chosen: tuple[int, ...] = ()
    every: int = 0


FROM_ZERO = Start()


def start_of(saving: Saving | None) -> Start:
    """The start of a run."""
    if saving is None:
        return Start()
    if saving.resumed is None:
        return Start(every=saving.every)
    return Start(
        saving.resumed.fed, tuple(int(token) for token in saving.resumed.chosen), saving.every
    )


class Book:
    """What a run has counted in all: before it was resumed, and since."""

    def __init__(self, graph: Graph, mapping: Mapping, job: Job, saving: Saving | None) -> None:
        self.graph, self.job, self.saving = graph, job, saving
        self.resumed = None if saving is None else saving.resumed
        self.counting = Counting(graph, mapping)

    def chosen(self) -> Ints:
        """The tokens that were chosen before."""
        return np.zeros(0, np.int64) if self.resumed is None else self.resumed.chosen

    def all_chosen(self, chosen: Ints, now: int) -> Ints:
        """All tokens [sequences, chosen tokens], of which `now` were chosen in this run."""
        whole = np.array(chosen)
        before = self.chosen()[: whole.shape[1]]
        whole[0, : len(before)] = before
        return whole if len(whole) > 1 else whole[:, : len(before) + now]

    def done(self, phase: int) -> int:
        """Tokens through prefill, or chosen, before."""
        fed = 0 if self.resumed is None else self.resumed.fed
        return len(self.chosen()) if phase else min(fed, int(self.job.tokens.shape[1]))

    def seconds(self, clock: Sequence[float] | NDArray[np.float64]) -> dict[str, float]:
        """Seconds by phase, from those of this run."""
        before = {"prefill": 0.0, "generate": 0.0} if self.resumed is None else self.resumed.seconds
        return {
            "prefill": before["prefill"] + float(clock[0]),
            "generate": before["generate"] + float(clock[1]),
        }

    def activities(self, tallies: Tallies, fed: int) -> tuple[Activity, Activity]:
        """The counts of prefill and generation after `fed` tokens of every sequence."""
        rows, length = self.job.tokens.shape
        begun = 0 if self.resumed is None else self.resumed.fed
        fed_now = (
            min(fed, length) - min(begun, length),
            max(fed - length, 0) - max(begun - length, 0),
        )
        found = [
            self.counting.activity(
                tallies.events[p], tallies.saturated[p], tallies.wrapped[p], rows * fed_now[p]
            )
            for p in (0, 1)
        ]
        if self.resumed is not None:
            found = [self.resumed.prefill + found[0], self.resumed.generate + found[1]]
        return found[0], found[1]

    def save(self, kept: Tallies, fed: int, chosen: Ints, clock: NDArray[np.float64]) -> None:
        """Write the state after `fed` tokens; `chosen` are the tokens of this run."""
        assert self.saving is not None
        known = max(0, fed - int(self.job.tokens.shape[1]) + 1) if self.job.new_tokens else 0
        whole = np.array(chosen[:known])
        before = self.chosen()[:known]
        whole[: len(before)] = before
        prefill, generate = self.activities(kept, fed)
        states = kept.states_by_node(self.graph)
        self.saving.write(
            RunState(fed, whole, states, prefill, generate, {"start": 0.0} | self.seconds(clock))
        )
