"""Whether the fused paths train as the naive path does: over several seeds, noise told from bias.

A seed draws parameters and batches, the same for every path and learning rate.  A run is one path
for some steps at one rate.  Roundings differ between paths, and training is chaotic: so a run is
also done again with every parameter moved by one unit in its last place, and how far that moves
its loss is the noise that differences have to stand beside.  The loss of a run is the mean of its
last twenty steps; beside it stand losses of its last weights on held-out text, by its own path and
by the naive one.

Rows are added one by one, and a run whose row is there already is not done again.  Run on a
machine with a GPU: PYTHONPATH=.:partition:kernels:sims python examples/benchmarks/gpu_training.py
[--seeds N] [--rates RATE …] [--budget-seconds S] [-o ROWS] [--list]
"""

import argparse
import json
import math
import statistics
import sys
import time
from collections.abc import Iterator
from dataclasses import asdict, dataclass, replace
from pathlib import Path

import torch
from torch import Tensor
from torch.nn import functional

from mmfree_kernels.bench import record
from mmfree_kernels.bench.record import Row
from mmfree_kernels.float_model.model import HGRNBitModel, Numerics
from mmfree_kernels.training import train
from mmfree_kernels.training.captured import Gradients, Loss
from mmfree_neuro.errors import MMFreeError
from mmfree_neuro.hgrn_bit.config import ModelConfig
from mmfree_neuro.model import corpus

ROWS = Path(__file__).parent / "results" / "gpu_training.json"
LAST = 20
HELD_OUT_WINDOWS = 64
RATES = (4e-3, 2e-3, 1e-3)
NAIVE = "naive float32"
CASE = ("hidden", "blocks", "steps", "batch", "window", "learning_rate")
"""What runs must share to be compared."""
MOVED = {NAIVE: 1, "naive, products bfloat16": 0, "fused float32": 1, "fused bfloat16": 2}
"""How often a run of each path is done again from moved parameters."""


def nats(model: HGRNBitModel, tokens: Tensor, numerics: Numerics) -> Tensor:
    """As `train.plain_loss`, in other numerics."""
    logits, _ = model(tokens[:, :-1], numerics=numerics)
    return functional.cross_entropy(logits.flatten(0, 1), tokens[:, 1:].flatten())


def fused_nats(model: HGRNBitModel, tokens: Tensor) -> Tensor:
    """As `train.fused_loss`, without autocast."""
    from mmfree_kernels.training import (
        half_blocks,  # needs Triton, which a machine without a GPU may lack
    )

    return half_blocks.forward_loss(model, tokens[:, :-1], tokens[:, 1:])


PATHS: dict[str, Loss] = {
    NAIVE: train.plain_loss,
    "naive, products bfloat16": lambda model, tokens: nats(
        model, tokens, Numerics(product_dtype=torch.bfloat16)
    ),
    "fused float32": fused_nats,
    "fused bfloat16": train.fused_loss,
}


def shape(hidden: int, blocks: int) -> ModelConfig:
    """A model of bytes with gates three times as wide as its stream."""
    return ModelConfig(
        vocab_size=256,
        hidden_size=hidden,
        num_hidden_layers=blocks,
        intermediate_size=3 * hidden,
        bos_token_id=0,
        eos_token_id=0,
    )


@dataclass(frozen=True)
class Run:
    """One training: a path, its rate and seed, and which of its repetitions from moved parameters
    it is, 0 for the one from parameters as they are drawn."""

    path: str
    learning_rate: float
    seed: int
    moved: int


def runs(seeds: int, rates: tuple[float, ...]) -> Iterator[Run]:
    """All runs, seed by seed, so that those which a budget allows are as many of each kind."""
    for seed in range(seeds):
        for rate in rates:
            for path, times in MOVED.items():
                for moved in range(times + 1):
                    yield Run(path, rate, seed, moved)


class Text:
    """Text to train on and windows of held-out text, on a device."""

    def __init__(self, name: str, window: int, device: torch.device) -> None:
        loaded = corpus.load(name)
        self.train = torch.from_numpy(loaded.train.copy()).to(device)
        unseen = corpus.windows(loaded.held_out, window, HELD_OUT_WINDOWS)
        self.held_out = torch.from_numpy(unseen).to(device)


