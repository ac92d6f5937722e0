"""A whole integer graph on a GPU, or on the CPU through Triton's interpreter: bit for bit what
`nodes` says."""

import operator
from dataclasses import dataclass
from functools import reduce

import numpy as np
import torch
import triton
from numpy.typing import NDArray
from torch import Tensor

from mmfree_kernels.integer.neurons import Counts, Neurons, all_sigmoids
from mmfree_kernels.integer.products import Packed
from mmfree_neuro.errors import EngineError
from mmfree_neuro.graph.nodes import MARK, AnyNode, Graph, Input, slots_of, span
from mmfree_neuro.integers.fixedpoint import Ints

_ALIGNED = 16
"""Counts begin at multiples of so many, so that all of them lie alike in memory and one kernel
serves all."""

SATURATED, WRAPPED = "saturated values", "wrapped sums"
"""What nodes count beside their outputs, whose names are no two words."""

Signal = tuple[str, str]
"""A node and one of its outputs."""


def find_device() -> torch.device:
    """Where kernels run: a GPU, or the CPU where Triton's interpreter is on; EngineError without
    either."""
    if triton.knobs.runtime.interpret:
        return torch.device("cpu")
    if not torch.cuda.is_available():
        raise EngineError(
            "engine gpu: torch finds no GPU on this machine, must find one; engine fast gives "
            "the same on the CPU"
        )
    return torch.device("cuda")


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

    def take(self, slot: int) -> tuple[dict[Signal, Ints], dict[str, Ints], dict[str, Ints]]:
        """Non-zero values by output, and saturations and wrapped sums by node, neuron by neuron, of
        tokens in a slot since they were last taken."""
        taken = self.all[slot].cpu().numpy().copy()
        self.all[slot].zero_()
        events: dict[Signal, Ints] = {}
        of_nodes: dict[str, dict[str, Ints]] = {SATURATED: {}, WRAPPED: {}}
        for (name, what), (first, last) in self.places.items():
            counted = taken[first:last]
            if what in of_nodes:
                of_nodes[what][name] = counted
            else:
                events[name, what] = counted
        return events, of_nodes[SATURATED], of_nodes[WRAPPED]


class _Step:
    """A node, the ternary matrices that it reads through, and what nobody reads after it."""

    def __init__(self, graph: Graph, node: AnyNode, sigmoids: Tensor, counters: _Counters) -> None:
        self.node, self.done = node, list[Signal]()
        self.counts, self.accumulator_bits = counters.of(node), graph.accumulator_bits
        self.neurons = Neurons(node, graph.sigmoid, sigmoids, self.counts)
        self.matrices = {
            e: Packed(e.matrix, sigmoids.device) for e in node.inputs if e.matrix is not None
        }
        sources = {e: graph.node(e.source).output(e.source_port) for e in node.inputs}
        self.bits = {e: source.qtype.bits for e, source in sources.items()}
        self.spans = {
            e: slice(*span(node, e, 0, node.size, source.size)) for e, source in sources.items()
        }

    def arrived(self, entry: Input, values: Tensor) -> Tensor:
        """What one input brings, int32 [tokens, width], from what its source sent."""
        if entry.how == "ternary":
            return self.matrices[entry].product(values[:, self.spans[entry]], self.bits[entry])
        if entry.how == "sum":
            return values[:, self.spans[entry]].sum(1, keepdim=True, dtype=torch.int32)
        return values

    def held(self, sums: Tensor, slots: Tensor) -> Tensor:
        """Sums [tokens, neurons] as accumulators hold them; those that change are counted.

        Nothing is asked of the device on the way, so that a recorded token can do it, too.
        """
        sign = 1 << (self.accumulator_bits - 1)
        kept = ((sums & (2 * sign - 1)) ^ sign) - sign
        self.counts.wrapped.index_add_(0, slots, (kept != sums).long())
        return kept

    def fire(self, signals: dict[Signal, Tensor], slots: Tensor) -> None:
        """Add what the node sends to the signals; `slots` [tokens] says where each token counts."""
        inputs = {
            port: reduce(
                operator.add, [self.arrived(e, signals[e.source, e.source_port]) for e in entries]
            )
            for port, entries in self.node.ports.items()
        }
        inputs |= {port: self.held(inputs[port], slots) for port in self.node.calibrated}
        sent = self.neurons.run(inputs, slots)
        signals |= {(self.node.name, port): values for port, values in sent.items()}
        for signal in self.done:
            del signals[signal]


