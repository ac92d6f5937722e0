"""Text to train and to measure on: any file, or the sources of a folder split by file.

`stdlib` names the running Python's own library, so real text exists on every machine; `packages`
is that and the sources and documentation of all installed packages.  A file is held out when the
SHA-256 of its path inside the folder falls in the last twentieth: the split depends on names alone,
so a module held out under one Python is held out under every other.
"""

import hashlib
import os
import site
import sysconfig
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, NamedTuple

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
_SOURCES = (".py",)
_OF_PACKAGES = (
    *(".py", ".pyi", ".c", ".cc", ".cpp", ".cu", ".cuh", ".h", ".hpp"),
    *(".md", ".rst", ".txt", "METADATA"),
)
MOST_OF_A_FILE = 1 << 20
"""Larger files of packages are data rather than text."""
_PIECE_BYTES = 1 << 18
"""A file alone becomes documents of about so many bytes."""


@dataclass(frozen=True)
class Texts:
    """Documents to train on, and documents that are held out."""

    train: list[bytes]
    held_out: list[bytes]
    description: str


@dataclass(frozen=True)
class Corpus:
    """Training and held-out tokens, [n] each: uint8 where they are bytes."""

    train: NDArray[np.uint8] | NDArray[np.int32]
    held_out: NDArray[np.uint8] | NDArray[np.int32]
    description: str
    held_out_bytes: int
    """How many bytes of text the held-out tokens stand for."""


def is_held_out(module: str) -> bool:
    """Whether a module, named by its path inside the folder with forward slashes, is kept from
    training."""
    return (
        int.from_bytes(hashlib.sha256(os.fsencode(module)).digest()[:8], "big") % HELD_OUT_ONE_IN
        == 0
    )


def _join(texts: list[bytes]) -> NDArray[np.uint8]:
    return np.frombuffer(b"".join(SEPARATOR + text for text in texts), np.uint8)


def of_bytes(train: NDArray[np.uint8], held_out: NDArray[np.uint8], description: str) -> Corpus:
    """A corpus whose tokens are bytes."""
    return Corpus(train, held_out, description, held_out.size)


def from_folder(folder: Path, description: str) -> Corpus:
    """The Python sources below a folder, in the order of their names, split by module."""
    texts = _of_folder(folder, description)
    return of_bytes(_join(texts.train), _join(texts.held_out), description)


def _of_folder(folder: Path, description: str) -> Texts:
    texts = ((path.name_in, path.read()) for path in _files([folder], _SOURCES))
    return _split(texts, folder, description)


def _split(texts: Iterable[tuple[str, bytes]], folder: Path, description: str) -> Texts:
    """Named texts on two sides; InputError where one of them is empty."""
    sides: dict[bool, list[bytes]] = {False: [], True: []}
    for name, text in texts:
        sides[is_held_out(name)].append(text)
    if not sides[False] or not sides[True]:
        raise InputError(f"{folder}: too few Python sources to train on some and hold out others")
    return Texts(sides[False], sides[True], description)


class _File(NamedTuple):
    path: Path
    name_in: str
    """Its path inside the folder, with forward slashes."""

    def read(self) -> bytes:
        return read_bytes(self.path, InputError, A_TEXT, most=MOST_BYTES)


def _files(folders: Sequence[Path], endings: tuple[str, ...]) -> Iterator[_File]:
    """The files below some folders that end so, in the order of their names in each."""
    for folder in folders:
        paths = (path for path in folder.rglob("*") if path.name.endswith(endings))
        named = sorted((path.relative_to(folder).as_posix(), path) for path in paths)
        for name, path in named:
            if path.is_file() and not _NOT_LIBRARY & set(path.relative_to(folder).parts):
                yield _File(path, name)


def from_file(path: Path) -> Corpus:
    """The bytes of one file; its last twentieth is held out."""
    return of_bytes(*_halves(path), path.name)


