"""The files of cores, host.bin and chip-0000.bin: cut into sections that fill them, none of which
is damaged."""

from zlib import crc32

import numpy as np
from numpy.typing import NDArray

from mmfree_neuro.files.reading import Misfit
from mmfree_neuro.target.layout import (
    CORES_MAGIC,
    DIRECTORY_NUMBERS,
    SECTION_TYPES,
    SECTIONS,
    Bytes,
    Core,
    Rows,
)

_HEAD_BYTES = 16
_MOST_CORES = 256
"""An output entry has 8 bits for the number of a core."""


def read_cores(raw: Bytes, chip: int) -> tuple[Core, ...]:
    """The cores in a file of a chip, as views of its bytes; Misfit where it is not one."""
    directory = _directory(raw, chip)
    offsets, lengths = _places(raw, directory)
    return tuple(
        _core(raw, row, begin, length)
        for row, begin, length in zip(directory, offsets.tolist(), lengths.tolist(), strict=True)
    )


def _directory(raw: Bytes, chip: int) -> Rows:
    """The directories of the cores, [cores, 64]."""
    if bytes(raw[:8]) != CORES_MAGIC:
        raise Misfit(f"it does not begin with {CORES_MAGIC.decode()}")
    if len(raw) < _HEAD_BYTES or len(raw) % 8:
        raise Misfit(
            f"it has {len(raw)} bytes, must have whole words and a header, or is cut short"
        )
    number, cores = raw[8:_HEAD_BYTES].view("<u4").tolist()
    if number != chip:
        raise Misfit(f"it is of chip {number}, must be of chip {chip}")
    end = _HEAD_BYTES + 4 * DIRECTORY_NUMBERS * cores
    if cores > _MOST_CORES or end > len(raw):
        raise Misfit(f"it has {cores} cores in {len(raw)} bytes, or is cut short")
    directory: Rows = raw[_HEAD_BYTES:end].view("<u4").reshape(cores, DIRECTORY_NUMBERS)
    numbers = directory[:, 0].astype(np.int64)
    if (numbers >= _MOST_CORES).any() or (np.diff(numbers) <= 0).any():
        raise Misfit(f"its cores are {numbers.tolist()}, must be in order and below {_MOST_CORES}")
    if directory[:, [1, *range(6, 62, 5), 62, 63]].any():
        raise Misfit("its directories have numbers that are not used, must be 0")
    return directory


def _places(raw: Bytes, directory: Rows) -> tuple[NDArray[np.int64], NDArray[np.int64]]:
    """Where in the file the sections begin and how many bytes they have, both [cores, 12]; Misfit
    where they do not follow each other to its end."""
    numbers = directory[:, 2:62].reshape(-1, len(SECTIONS), 5).astype(np.uint64)
    offsets = numbers[..., 0] | numbers[..., 1] << np.uint64(32)
    lengths = numbers[..., 2].astype(np.int64)
    padded = lengths.ravel() + -lengths.ravel() % 8
    ends = _HEAD_BYTES + directory.nbytes + np.cumsum(padded)
    begins = (ends - padded).reshape(lengths.shape)
    if (offsets != begins.astype(np.uint64) // np.uint64(8)).any():
        core, section = np.argwhere(offsets != begins.astype(np.uint64) // np.uint64(8))[0]
        raise Misfit(
            f"core {directory[core, 0]}: {SECTIONS[section].upper()} begins at word "
            f"{offsets[core, section]}, must follow at word {begins[core, section] // 8}"
        )
    end = int(ends[-1]) if len(ends) else _HEAD_BYTES
    if end != len(raw):
        raise Misfit(f"its sections end at byte {end}, must end at {len(raw)}, or it is cut short")
    return begins, lengths


def _core(raw: Bytes, directory: Rows, begins: list[int], lengths: list[int]) -> Core:
    """One core; Misfit where a section is damaged or no whole number of rows."""
    number = int(directory[0])
    checksums = directory[5:62:5].tolist()
    sections = {}
    for name, begin, length, checksum in zip(SECTIONS, begins, lengths, checksums, strict=True):
        kind, width = SECTION_TYPES[name]
        row_bytes = np.dtype(kind).itemsize * width
        if length % row_bytes:
            raise Misfit(
                f"core {number}: {name.upper()} has {length} bytes, must have rows of {row_bytes}"
            )
        data = raw[begin : begin + length]
        if crc32(data.data) != checksum or raw[begin + length : begin + length + -length % 8].any():
            raise Misfit(
                f"core {number}: {name.upper()} is damaged, for it differs from its checksum"
            )
        rows = data.view(kind)
        sections[name] = rows.reshape(-1, width) if width > 1 else rows
    return Core(number, **sections)
