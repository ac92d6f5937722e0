"""Runs every command of the README in two checkouts and compares all that they print and write.

Run:
    python tools/compare_checkouts.py BEFORE AFTER
    python tools/compare_checkouts.py BEFORE AFTER --python-after .venv/bin/python
    python tools/compare_checkouts.py BEFORE AFTER --allow FILE --renamed placement=ranks

Each checkout is run by its own `.venv/bin/python` unless told otherwise, in a folder of its own
with the same files under the same relative names. Standard output, standard error, the exit status
and every written file must be equal byte for byte. Masked beforehand are only dates of this
comparison, durations and speeds of the simulation, versions, and where folders and checkouts lie.

FILE is JSON, {"COMMAND": "REASON", …}, and names the commands that may differ, as this prints them.
An option that has another name in AFTER is given there under that name. The exit status is 0 when
no other command differs, 1 when one does, and 2 when the comparison itself is impossible.
"""

import argparse
import difflib
import json
import os
import re
import shutil
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, field, replace
from datetime import datetime, timezone
from pathlib import Path

from compared_commands import Command, after_spoiling, lay_inputs, spoil, working

PACKAGES = {"mmfree_neuro": ".", "mmfree_partition": "partition"}
PACKAGES |= {"mmfree_kernels": "kernels", "mmfree_sims": "sims"}
"""The packages, and the folder of a checkout that each lies in."""

LIMIT_S = 300
"""How long a command may take."""

TEXT = {".html", ".json", ".md"}
"""Files that tell dates, speeds and versions; all others are compared as they are."""

LINE = rb"(started in |prefill |generation )[\d.]+( s| tokens/s)(?=[^\n]*speed of the simulation)"
ROW = rb"((?:start|prefill|generation)(?: \| |</th><td>))[\d.]+ (?:m|\xc2\xb5|n)?s"
ROW += rb"(?:, [\d.,]+(?: million)? tokens/s)?"
MASKS = (
    (LINE, rb"\1SPEED\2"),
    (ROW, rb"\1SPEED"),
    (rb'("(?:simulator_)?seconds": )\{[^{}]*\}', rb"\1SECONDS"),
    (rb'"versions": \{[^{}]*\}', b'"versions": VERSIONS'),
    (rb"python \d[^\n<|]*mmfree-neuro \d[^\n<|]*", b"VERSIONS"),
    (rb"mmfree-neuro \d+\.\d+\S*", b"mmfree-neuro VERSION"),
    (rb"[\d.]+ kB/s", b"SPEED kB/s"),
)
"""What two runs of the same code print differently, and what is compared in its place."""

DATE = re.compile(rb"\d{4}-\d\d-\d\dT\d\d:\d\d:\d\d\+00:00")


@dataclass(frozen=True)
class Checkout:
    """A state of the project, what runs it, and the folder that it works in."""

    root: Path
    python: Path
    folder: Path
    renamed: dict[str, str] = field(default_factory=dict)  # options that have another name here

    @property
    def module(self) -> str:
        """The module that is the command line."""
        package = self.root / "mmfree_neuro"
        return "mmfree_neuro" if (package / "__main__.py").exists() else "mmfree_neuro.cli"

    @property
    def environment(self) -> dict[str, str]:
        """The packages of this checkout come first, and nothing is written into it."""
        sources = os.pathsep.join(str(self.root / place) for place in PACKAGES.values())
        own = {"PYTHONPATH": sources, "PYTHONDONTWRITEBYTECODE": "1", "COLUMNS": "100"}
        return {**os.environ, **own, "OMP_NUM_THREADS": "1"}


@dataclass(frozen=True)
class Outcome:
    """What a command did, with everything masked that may differ."""

    status: int
    output: bytes
    error: bytes
    files: dict[str, bytes] = field(default_factory=dict)  # written or, b"(removed)", removed


class Impossible(Exception):
    """Why there is nothing to compare."""


# Running.


