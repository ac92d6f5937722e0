"""Who is writing into a folder: one process at a time, and another one is told who."""

import errno
import fcntl
import os
import platform
import stat
import threading
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from pathlib import Path

from mmfree_neuro.errors import InputError
from mmfree_neuro.files.writing import check_folder, made_folder, written

LOCK_FILE = ".writing"
_WITHOUT_LOCKS = {errno.ENOLCK, errno.ENOSYS, errno.EOPNOTSUPP}
"""What a file system says that has no locks: there runs go on without them."""

_held: set[str] = set()
"""The folders that this process writes into; the kernel's locks do not tell its threads apart."""
_holding = threading.Lock()


@contextmanager
def locked(folder: Path) -> Iterator[None]:
    """The right to write into a folder, which is made where it is missing.

    Raises InputError where another run has it.  The kernel takes the lock back when its process
    ends in whatever way, so a file that is left behind locks nothing.
    """
    check_folder(folder, folder)
    name = os.path.realpath(folder)
    with made_folder(folder):
        with _holding:
            if name in _held:
                raise InputError(_refusal(folder, "another run of this process"))
            with written(folder):
                descriptor = _acquire(folder, Path(name) / LOCK_FILE)
            _held.add(name)
        try:
            yield
        finally:
            with _holding:
                _release(descriptor, Path(name) / LOCK_FILE)
                _held.discard(name)


def check_unlocked(folder: Path) -> None:
    """InputError where another process is writing into a folder; looking takes no lock, which
    could refuse a run that begins at that moment."""
    name = os.path.realpath(folder)
    with _holding:
        if name in _held:
            return  # to close its file once more would give the lock back
        try:
            descriptor = os.open(Path(name) / LOCK_FILE, _OPEN)
        except OSError:
            return
        try:
            os.lockf(descriptor, os.F_TEST, 0)
        except (BlockingIOError, PermissionError):
            raise InputError(_refusal(folder, _writer(descriptor))) from None
        except OSError:
            pass  # a file without locks, of which `locked` says what there is to say
        finally:
            os.close(descriptor)


def _writer(descriptor: int) -> str:
    """Who has the lock of an open file, as far as it says so."""
    return os.read(descriptor, 200).decode(errors="replace").strip() or "another process"


_OPEN = os.O_RDWR | os.O_CLOEXEC | os.O_NOFOLLOW | os.O_NONBLOCK


def _lock(folder: Path, descriptor: int) -> None:
    """Take the lock of an open file, where the file system has locks."""
    try:
        # Record locks, unlike those of flock, are not inherited by the processes of an engine,
        # which may outlive a killed run for a moment.
        fcntl.lockf(descriptor, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except BlockingIOError:
        raise InputError(_refusal(folder, _writer(descriptor))) from None
    except OSError as error:
        if error.errno not in _WITHOUT_LOCKS:
            raise


def _is_ours(path: Path) -> bool:
    """Whether a lock file is of this project, or there is none."""
    try:
        descriptor = os.open(path, _OPEN)
    except FileNotFoundError:
        return True
    except OSError:
        return False
    try:
        if not stat.S_ISREG(os.fstat(descriptor).st_mode):
            return False
        begin = os.read(descriptor, len(BEGIN))
        return begin == BEGIN[: len(begin)]
    finally:
        os.close(descriptor)


BEGIN = b"process "
"""How a lock file begins; one whose process was killed at once may be empty."""


def _release(descriptor: int, path: Path) -> None:
    """Take the lock file away, unless it is by now that of another process, and give the lock
    back."""
    with suppress(OSError):
        if _lies_at(descriptor, path):
            os.unlink(path)
    os.close(descriptor)


def _lies_at(descriptor: int, path: Path) -> bool:
    """Whether an open file still has its name."""
    try:
        return os.path.samestat(os.fstat(descriptor), os.stat(path, follow_symlinks=False))
    except FileNotFoundError:
        return False


def _acquire(folder: Path, path: Path) -> int:
    """The descriptor of the lock file, locked."""
    if not _is_ours(path):
        raise InputError(f"{path}: is no lock of a run, must be moved out of the way")
    while True:
        descriptor = os.open(path, _OPEN | os.O_CREAT, 0o666)
        try:
            _lock(folder, descriptor)
        except BaseException:
            os.close(descriptor)
            raise
        try:
            # Whoever held it last may have taken the file away since it was opened.
            if _lies_at(descriptor, path):
                os.ftruncate(descriptor, 0)
                os.write(descriptor, BEGIN + f"{os.getpid()} on {platform.node()}\n".encode())
                return descriptor
        except OSError:
            _release(descriptor, path)
            raise
        os.close(descriptor)


def _refusal(folder: Path, who: str) -> str:
    return f"{folder}: is being written to by {who}, must be another folder, or wait for its end"