@dataclass
class _Together:
    """The CUDA graph of one token of each of some sequences."""

    given: Tensor  # [2, sequences], tokens and marks
    played: torch.cuda.CUDAGraph | None = None
    sent: Tensor | None = None
    """What goes to the host."""


class Network:
    """A graph's neurons with the states of the sequences in its slots, and their counts.

    On a GPU one token of each of some sequences is a CUDA graph from the second time on that there
    are as many.
    """

    def __init__(self, graph: Graph) -> None:
        self.device = device = find_device()
        self.embedding = graph.embedding
        self.to_host: Signal = graph.to_host[0], graph.to_host[1].port
        self.counters = _Counters(graph, device)
        self.codes = torch.from_numpy(np.array(self.embedding.codes)).to(
            device
        )  # a copy, as it may be a map
        self.scales = torch.from_numpy(self.embedding.scales.astype(np.int32)).to(device)
        sigmoids = all_sigmoids(graph.sigmoid, device)
        self.words = Neurons(
            self.embedding, graph.sigmoid, sigmoids, self.counters.of(self.embedding)
        )
        self.steps = [_Step(graph, node, sigmoids, self.counters) for node in graph.nodes[1:]]
        last = {(e.source, e.source_port): step for step in self.steps for e in step.node.inputs}
        for signal, step in last.items():
            step.done.append(signal)
        self.states = {
            s.node.name: s.neurons.state for s in self.steps if s.neurons.state is not None
        }
        self.recorded: dict[int, _Together] = {}

    def feed(self, tokens: Ints, marks: Ints) -> NDArray[np.int32]:
        """What goes to the host after each of n tokens with these marks: the logits
        [n, vocabulary], or the words that the graph chooses [n, 1]."""
        given = torch.from_numpy(np.stack([tokens, marks]).astype(np.int64)).to(self.device)
        alone = len(set(slots_of(marks).tolist())) == len(tokens)
        sent = self._together(given) if alone else self._forward(given)
        found: NDArray[np.int32] = sent.cpu().numpy()
        return found

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

    def _forward(self, given: Tensor) -> Tensor:
        """What goes to the host of tokens and marks [2, n]."""
        tokens, marks = given
        slots = ((marks >> 1) - 1).to(torch.int32)
        read = {
            "x": self.codes[tokens].to(torch.int32),
            "scale": self.scales[tokens][:, None],
            MARK: marks[:, None].to(torch.int32),
        }
        sent = self.words.run({name: read[name] for name in self.embedding.reads}, slots)
        signals = {(self.embedding.name, port): values for port, values in sent.items()}
        for step in self.steps:
            step.fire(signals, slots)
        return signals[self.to_host]

    def _together(self, given: Tensor) -> Tensor:
        """One token of each of some sequences: at first as any, as kernels are compiled then;
        recorded the second time; from then on played."""
        count = given.shape[1]
        if self.device.type != "cuda":
            return self._forward(given)
        if count not in self.recorded:
            self.recorded[count] = _Together(given.clone())
            return self._forward(given)
        together = self.recorded[count]
        together.given.copy_(given)
        if together.played is None:
            played = torch.cuda.CUDAGraph()
            with torch.cuda.graph(played):
                together.sent = self._forward(together.given)
            together.played = played
        together.played.replay()
        assert together.sent is not None
        return together.sent
