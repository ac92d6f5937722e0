"""Chips and systems as data: what a core holds, what a chip has, what an operation takes; each
number with its source.

A system file is TOML with a table `[system]`, which names a chip of `systems/chips/` (`chip =
"loihi2"`) unless the file has a table `[chip]` of its own.  A quantity has a `value` and a
`source`, or `low`, `central`, `high` and a `source`; where sources disagree the second form carries
the disagreement through to every printed figure.
"""

import sys
from dataclasses import MISSING, dataclass, fields
from importlib import resources
from pathlib import Path
from typing import Any

from mmfree_neuro.errors import HardwareError

if sys.version_info >= (3, 11):
    import tomllib
else:
    import tomli as tomllib


@dataclass(frozen=True)
class Quantity:
    """A number with a range and its source; low = central = high where sources agree."""

    low: float
    central: float
    high: float
    source: str


COUNTS = {
    "cores",
    "mesh_columns",
    "memory_bytes_per_core",
    "synaptic_memory_bytes_per_core",
    "neurons_per_core",
    "state_bytes_per_neuron",
    "input_axons_per_core",
    "output_axons_per_core",
    "program_instructions_per_core",
    "payload_bits",
    "accumulator_bits",
    "weight_bits",
    "synaptic_word_bits",
    "chips",
    "chip_columns",
    "chip_rows",
}
"""The figures that are whole numbers."""


@dataclass(frozen=True)
class ChipSpec:
    """One chip: what its cores hold, and what operations cost in time and energy."""

    name: str
    cores: Quantity
    mesh_columns: Quantity
    memory_bytes_per_core: Quantity
    synaptic_memory_bytes_per_core: Quantity
    neurons_per_core: Quantity
    state_bytes_per_neuron: Quantity
    input_axons_per_core: Quantity
    payload_bits: Quantity
    accumulator_bits: Quantity
    weight_bits: Quantity
    """What a stored weight takes; low and high are what the chip allows."""
    synaptic_word_bits: Quantity
    """What reaches a core by one axon is stored in whole words of this size."""
    energy_per_synop_pj: Quantity
    energy_per_instruction_pj: Quantity
    energy_per_message_pj: Quantity
    energy_per_hop_pj: Quantity
    energy_per_crossing_pj: Quantity
    static_power_w: Quantity
    fall_through_energy_ratio: Quantity
    """Dynamic energy of a token that falls through alone over that of one in a full pipeline."""
    time_per_synop_ns: Quantity
    time_per_synapse_ns: Quantity
    time_per_instruction_ns: Quantity
    time_per_message_ns: Quantity
    time_per_arrival_ns: Quantity
    time_per_hop_ns: Quantity
    time_per_crossing_ns: Quantity
    """How long a message holds a link between chips."""
    time_per_host_message_ns: Quantity
    """How long it holds the way from or to the host."""
    fall_through_step_ns: Quantity
    """What a step takes on top when one token falls through alone."""
    barrier_one_chip_ns: Quantity
    barrier_few_chips_ns: Quantity
    barrier_many_chips_ns: Quantity
    output_axons_per_core: Quantity | None = None
    """How many (output, destination core) pairs a core can hold, where that is known."""
    program_instructions_per_core: Quantity | None = None
    """How many instructions the programs on a core can have together, where that is known."""


@dataclass(frozen=True)
class SystemSpec:
    """A board: how many chips of one kind, how they are linked, and the power of what else is on
    it.

    The chips are numbered along a grid of `chip_columns` by `chip_rows`, and then grid behind grid.
    """

    name: str
    description: str
    chips: Quantity
    chip_columns: Quantity
    chip_rows: Quantity
    board_power_w: Quantity
    host_power_w: Quantity
    chip: ChipSpec


def _quantity(raw: Any, name: str, where: str) -> Quantity:
    if not isinstance(raw, dict) or not isinstance(raw.get("source"), str) or not raw["source"]:
        raise HardwareError(f"{where}: {name} must be a table with a number and a source")
    keys = ("low", "central", "high") if "central" in raw else ("value",) * 3
    values = [raw.get(key) for key in keys]
    odd = sorted(raw.keys() - set(keys) - {"source"})
    if odd or any(
        isinstance(v, bool) or not isinstance(v, int | float) or not 0 <= v < 1e30 for v in values
    ):
        raise HardwareError(
            f"{where}: {name} must have a value, or low, central and high, none negative"
        )
    if name in COUNTS and any(v != int(v) or v < 1 for v in values if v is not None):
        raise HardwareError(f"{where}: {name} must be a whole number of at least 1")
    low, central, high = (float(v) for v in values if v is not None)
    if not low <= central <= high:
        raise HardwareError(
            f"{where}: {name} must have low <= central <= high, has {low:g}, {central:g}, {high:g}"
        )
    return Quantity(low, central, high, raw["source"])


def _quantities(
    raw: dict[str, Any], spec: type, where: str, texts: set[str]
) -> dict[str, Quantity]:
    wanted = [f.name for f in fields(spec) if f.name not in texts]
    for field in fields(spec):
        if field.name in wanted and field.name not in raw and field.default is MISSING:
            raise HardwareError(f"{where}: {field.name} is missing")
    for name in sorted(raw.keys() - set(wanted) - texts):
        raise HardwareError(f"{where}: {name} is not a figure that this file may have")
    return {name: _quantity(raw[name], name, where) for name in wanted if name in raw}


def _text(raw: dict[str, Any], name: str, where: str) -> str:
    if not isinstance(raw.get(name), str) or not raw[name]:
        raise HardwareError(f"{where}: {name} must be a text")
    return str(raw[name])


def _toml(text: str, where: str) -> dict[str, Any]:
    try:
        return tomllib.loads(text)
    except tomllib.TOMLDecodeError as error:
        raise HardwareError(f"{where}: not readable as TOML ({error})") from None


def _chip(raw: dict[str, Any], where: str) -> ChipSpec:
    return ChipSpec(name=_text(raw, "name", where), **_quantities(raw, ChipSpec, where, {"name"}))


def _known_chip(name: Any, where: str) -> ChipSpec:
    if name not in chip_names():
        raise HardwareError(
            f"{where}: chip {name!r} is not known, must be one of {', '.join(chip_names())}"
        )
    file = resources.files("mmfree_neuro") / "systems" / "chips" / f"{name}.toml"
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
    return SystemSpec(
        name=name,
        description=description,
        chip=chip,
        **_quantities(system, SystemSpec, where, {"name", "description", "chip"}),
    )


def _names(*folders: str) -> list[str]:
    folder = resources.files("mmfree_neuro").joinpath("systems", *folders)
    return sorted(
        f.name.removesuffix(".toml") for f in folder.iterdir() if f.name.endswith(".toml")
    )


def chip_names() -> list[str]:
    """The chips that come with the project."""
    return _names("chips")


def system_names() -> list[str]:
    """The systems that come with the project."""
    return _names()


def load_system(name: str) -> SystemSpec:
    """A system by its name, or by the path of a TOML file of the user's own."""
    if name.endswith(".toml"):
        try:
            return parse_system(Path(name).read_text(encoding="utf-8"), name)
        except (OSError, UnicodeDecodeError) as error:
            raise HardwareError(f"{name}: not readable ({error})") from None
    if name not in system_names():
        raise HardwareError(
            f"system {name!r} is not known, must be one of {', '.join(system_names())}, or a "
            ".toml file"
        )
    file = resources.files("mmfree_neuro") / "systems" / f"{name}.toml"
    return parse_system(file.read_text(encoding="utf-8"), f"system {name}")
