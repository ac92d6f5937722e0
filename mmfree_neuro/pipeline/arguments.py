"""What is given to a function of the Python interface, held against the types that it says it
takes."""

import inspect
import numbers
import os
from collections.abc import Callable, Sequence
from functools import wraps
from types import NoneType, UnionType
from typing import Any, Literal, ParamSpec, TypeVar, Union, get_args, get_origin

from mmfree_neuro.errors import InputError, shown

Given = ParamSpec("Given")
Made = TypeVar("Made")
Kind = tuple[str, Callable[[Any], bool]]
"""How a type is called, and what is of it."""
_PLAIN: dict[Any, Kind] = {
    bool: ("True or False", lambda value: isinstance(value, bool)),
    int: ("an integer", lambda v: isinstance(v, numbers.Integral) and not isinstance(v, bool)),
    float: ("a number", lambda v: isinstance(v, numbers.Real) and not isinstance(v, bool)),
    str: ("a text", lambda value: isinstance(value, str)),
    NoneType: ("None", lambda value: value is None),
}


def checked(function: Callable[Given, Made]) -> Callable[Given, Made]:
    """The same function, which raises InputError where an argument is not of the type in its
    signature; numbers of NumPy become those of Python."""
    signature = inspect.signature(function)

    @wraps(function)
    def call(*given: Given.args, **named: Given.kwargs) -> Made:
        try:
            bound = signature.bind(*given, **named)
        except TypeError as error:
            raise InputError(f"{function.__name__}: {error}") from None
        for name, value in bound.arguments.items():
            hint = signature.parameters[name].annotation
            if hint is not inspect.Parameter.empty:
                _check(name, value, hint)
                if isinstance(value, numbers.Number) and hasattr(value, "item"):
                    bound.arguments[name] = value.item()
        return function(*bound.args, **bound.kwargs)

    return call


def _check(name: str, value: Any, hint: Any) -> None:
    kinds = _kinds(hint)
    if not any(fits(value) for _, fits in kinds):
        raise InputError(f"{name} is {shown(value)}, must be {_joined(kinds)}")


def _kinds(hint: Any) -> list[Kind]:
    """The kinds that a type hint allows."""
    if get_origin(hint) in (Union, UnionType):
        return [kind for part in get_args(hint) for kind in _kinds(part)]
    if get_origin(hint) is Literal:
        return [_literal(allowed) for allowed in get_args(hint)]
    plain = get_origin(hint) or hint
    if plain in _PLAIN:
        return [_PLAIN[plain]]
    assert isinstance(plain, type), f"no check for {hint}"
    if issubclass(plain, os.PathLike):
        return [("a path", lambda value: isinstance(value, os.PathLike))]
    if issubclass(plain, Sequence):
        return [_several(plain, _kinds(get_args(hint)[0]))]
    return [(f"of type {plain.__name__}", lambda value: isinstance(value, plain))]


def _literal(allowed: Any) -> Kind:
    return repr(allowed), lambda value: type(value) is type(allowed) and value == allowed


def _several(container: type, inside: list[Kind]) -> Kind:
    """The kind of lists and tuples, whose items are of some kinds."""

    def fits(value: Any) -> bool:
        return (
            isinstance(value, container)
            and isinstance(value, Sequence)
            and not isinstance(value, str | bytes)
            and all(any(one(item) for _, one in inside) for item in value)
        )

    return f"a {container.__name__.lower()}, of which each is {_joined(inside)}", fits


def _joined(kinds: list[Kind]) -> str:
    return " or ".join(called for called, _ in kinds)
