"""Machine images: folders that are written whole or not at all, and whose every byte is checked
before it is used.

docs/machine.md is the manual.  The files of chips are mapped into memory, so an image opens as
fast as it can be checked, and its arrays are views of its files.
"""

import hashlib
import json
import mmap
import os
import re
from collections.abc import Callable, Iterable
from concurrent.futures import ThreadPoolExecutor
from contextlib import suppress
from dataclasses import asdict, replace
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from mmfree_neuro.errors import ImageError, InputError, shown
from mmfree_neuro.files.folders import whole_folder
from mmfree_neuro.files.reading import Misfit, opened, read_json, reading
from mmfree_neuro.files.records import decoded
from mmfree_neuro.files.writing import written
from mmfree_neuro.target.core_file import read_cores
from mmfree_neuro.target.image import About, Image
from mmfree_neuro.target.layout import BOARD_MAGIC, HOST_CHIP, IMAGE_FORMAT, Bytes, Core, cores_file
from mmfree_neuro.target.prove import prove_about, prove_cores
from mmfree_neuro.target.prove_image import prove_image
from mmfree_neuro.target.prove_steps import Leads

AN_IMAGE, A_FILE = "a machine image", "a file of a machine image"
_TEXTS = ("programs.asm", "symbols.json", "origin.json")
_FILE_NAME = re.compile(r"(image|symbols|origin)\.json|(host|board|chip-\d+)\.bin|programs\.asm")


def chip_file(chip: int) -> str:
    """The name of the file of a chip, or of the host."""
    return "host.bin" if chip == HOST_CHIP else f"chip-{chip:04d}.bin"


def digest_of(about: dict[str, Any]) -> str:
    """The checksum of image.json: that of its object without it."""
    return hashlib.sha256(json.dumps(about, sort_keys=True).encode()).hexdigest()


def load_image(path: Path) -> Image:
    """The image in a folder; ImageError where a byte of it is not as the manual says."""
    about = _about(path)
    numbers = (HOST_CHIP, *about.chips)
    with ThreadPoolExecutor(min(8, os.cpu_count() or 1)) as pool:  # hashing lets other threads run
        texts = pool.map(lambda name: _mapped(path, name, about), _TEXTS)
        parts = list(pool.map(lambda chip: _cores(path, chip, about), numbers))
        programs, symbols, origin = (bytes(raw) for raw in texts)
    board = _board(path, about)
    (host,), *others = (cores for cores, _ in parts)
    chips = dict(zip(about.chips, others, strict=True))
    image = Image(path, about, host, chips, board, programs, symbols, origin)
    with reading(path, ImageError, AN_IMAGE):
        prove_image(image, [leads for _, leads in parts])
    return image


def _about(path: Path) -> About:
    """What image.json says."""
    content = read_json(path / "image.json", ImageError, "the head of a machine image")
    with reading(path / "image.json", ImageError, "the head of a machine image"):
        format_ = content.get("format")
        if format_ != IMAGE_FORMAT:
            raise Misfit(f"format is {shown(format_)}, must be {IMAGE_FORMAT!r}")
        digest = content.pop("sha256", None)
        if digest != digest_of(content):
            raise Misfit("it is damaged, for it differs from its checksum")
        about = decoded(About, content)
        prove_about(about)
        names = sorted(["board.bin", *map(chip_file, (HOST_CHIP, *about.chips)), *_TEXTS])
        if sorted(about.files) != names:
            raise Misfit(f"files are {shown(sorted(about.files))}, must be {shown(names)}")
        return about


def _mapped(path: Path, name: str, about: About) -> Bytes:
    """The bytes of a file of the image, which are those that it was made with."""
    with reading(path / name, ImageError, A_FILE), opened(path / name) as file:
        size = os.fstat(file.fileno()).st_size
        raw: Bytes = np.zeros(0, np.uint8)
        if size:
            raw = np.frombuffer(mmap.mmap(file.fileno(), 0, access=mmap.ACCESS_READ), np.uint8)
        if hashlib.sha256(raw.data).hexdigest() != about.files[name]:
            raise Misfit("it is damaged, for it differs from its checksum")
        return raw


