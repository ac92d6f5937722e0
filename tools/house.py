"""Measures the layout of the code from its own imports, and draws it.

Run:
    python tools/house.py                                  # a table of the four packages
    python tools/house.py --json                           # the same for machines, every name told
    python tools/house.py --order                          # imports against pyproject.toml's order
    python tools/house.py --picture docs/architecture.svg  # rooms on their floors, with arrows
    python tools/house.py --tree ROOT                      # any of these for another checkout

A room is a direct child of a package: a subpackage, or a module other than `__init__` and
`__main__`. An arrow leads from a room to one that it imports; an import inside a function or for
types only counts too. A room that imports no other lies on floor 0, and every other room one floor
above the highest that it imports. A circle is a set of rooms, or of files, each of which imports
every other, be it through others.
"""

import argparse
import ast
import json
import re
import sys
from collections import Counter
from collections.abc import Iterable, Iterator
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

if sys.version_info >= (3, 11):
    import tomllib
else:
    import tomli as tomllib

PACKAGES = {
    "mmfree_neuro": ".",
    "mmfree_partition": "partition",
    "mmfree_kernels": "kernels",
    "mmfree_sims": "sims",
}
"""The packages, and the folder of the checkout that each lies in."""

ORDER = "The flow, floor by floor"
"""The contract of import-linter that says which room stands on which."""

Arrow = tuple[str, str]


@dataclass(frozen=True)
class Import:
    """One import, and where it stands."""

    importer: str
    imported: str
    path: str
    line: int


@dataclass(frozen=True)
class Size:
    """How many lines something has."""

    lines: int
    name: str


@dataclass(frozen=True)
class File:
    """One file of a package; `__init__.py` bears the name of its package."""

    name: str
    size: Size
    longest_function: Size
    imports: tuple[Import, ...]


@dataclass(frozen=True)
class Measure:
    """What is measured of one package, or of all together."""

    name: str
    floors: dict[str, int]  # of every room
    arrows: tuple[Arrow, ...]
    circles: tuple[tuple[str, ...], ...]
    file_circles: tuple[tuple[str, ...], ...]
    files: int
    lines: int
    largest_file: Size
    longest_function: Size

    @property
    def levels(self) -> int:
        """How many floors there are."""
        return 1 + max(self.floors.values(), default=-1)


@dataclass(frozen=True)
class Order:
    """Which module lies on which floor, 0 the highest, and which floors keep neighbours apart."""

    floors: dict[str, int]
    apart: frozenset[int]
    ignored: tuple[str, ...]  # patterns of "importer -> imported"


# Reading.


def read(root: Path) -> tuple[File, ...]:
    """Every file of the four packages."""
    paths = dict(pair for package in PACKAGES for pair in _paths(root, package))
    known = {".".join(name.split(".")[:n]) for name in paths for n in range(1, name.count(".") + 2)}
    return tuple(_file(root, name, path, known) for name, path in sorted(paths.items()))


def _paths(root: Path, package: str) -> Iterator[tuple[str, Path]]:
    """The dotted name and the path of every file of a package."""
    folder = root / PACKAGES[package]
    for path in (folder / package).rglob("*.py"):
        parts = path.relative_to(folder).with_suffix("").parts
        yield ".".join(parts[:-1] if parts[-1] == "__init__" else parts), path


def _file(root: Path, name: str, path: Path, known: set[str]) -> File:
    text, where = path.read_text(encoding="utf-8"), path.relative_to(root).as_posix()
    tree = ast.parse(text, where)
    package = name if path.name == "__init__.py" else name.rpartition(".")[0]
    imports = {
        Import(name, imported, where, node.lineno)
        for node in ast.walk(tree)
        if isinstance(node, ast.Import | ast.ImportFrom)
        for full in _full_names(node, package)
        if (imported := _nearest(full, known)) is not None and imported != name
    }
    functions = [
        Size(node.end_lineno - node.lineno + 1, f"{where}:{node.name}")
        for node in ast.walk(tree)
        if isinstance(node, ast.FunctionDef | ast.AsyncFunctionDef) and node.end_lineno
    ]
    longest = max(functions, key=lambda size: size.lines, default=Size(0, "none"))
    order = sorted(imports, key=lambda found: (found.line, found.imported))
    return File(name, Size(len(text.splitlines()), where), longest, tuple(order))


def _full_names(node: ast.Import | ast.ImportFrom, package: str) -> list[str]:
    """What an import statement names, from the root."""
    if isinstance(node, ast.Import):
        return [alias.name for alias in node.names]
    above = package.split(".")[: package.count(".") + 2 - node.level] if node.level else []
    base = ".".join([*above, *filter(None, [node.module])])
    return [f"{base}.{alias.name}" for alias in node.names]


