"""Values of JSON become records where every one has the type of its field, and no others do."""

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any, Literal

import pytest

from mmfree_neuro.files.reading import Misfit
from mmfree_neuro.files.records import decoded, decoder, located


@dataclass(frozen=True)
class Inner:
    """A record inside another one."""

    name: str
    size: int = 1


@dataclass(frozen=True)
class Outer:
    """A record with a field of each kind."""

    number: float
    sure: bool
    maybe: int | None
    kind: Literal["a", "b"]
    pair: tuple[str, int]
    rows: tuple[tuple[str, int], ...]
    counts: tuple[int, ...]
    inner: Inner
    many: tuple[Inner, ...]
    named: dict[str, Inner]
    nothing: None


def plain() -> dict[str, Any]:
    """An outer record as JSON has it."""
    return {
        "number": 1,
        "sure": True,
        "maybe": None,
        "kind": "a",
        "pair": ["x", 2],
        "rows": [["y", 3], ["z", 4]],
        "counts": [5, 6],
        "inner": {"name": "n"},
        "many": [{"name": "m", "size": 7}],
        "named": {"k": {"name": "o"}},
        "nothing": None,
    }


def test_a_record_of_every_kind() -> None:
    assert decoded(Outer, plain()) == Outer(
        1, True, None, "a", ("x", 2), (("y", 3), ("z", 4)), (5, 6), Inner("n"), (Inner("m", 7),),
        {"k": Inner("o")}, None,
    )  # fmt: skip
    assert decoded(Outer, plain() | {"maybe": 3, "rows": [], "counts": []}).maybe == 3


INTEGER, TEXT, OBJECT = "an integer of at most 64 bits", "a text", "an object"
WRONG: list[tuple[str, Any, str]] = [
    ("number", "1", ".number: is '1', must be a finite number"),
    ("number", True, ".number: is True, must be a finite number"),
    ("number", float("inf"), ".number: is inf, must be a finite number"),
    ("number", float("nan"), ".number: is nan, must be a finite number"),
    ("number", 1 << 63, f".number: is {1 << 63}, must be a finite number"),
    ("sure", 1, ".sure: is 1, must be true or false"),
    ("maybe", "x", f".maybe: is 'x', must be {INTEGER}"),
    ("maybe", 1.0, f".maybe: is 1.0, must be {INTEGER}"),
    ("maybe", True, f".maybe: is True, must be {INTEGER}"),
    ("maybe", 1 << 63, f".maybe: is {1 << 63}, must be {INTEGER}"),
    ("maybe", -(1 << 63) - 1, f".maybe: is {-(1 << 63) - 1}, must be {INTEGER}"),
    ("kind", "c", ".kind: is 'c', must be one of a, b"),
    ("kind", ["a"], ".kind: is ['a'], must be one of a, b"),
    ("pair", ["x"], ".pair: has 1 items, must have 2"),
    ("pair", {"x": 2}, ".pair: is {'x': 2}, must be a list"),
    ("pair", [2, "x"], f".pair[0]: is 2, must be {TEXT}"),
    ("rows", 3, ".rows: is 3, must be a list"),
    ("rows", [["y", 3], 3], ".rows[1]: is 3, must be a list"),
    ("rows", [["y", 3], ["z"]], ".rows[1]: has 1 items, must have 2"),
    ("rows", [["y", 3], ["z", "4"]], f".rows[1][1]: is '4', must be {INTEGER}"),
    ("rows", [["y", 3], ["z", True]], f".rows[1][1]: is True, must be {INTEGER}"),
    ("rows", [["y", 1 << 63]], f".rows[0][1]: is {1 << 63}, must be {INTEGER}"),
    ("rows", [[3, 3]], f".rows[0][0]: is 3, must be {TEXT}"),
    ("counts", [5, 6.5], f".counts[1]: is 6.5, must be {INTEGER}"),
    ("counts", [5, False], f".counts[1]: is False, must be {INTEGER}"),
    ("counts", [-(1 << 63) - 1], f".counts[0]: is {-(1 << 63) - 1}, must be {INTEGER}"),
    ("inner", [], f".inner: is [], must be {OBJECT}"),
    ("inner", {}, ".inner: has no name, must have one"),
    ("inner", {"name": "n", "siez": 1}, ".inner: has 'siez', must not"),
    ("inner", {"name": 3}, f".inner.name: is 3, must be {TEXT}"),
    ("many", [{"name": "m"}, {"name": None}], f".many[1].name: is None, must be {TEXT}"),
    ("named", [], f".named: is [], must be {OBJECT}"),
    ("named", {"k": {"name": 1}}, f".named.k.name: is 1, must be {TEXT}"),
    ("nothing", 0, ".nothing: is 0, must be null"),
]


@pytest.mark.parametrize(("name", "value", "said"), WRONG)
def test_a_value_of_another_type(name: str, value: Any, said: str) -> None:
    with pytest.raises(Misfit) as error:
        decoded(Outer, plain() | {name: value})
    assert str(error.value) == said


@pytest.mark.parametrize(
    ("change", "said"),
    [
        (lambda value: value.pop("kind"), "has no kind, must have one"),
        (lambda value: value.update(other=1), "has 'other', must not"),
    ],
)
def test_a_field_missing_or_more(change: Callable[[dict[str, Any]], Any], said: str) -> None:
    value = plain()
    change(value)
    with pytest.raises(Misfit) as error:
        decoded(Outer, value)
    assert str(error.value) == said
    with pytest.raises(Misfit) as error:
        decoded(Outer, [])
    assert str(error.value) == "is [], must be an object"


def test_of_several_types_the_first_says_what_is_wrong() -> None:
    decode = decoder(int | tuple[int, ...])
    assert (decode(3), decode([3, 4])) == (3, (3, 4))
    with pytest.raises(Misfit) as error:
        decode("x")
    assert str(error.value) == f"is 'x', must be {INTEGER}"


def test_the_ends_of_integers() -> None:
    decode = decoder(tuple[int, ...])
    ends = [-(1 << 63), (1 << 63) - 1]
    assert decode(ends) == tuple(ends)


def test_where_a_value_is_wrong() -> None:
    for where, inner, said in (
        (".a", ".b: is odd", ".a.b: is odd"),
        (".a", "[3]: is odd", ".a[3]: is odd"),
        (".a", "is odd", ".a: is odd"),
    ):

        def refuse(_: Any, inner: str = inner) -> None:
            raise Misfit(inner)

        with pytest.raises(Misfit) as error:
            located(where, refuse, 1)
        assert str(error.value) == said


def test_a_type_that_files_do_not_have() -> None:
    with pytest.raises(AssertionError) as error:
        decoder(bytes)
    assert str(error.value) == "no decoder for <class 'bytes'>"
