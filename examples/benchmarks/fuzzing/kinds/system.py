"""TOML files of systems."""

import random
import re
from pathlib import Path
from typing import Any

from fuzzing.case import Case
from fuzzing.kinds import results
from fuzzing.material import Material
from fuzzing.values import DEEP, change_bytes

VALUES = [
    "-1",
    "0",
    "0.5",
    "1e9",
    "1e15",
    "1e29",
    "1e31",
    "1e999",
    "nan",
    "inf",
    "-inf",
    "9" * 30,
    "9" * 5000,
    "true",
    '"text"',
    "[]",
    "{}",
    '"\\u0000"',
    '"\\u001b[31mred"',
    '"' + "x" * 5000 + '"',
    "[" * DEEP + "]" * DEEP,
    "{ a = " * 500 + "1" + " }" * 500,
    "1979-05-27",
    "0x10",
    "1_000",
    "",
    "{ value = 1e29, source = 's' }",
    "{ value = 1e9, source = 's' }",
    "{ value = 1, source = 's' }",
    "{ low = 3, central = 2, high = 1, source = 's' }",
    "{ value = nan, source = 's' }",
    "{ value = 1 }",
    "{ value = 1, source = 5 }",
    "{ value = 1, source = '' }",
    '{ value = 1, source = "a\\u001b[31mb" }',
]
NAMES = "system.toml", "loihi2", "a16.graph"
"""A system that is valid may be too small for the graph: then its chip is named."""
LINE = re.compile(r"^([a-z_]+) = (.*)$")


def _line(draw: random.Random, lines: list[str]) -> str:
    k = draw.choice([k for k, line in enumerate(lines) if LINE.match(line)])
    name = lines[k].partition(" = ")[0]
    how = draw.choice(
        ["replaced", "replaced", "replaced", "number", "number", "gone", "twice", "renamed"]
    )
    if how == "replaced":
        value = draw.choice(VALUES)
        lines[k] = f"{name} = {value}"
        return f"{name} is {value[:40]}"
    if how == "number":
        value = draw.choice(VALUES[:12])
        lines[k] = re.sub(r"(?<== )[0-9.e-]+", value, lines[k], count=draw.choice([0, 1]))
        return f"{name} has {value[:40]}"
    if how == "gone":
        del lines[k]
        return f"{name} is gone"
    if how == "twice":
        lines.insert(k, lines[k])
        return f"{name} is there twice"
    new = draw.choice(["extra", '"a\\u001b[2J"', '"' + "x" * 5000 + '"', "a.b.c", '""'])
    lines[k] = lines[k].replace(name, new, 1)
    return f"{name} is called {new[:20]}"


def _table(draw: random.Random, lines: list[str]) -> str:
    k = draw.choice([k for k, line in enumerate(lines) if line.startswith("[")])
    lines[k] = draw.choice(["", "[[system]]", "[chip", "[system.chip]", "[" + "a." * 5000 + "a]"])
    return f"a table is {lines[k][:20]!r}"


def toml(draw: random.Random, material: Material, folder: Path) -> Case:
    """A system with one change, shown or mapped onto."""
    data = (material.folder / "system.toml").read_bytes()
    which = draw.random()
    if which < 0.2:
        what, data = change_bytes(draw, data)
    else:
        lines = data.decode().splitlines()
        what = (_table if which < 0.25 else _line)(draw, lines)
        data = "\n".join(lines).encode()
    (folder / "system.toml").write_bytes(data)
    return Case(what, names=NAMES, **_reading(draw, material, folder))


def _reading(draw: random.Random, material: Material, folder: Path) -> dict[str, Any]:
    which = draw.random()
    if which < 0.3:
        return {"commands": (("systems", "system.toml", *(["--json"] * (which < 0.1))),)}
    material.bring(folder, "a16.graph")
    placer = draw.choice(["chain", "greedy", "balanced", "block-per-chip"])
    command = ("map", "a16.graph", "--system", "system.toml", "--placer", placer, "-o", "out.map")
    return {
        "commands": ((*command, "--json") if which < 0.4 else command,),
        "outputs": ("out.map",),
        "verdict": results.valid_mapping("out.map"),
    }
