"""Hooks of the documentation site: its first page is the README, notebooks are pages with their
stored outputs, the reference of commands is what the parser says, and links out of the folder of
pages are plain text.

mkdocs calls them by their names; `make docs` builds the site.
"""

import importlib
import re
import sys
from pathlib import Path
from typing import Any

from mkdocs.structure.files import File, Files

ROOT = Path(__file__).resolve().parents[1]
sys.path.insert(0, str(ROOT / "tools"))
notebooks = importlib.import_module("notebooks")
sys.path.remove(str(ROOT / "tools"))
COMMANDS = "<!-- commands -->"
OUTSIDE = re.compile(r"\[([^\]]+)\]\((?:\.\./)+[^)]*\)")
NOTEBOOK = re.compile(r"\]\((?:(?:\.\./)*examples/notebooks/)?(\w+)\.ipynb\)")
"""A link to a notebook, from a page or from the notebook beside it."""


def on_files(files: Files, config: Any) -> Files:
    """Add the README as the first page, and a page for every notebook."""
    text = (ROOT / "README.md").read_text(encoding="utf-8")
    text = NOTEBOOK.sub(r"](notebooks/\1.md)", re.sub(r"\]\(docs/", "](", text))
    text = re.sub(
        r"\[([^\]]+)\]\((?:CONTRIBUTING\.md|CITATION\.cff|examples/[^)]*)\)", r"`\1`", text
    )
    files.append(File.generated(config, "index.md", content=text))
    for path in sorted((ROOT / "examples" / "notebooks").glob("*.ipynb")):
        page, pictures = notebooks.as_markdown(notebooks.read(path), path.stem)
        page = NOTEBOOK.sub(r"](\1.md)", page)
        files.append(File.generated(config, f"notebooks/{path.stem}.md", content=page))
        for name, picture in pictures.items():
            files.append(File.generated(config, f"notebooks/{name}", content=picture))
    return files


def on_page_markdown(markdown: str, page: Any, config: Any, files: Files) -> str:
    """Fill in the commands, and leave out links to what is no page."""
    if COMMANDS in markdown:
        markdown = markdown.replace(COMMANDS, commands())
    depth = page.file.src_uri.count("/")
    markdown = markdown if depth else NOTEBOOK.sub(r"](notebooks/\1.md)", markdown)
    return markdown if depth else OUTSIDE.sub(r"\1", markdown)


def commands() -> str:
    """A section for every command: what its help prints, 100 characters wide."""
    import os

    os.environ["COLUMNS"] = "100"
    from mmfree_neuro.cli.main import COMMANDS as MODULES
    from mmfree_neuro.cli.options import Parser

    parser = Parser(prog="mmfree-neuro")
    subparsers = parser.add_subparsers(parser_class=Parser)
    for module in MODULES:
        module.add(subparsers)
    return "\n\n".join(
        f"## {name}\n\n```text\n{command.format_help().rstrip()}\n```"
        for name, command in subparsers.choices.items()
    )
