"""From the folder of a run to its report."""

import json
import os
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from mmfree_neuro import files
from mmfree_neuro.errors import InputError
from mmfree_neuro.run import run_file


def write_report(folder: Path, output: Path, gpu_rows: Sequence[Path] = ()) -> dict[str, Any]:
    """Write the report of a run as `.html`, `.md` or `.json`, by the name of the output; its
    content.

    `gpu_rows` are files of rows that `bench gpu` wrote, to stand beside those that come with the
    project; a row that was measured later takes the place of an earlier one.
    """
    from mmfree_neuro.baselines import measured, published, roofline
    from mmfree_neuro.report import content as content_
    from mmfree_neuro.report import pages, pictures

    for path in gpu_rows:
        if os.path.exists(path) and os.path.exists(output) and os.path.samefile(path, output):
            raise InputError(f"{output}: is a file of GPU rows, must be another file to write")
    run = run_file.load_run(folder)
    rows, left_out = measured.load(gpu_rows)
    content = content_.build(run, published.load() + rows, run.use, roofline.load())
    content["comparison"]["sentences"] += left_out
    match output.suffix:
        case ".html":
            text = pages.to_html(content, pictures.draw(content))
        case ".md":
            text = pages.to_markdown(content)
        case ".json":
            text = json.dumps(content, indent=2)
        case suffix:
            raise InputError(f"{output}: ends in {suffix!r}, must end in .html, .md or .json")
    with files.whole_file(output) as scratch:
        scratch.write_text(text, encoding="utf-8")
    return content
