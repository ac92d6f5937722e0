"""Training in several processes, beside the same share in one: tokens a second, memory, energy, and
what communication takes.

Weak scaling: every process has a batch of its own.  Each first trains alone, with the whole model
and without a word to the others, and then together; the gradients of the first pass together must
be the mean of those alone.  With --shard the model is divided among the processes, of which there
may then be one.  On GPUs torch's profiler tells the time in NCCL's kernels.
Run on a machine with GPUs, or on CPUs with --model tiny:

PYTHONPATH=.:partition:kernels:sims torchrun --standalone --nproc-per-node 2
    examples/benchmarks/training_ranks.py [--model 1.3b] [--shard] [--batch 8] [--length 2048]
    [-o ROWS]
"""

import argparse
import gc
import json
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path

import torch
import torch.distributed as dist
from torch import Tensor
from torch.autograd import DeviceType
from torch.distributed.tensor import DTensor
from torch.profiler import ProfilerActivity, profile

from mmfree_kernels.bench import record
from mmfree_kernels.float_model.model import HGRNBitModel
from mmfree_kernels.training import allocator, train
from mmfree_kernels.training.captured import Gradients, Loss
from mmfree_kernels.training.ranks import ALONE, Ranks, joined
from mmfree_kernels.training.recipe import Recipe
from mmfree_kernels.training.sharded import divided
from mmfree_neuro.hgrn_bit.config import PUBLISHED, ModelConfig

TINY = ModelConfig(vocab_size=256, hidden_size=64, num_hidden_layers=2, intermediate_size=128)
Span = tuple[float, float]
"""Begin and end, in seconds."""
MOST = 1e-3
"""How far the gradients of all may be from the mean of each, relative to the largest."""


def step(gradients: Gradients, optimiser: torch.optim.Optimizer, tokens: Tensor) -> None:
    gradients(tokens)
    torch.nn.utils.clip_grad_norm_(gradients.model.parameters(), 1.0)
    optimiser.step()


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
        step(gradients, optimiser, tokens)
    wait()
    return (time.perf_counter() - begin) / steps, (meter() - before) / 1e3 / steps


def mean_off(model: HGRNBitModel, alone: dict[str, Tensor]) -> float:
    """How far gradients are from the mean of all processes' own, relative to the largest value."""
    worst = 0.0
    for name, parameter in model.named_parameters():
        found = parameter.grad
        if found is not None:
            found = found.full_tensor() if isinstance(found, DTensor) else found
            expected = alone[name].to(found.device)
            dist.all_reduce(expected)
            expected /= dist.get_world_size()
            off = (found - expected).abs().max() / expected.abs().max().clamp_min(1e-30)
            worst = max(worst, float(off))
    return worst


def without(parts: Sequence[Span], others: Sequence[Span]) -> float:
    """How much time is in `parts`, spans that may overlap, and in none of the `others`."""
    ends = [(start, 0, 1) for start, _ in parts] + [(end, 0, -1) for _, end in parts]
    ends += [(start, 1, 1) for start, _ in others] + [(end, 1, -1) for _, end in others]
    inside, total, last = [0, 0], 0.0, 0.0
    for now, kind, change in sorted(ends):
        if inside[0] and not inside[1]:
            total += now - last
        inside[kind] += change
        last = now
    return total


def communication(run: Callable[[], object], times: int = 3) -> tuple[float, float]:
    """The share of time in which NCCL's kernels run, and that in which nothing else does; the wait
    for slower processes is in both."""
    with profile(activities=[ProfilerActivity.CUDA], acc_events=True) as profiler:
        begin = time.perf_counter()
        for _ in range(times):
            run()
        torch.cuda.synchronize()
        seconds = time.perf_counter() - begin
    spans: dict[bool, list[Span]] = {True: [], False: []}
    for event in profiler.events():
        if event.device_type == DeviceType.CUDA:
            span = event.time_range.start / 1e6, event.time_range.end / 1e6
            spans["nccl" in event.name.lower()].append(span)
    return without(spans[True], []) / seconds, without(spans[True], spans[False]) / seconds


def most_bytes(device: torch.device) -> tuple[int, int] | tuple[None, None]:
    """The most bytes that tensors had at once, and that torch has had from the GPU, since this was
    asked last.

    A captured step keeps what it needs, activations and all, in what torch has, and has no tensors
    when it is replayed.
    """
    if device.type != "cuda":
        return None, None
    most = torch.cuda.max_memory_allocated(), torch.cuda.max_memory_reserved()
    gc.collect()
    torch.cuda.empty_cache()
    torch.cuda.reset_peak_memory_stats()
    return most


def started_model(config: ModelConfig, device: torch.device) -> HGRNBitModel:
    """A model with weights by chance, the same in every process."""
    with torch.device(device):
        model = HGRNBitModel(config)
    generator = torch.Generator(device).manual_seed(1)
    for parameter in model.parameters():
        if parameter.dim() == 2:
            torch.nn.init.normal_(parameter, std=0.02, generator=generator)
    return model.train()


