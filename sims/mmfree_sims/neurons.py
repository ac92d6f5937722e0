"""Some neurons of one node, ready to fire: what the engines are made of.

Payloads are int32 arrays [tokens, n].  Ternary sums and neuron programs are those of
`mmfree_kernels.cpu`.
"""

from collections.abc import Sequence

import numpy as np
from numpy.typing import NDArray

from mmfree_kernels.cpu import programs as cpu
from mmfree_kernels.cpu.products import product
from mmfree_neuro.graph.nodes import AnyNode, Embedding, Graph, Input, slots_of, span
from mmfree_neuro.integers.fixedpoint import Ints, wrapped
from mmfree_neuro.integers.ternary import TernaryMatrix

Int32 = NDArray[np.int32]
Sent = dict[str, Int32]
"""What neurons sent, by port."""

_DIGIT_BITS = 15


def forget(program: cpu.Neurons, slots: int | slice) -> None:
    """The counts of a program in some slots to zero."""
    for counts in (program.saturated, program.wrapped, *program.events.values()):
        counts[slots] = 0


class Neurons:
    """The neurons `start` … `stop` - 1 of a node: constants, synapses, the states of sequences,
    and counts."""

    def __init__(
        self, graph: Graph, node: AnyNode, start: int, stop: int, threads: int = 1
    ) -> None:
        self.node, self.start, self.stop, self.threads = node, start, stop, threads
        self.accumulator_bits = graph.accumulator_bits
        own = {name: values[start:stop] for name, values in node.constants.items()}
        self.program = cpu.bind(
            node, graph.sigmoid, own, stop - start, slots=graph.slots, threads=threads
        )
        sources = [graph.node(entry.source).output(entry.source_port) for entry in node.inputs]
        self.spans = [
            span(node, e, start, stop, source.size)
            for e, source in zip(node.inputs, sources, strict=True)
        ]
        """Which of its source's values each input needs."""
        self.bits = [source.qtype.bits for source in sources]

    def reset(self) -> None:
        """All states to zero."""
        if self.program.state is not None:
            self.program.state[:] = 0

    def fire(self, payloads: Sequence[Int32], slots: Int32) -> Sent:
        """What the neurons send for the payloads [tokens, span] of every input, in order, each
        array contiguous; `slots` [tokens] says where each token counts."""
        inputs: dict[str, cpu.Stream] = {}
        for entry, bits, values in zip(self.node.inputs, self.bits, payloads, strict=True):
            arrived = self.arrived(entry, values, bits)
            if entry.port in inputs:  # only what has one value for each neuron shares a port
                both = inputs[entry.port][0] + arrived[entry.port][0]
                arrived = {entry.port: (both, 0, inputs[entry.port][2])}
            inputs |= arrived
        for port in self.node.calibrated:
            sums, first, stride = inputs[port]
            inputs[port] = self.held(sums, slots), first, stride
        return self.program.run(inputs, slots)

    def held(self, sums: Int32, slots: Int32) -> Int32:
        """Sums [tokens, neurons] as accumulators hold them; those that change are counted."""
        high = (1 << (self.accumulator_bits - 1)) - 1
        if sums.max() <= high and sums.min() >= -high - 1:
            return sums
        kept = wrapped(sums, self.accumulator_bits)
        np.add.at(self.program.wrapped, slots, kept != sums)
        return kept

    def arrived(self, entry: Input, payloads: Int32, bits: int) -> dict[str, cpu.Stream]:
        """What the program reads of the payloads at one input."""
        match entry.how:
            case "ternary":
                assert entry.matrix is not None
                return {entry.port: (self.sums(entry.matrix, payloads, bits), 0, 1)}
            case "sum":
                return {entry.port: (payloads.sum(1, dtype=np.int32, keepdims=True), 0, 0)}
            case "group":
                arity = self.node.group
                padded = np.zeros((len(payloads), (self.stop - self.start) * arity), np.int32)
                padded[:, : payloads.shape[1]] = payloads
                return {f"{entry.port}/{k}": (padded, k, arity) for k in range(arity)}
            case "broadcast":
                return {entry.port: (payloads, 0, 0)}
            case "aligned":
                return {entry.port: (payloads, 0, 1)}

    def sums(self, matrix: TernaryMatrix, payloads: Int32, bits: int) -> Int32:
        """The ternary sums [tokens, neurons]; payloads wider than 16 bits go digit by digit."""
        if bits <= 16:
            width = 8 if bits <= 8 else 16
            return product(matrix, payloads, width, self.start, self.stop, threads=self.threads)
        total: Ints = np.zeros((len(payloads), self.stop - self.start), np.int64)
        for number, digit in enumerate(_digits(payloads)):
            sums = product(matrix, digit, 16, self.start, self.stop, threads=self.threads)
            total += sums.astype(np.int64) << (_DIGIT_BITS * number)
        return total.astype(np.int32)


def _digits(x: Int32) -> list[Int32]:
    """Digits of x to the base 2^15, lowest first, all but the last not negative."""
    mask = (1 << _DIGIT_BITS) - 1
    return [x & mask, (x >> _DIGIT_BITS) & mask, x >> (2 * _DIGIT_BITS)]


class EmbeddingNeurons:
    """The embedding, ready for tokens."""

    def __init__(self, graph: Graph) -> None:
        self.node: Embedding = graph.embedding
        self.program = cpu.bind(
            self.node, graph.sigmoid, self.node.constants, self.node.size, slots=graph.slots
        )

    def fire(self, tokens: Ints, marks: Ints) -> Sent:
        """What the embedding sends for n tokens with these marks."""
        read = {
            name: np.ascontiguousarray(values, np.int32)
            for name, values in self.node.read(tokens, marks).items()
        }
        inputs = {name: (array, 0, self.node.stride(name)) for name, array in read.items()}
        return self.program.run(inputs, slots_of(marks).astype(np.int32))
