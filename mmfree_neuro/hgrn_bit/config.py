"""The shape and the constants of a model, and the `config.json` that holds them."""

import math
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any, ClassVar

from mmfree_neuro.errors import CheckpointError, printable, shown
from mmfree_neuro.hgrn_bit.keys import check_keys, unknown_keys

BITLINEAR_EPS = 1e-6
"""The eps inside every BitLinear: what the published kernel computes, whatever the module
prints."""


LARGEST = 1e12
"""No figure of a configuration reaches this."""
ARCHITECTURE = "HGRNBitForCausalLM"
"""The class of the published model."""
MOST_NAMES = 8
"""So many keys at most are named in a warning."""


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
    eos_token_id: int | tuple[int, ...] | None = 2
    model_type: ClassVar[str] = "hgrn_bit"

    @property
    def eos(self) -> tuple[int, ...]:
        """The tokens that end a text."""
        ids = self.eos_token_id
        return () if ids is None else ids if isinstance(ids, tuple) else (ids,)

    @property
    def state_size(self) -> int:
        """Width of the recurrent state of a block."""
        return int(self.hidden_size * self.expand_ratio)

    def shapes(self) -> dict[str, tuple[int, ...]]:
        """Name and shape of every tensor of the state dict, linear weights as [out, in]."""
        return dict(self.each_shape())

    def each_shape(self) -> Iterator[tuple[str, tuple[int, ...]]]:
        """The same, one after another: a configuration that nobody has checked may ask for more
        than memory holds."""
        v, h = self.vocab_size, self.hidden_size
        yield "model.embeddings.weight", (v, h)
        if self.use_lower_bound:
            yield "model.lower_bounds", (self.num_hidden_layers, h)
        for layer in range(self.num_hidden_layers):
            yield from self._block_shapes(f"model.layers.{layer}.").items()
        yield "model.norm.weight", (h,)
        if not self.tie_word_embeddings:
            yield "lm_head.weight", (v, h)
        yield "lm_head.norm.weight", (h,)

    def parameters(self) -> int:
        """How many values all tensors have together, without naming them."""
        v, h = self.vocab_size, self.hidden_size
        block = sum(math.prod(shape) for shape in self._block_shapes("").values())
        whole = h * (v * (1 if self.tie_word_embeddings else 2) + 2)
        return whole + self.num_hidden_layers * (block + (h if self.use_lower_bound else 0))

    def _block_shapes(self, prefix: str) -> dict[str, tuple[int, ...]]:
        h, d, i = self.hidden_size, self.state_size, self.intermediate_size
        shapes: dict[str, tuple[int, ...]] = {"attn_norm.weight": (h,), "mlp_norm.weight": (h,)}
        for name in ("attn.i_proj", "attn.f_proj", "attn.g_proj"):
            shapes |= {f"{name}.weight": (d, h), f"{name}.norm.weight": (h,)}
        shapes["attn.g_norm.weight"] = (d,)
        for name, (out, into) in (
            ("attn.o_proj", (h, d)),
            ("mlp.gate_proj", (2 * i, h)),
            ("mlp.down_proj", (h, i)),
        ):
            shapes |= {f"{name}.weight": (out, into), f"{name}.norm.weight": (into,)}
        return {f"{prefix}{name}": shape for name, shape in shapes.items()}

    def warnings(self, raw: Mapping[str, Any]) -> list[str]:
        """What a person should know of a `config.json` that can be read: what was not understood
        in it."""
        found, names = [], [printable(name[:60]) for name in unknown_keys(raw)]
        if names:
            others = f" and {len(names) - MOST_NAMES} others" * (len(names) > MOST_NAMES)
            found.append(f"unknown keys are left out: {', '.join(names[:MOST_NAMES])}{others}")
        classes = raw.get("architectures")
        if classes and classes != [ARCHITECTURE]:
            found.append(
                f"architectures is {shown(classes)}, and the model is read as {ARCHITECTURE}"
            )
        return found

    def to_json(self, dtype: str) -> dict[str, Any]:
        """The content of a published `self.json` for this model."""
        return {
            "architectures": [ARCHITECTURE],
            "attn_mode": "fused_recurrent",
            "bos_token_id": self.bos_token_id,
            "conv_size": 4,
            "eos_token_id": list(self.eos)
            if isinstance(self.eos_token_id, tuple)
            else self.eos_token_id,
            "expand_ratio": self.expand_ratio,
            "fuse_cross_entropy": True,
            "hidden_act": "swish",
            "hidden_ratio": 4,
            "hidden_size": self.hidden_size,
            "initializer_range": 0.02,
            "intermediate_size": self.intermediate_size,
            "max_position_embeddings": 2048,
            "model_type": self.model_type,
            "num_heads": self.num_heads,
            "num_hidden_layers": self.num_hidden_layers,
            "rms_norm_eps": self.rms_norm_eps,
            "share_conv_kernel": True,
            "tie_word_embeddings": self.tie_word_embeddings,
            "torch_dtype": dtype,
            "use_cache": True,
            "use_lower_bound": self.use_lower_bound,
            "use_short_conv": False,
            "vocab_size": self.vocab_size,
        }


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
        raise CheckpointError(f"{where}: {name} is {shown(value)}, must be {wanted}")
    if isinstance(value, int | float) and not abs(value) < LARGEST:
        raise CheckpointError(f"{where}: {name} is {shown(value)}, must be below {LARGEST:g}")
    return value


def _tokens(
    raw: Mapping[str, Any], name: str, default: int, where: Path
) -> int | tuple[int, ...] | None:
    """A token or several, be they in the vocabulary or not."""
    value = raw.get(name, default)
    if isinstance(value, list):
        return tuple(_field({name: item}, name, None, (int,), where) for item in value)
    token: int | None = _field(raw, name, default, (int, type(None)), where)
    return token


def parse_config(raw: Mapping[str, Any], where: Path) -> ModelConfig:
    """Turn the content of a `config.json` into a `ModelConfig`; missing keys take the published
    defaults."""
    check_keys(raw, where)
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
        eos_token_id=_tokens(raw, "eos_token_id", 2, where),
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


PUBLISHED = {
    "370m": ModelConfig(hidden_size=1024, num_hidden_layers=24, intermediate_size=2816),
    "1.3b": ModelConfig(hidden_size=2048, num_hidden_layers=24, intermediate_size=5632),
    "2.7b": ModelConfig(hidden_size=2560, num_hidden_layers=32, intermediate_size=6912),
}
"""The shapes of ridger/MMfreeLM-370M, -1.3B and -2.7B, from their `config.json`."""


FAMILY = {ModelConfig.model_type: parse_config}
"""Where no other family of checkpoints is meant."""
