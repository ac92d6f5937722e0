"""From a run to its report."""

import json
from collections.abc import Mapping, Sequence
from pathlib import Path
from types import MappingProxyType

from mmfree_neuro.errors import InputError, shown
from mmfree_neuro.files.writing import save_text
from mmfree_neuro.pipeline.recost import run_to_cost
from mmfree_neuro.report.record import Content
from mmfree_neuro.run.run_file import RunRecord
from mmfree_neuro.systems.figures import Setting

TRACE = ".jsonl"
"""The ending of a trace, in the place of a report."""


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
    from mmfree_neuro.report import pages

    _check_ending(output)
    match output.suffix:
        case ".html":
            text = pages.to_html(content)
        case ".md":
            text = pages.to_markdown(content)
        case ".json":
            text = json.dumps(content, indent=2)
        case _:
            raise AssertionError(output)
    save_text(output, text)


def write_beside(
    folders: Sequence[Path],
    output: Path,
    gpu_rows: Sequence[Path] = (),
    system: str | None = None,
    settings: Mapping[str, Setting] = MappingProxyType({}),
) -> list[Content]:
    """Write the reports of several runs side by side; their contents."""
    from mmfree_neuro.report import pages

    _check_ending(output)
    contents = [
        build(run_to_cost(folder, output, system, settings, gpu_rows), gpu_rows)
        for folder in folders
    ]
    names = [str(folder) for folder in folders]
    match output.suffix:
        case ".html":
            text = pages.beside_to_html(contents, names)
        case ".md":
            text = pages.beside_to_markdown(contents, names)
        case _:
            text = json.dumps({"runs": contents}, indent=2)
    save_text(output, text)
    return contents


def _check_ending(output: Path) -> None:
    """InputError where the name of a report does not say what it is to be."""
    if output.suffix not in (".html", ".md", ".json"):
        ending = shown(output.suffix)
        raise InputError(
            f"{output}: ends in {ending}, must end in .html, .md or .json, or in .jsonl for one run"
        )


def write_trace(
    folder: Path,
    output: Path,
    system: str | None = None,
    settings: Mapping[str, Setting] = MappingProxyType({}),
) -> int:
    """Write what each step asks of each core in the run of a folder, as JSON Lines; how many lines
    there are."""
    run = run_to_cost(folder, output, system, settings)
    return trace_to(run, output)


def trace_to(run: RunRecord, output: Path) -> int:
    """The same of a run."""
    from mmfree_neuro.report import tables

    rows = tables.trace(run)
    save_text(output, "".join(f"{json.dumps(row)}\n" for row in rows))
    return len(rows)


def write_report(
    folder: Path,
    output: Path,
    gpu_rows: Sequence[Path] = (),
    system: str | None = None,
    settings: Mapping[str, Setting] = MappingProxyType({}),
) -> Content:
    """Write the report of the run in a folder; its content.  `gpu_rows` as in `build`, `system` and
    `settings` as in `recosted`."""
    _check_ending(output)
    content = build(run_to_cost(folder, output, system, settings, gpu_rows), gpu_rows)
    write(content, output)
    return content
