"""One process at a time writes into a folder; another one is told who does, and waits for
nothing."""

import errno
import fcntl
import os
import platform
import signal
import subprocess
import threading
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import NoReturn

import pytest

from mmfree_neuro.errors import InputError
from mmfree_neuro.files.lock import LOCK_FILE, check_unlocked, locked

Start = Callable[..., "subprocess.Popen[str]"]
HOLD = """
import sys
from pathlib import Path

from mmfree_neuro.files.lock import locked

with locked(Path(sys.argv[1])):
    print("locked", flush=True)
    sys.stdin.read()
"""


@pytest.fixture
def held(
    tmp_path: Path, python: tuple[str, ...]
) -> Iterator[Callable[[Path], "subprocess.Popen[str]"]]:
    """The function that starts a process which holds a folder until its input ends."""
    started: list[subprocess.Popen[str]] = []

    def hold(folder: Path) -> "subprocess.Popen[str]":
        process = subprocess.Popen(
            [*python, "-c", HOLD, str(folder)],
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            text=True,
        )
        started.append(process)
        assert process.stdout is not None
        assert process.stdout.readline() == "locked\n"
        return process

    yield hold
    for process in started:
        process.kill()
        process.communicate()


def message(folder: Path) -> str:
    """What is said of a folder that cannot be locked."""
    with pytest.raises(InputError) as error, locked(folder):
        pytest.fail("it was locked")
    return str(error.value)


def refusal(folder: Path, who: str) -> str:
    return f"{folder}: is being written to by {who}, must be another folder, or wait for its end"


def fails(number: int) -> Callable[..., NoReturn]:
    """What fails as an operating system does."""

    def fail(*_: object, **__: object) -> NoReturn:
        raise OSError(number, os.strerror(number))

    return fail


def test_a_folder_is_locked_and_free_again(tmp_path: Path) -> None:
    for folder in (tmp_path / "new" / "deep", tmp_path):
        for _ in range(2):
            with locked(folder):
                said = (folder / LOCK_FILE).read_text()
                assert said == f"process {os.getpid()} on {platform.node()}\n"
            assert not (folder / LOCK_FILE).exists()


def test_a_folder_that_was_made_goes_again_where_nothing_is_written(tmp_path: Path) -> None:
    with pytest.raises(KeyError), locked(tmp_path / "new" / "deep"):
        raise KeyError
    assert not list(tmp_path.iterdir())


def test_another_process_is_told_who(
    tmp_path: Path, held: Callable[[Path], "subprocess.Popen[str]"]
) -> None:
    process = held(tmp_path)
    said = refusal(tmp_path, f"process {process.pid} on {platform.node()}")
    (tmp_path / "link").symlink_to(".")
    assert message(tmp_path) == said
    assert message(tmp_path / "link") == said.replace(str(tmp_path), str(tmp_path / "link"), 1)
    with locked(tmp_path / "inside"):  # another folder
        pass
    process.communicate("")
    with locked(tmp_path):
        pass
    assert not (tmp_path / LOCK_FILE).exists()


def test_whoever_was_killed_holds_nothing(
    tmp_path: Path, held: Callable[[Path], "subprocess.Popen[str]"]
) -> None:
    process = held(tmp_path)
    process.kill()
    assert process.wait() == -signal.SIGKILL
    assert (tmp_path / LOCK_FILE).exists()
    with locked(tmp_path):
        pass
    assert not (tmp_path / LOCK_FILE).exists()


FORK = """
import os
import signal
import sys
from pathlib import Path

from mmfree_neuro.files.lock import locked

with locked(Path(sys.argv[1])):
    child = os.fork()
    if child == 0:
        sys.stdin.read()  # until the test is over
    else:
        print(child, flush=True)
        os.kill(os.getpid(), signal.SIGKILL)
"""


def test_children_hold_nothing(tmp_path: Path, python: tuple[str, ...]) -> None:
    """Those of an engine may outlive a killed run for a moment."""
    process = subprocess.Popen(
        [*python, "-c", FORK, str(tmp_path)], stdin=subprocess.PIPE, stdout=subprocess.PIPE
    )
    assert process.wait(timeout=60) == -signal.SIGKILL
    assert process.stdout is not None
    child = int(process.stdout.readline())
    try:
        os.kill(child, 0)
        with locked(tmp_path):
            pass
    finally:
        os.kill(child, signal.SIGKILL)
        process.communicate()


def test_another_run_of_one_process(tmp_path: Path) -> None:
    said: list[str] = []
    with locked(tmp_path):
        thread = threading.Thread(target=lambda: said.append(message(tmp_path / ".")))
        thread.start()
        thread.join()
        assert said == [refusal(tmp_path, "another run of this process")]
        assert (tmp_path / LOCK_FILE).exists()
    with locked(tmp_path):
        pass


