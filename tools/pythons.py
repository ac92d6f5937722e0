"""Finds the Pythons of this machine that the project supports: the newest of every version, by its
name on the path or else among pyenv's.

Run:
    python tools/pythons.py     # a line each: the version, and what starts it
"""

import os
import subprocess
from pathlib import Path

VERSIONS = ("3.10", "3.11", "3.12", "3.13")


def pythons() -> dict[str, str]:
    """What starts each version that is here."""
    starts = {version: _start(version) for version in VERSIONS}
    return {version: start for version, start in starts.items() if start is not None}


def _start(version: str) -> str | None:
    root = Path(os.environ.get("PYENV_ROOT") or Path.home() / ".pyenv") / "versions"
    of_pyenv = sorted(root.glob(f"{version}.*/bin/python3"), key=_release, reverse=True)
    names = [f"python{version}", *map(str, of_pyenv), "python3"]
    return next((name for name in names if version_of(name) == version), None)


def _release(path: Path) -> tuple[int, ...]:
    """The third number of pyenv's folder, if it is one: 3.11.10 is newer than 3.11.7."""
    last = path.parents[1].name.rpartition(".")[2]
    return (int(last),) if last.isdigit() else ()


def version_of(python: str) -> str | None:
    """The version that a command starts; None where it starts nothing, as a shim of pyenv may."""
    program = "import sys; print('%d.%d' % sys.version_info[:2])"
    try:
        done = subprocess.run([python, "-c", program], capture_output=True, text=True, check=False)
    except OSError:
        return None
    return done.stdout.strip() or None


if __name__ == "__main__":
    for version, start in pythons().items():
        print(version, start)
