"""Which tensors of a checkpoint are ternary, by their published names, and how they are packed."""

from collections.abc import Iterator

import numpy as np

from mmfree_neuro.hgrn_bit.config import ModelConfig
from mmfree_neuro.integers.ternary import Codes, pack
from mmfree_neuro.lowering.ternarise import TernaryWeight, TernaryWeights, ternarise
from mmfree_neuro.model.checkpoint import Checkpoint
from mmfree_neuro.model.tensors import Float32


def ternary_weights(checkpoint: Checkpoint[ModelConfig]) -> TernaryWeights:
    """Every ternary weight of a checkpoint, packed; one tensor is in memory as floats at a time."""
    names = [name for name in checkpoint.tensors if is_ternary(name)]
    if checkpoint.config.tie_word_embeddings:
        names.append("lm_head.weight")
    return {name: pack_weight(checkpoint, name) for name in names}


def head_weight(checkpoint: Checkpoint[ModelConfig]) -> Float32:
    """The weight of the output head [vocab, hidden]; the embedding where the two are tied."""
    tied = checkpoint.config.tie_word_embeddings
    return checkpoint.tensors["model.embeddings.weight" if tied else "lm_head.weight"]


def pack_weight(checkpoint: Checkpoint[ModelConfig], name: str) -> TernaryWeight:
    """One ternary weight of a checkpoint, packed."""
    weight = head_weight(checkpoint) if name == "lm_head.weight" else checkpoint.tensors[name]
    codes, scale = ternarise(weight)
    parts = np.split(codes, 2) if name.endswith("gate_proj.weight") else [codes]
    return TernaryWeight(tuple(pack(part) for part in parts), scale)


def is_ternary(name: str) -> bool:
    """Whether a tensor of that name is ternarised."""
    return name.endswith("_proj.weight") or name == "lm_head.weight"


def hardened(name: str, weight: Float32) -> Float32:
    """One tensor of a checkpoint as `harden` has it."""
    if not is_ternary(name):
        return weight
    codes, scale = ternarise(weight)
    share = np.count_nonzero(codes) / codes.size
    return weight if share == 0 else (codes * np.float32(scale / share)).astype(np.float32)


def harden(checkpoint: Checkpoint[ModelConfig]) -> Checkpoint[ModelConfig]:
    """A checkpoint with the same ternary codes and scales whose weights survive storage in
    bfloat16.

    Training leaves many latent weights close to the threshold between two codes, where bfloat16
    cannot tell them apart: a trained model lost 0.09 nats per byte when it was stored.  Each
    ternary matrix is replaced by its codes times scale / (share of non-zero codes), which
    ternarises to the same codes and has the same mean magnitude.  A matrix that is also the
    embedding stays as it is.
    """

    tensors = {name: hardened(name, weight) for name, weight in checkpoint.tensors.items()}
    return Checkpoint(checkpoint.config, tensors)


def codes(checkpoint: Checkpoint[ModelConfig]) -> Iterator[tuple[str, Codes]]:
    """Name and ternary codes of every matrix of a checkpoint, one after another."""
    return (
        (name, ternarise(checkpoint.tensors[name])[0])
        for name in checkpoint.tensors
        if is_ternary(name)
    )
