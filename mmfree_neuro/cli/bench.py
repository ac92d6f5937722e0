"""mmfree-neuro bench: what a GPU does with a model."""

import argparse
import json
from pathlib import Path
from typing import Any

from mmfree_neuro.cli.options import add_command, add_option
from mmfree_neuro.cli.output import show, tell
from mmfree_neuro.pipeline import bench as benching
from mmfree_neuro.pipeline.families import needs_torch
from mmfree_neuro.report import terminal


def add(commands: Any) -> None:
    """Declare the command and its options."""
    p = add_command(
        commands, "bench", run, "bench gpu --model 370m --mode generate --batch 64 -o rows.json"
    )
    add_option(p, "where", choices=["gpu"], help="gpu: the one that torch finds")
    add_option(
        p,
        "--model",
        required=True,
        help="370m, 1.3b, 2.7b or 13b with random weights, or a checkpoint folder",
    )
    add_option(p, "--mode", required=True, help="generate, prefill or train")
    add_option(p, "--batch", type=int, help="sequences (default 1, for training 8)")
    add_option(
        p,
        "--length",
        type=int,
        help="tokens of a sequence (default 2048, for generation 512 before it)",
    )
    one = p.add_mutually_exclusive_group()
    one.add_argument(
        "--impl", choices=["fast", "naive"], help="this project's kernels (default) or plain torch"
    )
    one.add_argument(
        "--baseline",
        choices=["transformer"],
        help="measure a Transformer++ of the same shape instead",
    )
    add_option(
        p,
        "--embedding",
        default="int8",
        help="int8 (default) or bfloat16, for fast generation and prefill",
    )
    add_option(
        p,
        "--seconds",
        type=float,
        default=2.0,
        help="measure at least so long (default 2, the least)",
    )
    add_option(p, "-o", "--output", type=Path, help="JSON file to add the row to")


def run(options: argparse.Namespace) -> None:
    """Measure speed, energy and memory on this machine's GPU; a result that is wrong is not
    measured."""
    with needs_torch("bench gpu"):
        from mmfree_kernels.bench import record
    point = {
        name: getattr(options, name) for name in ("model", "mode", "batch", "length", "embedding")
    }
    point["implementation"] = options.baseline or options.impl or "fast"
    row = benching.bench_gpu(point, options.seconds, options.output)
    if options.output is not None:
        try:
            record.append(options.output, [row])
        except Exception:
            tell(json.dumps(row))  # so that what was measured is not lost
            raise
    show(row, terminal.gpu_row(row), options.json)
