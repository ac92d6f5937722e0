"""The gated linear unit on a GPU: silu(gate) · up, norm and quantiser in one pass over a row, and
their gradients."""

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


@triton.jit(do_not_specialize=["rows"])
def _gate_normalise(gate_up, gain, q, s, rows, size, VALUES: tl.constexpr, BLOCK: tl.constexpr):
    columns = tl.arange(0, BLOCK)
    inside = columns < size
    wide = tl.cast(size, tl.int64)
    weight = load_row(gain, columns, inside)
    for row in tl.range(tl.program_id(0), rows, tl.num_programs(0), num_stages=2):
        gate = load_row(gate_up + row * 2 * wide, columns, inside)
        v = gate * tl.sigmoid(gate) * load_row(gate_up + row * 2 * wide + wide, columns, inside)
        codes, factor = quantise_row(v * inverse_rms(v, size, EPS) * weight)
        if VALUES:
            codes = codes / factor
        else:
            tl.store(s + row, factor)
        tl.store(q + row * wide + columns, codes.to(q.dtype.element_ty), mask=inside)


@triton.jit(do_not_specialize=["rows"])
def _gate_backward(
    gate_up, gain, grad_y, scale, d_gate_up, partial, rows, size, BLOCK: tl.constexpr
):
    columns = tl.arange(0, BLOCK)
    inside = columns < size
    wide = tl.cast(size, tl.int64)
    weight, factor = load_row(gain, columns, inside), tl.load(scale)
    sums = tl.zeros((BLOCK,), tl.float32)
    for row in tl.range(tl.program_id(0), rows, tl.num_programs(0), num_stages=2):
        gate = load_row(gate_up + row * 2 * wide, columns, inside)
        up = load_row(gate_up + row * 2 * wide + wide, columns, inside)
        silu = gate * tl.sigmoid(gate)
        v = silu * up
        dy = load_row(grad_y + row * wide, columns, inside) * factor
        inverse = inverse_rms(v, size, EPS)
        sums += dy * v * inverse
        dv = norm_gradient(dy * weight, v * inverse, inverse, size)
        target = d_gate_up + row * 2 * wide + columns
        tl.store(target + wide, (dv * silu).to(d_gate_up.dtype.element_ty), mask=inside)
        d_gate = dv * up * (tl.sigmoid(gate) * (1 - silu) + silu)
        tl.store(target, d_gate.to(d_gate_up.dtype.element_ty), mask=inside)
    tl.store(partial + tl.program_id(0) * wide + columns, sums, mask=inside)


def _check(gate_up: Tensor, gain: Tensor) -> tuple[int, int]:
    rows, size = len(gate_up), len(gain)
    check("gate_up", gate_up, (rows, 2 * size))
    check("the gain", gain, (size,))
    return rows, size


def gate_normalise(gate_up: Tensor, gain: Tensor) -> tuple[Tensor, Tensor]:
    """Codes, int8 [m, n], of the down projection's input, and their factors s, float32 [m].

    gate_up [m, 2n] has gates first; gain [n] is that of the norm.
    """
    rows, size = _check(gate_up, gain)
    q = torch.empty(rows, size, dtype=torch.int8, device=gate_up.device)
    s = torch.empty(rows, dtype=torch.float32, device=gate_up.device)
    programs, block, warps = row_launch(rows, size, 32, 64)
    _gate_normalise[(programs,)](gate_up, gain, q, s, rows, size, False, block, num_warps=warps)
    return q, s


def gate_activations(gate_up: Tensor, gain: Tensor, dtype: torch.dtype) -> Tensor:
    """The numbers q / s [m, n], of type `dtype`, that the codes of `gate_normalise` stand for."""
    rows, size = _check(gate_up, gain)
    values = torch.empty(rows, size, dtype=dtype, device=gate_up.device)
    programs, block, warps = row_launch(rows, size, 32, 64)
    _gate_normalise[(programs,)](
        gate_up, gain, values, values, rows, size, True, block, num_warps=warps
    )
    return values


def gate_backward(
    gate_up: Tensor, gain: Tensor, grad_y: Tensor, scale: Tensor
) -> tuple[Tensor, Tensor]:
    """The gradients of gate_up [m, 2n], in its type, and of the gain, float32 [n], from that of y
    [m, n].

    The latter is scale · grad_y: the scalar `scale`, float32, is that of the ternary matrix behind
    y.
    """
    rows, size = _check(gate_up, gain)
    check("grad_y", grad_y, (rows, size))
    check("the scale", scale, (), [torch.float32])
    programs, block, warps = row_launch(rows, size, 16, 16)
    d_gate_up = torch.empty_like(gate_up)
    partial = torch.empty(programs, size, dtype=torch.float32, device=gate_up.device)
    _gate_backward[(programs,)](
        gate_up, gain, grad_y, scale, d_gate_up, partial, rows, size, block, num_warps=warps
    )
    return d_gate_up, partial.sum(0)
