"""Malformed inputs to every command: each is refused in one line, or accepted and right.

A model of one block becomes a file of every kind.  Each input is one of these files with one
change, or an option, and is read by a command in a child process with limits of time and memory.
What comes of it is one of: refused in one line (status 2, one line that begins with `mmfree-neuro`
and names the file, nothing written); accepted and right (status 0; a change that may change
nothing gave the same bits, engines agree, a mapping is proved valid); or a fault by its kind.

Run: python examples/benchmarks/fuzz.py [--count 5000] [--seed 1] [--only KIND [--input N]]
A full run without a fault writes `results/fuzz.json`.  Linux only; the superuser's runs also
put devices in the place of files.
"""

import argparse
import importlib
import json
import os
import random
import shutil
import sys
import tempfile
import time
from collections import Counter
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from importlib.util import find_spec
from pathlib import Path

from fuzzing import child, judge, material
from fuzzing.case import Case
from fuzzing.kinds.table import KINDS
from fuzzing.material import Material
from rows import write

COUNT = 5000
SHARES = sum(kind.share for kind in KINDS.values())
WARM = (
    "jinja2",
    "matplotlib.pyplot",
    "matplotlib.backends.backend_agg",
    "mmfree_neuro.pipeline.emulated",
    "mmfree_neuro.pipeline.explore",
    "mmfree_neuro.pipeline.listing",
    "mmfree_neuro.report.pages",
    "mmfree_neuro.report.pictures",
    "mmfree_neuro.run.reference",
    "mmfree_partition.bound.gaps",
    "mmfree_partition.check",
    "mmfree_partition.place.anneal",
    "mmfree_partition.route",
    "mmfree_sims.emulator.emulator",
    "mmfree_sims.fast",
)
"""What commands import late, imported once."""
WARM_WITH_TORCH = (
    "mmfree_kernels.float_model.torch_bin",
    "mmfree_kernels.float_model.whole",
    "mmfree_kernels.training.train",
)
ENVIRONMENT = {
    "OMP_NUM_THREADS": "1",
    "OPENBLAS_NUM_THREADS": "1",
    "MKL_NUM_THREADS": "1",
    "PYTHONHASHSEED": "0",
}
"""One thread, so that forks are safe; equal seeds give equal inputs."""


@dataclass(frozen=True)
class Ran:
    """One input that was run."""

    kind: str
    number: int
    case: Case
    outcome: judge.Outcome
    ends: Sequence[child.Ended]


def one(kind: str, number: int, seed: int, made: Material, scratch: Path) -> Ran:
    """Draw one input, run its commands in a folder of its own, and judge what came of it."""
    folder, log = scratch / "work", scratch / "log"
    for path in (folder, log):
        shutil.rmtree(path, ignore_errors=True)
        path.mkdir()
    (folder / child.SCRATCH).mkdir()
    case = KINDS[kind].draw(random.Random(f"{seed}/{kind}/{number}"), made, folder)
    before, ends = judge.snapshot(folder), []
    for command in case.commands:
        ends.append(child.run(command, folder, log, KINDS[kind].seconds))
        if ends[-1].status != 0:
            break
    return Ran(kind, number, case, judge.judge(case, ends, folder, before), ends)


def prepare(needs: str, made: Material) -> bool:
    """Import what some kinds stand on; whether it is there."""
    if needs == "torch" and find_spec("torch") is not None:
        import torch

        torch.set_num_threads(1)
        for name in WARM_WITH_TORCH:
            importlib.import_module(name)
        material.add_bin(made.folder)
    return not needs or find_spec(needs) is not None


def every(
    count: int, seed: int, only: str | None, number: int | None, made: Material, scratch: Path
) -> Iterator[Ran]:
    """All inputs, kind by kind."""
    needs = ""
    for name, kind in KINDS.items():
        if only is not None and name != only:
            continue
        if kind.needs != needs:
            if not prepare(kind.needs, made):
                print(f"{name}: left out, as {kind.needs} is not installed", file=sys.stderr)
                continue
            needs = kind.needs
        inputs = count if only is not None else max(1, round(kind.share * count / SHARES))
        for k in range(inputs) if number is None else (number,):
            yield one(name, k, seed, made, scratch)


def table(ran: Sequence[Ran]) -> dict[str, dict[str, int]]:
    """How many inputs of each kind came to what."""
    counts: dict[str, Counter[str]] = {}
    for one in ran:
        counts.setdefault(one.kind, Counter())[one.outcome.kind] += 1
    order = (*judge.GOOD, *judge.FAULTS)
    return {kind: {k: found[k] for k in order if found[k]} for kind, found in counts.items()}


