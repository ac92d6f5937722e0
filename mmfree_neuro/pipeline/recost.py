"""A finished run, costed on another system: its counts and its mapping stay."""

from collections.abc import Mapping, Sequence
from dataclasses import replace
from pathlib import Path

from mmfree_neuro.cost.counted import counted
from mmfree_neuro.cost.estimate import estimate
from mmfree_neuro.errors import InputError
from mmfree_neuro.files.reading import Misfit
from mmfree_neuro.files.writing import check_outputs
from mmfree_neuro.mapping.footprint import limits, over
from mmfree_neuro.mapping.mapping import HOST
from mmfree_neuro.mapping.plausible import check_mapping
from mmfree_neuro.pipeline.map import with_weight_bits
from mmfree_neuro.pipeline.opened import check_no_image, files_behind
from mmfree_neuro.run import run_file
from mmfree_neuro.run.folder import holds_run
from mmfree_neuro.run.job import PHASES
from mmfree_neuro.run.run_file import RunRecord
from mmfree_neuro.systems.figures import Setting, with_figure, with_figures
from mmfree_neuro.systems.load import load_system
from mmfree_neuro.systems.spec import SystemSpec

A_RUN = "a folder that simulate wrote"


def recosted(
    run: RunRecord, system: SystemSpec | str | None, settings: Mapping[str, Setting]
) -> RunRecord:
    """The run on a system, a name, a TOML file or a record, or else on its own, with some figures
    set; a warning names those of them that change nothing.

    Weights stay as wide as they are stored.  Raises InputError where the mapping does not fit the
    system, and HardwareError where that cannot be.
    """
    if system is None and not settings:
        return run
    found = run.system if system is None else system
    before = load_system(found) if isinstance(found, str) else found
    spec = with_figures(before, settings)
    if "chip.weight_bits" in settings:
        raise InputError("weights are stored by the mapping, so chip.weight_bits cannot be set")
    width = int(run.system.chip.weight_bits.central)
    if width != int(spec.chip.weight_bits.central):
        spec = with_weight_bits(spec, width)
    _check_fits(run, spec)
    costed = replace(run, system=spec, mapping=replace(run.mapping, system=spec.name))
    shown = _shown(costed)
    without = (
        f"{name} is set and changes nothing here, neither an estimate nor a limit of a core"
        for name in settings
        if _shown(replace(costed, system=_as_before(spec, before, name))) == shown
    )
    return replace(costed, warnings=(*costed.warnings, *without))


def _as_before(system: SystemSpec, before: SystemSpec, name: str) -> SystemSpec:
    """The system with a figure as it was."""
    table, _, figure = name.partition(".")
    return with_figure(system, name, getattr(before.chip if table == "chip" else before, figure))


def _shown(run: RunRecord) -> list[object]:
    """What the figures of a system decide of a run: limits of a core, time and energy."""
    counts = counted(run.mapping, run.summary, run.prefill, run.system)
    found: list[object] = [limits(run.system.chip), run.system.chips.central]
    for phase in PHASES:
        activity = getattr(run, phase)
        if activity.tokens:
            in_flight = run.under_way if phase == "generate" else 1
            cost = estimate(replace(counts, activity=activity), phase, in_flight)
            chips, system = cost.chip_millijoule_per_token, cost.millijoule_per_token
            found += [cost.tokens_per_s, chips, system, cost.corners]
    return found


def run_to_cost(
    folder: Path,
    output: Path | None,
    system: str | None,
    settings: Mapping[str, Setting],
    others: Sequence[Path] = (),
) -> RunRecord:
    """The run in a folder, `recosted`; `output` is what will be written, and `others` are more
    files that are read."""
    check_no_image(folder, InputError, A_RUN)
    if not holds_run(folder):
        raise InputError(f"{folder}: holds no run, must be {A_RUN}")
    systems = [] if system is None else [Path(system)]
    check_outputs([output], [*files_behind(folder), *others, *systems])
    return recosted(run_file.load_run(folder), system, settings)


def _check_fits(run: RunRecord, system: SystemSpec) -> None:
    """InputError where the mapping of a run uses more than a system has."""
    try:
        check_mapping(replace(run.mapping, system=system.name), run.summary, system)
    except Misfit as misfit:
        raise InputError(f"the run's mapping does not fit {system.name}: {misfit}") from None
    for what, need, have in (
        ("accumulators", run.summary.accumulator_bits, system.chip.accumulator_bits),
        ("payloads", run.summary.payload_bits, system.chip.payload_bits),
    ):
        if need > have.central:
            raise InputError(
                f"the run's mapping does not fit {system.name}: it needs {what} of {need} bits, "
                f"{system.chip.name} has {have.central:g}"
            )
    room = limits(system.chip)
    for place, used in run.use.items():
        if place.chip != HOST and (passed := over(used, room)):
            what, need, limit = passed
            raise InputError(
                f"the run's mapping does not fit {system.name}: core {place.core} of chip "
                f"{place.chip} has {need} of {what}, {system.chip.name} has {limit}"
            )
