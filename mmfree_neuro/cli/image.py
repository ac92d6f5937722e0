"""mmfree-neuro image: a mapping as what every core is loaded with."""

import argparse
from dataclasses import asdict
from pathlib import Path
from typing import Any

from mmfree_neuro.cli.options import add_command, add_option
from mmfree_neuro.cli.output import show
from mmfree_neuro.pipeline import image as imaging


def add(commands: Any) -> None:
    """Declare the command and its options."""
    p = add_command(commands, "image", run, "image model.map -o model.image")
    add_option(p, "mapping", type=Path, help="mapping file")
    add_option(p, "-o", "--output", type=Path, required=True, help="folder to write the image to")


def run(options: argparse.Namespace) -> None:
    """Write the machine image of a mapping."""
    found = imaging.image_of(options.mapping, options.output)
    text = f"wrote {options.output}: {imaging.text(found)}"
    show({"image": str(options.output), **asdict(found)}, text, options.json)
