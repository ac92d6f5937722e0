"""Runs a command and measures it: wall-clock seconds, and the most memory that it and its children took together."""

import os
import subprocess
import sys
import time
from pathlib import Path

SAMPLE_SECONDS = 0.25
CLI = [sys.executable, "-m", "mmfree_neuro.cli"]


def memory(session: int) -> int:
    """Bytes that the processes of a session take, shared pages divided among those who share them (PSS)."""
    total = 0
    for folder in Path("/proc").iterdir():
        try:
            if folder.name.isdigit() and os.getsid(int(folder.name)) == session:
                lines = (folder / "smaps_rollup").read_text(encoding="ascii").splitlines()
                total += sum(int(line.split()[1]) << 10 for line in lines if line.startswith("Pss:"))
        except (OSError, ProcessLookupError):  # it has ended meanwhile
            continue
    return total


def run(command: list[str]) -> tuple[float, int]:
    """Wall-clock seconds of a command that must succeed, and its peak memory in bytes."""
    begin, peak = time.monotonic(), 0
    process = subprocess.Popen(command, start_new_session=True, stdout=subprocess.DEVNULL)
    while process.poll() is None:
        peak = max(peak, memory(process.pid))
        time.sleep(SAMPLE_SECONDS)
    if process.returncode:
        raise SystemExit(f"{' '.join(command)} ended with status {process.returncode}: no row is written")
    return time.monotonic() - begin, peak
