"""The demonstration: each step is a command of its own, and with --json all of them together are
one object."""

import json
import os
import subprocess
from dataclasses import fields, is_dataclass, replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from mmfree_neuro.cli import demo
from mmfree_neuro.cli.main import main
from mmfree_neuro.graph import graph_file
from mmfree_neuro.hgrn_bit import lowering
from mmfree_neuro.hgrn_bit.names import ternary_weights
from mmfree_neuro.lowering.scheme import DEFAULT, Range, scheme_named
from mmfree_neuro.pipeline.families import read_checkpoint

RANGES = Path(__file__).parent.parent / "golden" / "shipped_ranges.json"
ROUNDED = ("bounds", "codes", "gains", "mantissa", "scales", "slopes", "values")
"""Fields of nodes that hold real numbers of the checkpoint, rounded: where a sum of floats comes
out in another order, a number may be another by one."""


@pytest.fixture
def steps(monkeypatch: pytest.MonkeyPatch) -> list[list[str]]:
    """The commands that are run, each of which does nothing and says its name; `report` fails where
    it writes HTML."""
    seen: list[list[str]] = []

    def run(command: list[str], stdout: int | None, **_: Any) -> "subprocess.CompletedProcess[str]":
        words = command[3:]
        seen.append(words)
        said = json.dumps({"did": words[0]}) if stdout == subprocess.PIPE else None
        return subprocess.CompletedProcess(command, int("fails.html" in words), said)

    monkeypatch.setattr(demo.subprocess, "run", run)
    return seen


@pytest.fixture
def with_torch(monkeypatch: pytest.MonkeyPatch) -> None:
    """As if torch was installed."""
    monkeypatch.setattr(demo, "find_spec", lambda _: object())


@pytest.fixture
def without_torch(monkeypatch: pytest.MonkeyPatch) -> None:
    """As if torch was not installed."""
    monkeypatch.setattr(demo, "find_spec", lambda name: None if name == "torch" else object())


@pytest.mark.usefixtures("with_torch")
def test_every_step_as_json(
    steps: list[list[str]], tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    assert main(["demo", "-o", str(tmp_path), "--json"]) == 0
    content = json.loads(capsys.readouterr().out)
    names = ["convert", *("map", "simulate", "report") * 2]
    assert [step["result"] for step in content["steps"]] == [{"did": name} for name in names]
    assert [step["command"] + ["--json"] for step in content["steps"]] == steps


@pytest.mark.usefixtures("with_torch")
def test_every_step_as_text(
    steps: list[list[str]], tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    assert main(["demo", "-o", str(tmp_path)]) == 0
    said = capsys.readouterr().out
    assert said.count("$ mmfree-neuro ") == len(steps) == 7
    assert "What to try next:" in said
    assert not any("--json" in step for step in steps)


@pytest.mark.usefixtures("with_torch")
@pytest.mark.parametrize("more", [[], ["--json"]])
def test_a_step_that_fails_ends_it_with_its_status(
    more: list[str], steps: list[list[str]], tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    with pytest.raises(SystemExit) as ended:
        main(["demo", "-o", str(tmp_path), "--report", "fails.html", *more])
    assert ended.value.code == 1
    assert len(steps) == 7
    assert '"steps"' not in capsys.readouterr().out


@pytest.mark.slow
@pytest.mark.usefixtures("without_torch")
def test_without_torch_it_starts_from_the_shipped_graph(
    monkeypatch: pytest.MonkeyPatch, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    """Its steps are real ones, none of which may import torch."""
    (tmp_path / "torch.py").write_text("raise AssertionError('torch')", encoding="utf-8")
    path = os.pathsep.join(map(str, [tmp_path, *filter(None, [os.environ.get("PYTHONPATH")])]))
    monkeypatch.setenv("PYTHONPATH", path)
    monkeypatch.setattr(demo, "default_engine", lambda: "fast")
    files = [str(tmp_path / name) for name in ("demo", "report.html")]
    assert main(["demo", "--new-tokens", "2", "-o", files[0], "--report", files[1], "--json"]) == 0
    steps = json.loads(capsys.readouterr().out)["steps"]
    assert [step["command"][0] for step in steps] == ["map", "simulate", "report"] * 2
    assert steps[0]["command"][1] == str(demo.SHIPPED_GRAPH)
    assert (tmp_path / "report.html").stat().st_size > 50_000


@pytest.mark.usefixtures("steps", "without_torch")
def test_without_torch_it_says_so(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["demo", "-o", str(tmp_path)]) == 0
    said = capsys.readouterr().out
    assert said.startswith(
        "torch, which `convert` needs, is missing, so the demo starts from the graph that travels "
        "with it.\n\nIt runs on eight chips "
    )
    assert f"mmfree-neuro explore {demo.SHIPPED_GRAPH} --system" in said


@pytest.mark.usefixtures("without_torch")
@pytest.mark.parametrize("own", ["--scheme", "--checkpoint"])
def test_without_torch_another_graph_needs_convert(
    own: str, steps: list[list[str]], tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    (tmp_path / "config.json").touch()
    value = {"--scheme": "a16", "--checkpoint": str(tmp_path)}[own]
    assert main(["demo", own, value, "-o", str(tmp_path)]) == 0
    assert steps[0][0] == "convert" and value in steps[0]
    assert capsys.readouterr().out.startswith("A checkpoint becomes a graph")


def assert_same(found: Any, expected: Any, name: str) -> None:
    """Two records are equal, but for the last digit of what is `ROUNDED`."""
    assert type(found) is type(expected), name
    if is_dataclass(expected):
        for field in fields(expected):
            assert_same(getattr(found, field.name), getattr(expected, field.name), field.name)
    elif isinstance(expected, dict):
        assert list(found) == list(expected), name
        assert_same(tuple(found.values()), tuple(expected.values()), name)
    elif isinstance(expected, tuple):
        assert len(found) == len(expected), name
        for one, other in zip(found, expected, strict=True):
            assert_same(one, other, name)
    elif isinstance(expected, int | np.ndarray):
        apart = np.abs(np.subtract(found, expected, dtype=np.int64))
        assert np.max(apart) <= int(name in ROUNDED), name
    else:
        assert found == expected, name


def test_the_shipped_graph_is_what_convert_makes() -> None:
    """From ranges that `convert` measured when the graph was written, so that neither torch nor the
    sources of this Python count."""
    checkpoint = read_checkpoint(demo.CHECKPOINT)
    measured = json.loads(RANGES.read_text(encoding="utf-8"))
    ranges = {name: Range(*ends) for name, ends in measured.items()}
    weights, scheme = ternary_weights(checkpoint), scheme_named(DEFAULT)
    expected = lowering.lower(checkpoint, weights, ranges, scheme, demo.NAME)
    found, _ = graph_file.load_graph(demo.SHIPPED_GRAPH)
    assert_same(replace(found, quality={}), expected, "graph")
