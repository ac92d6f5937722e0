"""The way out: a file is written whole or not at all, and only where it can and may be."""

import errno
import os
import re
import secrets
import stat
from collections.abc import Callable, Iterable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import IO, Any

import numpy as np
from numpy.typing import NDArray

from mmfree_neuro.errors import InputError, RunFailed, shown

_LONGEST_NAME = 100
"""How many bytes of a file's name its temporary name repeats; file systems allow 255."""


@contextmanager
def written(path: Path) -> Iterator[None]:
    """InputError where the operating system refuses to write, be it that the disk is full."""
    try:
        yield
    except OSError as error:
        raise InputError(f"{path}: cannot be written ({error.strerror or error})") from None


def check_outputs(outputs: Iterable[Path | None], inputs: Iterable[Path | None] = ()) -> None:
    """InputError, before the work, where a command cannot write its files.

    Each must be a new or a regular file in a folder that can be written to, none of the `inputs`
    that the command reads, and another one than each other output.  None stands for no file.
    """
    chosen = [path for path in outputs if path is not None]
    for path in chosen:
        _check_output(path)
    who = [_identity(path) for path in chosen]
    read = {_identity(path) for path in inputs if path is not None} if who else set()
    for number, path in enumerate(chosen):
        if who[number] in read:
            raise InputError(f"{path}: is read by this command, must be another file to write")
        if who[number] in who[:number]:
            raise InputError(f"{path}: would be written twice, must be a file of its own")


def _identity(path: Path) -> tuple[int, int] | str:
    """What two paths that lead to one file have in common, whether it exists or not."""
    try:
        status = os.stat(path)
    except OSError:
        return os.path.realpath(path)
    except ValueError:  # no file can have this name
        return str(path)
    return status.st_dev, status.st_ino


def _check_output(path: Path) -> Path:
    """The file that a path leads to; InputError where it cannot be written."""
    _check_name(path)
    with written(path):
        target = Path(os.path.realpath(path))
        mode = os.stat(target).st_mode if target.exists() else None
        if mode is not None and not stat.S_ISREG(mode):
            kind = "a folder" if stat.S_ISDIR(mode) else "no regular file"
            raise InputError(f"{path}: is {kind}, must be a file to write")
        if target.is_symlink():
            raise InputError(f"{path}: is a link that leads in a circle, must be a file to write")
        if mode is not None and not os.access(target, os.W_OK):
            raise InputError(f"{path}: is protected, must be a file that may be written to")
        if str(target) in mount_points():
            raise InputError(f"{path}: is mounted by itself, must be a file in a folder")
    check_folder(path, target.parent)
    return target


def _check_name(path: Path) -> None:
    """InputError where no file can have such a name."""
    try:
        whole = b"\0" not in os.fsencode(path)
    except UnicodeEncodeError:
        whole = False
    if not whole:
        raise InputError(
            f"{shown(str(path))}: is no name of a file, must not hold a NUL or half a character"
        )


def check_folder(path: Path, folder: Path) -> None:
    """InputError where what is to be written to `path` cannot be, for `folder` is no folder to
    write to, and cannot be made."""
    _check_name(folder)
    with written(path):
        above = folder
        while not above.exists() and above.parent != above:
            above = above.parent
        if not above.is_dir() or not os.access(above, os.W_OK | os.X_OK):
            raise InputError(
                f"{path}: cannot be written, since {above} is no folder that can be written to"
            )


def mount_points() -> frozenset[str]:
    """The paths that something is mounted on; none where the system does not say."""
    try:
        lines = Path("/proc/self/mountinfo").read_bytes().splitlines()
    except OSError:
        return frozenset()
    # A space in a path is written as \040, its number in octal.
    return frozenset(
        os.fsdecode(
            re.sub(rb"\\([0-7]{3})", lambda found: bytes([int(found[1], 8)]), line.split(b" ")[4])
        )
        for line in lines
    )


@contextmanager
def made_folder(folder: Path) -> Iterator[None]:
    """A folder, made with those above it where it is missing; those that were made go again where
    the block fails and leaves them empty."""
    made = []
    with written(folder):
        above = folder = Path(os.path.realpath(folder))  # a link may lead to what is not there yet
        while not above.exists():
            made.append(above)
            above = above.parent
        folder.mkdir(parents=True, exist_ok=True)
    try:
        yield
    except BaseException:
        for one in made:
            try:
                one.rmdir()
            except OSError:
                break
        raise


@contextmanager
def keeping(show: Callable[[bool], None]) -> Iterator[None]:
    """Writes the result of work inside: `show` is called in any case, and told whether the result
    could be kept; RunFailed where it could not."""
    kept = False
    try:
        yield
        kept = True
    except InputError as error:
        raise RunFailed(str(error)) from None
    finally:
        show(kept)


@contextmanager
def whole_file(path: Path, *, durable: bool = False) -> Iterator[Path]:
    """A temporary name beside the file of `path`, which takes its place when the block ends well
    and vanishes when it does not.

    Links are followed.  A new file has the mode that the umask leaves, an older one keeps its own.
    With `durable` the content is on the disk before it takes the place of an older one.
    """
    target = _check_output(path)
    with written(path), made_folder(target.parent):
        begin = target.name.encode(errors="ignore")[:_LONGEST_NAME].decode(errors="ignore")
        scratch = target.parent / f".{begin}-{secrets.token_hex(6)}"
        os.close(os.open(scratch, os.O_CREAT | os.O_EXCL | os.O_WRONLY | os.O_CLOEXEC, 0o666))
        try:
            yield scratch
            # Where all files have one mode, as on a memory stick, none can be changed.
            if target.exists() and target.stat().st_mode != scratch.stat().st_mode:
                scratch.chmod(stat.S_IMODE(target.stat().st_mode))
            if durable:
                _to_disk(scratch)
            os.replace(scratch, target)
            if durable:
                _to_disk(target.parent)
        finally:
            scratch.unlink(missing_ok=True)


def _to_disk(path: Path) -> None:
    """Wait until a file, or the names in a folder, are on the disk."""
    descriptor = os.open(path, os.O_RDONLY | os.O_CLOEXEC)
    try:
        os.fsync(descriptor)
    except OSError as error:
        if error.errno != errno.EINVAL:  # a file system that cannot do this for folders
            raise
    finally:
        os.close(descriptor)


def save_text(path: Path, text: str, *, durable: bool = False) -> None:
    """Write a text as UTF-8; what has no UTF-8, such as half of a surrogate pair, becomes its
    escape."""
    with whole_file(path, durable=durable) as scratch:
        scratch.write_text(text, encoding="utf-8", errors="backslashreplace")


def save_array(path: Path, array: NDArray[Any]) -> None:
    """Write an `.npy` file."""
    with whole_file(path) as scratch, scratch.open("wb") as file:
        np.save(_Stream(file), array, allow_pickle=False)


class _Stream:
    """A file of which NumPy sees `write` alone: what it writes to others fails without saying
    why."""

    def __init__(self, file: IO[bytes]) -> None:
        self.write = file.write
