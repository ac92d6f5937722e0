"""The command line: parses, prints and exits; everything else is in `pipeline`.

Exit status 0: it worked.  2: the input was wrong, and one line says who, what it is and what it
must be.  1: the run was interrupted or died, or there is a bug of ours.
"""

import argparse
import os
import signal
import sys
import traceback
from collections.abc import Sequence
from typing import NoReturn

from mmfree_neuro.cli import (
    bench,
    convert,
    demo,
    explore,
    inspect,
    logits,
    map,
    report,
    simulate,
    systems,
    train,
)
from mmfree_neuro.cli.options import Parser
from mmfree_neuro.errors import MMFreeError, RunFailed, Served
from mmfree_neuro.pipeline import engines
from mmfree_neuro.pipeline.simulate import versions

COMMANDS = (convert, map, explore, simulate, report, logits, train, bench, systems, inspect, demo)
"""In the order of `--help`: the flow, and then the tools."""


def _parser() -> Parser:
    parser = Parser(
        prog="mmfree-neuro",
        description=(
            "Deploys a MatMul-free language model on a Loihi-2-style multi-chip system: "
            "integers, mapping, message-driven "
            "simulation, and estimates of speed and energy with their sources."
        ),
    )
    parser.add_argument(
        "--version", action="version", version=f"mmfree-neuro {versions().get('mmfree-neuro', '?')}"
    )
    commands = parser.add_subparsers(required=True, metavar="COMMAND", parser_class=Parser)

    for command in COMMANDS:
        command.add(commands)
    return parser


def _interrupt(_number: int, _frame: object) -> NoReturn:
    raise KeyboardInterrupt


def main(arguments: Sequence[str] | None = None) -> int:
    """Run one command; the exit status."""
    options = _parser().parse_args(arguments)
    engine = getattr(options, "engine", "")
    before = signal.signal(signal.SIGTERM, _interrupt)
    try:
        status, message = _attempt(options, engine)
        if message is not None:
            print(f"mmfree-neuro: {message}", file=sys.stderr, flush=True)
        engines.end_ranks(engine, status, waited_for=status == 1)
        return status
    except BrokenPipeError:  # whoever read our output has gone
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
        return 1
    except Exception:
        traceback.print_exc()
        engines.end_ranks(engine, 1, waited_for=True)
        return 1
    finally:
        signal.signal(signal.SIGTERM, before)


def _attempt(options: argparse.Namespace, engine: str) -> tuple[int, str | None]:
    """Run the command; the exit status, and what went wrong unless another rank says it."""
    try:
        options.command(options)
    except Served:
        return 0, None
    except MMFreeError as error:
        refused = engines.refused(engine, str(error))
        return 2, None if refused is None else " ".join(refused.split())
    except RunFailed as error:
        return 1, str(error)
    except KeyboardInterrupt as interrupt:
        told = not engines.is_worker(engine)
        return 1, "; ".join(filter(None, ("interrupted", str(interrupt)))) if told else None
    return 0, None
