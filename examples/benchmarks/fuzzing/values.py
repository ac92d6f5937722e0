"""Hostile values, and what can be done to a JSON tree or to bytes."""

import hashlib
import json
import random
from collections.abc import Callable
from typing import Any

DEEP = 100_000
VALUES = {
    "-1": "-1",
    "0": "0",
    "1": "1",
    "2^31": str(2**31),
    "2^63": str(2**63),
    "2^64 + 1": str(2**64 + 1),
    "an integer of 5,000 digits": "7" * 5000,
    "0.5": "0.5",
    "1e999": "1e999",
    "-1e9": "-1e9",
    "NaN": "NaN",
    "-Infinity": "-Infinity",
    "1e308": "1e308",
    "true": "true",
    "null": "null",
    "an empty list": "[]",
    "an empty object": "{}",
    "a list of lists": "[[1, [2]], []]",
    "an object": '{"a": 1}',
    "an empty text": '""',
    "a text": '"text"',
    "a number as text": '"1"',
    "NUL": '"a\\u0000b"',
    "a lone surrogate": '"a\\ud800b"',
    "a terminal escape": '"a\\u001b[31mb\\u001b]0;title\\u0007"',
    "two lines": '"first\\nsecond\\r\\nthird"',
    "right to left": '"a\\u202eb"',
    "5,000 characters": '"' + "x" * 5000 + '"',
    "nested 100,000 deep": "[" * DEEP + "]" * DEEP,
    "objects nested 100,000 deep": '{"a":' * DEEP + "1" + "}" * DEEP,
}
"""JSON texts by what they are."""
Path = tuple[str | int, ...]
_MARK = "the value that is put here"


def paths(tree: Any, inside: Path = ()) -> list[Path]:
    """The way to every value of a JSON tree, the root left out."""
    if isinstance(tree, dict):
        steps: list[Any] = list(tree)
    elif isinstance(tree, list):
        steps = list(range(len(tree)))
    else:
        return []
    found = []
    for step in steps:
        found.append((*inside, step))
        found += paths(tree[step], (*inside, step))
    return found


def at(tree: Any, path: Path) -> Any:
    """The value at the end of a way."""
    for step in path:
        tree = tree[step]
    return tree


def some_path(draw: random.Random, tree: Any) -> Path:
    """The way to a value; long lists of like values are not all that is drawn."""
    path: Path = ()
    while True:
        here = at(tree, path)
        if not isinstance(here, dict | list) or not here or (path and draw.random() < 0.2):
            return path
        path = (*path, draw.choice(list(here) if isinstance(here, dict) else range(len(here))))


def copied(tree: Any) -> Any:
    """The same tree, to be changed."""
    return json.loads(json.dumps(tree))


def with_value(tree: Any, path: Path, text: str) -> str:
    """The JSON text of a tree with a text in the place of one of its values."""
    changed = copied(tree)
    at(changed, path[:-1])[path[-1]] = _MARK
    return json.dumps(changed).replace(f'"{_MARK}"', text, 1)


def _replaced(draw: random.Random, tree: Any, path: Path) -> tuple[str, str]:
    name = draw.choice(list(VALUES))
    return f"is {name}", with_value(tree, path, VALUES[name])


def _dropped(_draw: random.Random, tree: Any, path: Path) -> tuple[str, str]:
    del at(tree, path[:-1])[path[-1]]
    return "is gone", json.dumps(tree)


def _repeated(_draw: random.Random, tree: Any, path: Path) -> tuple[str, str]:
    above = at(tree, path[:-1])
    if isinstance(above, list):
        above.insert(int(path[-1]), above[path[-1]])
        return "is there twice", json.dumps(tree)
    text = json.dumps(above[path[-1]])
    return "is there twice", with_value(tree, path, f"{text}, {json.dumps(path[-1])}: {text}")


def _swapped(draw: random.Random, tree: Any, path: Path) -> tuple[str, str]:
    above = at(tree, path[:-1])
    other = draw.choice(list(above) if isinstance(above, dict) else range(len(above)))
    above[path[-1]], above[other] = above[other], above[path[-1]]
    return f"is swapped with {other}", json.dumps(tree)


def _shuffled(draw: random.Random, tree: Any, path: Path) -> tuple[str, str]:
    value = at(tree, path)
    if isinstance(value, list):
        draw.shuffle(value)
        return "is in another order", json.dumps(tree)
    at(tree, path[:-1])[path[-1]] = [value]
    return "is in a list", json.dumps(tree)