def shown(ran: Sequence[Ran], counts: dict[str, dict[str, int]]) -> str:
    """The table as text, with the seconds that commands took."""
    lines = [f"{'kind':28s} {'inputs':>7s} {'s':>5s} {'refused':>8s} {'right':>6s}  faults"]
    for kind, found in counts.items():
        took = sum(ended.seconds for one in ran if one.kind == kind for ended in one.ends)
        faults = ", ".join(f"{n} {what}" for what, n in found.items() if what not in judge.GOOD)
        good = [found.get(what, 0) for what in judge.GOOD]
        lines.append(
            f"{kind:28s} {sum(found.values()):7d} {took:5.0f} {good[0]:8d} {good[1]:6d}  {faults}"
        )
    return "\n".join(lines)


def told(ran: Ran, seed: int) -> dict[str, object]:
    """A fault, and how to run it again."""
    return {
        "kind": ran.kind,
        "input": ran.number,
        "seed": seed,
        "fault": ran.outcome.kind,
        "what": ran.case.what,
        "detail": ran.outcome.detail,
        "commands": [[word[:200] for word in command] for command in ran.case.commands],
    }


def in_full(ran: Ran) -> str:
    """One input with all that its commands said."""
    lines = [f"{ran.kind}, input {ran.number}: {ran.case.what} ({ran.case.must})"]
    for command, ended in zip(ran.case.commands, ran.ends, strict=False):
        lines.append(f"$ mmfree-neuro {' '.join(ascii(word)[1:-1][:200] for word in command)}")
        lines += [ascii(data.decode(errors="replace"))[:3000] for data in (ended.out, ended.err)]
        lines.append(
            f"status {ended.status}, signal {ended.signal}, {ended.seconds:.2f} s, "
            f"{ended.grown_bytes >> 20} MiB"
        )
    return "\n".join([*lines, f"{ran.outcome.kind}: {ran.outcome.detail}"])


def parse() -> argparse.Namespace:
    parser = argparse.ArgumentParser(description="Malformed inputs to every command.")
    parser.add_argument("--count", type=int, help=f"inputs in all (default {COUNT})")
    parser.add_argument("--seed", type=int, default=1, help="of all draws (default 1)")
    parser.add_argument("--only", choices=list(KINDS), metavar="KIND", help="inputs of one kind")
    parser.add_argument("--input", type=int, metavar="N", help="one input of --only, told in full")
    parser.add_argument("--without", nargs="*", default=[], metavar="PACKAGE", help="leave out")
    parser.add_argument("--faults", type=Path, metavar="FILE", help="write every fault as JSON")
    parser.add_argument("--keep", type=Path, metavar="FOLDER", help="keep the files of the last")
    return parser.parse_args()


def run(options: argparse.Namespace, scratch: Path) -> tuple[list[Ran], list[dict[str, object]]]:
    """All inputs that are asked for, and the faults among them, told as they come."""
    made = material.make(scratch / "valid")
    ran, faults = [], []
    inputs = options.count or COUNT, options.seed, options.only, options.input
    for found in every(*inputs, made, scratch):
        ran.append(found)
        if options.input is not None:
            print(in_full(found))
        if found.outcome.kind not in judge.GOOD:
            faults.append(told(found, options.seed))
            print(json.dumps(faults[-1])[:900], flush=True)
    if options.keep is not None:
        shutil.copytree(scratch / "work", options.keep, symlinks=True)
    return ran, faults


def main() -> int:
    options = parse()
    if any(os.environ.get(name) != value for name, value in ENVIRONMENT.items()):
        os.execve(sys.executable, sys.orig_argv, os.environ | ENVIRONMENT)
    for name in options.without:
        for kind in [kind for kind, about in KINDS.items() if about.needs == name]:
            del KINDS[kind]
    for name in WARM:
        importlib.import_module(name)
    begin = time.monotonic()
    # not a TemporaryDirectory: children run what is registered for the end of the interpreter
    scratch = Path(tempfile.mkdtemp(prefix="fuzz-"))
    try:
        ran, faults = run(options, scratch)
    finally:
        shutil.rmtree(scratch, ignore_errors=True)
    counts = table(ran)
    seconds = round(time.monotonic() - begin)
    print(f"{shown(ran, counts)}\n{len(ran)} inputs, {len(faults)} faults, {seconds} s")
    if options.faults is not None:
        options.faults.write_text(json.dumps(faults, indent=1), encoding="utf-8")
    if faults:
        return 1
    if len(ran) >= COUNT * 0.99 and options.only is None and not options.without:
        about = {"seed": options.seed, "seconds": seconds, "kinds": counts}
        write(
            "fuzz",
            [
                about | {"what": "malformed inputs", "value": len(ran), "unit": "inputs"},
                about | {"what": "faults", "value": 0, "unit": "inputs"},
            ],
        )
    return 0


if __name__ == "__main__":
    sys.exit(main())
