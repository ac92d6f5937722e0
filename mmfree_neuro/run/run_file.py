"""A finished run and its `run.json`."""

import json
from dataclasses import asdict, astuple, dataclass, field, fields
from pathlib import Path
from typing import Any, Literal

import numpy as np

from mmfree_neuro.errors import InputError
from mmfree_neuro.files.reading import Misfit, read_json, reading
from mmfree_neuro.files.records import decoded
from mmfree_neuro.files.writing import save_text
from mmfree_neuro.graph.summary import GraphSummary
from mmfree_neuro.mapping.footprint import Footprint
from mmfree_neuro.mapping.mapping import HOST, Location, Mapping
from mmfree_neuro.mapping.mapping_file import (
    PlainMapping,
    check_format,
    checksum,
    mapping_from_plain,
    mapping_to_plain,
)
from mmfree_neuro.run.activity import Activity
from mmfree_neuro.run.folder import RUN_FILE
from mmfree_neuro.systems.load import check_system
from mmfree_neuro.systems.spec import SystemSpec

RUN_FORMAT = "mmfree-neuro run 4"
A_RUN = "a run"


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
    warnings: tuple[str, ...] = ()
    """What makes the result weaker than it looks."""
    ended: Literal["length", "eos"] = "length"
    """Whether as many tokens were chosen as were asked for, or one that ends a text was."""
    asked: int = 0
    """How many new tokens were asked for at most."""

    def __repr__(self) -> str:
        return (
            f"<RunRecord {self.summary.name} on {self.engine}: {len(self.prompt_tokens)} tokens of "
            f"prompt, {len(self.new_tokens)} new>"
        )


@dataclass(frozen=True)
class _PlainActivity:
    """The counts of a phase as lists."""

    tokens: int
    fired: tuple[int, ...]
    synops: tuple[int, ...]
    reads: tuple[int, ...]
    saturations: tuple[int, ...]
    messages: tuple[int, ...]


@dataclass(frozen=True)
class _File:
    """The content of `run.json`."""

    format: str
    engine: str
    scheme: str
    prompt: str
    text: str
    prompt_tokens: tuple[int, ...]
    new_tokens: tuple[int, ...]
    sampling: dict[str, float]
    seconds: dict[str, float]
    prefill: _PlainActivity
    generate: _PlainActivity
    summary: GraphSummary
    mapping: PlainMapping
    system: SystemSpec
    versions: dict[str, str]
    date: str
    use: tuple[tuple[int, int, int, int, int, int, int], ...]
    """Chip, core and the fields of Footprint, of every core in use."""
    warnings: tuple[str, ...]
    ended: Literal["length", "eos"]
    asked: int
    sha256: str


def _activity_to_plain(activity: Activity) -> dict[str, Any]:
    return {
        f.name: getattr(activity, f.name)
        if f.name == "tokens"
        else getattr(activity, f.name).tolist()
        for f in fields(activity)
    }


def _activity(plain: _PlainActivity, mapping: Mapping, phase: str) -> Activity:
    """The counts of a phase; Misfit where they are not those of a mapping."""
    counts = {
        f.name: np.array(getattr(plain, f.name), np.int64)
        for f in fields(plain)
        if f.name != "tokens"
    }
    for name, values in counts.items():
        needed = len(mapping.routes if name == "messages" else mapping.shards)
        if len(values) != needed:
            raise Misfit(f"{phase}.{name} has {len(values)} counts, must have {needed}")
        if values.min(initial=0) < 0:
            raise Misfit(f"{phase}.{name} has a negative count, must have none")
    if plain.tokens < 0:
        raise Misfit(f"{phase}.tokens is {plain.tokens}, must not be negative")
    return Activity(tokens=plain.tokens, **counts)


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
    content["sha256"] = checksum(content)
    save_text(folder / RUN_FILE, json.dumps(content))


def load_run(folder: Path) -> RunRecord:
    """The run in a folder, whose parts fit each other."""
    path = folder / RUN_FILE
    content = read_json(path, InputError, A_RUN)
    with reading(path, InputError, A_RUN):
        check_format(content, RUN_FORMAT)
        file = decoded(_File, content)
        check_system(file.system, "its system")
        mapping = mapping_from_plain(file.mapping)
        _check_mapping(mapping, file.summary, file.system)
        found = {f.name: getattr(file, f.name) for f in fields(RunRecord)}
        return RunRecord(
            **found
            | {
                "mapping": mapping,
                "prefill": _activity(file.prefill, mapping, "prefill"),
                "generate": _activity(file.generate, mapping, "generate"),
                "use": {Location(u[0], u[1]): Footprint(*u[2:]) for u in file.use},
            }
        )


def _check_mapping(mapping: Mapping, summary: GraphSummary, system: SystemSpec) -> None:
    """Misfit where a mapping is not one of the nodes and chips that a run tells of; more than that
    only the graph could say."""
    sizes = {node.name: node.size for node in summary.nodes}
    held = dict.fromkeys(sizes, 0)
    if len(mapping.shards) != len(mapping.locations):
        raise Misfit(
            f"{len(mapping.shards)} shards have {len(mapping.locations)} locations, must have one "
            "each"
        )
    for shard, place in zip(mapping.shards, mapping.locations, strict=True):
        if not 0 <= shard.start < shard.stop <= sizes.get(shard.node, 0):
            raise Misfit(f"shard {shard.node}[{shard.start}:{shard.stop}] must be a part of a node")
        held[shard.node] += shard.size
        _check_place(place, system)
    for name, size in sizes.items():
        if held[name] < size:
            raise Misfit(f"{held[name]} neurons of {name} lie on a core, must be {size}")
    for route in mapping.routes:
        source = mapping.shards[route.source] if 0 <= route.source < len(mapping.shards) else None
        if source is None or not source.start <= route.start < route.stop <= source.stop:
            raise Misfit(f"a route of shard {route.source} must send what the shard has")
        for place in route.destinations:
            _check_place(place, system)


def _check_place(place: Location, system: SystemSpec) -> None:
    """Misfit where a system has no such core."""
    chips, cores = int(system.chips.central), int(system.chip.cores.central)
    on_host = place == Location(HOST, 0)
    if not on_host and not (0 <= place.chip < chips and 0 <= place.core < cores):
        raise Misfit(f"core {place.core} of chip {place.chip} must be one of {system.name}")
