"""The fused loss of the ternary head against its plain twin, and its gradients against float64."""

import re

import pytest

torch = pytest.importorskip("torch")
pytest.importorskip("triton")

from torch import Tensor

from mmfree_kernels.ops.loss import naive
from mmfree_kernels.ops.loss.fused import linear_cross_entropy

# What Triton's interpreter says of a loop's run-time bound.
pytestmark = [
    pytest.mark.kernels,
    pytest.mark.filterwarnings("ignore:Conversion of an array with ndim:DeprecationWarning"),
]

NAMES = ("x", "outer_gain", "weight", "gain")


def _problem(device: str, rows: int, hidden: int, vocabulary: int) -> dict[str, Tensor]:
    generator = torch.Generator().manual_seed(rows)
    made = {
        "x": torch.randn(rows, hidden, generator=generator),
        "outer_gain": 1 + 0.3 * torch.randn(hidden, generator=generator),
        "weight": 0.05 * torch.randn(vocabulary, hidden, generator=generator),
        "gain": 1 + 0.3 * torch.randn(hidden, generator=generator),
        "targets": torch.randint(vocabulary, (rows,), generator=generator),
    }
    made["targets"][1::3] = -100
    return {name: value.to(device) for name, value in made.items()}


def _leaves(problem: dict[str, Tensor], dtype: torch.dtype | None = None) -> dict[str, Tensor]:
    return {
        name: value.to(dtype or value.dtype, copy=True).requires_grad_() if name in NAMES else value
        for name, value in problem.items()
    }


def _near(found: Tensor, wanted: Tensor, bound: float) -> bool:
    """Within `bound` of the largest magnitude wanted."""
    return bool((found - wanted).abs().max() <= bound * wanted.abs().max())


@pytest.mark.parametrize(
    ("rows", "hidden", "vocabulary", "chunk"),
    [(1, 64, 70, 2048), (5, 80, 300, 2), (4, 16, 130, 4), (2, 16, 8208, 2)],
)
def test_loss_and_gradients_are_those_of_the_naive_head(
    device: str, rows: int, hidden: int, vocabulary: int, chunk: int
) -> None:
    problem = _problem(device, rows, hidden, vocabulary)
    leaves, wide = _leaves(problem), _leaves(problem, torch.float64)
    loss = linear_cross_entropy(**leaves, outer_eps=1e-5, chunk=chunk)
    wanted = naive.linear_cross_entropy(**wide, outer_eps=1e-5)
    assert loss.dtype == torch.float32 and loss.shape == ()
    assert abs(loss.item() - wanted.item()) <= 3e-6 * wanted.item()
    (3 * loss).backward()
    (3 * wanted).backward()
    for name in NAMES:
        assert _near(leaves[name].grad, wide[name].grad, 1e-5), name


def test_half_precision_changes_the_loss_little(device: str) -> None:
    problem = _problem(device, 9, 64, 200)
    problem["x"] = problem["x"].bfloat16()
    leaves, wide = _leaves(problem), _leaves(problem, torch.float64)
    loss, wanted = (
        linear_cross_entropy(**leaves, outer_eps=1e-6, chunk=4),
        naive.linear_cross_entropy(**wide, outer_eps=1e-6),
    )
    loss.backward()
    wanted.backward()
    assert abs(loss.item() - wanted.item()) <= 2e-3 * wanted.item()
    assert leaves["x"].grad.dtype == torch.bfloat16 and leaves["weight"].grad.dtype == torch.float32
    for name in NAMES:
        assert _near(leaves[name].grad, wide[name].grad, 0.02), name


def test_a_weight_in_half_precision_gets_such_a_gradient(device: str) -> None:
    problem = _problem(device, 3, 32, 40)
    problem["weight"] = problem["weight"].bfloat16()
    leaves, wide = _leaves(problem), _leaves(problem, torch.float64)
    linear_cross_entropy(**leaves, outer_eps=1e-6, chunk=2).backward()
    naive.linear_cross_entropy(**wide, outer_eps=1e-6).backward()
    assert leaves["weight"].grad.dtype == torch.bfloat16
    assert _near(leaves["weight"].grad, wide["weight"].grad, 2**-8)


def test_the_cut_into_chunks_changes_no_more_than_a_rounding(device: str) -> None:
    problem = _problem(device, 7, 32, 50)
    whole, cut = _leaves(problem), _leaves(problem)
    losses = (
        linear_cross_entropy(**whole, outer_eps=1e-6),
        linear_cross_entropy(**cut, outer_eps=1e-6, chunk=3),
    )
    assert torch.equal(*losses)
    for loss in losses:
        loss.backward()
    for name in ("x", "outer_gain", "gain"):
        assert _near(cut[name].grad, whole[name].grad, 1e-6), name
    assert _near(cut["weight"].grad, whole["weight"].grad, 1e-6)