def run(command: Command, checkout: Checkout, since: str) -> Outcome:
    """Run a command and gather what it did."""
    before = _stamps(checkout.folder)
    said = [checkout.renamed.get(word, word) for word in command.words]
    words = [str(checkout.python), "-m", checkout.module, *said]
    if command.ranks:
        words = [str(checkout.python.parent / "mpiexec"), "-n", str(command.ranks), *words]
    try:
        done = subprocess.run(
            words,
            cwd=checkout.folder,
            env=checkout.environment,
            stdin=subprocess.DEVNULL,
            capture_output=True,
            timeout=LIMIT_S,
            check=False,
        )
        status, output, error = done.returncode, done.stdout, done.stderr
    except subprocess.TimeoutExpired:
        status, output, error = -1, b"", f"did not end within {LIMIT_S} s".encode()
    after = _stamps(checkout.folder)
    changed = {name for name in after if after[name] != before.get(name)}
    files = {name: (checkout.folder / name).read_bytes() for name in changed}
    files |= {name: b"(removed)" for name in before.keys() - after.keys()}
    places = {str(checkout.folder): "FOLDER", str(checkout.root): "CHECKOUT"}
    masked = {
        name: mask(content, places, since) if Path(name).suffix in TEXT else content
        for name, content in files.items()
    }
    return Outcome(status, mask(output, places, since), mask(error, places, since), masked)


def _stamps(folder: Path) -> dict[str, tuple[int, int]]:
    """When each file was written, and its size."""
    paths = [path for path in folder.rglob("*") if path.is_file()]
    stats = {path.relative_to(folder).as_posix(): path.stat() for path in paths}
    return {name: (stat.st_mtime_ns, stat.st_size) for name, stat in stats.items()}


def mask(content: bytes, places: dict[str, str], since: str) -> bytes:
    """A text without what may differ; of dates, those from `since` on, which a run wrote itself."""
    for place, name in places.items():
        content = content.replace(place.encode(), name.encode())
    for pattern, instead in MASKS:
        content = re.sub(pattern, instead, content)
    return DATE.sub(lambda date: b"DATE" if date[0] >= since.encode() else date[0], content)


# Comparing.


def differences(before: Outcome, after: Outcome) -> list[str]:
    """What differs, each part with a short diff; nothing where all is equal."""
    found = []
    if before.status != after.status:
        found.append(f"exit status {before.status}, now {after.status}")
    parts = [("standard output", before.output, after.output)]
    parts += [("standard error", before.error, after.error)]
    names = sorted(before.files.keys() | after.files.keys())
    absent = b"(not written)"
    parts += [(n, before.files.get(n, absent), after.files.get(n, absent)) for n in names]
    return found + [f"{what}: {diff(a, b)}" for what, a, b in parts if a != b]


def diff(before: bytes, after: bytes, most: int = 12) -> str:
    """A short unified diff of texts; of other files, their sizes and where they part."""
    try:
        old, new = before.decode(), after.decode()
    except UnicodeDecodeError:
        pairs = zip(before, after, strict=False)
        first = next((k for k, (a, b) in enumerate(pairs) if a != b), min(len(before), len(after)))
        return f"{len(before)} bytes, now {len(after)}; the first that differs is number {first}"
    lines = list(difflib.unified_diff(_lines(old), _lines(new), lineterm="", n=0))[2:]
    more = [f"… {len(lines) - most} lines more"] if len(lines) > most else []
    return "\n".join(["", *(f"    {line[:160]}" for line in [*lines[:most], *more])])


def _lines(text: str) -> list[str]:
    """The lines of a text, of which JSON on one line has many."""
    return text.replace(", ", ",\n").splitlines() if text.startswith("{") else text.splitlines()


def allowances(path: Path | None, names: set[str]) -> dict[str, str]:
    """The commands that may differ, each with the reason."""
    if path is None:
        return {}
    found = json.loads(path.read_text(encoding="utf-8"))
    unknown = sorted(found.keys() - names)
    if unknown:
        raise Impossible(f"{path}: no such command: {unknown[0]}")
    return {name: str(reason) for name, reason in found.items()}


def renamings(pairs: list[str]) -> dict[str, str]:
    """The options that have another name, from OLD=NEW without dashes."""
    found = {}
    for pair in pairs:
        old, equals, new = pair.partition("=")
        if not (old and equals and new):
            raise Impossible(f"--renamed is {pair!r}, must be OLD=NEW, such as placement=ranks")
        found[f"--{old}"] = f"--{new}"
    return found


# From the command line.


