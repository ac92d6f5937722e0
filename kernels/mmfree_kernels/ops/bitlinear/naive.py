"""BitLinear in plain torch: RMS normalisation, 8-bit activations, ternary weights, straight-through
gradients.

    y   = x / sqrt(mean(x²) + 1e-6) · gain
    s   = 127 / max(max |y|, 1e-5)           per token
    q   = clamp(round(y · s), -128, 127)
    m   = max(mean |W|, 1e-5)                per matrix
    T   = clamp(round(W / m), -1, 1)
    out = (m / s) · q Tᵀ

The sum over q and T is one of integers, exact in float32 below 2^24.  Gradients are those of the
published kernel: the quantisers count as the identity, so dW = doutᵀ (q / s) and dy = dout (m T).
"""

from typing import Any

import torch
from torch import Tensor

from mmfree_neuro.hgrn_bit.config import BITLINEAR_EPS


def rms_norm(x: Tensor, gain: Tensor, eps: float) -> Tensor:
    """x [..., n] over its root mean square, times gain [n]; in float32."""
    x = x.float()
    return x * torch.rsqrt(x.square().mean(-1, keepdim=True) + eps) * gain


def ternarise(weight: Tensor) -> tuple[Tensor, Tensor]:
    """Codes in {-1, 0, 1} (weight's shape and dtype) and the scale of the matrix, a scalar."""
    scale = weight.abs().mean().clamp(min=1e-5)
    return (weight * (1 / scale)).round().clamp(-1, 1), scale


def quantise_activations(y: Tensor) -> tuple[Tensor, Tensor]:
    """8-bit codes of y [..., n] (as floats) and the factor s [..., 1] that made them, one per
    token."""
    s = 127 / y.abs().amax(-1, keepdim=True).clamp(min=1e-5)
    return (y * s).round().clamp(-128, 127), s


def _coded(y: Tensor, quantise: bool) -> tuple[Tensor, Tensor]:
    return quantise_activations(y) if quantise else (y, y.new_ones(*y.shape[:-1], 1))


class _TernaryProduct(torch.autograd.Function):
    @staticmethod
    def forward(ctx: Any, y: Tensor, weight: Tensor, quantise: bool, dtype: torch.dtype) -> Tensor:
        q, s = _coded(y, quantise)
        codes, scale = ternarise(weight.float())
        ctx.save_for_backward(q.to(dtype), s, codes.to(dtype), scale)
        return (q.to(dtype) @ codes.to(dtype).mT).float() * (scale / s)

    @staticmethod
    def backward(ctx: Any, grad: Tensor) -> tuple[Tensor, Tensor, None, None]:
        q, s, codes, scale = ctx.saved_tensors
        scaled = (grad / s).to(q.dtype).flatten(0, -2)
        dy = (grad.to(q.dtype) @ codes).float() * scale
        return dy, (scaled.mT @ q.flatten(0, -2)).float(), None, None


def bit_product(
    y: Tensor, weight: Tensor, *, quantise: bool = True, dtype: torch.dtype = torch.float32
) -> Tensor:
    """The ternary product of normalised activations y [..., n] with weight [m, n]; float32 [...,
    m].

    `quantise=False` leaves the activations as they are.  `dtype` is that of the matrix product; the
    integers in it are exact in bfloat16, its result is not.
    """
    out: Tensor = _TernaryProduct.apply(y, weight, quantise, dtype)
    return out


def code_product(
    y: Tensor,
    codes: Tensor,
    scale: float,
    *,
    quantise: bool = True,
    dtype: torch.dtype = torch.float32,
) -> Tensor:
    """`bit_product` with a weight that is already ternary: its codes [m, n] and its scale.  Not for
    training."""
    q, s = _coded(y, quantise)
    return (q.to(dtype) @ codes.to(dtype).mT).float().mul_(scale / s)


def bit_linear(
    x: Tensor, weight: Tensor, gain: Tensor, *, dtype: torch.dtype = torch.float32
) -> Tensor:
    """BitLinear of x [..., n] with latent weight [m, n] and norm gain [n]; float32 [..., m]."""
    return bit_product(rms_norm(x, gain, BITLINEAR_EPS), weight, dtype=dtype)
