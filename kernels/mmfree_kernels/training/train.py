"""Trains the float model: AdamW, the family's learning rates, checkpoints in the published format,
resume.

Batches depend on the seed and the step alone, so a resumed run sees what an uninterrupted one would
have seen.
"""

import importlib.util
import math
import os
import time
from collections.abc import Callable, Iterator
from contextlib import nullcontext
from dataclasses import dataclass, replace
from pathlib import Path

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor
from torch.nn import functional

from mmfree_kernels.float_model.evaluate import nats
from mmfree_kernels.float_model.model import HGRNBitModel, from_checkpoint
from mmfree_kernels.training.captured import Gradients
from mmfree_kernels.training.kept import FILES, STATE, TOKENIZER, Run
from mmfree_kernels.training.ranks import ALONE, Ranks, joined, started
from mmfree_kernels.training.recipe import Recipe, learning_rate
from mmfree_neuro.errors import InputError, Served
from mmfree_neuro.files.lock import locked
from mmfree_neuro.files.writing import check_folder, check_outputs
from mmfree_neuro.hgrn_bit.config import FAMILY, ModelConfig
from mmfree_neuro.model.checkpoint import read
from mmfree_neuro.model.corpus import Corpus, windows

BLOCK_BYTES = 200_000
"""What the objects of a block take at least, however small its weights are (measured: 241 kB)."""
ASKED_EVERY = 10
"""So often processes agree on whether there is time left, in steps."""
OLDEST = 2, 7
"""The version of torch from which on a model can be divided."""
HELD_OUT_WINDOWS = 64
"""So many windows of held-out text are looked at on the way."""


@dataclass(frozen=True)
class Progress:
    """One report of a run: step reached, mean training loss in nats since the last report, tokens
    per second, and the held-out loss of the weights as they are, where that was looked at."""

    step: int
    loss: float
    learning_rate: float
    tokens_per_second: float
    held_out: float | None = None


@dataclass(frozen=True)
class Outcome:
    """How far a run came: steps done, tokens of training text seen, held-out loss in nats per token
    and per byte."""

    step: int
    seen_tokens: int
    held_out_nats: float
    held_out_nats_per_byte: float
    finished: bool


def batches(text: Tensor, recipe: Recipe, step: int, ranks: Ranks = ALONE) -> Iterator[Tensor]:
    """The batches of windows [batch, window + 1], int64, of one step, or this process's shares of
    them; they depend on the seed and the step alone."""
    generator = np.random.default_rng((recipe.seed, step))
    count = recipe.batch * recipe.accumulate
    starts = generator.integers(0, text.numel() - recipe.window - 1, count)
    inside = torch.arange(recipe.window + 1, device=text.device)
    for some in torch.from_numpy(starts).to(text.device).split(recipe.batch):
        yield text[ranks.share(some)[:, None] + inside].long()


def accumulated(gradients: Gradients, parts: Iterator[Tensor], count: int) -> Tensor:
    """The mean loss of `count` batches, whose mean gradients are left where the parameters have
    them."""
    total = gradients(next(parts)).clone()
    if count > 1:
        held = [p.grad for p in gradients.model.parameters() if p.grad is not None]
        sums = [grad.clone() for grad in held]
        for tokens in parts:
            total += gradients(tokens)
            held = [p.grad for p in gradients.model.parameters() if p.grad is not None]
            for whole, grad in zip(sums, held, strict=True):
                whole += grad
        for whole, grad in zip(sums, held, strict=True):
            torch.div(whole, count, out=grad)
    return total / count


@torch.no_grad()
def held_out_loss(gradients: Gradients, windows: Tensor, at_once: int) -> float:
    """The loss of windows [n, length + 1], computed as in training, so many of them at once."""
    parts = [gradients.loss(gradients.model, some) * len(some) for some in windows.split(at_once)]
    if gradients.sharded:
        from mmfree_kernels.training.sharded import let_go

        let_go(gradients.model)
    return float(torch.stack(parts).sum()) / len(windows)


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


