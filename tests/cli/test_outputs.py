"""No command writes over what it reads, over what it writes itself, or over what is no file."""

import os
import shutil
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest

from mmfree_neuro.cli.main import main

pytestmark = pytest.mark.slow

Files = Callable[[str], str]
Tree = Callable[[Path], dict[str, bytes]]
READ = "is read by this command, must be another file to write"
IRREGULAR = "is no regular file, must be a file to write"
FOLDER = "is a folder, must be a file to write"
NO_FOLDER = "is no folder, must be a new or an existing folder"
CHECKPOINT = "holds a checkpoint, must be another folder"
TWICE = "would be written twice, must be a file of its own"


@pytest.fixture
def here(
    make_files: Callable[[str, int], Files],
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
) -> Path:
    """A folder with a file of every kind, and links to some."""
    shutil.copytree(make_files("smallest", 2)(""), tmp_path, dirs_exist_ok=True)
    monkeypatch.chdir(tmp_path)
    what = ["--prompt", "ab", "--new-tokens", "2", "--engine", "fast"]
    assert main(["simulate", "a16.map", *what, "-o", "run"]) == 0
    np.save("s.npy", np.array([[1, 2, 3]]))
    (tmp_path / "own.toml").write_text("[system]\n")
    (tmp_path / "rows.json").write_text("[]")
    os.mkfifo("pipe")
    (tmp_path / "soft.graph").symlink_to("a16.graph")
    os.link("a16.graph", "hard.graph")
    capsys.readouterr()
    return tmp_path


@pytest.mark.parametrize(
    ("words", "output", "problem"),
    [
        (
            "convert checkpoint -o checkpoint/model.safetensors",
            "checkpoint/model.safetensors",
            READ,
        ),
        ("convert checkpoint -o checkpoint/config.json", "checkpoint/config.json", READ),
        (
            "convert checkpoint -o calibration.npy --calibrate calibration.npy",
            "calibration.npy",
            READ,
        ),
        ("map a16.graph --system kapoho-point -o a16.graph", "a16.graph", READ),
        ("map a16.graph --system kapoho-point -o run/../a16.graph", "run/../a16.graph", READ),
        ("map a16.graph --system kapoho-point -o soft.graph", "soft.graph", READ),
        ("map a16.graph --system kapoho-point -o hard.graph", "hard.graph", READ),
        ("map soft.graph --system kapoho-point -o a16.graph", "a16.graph", READ),
        ("map a16.graph --system own.toml -o own.toml", "own.toml", READ),
        ("explore a16.graph --system kapoho-point -o a16.graph", "a16.graph", READ),
        ("explore a16.graph --system kapoho-point --picture a16.graph", "a16.graph", READ),
        ("explore a16.graph --system kapoho-point -o a --picture a", "a", TWICE),
        ("logits a16.map --tokens s.npy --engine fast -o s.npy", "s.npy", READ),
        ("logits a16.map --tokens s.npy --engine fast -o a16.graph", "a16.graph", READ),
        ("logits a16.map --tokens s.npy --engine fast -o a16.map", "a16.map", READ),
        ("logits a16.map --tokens s.npy --engine fast -o a.npy --nats a.npy", "a.npy", TWICE),
        (
            "logits a16.map --tokens s.npy --engine fast -o a.npy --chosen run/../a.npy",
            "run/../a.npy",
            TWICE,
        ),
        (
            "logits checkpoint --tokens s.npy -o checkpoint/config.json",
            "checkpoint/config.json",
            READ,
        ),
        (
            "inspect checkpoint --codes checkpoint/model.safetensors",
            "checkpoint/model.safetensors",
            READ,
        ),
        ("report run -o run/run.json", "run/run.json", READ),
        ("report run -o rows.json --gpu-rows rows.json", "rows.json", READ),
        ("map a16.graph --system kapoho-point -o pipe", "pipe", IRREGULAR),
        ("convert checkpoint -o /dev/null", "/dev/null", IRREGULAR),
        ("map a16.graph --system kapoho-point -o run", "run", FOLDER),
        ("simulate a16.map --prompt x --engine fast -o a16.map", "a16.map", NO_FOLDER),
        ("simulate a16.map --prompt x --engine fast -o checkpoint", "checkpoint", CHECKPOINT),
    ],
)
def test_nothing_is_written_over(
    words: str,
    output: str,
    problem: str,
    here: Path,
    capsys: pytest.CaptureFixture[str],
    tree: Tree,
) -> None:
    before = tree(here)
    assert main(words.split()) == 2
    assert capsys.readouterr() == ("", f"mmfree-neuro: {output}: {problem}\n")
    assert tree(here) == before


def test_what_is_under_a_file(here: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["report", "run", "-o", "rows.json/a.md"]) == 2
    assert capsys.readouterr().err == (
        "mmfree-neuro: rows.json/a.md: cannot be written, since "
        f"{here / 'rows.json'} is no folder that can be written to\n"
    )
