"""Checkpoints in the published Hugging Face format.

A checkpoint is a configuration and a set of float32 arrays by their published names.  What the
names mean, a family of models says; weights are stored as latent full-precision values.  The files
are those of `save_pretrained`: `config.json` and `model.safetensors`, shards with an index, or
`.bin` files.

The tensors of a checkpoint that is read stay in its files: each is read when it is asked for, and
not kept, so that a model needs no more memory than its largest tensor.
"""

import json
import os
import tempfile
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Generic, Protocol, TypeVar

from mmfree_neuro.errors import CheckpointError, shown
from mmfree_neuro.model.tensors import (
    Entries,
    Float32,
    LoadBin,
    StoredTensor,
    StoredTensors,
    read_safetensors,
    serialized,
)


class Config(Protocol):
    """What is asked of a configuration, whatever the family of the model."""

    @property
    def model_type(self) -> str:
        """The family, as `config.json` names it."""

    @property
    def vocab_size(self) -> int:
        """How many tokens there are."""

    @property
    def tie_word_embeddings(self) -> bool:
        """Whether the head is the embedding, and so has no tensor of its own."""

    def shapes(self) -> dict[str, tuple[int, ...]]:
        """Name and shape of every tensor."""

    def to_json(self, dtype: str) -> dict[str, Any]:
        """The content of `config.json`."""


AnyConfig = TypeVar("AnyConfig", bound=Config, covariant=True)
ParseConfig = Callable[[Mapping[str, Any], Path], Config]


@dataclass(frozen=True)
class Checkpoint(Generic[AnyConfig]):
    """A configuration and its tensors, float32, by published name.

    Looking a tensor up may read it from a file, so look it up once, and let it go.
    """

    config: AnyConfig
    tensors: Mapping[str, Float32]


def _read_json(path: Path) -> dict[str, Any]:
    try:
        content = json.loads(path.read_text(encoding="utf-8"))
    except FileNotFoundError:
        raise CheckpointError(f"{path}: no such file") from None
    except (OSError, UnicodeDecodeError, json.JSONDecodeError, RecursionError) as error:
        raise CheckpointError(f"{path}: not readable as JSON ({error})") from None
    if not isinstance(content, dict):
        raise CheckpointError(f"{path}: holds a {type(content).__name__}, must hold an object")
    return content


def read_tokenizer(folder: Path) -> str | None:
    """The content of a folder's `tokenizer.json`, None where there is none."""
    path = folder / "tokenizer.json"
    try:
        return path.read_text(encoding="utf-8")
    except FileNotFoundError:
        return None
    except (OSError, UnicodeDecodeError) as error:
        raise CheckpointError(f"{path}: not readable as JSON ({error})") from None


def _with_generation(raw: dict[str, Any], folder: Path) -> dict[str, Any]:
    """A configuration, in which the tokens that end a text are those of `generation_config.json`
    where it names some, as the library transformers has it."""
    path = folder / "generation_config.json"
    eos = _read_json(path).get("eos_token_id") if path.exists() else None
    ids = eos if isinstance(eos, list) else [] if eos is None else [eos]
    if not all(type(token) is int for token in ids):
        raise CheckpointError(
            f"{path}: eos_token_id is {shown(eos)}, must be int, a list of int, or null"
        )
    return raw if eos is None else raw | {"eos_token_id": eos}


def _weight_files(folder: Path) -> tuple[list[Path], Callable[[Path], Entries] | None]:
    """The files that hold the weights, and their reader; None stands for the `.bin` reader."""
    for single, reader in (("model.safetensors", read_safetensors), ("pytorch_model.bin", None)):
        if (folder / single).is_file():
            return [folder / single], reader
        index = folder / f"{single}.index.json"
        if index.is_file():
            table = _read_json(index).get("weight_map")
            if not isinstance(table, dict) or not all(
                isinstance(v, str) and Path(v).name == v for v in table.values()
            ):
                raise CheckpointError(
                    f"{index}: weight_map must map tensor names to files in the same folder"
                )
            return [folder / name for name in sorted(set(table.values()))], reader
    raise CheckpointError(
        f"{folder}: no weights; expected model.safetensors or pytorch_model.bin, whole or with "
        "an index"
    )


def _check(entries: Entries, config: Config, where: Path) -> Iterator[str]:
    shapes = config.shapes()
    ignorable = {"lm_head.weight"} if config.tie_word_embeddings else set()
    for name in sorted(shapes.keys() - entries.keys()):
        yield f"{where}: {name} is missing"
    for name in sorted(entries.keys() - shapes.keys() - ignorable):
        yield f"{where}: {name} does not belong to a model of this configuration"
    for name in sorted(shapes.keys() & entries.keys()):
        if entries[name].shape != shapes[name]:
            yield (
                f"{where}: {name} has shape {list(entries[name].shape)}, must have "
                f"{list(shapes[name])}"
            )


def read(folder: Path, load_bin: LoadBin, families: Mapping[str, ParseConfig]) -> Checkpoint[Any]:
    """Open a published folder of one of the `families`, by the `model_type` of its configuration.

    `load_bin` opens one `.bin` file (it needs torch, which this module does not import).  Raises
    CheckpointError for whatever is missing, extra, misshapen or of another type.  The values are
    read, and found finite or not, by the look-ups in `tensors`.
    """
    where = folder / "config.json"
    raw = _read_json(where)
    family = raw.get("model_type")
    if not isinstance(family, str) or family not in families:
        known = " or ".join(map(repr, families))
        raise CheckpointError(f"{where}: model_type is {family!r}, must be {known}")
    config = families[family](_with_generation(raw, folder), where)
    assert config.model_type == family, f"the parser of {family} gives {config.model_type}"
    files, reader = _weight_files(folder)
    entries: dict[str, StoredTensor] = {}
    for path in files:
        for name, entry in (reader or load_bin)(path).items():
            if name in entries:
                raise CheckpointError(f"{path}: {name} is stored twice")
            entries[name] = entry
    for problem in _check(entries, config, folder):
        raise CheckpointError(problem)
    return Checkpoint(
        config, StoredTensors(folder, {name: entries[name] for name in config.shapes()})
    )


def write(folder: Path, checkpoint: Checkpoint[Any], dtype: str = "bfloat16") -> None:
    """Write a checkpoint in the published format, bfloat16 or float32; each file appears whole or
    not at all."""
    folder.parent.mkdir(parents=True, exist_ok=True)
    with tempfile.TemporaryDirectory(dir=folder.parent, prefix=f".{folder.name}-") as scratch:
        config = json.dumps(checkpoint.config.to_json(dtype), indent=2, sort_keys=True)
        (Path(scratch) / "config.json").write_text(config + "\n", encoding="utf-8")
        (Path(scratch) / "model.safetensors").write_bytes(serialized(checkpoint.tensors, dtype))
        folder.mkdir(exist_ok=True)
        for path in Path(scratch).iterdir():
            os.replace(path, folder / path.name)
