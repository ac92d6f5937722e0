"""Rows that `mmfree-neuro bench gpu` measured, as baselines: those that come with the project, and a user's own.

`measured.json` holds the project's.  A row says more than a baseline does; what a report shows of it is checked here,
and points that a report has no place for (training, sizes without a published model) are left out.
"""

import json
import re
from dataclasses import astuple, replace
from importlib import resources
from pathlib import Path
from typing import Any

from mmfree_neuro.baselines import SYNAPSES, TOLERANCE, Baseline, check_row
from mmfree_neuro.errors import HardwareError

EDGE = re.compile(r"jetson|orin|xavier|tegra", re.IGNORECASE)
MODES = ("generate", "prefill", "train")
TEXTS = ("name", "implementation", "precision", "device", "power", "impl", "script", "commit", "date", "model")

Plain = dict[str, Any]


def load() -> tuple[Baseline, ...]:
    """The rows that come with the project."""
    file = resources.files("mmfree_neuro") / "measured.json"
    return parse(file.read_text(encoding="utf-8"), "measured.json")


def read(path: Path) -> tuple[Baseline, ...]:
    """The rows of a user's file."""
    try:
        return parse(path.read_text(encoding="utf-8"), str(path))
    except (OSError, UnicodeDecodeError) as error:
        raise HardwareError(f"{path}: not readable ({error})") from None


def parse(text: str, where: str) -> tuple[Baseline, ...]:
    """The rows of a JSON text that a report can show, the latest of each point; `where` names the file in messages."""
    try:
        rows = json.loads(text)
    except ValueError as error:
        raise HardwareError(f"{where}: not readable as JSON ({error})") from None
    if not isinstance(rows, list) or not all(isinstance(row, dict) for row in rows):
        raise HardwareError(f"{where}: must hold a list of rows of bench gpu")
    latest: dict[tuple[object, ...], Baseline] = {}
    for number, row in enumerate(rows, start=1):
        found = _baseline(row, f"{where}: row {number}")
        if found is not None:
            latest[astuple(replace(found, tokens_per_s=1.0, millijoule_per_token=1.0, source="any"))] = found
    return tuple(latest.values())


def _baseline(row: Plain, where: str) -> Baseline | None:
    for name in TEXTS:
        if not isinstance(row.get(name), str) or not row[name]:
            raise HardwareError(f"{where}: {name} must be a text")
    if row.get("mode") not in MODES:
        raise HardwareError(f"{where}: mode is {row.get('mode')!r}, must be one of {', '.join(MODES)}")
    synapses = row.get("ternary_synapses")
    if not isinstance(synapses, int) or isinstance(synapses, bool) or synapses < 1:
        raise HardwareError(f"{where}: ternary_synapses must be a whole number, at least 1")
    near = (model for model, known in SYNAPSES.items() if abs(synapses - known) <= TOLERANCE * known)
    model = next(near, None)
    if model is None or row["mode"] == "train":
        return None
    numbers = ("mode", "batch", "sequence_length", "tokens_per_s", "millijoule_per_token")
    source = f"measured by {row['script']!r} at commit {row['commit']} on {row['date']}"
    return check_row(
        {name: row[name] for name in ("name", "implementation", "precision", "device", "power")}
        | {name: row.get(name) for name in numbers}
        | {
            "model": model, "same_architecture": row["impl"] != "transformer", "source": source,
            "device_kind": "edge GPU" if EDGE.search(row["device"]) else "GPU",
        },
        where,
    )  # fmt: skip
