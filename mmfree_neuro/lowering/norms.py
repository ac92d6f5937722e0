"""Norms as integer nodes: one weighted sum of squares and one inverse root for two norms in a
row."""

import math
from collections.abc import Mapping
from dataclasses import dataclass

import numpy as np

from mmfree_neuro.integers.fixedpoint import Ints, QType
from mmfree_neuro.integers.tables import ROOT_FRAC, power_table
from mmfree_neuro.model.checkpoint import Checkpoint
from mmfree_neuro.model.config import BITLINEAR_EPS
from mmfree_neuro.model.tensors import Float32

CODE = QType(8, 0)


MAX_ARITY = 32
"""How many accumulators a neuron that finds a maximum has."""


@dataclass(frozen=True)
class NormGains:
    """The gains that one norm of the lowered graph works with, in natural units."""

    inner: Float32 | None
    """Weights of the squares [n], None for all one."""
    outer: Mapping[str, Float32]
    """For each output, what its values are multiplied by [n]."""
    floor: float
    """What is added to the mean of the weighted squares."""


def double_norm(first: Float32, eps: float, second: Mapping[str, Float32]) -> NormGains:
    """The gains of a norm followed by the norms inside BitLinear layers, by the identity above."""
    wide = first.astype(np.float64)
    outer = {port: (wide * gain).astype(np.float32) for port, gain in second.items()}
    return NormGains(
        np.sqrt(wide**2 + BITLINEAR_EPS).astype(np.float32), outer, eps * BITLINEAR_EPS
    )


def norms_of(checkpoint: Checkpoint) -> dict[str, NormGains]:
    """Every norm of the lowered graph by name: `layers.L.attn`, `.o`, `.mlp`, `.down`, and
    `head`."""
    tensors, eps = checkpoint.tensors, checkpoint.config.rms_norm_eps
    found: dict[str, NormGains] = {}
    for layer in range(checkpoint.config.num_hidden_layers):
        name, prefix = f"layers.{layer}", f"model.layers.{layer}."
        inner = {p: tensors[f"{prefix}attn.{p}_proj.norm.weight"] for p in "ifgo"}
        gate, down = (tensors[f"{prefix}mlp.{p}_proj.norm.weight"] for p in ("gate", "down"))
        mixing = {p: inner[p] for p in "ifg"}
        found[f"{name}.attn"] = double_norm(tensors[f"{prefix}attn_norm.weight"], eps, mixing)
        found[f"{name}.o"] = NormGains(None, {"y": inner["o"]}, eps * BITLINEAR_EPS)
        found[f"{name}.mlp"] = double_norm(tensors[f"{prefix}mlp_norm.weight"], eps, {"y": gate})
        found[f"{name}.down"] = NormGains(None, {"y": down}, BITLINEAR_EPS)
    found["head"] = double_norm(
        tensors["model.norm.weight"], eps, {"y": tensors["lm_head.norm.weight"]}
    )
    return found


@dataclass(frozen=True)
class Source:
    """Where a ternary matrix reads: a node's port, and for per-token scales the scale's."""

    node: str
    port: str
    format: QType
    scale: tuple[str, str, QType] | None


def root_powers(size: int, squares: QType, root: QType) -> Ints:
    return power_table(
        math.sqrt(size) * 2.0 ** (squares.frac / 2 + root.frac - ROOT_FRAC - 15.5), 16
    )
