"""The parser, and options that several commands share."""

import argparse
import sys
from collections.abc import Callable
from typing import Any, NoReturn

from mmfree_neuro.cli.output import tell
from mmfree_neuro.errors import InputError
from mmfree_neuro.lowering.scheme import SCHEMES


class Parser(argparse.ArgumentParser):
    """A parser whose complaint is one line, and who says so where its help cannot be printed."""

    def _print_message(self, message: str, file: Any = None) -> None:
        # argparse would take no notice of a full disk.
        if file is sys.stdout:
            tell(message.rstrip("\n"))
        else:
            super()._print_message(message, file)

    def error(self, message: str) -> NoReturn:
        line = str(InputError(message))
        self.exit(2, f"{self.prog}: {line}; see {self.prog} --help\n")


def add_option(parser: argparse.ArgumentParser, *names: str, **rest: Any) -> None:
    """One option, as argparse takes it."""
    parser.add_argument(*names, **rest)


def add_command(
    commands: Any, name: str, run: Callable[[argparse.Namespace], None], example: str
) -> argparse.ArgumentParser:
    parser: argparse.ArgumentParser = commands.add_parser(
        name,
        help=(run.__doc__ or "").rstrip("."),
        description=run.__doc__,
        epilog=f"example: mmfree-neuro {example}",
    )
    parser.set_defaults(command=run)
    parser.add_argument("--json", action="store_true", help="print JSON for machines")
    return parser


def add_calibration(parser: argparse.ArgumentParser) -> None:
    add_option(
        parser,
        "--scheme",
        default="a16",
        help=f"how to make integers: {' or '.join(sorted(SCHEMES))} (default a16)",
    )
    add_option(
        parser,
        "--calibrate",
        default="stdlib",
        metavar="FILE",
        help=(
            "text, folder of Python sources, or .npy of token ids to calibrate on (default stdlib)"
        ),
    )


def add_ranks(parser: argparse.ArgumentParser) -> None:
    add_option(
        parser,
        "--ranks",
        metavar="RANKS",
        help="with --engine mpi, under mpiexec: the rank of each chip in use, as 0,0,1",
    )


def ranks(text: str | None) -> tuple[int, ...] | None:
    """The ranks of the chips in use, in order."""
    if text is None:
        return None
    try:
        return tuple(int(rank) for rank in text.split(","))
    except ValueError:
        raise InputError(f"the ranks are {text!r}, must be such as 0,0,1,1") from None
