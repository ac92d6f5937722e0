"""Trains the float model: AdamW, the family's learning rates, checkpoints in the published format,
resume.

The learning rate falls from its peak along a cosine and is halved in the second half, as for
one-bit models; or it stays, and falls in the last fifth (`wsd`: warm-up, stable, decay).  Batches
depend on the seed and the step alone, so a resumed run sees what an uninterrupted one would have
seen.
"""

import hashlib
import importlib.util
import json
import math
import os
import time
import warnings
from collections.abc import Callable, Iterator
from contextlib import nullcontext, suppress
from dataclasses import asdict, dataclass, replace
from pathlib import Path
from typing import Any, NoReturn

import numpy as np
import torch
from torch import Tensor
from torch.nn import functional

from mmfree_kernels.float_model.evaluate import nats
from mmfree_kernels.float_model.model import HGRNBitModel, from_checkpoint, to_checkpoint
from mmfree_kernels.training.captured import Gradients
from mmfree_kernels.training.ranks import ALONE, Ranks, joined, started
from mmfree_neuro.errors import InputError, RunFailed, Served, shown
from mmfree_neuro.files.lock import locked
from mmfree_neuro.files.reading import Misfit, opened, reading
from mmfree_neuro.files.writing import check_folder, check_outputs, save_text, whole_file
from mmfree_neuro.hgrn_bit.config import FAMILY, ModelConfig
from mmfree_neuro.hgrn_bit.names import harden
from mmfree_neuro.model.checkpoint import read, write
from mmfree_neuro.model.corpus import Corpus, windows

STATE = "training.pt"
A_STATE = "the state of a training run"
TOKENIZER = "tokenizer.json"
FILES = STATE, "config.json", "model.safetensors", TOKENIZER
"""What a run leaves in its folder; a tokenizer where it was given one."""
BLOCK_BYTES = 200_000
"""What the objects of a block take at least, however small its weights are (measured: 241 kB)."""
MOST = 10**12
"""No number of a recipe is larger."""
SCHEDULES = "cosine", "wsd"
DECAY = 0.2
"""The share of the steps in which the rate of `wsd` falls to zero."""
ASKED_EVERY = 10
"""So often processes agree on whether there is time left, in steps."""
HELD_OUT_WINDOWS = 64
"""So many windows of held-out text are looked at on the way."""


@dataclass(frozen=True)
class Recipe:
    """What decides a training run, given its corpus."""

    steps: int = 2000
    batch: int = 64
    window: int = 512
    learning_rate: float = 2e-3
    """Its peak: at twice this, rounding alone moves a loss by more than a percent."""
    warmup: int = 100
    weight_decay: float = 0.01
    clip: float = 1.0
    seed: int = 0
    accumulate: int = 1
    """How many batches a step adds the gradients of."""
    schedule: str = "cosine"

    @property
    def tokens(self) -> int:
        """How many tokens a step sees."""
        return self.batch * self.accumulate * self.window

    def __post_init__(self) -> None:
        if self.schedule not in SCHEDULES:
            raise InputError(
                f"schedule {shown(self.schedule)} is not known, must be {' or '.join(SCHEDULES)}"
            )
        for name in ("steps", "batch", "window", "accumulate"):
            if not 1 <= getattr(self, name) <= MOST:
                raise InputError(f"{name} is {shown(getattr(self, name))}, must be 1 … {MOST}")
        if not 0 < self.learning_rate <= 1:
            raise InputError(
                f"the learning rate is {self.learning_rate}, must be above 0 and at most 1"
            )
        if not 0 <= self.seed < 1 << 63:
            raise InputError(f"the seed is {shown(self.seed)}, must be 0 … {(1 << 63) - 1}")


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


def learning_rate(recipe: Recipe, step: int) -> float:
    """The rate of one step: linear warm-up, then a cosine, halved from the middle on, or a stable
    rate and a linear fall."""
    if step < recipe.warmup:
        return recipe.learning_rate * (step + 1) / recipe.warmup
    share = step / recipe.steps
    if recipe.schedule == "wsd":
        return recipe.learning_rate * min(1.0, (1 - share) / DECAY)
    return (
        recipe.learning_rate
        * 0.5
        * (1 + math.cos(math.pi * share))
        * (0.5 if share >= 0.5 else 1.0)
    )


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


