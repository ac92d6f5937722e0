"""Trains the float model on bytes: AdamW, the family's learning rates, checkpoints in the published
format, resume.

The learning rate falls from its peak along a cosine and is halved in the second half, as for
one-bit models.  Batches depend on the seed and the step alone, so a resumed run sees what an
uninterrupted one would have seen.
"""

import importlib.util
import json
import math
import os
import time
from collections.abc import Callable
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import Tensor
from torch.nn import functional

from mmfree_kernels.float_model.evaluate import nats
from mmfree_kernels.float_model.model import HGRNBitModel, from_checkpoint, to_checkpoint
from mmfree_kernels.training.captured import Gradients
from mmfree_neuro.errors import InputError
from mmfree_neuro.hgrn_bit.config import FAMILY, ModelConfig
from mmfree_neuro.hgrn_bit.names import harden
from mmfree_neuro.model.checkpoint import read, write
from mmfree_neuro.model.corpus import Corpus, windows


@dataclass(frozen=True)
class Recipe:
    """What decides a training run, given its corpus."""

    steps: int = 2000
    batch: int = 64
    window: int = 512
    learning_rate: float = 4e-3
    warmup: int = 100
    weight_decay: float = 0.01
    clip: float = 1.0
    seed: int = 0

    def __post_init__(self) -> None:
        for name in ("steps", "batch", "window"):
            if getattr(self, name) < 1:
                raise InputError(f"{name} is {getattr(self, name)}, must be at least 1")
        if not 0 < self.learning_rate <= 1:
            raise InputError(
                f"the learning rate is {self.learning_rate}, must be above 0 and at most 1"
            )
        if self.seed < 0:
            raise InputError(f"the seed is {self.seed}, must not be negative")


@dataclass(frozen=True)
class Progress:
    """One report of a run: step reached, mean training loss in nats since the last report, bytes
    per second."""

    step: int
    loss: float
    learning_rate: float
    bytes_per_second: float


@dataclass(frozen=True)
class Outcome:
    """How far a run came: steps done, training text seen in bytes, held-out loss in nats per
    byte."""

    step: int
    seen_bytes: int
    held_out_nats: float
    finished: bool


def learning_rate(recipe: Recipe, step: int) -> float:
    """The rate of one step: linear warm-up, cosine fall, halved from the middle on."""
    if step < recipe.warmup:
        return recipe.learning_rate * (step + 1) / recipe.warmup
    share = step / recipe.steps
    return (
        recipe.learning_rate
        * 0.5
        * (1 + math.cos(math.pi * share))
        * (0.5 if share >= 0.5 else 1.0)
    )


def batch(text: Tensor, recipe: Recipe, step: int) -> Tensor:
    """The windows [batch, window + 1], int64, of one step; they depend on the seed and the step
    alone."""
    generator = np.random.default_rng((recipe.seed, step))
    starts = torch.from_numpy(
        generator.integers(0, text.numel() - recipe.window - 1, recipe.batch)
    ).to(text.device)
    return text[starts[:, None] + torch.arange(recipe.window + 1, device=text.device)].long()


def plain_loss(model: HGRNBitModel, tokens: Tensor) -> Tensor:
    """Mean nats per predicted token of tokens [batch, length + 1], in float32 throughout."""
    logits, _ = model(tokens[:, :-1])
    return functional.cross_entropy(logits.flatten(0, 1), tokens[:, 1:].flatten())


def can_fuse(config: ModelConfig) -> bool:
    """Whether Triton is there, and every size that a product sums over is one that its kernels
    take."""
    sizes = config.hidden_size, config.state_size, config.intermediate_size
    return importlib.util.find_spec("triton") is not None and not any(size % 16 for size in sizes)


def fused_loss(model: HGRNBitModel, tokens: Tensor) -> Tensor:
    """As `plain_loss`, on Triton kernels, with activations in bfloat16."""
    from mmfree_kernels.training import half_blocks  # needs Triton, which only a GPU does

    with torch.autocast(tokens.device.type, torch.bfloat16):
        return half_blocks.forward_loss(model, tokens[:, :-1], tokens[:, 1:])


def _settings(config: ModelConfig, recipe: Recipe) -> dict[str, Any]:
    return {"config": asdict(config), "recipe": asdict(recipe)}


