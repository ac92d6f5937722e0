"""Runs a command of the command line in a forked child with limits of time and memory.

The parent has imported the package, so that a child begins at once; it must have one thread.
"""

import atexit
import os
import resource
import signal
import sys
import tempfile
import time
import traceback
from collections.abc import Sequence
from dataclasses import dataclass
from multiprocessing import shared_memory, util
from pathlib import Path

from mmfree_neuro.cli.main import main

MOST_BYTES = 1 << 30
"""What a child may allocate beyond what it was forked with."""
MOST_FILE_BYTES = 1 << 28
SCRATCH = "tmp"
"""The folder for temporary files, inside the one that a command runs in."""
MARK = "f{}_"
"""What the names of a child's shared memory begin with; a name has 14 characters in all."""
_POLL_S = 0.002


@dataclass(frozen=True)
class Ended:
    """How a command ended."""

    status: int | None
    """The exit status; None where the command was ended for its time, or by a signal."""
    signal: int
    """What ended it, 0 for nothing."""
    overdue: bool
    out: bytes
    err: bytes
    seconds: float
    grown_bytes: int
    """How far its memory went beyond what it was forked with."""
    left: tuple[str, ...]
    """Processes and shared memory that were there after its end."""


def _data_bytes() -> int:
    """The private memory of this process, as RLIMIT_DATA counts it."""
    lines = Path("/proc/self/status").read_text(encoding="ascii").splitlines()
    return next(int(line.split()[1]) << 10 for line in lines if line.startswith("VmData"))


def _resident_bytes() -> int:
    lines = Path("/proc/self/status").read_text(encoding="ascii").splitlines()
    return next(int(line.split()[1]) << 10 for line in lines if line.startswith("VmRSS"))


def _limit(seconds: float) -> None:
    for what, amount in (
        (resource.RLIMIT_DATA, _data_bytes() + MOST_BYTES),
        (resource.RLIMIT_FSIZE, MOST_FILE_BYTES),
        (resource.RLIMIT_CORE, 0),
        (resource.RLIMIT_CPU, int(seconds) + 1),
    ):
        resource.setrlimit(what, (amount, amount))


def _streams(out: Path, err: Path) -> None:
    """Standard input from nowhere, standard output and error into files, as the interpreter opens
    them."""
    for number, path in enumerate((Path(os.devnull), out, err)):
        new = os.open(path, os.O_WRONLY | os.O_CREAT | os.O_TRUNC if number else os.O_RDONLY, 0o600)
        os.dup2(new, number)
        os.close(new)
    sys.stdin = open(0, encoding="utf-8", closefd=False)  # noqa: SIM115
    sys.stdout = open(1, "w", encoding="utf-8", closefd=False)  # noqa: SIM115
    sys.stderr = open(  # noqa: SIM115
        2, "w", encoding="utf-8", errors="backslashreplace", buffering=1, closefd=False
    )


def _status(arguments: Sequence[str]) -> int:
    """What the interpreter would exit with."""
    try:
        status = main(arguments)
    except SystemExit as leaving:
        if isinstance(leaving.code, str):
            print(leaving.code, file=sys.stderr)
        status = leaving.code if isinstance(leaving.code, int) else int(leaving.code is not None)
    except BaseException:
        traceback.print_exc()
        status = 1
    try:
        util._exit_function()  # type: ignore[attr-defined]
        atexit._run_exitfuncs()
        sys.stdout.flush()
        sys.stderr.flush()
    except BaseException:
        traceback.print_exc()
        status = 120
    return status


def _be_child(arguments: Sequence[str], folder: Path, out: Path, err: Path, seconds: float) -> None:
    """All of the child's life."""
    status = 99
    try:
        os.setsid()
        signal.signal(signal.SIGINT, signal.default_int_handler)
        os.chdir(folder)
        os.environ["TMPDIR"], tempfile.tempdir = str(folder / SCRATCH), None
        os.environ["TORCHINDUCTOR_CACHE_DIR"] = str(out.parent / "torch")
        shared_memory._SHM_NAME_PREFIX = "/" + MARK.format(os.getpid())  # type: ignore[attr-defined]
        _streams(out, err)
        _limit(seconds)
        status = _status(arguments)
    except BaseException:
        traceback.print_exc()
    finally:
        os._exit(status)


def _wait(pid: int, seconds: float) -> tuple[int, int, bool]:
    """The wait status of a child, the most memory it had, and whether it had to be killed."""
    begin, overdue, pause = time.monotonic(), False, _POLL_S
    while True:
        ended, status, used = os.wait4(pid, os.WNOHANG)
        if ended:
            return status, used.ru_maxrss << 10, overdue
        if not overdue and time.monotonic() - begin > seconds:
            overdue = True
            os.killpg(pid, signal.SIGKILL)
        time.sleep(pause)
        pause = min(2 * pause, 0.02)


def _left(pid: int, patience_s: float = 2.0) -> tuple[str, ...]:
    """What a child left behind once it had ended; processes are ended."""
    begin = time.monotonic()
    while True:
        try:
            os.killpg(pid, 0)
        except ProcessLookupError:
            break
        if time.monotonic() - begin > patience_s:
            os.killpg(pid, signal.SIGKILL)
            return ("a process",)
        time.sleep(0.01)
    names = [name for name in os.listdir("/dev/shm") if name.startswith(MARK.format(pid))]
    for name in names:
        os.unlink(f"/dev/shm/{name}")
    return tuple(names)


def run(arguments: Sequence[str], folder: Path, log: Path, seconds: float) -> Ended:
    """Run one command in a folder; its output goes through files in another."""
    out, err = log / "out", log / "err"
    sys.stdout.flush()
    sys.stderr.flush()
    begin, before = time.monotonic(), _resident_bytes()
    pid = os.fork()
    if pid == 0:
        _be_child(arguments, folder, out, err, seconds)
    status, most, overdue = _wait(pid, seconds)
    ended = time.monotonic() - begin
    left = _left(pid) if not overdue else ()
    by_exit = os.WIFEXITED(status)
    return Ended(
        os.WEXITSTATUS(status) if by_exit else None,
        0 if by_exit else os.WTERMSIG(status),
        overdue or (not by_exit and os.WTERMSIG(status) == signal.SIGXCPU),
        out.read_bytes(),
        err.read_bytes(),
        ended,
        max(most - before, 0),
        left,
    )
