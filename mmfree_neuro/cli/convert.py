"""mmfree-neuro convert: a checkpoint becomes a graph of integers."""

import argparse
from pathlib import Path
from typing import Any

from mmfree_neuro.cli.options import add_calibration, add_command, add_option
from mmfree_neuro.cli.output import Stages, show, warn
from mmfree_neuro.lowering.scheme import scheme_named
from mmfree_neuro.pipeline import convert as converting
from mmfree_neuro.pipeline import engines
from mmfree_neuro.pipeline.slow_code import slow_code_warnings
from mmfree_neuro.report import terminal


def add(commands: Any) -> None:
    """Declare the command and its options."""
    p = add_command(commands, "convert", run, "convert CHECKPOINT -o model.graph --scheme a14")
    add_option(p, "checkpoint", type=Path, help="folder with config.json and weights (hgrn_bit)")
    add_option(p, "-o", "--output", type=Path, required=True, help="graph file to write")
    add_option(
        p,
        "--engine",
        help=f"what measures the quality of the integers, {' or '.join(engines.SCORERS)} (default "
        "gpu where there is a GPU, else fast)",
    )
    add_calibration(p)


def run(options: argparse.Namespace) -> None:
    """Turn a checkpoint into a graph of integers."""

    stages = Stages(converting.STAGES)

    def shown(converted: converting.Converted, kept: bool) -> None:
        stages.end()
        graph, warnings = converted.graph, [*converted.warnings, *slow_code_warnings()]
        warn(warnings)
        begin = f"wrote {options.output}: " if kept else ""
        lost = f"{terminal.quality(graph.quality)}, by engine {converted.engine}"
        text = f"{begin}{terminal.graph_line(graph)}\n{lost}"
        content = {
            "graph": str(options.output) if kept else None,
            "scheme": graph.scheme,
            "nodes": len(graph.nodes),
            "accumulator_bits": graph.accumulator_bits,
            "payload_bits": graph.payload_bits,
            "quality": graph.quality,
            "engine": converted.engine,
            "warnings": warnings,
        }
        show(content, text, options.json)

    try:
        converting.convert(
            options.checkpoint,
            options.output,
            scheme_named(options.scheme, options.root),
            options.calibrate,
            stages.show,
            shown,
            as_bytes=options.as_bytes,
            engine=options.engine,
        )
    finally:
        stages.close()
