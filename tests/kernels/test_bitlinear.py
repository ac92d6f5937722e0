"""BitLinear's kernels against its plain twin: codes and sums bit for bit, gradients against
float64."""

import pytest

torch = pytest.importorskip("torch")
pytest.importorskip("triton")

from torch import Tensor

from mmfree_kernels.ops.bitlinear import fused, naive
from mmfree_kernels.ops.bitlinear import rows as row_kernels

# Triton's interpreter makes loop bounds integers in a way that NumPy warns of.
pytestmark = [
    pytest.mark.kernels,
    pytest.mark.filterwarnings("ignore:Conversion of an array with ndim:DeprecationWarning"),
]

SIZES = [(1, 16), (3, 48), (5, 64), (7, 272), (2, 2560)]  # rows, features


def draw(*shape: int, seed: int = 0, device: str = "cpu") -> Tensor:
    return torch.randn(shape, generator=torch.Generator().manual_seed(seed)).to(device)


def gains(count: int, size: int, device: str) -> list[Tensor]:
    return [1 + 0.3 * draw(size, seed=10 + n, device=device) for n in range(count)]


def doubly_normed(x: Tensor, gain: Tensor, outer: Tensor | None, eps: float) -> Tensor:
    n = x if outer is None else x * torch.rsqrt(x.square().mean(-1, keepdim=True) + eps) * outer
    return n * torch.rsqrt(n.square().mean(-1, keepdim=True) + 1e-6) * gain


def assert_quantised(q: Tensor, s: Tensor, y: Tensor) -> None:
    """q and s are those of y [m, k], but for codes that are so near a half that one ulp decides."""
    expected, factor = naive.quantise_activations(y)
    assert s.dtype == torch.float32
    assert ((s - factor[:, 0]).abs() <= 1e-6 * factor[:, 0]).all()
    near = ((y * factor).frac().abs() - 0.5).abs() < 1e-4
    difference = (q.float() - expected).abs()
    assert (difference <= near).all()


@pytest.mark.parametrize("double", [False, True])
@pytest.mark.parametrize("count", [1, 3])
@pytest.mark.parametrize(("rows", "size"), SIZES)
def test_normalise(device: str, rows: int, size: int, count: int, double: bool) -> None:
    x, weights = draw(rows, size, device=device), gains(count, size, device)
    outer = gains(1, size, device)[0].flip(0) if double else None
    q, s = fused.normalise(x, weights, outer, 1e-3)
    assert len(q) == len(s) == count
    for n, gain in enumerate(weights):
        assert q[n].dtype == torch.int8 and q[n].is_contiguous()
        assert_quantised(q[n], s[n], doubly_normed(x, gain, outer, 1e-3))
        values = fused.activations(x, gain, outer, 1e-3, torch.float32)
        assert torch.allclose(values, q[n] / s[n][:, None], rtol=1e-6, atol=0)


@pytest.mark.parametrize("fill", [0.0, 1e-30, 1e-4, 1e15])
def test_normalise_extremes(device: str, fill: float) -> None:
    x = torch.full((3, 48), fill, device=device)
    x[1, ::2] *= -1
    x[2, 5:] = 0
    gain = torch.ones(48, device=device)
    (q,), (s,) = fused.normalise(x, [gain], None, 0.0)
    assert_quantised(q, s, doubly_normed(x, gain, None, 0.0))
    assert fill or not q.any()


def test_a_half_rounds_to_even(device: str) -> None:
    # Rows of ones: y · s is the gain, as the largest is 127.
    x = torch.ones(1, 16, device=device)
    gain = torch.tensor([127, 0.5, 1.5, 2.5, -0.5, -1.5, -2.5, 126.5, *range(8)], device=device)
    (q,), _ = fused.normalise(x, [gain], None, 0.0)
    if device == "cpu":  # the roots of a GPU miss an exact half
        assert q[0].tolist() == [127, 0, 2, 2, 0, -2, -2, 126, *range(8)]
    assert (q[0] - gain).abs().max() <= 0.5 + 1e-4