def check(checkout: Checkout) -> None:
    """Refuse to compare a checkout whose interpreter takes the packages from elsewhere."""
    names = ", ".join(PACKAGES)
    program = f"import {names}\nfor m in ({names}): print(m.__file__)"
    done = subprocess.run(
        [str(checkout.python), "-c", program],
        cwd=checkout.folder,
        env=checkout.environment,
        capture_output=True,
        text=True,
        check=False,
    )
    if done.returncode:
        raise Impossible(f"{checkout.root}: cannot be imported:\n{done.stderr}")
    for line, (package, place) in zip(done.stdout.splitlines(), PACKAGES.items(), strict=True):
        if Path(line).parent != (checkout.root / place / package).resolve():
            raise Impossible(f"{checkout.root}: {package} is taken from {line}")


def compare(
    checkouts: tuple[Checkout, Checkout],
    commands: list[Command],
    allowed: dict[str, str],
    tell: Callable[[str], None],
) -> list[str]:
    """Run commands in both checkouts, side by side; how each came out."""
    since, verdicts = datetime.now(timezone.utc).isoformat(timespec="seconds"), []
    with ThreadPoolExecutor(2) as pool:
        for command in commands:
            before, after = pool.map(lambda c, k=command: run(k, c, since), checkouts)
            found, reason = differences(before, after), allowed.get(command.name)
            verdicts.append("same" if not found else "DIFFERENT" if reason is None else "allowed")
            tell(f"{verdicts[-1]:9s} {before.status:3d}  {command.name}")
            if reason is not None:
                tell(f"  expected to differ{'' if found else ', but does not'}: {reason}")
            for part in found:
                tell(f"  {part}")
    return verdicts


def main() -> int:
    """Parse, compare and tell; the exit status."""
    parser = argparse.ArgumentParser(description="Compares what two checkouts print and write.")
    parser.add_argument("before", type=Path, metavar="BEFORE")
    parser.add_argument("after", type=Path, metavar="AFTER")
    parser.add_argument("--python-before", type=Path, help="default BEFORE/.venv/bin/python")
    parser.add_argument("--python-after", type=Path, help="default AFTER/.venv/bin/python")
    parser.add_argument("--allow", type=Path, metavar="FILE", help="commands that may differ")
    parser.add_argument("--renamed", action="append", default=[], metavar="OLD=NEW")
    options = parser.parse_args()
    began, scratch = time.monotonic(), Path(tempfile.mkdtemp(prefix="compare-")).resolve()
    try:
        before = _checkout(options.before, options.python_before, scratch / "1", options.before)
        after = _checkout(options.after, options.python_after, scratch / "2", options.before)
        after = replace(after, renamed=renamings(options.renamed))
        verdicts = _compare_all((before, after), options.allow)
    except (Impossible, OSError) as error:
        print(f"compare_checkouts: {error}", file=sys.stderr)
        return 2
    finally:
        shutil.rmtree(scratch, ignore_errors=True)
    counts = {kind: verdicts.count(kind) for kind in ("same", "allowed", "DIFFERENT")}
    said = ", ".join(f"{count} {kind}" for kind, count in counts.items())
    _tell(f"{len(verdicts)} commands: {said}; {time.monotonic() - began:.0f} s")
    return 1 if counts["DIFFERENT"] else 0


def _compare_all(checkouts: tuple[Checkout, Checkout], allow: Path | None) -> list[str]:
    """What works, and then what is wrong; how every command came out."""
    ranks = 2 if all((c.python.parent / "mpiexec").exists() for c in checkouts) else 0
    first, then = working(ranks), after_spoiling()
    allowed = allowances(allow, {command.name for command in [*first, *then]})
    verdicts = compare(checkouts, first, allowed, _tell)
    for checkout in checkouts:
        spoil(checkout.folder)
    return verdicts + compare(checkouts, then, allowed, _tell)


def _checkout(root: Path, python: Path | None, folder: Path, source: Path) -> Checkout:
    """A checkout that can be compared, with the inputs from `source` laid out."""
    python = (python or root / ".venv" / "bin" / "python").absolute()
    if not python.exists():
        raise Impossible(f"{python}: no such interpreter; give --python-before or --python-after")
    found = Checkout(root.resolve(), python, folder)
    folder.mkdir()
    lay_inputs(folder, source)
    check(found)
    return found


def _tell(text: str) -> None:
    print(text, flush=True)


if __name__ == "__main__":
    sys.exit(main())