def test_a_tied_embedding_gets_both_gradients(device: str) -> None:
    problem, tokens = _problem(device, 4, 32, 20), torch.tensor([3, 1, 3, 7], device=device)
    apart, tied = _leaves(problem), _leaves(problem)
    table = problem["weight"].clone().requires_grad_()
    linear_cross_entropy(**{**apart, "x": table[tokens]}, outer_eps=1e-6).backward()
    linear_cross_entropy(**{**tied, "x": tied["weight"][tokens]}, outer_eps=1e-6).backward()
    assert _near(tied["weight"].grad, apart["weight"].grad + table.grad, 1e-6)


def test_no_target_no_loss(device: str) -> None:
    problem = _problem(device, 4, 32, 20)
    leaves = _leaves({**problem, "targets": torch.full_like(problem["targets"], -100)})
    loss = linear_cross_entropy(**leaves, outer_eps=1e-6)
    loss.backward()
    assert loss.item() == naive.linear_cross_entropy(**leaves, outer_eps=1e-6).item() == 0
    assert not any(leaves[name].grad.any() for name in NAMES)


def test_without_gradients_the_loss_is_the_same(device: str) -> None:
    problem = _problem(device, 5, 32, 40)
    wanted = linear_cross_entropy(**_leaves(problem), outer_eps=1e-6)
    assert torch.equal(linear_cross_entropy(**problem, outer_eps=1e-6), wanted)
    with torch.no_grad():
        loss = linear_cross_entropy(**_leaves(problem), outer_eps=1e-6)
    assert torch.equal(loss, wanted) and not loss.requires_grad


def test_extreme_rows_give_finite_losses(device: str) -> None:
    problem = _problem(device, 4, 32, 40)
    problem["x"] *= torch.tensor([[0.0], [1e-20], [1e9], [1.0]], device=device)
    problem["gain"] *= 1e4
    leaves = _leaves(problem)
    loss = linear_cross_entropy(**leaves, outer_eps=1e-6)
    loss.backward()
    assert abs(loss.item() / naive.linear_cross_entropy(**leaves, outer_eps=1e-6).item() - 1) < 1e-5
    assert all(bool(leaves[name].grad.isfinite().all()) for name in NAMES)


@pytest.mark.parametrize("target", [-1, 40, 1 << 40])
def test_a_target_outside_the_vocabulary_makes_the_loss_nan(device: str, target: int) -> None:
    problem = _problem(device, 4, 32, 40)
    problem["targets"][0] = target
    assert bool(linear_cross_entropy(**problem, outer_eps=1e-6).isnan())


def test_gradients_can_be_asked_for_once(device: str) -> None:
    leaves = _leaves(_problem(device, 2, 32, 20))
    loss = linear_cross_entropy(**leaves, outer_eps=1e-6)
    loss.backward(retain_graph=True)
    message = "linear_cross_entropy's gradients are used up, must not be asked for twice"
    with pytest.raises(RuntimeError, match=f"^{message}$"):
        loss.backward()


SHAPES = "must have [m, h] and [v, h], none of them 0"


@pytest.mark.parametrize(
    ("changed", "message"),
    [
        ({"x": torch.zeros(32)}, f"x and weight have shapes [32] and [20, 32], {SHAPES}"),
        ({"weight": torch.zeros(0, 32)}, f"x and weight have shapes [2, 32] and [0, 32], {SHAPES}"),
        (
            {"x": torch.zeros(2, 32).half()},
            "x is of torch.float16, must be of torch.bfloat16 or torch.float32",
        ),
        ({"x": torch.zeros(32, 2).mT}, "x is not contiguous, must be"),
        ({"weight": torch.zeros(20, 16)}, "weight has shape (20, 16), must have (20, 32)"),
        ({"outer_gain": torch.zeros(16)}, "outer_gain has shape (16,), must have (32,)"),
        ({"gain": torch.zeros(32, 1)}, "gain has shape (32, 1), must have (32,)"),
        ({"targets": torch.zeros(2).int()}, "targets is of torch.int32, must be of torch.int64"),
    ],
)
def test_what_the_loss_refuses(changed: dict[str, Tensor], message: str) -> None:
    with pytest.raises(ValueError, match=f"^{re.escape(message)}$"):
        linear_cross_entropy(**{**_problem("cpu", 2, 32, 20), **changed}, outer_eps=1e-6)
