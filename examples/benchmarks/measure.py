"""Runs a command and measures it: wall-clock seconds, and the most memory that it and its children
took together."""

import subprocess
import sys
import time
from pathlib import Path

SAMPLE_SECONDS = 0.25
CLI = [sys.executable, "-m", "mmfree_neuro"]


def memory(ancestor: int) -> int:
    """Bytes that a process and its descendants take, shared pages divided among those who share
    them (PSS)."""
    children: dict[int, list[int]] = {}
    for folder in Path("/proc").iterdir():
        try:
            if folder.name.isdigit():
                parent = int(
                    (folder / "stat").read_text(encoding="utf-8").rpartition(")")[2].split()[1]
                )
                children.setdefault(parent, []).append(int(folder.name))
        except OSError:  # it has ended meanwhile
            continue
    total, waiting = 0, [ancestor]
    while waiting:
        process = waiting.pop()
        waiting += children.get(process, [])
        try:
            lines = Path(f"/proc/{process}/smaps_rollup").read_text(encoding="ascii").splitlines()
        except OSError:
            continue
        total += sum(int(line.split()[1]) << 10 for line in lines if line.startswith("Pss:"))
    return total


def run(command: list[str]) -> tuple[float, int]:
    """Wall-clock seconds of a command that must succeed, and its peak memory in bytes."""
    begin, peak = time.monotonic(), 0
    process = subprocess.Popen(command, start_new_session=True, stdout=subprocess.DEVNULL)
    while process.poll() is None:
        peak = max(peak, memory(process.pid))
        time.sleep(SAMPLE_SECONDS)
    if process.returncode:
        raise SystemExit(
            f"{' '.join(command)} ended with status {process.returncode}: no row is written"
        )
    return time.monotonic() - begin, peak
