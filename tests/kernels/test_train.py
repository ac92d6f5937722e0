"""Training: the loss falls, a stopped run goes on as if it had not been stopped, and what it leaves
is a checkpoint."""

import itertools
import json
import math
from collections.abc import Callable, Mapping
from dataclasses import asdict, replace
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import numpy as np
import pytest
import safetensors

torch = pytest.importorskip("torch")

from mmfree_kernels.float_model.evaluate import nats
from mmfree_kernels.float_model.model import HGRNBitModel, from_checkpoint
from mmfree_kernels.training import train as training
from mmfree_kernels.training.train import (
    Outcome,
    Progress,
    Recipe,
    learning_rate,
    optimiser_for,
    train,
)
from mmfree_neuro.errors import InputError, RunFailed
from mmfree_neuro.files.lock import locked
from mmfree_neuro.hgrn_bit.config import FAMILY, ModelConfig
from mmfree_neuro.lowering.ternarise import ternarise
from mmfree_neuro.model.checkpoint import read
from mmfree_neuro.model.corpus import of_bytes, windows

pytestmark = pytest.mark.slow

CONFIG = ModelConfig(
    vocab_size=256,
    hidden_size=16,
    num_hidden_layers=2,
    intermediate_size=16,
    bos_token_id=None,
    eos_token_id=None,
)
RECIPE = Recipe(steps=12, batch=4, window=16, warmup=3)
TEXT = np.frombuffer(b"the cat sat on the mat and the dog sat on the log. " * 40, np.uint8)
CORPUS = of_bytes(TEXT[:1600], TEXT[1600:], "a rhyme")


@pytest.fixture(autouse=True)
def on_the_cpu(monkeypatch: pytest.MonkeyPatch) -> None:
    """Where a run is the same to the bit every time."""
    monkeypatch.setattr(torch.cuda, "is_available", lambda: False)


def stop_after(monkeypatch: pytest.MonkeyPatch, steps: int) -> float:
    """Let the clock of training tick at every look; the seconds after which a run has done so many
    steps."""
    ticks = itertools.count()
    monkeypatch.setattr(training, "time", SimpleNamespace(monotonic=lambda: float(next(ticks))))
    return steps + 0.5


def weights(folder: Path) -> dict[str, torch.Tensor]:
    """The latent weights that a run left."""
    found: dict[str, torch.Tensor] = torch.load(folder / "training.pt", weights_only=True)["model"]
    return found


def equal(a: Mapping[str, torch.Tensor], b: Mapping[str, torch.Tensor]) -> bool:
    return a.keys() == b.keys() and all(torch.equal(value, b[name]) for name, value in a.items())


@pytest.mark.slow
def test_the_loss_falls(tmp_path: Path) -> None:
    reports: list[Progress] = []
    recipe = replace(RECIPE, steps=80, batch=8, learning_rate=4e-3)
    outcome = train(
        CONFIG, CORPUS, recipe, tmp_path / "run", report_every=20, report=reports.append
    )
    assert [progress.step for progress in reports] == [20, 40, 60, 80]
    assert reports[0].loss < math.log(256) + 0.1  # it began at chance
    assert reports[-1].loss < reports[0].loss - 1.5
    assert outcome.held_out_nats < reports[0].loss - 1.5
    assert (outcome.step, outcome.seen_tokens, outcome.finished) == (80, 80 * 8 * 16, True)
    assert [progress.learning_rate for progress in reports] == [
        learning_rate(recipe, n) for n in (19, 39, 59, 79)
    ]
    assert all(progress.tokens_per_second > 0 for progress in reports)


@pytest.mark.slow
@pytest.mark.parametrize("stop", [1, 5, 11])
def test_a_stopped_run_goes_on_to_the_same_bits(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, stop: int
) -> None:
    whole = train(CONFIG, CORPUS, RECIPE, tmp_path / "whole")
    with monkeypatch.context() as clock:
        part = train(CONFIG, CORPUS, RECIPE, tmp_path / "part", max_seconds=stop_after(clock, stop))
    assert (part.step, part.seen_tokens, part.finished) == (stop, stop * 4 * 16, False)
    assert not equal(weights(tmp_path / "part"), weights(tmp_path / "whole"))

    resumed = train(CONFIG, CORPUS, RECIPE, tmp_path / "part", resume=True)
    assert resumed == whole
    assert equal(weights(tmp_path / "part"), weights(tmp_path / "whole"))
    stored = [(tmp_path / run / "model.safetensors").read_bytes() for run in ("whole", "part")]
    assert stored[0] == stored[1]


