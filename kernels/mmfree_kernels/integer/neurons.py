"""The neurons of one node on a device: a generated kernel, its parameters, constants, tables, state
and counts."""

from collections.abc import Mapping
from dataclasses import dataclass

import numpy as np
import torch
import triton
from torch import Tensor

from mmfree_kernels.integer.source import Stream, compiled, write
from mmfree_neuro.graph.machine import Machine
from mmfree_neuro.graph.nodes import AnyNode
from mmfree_neuro.graph.recorder import record
from mmfree_neuro.integers.fixedpoint import Ints
from mmfree_neuro.integers.tables import SIGMOID_INPUT_BITS, SIGMOID_INPUT_FRAC, SigmoidTable

LANES = 256
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


class Neurons:
    """All neurons of a node; `run` is their program on tokens.  `sigmoids` are those of
    `all_sigmoids`."""

    def __init__(
        self, node: AnyNode, table: SigmoidTable, sigmoids: Tensor, counts: Counts
    ) -> None:
        program, own, device = record(node, table), node.constants, sigmoids.device
        self.name, self.size, self.counts, self.outputs = (
            node.name,
            node.size,
            counts,
            program.outputs,
        )
        self.ports = node.reads
        kernel = write(program, tuple(_stream(node, name, self.ports) for name in program.inputs))
        self.kernel, self.parameters = compiled(kernel.text), kernel.parameters
        values = [*(own[name] for name in program.constants), *program.tables]
        self.fixed = [*(on_device(array, device) for array in values), sigmoids]
        shape = program.slots, node.size
        self.state = torch.zeros(shape, dtype=torch.int32, device=device) if program.slots else None

    def run(self, inputs: Mapping[str, Tensor], slots: Tensor) -> dict[str, Tensor]:
        """What the neurons send, by output, each int32 [tokens, neurons]; `slots` int32 [tokens]
        says where each token counts.

        An input is contiguous int32 [tokens, width]: a value for each neuron, one for all, or the
        values of groups.
        """
        arrays = [inputs[port] for port in self.ports]
        tokens = len(arrays[0])
        for port, array in zip(self.ports, arrays, strict=True):
            if (
                array.dtype != torch.int32
                or array.ndim != 2
                or len(array) != tokens
                or not array.is_contiguous()
            ):
                found = f"{array.dtype} {list(array.shape)} with strides {list(array.stride())}"
                raise ValueError(
                    f"{self.name}: input {port} is {found}, must be contiguous int32 [{tokens}, "
                    "values]"
                )
        if max(tokens * self.size, *(array.numel() for array in arrays)) > MOST_VALUES:
            raise ValueError(
                f"{self.name}: {tokens} tokens have more than {MOST_VALUES} values, must come "
                "in parts"
            )
        sent = {p: arrays[0].new_empty((tokens, self.size)) for p in self.outputs}
        lanes = self.size * tokens if self.state is None else self.size
        self.kernel[(triton.cdiv(lanes, LANES),)](
            *(side for array in arrays for side in (array, array.shape[1])),
            *self.fixed,
            *([] if self.state is None else [self.state]),
            *(side for port in self.outputs for side in (sent[port], self.counts.events[port])),
            self.counts.saturated,
            slots,
            self.counts.stride,
            self.size,
            tokens,
            *self.parameters,
            LANES,
            num_warps=LANES // 32,
        )
        return sent


def _stream(node: AnyNode, name: str, ports: tuple[str, ...]) -> Stream:
    """How an input of a program lies in the array of its port."""
    port, _, member = name.partition("/")
    return Stream(ports.index(port), node.stride(port), int(member or 0))
