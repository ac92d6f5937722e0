"""What every command prints and draws: results on standard output, progress on standard error."""

import json
import sys
from collections.abc import Mapping
from typing import Any

from tqdm import tqdm


class Bars:
    """Progress for people, on standard error and only when that is a terminal."""

    def __init__(self) -> None:
        self.bars: dict[str, Any] = {}

    def show(self, phase: str, done: int, total: int) -> None:
        """Move the bar of a phase."""
        bar = self.bars.get(phase)
        if bar is None:
            bar = self.bars[phase] = tqdm(
                total=total, initial=done, desc=phase, unit="token", disable=None
            )
        bar.update(done - bar.n)

    def close(self) -> None:
        """Leave the terminal tidy."""
        for bar in self.bars.values():
            bar.close()


def say(text: str) -> None:
    """Tell a person at a terminal what is being done."""
    if sys.stderr.isatty():
        print(f"{text} …", file=sys.stderr)


def show(content: Mapping[str, Any], text: str, as_json: bool) -> None:
    """Print a result: as JSON for machines, or as text."""
    print(json.dumps(content, indent=2) if as_json else text)
