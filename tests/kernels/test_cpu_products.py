"""Every level of the ternary products gives the integers of an int64 NumPy product."""

import re
import subprocess
import sys

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from mmfree_kernels.cpu import products
from mmfree_neuro.integers.ternary import Codes, TernaryMatrix, pack

LARGEST = {8: 127, 16: 32767}
each_level = pytest.mark.parametrize("level", products.available())
each_width = pytest.mark.parametrize("bits", [8, 16])


def _expected(codes: Codes, x: np.ndarray) -> np.ndarray:
    return x.astype(np.int64) @ codes.astype(np.int64).T


def _random(
    rows: int, columns: int, tokens: int, bits: int, seed: int
) -> tuple[Codes, TernaryMatrix, np.ndarray]:
    rng = np.random.default_rng(seed)
    codes = rng.integers(-1, 2, (rows, columns), np.int8)
    x = rng.integers(-LARGEST[bits] - 1, LARGEST[bits] + 1, (tokens, columns), np.int32)
    return codes, pack(codes), x


def test_levels_fastest_first() -> None:
    assert products.available() == tuple(
        level for level in products.LEVELS if level in products.available()
    )
    assert products.available()[-1] == "numpy"


def test_torch_stays_out() -> None:
    program = "import sys; import mmfree_kernels.cpu.products; sys.exit('torch' in sys.modules)"
    subprocess.run([sys.executable, "-c", program], check=True)


@each_level
def test_by_hand(level: str) -> None:
    matrix = pack(np.array([[1, 0, -1], [-1, -1, 1]], np.int8))
    x = np.array([[5, 7, -2], [-128, 127, 127]], np.int32)
    assert products.product(matrix, x, 8, level=level).tolist() == [[7, -14], [-255, 128]]
    assert products.product(matrix, 100 * x, 16, 1, 2, level=level).tolist() == [[-1400], [12800]]
    assert products.synops(matrix, np.array([3, 4, 5]), level=level).tolist() == [8, 12]
    assert products.synops(matrix, np.array([3, 4, 1 << 60]), 0, 1, level=level).tolist() == [
        3 + (1 << 60)
    ]


@each_level
@given(
    rows=st.integers(1, 70),
    columns=st.integers(1, 150),
    tokens=st.integers(1, 40),
    bits=st.sampled_from([8, 16]),
    ends=st.tuples(st.integers(0, 70), st.integers(0, 70)),
    seed=st.integers(0, 1 << 20),
)
def test_products(
    level: str, rows: int, columns: int, tokens: int, bits: int, ends: tuple[int, int], seed: int
) -> None:
    codes, matrix, x = _random(rows, columns, tokens, bits, seed)
    start, stop = sorted(min(end, rows) for end in ends)
    found = products.product(matrix, x, bits, start, stop, level=level)
    assert found.dtype == np.int32
    assert np.array_equal(found, _expected(codes[start:stop], x))
    assert np.array_equal(products.product(matrix, x, bits, level=level), _expected(codes, x))


@each_level
@given(
    rows=st.integers(1, 70),
    columns=st.integers(1, 150),
    most=st.sampled_from([1, 127, 128, 32767, 32768, 1 << 31, 1 << 40, 1 << 55]),
    ends=st.tuples(st.integers(0, 70), st.integers(0, 70)),
    seed=st.integers(0, 1 << 20),
)
def test_synops(
    level: str, rows: int, columns: int, most: int, ends: tuple[int, int], seed: int
) -> None:
    codes, matrix, _ = _random(rows, columns, 1, 8, seed)
    start, stop = sorted(min(end, rows) for end in ends)
    events = np.random.default_rng(seed).integers(0, most + 1, columns)
    expected = (codes[start:stop] != 0).astype(np.int64) @ events
    assert np.array_equal(products.synops(matrix, events, start, stop, level=level), expected)
    ones = np.ones(columns, np.int64)
    assert np.array_equal(
        products.synops(matrix, ones, level=level), np.count_nonzero(codes, axis=1)
    )


@each_level
@pytest.mark.parametrize("columns", [2816, 6912, 20000])
@pytest.mark.parametrize("code", [1, -1, 0])
@pytest.mark.parametrize(
    ("bits", "value"), [(8, 127), (8, -128), (16, 32767), (16, -32767), (16, -32768), (16, 255)]
)
def test_extremes(level: str, columns: int, code: int, bits: int, value: int) -> None:
    matrix = pack(np.full((17, columns), code, np.int8))
    for tokens in (1, 9):
        found = products.product(
            matrix, np.full((tokens, columns), value, np.int32), bits, level=level
        )
        assert np.array_equal(found, np.full((tokens, 17), columns * code * value))


@each_level
@each_width
def test_long_rows(level: str, bits: int) -> None:
    columns = 300_000
    codes = np.ones((2, columns), np.int8)
    codes[:, ::2] = -1
    codes[1, :2000] = 1
    matrix = pack(codes)
    x = np.full((2, columns), LARGEST[bits], np.int32)
    assert np.array_equal(products.product(matrix, x, bits, level=level), _expected(codes, x))
    events = np.full(columns, 1 << 33)
    assert products.synops(matrix, events, level=level).tolist() == [columns << 33] * 2