@dataclass(frozen=True)
class Measured:
    """What a step takes: seconds and joules of one process, and bytes of its GPU."""

    seconds: float
    joules: float
    allocated: int | None
    """By tensors; None where the step is captured."""
    reserved: int | None
    """By torch."""


def measured(gradients: Gradients, tokens: Tensor, steps: int) -> Measured:
    """Steps of a model whose gradients were asked for once."""
    device = tokens.device
    most_bytes(device)
    recipe = Recipe(learning_rate=1e-6)
    optimiser = train.optimiser_for(gradients.model, recipe, device)
    seconds, joules = stepped(gradients, optimiser, tokens, steps)
    allocated, reserved = most_bytes(device)
    return Measured(seconds, joules, None if gradients.captures else allocated, reserved)


def by_itself(
    model: HGRNBitModel, loss: Loss, tokens: Tensor, steps: int
) -> tuple[Measured, dict[str, Tensor]]:
    """One process with the whole model, and its first gradients."""
    gradients = Gradients(model, loss, ALONE)
    gradients(tokens)
    named = model.named_parameters()
    first = {n: p.grad.to("cpu", copy=True) for n, p in named if p.grad is not None}
    return measured(gradients, tokens, steps), first


def together(
    ranks: Ranks,
    model: HGRNBitModel,
    loss: Loss,
    tokens: Tensor,
    first: dict[str, Tensor],
    options: argparse.Namespace,
) -> tuple[Measured, float, tuple[float, float] | tuple[None, None]]:
    """All processes; how far their first gradients are off, and the shares of `communication`."""
    gradients = Gradients(model, loss, ranks, sharded=options.shard)
    gradients(tokens)
    off = mean_off(model, first)
    if off > MOST:
        raise SystemExit(f"gradients are off by {off:g}: no row is written")
    found = measured(gradients, tokens, options.steps)
    if tokens.device.type != "cuda":
        return found, off, (None, None)
    optimiser = train.optimiser_for(model, Recipe(learning_rate=1e-6), tokens.device)
    return found, off, communication(lambda: step(gradients, optimiser, tokens))


def row(ranks: Ranks, options: argparse.Namespace) -> dict[str, object]:
    """The row of this machine."""
    config = TINY if options.model == "tiny" else PUBLISHED[options.model]
    device = ranks.device
    fused = device.type == "cuda" and train.can_fuse(config)
    loss = train.fused_loss if fused else train.plain_loss
    own = torch.Generator().manual_seed(2 + ranks.number)
    shape = options.batch, options.length + 1
    tokens = torch.randint(config.vocab_size, shape, generator=own).to(device)

    alone, first = by_itself(started_model(config, device), loss, tokens, options.steps)
    model = started_model(config, device)
    if options.shard:
        start = {name: p.detach().to("cpu", copy=True) for name, p in model.named_parameters()}
        del model
        model = divided(config, lambda name, _: start[name], ranks)
    found, off, waits = together(ranks, model, loss, tokens, first, options)
    energy = torch.tensor([found.joules], device=device)
    dist.all_reduce(energy)
    count, each = ranks.count, options.batch * options.length
    how = ", the model divided" if options.shard else ""
    return {
        "what": f"training of {options.model} in {count} processes of {options.batch} x "
        f"{options.length} tokens{how}",
        "tokens/s": round(count * each / found.seconds, 1),
        "tokens/s of one process alone": round(each / alone.seconds, 1),
        "share of ideal": round(alone.seconds / found.seconds, 4),
        "ms a step": round(found.seconds * 1e3, 2),
        "ms a step alone": round(alone.seconds * 1e3, 2),
        "share of time in NCCL's kernels": waits[0],
        "share of time in NCCL's kernels alone": waits[1],
        "J/token": float(energy) / (count * each),
        "J/token alone": alone.joules / each,
        "bytes of a GPU": found.reserved,
        "bytes of a GPU alone": alone.reserved,
        "bytes of tensors": found.allocated,
        "gradients off": off,
        "device": f"{count} x {torch.cuda.get_device_name()}" if fused else "CPU",
        **record.about(options.commit),
    }


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--model", default="1.3b", choices=["tiny", *PUBLISHED])
    parser.add_argument("--shard", action="store_true", help="divide the model, as train --shard")
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
    if options.shard:
        allocator.expand()
    with joined(alone=options.shard) as ranks:
        if ranks.count == 1 and not options.shard:
            raise SystemExit("one process alone has nobody to train with: start it by torchrun")
        found = row(ranks, options)
        if ranks.leads:
            print(json.dumps(found), flush=True)
            record.append(options.output, [found])


if __name__ == "__main__":
    main()
