"""mmfree-neuro report: the page of a run."""

import argparse
from pathlib import Path
from typing import Any

from mmfree_neuro.cli.options import add_command, add_option, add_other_system
from mmfree_neuro.cli.output import show, warn
from mmfree_neuro.errors import InputError
from mmfree_neuro.pipeline import report as reporting
from mmfree_neuro.report import terminal
from mmfree_neuro.systems.figures import settings_of


def add(commands: Any) -> None:
    """Declare the command and its options."""
    p = add_command(commands, "report", run, "report run -o report.html")
    add_option(
        p,
        "runs",
        type=Path,
        nargs="+",
        metavar="RUN",
        help="folder that simulate wrote; several are put side by side",
    )
    add_option(
        p,
        "-o",
        "--output",
        type=Path,
        required=True,
        help="report.html, report.md or report.json; or trace.jsonl, what each step asks of each "
        "core",
    )
    add_other_system(p)
    add_option(
        p,
        "--gpu-rows",
        type=Path,
        action="append",
        default=[],
        metavar="FILE",
        help="more rows of bench gpu",
    )


def run(options: argparse.Namespace) -> None:
    """Write the report of a run, or of several side by side."""
    settings = settings_of(options.settings)
    if options.output.suffix == reporting.TRACE and len(options.runs) == 1:
        if options.gpu_rows:
            raise InputError("--gpu-rows are rows of a report, and a trace has none")
        lines = reporting.write_trace(options.runs[0], options.output, options.system, settings)
        show(
            {"wrote": str(options.output), "lines": lines},
            f"wrote {options.output}: {lines:,} lines, one for each phase, step and core",
            options.json,
        )
        return
    if len(options.runs) > 1:
        several = reporting.write_beside(
            options.runs, options.output, options.gpu_rows, options.system, settings
        )
        warn(warning for content in several for warning in content["warnings"])
        show({"runs": several}, f"wrote {options.output}\n{terminal.beside(several)}", options.json)
        return
    content = reporting.write_report(
        options.runs[0], options.output, options.gpu_rows, options.system, settings
    )
    warn(content["warnings"])
    show(content, f"wrote {options.output}\n{terminal.estimates(content)}", options.json)
