"""Run a notebook without Jupyter, and turn one into a page of the documentation site.

    python tools/notebooks.py examples/notebooks/first_model.ipynb

runs the cells of a notebook in order, in this one process, and stores what they print and show: the
text of the standard output, and the value of a last line, as text and, where it is a picture, as
PNG.  So a notebook may have no magic commands (`%`, `!`).
"""

import argparse
import ast
import base64
import json
import platform
from collections.abc import Iterator
from contextlib import redirect_stdout
from io import StringIO
from pathlib import Path
from typing import Any

Json = dict[str, Any]


def read(path: Path) -> Json:
    """The content of a notebook file."""
    content: Json = json.loads(path.read_text(encoding="utf-8"))
    return content


def write(notebook: Json, path: Path) -> None:
    """Write a notebook as Jupyter does: keys in order, a space a level."""
    text = json.dumps(notebook, indent=1, sort_keys=True, ensure_ascii=False)
    path.write_text(f"{text}\n", encoding="utf-8")


def code_cells(notebook: Json) -> Iterator[Json]:
    """The cells of code, in their order."""
    return (cell for cell in notebook["cells"] if cell["cell_type"] == "code")


def executed(notebook: Json) -> Json:
    """The notebook with the outputs that its cells have now; an error in one is raised."""
    names: Json = {"__name__": "__main__"}
    done: Json = json.loads(json.dumps(notebook))
    for number, cell in enumerate(code_cells(done), 1):
        cell["execution_count"] = number
        cell["outputs"] = _outputs("".join(cell["source"]), names, number)
    done["metadata"]["language_info"]["version"] = platform.python_version()
    return done


def _outputs(source: str, names: Json, number: int) -> list[Json]:
    """Run one cell with the names of those before it; what it prints, and then what it shows."""
    body = ast.parse(source).body
    last = body.pop() if body and isinstance(body[-1], ast.Expr) else None
    where, value = f"cell {number}", None
    with redirect_stdout(StringIO()) as printed:
        exec(compile(ast.Module(body, []), where, "exec"), names)
        if isinstance(last, ast.Expr):
            value = eval(compile(ast.Expression(last.value), where, "eval"), names)
    outputs: list[Json] = []
    if printed.getvalue():
        outputs.append(
            {"output_type": "stream", "name": "stdout", "text": _lines(printed.getvalue())}
        )
    if value is not None:
        data: Json = {"text/plain": _lines(repr(value))}
        if hasattr(value, "_repr_png_"):
            data["image/png"] = base64.b64encode(value._repr_png_()).decode()
        outputs.append(
            {
                "output_type": "execute_result",
                "execution_count": number,
                "metadata": {},
                "data": data,
            }
        )
    return outputs


def _lines(text: str) -> list[str]:
    return text.splitlines(keepends=True)


def as_markdown(notebook: Json, name: str) -> tuple[str, dict[str, bytes]]:
    """A notebook as the text of a page, and the pictures beside it by their file names."""
    parts: list[str] = []
    pictures: dict[str, bytes] = {}
    for cell in notebook["cells"]:
        source = "".join(cell["source"])
        parts.append(source if cell["cell_type"] == "markdown" else _fenced("python", source))
        for output in cell.get("outputs", ()):
            data = output.get("data", {})
            if "image/png" in data:
                file = f"{name}-{len(pictures) + 1}.png"
                pictures[file] = base64.b64decode(data["image/png"])
                parts.append(f"![the picture that this cell shows]({file})")
            else:
                parts.append(_fenced("text", "".join(output.get("text") or data["text/plain"])))
    return "\n\n".join(parts), pictures


def _fenced(language: str, text: str) -> str:
    return f"````{language}\n{text.rstrip()}\n````"


def main() -> None:
    """Run one notebook."""
    parser = argparse.ArgumentParser(description=main.__doc__)
    parser.add_argument("notebook", type=Path)
    parser.add_argument("-o", "--output", type=Path, help="where to write it (default: in place)")
    options = parser.parse_args()
    write(executed(read(options.notebook)), options.output or options.notebook)


if __name__ == "__main__":
    main()
