"""The fuzzer tells every kind of fault from a good end, draws the same inputs every time, and runs
some of them here."""

import json
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path

import pytest

FUZZ = Path(__file__).parents[2] / "examples" / "benchmarks" / "fuzz.py"
STAND_INS = """
import json
import os
import signal
import sys
import time
from pathlib import Path

sys.path.insert(0, sys.argv[1])
from fuzzing import child, judge
from fuzzing.case import Case


def say(text, status=2):
    print(text, file=sys.stderr)
    return status


def write(name, status=0):
    Path(name).write_text("new")
    return status


def leave():
    if os.fork() == 0:
        time.sleep(60)
    return 0


def fill():
    kept = b"x" * (600 << 20)
    return len(kept) * 0


def fail():
    raise ValueError("a fault")


def escape():
    print("\\x1b[31m")
    return 0


def panic():
    print("thread '<unnamed>' panicked at src/lib.rs:7", file=sys.stderr)
    return 101


LINE = "mmfree-neuro: model.map: not a mapping file"
# what a command may do
COMMANDS = {
    "refuses": lambda: say(LINE),
    "accepts": lambda: write("out"),
    "sleeps": lambda: time.sleep(60),
    "stops itself": lambda: os.kill(os.getpid(), signal.SIGSEGV),
    "raises": fail,
    "panics": panic,
    "fills the memory": fill,
    "leaves a child": leave,
    "another status": lambda: say(LINE, 1),
    "two lines": lambda: say(LINE + "\\n" + LINE),
    "nothing said": lambda: 2,
    "another program": lambda: say("error: model.map"),
    "no file": lambda: say("mmfree-neuro: it is wrong"),
    "a long line": lambda: say(LINE + "x" * 2000),
    "an escape in the line": lambda: say(LINE + "\\x1b[2J"),
    "an escape in the output": escape,
    "a file beside the output": lambda: write("other"),
    "a file though refused": lambda: say(LINE, write("out", 2)),
    "over its input": lambda: write("model.map"),
}
MUSTS = {"refuses": "be accepted", "accepts": "be refused"}


def outcome(name, folder, verdict=lambda folder: "", must="either"):
    work = folder / "work"
    for path in (folder, work, work / child.SCRATCH):
        path.mkdir()
    (work / "model.map").write_text("a mapping")
    child.main = lambda arguments: COMMANDS[name]()
    case = Case("", ((name,),), ("model.map",), ("out",), verdict, must)
    before = judge.snapshot(work)
    ended = child.run((name,), work, folder, 2.0 if name == "sleeps" else 30.0)
    return judge.judge(case, [ended], work, before).kind


scratch = Path(sys.argv[2])
found = {name: outcome(name, scratch / str(k)) for k, name in enumerate(COMMANDS)}
found["wrong"] = outcome("accepts", scratch / "wrong", lambda folder: "other logits")
found["unreadable"] = outcome("accepts", scratch / "x", lambda folder: (folder / "no").read_text())
for name, must in MUSTS.items():
    found[f"{name}, but must {must}"] = outcome(name, scratch / name, must=must)
print(json.dumps(found))
"""
Run = Callable[..., "subprocess.CompletedProcess[str]"]


@pytest.mark.slow
def test_every_fault_is_told_from_a_good_end(run_python: Run, tmp_path: Path) -> None:
    (tmp_path / "scratch").mkdir()
    done = run_python(STAND_INS, str(FUZZ.parent), str(tmp_path / "scratch"))
    assert json.loads(done.stdout) == {
        "refuses": "refused in one line",
        "accepts": "accepted and right",
        "sleeps": "hang",
        "stops itself": "killed by a signal",
        "raises": "traceback",
        "panics": "traceback",
        "fills the memory": "too much memory",
        "leaves a child": "left something running",
        "another status": "another exit status",
        "two lines": "more than one line",
        "nothing said": "more than one line",
        "another program": "another beginning of the line",
        "no file": "no file named",
        "a long line": "long message",
        "an escape in the line": "terminal escape",
        "an escape in the output": "terminal escape",
        "a file beside the output": "left files",
        "a file though refused": "left files",
        "over its input": "changed an input",
        "wrong": "wrong result",
        "unreadable": "wrong result",
        "refuses, but must be accepted": "right input refused",
        "accepts, but must be refused": "wrong input accepted",
    }


DRAWN = """
import hashlib
import random
import sys
from pathlib import Path

sys.path.insert(0, sys.argv[1])
from fuzzing import judge, material
from fuzzing.kinds.table import KINDS

scratch = Path(sys.argv[2])
made = material.make(scratch / "valid")
for name, kind in KINDS.items():
    if kind.needs != "torch":
        folder = scratch / "work"
        folder.mkdir()
        case = kind.draw(random.Random(name), made, folder)
        files = sorted(judge.snapshot(folder).items())
        print(name, case.what, case.commands, hashlib.sha256(repr(files).encode()).hexdigest())
        folder.rename(scratch / hashlib.sha256(name.encode()).hexdigest())
"""


@pytest.mark.slow
def test_equal_seeds_draw_equal_inputs(run_python: Run, tmp_path: Path) -> None:
    found = []
    for name in ("first", "second"):
        (tmp_path / name).mkdir()
        done = run_python(DRAWN, str(FUZZ.parent), str(tmp_path / name))
        found.append(done.stdout.replace(str(tmp_path / name), ""))
    assert found[0] == found[1]
    assert found[0].count("\n") > 20


@pytest.mark.slow
def test_some_inputs_of_every_kind(run_python: Run, tmp_path: Path) -> None:
    """A failure prints the inputs, and `fuzz.py --only KIND --input N` runs one of them again."""
    faults = tmp_path / "faults.json"
    command = [sys.executable, FUZZ, "--count", "250", "--without", "torch", "lava"]
    done = subprocess.run(
        [*command, "--faults", faults], capture_output=True, text=True, timeout=300, check=False
    )
    assert faults.is_file(), done.stderr
    assert json.loads(faults.read_text(encoding="utf-8")) == []
    assert done.returncode == 0, done.stderr
