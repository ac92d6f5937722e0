"""The way out for a folder: it is written whole or not at all, and what killed processes have left
beside it goes."""

import fcntl
import os
import re
import secrets
import shutil
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from pathlib import Path

from mmfree_neuro.files.writing import check_folder, made_folder, written

_LONGEST_NAME = 100
"""How many bytes of a folder's name its temporary name repeats; file systems allow 255."""


@contextmanager
def whole_folder(path: Path) -> Iterator[Path]:
    """A temporary folder beside `path`, which takes its place when the block ends well and vanishes
    when it does not.

    It is locked as long as it is written, and the kernel takes the lock back when the process ends
    in whatever way.  So what a killed process has left for the same `path` is known, and is taken
    away: what it had begun at once, an older folder that it was replacing once there is a new one.
    """
    check_folder(path, path.parent)
    with written(path), made_folder(path.parent):
        target = Path(os.path.realpath(path))
        _sweep(target, "")
        scratch, descriptor = _new(target)
        try:
            yield scratch
            _take_place(scratch, target)
            _sweep(target, _OLDER)
        finally:
            shutil.rmtree(scratch, ignore_errors=True)
            os.close(descriptor)


_OLDER = "-older"
"""How the name of a folder ends that is being replaced."""
_OPEN = os.O_RDONLY | os.O_DIRECTORY | os.O_NOFOLLOW | os.O_CLOEXEC


def _begin(target: Path) -> str:
    """How the names of temporary folders beside a folder begin."""
    return f".{target.name.encode(errors='ignore')[:_LONGEST_NAME].decode(errors='ignore')}-"


def _lock(descriptor: int) -> None:
    """Lock an open folder; BlockingIOError where another one has it locked."""
    fcntl.flock(descriptor, fcntl.LOCK_EX | fcntl.LOCK_NB)


def _new(target: Path) -> tuple[Path, int]:
    """A new folder beside another one, and the descriptor by which it is locked."""
    while True:
        scratch = target.with_name(f"{_begin(target)}{secrets.token_hex(6)}")
        scratch.mkdir()
        descriptor = _locked(scratch)
        if descriptor is not None:
            return scratch, descriptor


def _locked(scratch: Path) -> int | None:
    """The descriptor by which a new folder is locked; None where another process took it for one
    that was left, which it can until it is locked."""
    try:
        descriptor = os.open(scratch, _OPEN)
    except FileNotFoundError:
        return None
    try:
        _lock(descriptor)
        mine = scratch.exists()
    except BlockingIOError:
        mine = False
    except OSError:  # a file system without locks, where nothing is taken away either
        mine = True
    if mine:
        return descriptor
    os.close(descriptor)
    return None


def _take_place(scratch: Path, target: Path) -> None:
    """Rename a folder to that of an older one, which goes; or it stays where that fails."""
    if not target.exists():
        os.rename(scratch, target)
        return
    older = scratch.with_name(f"{scratch.name}{_OLDER}")
    shutil.copymode(target, scratch)
    with _opened(target) as descriptor:
        with suppress(OSError):  # where there are no locks, nothing is taken away either
            _lock(descriptor)
        os.rename(target, older)
        try:
            os.rename(scratch, target)
        except BaseException:
            os.rename(older, target)
            raise
        finally:
            shutil.rmtree(older, ignore_errors=True)


def _sweep(target: Path, ending: str) -> None:
    """Take away what killed processes have left beside a folder: what nobody has locked."""
    left = re.compile(f"{re.escape(_begin(target))}[0-9a-f]{{12}}{ending}")
    with suppress(OSError):  # as where the folder above cannot be listed
        for path in target.parent.iterdir():
            if left.fullmatch(path.name):
                with suppress(OSError), _opened(path) as descriptor:
                    _lock(descriptor)
                    shutil.rmtree(path, ignore_errors=True)


@contextmanager
def _opened(folder: Path) -> Iterator[int]:
    """The descriptor of a folder."""
    descriptor = os.open(folder, _OPEN)
    try:
        yield descriptor
    finally:
        os.close(descriptor)
