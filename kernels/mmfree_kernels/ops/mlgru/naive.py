"""The MLGRU in plain torch: the recurrence h_t = f_t · h_{t-1} + c_t, element by element, its gates
and its output.

The recurrence is computed by doubling: after step k every position holds the recurrence over the
last 2^k positions, so a sequence of T takes log2 T element-wise passes and no loop over time.  Its
gradient is the same recurrence backwards: dc_t = dh_t + f_{t+1} · dc_{t+1} and df_t = dc_t ·
h_{t-1}; neither pass keeps what lies between.
"""

from typing import Any

import torch
from torch import Tensor

from mmfree_kernels.ops.bitlinear.naive import quantise_activations
from mmfree_neuro.hgrn_bit.config import BITLINEAR_EPS


def _doubling(f: Tensor, c: Tensor) -> Tensor:
    span = 1
    while span < c.shape[1]:
        c = torch.cat([c[:, :span], c[:, span:] + f[:, span:] * c[:, :-span]], 1)
        f = torch.cat([f[:, :span], f[:, span:] * f[:, :-span]], 1)
        span *= 2
    return c


class _Recurrence(torch.autograd.Function):
    @staticmethod
    def forward(ctx: Any, f: Tensor, c: Tensor, initial: Tensor) -> Tensor:
        h = _doubling(f, torch.cat([c[:, :1] + f[:, :1] * initial[:, None], c[:, 1:]], 1))
        ctx.save_for_backward(f, h, initial)
        return h

    @staticmethod
    def backward(ctx: Any, grad: Tensor) -> tuple[Tensor, Tensor, Tensor]:
        f, h, initial = ctx.saved_tensors
        ahead = torch.cat([f[:, 1:], torch.zeros_like(f[:, :1])], 1)
        dc = _doubling(ahead.flip(1), grad.flip(1)).flip(1)
        before = torch.cat([initial[:, None], h[:, :-1]], 1)
        return dc * before, dc, dc[:, 0] * f[:, 0]


def recurrence(f: Tensor, c: Tensor, initial: Tensor) -> Tensor:
    """All states of the recurrence: f, c [batch, time, n] and the state before them [batch, n];
    [batch, time, n]."""
    states: Tensor = _Recurrence.apply(f, c, initial)
    return states


def widened(x: Tensor) -> Tensor:
    """x in float32; in float64 where it is that already."""
    return x.to(torch.promote_types(x.dtype, torch.float32))


def gated_scan(
    i: Tensor,
    f: Tensor,
    bound: Tensor | None,
    mask: Tensor | None,
    initial: Tensor,
    out_dtype: torch.dtype,
) -> tuple[Tensor, Tensor]:
    """States [batch, time, n] and the last of them [batch, n] of raw projections i and f [batch,
    time, n].

    Of a lower bound b [n] and a mask m [batch, time]: f' = b + (1 - b) σ(f), c = i σ(i) (1 - f') m,
    h = f' h + c.
    """
    i, forget = widened(i), torch.sigmoid(widened(f))
    if bound is not None:
        forget = bound + (1 - bound) * forget
    c = i * torch.sigmoid(i) * (1 - forget)
    if mask is not None:
        c = c * mask[:, :, None]
    h = recurrence(forget, c, initial)
    return h.to(out_dtype), h[:, -1]


def normalised(x: Tensor, gain: Tensor, eps: float) -> Tensor:
    """`bitlinear.naive.rms_norm` in the dtype of x."""
    return x * torch.rsqrt(x.square().mean(-1, keepdim=True) + eps) * gain


def gated_output(g: Tensor, h: Tensor, g_gain: Tensor, eps: float, o_gain: Tensor) -> Tensor:
    """What o_proj quantises, of g and h [..., n] and gains [n]: RMS(RMS(g) h σ(h))."""
    h = widened(h)
    return normalised(
        normalised(widened(g), g_gain, eps) * h * torch.sigmoid(h), o_gain, BITLINEAR_EPS
    )


def output_normalise(
    g: Tensor, h: Tensor, g_gain: Tensor, eps: float, o_gain: Tensor
) -> tuple[Tensor, Tensor]:
    """8-bit codes [m, n] of `gated_output`, as floats, and the factor of each row [m]."""
    q, s = quantise_activations(gated_output(g, h, g_gain, eps, o_gain))
    return q, s[..., 0]
