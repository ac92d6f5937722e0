"""A finished run and its `run.json`."""

import json
from dataclasses import asdict, dataclass, field, fields
from pathlib import Path
from typing import Any, Literal

import numpy as np

from mmfree_neuro.errors import InputError
from mmfree_neuro.files.reading import Misfit, read_json, reading
from mmfree_neuro.files.records import decoded
from mmfree_neuro.files.writing import save_text
from mmfree_neuro.graph.summary import COUNTS_VERSION, GraphSummary
from mmfree_neuro.mapping.footprint import Footprint, Limits, limits, over
from mmfree_neuro.mapping.mapping import Location, Mapping
from mmfree_neuro.mapping.mapping_file import (
    PlainMapping,
    check_format,
    checksum,
    mapping_from_plain,
    mapping_to_plain,
)
from mmfree_neuro.mapping.plausible import check_mapping, check_summary
from mmfree_neuro.run.activity import Activity
from mmfree_neuro.run.folder import RUN_FILE
from mmfree_neuro.run.job import PHASES as JOB_PHASES
from mmfree_neuro.systems.load import check_system
from mmfree_neuro.systems.spec import SystemSpec

RUN_FORMAT = "mmfree-neuro run 10"
A_RUN = "a run"
TOTALS = {field.name for field in fields(Activity)} - {"fired"}
"""The counts of an activity that say something when they are added up over all cores."""


def totals(activity: Activity) -> dict[str, int]:
    """What was counted over all cores."""
    return {name: int(np.sum(getattr(activity, name))) for name in sorted(TOTALS)}


@dataclass(frozen=True)
class Continued:
    """A prompt of a run, and how it went on."""

    prompt: str
    text: str
    prompt_tokens: tuple[int, ...]
    new_tokens: tuple[int, ...]
    sampling: dict[str, float]
    ended: Literal["length", "eos"]
    """Whether as many tokens were chosen as were asked for, or one that ends a text was."""
    asked: int
    """How many new tokens were asked for at most."""
    counted: dict[str, dict[str, int]]
    """What was counted of it in each phase, over all cores."""


@dataclass(frozen=True, eq=False, repr=False)
class RunRecord:
    """A finished run: everything that costing and reporting need."""

    engine: str
    scheme: str
    results: tuple[Continued, ...]
    in_flight: int
    """How many sequences were under way at once, at most."""
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
    counts_version: int = COUNTS_VERSION
    """Which way of counting it was made with."""

    def __repr__(self) -> str:
        prompts, new = (
            sum(len(getattr(one, name)) for one in self.results)
            for name in ("prompt_tokens", "new_tokens")
        )
        return (
            f"<RunRecord {self.summary.name} on {self.engine}: {prompts} tokens of prompt, {new} "
            "new>"
        )

    @property
    def under_way(self) -> int:
        """How many sequences really were under way at once, at most."""
        return min(self.in_flight, len(self.results))

    @property
    def only(self) -> Continued:
        """The result of a run of one prompt; the first of several."""
        return self.results[0]


@dataclass(frozen=True)
class _PlainActivity:
    """The counts of a phase as lists."""

    tokens: int
    fired: tuple[int, ...]
    synops: tuple[int, ...]
    reads: tuple[int, ...]
    saturations: tuple[int, ...]
    wrapped: tuple[int, ...]
    messages: tuple[int, ...]


