"""A model whose ternary weights are packed at two bits from the moment of loading, ready for
inference on a GPU.

Weights are `bitlinear.packed` words; gains, bounds and scales are float32; the embedding is int8
with one step a word, or bfloat16.  The words of all blocks and of the head lie in one tensor, one
block behind the other, and so do all vectors: a kernel that goes through all blocks finds
everything from two addresses.
"""

from collections.abc import Callable
from dataclasses import dataclass
from functools import partial
from math import prod
from typing import Literal

import numpy as np
import torch
from torch import Tensor

from mmfree_kernels.float_model.model import lower_bounds
from mmfree_kernels.ops.bitlinear.packed import words
from mmfree_neuro.errors import InputError
from mmfree_neuro.hgrn_bit.config import ModelConfig
from mmfree_neuro.hgrn_bit.names import pack_weight
from mmfree_neuro.integers.ternary import TILE
from mmfree_neuro.lowering.ternarise import TernaryWeight
from mmfree_neuro.model.checkpoint import Checkpoint

EmbeddingKind = Literal["int8", "bfloat16"]
DENSITY = 2 / 3
"""The share of weights of a random model that are not zero; about that of the published ones."""


@dataclass(frozen=True, eq=False)
class Linear:
    """Stacked BitLinear layers on one input: packed weights [tiles, groups, 16], gains [P, in] and
    scales [P]."""

    weights: Tensor
    gains: Tensor
    scales: Tensor


@dataclass(frozen=True, eq=False)
class Layer:
    """One block."""

    attn_norm: Tensor  # [hidden]
    mixer_in: Linear  # i, f, g
    bound: Tensor | None  # [state]
    g_norm: Tensor  # [state]
    mixer_out: Linear
    mlp_norm: Tensor  # [hidden]
    channel_in: Linear  # gate above up, one layer of 2 · width rows
    channel_out: Linear


@dataclass(frozen=True, eq=False)
class PackedModel:
    """All of a model on one device."""

    config: ModelConfig
    words: Tensor  # of the blocks and the head; what follows has views of it
    vectors: Tensor  # of the blocks, the last norm and the head
    embedding: Tensor  # [vocabulary, hidden], int8 or bfloat16
    steps: Tensor | None  # [vocabulary], what one step of an int8 embedding is worth
    layers: tuple[Layer, ...]
    norm: Tensor  # [hidden]
    head: Linear

    @property
    def layer_words(self) -> int:
        """How many words a block has."""
        return _block_sizes(self.config)[0]

    @property
    def layer_vectors(self) -> int:
        """How many values all vectors of a block have."""
        return _block_sizes(self.config)[1]

    @property
    def device(self) -> torch.device:
        """Where the model is."""
        return self.embedding.device

    @property
    def weights_bytes(self) -> int:
        """What all of it takes, in bytes."""
        return sum(t.nbytes for t in (self.words, self.vectors, *self._table()))

    def _table(self) -> list[Tensor]:
        return [self.embedding] if self.steps is None else [self.embedding, self.steps]

    def zero_state(self, batch: int) -> Tensor:
        """The state before the first token: float32 [layers, batch, state]."""
        return torch.zeros(
            self.config.num_hidden_layers, batch, self.config.state_size, device=self.device
        )


def check_tokens(tokens: Tensor, batch: int) -> None:
    """Raise ValueError unless tokens are int64 [batch, at least 1]."""
    if (
        tokens.dtype != torch.int64
        or tokens.dim() != 2
        or len(tokens) != batch
        or not tokens.numel()
    ):
        raise ValueError(
            f"tokens are {tokens.dtype} {list(tokens.shape)}, must be int64 [{batch}, at least 1]"
        )


SCALES = 16
"""Scales of a block: those of its four layers begin at 0, 4, 8 and 12."""