def _settings(config: ModelConfig, recipe: Recipe, tokenizer: str | None) -> dict[str, Any]:
    digest = None if tokenizer is None else hashlib.sha256(tokenizer.encode()).hexdigest()
    return {"config": asdict(config), "recipe": asdict(recipe), "tokenizer_sha256": digest}


@dataclass
class _Run:
    """A model that is being trained, and the folder that it is kept in."""

    folder: Path
    model: HGRNBitModel
    optimiser: torch.optim.Optimizer
    recipe: Recipe
    ranks: Ranks = ALONE
    tokenizer: str | None = None
    """The content of the `tokenizer.json` that is kept beside the weights."""
    kept: int | None = None
    """The step that the files in the folder are of, where they are of this run."""

    @property
    def path(self) -> Path:
        """The state from which a run resumes."""
        return self.folder / STATE

    def save(self, step: int) -> None:
        """Keep what was reached; RunFailed where that cannot be written, or is worth nothing."""
        if not all(bool(torch.isfinite(p).all()) for p in self.model.parameters()):
            self.fail(step, "weights are not finite")
        if self.ranks.leads:
            self._write(step)
        self.kept = step

    def _write(self, step: int) -> None:
        state = {
            "model": self.model.state_dict(),
            "optimiser": self.optimiser.state_dict(),
            "settings": _settings(self.model.config, self.recipe, self.tokenizer),
            "step": step,
        }
        try:
            if self.tokenizer is not None:
                save_text(self.folder / TOKENIZER, self.tokenizer, durable=True)
            write(self.folder, harden(to_checkpoint(self.model)), durable=True)
            with whole_file(self.path, durable=True) as scratch:
                try:
                    torch.save(state, scratch)
                except RuntimeError as error:  # torch's own word for a full disk
                    raise InputError(
                        f"{self.path}: cannot be written ({shown(str(error))})"
                    ) from None
        except InputError as error:
            raise RunFailed(str(error)) from None

    def fail(self, step: int, what: str) -> NoReturn:
        """End a run that has come to nothing."""
        rest = (
            "nothing was kept"
            if self.kept is None
            else f"what was reached after {self.kept} is kept in {self.folder}"
        )
        raise RunFailed(
            f"training stopped after {step} steps, because {what}; {rest}; try a lower learning "
            "rate"
        )

    def resume(self) -> int:
        """Go on from the state in the folder: the steps that were done."""
        settings = _settings(self.model.config, self.recipe, self.tokenizer)
        with reading(self.path, InputError, A_STATE), opened(self.path):
            state = _loaded(self.path, self.model.lm_head.weight.device)
            if not _same_run(state["settings"], settings, state["step"]):
                raise InputError(
                    f"{self.path}: belongs to a run with other settings: "
                    f"{json.dumps(state['settings'])}"
                )
            step = state["step"]
            if type(step) is not int or not 0 <= step <= self.recipe.steps:
                raise Misfit(f"step is {shown(step)}, must be 0 … {self.recipe.steps}")
            self.model.load_state_dict(state["model"])
            self.optimiser.load_state_dict(state["optimiser"])
            for parameter, moments in self.optimiser.state.items():
                if any(moments[n].shape != parameter.shape for n in ("exp_avg", "exp_avg_sq")):
                    raise Misfit("a moment has another shape than its weight")
        self.kept = step
        return step


def _same_run(stored: Any, wanted: dict[str, Any], step: Any) -> bool:
    """Whether a run may go on with these settings: the same, or with a stable rate that has not
    begun to fall another number of steps."""
    if stored == wanted:
        return True
    recipe = wanted["recipe"]
    with suppress(TypeError, KeyError):
        others = stored | {"recipe": stored["recipe"] | {"steps": recipe["steps"]}}
        stable = min(stored["recipe"]["steps"], recipe["steps"]) * (1 - DECAY)
        return bool(recipe["schedule"] == "wsd" and others == wanted and step <= stable)
    return False


