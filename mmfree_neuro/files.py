"""Files on the way out: each is written whole or not at all."""

import json
import os
import tempfile
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import IO, Any

import numpy as np
from numpy.typing import NDArray

from mmfree_neuro.errors import InputError, MMFreeError


@contextmanager
def whole_file(path: Path) -> Iterator[Path]:
    """A temporary name beside `path`, which takes its place when the block ends well and vanishes
    when it does not."""
    if path.is_dir():
        raise InputError(f"{path}: is a folder, must be a file to write")
    with written(path):
        path.parent.mkdir(parents=True, exist_ok=True)
        handle, scratch = tempfile.mkstemp(dir=path.parent, prefix=f".{path.name}-")
        os.close(handle)
        try:
            yield Path(scratch)
            os.chmod(scratch, 0o644)
            os.replace(scratch, path)
        finally:
            Path(scratch).unlink(missing_ok=True)


def save_array(path: Path, array: NDArray[Any]) -> None:
    """Write an `.npy` file."""
    with whole_file(path) as scratch, scratch.open("wb") as file:
        np.save(_Stream(file), array, allow_pickle=False)


class _Stream:
    """A file of which NumPy sees `write` alone: what it writes to others fails without saying
    why."""

    def __init__(self, file: IO[bytes]) -> None:
        self.write = file.write


@contextmanager
def written(path: Path) -> Iterator[None]:
    """InputError where the operating system refuses to write, be it that the disk is full."""
    try:
        yield
    except OSError as error:
        raise InputError(f"{path}: cannot be written ({error.strerror or error})") from None


def read_bytes(path: Path, error: type[MMFreeError]) -> bytes:
    try:
        return path.read_bytes()
    except OSError as problem:
        raise error(f"{path}: not readable ({problem.strerror})") from None


def read_json(path: Path, format_: str, error: type[MMFreeError], what: str) -> dict[str, Any]:
    try:
        content = json.loads(read_bytes(path, error))
    except ValueError:
        raise error(f"{path}: not {what}, or cut short") from None
    if not isinstance(content, dict) or content.get("format") != format_:
        raise error(f"{path}: not {what} of this version ({format_})")
    return content
