"""What other machines do with models of these sizes, as data, and which of it may stand beside a
run.

`baselines.toml` holds the rows.  A ratio is allowed only with a row of the run's own model size,
which is told by the number of its ternary synapses.
"""

import math
import sys
from collections.abc import Mapping
from dataclasses import asdict, dataclass, fields
from importlib import resources
from typing import Any, cast

from mmfree_neuro.baselines.compared import Compared, Estimated, Figures, Ours, Range, Ratio, Theirs
from mmfree_neuro.errors import HardwareError, shown
from mmfree_neuro.graph.summary import GraphSummary

if sys.version_info >= (3, 11):
    import tomllib
else:
    import tomli as tomllib

SYNAPSES = {"370m": 341_049_344, "1.3b": 1_298_661_376, "2.7b": 2_619_473_920}
"""Ternary synapses of the published models, with the head."""
TOLERANCE = 0.02
NOT_MEASURED = "not measured"
"""In the place of an energy."""
LARGEST_COUNT = 1 << 63
NAMED = {
    "device_kind": ("neuromorphic", "edge GPU", "GPU", "CPU"),
    "mode": ("generate", "prefill"),
    "model": tuple(SYNAPSES),
}


@dataclass(frozen=True)
class Baseline:
    """One row: a model on a machine."""

    name: str
    model: str
    """The size that it stands beside, whatever its architecture: a key of `SYNAPSES`."""
    same_architecture: bool
    """Whether it is a MatMul-free model itself."""
    implementation: str
    precision: str
    device: str
    device_kind: str
    mode: str
    batch: int
    sequence_length: int
    """0 where the source does not state it."""
    tokens_per_s: float
    millijoule_per_token: float | None
    """None where it was not measured."""
    power: str
    """What the energy counts."""
    source: str


def _is_positive(value: object) -> bool:
    return (
        isinstance(value, int | float)
        and not isinstance(value, bool)
        and 0 < value <= sys.float_info.max
    )


def check_row(raw: dict[str, Any], where: str) -> Baseline:
    """A row whose every field is there and can be used."""
    for field in fields(Baseline):
        value, who = raw.get(field.name), f"{where}: {field.name}"
        if field.type is str and not (isinstance(value, str) and value):
            raise HardwareError(f"{who} must be a text")
        if field.type is bool and not isinstance(value, bool):
            raise HardwareError(f"{who} must be true or false")
        least = 0 if field.name == "sequence_length" else 1
        if field.type is int and (
            not isinstance(value, int)
            or isinstance(value, bool)
            or not least <= value < LARGEST_COUNT
        ):
            raise HardwareError(f"{who} must be a whole number, at least {least}")
        if field.type is float and not _is_positive(value):
            raise HardwareError(f"{who} must be a finite number above 0")
        if field.name == "millijoule_per_token" and not (
            value == NOT_MEASURED or _is_positive(value)
        ):
            raise HardwareError(f"{who} must be a finite number above 0, or {shown(NOT_MEASURED)}")
        if field.name in NAMED and value not in NAMED[field.name]:
            raise HardwareError(
                f"{who} is {shown(value)}, must be one of {', '.join(NAMED[field.name])}"
            )
    for name in sorted(raw.keys() - {field.name for field in fields(Baseline)}):
        raise HardwareError(f"{where}: {name} is not a figure that a row may have")
    energy = raw["millijoule_per_token"]
    return Baseline(**raw | {"millijoule_per_token": None if energy == NOT_MEASURED else energy})


def parse(text: str, where: str) -> tuple[Baseline, ...]:
    """The rows of a TOML text; `where` names the file in messages."""
    try:
        series = tomllib.loads(text).get("series")
    except tomllib.TOMLDecodeError as error:
        raise HardwareError(f"{where}: not readable as TOML ({error})") from None
    rows = []
    if not isinstance(series, list) or not all(isinstance(one, dict) for one in series):
        raise HardwareError(f"{where}: must have tables [[series]]")
    for number, shared in enumerate(series, start=1):
        results, own = (
            shared.get("results"),
            {key: value for key, value in shared.items() if key != "results"},
        )
        if (
            not isinstance(results, list)
            or not results
            or not all(isinstance(one, dict) for one in results)
        ):
            raise HardwareError(
                f"{where}: series {number}: results must be a list of tables, at least one"
            )
        for position, result in enumerate(results, start=1):
            rows.append(check_row(own | result, f"{where}: series {number}, result {position}"))
    return tuple(rows)


def load() -> tuple[Baseline, ...]:
    """The rows that come with the project."""
    file = resources.files("mmfree_neuro.baselines") / "baselines.toml"
    return parse(file.read_text(encoding="utf-8"), "baselines.toml")


def model_of(summary: GraphSummary) -> str | None:
    """Which of the published models a graph is; None where it is none of them."""
    return model_with(sum(node.ternary_synapses for node in summary.nodes))


def model_with(synapses: int) -> str | None:
    """The published model of about so many ternary synapses; None where there is none."""
    near = (
        model for model, known in SYNAPSES.items() if abs(synapses - known) <= TOLERANCE * known
    )
    return next(near, None)


