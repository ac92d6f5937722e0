"""Products of wide integers with packed weights equal those of NumPy, by every way that they are
computed."""

from collections.abc import Callable

import numpy as np
import pytest

torch = pytest.importorskip("torch")
pytest.importorskip("triton")

from mmfree_kernels.ops.bitlinear import digits, packed, product
from mmfree_kernels.ops.bitlinear.digits import Packed
from mmfree_neuro.integers.ternary import pack

pytestmark = pytest.mark.kernels

WAYS = {"dp4a": (99, 99), "packed": (0, 99), "unpacked": (0, 0)}
"""Up to how many tokens `Packed.product` multiplies by DP4A, and by packed weights at all."""


@pytest.mark.parametrize("way", WAYS)
@pytest.mark.parametrize(
    ("rows", "columns", "tokens", "bits"),
    [
        (1, 1, 1, 8),
        (33, 70, 3, 8),
        (17, 150, 2, 16),
        (65, 9, 5, 16),
        (70, 290, 1, 22),
        (5, 4, 2, 26),
    ],
)
def test_products_are_those_of_numpy(
    rows: int,
    columns: int,
    tokens: int,
    bits: int,
    way: str,
    device: str,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    few, together = WAYS[way]
    monkeypatch.setattr(digits, "FEW", few)
    monkeypatch.setattr(digits, "TOGETHER", together)
    rng, high = np.random.default_rng(rows), (1 << (bits - 1)) - 1
    drawn = rng.integers(-1, 2, (rows, columns)), rng.integers(-high, high + 1, (tokens, columns))
    full = np.where(np.arange(rows)[:, None] % 2, -1, np.ones((rows, columns)))
    none = np.zeros((tokens, columns), np.int64)
    for codes, x in (drawn, (full, none - high), (0 * full, none + high), (full, none)):
        matrix = Packed(pack(codes.astype(np.int8)), torch.device(device))
        scratch = torch.empty(matrix.size, dtype=torch.int8, device=device)
        split = digits.split(torch.from_numpy(x.astype(np.int32)).to(device), bits)
        found = matrix.product(split, scratch)
        assert np.array_equal(found[:, :rows].cpu().numpy(), x @ codes.astype(np.int64).T)


def test_digits_by_hand(device: str) -> None:
    x = torch.tensor([[300, -1, 32767, -32767]], dtype=torch.int32, device=device)
    assert digits.split(x, 16)[:, 0, :4].tolist() == [[1, -1, 127, -128], [-84, 127, 127, -127]]
    assert digits.split(x[:, 1:2], 8)[:, 0, :1].tolist() == [[-1]]
    assert [digits.count(bits) for bits in (2, 8, 9, 16, 17, 32)] == [1, 1, 2, 2, 3, 4]


def test_a_product_reads_a_part_of_the_columns(device: str) -> None:
    x = torch.arange(24, dtype=torch.int32, device=device).reshape(3, 8)
    matrix = Packed(pack(np.array([[1, -1, 0], [0, 1, 1]], np.int8)), torch.device(device))
    scratch = torch.empty(matrix.size, dtype=torch.int8, device=device)
    some = digits.part(digits.split(x, 8), slice(2, 5))
    assert some.shape == (1, 3, 16)
    assert matrix.product(some, scratch)[:, :2].tolist() == [[-1, 7], [-1, 23], [-1, 39]]
    whole = digits.split(x, 8)
    assert digits.part(whole, slice(0, 8)) is whole


def _zeros(*shape: int) -> "torch.Tensor":
    return torch.zeros(shape, dtype=torch.int8)


WORDS = torch.zeros((1, 2, 16), dtype=torch.int32)
OFFSETS = torch.zeros(16, dtype=torch.int32)


@pytest.mark.parametrize(
    ("call", "message"),
    [
        (
            lambda: packed.sums(_zeros(2, 3, 32), WORDS),
            "2 digits have no offsets, must have one of each of 16 rows",
        ),
        (
            lambda: packed.digit_product(_zeros(1, 3, 32), WORDS, OFFSETS),
            "a single digit has offsets, must have none",
        ),
        (
            lambda: product.digit_sums(_zeros(2, 3, 32), _zeros(16, 32), OFFSETS[:8]),
            "the offsets has shape (8,), must have (16,)",
        ),
    ],
)
def test_refusals(call: Callable[[], object], message: str) -> None:
    with pytest.raises(ValueError) as refused:
        call()
    assert str(refused.value) == message