def test_a_finished_run_resumes_to_itself(tmp_path: Path) -> None:
    outcome = train(CONFIG, CORPUS, RECIPE, tmp_path)
    before = weights(tmp_path)
    assert train(CONFIG, CORPUS, RECIPE, tmp_path, resume=True) == outcome
    assert equal(weights(tmp_path), before)


def test_a_run_that_dies_resumes_from_its_last_save(tmp_path: Path) -> None:
    class Died(Exception):
        pass

    def die(progress: Progress) -> None:
        if progress.step == 9:
            raise Died

    with pytest.raises(Died):
        train(CONFIG, CORPUS, RECIPE, tmp_path / "part", save_every=4, report_every=1, report=die)
    steps: list[int] = []
    train(
        CONFIG,
        CORPUS,
        RECIPE,
        tmp_path / "part",
        resume=True,
        report_every=1,
        report=lambda p: steps.append(p.step),
    )
    assert steps == [9, 10, 11, 12]
    train(CONFIG, CORPUS, RECIPE, tmp_path / "whole")
    assert equal(weights(tmp_path / "part"), weights(tmp_path / "whole"))


def test_the_seed_decides(tmp_path: Path) -> None:
    for name, seed in (("a", 0), ("b", 0), ("c", 1)):
        train(CONFIG, CORPUS, replace(RECIPE, steps=2, seed=seed), tmp_path / name)
    a, b, c = ((tmp_path / name / "model.safetensors").read_bytes() for name in "abc")
    assert a == b != c


@pytest.mark.parametrize("tied", [False, True])
def test_what_is_left_is_a_published_checkpoint(tmp_path: Path, tied: bool) -> None:
    config = replace(CONFIG, tie_word_embeddings=tied)
    outcome = train(config, CORPUS, RECIPE, tmp_path)
    assert sorted(path.name for path in tmp_path.iterdir()) == [
        "config.json",
        "model.safetensors",
        "training.pt",
    ]
    raw = json.loads((tmp_path / "config.json").read_text(encoding="utf-8"))
    assert (raw["model_type"], raw["architectures"], raw["torch_dtype"]) == (
        "hgrn_bit",
        ["HGRNBitForCausalLM"],
        "bfloat16",
    )
    stored = dict(safetensors.deserialize((tmp_path / "model.safetensors").read_bytes()))
    assert {name: tuple(e["shape"]) for name, e in stored.items()} == config.shapes()
    assert {e["dtype"] for e in stored.values()} == {"BF16"}

    checkpoint = read(tmp_path, lambda _: {}, FAMILY)
    assert checkpoint.config == config
    held_out = nats(from_checkpoint(checkpoint), windows(CORPUS.held_out, 439, 256))
    lost = float(held_out.mean())
    assert outcome == Outcome(12, 12 * 4 * 16, lost, lost, True)


def test_the_stored_weights_have_the_codes_and_scales_of_the_latent_ones(tmp_path: Path) -> None:
    train(CONFIG, CORPUS, RECIPE, tmp_path)
    stored = read(tmp_path, lambda _: {}, FAMILY).tensors
    for name, latent in weights(tmp_path).items():
        if name.endswith("_proj.weight") or name == "lm_head.weight":
            codes, scale = ternarise(latent.numpy())
            stored_codes, stored_scale = ternarise(stored[name])
            assert np.array_equal(stored_codes, codes)
            assert stored_scale == pytest.approx(scale, rel=2**-8)


def test_learning_rate_by_hand() -> None:
    recipe = Recipe(steps=8, warmup=2, learning_rate=1.0)
    rates = [learning_rate(recipe, step) for step in range(8)]
    root = 2**-0.5
    assert [rates[n] for n in (0, 1, 2, 4, 6)] == pytest.approx(
        [0.5, 1, (1 + root) / 2, 0.25, (1 - root) / 4]
    )
    assert rates[3] > 2 * rates[4]  # halved from the middle on
    assert rates[1:] == sorted(rates[1:], reverse=True)


