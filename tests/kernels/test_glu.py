"""The gated linear unit's kernels against their plain twin, and their gradients against float64."""

import pytest

torch = pytest.importorskip("torch")
pytest.importorskip("triton")

from torch import Tensor

from mmfree_kernels.ops.glu import fused, naive

# NumPy warns of how Triton's interpreter makes loop bounds integers, and of exponentials that are
# infinite.
pytestmark = [
    pytest.mark.kernels,
    pytest.mark.filterwarnings("ignore:Conversion of an array with ndim:DeprecationWarning"),
    pytest.mark.filterwarnings("ignore:overflow encountered in exp:RuntimeWarning"),
]


def draw(*shape: int, seed: int = 0, device: str = "cpu") -> Tensor:
    return torch.randn(shape, generator=torch.Generator().manual_seed(seed)).to(device)


@pytest.mark.parametrize("scale", [0.0, 1e-6, 1.0, 30.0])
@pytest.mark.parametrize(("rows", "size"), [(1, 16), (5, 80), (2, 2816)])
def test_gate_normalise(device: str, rows: int, size: int, scale: float) -> None:
    gate_up, gain = (
        scale * draw(rows, 2 * size, device=device),
        1 + 0.3 * draw(size, seed=1, device=device),
    )
    q, s = fused.gate_normalise(gate_up, gain)
    expected, factor = naive.gate_normalise(gate_up, gain)
    assert q.dtype == torch.int8 and s.dtype == torch.float32
    assert ((s - factor[:, 0]).abs() <= 2e-6 * factor[:, 0]).all()
    v = naive.gated(gate_up)
    y = v * torch.rsqrt(v.square().mean(-1, keepdim=True) + 1e-6) * gain * factor
    near = (y.frac().abs() - 0.5).abs() < 1e-3  # where the last bits of y decide
    assert ((q.float() - expected).abs() <= near).all()
    values = fused.gate_activations(gate_up, gain, torch.float32)
    assert torch.allclose(values, q / s[:, None], rtol=1e-6, atol=0)


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
@pytest.mark.parametrize(("rows", "size"), [(1, 16), (5, 80), (2, 2816)])
@pytest.mark.parametrize("scale", [0.0, 1.0, 20.0])
def test_gate_backward(device: str, rows: int, size: int, scale: float, dtype: torch.dtype) -> None:
    gate_up = (scale * draw(rows, 2 * size, device=device)).to(dtype)
    gain, grad = (
        1 + 0.3 * draw(size, seed=1, device=device),
        draw(rows, size, seed=2, device=device).to(dtype),
    )
    exact = [gate_up.double().requires_grad_(), gain.double().requires_grad_()]
    gate, up = exact[0].chunk(2, -1)
    v = gate * gate.sigmoid() * up
    (
        v * torch.rsqrt(v.square().mean(-1, keepdim=True) + 1e-6) * exact[1] * 0.5 * grad.double()
    ).sum().backward()
    found = fused.gate_backward(gate_up, gain, grad, torch.tensor(0.5, device=device))
    assert (found[0].dtype, found[1].dtype) == (dtype, torch.float32)
    for mine, true in zip(found, exact, strict=True):
        assert true.grad is not None
        bound = (2**-7 if mine.dtype == torch.bfloat16 else 1e-5) * max(
            true.grad.abs().max().item(), 1e-6
        )
        assert (mine.double() - true.grad).abs().max().item() <= bound


def test_a_program_takes_several_rows(device: str, monkeypatch: pytest.MonkeyPatch) -> None:
    gate_up, gain, grad = (
        draw(5, 96, device=device),
        draw(48, seed=1, device=device),
        draw(5, 48, device=device),
    )
    scale = torch.ones((), device=device)
    one, (whole, d_gain) = (
        fused.gate_normalise(gate_up, gain),
        fused.gate_backward(gate_up, gain, grad, scale),
    )
    monkeypatch.setattr(fused, "row_launch", lambda *_: (2, 64, 1))
    two, (again, d_gain_again) = (
        fused.gate_normalise(gate_up, gain),
        fused.gate_backward(gate_up, gain, grad, scale),
    )
    assert torch.equal(one[0], two[0]) and torch.equal(one[1], two[1]) and torch.equal(whole, again)
    assert torch.allclose(d_gain, d_gain_again, rtol=1e-5, atol=1e-6)


def test_arguments_that_are_none(device: str) -> None:
    gate_up, gain = torch.zeros(4, 32, device=device), torch.ones(16, device=device)
    cases = [
        (
            lambda: fused.gate_normalise(gate_up[:, :16], gain),
            "gate_up has shape (4, 16), must have (4, 32)",
        ),
        (lambda: fused.gate_normalise(gate_up.T, gain[:2]), "gate_up is not contiguous, must be"),
        (
            lambda: fused.gate_normalise(gate_up, gain.repeat(2)[::2]),
            "the gain is not contiguous, must be",
        ),
        (
            lambda: fused.gate_backward(gate_up, gain, gate_up, gain),
            "grad_y has shape (4, 32), must have (4, 16)",
        ),
        (
            lambda: fused.gate_backward(gate_up, gain, gate_up[:, :16].clone(), gain),
            "the scale has shape (16,), must have ()",
        ),
        (
            lambda: fused.gate_activations(gate_up[1:, :16], gain, torch.float32),
            "gate_up has shape (3, 16), must have (3, 32)",
        ),
    ]
    for call, message in cases:
        with pytest.raises(ValueError) as error:
            call()
        assert str(error.value) == message
