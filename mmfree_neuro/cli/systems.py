"""mmfree-neuro systems: every figure of the hardware, with its source."""

import argparse
from dataclasses import asdict
from typing import Any

from mmfree_neuro.cli.options import add_command, add_option
from mmfree_neuro.cli.output import show, tell
from mmfree_neuro.errors import InputError
from mmfree_neuro.report import terminal
from mmfree_neuro.systems.as_toml import as_toml
from mmfree_neuro.systems.load import load_system, system_names


def add(commands: Any) -> None:
    """Declare the command and its options."""
    p = add_command(commands, "systems", run, "systems kapoho-point")
    add_option(p, "name", nargs="?", help="show this system with every figure and its source")
    add_option(
        p, "--toml", action="store_true", help="print it as a TOML file, to change and to map onto"
    )


def run(options: argparse.Namespace) -> None:
    """List the systems, or show one."""
    if options.toml and (options.name is None or options.json):
        raise InputError("--toml is for one system, must come with its name and without --json")
    if options.toml:
        tell(as_toml(load_system(options.name)).rstrip("\n"))
        return
    if options.name is not None:
        spec = load_system(options.name)
        show(asdict(spec), terminal.system(spec), options.json)
        return
    specs = [load_system(name) for name in system_names()]
    content = {
        spec.name: {"chips": int(spec.chips.central), "description": spec.description}
        for spec in specs
    }
    lines = [
        f"{spec.name:16s} {int(spec.chips.central):5d} chips  {spec.description}" for spec in specs
    ]
    show(content, "\n".join(lines), options.json)
