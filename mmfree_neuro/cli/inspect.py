"""mmfree-neuro inspect: any file or folder of the flow as text."""

import argparse
from pathlib import Path
from typing import Any

from mmfree_neuro.cli.options import add_command, add_option
from mmfree_neuro.cli.output import show, warn
from mmfree_neuro.errors import InputError
from mmfree_neuro.files.writing import check_outputs
from mmfree_neuro.model.hub import located
from mmfree_neuro.pipeline import inspect as inspecting
from mmfree_neuro.pipeline.families import read_checkpoint
from mmfree_neuro.pipeline.opened import files_behind
from mmfree_neuro.target.image_file import is_image


def add(commands: Any) -> None:
    """Declare the command and its options."""
    p = add_command(commands, "inspect", run, "inspect model.graph")
    add_option(
        p,
        "path",
        type=Path,
        help="checkpoint folder, graph file, mapping file, machine image or run folder",
    )
    add_option(
        p, "--codes", type=Path, metavar="FILE", help="write a checkpoint's ternary codes as .npz"
    )


def run(options: argparse.Namespace) -> None:
    """Show a checkpoint, a graph, a mapping, a machine image or a run as text."""
    options.path = located(options.path)
    if options.codes is not None:
        if not options.path.is_dir() or is_image(options.path):
            raise InputError(f"{options.path}: --codes needs a checkpoint folder")
        check_outputs([options.codes], files_behind(options.path))
    content, text = inspecting.anything(options.path)
    warn(content.get("warnings", ()))
    if options.codes is not None:
        inspecting.write_codes(read_checkpoint(options.path), options.codes)
    show(content, text, options.json)
