"""The product of int8 activations with ternary codes, on tensor cores: exact int32 sums; Triton.

Activations of more than 8 bits come as digits (`bitlinear.digits`), of which each counts 256 times
as much as the next, and a number is added to every row's sum at the end, its offset.
"""

from dataclasses import dataclass
from functools import lru_cache

import torch
import triton
import triton.language as tl
from torch import Tensor
from triton.tools.tensor_descriptor import TensorDescriptor

from mmfree_kernels.ops.bitlinear.checks import check, check_offsets
from mmfree_kernels.ops.bitlinear.rows import PROCESSORS


@dataclass(frozen=True)
class Tiles:
    """How the int8 product is cut: output rows and columns of a program, features of a step, and
    its resources."""

    rows: int
    columns: int
    features: int
    warps: int
    stages: int


RATES = {
    Tiles(128, 256, 128, 8, 4): 1.0,
    Tiles(128, 128, 128, 4, 4): 0.86,
    Tiles(64, 128, 128, 4, 4): 0.78,
    Tiles(64, 64, 128, 4, 5): 0.56,
}
"""The tiles to choose from, and how fast large products with them are on an H100, over the
fastest."""


@triton.jit
def _corner(rows, columns, ROWS: tl.constexpr, COLUMNS: tl.constexpr):
    """Where this program's tile begins: eight tiles of rows at a time go along the columns, so
    operands stay in L2."""
    across = tl.cdiv(columns, COLUMNS)
    group = tl.program_id(0) // (8 * across)
    height = tl.minimum(tl.cdiv(rows, ROWS) - 8 * group, 8)
    place = tl.program_id(0) % (8 * across)
    return (8 * group + place % height) * ROWS, (place // height) * COLUMNS


@triton.jit
def _finish(
    total,
    top,
    left,
    s,
    scale,
    residual,
    offsets,
    out,
    rows,
    columns,
    DIGITS: tl.constexpr,
    SUMS: tl.constexpr,
    RESIDUAL: tl.constexpr,
    ROWS: tl.constexpr,
    COLUMNS: tl.constexpr,
):
    row, column = top + tl.arange(0, ROWS), left + tl.arange(0, COLUMNS)
    inside = (row < rows)[:, None] & (column < columns)[None, :]
    at = row.to(tl.int64)[:, None] * columns + column[None, :]
    if DIGITS > 1:
        total += tl.load(offsets + column, mask=column < columns, other=0)[None, :]
    if SUMS:
        tl.store(out + at, total, mask=inside)
    else:
        factor = tl.div_rn(tl.load(scale), tl.load(s + row, mask=row < rows, other=1.0))
        value = total.to(tl.float32) * factor[:, None]
        if RESIDUAL:
            value += tl.load(residual + at, mask=inside, other=0.0).to(tl.float32)
        tl.store(out + at, value.to(out.dtype.element_ty), mask=inside)


# Factors of one projection of several begin wherever the rows of those before it end.
@triton.jit(do_not_specialize=["rows"], do_not_specialize_on_alignment=["s"])
def _int8_product(
    q,
    codes,
    s,
    scale,
    residual,
    offsets,
    out,
    rows,
    columns,
    features,
    DIGITS: tl.constexpr,
    SUMS: tl.constexpr,
    RESIDUAL: tl.constexpr,
    ROWS: tl.constexpr,
    COLUMNS: tl.constexpr,
    FEATURES: tl.constexpr,
):
    top, left = _corner(rows, columns, ROWS, COLUMNS)
    total = tl.zeros((ROWS, COLUMNS), tl.int32)
    for digit in tl.static_range(DIGITS):
        if digit > 0:
            total = total * 256
        for step in range(0, tl.cdiv(features, FEATURES)):
            a, b = (
                q.load([digit * rows + top, step * FEATURES]),
                codes.load([left, step * FEATURES]),
            )  # zero beyond the edges
            total = tl.dot(a, b.T, total, out_dtype=tl.int32)
    _finish(
        total,
        top,
        left,
        s,
        scale,
        residual,
        offsets,
        out,
        rows,
        columns,
        DIGITS,
        SUMS,
        RESIDUAL,
        ROWS,
        COLUMNS,
    )


@lru_cache
def _fitting(device: torch.device) -> tuple[Tiles, ...]:
    """The tiles whose operands fit the shared memory of a multiprocessor."""
    if device.type != "cuda":
        return tuple(RATES)
    limit = triton.runtime.driver.active.utils.get_device_properties(device.index)["max_shared_mem"]
    return tuple(t for t in RATES if t.stages * (t.rows + t.columns) * t.features <= limit)


def _tiles(rows: int, columns: int, device: torch.device) -> Tiles:
    """The tiles of which the waves over all multiprocessors take least, at the rates that each kind
    reaches."""

    def cost(tiles: Tiles) -> float:
        programs = triton.cdiv(rows, tiles.rows) * triton.cdiv(columns, tiles.columns)
        return triton.cdiv(programs, PROCESSORS) * tiles.rows * tiles.columns / RATES[tiles]

    return min(_fitting(device), key=cost)


def _product(
    q: Tensor,
    codes: Tensor,
    out: Tensor,
    s: Tensor,
    scale: Tensor,
    residual: Tensor | None,
    tiles: Tiles | None,
    offsets: Tensor | None = None,
) -> Tensor:
    rows, columns, features = len(out), len(codes), q.shape[-1]
    digits = 1 if offsets is None else len(q)
    q = q.view(digits * rows, features)
    check("q", q, (digits * rows, features), [torch.int8])
    check("codes", codes, (columns, features), [torch.int8])
    if features % 16:
        raise ValueError(f"q has {features} features, must have a multiple of 16")
    cut = _tiles(rows, columns, q.device) if tiles is None else tiles
    grid = (triton.cdiv(rows, cut.rows) * triton.cdiv(columns, cut.columns),)
    added = out if residual is None else residual, out if offsets is None else offsets
    rest = s, scale, *added, out, rows, columns, features
    choices = digits, out.dtype == torch.int32, residual is not None
    shape, resources = (
        (cut.rows, cut.columns, cut.features),
        {"num_warps": cut.warps, "num_stages": cut.stages},
    )
    a = TensorDescriptor.from_tensor(q, [cut.rows, cut.features])
    b = TensorDescriptor.from_tensor(codes, [cut.columns, cut.features])
    _int8_product[grid](a, b, *rest, *choices, *shape, **resources)
    return out


def int8_sums(q: Tensor, codes: Tensor, tiles: Tiles | None = None) -> Tensor:
    """The sums q codesᵀ of int8 q [m, k] and codes [n, k]; int32 [m, n]."""
    out = torch.empty(len(q), len(codes), dtype=torch.int32, device=q.device)
    return _product(q, codes, out, out, out, None, tiles)


def digit_sums(
    q: Tensor, codes: Tensor, offsets: Tensor | None = None, tiles: Tiles | None = None
) -> Tensor:
    """The sums [m, n] of digits q int8 [digits, m, k] and codes [n, k]; where there are several
    digits, with `offsets` int32 [n]."""
    check_offsets(len(q), offsets, len(codes))
    out = torch.empty(q.shape[1], len(codes), dtype=torch.int32, device=q.device)
    return _product(q, codes, out, out, out, None, tiles, offsets)


def int8_product(
    q: Tensor,
    s: Tensor,
    codes: Tensor,
    scale: Tensor,
    out_dtype: torch.dtype,
    residual: Tensor | None = None,
    tiles: Tiles | None = None,
) -> Tensor:
    """BitLinear's product (scale / s) · q codesᵀ, plus `residual` [m, n] if given, in `out_dtype`,
    [m, n].

    q [m, k] and codes [n, k] are int8, their sums exact; s [m] and the scalar `scale` are float32.
    """
    shape = len(q), len(codes)
    if not out_dtype.is_floating_point:
        raise ValueError(f"the product is of {out_dtype}, must be of a floating type")
    check("s", s, shape[:1], [torch.float32])
    check("scale", scale, (), [torch.float32])
    if residual is not None:
        check("residual", residual, shape)
    out = torch.empty(shape, dtype=out_dtype, device=q.device)
    return _product(q, codes, out, s, scale, residual, tiles)