def test_a_stable_rate_by_hand() -> None:
    recipe = Recipe(steps=20, warmup=2, learning_rate=1.0, schedule="wsd")
    rates = [learning_rate(recipe, step) for step in range(20)]
    assert rates[:16] == [0.5, *[1.0] * 15]
    assert rates[16:] == pytest.approx([1, 0.75, 0.5, 0.25])


def test_gradients_of_several_batches_are_those_of_one_large_batch(tmp_path: Path) -> None:
    """Up to the rounding of sums in another order."""
    recipe = replace(RECIPE, steps=3)
    for name, batch, accumulate in (("one", 6, 1), ("three", 2, 3)):
        some = replace(recipe, batch=batch, accumulate=accumulate)
        outcome = train(CONFIG, CORPUS, some, tmp_path / name)
        assert outcome.seen_tokens == 3 * 6 * 16
    one, three = weights(tmp_path / "one"), weights(tmp_path / "three")
    start = HGRNBitModel(CONFIG)
    start.initialise(0)
    moved = max(float((one[n] - p).abs().max()) for n, p in start.state_dict().items())
    apart = max(float((one[n] - three[n]).abs().max()) for n in one)
    assert apart < moved / 50


def test_the_held_out_loss_on_the_way(tmp_path: Path) -> None:
    """That of the weights as they are then, on windows that are the same every time."""
    reports: list[Progress] = []
    options: dict[str, Any] = {"look_every": 5, "report": reports.append}
    train(CONFIG, CORPUS, RECIPE, tmp_path, **options)
    assert [progress.step for progress in reports] == [5, 10, 12]
    model = HGRNBitModel(CONFIG)
    model.load_state_dict(weights(tmp_path))
    expected = nats(model, windows(CORPUS.held_out, 16, 64)).mean()
    assert reports[-1].held_out == pytest.approx(expected, rel=1e-5)
    assert reports[0].held_out != reports[1].held_out


def test_a_stable_run_goes_on_to_other_steps_until_its_rate_falls(tmp_path: Path) -> None:
    stable = replace(RECIPE, steps=10, schedule="wsd")
    train(CONFIG, CORPUS, replace(stable, steps=20), tmp_path / "whole")
    with pytest.MonkeyPatch.context() as clock:
        train(CONFIG, CORPUS, stable, tmp_path / "part", max_seconds=stop_after(clock, 6))
    train(CONFIG, CORPUS, replace(stable, steps=20), tmp_path / "part", resume=True)
    assert equal(weights(tmp_path / "part"), weights(tmp_path / "whole"))
    with pytest.raises(InputError) as error:
        train(CONFIG, CORPUS, replace(stable, steps=30), tmp_path / "part", resume=True)
    recipe = asdict(replace(stable, steps=20))
    settings = {"config": asdict(CONFIG), "recipe": recipe, "tokenizer_sha256": None}
    assert str(error.value) == (
        f"{tmp_path}/part/training.pt: belongs to a run with other settings: {json.dumps(settings)}"
    )


def test_an_interrupted_run_is_kept(tmp_path: Path) -> None:
    def report(progress: Progress) -> None:
        if progress.step == 8:
            raise KeyboardInterrupt

    train(CONFIG, CORPUS, RECIPE, tmp_path / "whole")
    with pytest.raises(KeyboardInterrupt):
        train(CONFIG, CORPUS, RECIPE, tmp_path / "part", report_every=4, report=report)
    train(CONFIG, CORPUS, RECIPE, tmp_path / "part", resume=True)
    assert equal(weights(tmp_path / "part"), weights(tmp_path / "whole"))


