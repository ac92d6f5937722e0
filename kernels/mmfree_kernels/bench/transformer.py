"""The opponent: a Transformer++ of the same shape, written for speed.

Blocks as in Llama: RMSNorm before attention with rotary positions and before SwiGLU, no biases, a
head of its own. With hidden size H and gate width I a block has 4 H² + 3 H I weights, as many as a
block of the MatMul-free model, so the shape table of that model is this one's too.  Weights are
joined where they share an input (query, key and value; gate and up).  `transformer_work` compiles,
captures and checks it.
"""

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

    def sequence(self, tokens: Tensor) -> tuple[Tensor, Cache]:
        """What enters the head [batch, time, hidden] for tokens [batch, time] from the start, and
        the cache."""
        x, cache = functional.embedding(tokens, self.embedding), []
        turn = self.rotations(torch.arange(tokens.shape[1], device=tokens.device))
        for block in self.blocks:
            q, k, v = self.heads(x, block, turn)
            x = self.mix(x, block, functional.scaled_dot_product_attention(q, k, v, is_causal=True))
            cache.append((k, v))
        return rms_norm(x, self.norm), cache

    def prefill(self, tokens: Tensor) -> tuple[Tensor, Cache]:
        """Logits [batch, vocabulary] after the last token, and the cache."""
        x, cache = self.sequence(tokens)
        return functional.linear(x[:, -1], self.head), cache

    def next_token(self, tokens: Tensor, position: Tensor, cache: Cache) -> Tensor:
        """Logits [batch, vocabulary] after one more token [batch] at `position` [1].

        The cache is a ring: the token takes the place of the oldest, and attends to all that is
        then in the ring.
        """
        x, turn = functional.embedding(tokens[:, None], self.embedding), self.rotations(position)
        slot = position % cache[0][0].shape[2]
        for block, (keys, values) in zip(self.blocks, cache, strict=True):
            q, k, v = self.heads(x, block, turn)
            keys[:, :, slot] = k
            values[:, :, slot] = v
            x = self.mix(x, block, functional.scaled_dot_product_attention(q, keys, values))
        return functional.linear(rms_norm(x, self.norm)[:, 0], self.head)

    def advance(self, tokens: Tensor, position: Tensor, cache: Cache) -> Tensor:
        """`next_token`, which then leaves the greedy following tokens and their position in
        `tokens` and `position`."""
        logits = self.next_token(tokens, position, cache)
        tokens.copy_(logits.argmax(-1))
        position.add_(1)
        return logits

    def loss(self, tokens: Tensor) -> Tensor:
        """Mean nats per predicted token of tokens [batch, time + 1]."""
        x, _ = self.sequence(tokens[:, :-1])
        logits = functional.linear(x, self.head).float().flatten(0, 1)
        return functional.cross_entropy(logits, tokens[:, 1:].flatten())


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
