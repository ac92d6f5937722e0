"""A system as the TOML file that describes it."""

from collections.abc import Iterator
from dataclasses import fields

from mmfree_neuro.systems.spec import ChipSpec, Quantity, SystemSpec


def as_toml(system: SystemSpec) -> str:
    """The text of a file from which `load.parse_system` makes the same system; all figures of the
    chip stand in it."""
    lines = ["[system]", *_lines(system), "", "[chip]", *_lines(system.chip)]
    return "\n".join(lines) + "\n"


def _lines(spec: SystemSpec | ChipSpec) -> Iterator[str]:
    for field in fields(spec):
        value = getattr(spec, field.name)
        if isinstance(value, str):
            yield f"{field.name} = {_quoted(value)}"
        elif isinstance(value, Quantity):
            yield f"{field.name} = {_table(value)}"


def _table(value: Quantity) -> str:
    names: tuple[str, ...] = ("low", "central", "high")
    numbers = [_number(getattr(value, name)) for name in names]
    if len(set(numbers)) == 1:
        numbers, names = numbers[:1], ("value",)
    pairs = [f"{name} = {number}" for name, number in zip(names, numbers, strict=True)]
    return f"{{ {', '.join([*pairs, f'source = {_quoted(value.source)}'])} }}"


def _number(value: float) -> str:
    return str(int(value)) if value == int(value) else repr(value)


def _quoted(text: str) -> str:
    """A text in quotes, in ASCII."""
    return f'"{"".join(map(_escaped, text))}"'


def _escaped(character: str) -> str:
    if character in '"\\':
        return f"\\{character}"
    if " " <= character <= "~":
        return character
    return f"\\U{ord(character):08X}" if ord(character) > 0xFFFF else f"\\u{ord(character):04X}"
