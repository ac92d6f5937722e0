"""Verdicts: whether what a command wrote is what it must be."""

import json
import math
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from fuzzing.case import Verdict
from mmfree_neuro.errors import MMFreeError
from mmfree_neuro.pipeline import opened
from mmfree_neuro.run import run_file
from mmfree_neuro.run.run_file import RunRecord
from mmfree_partition.check import check


def logits_are(expected: NDArray[Any], name: str = "out.npy") -> Verdict:
    """The logits are these."""

    def verdict(folder: Path) -> str:
        found = np.load(folder / name)
        return "" if np.array_equal(found, expected) else "other logits"

    return verdict


def equal(first: str, second: str) -> Verdict:
    """Two files hold the same array."""

    def verdict(folder: Path) -> str:
        same = np.array_equal(np.load(folder / first), np.load(folder / second))
        return "" if same else f"{first} and {second} differ"

    return verdict


def finite(name: str = "out.npy") -> Verdict:
    """An array holds neither infinities nor NaN."""

    def verdict(folder: Path) -> str:
        return "" if np.isfinite(np.load(folder / name)).all() else "logits that are not finite"

    return verdict


def run_is(expected: RunRecord, *, counts: bool = True) -> Verdict:
    """A run gave these tokens, and these counts."""

    def verdict(folder: Path) -> str:
        found = run_file.load_run(folder / "out")
        mine, theirs = found.only, expected.only
        if (mine.prompt_tokens, mine.new_tokens) != (theirs.prompt_tokens, theirs.new_tokens):
            return f"other tokens: {mine.new_tokens}"
        if counts and (found.prefill != expected.prefill or found.generate != expected.generate):
            return "other counts"
        return ""

    return verdict


def valid_mapping(name: str) -> Verdict:
    """A mapping file is proved valid, and the figures of its system can be."""

    def verdict(folder: Path) -> str:
        try:
            graph, stored = opened.open_mapped(folder / name)
            check(graph, stored.mapping, stored.system)
        except MMFreeError as error:
            return f"the mapping is not valid: {error}"[:300]
        raw = json.loads((folder / name).read_bytes())["system"]
        return impossible(raw.pop("chip")) or impossible(raw)

    return verdict


def impossible(figures: dict[str, Any]) -> str:
    """A figure of a system that cannot be, or nothing."""
    for name, figure in figures.items():
        if not isinstance(figure, dict):
            continue
        ends = [figure.get(end) for end in ("low", "central", "high")]
        if any(isinstance(end, bool) or not isinstance(end, int | float) for end in ends):
            return f"{name} is no number: {str(figure)[:100]}"
        low, central, high = (float(end) for end in ends if end is not None)
        if not 0 <= low <= central <= high < math.inf:
            return f"{name} is {low}, {central}, {high}"
    return ""


def both(*verdicts: Verdict) -> Verdict:
    """All of some verdicts."""

    def verdict(folder: Path) -> str:
        return next(filter(None, (one(folder) for one in verdicts)), "")

    return verdict


def plain_numbers(name: str) -> Verdict:
    """A JSON file holds no NaN and no infinity, which are no JSON."""

    def verdict(folder: Path) -> str:
        odd: list[str] = []
        json.loads((folder / name).read_text(encoding="utf-8"), parse_constant=odd.append)
        return f"{odd[0]} in {name}" if odd else ""

    return verdict
