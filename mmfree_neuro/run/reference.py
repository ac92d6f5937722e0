"""The reference engine: slow, obvious, and the meaning of a graph.

One token at a time, one node after another, every sum as a plain int64 product, every register
checked.  Where another engine differs, the other engine is wrong.
"""

import operator
import time
from dataclasses import replace
from functools import reduce

import numpy as np

from mmfree_neuro.graph import programs
from mmfree_neuro.graph.machine import CheckedMachine, Value
from mmfree_neuro.graph.nodes import AnyNode, Graph, Input, slots_of, span
from mmfree_neuro.integers.fixedpoint import Ints, fit, wrapped
from mmfree_neuro.integers.ternary import Codes
from mmfree_neuro.mapping.mapping import Mapping, Shard
from mmfree_neuro.run.activity import Activity, nothing
from mmfree_neuro.run.job import Job, Progress, Result, Saving, silent
from mmfree_neuro.run.session import drive, marked

Signals = dict[tuple[str, str], Ints]
"""What every node sent for one token, by node and port."""


class Reference:
    """A session of the reference engine; counts are those of `mapping`."""

    def __init__(self, graph: Graph, mapping: Mapping) -> None:
        self.graph, self.mapping = graph, mapping
        self.matrices: dict[Input, Codes] = {
            entry: entry.matrix.codes()
            for node in graph.nodes
            for entry in node.inputs
            if entry.matrix is not None
        }
        self.counted = [nothing(mapping) for _ in range(graph.slots)]
        self.held: dict[str, Ints] = {}
        self.reset()

    def reset(self) -> None:
        """Every state to zero."""
        self.held = {
            n.name: np.zeros((n.state_slots, n.size), np.int64)
            for n in self.graph.nodes
            if n.state_type is not None
        }

    def states(self) -> dict[str, Ints]:
        """The states [slots, neurons] of every recurrent node."""
        return {name: state.copy() for name, state in self.held.items()}

    def restore(self, states: dict[str, Ints]) -> None:
        """Go on from such states."""
        self.held = {name: state.copy() for name, state in states.items()}

    def take_activity(self, slot: int = 0) -> Activity:
        """The counts of tokens in a slot since they were last taken."""
        taken, self.counted[slot] = self.counted[slot], nothing(self.mapping)
        return taken

    def feed(self, tokens: Ints, marks: Ints | None = None) -> Ints:
        """What goes to the host after each of n tokens, as `Session.feed` gives it."""
        pairs = zip(tokens.tolist(), marked(tokens, marks).tolist(), strict=True)
        return np.stack([self.token(token, mark) for token, mark in pairs])

    def token(self, token: int, mark: int) -> Ints:
        """What goes to the host after one token: the logits [vocabulary], or the word [1]."""
        if self.graph.slots == 1 and mark & 1:
            self.reset()
        signals: Signals = {}
        before = dict(self.held)
        for node in self.graph.nodes:
            machine = CheckedMachine(node.name)
            inputs = self.inputs(node, signals, token, mark)
            sent, state = programs.run(
                machine, node, self.graph.sigmoid, node.constants, inputs, self.held.get(node.name)
            )
            if state is not None:
                self.held[node.name] = state
            for output in node.outputs:
                values = np.broadcast_to(sent[output.port], output.size)
                signals[node.name, output.port] = fit(
                    values, output.qtype, f"{node.name}: output {output.port}", output.low
                )
        self.count(signals, token, mark, before)
        name, output = self.graph.to_host
        return signals[name, output.port]

    def inputs(self, node: AnyNode, signals: Signals, token: int, mark: int) -> dict[str, Value]:
        """What the neurons of a node read: every sum as its accumulator holds it."""
        if not node.inputs:
            return {**self.graph.embedding.read(np.array(token), np.array(mark))}
        held = self.sums(node, signals)
        bits = self.graph.accumulator_bits
        return held | {port: wrapped(held[port], bits) for port in node.calibrated}

    def sums(self, node: AnyNode, signals: Signals) -> dict[str, Value]:
        """What arrives at the ports of a node, exact."""
        found = {}
        for port, entries in node.ports.items():
            arrived = [
                self.arrived(node, entry, signals[entry.source, entry.source_port])
                for entry in entries
            ]
            found[port] = reduce(operator.add, arrived)
        return found

    def arrived(self, node: AnyNode, entry: Input, source: Ints) -> Value:
        """One input of a node, for all of its neurons."""
        match entry.how:
            case "ternary":
                first, last = span(node, entry, 0, node.size, source.size)
                return _product(self.matrices[entry], source[first:last])
            case "sum":
                first, last = span(node, entry, 0, node.size, source.size)
                return np.full(node.size, source[first:last].sum())
            case "group":
                padded = np.zeros(node.size * node.group, np.int64)
                padded[: source.size] = source
                return list(padded.reshape(node.size, node.group).T)
            case "broadcast":
                return np.full(node.size, source[0])
            case "aligned":
                return source

    def count(self, signals: Signals, token: int, mark: int, before: dict[str, Ints]) -> None:
        """Add one token to the counts of its slot."""
        slot, nodes = int(slots_of(np.array(mark))), {node.name: node for node in self.graph.nodes}
        activity = self.counted[slot]
        for position, shard in enumerate(self.mapping.shards):
            node = nodes[shard.node]
            synops, reads = self.synapses(node, shard, signals)
            activity.fired[position] += 1
            activity.synops[position] += synops
            activity.reads[position] += reads
            inputs = self.inputs(node, signals, token, mark)
            activity.saturations[position] += self.saturations(node, shard, inputs, before)
            activity.wrapped[position] += self.wrapped(node, shard, signals)
        for position, route in enumerate(self.mapping.routes):
            values = signals[self.mapping.shards[route.source].node, route.port]
            activity.messages[position] += np.count_nonzero(values[route.start : route.stop])
        self.counted[slot] = replace(activity, tokens=activity.tokens + 1)

    def synapses(self, node: AnyNode, shard: Shard, signals: Signals) -> tuple[int, int]:
        """Synaptic operations and dense reads of one shard for one token."""
        synops = reads = 0
        for entry in node.inputs:
            source = signals[entry.source, entry.source_port]
            first, last = span(node, entry, shard.start, shard.stop, source.size)
            active = source[first:last] != 0
            if entry.how == "ternary":
                rows = self.matrices[entry][shard.start : shard.stop]
                synops += int(np.count_nonzero(rows[:, active]))
                reads += int(active.sum()) * shard.size
            else:
                each = shard.size if entry.reaches_all else 1
                synops += int(active.sum()) * each
                reads += int(active.sum()) * each
        return synops, reads

    def wrapped(self, node: AnyNode, shard: Shard, signals: Signals) -> int:
        """How many sums of one shard did not fit their accumulators for one token."""
        if not node.calibrated:
            return 0
        bits, sums = self.graph.accumulator_bits, self.sums(node, signals)
        exact = [sums[port][shard.start : shard.stop] for port in node.calibrated]
        return sum(int(np.count_nonzero(wrapped(one, bits) != one)) for one in exact)

    def saturations(
        self, node: AnyNode, shard: Shard, inputs: dict[str, Value], before: dict[str, Ints]
    ) -> int:
        """How many values one shard saturated for one token: its neurons' programs run again by
        themselves."""
        machine = CheckedMachine(node.name)
        here = slice(shard.start, shard.stop)
        own = {name: values[here] for name, values in node.constants.items()}
        state = before[node.name][:, here] if node.name in before else None
        sliced = {port: _slice(value, here, node.size) for port, value in inputs.items()}
        programs.run(machine, node, self.graph.sigmoid, own, sliced, state)
        return machine.saturations


def _product(codes: Codes, source: Ints) -> Ints:
    """The sums of a ternary matrix, in pieces, since every piece is widened to int64."""
    pieces = [codes[at : at + 256].astype(np.int64) @ source for at in range(0, len(codes), 256)]
    return np.concatenate(pieces)


def _slice(value: Value, here: slice, size: int) -> Value:
    if isinstance(value, list):
        return [_slice(v, here, size) for v in value]
    return value[here] if value.size == size else value


def run(
    graph: Graph,
    mapping: Mapping,
    job: Job,
    progress: Progress = silent,
    saving: Saving | None = None,
) -> Result:
    """Run a job on the reference engine."""
    begin = time.monotonic()
    session = Reference(graph, mapping)
    return drive(graph, session, job, 1, progress, time.monotonic() - begin, saving)
