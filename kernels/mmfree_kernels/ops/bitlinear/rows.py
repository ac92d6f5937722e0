"""BitLinear's norms and quantisers, one pass a row, and their gradients; Triton.

The equations are those of `naive`, rows are tokens, and everything between load and store is
float32.  A row is one block of a program; a program takes every n-th row, so that it loads the
gains once and sums their gradients in registers.  Partial sums are added in a fixed order: equal
inputs give equal bits.
"""

from collections.abc import Sequence

import torch
import triton
import triton.language as tl
from torch import Tensor

from mmfree_kernels.ops.bitlinear.checks import check
from mmfree_neuro.hgrn_bit.config import BITLINEAR_EPS

PROCESSORS = 132
"""Of an H100; kernels that loop over rows start as many programs as it can hold at once."""
EPS = tl.constexpr(BITLINEAR_EPS)


def row_launch(rows: int, size: int, per_thread: int, resident: int) -> tuple[int, int, int]:
    """Programs, block and warps of a kernel that has a row of `size` in one block.

    A thread holds about so many elements, and a multiprocessor so many warps: what was fastest on
    an H100.
    """
    block = max(triton.next_power_of_2(size), 32)
    warps = min(max(block // (32 * per_thread), 1), 32)
    return min(rows, PROCESSORS * max(resident // warps, 1)), block, warps


@triton.jit
def quantise_row(y):
    """The codes of a row, as floats, and the factor that made them; as |y · s| < 127.5, nothing is
    to clamp."""
    s = tl.div_rn(127.0, tl.maximum(tl.max(tl.abs(y), 0), 1e-5))
    return (
        y * s + 12582912.0
    ) - 12582912.0, s  # the sum's last bit is worth one: it rounds half to even


@triton.jit
def inverse_rms(x, size, eps):
    """1 / sqrt(mean x² + eps) of a row whose lanes beyond `size` are zero."""
    return tl.rsqrt(tl.sum(x * x, 0) / size + eps)


@triton.jit
def norm_gradient(dz, z, inverse, size):
    """The gradient of n, given that of z = n · inverse."""
    return inverse * (dz - z * (tl.sum(dz * z, 0) / size))


@triton.jit
def load_row(base, columns, inside):
    """A row, or a vector of gains, in float32; zero outside."""
    return tl.load(base + columns, mask=inside, other=0.0).to(tl.float32)


@triton.jit(do_not_specialize=["rows"])
def _normalise(
    x,
    outer,
    gain0,
    gain1,
    gain2,
    q,
    s,
    rows,
    size,
    outer_eps,
    DOUBLE: tl.constexpr,
    COUNT: tl.constexpr,
    VALUES: tl.constexpr,
    BLOCK: tl.constexpr,
):
    columns = tl.arange(0, BLOCK)
    inside = columns < size
    wide = tl.cast(size, tl.int64)
    matrix = rows * wide
    weight0 = load_row(gain0, columns, inside)
    if COUNT == 3:
        weight1 = load_row(gain1, columns, inside)
        weight2 = load_row(gain2, columns, inside)
    if DOUBLE:
        weight = load_row(outer, columns, inside)
    for row in tl.range(tl.program_id(0), rows, tl.num_programs(0), num_stages=2):
        n = load_row(x + row * wide, columns, inside)
        if DOUBLE:
            n = n * inverse_rms(n, size, outer_eps) * weight
        z = n * inverse_rms(n, size, EPS)
        target = q + row * wide + columns
        codes, factor = quantise_row(z * weight0)
        if VALUES:
            codes = codes / factor
        else:
            tl.store(s + row, factor)
        tl.store(target, codes.to(q.dtype.element_ty), mask=inside)
        if COUNT == 3:
            codes, factor = quantise_row(z * weight1)
            tl.store(target + matrix, codes.to(q.dtype.element_ty), mask=inside)
            tl.store(s + rows + row, factor)
            codes, factor = quantise_row(z * weight2)
            tl.store(target + 2 * matrix, codes.to(q.dtype.element_ty), mask=inside)
            tl.store(s + 2 * rows + row, factor)


@triton.jit(do_not_specialize=["rows"])
def _normalise_backward(
    x,
    outer,
    gain0,
    gain1,
    gain2,
    grad0,
    grad1,
    grad2,
    scale0,
    scale1,
    scale2,
    residual,
    dx,
    partial,
    rows,
    size,
    outer_eps,
    DOUBLE: tl.constexpr,
    COUNT: tl.constexpr,
    SCALED: tl.constexpr,
    RESIDUAL: tl.constexpr,
    BLOCK: tl.constexpr,
):
    columns = tl.arange(0, BLOCK)
    inside = columns < size
    wide = tl.cast(size, tl.int64)
    sum0 = tl.zeros((BLOCK,), tl.float32)
    sum1, sum2, sums = sum0, sum0, sum0
    weight0 = load_row(gain0, columns, inside)
    factor0 = tl.load(scale0) if SCALED else 1.0
    if COUNT == 3:
        weight1 = load_row(gain1, columns, inside)
        weight2 = load_row(gain2, columns, inside)
        factor1 = tl.load(scale1) if SCALED else 1.0
        factor2 = tl.load(scale2) if SCALED else 1.0
    if DOUBLE:
        weight = load_row(outer, columns, inside)
    for row in tl.range(tl.program_id(0), rows, tl.num_programs(0), num_stages=2):
        start = row * wide
        unit = load_row(x + start, columns, inside)
        n = unit
        if DOUBLE:
            outer_inverse = inverse_rms(unit, size, outer_eps)
            unit = unit * outer_inverse
            n = unit * weight
        inverse = inverse_rms(n, size, EPS)
        z = n * inverse
        dy = load_row(grad0 + start, columns, inside) * factor0
        dz = dy * weight0
        sum0 += dy * z
        if COUNT == 3:
            dy = load_row(grad1 + start, columns, inside) * factor1
            dz += dy * weight1
            sum1 += dy * z
            dy = load_row(grad2 + start, columns, inside) * factor2
            dz += dy * weight2
            sum2 += dy * z
        gradient = norm_gradient(dz, z, inverse, size)
        if DOUBLE:
            sums += gradient * unit
            gradient = norm_gradient(gradient * weight, unit, outer_inverse, size)
        if RESIDUAL:
            gradient += load_row(residual + start, columns, inside)
        tl.store(dx + start + columns, gradient.to(dx.dtype.element_ty), mask=inside)
    target = partial + tl.program_id(0) * (COUNT + DOUBLE) * wide + columns
    tl.store(target, sum0, mask=inside)
    if COUNT == 3:
        tl.store(target + wide, sum1, mask=inside)
        tl.store(target + 2 * wide, sum2, mask=inside)
    if DOUBLE:
        tl.store(target + COUNT * wide, sums, mask=inside)


def _three(tensors: Sequence[Tensor]) -> tuple[Tensor, Tensor, Tensor]:
    return tensors[0], tensors[len(tensors) // 2], tensors[-1]


def _check_norms(
    x: Tensor, gains: Sequence[Tensor], outer: Tensor | None
) -> tuple[Tensor, Tensor, Tensor]:
    rows, size = x.shape
    check("x", x, (rows, size))
    if len(gains) not in (1, 3):
        raise ValueError(f"there are {len(gains)} gains, must be 1 or 3")
    for gain in gains if outer is None else [*gains, outer]:
        check("a gain", gain, (size,))
    return _three(gains)


def normalise(
    x: Tensor, gains: Sequence[Tensor], outer: Tensor | None, outer_eps: float
) -> tuple[Tensor, Tensor]:
    """Normalise rows x [m, k] and quantise them for one or three (P) BitLinears with gains [k].

    Where `outer` [k] is given, the rows first go through the norm with these gains and
    `outer_eps`.  Gives the activations' codes, int8 [P, m, k], and their factors s, float32 [P, m].
    """
    one, two, three = _check_norms(x, gains, outer)
    rows, size = x.shape
    q = torch.empty(len(gains), rows, size, dtype=torch.int8, device=x.device)
    s = torch.empty(len(gains), rows, dtype=torch.float32, device=x.device)
    programs, block, warps = row_launch(rows, size, 32 if len(gains) == 1 else 16, 32)
    _normalise[(programs,)](
        x,
        one if outer is None else outer,
        one,
        two,
        three,
        q,
        s,
        rows,
        size,
        outer_eps,
        outer is not None,
        len(gains),
        False,
        block,
        num_warps=warps,
    )
    return q, s


def activations(
    x: Tensor, gain: Tensor, outer: Tensor | None, outer_eps: float, dtype: torch.dtype
) -> Tensor:
    """The numbers q / s [m, k], of type `dtype`, that the codes of `normalise` stand for."""
    _check_norms(x, [gain], outer)
    rows, size = x.shape
    values = torch.empty(rows, size, dtype=dtype, device=x.device)
    programs, block, warps = row_launch(rows, size, 32, 32)
    _normalise[(programs,)](
        x,
        gain if outer is None else outer,
        gain,
        gain,
        gain,
        values,
        values,
        rows,
        size,
        outer_eps,
        outer is not None,
        1,
        True,
        block,
        num_warps=warps,
    )
    return values


def normalise_backward(
    x: Tensor,
    gains: Sequence[Tensor],
    outer: Tensor | None,
    outer_eps: float,
    grads: Sequence[Tensor],
    residual: Tensor | None,
    scales: Sequence[Tensor] | None = None,
) -> tuple[Tensor, list[Tensor], Tensor | None]:
    """The gradients of `normalise`, quantisers being the identity, from those of the normalised
    rows, `grads` [m, k].

    `scales`, a float32 scalar for each, have yet to multiply `grads`.  `residual` [m, k], the
    gradient that reached x another way, is added to that of x [m, k], which has x's type.  The
    gradients of the gains and of `outer`, if there is one, are float32 [k].
    """
    one, two, three = _check_norms(x, gains, outer)
    rows, size = x.shape
    if len(grads) != len(gains):
        raise ValueError(f"there are {len(grads)} gradients of {len(gains)} gains")
    for grad in grads if residual is None else [*grads, residual]:
        check("a gradient", grad, (rows, size))
    if scales is not None and len(scales) != len(grads):
        raise ValueError(f"there are {len(scales)} scales of {len(grads)} gradients")
    for scale in scales or ():
        check("a scale", scale, (), [torch.float32])
    programs, block, warps = row_launch(rows, size, 16, 32 if len(gains) == 1 else 8)
    double = outer is not None
    dx = torch.empty_like(x)
    partial = torch.empty(programs, len(gains) + double, size, dtype=torch.float32, device=x.device)
    _normalise_backward[(programs,)](
        x,
        one if outer is None else outer,
        one,
        two,
        three,
        *_three(grads),
        *_three(scales or grads),
        grads[0] if residual is None else residual,
        dx,
        partial,
        rows,
        size,
        outer_eps,
        double,
        len(gains),
        scales is not None,
        residual is not None,
        block,
        num_warps=warps,
    )
    total = partial.sum(0)
    return dx, list(total[: len(gains)]), total[-1] if double else None
