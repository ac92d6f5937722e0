"""Products of 8-bit activations with ternary weights that stay packed at two bits: exact int32
sums.

The packed form is that of `mmfree_neuro.integers.ternary`, as words of 32 bits: `words[tile, group,
lane]` holds the 16 weights of row 16·tile + lane at columns 16·group …, four bytes of four codes
plus one.  So `(word >> 2p) & 0x03030303` are the codes of columns 16·group + 4p … + 3, which one
DP4A instruction multiplies with four activations, and a row's sum is Σ code · q - Σ q.  Some dozens
of tokens go through the tensor cores instead (`product`), and more through int8 weights that
`unpack` writes out for one matrix at a time.

Activations of more than 8 bits come as digits (`bitlinear.digits`): int8 [digits, tokens, columns],
of which each counts 256 times as much as the next, and a number is added to every row's sum at the
end, its offset.
"""

from functools import lru_cache
from typing import NamedTuple

import torch
import triton
import triton.language as tl
from torch import Tensor

from mmfree_kernels.ops.bitlinear.checks import check, check_offsets
from mmfree_neuro.integers.ternary import TILE, TernaryMatrix

INTERPRETED = triton.knobs.runtime.interpret
"""Whether kernels run through Triton's interpreter, which has no inline assembly."""
TOKENS = 64
"""So many tokens at most one program of `product` takes."""


class Cut(NamedTuple):
    """What a program of `product` takes: rows, packed bytes of a row at a time, and its
    resources."""

    rows: int
    bytes: int
    warps: int
    stages: int


FEW_TOKENS = {0: Cut(32, 64, 4, 3), 12288: Cut(64, 64, 4, 3)}
MORE_TOKENS = {
    0: Cut(16, 32, 2, 3),
    2048: Cut(32, 32, 2, 4),
    4096: Cut(64, 32, 4, 3),
    12288: Cut(128, 32, 8, 3),
}
"""The fastest of a search on an H200, by the least rows of a product, for up to 16 tokens and for
more."""


