"""The fast engine: one process, whole nodes at a time, many tokens at once in prefill."""

import os
import time

import numpy as np

from mmfree_kernels.cpu.memory import keep_freed
from mmfree_neuro.graph.nodes import Graph
from mmfree_neuro.integers.fixedpoint import Ints
from mmfree_neuro.mapping.mapping import Mapping
from mmfree_neuro.run.activity import Activity
from mmfree_neuro.run.job import Job, Progress, Result, Saving, silent
from mmfree_neuro.run.session import drive
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
        self.tokens = 0

    def reset(self) -> None:
        """Every state to zero."""
        for neurons in self.neurons.values():
            neurons.reset()

    def states(self) -> dict[str, Ints]:
        """The state of every recurrent neuron, by node."""
        held = {name: neurons.program.state for name, neurons in self.neurons.items()}
        return {name: state.astype(np.int64) for name, state in held.items() if state is not None}

    def restore(self, states: dict[str, Ints]) -> None:
        """Go on from such a state."""
        for name, state in states.items():
            mine = self.neurons[name].program.state
            assert mine is not None
            mine[:] = state

    def feed(self, tokens: Ints) -> Int32:
        """The logits [n, vocabulary] after each of n tokens."""
        embedding = self.graph.embedding.name
        signals: dict[tuple[str, str], Int32] = {
            (embedding, p): v for p, v in self.words.fire(tokens).items()
        }
        for name, neurons in self.neurons.items():
            payloads = [
                np.ascontiguousarray(signals[entry.source, entry.source_port][:, first:last])
                for entry, (first, last) in zip(neurons.node.inputs, neurons.spans, strict=True)
            ]
            for port, values in neurons.fire(payloads).items():
                signals[name, port] = values
        self.tokens += len(tokens)
        return signals[self.graph.head.name, "logits"]

    def take_activity(self) -> Activity:
        """The counts since they were last taken."""
        everything: dict[str, EmbeddingNeurons | Neurons] = {
            self.graph.embedding.name: self.words,
            **self.neurons,
        }
        programs = {name: held.program for name, held in everything.items()}
        events = {
            (name, port): n
            for name, program in programs.items()
            for port, n in program.events.items()
        }
        saturated = {name: program.saturated for name, program in programs.items()}
        wrapped = {name: program.wrapped for name, program in programs.items()}
        tokens, self.tokens = self.tokens, 0
        activity = self.counting.of_neurons(events, saturated, wrapped, tokens)
        for program in programs.values():
            forget(program)
        return activity


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
