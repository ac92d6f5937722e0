"""mmfree-neuro convert: a checkpoint becomes a graph of integers."""

import argparse
from pathlib import Path
from typing import Any

from mmfree_neuro.cli.options import add_calibration, add_command, add_option
from mmfree_neuro.cli.output import say, show
from mmfree_neuro.lowering.scheme import scheme_named
from mmfree_neuro.pipeline import convert as converting
from mmfree_neuro.report import terminal


def add(commands: Any) -> None:
    """Declare the command and its options."""
    p = add_command(commands, "convert", run, "convert CHECKPOINT -o model.graph --scheme a16")
    add_option(p, "checkpoint", type=Path, help="folder with config.json and weights (hgrn_bit)")
    add_option(p, "-o", "--output", type=Path, required=True, help="graph file to write")
    add_calibration(p)


def run(options: argparse.Namespace) -> None:
    """Turn a checkpoint into a graph of integers."""
    graph = converting.convert(
        options.checkpoint,
        options.output,
        scheme_named(options.scheme),
        options.calibrate,
        say,
        as_bytes=options.as_bytes,
    )
    text = (
        f"wrote {options.output}: {terminal.graph_line(graph)}\n{terminal.quality(graph.quality)}"
    )
    content = {"scheme": graph.scheme, "nodes": len(graph.nodes), "quality": graph.quality}
    show({"graph": str(options.output), **content}, text, options.json)
