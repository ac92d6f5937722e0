"""Whatever the standard streams are, a command does its work, and says what it cannot say."""

import json
import os
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path

import pytest

from mmfree_neuro.cli.main import main
from mmfree_neuro.run.run_file import load_run

pytestmark = pytest.mark.slow

Files = Callable[[str], str]
FULL = Path("/dev/full")


@pytest.fixture(scope="module")
def files(make_files: Callable[[str, int], Files]) -> Files:
    return make_files("smallest", 2)


@pytest.fixture
def shell(files: Files, tmp_path: Path) -> Callable[..., "subprocess.CompletedProcess[bytes]"]:
    """The function that runs the words of a command in a shell, its output where the shell says."""
    simulate = "simulate {map} --prompt ab --new-tokens 3 --engine fast -o {run}"

    def run(
        where: str, words: str = simulate, **environment: str
    ) -> "subprocess.CompletedProcess[bytes]":
        command = words.format(map=files("a16.map"), run=tmp_path / "run", graph=files("a16.graph"))
        return subprocess.run(
            ["sh", "-c", f"'{sys.executable}' -m mmfree_neuro {command} {where}"],
            capture_output=True,
            check=False,
            timeout=120,
            env=os.environ | environment,
        )

    return run


@pytest.mark.parametrize("where", ["2>&-", ">&-", ">&- 2>&-", "<&- >&- 2>&-"])
def test_streams_that_are_closed(
    where: str, shell: Callable[..., "subprocess.CompletedProcess[bytes]"], tmp_path: Path
) -> None:
    done = shell(where)
    assert (done.returncode, done.stderr) == (0, b"")
    assert load_run(tmp_path / "run").only.prompt == "ab"
    assert done.stdout.startswith(b"ab") == (where == "2>&-")


def test_a_mistake_without_anybody_to_tell(
    shell: Callable[..., "subprocess.CompletedProcess[bytes]"],
) -> None:
    done = shell("2>&-", "inspect nothing")
    assert (done.returncode, done.stdout, done.stderr) == (2, b"", b"")


@pytest.mark.skipif(not FULL.exists(), reason="this system has no /dev/full")
@pytest.mark.parametrize(
    "words",
    [
        "--help",
        "--version",
        "systems --help",
        "systems",
        "systems --json",
        "inspect {graph}",
        "simulate {map} --prompt ab --new-tokens 3 --engine fast -o {run}",
    ],
)
def test_a_full_standard_output(
    words: str, shell: Callable[..., "subprocess.CompletedProcess[bytes]"], tmp_path: Path
) -> None:
    done = shell(">/dev/full", words)
    assert done.returncode == 1
    assert done.stderr == (
        b"mmfree-neuro: standard output: cannot be written (No space left on device)\n"
    )
    assert "simulate" not in words or load_run(tmp_path / "run").only.prompt == "ab"


def test_a_reader_that_has_gone(shell: Callable[..., "subprocess.CompletedProcess[bytes]"]) -> None:
    done = shell("| :", "inspect {map}")
    assert (done.returncode, done.stderr) == (0, b"")


def test_a_narrow_standard_output(
    shell: Callable[..., "subprocess.CompletedProcess[bytes]"],
) -> None:
    words = "simulate {map} --prompt é→ --new-tokens 0 --engine fast -o {run}"
    done = shell("", words, PYTHONIOENCODING="ascii", PYTHONUTF8="1")
    assert (done.returncode, done.stderr) == (0, b"")
    assert done.stdout.startswith(rb"\xe9\u2192")


def test_escapes_do_not_reach_a_terminal(
    files: Files, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    run, escape = tmp_path / "\x1b[31mrun", "\x1b]0;title\x07\x9b1m\u202e"
    what = ["simulate", files("a16.map"), "--new-tokens", "0", "--engine", "fast"]
    assert main([*what, "--prompt", f"a{escape}", "-o", str(run)]) == 0
    assert main(["inspect", str(run)]) == 0
    assert main(["report", str(run), "-o", str(tmp_path / "\x1b[2J.md")]) == 0
    assert main(["inspect", str(tmp_path / "\x1b[2Jnothing")]) == 2
    out, err = capsys.readouterr()
    for text in (out, err):
        assert not {"\x1b", "\x07", "\x9b", "\u202e"} & set(text)
    assert out.startswith(r"a\x1b]0;title\x07\x9b1m\u202e")
    assert err == f"mmfree-neuro: {tmp_path}/\\x1b[2Jnothing: no such file, must be a graph file\n"
    assert load_run(run).only.prompt == f"a{escape}"
    with pytest.raises(SystemExit):
        main(["simulate", "x", "--new-tokens", "\x1b[31m", "--prompt", "x", "-o", "x"])
    assert "\x1b" not in capsys.readouterr().err


@pytest.mark.parametrize("form", ["html", "md", "json"])
def test_a_prompt_that_is_not_utf8_in_a_report(
    form: str, files: Files, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    prompt = os.fsdecode(b"caf\xe9")
    what = ["simulate", files("a16.map"), "--new-tokens", "2", "--engine", "fast"]
    assert main([*what, "--prompt", prompt, "-o", str(tmp_path / "run")]) == 0
    assert main(["report", str(tmp_path / "run"), "-o", str(tmp_path / f"a.{form}")]) == 0
    text = (tmp_path / f"a.{form}").read_text(encoding="utf-8")
    assert "caf\\udce9" in text
    if form == "json":
        json.loads(text)
    assert load_run(tmp_path / "run").only.prompt == prompt
    assert capsys.readouterr().err == ""