def _cores(path: Path, chip: int, about: About) -> tuple[tuple[Core, ...], Leads]:
    """The cores of a chip or of the host, each right by itself, and where their axons lead."""
    name = chip_file(chip)
    raw = _mapped(path, name, about)
    with reading(path / name, ImageError, "the cores of a chip"):
        cores = read_cores(raw, chip)
        leads = prove_cores(cores, about.machine, chip)
        if chip == HOST_CHIP and [core.number for core in cores] != [0]:
            raise Misfit(f"it has cores {[core.number for core in cores]}, must have core 0 alone")
        return cores, leads


def _board(path: Path, about: About) -> Bytes:
    """Through which port each chip passes on what is for each other, [chips, chips + 1]."""
    raw = _mapped(path, "board.bin", about)
    with reading(path / "board.bin", ImageError, "the board of a machine image"):
        chips = len(about.chips)
        size = chips * (chips + 1)
        if bytes(raw[:16]) != BOARD_MAGIC + chips.to_bytes(8, "little"):
            raise Misfit(f"it does not begin with {BOARD_MAGIC.decode()} and {chips} chips")
        if len(raw) != 16 + size + -size % 8 or raw[16 + size :].any():
            raise Misfit(
                f"it has {len(raw)} bytes, must have {16 + size + -size % 8} and 0 behind its rows"
            )
        return raw[16 : 16 + size].reshape(chips, chips + 1)


def save_image(
    path: Path,
    about: About,
    host: Core,
    chips: Iterable[tuple[int, tuple[Core, ...]]],
    board: NDArray[np.uint8],
    *,
    programs: str,
    symbols: str,
    origin: str = "{}",
    check: Callable[[Path], None] = lambda _folder: None,
) -> None:
    """Write an image, whole or not at all, in the place of an older one if there is one.

    Chips may come one by one; `chips` and `files` of `about` are filled in here.  `check` is given
    the folder before it takes its place.
    """
    check_replaceable(path)
    with whole_folder(path) as scratch:
        files = {"host.bin": _saved(scratch / "host.bin", cores_file(HOST_CHIP, (host,)))}
        numbers = []
        for chip, cores in chips:
            numbers.append(chip)
            files[chip_file(chip)] = _saved(scratch / chip_file(chip), cores_file(chip, cores))
        rows = np.ascontiguousarray(board, np.uint8).tobytes()
        head = BOARD_MAGIC + len(numbers).to_bytes(8, "little")
        files["board.bin"] = _saved(scratch / "board.bin", [head, rows, bytes(-len(rows) % 8)])
        for name, text in zip(_TEXTS, (programs, symbols, origin), strict=True):
            files[name] = _saved(scratch / name, [text.encode("utf-8", "backslashreplace")])
        content = asdict(replace(about, chips=tuple(numbers), files=files))
        content = json.loads(json.dumps(content))
        whole = content | {"sha256": digest_of(content)}
        (scratch / "image.json").write_text(json.dumps(whole, indent=1) + "\n", encoding="utf-8")
        check(scratch)


def _saved(path: Path, pieces: list[bytes]) -> str:
    """Write a file; the SHA-256 of what is in it."""
    digest = hashlib.sha256()
    with path.open("wb") as file:
        for piece in pieces:
            digest.update(piece)
            file.write(piece)
    return digest.hexdigest()


def is_image(path: Path) -> bool:
    """Whether a folder is that of a machine image, be it a damaged one; what cannot be looked into
    is none."""
    with suppress(OSError):
        return path.is_dir() and (path / "image.json").exists()
    return False


def _is_ours(path: Path) -> bool:
    """Whether a folder is that of a machine image of this project, whatever its version."""
    with suppress(OSError), (path / "image.json").open("rb") as file:
        return b'"format": "mmfree-neuro image' in file.read(200)
    return False


def check_replaceable(path: Path) -> None:
    """InputError where something else than an image, or an empty folder, would be lost."""
    with written(path):
        if not path.exists():
            return
        if not path.is_dir():
            raise InputError(f"{path}: is no folder, must be a folder for an image, or new")
        names = sorted(os.listdir(path))
    if names and not _is_ours(path):
        raise InputError(f"{path}: is a folder of something else, must be new, or an image")
    for name in names:
        if not _FILE_NAME.fullmatch(name):
            raise InputError(
                f"{path}: holds {shown(name)}, which is no file of an image, must be a folder for "
                "an image, or new"
            )