def _nudged(draw: random.Random, tree: Any, path: Path) -> tuple[str, str]:
    value = at(tree, path)
    if isinstance(value, bool) or not isinstance(value, int | float):
        return _replaced(draw, tree, path)
    name, other = draw.choice(
        [
            ("one more", value + 1),
            ("one less", value - 1),
            ("negated", -value),
            ("twice", 2 * value),
        ]
    )
    at(tree, path[:-1])[path[-1]] = other
    return f"is {name}", json.dumps(tree)


def _renamed(draw: random.Random, tree: Any, path: Path) -> tuple[str, str]:
    above = at(tree, path[:-1])
    if isinstance(above, list):
        return _repeated(draw, tree, path)
    above[draw.choice(["extra", "", "a\x1b[2Jb", "\ud800", "x" * 5000])] = above.pop(path[-1])
    return "has another name", json.dumps(tree)


def _added(draw: random.Random, tree: Any, path: Path) -> tuple[str, str]:
    above = at(tree, path[:-1])
    if isinstance(above, list):
        above.append(None)
    else:
        above["extra"] = None
    name = draw.choice(list(VALUES))
    new: Path = (*path[:-1], "extra" if isinstance(above, dict) else len(above) - 1)
    return f"has {name} beside it", with_value(tree, new, VALUES[name])


CHANGES: tuple[Callable[[random.Random, Any, Path], tuple[str, str]], ...] = (
    _replaced,
    _replaced,
    _replaced,
    _dropped,
    _repeated,
    _swapped,
    _shuffled,
    _nudged,
    _nudged,
    _renamed,
    _added,
)


def change(draw: random.Random, tree: Any, path: Path | None = None) -> tuple[str, str, Path]:
    """A JSON tree with one change, as text: what was done, the text, and where."""
    path = some_path(draw, tree) if path is None else path
    what, text = draw.choice(CHANGES)(draw, copied(tree), path)
    where = ".".join(map(str, path))
    return f"{where[:80]} {what}", text, path


def mended(text: str) -> str:
    """The JSON text of an object whose checksum is made right, where the text can be read at all.

    The checksum is that of mappings and of runs: of all that is beside it, with its keys in order.
    """
    try:
        content = json.loads(text)
        stored = content.pop("sha256")
        right = hashlib.sha256(json.dumps(content, sort_keys=True).encode()).hexdigest()
    except (ValueError, RecursionError, KeyError, AttributeError, TypeError):
        return text
    return text.replace(json.dumps(stored), json.dumps(right), 1)


def _flipped(draw: random.Random, data: bytes) -> tuple[str, bytes]:
    changed, count = bytearray(data), draw.choice([1, 1, 1, 8])
    for _ in range(count if data else 0):
        changed[draw.randrange(len(data))] ^= 1 << draw.randrange(8)
    return f"{count} bits flipped", bytes(changed)


def _cut(draw: random.Random, data: bytes) -> tuple[str, bytes]:
    length = draw.choice([0, 1, 7, 8, 9, len(data) // 2, len(data) - 1])
    return f"cut to {length} bytes", data[: max(length, 0)]


def _grown(draw: random.Random, data: bytes) -> tuple[str, bytes]:
    tail = draw.choice([b"\0", b"\n", b" ", b"}", b"x" * 100, b"\xff\xfe"])
    return f"{tail[:4]!r} at the end", data + tail


def _headed(draw: random.Random, data: bytes) -> tuple[str, bytes]:
    head = draw.choice([b"\xef\xbb\xbf", b"\xff\xfe", b"\0", b"\x1f\x8b", b"PK\x03\x04", b"#"])
    return f"{head!r} at the beginning", head + data


def _other(draw: random.Random, _data: bytes) -> tuple[str, bytes]:
    name, text = draw.choice(list(VALUES.items()))
    return f"is {name} alone", text.encode()


def _random(draw: random.Random, _data: bytes) -> tuple[str, bytes]:
    return "random bytes", draw.randbytes(draw.choice([8, 100, 5000]))


def _zeroed(draw: random.Random, data: bytes) -> tuple[str, bytes]:
    first = draw.randrange(max(len(data), 1))
    length = draw.choice([1, 8, 64, 512])
    return f"{length} bytes of 0xff", data[:first] + b"\xff" * length + data[first + length :]


BYTES: tuple[Callable[[random.Random, bytes], tuple[str, bytes]], ...] = (
    _flipped,
    _flipped,
    _flipped,
    _cut,
    _grown,
    _headed,
    _other,
    _random,
    _zeroed,
)


def change_bytes(draw: random.Random, data: bytes) -> tuple[str, bytes]:
    """Bytes with one change: what was done, and the bytes."""
    return draw.choice(BYTES)(draw, data)
