"""Ternary matrices, packed at two bits a code in the order in which kernels read them.

The rows lie in tiles of 16 and the columns in groups of 16; a tile and a group meet in 64 bytes.
Of these, byte 4·lane + b holds, at bits 2p and 2p + 1 for p = 0 … 3, the code of row 16·tile + lane
and column 16·group + 4p + b, plus one: 0, 1, 2 stand for -1, 0, +1.  So bit 2p alone says whether a
weight is zero, four bytes meet four neighbouring activations, and a range of rows is a range of
tiles.  Rows and columns beyond the matrix hold weights of zero.

For example, row 17 is lane 1 of tile 1, since 17 = 16·1 + 1, and column 38 lies in group 2, since
38 = 16·2 + 6.  As 6 = 4·1 + 2, p is 1 and b is 2: the code is bits 2 and 3 of byte 4·1 + 2 = 6.
A row +1, -1, 0, 0, -1, 0, 0 … is stored as 2, 0, 1, 1, 0, 1, 1 … Its byte 0 holds columns 0, 4, 8
and 12, from the lowest bits up: 0b01_01_00_10.

The arrays may be views of a mapped file; nothing here writes to them.
"""

from collections.abc import Iterator
from dataclasses import dataclass, replace
from functools import cached_property

import numpy as np
from numpy.typing import NDArray

Codes = NDArray[np.int8]

TILE = 16
"""Rows of a tile, and columns of a group."""
ZERO = 0b01010101
"""A byte of four weights of zero."""
_LOWER_BITS = np.uint64(0x5555555555555555)
_STEP = 1 << 22
"""About how many codes are unpacked at once."""
_FILLED = np.array([8 - (word & 0x5555).bit_count() for word in range(1 << 16)], np.uint8)
"""How many of the eight codes in two bytes are not zero: a zero has its lower bit set, 0b01."""


@dataclass(frozen=True, eq=False)
class TernaryMatrix:
    """A matrix [rows, columns] with entries -1, 0, +1."""

    data: NDArray[np.uint8]  # [tiles, groups, 64]
    rows: int
    columns: int
    fullest: int
    """The most non-zero entries that a row has."""
    nonzero: int
    """The non-zero entries of the whole matrix."""

    @property
    def shape(self) -> tuple[int, int]:
        """Rows and columns."""
        return self.rows, self.columns

    @property
    def size(self) -> int:
        """How many entries there are."""
        return self.rows * self.columns

    @cached_property
    def filled(self) -> NDArray[np.int64]:
        """How many non-zero entries each row has; reads all of the packed form."""
        tiles, groups, _ = self.data.shape
        # A lane's four bytes are two words of 16 bits, each counted by one look-up.
        words = self.data.view(np.uint16)  # [tiles, groups, 2 * TILE]
        step = max(1, _STEP // (TILE * TILE * max(1, groups)))
        by_word = np.empty((tiles, 2 * TILE), np.int64)
        for first in range(0, tiles, step):
            some = words[first : first + step]
            by_word[first : first + step] = _FILLED[some].sum(1, dtype=np.int64)
        return by_word.reshape(tiles * TILE, 2).sum(1)[: self.rows]

    @property
    def holds_weights(self) -> bool:
        """Whether no two bits of the packed form are 11, which stands for no weight; reads all of
        it."""
        words = self.data.reshape(-1).view(np.uint64)
        return not any(
            np.any(some & (some >> np.uint64(1)) & _LOWER_BITS)
            for some in np.array_split(words, -(-len(words) * 32 // _STEP))
        )

    @property
    def is_empty_beyond(self) -> bool:
        """Whether all weights beyond the matrix, in its last tiles and groups, are zero."""
        tiles, groups, _ = self.data.shape
        whole = replace(self, rows=tiles * TILE, columns=groups * TILE)
        if self.rows < whole.rows:
            last = whole.codes(whole.rows - TILE)
            if last[self.rows % TILE :].any():
                return False
        if self.columns < whole.columns:
            last = replace(whole, data=self.data[:, -1:], columns=TILE).codes()
            if last[:, self.columns % TILE :].any():
                return False
        return True

    def groups_between(self, first: int, last: int) -> "TernaryMatrix":
        """The columns of groups `first` … `last` - 1 as a matrix of their own."""
        data = np.ascontiguousarray(self.data[:, first:last])
        part = TernaryMatrix(data, self.rows, min(last * TILE, self.columns) - first * TILE, 0, 0)
        return replace(
            part, fullest=int(part.filled.max(initial=0)), nonzero=int(part.filled.sum())
        )

    def codes(self, start: int = 0, stop: int | None = None) -> Codes:
        """The entries of rows `start` … `stop` - 1 as int8 [stop - start, columns]."""
        stop = self.rows if stop is None else stop
        first = start // TILE
        tiles = self.data[first : -(-stop // TILE)]
        # Lanes before groups, so that a row's bytes stand together: [tile, lane, group, b].
        quads = tiles.reshape(*tiles.shape[:2], TILE, 4).transpose(0, 2, 1, 3)
        # With p before b, the last three axes run over 16·group + 4p + b: the columns in order.
        whole = np.empty((*quads.shape[:3], 4, 4), np.int8)  # [tile, lane, group, p, b]
        for p in range(4):
            whole[..., p, :] = (quads >> (2 * p)) & 3
        whole -= 1
        flat = whole.reshape(len(tiles) * TILE, TILE * self.data.shape[1])
        return flat[start - first * TILE : stop - first * TILE, : self.columns]

    def parts(self) -> Iterator[tuple[int, Codes]]:
        """The entries in pieces of a few megabytes: the first row of each piece, and its rows."""
        step = max(TILE, _STEP // max(1, self.columns) // TILE * TILE)
        for start in range(0, self.rows, step):
            yield start, self.codes(start, min(start + step, self.rows))


def packed_shape(rows: int, columns: int) -> tuple[int, int, int]:
    """The shape of the packed array of a matrix."""
    return -(-rows // TILE), -(-columns // TILE), 4 * TILE


def pack(codes: Codes) -> TernaryMatrix:
    """The packed form of entries -1, 0, +1 as int8 [rows, columns]."""
    rows, columns = codes.shape
    tiles, groups, _ = packed_shape(rows, columns)
    padded = np.ones((tiles * TILE, groups * TILE), np.uint8)  # one stands for a weight of zero
    padded[:rows, :columns] = codes + np.int8(1)
    quads = padded.reshape(tiles, TILE, groups, 4, 4)  # [tile, lane, group, p, b], as in `codes`
    packed = quads[..., 0, :].copy()
    for p in (1, 2, 3):
        packed |= quads[..., p, :] << np.uint8(2 * p)
    data = np.ascontiguousarray(packed.transpose(0, 2, 1, 3)).reshape(tiles, groups, 4 * TILE)
    filled = np.count_nonzero(codes, axis=1)
    return TernaryMatrix(data, rows, columns, int(filled.max(initial=0)), int(filled.sum()))
