"""The fast engine: one process, whole nodes at a time, many tokens at once in prefill."""

import time

import numpy as np

from mmfree_neuro import programs
from mmfree_neuro.activity import Activity, nothing
from mmfree_neuro.fixedpoint import Ints
from mmfree_neuro.ir import AnyNode, Embedding, Graph, Input, constants, span
from mmfree_neuro.job import Job, Report, Result, drive, silent
from mmfree_neuro.mapping import Mapping, Shard
from mmfree_sims.neurons import Neurons, VectorMachine

CHUNK = 128
"""Tokens that are computed together in prefill."""

Events = dict[tuple[str, str], Ints]
"""How many non-zero payloads each neuron sent, by node and port."""


class Fast:
    """A session of the fast engine; counts are those of `mapping`."""

    def __init__(self, graph: Graph, mapping: Mapping) -> None:
        self.graph, self.mapping = graph, mapping
        self.neurons = {node.name: Neurons(graph, node, 0, node.size) for node in graph.nodes[1:]}
        self.machine = VectorMachine(graph.embedding.size)
        self.columns = _column_synapses(graph, mapping)
        self.events: Events = {}
        self.saturated: dict[str, Ints] = {}
        self.tokens = 0
        self._forget()

    def _forget(self) -> None:
        self.tokens = 0
        self.events = {
            (node.name, output.port): np.zeros(output.size, np.int64)
            for node in self.graph.nodes for output in node.outputs
        }  # fmt: skip

    def reset(self) -> None:
        """Every state to zero."""
        for neurons in self.neurons.values():
            neurons.reset()

    def feed(self, tokens: Ints) -> Ints:
        """The logits [n, vocabulary] after each of n tokens."""
        embedding: Embedding = self.graph.embedding
        rows = embedding.table[tokens] if len(tokens) > 1 else embedding.table[tokens[0]]
        sent, _ = programs.run(self.machine, embedding, self.graph.sigmoid, constants(embedding), {"x": rows})
        signals = {(embedding.name, port): values for port, values in sent.items()}
        for name, neurons in self.neurons.items():
            node = neurons.node
            payloads = {entry.port: signals[entry.source, entry.source_port] for entry in node.inputs}
            for port, values in neurons.fire(payloads).items():
                signals[name, port] = values
        for key, values in signals.items():
            self.events[key] += np.count_nonzero(values, axis=0) if values.ndim == 2 else values != 0
        self.tokens += len(tokens)
        logits = signals[self.graph.head.name, "logits"]
        return logits if logits.ndim == 2 else logits[None]

    def take_activity(self) -> Activity:
        """The counts since they were last taken."""
        activity = nothing(self.mapping)
        saturated = {name: neurons.take_saturations() for name, neurons in self.neurons.items()}
        saturated[self.graph.embedding.name] = self.machine.saturated.copy()
        self.machine.saturated[:] = 0
        for position, shard in enumerate(self.mapping.shards):
            activity.saturations[position] = saturated[shard.node][shard.start : shard.stop].sum()
            for key, first, last, synapses, rows in self.columns[position]:
                events = self.events[key][first:last]
                activity.synops[position] += events @ synapses
                activity.reads[position] += events.sum() * rows
        for position, route in enumerate(self.mapping.routes):
            source = self.mapping.shards[route.source].node, route.port
            activity.messages[position] = self.events[source][route.start : route.stop].sum()
        activity.fired[:] = self.tokens
        taken = Activity(self.tokens, *activity.arrays()[1:])
        self._forget()
        return taken


Column = tuple[tuple[str, str], int, int, Ints, int]
"""An input of a shard: its source and span, the non-zero synapses of each column, the rows that a dense read takes."""


def _column_synapses(graph: Graph, mapping: Mapping) -> list[list[Column]]:
    return [
        [_column(graph, graph.node(shard.node), entry, shard) for entry in graph.node(shard.node).inputs]
        for shard in mapping.shards
    ]


def _column(graph: Graph, node: AnyNode, entry: Input, shard: Shard) -> Column:
    source = graph.node(entry.source).output(entry.source_port)
    first, last = span(node, entry, shard.start, shard.stop, source.size)
    key = entry.source, entry.source_port
    if entry.matrix is not None:
        return key, first, last, np.count_nonzero(entry.matrix[shard.start : shard.stop], axis=0), shard.size
    each = shard.size if entry.how == "broadcast" else 1
    return key, first, last, np.full(last - first, each), each


def run(graph: Graph, mapping: Mapping, job: Job, report: Report = silent) -> Result:
    """Run a job on the fast engine."""
    begin = time.monotonic()
    session = Fast(graph, mapping)
    return drive(graph, session, job, CHUNK, report, time.monotonic() - begin)
