"""From a run to its report."""

import json
import os
from collections.abc import Sequence
from pathlib import Path

from mmfree_neuro.errors import InputError
from mmfree_neuro.files.writing import save_text
from mmfree_neuro.report.record import Content
from mmfree_neuro.run import run_file
from mmfree_neuro.run.run_file import RunRecord


def build(run: RunRecord, gpu_rows: Sequence[Path] = ()) -> Content:
    """The content of a report, beside published and measured rows.

    `gpu_rows` are files of rows that `bench gpu` wrote, to stand beside those that come with the
    project; a row that was measured later takes the place of an earlier one.
    """
    from mmfree_neuro.baselines import measured, published, roofline
    from mmfree_neuro.report import content

    rows, left_out = measured.load(gpu_rows)
    built = content.build(run, published.load() + rows, run.use, roofline.load())
    built["comparison"]["sentences"] += left_out
    return built


def write(content: Content, output: Path) -> None:
    """Write a report as `.html`, `.md` or `.json`, by the name of the output."""
    from mmfree_neuro.report import pages, pictures

    match output.suffix:
        case ".html":
            drawn = pictures.draw(content)
            text = pages.to_html(content, {name: pictures.png(p) for name, p in drawn.items()})
        case ".md":
            text = pages.to_markdown(content)
        case ".json":
            text = json.dumps(content, indent=2)
        case suffix:
            raise InputError(f"{output}: ends in {suffix!r}, must end in .html, .md or .json")
    save_text(output, text)


def write_report(folder: Path, output: Path, gpu_rows: Sequence[Path] = ()) -> Content:
    """Write the report of the run in a folder; its content.  `gpu_rows` as in `build`."""
    for path in gpu_rows:
        if os.path.exists(path) and os.path.exists(output) and os.path.samefile(path, output):
            raise InputError(f"{output}: is a file of GPU rows, must be another file to write")
    content = build(run_file.load_run(folder), gpu_rows)
    write(content, output)
    return content