@pytest.mark.parametrize(
    ("content", "who"),
    [(b"", "another process"), (b"process a\x1b[31m\xff\n", "process a\\x1b[31m\ufffd")],
)
def test_whoever_does_not_say_who_it_is(
    content: bytes, who: str, tmp_path: Path, held: Callable[[Path], "subprocess.Popen[str]"]
) -> None:
    held(tmp_path)
    (tmp_path / LOCK_FILE).write_bytes(content)
    assert message(tmp_path) == refusal(tmp_path, who)
    assert (tmp_path / LOCK_FILE).read_bytes() == content


def test_a_lock_file_that_was_taken_away_meanwhile(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Whoever held it took it away between opening and locking: then a new one is made."""
    lock, times = fcntl.lockf, []

    def late(descriptor: int, how: int) -> None:
        times.append(descriptor)
        if len(times) < 3:
            (tmp_path / LOCK_FILE).unlink()
        lock(descriptor, how)

    monkeypatch.setattr(fcntl, "lockf", late)
    with locked(tmp_path):
        assert (tmp_path / LOCK_FILE).exists()
    assert len(times) == 3


def test_the_lock_file_of_another_is_left_alone(tmp_path: Path) -> None:
    """Somebody took ours away, and another process made its own."""
    with locked(tmp_path):
        (tmp_path / LOCK_FILE).unlink()
        (tmp_path / LOCK_FILE).write_text("of another")
    assert (tmp_path / LOCK_FILE).read_text() == "of another"
    with locked(tmp_path / "new"):
        (tmp_path / "new" / LOCK_FILE).unlink()
    assert not list((tmp_path / "new").iterdir())


@pytest.mark.parametrize("step", ["write", "ftruncate"])
def test_a_disk_that_is_full(step: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Said at once, and nothing is left."""
    monkeypatch.setattr(os, step, fails(errno.ENOSPC))
    assert message(tmp_path) == f"{tmp_path}: cannot be written (No space left on device)"
    assert not list(tmp_path.iterdir())
    monkeypatch.undo()
    with locked(tmp_path):
        pass


@pytest.mark.parametrize("number", [errno.ENOLCK, errno.ENOSYS, errno.EOPNOTSUPP])
def test_a_file_system_without_locks(
    number: int, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Such as some of clusters: there a run goes on without one."""
    monkeypatch.setattr(fcntl, "lockf", fails(number))
    with locked(tmp_path):
        assert (tmp_path / LOCK_FILE).exists()
    assert not list(tmp_path.iterdir())


def test_a_lock_that_fails(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(fcntl, "lockf", fails(errno.EIO))
    before = set(os.listdir("/proc/self/fd"))
    assert message(tmp_path) == f"{tmp_path}: cannot be written (Input/output error)"
    assert set(os.listdir("/proc/self/fd")) == before


def test_a_lock_file_that_is_something_else(tmp_path: Path) -> None:
    """Neither waited for nor written through."""
    (tmp_path / "mine").write_text("kept")
    makers: dict[str, Callable[[Path], object]] = {
        "folder": Path.mkdir,
        "link": lambda path: path.symlink_to(tmp_path / "mine"),
        "pipe": os.mkfifo,
        "notes": lambda path: path.write_text("my notes"),
    }
    for name, make in makers.items():
        folder = tmp_path / name
        folder.mkdir()
        make(folder / LOCK_FILE)
        check_unlocked(folder)
        assert message(folder) == (
            f"{folder / LOCK_FILE}: is no lock of a run, must be moved out of the way"
        )
        assert os.path.lexists(folder / LOCK_FILE)
    assert (tmp_path / "mine").read_text() == "kept"
    assert (tmp_path / "notes" / LOCK_FILE).read_text() == "my notes"


def test_who_writes_is_told_without_waiting(
    tmp_path: Path, held: Callable[[Path], "subprocess.Popen[str]"]
) -> None:
    check_unlocked(tmp_path)
    with locked(tmp_path):
        check_unlocked(tmp_path)
        assert message(tmp_path) == refusal(tmp_path, "another run of this process")
    holder = held(tmp_path)
    with pytest.raises(InputError) as error:
        check_unlocked(tmp_path)
    assert str(error.value).startswith(
        f"{tmp_path}: is being written to by process {holder.pid} on "
    )


def test_where_nothing_can_be_written(tmp_path: Path) -> None:
    (tmp_path / "file").write_text("")
    folder = tmp_path / "file" / "run"
    assert message(folder) == (
        f"{folder}: cannot be written, since {tmp_path / 'file'} is no folder that can be written "
        "to"
    )