def test_a_tokenizer_is_kept_beside_the_weights(tmp_path: Path) -> None:
    train(CONFIG, CORPUS, replace(RECIPE, steps=1), tmp_path, tokenizer='{"version": "1.0"}')
    assert (tmp_path / "tokenizer.json").read_text() == '{"version": "1.0"}'
    with pytest.raises(InputError) as error:
        train(CONFIG, CORPUS, replace(RECIPE, steps=1), tmp_path, tokenizer="{}", resume=True)
    assert str(error.value).startswith(f"{tmp_path}/training.pt: belongs to a run with other ")
    with pytest.raises(InputError) as error:
        train(CONFIG, CORPUS, replace(RECIPE, steps=1), tmp_path)
    assert str(error.value) == (
        f"{tmp_path}/tokenizer.json: is there already, must not be beside a model of bytes"
    )


def test_matrices_decay_and_gains_do_not() -> None:
    model = HGRNBitModel(CONFIG)
    decayed, others = optimiser_for(model, RECIPE, torch.device("cpu")).param_groups
    names = {id(parameter): name for name, parameter in model.named_parameters()}
    assert (decayed["weight_decay"], others["weight_decay"]) == (0.01, 0.0)
    assert {names[id(p)] for p in others["params"]} == {
        name for name in names.values() if "norm" in name
    }


@pytest.mark.parametrize(("train_size", "held_out_size"), [(17, 440), (1600, 17)])
def test_a_text_shorter_than_a_window(tmp_path: Path, train_size: int, held_out_size: int) -> None:
    corpus = of_bytes(TEXT[:train_size], TEXT[:held_out_size], "a rhyme")
    with pytest.raises(InputError) as error:
        train(CONFIG, corpus, RECIPE, tmp_path / "run")
    assert str(error.value) == "a rhyme: too short for windows of 16 tokens"
    assert not (tmp_path / "run").exists()


def test_the_shortest_text_that_is_long_enough(tmp_path: Path) -> None:
    outcome = train(
        CONFIG, of_bytes(TEXT[:18], TEXT[:18], "a line"), replace(RECIPE, steps=1), tmp_path
    )
    assert outcome.finished


def test_no_run_to_resume(tmp_path: Path) -> None:
    with pytest.raises(InputError) as error:
        train(CONFIG, CORPUS, RECIPE, tmp_path, resume=True)
    assert str(error.value) == f"{tmp_path}/training.pt: no such file; there is no run to resume"


def test_resuming_with_other_settings(tmp_path: Path) -> None:
    recipe = replace(RECIPE, steps=1)
    train(CONFIG, CORPUS, recipe, tmp_path)
    with pytest.raises(InputError) as error:
        train(CONFIG, CORPUS, replace(recipe, batch=5), tmp_path, resume=True)
    settings = json.dumps(
        {"config": asdict(CONFIG), "recipe": asdict(recipe), "tokenizer_sha256": None}
    )
    assert (
        str(error.value)
        == f"{tmp_path}/training.pt: belongs to a run with other settings: {settings}"
    )


def test_resuming_another_model(tmp_path: Path) -> None:
    recipe = replace(RECIPE, steps=1)
    train(CONFIG, CORPUS, recipe, tmp_path)
    with pytest.raises(InputError) as error:
        train(replace(CONFIG, rms_norm_eps=1e-3), CORPUS, recipe, tmp_path, resume=True)
    settings = json.dumps(
        {"config": asdict(CONFIG), "recipe": asdict(recipe), "tokenizer_sha256": None}
    )
    assert (
        str(error.value)
        == f"{tmp_path}/training.pt: belongs to a run with other settings: {settings}"
    )


def test_resuming_from_a_damaged_state(tmp_path: Path) -> None:
    recipe = replace(RECIPE, steps=1)
    train(CONFIG, CORPUS, recipe, tmp_path)
    (tmp_path / "training.pt").write_bytes(b"PK damaged")
    with pytest.raises(InputError) as error:
        train(CONFIG, CORPUS, recipe, tmp_path, resume=True)
    assert (
        str(error.value) == f"{tmp_path}/training.pt: not readable as the state of a training run"
    )


