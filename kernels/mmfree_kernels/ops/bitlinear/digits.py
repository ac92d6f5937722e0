"""Products of integers of up to 32 bits with ternary weights that stay packed at two bits.

The matrix units multiply bytes, so a value of more than 8 bits goes through them in digits of eight
bits, the highest first: of two, x = 256 · high + low, with high = x >> 8 and low the 8 bits below
it.  As low reaches from 0 to 255, 128 is taken off it so that it fits int8; and 128 times the sum
of a row's weights, its offset, is added to the row's sum.  For example 300 is 1 and 44 - 128 = -84,
and 256 · 1 - 84 + 128 is 300 again.  Sums have 32 bits, and are right wherever the true sum fits
them.
"""

import torch
from torch import Tensor
from torch.nn.functional import pad

from mmfree_kernels.ops.bitlinear.packed import digit_product, sums, unpack, words
from mmfree_kernels.ops.bitlinear.product import digit_sums
from mmfree_neuro.integers.ternary import TILE, TernaryMatrix

FEW = 2
"""Up to so many tokens are multiplied by DP4A."""
TOGETHER = 256
"""Up to so many tokens meet the packed weights; more are worth unpacking them."""
_BITS = 8
_HALF = 1 << (_BITS - 1)


def count(bits: int) -> int:
    """How many digits the values of a format of so many bits with sign have."""
    return -(-bits // _BITS)


def padded(size: int) -> int:
    """The length of a row of so many values in memory, so that rows begin where the matrix units
    want them."""
    return -(-size // TILE) * TILE


def split(x: Tensor, bits: int) -> Tensor:
    """The digits int8 [digits, tokens, padded columns] of integers x [tokens, columns] that fit so
    many bits with their sign; what lies beyond the columns is not said."""
    digits = count(bits)
    out = torch.empty((digits, len(x), padded(x.shape[1])), dtype=torch.int8, device=x.device)
    for digit, row in enumerate(out[:, :, : x.shape[1]]):
        high = x >> (_BITS * (digits - 1 - digit))
        row.copy_(high if digit == 0 else (high & (2 * _HALF - 1)) - _HALF)
    return out


def part(x: Tensor, columns: slice) -> Tensor:
    """The digits of some columns, in rows of their own where these are not all that there are."""
    last = padded(columns.stop)
    if columns.start == 0 and last == x.shape[2]:
        return x
    own = x[:, :, columns]
    return pad(own, (0, padded(own.shape[2]) - own.shape[2])).contiguous()


class Packed:
    """A ternary matrix on a device."""

    def __init__(self, matrix: TernaryMatrix, device: torch.device) -> None:
        self.rows, self.columns = matrix.shape
        self.words = words(matrix, device)
        self._offsets: dict[int, Tensor] = {}

    def offsets(self, digits: int) -> Tensor | None:
        """What makes up for the 128s that all digits but the highest lack, int32 [padded rows];
        None where there is only one."""
        if digits == 1:
            return None
        if 1 not in self._offsets:
            ones = torch.ones((1, padded(self.columns)), dtype=torch.int8, device=self.words.device)
            self._offsets[1] = sums(ones, self.words)[0]
        if digits not in self._offsets:
            lacking = sum(_HALF << (_BITS * k) for k in range(digits - 1))
            self._offsets[digits] = self._offsets[1] * lacking
        return self._offsets[digits]

    def product(self, x: Tensor, scratch: Tensor) -> Tensor:
        """The sums int32 [tokens, padded rows] of values in digits x int8
        [digits, tokens, padded columns]; `scratch` is int8, as large as the padded matrix."""
        offsets, tokens = self.offsets(len(x)), x.shape[1]
        if tokens <= FEW:
            return sums(x, self.words, offsets)
        if tokens <= TOGETHER:
            return digit_product(x, self.words, offsets)
        return digit_sums(x, unpack(self.words, scratch), offsets)

    @property
    def size(self) -> int:
        """How many weights there are with those that fill rows and columns."""
        return padded(self.rows) * padded(self.columns)
