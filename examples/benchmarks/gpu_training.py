"""The fused path trains as the naive path does: the same model on the same batches, step by step.

All runs begin with the same parameters and take the same optimiser steps; the losses are means of
the last twenty. Run on a machine with a GPU: PYTHONPATH=.:partition:kernels:sims python
examples/benchmarks/gpu_training.py [-o ROWS]
"""

import argparse
import json
import sys
from pathlib import Path

import torch
from torch.nn import functional

from mmfree_kernels.bench import record
from mmfree_kernels.float_model.model import HGRNBitModel, Numerics
from mmfree_kernels.training import train
from mmfree_kernels.training.captured import Gradients, Loss
from mmfree_neuro.errors import MMFreeError
from mmfree_neuro.files.writing import whole_file
from mmfree_neuro.hgrn_bit.config import ModelConfig
from mmfree_neuro.model import corpus

CONFIG = ModelConfig(
    vocab_size=256,
    hidden_size=512,
    num_hidden_layers=8,
    intermediate_size=1536,
    bos_token_id=0,
    eos_token_id=0,
)
STEPS = 200
LAST = 20
MOST = 0.01


def nats(model: HGRNBitModel, tokens: torch.Tensor, numerics: Numerics) -> torch.Tensor:
    """As `training.plain_loss`, in other numerics."""
    logits, _ = model(tokens[:, :-1], numerics=numerics)
    return functional.cross_entropy(logits.flatten(0, 1), tokens[:, 1:].flatten())


def fused_nats(model: HGRNBitModel, tokens: torch.Tensor) -> torch.Tensor:
    """As `training.fused_loss`, without autocast."""
    from mmfree_kernels.training import (
        half_blocks,  # needs Triton, which a machine without a GPU may lack
    )

    return half_blocks.forward_loss(model, tokens[:, :-1], tokens[:, 1:])


PATHS: dict[str, Loss] = {
    "naive float32": train.plain_loss,
    "naive, products bfloat16": lambda model, tokens: nats(
        model, tokens, Numerics(product_dtype=torch.bfloat16)
    ),
    "fused float32": fused_nats,
    "fused bfloat16": train.fused_loss,
}


def losses(loss: Loss, recipe: train.Recipe, text: torch.Tensor) -> list[float]:
    """The loss of every step."""
    model = HGRNBitModel(CONFIG)
    model.initialise(recipe.seed)
    model.to(text.device).train()
    optimiser, gradients, found = (
        train.optimiser_for(model, recipe, text.device),
        Gradients(model, loss),
        [],
    )
    for step in range(STEPS):
        for group in optimiser.param_groups:
            group["lr"] = train.learning_rate(recipe, step)
        found.append(gradients(next(train.batches(text, recipe, step))).clone())
        torch.nn.utils.clip_grad_norm_(model.parameters(), recipe.clip)
        optimiser.step()
    return torch.stack(found).tolist()


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument(
        "-o", "--output", type=Path, default=Path(__file__).parent / "results" / "gpu_training.json"
    )
    parser.add_argument(
        "--commit", help="recorded in the row where this is no checkout with its history"
    )
    options = parser.parse_args()
    record.check_gpu()
    recipe = train.Recipe(steps=STEPS, batch=32, window=512, learning_rate=1e-3, warmup=20)
    text = torch.from_numpy(corpus.load("stdlib").train.copy()).cuda()
    runs = {name: losses(loss, recipe, text) for name, loss in PATHS.items()}
    ends = {name: sum(run[-LAST:]) / LAST for name, run in runs.items()}
    off = {name: end / ends["naive float32"] - 1 for name, end in ends.items()}
    print(json.dumps(off))
    if max(map(abs, off.values())) > MOST:
        raise SystemExit(
            f"after {STEPS} steps a loss is off by more than {MOST:.0%}: no row is written"
        )
    row = {
        "what": f"loss after {STEPS} steps, mean of the last {LAST}, nats per byte",
        "losses": ends,
        "relative to naive float32": off,
        "first loss": runs["naive float32"][0],
        "learning rate": recipe.learning_rate,
        "hidden": CONFIG.hidden_size,
        "blocks": CONFIG.num_hidden_layers,
        "batch": recipe.batch,
        "window": recipe.window,
        "device": torch.cuda.get_device_name(),
        **record.about(options.commit),
    }
    print(json.dumps(row))
    with whole_file(options.output) as scratch:
        scratch.write_text(json.dumps([row], indent=1) + "\n", encoding="utf-8")


if __name__ == "__main__":
    try:
        main()
    except MMFreeError as error:
        print(error, file=sys.stderr)
        sys.exit(2)