@pytest.mark.parametrize(
    ("change", "problem"),
    [
        (lambda state: [state], ": holds a list, must hold a dict"),
        (lambda state: without(state, "step"), ": has no step, must have one"),
        (lambda state: state | {"step": -1}, ": step is -1, must be 0 … 1"),
        (lambda state: state | {"step": 2}, ": step is 2, must be 0 … 1"),
        (lambda state: state | {"step": "1"}, ": step is '1', must be 0 … 1"),
        (lambda state: state | {"model": {}}, ", or damaged ("),
        (lambda state: state | {"model": 3}, ", or damaged ("),
        (lambda state: state | {"optimiser": {}}, ", or damaged ("),
        (
            lambda state: state | {"optimiser": shrunk(state["optimiser"])},
            ": a moment has another ",
        ),
    ],
)
def test_resuming_from_the_state_of_something_else(
    tmp_path: Path, change: Callable[[Any], Any], problem: str
) -> None:
    recipe = replace(RECIPE, steps=1)
    train(CONFIG, CORPUS, recipe, tmp_path)
    path = tmp_path / "training.pt"
    torch.save(change(torch.load(path, weights_only=True)), path)
    before = {path.name: path.read_bytes() for path in tmp_path.iterdir()}
    with pytest.raises(InputError) as error:
        train(CONFIG, CORPUS, recipe, tmp_path, resume=True)
    assert str(error.value).startswith(f"{path}: not the state of a training run{problem}")
    assert {path.name: path.read_bytes() for path in tmp_path.iterdir()} == before


def without(state: dict[str, Any], name: str) -> dict[str, Any]:
    return {key: value for key, value in state.items() if key != name}


def shrunk(optimiser: dict[str, Any]) -> dict[str, Any]:
    """The state of an optimiser whose moments have lost their last row."""
    moments = {
        number: {name: value[:-1] if value.dim() else value for name, value in state.items()}
        for number, state in optimiser["state"].items()
    }
    return optimiser | {"state": moments}


# What ends a run


@pytest.mark.parametrize("save_every", [4, 1000])
def test_a_loss_that_is_not_finite_ends_the_run(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, save_every: int
) -> None:
    """What was kept before stays, and can be gone on from; where nothing was, nothing is left."""
    calls, plain_loss = itertools.count(1), training.plain_loss

    def loss(model: HGRNBitModel, tokens: torch.Tensor) -> torch.Tensor:
        return plain_loss(model, tokens) * (math.nan if next(calls) == 7 else 1)

    with monkeypatch.context() as broken, pytest.raises(RunFailed) as error:
        broken.setattr(training, "plain_loss", loss)
        train(CONFIG, CORPUS, RECIPE, tmp_path / "run", save_every=save_every)
    kept = f"what was reached after 4 is kept in {tmp_path / 'run'}"
    assert str(error.value) == (
        "training stopped after 7 steps, because the loss is not finite; "
        f"{kept if save_every == 4 else 'nothing was kept'}; try a lower learning rate"
    )
    if save_every == 1000:
        assert not (tmp_path / "run").exists()
        return
    train(CONFIG, CORPUS, RECIPE, tmp_path / "run", resume=True)
    train(CONFIG, CORPUS, RECIPE, tmp_path / "whole")
    assert equal(weights(tmp_path / "run"), weights(tmp_path / "whole"))


