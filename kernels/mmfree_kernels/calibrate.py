"""Measures, with the float model on real text, the ranges that lowering builds its formats from."""

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from mmfree_kernels.evaluate import logits
from mmfree_kernels.model import Numerics, from_checkpoint
from mmfree_neuro.checkpoint import BITLINEAR_EPS, Checkpoint
from mmfree_neuro.lower import NormGains, norms_of
from mmfree_neuro.quantize import Range, Ranges, Scheme


class _Ranges:
    """Collects ranges while the model runs; names are those that `lower` reads."""

    def __init__(self, checkpoint: Checkpoint) -> None:
        self.found: dict[str, Range] = {}
        self.norms = norms_of(checkpoint)
        self.checkpoint = checkpoint
        self.g = torch.empty(0)

    def add(self, name: str, value: Tensor) -> None:
        """Widen a range by a quantity that has one value per token."""
        low, high = float(value.min()), float(value.max())
        old = self.found.get(name, Range(low, high))
        self.found[name] = Range(float(np.minimum(old.low, low)), float(np.maximum(old.high, high)))

    def magnitude(self, name: str, value: Tensor) -> None:
        """Widen a range by the largest magnitude per token of [batch, time, n]."""
        self.add(name, value.abs().amax(-1))

    def norm(self, name: str, z: Tensor, extra: Tensor | float = 0.0) -> None:
        """All that the norm `name` of z will need; `extra` joins the mean of the weighted squares."""
        gains: NormGains = self.norms[name]
        inner = z if gains.inner is None else z * torch.from_numpy(gains.inner)
        mean_square = inner.square().mean(-1) + extra + gains.floor
        self.magnitude(f"{name}.source", z)
        self.magnitude(f"{name}.inner", inner)
        self.add(f"{name}.mean_square", mean_square)
        for port, outer in gains.outer.items():
            scaled = z * torch.from_numpy(outer)
            self.magnitude(f"{name}.{port}.largest", scaled)
            self.magnitude(f"{name}.{port}", scaled * mean_square.rsqrt()[..., None])

    def tap(self, name: str, value: Tensor) -> Tensor:
        """The tap of the float model."""
        last = self.checkpoint.config.num_hidden_layers - 1
        match name.split("."):
            case ["embeddings", "x"]:
                self.residual(value, "layers.0.attn")
            case ["layers", layer, "attn", "x"]:
                self.residual(value, f"layers.{layer}.mlp")
            case ["layers", layer, "mlp", "x"]:
                self.residual(value, "head" if int(layer) == last else f"layers.{int(layer) + 1}.attn")
            case ["layers", layer, "attn", ("i" | "f" | "g") as port]:
                self.magnitude(f"layers.{layer}.attn.{port}.sum", value)
                if port == "g":
                    self.g = value
            case ["layers", layer, "attn", "h"]:
                self.magnitude(f"layers.{layer}.h", value)
                gains = torch.from_numpy(self.checkpoint.tensors[f"model.layers.{layer}.attn.g_norm.weight"])
                v = self.g * gains * value * torch.sigmoid(value)
                self.norm(f"layers.{layer}.o", v, BITLINEAR_EPS * self.g.square().mean(-1))
            case ["layers", layer, "mlp", "gate_up"]:
                self.magnitude(f"layers.{layer}.gate_up", value)
            case ["layers", layer, "mlp", "v"]:
                self.norm(f"layers.{layer}.down", value)
            case ["logits"]:
                self.magnitude("logits", value)
        return value

    def residual(self, x: Tensor, next_norm: str) -> None:
        """The residual stream where the norm `next_norm` reads it."""
        self.magnitude("residual", x)
        self.norm(next_norm, x)


def calibrate(checkpoint: Checkpoint, tokens: NDArray[np.int64], scheme: Scheme, batch: int = 8) -> Ranges:
    """The ranges of every quantity that `lower` gives a format, over tokens [windows, time], each row from zero."""
    model, ranges = from_checkpoint(checkpoint), _Ranges(checkpoint)
    numerics = Numerics(tap=ranges.tap, quantise=scheme.activations == "per-token")
    for start in range(0, len(tokens), batch):
        logits(model, tokens[start : start + batch], numerics)
    embeddings = torch.from_numpy(checkpoint.tensors["model.embeddings.weight"])
    ranges.magnitude("residual", embeddings[None])
    return ranges.found