def _halves(path: Path) -> tuple[NDArray[np.uint8], NDArray[np.uint8]]:
    text = np.frombuffer(read_bytes(path, InputError, A_TEXT, most=MOST_BYTES), np.uint8)
    if text.size < 2 * HELD_OUT_ONE_IN:
        raise InputError(f"{path}: {text.size} bytes, must have at least {2 * HELD_OUT_ONE_IN}")
    cut = text.size - text.size // HELD_OUT_ONE_IN
    return text[:cut], text[cut:]


def _pieces(text: bytes) -> list[bytes]:
    """A text cut behind ends of lines."""
    found, at = [], 0
    while at < len(text):
        end = text.find(b"\n", at + _PIECE_BYTES) + 1 or len(text)
        found.append(text[at:end])
        at = end
    return found


def from_texts(texts: Sequence[str]) -> Corpus:
    """The bytes of some texts, one after another; the last twentieth is held out."""
    joined = _join([text.encode(errors="surrogateescape") for text in texts])
    if joined.size < 2 * HELD_OUT_ONE_IN:
        raise InputError(
            f"the texts have {joined.size} bytes, must have at least {2 * HELD_OUT_ONE_IN}"
        )
    cut = joined.size - joined.size // HELD_OUT_ONE_IN
    return of_bytes(joined[:cut], joined[cut:], f"{len(texts)} texts")


def files_of(name: str) -> list[Path]:
    """The files that a corpus of that name is read from."""
    path = Path(name)
    return [*path.rglob("*.py")] if os.path.isdir(path) else [path]


def load(name: str) -> Corpus:
    """The corpus of bytes that a name stands for: `stdlib`, `packages`, a folder of Python sources,
    or a text file."""
    path = Path(name)
    if name not in _NAMED and not os.path.isdir(path):
        return from_file(path)
    texts = load_texts(name)
    return of_bytes(_join(texts.train), _join(texts.held_out), texts.description)


def load_texts(name: str) -> Texts:
    """The documents of the corpus that a name stands for, as `load` reads it; a text file becomes
    documents of some 256 KiB."""
    if name in _NAMED:
        return _NAMED[name]()
    path = Path(name)
    if os.path.isdir(path):
        return _of_folder(path, f"the Python sources of {path.name}")
    train, held_out = _halves(path)
    return Texts(_pieces(train.tobytes()), _pieces(held_out.tobytes()), path.name)


def _library() -> Texts:
    version = sysconfig.get_python_version()
    folder = Path(sysconfig.get_paths()["stdlib"])
    return _of_folder(folder, f"the standard library of Python {version}")


def _packages() -> Texts:
    paths = sysconfig.get_paths()
    folders = dict.fromkeys(Path(paths[name]) for name in ("stdlib", "purelib", "platlib"))
    # Debian's Python has packages elsewhere than its own sysconfig says.
    folders |= dict.fromkeys(Path(path) for path in site.getsitepackages() if os.path.isdir(path))
    description = f"the packages of Python {sysconfig.get_python_version()}"
    return _split(_distinct(_files([*folders], _OF_PACKAGES)), next(iter(folders)), description)


def _distinct(files: Iterable[_File]) -> Iterator[tuple[str, bytes]]:
    """Files that are no data, the first of each content: packages carry copies of each other, and
    no text must be on both sides."""
    known: set[bytes] = set()
    for file in files:
        if file.path.stat().st_size <= MOST_OF_A_FILE:
            text = file.read()
            content = hashlib.sha256(text).digest()
            if content not in known:
                known.add(content)
                yield file.name_in, text


_NAMED = {"stdlib": _library, "packages": _packages}


def windows(text: NDArray[np.integer[Any]], length: int, count: int) -> NDArray[np.int64]:
    """`count` windows of `length` + 1 tokens, spread evenly over a text: inputs and their next
    tokens [count, length + 1].

    Consecutive where the text is short; fewer than `count` where it does not hold as many.
    """
    count = min(count, (text.size - 1) // length)
    if count < 1:
        raise InputError(
            f"the held-out text has {text.size} tokens, must have more than one window of {length}"
        )
    starts = np.linspace(0, text.size - 1 - length, count).astype(np.int64)
    return text[starts[:, None] + np.arange(length + 1)].astype(np.int64)
