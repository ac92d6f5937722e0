"""Every numbered example runs, in order, in one folder."""

import json
import subprocess
import sys
from pathlib import Path

import pytest

from mmfree_neuro.cli.main import main
from mmfree_neuro.errors import InputError
from mmfree_neuro.pipeline import report

EXAMPLES = Path(__file__).parents[2] / "examples"


@pytest.mark.slow
@pytest.mark.usefixtures("needs_torch")
def test_the_first_three_examples_in_order(tmp_path: Path) -> None:
    for name, says in (
        ("01_convert.py", "layers.0.mlgru"),
        ("02_map.py", "busiest connection"),
        ("03_run_and_report.py", "same bits, same counts"),
    ):
        done = subprocess.run(
            [sys.executable, str(EXAMPLES / name), str(tmp_path)],
            capture_output=True,
            text=True,
            timeout=300,
            check=False,
        )
        assert done.returncode == 0, done.stderr
        assert says in done.stdout
    assert (tmp_path / "report.html").read_text().startswith("<!DOCTYPE html>")
    the_report_command(tmp_path)


def the_report_command(folder: Path) -> None:
    """The same run as Markdown and JSON; another ending is one line and nothing written."""
    run = str(folder / "run")
    assert main(["report", run, "-o", str(folder / "report.md")]) == 0
    assert (folder / "report.md").read_text().startswith("# stdlib-5m on kapoho-point")
    assert main(["report", run, "-o", str(folder / "report.json"), "--json"]) == 0
    assert json.loads((folder / "report.json").read_text())["header"]["engine"] == "fast"
    with pytest.raises(InputError) as error:
        report.write_report(folder / "run", folder / "report.pdf")
    assert (
        str(error.value) == f"{folder}/report.pdf: ends in '.pdf', must end in .html, .md or .json"
    )
    assert main(["report", run, "-o", str(folder / "report.pdf")]) == 2
    assert not (folder / "report.pdf").exists()
