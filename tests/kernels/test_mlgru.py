"""The MLGRU's kernels against their plain twins, and their gradients against float64."""

import re

import pytest

torch = pytest.importorskip("torch")
pytest.importorskip("triton")

from torch import Tensor
from torch.utils.checkpoint import checkpoint

from mmfree_kernels.ops.mlgru import naive
from mmfree_kernels.ops.mlgru.fused import (
    gated_scan,
    gated_scan_backward,
    output_activations,
    output_backward,
    output_normalise,
    scan,
)
from mmfree_kernels.ops.mlgru.scan import BUSY, chunk_length

# What Triton's interpreter says of a loop's run-time bound and of 2^10000, which is infinite as
# intended.
pytestmark = [
    pytest.mark.kernels,
    pytest.mark.filterwarnings("ignore:Conversion of an array with ndim:DeprecationWarning"),
    pytest.mark.filterwarnings("ignore:overflow encountered in (exp|exp2|multiply):RuntimeWarning"),
]

CASES = [(1, 1, 64, None, 4), (2, 13, 80, 4, 4), (1, 33, 16, 8, 16), (1, 3, 272, None, 4)]
"""Batch, time, channels; length of a chunk forwards and backwards."""


def _random(device: str, *shape: int, seed: int = 0) -> Tensor:
    return torch.randn(shape, generator=torch.Generator().manual_seed(seed)).to(device)


def _gates(device: str, batch: int, time: int, n: int, extras: bool) -> dict[str, Tensor | None]:
    mask = (_random(device, batch, time, seed=3) > -0.5).float()
    return {
        "i": _random(device, batch, time, n, seed=0),
        "f": _random(device, batch, time, n, seed=1),
        "bound": _random(device, n, seed=2).sigmoid() if extras else None,
        "mask": mask if extras else None,
        "initial": _random(device, batch, n, seed=4),
    }


def _double(arguments: dict[str, Tensor | None]) -> dict[str, Tensor | None]:
    return {
        name: None if x is None else x.double().requires_grad_() for name, x in arguments.items()
    }


def _rounded_to_half(found: Tensor, exact: Tensor, rest: float) -> bool:
    """bfloat16, and nearest but for `rest`; Triton's interpreter cuts bits off where a GPU
    rounds."""
    unit = 2**-8 if found.is_cuda else 2**-7
    return found.dtype == torch.bfloat16 and bool(
        ((found - exact).abs() <= unit * exact.abs() + rest).all()
    )


def _near(found: Tensor, wanted: Tensor, bound: float) -> bool:
    """Within `bound` of the largest magnitude wanted, or of 1."""
    return bool((found - wanted).abs().max() <= bound * wanted.abs().max().clamp(min=1))


def test_two_steps_by_hand(device: str) -> None:
    i, f = (
        torch.tensor([[[0.0, 40], [0, 40]]], device=device),
        torch.tensor([[[0.0, -40], [0, 40]]], device=device),
    )
    h, final = gated_scan(i, f, None, None, torch.tensor([[4.0, 4]], device=device), torch.float32)
    assert _near(h, torch.tensor([[[2.0, 40], [1, 40]]], device=device), 1e-7)
    assert _near(final, torch.tensor([[1.0, 40]], device=device), 1e-7)


@pytest.mark.parametrize("extras", [False, True])
@pytest.mark.parametrize(("batch", "time", "n", "chunk", "_steps"), CASES)
def test_states_are_those_of_the_naive_scan(
    device: str, batch: int, time: int, n: int, chunk: int | None, _steps: int, extras: bool
) -> None:
    arguments = _gates(device, batch, time, n, extras)
    h, final = gated_scan(**arguments, out_dtype=torch.float32, chunk=chunk)
    wanted, wanted_final = naive.gated_scan(**_double(arguments), out_dtype=torch.float64)
    assert _near(h, wanted, 1e-5)
    assert _near(final, wanted_final, 1e-5)
    assert torch.equal(h[:, -1], final)


