"""Checkpoints in the published Hugging Face format (`model_type` "hgrn_bit").

A checkpoint is a configuration and a set of float32 arrays by their published names.  Weights are
stored as latent full-precision values; ternarising happens in `quantize`.  The format is that of
ridgerchu/matmulfreellm (`HGRNBitForCausalLM.save_pretrained`): `config.json` and
`model.safetensors`, shards with an index, or `.bin` files.

The tensors of a checkpoint that is read stay in its files: each is read when it is asked for, and
not kept, so that a model needs no more memory than its largest tensor.
"""

import json
import math
import os
import tempfile
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np
import safetensors
from numpy.typing import NDArray

from mmfree_neuro.errors import CheckpointError

Float32 = NDArray[np.float32]

BITLINEAR_EPS = 1e-6
"""The eps inside every BitLinear: what the published kernel computes, whatever the module
prints."""


LARGEST = 1e12
"""No figure of a configuration reaches this."""


@dataclass(frozen=True)
class ModelConfig:
    """Shape and constants of one model; field names are those of `config.json`."""

    vocab_size: int = 32000
    hidden_size: int = 2048
    num_hidden_layers: int = 24
    num_heads: int = 1
    expand_ratio: float = 1
    use_lower_bound: bool = True
    intermediate_size: int = 5632
    rms_norm_eps: float = 1e-6
    tie_word_embeddings: bool = False
    bos_token_id: int | None = 1
    eos_token_id: int | None = 2

    @property
    def state_size(self) -> int:
        """Width of the recurrent state of a block."""
        return int(self.hidden_size * self.expand_ratio)

    def shapes(self) -> dict[str, tuple[int, ...]]:
        """Name and shape of every tensor of the state dict, linear weights as [out, in]."""
        v, h, d, i = self.vocab_size, self.hidden_size, self.state_size, self.intermediate_size
        shapes: dict[str, tuple[int, ...]] = {"model.embeddings.weight": (v, h)}
        if self.use_lower_bound:
            shapes["model.lower_bounds"] = (self.num_hidden_layers, h)
        for layer in range(self.num_hidden_layers):
            prefix = f"model.layers.{layer}."
            shapes |= {f"{prefix}attn_norm.weight": (h,), f"{prefix}mlp_norm.weight": (h,)}
            for name in ("i_proj", "f_proj", "g_proj"):
                shapes |= {
                    f"{prefix}attn.{name}.weight": (d, h),
                    f"{prefix}attn.{name}.norm.weight": (h,),
                }
            shapes |= {f"{prefix}attn.g_norm.weight": (d,)}
            shapes |= {
                f"{prefix}attn.o_proj.weight": (h, d),
                f"{prefix}attn.o_proj.norm.weight": (d,),
            }
            shapes |= {
                f"{prefix}mlp.gate_proj.weight": (2 * i, h),
                f"{prefix}mlp.gate_proj.norm.weight": (h,),
            }
            shapes |= {
                f"{prefix}mlp.down_proj.weight": (h, i),
                f"{prefix}mlp.down_proj.norm.weight": (i,),
            }
        shapes["model.norm.weight"] = (h,)
        if not self.tie_word_embeddings:
            shapes["lm_head.weight"] = (v, h)
        shapes["lm_head.norm.weight"] = (h,)
        return shapes


@dataclass(frozen=True)
class Checkpoint:
    """A configuration and its tensors, float32, by published name.

    Looking a tensor up may read it from a file, so look it up once, and let it go.
    """

    config: ModelConfig
    tensors: Mapping[str, Float32]

    @property
    def head_weight(self) -> Float32:
        """The weight of the output head [vocab, hidden]; the embedding where the two are tied."""
        return self.tensors[
            "model.embeddings.weight" if self.config.tie_word_embeddings else "lm_head.weight"
        ]


