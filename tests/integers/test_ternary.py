"""Ternary matrices are packed as the kernels read them, and come back."""

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from mmfree_neuro.integers.ternary import TILE, ZERO, pack, packed_shape


def test_packing_by_hand() -> None:
    matrix = pack(np.array([[1, -1, 0], [0, 1, 1]], np.int8))
    assert matrix.data.shape == packed_shape(2, 3) == (1, 1, 64)
    first, second = matrix.data[0, 0, :4].tolist(), matrix.data[0, 0, 4:8].tolist()
    assert first == [ZERO + 1, ZERO - 1, ZERO, ZERO]
    assert second == [ZERO, ZERO + 1, ZERO + 1, ZERO]
    assert set(matrix.data[0, 0, 8:].tolist()) == {ZERO}
    assert (matrix.shape, matrix.size, matrix.fullest, matrix.nonzero) == ((2, 3), 6, 2, 4)


def test_two_places_by_hand() -> None:
    """Those of the module's docstring: codes that share a byte, and one in a tile further on."""
    assert pack(np.array([[1, -1, 0, 0, -1]], np.int8)).data[0, 0, 0] == 0b01_01_00_10
    codes = np.zeros((18, 39), np.int8)
    codes[17, 38] = 1
    assert pack(codes).data[1, 2, 6] == ZERO + (1 << 2)


def test_the_place_of_every_code() -> None:
    for row, column in ((0, 0), (5, 7), (17, 33), (15, 15), (31, 4)):
        codes = np.zeros((32, 48), np.int8)
        codes[row, column] = 1
        tile, group, byte = (int(where[0]) for where in np.nonzero(pack(codes).data != ZERO))
        position, lane_byte = divmod(column % TILE, 4)
        assert (tile, group) == (row // TILE, column // TILE)
        assert byte == 4 * (row % TILE) + lane_byte
        assert pack(codes).data[tile, group, byte] == ZERO + (1 << 2 * position)


@given(st.integers(1, 40), st.integers(1, 40), st.integers(0, 2**32), st.data())
def test_packing_loses_nothing(rows: int, columns: int, seed: int, data: st.DataObject) -> None:
    codes = np.random.default_rng(seed).integers(-1, 2, size=(rows, columns)).astype(np.int8)
    matrix = pack(codes)
    assert matrix.codes().dtype == np.int8
    assert np.array_equal(matrix.codes(), codes)
    start = data.draw(st.integers(0, rows))
    stop = data.draw(st.integers(start, rows))
    assert np.array_equal(matrix.codes(start, stop), codes[start:stop])
    assert matrix.fullest == np.count_nonzero(codes, axis=1).max()
    assert matrix.nonzero == np.count_nonzero(codes)


@given(st.integers(1, 40), st.integers(1, 90), st.integers(0, 2**32), st.data())
def test_some_groups_of_columns(rows: int, columns: int, seed: int, data: st.DataObject) -> None:
    codes = np.random.default_rng(seed).integers(-1, 2, size=(rows, columns)).astype(np.int8)
    matrix = pack(codes)
    assert matrix.filled.tolist() == np.count_nonzero(codes, axis=1).tolist()
    first = data.draw(st.integers(0, (columns - 1) // TILE))
    last = data.draw(st.integers(first + 1, -(-columns // TILE)))
    part, expected = matrix.groups_between(first, last), pack(codes[:, first * TILE : last * TILE])
    assert np.array_equal(part.data, expected.data)
    assert part.data.flags.c_contiguous
    assert (part.shape, part.fullest, part.nonzero) == (
        expected.shape,
        expected.fullest,
        expected.nonzero,
    )


def test_counting_the_entries_of_a_large_matrix() -> None:
    """It is read in pieces."""
    codes = np.random.default_rng(3).integers(-1, 2, size=(40, 1 << 18)).astype(np.int8)
    assert pack(codes).filled.tolist() == np.count_nonzero(codes, axis=1).tolist()


@pytest.mark.parametrize("columns", [1, 3000, 1 << 21])
def test_parts_are_the_whole(columns: int) -> None:
    codes = np.random.default_rng(columns).integers(-1, 2, size=(40, columns)).astype(np.int8)
    parts = list(pack(codes).parts())
    assert [start for start, _ in parts] == list(
        np.cumsum([0] + [len(part) for _, part in parts[:-1]])
    )
    assert np.array_equal(np.concatenate([part for _, part in parts]), codes)