@pytest.mark.parametrize("extras", [False, True])
@pytest.mark.parametrize(("batch", "time", "n", "_chunk", "steps"), CASES)
def test_gradients_are_those_of_the_naive_scan(
    device: str, batch: int, time: int, n: int, _chunk: int | None, steps: int, extras: bool
) -> None:
    arguments, wide = (made := _gates(device, batch, time, n, extras)), _double(made)
    dh, d_final = (
        _random(device, batch, time, n, seed=5),
        _random(device, batch, n, seed=6) if extras else None,
    )
    h, final = naive.gated_scan(**wide, out_dtype=torch.float64)
    ((h * dh).sum() + (0 if d_final is None else (final * d_final).sum())).backward()
    di, df, d_bound, d_initial = gated_scan_backward(
        **arguments, dh=dh, d_final=d_final, steps=steps
    )
    found = {"i": di, "f": df, "bound": d_bound, "initial": d_initial}
    for name, gradient in found.items():
        if wide[name] is None:
            assert gradient is None
        else:
            assert _near(gradient, wide[name].grad, 3e-5), name


def test_half_precision_rounds_only_what_is_stored(device: str) -> None:
    arguments = {
        name: x.bfloat16() if name in ("i", "f") else x
        for name, x in _gates(device, 2, 11, 48, True).items()
    }
    dh = _random(device, 2, 11, 48, seed=5).bfloat16()
    h, _ = gated_scan(**arguments, out_dtype=torch.bfloat16, chunk=4)
    di, df, _, _ = gated_scan_backward(**arguments, dh=dh, d_final=None, steps=4)
    wide = _double(arguments)
    wanted, _ = naive.gated_scan(**wide, out_dtype=torch.float64)
    (wanted * dh).sum().backward()
    for found, exact in ((h, wanted), (di, wide["i"].grad), (df, wide["f"].grad)):
        assert _rounded_to_half(found, exact, 1e-5)


def test_columns_of_one_buffer_give_the_same_bits(device: str) -> None:
    arguments = _gates(device, 2, 5, 32, True)
    buffer = torch.cat([arguments["i"], arguments["f"], arguments["i"]], -1)
    views = {**arguments, "i": buffer[..., :32], "f": buffer[..., 32:64]}
    dh = torch.cat([_random(device, 2, 5, 32, seed=5)] * 2, -1)
    for found, wanted in zip(
        gated_scan(**views, out_dtype=torch.float32, chunk=4),
        gated_scan(**arguments, out_dtype=torch.float32, chunk=4),
        strict=True,
    ):
        assert torch.equal(found, wanted)
    for found, wanted in zip(
        gated_scan_backward(**views, dh=dh[..., 32:], d_final=None, steps=4),
        gated_scan_backward(**arguments, dh=dh[..., :32].contiguous(), d_final=None, steps=4),
        strict=True,
    ):
        assert torch.equal(found, wanted)


@pytest.mark.parametrize("chunk", [None, 4])
def test_any_cut_into_calls_gives_the_same_states(device: str, chunk: int | None) -> None:
    arguments = _gates(device, 1, 17, 32, True)
    whole, final = gated_scan(**arguments, out_dtype=torch.float32, chunk=chunk)
    state, parts = arguments["initial"], []
    for start, stop in ((0, 1), (1, 10), (10, 17)):
        part = {name: arguments[name][:, start:stop].contiguous() for name in ("i", "f", "mask")}
        h, state = gated_scan(
            bound=arguments["bound"], initial=state, **part, out_dtype=torch.float32, chunk=chunk
        )
        parts.append(h)
    assert _near(torch.cat(parts, 1), whole, 3e-6)
    assert _near(state, final, 3e-6)


