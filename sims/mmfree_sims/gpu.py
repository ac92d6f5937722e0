"""The engine on a GPU: whole nodes at a time, many tokens at once in prefill, by kernels that
Triton generates."""

import time

import numpy as np
from numpy.typing import NDArray

from mmfree_neuro.errors import EngineError
from mmfree_neuro.graph.nodes import Graph, slots_of
from mmfree_neuro.integers.fixedpoint import Ints
from mmfree_neuro.mapping.mapping import Mapping
from mmfree_neuro.run.activity import Activity
from mmfree_neuro.run.job import Job, Progress, Result, Saving, silent
from mmfree_neuro.run.scores import Scores
from mmfree_neuro.run.session import drive, marked
from mmfree_sims.counts import Counting

try:
    from mmfree_kernels.integer.device import check_triton

    check_triton()
    from mmfree_kernels.integer.network import Network
except ModuleNotFoundError as missing:
    name = "torch" if missing.name == "torch" else "Triton"
    raise EngineError(
        f"engine gpu needs {name}, which is not installed: pip install {name.lower()}"
    ) from missing

CHUNK = 512
"""Tokens that are computed together in prefill, whose logits all go to the host."""


class Gpu:
    """A session of the GPU engine; counts are those of `mapping`."""

    def __init__(self, graph: Graph, mapping: Mapping) -> None:
        self.network, self.counting = Network(graph), Counting(graph, mapping)
        self.tokens: Ints = np.zeros(graph.slots, np.int64)

    def reset(self) -> None:
        """Every state to zero."""
        self.network.reset()

    def states(self) -> dict[str, Ints]:
        """The states [slots, neurons] of every recurrent node."""
        return self.network.held()

    def restore(self, states: dict[str, Ints]) -> None:
        """Go on from such states."""
        self.network.hold(states)

    def feed(self, tokens: Ints, marks: Ints | None = None) -> NDArray[np.int32]:
        """What goes to the host after each of n tokens, as `Session.feed` gives it."""
        return self.network.feed(tokens, self._begun(tokens, marks))

    def score(self, tokens: Ints, marks: Ints, at: Ints, following: Ints) -> Scores:
        """What is lost on tokens that followed, as `Scoring.score` says; no logits leave the
        device."""
        return Scores(*self.network.score(tokens, self._begun(tokens, marks), at, following))

    def _begun(self, tokens: Ints, marks: Ints | None) -> Ints:
        """The marks of tokens, which are counted."""
        marks = marked(tokens, marks)
        if len(self.tokens) == 1 and marks[0] & 1:
            self.reset()
        self.tokens += np.bincount(slots_of(marks), minlength=len(self.tokens))
        return marks

    def take_activity(self, slot: int = 0) -> Activity:
        """The counts of tokens in a slot since they were last taken."""
        return self._taken(slice(slot, slot + 1))

    def take_all_activity(self) -> Activity:
        """The counts of tokens in all slots since they were last taken."""
        return self._taken(slice(None))

    def _taken(self, slots: slice) -> Activity:
        events, saturated, wrapped = self.network.counters.take(slots)
        tokens = int(self.tokens[slots].sum())
        self.tokens[slots] = 0
        return self.counting.of_neurons(events, saturated, wrapped, tokens)


def run(
    graph: Graph,
    mapping: Mapping,
    job: Job,
    progress: Progress = silent,
    saving: Saving | None = None,
) -> Result:
    """Run a job on the GPU engine."""
    begin = time.monotonic()
    session = Gpu(graph, mapping)
    return drive(graph, session, job, CHUNK, progress, time.monotonic() - begin, saving)
