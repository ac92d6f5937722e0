"""What a packed model computes, in plain torch with exact sums: the truth that the fast paths are
checked against.

One block is unpacked at a time, so that a model of any size that fits the GPU packed can be checked
there.
"""

import torch
from torch import Tensor, nn

from mmfree_kernels.float_model.model import BitLinear, Block, Numerics
from mmfree_kernels.inference.model import Linear, PackedModel
from mmfree_neuro.integers.ternary import TILE


def _norm_in_float64(x: Tensor, gain: Tensor, eps: float) -> Tensor:
    x = x.double()
    return (x * torch.rsqrt(x.square().mean(-1, keepdim=True) + eps) * gain.double()).float()


EXACT = Numerics()
OTHER_ORDER = Numerics(norm=_norm_in_float64)
"""As exact, and as different as two programs are that add in another order."""
ROUNDED = Numerics(product_dtype=torch.bfloat16)
"""Results of products rounded to bfloat16."""


def codes(packed: Tensor) -> Tensor:
    """Codes -1, 0, +1 float32 [rows, columns] of packed words int32 [tiles, groups, 16]."""
    tiles, groups, lanes = packed.shape
    bits = torch.arange(0, 32, 2, device=packed.device, dtype=torch.int32)
    found = ((packed[..., None] >> bits) & 3).to(
        torch.int8
    ) - 1  # bit pair 4 · byte + p is column 4 · p + byte
    found = found.view(tiles, groups, lanes, 4, 4).transpose(-1, -2)
    return found.permute(0, 2, 1, 3, 4).reshape(tiles * TILE, groups * TILE).float()


def _set(layer: BitLinear, linear: Linear, part: int) -> None:
    tiles = len(linear.weights) // len(linear.scales)
    layer.frozen = (
        codes(linear.weights[part * tiles : (part + 1) * tiles]),
        float(linear.scales[part]),
    )
    layer.register_parameter("weight", None)
    layer.norm.weight = nn.Parameter(linear.gains[part])


def _block(model: PackedModel, number: int) -> Block:
    layer = model.layers[number]
    with torch.device("meta"):
        block = Block(model.config)
    for part, name in enumerate(("i_proj", "f_proj", "g_proj")):
        _set(getattr(block.attn, name), layer.mixer_in, part)
    for linear, packed in (
        (block.attn.o_proj, layer.mixer_out),
        (block.mlp.gate_proj, layer.channel_in),
        (block.mlp.down_proj, layer.channel_out),
    ):
        _set(linear, packed, 0)
    for gain, value in (
        (block.attn_norm, layer.attn_norm),
        (block.attn.g_norm, layer.g_norm),
        (block.mlp_norm, layer.mlp_norm),
    ):
        gain.weight = nn.Parameter(value)
    return block


@torch.no_grad()
def logits(
    model: PackedModel, tokens: Tensor, numerics: Numerics = EXACT, *, last: bool = False
) -> Tensor:
    """Logits [batch, time, vocabulary] of tokens [batch, time] from a zero state, or of the last
    alone."""
    x = model.embedding[tokens].float()
    if model.steps is not None:
        x = x * model.steps[tokens][..., None]
    zero = model.zero_state(len(tokens))
    for number, layer in enumerate(model.layers):
        x, _ = _block(model, number)(x, layer.bound, None, zero[number], "", numerics)
    with torch.device("meta"):
        head = BitLinear(model.config.hidden_size, model.config.vocab_size)
    _set(head, model.head, 0)
    x = x[:, -1:] if last else x
    found: Tensor = head(numerics.norm(x, model.norm, model.config.rms_norm_eps), "", numerics)
    return found[..., : model.config.vocab_size]