def test_left_padding_changes_nothing(device: str) -> None:
    arguments = {**_gates(device, 2, 9, 32, True), "initial": torch.zeros(2, 32, device=device)}
    arguments["mask"] = torch.tensor([[0.0] * 4 + [1.0] * 5] * 2, device=device)
    padded, _ = gated_scan(**arguments, out_dtype=torch.float32)
    bare = {"i": arguments["i"][:, 4:], "f": arguments["f"][:, 4:], "mask": None}
    plain, _ = gated_scan(**{**arguments, **bare}, out_dtype=torch.float32)
    assert torch.equal(padded[:, :4], torch.zeros_like(padded[:, :4]))
    assert _near(padded[:, 4:], plain, 3e-6)


@pytest.mark.parametrize("value", [0.0, 1e4, -1e4, 3e38, -3e38])
def test_extreme_projections_give_finite_states(device: str, value: float) -> None:
    i, f = (
        _random(device, 1, 6, 32) * min(abs(value), 1e4),
        torch.full((1, 6, 32), value, device=device),
    )
    zero = torch.zeros(1, 32, device=device)
    h, _ = gated_scan(i, f, None, None, zero, torch.float32, chunk=2)
    wanted, _ = naive.gated_scan(i.double(), f.double(), None, None, zero.double(), torch.float64)
    assert _near(h, wanted, 1e-5)
    for gradient in gated_scan_backward(i, f, None, None, zero, torch.ones_like(i), None, steps=2):
        assert gradient is None or bool(gradient.isfinite().all())


