"""The demonstration: each step is a command of its own, and with --json all of them together are
one object."""

import json
import subprocess
from pathlib import Path
from typing import Any

import pytest

from mmfree_neuro.cli import demo
from mmfree_neuro.cli.main import main


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


def test_every_step_as_json(
    steps: list[list[str]], tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    assert main(["demo", "-o", str(tmp_path), "--json"]) == 0
    content = json.loads(capsys.readouterr().out)
    names = ["convert", *("map", "simulate", "report") * 2]
    assert [step["result"] for step in content["steps"]] == [{"did": name} for name in names]
    assert [step["command"] + ["--json"] for step in content["steps"]] == steps


def test_every_step_as_text(
    steps: list[list[str]], tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    assert main(["demo", "-o", str(tmp_path)]) == 0
    said = capsys.readouterr().out
    assert said.count("$ mmfree-neuro ") == len(steps) == 7
    assert "What to try next:" in said
    assert not any("--json" in step for step in steps)


@pytest.mark.parametrize("more", [[], ["--json"]])
def test_a_step_that_fails_ends_it_with_its_status(
    more: list[str], steps: list[list[str]], tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    with pytest.raises(SystemExit) as ended:
        main(["demo", "-o", str(tmp_path), "--report", "fails.html", *more])
    assert ended.value.code == 1
    assert len(steps) == 7
    assert '"steps"' not in capsys.readouterr().out