def _loaded(path: Path, device: torch.device) -> dict[str, Any]:
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")  # torch comments on files that it then refuses
            state: dict[str, Any] = torch.load(path, map_location=device, weights_only=True)
    except Exception:  # a damaged pickle fails in a dozen ways, and torch says so at length
        raise InputError(f"{path}: not readable as {A_STATE}") from None
    if not isinstance(state, dict):
        raise Misfit(f"holds a {type(state).__name__}, must hold a dict")
    for name in ("model", "optimiser", "settings", "step"):
        if name not in state:
            raise Misfit(f"has no {name}, must have one")
    return state


def check_memory(config: ModelConfig, recipe: Recipe, memory_bytes: int) -> None:
    """InputError where a model, its gradients and its two moments, or what one batch needs at
    least, exceed that memory."""
    each, tokens = 4 * config.parameters(), recipe.batch * recipe.window
    needed = 4 * each + config.num_hidden_layers * BLOCK_BYTES
    # The residual stream of every block in half precision, and the logits.
    batch_bytes = tokens * (2 * config.num_hidden_layers * config.hidden_size + config.vocab_size)
    for what, size in (
        (f"a model of {config.parameters()} weights in training", needed),
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
    writes, and the others raise Served in the end.

    Raises InputError, before anything is computed, when the text is shorter than a window, a batch
    cannot be shared out evenly, the model does not fit the memory, the folder cannot be written to
    or is being written to, or `resume` finds no run with the same recipe.  Raises RunFailed where
    the loss or the weights are no longer finite, or another process has ended; what was kept before
    stays.
    """
    if corpus.train.size < recipe.window + 2 or corpus.held_out.size < recipe.window + 2:
        raise InputError(f"{corpus.description}: too short for windows of {recipe.window} tokens")
    ranks = started()
    if recipe.batch % ranks.count:
        raise InputError(
            f"a batch has {recipe.batch} windows, must be a multiple of the {ranks.count} processes"
        )
    device, mine = ranks.device, replace(recipe, batch=recipe.batch // ranks.count)
    check_memory(config, mine, machine_bytes())
    if device.type == "cuda":
        check_memory(config, mine, torch.cuda.get_device_properties(device).total_memory)
    if resume and not os.path.lexists(folder / STATE):
        raise InputError(f"{folder / STATE}: no such file; there is no run to resume")
    check_folder(folder, folder)
    if tokenizer is None and os.path.lexists(folder / TOKENIZER):
        raise InputError(
            f"{folder / TOKENIZER}: is there already, must not be beside a model of bytes"
        )
    check_outputs(folder / name for name in FILES)
    with joined(), locked(folder) if ranks.leads else nullcontext():
        model = HGRNBitModel(config)
        model.initialise(recipe.seed)
        model.to(device).train()
        run = _Run(folder, model, optimiser_for(model, recipe, device), recipe, ranks, tokenizer)
        first = run.resume() if resume else 0
        step = _steps(run, corpus, first, max_seconds, save_every, report_every, look_every, report)
        ranks.wait()
    if not ranks.leads:
        raise Served
    stored = from_checkpoint(read(folder, lambda _: {}, FAMILY)).to(device)
    held_out = nats(stored, windows(corpus.held_out, min(1024, corpus.held_out.size - 1), 256))
    lost, tokens_per_byte = float(held_out.mean()), corpus.held_out.size / corpus.held_out_bytes
    seen = step * recipe.tokens
    return Outcome(step, seen, lost, lost * tokens_per_byte, step >= recipe.steps)


def _steps(
    run: _Run,
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
    gradients = Gradients(model, loss_of, ranks)
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
        return ranks.agreed(time.monotonic() - start < max_seconds)

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
        if between:
            run.save(step)
        raise
    if run.kept != step:
        run.save(step)
    return step
