"""The loss of the ternary head without ever holding all logits: chunks of rows go from codes to
gradients; Triton.

Of a row with int8 codes q and factor s, a weight with ternary codes T and scale m, and the target t
of the row:

    z    = (m / s) · q Tᵀ                       logits, in the dtype of the activations
    loss = log Σ exp z - z_t
    dz   = (softmax z - onehot t) / count       count of targets that are not -100
    dW  += (dz / s)ᵀ q,   dy = dz T m           straight through both quantisers

All of it happens in the forward pass, which alone has the logits; the backward pass only scales
what it left.
"""

from typing import Any

import torch
import triton
import triton.language as tl
from torch import Tensor
from torch.autograd.function import once_differentiable

from mmfree_kernels.ops.bitlinear.fused import (
    check,
    int8_product,
    normalise,
    normalise_backward,
    ternarise,
)

ROWS = 2048
"""Rows whose logits exist at a time."""
IGNORED = tl.constexpr(-100)


@triton.jit
def _cross_entropy(
    logits, targets, s, count, losses, size, GRADIENT: tl.constexpr, BLOCK: tl.constexpr
):
    """Loss of one row [size]; its logits become dz / s.  A target outside [0, size) makes the loss
    NaN."""
    row = tl.program_id(0).to(tl.int64)
    logits += row * size
    target = tl.load(targets + row)
    kept = target != IGNORED
    within = (target >= 0) & (target < size)
    # Every thread has this value before any overwrites it: the reductions below wait for all.
    of_target = tl.load(logits + target, mask=within, other=float("nan")).to(tl.float32)
    highest, total = float("-inf"), 0.0
    for start in range(0, size, BLOCK):
        at = start + tl.arange(0, BLOCK)
        z = tl.load(logits + at, mask=at < size, other=float("-inf")).to(tl.float32)
        higher = tl.maximum(highest, tl.max(z, 0))
        total = total * tl.exp(highest - higher) + tl.sum(tl.exp(z - higher), 0)
        highest = higher
    log_sum = highest + tl.log(total)
    tl.store(losses + row, tl.where(kept, log_sum - of_target, 0.0))
    if GRADIENT:
        share = tl.where(
            kept, 1 / (tl.maximum(tl.load(count), 1).to(tl.float32) * tl.load(s + row)), 0.0
        )
        for start in range(0, size, BLOCK):
            at = start + tl.arange(0, BLOCK)
            z = tl.load(logits + at, mask=at < size, other=float("-inf")).to(tl.float32)
            dz = (tl.exp(z - log_sum) - (at == target).to(tl.float32)) * share
            tl.store(logits + at, dz.to(logits.dtype.element_ty), mask=at < size)


def _losses(logits: Tensor, targets: Tensor, s: Tensor, count: Tensor, gradient: bool) -> Tensor:
    """The loss of each row of logits [m, v], which are replaced by the gradients over s if
    `gradient`."""
    rows, size = logits.shape
    losses = torch.empty_like(s)
    block = min(triton.next_power_of_2(size), 8192)
    warps = min(16, max(1, block // 512))
    _cross_entropy[(rows,)](
        logits, targets, s, count, losses, size, gradient, block, num_warps=warps
    )
    return losses


def _accumulated(total: Tensor | None, part: Tensor) -> Tensor:
    return part.float() if total is None else total.add_(part)


class _LinearCrossEntropy(torch.autograd.Function):
    @staticmethod
    def forward(
        ctx: Any,
        x: Tensor,
        outer_gain: Tensor,
        outer_eps: float,
        weight: Tensor,
        gain: Tensor,
        targets: Tensor,
        gradient: bool,
        chunk: int,
    ) -> Tensor:
        (q,), (s,) = normalise(x, [gain], outer_gain, outer_eps)
        codes, scale = ternarise(weight)
        count = (targets != IGNORED.value).sum()
        dy = torch.empty_like(x) if gradient else x
        ternary = codes.to(x.dtype) if gradient else codes
        losses, d_weight = [], None
        for start in range(0, len(x), chunk):
            rows = slice(start, start + chunk)
            logits = int8_product(q[rows], s[rows], codes, scale, x.dtype)
            losses.append(_losses(logits, targets[rows], s[rows], count, gradient))
            if gradient:
                torch.mul(logits @ ternary, (scale * s[rows])[:, None], out=dy[rows])
                d_weight = _accumulated(d_weight, logits.mT @ q[rows].to(x.dtype))
            del logits  # before the next chunk has its own
        if d_weight is not None:
            dx, (d_gain,), d_outer = normalise_backward(
                x, [gain], outer_gain, outer_eps, [dy], None
            )
            ctx.gradients = dx, d_outer, d_weight.to(weight.dtype), d_gain
        return torch.cat(losses).sum() / count.clamp(min=1)

    @staticmethod
    @once_differentiable
    def backward(ctx: Any, grad: Tensor) -> tuple[Tensor | None, ...]:
        if ctx.gradients is None:
            raise RuntimeError(
                "linear_cross_entropy's gradients are used up, must not be asked for twice"
            )
        dx, d_outer, d_weight, d_gain = (gradient.mul_(grad) for gradient in ctx.gradients)
        ctx.gradients = None
        return dx, d_outer, None, d_weight, d_gain, None, None, None


def linear_cross_entropy(
    x: Tensor,
    outer_gain: Tensor,
    outer_eps: float,
    weight: Tensor,
    gain: Tensor,
    targets: Tensor,
    *,
    chunk: int = ROWS,
) -> Tensor:
    """Mean cross-entropy of the logits BIT(RMS(x); weight) of rows x [m, h], over the targets [m]
    that are not -100.

    x is bfloat16 or float32 and decides the dtype of logits and products; outer_gain [h] is the
    gain of the norm before the head, gain [h] that within it, weight [v, h] the latent one, targets
    are int64.  The result is a float32 scalar, 0 if every target is -100.  `chunk` rows have logits
    at a time.  Gradients of the weight are summed over chunks in float32.  They can be asked for
    once.

    Raises ValueError for arguments of another shape, dtype or layout.
    """
    if x.ndim != 2 or weight.ndim != 2 or 0 in x.shape or 0 in weight.shape:
        shapes = f"{list(x.shape)} and {list(weight.shape)}"
        raise ValueError(
            f"x and weight have shapes {shapes}, must have [m, h] and [v, h], none of them 0"
        )
    floats = torch.bfloat16, torch.float32
    check("x", x, tuple(x.shape), floats)
    check("weight", weight, (len(weight), x.shape[1]), floats)
    check("outer_gain", outer_gain, (x.shape[1],), floats)
    check("gain", gain, (x.shape[1],), floats)
    check("targets", targets, (len(x),), [torch.int64])
    gradient = torch.is_grad_enabled() and any(
        part.requires_grad for part in (x, outer_gain, weight, gain)
    )
    loss: Tensor = _LinearCrossEntropy.apply(
        x, outer_gain, outer_eps, weight, gain, targets, gradient, chunk
    )
    return loss
