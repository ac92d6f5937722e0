"""Hooks of the documentation site: its first page is the README, the reference of commands is what
the parser says, and links out of the folder of pages are plain text.

mkdocs calls them by their names; `make docs` builds the site.
"""

import re
from pathlib import Path
from typing import Any

from mkdocs.structure.files import File, Files

ROOT = Path(__file__).resolve().parents[1]
COMMANDS = "<!-- commands -->"
OUTSIDE = re.compile(r"\[([^\]]+)\]\((?:\.\./)+[^)]*\)")


def on_files(files: Files, config: Any) -> Files:
    """Add the README as the first page."""
    text = (ROOT / "README.md").read_text(encoding="utf-8")
    text = re.sub(r"\]\(docs/", "](", text)
    text = re.sub(
        r"\[([^\]]+)\]\((?:CONTRIBUTING\.md|CITATION\.cff|examples/[^)]*)\)", r"`\1`", text
    )
    files.append(File.generated(config, "index.md", content=text))
    return files


def on_page_markdown(markdown: str, page: Any, config: Any, files: Files) -> str:
    """Fill in the commands, and leave out links to what is no page."""
    if COMMANDS in markdown:
        markdown = markdown.replace(COMMANDS, commands())
    depth = page.file.src_uri.count("/")
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
