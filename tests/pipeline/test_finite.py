"""A float model that overflows gives an error that names where, and no result; and what is said
where torch does not load."""

import json
import math
import subprocess
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest

from mmfree_neuro.cli.main import main
from mmfree_neuro.errors import InputError
from mmfree_neuro.model.checkpoint import Checkpoint, write
from mmfree_neuro.pipeline.families import needs_torch

HUGE = {
    "layers.0.attn.v": "model.layers.0.attn.g_norm.weight",
    "layers.1.attn.o_proj.in": "model.layers.1.attn.o_proj.norm.weight",
    "layers.0.mlp.gate_proj.in": "model.layers.0.mlp_norm.weight",
}
"""What overflows first, and the gains that make it."""


@pytest.fixture
def with_values(
    tmp_path: Path, random_checkpoint: Callable[[str], Checkpoint], needs_torch: None
) -> Callable[[str, float], str]:
    """The function that writes a checkpoint, the values of one of its tensors all of one
    magnitude."""

    def make(name: str, magnitude: float) -> str:
        checkpoint = random_checkpoint("small")
        signs = np.where(checkpoint.tensors[name] < 0, -1, 1)
        changed = {name: (signs * magnitude).astype(np.float32)}
        write(tmp_path / "c", Checkpoint(checkpoint.config, {**checkpoint.tensors, **changed}))
        return str(tmp_path / "c")

    np.save(tmp_path / "tokens.npy", np.arange(256).reshape(8, 32))
    return make


@pytest.fixture
def overflowing(with_values: Callable[[str, float], str]) -> Callable[[str], str]:
    """The function that writes a checkpoint one tensor of which is as large as float32 holds."""
    return lambda name: with_values(name, 3e38)


@pytest.mark.parametrize("where", HUGE)
@pytest.mark.parametrize("command", ["logits", "continue", "convert"])
def test_what_is_not_finite_is_named(
    where: str,
    command: str,
    overflowing: Callable[[str], str],
    tmp_path: Path,
    capsys: pytest.CaptureFixture[str],
) -> None:
    folder, tokens = overflowing(HUGE[where]), str(tmp_path / "tokens.npy")
    more = ["--new-tokens", "2"] * (command == "continue")
    arguments = {"convert": ["convert", folder, "--calibrate", tokens]}.get(
        command, ["logits", folder, "--tokens", tokens, *more]
    )
    assert main([*arguments, "-o", str(tmp_path / "out")]) == 2
    said = capsys.readouterr()
    before, _, behind = said.err.partition(" of ")
    assert before.startswith(f"mmfree-neuro: {folder}: {where}: ")
    assert behind.endswith(" values that the float model computes are not finite, must all be\n")
    assert said.out == ""
    assert not (tmp_path / "out").exists()


def test_a_range_that_is_not_finite_is_named(
    overflowing: Callable[[str], str], tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    """Every activation is finite, but not the embedding times its gains."""
    folder = overflowing("model.embeddings.weight")
    arguments = ["convert", folder, "--calibrate", str(tmp_path / "tokens.npy")]
    assert main([*arguments, "-o", str(tmp_path / "out")]) == 2
    assert capsys.readouterr().err == (
        f"mmfree-neuro: {folder}: layers.0.attn.inner: calibration measured inf … inf, must be "
        "finite\n"
    )


def converted(folder: str, tmp_path: Path) -> int:
    arguments = ["convert", folder, "--calibrate", str(tmp_path / "tokens.npy"), "--json"]
    return main([*arguments, "-o", str(tmp_path / "out")])


def test_a_factor_that_no_multiplier_has_is_said_with_its_block(
    with_values: Callable[[str, float], str], tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    folder = with_values("model.layers.1.attn.g_norm.weight", 1e-30)
    assert converted(folder, tmp_path) == 2
    before, _, behind = capsys.readouterr().err.partition(" has no ")
    assert before.startswith(f"mmfree-neuro: {folder}: layers.1: a factor of ")
    assert behind == "multiplier of 16 bits, must be below 32768.0\n"


def test_a_loss_beyond_all_numbers_is_kept_as_one(
    with_values: Callable[[str, float], str], tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    """The logits are huge, and where integers and floats differ, the ratio of perplexities is
    too."""
    assert converted(with_values("lm_head.weight", 1e19), tmp_path) == 0
    ratio = json.loads(capsys.readouterr().out)["quality"]["perplexity_ratio"]
    assert 0 <= ratio < math.inf
    assert main(["inspect", str(tmp_path / "out")]) == 0


@pytest.mark.parametrize(
    ("error", "state"),
    [
        (ModuleNotFoundError("No module named 'torch'", name="torch"), "is not installed"),
        (ModuleNotFoundError("No module named 'torch'"), "is not installed"),
        (ImportError("libtorch.so: no"), "cannot be loaded ('libtorch.so: no')"),
        (OSError("libcudart.so: no"), "cannot be loaded ('libcudart.so: no')"),
        (ImportError("no name", name="torch.nn"), "cannot be loaded ('no name')"),
    ],
)
def test_no_torch(error: Exception, state: str) -> None:
    with pytest.raises(InputError) as refused, needs_torch("all of this"):
        raise error
    assert str(refused.value) == (
        f"all of this needs torch, which {state}; install it with the torch extra: pip install "
        "'mmfree-neuro[torch]'"
    )


def test_another_module_that_is_missing_is_a_bug() -> None:
    with pytest.raises(ModuleNotFoundError), needs_torch("all of this"):
        raise ModuleNotFoundError("No module named 'mmfree_kernels.x'", name="mmfree_kernels.x")


def test_a_checkpoint_without_torch(
    run_python: Callable[..., "subprocess.CompletedProcess[str]"],
    tmp_path: Path,
    random_checkpoint: Callable[[str], Checkpoint],
) -> None:
    """It is inspected, and one line says what converting it needs."""
    write(tmp_path / "c", random_checkpoint("small"))
    program = """
        import sys
        sys.modules["torch"] = None
        from mmfree_neuro.cli.main import main
        assert main(["inspect", sys.argv[1]]) == 0
        assert main(["convert", sys.argv[1], "-o", sys.argv[1] + ".graph"]) == 2
    """
    assert run_python(program, tmp_path / "c").stderr == (
        "mmfree-neuro: calibration needs torch, which is not installed; install it with the torch "
        "extra: pip install 'mmfree-neuro[torch]'\n"
    )
