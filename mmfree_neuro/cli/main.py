"""The command line: parses, prints and exits; everything else is in `pipeline`.

Exit status 0: it worked.  2: the input was wrong, and one line says who, what it is and what it
must be.  1: the run was interrupted or died, or there is a bug of ours.
"""

import argparse
import signal
import traceback
from collections.abc import Sequence
from typing import NoReturn

import shtab

from mmfree_neuro.cli import (
    bench,
    convert,
    demo,
    eval,
    explore,
    image,
    inspect,
    listing,
    logits,
    map,
    report,
    sensitivity,
    simulate,
    systems,
    train,
)
from mmfree_neuro.cli.options import Parser
from mmfree_neuro.cli.output import complain, end_streams, open_streams
from mmfree_neuro.errors import MMFreeError, RunFailed, Served
from mmfree_neuro.pipeline.engines import ranks_of
from mmfree_neuro.pipeline.simulate import versions

COMMANDS = (
    convert,
    map,
    explore,
    image,
    simulate,
    report,
    sensitivity,
    logits,
    eval,
    train,
    bench,
    systems,
    inspect,
    listing,
    demo,
)
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
    shtab.add_argument_to(
        parser,
        "--print-completion",
        help="print what completes commands and options in a shell, as: source <(mmfree-neuro "
        "--print-completion bash)",
    )
    commands = parser.add_subparsers(required=True, metavar="COMMAND", parser_class=Parser)

    for command in COMMANDS:
        command.add(commands)
    return parser


def _interrupt(_number: int, _frame: object) -> NoReturn:
    raise KeyboardInterrupt


def main(arguments: Sequence[str] | None = None) -> int:
    """Run one command; the exit status."""
    open_streams()
    engine = ""
    # Both are set, because a shell that starts a command in the background lets it ignore Ctrl-C.
    before = {n: signal.signal(n, _interrupt) for n in (signal.SIGINT, signal.SIGTERM)}
    try:
        options = _parser().parse_args(arguments)
        engine = getattr(options, "engine", "")
        status, message = _attempt(options, engine)
        if message is not None:
            complain(message)
        ranks_of(engine).end(status, waited_for=status == 1)
        return status
    except BrokenPipeError:  # whoever read our output has gone
        return 1
    except RunFailed as error:
        complain(str(error))
        return 1
    except Exception:
        traceback.print_exc()
        ranks_of(engine).end(1, waited_for=True)
        return 1
    finally:
        end_streams()
        for number, handler in before.items():
            if handler is not None:  # None was not set from Python
                signal.signal(number, handler)


def _attempt(options: argparse.Namespace, engine: str) -> tuple[int, str | None]:
    """Run the command; the exit status, and what went wrong unless another rank says it."""
    try:
        options.command(options)
    except Served:
        return 0, None
    except MMFreeError as error:
        refused = ranks_of(engine).refused(str(error))
        return 2, refused
    except RunFailed as error:
        return 1, str(error)
    except MemoryError as error:
        return 1, f"there is not enough memory for this ({str(error) or 'none is left'})"
    except KeyboardInterrupt as interrupt:
        told = not ranks_of(engine).is_worker()
        return 1, "; ".join(filter(None, ("interrupted", str(interrupt)))) if told else None
    return 0, None
