"""Losses of the float model."""

from dataclasses import dataclass

import numpy as np
import torch
from numpy.typing import NDArray
from torch.nn import functional

from mmfree_kernels.float_model.model import HGRNBitModel, Numerics
from mmfree_kernels.float_model.streamed import stream
from mmfree_neuro.lowering.ternarise import TernaryWeights
from mmfree_neuro.model.checkpoint import Checkpoint

DEFAULT = Numerics()
_TOKENS = 64
"""So many tokens' logits are in float64 at once."""


@torch.no_grad()
def logits(
    model: HGRNBitModel, tokens: NDArray[np.int64], numerics: Numerics = DEFAULT
) -> NDArray[np.float32]:
    """Logits [batch, time, vocab] of tokens [batch, time], each row from a zero state."""
    device = model.lm_head.norm.weight.device
    out: NDArray[np.float32] = (
        model(torch.from_numpy(tokens).to(device), numerics=numerics)[0].float().cpu().numpy()
    )
    return out


@dataclass(frozen=True)
class Scores:
    """What a model made of windows [windows, length + 1]."""

    nats: NDArray[np.float64]  # [windows, length], per predicted token
    chosen: NDArray[np.int64]  # [windows, length], the likeliest token


@torch.no_grad()
def nats(
    model: HGRNBitModel, windows: NDArray[np.int64], batch: int = 8, numerics: Numerics = DEFAULT
) -> NDArray[np.float64]:
    """Nats per predicted token [windows, length] of windows [windows, length + 1], each from a zero
    state."""
    return scored(model, windows, batch, numerics).nats


@torch.no_grad()
def scored(
    model: HGRNBitModel, windows: NDArray[np.int64], batch: int = 8, numerics: Numerics = DEFAULT
) -> Scores:
    """Losses and choices of a model in memory on windows [windows, length + 1], each from a zero
    state, so many of them at once."""
    device = model.lm_head.norm.weight.device
    lost, chosen = [], []
    for start in range(0, len(windows), batch):
        tokens = torch.from_numpy(windows[start : start + batch]).to(device)
        out = model(tokens[:, :-1], numerics=numerics)[0].float()
        found = functional.cross_entropy(out.mT, tokens[:, 1:], reduction="none")
        lost.append(found.double().cpu().numpy())
        chosen.append(out.argmax(-1).cpu().numpy())
    return Scores(np.concatenate(lost), np.concatenate(chosen))


@torch.no_grad()
def scores(
    checkpoint: Checkpoint,
    windows: NDArray[np.int64],
    numerics: Numerics = DEFAULT,
    weights: TernaryWeights | None = None,
) -> Scores:
    """Losses and choices of a checkpoint of any size on windows [windows, length + 1], each from a
    zero state."""
    lost, chosen = [], []
    for out, following in zip(
        stream(checkpoint, windows[:, :-1], numerics, weights), windows[:, 1:], strict=True
    ):
        parts = zip(out[0].split(_TOKENS), torch.from_numpy(following).split(_TOKENS), strict=True)
        lost.append(
            torch.cat(
                [functional.cross_entropy(a.double(), b, reduction="none") for a, b in parts]
            ).numpy()
        )
        chosen.append(out[0].argmax(-1).numpy())
    return Scores(np.stack(lost), np.stack(chosen))


@torch.no_grad()
def greedy(
    model: HGRNBitModel, tokens: NDArray[np.int64], new_tokens: int, numerics: Numerics = DEFAULT
) -> NDArray[np.int64]:
    """The likeliest continuation [batch, new_tokens] of tokens [batch, time], token by token with a
    carried state."""
    chosen = np.zeros((len(tokens), new_tokens), np.int64)
    device = model.lm_head.norm.weight.device
    out, state = model(torch.from_numpy(tokens).to(device), numerics=numerics)
    for n in range(new_tokens):
        last = out[:, -1].argmax(-1)
        chosen[:, n] = last.cpu().numpy()
        out, state = model(last[:, None], state, numerics=numerics)
    return chosen
