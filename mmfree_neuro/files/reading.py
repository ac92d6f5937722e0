"""The way in: a file from outside is read inside one frame, so that whatever is wrong with it
becomes one line."""

import json
import os
import stat
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import IO, Any, NoReturn

from mmfree_neuro.errors import MMFreeError, shown

LARGEST_JSON = 1 << 30
"""Bytes of the largest JSON file that is read; a mapping of a 2.7B model has a hundredth."""


class Misfit(Exception):
    """What a file holds is not what it must be; the message says where, and what it must be."""


@contextmanager
def named(path: Path, *errors: type[MMFreeError]) -> Iterator[None]:
    """The same errors, whose messages begin with the path, or with that of a file in its folder."""
    try:
        yield
    except errors as problem:
        if str(problem).startswith((str(MMFreeError(f"{path}:")), str(MMFreeError(f"{path}/")))):
            raise
        raise type(problem)(f"{path}: {problem}") from problem


@contextmanager
def reading(path: Path, error: type[MMFreeError], what: str) -> Iterator[None]:
    """Whatever goes wrong inside, where a file from outside is read, as one line of `error`.

    `what` says what the file must be, such as "a mapping file".  A file is not trusted, so every
    exception inside is taken for the file's fault, panics of compiled libraries among them.
    """
    try:
        with named(path, MMFreeError):
            yield
    except MMFreeError:
        raise
    except Misfit as problem:
        raise error(f"{path}: not {what}: {problem}") from problem
    except FileNotFoundError as problem:
        raise error(f"{path}: no such file, must be {what}") from problem
    except OSError as problem:
        raise error(f"{path}: not readable as {what} ({problem.strerror or problem})") from problem
    except MemoryError as problem:
        raise error(f"{path}: asks for more memory than there is, must be {what}") from problem
    except RecursionError as problem:
        raise error(f"{path}: nested too deep, must be {what}") from problem
    except BaseException as problem:
        # A panic of a Rust library is no Exception.
        if not isinstance(problem, Exception) and type(problem).__name__ != "PanicException":
            raise
        raise error(f"{path}: not {what}, or damaged ({shown(str(problem))})") from problem


@contextmanager
def opened(path: Path, *, pipes: bool = False) -> Iterator[IO[bytes]]:
    """An existing regular file to read from: nothing that would wait, or never end.

    With `pipes` a pipe may stand in its place.
    """
    waiting = 0 if pipes else os.O_NONBLOCK
    descriptor = os.open(path, os.O_RDONLY | os.O_CLOEXEC | os.O_NOCTTY | waiting)
    try:
        mode = os.fstat(descriptor).st_mode
        if not stat.S_ISREG(mode) and not (pipes and stat.S_ISFIFO(mode)):
            raise Misfit(f"is {_kind(mode)}, must be a regular file")
        with open(descriptor, "rb", closefd=False) as file:
            yield file
    finally:
        os.close(descriptor)


def _kind(mode: int) -> str:
    """What a path is that is no regular file."""
    kinds: dict[str, Callable[[int], bool]] = {"a folder": stat.S_ISDIR, "a pipe": stat.S_ISFIFO}
    return next((name for name, is_that in kinds.items() if is_that(mode)), "a device")


def read_bytes(
    path: Path, error: type[MMFreeError], what: str, *, most: int = LARGEST_JSON
) -> bytes:
    """The content of a regular file of at most `most` bytes."""
    with reading(path, error, what), opened(path) as file:
        size = os.fstat(file.fileno()).st_size
        # Some files of the system say that they are empty, and a file may grow meanwhile.
        content = b"" if size > most else file.read(size)
        while size <= most and (more := file.read(_PIECE)):
            content += more
            size = len(content)
        if size > most:
            raise Misfit(f"has {size} bytes, must have at most {most}")
        return content


_PIECE = 1 << 16
"""Bytes that are read at once beyond what a file is said to have."""


def parsed_json(content: bytes | str) -> Any:
    """The value of a JSON text; ValueError or RecursionError where it is none, as for the numbers
    that JSON does not have."""
    return json.loads(content, parse_constant=_no_number)


def _no_number(name: str) -> NoReturn:
    raise Misfit(f"{name} is no number of JSON, must be finite")


def read_json(path: Path, error: type[MMFreeError], what: str) -> dict[str, Any]:
    """The object in a JSON file."""
    content = read_bytes(path, error, what)
    with reading(path, error, what):
        value = parsed_json(content)
        if not isinstance(value, dict):
            raise Misfit(f"holds {shown(value)}, must hold an object")
        return value
