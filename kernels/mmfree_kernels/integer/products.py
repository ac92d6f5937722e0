"""Exact integer products of activations with packed ternary weights;
`mmfree_neuro.integers.ternary` has the layout.

The weights lie on the device as they are packed, 2 bits each, and are unpacked in registers.  One
token is multiplied element by element.  Several tokens go through the matrix units, which multiply
bytes: 16 bits are 256 · high + low, 128 is taken off `low` so that it fits int8, and 128 times the
sum of the row's weights is added back.  Sums have 32 bits, and are right wherever the true sum fits
them.
"""

from functools import cached_property

import numpy as np
import torch
import triton
import triton.language as tl
from torch import Tensor

from mmfree_neuro.integers.ternary import TernaryMatrix

ONE_TOKEN = {"ROWS": 16, "COLUMNS": 256}
"""Rows of one instance, and columns that it takes in one step."""
MANY_TOKENS = {"ROWS": 64, "GROUPS": 8}
"""Rows of one instance, and groups of columns that it takes in one step."""
MOST_TOKENS = 64
"""Tokens of one instance."""
_DIGIT_BITS = 15


@triton.jit(do_not_specialize=["columns"])
def _one_token(words, x, out, rows, columns, groups, ROWS: tl.constexpr, COLUMNS: tl.constexpr):
    """The sums of one token, from words [tiles, groups, 16] that hold the 16 codes of a row in a
    group."""
    row = tl.program_id(0) * ROWS + tl.arange(0, ROWS)
    column = tl.arange(0, COLUMNS)
    shift = column % 4 * 8 + column % 16 // 4 * 2
    at = (row // 16).to(tl.int64) * groups * 16 + row % 16
    total = tl.zeros([ROWS, COLUMNS], tl.int32)
    done = 0
    while done < columns:
        inside = (row < rows)[:, None] & (column < columns)[None, :]
        packed = tl.load(words + at[:, None] + (column // 16 * 16)[None, :], mask=inside, other=0)
        value = tl.load(x + column, mask=column < columns, other=0)
        total += (((packed >> shift[None, :]) & 3) - 1) * value[None, :]
        column += COLUMNS
        done += COLUMNS
    tl.store(out + row, tl.sum(total, axis=1), mask=row < rows)


@triton.jit(do_not_specialize=["groups", "tokens"])
def _many_tokens(
    data,
    row_sums,
    x,
    x_stride,
    out,
    rows,
    columns,
    groups,
    tokens,
    WIDE: tl.constexpr,
    ROWS: tl.constexpr,
    GROUPS: tl.constexpr,
    TOKENS: tl.constexpr,
):
    """The sums of several tokens: each two bits of the bytes [ROWS, 4 · GROUPS] meet the columns
    they stand for."""
    row = tl.program_id(0) * ROWS + tl.arange(0, ROWS)
    token = tl.program_id(1) * TOKENS + tl.arange(0, TOKENS)
    byte = tl.arange(0, 4 * GROUPS)
    at = (row // 16).to(tl.int64) * groups * 64 + row % 16 * 4
    token_at = token.to(tl.int64) * x_stride
    total = tl.zeros([ROWS, TOKENS], tl.int32)
    low = tl.zeros([ROWS, TOKENS], tl.int32)
    group = byte // 4
    done = 0
    while done < groups:
        inside = (row < rows)[:, None] & (group < groups)[None, :]
        packed = tl.load(
            data + at[:, None] + (group * 64 + byte % 4)[None, :], mask=inside, other=0x55
        )
        for p in tl.static_range(4):
            weight = ((packed >> (2 * p)) & 3).to(tl.int8) - 1
            column = group * 16 + 4 * p + byte % 4
            there = (column < columns)[:, None] & (token < tokens)[None, :]
            value = tl.load(x + column[:, None] + token_at[None, :], mask=there, other=0)
            if WIDE:
                total = tl.dot(weight, (value >> 8).to(tl.int8), total, out_dtype=tl.int32)
                low = tl.dot(weight, ((value & 255) - 128).to(tl.int8), low, out_dtype=tl.int32)
            else:
                total = tl.dot(weight, value.to(tl.int8), total, out_dtype=tl.int32)
        group += GROUPS
        done += GROUPS
    if WIDE:
        of_row = tl.load(row_sums + row, mask=row < rows, other=0)
        total = total * 256 + low + (of_row * 128)[:, None]
    there = (row < rows)[:, None] & (token < tokens)[None, :]
    tl.store(out + token.to(tl.int64)[None, :] * rows + row[:, None], total, mask=there)


class Packed:
    """A ternary matrix on a device."""

    def __init__(self, matrix: TernaryMatrix, device: torch.device) -> None:
        self.rows, self.columns = matrix.shape
        self.groups = matrix.data.shape[1]
        copied = np.array(matrix.data)  # it may be a mapped file, which torch would not take
        self.data = torch.from_numpy(copied).to(device)  # [tiles, groups, 64]

    @cached_property
    def row_sums(self) -> Tensor:
        """The sum of each row's weights."""
        return self._one(torch.ones((1, self.columns), dtype=torch.int32, device=self.data.device))[
            0
        ]

    def product(self, x: Tensor, bits: int) -> Tensor:
        """x · rows, int32 [tokens, rows]; x is int32 [tokens, columns] whose values fit `bits` bits
        with their sign."""
        if x.dtype != torch.int32 or x.ndim != 2 or x.shape[1] != self.columns or x.stride(1) != 1:
            found = f"{x.dtype} {list(x.shape)} with strides {list(x.stride())}"
            raise ValueError(
                f"activations are int32 [tokens, {self.columns}] with rows in one piece, not "
                f"{found}"
            )
        if len(x) == 1:
            return self._one(x)
        if bits <= 16:
            return self._many(x, wide=bits > 8)
        mask = (1 << _DIGIT_BITS) - 1
        digits = x & mask, (x >> _DIGIT_BITS) & mask, x >> (2 * _DIGIT_BITS)
        sums = [
            self._many(digit, wide=True).long() << (_DIGIT_BITS * k)
            for k, digit in enumerate(digits)
        ]
        return (sums[0] + sums[1] + sums[2]).to(torch.int32)

    def _one(self, x: Tensor) -> Tensor:
        out = torch.empty((1, self.rows), dtype=torch.int32, device=x.device)
        grid = (triton.cdiv(self.rows, ONE_TOKEN["ROWS"]),)
        words = self.data.view(torch.int32)
        _one_token[grid](
            words, x, out, self.rows, self.columns, self.groups, **ONE_TOKEN, num_warps=4
        )
        return out

    def _many(self, x: Tensor, *, wide: bool) -> Tensor:
        tokens, row_sums = len(x), self.row_sums if wide else None
        out = torch.empty((tokens, self.rows), dtype=torch.int32, device=x.device)
        together = min(MOST_TOKENS, max(16, triton.next_power_of_2(tokens)))
        grid = triton.cdiv(self.rows, MANY_TOKENS["ROWS"]), triton.cdiv(tokens, together)
        _many_tokens[grid](
            self.data,
            row_sums,
            x,
            x.stride(0),
            out,
            self.rows,
            self.columns,
            self.groups,
            tokens,
            WIDE=wide,
            **MANY_TOKENS,
            TOKENS=together,
            num_warps=4,
        )
        return out
