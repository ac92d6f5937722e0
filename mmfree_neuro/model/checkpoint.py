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
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Generic, Protocol, TypeVar

from mmfree_neuro.errors import CheckpointError, printable, shown
from mmfree_neuro.files.reading import Misfit, read_bytes, read_json, reading
from mmfree_neuro.files.writing import save_text, whole_file
from mmfree_neuro.model.tensors import (
    Entries,
    Float32,
    LoadBin,
    StoredTensor,
    StoredTensors,
    read_safetensors,
    serialized,
)

TOKENIZER_FILE = "a tokenizer in JSON"
CONFIG_FILE = "a configuration in JSON"
INDEX_FILE = "an index in JSON"


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

    def each_shape(self) -> Iterator[tuple[str, tuple[int, ...]]]:
        """The same, one after another."""

    def warnings(self, raw: Mapping[str, Any]) -> list[str]:
        """What a person should know of the `config.json` that this was read from."""

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
    warnings: tuple[str, ...] = ()
    """What was not understood in the files, a sentence each."""


def read_tokenizer(folder: Path) -> str | None:
    """The content of a folder's `tokenizer.json`, None where there is none."""
    path = folder / "tokenizer.json"
    if not os.path.lexists(path):
        return None
    content = read_bytes(path, CheckpointError, TOKENIZER_FILE)
    with reading(path, CheckpointError, TOKENIZER_FILE):
        return content.decode()


def _with_generation(raw: dict[str, Any], folder: Path) -> dict[str, Any]:
    """A configuration, in which the tokens that end a text are those of `generation_config.json`
    where it names some, as the library transformers has it."""
    path = folder / "generation_config.json"
    there = read_json(path, CheckpointError, CONFIG_FILE) if path.exists() else {}
    eos = there.get("eos_token_id")
    ids = eos if isinstance(eos, list) else [] if eos is None else [eos]
    if not all(type(token) is int for token in ids):
        raise CheckpointError(
            f"{path}: eos_token_id is {shown(eos)}, must be int, a list of int, or null"
        )
    return raw if eos is None else raw | {"eos_token_id": eos}


def _weight_files(folder: Path) -> tuple[list[Path], Callable[[Path], Entries] | None]:
    """The files that hold the weights, and their reader; None stands for the `.bin` reader."""
    for single, reader in (("model.safetensors", read_safetensors), ("pytorch_model.bin", None)):
        if os.path.lexists(folder / single):
            return [folder / single], reader
        index = folder / f"{single}.index.json"
        if os.path.lexists(index):
            table = read_json(index, CheckpointError, INDEX_FILE).get("weight_map")
            with reading(index, CheckpointError, INDEX_FILE):
                return [folder / name for name in _files_of(table)], reader
    raise CheckpointError(
        f"{folder}: no weights; expected model.safetensors or pytorch_model.bin, whole or with "
        "an index"
    )


def _files_of(table: object) -> list[str]:
    """The files that an index names, each in its own folder."""
    if not isinstance(table, dict) or not table:
        raise Misfit(f"weight_map is {shown(table)}, must map names of tensors to files")
    for name, file in table.items():
        if (
            not isinstance(file, str)
            or Path(file).name != file
            or file in ("", "..")
            or "\0" in file
        ):
            raise Misfit(
                f"{shown(name)} is said to be in {shown(file)}, must be in a file in the same "
                "folder"
            )
    return sorted(set(table.values()))


def _check(entries: Entries, config: Config, where: Path) -> None:
    """CheckpointError where the tensors are not those of the configuration.

    Whatever it claims, no more of it is looked at than the files hold.
    """
    for name, _ in config.each_shape():
        if name not in entries:
            raise CheckpointError(f"{where}: {name} is missing{_prefix(name, entries)}")
    shapes = config.shapes()
    ignorable = {"lm_head.weight"} if config.tie_word_embeddings else set()
    for name in sorted(entries.keys() - shapes.keys() - ignorable):
        raise CheckpointError(
            f"{where}: {printable(name[:200])} does not belong to a model of this configuration"
        )
    for name, shape in shapes.items():
        if entries[name].shape != shape:
            raise CheckpointError(
                f"{where}: {name} has shape {list(entries[name].shape)}, must have {list(shape)}"
            )


def _prefix(missing: str, entries: Entries) -> str:
    """What a missing tensor is called instead, where a prefix makes the difference."""
    bare = missing.removeprefix("model.")
    if bare != missing and bare in entries:
        return f"; there is {bare}, so the names lack 'model.' at their beginning"
    for name in entries:
        if name.endswith(f".{missing}"):
            prefix = name.removesuffix(missing)
            count = sum(other.startswith(prefix) for other in entries)
            return (
                f"; {count} of {len(entries)} names begin with {shown(prefix)}, must begin without"
            )
    return ""


def check_is_folder(folder: Path) -> None:
    """CheckpointError where a path is none of a folder."""
    if not os.path.isdir(folder):
        what = "is a file" if os.path.lexists(folder) else "no such folder"
        raise CheckpointError(f"{folder}: {what}, must be a folder with config.json and weights")


def read(folder: Path, load_bin: LoadBin, families: Mapping[str, ParseConfig]) -> Checkpoint[Any]:
    """Open a published folder of one of the `families`, by the `model_type` of its configuration.

    `load_bin` opens one `.bin` file (it needs torch, which this module does not import).  Raises
    CheckpointError for whatever is missing, extra, misshapen or of another type.  The values are
    read, and found finite or not, by the look-ups in `tensors`.
    """
    check_is_folder(folder)
    where = folder / "config.json"
    raw = read_json(where, CheckpointError, CONFIG_FILE)
    family = raw.get("model_type")
    if not isinstance(family, str) or family not in families:
        known = " or ".join(map(repr, families))
        raise CheckpointError(f"{where}: model_type is {shown(family)}, must be {known}")
    complete = _with_generation(raw, folder)
    with reading(where, CheckpointError, CONFIG_FILE):
        config = families[family](complete, where)
        warnings = tuple(f"{where}: {told}" for told in config.warnings(raw))
    assert config.model_type == family, f"the parser of {family} gives {config.model_type}"
    files, reader = _weight_files(folder)
    entries: dict[str, StoredTensor] = {}
    for path in files:
        for name, entry in (reader or load_bin)(path).items():
            if name in entries:
                raise CheckpointError(f"{path}: {printable(name[:200])} is stored twice")
            entries[name] = entry
    _check(entries, config, folder)
    stored = StoredTensors(folder, {name: entries[name] for name in config.shapes()})
    return Checkpoint(config, stored, warnings)


def write(
    folder: Path, checkpoint: Checkpoint[Any], dtype: str = "bfloat16", *, durable: bool = False
) -> None:
    """Write a checkpoint in the published format, bfloat16 or float32.

    Each file appears whole or not at all, and no other file of the folder is touched.  With
    `durable` they are on the disk before they take the place of older ones.
    """
    with whole_file(folder / "model.safetensors", durable=durable) as scratch:
        scratch.write_bytes(serialized(checkpoint.tensors, dtype))
    config = json.dumps(checkpoint.config.to_json(dtype), indent=2, sort_keys=True)
    save_text(folder / "config.json", f"{config}\n", durable=durable)
