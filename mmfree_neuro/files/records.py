"""Records from plain values of JSON: every value is held against the type of its field before a
record is built."""

from collections.abc import Callable, Sequence
from dataclasses import MISSING, fields, is_dataclass
from functools import lru_cache
from math import isfinite
from types import UnionType
from typing import Any, Literal, TypeVar, Union, get_args, get_origin, get_type_hints

from mmfree_neuro.errors import shown
from mmfree_neuro.files.reading import Misfit

Decode = Callable[[Any], Any]
"""Makes what a type hint says of a plain value, or raises Misfit."""
Special = Callable[[Any, Callable[[Any], Decode]], Decode | None]
"""How a kind of file writes the values of some hints; None for those that it writes as others do.
The second argument gives the decoder of whatever is inside."""

LARGEST_INTEGER = 1 << 63


def ordinary(_hint: Any, _inside: Callable[[Any], Decode]) -> None:
    """The `Special` of files that write all values as JSON has them."""


@lru_cache(maxsize=512)
def decoder(hint: Any, special: Special = ordinary) -> Decode:
    """What makes values of a type hint: records, tuples, mappings by text, options, literals,
    numbers, texts."""

    def inside(part: Any) -> Decode:
        return decoder(part, special)

    chosen = special(hint, inside)
    if chosen is not None:
        return chosen
    origin, parts = get_origin(hint), get_args(hint)
    if hint in _PLAIN:
        return _PLAIN[hint]
    if origin in (Union, UnionType):
        return _one_of([inside(part) for part in parts])
    if origin is Literal:
        return _literal(parts)
    if origin is tuple:
        made = _tuple([inside(part) for part in parts if part is not ...], endless=... in parts)
        kinds = _simple_rows(hint)
        nested = get_origin(parts[0]) is tuple
        return made if kinds is None else _rows(kinds, nested, made)
    if origin is dict:
        return _mapping(inside(parts[1]))
    assert is_dataclass(hint) and isinstance(hint, type), f"no decoder for {hint}"
    return record(hint, inside)


Record = TypeVar("Record")


def decoded(kind: type[Record], value: Any) -> Record:
    """A record of that kind; Misfit where a value is not what its field must hold."""
    hint: Any = kind
    found: Record = decoder(hint)(value)
    return found


def located(where: str, decode: Decode, value: Any) -> Any:
    """A value inside another one; what is wrong with it is said together with where it is."""
    try:
        return decode(value)
    except Misfit as problem:
        inner = str(problem)
        raise Misfit(f"{where}{inner}" if inner[0] in ".[" else f"{where}: {inner}") from None


def record(kind: type, inside: Callable[[Any], Decode]) -> Decode:
    """What makes a record from an object that has its fields by name, and no others."""
    hints = get_type_hints(kind)
    decoders = {f.name: inside(hints[f.name]) for f in fields(kind)}
    needed = {f.name for f in fields(kind) if f.default is MISSING and f.default_factory is MISSING}

    def decode(value: Any) -> Any:
        if not isinstance(value, dict):
            raise Misfit(f"is {shown(value)}, must be an object")
        for name in sorted(needed - value.keys()):
            raise Misfit(f"has no {name}, must have one")
        for name in sorted(value.keys() - decoders.keys()):
            raise Misfit(f"has {shown(name)}, must not")
        return kind(**{n: located(f".{n}", decoders[n], part) for n, part in value.items()})

    return decode


def _tuple(decoders: list[Decode], *, endless: bool) -> Decode:
    def decode(value: Any) -> Any:
        if not isinstance(value, list):
            raise Misfit(f"is {shown(value)}, must be a list")
        if not endless and len(value) != len(decoders):
            raise Misfit(f"has {len(value)} items, must have {len(decoders)}")
        each = decoders * len(value) if endless else decoders
        made = []
        try:
            for decode_one, item in zip(each, value, strict=True):
                made.append(decode_one(item))
        except Misfit:
            located(f"[{len(made)}]", decode_one, item)
        return tuple(made)

    return decode


def _simple_rows(hint: Any) -> tuple[type, ...] | None:
    """The types of the numbers and texts in each row of a hint of rows, if it is one: (str, int)
    of tuple[tuple[str, int], ...]."""
    match get_args(hint):
        case (row, end) if get_origin(hint) is tuple and end is ...:
            kinds = get_args(row) if get_origin(row) is tuple else (row,)
            return kinds if all(kind in (int, str) for kind in kinds) else None
    return None


def _rows(kinds: tuple[type, ...], nested: bool, otherwise: Decode) -> Decode:
    """What makes a long list of short rows, as mappings have them, column by column; what does not
    fit is left to `otherwise`, which says so."""

    def fits(column: Sequence[Any], kind: type) -> bool:
        if {*map(type, column)} != {kind}:
            return False
        return kind is str or -LARGEST_INTEGER <= min(column) <= max(column) < LARGEST_INTEGER

    def decode(value: Any) -> Any:
        if not isinstance(value, list) or not value:
            return otherwise(value)
        if nested and ({*map(type, value)} != {list} or {*map(len, value)} != {len(kinds)}):
            return otherwise(value)
        columns = zip(*value, strict=True) if nested else (value,)
        if not all(fits(column, kind) for column, kind in zip(columns, kinds, strict=True)):
            return otherwise(value)
        return tuple(map(tuple, value)) if nested else tuple(value)

    return decode


def _mapping(decode_one: Decode) -> Decode:
    def decode(value: Any) -> Any:
        if not isinstance(value, dict):
            raise Misfit(f"is {shown(value)}, must be an object")
        return {name: located(f".{name}", decode_one, item) for name, item in value.items()}

    return decode


def _one_of(options: list[Decode]) -> Decode:
    def decode(value: Any) -> Any:
        if value is None and _nothing in options:
            return None
        first: Misfit | None = None
        for option in options:
            if option is not _nothing:
                try:
                    return option(value)
                except Misfit as problem:
                    first = first or problem
        raise first or Misfit(f"is {shown(value)}, must be null")

    return decode


def _literal(allowed: tuple[Any, ...]) -> Decode:
    def decode(value: Any) -> Any:
        if not isinstance(value, str) or value not in allowed:
            raise Misfit(f"is {shown(value)}, must be one of {', '.join(map(str, allowed))}")
        return value

    return decode


def _integer(value: Any) -> int:
    if type(value) is not int or not -LARGEST_INTEGER <= value < LARGEST_INTEGER:
        raise Misfit(f"is {shown(value)}, must be an integer of at most 64 bits")
    return value


def _number(value: Any) -> float:
    whole = type(value) is int and abs(value) < LARGEST_INTEGER
    if not whole and not (type(value) is float and isfinite(value)):
        raise Misfit(f"is {shown(value)}, must be a finite number")
    return value


def _text(value: Any) -> str:
    if not isinstance(value, str):
        raise Misfit(f"is {shown(value)}, must be a text")
    return value


def _truth(value: Any) -> bool:
    if not isinstance(value, bool):
        raise Misfit(f"is {shown(value)}, must be true or false")
    return value


def _nothing(value: Any) -> None:
    if value is not None:
        raise Misfit(f"is {shown(value)}, must be null")


_PLAIN: dict[Any, Decode] = {
    int: _integer,
    float: _number,
    str: _text,
    bool: _truth,
    type(None): _nothing,
}
