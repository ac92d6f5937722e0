"""Many tokens through a packed model: one of each of more sequences than `few` and `dozens` take,
or whole chunks of a prompt.

Norms, gates and the scan are the kernels that training uses.  Up to `TOGETHER` tokens meet the
packed weights on the tensor cores directly; more tokens are worth unpacking one matrix at a time to
int8, into a buffer that all share.
"""

import torch
from torch import Tensor

from mmfree_kernels.inference.model import Linear, PackedModel
from mmfree_kernels.ops.bitlinear.fused import int8_product, normalise
from mmfree_kernels.ops.bitlinear.packed import product, unpack
from mmfree_kernels.ops.glu.fused import gate_normalise
from mmfree_kernels.ops.mlgru.output import output_normalise
from mmfree_kernels.ops.mlgru.scan import gated_scan

TOGETHER = 256
"""Up to so many tokens multiply with packed weights as they are."""


class _Products:
    """Products with packed weights; where they have to be unpacked, one buffer holds the largest of
    them."""

    def __init__(self, model: PackedModel, tokens: int) -> None:
        self.scratch = None
        if tokens > TOGETHER:
            layer = model.layers[0]
            linears = layer.mixer_in, layer.mixer_out, layer.channel_in, layer.channel_out
            largest = max(linear.weights.numel() // len(linear.gains) for linear in linears)
            self.scratch = torch.empty(16 * largest, dtype=torch.int8, device=model.device)

    def __call__(
        self, q: Tensor, s: Tensor, linear: Linear, residual: Tensor | None = None
    ) -> list[Tensor]:
        """The product of each of the P layers [tokens, rows] with codes q [P, tokens, in] and
        factors s [P, tokens].

        float32 where there is a residual; else float32 for few tokens, bfloat16 for many.
        """
        if self.scratch is None:
            found = product(q, linear.weights, s, linear.scales, residual)
            return list(found.chunk(len(q), 1))
        dtype = torch.bfloat16 if residual is None else torch.float32
        parts = zip(q, s, linear.weights.chunk(len(q)), linear.scales, strict=True)
        return [
            int8_product(a, b, unpack(w, self.scratch), m, dtype, residual) for a, b, w, m in parts
        ]


def forward(model: PackedModel, x: Tensor, state: Tensor, after: Tensor) -> Tensor:
    """Logits float32 [batch, vocabulary] after the last of the embedded tokens x float32 [batch,
    time, hidden].

    `state` [layers, batch, state] is that before them; that after them is written to `after`, which
    may be the same.
    """
    batch, time, hidden = x.shape
    eps, products = model.config.rms_norm_eps, _Products(model, batch * time)
    x = x.reshape(batch * time, hidden)
    for number, layer in enumerate(model.layers):
        q, s = normalise(x, list(layer.mixer_in.gains), layer.attn_norm, eps)
        i, f, g = products(q, s, layer.mixer_in)
        i, f = i.unflatten(0, (batch, time)), f.unflatten(0, (batch, time))
        h, _ = gated_scan(i, f, layer.bound, None, state[number], i.dtype, final=after[number])
        q, s = output_normalise(g, h.flatten(0, 1), layer.g_norm, eps, layer.mixer_out.gains[0])
        (x,) = products(q[None], s[None], layer.mixer_out, x)
        q, s = normalise(x, list(layer.channel_in.gains), layer.mlp_norm, eps)
        (gate_up,) = products(q, s, layer.channel_in)
        q, s = gate_normalise(gate_up, layer.channel_out.gains[0])
        (x,) = products(q[None], s[None], layer.channel_out, x)
    last = x.view(batch, time, hidden)[:, -1].contiguous()
    q, s = normalise(last, list(model.head.gains), model.norm, eps)
    return product(q, model.head.weights, s, model.head.scales)[:, : model.config.vocab_size]
