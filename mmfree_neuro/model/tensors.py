"""Tensors in files: opened by their header, read one at a time as float32."""

import math
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass
from functools import partial
from pathlib import Path

import numpy as np
import safetensors
from numpy.typing import NDArray

from mmfree_neuro.errors import CheckpointError, printable
from mmfree_neuro.files.reading import opened, reading

WEIGHTS = "a safetensors file"
Float32 = NDArray[np.float32]


@dataclass(frozen=True)
class StoredTensor:
    """A tensor in a file: its shape, and what reads its values as float32."""

    shape: tuple[int, ...]
    load: Callable[[], Float32]


class StoredTensors(Mapping[str, Float32]):
    """Tensors in files, by name; every look-up reads one anew, or raises CheckpointError where it
    is not finite."""

    def __init__(self, where: Path, entries: Mapping[str, StoredTensor]) -> None:
        self._where, self._entries = where, entries

    def __getitem__(self, name: str) -> Float32:
        value = self._entries[name].load()
        if not (np.isfinite(value.min()) and np.isfinite(value.max())):
            raise CheckpointError(f"{self._where}: {name} holds values that are not finite")
        return value

    def __iter__(self) -> Iterator[str]:
        return iter(self._entries)

    def __len__(self) -> int:
        return len(self._entries)

    def __contains__(self, name: object) -> bool:
        return name in self._entries


Entries = Mapping[str, StoredTensor]


LoadBin = Callable[[Path], Entries]


_KINDS = {"BF16": np.uint16, "F16": np.float16, "F32": np.float32, "F64": np.float64}


def _load(path: Path, dtype: str, shape: tuple[int, ...], offset: int) -> Float32:
    with reading(path, CheckpointError, WEIGHTS):
        stored = np.fromfile(
            path, np.dtype(_KINDS[dtype]).newbyteorder("<"), math.prod(shape), offset=offset
        )
    if stored.size != math.prod(shape):
        raise CheckpointError(f"{path}: changed while it was in use")
    if dtype == "BF16":
        wide = stored.astype(np.uint32)
        wide <<= np.uint32(16)
        return wide.view(np.float32).reshape(shape)
    with np.errstate(over="ignore"):  # becomes infinite, which has a message of its own
        return stored.astype(np.float32, copy=False).reshape(shape)


def read_safetensors(path: Path) -> Entries:
    """The tensors of one safetensors file."""
    with reading(path, CheckpointError, WEIGHTS), opened(path) as header:
        with safetensors.safe_open(
            path, framework="numpy"
        ) as file:  # checks that the tensors fill the file, in order
            slices = [(name, file.get_slice(name)) for name in file.offset_keys()]
            kinds = [
                (name, str(part.get_dtype()), tuple(part.get_shape())) for name, part in slices
            ]
        offset = 8 + int.from_bytes(header.read(8), "little")
    entries: dict[str, StoredTensor] = {}
    for name, dtype, shape in kinds:
        if dtype not in _KINDS:
            raise CheckpointError(
                f"{path}: {printable(name[:200])}: stored as {dtype}, must be one of "
                f"{', '.join(_KINDS)}"
            )
        entries[name] = StoredTensor(shape, partial(_load, path, dtype, shape, offset))
        offset += math.prod(shape) * np.dtype(_KINDS[dtype]).itemsize
    return entries


def to_bfloat16(x: Float32) -> NDArray[np.uint16]:
    """The bfloat16 bit patterns nearest to finite float32 values, halves to even."""
    bits = x.view(np.uint32)
    return (
        (bits + np.uint32(0x7FFF) + ((bits >> np.uint32(16)) & np.uint32(1))) >> np.uint32(16)
    ).astype(np.uint16)


def serialized(tensors: Mapping[str, Float32], dtype: str) -> bytes:
    kept = {
        name: to_bfloat16(np.ascontiguousarray(value))
        if dtype == "bfloat16"
        else np.ascontiguousarray(value)
        for name, value in tensors.items()
    }  # the specs below hold addresses, so these arrays must outlive them
    specs = {
        name: safetensors.TensorSpec(
            dtype=dtype, shape=list(a.shape), data_ptr=a.ctypes.data, data_len=a.nbytes
        )
        for name, a in kept.items()
    }
    return bytes(safetensors.serialize(specs, {"format": "pt"}))
