"""mmfree-neuro train: a model of bytes, or of the tokens of a tokenizer."""

import argparse
import os
import time
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import asdict
from pathlib import Path
from typing import Any

from mmfree_neuro.cli.options import add_command, add_option
from mmfree_neuro.cli.output import show, tell
from mmfree_neuro.errors import InputError, RunFailed, shown
from mmfree_neuro.files.reading import read_bytes, reading
from mmfree_neuro.files.writing import check_outputs
from mmfree_neuro.model.checkpoint import TOKENIZER_FILE
from mmfree_neuro.pipeline.families import needs_torch

UNTIL_SAID_S = 10
"""So long another process than the first waits before it ends for what all of them find wrong."""


def add(commands: Any) -> None:
    """Declare the command and its options."""
    p = add_command(commands, "train", run, "train --corpus stdlib -o checkpoint --steps 2000")
    add_option(p, "-o", "--output", type=Path, required=True, help="checkpoint folder to write")
    add_option(
        p,
        "--corpus",
        help="stdlib (Python's library, default), packages (that and all installed packages, with "
        "their documentation) or a folder of Python sources",
    )
    add_option(p, "--text", type=Path, help="train on this text file instead")
    add_option(
        p,
        "--tokenizer",
        type=Path,
        help="tokenizer.json, or a folder with one: train on its tokens (default: on bytes)",
    )
    for name, value, text in (
        ("hidden", 256, "hidden size"),
        ("layers", 6, "blocks"),
        ("steps", 2000, "optimiser steps"),
        ("batch", 64, "windows at a time"),
        ("accumulate", 1, "times as many windows a step, one batch after another"),
        ("window", 512, "bytes or tokens a window"),
        ("warmup", 100, "steps in which the rate rises"),
        ("seed", 0, "seed"),
    ):
        add_option(p, f"--{name}", type=int, default=value, help=f"{text} (default {value})")
    add_option(
        p, "--intermediate", type=int, default=0, help="gate width (default 0: as published)"
    )
    add_option(p, "--learning-rate", type=float, default=2e-3, help="its peak (default 2e-3)")
    add_option(
        p,
        "--schedule",
        default="cosine",
        help="cosine (default), or wsd: the rate stays, and falls in the last fifth; until then "
        "--resume takes another number of --steps",
    )
    add_option(
        p,
        "--shard",
        action="store_true",
        help="divide weights, gradients and moments among the processes that torchrun or srun "
        "starts (FSDP), for a model that one of them has no room for",
    )
    add_option(
        p,
        "--save-every",
        type=int,
        default=1000,
        help="steps after which the state is kept, to resume from (default 1000)",
    )
    add_option(p, "--max-seconds", type=float, default=float("inf"), help="stop early, resumable")
    add_option(p, "--resume", action="store_true", help="go on with the run in the output folder")


def run(options: argparse.Namespace) -> None:
    """Train a model, perhaps in several processes, of which the first speaks."""
    try:
        if options.shard:
            from mmfree_kernels.training import allocator

            allocator.expand()
        with needs_torch("training"):
            from mmfree_kernels.training import ranks
        try:
            _run(options)
        except (InputError, RunFailed) as error:
            if not _follows() or isinstance(error, (ranks.Ended, ranks.Outnumbered)):
                raise
            # Whoever started the processes ends all when one has ended: the first has to say why.
            time.sleep(UNTIL_SAID_S)
            raise SystemExit(2 if isinstance(error, InputError) else 1) from None
    except KeyboardInterrupt:
        if not _follows():
            raise
        raise SystemExit(1) from None


def _follows() -> bool:
    """Whether torchrun or srun started this process as another than the first."""
    return any(os.environ.get(name, "0") != "0" for name in ("RANK", "SLURM_PROCID"))


