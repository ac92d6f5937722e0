"""Prompts from wherever they come, and text that is typed while it comes."""

import fcntl
import io
import os
import pty
import struct
import subprocess
import sys
import termios
import threading
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path

import pytest

from mmfree_neuro.cli import options
from mmfree_neuro.cli.main import main
from mmfree_neuro.graph import graph_file
from mmfree_neuro.graph.nodes import Graph
from mmfree_neuro.mapping.request import Request
from mmfree_neuro.pipeline import map
from mmfree_neuro.run import run_file

pytestmark = pytest.mark.slow

Said = pytest.CaptureFixture[str]


@pytest.fixture(scope="module")
def path(
    random_graph: Callable[[str, str], Graph], tmp_path_factory: pytest.TempPathFactory
) -> Path:
    """The mapping file of a model of bytes without EOS."""
    folder = tmp_path_factory.mktemp("files")
    graph = replace(random_graph("smallest", "a16"), eos=())
    graph_file.save_graph(graph, folder / "model.graph")
    request = Request("block-per-chip", cores=2)
    map.map_graph(folder / "model.graph", "kapoho-point", folder / "model.map", request)
    return folder / "model.map"


def words(path: Path, run: Path, *prompt: str, new_tokens: int = 2) -> list[str]:
    how = ["--engine", "fast", "--new-tokens", str(new_tokens), "-o", str(run)]
    return ["simulate", str(path), *prompt, *how]


def prompt_of(run: Path) -> bytes:
    """The bytes of a run's prompt, behind the first token."""
    first, *others = run_file.load_run(run).only.prompt_tokens
    assert first == 0
    return bytes(others)


def refused(arguments: list[str], capsys: Said) -> str:
    assert main(arguments) == 2
    said = capsys.readouterr()
    assert (said.out, said.err.count("\n")) == ("", 1)
    return said.err.removeprefix("mmfree-neuro: ").rstrip("\n")


CONTENTS = {"text": "naïve\n".encode(), "not-utf-8": b"caf\xe9\0", "long": b"ab" * 100}


@pytest.mark.parametrize("name", CONTENTS)
def test_a_prompt_from_a_file(name: str, path: Path, tmp_path: Path) -> None:
    """As it is, with the end of its last line."""
    (tmp_path / "prompt").write_bytes(CONTENTS[name])
    one = words(path, tmp_path / "run", "--prompt-file", str(tmp_path / "prompt"))
    assert main(one) == 0
    assert prompt_of(tmp_path / "run") == CONTENTS[name]