def default_intermediate_size(hidden_size: int, hidden_ratio: float) -> int:
    """Two thirds of hidden × ratio, rounded up to a multiple of 256, as the published configuration
    does."""
    return 256 * -(-int(hidden_size * hidden_ratio * 2 / 3) // 256)


def _field(
    raw: Mapping[str, Any], name: str, default: Any, kinds: tuple[type, ...], where: Path
) -> Any:
    value = raw.get(name, default)
    if (isinstance(value, bool) != (bool in kinds) and value is not None) or not isinstance(
        value, kinds
    ):
        wanted = " or ".join("null" if k is type(None) else k.__name__ for k in kinds)
        raise CheckpointError(f"{where}: {name} is {value!r}, must be {wanted}")
    if isinstance(value, int | float) and not abs(value) < LARGEST:
        raise CheckpointError(f"{where}: {name} is {value!r}, must be below {LARGEST:g}")
    return value


def parse_config(raw: Mapping[str, Any], where: Path) -> ModelConfig:
    """Turn the content of a `config.json` into a `ModelConfig`; missing keys take the published
    defaults."""
    if raw.get("model_type") != "hgrn_bit":
        raise CheckpointError(
            f"{where}: model_type is {raw.get('model_type')!r}, must be 'hgrn_bit'"
        )
    for name, only in (("attn_mode", "fused_recurrent"), ("use_short_conv", False)):
        if raw.get(name, only) != only:
            raise CheckpointError(
                f"{where}: {name} is {raw[name]!r}, must be {only!r} (the published code runs "
                "no other)"
            )
    number, maybe_int = (int, float), (int, type(None))
    hidden = _field(raw, "hidden_size", 2048, (int,), where)
    ratio = _field(raw, "hidden_ratio", 4, (int, float, type(None)), where)
    intermediate = _field(raw, "intermediate_size", None, maybe_int, where)
    config = ModelConfig(
        vocab_size=_field(raw, "vocab_size", 32000, (int,), where),
        hidden_size=hidden,
        num_hidden_layers=_field(raw, "num_hidden_layers", 24, (int,), where),
        num_heads=_field(raw, "num_heads", 1, (int,), where),
        expand_ratio=_field(raw, "expand_ratio", 1, number, where),
        use_lower_bound=_field(raw, "use_lower_bound", True, (bool,), where),
        intermediate_size=default_intermediate_size(hidden, 4 if ratio is None else ratio)
        if intermediate is None
        else intermediate,
        rms_norm_eps=float(_field(raw, "rms_norm_eps", 1e-6, number, where)),
        tie_word_embeddings=_field(raw, "tie_word_embeddings", False, (bool,), where),
        bos_token_id=_field(raw, "bos_token_id", 1, maybe_int, where),
        eos_token_id=_field(raw, "eos_token_id", 2, maybe_int, where),
    )
    for name in (
        "vocab_size",
        "hidden_size",
        "num_hidden_layers",
        "num_heads",
        "intermediate_size",
        "expand_ratio",
        "state_size",
    ):
        if getattr(config, name) <= 0:
            raise CheckpointError(f"{where}: {name} is {getattr(config, name)}, must be positive")
    if not 0 < config.rms_norm_eps < 1:
        raise CheckpointError(
            f"{where}: rms_norm_eps is {config.rms_norm_eps}, must be between 0 and 1"
        )
    if config.state_size % config.num_heads:
        raise CheckpointError(
            f"{where}: num_heads is {config.num_heads}, must divide the state size "
            f"{config.state_size}"
        )
    if config.use_lower_bound and config.state_size != config.hidden_size:
        raise CheckpointError(
            f"{where}: expand_ratio is {config.expand_ratio}, must be 1 with use_lower_bound"
        )
    return config


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
    try:
        stored = np.fromfile(
            path, np.dtype(_KINDS[dtype]).newbyteorder("<"), math.prod(shape), offset=offset
        )
    except OSError as error:
        raise CheckpointError(f"{path}: no longer readable ({error.strerror})") from None
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
    try:
        with safetensors.safe_open(
            path, framework="numpy"
        ) as file:  # checks that the tensors fill the file, in order
            slices = [(name, file.get_slice(name)) for name in file.offset_keys()]
            kinds = [
                (name, str(part.get_dtype()), tuple(part.get_shape())) for name, part in slices
            ]
        with path.open("rb") as header:
            offset = 8 + int.from_bytes(header.read(8), "little")
    except FileNotFoundError:
        raise CheckpointError(f"{path}: no such file") from None
    except (OSError, safetensors.SafetensorError) as error:
        raise CheckpointError(f"{path}: not readable as safetensors ({error})") from None
    entries: dict[str, StoredTensor] = {}
    for name, dtype, shape in kinds:
        if dtype not in _KINDS:
            raise CheckpointError(
                f"{path}: {name}: stored as {dtype}, must be one of BF16, F16, F32, F64"
            )
        entries[name] = StoredTensor(shape, partial(_load, path, dtype, shape, offset))
        offset += math.prod(shape) * np.dtype(_KINDS[dtype]).itemsize
    return entries


def read_tokenizer(folder: Path) -> str | None:
    """The content of a folder's `tokenizer.json`, None where there is none."""
    path = folder / "tokenizer.json"
    try:
        return path.read_text(encoding="utf-8")
    except FileNotFoundError:
        return None
    except (OSError, UnicodeDecodeError) as error:
        raise CheckpointError(f"{path}: not readable as JSON ({error})") from None


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


def _check(entries: Entries, config: ModelConfig, where: Path) -> Iterator[str]:
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


def read(folder: Path, load_bin: LoadBin) -> Checkpoint:
    """Open a published folder; `load_bin` opens one `.bin` file (it needs torch, which this module
    does not import).

    Raises CheckpointError for whatever is missing, extra, misshapen or of another type.  The values
    are read, and found finite or not, by the look-ups in `tensors`.
    """
    config = parse_config(_read_json(folder / "config.json"), folder / "config.json")
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


def to_bfloat16(x: Float32) -> NDArray[np.uint16]:
    """The bfloat16 bit patterns nearest to finite float32 values, halves to even."""
    bits = x.view(np.uint32)
    return (
        (bits + np.uint32(0x7FFF) + ((bits >> np.uint32(16)) & np.uint32(1))) >> np.uint32(16)
    ).astype(np.uint16)


def config_json(config: ModelConfig, dtype: str) -> dict[str, Any]:
    """The content of a published `config.json` for this model."""
    return {
        "architectures": ["HGRNBitForCausalLM"],
        "attn_mode": "fused_recurrent",
        "bos_token_id": config.bos_token_id,
        "conv_size": 4,
        "eos_token_id": config.eos_token_id,
        "expand_ratio": config.expand_ratio,
        "fuse_cross_entropy": True,
        "hidden_act": "swish",
        "hidden_ratio": 4,
        "hidden_size": config.hidden_size,
        "initializer_range": 0.02,
        "intermediate_size": config.intermediate_size,
        "max_position_embeddings": 2048,
        "model_type": "hgrn_bit",
        "num_heads": config.num_heads,
        "num_hidden_layers": config.num_hidden_layers,
        "rms_norm_eps": config.rms_norm_eps,
        "share_conv_kernel": True,
        "tie_word_embeddings": config.tie_word_embeddings,
        "torch_dtype": dtype,
        "use_cache": True,
        "use_lower_bound": config.use_lower_bound,
        "use_short_conv": False,
        "vocab_size": config.vocab_size,
    }


def _safetensors(tensors: Mapping[str, Float32], dtype: str) -> bytes:
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


def write(folder: Path, checkpoint: Checkpoint, dtype: str = "bfloat16") -> None:
    """Write a checkpoint in the published format, bfloat16 or float32; each file appears whole or
    not at all."""
    folder.parent.mkdir(parents=True, exist_ok=True)
    with tempfile.TemporaryDirectory(dir=folder.parent, prefix=f".{folder.name}-") as scratch:
        config = json.dumps(config_json(checkpoint.config, dtype), indent=2, sort_keys=True)
        (Path(scratch) / "config.json").write_text(config + "\n", encoding="utf-8")
        (Path(scratch) / "model.safetensors").write_bytes(_safetensors(checkpoint.tensors, dtype))
        folder.mkdir(exist_ok=True)
        for path in Path(scratch).iterdir():
            os.replace(path, folder / path.name)
