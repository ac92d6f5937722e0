"""The float model of a checkpoint of any size: one block is in memory at a time, and all windows go
through it.

The values are those of `model`, up to the rounding of sums in another order.
"""

from collections.abc import Iterator
from dataclasses import replace

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from mmfree_kernels.float_model.model import BitLinear, Block, Numerics, lower_bounds
from mmfree_neuro.hgrn_bit.config import ModelConfig
from mmfree_neuro.hgrn_bit.names import head_weight
from mmfree_neuro.lowering.ternarise import TernaryWeights, ternarise
from mmfree_neuro.model.checkpoint import Checkpoint

DEFAULT = Numerics()
_VALUES = 7 << 20
"""The values of a block's widest activation; beyond, an allocator takes fresh pages for each, which
cost more time."""


def windows_at_once(config: ModelConfig, time: int) -> int:
    """How many windows of `time` tokens go through a block together."""
    return max(1, _VALUES // (time * 2 * config.intermediate_size))


def stepwise(f: Tensor, c: Tensor, initial: Tensor) -> Tensor:
    """The recurrence of `mlgru.naive`, token by token and without gradients: on a CPU ten times as
    fast."""
    h, last = torch.empty_like(c), initial
    for step in range(c.shape[1]):
        last = torch.addcmul(c[:, step], f[:, step], last, out=h[:, step])
    return h


@torch.no_grad()
def stream(
    checkpoint: Checkpoint,
    tokens: NDArray[np.int64],
    numerics: Numerics = DEFAULT,
    weights: TernaryWeights | None = None,
    batch: int | None = None,
) -> Iterator[Tensor]:
    """Logits [1, time, vocab] of each window of tokens [windows, time], each from a zero state.

    The first are there when all windows have gone through all blocks.  The tap of `numerics` sees
    what it sees in `model`, a block at a time, and in a block `batch` windows at a time, behind the
    blocks one.  `weights` are the checkpoint's ternary weights where they are at hand; they spare
    reading and ternarising it again.
    """
    numerics = replace(numerics, recurrence=stepwise)
    x, config = _residual(checkpoint, tokens, numerics, weights, batch), checkpoint.config
    head = _linear("lm_head", checkpoint, weights)
    gain = torch.from_numpy(checkpoint.tensors["model.norm.weight"])
    for window in x.split(1):
        yield numerics.tap(
            "logits", head(numerics.norm(window, gain, config.rms_norm_eps), "lm_head", numerics)
        )


def _residual(
    checkpoint: Checkpoint,
    tokens: NDArray[np.int64],
    numerics: Numerics,
    weights: TernaryWeights | None,
    batch: int | None,
) -> Tensor:
    """The residual stream behind the last block [windows, time, hidden]."""
    config, tensors = checkpoint.config, checkpoint.tensors
    batch = windows_at_once(config, tokens.shape[1]) if batch is None else batch
    embedded = torch.from_numpy(tensors["model.embeddings.weight"][tokens])
    x = torch.cat([numerics.tap("embeddings.x", part) for part in embedded.split(batch)])
    bounds: list[Tensor | None] = [None] * config.num_hidden_layers
    if config.use_lower_bound:
        bounds = lower_bounds(torch.from_numpy(tensors["model.lower_bounds"]))
    for layer, bound in enumerate(bounds):
        block = _block(layer, checkpoint, weights)
        for part in x.split(batch):
            initial = torch.zeros(len(part), config.state_size)
            part.copy_(block(part, bound, None, initial, f"layers.{layer}", numerics)[0])
    return x


def _block(layer: int, checkpoint: Checkpoint, weights: TernaryWeights | None) -> Block:
    prefix = f"model.layers.{layer}."
    with torch.device("meta"):
        block = Block(checkpoint.config)
    gains = [name for name, parameter in block.named_parameters() if parameter.dim() == 1]
    state = {name: torch.from_numpy(checkpoint.tensors[prefix + name]) for name in gains}
    block.load_state_dict(state, strict=False, assign=True)
    for name, module in block.named_modules():
        if isinstance(module, BitLinear):
            module.frozen = _frozen(f"{prefix}{name}.weight", checkpoint, weights)
    return block


def _linear(name: str, checkpoint: Checkpoint, weights: TernaryWeights | None) -> BitLinear:
    gain = torch.from_numpy(checkpoint.tensors[f"{name}.norm.weight"])
    with torch.device("meta"):
        linear = BitLinear(len(gain), 0)
    linear.load_state_dict({"norm.weight": gain}, strict=False, assign=True)
    linear.frozen = _frozen(f"{name}.weight", checkpoint, weights)
    return linear


def _frozen(
    name: str, checkpoint: Checkpoint, weights: TernaryWeights | None
) -> tuple[Tensor, float]:
    """The codes of a weight as floats, and its scale."""
    if weights is None:
        codes, scale = ternarise(
            head_weight(checkpoint) if name == "lm_head.weight" else checkpoint.tensors[name]
        )
        return torch.from_numpy(codes).float(), scale
    weight = weights[name]
    whole, start = torch.empty(sum(part.rows for part in weight.parts), weight.parts[0].columns), 0
    for part in weight.parts:
        for row, piece in part.parts():
            whole[start + row : start + row + len(piece)] = torch.from_numpy(piece)
        start += part.rows
    return whole, weight.scale
