"""Rows that `mmfree-neuro bench gpu` measured, as baselines: those that come with the project, and
a user's own.

`measured.json` holds the project's.  A row says more than a baseline does; what a report shows of
it is checked here, and points that a report has no place for (training, sizes without a published
model) are left out.
"""

import re
from collections.abc import Sequence
from dataclasses import astuple, replace
from datetime import datetime, timezone
from importlib import resources
from pathlib import Path
from typing import Any

from mmfree_neuro.baselines.published import Baseline, check_row, model_with
from mmfree_neuro.errors import HardwareError, shown
from mmfree_neuro.files.reading import Misfit, parsed_json, read_bytes, reading

EDGE = re.compile(r"\b(jetson|orin|xavier|tegra)\b", re.IGNORECASE)
HASH = re.compile(r"\b([0-9a-f]{9})[0-9a-f]{31}\b")
"""A commit, and what of it a page shows."""
ROWS = "a file of rows of bench gpu"
MODES = ("generate", "prefill", "train")
IMPLEMENTATIONS = ("fast", "naive", "transformer")
TEXTS = (
    "name",
    "implementation",
    "precision",
    "device",
    "power",
    "impl",
    "script",
    "commit",
    "date",
    "model",
)

Dated = list[tuple[datetime, str, Baseline]]
"""Rows, when each was measured, and which of `IMPLEMENTATIONS` it is of."""


def load(files: Sequence[Path] = ()) -> tuple[tuple[Baseline, ...], list[str]]:
    """The rows that come with the project and those of a user's files, the latest of each point.

    And a sentence on each file that has rows for which a report has no place.
    """
    own = resources.files("mmfree_neuro.baselines") / "measured.json"
    (rows, _), sentences = _rows(own.read_text(encoding="utf-8"), "measured.json"), []
    for path in files:
        content = read_bytes(path, HardwareError, ROWS)
        with reading(path, HardwareError, ROWS):
            more, left_out = _rows(content.decode(), str(path))
        rows += more
        if left_out:
            sentences.append(
                f"Of {len(more) + left_out} rows in {path.name}, {left_out} are not shown: they "
                "are of training, or of "
                "a model that has no published size."
            )
    return _latest(rows), sentences


def parse(text: str, where: str) -> tuple[Baseline, ...]:
    """The rows of a JSON text that a report can show, the latest of each point; `where` names the
    file in messages."""
    return _latest(_rows(text, where)[0])


def _latest(rows: Dated) -> tuple[Baseline, ...]:
    """One row of each point of a device: of equally late ones, the last.

    How an implementation does it in words changes with time, and makes no other point.
    """
    latest: dict[tuple[object, ...], tuple[datetime, Baseline]] = {}
    for date, implementation, row in rows:
        any_row = replace(row, tokens_per_s=1.0, millijoule_per_token=1.0, source="any")
        point = astuple(replace(any_row, implementation=implementation))
        if point not in latest or date >= latest[point][0]:
            latest[point] = date, row
    return tuple(row for _, row in latest.values())


def _rows(text: str, where: str) -> tuple[Dated, int]:
    """The rows that a report can show, and how many others there are."""
    with reading(Path(where), HardwareError, ROWS):
        rows = parsed_json(text)
        if not isinstance(rows, list) or not all(isinstance(row, dict) for row in rows):
            raise Misfit(f"holds {shown(rows)}, must hold a list of objects")
    found: Dated = []
    for number, row in enumerate(rows, start=1):
        date, baseline = _row(row, f"{where}: row {number}")
        if baseline is not None:
            found.append((date, row["impl"], baseline))
    return found, len(rows) - len(found)


def _date(text: str, where: str) -> datetime:
    """When that was; in UTC where the text does not say."""
    try:
        date = datetime.fromisoformat(text)
    except ValueError:
        raise HardwareError(
            f"{where}: date is {shown(text)}, must be one such as 2026-01-31T12:00:00+00:00"
        ) from None
    return date if date.tzinfo is not None else date.replace(tzinfo=timezone.utc)


def _row(row: dict[str, Any], where: str) -> tuple[datetime, Baseline | None]:
    """When a row was measured, and what a report shows of it, if it has a place for it."""
    for name in TEXTS:
        if not isinstance(row.get(name), str) or not row[name]:
            raise HardwareError(f"{where}: {name} must be a text")
    for name, known in (("mode", MODES), ("impl", IMPLEMENTATIONS)):
        if row.get(name) not in known:
            raise HardwareError(
                f"{where}: {name} is {shown(row.get(name))}, must be one of {', '.join(known)}"
            )
    date = _date(row["date"], where)
    synapses = row.get("ternary_synapses")
    if not isinstance(synapses, int) or isinstance(synapses, bool) or synapses < 1:
        raise HardwareError(f"{where}: ternary_synapses must be a whole number, at least 1")
    model = model_with(synapses)
    if model is None or row["mode"] == "train":
        return date, None
    numbers = ("mode", "batch", "sequence_length", "tokens_per_s", "millijoule_per_token")
    commit = HASH.sub(r"\1", row["commit"])
    source = f"measured by {row['script']!r} at commit {commit} on {row['date']}"
    return date, check_row(
        {name: row[name] for name in ("name", "implementation", "precision", "device", "power")}
        | {name: row.get(name) for name in numbers}
        | {
            "model": model,
            "same_architecture": row["impl"] != "transformer",
            "source": source,
            "device_kind": "edge GPU" if EDGE.search(row["device"]) else "GPU",
        },
        where,
    )
