"""The float model: what a published checkpoint computes, in plain torch, full pass or with a
carried state.

A means to an end: it trains, it calibrates, and it is what the integers are compared with.  Its
`tap` sees every activation by name and may replace it, which is how ranges are calibrated and
approximations are priced.
"""

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Any, TypeVar

import numpy as np
import torch
from torch import Tensor, nn

from mmfree_kernels.ops.bitlinear.naive import bit_product, code_product, rms_norm
from mmfree_kernels.ops.mlgru.naive import recurrence
from mmfree_neuro.errors import RangeError
from mmfree_neuro.hgrn_bit.config import BITLINEAR_EPS, ModelConfig
from mmfree_neuro.model.checkpoint import Checkpoint
from mmfree_neuro.model.tensors import Float32

Tap = Callable[[str, Tensor], Tensor]
Result = TypeVar("Result")


def untouched(_name: str, value: Tensor) -> Tensor:
    """The tap that changes nothing."""
    return value


def finite(name: str, value: Tensor) -> Tensor:
    """The tap that changes nothing, and raises RangeError at the first activation that is not
    finite."""
    low, high = value.aminmax() if value.numel() else (value.sum(), value.sum())
    if not (torch.isfinite(low) and torch.isfinite(high)):
        wrong = value.numel() - int(torch.isfinite(value).sum())
        raise RangeError(
            f"{name}: {wrong} of {value.numel()} values that the float model computes are not "
            "finite, must all be"
        )
    return value


@dataclass(frozen=True)
class Numerics:
    """How the float model computes: what a tap sees, and what the approximations of an integer
    model replace."""

    tap: Tap = untouched
    quantise: bool = True
    """Quantise activations to 8 bits per token, as the model was trained."""
    sigmoid: Callable[[Tensor], Tensor] = torch.sigmoid
    norm: Callable[[Tensor, Tensor, float], Tensor] = rms_norm
    recurrence: Callable[[Tensor, Tensor, Tensor], Tensor] = recurrence
    product_dtype: torch.dtype = torch.float32


class Gain(nn.Module):
    """The gains [size] of a norm."""

    def __init__(self, size: int) -> None:
        super().__init__()
        self.weight = nn.Parameter(torch.ones(size))


class BitLinear(nn.Linear):
    """A BitLinear layer: latent weight [out, in] and the gains [in] of its own norm.

    Where nothing is trained, `frozen` may stand for the weight: its codes [out, in], as floats, and
    its scale.
    """

    frozen: tuple[Tensor, float] | None = None

    def __init__(self, size_in: int, size_out: int) -> None:
        super().__init__(size_in, size_out, bias=False)
        self.norm = Gain(size_in)

    def reset_parameters(self) -> None:
        """Leave the weight as memory is: a checkpoint fills it, or `initialise`."""

    def forward(  # type: ignore[override]  # a layer of this model, to others a linear one
        self, x: Tensor, name: str, numerics: Numerics, weight: Tensor | None = None
    ) -> Tensor:
        y = numerics.tap(f"{name}.in", numerics.norm(x, self.norm.weight, BITLINEAR_EPS))
        if self.frozen is not None:
            return code_product(
                y, *self.frozen, quantise=numerics.quantise, dtype=numerics.product_dtype
            )
        latent = self.weight if weight is None else weight
        return bit_product(y, latent, quantise=numerics.quantise, dtype=numerics.product_dtype)


class Unit(nn.Module):
    """A module whose weights may have to be gathered before it computes."""

    def run(self, function: Callable[..., Result], *values: Any) -> Result:
        """What a function of this module and the values gives, where its own `forward` is not
        meant."""
        return function(self, *values)


class Head(BitLinear, Unit):
    """The layer that gives logits."""


