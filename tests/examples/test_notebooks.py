"""The notebooks run from any folder, and their stored outputs are what they give.

`tools/notebooks.py` runs them in one fresh Python: Jupyter's kernel would be a process of its own
with sockets, and bring thirty packages.
"""

import importlib
import json
import os
import platform
import re
import subprocess
import sys
from pathlib import Path
from types import ModuleType
from typing import Any

import pytest

ROOT = Path(__file__).parents[2]
NOTEBOOKS = sorted((ROOT / "examples" / "notebooks").glob("*.ipynb"))
MOST_BYTES = 200_000


def tool(name: str) -> ModuleType:
    """A tool as a module."""
    sys.path.insert(0, str(ROOT / "tools"))
    try:
        return importlib.import_module(name)
    finally:
        sys.path.remove(str(ROOT / "tools"))


notebooks = tool("notebooks")


def notebook(*cells: str) -> dict[str, Any]:
    """A notebook of these cells of code."""
    made = [{"cell_type": "code", "source": cell.splitlines(keepends=True)} for cell in cells]
    return {"cells": made, "metadata": {"language_info": {}}}


def shown(content: dict[str, Any]) -> list[list[tuple[str, tuple[str, ...]]]]:
    """What each cell of code prints or shows as text, and the kinds of what it shows."""
    return [
        [
            (
                "".join(output.get("text") or output["data"]["text/plain"]),
                (*output.get("data", ()),),
            )
            for output in cell["outputs"]
        ]
        for cell in notebooks.code_cells(content)
    ]


def without_numbers(cells: list[list[tuple[str, tuple[str, ...]]]]) -> list[list[str]]:
    """What cells print, with a mark for every number and a space for many."""
    return [
        [re.sub(r"[\s-]+", " ", re.sub(r"[0-9][0-9.,]*", "#", text)) for text, _ in cell]
        for cell in cells
    ]


def test_there_are_two() -> None:
    assert [path.stem for path in NOTEBOOKS] == ["architect", "first_model"]


@pytest.mark.parametrize("path", NOTEBOOKS, ids=lambda path: path.stem)
def test_a_notebook_is_small_and_plain(path: Path) -> None:
    """It needs neither IPython nor the folders of the machine that it was stored on."""
    text = path.read_text(encoding="utf-8")
    assert len(text.encode()) < MOST_BYTES
    content = json.loads(text)
    for cell in content["cells"]:
        assert not any(line.startswith(("%", "!")) for line in cell["source"])
    whole = json.dumps([cell["source"] for cell in content["cells"]] + [shown(content)])
    assert not any(folder in whole for folder in ("/home/", "/root/", "/tmp/", "/work/"))


@pytest.mark.slow
@pytest.mark.usefixtures("needs_torch")
@pytest.mark.parametrize("path", NOTEBOOKS, ids=lambda path: path.stem)
def test_a_notebook_gives_what_it_stores(
    path: Path, python: tuple[str, ...], tmp_path: Path
) -> None:
    """Up to numbers, in which processors may differ by a rounding.  Calibration reads the library
    of the Python that runs it: another version's gives other text, from the same cells and of the
    same kinds."""
    (tmp_path / "scratch").mkdir()
    (tmp_path / "here").mkdir()
    command = [*python, str(ROOT / "tools" / "notebooks.py"), str(path)]
    done = subprocess.run(
        [*command, "-o", str(tmp_path / "done.ipynb")],
        cwd=tmp_path / "here",
        env=os.environ | {"TMPDIR": str(tmp_path / "scratch"), "OMP_NUM_THREADS": "1"},
        capture_output=True,
        text=True,
        timeout=300,
        check=False,
    )
    assert done.returncode == 0, done.stderr
    stored = json.loads(path.read_text(encoding="utf-8"))
    found = json.loads((tmp_path / "done.ipynb").read_text(encoding="utf-8"))
    before, now = shown(stored), shown(found)
    kinds = [[[kind for _, kind in cell] for cell in cells] for cells in (before, now)]
    assert kinds[0] == kinds[1]
    if stored["metadata"]["language_info"]["version"] == platform.python_version():
        assert without_numbers(now) == without_numbers(before)
    assert list((tmp_path / "here").iterdir()) == list((tmp_path / "scratch").iterdir()) == []


def test_cells_share_names_and_show_their_last_line() -> None:
    cells = "a = 2\nprint('x\\ny')\na + 1", "b = a", "None", "b", ""
    content = notebook(*cells)
    assert shown(notebooks.executed(content)) == [
        [("x\ny\n", ()), ("3", ("text/plain",))],
        [],
        [],
        [("2", ("text/plain",))],
        [],
    ]
    assert content == notebook(*cells)


def test_an_error_in_a_cell_is_raised() -> None:
    with pytest.raises(ZeroDivisionError, match="division by zero"):
        notebooks.executed(notebook("1", "1 / 0"))


def test_a_notebook_as_a_page() -> None:
    picture = "class P:\n    def _repr_png_(self):\n        return b'png'\nP()"
    content = notebooks.executed(notebook("print(1)", picture))
    content["cells"].insert(0, {"cell_type": "markdown", "source": ["# Title\n", "text"]})
    text, pictures = notebooks.as_markdown(content, "name")
    assert text == (
        "# Title\ntext\n\n````python\nprint(1)\n````\n\n````text\n1\n````\n\n"
        f"````python\n{picture}\n````\n\n"
        "![the picture that this cell shows](name-1.png)"
    )
    assert pictures == {"name-1.png": b"png"}


def test_a_notebook_is_written_as_it_was_read(tmp_path: Path) -> None:
    for path in NOTEBOOKS:
        notebooks.write(notebooks.read(path), tmp_path / "same.ipynb")
        assert (tmp_path / "same.ipynb").read_text("utf-8") == path.read_text("utf-8")
