"""The fused path trains as the naive path does: the same model on the same batches, step by step.

Both runs begin with the same parameters and take the same optimiser steps; the losses are means of the last twenty.
Run on a machine with a GPU: PYTHONPATH=.:partition:kernels:sims python examples/benchmarks/gpu_training.py [-o ROWS]
"""

import argparse
import json
from datetime import datetime, timezone
from pathlib import Path

import torch

from mmfree_kernels import corpus, training
from mmfree_kernels.bench import record
from mmfree_kernels.captured import Gradients, Loss
from mmfree_kernels.model import HGRNBitModel
from mmfree_neuro.checkpoint import ModelConfig

CONFIG = ModelConfig(
    vocab_size=256, hidden_size=512, num_hidden_layers=8, intermediate_size=1536, bos_token_id=0, eos_token_id=0
)
STEPS = 200
LAST = 20
MOST = 0.01


def losses(loss: Loss, recipe: training.Recipe, text: torch.Tensor) -> list[float]:
    """The loss of every step."""
    model = HGRNBitModel(CONFIG)
    model.initialise(recipe.seed)
    model.to(text.device).train()
    optimiser, gradients, found = training.optimiser_for(model, recipe, text.device), Gradients(model, loss), []
    for step in range(STEPS):
        for group in optimiser.param_groups:
            group["lr"] = training.learning_rate(recipe, step)
        found.append(gradients(training.batch(text, recipe, step)).clone())
        torch.nn.utils.clip_grad_norm_(model.parameters(), recipe.clip)
        optimiser.step()
    return torch.stack(found).tolist()


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("-o", "--output", type=Path, default=Path(__file__).parent / "results" / "gpu_training.json")
    parser.add_argument("--commit", help="recorded in the row where this is no checkout with its history")
    options = parser.parse_args()
    record.check_gpu()
    recipe = training.Recipe(steps=STEPS, batch=32, window=512, warmup=20)
    text = torch.from_numpy(corpus.load("stdlib").train.copy()).cuda()
    naive, fused = (losses(loss, recipe, text) for loss in (training.plain_loss, training.fused_loss))
    ends = [sum(run[-LAST:]) / LAST for run in (naive, fused)]
    off = abs(ends[1] - ends[0]) / ends[0]
    if off > MOST:
        raise SystemExit(f"after {STEPS} steps the losses are {ends[0]:.4f} and {ends[1]:.4f}: no row is written")
    row = {
        "what": f"loss after {STEPS} steps, mean of the last {LAST}, nats per byte",
        "naive float32": ends[0], "fused bfloat16": ends[1], "relative difference": off,
        "largest relative difference of a step": max(abs(a - b) / a for a, b in zip(naive, fused, strict=True)),
        "first loss": naive[0], "hidden": CONFIG.hidden_size, "blocks": CONFIG.num_hidden_layers,
        "batch": recipe.batch, "window": recipe.window, "device": torch.cuda.get_device_name(),
        "versions": record.versions(), "commit": options.commit or record.commit(),
        "date": datetime.now(timezone.utc).isoformat(timespec="seconds"),
    }  # fmt: skip
    options.output.write_text(json.dumps([row], indent=1) + "\n", encoding="utf-8")
    print(json.dumps(row))


if __name__ == "__main__":
    main()