@each_level
def test_synops_of_any_size(level: str) -> None:
    matrix = pack(np.array([[1, 0], [0, -1], [0, 0]], np.int8))
    events = np.array([1 << 62, (1 << 62) - 1])
    assert products.synops(matrix, events, level=level).tolist() == [*events, 0]


@each_level
@each_width
def test_threads(level: str, bits: int) -> None:
    codes, matrix, x = _random(900, 1500, 42, bits, 5)
    for start, stop in ((0, 900), (7, 899)):
        found = products.product(matrix, x, bits, start, stop, threads=3, level=level)
        assert np.array_equal(found, _expected(codes[start:stop], x))


@each_level
def test_nothing(level: str) -> None:
    matrix = pack(np.ones((20, 5), np.int8))
    assert products.product(matrix, np.ones((0, 5), np.int32), 8, level=level).shape == (0, 20)
    assert products.product(matrix, np.ones((3, 5), np.int32), 8, 20, 20, level=level).shape == (
        3,
        0,
    )
    assert products.synops(matrix, np.zeros(5, np.int64), level=level).tolist() == [0] * 20
    empty = pack(np.ones((20, 0), np.int8))
    assert (
        products.product(empty, np.ones((3, 0), np.int32), 8, level=level).tolist()
        == [[0] * 20] * 3
    )


@each_level
def test_read_only_views(level: str) -> None:
    codes, matrix, x = _random(40, 33, 3, 8, 1)
    raw = np.frombuffer(b"x" + matrix.data.tobytes(), np.uint8, offset=1).reshape(matrix.data.shape)
    view = TernaryMatrix(raw, 40, 33, matrix.fullest, matrix.nonzero)
    assert np.array_equal(products.product(view, x, 8, level=level), _expected(codes, x))


@each_level
@pytest.mark.parametrize(
    ("bits", "value"), [(8, 128), (8, -129), (16, 32768), (16, -32769), (8, -(1 << 31))]
)
def test_activations_fit(level: str, bits: int, value: int) -> None:
    x = np.zeros((10, 5), np.int32)
    x[9, 4] = value
    with pytest.raises(ValueError, match=f"^an activation does not fit {bits} bits$"):
        products.product(pack(np.ones((20, 5), np.int8)), x, bits, level=level)


def test_messages() -> None:
    matrix, x = pack(np.ones((20, 5), np.int8)), np.ones((2, 5), np.int32)

    def refused(message: str, **changed: object) -> None:
        arguments = {"matrix": matrix, "x": x, "bits": 8, **changed}
        with pytest.raises(ValueError, match=f"^{re.escape(message)}$"):
            products.product(**arguments)  # type: ignore[arg-type]

    wanted = "activations are contiguous int32 [tokens, 5], not"
    refused(f"{wanted} contiguous int64 [2, 5]", x=x.astype(np.int64))
    refused(f"{wanted} contiguous int32 [5]", x=x[0])
    refused(f"{wanted} contiguous int32 [2, 4]", x=x[:, :4].copy())
    refused(f"{wanted} strided int32 [2, 5]", x=np.asfortranarray(x))
    refused("activations have 8 or 16 bits, not 12", bits=12)
    refused("rows -1 … 19 are not among the 20 of the matrix", start=-1)
    refused("rows 0 … 20 are not among the 20 of the matrix", stop=21)
    refused("rows 5 … 3 are not among the 20 of the matrix", start=5, stop=4)
    refused("threads is 0 and must be at least 1", threads=0)
    refused(f"level is 'sse' and must be one of {', '.join(products.available())}", level="sse")


@pytest.mark.parametrize(
    ("events", "message"),
    [
        (np.ones(5, np.int32), "events are int64 [columns], not int32 [5]"),
        (np.ones((1, 5), np.int64), "events are int64 [columns], not int64 [1, 5]"),
        (np.array([0, 0, -1, 0, 0]), "events are counts and cannot be negative"),
        (
            np.ones(4, np.int64),
            "activations are contiguous int32 [tokens, 5], not contiguous int32 [1, 4]",
        ),
    ],
)
def test_messages_of_synops(events: np.ndarray, message: str) -> None:
    with pytest.raises(ValueError, match=f"^{re.escape(message)}$"):
        products.synops(pack(np.ones((20, 5), np.int8)), events)


@pytest.mark.skipif(len(products.available()) == 1, reason="the extension is not built here")
def test_the_extension_guards_itself() -> None:
    from mmfree_kernels.cpu import _ternary

    data, x, out = (
        pack(np.ones((20, 5), np.int8)).data,
        np.ones((2, 5), np.int32),
        np.zeros((2, 20), np.int32),
    )
    with pytest.raises(ValueError, match=r"^the arguments of a ternary product do not agree$"):
        _ternary.product(0, data, x, out, 8, 0, 33, 3, 1)
    with pytest.raises(TypeError, match=r"^product takes 9 arguments, not 0$"):
        _ternary.product()  # type: ignore[call-arg]
