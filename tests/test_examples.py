"""Every numbered example runs, in order, in one folder."""

import subprocess
import sys
from pathlib import Path

EXAMPLES = Path(__file__).parent.parent / "examples"


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
