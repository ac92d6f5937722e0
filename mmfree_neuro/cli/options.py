"""The parser, and options that several commands share."""

import argparse
import itertools
import sys
from collections.abc import Callable, Iterable
from dataclasses import dataclass
from difflib import get_close_matches
from pathlib import Path
from typing import IO, Any, NoReturn

import shtab

from mmfree_neuro.cli.output import tell
from mmfree_neuro.errors import InputError, shown
from mmfree_neuro.files.reading import Misfit, opened, parsed_json, reading
from mmfree_neuro.files.records import decoder, located
from mmfree_neuro.lowering.scheme import DEFAULT, ROOTS, SCHEMES


class Parser(argparse.ArgumentParser):
    """A parser whose complaint is one line, and who says so where its help cannot be printed."""

    def _print_message(self, message: str, file: Any = None) -> None:
        # argparse would take no notice of a full disk.
        if file is sys.stdout:
            tell(message.rstrip("\n"))
        else:
            super()._print_message(message, file)

    def _get_values(self, action: argparse.Action, arg_strings: list[str]) -> Any:
        # argparse would take an option's own value for the mark behind which there are no options.
        if action.option_strings and arg_strings == ["--"]:
            return self._get_value(action, "--")
        return super()._get_values(action, arg_strings)

    def parse_known_args(self, args: Any = None, namespace: Any = None) -> Any:
        # argparse would first ask for what is missing, such as an option that is misspelt.  A word
        # with a space is a value, whatever it begins with.
        if self.get_default("command") is not None:
            for word in itertools.takewhile(lambda word: word != "--", args or ()):
                name = word.partition("=")[0]
                if (
                    name.startswith("--")
                    and " " not in word
                    and not any(known.startswith(name) for known in self._option_string_actions)
                ):
                    self.error(
                        f"{name} is not an option{_meant(name, self._option_string_actions)}"
                    )
        return super().parse_known_args(args, namespace)

    def _check_value(self, action: argparse.Action, value: Any) -> None:
        if action.choices is not None and value not in action.choices and not action.option_strings:
            raise argparse.ArgumentError(
                None,
                f"{shown(value)} is not known{_meant(value, action.choices)}, must be one of "
                f"{', '.join(action.choices)}",
            )
        super()._check_value(action, value)

    def error(self, message: str) -> NoReturn:
        line = str(InputError(message))
        self.exit(2, f"{self.prog}: {line}; see {self.prog} --help\n")


def _meant(word: str, known: Iterable[str]) -> str:
    """The known word that was meant, where there is one like it."""
    near = get_close_matches(word, list(known), 1)
    return f" (did you mean {near[0]}?)" if near else ""