def _nearest(name: str, known: set[str]) -> str | None:
    """The module that a name is or lies in: `a.b` for `a.b.function`."""
    while name and name not in known:
        name = name.rpartition(".")[0]
    return name or None


# Measuring.


def room(name: str) -> str | None:
    """The room that a module lies in; a package itself and its `__main__` lie in none."""
    parts = name.split(".")
    return None if len(parts) < 2 or parts[1] == "__main__" else ".".join(parts[:2])


def room_arrows(files: Iterable[File]) -> set[Arrow]:
    """Every pair of rooms of which the first imports the second."""
    pairs = {(room(i.importer), room(i.imported)) for file in files for i in file.imports}
    return {(a, b) for a, b in pairs if a is not None and b is not None and a != b}


def reachable(nodes: Iterable[str], arrows: Iterable[Arrow]) -> dict[str, set[str]]:
    """What can be reached from each node along one arrow or more."""
    after: dict[str, set[str]] = {node: set() for node in nodes}
    for source, target in arrows:
        after[source].add(target)
    reached = {}
    for node in after:
        seen: set[str] = set()
        waiting = [node]
        while waiting:
            fresh = after[waiting.pop()] - seen
            seen |= fresh
            waiting += fresh
        reached[node] = seen
    return reached


def circles(reached: dict[str, set[str]]) -> tuple[tuple[str, ...], ...]:
    """The sets of more than one node that all reach each other."""
    found = {
        tuple(sorted({node, *(other for other in below if node in reached[other])}))
        for node, below in reached.items()
    }
    return tuple(sorted(circle for circle in found if len(circle) > 1))


def floors(nodes: Iterable[str], arrows: set[Arrow]) -> dict[str, int]:
    """The length of the longest path down from each node; a circle counts as one node."""
    reached = reachable(nodes, arrows)
    whole = {node: node for node in reached}
    whole |= {node: circle[0] for circle in circles(reached) for node in circle}
    found: dict[str, int] = {}

    def floor(node: str) -> int:
        if node not in found:
            below = {whole[b] for a, b in arrows if whole[a] == node} - {node}
            found[node] = max((1 + floor(other) for other in below), default=0)
        return found[node]

    return {node: floor(whole[node]) for node in reached}


def measure(name: str, files: tuple[File, ...]) -> Measure:
    """What is measured of these files; imports of others do not count."""
    names = {file.name for file in files}
    rooms = sorted({found for file in files if (found := room(file.name)) is not None})
    arrows = {(a, b) for a, b in room_arrows(files) if b in rooms}
    inner = {(i.importer, i.imported) for f in files for i in f.imports if i.imported in names}
    return Measure(
        name,
        floors(rooms, arrows),
        tuple(sorted(arrows)),
        circles(reachable(rooms, arrows)),
        circles(reachable(names, inner)),
        len(files),
        sum(file.size.lines for file in files),
        max((file.size for file in files), key=lambda size: size.lines),
        max((file.longest_function for file in files), key=lambda size: size.lines),
    )


def measures(files: tuple[File, ...]) -> tuple[Measure, ...]:
    """Each package by itself, and then all of them together."""
    shares = {p: tuple(f for f in files if f.name.split(".")[0] == p) for p in PACKAGES}
    each = [measure(package, share) for package, share in shares.items() if share]
    return (*each, measure("together", files))


def between(arrows: Iterable[Arrow]) -> dict[Arrow, int]:
    """How many arrows lead from one package to another."""
    pairs = Counter((a.split(".")[0], b.split(".")[0]) for a, b in arrows)
    return {pair: count for pair, count in sorted(pairs.items()) if pair[0] != pair[1]}


# The order that is asked for.


def order(pyproject: str) -> Order | None:
    """The contract about floors in a text of TOML, or None where there is none."""
    contracts = (
        tomllib.loads(pyproject).get("tool", {}).get("importlinter", {}).get("contracts", [])
    )
    contract = next((found for found in contracts if found["name"] == ORDER), None)
    if contract is None:
        return None
    where: dict[str, int] = {}
    for container in contract.get("containers", [""]):
        for floor, layer in enumerate(contract["layers"]):
            names = (part.strip(" ()") for part in re.split(r"[|:]", layer))
            where |= {f"{container}.{name}".lstrip("."): floor for name in names}
    apart = {floor for floor, layer in enumerate(contract["layers"]) if "|" in layer}
    return Order(where, frozenset(apart), tuple(contract.get("ignore_imports", [])))


