"""One input: what was done to a file or an option, which commands read it, and what may come of
it."""

import random
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Literal

from fuzzing.material import Material

Verdict = Callable[[Path], str]
"""What is wrong with what the commands wrote into a folder, or nothing."""
Must = Literal["be refused", "be accepted", "either"]
Draw = Callable[[random.Random, Material, Path], "Case"]
"""Writes a malformed input into a folder; every kind of input is drawn by one of these."""


def anything(_folder: Path) -> str:
    """The verdict on commands that may give anything, as long as they end well."""
    return ""


@dataclass(frozen=True)
class Case:
    """One input, in a folder of its own, and the commands that are run there one after another."""

    what: str
    commands: tuple[tuple[str, ...], ...]
    names: tuple[str, ...] = ()
    """A refusal names one of these; none where the input is no file."""
    outputs: tuple[str, ...] = ()
    """What the commands may write, and nothing else."""
    verdict: Verdict = anything
    must: Must = "either"
