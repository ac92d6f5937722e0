"""A folder is there whole or not at all; what killed processes have left beside it goes, and what
those that live are writing stays."""

import errno
import fcntl
import os
import subprocess
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest

from mmfree_neuro.files.folders import whole_folder

WRITE = """
import os
import sys
from pathlib import Path

from mmfree_neuro.files import folders

rename = os.rename


def told(before, after):
    rename(before, after)
    print("renamed", flush=True)
    sys.stdin.read(int(sys.argv[2]))


os.rename = told
with folders.whole_folder(Path(sys.argv[1])) as scratch:
    (scratch / "half").touch()
    print(scratch.name, flush=True)
    sys.stdin.read(1)
"""


@pytest.fixture
def writer(
    tmp_path: Path, python: tuple[str, ...]
) -> Iterator[Callable[[Path, bool], "subprocess.Popen[str]"]]:
    """The function that starts a process which writes a folder until it is told to go on, and then,
    where it pauses, waits again once it has moved something."""
    started: list[subprocess.Popen[str]] = []

    def start(path: Path, pauses: bool) -> "subprocess.Popen[str]":
        process = subprocess.Popen(
            [*python, "-c", WRITE, str(path), str(int(pauses))],
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            text=True,
        )
        started.append(process)
        assert process.stdout is not None
        assert process.stdout.readline().startswith(f".{path.name}-")
        return process

    yield start
    for process in started:
        process.kill()
        process.communicate()


Writer = Callable[[Path, bool], "subprocess.Popen[str]"]


def written(path: Path) -> None:
    with whole_folder(path) as scratch:
        (scratch / "all").touch()


def test_what_a_killed_process_had_begun_goes(tmp_path: Path, writer: Writer) -> None:
    path, other = tmp_path / "image", tmp_path / "other"
    dead, alive, of_another = writer(path, False), writer(path, False), writer(other, False)
    for process in (dead, of_another):
        process.kill()
        process.wait()
    assert len(os.listdir(tmp_path)) == 3
    written(path)
    left = sorted(name.partition("-")[0] for name in os.listdir(tmp_path))
    assert left == [".image", ".other", "image"]
    alive.communicate("x")
    assert alive.returncode == 0
    assert os.listdir(path) == ["half"]
    written(other)
    assert sorted(os.listdir(tmp_path)) == ["image", "other"]


def test_a_process_that_was_killed_between_two_names(tmp_path: Path, writer: Writer) -> None:
    """The older folder stays until there is a new one."""
    path = tmp_path / "image"
    written(path)
    process = writer(path, True)
    assert process.stdin is not None and process.stdout is not None
    process.stdin.write("x")
    process.stdin.flush()
    assert process.stdout.readline() == "renamed\n"
    process.kill()
    process.wait()
    assert not path.exists()

    def failing() -> None:
        with whole_folder(path):
            raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        failing()
    (older,) = tmp_path.iterdir()
    assert os.listdir(older) == ["all"]
    written(path)
    assert os.listdir(tmp_path) == ["image"]


@pytest.mark.parametrize("where", ["open", "lock", "name"])
def test_a_new_folder_that_another_process_took_away(
    where: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Until it is locked, it looks as if it had been left."""
    turns = iter((True, False))
    opened, locked = os.open, fcntl.flock

    def taken(name: str) -> bool:
        return where == name and next(turns, False)

    def opening(path: Path, flags: int, *more: int) -> int:
        if taken("open"):
            os.rmdir(path)
        return opened(path, flags, *more)

    def locking(descriptor: int, operation: int) -> None:
        if taken("lock"):
            raise BlockingIOError
        if taken("name"):
            next(tmp_path.iterdir()).rmdir()
        locked(descriptor, operation)

    monkeypatch.setattr(os, "open", opening)
    monkeypatch.setattr(fcntl, "flock", locking)
    written(tmp_path / "image")
    monkeypatch.undo()
    assert os.listdir(tmp_path / "image") == ["all"]


def test_a_file_system_without_locks(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """There nobody can know what was left."""

    def lock(_descriptor: int, _operation: int) -> None:
        raise OSError(errno.ENOLCK, os.strerror(errno.ENOLCK))

    monkeypatch.setattr(fcntl, "flock", lock)
    (tmp_path / f".image-{'0' * 12}").mkdir()
    for _ in range(2):
        written(tmp_path / "image")
    assert sorted(os.listdir(tmp_path)) == [f".image-{'0' * 12}", "image"]


def test_only_what_has_such_a_name(tmp_path: Path) -> None:
    names = [".image-notes", f".image-{'0' * 11}g", f"image-{'0' * 12}"]
    for name in names:
        (tmp_path / name).mkdir()
    (tmp_path / f".image-{'1' * 12}").symlink_to(tmp_path / names[0])
    written(tmp_path / "image")
    assert sorted(os.listdir(tmp_path)) == sorted([*names, f".image-{'1' * 12}", "image"])