def test_weights_that_are_not_finite_are_not_kept(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The loss of the last step was finite, but its gradients were not."""

    def loss(model: HGRNBitModel, tokens: torch.Tensor) -> torch.Tensor:
        return (model.lm_head.norm.weight * 0).sqrt().sum()

    monkeypatch.setattr(training, "plain_loss", loss)
    with pytest.raises(RunFailed) as error:
        train(CONFIG, CORPUS, replace(RECIPE, steps=1), tmp_path / "run")
    assert str(error.value) == (
        "training stopped after 1 steps, because weights are not finite; nothing was kept; try a "
        "lower learning rate"
    )


@pytest.mark.parametrize(
    ("changed", "recipe", "expected"),
    [
        (
            {"hidden_size": 10**9},
            {},
            "a model of 8000000628000000032 weights in training needs at least 128000010048.0 GB",
        ),
        (
            {"num_hidden_layers": 10**9},
            {},
            "a model of 1952000008224 weights in training needs at least 231232.0 GB",
        ),
        ({}, {"batch": 10**9}, "a batch of 16000000000 tokens needs at least 5120.0 GB"),
    ],
)
def test_what_does_not_fit_the_memory(
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    changed: dict[str, int],
    recipe: dict[str, int],
    expected: str,
) -> None:
    monkeypatch.setattr(training, "machine_bytes", lambda: 8 * 10**9)
    with pytest.raises(InputError) as error:
        train(replace(CONFIG, **changed), CORPUS, replace(RECIPE, **recipe), tmp_path / "run")
    assert str(error.value) == f"{expected}, must fit the 8.0 GB of memory here"
    assert not (tmp_path / "run").exists()


def test_memory_by_hand() -> None:
    """Weights, gradients and two moments of four bytes, and the objects of two blocks."""
    needed = 16 * CONFIG.parameters() + 2 * training.BLOCK_BYTES
    training.check_memory(CONFIG, RECIPE, needed)
    with pytest.raises(InputError) as error:
        training.check_memory(CONFIG, RECIPE, needed - 1)
    assert str(error.value) == (
        f"a model of {CONFIG.parameters()} weights in training needs at least 0.0 GB, must fit the "
        "0.0 GB of memory here"
    )
    assert training.machine_bytes() > 1 << 28


def test_a_folder_that_cannot_be_written_to(tmp_path: Path) -> None:
    """Before anything is computed."""
    (tmp_path / "file").write_bytes(b"")
    (tmp_path / "run" / "training.pt").mkdir(parents=True)
    for folder, problem in (
        (
            "file/run",
            f"cannot be written, since {tmp_path}/file is no folder that can be written to",
        ),
        ("file", f"cannot be written, since {tmp_path}/file is no folder that can be written to"),
        ("run", None),
    ):
        with pytest.raises(InputError) as error:
            train(CONFIG, CORPUS, RECIPE, tmp_path / folder, report=pytest.fail)
        path = tmp_path / folder
        assert str(error.value) == (
            f"{path / 'training.pt'}: is a folder, must be a file to write"
            if problem is None
            else f"{path}: {problem}"
        )


def test_two_runs_into_one_folder(tmp_path: Path) -> None:
    with locked(tmp_path), pytest.raises(InputError) as error:
        train(CONFIG, CORPUS, RECIPE, tmp_path)
    assert str(error.value) == (
        f"{tmp_path}: is being written to by another run of this process, must be another folder, "
        "or wait for its end"
    )


def test_a_save_that_fails_ends_the_run(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """As on a full disk, of which torch has its own word."""

    def full(*_: object) -> None:
        raise RuntimeError("PytorchStreamWriter failed writing file data/0: file write failed")

    monkeypatch.setattr(training.torch, "save", full)
    with pytest.raises(RunFailed) as error:
        train(CONFIG, CORPUS, replace(RECIPE, steps=1), tmp_path)
    assert str(error.value) == (
        f"{tmp_path}/training.pt: cannot be written ('PytorchStreamWriter failed ...le data/0: "
        "file write failed')"
    )


@pytest.mark.parametrize(
    ("changed", "expected"),
    [
        ({"steps": 0}, "steps is 0, must be 1 … 1000000000000"),
        ({"batch": -1}, "batch is -1, must be 1 … 1000000000000"),
        ({"window": 0}, "window is 0, must be 1 … 1000000000000"),
        (
            {"learning_rate": float("nan")},
            "the learning rate is nan, must be above 0 and at most 1",
        ),
        ({"learning_rate": 1e30}, "the learning rate is 1e+30, must be above 0 and at most 1"),
        ({"seed": -1}, "the seed is -1, must be 0 … 9223372036854775807"),
        ({"accumulate": 0}, "accumulate is 0, must be 1 … 1000000000000"),
        ({"schedule": "flat"}, "schedule 'flat' is not known, must be cosine or wsd"),
    ],
)
def test_recipes_that_are_none(changed: dict[str, Any], expected: str) -> None:
    with pytest.raises(InputError) as error:
        replace(RECIPE, **changed)
    assert str(error.value) == expected


def test_sizes_that_the_fused_path_takes() -> None:
    config = ModelConfig(vocab_size=256, hidden_size=48, num_hidden_layers=1, intermediate_size=80)
    assert training.can_fuse(config)
    assert not training.can_fuse(replace(config, hidden_size=40))
    assert not training.can_fuse(replace(config, intermediate_size=90))
