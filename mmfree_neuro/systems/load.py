"""Reads the data files of chips and systems: ours by name, a user's own by path."""

import math
import re
import sys
from dataclasses import MISSING, fields
from importlib import resources
from pathlib import Path
from typing import Any

if sys.version_info >= (3, 11):
    import tomllib
else:
    import tomli as tomllib

from mmfree_neuro.errors import HardwareError, shown
from mmfree_neuro.files.reading import read_bytes, reading
from mmfree_neuro.systems.spec import ChipSpec, Quantity, SystemSpec

COUNTS = {
    "cores",
    "mesh_columns",
    "memory_bytes_per_core",
    "synaptic_memory_bytes_per_core",
    "neurons_per_core",
    "state_bytes_per_neuron",
    "input_axons_per_core",
    "neuron_groups_per_core",
    "axon_map_entries_per_core",
    "output_axons_per_core",
    "accumulators_per_core",
    "program_instructions_per_core",
    "input_channels_per_neuron",
    "output_channels_per_neuron",
    "payload_bits",
    "accumulator_bits",
    "weight_bits",
    "chips",
    "chip_columns",
    "chip_rows",
}
"""The figures that are whole numbers."""
LARGEST = 1e30
"""No figure reaches this."""
LARGEST_COUNT = 1 << 40
"""No whole number is larger."""
MOST_CORES = 1 << 22
"""More cores than this, on all chips together, are not computed with; the largest known system has
147,456."""
LARGEST_FILE = 1 << 16
"""Bytes of the largest TOML file that is read; ours have a tenth."""
MOST_DOTS = 200
"""A dotted key of thousands of parts takes TOML's reader minutes."""
SYSTEM_FILE = "a TOML file of a system"


def _quantity(raw: Any, name: str, where: str) -> Quantity:
    if not isinstance(raw, dict) or not isinstance(raw.get("source"), str) or not raw["source"]:
        raise HardwareError(f"{where}: {name} must be a table with a number and a source")
    keys = ("low", "central", "high") if "central" in raw else ("value",) * 3
    values = [raw.get(key) for key in keys]
    odd = sorted(raw.keys() - set(keys) - {"source"})
    if odd or any(isinstance(v, bool) or not isinstance(v, int | float) for v in values):
        raise HardwareError(
            f"{where}: {name} must have a value, or low, central and high, none negative"
        )
    low, central, high = map(_as_float, values)
    return _possible(Quantity(low, central, high, raw["source"]), name, where)


def _as_float(value: Any) -> float:
    """The number of a figure; what is too large to be one is none."""
    try:
        return float(value)
    except OverflowError:
        return math.inf


def _possible(quantity: Quantity, name: str, where: str) -> Quantity:
    """The same figure; HardwareError where no chip and no system can have it."""
    low, central, high = values = quantity.low, quantity.central, quantity.high
    if not all(0 <= value < LARGEST for value in values):
        raise HardwareError(
            f"{where}: {name} must have a value, or low, central and high, none negative"
        )
    if name in COUNTS and any(v != int(v) or v < 1 for v in values):
        raise HardwareError(f"{where}: {name} must be a whole number of at least 1")
    if name in COUNTS and high > LARGEST_COUNT:
        raise HardwareError(f"{where}: {name} is {high:g}, must be at most {LARGEST_COUNT}")
    if not low <= central <= high:
        raise HardwareError(
            f"{where}: {name} must have low <= central <= high, has {low:g}, {central:g}, {high:g}"
        )
    return quantity


def check_system(system: SystemSpec, where: str) -> None:
    """HardwareError where a figure of a system from a file of ours is none that it can have."""
    for spec in (system, system.chip):
        for field in fields(spec):
            value = getattr(spec, field.name)
            if isinstance(value, Quantity):
                _possible(value, field.name, where)
    _check_grid(system, where)


def _check_grid(system: SystemSpec, where: str) -> None:
    """HardwareError where a system has so many cores or places for chips that nothing could be
    computed of it."""
    for what, figures in (
        ("cores on all chips", (system.chips, system.chip.cores)),
        ("places for chips", (system.chip_columns, system.chip_rows)),
        ("columns of cores on a chip", (system.chip.mesh_columns,)),
    ):
        count = math.prod(figure.high for figure in figures)
        if count > MOST_CORES:
            raise HardwareError(f"{where}: has {count:g} {what}, must have at most {MOST_CORES}")


