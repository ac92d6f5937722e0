"""The output gate of the MLGRU with the norm and the quantiser of o_proj behind it, row by row;
Triton.

Of g and h [rows, n] with gains v, w [n]:

    u = g / sqrt(mean(g²) + eps) · v
    o = u · h · σ(h)
    y = o / sqrt(mean(o²) + 1e-6) · w
    s = 127 / max(max |y|, 1e-5),  q = round(y · s)       one s per row; half to even

Backwards the quantiser counts as the identity.
"""

import torch
import triton
import triton.language as tl
from torch import Tensor

from mmfree_kernels.ops.bitlinear.checks import check
from mmfree_kernels.ops.bitlinear.rows import (
    EPS,
    inverse_rms,
    load_row,
    norm_gradient,
    quantise_row,
    row_launch,
)
from mmfree_kernels.ops.mlgru.scan import FLOATS, check_rows


@triton.jit(do_not_specialize=["rows"])
def _quantise_kernel(
    g,
    h,
    g_gain,
    o_gain,
    q,
    s,
    g_row,
    h_row,
    rows,
    n,
    g_eps,
    VALUES: tl.constexpr,
    BLOCK: tl.constexpr,
):
    d = tl.arange(0, BLOCK)
    inside = d < n
    v, w = load_row(g_gain, d, inside), load_row(o_gain, d, inside)
    for row in tl.range(tl.program_id(0).to(tl.int64), rows, tl.num_programs(0), num_stages=2):
        gate, state = load_row(g + row * g_row, d, inside), load_row(h + row * h_row, d, inside)
        o = gate * inverse_rms(gate, n, g_eps) * v * state * tl.sigmoid(state)
        codes, factor = quantise_row(o * inverse_rms(o, n, EPS) * w)
        if VALUES:
            codes = codes / factor
        else:
            tl.store(s + row, factor)
        tl.store(q + row * n + d, codes.to(q.dtype.element_ty), mask=inside)


@triton.jit(do_not_specialize=["rows"])
def _gradient_kernel(
    g,
    h,
    g_gain,
    o_gain,
    dy,
    scale,
    dg,
    dh,
    d_gains,
    g_row,
    h_row,
    dy_row,
    rows,
    n,
    g_eps,
    BLOCK: tl.constexpr,
):
    d = tl.arange(0, BLOCK)
    inside = d < n
    v, w, factor = load_row(g_gain, d, inside), load_row(o_gain, d, inside), tl.load(scale)
    d_v, d_w = tl.zeros([BLOCK], tl.float32), tl.zeros([BLOCK], tl.float32)
    for row in tl.range(tl.program_id(0).to(tl.int64), rows, tl.num_programs(0), num_stages=2):
        gate, state = load_row(g + row * g_row, d, inside), load_row(h + row * h_row, d, inside)
        grad = load_row(dy + row * dy_row, d, inside) * factor
        g_inverse, squash = inverse_rms(gate, n, g_eps), tl.sigmoid(state)
        unit_g, swish = gate * g_inverse, state * squash
        o = unit_g * v * swish
        o_inverse = inverse_rms(o, n, EPS)
        unit_o = o * o_inverse
        d_w += grad * unit_o
        grad = norm_gradient(grad * w, unit_o, o_inverse, n)
        d_v += grad * unit_g * swish
        d_state = grad * unit_g * v * squash * (1 + state * (1 - squash))
        tl.store(dh + row * n + d, d_state.to(dh.dtype.element_ty), mask=inside)
        d_gate = norm_gradient(grad * v * swish, unit_g, g_inverse, n)
        tl.store(dg + row * n + d, d_gate.to(dg.dtype.element_ty), mask=inside)
    place = tl.program_id(0) * n + d
    tl.store(d_gains + place, d_v, mask=inside)
    tl.store(d_gains + tl.num_programs(0) * n + place, d_w, mask=inside)


def _check(g: Tensor, h: Tensor, g_gain: Tensor, o_gain: Tensor) -> tuple[int, int]:
    if g.ndim != 2 or 0 in g.shape:
        raise ValueError(f"g has shape {list(g.shape)}, must have [rows, channels], none of them 0")
    rows, n = g.shape
    check_rows("g", g, g.shape)
    check_rows("h", h, g.shape)
    check("g_gain", g_gain, (n,), FLOATS)
    check("o_gain", o_gain, (n,), FLOATS)
    return rows, n


def output_normalise(
    g: Tensor, h: Tensor, g_gain: Tensor, eps: float, o_gain: Tensor
) -> tuple[Tensor, Tensor]:
    """Codes q [rows, n], int8, and factors s [rows], float32, for o_proj.

    g and h [rows, n] and the gains [n] are bfloat16 or float32; rows may lie apart, the gains are
    contiguous.

    Raises ValueError for arguments of another shape, dtype or layout.
    """
    rows, n = _check(g, h, g_gain, o_gain)
    q, s = g.new_empty(g.shape, dtype=torch.int8), g.new_empty(rows, dtype=torch.float32)
    programs, block, warps = row_launch(rows, n, 32, 48)
    _quantise_kernel[(programs,)](
        g,
        h,
        g_gain,
        o_gain,
        q,
        s,
        g.stride(0),
        h.stride(0),
        rows,
        n,
        eps,
        False,
        block,
        num_warps=warps,
    )
    return q, s


def output_activations(
    g: Tensor, h: Tensor, g_gain: Tensor, eps: float, o_gain: Tensor, dtype: torch.dtype
) -> Tensor:
    """The numbers q / s [rows, n], of type `dtype`, that the codes of `output_normalise` stand
    for."""
    rows, n = _check(g, h, g_gain, o_gain)
    values = g.new_empty(g.shape, dtype=dtype)
    programs, block, warps = row_launch(rows, n, 32, 48)
    _quantise_kernel[(programs,)](
        g,
        h,
        g_gain,
        o_gain,
        values,
        values,
        g.stride(0),
        h.stride(0),
        rows,
        n,
        eps,
        True,
        block,
        num_warps=warps,
    )
    return values


def output_backward(
    g: Tensor, h: Tensor, g_gain: Tensor, eps: float, o_gain: Tensor, grad_y: Tensor, scale: Tensor
) -> tuple[Tensor, Tensor, Tensor, Tensor]:
    """Gradients of g, h [rows, n] in their dtypes and of both gains [n], float32, from that of y
    [rows, n].

    The latter is scale · grad_y: the scalar `scale`, float32, is that of the ternary matrix behind
    y.

    Raises ValueError for arguments of another shape, dtype or layout.
    """
    rows, n = _check(g, h, g_gain, o_gain)
    check_rows("grad_y", grad_y, g.shape)
    check("the scale", scale, (), [torch.float32])
    dg, dh = g.new_empty(g.shape), h.new_empty(h.shape)
    programs, block, warps = row_launch(rows, n, 16, 8)
    d_gains = g.new_empty((2, programs, n), dtype=torch.float32)
    _gradient_kernel[(programs,)](
        g,
        h,
        g_gain,
        o_gain,
        grad_y,
        scale,
        dg,
        dh,
        d_gains,
        g.stride(0),
        h.stride(0),
        grad_y.stride(0),
        rows,
        n,
        eps,
        BLOCK=block,
        num_warps=warps,
    )
    d_g_gain, d_o_gain = d_gains.sum(1)
    return dg, dh, d_g_gain, d_o_gain
