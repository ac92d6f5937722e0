"""The fast engine: one process, whole nodes at a time, many tokens at once in prefill."""

import os
import time

import numpy as np

from mmfree_kernels.cpu.memory import keep_freed
from mmfree_neuro.graph.nodes import Graph, slots_of
from mmfree_neuro.integers.fixedpoint import Ints
from mmfree_neuro.mapping.mapping import Mapping
from mmfree_neuro.run.activity import Activity
from mmfree_neuro.run.job import Job, Progress, Result, Saving, silent
from mmfree_neuro.run.scores import Scores, nats
from mmfree_neuro.run.session import drive, marked
from mmfree_sims.counts import Counting
from mmfree_sims.neurons import EmbeddingNeurons, Int32, Neurons, forget

CHUNK = 64
"""Tokens that are computed together in prefill."""


class Fast:
    """A session of the fast engine; counts are those of `mapping`."""

    def __init__(self, graph: Graph, mapping: Mapping) -> None:
        keep_freed()
        threads = len(os.sched_getaffinity(0))
        self.graph, self.counting = graph, Counting(graph, mapping)
        self.words = EmbeddingNeurons(graph)
        self.neurons = {
            node.name: Neurons(graph, node, 0, node.size, threads) for node in graph.nodes[1:]
        }
        self.tokens: Ints = np.zeros(graph.slots, np.int64)

    def reset(self) -> None:
        """Every state to zero."""
        for neurons in self.neurons.values():
            neurons.reset()

    def states(self) -> dict[str, Ints]:
        """The states [slots, neurons] of every recurrent node."""
        held = {name: neurons.program.state for name, neurons in self.neurons.items()}
        return {name: state.astype(np.int64) for name, state in held.items() if state is not None}

    def restore(self, states: dict[str, Ints]) -> None:
        """Go on from such states."""
        for name, state in states.items():
            mine = self.neurons[name].program.state
            assert mine is not None
            mine[:] = state

    def feed(self, tokens: Ints, marks: Ints | None = None) -> Int32:
        """What goes to the host after each of n tokens, as `Session.feed` gives it."""
        marks = marked(tokens, marks)
        if self.graph.slots == 1 and marks[0] & 1:
            self.reset()
        embedding, slots = self.graph.embedding.name, slots_of(marks).astype(np.int32)
        signals: dict[tuple[str, str], Int32] = {
            (embedding, p): v for p, v in self.words.fire(tokens, marks).items()
        }
        for name, neurons in self.neurons.items():
            payloads = [
                np.ascontiguousarray(signals[entry.source, entry.source_port][:, first:last])
                for entry, (first, last) in zip(neurons.node.inputs, neurons.spans, strict=True)
            ]
            for port, values in neurons.fire(payloads, slots).items():
                signals[name, port] = values
        self.tokens += np.bincount(slots, minlength=self.graph.slots)
        name, output = self.graph.to_host
        return signals[name, output.port]

    def score(self, tokens: Ints, marks: Ints, at: Ints, following: Ints) -> Scores:
        """What is lost on tokens that followed, as `Scoring.score` says."""
        logits = self.feed(tokens, marks)[at]
        natural = np.multiply(logits, self.graph.logit_scale, dtype=np.float64)
        return Scores(nats(natural, following), logits.argmax(-1))

    def take_activity(self, slot: int = 0) -> Activity:
        """The counts of tokens in a slot since they were last taken."""
        return self._taken(slice(slot, slot + 1))

    def take_all_activity(self) -> Activity:
        """The counts of tokens in all slots since they were last taken."""
        return self._taken(slice(None))

    def _taken(self, slots: slice) -> Activity:
        everything: dict[str, EmbeddingNeurons | Neurons] = {
            self.graph.embedding.name: self.words,
            **self.neurons,
        }
        programs = {name: held.program for name, held in everything.items()}
        events = {
            (name, port): _added(counts[slots])
            for name, program in programs.items()
            for port, counts in program.events.items()
        }
        saturated = {name: _added(program.saturated[slots]) for name, program in programs.items()}
        wrapped = {name: _added(program.wrapped[slots]) for name, program in programs.items()}
        tokens = int(self.tokens[slots].sum())
        activity = self.counting.of_neurons(events, saturated, wrapped, tokens)
        self.tokens[slots] = 0
        for program in programs.values():
            forget(program, slots)
        return activity


def _added(counts: Int32) -> Ints:
    """Counts of slots as one."""
    added: Ints = counts.sum(0, dtype=np.int64)
    return added


def run(
    graph: Graph,
    mapping: Mapping,
    job: Job,
    progress: Progress = silent,
    saving: Saving | None = None,
) -> Result:
    """Run a job on the fast engine."""
    begin = time.monotonic()
    session = Fast(graph, mapping)
    return drive(graph, session, job, CHUNK, progress, time.monotonic() - begin, saving)