def _save(
    folder: Path, model: HGRNBitModel, optimiser: torch.optim.Optimizer, recipe: Recipe, step: int
) -> None:
    write(folder, harden(to_checkpoint(model)))
    state = {
        "model": model.state_dict(),
        "optimiser": optimiser.state_dict(),
        "settings": _settings(model.config, recipe),
        "step": step,
    }
    torch.save(state, folder / "training.pt.tmp")
    os.replace(folder / "training.pt.tmp", folder / "training.pt")


def _resume(
    folder: Path, model: HGRNBitModel, optimiser: torch.optim.Optimizer, recipe: Recipe
) -> int:
    path = folder / "training.pt"
    if not path.is_file():
        raise InputError(f"{path}: no such file; there is no run to resume")
    try:
        state: dict[str, Any] = torch.load(
            path, map_location=model.lm_head.weight.device, weights_only=True
        )
    except Exception:  # a damaged pickle fails in a dozen ways
        raise InputError(f"{path}: not readable as the state of a training run") from None
    if state["settings"] != _settings(model.config, recipe):
        raise InputError(
            f"{path}: belongs to a run with other settings: {json.dumps(state['settings'])}"
        )
    model.load_state_dict(state["model"])
    optimiser.load_state_dict(state["optimiser"])
    return int(state["step"])


def optimiser_for(
    model: HGRNBitModel, recipe: Recipe, device: torch.device
) -> torch.optim.Optimizer:
    """AdamW; weight decay on matrices, none on gains and lower bounds."""
    matrices = [p for p in model.parameters() if p.ndim == 2]
    others = [p for p in model.parameters() if p.ndim != 2]
    groups = [
        {"params": matrices, "weight_decay": recipe.weight_decay},
        {"params": others, "weight_decay": 0.0},
    ]
    return torch.optim.AdamW(
        groups, lr=recipe.learning_rate, betas=(0.9, 0.95), fused=device.type == "cuda"
    )


def train(
    config: ModelConfig,
    corpus: Corpus,
    recipe: Recipe,
    folder: Path,
    *,
    resume: bool = False,
    max_seconds: float = math.inf,
    save_every: int = 1000,
    report_every: int = 50,
    report: Callable[[Progress], None] = lambda _: None,
) -> Outcome:
    """Train a model and leave its checkpoint in `folder`; stop early, resumable, after
    `max_seconds`.

    The checkpoint is hardened (`names.harden`), so that bfloat16 keeps every code; latent
    weights stay in `training.pt`, from which a run resumes.  The held-out loss is that of the
    checkpoint as stored.

    Raises InputError when the text is shorter than a window or `resume` finds no run with the same
    recipe.
    """
    if corpus.train.size < recipe.window + 2 or corpus.held_out.size < recipe.window + 2:
        raise InputError(f"{corpus.description}: too short for windows of {recipe.window} bytes")
    device = torch.device("cuda" if torch.cuda.is_available() else "cpu")
    model = HGRNBitModel(config)
    model.initialise(recipe.seed)
    model.to(device).train()
    optimiser = optimiser_for(model, recipe, device)
    first = _resume(folder, model, optimiser, recipe) if resume else 0
    gradients = Gradients(
        model, fused_loss if device.type == "cuda" and can_fuse(config) else plain_loss
    )
    text = torch.from_numpy(corpus.train.copy()).to(device)

    start = since = time.monotonic()
    step, total, counted = first, torch.zeros((), device=device), 0
    while step < recipe.steps and time.monotonic() - start < max_seconds:
        rate = learning_rate(recipe, step)
        for group in optimiser.param_groups:
            group["lr"] = rate
        loss = gradients(batch(text, recipe, step))
        torch.nn.utils.clip_grad_norm_(model.parameters(), recipe.clip)
        optimiser.step()
        total, counted, step = total + loss, counted + 1, step + 1
        if counted == report_every or step == recipe.steps:
            mean, now = total.item() / counted, time.monotonic()
            report(
                Progress(step, mean, rate, counted * recipe.batch * recipe.window / (now - since))
            )
            total, counted, since = torch.zeros((), device=device), 0, now
        if step % save_every == 0:
            _save(folder, model, optimiser, recipe, step)
    _save(folder, model, optimiser, recipe, step)
    stored = from_checkpoint(read(folder, lambda _: {}, FAMILY)).to(device)
    held_out = nats(stored, windows(corpus.held_out, min(1024, corpus.held_out.size - 1), 256))
    seen = step * recipe.batch * recipe.window
    return Outcome(step, seen, float(held_out.mean()), step >= recipe.steps)