def test_a_prompt_from_standard_input(
    path: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    for content in CONTENTS.values():
        monkeypatch.setattr("sys.stdin", io.TextIOWrapper(io.BytesIO(content)))
        assert main(words(path, tmp_path / "run", "--prompt-file", "-")) == 0
        assert prompt_of(tmp_path / "run") == content


def test_a_prompt_from_a_pipe(path: Path, tmp_path: Path) -> None:
    pipe = tmp_path / "pipe"
    os.mkfifo(pipe)
    writer = threading.Thread(target=pipe.write_bytes, args=(b"from a pipe",))
    writer.start()
    assert main(words(path, tmp_path / "run", "--prompt-file", str(pipe))) == 0
    writer.join()
    assert prompt_of(tmp_path / "run") == b"from a pipe"


def test_a_prompt_that_is_no_file(
    path: Path, tmp_path: Path, capsys: Said, monkeypatch: pytest.MonkeyPatch
) -> None:
    for prompt, problem in (
        (tmp_path, "not a text: is a folder, must be a regular file"),
        (Path("/dev/zero"), "not a text: is a device, must be a regular file"),
        (tmp_path / "none", "no such file, must be a text"),
    ):
        one = words(path, tmp_path / "run", "--prompt-file", str(prompt))
        assert refused(one, capsys) == f"{prompt}: {problem}"
    monkeypatch.setattr("sys.stdin", None)
    one = words(path, tmp_path / "run", "--prompt-file", "-")
    assert refused(one, capsys) == "standard input: not a text: it is closed"
    assert not (tmp_path / "run").exists()


def test_a_prompt_that_is_too_long(
    path: Path, tmp_path: Path, capsys: Said, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(options, "LONGEST_PROMPT", 8)
    prompt = tmp_path / "prompt"
    one = words(path, tmp_path / "run", "--prompt-file", str(prompt))
    prompt.write_bytes(b"x" * 9)
    assert refused(one, capsys) == (
        f"{prompt}: not a text: it has more than 8 bytes, must have no more"
    )
    prompt.write_bytes(b"x" * 8)
    assert main(one) == 0


def test_one_prompt(path: Path, tmp_path: Path, capsys: Said) -> None:
    for prompts, problem in (
        ((), "one of the arguments --prompt --prompt-file --prompts is required"),
        (
            ("--prompt", "a", "--prompt-file", "b"),
            "argument --prompt-file: not allowed with argument --prompt",
        ),
    ):
        with pytest.raises(SystemExit) as end:
            main(words(path, tmp_path / "run", *prompts))
        assert end.value.code == 2
        assert capsys.readouterr().err == (
            f"mmfree-neuro simulate: {problem}; see mmfree-neuro simulate --help\n"
        )


def test_standard_input_reaches_one_rank_alone(path: Path, tmp_path: Path, capsys: Said) -> None:
    one = [*words(path, tmp_path / "run", "--prompt-file", "-"), "--engine", "mpi"]
    assert refused(one, capsys) == (
        "standard input reaches one rank of engine mpi alone, the prompt must be in a file"
    )


# Typing.


def at_a_terminal(*arguments: str) -> str:
    """What a command shows whose standard output and error are one terminal."""
    ours, theirs = pty.openpty()
    fcntl.ioctl(theirs, termios.TIOCSWINSZ, struct.pack("HHHH", 24, 80, 0, 0))
    process = subprocess.Popen(
        [sys.executable, "-m", "mmfree_neuro", *arguments],
        stdin=subprocess.DEVNULL,
        stdout=theirs,
        stderr=theirs,
        env=os.environ | {"PYTHONIOENCODING": "utf-8"},
    )
    os.close(theirs)
    found = b""
    try:
        while piece := os.read(ours, 4096):
            found += piece
    except OSError:  # the other end is closed
        pass
    os.close(ours)
    assert process.wait() == 0
    return found.decode().replace("\r\n", "\n")


@pytest.mark.parametrize(
    "engine", ["fast", "reference", pytest.param("lava", marks=pytest.mark.lava)]
)
def test_text_is_typed_at_a_terminal(engine: str, path: Path, tmp_path: Path) -> None:
    """The prompt once, then the text, no bar in between, and nothing that moves the cursor."""
    one = words(path, tmp_path / "run", "--prompt", "\x1b[31ma\x9b", new_tokens=30)
    shown = at_a_terminal(*one, "--engine", engine, "--temperature", "3", "--save-every", "0")
    run = run_file.load_run(tmp_path / "run")
    _, text, speed = shown.partition("\\x1b[31ma\\x9b")
    assert "generate" not in shown
    assert "\x1b[31m" not in shown
    escaped = "".join(
        c
        if c in "\n\t" or (c >= " " and c != "\x7f" and not "\x80" <= c <= "\x9f")
        else c.encode("unicode_escape").decode()
        for c in run.only.text
    )
    assert f"{text}{speed}".startswith(f"\\x1b[31ma\\x9b{escaped}\n\n{engine}: started in ")


def test_no_new_tokens_are_typed(path: Path, tmp_path: Path) -> None:
    one = words(path, tmp_path / "run", "--prompt", "abc", new_tokens=0)
    assert "abc\n\nfast: started in " in at_a_terminal(*one)


def test_json_is_not_typed(path: Path, tmp_path: Path) -> None:
    one = words(path, tmp_path / "run", "--prompt", "abc")
    assert '"ended": "length"' in at_a_terminal(*one, "--json")
    shown = at_a_terminal(*one, "--json").replace(str(tmp_path), "")
    assert shown.count("abc") == shown.count('"prompt": "abc"') == 1


def test_a_prompt_of_two_dashes(path: Path, tmp_path: Path) -> None:
    """It ends no list of options, for it is the value of one."""
    what = ["simulate", str(path), "--prompt=--", "--new-tokens", "1", "--engine", "fast"]
    assert main([*what, "-o", str(tmp_path / "run")]) == 0
    assert run_file.load_run(tmp_path / "run").only.prompt == "--"
