"""Writes the rows of a benchmark: value, unit, device, versions, commit, date and way of
counting."""

import json
import platform
import subprocess
from datetime import datetime, timezone
from pathlib import Path

from mmfree_neuro.graph.summary import COUNTS_VERSION
from mmfree_neuro.pipeline.simulate import versions

RESULTS = Path(__file__).parent / "results"


def device() -> str:
    """The name of this machine's processor."""
    lines = Path("/proc/cpuinfo").read_text(encoding="utf-8").splitlines()
    name = next(
        (line.split(":")[1].strip() for line in lines if line.startswith("model name")),
        platform.machine(),
    )
    return f"{name}, {sum(line.startswith('processor') for line in lines)} cores"


def write(name: str, rows: list[dict[str, object]]) -> None:
    """Write `results/NAME.json`; each row has at least `what`, `value` and `unit`."""
    git = subprocess.run(
        ["git", "rev-parse", "HEAD"],
        capture_output=True,
        text=True,
        check=False,
        cwd=RESULTS.parent,
    )
    about = {
        "device": device(),
        "versions": versions(),
        "commit": git.stdout.strip() or "unknown",
        "date": datetime.now(timezone.utc).isoformat(timespec="seconds"),
        "counts_version": COUNTS_VERSION,
    }
    RESULTS.mkdir(exist_ok=True)
    text = json.dumps([row | about for row in rows], indent=1)
    (RESULTS / f"{name}.json").write_text(text + "\n", encoding="utf-8")
    for row in rows:
        print(f"{row['what']}: {row['value']} {row['unit']}")
