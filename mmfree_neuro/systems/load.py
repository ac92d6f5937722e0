"""Reads the data files of chips and systems: ours by name, a user's own by path.

A file of the user's own can begin with a system or a chip of ours and have only what differs:

    [system]
    base = "alia-point-32"

    [chip]
    barrier_many_chips_ns = { value = 36400, source = "half of ours" }
"""

import math
import re
import sys
from collections.abc import Collection
from dataclasses import MISSING, dataclass, fields, replace
from difflib import get_close_matches
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
    "cores_per_router",
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
    "powered_chips",
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
            f"{where}: {name} must have a value, or low, central and high, finite, at least 0"
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
            f"{where}: {name} must have a value, or low, central and high, finite, at least 0"
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
        ("columns of routers on a chip", (system.chip.mesh_columns,)),
    ):
        count = math.prod(figure.high for figure in figures)
        if count > MOST_CORES:
            raise HardwareError(f"{where}: has {count:g} {what}, must have at most {MOST_CORES}")


@dataclass(frozen=True)
class _Table:
    """A table of a system's file."""

    header: str
    raw: dict[str, Any]
    text: str
    """The whole file."""
    where: str
    """The file, and the table where it is not that of the system."""

    def at(self, key: str) -> str:
        """Where a key stands, for messages; the table where that cannot be told."""
        header = ""
        for number, line in enumerate(self.text.splitlines(), start=1):
            if table := re.match(r"\s*\[\s*(\w+)\s*\]", line):
                header = table[1]
            elif header == self.header and re.match(rf"\s*[\"']?{re.escape(key)}[\"']?\s*=", line):
                return f"{self.where}: line {number}"
        return self.where

    def text_of(self, name: str, default: str | None = None) -> str:
        """A text, which must be there unless there is a default."""
        if name not in self.raw and default is not None:
            return default
        if not isinstance(self.raw.get(name), str) or not self.raw[name]:
            raise HardwareError(f"{self.at(name)}: {name} must be a text")
        return str(self.raw[name])

    def quantities(self, spec: type, texts: set[str], *, whole: bool) -> dict[str, Quantity]:
        """The figures of a record, all that it must have where they are to be the `whole`."""
        wanted = [f.name for f in fields(spec) if f.name not in texts]
        for field in fields(spec):
            missing = field.name in wanted and field.name not in self.raw
            if whole and missing and field.default is MISSING:
                raise HardwareError(f"{self.where}: {field.name} is missing")
        for name in sorted(self.raw.keys() - set(wanted) - texts):
            for table, other in (("system", SystemSpec), ("chip", ChipSpec)):
                if name in {field.name for field in fields(other)}:
                    raise HardwareError(
                        f"{self.at(name)}: {shown(name)} is a figure of [{table}], must stand there"
                    )
            raise HardwareError(
                f"{self.at(name)}: {shown(name)} is not a figure that this file may have, the "
                f"nearest is {nearest(name, wanted)}"
            )
        found = {name: self.raw[name] for name in wanted if name in self.raw}
        return {name: _quantity(raw, name, self.at(name)) for name, raw in found.items()}


def nearest(name: str, names: Collection[str]) -> str:
    """The one of some names that is most like another."""
    return get_close_matches(name, names, 1, 0.0)[0]


def _toml(text: str, where: str) -> dict[str, Any]:
    if max(part.count(".") for part in re.split(r"[\r\n=\[\]{},#]", text)) > MOST_DOTS:
        raise HardwareError(f"{where}: not readable as TOML (nested too deep)")
    try:
        return tomllib.loads(text)
    except ValueError as error:
        raise HardwareError(f"{where}: not readable as TOML ({error})") from None
    except RecursionError:
        raise HardwareError(f"{where}: not readable as TOML (nested too deep)") from None


def _chip(table: _Table, base: ChipSpec | None = None) -> ChipSpec:
    """The chip of a table, which has only what differs where there is a chip to begin with."""
    if "base" in table.raw:
        base = _known_chip(table.raw["base"], table.at("base"))
    found = table.quantities(ChipSpec, {"name", "base"}, whole=base is None)
    if base is None:
        return ChipSpec(name=table.text_of("name"), **found)
    return replace(base, name=table.text_of("name", f"{base.name}-changed"), **found)


def _known_chip(name: Any, where: str) -> ChipSpec:
    if name not in chip_names():
        raise HardwareError(
            f"{where}: chip {shown(name)} is not known, must be one of {', '.join(chip_names())}"
        )
    file = resources.files("mmfree_neuro.systems") / "chips" / f"{name}.toml"
    text, where = file.read_text(encoding="utf-8"), f"chip {name}"
    return _chip(_Table("", _toml(text, where), text, where))


def _known_system(name: Any, where: str) -> SystemSpec:
    if name not in system_names():
        raise HardwareError(
            f"{where}: system {shown(name)} is not known, must be one of "
            f"{', '.join(system_names())}"
        )
    return load_system(name)


def parse_system(text: str, where: str) -> SystemSpec:
    """A system from the text of its TOML file; `where` names the file in messages."""
    raw = _toml(text, where)
    if not isinstance(raw.get("system"), dict):
        raise HardwareError(f"{where}: must have a table [system]")
    if odd := sorted(raw.keys() - {"system", "chip"}):
        raise HardwareError(
            f"{where}: {shown(odd[0])} is not a table that this file may have, must be [system] or "
            "[chip]"
        )
    table = _Table("system", raw["system"], text, where)
    if "chip" in table.raw and "chip" in raw:
        raise HardwareError(f"{where}: names a chip and has a table [chip], must have one of them")
    base: SystemSpec | None = None
    if "base" in table.raw:
        base = _known_system(table.raw["base"], table.at("base"))
    if "chip" in table.raw:
        chip = _known_chip(table.raw["chip"], table.at("chip"))
    elif isinstance(raw.get("chip"), dict):
        its = _Table("chip", raw["chip"], text, f"{where}: [chip]")
        chip = _chip(its, None if base is None else base.chip)
    elif base is not None and "chip" not in raw:
        chip = base.chip
    else:
        raise HardwareError(f"{where}: must name a chip or have a table [chip]")
    texts = {"name", "description", "chip", "base"}
    if base is None:
        spec = SystemSpec(
            name=table.text_of("name"),
            description=table.text_of("description"),
            chip=chip,
            **table.quantities(SystemSpec, texts, whole=True),
        )
    else:
        spec = replace(
            base,
            name=table.text_of("name", f"{base.name}-changed"),
            description=table.text_of("description", f"{base.description}, changed"),
            chip=chip,
            **table.quantities(SystemSpec, texts, whole=False),
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
            return parse_system(content.decode("utf-8-sig"), str(name))
    if name not in system_names():
        raise HardwareError(
            f"system {shown(name)} is not known, must be one of {', '.join(system_names())}, or a "
            ".toml file"
        )
    file = resources.files("mmfree_neuro.systems") / f"{name}.toml"
    return parse_system(file.read_text(encoding="utf-8"), f"system {name}")
