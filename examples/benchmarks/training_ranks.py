"""Training in several processes, beside the same share in one: tokens a second, memory, energy, and
what reducing gradients takes.

Weak scaling: every process has a batch of its own.  Each first trains alone, without a word to the
others, and then together; the gradients of the first pass together must be the mean of those alone.
Run on a machine with GPUs, or on CPUs with --model tiny:

PYTHONPATH=.:partition:kernels:sims torchrun --standalone --nproc-per-node 2
    examples/benchmarks/training_ranks.py [--model 1.3b] [--batch 8] [--length 2048] [-o ROWS]
"""

import argparse
import json
import time
from collections.abc import Callable
from pathlib import Path

import torch
import torch.distributed as dist
from torch import Tensor

from mmfree_kernels.bench import record
from mmfree_kernels.float_model.model import HGRNBitModel
from mmfree_kernels.training import train
from mmfree_kernels.training.captured import Gradients
from mmfree_kernels.training.ranks import ALONE, Ranks, joined
from mmfree_neuro.hgrn_bit.config import PUBLISHED, ModelConfig

TINY = ModelConfig(vocab_size=256, hidden_size=64, num_hidden_layers=2, intermediate_size=128)
MOST = 1e-3
"""How far the gradients of all may be from the mean of each, relative to the largest."""


def stepped(
    gradients: Gradients, optimiser: torch.optim.Optimizer, tokens: Tensor, steps: int
) -> tuple[float, float]:
    """Seconds and joules of a step, the joules of this process's GPU; the first steps do not
    count."""
    if tokens.device.type == "cuda":
        meter: Callable[[], int] = record.this_gpu().meter.millijoule
        wait: Callable[[], None] = torch.cuda.synchronize
    else:
        meter, wait = (lambda: 0), (lambda: None)
    for number in range(steps + 3):
        if number == 3:
            wait()
            begin, before = time.perf_counter(), meter()
        gradients(tokens)
        torch.nn.utils.clip_grad_norm_(gradients.model.parameters(), 1.0)
        optimiser.step()
    wait()
    return (time.perf_counter() - begin) / steps, (meter() - before) / 1e3 / steps


def mean_off(model: HGRNBitModel, alone: dict[str, Tensor]) -> float:
    """How far gradients are from the mean of all processes' own, relative to the largest value."""
    worst = 0.0
    for name, parameter in model.named_parameters():
        if parameter.grad is not None:
            expected = alone[name]
            dist.all_reduce(expected)
            expected /= dist.get_world_size()
            off = (parameter.grad - expected).abs().max() / expected.abs().max().clamp_min(1e-30)
            worst = max(worst, float(off))
    return worst


def measured(ranks: Ranks, options: argparse.Namespace) -> dict[str, object]:
    """The row of this machine."""
    config = TINY if options.model == "tiny" else PUBLISHED[options.model]
    device = ranks.device
    with torch.device(device):
        model = HGRNBitModel(config)
    generator = torch.Generator(device).manual_seed(1)
    for parameter in model.parameters():
        if parameter.dim() == 2:
            torch.nn.init.normal_(parameter, std=0.02, generator=generator)
    model.train()
    recipe = train.Recipe(batch=options.batch, window=options.length, learning_rate=1e-6)
    fused = device.type == "cuda" and train.can_fuse(config)
    loss = train.fused_loss if fused else train.plain_loss
    own = torch.Generator().manual_seed(2 + ranks.number)
    shape = options.batch, options.length + 1
    tokens = torch.randint(config.vocab_size, shape, generator=own).to(device)

    alone = Gradients(model, loss, ALONE)
    alone(tokens)
    kept = {name: p.grad.clone() for name, p in model.named_parameters() if p.grad is not None}
    start = {name: p.detach().clone() for name, p in model.named_parameters()}
    by_itself = stepped(alone, train.optimiser_for(model, recipe, device), tokens, options.steps)
    del alone
    with torch.no_grad():
        for name, parameter in model.named_parameters():
            parameter.copy_(start[name])
            parameter.grad = None
    del start
    together = Gradients(model, loss, ranks)
    together(tokens)
    off = mean_off(model, kept)
    if off > MOST:
        raise SystemExit(f"gradients are off by {off:g}: no row is written")
    del kept
    if device.type == "cuda":
        torch.cuda.reset_peak_memory_stats()
    seconds, joules = stepped(
        together, train.optimiser_for(model, recipe, device), tokens, options.steps
    )
    energy = torch.tensor([joules], device=device)
    dist.all_reduce(energy)
    count, each = ranks.count, options.batch * options.length
    return {
        "what": f"training of {options.model} in {count} processes of {options.batch} x "
        f"{options.length} tokens",
        "tokens/s": round(count * each / seconds, 1),
        "tokens/s of one process alone": round(each / by_itself[0], 1),
        "share of ideal": round(by_itself[0] / seconds, 4),
        "ms a step": round(seconds * 1e3, 2),
        "ms a step alone": round(by_itself[0] * 1e3, 2),
        "J/token": float(energy) / (count * each),
        "J/token alone": by_itself[1] / each,
        "peak bytes of a GPU": torch.cuda.max_memory_allocated() if fused else None,
        "gradients off": off,
        "device": f"{count} x {torch.cuda.get_device_name()}" if fused else "CPU",
        **record.about(options.commit),
    }


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--model", default="1.3b", choices=["tiny", *PUBLISHED])
    parser.add_argument("--batch", type=int, default=8)
    parser.add_argument("--length", type=int, default=2048)
    parser.add_argument("--steps", type=int, default=20)
    parser.add_argument(
        "-o",
        "--output",
        type=Path,
        default=Path(__file__).parent / "results" / "training_ranks.json",
    )
    parser.add_argument("--commit", help="recorded where this is no checkout with its history")
    options = parser.parse_args()
    with joined() as ranks:
        if ranks.count == 1:
            raise SystemExit("one process alone has nobody to train with: start it by torchrun")
        row = measured(ranks, options)
        if ranks.leads:
            print(json.dumps(row), flush=True)
            record.append(options.output, [row])


if __name__ == "__main__":
    main()