def words(matrix: TernaryMatrix, device: torch.device | str) -> Tensor:
    """The packed weights of a matrix on a device: int32 [tiles, groups, 16]."""
    tiles, groups, size = matrix.data.shape
    return torch.from_numpy(matrix.data.view("<i4").reshape(tiles, groups, size // 4).copy()).to(
        device
    )


@lru_cache
def overlaps() -> bool:
    """Whether kernels are launched while the one ahead still runs, and wait themselves: from Hopper
    on."""
    return not INTERPRETED and torch.cuda.get_device_capability()[0] >= 9


@triton.jit
def begin(PDL: tl.constexpr):
    """Wait until the kernel ahead has written what this one reads, and let the next one start."""
    if PDL:
        tl.extra.cuda.gdc_wait()
        tl.extra.cuda.gdc_launch_dependents()


@triton.jit
def dp4a(a, b, INTERPRETED: tl.constexpr):
    """Σ a_k · b_k over the four bytes of each word; those of `a` are 0 … 127."""
    if INTERPRETED:
        total = (a & 255) * ((b << 24) >> 24)
        for k in tl.static_range(1, 4):
            total += ((a >> 8 * k) & 255) * ((b << (24 - 8 * k)) >> 24)
        return total
    else:
        return tl.inline_asm_elementwise(
            "dp4a.s32.s32 $0, $1, $2, 0;", "=r,r,r", [a, b], dtype=tl.int32, is_pure=True, pack=1
        )


@triton.jit
def as_words(q):
    """Four neighbouring codes of q [groups, 16] in one word: [groups, 4]."""
    GROUPS: tl.constexpr = q.shape[0]
    bits = tl.reshape(q.to(tl.int32) & 255, (GROUPS, 4, 4)) << (8 * tl.arange(0, 4))[None, None, :]
    return tl.sum(bits, 2).to(tl.int32)


@triton.jit
def row_words(base, first, ROWS: tl.constexpr, groups, GROUPS: tl.constexpr, count):
    """The packed weights of rows `first` … of a matrix [GROUPS, ROWS]; beyond `groups` or `count`
    rows, 0."""
    r = first + tl.arange(0, ROWS)
    g = tl.arange(0, GROUPS)
    at = ((r // 16) * groups)[None, :] * 16 + g[:, None] * 16 + (r % 16)[None, :]
    return tl.load(base + at, mask=(g < groups)[:, None] & (r < count)[None, :], other=0)


@triton.jit
def row_sums(weights, q, total, INTERPRETED: tl.constexpr):
    """Σ weight · q [ROWS] of packed weights [GROUPS, ROWS] and packed codes [GROUPS, 4] whose sum
    is `total`."""
    codes = (weights[:, None, :] >> (2 * tl.arange(0, 4))[None, :, None]) & 0x03030303
    both = dp4a(codes, tl.broadcast_to(q[:, :, None], codes.shape), INTERPRETED)
    return tl.sum(tl.sum(both, 1), 0).to(tl.int32) - total


@triton.jit
def _sums_kernel(
    q,
    base,
    offsets,
    out,
    rows,
    columns,
    DIGITS: tl.constexpr,
    ROWS: tl.constexpr,
    GROUPS: tl.constexpr,
    INTERPRETED: tl.constexpr,
):
    first, token, tokens = tl.program_id(0) * ROWS, tl.program_id(1), tl.num_programs(1)
    weights = row_words(base, first, ROWS, columns // 16, GROUPS, rows)
    g = tl.arange(0, GROUPS)[:, None] * 16 + tl.arange(0, 16)[None, :]
    r = first + tl.arange(0, ROWS)
    found = tl.zeros((ROWS,), tl.int32)
    for digit in tl.static_range(DIGITS):
        codes = tl.load(q + (digit * tokens + token) * columns + g, mask=g < columns, other=0)
        total = tl.sum(tl.sum(codes.to(tl.int32), 1), 0).to(tl.int32)
        found = found * 256 + row_sums(weights, as_words(codes), total, INTERPRETED)
    if DIGITS > 1:
        found += tl.load(offsets + r, mask=r < rows, other=0)
    tl.store(out + token * rows + r, found, mask=r < rows)


def sums(q: Tensor, packed: Tensor, offsets: Tensor | None = None) -> Tensor:
    """Exact sums int32 [tokens, rows] of codes q int8 [tokens, columns] and packed weights, for few
    tokens; or of digits [digits, tokens, columns] with `offsets` int32 [rows]."""
    rows, columns = _check(q, packed)
    digits = len(q) if q.ndim == 3 else 1
    check_offsets(digits, offsets, rows)
    out = torch.empty(q.shape[-2], rows, dtype=torch.int32, device=q.device)
    grid = triton.cdiv(rows, 16), len(out)
    groups = triton.next_power_of_2(columns // 16)
    _sums_kernel[grid](
        q,
        packed,
        out if offsets is None else offsets,
        out,
        rows,
        columns,
        digits,
        16,
        groups,
        INTERPRETED,
    )
    return out


@triton.jit
def _codes(packed, p: tl.constexpr, INTERPRETED: tl.constexpr):
    """Bits 2p and 2p + 1 of every byte, less one; four bytes at once, in which no byte borrows from
    its neighbour."""
    if INTERPRETED:
        return (((packed.to(tl.int32) & 255) >> (2 * p)) & 3).to(tl.int8) - 1
    else:
        return tl.inline_asm_elementwise(
            f"{{ .reg .b32 t; shr.u32 t, $1, {2 * p}; and.b32 t, t, 0x03030303; or.b32 t, t, "
            "0x80808080;"
            " sub.u32 t, t, 0x01010101; xor.b32 $0, t, 0x80808080; }",
            "=r,r",
            [packed],
            dtype=tl.int8,
            is_pure=True,
            pack=4,
        )


@triton.jit
def _product_kernel(
    q,
    s,
    base,
    scales,
    residual,
    offsets,
    out,
    tokens,
    rows,
    columns,
    part_rows,
    DIGITS: tl.constexpr,
    EXACT: tl.constexpr,
    RESIDUAL: tl.constexpr,
    ROWS: tl.constexpr,
    TOKENS: tl.constexpr,
    BYTES: tl.constexpr,
    PDL: tl.constexpr,
    INTERPRETED: tl.constexpr,
):
    begin(PDL)
    first, part = tl.program_id(0) * ROWS, tl.program_id(0) * ROWS // part_rows
    r, t = first + tl.arange(0, ROWS), tl.program_id(1) * TOKENS + tl.arange(0, TOKENS)
    b, groups = tl.arange(0, BYTES), columns // 16
    weights = (
        base + ((r // 16) * groups * 64 + 4 * (r % 16))[:, None] + (b // 4 * 64 + b % 4)[None, :]
    )
    codes = q + part * tokens * columns + (t * columns)[None, :] + (b // 4 * 16 + b % 4)[:, None]
    total = tl.zeros((ROWS, TOKENS), tl.int32)
    for digit in tl.static_range(DIGITS):
        if digit > 0:
            total = total * 256
        for k in range(0, columns // 4, BYTES):
            inside = k + b < columns // 4
            packed = tl.load(weights + k * 16, mask=inside[None, :] & (r < rows)[:, None], other=0)
            for p in tl.static_range(4):
                x = tl.load(
                    codes + digit * tokens * columns + k * 4 + 4 * p,
                    mask=inside[:, None] & (t < tokens)[None, :],
                    other=0,
                )
                total = tl.dot(_codes(packed, p, INTERPRETED), x, total, out_dtype=tl.int32)
    at = (t * rows)[None, :] + r[:, None]
    mask = (t < tokens)[None, :] & (r < rows)[:, None]
    if DIGITS > 1:
        total += tl.load(offsets + r, mask=r < rows, other=0)[:, None]
    if EXACT:
        tl.store(out + at, total, mask=mask)
    else:
        factor = tl.load(scales + part) / tl.load(s + part * tokens + t, mask=t < tokens, other=1.0)
        value = total.to(tl.float32) * factor[None, :]
        if RESIDUAL:
            value += tl.load(residual + at, mask=mask, other=0.0)
        tl.store(out + at, value, mask=mask)


def _cut(rows: int, per_part: int, tokens: int) -> Cut:
    """How to cut a product of so many rows, none of whose programs may lie across two parts."""
    choices = FEW_TOKENS if tokens <= 16 else MORE_TOKENS
    cut = next(choices[least] for least in sorted(choices, reverse=True) if rows >= least)
    while per_part % cut.rows:
        cut = cut._replace(rows=cut.rows // 2)
    return cut


def product(
    q: Tensor,
    packed: Tensor,
    s: Tensor | None = None,
    scales: Tensor | None = None,
    residual: Tensor | None = None,
) -> Tensor:
    """Sums of codes q and packed weights on the tensor cores, for some dozens of tokens.

    With one matrix q is int8 [tokens, columns]; with P matrices of equal shape, stacked in
    `packed`, it is [P, tokens, columns], and the result [tokens, P · rows].  Without `s` the result
    is the exact int32 sums; with `s` [P, tokens] (1 / step of the codes) and `scales` [P] (of the
    weights) it is float32, sum · scale / s + `residual`.
    """
    rows, _ = _check(q, packed)
    parts, tokens = q.view(-1, *q.shape[-2:]), q.shape[-2]
    for who, given, shape in (
        ("s", s, (len(parts), tokens)),
        ("scales", scales, (len(parts),)),
        ("the residual", residual, (tokens, rows)),
    ):
        if given is not None:
            check(who, given, shape, [torch.float32])
    return _multiplied(q, packed, len(parts), s, scales, residual, None)


def digit_product(q: Tensor, packed: Tensor, offsets: Tensor | None = None) -> Tensor:
    """The same exact int32 sums [tokens, rows] of one matrix and digits q int8
    [digits, tokens, columns], with `offsets` int32 [rows] where there are several digits."""
    rows, _ = _check(q, packed)
    check_offsets(len(q), offsets, rows)
    return _multiplied(q, packed, 1, None, None, None, offsets)


def _multiplied(
    q: Tensor,
    packed: Tensor,
    parts: int,
    s: Tensor | None,
    scales: Tensor | None,
    residual: Tensor | None,
    offsets: Tensor | None,
) -> Tensor:
    """The product of so many parts, or, where there are offsets, of several digits."""
    rows, columns, tokens = packed.shape[0] * TILE, q.shape[-1], q.shape[-2]
    kind = torch.int32 if s is None else torch.float32
    out = torch.empty(tokens, rows, dtype=kind, device=q.device)
    together = min(TOKENS, max(16, triton.next_power_of_2(tokens)))
    cut = _cut(rows, rows // parts, together)
    grid = triton.cdiv(rows, cut.rows), triton.cdiv(tokens, together)
    _product_kernel[grid](
        q,
        s if s is not None else out,
        packed.view(torch.uint8),
        scales if scales is not None else out,
        residual if residual is not None else out,
        offsets if offsets is not None else out,
        out,
        tokens,
        rows,
        columns,
        rows // parts,
        1 if offsets is None else len(q),
        s is None,
        residual is not None,
        cut.rows,
        together,
        cut.bytes,
        overlaps(),
        INTERPRETED,
        num_warps=cut.warps,
        num_stages=cut.stages,
        launch_pdl=overlaps(),
    )
    return out


@triton.jit
def _unpack_kernel(base, out, groups, GROUPS: tl.constexpr):
    g, r, p = tl.program_id(1) * GROUPS + tl.arange(0, GROUPS), tl.arange(0, 16), tl.arange(0, 4)
    tile, inside = tl.program_id(0).to(tl.int64), (g < groups)[:, None]
    word = tl.load(base + (tile * groups + g[:, None]) * 16 + r[None, :], mask=inside, other=0)
    codes = (
        ((word[:, :, None] >> (2 * p)[None, None, :]) & 0x03030303) | -0x7F7F7F80
    ) - 0x01010101 ^ -0x7F7F7F80
    at = (
        out
        + (tile * 16 + r)[None, :, None] * (groups * 4)
        + (g * 4)[:, None, None]
        + p[None, None, :]
    )
    tl.store(at, codes, mask=inside[:, :, None])


def unpack(packed: Tensor, out: Tensor) -> Tensor:
    """The codes of packed weights, as int8 [rows, columns] in the beginning of the buffer `out`."""
    tiles, groups, _ = packed.shape
    rows, columns = tiles * TILE, groups * TILE
    if out.dtype != torch.int8 or out.numel() < rows * columns or not out.is_contiguous():
        raise ValueError(f"the buffer must be contiguous int8 of at least {rows * columns} entries")
    flat = out.view(-1)[: rows * columns]
    _unpack_kernel[(tiles, triton.cdiv(groups, 64))](packed, flat.view(torch.int32), groups, 64)
    return flat.view(rows, columns)


def _check(q: Tensor, packed: Tensor) -> tuple[int, int]:
    """Rows and columns of packed weights that codes q [tokens, columns] meet."""
    tiles, groups, _ = packed.shape
    if q.dtype != torch.int8 or q.shape[-1] != groups * TILE or not q.is_contiguous():
        kind = "contiguous" if q.is_contiguous() else "strided"
        raise ValueError(
            f"codes are contiguous int8 [tokens, {groups * TILE}], not {kind} {q.dtype} "
            f"{list(q.shape)}"
        )
    return tiles * TILE, groups * TILE