class TokenMixer(nn.Module):
    """The MLGRU: input, forget and gate projections, the recurrence, and the output projection."""

    def __init__(self, config: ModelConfig) -> None:
        super().__init__()
        hidden, state = config.hidden_size, config.state_size
        self.eps = config.rms_norm_eps
        self.i_proj, self.f_proj, self.g_proj = (BitLinear(hidden, state) for _ in range(3))
        self.g_norm = Gain(state)
        self.o_proj = BitLinear(state, hidden)

    def forward(
        self,
        x: Tensor,
        lower_bound: Tensor | None,
        mask: Tensor | None,
        initial: Tensor,
        name: str,
        numerics: Numerics,
    ) -> tuple[Tensor, Tensor]:
        tap, sigmoid = numerics.tap, numerics.sigmoid
        i = tap(f"{name}.i", self.i_proj(x, f"{name}.i_proj", numerics))
        f = sigmoid(tap(f"{name}.f", self.f_proj(x, f"{name}.f_proj", numerics)))
        g = tap(f"{name}.g", self.g_proj(x, f"{name}.g_proj", numerics))
        if lower_bound is not None:
            f = lower_bound + (1 - lower_bound) * f
        c = i * sigmoid(i) * (1 - f)
        if mask is not None:
            c = c * mask[:, :, None]
        h = tap(f"{name}.h", numerics.recurrence(f, c, initial))
        v = tap(f"{name}.v", numerics.norm(g, self.g_norm.weight, self.eps) * h * sigmoid(h))
        return tap(f"{name}.o", self.o_proj(v, f"{name}.o_proj", numerics)), h[:, -1].clone()


class ChannelMixer(nn.Module):
    """The gated linear unit: silu(gate) · up, projected down."""

    def __init__(self, config: ModelConfig) -> None:
        super().__init__()
        self.gate_proj = BitLinear(config.hidden_size, 2 * config.intermediate_size)
        self.down_proj = BitLinear(config.intermediate_size, config.hidden_size)

    def forward(self, x: Tensor, name: str, numerics: Numerics) -> Tensor:
        gate, up = numerics.tap(
            f"{name}.gate_up", self.gate_proj(x, f"{name}.gate_proj", numerics)
        ).chunk(2, -1)
        v = numerics.tap(f"{name}.v", gate * numerics.sigmoid(gate) * up)
        return numerics.tap(f"{name}.down", self.down_proj(v, f"{name}.down_proj", numerics))


class Block(Unit):
    """One block: token mixer and channel mixer, each behind a norm and a residual connection."""

    def __init__(self, config: ModelConfig) -> None:
        super().__init__()
        self.eps = config.rms_norm_eps
        self.attn_norm, self.attn = Gain(config.hidden_size), TokenMixer(config)
        self.mlp_norm, self.mlp = Gain(config.hidden_size), ChannelMixer(config)

    def forward(
        self,
        x: Tensor,
        lower_bound: Tensor | None,
        mask: Tensor | None,
        initial: Tensor,
        name: str,
        numerics: Numerics,
    ) -> tuple[Tensor, Tensor]:
        mixer_in = numerics.norm(x, self.attn_norm.weight, self.eps)
        mixed, state = self.attn(mixer_in, lower_bound, mask, initial, f"{name}.attn", numerics)
        x = numerics.tap(f"{name}.attn.x", x + mixed)
        mlp = self.mlp(numerics.norm(x, self.mlp_norm.weight, self.eps), f"{name}.mlp", numerics)
        return numerics.tap(f"{name}.mlp.x", x + mlp), state


class Body(nn.Module):
    """All but the head."""

    def __init__(self, config: ModelConfig) -> None:
        super().__init__()
        self.embeddings = nn.Embedding(config.vocab_size, config.hidden_size)
        if config.use_lower_bound:
            self.lower_bounds = nn.Parameter(
                torch.zeros(config.num_hidden_layers, config.hidden_size)
            )
        self.layers = nn.ModuleList(Block(config) for _ in range(config.num_hidden_layers))
        self.norm = Gain(config.hidden_size)

    def bounds(self) -> list[Tensor | None]:
        """The forget gate's lower bound of each block [state], None for a block without one."""
        latent = getattr(self, "lower_bounds", None)
        return [None] * len(self.layers) if latent is None else lower_bounds(latent)


def zero_state(config: ModelConfig, batch: int, device: torch.device) -> Tensor:
    """The state before the first token: [layers, batch, state]."""
    return torch.zeros(config.num_hidden_layers, batch, config.state_size, device=device)


def lower_bounds(latent: Tensor) -> list[Tensor | None]:
    """The forget gate's lower bound of each block [state] from the latent ones [layers, state]; the
    first has none."""
    p = latent.float().softmax(0)
    return [None, *(p.cumsum(0) - p[0])[1:]]


