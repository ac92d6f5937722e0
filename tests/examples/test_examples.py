"""Every numbered example runs, in order, in one folder."""

import json
import os
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


@pytest.mark.slow
@pytest.mark.usefixtures("needs_torch")
def test_the_walk_of_an_architect(tmp_path: Path) -> None:
    """Ten commands; half the barrier and twice the links make generation faster."""
    path = f"{Path(sys.executable).parent}{os.pathsep}{os.environ['PATH']}"
    done = subprocess.run(
        [str(EXAMPLES / "architect.sh"), str(tmp_path)],
        capture_output=True,
        text=True,
        timeout=300,
        check=False,
        env=os.environ | {"PATH": path},
    )
    assert done.returncode == 0, done.stderr
    script = (EXAMPLES / "architect.sh").read_text()
    assert sum(line.startswith("mmfree-neuro ") for line in script.splitlines()) == 10
    rates = [
        float(line.split()[1])
        for line in done.stdout.splitlines()
        if line.startswith("generation: ")
    ]
    assert rates[0] > 1.2 * rates[1]
    for name in ("report.html", "before.html", "cheaper.html", "tornado.png", "points.json"):
        assert (tmp_path / name).stat().st_size > 0


def the_report_command(folder: Path) -> None:
    """The same run as Markdown and JSON; another ending is one line and nothing written."""
    run = str(folder / "run")
    assert main(["report", run, "-o", str(folder / "report.md")]) == 0
    assert (folder / "report.md").read_text().startswith("# stdlib-5m on kapoho-point")
    assert main(["report", run, "-o", str(folder / "report.json"), "--json"]) == 0
    assert json.loads((folder / "report.json").read_text())["header"]["engine"] == "fast"
    with pytest.raises(InputError) as error:
        report.write_report(folder / "run", folder / "report.pdf")
    assert str(error.value) == (
        f"{folder}/report.pdf: ends in '.pdf', must end in .html, .md or .json, or in .jsonl for "
        "one run"
    )
    assert main(["report", run, "-o", str(folder / "report.pdf")]) == 2
    assert not (folder / "report.pdf").exists()
