"""Graph files: the bytes, the head, arrays with checksums that are stale or mended."""

import hashlib
import json
import random
from collections.abc import Callable
from pathlib import Path
from typing import Any

from fuzzing.case import Case, Verdict
from fuzzing.kinds import results
from fuzzing.material import GRAPHS, SIMULATE, SYSTEM, Material
from fuzzing.values import VALUES, at, change, change_bytes, paths, some_path, with_value
from mmfree_neuro.graph.graph_file import head_checksum

ENGINES = "reference", "fast"
Parts = tuple[dict[str, Any], str, bytes]
"""The entries of the arrays, the description as JSON text, the arrays."""


def parts(data: bytes) -> tuple[str, Parts]:
    """What a graph file consists of, and the name of its format."""
    size = 8 + int.from_bytes(data[:8], "little")
    entries = json.loads(data[8:size])
    format_, plain = next(iter(entries.pop("__metadata__").items()))
    return format_, (entries, plain, data[size:])


def joined(format_: str, whole: Parts, *, mended: str | None = None) -> bytes:
    """A graph file again; its description's checksum is `mended` or right."""
    entries, plain, arrays = whole
    metadata = {format_: plain, "sha256": mended or head_checksum(plain, entries)}
    head = json.dumps({"__metadata__": metadata} | entries).encode()
    head += b" " * (-(8 + len(head)) % 64)
    return len(head).to_bytes(8, "little") + head + arrays


def _reading(draw: random.Random, name: str, verdict: Verdict) -> dict[str, Any]:
    """Some commands that read a graph, and the verdict on what they write."""
    logits = ("logits", name, "--tokens", "tokens.npy", "-o", "out.npy", "--raw")
    maps = ("map", name, "--system", SYSTEM, "--cores", "8", "--block-per-chip", "-o", "out.map")
    run = ("simulate", "out.map", *SIMULATE, "--engine", "fast", "-o", "out")
    which = draw.random()
    if which < 0.1:
        return {"commands": (("inspect", name),)}
    if which < 0.2:
        return {
            "commands": (maps, run),
            "outputs": ("out.map", "out"),
            "verdict": results.valid_mapping("out.map"),
        }
    engine = ENGINES[which < 0.35]
    return {
        "commands": ((*logits, "--engine", engine),),
        "outputs": ("out.npy",),
        "verdict": verdict,
    }


def _both_engines(name: str) -> dict[str, Any]:
    """A graph on two engines, which must agree."""
    logits = ("logits", name, "--tokens", "tokens.npy", "--raw")
    return {
        "commands": (
            (*logits, "-o", "first.npy", "--engine", "reference"),
            (*logits, "-o", "second.npy", "--engine", "fast"),
        ),
        "outputs": ("first.npy", "second.npy"),
        "verdict": results.equal("first.npy", "second.npy"),
    }


def _chosen(draw: random.Random, material: Material, folder: Path) -> tuple[str, bytes]:
    name = draw.choice(GRAPHS)
    material.bring(folder, "tokens.npy")
    return name, (material.folder / name).read_bytes()


def any_bytes(draw: random.Random, material: Material, folder: Path) -> Case:
    """Bytes anywhere in the file."""
    name, data = _chosen(draw, material, folder)
    what, changed = change_bytes(draw, data)
    (folder / name).write_bytes(changed)
    reading = _reading(draw, name, results.logits_are(material.logits[name]))
    return Case(f"{name}: {what}", names=(name,), **reading)


def array_bits(draw: random.Random, material: Material, folder: Path) -> Case:
    """A bit of one array: no other result may come of it."""
    name, data = _chosen(draw, material, folder)
    _, (entries, _, arrays) = parts(data)
    array = draw.choice(list(entries))
    first, last = entries[array]["data_offsets"]
    where = len(data) - len(arrays) + draw.randrange(first, last)
    bit = draw.randrange(8)
    changed = bytearray(data)
    changed[where] ^= 1 << bit
    (folder / name).write_bytes(changed)
    reading = _reading(draw, name, results.logits_are(material.logits[name]))
    return Case(
        f"{name}: bit {bit} of byte {where}, in {array}",
        names=(name,),
        must="be refused",
        **reading,
    )


