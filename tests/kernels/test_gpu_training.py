"""The benchmark of training paths: its runs, its rows and what it makes of them."""

import importlib
import math
import sys
from pathlib import Path
from types import ModuleType, SimpleNamespace

import pytest

torch = pytest.importorskip("torch")

from mmfree_kernels.float_model.model import HGRNBitModel
from mmfree_kernels.training import train
from mmfree_neuro.hgrn_bit.config import ModelConfig

SCRIPTS = Path(__file__).parents[2] / "examples" / "benchmarks"
TINY = ModelConfig(
    vocab_size=16,
    hidden_size=16,
    num_hidden_layers=2,
    intermediate_size=32,
    bos_token_id=0,
    eos_token_id=0,
)


def script(name: str) -> ModuleType:
    """A script as a module, beside those that it imports."""
    sys.path.insert(0, str(SCRIPTS))
    try:
        return importlib.import_module(name)
    finally:
        sys.path.remove(str(SCRIPTS))


@pytest.fixture(scope="module")
def benchmark() -> ModuleType:
    """The script of runs as a module."""
    return script("gpu_training")


def test_a_seed_is_finished_before_the_next_begins(benchmark: ModuleType) -> None:
    found = list(benchmark.runs(2, (4e-3, 1e-3)))
    assert [run.seed for run in found] == [0] * 16 + [1] * 16
    assert [(run.path, run.moved) for run in found[:8]] == [
        ("naive float32", 0),
        ("naive float32", 1),
        ("naive, products bfloat16", 0),
        ("fused float32", 0),
        ("fused float32", 1),
        ("fused bfloat16", 0),
        ("fused bfloat16", 1),
        ("fused bfloat16", 2),
    ]
    assert [run.learning_rate for run in found[:16]] == [4e-3] * 8 + [1e-3] * 8


def test_moved_parameters_differ_in_their_last_place(benchmark: ModuleType) -> None:
    models = [HGRNBitModel(TINY) for _ in range(3)]
    for model in models:
        model.initialise(3)
    for model, seed in zip(models[1:], (1, 2), strict=True):
        benchmark.move(model, seed)
    drawn, one, other = (model.lm_head.weight for model in models)
    assert torch.equal(torch.nextafter(one, drawn), drawn)
    assert bool((one > drawn).any()) and bool((one < drawn).any())
    assert not torch.equal(one, other)


def test_a_run_begins_from_what_its_seed_draws_and_learns(benchmark: ModuleType) -> None:
    tokens = torch.arange(4000) % 7
    text = SimpleNamespace(train=tokens, held_out=tokens[:102].view(6, 17).long())
    recipe = train.Recipe(steps=30, batch=4, window=16, warmup=3)
    trainer = benchmark.Trainer(TINY, recipe, text)
    run = benchmark.Run("naive float32", 1e-2, 5, 0)
    first = trainer.losses(run)
    assert first["held_out"] == first["held_out_by_naive"] < first["loss"] < first["first_loss"]
    moved = trainer.losses(benchmark.Run("naive float32", 1e-2, 5, 1))
    assert moved["first_loss"] == pytest.approx(first["first_loss"], rel=1e-5)
    rounded = trainer.losses(benchmark.Run("naive, products bfloat16", 1e-2, 5, 0))
    assert rounded["loss"] != first["loss"]
    assert rounded["loss"] == pytest.approx(first["loss"], rel=0.2)
    assert trainer.losses(run) == first


def _row(path: str, seed: int, moved: int, loss: float, **other: int) -> dict[str, object]:
    setting = {"hidden": 512, "blocks": 8, "steps": 200, "batch": 8, "window": 512}
    run = {"path": path, "learning_rate": 0.004, "seed": seed, "moved": moved}
    return setting | run | {"loss": loss, "held_out_by_naive": 2 * loss} | other


def test_differences_are_of_a_seeds_means_and_noise_of_repetitions(benchmark: ModuleType) -> None:
    rows = [
        _row("naive float32", 0, 0, 0.99),
        _row("naive float32", 0, 1, 1.01),
        _row("naive float32", 1, 0, 2.0),
        _row("naive float32", 2, 0, 9.0),
        _row("fused bfloat16", 0, 0, 1.02),
        _row("fused bfloat16", 1, 0, 2.0),
        _row("fused bfloat16", 1, 0, 3.0, steps=2000),
        _row("fused float32", 7, 0, 1.0),
    ]
    naive, other, fused, alone = benchmark.compared(rows)
    assert (naive["path"], naive["seeds"], naive["runs"], naive["off"]) == (
        "naive float32",
        2,
        3,
        0.0,
    )
    assert (other["path"], other["off"], other["standard_error"]) == ("fused float32", None, None)
    assert (fused["path"], fused["seeds"], fused["loss"]) == ("fused bfloat16", 2, 1.51)
    assert fused["off"] == pytest.approx(0.01)
    assert fused["standard_error"] == pytest.approx(0.01)
    assert fused["noise"] == pytest.approx(0.01 * math.sqrt(2))
    assert (alone["steps"], alone["off"], alone["noise"]) == (2000, None, None)
    short, long = "| 512 × 8 | 200 of 8 × 512 | 0.004 |", "| 512 × 8 | 2,000 of 8 × 512 | 0.004 |"
    assert benchmark.table(rows).splitlines()[2:] == [
        f"{short} naive float32 | 2, 3 | 1.5000 | | 1.41 % | 3.0000 | |",
        f"{short} fused float32 | 1, 1 | 1.0000 | | 1.41 % | 2.0000 | |",
        f"{short} fused bfloat16 | 2, 2 | 1.5100 | +1.00 % ± 1.00 | 1.41 % | 3.0200 | "
        "+1.00 % ± 1.00 |",
        f"{long} fused bfloat16 | 1, 1 | 3.0000 | | | 6.0000 | |",
    ]


def test_gradients_of_a_path_that_rounds_lie_along_the_naive_ones(
    benchmark: ModuleType, monkeypatch: pytest.MonkeyPatch
) -> None:
    gradients = script("training_gradients")
    plain = {name: loss for name, loss in benchmark.PATHS.items() if name.startswith("naive")}
    half = {"half": lambda model, tokens: train.plain_loss(model, tokens) / 2}
    monkeypatch.setattr(benchmark, "PATHS", plain | half)
    tokens = torch.arange(4000) % 7
    text = SimpleNamespace(train=tokens, held_out=tokens[:102].view(6, 17).long())
    trainer = benchmark.Trainer(TINY, train.Recipe(steps=3, batch=4, window=16, warmup=1), text)
    for _ in trainer.steps(benchmark.Run("naive float32", 1e-2, 5, 0)):
        pass
    found = gradients.looked(trainer, trainer.paths["naive float32"].model)
    assert list(found) == ["naive, products bfloat16", "half", "naive float32, moved"]
    rounded, halved, moved = found.values()
    assert rounded["projection"] == pytest.approx(1, abs=0.1)
    assert rounded["cosine"] < moved["cosine"] <= 1 + 1e-12
    assert abs(moved["loss_off"]) < 1e-4
    assert halved["loss_off"] == pytest.approx(-0.5)
    assert (halved["projection"], halved["cosine"]) == pytest.approx((0.5, 1.0))
    rows = [{"after": after, "path": "half"} | halved for after in (20, 1)]
    assert gradients.table(rows).splitlines() == [
        "| path | after 1 steps | after 20 steps |",
        "| --- | ---: | ---: |",
        "| half | -50.000 %, 0.5000, 1.0000 | -50.000 %, 0.5000, 1.0000 |",
    ]
