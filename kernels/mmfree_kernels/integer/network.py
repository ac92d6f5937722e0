"""A whole integer graph on a GPU, or on the CPU through Triton's interpreter: bit for bit what
`nodes` says."""

import operator
from dataclasses import dataclass
from functools import reduce

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from mmfree_kernels.integer.device import find_device, fitting
from mmfree_kernels.integer.neurons import Counts, Neurons, Sending, all_sigmoids
from mmfree_kernels.integer.scores import losses
from mmfree_kernels.integer.walk import Planned, Shape, Walk, plan, read
from mmfree_kernels.ops.bitlinear import digits
from mmfree_kernels.ops.bitlinear.digits import Packed
from mmfree_neuro.graph.machine import REGISTER_BITS
from mmfree_neuro.graph.nodes import MARK, UNREAD, AnyNode, Graph, How, Input, span
from mmfree_neuro.integers.fixedpoint import Ints

_ALIGNED = 16
"""Counts begin at multiples of so many, so that all of them lie alike in memory and one kernel
serves all."""

SATURATED, WRAPPED = "saturated values", "wrapped sums"
"""What nodes count beside their outputs, whose names are no two words."""

MOST_RECORDED = 16
"""Shapes of walks that may have a CUDA graph, the latest; each keeps room for its logits."""

Signal = tuple[str, str]
"""A node and one of its outputs."""