def check_memory(config: ModelConfig, recipe: Recipe, memory_bytes: int, shares: int = 1) -> None:
    """InputError where one of so many equal shares of a model, its gradients and its two moments,
    or what one batch needs at least, exceed that memory."""
    each, tokens = 4 * config.parameters(), recipe.batch * recipe.window
    needed = 4 * each // shares + config.num_hidden_layers * BLOCK_BYTES
    # The residual stream of every block in half precision, and the logits.
    batch_bytes = tokens * (2 * config.num_hidden_layers * config.hidden_size + config.vocab_size)
    share = "a model" if shares == 1 else f"each of {shares} shares of a model"
    for what, size in (
        (f"{share} of {config.parameters()} weights in training", needed),
        (f"a batch of {tokens} tokens", batch_bytes),
    ):
        if size > memory_bytes:
            raise InputError(
                f"{what} needs at least {size / 1e9:.1f} GB, must fit the {memory_bytes / 1e9:.1f} "
                "GB of memory here"
            )


def machine_bytes() -> int:
    """The memory that a process can have here: the machine's, or what its control group allows."""
    physical = os.sysconf("SC_PHYS_PAGES") * os.sysconf("SC_PAGE_SIZE")
    try:
        allowed = Path("/sys/fs/cgroup/memory.max").read_text(encoding="ascii").strip()
    except OSError:
        return physical
    return min(physical, int(allowed)) if allowed.isdigit() else physical


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
    tokenizer: str | None = None,
    resume: bool = False,
    shard: bool = False,
    max_seconds: float = math.inf,
    save_every: int = 1000,
    report_every: int = 50,
    look_every: int = 500,
    report: Callable[[Progress], None] = lambda _: None,
) -> Outcome:
    """Train a model and leave its checkpoint in `folder`; stop early, resumable, after
    `max_seconds`.  Every `look_every` steps the held-out loss of a few windows is reported.
    `tokenizer` is the content of the `tokenizer.json` whose tokens the corpus has.

    The checkpoint is hardened (`names.harden`), so that bfloat16 keeps every code; latent
    weights stay in `training.pt`, from which a run resumes.  The held-out loss is that of the
    checkpoint as stored.

    Under torchrun or srun each process takes its share of every batch; the first alone reports and
    writes, and the others raise Served in the end.  With `shard` each keeps only its share of
    weights, gradients and moments, too (`sharded`), all write their parts of the state, and the
    checkpoint is written at the end; the folder must be one that all of them see.

    Raises InputError, before anything is computed, when the text is shorter than a window, a batch
    cannot be shared out evenly, the model does not fit the memory, torch cannot divide it, the
    folder cannot be written to or is being written to, or `resume` finds no run with the same
    recipe.  Raises RunFailed where the loss or the weights are no longer finite, or another process
    has ended; what was kept before stays.
    """
    if corpus.train.size < recipe.window + 2 or corpus.held_out.size < recipe.window + 2:
        raise InputError(f"{corpus.description}: too short for windows of {recipe.window} tokens")
    ranks = started()
    if shard:
        _check_torch()
    if recipe.batch % ranks.count:
        raise InputError(
            f"a batch has {recipe.batch} windows, must be a multiple of the {ranks.count} processes"
        )
    device, mine = ranks.device, replace(recipe, batch=recipe.batch // ranks.count)
    shares = ranks.count if shard else 1
    check_memory(config, mine, machine_bytes(), shares)
    if device.type == "cuda":
        # `joined` tells a process for which no GPU is left; before that all find the same wrong.
        gpu = min(ranks.local, torch.cuda.device_count() - 1)
        check_memory(config, mine, torch.cuda.get_device_properties(gpu).total_memory, shares)
    if resume and not os.path.lexists(folder / STATE):
        raise InputError(f"{folder / STATE}: no such file; there is no run to resume")
    check_folder(folder, folder)
    if tokenizer is None and os.path.lexists(folder / TOKENIZER):
        raise InputError(
            f"{folder / TOKENIZER}: is there already, must not be beside a model of bytes"
        )
    check_outputs(folder / name for name in FILES)
    with joined(alone=shard), locked(folder) if ranks.leads else nullcontext():
        model = _fresh(config, recipe.seed, ranks, shard).train()
        optimiser = optimiser_for(model, recipe, device)
        run = Run(folder, model, optimiser, recipe, ranks, shard, tokenizer)
        first = run.resume() if resume else 0
        step = _steps(run, corpus, first, max_seconds, save_every, report_every, look_every, report)
        if shard:
            run.publish()
        ranks.wait()
        held_out = _held_out(run, corpus) if shard or ranks.leads else np.zeros(0)
    if not ranks.leads:
        raise Served
    lost, tokens_per_byte = float(held_out.mean()), corpus.held_out.size / corpus.held_out_bytes
    seen = step * recipe.tokens
    return Outcome(step, seen, lost, lost * tokens_per_byte, step >= recipe.steps)


def _check_torch() -> None:
    """InputError where torch is too old for a model that is divided."""
    if tuple(int(part) for part in torch.__version__.split(".")[:2]) < OLDEST:
        oldest = ".".join(map(str, OLDEST))
        raise InputError(
            f"torch is {torch.__version__}, must be {oldest} or newer to divide a model"
        )


def _fresh(config: ModelConfig, seed: int, ranks: Ranks, shard: bool) -> HGRNBitModel:
    """A model with its first weights, where it is to be trained."""
    if shard:
        from mmfree_kernels.training.sharded import divided, fresh

        return divided(config, fresh(config, seed), ranks)
    model = HGRNBitModel(config)
    model.initialise(seed)
    return model.to(ranks.device)


def _held_out(run: Run, corpus: Corpus) -> NDArray[np.float64]:
    """The losses of held-out windows [windows, length], of the checkpoint as it is stored."""
    checkpoint = read(run.folder, lambda _: {}, FAMILY)
    if run.sharded:
        from mmfree_kernels.training.sharded import place

        model = run.model
        for name, parameter in model.named_parameters():
            place(parameter, torch.from_numpy(checkpoint.tensors[name]))
    else:
        model = from_checkpoint(checkpoint).to(run.ranks.device)
    return nats(model, windows(corpus.held_out, min(1024, corpus.held_out.size - 1), 256))


def _steps(
    run: Run,
    corpus: Corpus,
    first: int,
    max_seconds: float,
    save_every: int,
    report_every: int,
    look_every: int,
    report: Callable[[Progress], None],
) -> int:
    """Train from step `first` on and keep what comes out: the step that was reached."""
    model, optimiser, recipe, ranks = run.model, run.optimiser, run.recipe, run.ranks
    device = model.lm_head.weight.device
    loss_of = fused_loss if device.type == "cuda" and can_fuse(model.config) else plain_loss
    gradients = Gradients(model, loss_of, ranks, sharded=run.sharded)
    text = torch.from_numpy(corpus.train.copy()).to(device)
    length = min(recipe.window, corpus.held_out.size - 1)
    unseen = torch.from_numpy(windows(corpus.held_out, length, HELD_OUT_WINDOWS)).to(device)
    at_once = recipe.batch // ranks.count
    start = since = time.monotonic()
    step, total, counted = first, torch.zeros((), device=device), 0

    def goes_on(step: int) -> bool:
        """Whether there is time; several processes ask each other now and then, as that waits for
        GPUs."""
        if ranks.count > 1 and step % ASKED_EVERY:
            return True
        return bool(ranks.agreed(time.monotonic() - start < max_seconds))

    between = True
    """Whether no step has changed some of the weights and not yet the others."""
    try:
        while step < recipe.steps and goes_on(step):
            rate = learning_rate(recipe, step)
            for group in optimiser.param_groups:
                group["lr"] = rate
            parts = batches(text, recipe, step, ranks)
            loss = accumulated(gradients, parts, recipe.accumulate)
            torch.nn.utils.clip_grad_norm_(model.parameters(), recipe.clip)
            between = False
            optimiser.step()
            total, counted, step = total + loss, counted + 1, step + 1
            between = True
            is_last = step == recipe.steps
            # A look at the loss waits for a GPU, and on a CPU costs nothing.
            reports = counted == report_every or is_last or step % look_every == 0
            looks = reports or step % save_every == 0
            if looks or device.type == "cpu":
                total = ranks.mean(total)
                if not math.isfinite(total.item()):
                    run.fail(step, "the loss is not finite")
            if reports:
                mean, speed = (
                    total.item() / counted,
                    counted * recipe.tokens / (time.monotonic() - since),
                )
                look = is_last or step % look_every == 0
                held_out = held_out_loss(gradients, unseen, at_once) if look else None
                if ranks.leads:
                    report(Progress(step, mean, rate, speed, held_out))
                total, counted, since = torch.zeros((), device=device), 0, time.monotonic()
            if step % save_every == 0:
                run.save(step)
    except KeyboardInterrupt:
        if between and not run.sharded:  # all would have to save, and may be at different steps
            run.save(step)
        raise
    if run.kept != step:
        run.save(step)
    return step
