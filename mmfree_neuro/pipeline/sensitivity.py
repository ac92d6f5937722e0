"""Which figures of its system the estimate of a run depends on."""

from collections.abc import Mapping
from dataclasses import replace
from pathlib import Path
from types import MappingProxyType

from mmfree_neuro.cost.counted import counted
from mmfree_neuro.cost.sensitivity import Sensitivity, sensitivity
from mmfree_neuro.files.writing import whole_file
from mmfree_neuro.pipeline.recost import run_to_cost
from mmfree_neuro.run.job import PHASES
from mmfree_neuro.run.run_file import RunRecord
from mmfree_neuro.systems.figures import Setting
from mmfree_neuro.systems.spec import SystemSpec


def of_run(run: RunRecord) -> tuple[Sensitivity, ...]:
    """Those of the phases in which a run has tokens."""
    counts, found = counted(run.mapping, run.summary, run.prefill, run.system), []
    for phase in PHASES:
        activity = getattr(run, phase)
        if activity.tokens:
            in_flight = run.under_way if phase == "generate" else 1
            found.append(sensitivity(replace(counts, activity=activity), phase, in_flight))
    return tuple(found)


def of_folder(
    folder: Path,
    picture: Path | None = None,
    system: str | None = None,
    settings: Mapping[str, Setting] = MappingProxyType({}),
) -> tuple[SystemSpec, tuple[Sensitivity, ...]]:
    """The system of the run in a folder, costed as `recosted` says, and those of its phases, drawn
    as a PNG where asked."""
    run = run_to_cost(folder, picture, system, settings)
    found = of_run(run)
    if picture is not None:
        from mmfree_neuro.report import pictures

        with whole_file(picture) as scratch:
            scratch.write_bytes(pictures.png(pictures.tornado(found)))
    return run.system, found
