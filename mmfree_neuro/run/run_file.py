"""A finished run and its `run.json`."""

import json
from dataclasses import asdict, astuple, dataclass, field, fields
from pathlib import Path
from typing import Any

import numpy as np

from mmfree_neuro.errors import InputError
from mmfree_neuro.files import read_json
from mmfree_neuro.graph.summary import GraphSummary, NodeSummary
from mmfree_neuro.mapping.footprint import Footprint
from mmfree_neuro.mapping.mapping import Location, Mapping
from mmfree_neuro.mapping.mapping_file import (
    mapping_from_plain,
    mapping_to_plain,
    system_from_plain,
)
from mmfree_neuro.run.activity import Activity
from mmfree_neuro.systems.spec import SystemSpec

RUN_FORMAT = "mmfree-neuro run 3"


@dataclass(frozen=True, eq=False, repr=False)
class RunRecord:
    """A finished run: everything that costing and reporting need."""

    engine: str
    scheme: str
    prompt: str
    text: str
    prompt_tokens: tuple[int, ...]
    new_tokens: tuple[int, ...]
    sampling: dict[str, float]
    seconds: dict[str, float]
    prefill: Activity
    generate: Activity
    summary: GraphSummary
    mapping: Mapping
    system: SystemSpec
    versions: dict[str, str]
    date: str
    use: dict[Location, Footprint] = field(default_factory=dict)
    """What is in use on every core."""

    def __repr__(self) -> str:
        return (
            f"<RunRecord {self.summary.name} on {self.engine}: {len(self.prompt_tokens)} tokens of "
            f"prompt, {len(self.new_tokens)} new>"
        )


def _activity_to_plain(activity: Activity) -> dict[str, Any]:
    return {
        f.name: getattr(activity, f.name)
        if f.name == "tokens"
        else getattr(activity, f.name).tolist()
        for f in fields(activity)
    }


def _activity_from_plain(raw: dict[str, Any]) -> Activity:
    counts = {name: np.array(value, np.int64) for name, value in raw.items() if name != "tokens"}
    return Activity(tokens=raw["tokens"], **counts)


def save_run(run: RunRecord, folder: Path) -> None:
    """Write the `run.json` of a run into an existing folder."""
    content = {
        "format": RUN_FORMAT,
        **{f.name: getattr(run, f.name) for f in fields(run)},
        "prefill": _activity_to_plain(run.prefill),
        "generate": _activity_to_plain(run.generate),
        "summary": asdict(run.summary),
        "mapping": mapping_to_plain(run.mapping),
        "system": asdict(run.system),
        "use": [[place.chip, place.core, *astuple(used)] for place, used in run.use.items()],
    }
    (folder / "run.json").write_text(json.dumps(content), encoding="utf-8")


def load_run(folder: Path) -> RunRecord:
    """The run in a folder."""
    path = folder / "run.json"
    raw = read_json(path, RUN_FORMAT, InputError, "a run")
    try:
        summary = dict(raw["summary"])
        nodes = tuple(NodeSummary(**node) for node in summary.pop("nodes"))
        return RunRecord(
            raw["engine"],
            raw["scheme"],
            raw["prompt"],
            raw["text"],
            tuple(raw["prompt_tokens"]),
            tuple(raw["new_tokens"]),
            raw["sampling"],
            raw["seconds"],
            _activity_from_plain(raw["prefill"]),
            _activity_from_plain(raw["generate"]),
            GraphSummary(nodes=nodes, **summary),
            mapping_from_plain(raw["mapping"]),
            system_from_plain(raw["system"]),
            raw["versions"],
            raw["date"],
            {Location(u[0], u[1]): Footprint(*u[2:]) for u in raw["use"]},
        )
    except (KeyError, TypeError, IndexError, AttributeError, ValueError):
        raise InputError(f"{path}: not a run, a part is missing") from None
