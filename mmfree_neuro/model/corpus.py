"""Text to train and to measure on: bytes of any file, or the sources of a folder split by module.

`stdlib` names the running Python's own library, so real text exists on every machine.  A module is
held out when the SHA-256 of its path inside the folder falls in the last twentieth: the split
depends on names alone, so a module held out under one Python is held out under every other.
"""

import hashlib
import os
import sysconfig
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from mmfree_neuro.errors import InputError
from mmfree_neuro.files.reading import read_bytes

SEPARATOR = b"\0"
"""Stands before every module: what the model sees at the start of a text."""
HELD_OUT_ONE_IN = 20
A_TEXT = "a text file"
MOST_BYTES = 1 << 36
"""Bytes of the largest text."""
_NOT_LIBRARY = {"site-packages", "dist-packages", "__pycache__"}


@dataclass(frozen=True)
class Corpus:
    """Training and held-out bytes, uint8 [n] each."""

    train: NDArray[np.uint8]
    held_out: NDArray[np.uint8]
    description: str


def is_held_out(module: str) -> bool:
    """Whether a module, named by its path inside the folder with forward slashes, is kept from
    training."""
    return (
        int.from_bytes(hashlib.sha256(os.fsencode(module)).digest()[:8], "big") % HELD_OUT_ONE_IN
        == 0
    )


def _join(texts: list[bytes]) -> NDArray[np.uint8]:
    return np.frombuffer(b"".join(SEPARATOR + text for text in texts), np.uint8)


def from_folder(folder: Path, description: str) -> Corpus:
    """The Python sources below a folder, in the order of their names, split by module."""
    sides: dict[bool, list[bytes]] = {False: [], True: []}
    for path in sorted(folder.rglob("*.py"), key=lambda p: p.relative_to(folder).as_posix()):
        relative = path.relative_to(folder)
        if path.is_file() and not _NOT_LIBRARY & set(relative.parts):
            sides[is_held_out(relative.as_posix())].append(
                read_bytes(path, InputError, A_TEXT, most=MOST_BYTES)
            )
    if not sides[False] or not sides[True]:
        raise InputError(f"{folder}: too few Python sources to train on some and hold out others")
    return Corpus(_join(sides[False]), _join(sides[True]), description)


def from_file(path: Path) -> Corpus:
    """The bytes of one file; its last twentieth is held out."""
    text = np.frombuffer(read_bytes(path, InputError, A_TEXT, most=MOST_BYTES), np.uint8)
    if text.size < 2 * HELD_OUT_ONE_IN:
        raise InputError(f"{path}: {text.size} bytes, must have at least {2 * HELD_OUT_ONE_IN}")
    cut = text.size - text.size // HELD_OUT_ONE_IN
    return Corpus(text[:cut], text[cut:], path.name)


def from_texts(texts: Sequence[str]) -> Corpus:
    """The bytes of some texts, one after another; the last twentieth is held out."""
    joined = _join([text.encode(errors="surrogateescape") for text in texts])
    if joined.size < 2 * HELD_OUT_ONE_IN:
        raise InputError(
            f"the texts have {joined.size} bytes, must have at least {2 * HELD_OUT_ONE_IN}"
        )
    cut = joined.size - joined.size // HELD_OUT_ONE_IN
    return Corpus(joined[:cut], joined[cut:], f"{len(texts)} texts")


def files_of(name: str) -> list[Path]:
    """The files that a corpus of that name is read from."""
    path = Path(name)
    return [*path.rglob("*.py")] if os.path.isdir(path) else [path]


def load(name: str) -> Corpus:
    """The corpus that a name stands for: `stdlib`, a folder of Python sources, or a text file."""
    if name == "stdlib":
        version = sysconfig.get_python_version()
        return from_folder(
            Path(sysconfig.get_paths()["stdlib"]), f"the standard library of Python {version}"
        )
    path = Path(name)
    return (
        from_folder(path, f"the Python sources of {path.name}")
        if os.path.isdir(path)
        else from_file(path)
    )


def windows(text: NDArray[np.uint8], length: int, count: int) -> NDArray[np.int64]:
    """`count` windows of `length` + 1 bytes, spread evenly over a text: inputs and their next bytes
    [count, length + 1].

    Consecutive where the text is short; fewer than `count` where it does not hold as many.
    """
    count = min(count, (text.size - 1) // length)
    if count < 1:
        raise InputError(
            f"the held-out text has {text.size} bytes, must have more than one window of {length}"
        )
    starts = np.linspace(0, text.size - 1 - length, count).astype(np.int64)
    return text[starts[:, None] + np.arange(length + 1)].astype(np.int64)