def add_option(parser: argparse.ArgumentParser, *names: str, **rest: Any) -> None:
    """One option, as argparse takes it; a shell completes what is a path by files."""
    action = parser.add_argument(*names, **rest)
    if rest.get("type") is Path:
        action.complete = shtab.FILE  # type: ignore[attr-defined]


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
        default=DEFAULT,
        help=f"how to make integers: {' or '.join(sorted(SCHEMES))} (default {DEFAULT})",
    )
    add_option(
        parser,
        "--root",
        default="after",
        help=(
            f"the root of a norm comes {' or '.join(ROOTS)} the product behind it: before takes "
            "more steps a block (default after; scheme a8 has one way alone)"
        ),
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
    add_bytes(parser)


def add_bytes(parser: argparse.ArgumentParser) -> None:
    add_option(
        parser,
        "--bytes",
        dest="as_bytes",
        action="store_true",
        help="read text as bytes, whatever tokenizer and vocabulary the model has",
    )


LONGEST_PROMPT = 1 << 26
"""Bytes."""


def add_prompt(parser: argparse.ArgumentParser, *, many: bool = False) -> None:
    """Options for a text to continue, or for `many` texts in a file."""
    one = parser.add_mutually_exclusive_group(required=True)
    one.add_argument("--prompt", help="text to continue")
    one.add_argument(
        "--prompt-file",
        metavar="FILE",
        help="file with the text to continue, be it a pipe; - is standard input",
    )
    if many:
        one.add_argument(
            "--prompts",
            metavar="FILE",
            help="file with many texts to continue: one a line, or, where the first line is one, a "
            "JSON object a line with prompt, and new_tokens, temperature and seed where they "
            "differ; empty lines are left out; - is standard input",
        )
    add_option(
        parser,
        "--special",
        action="store_true",
        help="take names of special tokens in the prompt for these tokens, not for text",
    )


def prompt_of(options: argparse.Namespace) -> str:
    """The prompt, from wherever it comes; what is not UTF-8 comes as from a command line."""
    if options.prompt_file is None:
        return str(options.prompt)
    return _text_of(options.prompt_file)


@dataclass(frozen=True)
class _Line:
    """A line of JSON in a file of prompts; None for what the command says."""

    prompt: str
    new_tokens: int | None = None
    temperature: float | None = None
    seed: int | None = None


@dataclass(frozen=True)
class Asked(_Line):
    """A prompt, and where it stands."""

    where: str = ""
    """The file and the line; empty for a prompt of the command."""


def prompts_of(name: str) -> list[Asked]:
    """The prompts of a file: a JSON object a line where its first line is one, else a text a line;
    empty lines are left out.  InputError where it has none, or a line is wrong."""
    path, content = _path(name), _text_of(name).removeprefix("\ufeff")
    lines = [(number, line) for number, line in enumerate(content.split("\n"), 1) if line.strip()]
    with reading(path, InputError, "a file of prompts"):
        if not lines:
            raise Misfit("it has no prompt, must have at least one")
        if not lines[0][1].lstrip().startswith("{"):
            return [
                Asked(line.removesuffix("\r"), where=f"{path}: line {number}: ")
                for number, line in lines
            ]
        return [
            Asked(**vars(_line(number, line)), where=f"{path}: line {number}: ")
            for number, line in lines
        ]


def _line(number: int, line: str) -> _Line:
    """A prompt as a line of JSON has it."""
    try:
        value = parsed_json(line)
    except ValueError:
        raise Misfit(f"line {number} is {shown(line)}, must be a JSON object") from None
    found: _Line = located(f"line {number}", decoder(_Line), value)
    return found


def _path(name: str) -> Path:
    return Path("standard input" if name == "-" else name)


def _text_of(name: str) -> str:
    """The text of a file, or of standard input where the name is "-"."""
    with reading(path := _path(name), InputError, "a text"):
        if name == "-":
            if sys.stdin is None:
                raise Misfit("it is closed")
            return _text(sys.stdin.buffer)
        with opened(path, pipes=True) as file:
            return _text(file)


def _text(file: IO[bytes]) -> str:
    content = file.read(LONGEST_PROMPT + 1)
    if len(content) > LONGEST_PROMPT:
        raise Misfit(f"it has more than {LONGEST_PROMPT} bytes, must have no more")
    return content.decode(errors="surrogateescape")


def add_local_roots(parser: argparse.ArgumentParser) -> None:
    add_option(
        parser,
        "--local-roots",
        default="none",
        metavar="NORMS",
        help=(
            "norms whose roots every neuron finds for itself, a step a norm fewer for more "
            "synaptic operations: none, all, or some as attn+mlp (default none)"
        ),
    )


def add_greedy_on_chips(parser: argparse.ArgumentParser) -> None:
    add_option(
        parser,
        "--greedy-on-chips",
        action="store_true",
        help="the chips choose the words, so one payload for a token goes to the host, not its "
        "logits",
    )


def add_other_system(parser: argparse.ArgumentParser) -> None:
    """The options with which a finished run is costed again."""
    add_option(
        parser,
        "--system",
        help="cost the run on another system, by its name or a TOML file of your own; counts and "
        "mapping stay",
    )
    add_settings(parser)


def add_settings(parser: argparse.ArgumentParser) -> None:
    add_option(
        parser,
        "--set",
        action="append",
        default=[],
        dest="settings",
        metavar="FIGURE=VALUE",
        help="another figure of the system, as chip.energy_per_synop_pj=5 or with its range "
        "chip.energy_per_synop_pj=3,5,9; may be given several times",
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
