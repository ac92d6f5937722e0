"""Packed products equal those of the codes, bit for bit, on every size and on the values that could
overflow."""

from collections.abc import Callable

import numpy as np
import pytest

torch = pytest.importorskip("torch")
pytest.importorskip("triton")

from torch import Tensor

from mmfree_kernels.ops.bitlinear import packed
from mmfree_neuro.integers import ternary

pytestmark = pytest.mark.kernels

SIZES = [(16, 16, 1), (48, 80, 3), (32, 1392, 2), (32, 64, 17)]  # rows, columns, tokens


def _packed(codes: Tensor) -> Tensor:
    return packed.words(ternary.pack(codes.cpu().numpy()), codes.device)


def _drawn(kind: str, rows: int, columns: int, tokens: int) -> tuple[Tensor, Tensor]:
    generator = torch.Generator().manual_seed(rows + columns)
    codes = torch.randint(-1, 2, (rows, columns), generator=generator, dtype=torch.int8)
    q = torch.randint(-128, 128, (tokens, columns), generator=generator, dtype=torch.int8)
    match kind:
        case "zero":
            return torch.zeros_like(codes), torch.zeros_like(q)
        case "largest":
            return torch.ones_like(codes), torch.full_like(q, 127)
        case "smallest":
            return -torch.ones_like(codes), torch.full_like(q, -128)
    return codes, q


@pytest.mark.parametrize("kind", ["random", "zero", "largest", "smallest"])
@pytest.mark.parametrize(("rows", "columns", "tokens"), SIZES)
def test_products_are_exact(device: str, kind: str, rows: int, columns: int, tokens: int) -> None:
    codes, q = (t.to(device) for t in _drawn(kind, rows, columns, tokens))
    expected = (q.double() @ codes.double().T).int()
    words = _packed(codes)
    assert torch.equal(packed.sums(q, words), expected)
    assert torch.equal(packed.product(q, words), expected)
    assert torch.equal(
        packed.unpack(words, torch.empty(rows * columns, dtype=torch.int8, device=device)), codes
    )


def test_words_are_those_of_the_graph_files(device: str) -> None:
    codes = np.random.default_rng(1).integers(-1, 2, (48, 80)).astype(np.int8)
    words = packed.words(ternary.pack(codes), device)
    assert words.shape == (3, 5, 16)
    unpacked = packed.unpack(words, torch.empty(48 * 80, dtype=torch.int8, device=device))
    assert torch.equal(unpacked.cpu(), torch.from_numpy(codes))


def test_rows_and_columns_that_do_not_fill_their_last_tile(device: str) -> None:
    codes = np.random.default_rng(2).integers(-1, 2, (21, 35)).astype(np.int8)
    q = torch.randint(-128, 128, (2, 48), dtype=torch.int8)
    sums = packed.sums(q.to(device), packed.words(ternary.pack(codes), device)).cpu()
    assert torch.equal(sums[:, :21], q[:, :35].int() @ torch.from_numpy(codes).int().T)
    assert not sums[:, 21:].any()


@pytest.mark.parametrize(("rows", "parts"), [(96, 3), (64, 1)])
def test_stacked_layers_have_codes_and_scales_of_their_own(
    device: str, rows: int, parts: int
) -> None:
    codes = torch.randint(-1, 2, (rows, 64), dtype=torch.int8, device=device)
    q = torch.randint(-128, 128, (parts, 5, 64), dtype=torch.int8, device=device)
    s, scales = 1 + torch.rand(parts, 5, device=device), torch.rand(parts, device=device)
    residual = torch.randn(5, rows, device=device)
    found = packed.product(q, _packed(codes), s, scales, residual)
    sums = torch.einsum("ptk,prk->ptr", q.double(), codes.double().view(parts, -1, 64))
    expected = (sums * (scales[:, None] / s).double()[:, :, None]).permute(1, 0, 2).flatten(
        1
    ) + residual
    assert torch.allclose(found.double(), expected, rtol=1e-6, atol=1e-5)


def _codes(*shape: int) -> Tensor:
    return torch.zeros(shape, dtype=torch.int8)


@pytest.mark.parametrize(
    ("call", "message"),
    [
        (
            lambda: packed.sums(_codes(2, 16), _packed(_codes(16, 32))),
            "codes are contiguous int8 [tokens, 32], not contiguous torch.int8 [2, 16]",
        ),
        (
            lambda: packed.product(_codes(32, 2).T, _packed(_codes(16, 32))),
            "codes are contiguous int8 [tokens, 32], not strided torch.int8 [2, 32]",
        ),
        (
            lambda: packed.product(_codes(3, 10, 32)[:, :5], _packed(_codes(48, 32))),
            "codes are contiguous int8 [tokens, 32], not strided torch.int8 [3, 5, 32]",
        ),
        (
            lambda: packed.product(
                _codes(2, 32), _packed(_codes(16, 32)), torch.ones(2, 1), torch.ones(1)
            ),
            "s has shape (2, 1), must have (1, 2)",
        ),
        (
            lambda: packed.product(
                _codes(2, 32), _packed(_codes(16, 32)), residual=torch.ones(16, 2).T
            ),
            "the residual is not contiguous, must be",
        ),
        (
            lambda: packed.unpack(_packed(_codes(16, 32)), torch.empty(511, dtype=torch.int8)),
            "the buffer must be contiguous int8 of at least 512 entries",
        ),
    ],
)
def test_refusals(call: Callable[[], object], message: str) -> None:
    with pytest.raises(ValueError) as refused:
        call()
    assert str(refused.value) == message
