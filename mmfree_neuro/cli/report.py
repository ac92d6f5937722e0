"""mmfree-neuro report: the page of a run."""

import argparse
from pathlib import Path
from typing import Any

from mmfree_neuro.cli.options import add_command, add_option, add_other_system
from mmfree_neuro.cli.output import show, warn
from mmfree_neuro.pipeline import report as reporting
from mmfree_neuro.report import terminal
from mmfree_neuro.systems.figures import settings_of


def add(commands: Any) -> None:
    """Declare the command and its options."""
    p = add_command(commands, "report", run, "report run -o report.html")
    add_option(p, "run", type=Path, metavar="RUN", help="folder that simulate wrote")
    add_option(
        p, "-o", "--output", type=Path, required=True, help="report.html, report.md or report.json"
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
    """Write the report of a run."""
    settings = settings_of(options.settings)
    content = reporting.write_report(
        options.run, options.output, options.gpu_rows, options.system, settings
    )
    warn(content["warnings"])
    show(content, f"wrote {options.output}\n{terminal.estimates(content)}", options.json)