def against(wanted: Order, files: Iterable[File]) -> list[Import]:
    """The imports that lead upwards, or across a floor that keeps its neighbours apart."""
    ignored = [_pattern(text) for text in wanted.ignored]
    return [
        found
        for file in files
        for found in file.imports
        if _is_against(wanted, found)
        and not any(p.fullmatch(f"{found.importer} -> {found.imported}") for p in ignored)
    ]


def _is_against(wanted: Order, found: Import) -> bool:
    a, b = (_nearest(name, set(wanted.floors)) for name in (found.importer, found.imported))
    if a is None or b is None or a == b:
        return False
    upper, lower = wanted.floors[a], wanted.floors[b]
    return upper > lower or (upper == lower and upper in wanted.apart)


def _pattern(text: str) -> re.Pattern[str]:
    """As import-linter reads it: `*` is one name, `**` is one or more."""
    name = r"[^. ]+"
    parts = {"**": rf"{name}(?:\.{name})*", "*": name}
    return re.compile("".join(parts.get(p, re.escape(p)) for p in re.split(r"(\*\*?)", text)))


# Printing.


def table(found: tuple[Measure, ...]) -> str:
    """A row for each package, what is largest, every circle, and arrows between packages."""
    form = "{:18s} {:>6} {:>6} {:>7} {:>7} {:>13} {:>6} {:>7} {:>13} {:>17}"
    head = (
        "package,rooms,levels,arrows,circles,file circles,files,lines,largest file,longest function"
    )
    lines = [form.format(*head.split(","))]
    for m in found:
        counts = len(m.floors), m.levels, len(m.arrows), len(m.circles), len(m.file_circles)
        sizes = m.files, m.lines, m.largest_file.lines, m.longest_function.lines
        lines.append(form.format(m.name, *counts, *sizes))
    lines += [""]
    lines += [f"{m.name}: largest file {m.largest_file.name}" for m in found[:-1]]
    lines += [f"{m.name}: longest function {m.longest_function.name}" for m in found[:-1]]
    for m in found:
        lines += [f"{m.name}: a circle of rooms: {', '.join(c)}" for c in m.circles]
        lines += [f"{m.name}: a circle of files: {', '.join(c)}" for c in m.file_circles]
    lines += ["", "arrows between packages"]
    lines += [f"  {a} -> {b}: {count}" for (a, b), count in between(found[-1].arrows).items()]
    return "\n".join(lines)


def plain(found: tuple[Measure, ...]) -> dict[str, Any]:
    """The same with every name, as JSON holds it."""
    arrows = between(found[-1].arrows)
    return {
        "packages": {m.name: asdict(m) | {"levels": m.levels} for m in found},
        "arrows_between_packages": {f"{a} -> {b}": count for (a, b), count in arrows.items()},
    }


def show_order(root: Path, files: tuple[File, ...]) -> int:
    """Print what is against the order; the exit status."""
    wanted = order((root / "pyproject.toml").read_text(encoding="utf-8"))
    if wanted is None:
        print(f'{root / "pyproject.toml"}: has no contract "{ORDER}"', file=sys.stderr)
        return 2
    wrong = against(wanted, files)
    for found in wrong:
        print(f"{found.path}:{found.line}: {found.importer} imports {found.imported}")
    rooms = {name for file in files if (name := room(file.name)) is not None}
    nowhere = sorted(name for name in rooms if _nearest(name, set(wanted.floors)) is None)
    if nowhere:
        print(f"on no floor: {', '.join(nowhere)}")
    print(f'{len(wrong)} imports are against "{ORDER}"')
    return 1 if wrong else 0


def main() -> int:
    parser = argparse.ArgumentParser(description="Measures the layout of the code.")
    parser.add_argument("--tree", type=Path, default=Path(__file__).resolve().parent.parent)
    parser.add_argument("--json", action="store_true", help="print JSON for machines")
    parser.add_argument("--order", action="store_true", help="list imports against the order")
    parser.add_argument("--picture", type=Path, metavar="FILE", help="draw the rooms as SVG")
    options = parser.parse_args()
    files = read(options.tree)
    if not files:
        parser.error(f"{options.tree}: has none of the packages {', '.join(PACKAGES)}")
    if options.order:
        return show_order(options.tree, files)
    found = measures(files)
    if options.picture is not None:
        from house_picture import picture

        picture(options.picture, found[-1].floors, set(found[-1].arrows))
        print(f"wrote {options.picture}")
        return 0
    print(json.dumps(plain(found), indent=1) if options.json else table(found))
    return 0


if __name__ == "__main__":
    sys.exit(main())
