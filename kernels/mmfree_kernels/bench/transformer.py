"""The opponent: a Transformer++ of the same shape, written for speed.

Blocks as in Llama: RMSNorm before attention with rotary positions and before SwiGLU, no biases, a
head of its own. With hidden size H and gate width I a block has 4 H² + 3 H I weights, as many as a
block of the MatMul-free model, so the shape table of that model is this one's too.  Weights are
joined where they share an input (query, key and value; gate and up).  `transformer_work` compiles,
captures and checks it.
"""

from collections.abc import Callable
from copy import copy
from itertools import pairwise
from typing import Any, NamedTuple

import torch
from torch import Tensor
from torch.nn import functional

from mmfree_neuro.errors import InputError
from mmfree_neuro.hgrn_bit.config import ModelConfig

ROPE_BASE = 10_000.0
SPREAD = 0.02
HEAD_SIZES = (128, 64, 32, 16)

Cache = list[tuple[Tensor, Tensor]]
"""Keys and values of every block [batch, heads, length, head size]."""
Stage = Callable[..., Any]


class Stages(NamedTuple):
    """What a pass consists of, cut where heads attend: everything between two attentions, and the
    second of them, is one stage."""

    first: Stage
    middle: Stage
    last_logits: Stage
    last_choice: Stage
    last_loss: Stage


def head_size(config: ModelConfig) -> int:
    """64 for hidden sizes to 1024, else 128, as usual for models of these sizes; less where that
    does not divide it.

    Raises InputError where no head size of at least 16 does.
    """
    usual = 64 if config.hidden_size <= 1024 else 128
    found = next(
        (size for size in HEAD_SIZES if size <= usual and config.hidden_size % size == 0), None
    )
    if found is None:
        raise InputError(
            f"the hidden size is {config.hidden_size}, must be a multiple of 16 for a Transformer++"
        )
    return found


