"""The pages about the code say what the code is: rooms, files, the picture and words."""

import ast
import importlib
import os
import re
import subprocess
import sys
from collections.abc import Iterable, Iterator
from pathlib import Path
from types import ModuleType
from typing import Any

import pytest

ROOT = Path(__file__).parent.parent
ARCHITECTURE = ROOT / "docs" / "architecture.md"
GLOSSARY = ROOT / "docs" / "glossary.md"
NOT_USED = "Words that this project does not use"
PAGES = ("adding.md", "architecture.md", "glossary.md")


def tool(name: str) -> ModuleType:
    """A tool as a module, beside those that it imports."""
    sys.path.insert(0, str(ROOT / "tools"))
    try:
        return importlib.import_module(name)
    finally:
        sys.path.remove(str(ROOT / "tools"))


house, house_picture = tool("house"), tool("house_picture")


def section(page: Path, heading: str) -> str:
    """What stands under a heading, up to the next one."""
    _, _, rest = page.read_text(encoding="utf-8").partition(f"\n{heading}\n")
    assert rest, f"{page.name} has no heading {heading!r}"
    return re.split(r"^#", rest, maxsplit=1, flags=re.MULTILINE)[0]


def rows(text: str) -> list[list[str]]:
    """The cells of a table, without its head."""
    lines = [line for line in text.splitlines() if line.startswith("|")]
    return [[cell.strip() for cell in line.strip("|").split("|")] for line in lines[2:]]


@pytest.fixture(scope="module")
def files() -> tuple[Any, ...]:
    """Every file of the four packages, as `house` reads it."""
    found: tuple[Any, ...] = house.read(ROOT)
    return found


@pytest.mark.parametrize("package", house.PACKAGES)
def test_every_room_has_its_line(package: str, files: tuple[Any, ...]) -> None:
    told = [name.strip("`") for name, *_ in rows(section(ARCHITECTURE, f"### {package}"))]
    folder = ROOT / house.PACKAGES[package] / package
    rooms = {house.room(file.name) for file in files} - {None}
    there = [room.split(".")[1] for room in rooms if room.startswith(f"{package}.")]
    assert sorted(told) == sorted(
        f"{name}/" if (folder / name).is_dir() else f"{name}.py" for name in there
    )


def test_the_picture_is_what_the_script_makes(files: tuple[Any, ...]) -> None:
    together = house.measures(files)[-1]
    drawn = house_picture.svg(together.floors, set(together.arrows))
    assert (ROOT / "docs" / "architecture.svg").read_text(encoding="utf-8") == drawn, (
        "imports have changed: python tools/house.py --picture docs/architecture.svg"
    )


@pytest.mark.parametrize("name", PAGES)
def test_every_file_that_a_page_names_exists(name: str) -> None:
    text = (ROOT / "docs" / name).read_text(encoding="utf-8")
    paths = re.findall(r"`([\w.-]+/[\w./-]+)`", text)
    links = [f"docs/{link}" for link in re.findall(r"\]\(([^)#:]+)\)", text)]
    assert paths
    assert [path for path in [*paths, *links] if not (ROOT / path).exists()] == []


# The words of the glossary.

DEFINITION = re.compile(r"`(\w+)` in `([\w./-]+)`")


def entries() -> list[list[str]]:
    """Each word of the glossary, what it is, and where it is defined."""
    return rows(GLOSSARY.read_text(encoding="utf-8").partition("\n## ")[0])


def test_every_word_stands_once_and_in_order() -> None:
    words = [word for word, *_ in entries()]
    assert words == sorted(set(words))
    assert not set(words) & {word for word, place, _ in retired() if not place}


def test_every_word_has_a_sentence_and_a_place_that_defines_it() -> None:
    for word, meaning, place in entries():
        assert meaning[0].isupper() and meaning.endswith(".") and ". " not in meaning, word
        assert DEFINITION.findall(place), word
        for name, path in DEFINITION.findall(place):
            assert re.search(rf"\b{name}\b", (ROOT / path).read_text(encoding="utf-8")), word


def retired() -> list[tuple[str, str, list[str]]]:
    """Words that are not used, in which part of the code, and where they still are."""
    return [
        (word, place.strip("`"), re.findall(r"`([\w.]+)`", still))
        for words, place, _, still in rows(section(GLOSSARY, f"## {NOT_USED}"))
        for word in words.split(", ")
    ]


def public_names(root: Path) -> Iterator[str]:
    """Every module of the four packages, and every public class and function at the top of one."""
    for package, folder in house.PACKAGES.items():
        for path in sorted((root / folder / package).rglob("*.py")):
            parts = path.relative_to(root / folder).with_suffix("").parts
            module = ".".join(parts[:-1] if parts[-1] == "__init__" else parts)
            yield module
            for found in ast.parse(path.read_text(encoding="utf-8")).body:
                defined = isinstance(found, ast.ClassDef | ast.FunctionDef | ast.AsyncFunctionDef)
                if defined and not found.name.startswith("_"):
                    yield f"{module}.{found.name}"


