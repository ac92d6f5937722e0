"""What became of an input: refused in one line, accepted and right, or a fault by its kind."""

import hashlib
import os
import re
import stat
import unicodedata
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

from fuzzing.case import Case
from fuzzing.child import Ended

REFUSED = "refused in one line"
RIGHT = "accepted and right"
GOOD = REFUSED, RIGHT
FAULTS = (
    "hang",
    "killed by a signal",
    "traceback",
    "too much memory",
    "left something running",
    "another exit status",
    "more than one line",
    "another beginning of the line",
    "no file named",
    "long message",
    "left files",
    "changed an input",
    "wrong input accepted",
    "wrong result",
    "right input refused",
    "refused late",
    "terminal escape",
)
LONGEST = 1500
"""Characters of a message."""
MOST_GROWN_BYTES = 400 << 20
"""The models are tiny: nothing needs as much."""
Snapshot = Mapping[str, str]
"""Everything below a folder, by its path: of which type it is, and a hash of its content."""
_PROGRAM = re.compile(r"mmfree-neuro( [a-z]+)?: ")


@dataclass(frozen=True)
class Outcome:
    """What became of an input."""

    kind: str
    detail: str = ""


def _described(path: Path) -> str:
    mode = path.lstat().st_mode
    if stat.S_ISLNK(mode):
        return f"link to {os.readlink(path)}"
    if stat.S_ISREG(mode):
        return hashlib.sha256(path.read_bytes()).hexdigest()
    return f"type {stat.S_IFMT(mode):o}"


def snapshot(folder: Path) -> Snapshot:
    """What is below a folder."""
    found = {}
    for above, folders, files in os.walk(folder):
        for name in (*folders, *files):
            path = Path(above, name)
            found[os.path.relpath(path, folder)] = _described(path)
    return found


def _hard(ended: Ended) -> Outcome | None:
    """A fault that shows without reading what was said."""
    text = ended.err.decode(errors="replace")
    if ended.overdue:
        return Outcome("hang", f"not over after {ended.seconds:.0f} s")
    if ended.signal:
        return Outcome("killed by a signal", f"signal {ended.signal}: {text[-300:]}")
    if "Traceback (most recent call last)" in text or "panicked at" in text:
        return Outcome("traceback", " | ".join(text.strip().splitlines()[-3:])[-600:])
    if ended.grown_bytes > MOST_GROWN_BYTES:
        return Outcome("too much memory", f"{ended.grown_bytes >> 20} MiB")
    if ended.left:
        return Outcome("left something running", ", ".join(ended.left))
    if ended.status not in (0, 2):
        return Outcome("another exit status", f"{ended.status}: {text[-400:]}")
    return None


def _odd(data: bytes) -> str:
    """The first character of an output that a terminal would act on, or nothing."""
    try:
        text = data.decode()
    except UnicodeDecodeError as error:
        return f"not UTF-8 at {error.start}"
    odd = (c for c in text if unicodedata.category(c) in ("Cc", "Cf") and c not in "\n\t")
    return next((repr(c) for c in odd), "")


def _said(case: Case, ended: Ended) -> Outcome | None:
    """A fault in the line that refuses."""
    text = ended.err.decode(errors="replace")
    if text.count("\n") != 1 or not text.endswith("\n"):
        return Outcome("more than one line", text[-600:] or "nothing was said")
    if not _PROGRAM.match(text):
        return Outcome("another beginning of the line", text[:300])
    if len(text) > LONGEST:
        return Outcome("long message", f"{len(text)} characters: {text[:200]}")
    if case.names and not any(name in text for name in case.names):
        return Outcome("no file named", text.strip())
    return None


def _escaped(ended: Ended) -> Outcome | None:
    for stream, data in (("error", ended.err), ("output", ended.out)):
        if odd := _odd(data):
            return Outcome("terminal escape", f"{odd} on standard {stream}: {data[-300:]!r}")
    return None


def _touched(case: Case, before: Snapshot, after: Snapshot, accepted: bool) -> Outcome | None:
    """A fault in the files that are there now."""
    allowed = case.outputs if accepted else ()
    changed = {name for name in before if after.get(name) != before[name]}
    new = {name for name in after.keys() - before.keys()}
    for names, kind in ((changed, "changed an input"), (new, "left files")):
        wrong = sorted(n for n in names if not any(_below(n, output) for output in allowed))
        if wrong:
            return Outcome(kind, ", ".join(f"{n}: {after.get(n, 'gone')[:60]}" for n in wrong[:4]))
    return None


def _below(name: str, output: str) -> bool:
    return name == output or name.startswith(f"{output}{os.sep}") or output == "."


def judge(case: Case, ends: Sequence[Ended], folder: Path, before: Snapshot) -> Outcome:
    """What became of an input whose commands ended like that in a folder."""
    last = ends[-1]
    for ended in ends:
        if fault := _hard(ended):
            return fault
    refused = last.status == 2
    if refused and (fault := _said(case, last)):
        return fault
    if fault := _touched(case, before, snapshot(folder), not refused or len(ends) > 1):
        return fault
    result = _refused(case, ends) if refused else _accepted(case, folder)
    if result.kind in GOOD and (fault := next(filter(None, map(_escaped, ends)), None)):
        return fault
    return result


def _refused(case: Case, ends: Sequence[Ended]) -> Outcome:
    said = ends[-1].err.decode(errors="replace").strip()
    if len(ends) > 1:
        return Outcome("refused late", said)
    return Outcome("right input refused", said) if case.must == "be accepted" else Outcome(REFUSED)


def _accepted(case: Case, folder: Path) -> Outcome:
    if case.must == "be refused":
        return Outcome("wrong input accepted")
    problem = _verdict(case, folder)
    return Outcome("wrong result", problem) if problem else Outcome(RIGHT)


def _verdict(case: Case, folder: Path) -> str:
    try:
        return case.verdict(folder)
    except Exception as error:
        return f"what was written cannot be read: {type(error).__name__}: {error}"[:500]
