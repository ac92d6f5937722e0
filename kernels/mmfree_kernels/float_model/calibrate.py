"""Measures, with the float model on real text, the ranges that lowering builds its formats from."""

from collections import Counter

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from mmfree_kernels.float_model.model import Numerics, finite
from mmfree_kernels.float_model.streamed import stream
from mmfree_neuro.hgrn_bit.config import BITLINEAR_EPS
from mmfree_neuro.hgrn_bit.norms import norms_of
from mmfree_neuro.lowering.formats import NormGains
from mmfree_neuro.lowering.scheme import Range, Ranges, Scheme
from mmfree_neuro.lowering.ternarise import TernaryWeights
from mmfree_neuro.model.checkpoint import Checkpoint


def largest(value: Tensor) -> Tensor:
    """The largest magnitude along the last axis."""
    return torch.maximum(value.amax(-1), -value.amin(-1))


class _Ranges:
    """Collects ranges while the model runs; names are those that `lower` reads."""

    def __init__(self, checkpoint: Checkpoint) -> None:
        self.found: dict[str, Range] = {}
        self.norms = norms_of(checkpoint)
        self.checkpoint = checkpoint
        self.g = torch.empty(0)
        self.roots: dict[str, list[Tensor]] = {}
        """For each norm, the roots of the mean squares [windows, time], in order."""
        self.summed: Counter[str] = Counter()
        """For each product, of how many windows its sums are known."""

    def add(self, name: str, value: Tensor) -> None:
        """Widen a range by a quantity that has one value per token."""
        low, high = float(value.min()), float(value.max())
        old = self.found.get(name, Range(low, high))
        self.found[name] = Range(float(np.minimum(old.low, low)), float(np.maximum(old.high, high)))

    def magnitude(self, name: str, value: Tensor) -> None:
        """Widen a range by the largest magnitude per token of [batch, time, n]."""
        self.add(name, largest(value))

    def norm(self, name: str, z: Tensor, extra: Tensor | float = 0.0) -> None:
        """All that the norm `name` of z will need; `extra` joins the mean of the weighted
        squares."""
        gains: NormGains = self.norms[name]
        inner = z if gains.inner is None else z * torch.from_numpy(gains.inner)
        mean_square = inner.square().mean(-1) + extra + gains.floor
        self.roots.setdefault(name, []).append(mean_square.sqrt())
        self.magnitude(f"{name}.source", z)
        self.magnitude(f"{name}.inner", inner)
        self.add(f"{name}.mean_square", mean_square)
        for port, outer in gains.outer.items():
            scaled = largest(z * torch.from_numpy(outer))
            self.add(f"{name}.{port}.largest", scaled)
            self.add(f"{name}.{port}", scaled * mean_square.rsqrt())

    def product(self, norm: str, port: str, value: Tensor) -> None:
        """The sums of a product behind a norm: as they are, and as they would be without its root.

        Windows come in the same order to both, but not always as many at once.
        """
        name = f"{norm}.{port}"
        first = self.summed[name]
        self.summed[name] += len(value)
        roots = torch.cat(self.roots[norm])[first : first + len(value)]
        self.magnitude(f"{name}.sum", value)
        self.add(f"{name}.folded", largest(value) * roots)

    def tap(self, name: str, value: Tensor) -> Tensor:
        """The tap of the float model."""
        finite(name, value)
        last = self.checkpoint.config.num_hidden_layers - 1
        match name.split("."):
            case ["embeddings", "x"]:
                self.residual(value, "layers.0.attn")
            case ["layers", layer, "attn", "x"]:
                self.residual(value, f"layers.{layer}.mlp")
            case ["layers", layer, "mlp", "x"]:
                self.residual(
                    value, "head" if int(layer) == last else f"layers.{int(layer) + 1}.attn"
                )
            case ["layers", layer, "attn", ("i" | "f" | "g") as port]:
                self.product(f"layers.{layer}.attn", port, value)
                if port == "g":
                    self.g = value
            case ["layers", layer, "attn", "h"]:
                self.magnitude(f"layers.{layer}.h", value)
                gains = torch.from_numpy(
                    self.checkpoint.tensors[f"model.layers.{layer}.attn.g_norm.weight"]
                )
                v = self.g * gains * value * torch.sigmoid(value)
                self.norm(f"layers.{layer}.o", v, BITLINEAR_EPS * self.g.square().mean(-1))
            case ["layers", layer, "attn", "o"]:
                self.product(f"layers.{layer}.o", "y", value)
            case ["layers", layer, "mlp", "gate_up"]:
                self.product(f"layers.{layer}.mlp", "y", value)
            case ["layers", layer, "mlp", "v"]:
                self.norm(f"layers.{layer}.down", value)
            case ["layers", layer, "mlp", "down"]:
                self.product(f"layers.{layer}.down", "y", value)
            case ["logits"]:
                self.product("head", "y", value)
        return value

    def residual(self, x: Tensor, next_norm: str) -> None:
        """The residual stream where the norm `next_norm` reads it."""
        self.magnitude("residual", x)
        self.norm(next_norm, x)


def calibrate(
    checkpoint: Checkpoint,
    tokens: NDArray[np.int64],
    scheme: Scheme,
    batch: int | None = None,
    weights: TernaryWeights | None = None,
) -> Ranges:
    """The ranges of every quantity that `lower` gives a format, over tokens [windows, time], each
    row from zero.

    `weights` and `batch` as in `streamed.stream`.
    """
    ranges = _Ranges(checkpoint)
    numerics = Numerics(tap=ranges.tap, quantise=scheme.activations == "per-token")
    for _ in stream(checkpoint, tokens, numerics, weights, batch):
        pass
    ranges.magnitude("residual", torch.from_numpy(checkpoint.tensors["model.embeddings.weight"]))
    return ranges.found