class Transformer:
    """The weights and what is computed from them; `dtype` is that of all of it but norms and
    logits' loss."""

    def __init__(
        self, config: ModelConfig, device: torch.device, dtype: torch.dtype, seed: int = 0
    ) -> None:
        generator = torch.Generator(device).manual_seed(seed)
        hidden, gate, vocabulary = config.hidden_size, config.intermediate_size, config.vocab_size

        def draw(*shape: int, spread: float = SPREAD) -> Tensor:
            return torch.empty(shape, dtype=dtype, device=device).normal_(
                0, spread, generator=generator
            )

        self.config, self.head_size = config, head_size(config)
        deep = SPREAD / (2 * config.num_hidden_layers) ** 0.5
        self.embedding, self.head = draw(vocabulary, hidden), draw(vocabulary, hidden)
        self.blocks = [
            {
                "attention_norm": torch.ones(hidden, dtype=dtype, device=device),
                "query_key_value": draw(3 * hidden, hidden),
                "output": draw(hidden, hidden, spread=deep),
                "mlp_norm": torch.ones(hidden, dtype=dtype, device=device),
                "gate_up": draw(2 * gate, hidden),
                "down": draw(hidden, gate, spread=deep),
            }
            for _ in range(config.num_hidden_layers)
        ]
        self.norm = torch.ones(hidden, dtype=dtype, device=device)
        frequency = ROPE_BASE ** (
            -torch.arange(0, self.head_size, 2, device=device).double() / self.head_size
        )
        self.frequency = frequency.float()  # [head size / 2]
        self.stages = self._plain()

    def _plain(self) -> Stages:
        return Stages(self.first, self.middle, self.last_logits, self.last_choice, self.last_loss)

    def weights(self) -> list[Tensor]:
        """Every tensor that was drawn."""
        return [
            self.embedding,
            self.head,
            self.norm,
            *(weight for block in self.blocks for weight in block.values()),
        ]

    def weights_bytes(self) -> int:
        """What they take."""
        return sum(weight.nbytes for weight in self.weights())

    def to(self, dtype: torch.dtype) -> "Transformer":
        """The same weights in another type, copied."""
        other = object.__new__(Transformer)
        other.config, other.head_size, other.frequency = self.config, self.head_size, self.frequency
        other.embedding, other.head, other.norm = (
            w.detach().to(dtype) for w in (self.embedding, self.head, self.norm)
        )
        other.blocks = [
            {name: weight.detach().to(dtype) for name, weight in block.items()}
            for block in self.blocks
        ]
        other.stages = other._plain()
        return other

    def rotations(self, positions: Tensor) -> tuple[Tensor, Tensor]:
        """Cosines and sines [time, head size / 2] of positions [time]."""
        angles = positions[:, None].float() * self.frequency
        return angles.cos(), angles.sin()

    def heads(
        self, x: Tensor, block: dict[str, Tensor], turn: tuple[Tensor, Tensor]
    ) -> tuple[Tensor, Tensor, Tensor]:
        """Queries, keys and values [batch, heads, time, head size] of x [batch, time, hidden]."""
        joined = functional.linear(rms_norm(x, block["attention_norm"]), block["query_key_value"])
        q, k, v = joined.unflatten(-1, (3, -1, self.head_size)).permute(2, 0, 3, 1, 4)
        return rotate(q, turn), rotate(k, turn), v

    def mix(self, x: Tensor, block: dict[str, Tensor], attended: Tensor) -> Tensor:
        """The rest of a block from what its heads attended to [batch, heads, time, head size]."""
        x = x + functional.linear(attended.transpose(1, 2).flatten(2), block["output"])
        gate, up = functional.linear(rms_norm(x, block["mlp_norm"]), block["gate_up"]).chunk(2, -1)
        return x + functional.linear(functional.silu(gate) * up, block["down"])

    def attend(
        self,
        x: Tensor,
        block: dict[str, Tensor],
        turn: tuple[Tensor, Tensor],
        positions: Tensor,
        ring: tuple[Tensor, Tensor] | None,
    ) -> tuple[Tensor, ...]:
        """What the heads of a block attend to [batch, heads, time, head size].

        Without a ring of keys and values each token attends to all up to itself, and keys and
        values follow in the result.  With one, a single token takes the place of the oldest in it,
        and attends to all that is then in it.
        """
        q, k, v = self.heads(x, block, turn)
        if ring is None:
            return functional.scaled_dot_product_attention(q, k, v, is_causal=True), k, v
        keys, values = ring
        slot = positions % keys.shape[2]
        keys[:, :, slot] = k
        values[:, :, slot] = v
        return (functional.scaled_dot_product_attention(q, keys, values),)

    def first(
        self,
        tokens: Tensor,
        positions: Tensor,
        block: dict[str, Tensor],
        ring: tuple[Tensor, Tensor] | None = None,
    ) -> tuple[Any, ...]:
        """The stream of tokens [batch, time], the turns of their positions [time], and what
        `attend` gives of the first block."""
        x, turn = functional.embedding(tokens, self.embedding), self.rotations(positions)
        return (x, turn, *self.attend(x, block, turn, positions, ring))

    def middle(
        self,
        x: Tensor,
        attended: Tensor,
        turn: tuple[Tensor, Tensor],
        positions: Tensor,
        block: dict[str, Tensor],
        following: dict[str, Tensor],
        ring: tuple[Tensor, Tensor] | None = None,
    ) -> tuple[Any, ...]:
        """The stream behind a block, and what `attend` gives of the following one."""
        x = self.mix(x, block, attended)
        return (x, *self.attend(x, following, turn, positions, ring))

    def last(self, x: Tensor, attended: Tensor, block: dict[str, Tensor]) -> Tensor:
        """What enters the head [batch, time, hidden]."""
        return rms_norm(self.mix(x, block, attended), self.norm)

    def last_logits(self, x: Tensor, attended: Tensor, block: dict[str, Tensor]) -> Tensor:
        """Logits [batch, vocabulary] after the last token."""
        return functional.linear(self.last(x, attended, block)[:, -1], self.head)

    def last_choice(
        self,
        x: Tensor,
        attended: Tensor,
        block: dict[str, Tensor],
        tokens: Tensor,
        position: Tensor,
    ) -> Tensor:
        """`last_logits`, which leaves the greedy following tokens and their position in `tokens`
        and `position`."""
        logits = self.last_logits(x, attended, block)
        tokens.copy_(logits.argmax(-1))
        position.add_(1)
        return logits

    def last_loss(
        self, x: Tensor, attended: Tensor, block: dict[str, Tensor], targets: Tensor
    ) -> Tensor:
        """Mean nats of targets [batch, time]."""
        logits = functional.linear(self.last(x, attended, block), self.head).float().flatten(0, 1)
        return functional.cross_entropy(logits, targets.flatten())

    def staged(self, how: Callable[[Stage], Stage]) -> "Transformer":
        """The same weights, shared, and the stages as `how` makes them.

        Blocks are equal but for their weights, so that one compiled stage serves them all.
        """
        other = copy(self)
        other.stages = Stages(*map(how, self.stages))
        return other

    def sequence(self, tokens: Tensor) -> tuple[Tensor, Tensor, Cache]:
        """The stream before the last block's mixing and what its heads attend to, of tokens
        [batch, time] from the start, and the cache."""
        positions = torch.arange(tokens.shape[1], device=tokens.device)
        x, turn, attended, *kept = self.stages.first(tokens, positions, self.blocks[0])
        cache = [(kept[0], kept[1])]
        for block, following in pairwise(self.blocks):
            x, attended, *kept = self.stages.middle(x, attended, turn, positions, block, following)
            cache.append((kept[0], kept[1]))
        return x, attended, cache

    def prefill(self, tokens: Tensor) -> tuple[Tensor, Cache]:
        """Logits [batch, vocabulary] after the last token, and the cache."""
        x, attended, cache = self.sequence(tokens)
        return self.stages.last_logits(x, attended, self.blocks[-1]), cache

    def advance(self, tokens: Tensor, position: Tensor, cache: Cache) -> Tensor:
        """Logits [batch, vocabulary] after one more token [batch] at `position` [1].

        The greedy following tokens and their position are then in `tokens` and `position`.  The
        cache is a ring, as `attend` has it.
        """
        x, turn, attended = self.stages.first(tokens[:, None], position, self.blocks[0], cache[0])
        for block, following, ring in zip(self.blocks, self.blocks[1:], cache[1:], strict=False):
            x, attended = self.stages.middle(x, attended, turn, position, block, following, ring)
        found: Tensor = self.stages.last_choice(x, attended, self.blocks[-1], tokens, position)
        return found

    def loss(self, tokens: Tensor) -> Tensor:
        """Mean nats per predicted token of tokens [batch, time + 1]."""
        x, attended, _ = self.sequence(tokens[:, :-1])
        found: Tensor = self.stages.last_loss(x, attended, self.blocks[-1], tokens[:, 1:])
        return found


def rms_norm(x: Tensor, gain: Tensor, eps: float = 1e-6) -> Tensor:
    """x [..., n] over its root mean square, times gain [n]; computed in float32, in x's type."""
    real = x.float()
    return (real * torch.rsqrt(real.square().mean(-1, keepdim=True) + eps)).to(x.dtype) * gain


def rotate(x: Tensor, turn: tuple[Tensor, Tensor]) -> Tensor:
    """Rotary positions: the two halves of x [..., time, n] turned by cosines and sines [time, n /
    2]."""
    cos, sin = turn
    a, b = x.float().chunk(2, -1)
    return torch.cat((a * cos - b * sin, a * sin + b * cos), -1).to(x.dtype)