class Trainer:
    """Models of one shape, one a path, each of which trains again and again: so a path's passes
    are captured once."""

    def __init__(self, config: ModelConfig, recipe: train.Recipe, text: Text) -> None:
        self.config, self.recipe, self.text = config, recipe, text
        self.drawn: dict[int, HGRNBitModel] = {}
        self.paths: dict[str, Gradients] = {}

    def losses(self, run: Run) -> dict[str, float]:
        """The losses that a row has of a run."""
        steps = torch.stack(list(self.steps(run))).tolist()
        model = self.paths[run.path].model
        own, naive = (
            train.held_out_loss(Gradients(model, loss), self.text.held_out, self.recipe.batch)
            for loss in (PATHS[run.path], PATHS[NAIVE])
        )
        return {
            "loss": sum(steps[-LAST:]) / len(steps[-LAST:]),
            "held_out": own,
            "held_out_by_naive": naive,
            "first_loss": steps[0],
        }

    def steps(self, run: Run) -> Iterator[Tensor]:
        """Train, and give the loss of each step once it is taken; `paths` has the model."""
        recipe = replace(self.recipe, learning_rate=run.learning_rate, seed=run.seed)
        gradients = self.begin(run)
        model = gradients.model
        optimiser = train.optimiser_for(model, recipe, self.text.train.device)
        for step in range(recipe.steps):
            for group in optimiser.param_groups:
                group["lr"] = train.learning_rate(recipe, step)
            loss = gradients(next(train.batches(self.text.train, recipe, step))).clone()
            torch.nn.utils.clip_grad_norm_(model.parameters(), recipe.clip)
            optimiser.step()
            yield loss

    def begin(self, run: Run) -> Gradients:
        """The path of a run, with the parameters that it begins with."""
        if run.path not in self.paths:
            model = HGRNBitModel(self.config).to(self.text.train.device).train()
            self.paths[run.path] = Gradients(model, PATHS[run.path])
        if run.seed not in self.drawn:
            self.drawn = {run.seed: HGRNBitModel(self.config)}
            self.drawn[run.seed].initialise(run.seed)
        gradients = self.paths[run.path]
        gradients.model.load_state_dict(self.drawn[run.seed].state_dict())
        if run.moved:
            move(gradients.model, run.moved)
        return gradients


@torch.no_grad()
def move(model: HGRNBitModel, seed: int) -> None:
    """Move every parameter by one unit in its last place, up or down as `seed` decides."""
    generator = torch.Generator().manual_seed(seed)
    for parameter in model.parameters():
        up = torch.randint(2, parameter.shape, generator=generator) * 2.0 - 1.0
        towards = (up * math.inf).to(parameter.device)
        parameter.copy_(torch.nextafter(parameter, towards))


def compared(rows: list[Row], what: str = "loss") -> list[Row]:
    """Of each setting, rate and path: the mean loss, how far it is from the naive path's in the
    mean over seeds, the standard error of that, and the noise of one run.

    Relative to the naive loss, of seeds that another path has too.  The difference of a seed is
    that of the means over its repetitions.  Noise is the deviation of repetitions from moved
    parameters, over all paths of the setting and rate: the root of the mean square.  What cannot be
    told of so few runs is None.
    """
    found = []
    for case in sorted({tuple(row[name] for name in CASE) for row in rows}):
        losses: dict[tuple[str, int], list[float]] = {}
        for row in rows:
            if tuple(row[name] for name in CASE) == case:
                losses.setdefault((row["path"], row["seed"]), []).append(row[what])
        spreads = [
            statistics.variance(values) / statistics.fmean(values) ** 2
            for values in losses.values()
            if len(values) > 1
        ]
        means = {of: statistics.fmean(values) for of, values in losses.items()}
        others = {seed for name, seed in means if name != NAIVE}
        for path in PATHS:
            seeds = [seed for name, seed in means if name == path and seed in others]
            both = [seed for seed in seeds if (NAIVE, seed) in means]
            off = [means[path, seed] / means[NAIVE, seed] - 1 for seed in both]
            if seeds:
                spread = statistics.stdev(off) / len(off) ** 0.5 if len(off) > 1 else None
                found.append(
                    dict(zip(CASE, case, strict=True))
                    | {
                        "path": path,
                        "seeds": len(seeds),
                        "runs": sum(len(losses[path, seed]) for seed in seeds),
                        "loss": statistics.fmean(means[path, seed] for seed in seeds),
                        "off": statistics.fmean(off) if off else None,
                        "standard_error": spread,
                        "noise": statistics.fmean(spreads) ** 0.5 if spreads else None,
                    }
                )
    return found