class _Counters:
    """All counts of a graph in one vector for each slot, so that they are read and forgotten at
    once."""

    def __init__(self, graph: Graph, device: torch.device) -> None:
        self.places: dict[Signal, tuple[int, int]] = {}
        at = 0
        for node in graph.nodes:
            sizes = {output.port: output.size for output in node.outputs}
            for port, size in (sizes | dict.fromkeys((SATURATED, WRAPPED), node.size)).items():
                self.places[node.name, port] = at, at + size
                at += -(-size // _ALIGNED) * _ALIGNED
        self.all = torch.zeros((graph.slots, at), dtype=torch.int64, device=device)

    def of(self, node: AnyNode) -> Counts:
        """Where a node counts."""
        events = {output.port: self._view(node.name, output.port) for output in node.outputs}
        saturated, wrapped = (self._view(node.name, what) for what in (SATURATED, WRAPPED))
        return Counts(events, saturated, wrapped, self.all.shape[1])

    def _view(self, name: str, port: str) -> Tensor:
        first, last = self.places[name, port]
        return self.all[:, first:last]

    def take(self, slots: slice) -> tuple[dict[Signal, Ints], dict[str, Ints], dict[str, Ints]]:
        """Non-zero values by output, and saturations and wrapped sums by node, neuron by neuron, of
        tokens in some slots since they were last taken."""
        taken = self.all[slots].sum(0).cpu().numpy()
        self.all[slots].zero_()
        events: dict[Signal, Ints] = {}
        of_nodes: dict[str, dict[str, Ints]] = {SATURATED: {}, WRAPPED: {}}
        for (name, what), (first, last) in self.places.items():
            counted = taken[first:last]
            if what in of_nodes:
                of_nodes[what][name] = counted
            else:
                events[name, what] = counted
        return events, of_nodes[SATURATED], of_nodes[WRAPPED]


def _lying(graph: Graph) -> dict[Signal, Sending]:
    """How every signal lies in memory: in digits where nobody reads it but ternary products; of 32
    bits where it is summed, as torch would make a copy otherwise."""
    readers: dict[Signal, set[How]] = {}
    for node in graph.nodes:
        for entry in node.inputs:
            if entry.port not in UNREAD:
                readers.setdefault((entry.source, entry.source_port), set()).add(entry.how)
    found = {}
    for node in graph.nodes:
        for output in node.outputs:
            hows = readers.get((node.name, output.port), set())
            bits = REGISTER_BITS if "sum" in hows else output.qtype.bits
            found[node.name, output.port] = Sending(bits, hows == {"ternary"})
    return found


class _Step:
    """A node, the ternary matrices that it reads through, and what nobody reads after it."""

    def __init__(self, graph: Graph, node: AnyNode, neurons: Neurons, device: torch.device) -> None:
        self.node, self.neurons, self.done = node, neurons, list[Signal]()
        self.matrices = {e: Packed(e.matrix, device) for e in node.inputs if e.matrix is not None}
        sources = {e: graph.node(e.source).output(e.source_port) for e in node.inputs}
        self.bits = {e: source.qtype.bits for e, source in sources.items()}
        self.spans = {
            e: slice(*span(node, e, 0, node.size, source.size)) for e, source in sources.items()
        }

    def arrived(self, entry: Input, values: Tensor, scratch: Tensor) -> Tensor:
        """What one input brings, [tokens, width], from what its source sent."""
        if entry.how == "ternary":
            matrix, columns = self.matrices[entry], self.spans[entry]
            read = values if values.ndim == 3 else digits.split(values, self.bits[entry])
            return matrix.product(digits.part(read, columns), scratch)[:, : self.node.size]
        if entry.how == "sum":
            return values[:, self.spans[entry]].sum(1, keepdim=True, dtype=torch.int32)
        return values

    def fire(self, signals: dict[Signal, Tensor], walk: Walk, scratch: Tensor) -> None:
        """Add what the node sends to the signals."""
        inputs = {
            port: reduce(
                operator.add,
                [self.arrived(e, signals[e.source, e.source_port], scratch) for e in entries],
            )
            for port, entries in self.node.ports.items()
            if port not in UNREAD
        }
        sent = self.neurons.run(inputs, walk)
        signals |= {(self.node.name, port): values for port, values in sent.items()}
        for signal in self.done:
            del signals[signal]


@dataclass
class _Played:
    """The CUDA graph of walks of one shape."""

    numbers: Tensor
    graph: torch.cuda.CUDAGraph | None = None
    sent: Tensor | None = None
    """What goes to the host."""


class Network:
    """A graph's neurons with the states of the sequences in its slots, and their counts.

    On a GPU, what is done for tokens is a CUDA graph from the second time on that there are as many
    of as many sequences.
    """

    @fitting()
    def __init__(self, graph: Graph) -> None:
        self.device = device = find_device()
        self.embedding, self.logit_scale = graph.embedding, graph.logit_scale
        self.to_host: Signal = graph.to_host[0], graph.to_host[1].port
        self.counters = _Counters(graph, device)
        copied = np.array(self.embedding.codes)  # they may be a mapped file
        self.codes = torch.from_numpy(copied).to(device)
        self.scales = torch.from_numpy(self.embedding.scales.astype(np.int32)).to(device)
        sigmoids, lying = all_sigmoids(graph.sigmoid, device), _lying(graph)
        self.words, *others = (
            Neurons(
                node,
                graph.sigmoid,
                sigmoids,
                self.counters.of(node),
                graph.accumulator_bits,
                {port: how for (name, port), how in lying.items() if name == node.name},
            )
            for node in graph.nodes
        )
        self.steps = [
            _Step(graph, node, neurons, device)
            for node, neurons in zip(graph.nodes[1:], others, strict=True)
        ]
        last = {
            (e.source, e.source_port): step
            for step in self.steps
            for e in step.node.inputs
            if e.port not in UNREAD
        }
        for signal, step in last.items():
            step.done.append(signal)
        largest = max(matrix.size for step in self.steps for matrix in step.matrices.values())
        self.scratch = torch.empty(largest, dtype=torch.int8, device=device)
        self.states = {
            s.node.name: s.neurons.state for s in self.steps if s.neurons.state is not None
        }
        self.recorded: dict[Shape, _Played] = {}
        self.pool = torch.cuda.graph_pool_handle() if device.type == "cuda" else None

    @fitting()
    def feed(self, tokens: Ints, marks: Ints) -> NDArray[np.int32]:
        """What goes to the host after each of n tokens with these marks: the logits
        [n, vocabulary], or the words that the graph chooses [n, 1]."""
        planned = plan(tokens, marks)
        sent = self._sent(planned)
        room = torch.empty(sent.shape, dtype=torch.int32, pin_memory=sent.is_cuda)
        found = room.copy_(sent).numpy()
        return found if planned.order is None else found[np.argsort(planned.order)]

    @fitting()
    def score(
        self, tokens: Ints, marks: Ints, at: Ints, following: Ints
    ) -> tuple[NDArray[np.float64], Ints]:
        """What is lost in nats on each of m tokens that followed those of n tokens that `at` [m]
        says, and what would have been chosen there; nothing else leaves the device."""
        planned = plan(tokens, marks)
        if planned.order is not None:
            at = np.argsort(planned.order)[at]
        asked = torch.from_numpy(np.stack([at, following]).astype(np.int32)).to(self.device)
        nats, chosen = losses(self._sent(planned), asked[0], asked[1], self.logit_scale)
        return nats.cpu().numpy(), chosen.cpu().numpy().astype(np.int64)

    def reset(self) -> None:
        """All states to zero."""
        for state in self.states.values():
            state.zero_()

    def held(self) -> dict[str, Ints]:
        """The states [slots, neurons] of every recurrent node."""
        return {name: state.cpu().numpy().astype(np.int64) for name, state in self.states.items()}

    def hold(self, states: dict[str, Ints]) -> None:
        """Go on from such states."""
        for name, state in states.items():
            self.states[name].copy_(torch.from_numpy(state.astype(np.int32)))

    def _sent(self, planned: Planned) -> Tensor:
        """What goes to the host of a walk, while it is on the device: at first as any, as kernels
        are compiled then; recorded the second time; from then on played."""
        numbers = torch.from_numpy(planned.numbers)
        played = self.recorded.pop(planned.shape, None)  # and back as the latest
        if played is None or self.device.type != "cuda":
            numbers = numbers.to(self.device)
            if len(self.recorded) == MOST_RECORDED:
                del self.recorded[next(iter(self.recorded))]
            self.recorded[planned.shape] = _Played(numbers)
            return self._forward(read(numbers, planned.shape))
        self.recorded[planned.shape] = played
        played.numbers.copy_(numbers)
        if played.graph is None:
            graph = torch.cuda.CUDAGraph()
            with torch.cuda.graph(graph, pool=self.pool):
                played.sent = self._forward(read(played.numbers, planned.shape))
            played.graph = graph
        played.graph.replay()
        assert played.sent is not None
        return played.sent

    def _forward(self, walk: Walk) -> Tensor:
        """What goes to the host of a walk."""
        arrived = {
            "x": self.codes[walk.tokens],
            "scale": self.scales[walk.tokens][:, None],
            MARK: walk.marks[:, None],
        }
        sent = self.words.run({name: arrived[name] for name in self.embedding.reads}, walk)
        signals = {(self.embedding.name, port): values for port, values in sent.items()}
        for step in self.steps:
            step.fire(signals, walk, self.scratch)
        return signals[self.to_host]