def test_chunks_fill_the_machine_and_no_more() -> None:
    assert chunk_length(1, 16000, 1024) == 64
    assert chunk_length(1, 16000, 2048) == 128
    assert chunk_length(16, 2048, 1024) == 128
    assert chunk_length(BUSY // 1024, 2048, 1024) == 2048
    assert chunk_length(1, 1, 1024) == 1
    assert chunk_length(1, 200, 1024) == 56


def test_the_scan_composes_with_checkpoints_and_autocast(device: str) -> None:
    arguments = _gates(device, 2, 5, 32, True)
    leaves = [x if name == "mask" else x.clone().requires_grad_() for name, x in arguments.items()]
    wide = _double(arguments)
    with torch.autocast(device, torch.bfloat16):
        h, final = checkpoint(scan, *leaves, use_reentrant=False)
        (h.square().sum() + final.sum()).backward()
    assert h.dtype == torch.float32
    wanted, wanted_final = naive.gated_scan(**wide, out_dtype=torch.float64)
    (wanted.square().sum() + wanted_final.sum()).backward()
    for leaf, (name, exact) in zip(leaves, wide.items(), strict=True):
        assert name == "mask" or _near(leaf.grad, exact.grad, 3e-5), name


@pytest.mark.parametrize(
    ("changed", "message"),
    [
        (
            {"i": torch.zeros(2, 32)},
            "i has shape [2, 32], must have [batch, time, channels], none of them 0",
        ),
        (
            {"i": torch.zeros(2, 0, 32)},
            "i has shape [2, 0, 32], must have [batch, time, channels], none of them 0",
        ),
        (
            {"i": torch.zeros(2, 3, 32, dtype=torch.float64)},
            "i is [2, 3, 32] of torch.float64, must be [2, 3, 32] of torch.bfloat16 or "
            "torch.float32",
        ),
        (
            {"f": torch.zeros(2, 3, 16)},
            "f is [2, 3, 16] of torch.float32, must be [2, 3, 32] of torch.bfloat16 or "
            "torch.float32",
        ),
        ({"f": torch.zeros(2, 32, 3).mT}, "f has strides [96, 1, 3], the last must be 1"),
        ({"bound": torch.zeros(31)}, "bound has shape (31,), must have (32,)"),
        ({"mask": torch.ones(2, 3).bool()}, "mask is of torch.bool, must be of torch.float32"),
        ({"initial": torch.zeros(32, 2).mT}, "initial is not contiguous, must be"),
        ({"d_final": torch.zeros(2, 1)}, "d_final has shape (2, 1), must have (2, 32)"),
        (
            {"dh": torch.zeros(2, 4, 32)},
            "dh is [2, 4, 32] of torch.float32, must be [2, 3, 32] of torch.bfloat16 or "
            "torch.float32",
        ),
    ],
)
def test_what_the_scan_refuses(changed: dict[str, Tensor], message: str) -> None:
    arguments = {
        **_gates("cpu", 2, 3, 32, True),
        "dh": torch.zeros(2, 3, 32),
        "d_final": None,
        **changed,
    }
    with pytest.raises(ValueError, match=f"^{re.escape(message)}$"):
        gated_scan_backward(**arguments)


def test_what_the_states_refuse() -> None:
    arguments = {**_gates("cpu", 2, 3, 32, True), "out_dtype": torch.float32}
    with pytest.raises(ValueError, match=r"^a chunk is 0 steps, must be at least 1$"):
        gated_scan(**arguments, chunk=0)
    with pytest.raises(ValueError, match=re.escape("final has shape (2, 16), must have (2, 32)")):
        gated_scan(**arguments, final=torch.zeros(2, 16))


def _rows(device: str, rows: int, n: int) -> tuple[Tensor, Tensor, Tensor, Tensor]:
    g, h = _random(device, rows, n, seed=0), _random(device, rows, n, seed=1)
    return g, h, 1 + 0.3 * _random(device, n, seed=2), 1 + 0.3 * _random(device, n, seed=3)


def test_a_row_by_hand(device: str) -> None:
    g, h = torch.tensor([[3.0, -3.0]], device=device), torch.tensor([[60.0, 20.0]], device=device)
    one = torch.ones(2, device=device)
    q, s = output_normalise(g, h, one, 0.0, one)  # u = 1, -1; o = 60, -20
    assert q.tolist() == [[127, -42]]
    assert s.item() == pytest.approx(127 / 60 * 2000**0.5, rel=3e-6)


@pytest.mark.parametrize(("rows", "n"), [(1, 64), (7, 80), (3, 1040)])
def test_output_codes_are_the_nearest(device: str, rows: int, n: int) -> None:
    g, h, g_gain, o_gain = _rows(device, rows, n)
    q, s = output_normalise(g, h, g_gain, 1e-5, o_gain)
    _, naive_s = naive.output_normalise(g, h, g_gain, 1e-5, o_gain)
    y = naive.gated_output(g.double(), h.double(), g_gain.double(), 1e-5, o_gain.double())
    assert q.dtype == torch.int8
    assert bool(((q - y * s[:, None]).abs() <= 0.5 + 1e-3).all())
    assert bool(((s - naive_s).abs() <= 5e-6 * naive_s).all())
    assert bool((q.int().abs().amax(1) == 127).all())
    values = output_activations(g, h, g_gain, 1e-5, o_gain, torch.bfloat16)
    assert values.dtype == torch.bfloat16
    assert bool(((values - q / s[:, None]).abs() <= (q / s[:, None]).abs() / 128).all())


def test_naive_codes_of_the_output_are_the_same_but_for_rounding(device: str) -> None:
    arguments = _rows(device, 6, 96)
    q, _ = output_normalise(*arguments[:3], 1e-6, arguments[3])
    naive_q, _ = naive.output_normalise(*arguments[:3], 1e-6, arguments[3])
    assert bool(((q - naive_q).abs() <= 1).all()) and (q != naive_q).float().mean() < 0.01


@pytest.mark.parametrize(("rows", "n"), [(1, 64), (7, 80), (3, 1040)])
def test_output_gradients_are_those_of_the_naive_output(device: str, rows: int, n: int) -> None:
    arguments = _rows(device, rows, n)
    g, h, g_gain, o_gain = (x.double().requires_grad_() for x in arguments)
    grad = _random(device, rows, n, seed=4)
    (naive.gated_output(g, h, g_gain, 1e-6, o_gain) * grad).sum().backward()
    scale = torch.tensor(0.25, device=device)
    found = output_backward(*arguments[:3], 1e-6, arguments[3], 4 * grad, scale)
    for gradient, wanted in zip(found, (g, h, g_gain, o_gain), strict=True):
        assert _near(gradient, wanted.grad, 1e-5)


def test_rows_of_one_buffer_give_the_same_bits(device: str) -> None:
    g, h, g_gain, o_gain = _rows(device, 5, 32)
    g_view, h_view, _ = torch.cat([g, h, h], -1).split(32, -1)
    one = torch.ones((), device=device)
    for function, rest in ((output_normalise, ()), (output_backward, (h, one))):
        found = function(g_view, h_view, g_gain, 1e-6, o_gain, *rest)
        wanted = function(g, h, g_gain, 1e-6, o_gain, *rest)
        assert all(torch.equal(a, b) for a, b in zip(found, wanted, strict=True))


def test_zero_and_huge_rows_give_finite_outputs(device: str) -> None:
    g, h, g_gain, o_gain = _rows(device, 3, 64)
    scale = torch.tensor([[0.0], [1e9], [1e-20]], device=device)
    q, s = output_normalise(g * scale, h, g_gain, 1e-6, o_gain)
    assert not q[0].any() and s[0].item() == pytest.approx(127e5)
    assert bool(s.isfinite().all()) and q[1].abs().max() == 127
    one = torch.ones((), device=device)
    for gradient in output_backward(
        g * scale, h * scale.clamp(max=1e3), g_gain, 1e-6, o_gain, g, one
    ):
        assert bool(gradient.isfinite().all())


def test_half_precision_outputs_round_only_what_is_stored(device: str) -> None:
    g, h, g_gain, o_gain = _rows(device, 4, 48)
    g, h = g.bfloat16(), h.bfloat16()
    wide = [x.double().requires_grad_() for x in (g, h, g_gain, o_gain)]
    (naive.gated_output(*wide[:3], 1e-6, wide[3]) * h).sum().backward()
    dg, dh, *gains = output_backward(g, h, g_gain, 1e-6, o_gain, h, torch.ones((), device=device))
    for found, exact in ((dg, wide[0].grad), (dh, wide[1].grad)):
        assert _rounded_to_half(found, exact, 3e-5)
    assert all(_near(found, exact.grad, 1e-5) for found, exact in zip(gains, wide[2:], strict=True))


@pytest.mark.parametrize(
    ("changed", "message"),
    [
        (
            {"g": torch.zeros(2, 3, 4)},
            "g has shape [2, 3, 4], must have [rows, channels], none of them 0",
        ),
        (
            {"g": torch.zeros(0, 4)},
            "g has shape [0, 4], must have [rows, channels], none of them 0",
        ),
        (
            {"h": torch.zeros(3, 4)},
            "h is [3, 4] of torch.float32, must be [2, 4] of torch.bfloat16 or torch.float32",
        ),
        ({"h": torch.zeros(4, 2).mT}, "h has strides [1, 2], the last must be 1"),
        ({"g_gain": torch.zeros(3)}, "g_gain has shape (3,), must have (4,)"),
        ({"o_gain": torch.zeros(8)[::2]}, "o_gain is not contiguous, must be"),
        (
            {"grad_y": torch.zeros(2, 4).half()},
            "grad_y is [2, 4] of torch.float16, must be [2, 4] of torch.bfloat16 or torch.float32",
        ),
        ({"scale": torch.zeros(1)}, "the scale has shape (1,), must have ()"),
    ],
)
def test_what_the_output_refuses(changed: dict[str, Tensor], message: str) -> None:
    zeros = {
        "g": torch.zeros(2, 4),
        "h": torch.zeros(2, 4),
        "grad_y": torch.zeros(2, 4),
        "scale": torch.ones(()),
    }
    gains = {"g_gain": torch.zeros(4), "o_gain": torch.zeros(4)}
    with pytest.raises(ValueError, match=f"^{re.escape(message)}$"):
        output_backward(**{**zeros, **gains, "eps": 1e-6, **changed})
