"""Builds what users install, and uses it as they do: on every Python of 3.10 to 3.13 that is here,
in a new environment without torch, from a folder of its own.

Run:
    python tools/check_packages.py      # needs a package index; make packages does the same

The source package is built from the checkout, and all wheels from the source package: one for
Python 3.10, and one for 3.11 and newer.  twine and auditwheel look at them.  Each environment takes
a wheel with whatever it depends on; then the commands run on the graph that travels with it. The
last environment has no C compiler, which one warning must say. It ends with a table, or at the
first thing that fails.
"""

import os
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from functools import partial
from pathlib import Path

from pythons import pythons

ROOT = Path(__file__).resolve().parents[1]
AT_ONCE = 2
"""Environments that are tried at the same time."""
SLOW = "there is no compiled code for products and neuron programs here"
WITHOUT_TORCH = "torch, which `convert` needs, is missing"


@dataclass(frozen=True)
class Row:
    """What came of one environment."""

    name: str
    megabytes: float
    """What all of its files take on the disk, pip among them; 10^6 bytes."""
    install_s: float
    run_s: float
    ran: tuple[str, ...]


def main() -> None:
    """Build, look, install, run."""
    found = pythons()
    if not found:
        raise SystemExit("no Python of 3.10 to 3.13 was found")
    with tempfile.TemporaryDirectory() as folder:
        source, wheels = built(Path(folder), found)
        newest = list(found)[-1]
        tries: list[Callable[[], Row]] = [
            partial(tried, Path(folder) / version, start, wheels[kind(version)])
            for version, start in found.items()
        ]
        tries.append(partial(tried, Path(folder) / f"{newest}-no-cc", found[newest], source))
        with ThreadPoolExecutor(AT_ONCE) as pool:
            print(table([row.result() for row in [pool.submit(one) for one in tries]]))


def kind(version: str) -> str:
    """Which wheel a Python takes."""
    return "cp310" if version == "3.10" else "abi3"


def built(folder: Path, found: dict[str, str]) -> tuple[Path, dict[str, Path]]:
    """The source package and the wheel of each kind, built and looked at."""
    packages, tools = folder / "packages", environment(folder / "tools", list(found.values())[-1])
    call(tools / "pip", "install", "--quiet", "build", "twine", "auditwheel")
    call(tools / "python", "-m", "build", "--sdist", "--outdir", packages, ROOT)
    (source,) = packages.glob("*.tar.gz")
    wheels = {}
    for which, start in {kind(version): found[version] for version in reversed(found)}.items():
        builder = environment(folder / f"builder-{which}", start)
        call(builder / "pip", "wheel", "--quiet", "--no-deps", "--wheel-dir", packages, source)
        (wheels[which],) = packages.glob(f"*{which}*.whl")
    call(tools / "twine", "check", "--strict", source, *wheels.values())
    for wheel in wheels.values():
        print(call(tools / "auditwheel", "show", wheel).strip(), end="\n\n", flush=True)
    return source, wheels


def tried(folder: Path, python: str, package: Path) -> Row:
    """An environment of a Python with one package, in which the commands have run; a source package
    is built without a compiler."""
    compiled = package.suffix == ".whl"
    begin = time.monotonic()
    programs = environment(folder, python)
    compiler = {} if compiled else {"CC": "false"}
    call(programs / "pip", "install", "--quiet", package, more=compiler)
    installed = time.monotonic()
    work = folder / "work"
    work.mkdir()
    said = {
        " ".join(map(str, words[:1])): call(programs / "mmfree-neuro", *words, cwd=work)
        for words in commands(folder, whole=compiled)
    }
    ended = time.monotonic()
    if said["simulate"].count(SLOW) != int(not compiled):
        raise SystemExit(f"{folder.name}: must warn of slow code once without a compiler")
    if compiled and WITHOUT_TORCH not in said["demo"]:
        raise SystemExit(f"{folder.name}: the demo must say that torch is missing")
    weight = megabytes(folder) - megabytes(work)
    return Row(folder.name, weight, installed - begin, ended - installed, tuple(said))


def commands(folder: Path, *, whole: bool) -> list[list[str | Path]]:
    """What is run in an environment; the `whole` of it has the demo, too."""
    (graph,) = folder.glob("lib/python*/site-packages/mmfree_neuro/shipped/*.graph")
    begin: list[list[str | Path]] = [
        ["--version"],
        ["map", graph, "--system", "kapoho-point", "-o", "model.map"],
        [
            *("simulate", "model.map", "--prompt", "import os", "--new-tokens", "8"),
            *("--engine", "fast", "-o", "run"),
        ],
        ["report", "run", "-o", "run.html"],
    ]
    return [*begin, ["demo", "--new-tokens", "8"]] if whole else begin


def environment(folder: Path, python: str) -> Path:
    """A new environment of a Python; the folder of its programs."""
    call(python, "-m", "venv", folder)
    return folder / "bin"


def call(
    program: Path | str,
    *arguments: Path | str,
    cwd: Path = ROOT,
    more: dict[str, str] | None = None,
) -> str:
    """Runs a program to its end, with nothing of this environment's Python; what it said.  Ends the
    script where the program fails."""
    words = [str(word) for word in (program, *arguments)]
    ours = {name: text for name, text in os.environ.items() if not name.startswith("PYTHON")}
    done = subprocess.run(
        words,
        cwd=cwd,
        env={**ours, "PIP_DISABLE_PIP_VERSION_CHECK": "1", **(more or {})},
        stdout=subprocess.PIPE,
        stderr=subprocess.STDOUT,
        encoding="utf-8",
        check=False,
    )
    if done.returncode:
        raise SystemExit(f"{done.stdout}\n{' '.join(words)}: status {done.returncode}")
    return done.stdout


def megabytes(folder: Path) -> float:
    """What the files of a folder take on the disk."""
    return sum(path.lstat().st_blocks for path in folder.rglob("*")) * 512 / 1e6


def table(rows: Sequence[Row]) -> str:
    """The rows below each other."""
    lines = [f"{'Python':12}{'MB':>6}{'install, s':>12}{'run, s':>8}  what ran"]
    for row in rows:
        figures = f"{row.megabytes:6.0f}{row.install_s:12.0f}{row.run_s:8.0f}"
        lines.append(f"{row.name:12}{figures}  {', '.join(row.ran)}")
    return "\n".join(lines)


if __name__ == "__main__":
    sys.exit(main())