def _run(options: argparse.Namespace) -> None:
    from mmfree_kernels.training import kept, train
    from mmfree_kernels.training.recipe import MOST, Recipe
    from mmfree_neuro.hgrn_bit.config import ModelConfig, default_intermediate_size
    from mmfree_neuro.model import corpus, spelt

    for name, least in (
        ("hidden", 1),
        ("layers", 1),
        ("intermediate", 0),
        ("warmup", 0),
        ("save-every", 1),
    ):
        value = getattr(options, name.replace("-", "_"))
        if not least <= value <= MOST:
            raise InputError(f"{name} is {shown(value)}, must be {least} … {MOST}")
    if not options.max_seconds >= 0:
        raise InputError(f"the seconds are {options.max_seconds}, must not be negative")
    check_outputs((options.output / name for name in kept.FILES), [options.text])
    if options.corpus is not None and options.text is not None:
        raise InputError("--corpus and --text were both given, must be one of them")
    name = options.corpus or (options.text and str(options.text)) or "stdlib"
    tokenizer = None if options.tokenizer is None else _tokenizer(options.tokenizer)
    if tokenizer is None:
        text, vocabulary = corpus.load(name), spelt.Vocabulary(256, 0, 0)
    else:
        texts = corpus.load_texts(name)
        with _named(options.tokenizer):
            vocabulary = spelt.vocabulary_of(tokenizer)
            text = spelt.corpus_of(texts, tokenizer)
    unit = "byte" if tokenizer is None else "token"
    config = ModelConfig(
        vocab_size=vocabulary.size,
        hidden_size=options.hidden,
        num_hidden_layers=options.layers,
        bos_token_id=vocabulary.bos,
        eos_token_id=vocabulary.eos,
        intermediate_size=options.intermediate or default_intermediate_size(options.hidden, 4),
    )
    recipe = Recipe(
        options.steps,
        options.batch,
        options.window,
        options.learning_rate,
        warmup=options.warmup,
        seed=options.seed,
        accumulate=options.accumulate,
        schedule=options.schedule,
    )
    progress: list[train.Progress] = []

    def stepped(p: train.Progress) -> None:
        progress.append(p)
        held_out = "" if p.held_out is None else f"  held out {p.held_out:.4f}"
        if not options.json:
            tell(
                f"step {p.step:6d}  loss {p.loss:.4f}{held_out}  rate {p.learning_rate:.2e}  "
                f"{p.tokens_per_second / 1e3:.1f} k{unit}s/s"
            )

    outcome = train.train(
        config,
        text,
        recipe,
        options.output,
        tokenizer=tokenizer,
        resume=options.resume,
        shard=options.shard,
        save_every=options.save_every,
        max_seconds=options.max_seconds,
        report=stepped,
    )
    state = "finished" if outcome.finished else "stopped; --resume goes on"
    line = (
        f"{state} at step {outcome.step}: {outcome.held_out_nats:.4f} nats per {unit} on "
        f"held-out {text.description}"
    )
    if tokenizer is not None:
        line += f" ({outcome.held_out_nats_per_byte:.4f} per byte)"
    found = {
        "checkpoint": str(options.output),
        "corpus": text.description,
        "train_tokens": text.train.size,
        "held_out_tokens": text.held_out.size,
        **asdict(outcome),
        "progress": [asdict(p) for p in progress],
    }
    show(found, line, options.json)


@contextmanager
def _named(path: Path) -> Iterator[None]:
    """What is wrong with the tokenizer, with its path in the place of its usual name."""
    try:
        yield
    except InputError as error:
        raise InputError(str(error).replace("tokenizer.json", str(path), 1)) from None


def _tokenizer(path: Path) -> str:
    """The content of a `tokenizer.json`, or of the one in a folder; InputError without one."""
    file = path / "tokenizer.json" if path.is_dir() else path
    content = read_bytes(file, InputError, TOKENIZER_FILE)
    with reading(file, InputError, TOKENIZER_FILE):
        return content.decode()
