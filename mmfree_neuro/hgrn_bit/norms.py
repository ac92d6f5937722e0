"""The norms of a model: two in a row become one, with one weighted sum of squares and one root."""

from collections.abc import Mapping

import numpy as np

from mmfree_neuro.hgrn_bit.config import BITLINEAR_EPS, ModelConfig
from mmfree_neuro.lowering.formats import NormGains
from mmfree_neuro.model.checkpoint import Checkpoint
from mmfree_neuro.model.tensors import Float32


def double_norm(first: Float32, eps: float, second: Mapping[str, Float32]) -> NormGains:
    """The gains of a norm followed by the norms inside BitLinear layers, by the identity above."""
    wide = first.astype(np.float64)
    with np.errstate(over="ignore"):  # becomes infinite, which calibration has a message for
        outer = {port: (wide * gain).astype(np.float32) for port, gain in second.items()}
    return NormGains(
        np.sqrt(wide**2 + BITLINEAR_EPS).astype(np.float32), outer, eps * BITLINEAR_EPS
    )


def norms_of(checkpoint: Checkpoint[ModelConfig]) -> dict[str, NormGains]:
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
