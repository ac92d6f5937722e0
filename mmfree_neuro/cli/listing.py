"""mmfree-neuro listing: what a machine image holds, as text that a person can read."""

import argparse
from pathlib import Path
from typing import Any

from mmfree_neuro.cli.options import add_command, add_option
from mmfree_neuro.cli.output import show
from mmfree_neuro.pipeline import listing as listings


def add(commands: Any) -> None:
    """Declare the command and its options."""
    p = add_command(commands, "listing", run, "listing model.image --program layers.0.mlgru")
    add_option(p, "image", type=Path, help="machine image")
    which = p.add_mutually_exclusive_group()
    which.add_argument("--program", metavar="NAME", help="only the program of this node")
    which.add_argument(
        "--core", metavar="CHIP:CORE", help="what a core holds; the host's is host:0"
    )


def run(options: argparse.Namespace) -> None:
    """List the programs of an image, or what a core of it holds."""
    text = listings.listing(options.image, options.program, options.core)
    show({"listing": text}, text.rstrip("\n"), options.json)