class HGRNBitModel(Unit):
    """The whole model; parameter names are those of the published state dict."""

    def __init__(self, config: ModelConfig) -> None:
        super().__init__()
        self.config = config
        self.model = Body(config)
        self.lm_head = Head(config.hidden_size, config.vocab_size)
        if config.tie_word_embeddings:
            shared = self.model.embeddings.weight
            assert isinstance(shared, nn.Parameter)
            self.lm_head.weight = shared

    def initialise(self, seed: int) -> None:
        """Set fresh parameters as the published code does (xavier for the mixer, normal .02
        elsewhere)."""
        generator = torch.Generator().manual_seed(seed)
        for name, parameter in self.named_parameters():
            with torch.no_grad():
                initialise(name, parameter, self.config.num_hidden_layers, generator=generator)

    def lower_bounds(self) -> list[Tensor | None]:
        """The forget gate's lower bound of each block [state], None for a block without one."""
        return self.model.bounds()

    def zero_state(self, batch: int) -> Tensor:
        """The state before the first token: [layers, batch, state]."""
        return zero_state(self.config, batch, self.lm_head.norm.weight.device)

    def forward(
        self,
        tokens: Tensor,
        state: Tensor | None = None,
        mask: Tensor | None = None,
        numerics: Numerics = Numerics(),
    ) -> tuple[Tensor, Tensor]:
        """Logits [batch, time, vocab] of tokens [batch, time] and the state after them [layers,
        batch, state].

        `state` is what an earlier call returned; any cut of a sequence into calls gives the same
        result.  `mask` [batch, time] is 0 at left padding.
        """
        x = self.model.embeddings(tokens)
        return through(self.config, self.model, self.lm_head, x, state, mask, numerics)


def through(
    config: ModelConfig,
    body: Body,
    head: nn.Module,
    x: Tensor,
    state: Tensor | None,
    mask: Tensor | None,
    numerics: Numerics,
    keep: int = 0,
) -> tuple[Tensor, Tensor]:
    """Logits of embedded tokens x [batch, time, hidden] and the state after them, as
    `HGRNBitModel.forward` has them; those of the last `keep` tokens alone, of all where it is 0."""
    x = numerics.tap("embeddings.x", x.float())
    state = zero_state(config, len(x), x.device) if state is None else state
    mask = None if mask is None else mask.float()
    states = []
    for layer, (block, bound) in enumerate(zip(body.layers, body.bounds(), strict=True)):
        x, last = block(x, bound, mask, state[layer], f"layers.{layer}", numerics)
        states.append(last)
    weight = body.embeddings.weight if config.tie_word_embeddings else None
    head_in = numerics.norm(x[:, -keep:], body.norm.weight, config.rms_norm_eps)
    logits = numerics.tap("logits", head(head_in, "lm_head", numerics, weight))
    return logits, torch.stack(states)


def initialise(
    name: str,
    parameter: Tensor,
    layers: int,
    spread: float = 0.02,
    generator: torch.Generator | None = None,
) -> None:
    """Set a matrix afresh, by its name, as the published code does; leave any other parameter."""
    if ".attn." in name and name.endswith("proj.weight"):
        nn.init.xavier_uniform_(parameter, gain=2**-2.5, generator=generator)
    elif name.endswith("down_proj.weight"):
        nn.init.normal_(parameter, std=spread / (2 * layers) ** 0.5, generator=generator)
    elif name.endswith(("gate_proj.weight", "lm_head.weight", "embeddings.weight")):
        nn.init.normal_(parameter, std=spread, generator=generator)


def from_checkpoint(checkpoint: Checkpoint) -> HGRNBitModel:
    """The float32 model of a checkpoint, ready for inference."""
    model = HGRNBitModel(checkpoint.config)
    tensors: Mapping[str, Float32] = checkpoint.tensors
    state = {name: torch.from_numpy(np.ascontiguousarray(value)) for name, value in tensors.items()}
    if checkpoint.config.tie_word_embeddings:
        state["lm_head.weight"] = state["model.embeddings.weight"]
    model.load_state_dict(state)
    return model.eval()


def to_checkpoint(model: HGRNBitModel) -> Checkpoint:
    """The parameters of a model as a checkpoint, float32."""
    state = model.state_dict()
    return Checkpoint(
        model.config,
        {name: state[name].float().cpu().numpy().copy() for name in model.config.shapes()},
    )
