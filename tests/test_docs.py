"""The pages about the code say what the code is: rooms, files and the picture exist as they say."""

import importlib
import re
import sys
from pathlib import Path
from types import ModuleType
from typing import Any

import pytest

ROOT = Path(__file__).parent.parent
ARCHITECTURE = ROOT / "docs" / "architecture.md"
PAGES = ("architecture.md",)


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
