"""Ternary codes and scales of latent weights, without a word to the host; Triton."""

import torch
import triton
import triton.language as tl
from torch import Tensor

from mmfree_kernels.ops.bitlinear.checks import check

BLOCK = 4096
"""Elements that a program takes at a time."""
PARTIALS = 1024


@triton.jit
def _sum_magnitudes(weight, partial, elements, BLOCK: tl.constexpr):
    # In float64, so that the mean is the same however it is cut, and nearly always the one that
    # rounds right.
    total = tl.zeros((BLOCK,), tl.float64)
    for block in tl.range(tl.program_id(0), tl.cdiv(elements, BLOCK), tl.num_programs(0)):
        at = block * BLOCK + tl.arange(0, BLOCK)
        total += tl.abs(tl.load(weight + at, mask=at < elements, other=0.0).to(tl.float32)).to(
            tl.float64
        )
    tl.store(partial + tl.program_id(0), tl.sum(total, 0))


@triton.jit
def _code(weight, at, elements, scale):
    v = tl.load(weight + at, mask=at < elements, other=0.0).to(tl.float32) * tl.div_rn(1.0, scale)
    return (v > 0.5).to(tl.int8) - (v < -0.5).to(tl.int8)  # a half rounds to even zero


@triton.jit
def _ternarise(
    weight, partial, codes, scale, elements, count, PARTS: tl.constexpr, BLOCK: tl.constexpr
):
    part = tl.arange(0, PARTS)
    total = tl.sum(tl.load(partial + part, mask=part < count, other=0.0), 0)
    mean = tl.maximum((total / elements).to(tl.float32), 1e-5)
    at = tl.program_id(0) * BLOCK + tl.arange(0, BLOCK)
    tl.store(codes + at, _code(weight, at, elements, mean), mask=at < elements)
    tl.store(scale, mean, mask=tl.program_id(0) == 0)


@triton.jit
def _ternary_as(weight, scale, codes, elements, BLOCK: tl.constexpr):
    at = tl.program_id(0) * BLOCK + tl.arange(0, BLOCK)
    code = _code(weight, at, elements, tl.load(scale)).to(tl.float32)
    tl.store(codes + at, code.to(codes.dtype.element_ty), mask=at < elements)


def ternarise(weight: Tensor) -> tuple[Tensor, Tensor]:
    """Codes in {-1, 0, 1}, int8 [n, k], of a weight [n, k], and its scale, a float32 scalar on the
    device.

    The scale is the mean magnitude summed in float64; that of `naive.ternarise`, summed in float32,
    may differ in its last bits, and a weight that is half the scale to as many bits then has
    another code.
    """
    check("the weight", weight, tuple(weight.shape))
    elements = weight.numel()
    blocks = triton.cdiv(elements, BLOCK)
    count = min(blocks, PARTIALS)
    partial = torch.empty(count, dtype=torch.float64, device=weight.device)
    codes = torch.empty(weight.shape, dtype=torch.int8, device=weight.device)
    scale = torch.empty((), dtype=torch.float32, device=weight.device)
    _sum_magnitudes[(count,)](weight, partial, elements, BLOCK, num_warps=8)
    _ternarise[(blocks,)](
        weight, partial, codes, scale, elements, count, PARTIALS, BLOCK, num_warps=8
    )
    return codes, scale


def ternary_as(weight: Tensor, scale: Tensor, dtype: torch.dtype) -> Tensor:
    """The codes of a weight [n, k] whose scale is known, as numbers of type `dtype`."""
    check("the weight", weight, tuple(weight.shape))
    codes = torch.empty(weight.shape, dtype=dtype, device=weight.device)
    elements = weight.numel()
    _ternary_as[(triton.cdiv(elements, BLOCK),)](weight, scale, codes, elements, BLOCK, num_warps=8)
    return codes
