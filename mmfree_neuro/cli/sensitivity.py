"""mmfree-neuro sensitivity: which figures of its system the estimate of a run depends on."""

import argparse
from dataclasses import asdict
from pathlib import Path
from typing import Any

from mmfree_neuro.cli.options import add_command, add_option, add_other_system
from mmfree_neuro.cli.output import show
from mmfree_neuro.pipeline import sensitivity
from mmfree_neuro.report import terminal
from mmfree_neuro.systems.figures import settings_of


def add(commands: Any) -> None:
    """Declare the command and its options."""
    p = add_command(commands, "sensitivity", run, "sensitivity run --picture tornado.png")
    add_option(p, "run", type=Path, metavar="RUN", help="folder that simulate wrote")
    add_other_system(p)
    add_option(p, "--picture", type=Path, help="draw it as PNG")


def run(options: argparse.Namespace) -> None:
    """Show what each figure of a system alone makes of the estimate of a run."""
    settings = settings_of(options.settings)
    system, found = sensitivity.of_folder(options.run, options.picture, options.system, settings)
    lines = [f"{system.name}: {system.description}", terminal.sensitivity(found)]
    lines += [] if options.picture is None else [f"wrote {options.picture}"]
    content = {
        "system": system.name,
        "description": system.description,
        "phases": {one.phase: asdict(one) for one in found},
    }
    show(content, "\n".join(lines), options.json)