def parts_of(name: str) -> set[str]:
    """The words of the last part of a dotted name: `lava.TileModel` has tile and model."""
    last = re.sub(r"(?<=[a-z0-9])(?=[A-Z])|(?<=[A-Z])(?=[A-Z][a-z])", "_", name.split(".")[-1])
    return set(last.lower().split("_"))


def uses(word: str, place: str, names: Iterable[str]) -> set[str]:
    """The names inside a part of the code that use a word."""
    begin = place and f"{place}."
    return {name for name in names if f"{name}.".startswith(begin) and word in parts_of(name)}


def test_words_of_names() -> None:
    assert parts_of("a.TileModel") == {"tile", "model"}
    assert parts_of("a.MLGRUState") == {"mlgru", "state"}
    assert parts_of("sims.vector_words") == {"vector", "words"}
    assert uses("tile", "", ["a.Tile", "b.TILES"]) == {"a.Tile"}
    assert uses("node", "a.b", ["a.b.node", "a.bc.node", "a.node"]) == {"a.b.node"}


def test_public_names_are_found(tmp_path: Path) -> None:
    (tmp_path / "sims" / "mmfree_sims" / "mpi").mkdir(parents=True)
    (tmp_path / "sims" / "mmfree_sims" / "mpi" / "__init__.py").write_text("class Rank: ...\n")
    text = (
        "def a(): ...\nasync def b(): ...\ndef _c(): ...\nD = 1\nclass E:\n    def f(self): ...\n"
    )
    (tmp_path / "sims" / "mmfree_sims" / "fast.py").write_text(text)
    fast = "mmfree_sims.fast"
    expected = {fast, f"{fast}.a", f"{fast}.b", f"{fast}.E"}
    assert set(public_names(tmp_path)) == expected | {"mmfree_sims.mpi", "mmfree_sims.mpi.Rank"}


def test_no_public_name_uses_a_retired_word() -> None:
    names = list(public_names(ROOT))
    assert len(names) > 600
    wrong = {}
    for word, place, still in retired():
        found = uses(word, place, names)
        allowed = {name for name in still if word in parts_of(name)}
        if found != allowed:
            wrong[word] = sorted(found ^ allowed)
    assert wrong == {}, f"see docs/glossary.md, {NOT_USED}"


# The site.


def test_every_link_to_a_file_leads_to_one() -> None:
    pages = [ROOT / "README.md", ROOT / "CONTRIBUTING.md", *sorted((ROOT / "docs").rglob("*.md"))]
    lost = []
    for page in pages:
        text = re.sub(r"(?ms)^```.*?^```", "", page.read_text(encoding="utf-8"))
        for target in re.findall(r"\]\(([^)\s]+)\)", text):
            file, _, _ = target.partition("#")
            if file and "://" not in file and not (page.parent / file).exists():
                lost.append((page.name, target))
    assert lost == []


@pytest.mark.slow
def test_the_site_is_built_without_a_warning(tmp_path: Path) -> None:
    for package in ("mkdocs", "mkdocstrings", "lm_eval", "transformers"):
        pytest.importorskip(package)
    site = tmp_path / "site"
    built = subprocess.run(
        [sys.executable, "-m", "mkdocs", "build", "--strict", "--site-dir", str(site)],
        cwd=ROOT,
        capture_output=True,
        text=True,
        env={**os.environ, "NO_MKDOCS_2_WARNING": "1"},
        timeout=300,
    )
    assert built.returncode == 0, built.stderr
    assert "WARNING" not in built.stderr
    first = (site / "index.html").read_text(encoding="utf-8")
    assert "<h1" in first and 'href="validation.html"' in first
    assert 'href="notebooks/first_model.html"' in first
    for name in ("first_model", "architect"):
        notebook = (site / "notebooks" / f"{name}.html").read_text(encoding="utf-8")
        assert f'src="{name}-1.png"' in notebook and (site / f"notebooks/{name}-1.png").exists()
    commands = (site / "reference" / "commands.html").read_text(encoding="utf-8")
    assert "--in-flight" in commands and 'id="sensitivity"' in commands
    python = (site / "reference" / "python.html").read_text(encoding="utf-8")
    assert 'id="mmfree_neuro.api.Run.table"' in python
    loads = re.compile(r'(?:<script[^>]* src|<link[^>]* href|<img[^>]* src)="(https?:[^"]*)"')
    for page in site.rglob("*.html"):
        text = page.read_text(encoding="utf-8")
        assert loads.findall(text) == [] and '.ipynb"' not in text, page
