"""The neurons of one node on a device: a generated kernel, its parameters, constants, tables, state
and counts."""

from collections.abc import Mapping
from dataclasses import dataclass

import numpy as np
import torch
import triton
from torch import Tensor

from mmfree_kernels.integer.source import Stream, compiled, write
from mmfree_kernels.integer.walk import PIECE, Walk
from mmfree_kernels.ops.bitlinear import digits
from mmfree_neuro.graph.machine import REGISTER_BITS, Machine
from mmfree_neuro.graph.nodes import AnyNode
from mmfree_neuro.graph.recorder import record
from mmfree_neuro.integers.fixedpoint import Ints
from mmfree_neuro.integers.tables import SIGMOID_INPUT_BITS, SIGMOID_INPUT_FRAC, SigmoidTable

LANES = 256
"""Pairs of a token and a neuron that a program of a kernel computes at once, at most."""
NEURONS = 256
"""Neurons among them, at most."""
LANES_OF_A_WARP = 64
MOST_VALUES = 1 << 30
"""Values of an array that a kernel numbers; with some lanes more the numbers still fit 31 bits."""


def on_device(values: Ints, device: torch.device) -> Tensor:
    """The same integers as int32 on a device; ValueError where one does not fit."""
    narrow = values.astype(np.int32)
    if not np.array_equal(narrow, values):
        raise ValueError("a constant of a program does not fit 32 bits")
    return torch.from_numpy(narrow).to(device)


def all_sigmoids(table: SigmoidTable, device: torch.device) -> Tensor:
    """σ of every magnitude that a sigmoid reads, by the sigmoid's own program."""
    magnitudes = np.arange(1 << SIGMOID_INPUT_BITS, dtype=np.int64)
    return on_device(Machine().sigmoid(magnitudes, SIGMOID_INPUT_FRAC, table), device)


@dataclass(frozen=True)
class Counts:
    """What neurons counted, int64 [slots, neurons]: non-zero values sent, by output, saturated
    values, and sums that did not fit their accumulators; from slot to slot all lie `stride` numbers
    apart."""

    events: dict[str, Tensor]
    saturated: Tensor
    wrapped: Tensor
    stride: int


@dataclass(frozen=True)
class Sending:
    """How an output lies in memory: whole values [tokens, neurons], or digits
    [digits, tokens, padded neurons]."""

    bits: int
    """Of its format with the sign, or more."""
    in_digits: bool = False

    @property
    def digits(self) -> int:
        """How many arrays of digits there are; 1 where values are whole."""
        return digits.count(self.bits) if self.in_digits else 1

    @property
    def dtype(self) -> torch.dtype:
        """The narrowest that holds a value, or a digit."""
        if self.in_digits or self.bits <= 8:
            return torch.int8
        return torch.int16 if self.bits <= 16 else torch.int32

    def empty(self, tokens: int, size: int, device: torch.device) -> Tensor:
        """Room for what is sent; rows are padded."""
        shape = self.digits, tokens, digits.padded(size)
        room = torch.empty(shape, dtype=self.dtype, device=device)
        return room if self.in_digits else room[0, :, :size]


class Neurons:
    """All neurons of a node; `run` is their program on tokens.

    `sigmoids` are those of `all_sigmoids`; `sending` says how outputs lie in memory, by port, whole
    unless told; sums that calibration holds wrap in accumulators of `accumulator_bits`.
    """

    def __init__(
        self,
        node: AnyNode,
        table: SigmoidTable,
        sigmoids: Tensor,
        counts: Counts,
        accumulator_bits: int = REGISTER_BITS,
        sending: Mapping[str, Sending] | None = None,
    ) -> None:
        program, own, device = record(node, table), node.constants, sigmoids.device
        self.name, self.size, self.counts = node.name, node.size, counts
        whole = {port: Sending(node.output(port).qtype.bits) for port in program.outputs}
        self.outputs = whole if sending is None else sending
        self.ports = node.reads
        streams = tuple(
            _stream(node, name, self.ports, accumulator_bits) for name in program.inputs
        )
        digits_of = tuple(sent.digits for sent in self.outputs.values())
        kernel = write(type(node).__name__.lower(), program, streams, digits_of)
        self.kernel, self.parameters = compiled(kernel.name, kernel.text), kernel.parameters
        values = [*(own[name] for name in program.constants), *program.tables]
        self.fixed = [*(on_device(array, device) for array in values), sigmoids]
        shape = program.slots, node.size
        self.state = torch.zeros(shape, dtype=torch.int32, device=device) if program.slots else None
        self.together = min(NEURONS, triton.next_power_of_2(node.size))
        """Neurons of a program of the kernel."""

    def run(self, inputs: Mapping[str, Tensor], walk: Walk) -> dict[str, Tensor]:
        """What the neurons send for the tokens of a walk, by output, each as its `Sending` says.

        An input is [tokens, width] of integers of up to 32 bits, its rows in one piece: a value for
        each neuron, one for all, or the values of groups.
        """
        arrays, tokens = [inputs[port] for port in self.ports], len(walk.tokens)
        for port, array in zip(self.ports, arrays, strict=True):
            self._check(port, array, tokens)
        width, device = digits.padded(self.size), walk.tokens.device
        most = max(how.digits for how in self.outputs.values()) * width
        if tokens * max(most, *(array.stride(0) for array in arrays)) > MOST_VALUES:
            raise ValueError(
                f"{self.name}: {tokens} tokens have more than {MOST_VALUES} values, must come "
                "in parts"
            )
        sent = {port: how.empty(tokens, self.size, device) for port, how in self.outputs.items()}
        stateless = self.state is None
        parts = walk.pieces if stateless else walk.sequences
        rows = min(PIECE, LANES // self.together) if stateless else 1
        self.kernel[len(parts), triton.cdiv(self.size, self.together)](
            *(side for a in arrays for side in (a, a.stride(0), a.shape[1])),
            *self.fixed,
            *([] if self.state is None else [self.state]),
            *(side for port in sent for side in (sent[port], self.counts.events[port])),
            self.counts.saturated,
            self.counts.wrapped,
            parts.bounds,
            parts.slots,
            self.counts.stride,
            self.size,
            width,
            width * tokens,
            *self.parameters,
            rows,
            self.together,
            num_warps=max(1, rows * self.together // LANES_OF_A_WARP),
        )
        return sent

    def _check(self, port: str, array: Tensor, tokens: int) -> None:
        """ValueError where an input cannot be read."""
        known = array.dtype in (torch.int8, torch.int16, torch.int32) and array.ndim == 2
        if not known or len(array) != tokens or (array.shape[1] > 1 and array.stride(1) != 1):
            found = f"{array.dtype} {list(array.shape)} with strides {list(array.stride())}"
            raise ValueError(
                f"{self.name}: input {port} is {found}, must be int8, int16 or int32 [{tokens}, "
                "values] with rows in one piece"
            )


def _stream(node: AnyNode, name: str, ports: tuple[str, ...], accumulator_bits: int) -> Stream:
    """How an input of a program lies in the array of its port."""
    port, _, member = name.partition("/")
    held = port in node.calibrated and accumulator_bits < REGISTER_BITS
    sign = 1 << (accumulator_bits - 1) if held else None
    return Stream(ports.index(port), node.stride(port), int(member or 0), sign)