def entries_of_arrays(draw: random.Random, material: Material, folder: Path) -> Case:
    """Where the arrays lie, of what type and shape they are."""
    name, data = _chosen(draw, material, folder)
    size = 8 + int.from_bytes(data[:8], "little")
    tree = json.loads(data[8:size])
    path = some_path(draw, tree)
    while path[0] == "__metadata__":
        path = some_path(draw, tree)
    what, text, _ = change(draw, tree, path)
    head = text.encode(errors="surrogatepass")
    head += b" " * (-(8 + len(head)) % 64)
    (folder / name).write_bytes(len(head).to_bytes(8, "little") + head + data[size:])
    reading = _reading(draw, name, results.logits_are(material.logits[name]))
    return Case(f"{name}: {what}", names=(name,), **reading)


def description(draw: random.Random, material: Material, folder: Path) -> Case:
    """The nodes as JSON, under a stale checksum."""
    name, data = _chosen(draw, material, folder)
    format_, (entries, plain, arrays) = parts(data)
    what, text, _ = change(draw, json.loads(plain))
    stale = head_checksum(plain, entries)
    (folder / name).write_bytes(joined(format_, (entries, text, arrays), mended=stale))
    reading = _reading(draw, name, results.logits_are(material.logits[name]))
    return Case(f"{name}: {what}", names=(name,), **reading)


def mended_description(draw: random.Random, material: Material, folder: Path) -> Case:
    """The nodes as JSON, under a checksum that is right: what is accepted must mean one thing."""
    name, data = _chosen(draw, material, folder)
    format_, (entries, plain, arrays) = parts(data)
    tree = json.loads(plain)
    inside = draw.choice(["nodes", "nodes", "nodes", "sigmoid", ""])
    path = (inside, *some_path(draw, tree[inside])) if inside else some_path(draw, tree)
    what, text, _ = change(draw, tree, path)
    (folder / name).write_bytes(joined(format_, (entries, text, arrays)))
    reading = _both_engines(name) if draw.random() < 0.6 else _reading(draw, name, lambda _: "")
    return Case(f"{name}: {what}", names=(name,), **reading)


def _matrices(tree: Any) -> list[tuple[str | int, ...]]:
    return [path[:-1] for path in paths(tree) if path[-1] == "$ternary"]


def _claims(draw: random.Random, tree: Any, entries: Any, arrays: bytearray) -> tuple[str, str]:
    """A matrix that is said to be emptier than it is."""
    path = draw.choice(_matrices(tree))
    name, matrix = draw.choice(["fullest", "nonzero"]), at(tree, path)
    by = draw.choice([-1, -matrix[name], -matrix[name] // 2, -5, 1, 5])
    return f"{'.'.join(map(str, path))}: {name} {by:+}", with_value(
        tree, (*path, name), str(matrix[name] + by)
    )


def _claims_oddly(
    draw: random.Random, tree: Any, entries: Any, arrays: bytearray
) -> tuple[str, str]:
    """A matrix that is said to be as full as no matrix can be."""
    path = draw.choice(_matrices(tree))
    name, value = (
        draw.choice(["fullest", "nonzero"]),
        draw.choice(
            [
                "-1",
                "2^31",
                "2^63",
                "0.5",
                "NaN",
                "null",
                "true",
                "a text",
                "an integer of 5,000 digits",
            ]
        ),
    )
    return f"{'.'.join(map(str, path))}: {name} is {value}", with_value(
        tree, (*path, name), VALUES[value]
    )


def _filled(draw: random.Random, tree: Any, entries: Any, arrays: bytearray) -> tuple[str, str]:
    """Weights of +1 in every place of a tile, where the matrix is said to be emptier."""
    path = draw.choice(_matrices(tree))
    name = at(tree, path)["$ternary"]
    first, _ = entries[name]["data_offsets"]
    code = draw.choice([0b10101010, 0b00000000, 0b11111111])
    arrays[first : first + 64] = bytes([code]) * 64
    tree["sha256"] = [hashlib.sha256(arrays).hexdigest()]  # the arrays are one piece
    return f"{'.'.join(map(str, path))}: the first tile holds {code:#010b}", json.dumps(tree)


LIES: tuple[Callable[[random.Random, Any, Any, bytearray], tuple[str, str]], ...] = (
    _claims,
    _claims_oddly,
    _filled,
)


def lies(draw: random.Random, material: Material, folder: Path) -> Case:
    """Matrices that are not what the description says of them, every checksum right."""
    name, data = _chosen(draw, material, folder)
    format_, (entries, plain, old) = parts(data)
    arrays = bytearray(old)
    what, text = draw.choice(LIES)(draw, json.loads(plain), entries, arrays)
    (folder / name).write_bytes(joined(format_, (entries, text, bytes(arrays))))
    reading = _reading(draw, name, lambda _: "")
    return Case(f"{name}: {what}", names=(name,), must="be refused", **reading)
