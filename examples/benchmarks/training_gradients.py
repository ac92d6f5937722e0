"""Loss and gradients of every path at the same weights: bias is what they differ by on average.

Runs that part are told apart by chance (`gpu_training.py`); at the same weights and batches a path
that rounds without bias has the naive path's loss, and gradients that neither shrink nor grow: a
projection on the naive gradient of 1, that is <g, n> / <n, n>.  Weights are those of a run of the
fused bfloat16 path after some steps.  The naive path from parameters that are moved by one unit in
their last place is the yardstick.  Run on a machine with a GPU:
PYTHONPATH=.:partition:kernels:sims python examples/benchmarks/training_gradients.py [-o ROWS]
"""

import argparse
import sys
from pathlib import Path

import gpu_training
import torch
from torch import Tensor

from mmfree_kernels.bench import record
from mmfree_kernels.bench.record import Row
from mmfree_kernels.float_model.model import HGRNBitModel
from mmfree_kernels.training import train
from mmfree_neuro.errors import MMFreeError

ROWS = Path(__file__).parent / "results" / "training_gradients.json"
AFTER = (0, 20, 100, 200)
BATCHES = 6
UNSEEN = 10_000
"""Batches of steps from here on, which no run comes to."""
MOVED = "naive float32, moved"
TRAINED = gpu_training.Run("fused bfloat16", 4e-3, 0, 0)

Passes = list[tuple[float, Tensor]]
"""Of each batch the loss, and all gradients in one row, float64."""


def passes(trainer: gpu_training.Trainer, model: HGRNBitModel, path: str) -> Passes:
    """Loss and gradients of a model by a path."""
    loss, found = gpu_training.PATHS[path], []
    for number in range(BATCHES):
        tokens = next(train.batches(trainer.text.train, trainer.recipe, UNSEEN + number))
        model.zero_grad(set_to_none=True)
        lost = loss(model, tokens)
        lost.backward()
        grads = [p.grad.flatten() for p in model.parameters() if p.grad is not None]
        found.append((float(lost.detach()), torch.cat(grads).double()))
    return found


def against(found: Passes, expected: Passes) -> dict[str, float]:
    """How far losses are from those expected, relatively and in the mean, and how gradients lie to
    those expected."""
    losses = [mine / theirs - 1 for (mine, _), (theirs, _) in zip(found, expected, strict=True)]
    g, n = (torch.cat([gradients for _, gradients in some]) for some in (found, expected))
    return {
        "loss_off": sum(losses) / len(losses),
        "projection": float(g @ n / (n @ n)),
        "cosine": float(g @ n / (g.norm() * n.norm())),
    }


def looked(trainer: gpu_training.Trainer, trained: HGRNBitModel) -> dict[str, dict[str, float]]:
    """What `against` finds of each path at the weights of a model."""
    model = HGRNBitModel(trainer.config).to(trainer.text.train.device).train()
    model.load_state_dict(trained.state_dict())
    found = {path: passes(trainer, model, path) for path in gpu_training.PATHS}
    gpu_training.move(model, 1)
    found[MOVED] = passes(trainer, model, gpu_training.NAIVE)
    expected = found.pop(gpu_training.NAIVE)
    return {path: against(some, expected) for path, some in found.items()}


def table(rows: list[Row]) -> str:
    """Rows for a page: of each path loss, projection and cosine after each number of steps."""
    after = sorted({row["after"] for row in rows})
    lines = [
        ("path", *(f"after {steps} steps" for steps in after)),
        ("---", *["---:"] * len(after)),
    ]
    for path in dict.fromkeys(row["path"] for row in rows):
        cells = [
            f"{100 * row['loss_off']:+.3f} %, {row['projection']:.4f}, {row['cosine']:.4f}"
            for row in sorted(rows, key=lambda row: int(row["after"]))
            if row["path"] == path
        ]
        lines.append((path, *cells))
    return "".join(f"| {' | '.join(line)} |\n" for line in lines)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("-o", "--output", type=Path, default=ROWS)
    parser.add_argument("--commit", help="recorded where this is no checkout with its history")
    options = parser.parse_args()
    record.check_gpu()
    record.check_output(options.output)
    recipe = train.Recipe(steps=AFTER[-1], batch=8, window=512, warmup=20)
    text = gpu_training.Text("stdlib", recipe.window, torch.device("cuda"))
    trainer = gpu_training.Trainer(gpu_training.shape(512, 8), recipe, text)
    rows: list[Row] = []

    def look(after: int) -> None:
        for path, facts in looked(trainer, trainer.paths[TRAINED.path].model).items():
            known = {"what": "loss and gradients at the same weights", "after": after}
            device = {"device": torch.cuda.get_device_name()}
            rows.append(known | {"path": path} | facts | device | record.about(options.commit))

    trainer.begin(TRAINED)
    look(0)
    for step, _ in enumerate(trainer.steps(TRAINED), start=1):
        if step in AFTER:
            look(step)
    record.append(options.output, rows)
    print(table(rows), end="")


if __name__ == "__main__":
    try:
        main()
    except MMFreeError as error:
        print(error, file=sys.stderr)
        sys.exit(2)
