"""Checkpoints and graphs of the published sizes with made-up weights, to measure without a
download.

What a model costs depends on its shapes and on how many of its codes are zero, not on what it
learned.  So the weights are drawn: those of matrices from a logistic distribution, of which exactly
a third lies within half its mean magnitude and becomes the code 0 (trained models: 0.32 to 0.35 per
matrix).  Spreads are those of the trained model in `tests/golden/trained`: 1.2 / √columns for
matrices, so that a projection of a normalised input has a deviation of about 0.75, gains of 1 ±
0.15, embeddings of 0.05.  The head's is larger, for logits with a deviation of about 2.5.
"""

import json
import math
import os
import tempfile
from collections.abc import Iterator, Mapping
from dataclasses import replace
from pathlib import Path
from typing import Any, BinaryIO

import numpy as np
from numpy.typing import NDArray

from mmfree_neuro import lower
from mmfree_neuro.integers.ternary import ZERO, TernaryMatrix, packed_shape
from mmfree_neuro.ir import Graph
from mmfree_neuro.model.checkpoint import (
    Checkpoint,
    ModelConfig,
    config_json,
    default_intermediate_size,
    to_bfloat16,
)
from mmfree_neuro.quantize import SCHEMES, Range, TernaryWeight, is_ternary

PUBLISHED = {
    "370m": ModelConfig(hidden_size=1024, num_hidden_layers=24, intermediate_size=2816),
    "1.3b": ModelConfig(hidden_size=2048, num_hidden_layers=24, intermediate_size=5632),
    "2.7b": ModelConfig(hidden_size=2560, num_hidden_layers=32, intermediate_size=6912),
}
"""The shapes of ridger/MMfreeLM-370M, -1.3B and -2.7B, from their `config.json`."""

SHARD_BYTES = 5_000_000_000
"""The largest file that transformers 4.40 writes, which saved the published checkpoints (2.7B: 4.98
GB and 429 MB)."""

_PIECE = 1 << 20
"""Values drawn at once; one piece's arrays fit a processor's cache."""

ZEROS = 0.354
"""How many weights of the published 370M model are zero (arXiv 2503.18002v2)."""

Shapes = Mapping[str, tuple[int, ...]]


class _EveryRange(dict[str, Range]):
    """The same range for whatever is asked."""

    def __missing__(self, name: str) -> Range:
        return Range(0.1, 4.0)


def published_graph(
    model: str, *, scheme: str = "a16", blocks: int | None = None, zeros: float = ZEROS
) -> Graph:
    """The graph of a model of a published size, for all that does not read its weights: mapping,
    counts and costs.

    `blocks` of it instead of all; matrices say how many of their weights are zero, and all their
    codes are.
    """
    config = replace(
        PUBLISHED[model], num_hidden_layers=blocks or PUBLISHED[model].num_hidden_layers
    )
    weights = {}
    for name, (rows, columns) in ((n, s) for n, s in config.shapes().items() if is_ternary(n)):
        halves = 2 if name.endswith("gate_proj.weight") else 1
        weights[name] = TernaryWeight((_claimed(rows // halves, columns, zeros),) * halves, 0.02)
    tensors = {
        n: np.broadcast_to(np.float32(len(s) == 1 or 0.05), s) for n, s in config.shapes().items()
    }
    return lower.lower(Checkpoint(config, tensors), weights, _EveryRange(), SCHEMES[scheme], model)


def _claimed(rows: int, columns: int, zeros: float) -> TernaryMatrix:
    """A matrix that takes no memory."""
    data = np.broadcast_to(np.array(ZERO, np.uint8), packed_shape(rows, columns))
    nonzero = round((1 - zeros) * rows * columns)
    return TernaryMatrix(data, rows, columns, round((1 - zeros) * columns), nonzero)


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
    content = config_json(config, "bfloat16") | {"transformers_version": "4.40.2"}
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
