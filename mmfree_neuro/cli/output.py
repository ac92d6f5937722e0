"""What every command prints and draws: results on standard output, progress on standard error."""

import json
import os
import sys
from collections.abc import Iterable, Iterator, Mapping, Sequence
from contextlib import contextmanager, suppress
from io import TextIOWrapper
from typing import Any

from tqdm import tqdm

from mmfree_neuro.errors import RunFailed, printable


class Bars:
    """Progress for people, on standard error and only when that is a terminal."""

    def __init__(self, *without: str) -> None:
        """Phases `without` a bar are named."""
        self.bars: dict[str, Any] = {}
        self.without = without

    def show(self, phase: str, done: int, total: int, _chosen: Sequence[int]) -> None:
        """Move the bar of a phase."""
        if phase in self.without:
            return
        bar = self.bars.get(phase)
        if bar is None:
            bar = self.bars[phase] = tqdm(
                total=total, initial=done, desc=phase, unit="token", disable=None
            )
        bar.update(done - bar.n)
        if done == total:
            bar.refresh()  # tqdm leaves out what comes soon after it has drawn

    def close(self) -> None:
        """Leave the terminal tidy."""
        for bar in self.bars.values():
            bar.close()


class Stages:
    """The progress of a command through stages, on standard error and only when that is a terminal;
    it ends with all of them done."""

    def __init__(self, names: Sequence[str]) -> None:
        self.names = names
        self.bar = tqdm(total=len(names), unit="stage", disable=None)

    def show(self, name: str) -> None:
        """A stage begins, and those before it are done."""
        self.bar.set_description_str(name)
        self.bar.update(self.names.index(name) - self.bar.n)
        self.bar.refresh()

    def end(self) -> None:
        """All are done."""
        self.bar.set_description_str("done")
        self.bar.update(len(self.names) - self.bar.n)
        self.close()

    def close(self) -> None:
        """Leave the terminal tidy."""
        self.bar.close()


def open_streams() -> None:
    """Standard streams that a command can rely on, whatever it was started with.

    A stream that is closed becomes one to nowhere, before a file of ours takes its number.  What
    standard output cannot encode becomes an escape, as on standard error.
    """
    with suppress(OSError):  # without /dev/null there is nothing to put in their places
        while (number := os.open(os.devnull, os.O_RDWR)) < 3:
            os.set_inheritable(number, True)
        os.close(number)
    if sys.stdout is None:
        sys.stdout = os.fdopen(1, "w", encoding="utf-8", closefd=False)
    if sys.stderr is None:
        sys.stderr = os.fdopen(2, "w", encoding="utf-8", closefd=False)
    if isinstance(sys.stdout, TextIOWrapper):
        sys.stdout.reconfigure(errors="backslashreplace")


def end_streams() -> None:
    """Lead standard output to nowhere if it takes nothing more, so that Python does not try again
    at its exit."""
    try:
        sys.stdout.flush()
    except OSError:
        nowhere = os.open(os.devnull, os.O_WRONLY)
        os.dup2(nowhere, sys.stdout.fileno())
        os.close(nowhere)


@contextmanager
def writing_out() -> Iterator[None]:
    """RunFailed where standard output takes nothing more; a reader that has gone is left to
    `main`."""
    try:
        try:
            yield
        finally:
            sys.stdout.flush()
    except BrokenPipeError:
        raise
    except OSError as error:
        raise RunFailed(f"standard output: cannot be written ({error.strerror})") from None


def tell(text: str, end: str = "\n") -> None:
    """Print a text for people; what would move or colour a terminal is printed as its escape."""
    with writing_out():
        print(printable(text), end=end)


class Typing:
    """A text that is typed on standard output, which is a terminal, while it comes."""

    def __init__(self, prompt: str, bars: Bars) -> None:
        self.prompt, self.bars = prompt, bars
        self.begun = self.ended = False

    def show(self, text: str) -> None:
        """Type more of the text, behind the prompt."""
        if not self.begun:
            self.bars.close()  # which lie on the same terminal
            text = f"{self.prompt}{text}"
        self.begun = True
        tell(text, end="")

    def end(self) -> None:
        """Leave the line on which the text ends."""
        if self.begun and not self.ended:
            tell("")
        self.ended = True


def say(text: str) -> None:
    """Tell a person at a terminal what is being done."""
    if sys.stderr.isatty():
        print(f"{printable(text)} …", file=sys.stderr)


def complain(text: str) -> None:
    """Say on standard error what went wrong; where nobody can be told, the status has to do."""
    with suppress(OSError):
        print(f"mmfree-neuro: {printable(text)}", file=sys.stderr, flush=True)


def warn(texts: Iterable[str]) -> None:
    """Say on standard error what a person should know of a result, a line each."""
    for text in texts:
        complain(f"warning: {' '.join(text.split())}")


def show(content: Mapping[str, Any], text: str, as_json: bool) -> None:
    """Print a result: as JSON for machines, or as text."""
    tell(json.dumps(content, indent=2) if as_json else text)