def table(rows: list[Row]) -> str:
    """What `compared` finds of training losses and of held-out ones by the naive path, for a
    page."""
    head = (
        *("model", "steps", "rate", "path", "seeds, runs", "training loss", "off the naive path's"),
        *("noise of a run", "held-out loss, by the naive path", "off the naive path's"),
    )
    lines = [head, ("---", "---", "---:", "---", *["---:"] * 6)]
    for trained, unseen in zip(compared(rows), compared(rows, "held_out_by_naive"), strict=True):
        cells = [
            f"{trained['hidden']} × {trained['blocks']}",
            f"{trained['steps']:,} of {trained['batch']} × {trained['window']}",
            f"{trained['learning_rate']:g}",
            trained["path"],
            f"{trained['seeds']}, {trained['runs']}",
        ]
        cells += [f"{trained['loss']:.4f}", _off(trained), _percent(trained["noise"])]
        lines.append((*cells, f"{unseen['loss']:.4f}", _off(unseen)))
    return "".join("|" + "".join(f" {c} |" if c else " |" for c in line) + "\n" for line in lines)


def _percent(value: float | None, sign: str = "") -> str:
    return "" if value is None else f"{100 * value:{sign}.2f} %"


def _off(part: Row) -> str:
    if part["path"] == NAIVE or part["off"] is None:
        return ""
    error = part["standard_error"]
    return _percent(part["off"], "+") + ("" if error is None else f" ± {100 * error:.2f}")


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("-o", "--output", type=Path, default=ROWS, help="where rows are added")
    parser.add_argument("--seeds", type=int, default=5)
    parser.add_argument("--rates", type=float, nargs="+", default=RATES)
    parser.add_argument("--hidden", type=int, default=512, help="channels; gates have three times")
    parser.add_argument("--blocks", type=int, default=8)
    parser.add_argument("--steps", type=int, default=200)
    parser.add_argument("--batch", type=int, default=8)
    parser.add_argument("--window", type=int, default=512)
    parser.add_argument("--warmup", type=int, default=20)
    parser.add_argument("--only", action="append", help="a path to run, instead of all")
    parser.add_argument("--moved", type=int, default=9, help="at most so many runs moved")
    parser.add_argument("--budget-seconds", type=float, default=1e9, help="start no run after that")
    parser.add_argument("--commit", help="recorded where this is no checkout with its history")
    parser.add_argument("--table", action="store_true", help="print the table of the rows alone")
    options = parser.parse_args()
    if options.table:
        print(table(record.load(options.output)), end="")
        return
    deadline = time.monotonic() + options.budget_seconds
    record.check_gpu()
    record.check_output(options.output)
    recipe = train.Recipe(
        steps=options.steps, batch=options.batch, window=options.window, warmup=options.warmup
    )
    config = shape(options.hidden, options.blocks)
    setting = {
        "what": f"training of {recipe.steps} steps, mean loss of the last {LAST}, nats per byte",
        "steps": recipe.steps,
        "hidden": config.hidden_size,
        "blocks": config.num_hidden_layers,
        "batch": recipe.batch,
        "window": recipe.window,
        "device": torch.cuda.get_device_name(),
    }
    trainer = Trainer(config, recipe, Text("stdlib", recipe.window, torch.device("cuda")))
    rows = record.load(options.output)
    for run in runs(options.seeds, tuple(options.rates)):
        known = setting | asdict(run)
        if run.moved > options.moved or run.path not in (options.only or PATHS):
            continue
        if any(known.items() <= row.items() for row in rows):
            continue
        if time.monotonic() > deadline:
            break
        begin = time.monotonic()
        row = known | trainer.losses(run)
        row |= {"seconds": round(time.monotonic() - begin, 2), **record.about(options.commit)}
        record.append(options.output, [row])
        rows.append(row)
        print(
            json.dumps(
                asdict(run)
                | {k: row[k] for k in ("loss", "held_out", "held_out_by_naive", "seconds")}
            ),
            flush=True,
        )
    print(table(rows), end="")


if __name__ == "__main__":
    try:
        main()
    except MMFreeError as error:
        print(error, file=sys.stderr)
        sys.exit(2)