def _millijoule(row: Baseline) -> float:
    """What a token takes; without end where that was not measured."""
    return math.inf if row.millijoule_per_token is None else row.millijoule_per_token


def distinctions(baselines: tuple[Baseline, ...]) -> dict[Baseline, tuple[str, ...]]:
    """What rows stand out as among the GPUs and CPUs of their model size and mode: the edge GPUs,
    and the strongest known."""
    found: dict[Baseline, tuple[str, ...]] = {row: () for row in baselines}
    for model, mode in sorted({(row.model, row.mode) for row in baselines}):
        gpus = [
            r
            for r in baselines
            if (r.model, r.mode) == (model, mode) and r.device_kind != "neuromorphic"
        ]
        for row in gpus:
            found[row] += ("edge GPU",) if row.device_kind == "edge GPU" else ()
        for word, rows in (
            ("of its size", gpus),
            ("for one sequence", [row for row in gpus if row.batch == 1]),
        ):
            if rows:
                found[max(rows, key=lambda row: row.tokens_per_s)] += (f"fastest known {word}",)
            if measured := [row for row in rows if row.millijoule_per_token is not None]:
                found[min(measured, key=_millijoule)] += (f"least energy known {word}",)
    return found


def beside(baselines: tuple[Baseline, ...], mode: str, length: int) -> tuple[Baseline, ...]:
    """The rows of a mode to stand beside a run of that many tokens.

    Of each series the sequence length that is nearest, and every row that is the strongest known in
    something.
    """
    marks = distinctions(baselines)
    best: dict[tuple[str, str, str, int], Baseline] = {}
    rows = [row for row in baselines if row.mode == mode]
    for row in rows:
        series = (row.name, row.implementation, row.device, row.batch)
        if series not in best or abs(row.sequence_length - length) < abs(
            best[series].sequence_length - length
        ):
            best[series] = row
    return tuple(r for r in rows if r in best.values() or any("known" in mark for mark in marks[r]))


def _over(a: Figures, b: Figures) -> Range:
    """The range of a / b; None at an end where b is 0."""

    def quotient(part: float, whole: float) -> float | None:
        return part / whole if whole else None

    return {
        "low": quotient(a["low"], b["high"]),
        "central": quotient(a["central"], b["central"]),
        "high": quotient(a["high"], b["low"]),
    }


def _exactly(value: float) -> Figures:
    return {"low": value, "central": value, "high": value}


def _ratio(ours: Ours, theirs: Theirs) -> Ratio:
    rate, energy = _exactly(theirs["tokens_per_s"]), theirs["millijoule_per_token"]
    return {
        "ours": ours,
        "theirs": theirs,
        "throughput_ours_over_theirs": _over(ours["tokens_per_s"], rate),
        "energy_theirs_over_ours": None
        if energy is None
        else _over(_exactly(energy), ours["millijoule_per_token"]),
    }


def _plain(row: Baseline, marks: tuple[str, ...]) -> Theirs:
    theirs: Theirs = cast(Theirs, asdict(row) | {"stands_out_as": list(marks)})
    return theirs


def _sentences(summary: GraphSummary, model: str | None) -> list[str]:
    chosen = (
        "Of each series the sequence length nearest to the run's is shown, and whatever is the "
        "strongest known. A row "
        "that does not name a MatMul-free model is another model of that size, not this model "
        "on another machine. "
        "A row of several sequences gives the tokens of all of them, the chips' figures are of "
        "one; the energy of a "
        "GPU does not count its host, and that of a CPU is given where its counters could be "
        "read."
    )
    if model is not None:
        return [
            f"This model has the size of the MatMul-free {model}, so ratios are given with the "
            "rows of that size. "
            "Other rows are of another model, or of a phase in which this run has no token, and "
            "get no ratio.",
            chosen,
        ]
    synapses = sum(node.ternary_synapses for node in summary.nodes)
    known = ", ".join(f"{name} has {count:,}" for name, count in SYNAPSES.items())
    return [
        f"No ratio is given, because the rows are of another model: this one has {synapses:,} "
        "ternary synapses; of the "
        f"published models, {known}.",
        chosen,
    ]


def compare(
    summary: GraphSummary,
    system: str,
    phases: Mapping[str, Estimated],
    lengths: Mapping[str, int],
    rows: tuple[Baseline, ...],
) -> Compared:
    """Ratios with the rows of the run's own model size, the other rows as context, and sentences
    that say which.

    `phases` holds the estimate of each mode that has tokens, `lengths` the tokens of the run by the
    end of each mode.
    """
    model, marks = model_of(summary), distinctions(rows)
    ratios: list[Ratio] = []
    context: list[Theirs] = []
    for mode, length in lengths.items():
        for row in beside(rows, mode, length):
            theirs = _plain(row, marks[row])
            if row.model == model and mode in phases:
                ours: Ours = {
                    "name": f"{summary.name} on {system}",
                    "tokens_per_s": phases[mode]["tokens_per_s"],
                    "millijoule_per_token": phases[mode]["millijoule_per_token"],
                }
                ratios.append(_ratio(ours, theirs))
            else:
                context.append(theirs)
    return {
        "model": model,
        "sentences": _sentences(summary, model),
        "ratios": ratios,
        "context": context,
    }
