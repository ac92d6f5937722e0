"""Single figures of a system, as a user sets them: `chip.energy_per_synop_pj=5`."""

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import fields, replace
from typing import Any

from mmfree_neuro.errors import HardwareError, shown
from mmfree_neuro.systems.load import check_system, nearest
from mmfree_neuro.systems.spec import ChipSpec, Quantity, SystemSpec

Setting = str | float | Sequence[float]
"""A number; or three, low, central and high; or either as text, as 3,5,9."""
SOURCE = "set by the user"


def figures(system: SystemSpec) -> dict[str, Quantity]:
    """The figures that a system has, by the names under which they are set."""
    found = {}
    for table, spec in (("system", system), ("chip", system.chip)):
        for field in fields(spec):
            if isinstance(value := getattr(spec, field.name), Quantity):
                found[f"{table}.{field.name}"] = value
    return found


def with_figure(system: SystemSpec, name: str, value: Quantity) -> SystemSpec:
    """The system with another figure of that name."""
    table, _, figure = name.partition(".")
    changed: dict[str, Any] = {figure: value}
    if table == "chip":
        return replace(system, chip=replace(system.chip, **changed))
    return replace(system, **changed)


_NAMES = tuple(
    f"{table}.{field.name}"
    for table, spec in (("system", SystemSpec), ("chip", ChipSpec))
    for field in fields(spec)
    if field.name not in ("name", "description", "chip")
)


def with_figures(system: SystemSpec, settings: Mapping[str, Setting]) -> SystemSpec:
    """The system with some figures set; its description names all that are.

    Raises HardwareError where there is no such figure, or it cannot be that.
    """
    if not settings:
        return system
    changed = system
    for name, setting in settings.items():
        if name not in _NAMES:
            elsewhere = [known for known in _NAMES if known.partition(".")[2] == figure_of(name)]
            other = elsewhere[0] if elsewhere else nearest(str(name), _NAMES)
            raise HardwareError(
                f"{shown(name)} is not a figure of a system, the nearest is {other}"
            )
        changed = with_figure(changed, name, Quantity(*_numbers(name, setting), SOURCE))
    texts = ", ".join(" = ".join(text.split("=")) for text in set_by_user(changed))
    begin = system.description.partition(f"; {SOURCE}: ")[0]
    changed = replace(changed, description=f"{begin}; {SOURCE}: {texts}")
    check_system(changed, "the figures that were set")
    return changed


def set_by_user(system: SystemSpec) -> tuple[str, ...]:
    """The figures of a system that a user has set, as texts such as
    chip.energy_per_synop_pj=3,5,9."""
    return tuple(
        f"{name}={_text(value)}"
        for name, value in figures(system).items()
        if value.source == SOURCE
    )


def figure_of(name: object) -> str:
    """The figure of a name, without its table where it has one."""
    return str(name).rpartition(".")[2]


def settings_of(texts: Iterable[str]) -> dict[str, str]:
    """What is set by texts such as chip.energy_per_synop_pj=5; of two for one figure the last.
    Raises HardwareError where a text sets nothing."""
    found = {}
    for text in texts:
        name, equals, value = text.partition("=")
        if not equals:
            raise HardwareError(
                f"{shown(text)} sets no figure, must be such as chip.energy_per_synop_pj=5"
            )
        found[name.strip()] = value.strip()
    return found


def _numbers(name: str, setting: Setting) -> tuple[float, float, float]:
    """Low, central and high."""
    parts = setting.split(",") if isinstance(setting, str) else setting
    try:
        values = [float(part) for part in (parts if isinstance(parts, Sequence) else [parts])]
    except (TypeError, ValueError):
        values = []
    if isinstance(setting, bytes | bool):
        values = []
    if len(values) not in (1, 3):
        raise HardwareError(
            f"{name} is {shown(setting)}, must be a number, or low, central and high as 3,5,9"
        )
    low, central, high = values if len(values) == 3 else values * 3
    return low, central, high


def _text(value: Quantity) -> str:
    """A figure as it is set."""
    low, central, high = value.low, value.central, value.high
    different = (central,) if low == central == high else (low, central, high)
    return ",".join(str(int(n)) if n.is_integer() else repr(n) for n in map(float, different))