def test_a_program_takes_several_rows(device: str, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(row_kernels, "row_launch", lambda rows, size, *_: (2, 64, 1))
    x, weights = draw(5, 48, device=device), gains(3, 48, device)
    grads = [draw(5, 48, seed=n, device=device) for n in range(3)]
    whole = fused.normalise(x, weights, weights[0], 1e-6)
    part = fused.normalise(x[2:], weights, weights[0], 1e-6)
    for mine, again in zip([*whole[0], *whole[1]], [*part[0], *part[1]], strict=True):
        assert torch.equal(mine[2:], again)
    dx, d_gains, _ = fused.normalise_backward(x, weights, None, 0.0, grads, None)
    assert_gradients(x, weights, None, grads, None, dx, d_gains, None)


def assert_gradients(
    x: Tensor,
    weights: list[Tensor],
    outer: Tensor | None,
    grads: list[Tensor],
    residual: Tensor | None,
    dx: Tensor,
    d_gains: list[Tensor],
    d_outer: Tensor | None,
) -> None:
    """Against float64 autograd of the two norms, to 1e-5 of the largest, or to the rounding of
    bfloat16."""
    tensors = [x, *weights, *([] if outer is None else [outer])]
    exact = [tensor.detach().double().requires_grad_() for tensor in tensors]
    first = exact[-1] if outer is not None else None
    ys = [doubly_normed(exact[0], gain, first, 1e-3) for gain in exact[1 : 1 + len(weights)]]
    total = sum((y * grad.double()).sum() for y, grad in zip(ys, grads, strict=True))
    assert isinstance(total, Tensor)
    total.backward()
    assert exact[0].grad is not None
    if residual is not None:
        exact[0].grad += residual.double()
    found = [dx, *d_gains, *([] if d_outer is None else [d_outer])]
    for mine, true in zip(found, exact, strict=True):
        assert true.grad is not None
        bound = (2**-7 if mine.dtype == torch.bfloat16 else 1e-5) * max(
            true.grad.abs().max().item(), 1e-6
        )
        assert (mine.double() - true.grad).abs().max().item() <= bound


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
@pytest.mark.parametrize("double", [False, True])
@pytest.mark.parametrize("count", [1, 3])
@pytest.mark.parametrize(("rows", "size"), [(1, 16), (5, 80), (2, 2560)])
def test_normalise_backward(
    device: str, rows: int, size: int, count: int, double: bool, dtype: torch.dtype
) -> None:
    x, weights = draw(rows, size, device=device).to(dtype), gains(count, size, device)
    outer = gains(1, size, device)[0].flip(0) if double else None
    grads = [draw(rows, size, seed=20 + n, device=device).to(dtype) for n in range(count)]
    residual = draw(rows, size, seed=30, device=device).to(dtype) if rows > 1 else None
    scales = [torch.tensor(2.0**n, device=device) for n in range(count)] if rows > 1 else None
    dx, d_gains, d_outer = fused.normalise_backward(
        x, weights, outer, 1e-3, grads, residual, scales
    )
    grads = [grad * (1 if scales is None else scales[n]) for n, grad in enumerate(grads)]
    assert dx.dtype == dtype and {gain.dtype for gain in d_gains} == {torch.float32}
    assert_gradients(x, weights, outer, grads, residual, dx, d_gains, d_outer)


def test_normalise_backward_of_nothing(device: str) -> None:
    x, gain = torch.zeros(2, 48, device=device), torch.ones(48, device=device)
    grad = draw(2, 48, device=device)
    dx, (d_gain,), d_outer = fused.normalise_backward(x, [gain], gain, 1e-3, [grad], None)
    assert d_outer is not None
    assert_gradients(x, [gain], gain, [grad], None, dx, [d_gain], d_outer)


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
@pytest.mark.parametrize(("rows", "size"), [(1, 16), (37, 48), (130, 80)])
def test_ternarise(device: str, rows: int, size: int, dtype: torch.dtype) -> None:
    weight = (0.02 * draw(rows, size, device=device)).to(dtype)
    codes, scale = fused.ternarise(weight)
    _, expected = naive.ternarise(weight.float())
    exact = weight.double().abs().mean().float()
    assert codes.dtype == torch.int8 and scale.shape == () and scale.dtype == torch.float32
    assert abs(scale.item() - exact.item()) <= exact.item() * 2**-23
    assert abs(scale.item() - expected.item()) <= expected.item() * 2**-20
    # The twin's formula on the kernel's scale, bit for bit.
    assert torch.equal(codes.float(), (weight.float() * (1 / scale)).round().clamp(-1, 1))
    for wanted in (torch.float32, torch.bfloat16, torch.int8):
        again = fused.ternary_as(weight, scale, wanted)
        assert again.dtype == wanted and torch.equal(again.float(), codes.float())


def test_ternarise_by_hand(device: str) -> None:
    codes, scale = fused.ternarise(
        torch.tensor([[4.0, -1.0, 0.5], [-3.5, 1.5, 1.5]], device=device)
    )
    assert scale.item() == 2.0
    assert codes.tolist() == [[1, 0, 0], [-1, 1, 1]]


def test_ternarise_nothing_and_spikes(device: str) -> None:
    codes, scale = fused.ternarise(torch.zeros(3, 16, device=device))
    assert not codes.any() and scale.item() == torch.tensor(1e-5).item()
    weight = torch.zeros(3, 16, device=device)
    weight[1, 7], weight[2, 9] = 3e38, -3e38
    codes, scale = fused.ternarise(weight)
    assert codes.sum().item() == 0 and codes.abs().sum().item() == 2 and codes[1, 7].item() == 1


SMALL = (fused.Tiles(16, 32, 32, 1, 2), fused.Tiles(32, 16, 64, 1, 2))


@pytest.mark.parametrize("tiles", SMALL)
@pytest.mark.parametrize(
    ("rows", "columns", "features"), [(1, 1, 16), (17, 33, 48), (40, 48, 64), (300, 16, 32)]
)
def test_int8_sums(device: str, rows: int, columns: int, features: int, tiles: fused.Tiles) -> None:
    generator = torch.Generator().manual_seed(rows)
    q = torch.randint(-128, 128, (rows, features), generator=generator, dtype=torch.int8).to(device)
    codes = torch.randint(-1, 2, (columns, features), generator=generator, dtype=torch.int8).to(
        device
    )
    found = fused.int8_sums(q, codes, tiles)
    assert found.dtype == torch.int32
    assert torch.equal(found.cpu().long(), q.cpu().long() @ codes.cpu().long().T)


def test_the_largest_sum(device: str) -> None:
    q = torch.full((2, 6912), -128, dtype=torch.int8, device=device)
    codes = torch.ones(3, 6912, dtype=torch.int8, device=device)
    assert fused.int8_sums(q, codes).unique().tolist() == [-128 * 6912]


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
@pytest.mark.parametrize("add", [False, True])
def test_int8_product(device: str, add: bool, dtype: torch.dtype) -> None:
    x, weight, gain = (
        draw(19, 48, device=device),
        draw(37, 48, seed=1, device=device),
        gains(1, 48, device),
    )
    residual = draw(19, 37, seed=2, device=device).to(dtype) if add else None
    (q,), (s,) = fused.normalise(x, gain, None, 0.0)
    codes, scale = fused.ternarise(weight)
    found = fused.int8_product(q, s, codes, scale, dtype, residual, SMALL[0])
    expected = (q.float() @ codes.float().T) * (scale / s)[:, None]
    expected = expected if residual is None else expected + residual.float()
    assert found.dtype == dtype
    # The factor is one division; a fused multiply and add may save one rounding of the sum.
    assert (
        (found.float() - expected).abs()
        <= expected.abs() * (2**-7 if dtype == torch.bfloat16 else 0) + 1e-6
    ).all()
    if dtype == torch.float32 and not add:
        assert torch.equal(found, expected)


def test_the_whole_layer(device: str) -> None:
    x, weight, gain = (
        draw(6, 64, device=device),
        draw(48, 64, seed=1, device=device),
        gains(1, 64, device),
    )
    (q,), (s,) = fused.normalise(x, gain, None, 0.0)
    found = fused.int8_product(q, s, *fused.ternarise(weight), torch.float32)
    assert torch.allclose(found, naive.bit_linear(x, weight, gain[0]), rtol=1e-5, atol=1e-5)


@pytest.mark.parametrize("tiles", fused.RATES)
def test_every_configuration(device: str, tiles: fused.Tiles) -> None:
    rows, columns, features = (3, 5, 96) if device == "cpu" else (1500, 1000, 2816)
    generator = torch.Generator().manual_seed(0)
    q = torch.randint(-128, 128, (rows, features), generator=generator, dtype=torch.int8).to(device)
    codes = torch.randint(-1, 2, (columns, features), generator=generator, dtype=torch.int8).to(
        device
    )
    assert torch.equal(fused.int8_sums(q, codes, tiles).double(), q.double() @ codes.double().T)


def test_arguments_that_are_none(device: str) -> None:
    x, gain = torch.zeros(4, 32, device=device), torch.ones(32, device=device)
    q, s = torch.zeros(4, 32, dtype=torch.int8, device=device), torch.ones(4, device=device)
    scale = torch.ones((), device=device)
    cases = [
        (lambda: fused.normalise(x.T, [gain[:4]], None, 0.0), "x is not contiguous, must be"),
        (
            lambda: fused.int8_product(q, s, q, scale, torch.int32),
            "the product is of torch.int32, must be of a floating type",
        ),
        (lambda: fused.normalise(x, [gain] * 2, None, 0.0), "there are 2 gains, must be 1 or 3"),
        (
            lambda: fused.normalise(x, [gain[:16]], None, 0.0),
            "a gain has shape (16,), must have (32,)",
        ),
        (
            lambda: fused.normalise(x, [gain], gain[1:], 0.0),
            "a gain has shape (31,), must have (32,)",
        ),
        (
            lambda: fused.normalise_backward(x, [gain], None, 0.0, [x, x, x], None),
            "there are 3 gradients of 1 gains",
        ),
        (
            lambda: fused.normalise_backward(x, [gain], None, 0.0, [x], x[:3]),
            "a gradient has shape (3, 32), must have (4, 32)",
        ),
        (
            lambda: fused.normalise_backward(x, [gain], None, 0.0, [x], None, [scale, scale]),
            "there are 2 scales of 1 gradients",
        ),
        (
            lambda: fused.normalise_backward(x, [gain], None, 0.0, [x], None, [gain]),
            "a scale has shape (32,), must have ()",
        ),
        (
            lambda: fused.activations(x, gain[1:], None, 0.0, x.dtype),
            "a gain has shape (31,), must have (32,)",
        ),
        (lambda: fused.ternarise(x.T), "the weight is not contiguous, must be"),
        (lambda: fused.ternary_as(x.T, scale, torch.int8), "the weight is not contiguous, must be"),
        (lambda: fused.int8_sums(x, q), "q is of torch.float32, must be of torch.int8"),
        (
            lambda: fused.int8_sums(q[:, :8].clone(), q[:, :8].clone()),
            "q has 8 features, must have a multiple of 16",
        ),
        (lambda: fused.int8_sums(q, q[:, :16]), "codes has shape (4, 16), must have (4, 32)"),
        (
            lambda: fused.int8_product(q, s[1:], q, scale, torch.float32),
            "s has shape (3,), must have (4,)",
        ),
        (
            lambda: fused.int8_product(q, s, q, s, torch.float32),
            "scale has shape (4,), must have ()",
        ),
        (
            lambda: fused.int8_product(q, s, q, scale, torch.float32, x),
            "residual has shape (4, 32), must have (4, 4)",
        ),
    ]
    for call, message in cases:
        with pytest.raises(ValueError) as error:
            call()
        assert str(error.value) == message