@dataclass(frozen=True)
class _File:
    """The content of `run.json`."""

    format: str
    engine: str
    scheme: str
    results: tuple[Continued, ...]
    in_flight: int
    seconds: dict[str, float]
    prefill: _PlainActivity
    generate: _PlainActivity
    summary: GraphSummary
    mapping: PlainMapping
    system: SystemSpec
    versions: dict[str, str]
    date: str
    use: tuple[tuple[int, int, int, int, int, int, int, int, int, int, int, int, int, int], ...]
    """Chip, core and the fields of Footprint, of every core in use."""
    warnings: tuple[str, ...]
    counts_version: int
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
        "results": [asdict(one) for one in run.results],
        "prefill": _activity_to_plain(run.prefill),
        "generate": _activity_to_plain(run.generate),
        "summary": asdict(run.summary),
        "mapping": mapping_to_plain(run.mapping),
        "system": asdict(run.system),
        "use": [[place.chip, place.core, *used] for place, used in run.use.items()],
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
        if file.counts_version != COUNTS_VERSION:
            raise Misfit(
                f"its counts are of version {file.counts_version}, must be of {COUNTS_VERSION}"
            )
        check_system(file.system, "its system")
        check_summary(file.summary)
        _check_tokens(file)
        mapping = mapping_from_plain(file.mapping)
        check_mapping(mapping, file.summary, file.system)
        _check_use(file, mapping, limits(file.system.chip))
        if not 1 <= file.in_flight <= mapping.in_flight:
            raise Misfit(
                f"it had {file.in_flight} sequences in flight, must have 1 … {mapping.in_flight}"
            )
        found = {f.name: getattr(file, f.name) for f in fields(RunRecord)}
        prefill, generate = (
            _activity(getattr(file, phase), mapping, phase) for phase in JOB_PHASES
        )
        _check_counted(file, prefill, "prefill")
        _check_counted(file, generate, "generate")
        return RunRecord(
            **found
            | {
                "mapping": mapping,
                "prefill": prefill,
                "generate": generate,
                "use": {Location(u[0], u[1]): Footprint(*u[2:]) for u in file.use},
            }
        )


PHASES = ("start", *JOB_PHASES)
"""What a run takes seconds for."""


def _check_tokens(file: _File) -> None:
    """Misfit where tokens, seconds and counts are not those of one run."""
    if not file.results:
        raise Misfit("it has no prompt, must have at least one")
    for one in file.results:
        tokens = (*one.prompt_tokens, *one.new_tokens)
        if not one.prompt_tokens or not 0 <= min(tokens) <= max(tokens) < file.summary.vocabulary:
            raise Misfit(
                "its tokens must be a prompt and a continuation of 0 … "
                f"{file.summary.vocabulary - 1}"
            )
        if not all(set(one.counted.get(phase, ())) == TOTALS for phase in JOB_PHASES):
            raise Misfit(f"a prompt must have counts of {', '.join(JOB_PHASES)}")
    fed = (
        sum(len(one.prompt_tokens) for one in file.results),
        sum(max(0, len(one.new_tokens) - 1) for one in file.results),
    )
    if (file.prefill.tokens, file.generate.tokens) != fed:
        raise Misfit(
            f"{file.prefill.tokens} and {file.generate.tokens} tokens were counted, must be "
            f"{fed[0]} and {fed[1]}"
        )
    if not all(file.seconds.get(phase, -1) >= 0 for phase in PHASES):
        raise Misfit(f"the seconds of {', '.join(PHASES)} must be there, none negative")


def _check_counted(file: _File, activity: Activity, phase: str) -> None:
    """Misfit where what was counted of the prompts is not what was counted in a phase."""
    for name, count in totals(activity).items():
        parts = [one.counted[phase][name] for one in file.results]
        if min(parts) < 0 or sum(parts) != count:
            raise Misfit(
                f"{phase}.{name} of its prompts are {sum(parts)} together, must be {count}, and "
                "none negative"
            )


def _check_use(file: _File, mapping: Mapping, room: Limits) -> None:
    """Misfit where what is in use is not said once for each core, or no core has as much."""
    places = sorted(Location(chip, core) for chip, core, *_ in file.use)
    if tuple(places) != mapping.cores or any(min(used) < 0 for _, _, *used in file.use):
        raise Misfit("what is in use must be said once for each core, and not be negative")
    for chip, core, *used in file.use:
        if over(Footprint(*used), room):
            raise Misfit(f"core {core} of chip {chip} must not use more than there is")
