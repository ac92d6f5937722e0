"""From float to integer: ternary codes, schemes, and the ranges that calibration measures.

Weights are ternarised once, in float32, from the stored values; ternarising codes again would keep
them and shrink their scale.
"""

from collections.abc import Iterator, Mapping
from dataclasses import dataclass

import numpy as np

from mmfree_neuro.integers.ternary import Codes, TernaryMatrix, pack
from mmfree_neuro.model.checkpoint import Checkpoint
from mmfree_neuro.model.tensors import Float32

_ROWS = 256


def ternarise(weight: Float32) -> tuple[Codes, float]:
    """Codes -1, 0, +1 (weight's shape) and the scale max(mean |w|, 1e-5), as the published kernel
    makes them."""
    pieces = [
        weight[at : at + _ROWS] for at in range(0, len(weight), _ROWS)
    ]  # so that no temporary is as large
    mean = np.float32(
        sum(float(np.abs(piece).sum(dtype=np.float64)) for piece in pieces) / weight.size
    )
    scale = max(mean, np.float32(1e-5))
    inverse, codes = np.float32(1) / scale, np.empty(weight.shape, np.int8)
    for number, piece in enumerate(pieces):
        codes[number * _ROWS : (number + 1) * _ROWS] = np.clip(np.rint(piece * inverse), -1, 1)
    return codes, float(scale)


@dataclass(frozen=True, eq=False)
class TernaryWeight:
    """A weight of a checkpoint as the graph needs it: in one matrix, or in two of the same scale
    (gate and up)."""

    parts: tuple[TernaryMatrix, ...]
    scale: float

    @property
    def fullest(self) -> int:
        """The most non-zero codes that a row has."""
        return max(part.fullest for part in self.parts)


TernaryWeights = Mapping[str, TernaryWeight]
"""By tensor name."""


def ternary_weights(checkpoint: Checkpoint) -> TernaryWeights:
    """Every ternary weight of a checkpoint, packed; one tensor is in memory as floats at a time."""
    names = [name for name in checkpoint.tensors if is_ternary(name)]
    if checkpoint.config.tie_word_embeddings:
        names.append("lm_head.weight")
    return {name: pack_weight(checkpoint, name) for name in names}


def pack_weight(checkpoint: Checkpoint, name: str) -> TernaryWeight:
    """One ternary weight of a checkpoint, packed."""
    weight = checkpoint.head_weight if name == "lm_head.weight" else checkpoint.tensors[name]
    codes, scale = ternarise(weight)
    parts = np.split(codes, 2) if name.endswith("gate_proj.weight") else [codes]
    return TernaryWeight(tuple(pack(part) for part in parts), scale)


def is_ternary(name: str) -> bool:
    """Whether a tensor of that name is ternarised."""
    return name.endswith("_proj.weight") or name == "lm_head.weight"


def _hardened(weight: Float32) -> Float32:
    codes, scale = ternarise(weight)
    share = np.count_nonzero(codes) / codes.size
    return weight if share == 0 else (codes * np.float32(scale / share)).astype(np.float32)


def harden(checkpoint: Checkpoint) -> Checkpoint:
    """A checkpoint with the same ternary codes and scales whose weights survive storage in
    bfloat16.

    Training leaves many latent weights close to the threshold between two codes, where bfloat16
    cannot tell them apart: a trained model lost 0.09 nats per byte when it was stored.  Each
    ternary matrix is replaced by its codes times scale / (share of non-zero codes), which
    ternarises to the same codes and has the same mean magnitude.  A matrix that is also the
    embedding stays as it is.
    """

    tensors = {n: _hardened(w) if is_ternary(n) else w for n, w in checkpoint.tensors.items()}
    return Checkpoint(checkpoint.config, tensors)


def codes(checkpoint: Checkpoint) -> Iterator[tuple[str, Codes]]:
    """Name and ternary codes of every matrix of a checkpoint, one after another."""
    return (
        (name, ternarise(checkpoint.tensors[name])[0])
        for name in checkpoint.tensors
        if is_ternary(name)
    )
