"""Checkpoints of the published shapes with random weights, to measure speed and memory at full
size."""

import json
import math
import os
import tempfile
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any, BinaryIO

import numpy as np
from numpy.typing import NDArray

from mmfree_neuro.hgrn_bit.config import ModelConfig, default_intermediate_size
from mmfree_neuro.model.tensors import to_bfloat16

SHARD_BYTES = 5_000_000_000
"""The largest file that transformers 4.40 writes, which saved the published checkpoints (2.7B: 4.98
GB and 429 MB)."""


_PIECE = 1 << 20
"""Values drawn at once; one piece's arrays fit a processor's cache."""


Shapes = Mapping[str, tuple[int, ...]]


def write_synthetic(
    folder: Path, config: ModelConfig, *, seed: int = 0, shard_bytes: int = SHARD_BYTES
) -> None:
    """Write a bfloat16 checkpoint of that shape in the published layout; equal seeds give equal
    files.

    Files hold at most `shard_bytes` of weights, with an index where there are several; weights that
    were in the folder are gone.  Takes a few megabytes of memory and, on one core, about four
    seconds a gigabyte.
    """
    shards, total = (
        _shards(config.shapes(), shard_bytes),
        2 * sum(map(math.prod, config.shapes().values())),
    )
    names = ["model.safetensors"]
    if len(shards) > 1:
        names = [f"model-{n + 1:05}-of-{len(shards):05}.safetensors" for n in range(len(shards))]
    folder.parent.mkdir(parents=True, exist_ok=True)
    with tempfile.TemporaryDirectory(dir=folder.parent, prefix=f".{folder.name}-") as name:
        scratch = Path(name)
        _write_json(scratch / "config.json", _published(config))
        if len(shards) > 1:
            where = {
                tensor: file
                for file, shapes in zip(names, shards, strict=True)
                for tensor in shapes
            }
            index = {"metadata": {"total_size": total}, "weight_map": where}
            _write_json(scratch / "model.safetensors.index.json", index)
        for file, shapes in zip(names, shards, strict=True):
            with (scratch / file).open("wb") as stream:
                _write_shard(stream, shapes, config, seed)
        folder.mkdir(exist_ok=True)
        for old in {path.name for path in folder.glob("model*.safetensors*")} - {
            path.name for path in scratch.iterdir()
        }:
            (folder / old).unlink()
        for path in scratch.iterdir():
            os.replace(path, folder / path.name)


def _published(config: ModelConfig) -> dict[str, Any]:
    content = config.to_json("bfloat16") | {"transformers_version": "4.40.2"}
    if config.intermediate_size == default_intermediate_size(config.hidden_size, 4):
        content["intermediate_size"] = None
    return content


def _write_json(path: Path, content: Mapping[str, Any]) -> None:
    path.write_text(json.dumps(content, indent=2, sort_keys=True) + "\n", encoding="utf-8")


def _shards(shapes: Shapes, shard_bytes: int) -> list[dict[str, tuple[int, ...]]]:
    shards, room = [dict[str, tuple[int, ...]]()], shard_bytes
    for name, shape in shapes.items():
        size = 2 * math.prod(shape)
        if size > room and shards[-1]:
            shards, room = [*shards, {}], shard_bytes
        shards[-1][name], room = shape, room - size
    return shards


def _write_shard(stream: BinaryIO, shapes: Shapes, config: ModelConfig, seed: int) -> None:
    header: dict[str, Any] = {"__metadata__": {"format": "pt"}}
    end = 0
    for name, shape in shapes.items():
        start, end = end, end + 2 * math.prod(shape)
        header[name] = {"dtype": "BF16", "shape": list(shape), "data_offsets": [start, end]}
    text = json.dumps(header, separators=(",", ":")).encode()
    text += b" " * (-len(text) % 8)
    stream.write(len(text).to_bytes(8, "little") + text)
    order = {name: number for number, name in enumerate(config.shapes())}
    for name, shape in shapes.items():
        for piece in _values(name, shape, (seed, order[name])):
            stream.write(piece.data)


def _values(
    name: str, shape: tuple[int, ...], seed: tuple[int, int]
) -> Iterator[NDArray[np.uint16]]:
    """The bfloat16 patterns of one tensor, in pieces: random 16-bit numbers look up the
    distribution's quantiles."""
    chance = (np.arange(65536) + 0.5) / 65536
    logistic = np.log(chance / (1 - chance)) * math.sqrt(3) / math.pi  # deviation 1
    centre, deviation = _spread(name, shape)
    quantiles = to_bfloat16((centre + deviation * logistic).astype(np.float32)).astype("<u2")
    draw, left = np.random.PCG64(seed), math.prod(shape)
    while left:
        count = min(left, _PIECE)
        numbers = draw.random_raw(-(-count // 4)).astype("<u8", copy=False).view("<u2")[:count]
        yield quantiles.take(
            numbers, mode="clip"
        )  # every index is in range; this mode spares a copy
        left -= count


def _spread(name: str, shape: tuple[int, ...]) -> tuple[float, float]:
    """The centre and the standard deviation of a tensor's values."""
    if len(shape) == 1:
        return 1.0, 0.15
    match name:
        case "model.embeddings.weight":
            return 0.0, 0.05
        case "model.lower_bounds":
            return 0.0, 0.3
        case "lm_head.weight":
            return 0.0, 4 / math.sqrt(shape[1])
    return 0.0, 1.2 / math.sqrt(shape[1])
