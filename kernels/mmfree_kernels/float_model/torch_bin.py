"""Reads `pytorch_model.bin` files without running what they contain."""

import warnings
import zipfile
from functools import partial
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from mmfree_neuro.errors import CheckpointError, printable, shown
from mmfree_neuro.files.reading import Misfit, opened, reading
from mmfree_neuro.model.tensors import Entries, Float32, StoredTensor

A_BIN = "a file of tensors written by torch.save"
_MAPPED_BYTES = 1 << 28
"""What may be read of a mapped file before it is mapped anew: until then, all that was read counts
as memory."""


def _is_plain(value: object) -> bool:
    return (
        isinstance(value, Tensor) and value.layout == torch.strided and value.device.type == "cpu"
    )


def _open(path: Path, mapped: bool) -> dict[Any, Tensor]:
    with reading(path, CheckpointError, A_BIN), opened(path):
        try:
            with warnings.catch_warnings():
                warnings.simplefilter("ignore")  # torch comments on files that it then refuses
                content = torch.load(path, map_location="cpu", weights_only=True, mmap=mapped)
        except Exception:  # a damaged pickle fails in a dozen ways, and torch says so at length
            raise CheckpointError(f"{path}: not readable as {A_BIN}") from None
        if not isinstance(content, dict) or not all(map(_is_plain, content.values())):
            raise Misfit("it holds something else than names and tensors")
        for key, value in content.items():
            if value.numel() * value.itemsize > value.untyped_storage().nbytes():
                raise Misfit(f"{shown(key)} claims {value.numel()} values, has fewer")
    return content


class _File:
    """The tensors of one file, which is mapped, or held in memory where torch wrote it before it
    wrote zip files."""

    def __init__(self, path: Path) -> None:
        self.path, self.mapped, self.read_bytes = path, zipfile.is_zipfile(path), 0
        self.content = _open(path, self.mapped)

    def load(self, key: object, shape: torch.Size) -> Float32:
        if self.mapped and self.read_bytes > _MAPPED_BYTES:
            self.content, self.read_bytes = _open(self.path, self.mapped), 0
        value = self.content.get(key)
        if value is None or value.shape != shape:
            raise CheckpointError(f"{self.path}: changed while it was in use")
        self.read_bytes += value.nbytes
        return value.detach().to(torch.float32, copy=True).numpy()


def load_bin(path: Path) -> Entries:
    """The tensors of one `.bin` file; only tensors are unpickled (`weights_only`)."""
    file = _File(path)
    entries = {}
    for key, value in file.content.items():
        if not value.is_floating_point():
            raise CheckpointError(
                f"{path}: {printable(str(key)[:200])}: stored as {value.dtype}, must be of a "
                "floating type"
            )
        entries[str(key)] = StoredTensor(tuple(value.shape), partial(file.load, key, value.shape))
    return entries
