"""mmfree-neuro train: a model of bytes."""

import argparse
from dataclasses import asdict
from pathlib import Path
from typing import Any

from mmfree_neuro.cli.options import add_command, add_option
from mmfree_neuro.cli.output import show, tell
from mmfree_neuro.errors import InputError, shown
from mmfree_neuro.files.writing import check_outputs
from mmfree_neuro.pipeline.families import needs_torch


def add(commands: Any) -> None:
    """Declare the command and its options."""
    p = add_command(commands, "train", run, "train --corpus stdlib -o checkpoint --steps 2000")
    add_option(p, "-o", "--output", type=Path, required=True, help="checkpoint folder to write")
    add_option(
        p,
        "--corpus",
        default="stdlib",
        help="stdlib (Python's library, default) or a folder of Python sources",
    )
    add_option(p, "--text", type=Path, help="train on the bytes of this file instead")
    for name, value, text in (
        ("hidden", 256, "hidden size"),
        ("layers", 6, "blocks"),
        ("steps", 2000, "optimiser steps"),
        ("batch", 64, "windows a step"),
        ("window", 512, "bytes a window"),
        ("seed", 0, "seed"),
    ):
        add_option(p, f"--{name}", type=int, default=value, help=f"{text} (default {value})")
    add_option(
        p, "--intermediate", type=int, default=0, help="gate width (default 0: as published)"
    )
    add_option(
        p, "--learning-rate", type=float, default=4e-3, help="peak of the cosine (default 4e-3)"
    )
    add_option(p, "--max-seconds", type=float, default=float("inf"), help="stop early, resumable")
    add_option(p, "--resume", action="store_true", help="go on with the run in the output folder")


def run(options: argparse.Namespace) -> None:
    """Train a model on bytes."""
    with needs_torch("training"):
        from mmfree_kernels.training import train
    from mmfree_neuro.hgrn_bit.config import ModelConfig, default_intermediate_size
    from mmfree_neuro.model import corpus

    for name, least in (("hidden", 1), ("layers", 1), ("intermediate", 0)):
        value = getattr(options, name)
        if not least <= value <= train.MOST:
            raise InputError(f"{name} is {shown(value)}, must be {least} … {train.MOST}")
    if not options.max_seconds >= 0:
        raise InputError(f"the seconds are {options.max_seconds}, must not be negative")
    check_outputs((options.output / name for name in train.FILES), [options.text])
    text = corpus.load(options.corpus if options.text is None else str(options.text))
    config = ModelConfig(
        vocab_size=256,
        hidden_size=options.hidden,
        num_hidden_layers=options.layers,
        bos_token_id=0,
        eos_token_id=0,
        intermediate_size=options.intermediate or default_intermediate_size(options.hidden, 4),
    )
    recipe = train.Recipe(
        options.steps, options.batch, options.window, options.learning_rate, seed=options.seed
    )

    def stepped(p: train.Progress) -> None:
        if not options.json:
            tell(
                f"step {p.step:6d}  loss {p.loss:.4f}  rate {p.learning_rate:.2e}  "
                f"{p.bytes_per_second / 1e3:.1f} kB/s"
            )

    outcome = train.train(
        config,
        text,
        recipe,
        options.output,
        resume=options.resume,
        max_seconds=options.max_seconds,
        report=stepped,
    )
    state = "finished" if outcome.finished else "stopped; --resume goes on"
    line = (
        f"{state} at step {outcome.step}: {outcome.held_out_nats:.4f} nats per byte on "
        f"held-out {text.description}"
    )
    show(
        {"checkpoint": str(options.output), "corpus": text.description, **asdict(outcome)},
        line,
        options.json,
    )