def _block_sizes(config: ModelConfig) -> tuple[int, int]:
    """Words and vector values of a block."""
    hidden, inner, width = config.hidden_size, config.state_size, config.intermediate_size
    words = (4 * hidden * inner + 3 * hidden * width) // TILE
    return words, 6 * hidden + 3 * inner + width + SCALES


class _Shelf:
    """A tensor that is handed out piece by piece."""

    def __init__(self, size: int, dtype: torch.dtype, device: torch.device) -> None:
        self.all, self.used = torch.zeros(size, dtype=dtype, device=device), 0

    def take(self, *shape: int) -> Tensor:
        """The next piece, of that shape."""
        size = prod(shape)
        self.used += size
        return self.all[self.used - size : self.used].view(shape)


Gain = Callable[[str], Tensor]
Weight = Callable[[str, int, int], tuple[Tensor, float]]
"""The packed words and the scale of a weight by its name, rows and columns; the last tile may lack
rows."""


def _assemble(
    config: ModelConfig,
    gain: Gain,
    weight: Weight,
    bounds: list[Tensor | None],
    embedding: Tensor,
    steps: Tensor | None,
) -> PackedModel:
    hidden, inner, width = config.hidden_size, config.state_size, config.intermediate_size
    for what, size in (("hidden size", hidden), ("state size", inner), ("gate width", width)):
        if size % TILE:
            raise InputError(
                f"the {what} is {size}, must be a multiple of {TILE} for packed weights"
            )
    block_words, block_vectors = _block_sizes(config)
    layers, head_tiles = config.num_hidden_layers, -(-config.vocab_size // TILE)
    words = _Shelf(layers * block_words + head_tiles * hidden, torch.int32, embedding.device)
    vectors = _Shelf(layers * block_vectors + 2 * hidden + 4, torch.float32, embedding.device)

    def put(size: int, name: str) -> Tensor:
        return vectors.take(size).copy_(gain(name))

    def linear(names: list[str], rows: int, columns: int) -> tuple[Tensor, Tensor]:
        """Words and gains of layers on one input; their scales are still to come."""
        tiles = -(-rows // TILE)
        packed = words.take(len(names) * tiles, columns // TILE, TILE)
        gains = vectors.take(len(names), columns)
        for number, name in enumerate(names):
            found, scale = weight(f"{name}.weight", rows, columns)
            packed[number * tiles : (number + 1) * tiles] = found
            gains[number] = gain(f"{name}.norm.weight")
            scales.append(scale)
        return packed, gains

    def layer(number: int) -> Layer:
        name = f"model.layers.{number}"
        attn_norm = put(hidden, f"{name}.attn_norm.weight")
        mixer_in = linear([f"{name}.attn.{p}_proj" for p in "ifg"], inner, hidden)
        g_norm = put(inner, f"{name}.attn.g_norm.weight")
        mixer_out = linear([f"{name}.attn.o_proj"], hidden, inner)
        mlp_norm = put(hidden, f"{name}.mlp_norm.weight")
        channel_in = linear([f"{name}.mlp.gate_proj"], 2 * width, hidden)
        channel_out = linear([f"{name}.mlp.down_proj"], hidden, width)
        bound, found = vectors.take(inner), bounds[number]
        if found is not None:
            bound.copy_(found)
        of_three, *of_one = vectors.take(4, SCALES // 4)
        of_three[:3] = torch.tensor(scales[:3])
        for scale, place in zip(scales[3:], of_one, strict=True):
            place[0] = scale
        scales.clear()
        return Layer(
            attn_norm,
            Linear(*mixer_in, of_three[:3]),
            bound if found is not None else None,
            g_norm,
            Linear(*mixer_out, of_one[0][:1]),
            mlp_norm,
            Linear(*channel_in, of_one[1][:1]),
            Linear(*channel_out, of_one[2][:1]),
        )

    scales = list[float]()
    blocks = tuple(layer(number) for number in range(layers))
    norm = put(hidden, "model.norm.weight")
    head = linear(["lm_head"], config.vocab_size, hidden)
    of_head = vectors.take(4)
    of_head[0] = scales[0]
    return PackedModel(
        config, words.all, vectors.all, embedding, steps, blocks, norm, Linear(*head, of_head[:1])
    )


def _embedding(table: Tensor, kind: EmbeddingKind) -> tuple[Tensor, Tensor | None]:
    """The table [vocabulary, hidden] as stored, and the steps of its rows."""
    if kind == "bfloat16":
        return table.to(torch.bfloat16), None
    steps = table.abs().amax(1).clamp(min=1e-12) / 127
    return (table / steps[:, None]).round().to(torch.int8), steps


def from_checkpoint(
    checkpoint: Checkpoint, device: torch.device | str, embedding: EmbeddingKind = "int8"
) -> PackedModel:
    """The packed model of a checkpoint; one tensor is in memory as floats at a time.

    Raises InputError where a size is no multiple of 16.
    """
    config = checkpoint.config

    def gain(name: str) -> Tensor:
        return torch.from_numpy(np.ascontiguousarray(checkpoint.tensors[name], np.float32)).to(
            device
        )

    def weight(name: str, _rows: int, _columns: int) -> tuple[Tensor, float]:
        found: TernaryWeight = pack_weight(checkpoint, name)
        packed = [words(part, device) for part in found.parts]
        return packed[0] if len(packed) == 1 else torch.cat(packed), found.scale

    bounds: list[Tensor | None] = [None] * config.num_hidden_layers
    if config.use_lower_bound:
        bounds = lower_bounds(gain("model.lower_bounds"))
    table, steps = _embedding(
        torch.from_numpy(checkpoint.tensors["model.embeddings.weight"]), embedding
    )
    return _assemble(
        config, gain, weight, bounds, table.to(device), None if steps is None else steps.to(device)
    )


def random(
    config: ModelConfig,
    device: torch.device | str,
    seed: int = 0,
    embedding: EmbeddingKind = "int8",
) -> PackedModel:
    """A model of random weights, made on the device: for speed and memory, which do not depend on
    what it learned."""
    generator = torch.Generator(device).manual_seed(seed)
    uniform = partial(torch.rand, generator=generator, device=device)

    def gain(name: str) -> Tensor:
        sizes = {
            "o_proj.norm.weight": config.state_size,
            "g_norm.weight": config.state_size,
            "down_proj.norm.weight": config.intermediate_size,
        }
        size = next((n for end, n in sizes.items() if name.endswith(end)), config.hidden_size)
        return 0.8 + 0.4 * uniform(size)

    def weight(_name: str, rows: int, columns: int) -> tuple[Tensor, float]:
        tiles, groups = -(-rows // TILE), columns // TILE
        packed = torch.empty(tiles, groups, TILE, 4, dtype=torch.uint8, device=device)
        for some in packed.split(max(1, (1 << 14) // groups)):
            drawn = uniform(*some.shape, 4)  # one of two thirds is +1 or -1
            codes = torch.where(drawn < DENSITY, 2 * (drawn < DENSITY / 2), 1).to(torch.uint8)
            some.copy_(
                (codes << torch.tensor([0, 2, 4, 6], device=device, dtype=torch.uint8)).sum(-1)
            )
        return packed.view(torch.int32)[..., 0], (DENSITY * columns) ** -0.5

    bounds: list[Tensor | None] = [None] * config.num_hidden_layers
    if config.use_lower_bound:
        bounds = lower_bounds(
            torch.zeros(config.num_hidden_layers, config.state_size, device=device)
        )
    shape = config.vocab_size, config.hidden_size
    if embedding == "bfloat16":
        table = torch.empty(shape, dtype=torch.bfloat16, device=device).normal_(generator=generator)
        return _assemble(config, gain, weight, bounds, table, None)
    codes = torch.randint(-127, 128, shape, dtype=torch.int8, generator=generator, device=device)
    return _assemble(
        config, gain, weight, bounds, codes, torch.full(shape[:1], 1 / 64, device=device)
    )