def _quantities(
    raw: dict[str, Any], spec: type, where: str, texts: set[str]
) -> dict[str, Quantity]:
    wanted = [f.name for f in fields(spec) if f.name not in texts]
    for field in fields(spec):
        if field.name in wanted and field.name not in raw and field.default is MISSING:
            raise HardwareError(f"{where}: {field.name} is missing")
    for name in sorted(raw.keys() - set(wanted) - texts):
        raise HardwareError(f"{where}: {shown(name)} is not a figure that this file may have")
    return {name: _quantity(raw[name], name, where) for name in wanted if name in raw}


def _text(raw: dict[str, Any], name: str, where: str) -> str:
    if not isinstance(raw.get(name), str) or not raw[name]:
        raise HardwareError(f"{where}: {name} must be a text")
    return str(raw[name])


def _toml(text: str, where: str) -> dict[str, Any]:
    if max(part.count(".") for part in re.split(r"[\r\n=\[\]{},#]", text)) > MOST_DOTS:
        raise HardwareError(f"{where}: not readable as TOML (nested too deep)")
    try:
        return tomllib.loads(text)
    except ValueError as error:
        raise HardwareError(f"{where}: not readable as TOML ({error})") from None
    except RecursionError:
        raise HardwareError(f"{where}: not readable as TOML (nested too deep)") from None


def _chip(raw: dict[str, Any], where: str) -> ChipSpec:
    return ChipSpec(name=_text(raw, "name", where), **_quantities(raw, ChipSpec, where, {"name"}))


def _known_chip(name: Any, where: str) -> ChipSpec:
    if name not in chip_names():
        raise HardwareError(
            f"{where}: chip {shown(name)} is not known, must be one of {', '.join(chip_names())}"
        )
    file = resources.files("mmfree_neuro.systems") / "chips" / f"{name}.toml"
    return _chip(_toml(file.read_text(encoding="utf-8"), f"chip {name}"), f"chip {name}")


def parse_system(text: str, where: str) -> SystemSpec:
    """A system from the text of its TOML file; `where` names the file in messages."""
    raw = _toml(text, where)
    system = raw.get("system")
    if not isinstance(system, dict):
        raise HardwareError(f"{where}: must have a table [system]")
    if "chip" in system and "chip" in raw:
        raise HardwareError(f"{where}: names a chip and has a table [chip], must have one of them")
    if "chip" in system:
        chip = _known_chip(system["chip"], where)
    elif isinstance(raw.get("chip"), dict):
        chip = _chip(raw["chip"], f"{where}: [chip]")
    else:
        raise HardwareError(f"{where}: must name a chip or have a table [chip]")
    name, description = _text(system, "name", where), _text(system, "description", where)
    spec = SystemSpec(
        name=name,
        description=description,
        chip=chip,
        **_quantities(system, SystemSpec, where, {"name", "description", "chip"}),
    )
    _check_grid(spec, where)
    return spec


def _names(*folders: str) -> list[str]:
    folder = resources.files("mmfree_neuro.systems").joinpath(*folders)
    return sorted(
        f.name.removesuffix(".toml") for f in folder.iterdir() if f.name.endswith(".toml")
    )


def chip_names() -> list[str]:
    """The chips that come with the project."""
    return _names("chips")


def system_names() -> list[str]:
    """The systems that come with the project."""
    return _names()


def load_system(name: str | Path) -> SystemSpec:
    """A system by its name, or by the path of a TOML file of the user's own."""
    if isinstance(name, Path) or str(name).endswith(".toml"):
        content = read_bytes(Path(name), HardwareError, SYSTEM_FILE, most=LARGEST_FILE)
        with reading(Path(name), HardwareError, SYSTEM_FILE):
            return parse_system(content.decode(), str(name))
    if name not in system_names():
        raise HardwareError(
            f"system {shown(name)} is not known, must be one of {', '.join(system_names())}, or a "
            ".toml file"
        )
    file = resources.files("mmfree_neuro.systems") / f"{name}.toml"
    return parse_system(file.read_text(encoding="utf-8"), f"system {name}")
