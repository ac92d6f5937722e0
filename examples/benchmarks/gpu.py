"""Everything that is measured on a GPU, in order of importance: speed, energy and memory, each as
`bench gpu` does it.

Rows are saved one by one as they come, so that a run may be cut off, and `--missing` goes on where
it was.  A point whose result is wrong, or that does not fit the memory, is told on standard error
and gets no row, and the next one follows.  Neighbours that share a model share a process, and give
back what they held before the next is built; those that train have one of their own, so that
nothing of another is in their memory.  A process is started while the one before it measures.  Run
from a checkout: PYTHONPATH=.:partition:kernels:sims python examples/benchmarks/gpu.py [-o ROWS]
[--only WORDS] [--budget-seconds S] [--missing DEVICE] [--list]
"""

import argparse
import json
import os
import subprocess
import sys
import threading
import time
from contextlib import suppress
from dataclasses import asdict
from itertools import groupby
from pathlib import Path

from mmfree_kernels.bench import record
from mmfree_kernels.bench.workload import Point
from mmfree_neuro.errors import MMFreeError, RunFailed
from mmfree_neuro.report.terminal import gpu_row

ROWS = Path(__file__).parent / "results" / "gpu.json"
GRACE_S = 120
"""A point that was started within the budget may take so much longer."""


def _points(implementation: str, model: str, mode: str, *shapes: tuple[int, int]) -> list[Point]:
    return [Point(model, mode, implementation, batch, length) for batch, length in shapes]


POINTS = [
    # One sequence and many, each beside its opponent, and prompts.
    *_points("fast", "370m", "generate", (1, 512), (64, 512), (4, 512), (16, 512)),
    *_points("fast", "370m", "prefill", (1, 4000), (1, 16000), (1, 2048)),
    *_points("transformer", "370m", "generate", (1, 512), (64, 512)),
    *_points("fast", "1.3b", "generate", (1, 512), (64, 512)),
    *_points("fast", "1.3b", "prefill", (1, 2048)),
    *_points("transformer", "1.3b", "generate", (1, 512)),
    *_points("fast", "2.7b", "generate", (1, 512), (64, 512)),
    *_points("fast", "2.7b", "prefill", (1, 2048)),
    *_points("transformer", "2.7b", "generate", (1, 512)),
    *_points("transformer", "370m", "prefill", (1, 4000), (1, 16000), (1, 2048)),
    *_points("fast", "370m", "train", (8, 2048)),
    *_points("fast", "1.3b", "train", (8, 2048)),
    *_points("transformer", "370m", "generate", (16, 512), (4, 512)),
    *_points("transformer", "1.3b", "train", (8, 2048)),
    *_points("transformer", "370m", "train", (8, 2048)),
    *_points("transformer", "1.3b", "generate", (64, 512)),
    *_points("transformer", "2.7b", "generate", (64, 512)),
    # What stands alone, and longer or larger points.
    *_points("fast", "13b", "generate", (1, 512)),
    *_points("fast", "13b", "prefill", (1, 2048)),
    *_points("fast", "370m", "generate", (256, 512)),
    *_points("fast", "370m", "prefill", (1, 500), (1, 1000), (1, 8000)),
    *_points("naive", "370m", "generate", (1, 512), (64, 512)),
    *_points("naive", "370m", "prefill", (1, 4000), (1, 16000)),
    *_points("naive", "370m", "train", (8, 2048)),
    *_points("naive", "1.3b", "train", (8, 2048)),
    *_points("transformer", "370m", "generate", (1, 4096), (256, 512)),
    *_points("fast", "370m", "generate", (8, 512), (32, 512)),
    *_points("fast", "1.3b", "generate", (4, 512), (16, 512)),
    *_points("transformer", "1.3b", "generate", (4, 512), (16, 512)),
    *_points("fast", "2.7b", "generate", (4, 512), (16, 512)),
    *_points("transformer", "2.7b", "generate", (4, 512), (16, 512)),
    *_points("transformer", "370m", "prefill", (1, 500), (1, 1000), (1, 8000)),
    *_points("transformer", "1.3b", "prefill", (1, 2048)),
    *_points("transformer", "2.7b", "prefill", (1, 2048)),
]


def _process(point: Point) -> object:
    """What points share a process."""
    mode = point.mode if point.implementation == "transformer" else ""
    return point if point.mode == "train" else (point.implementation, point.model, mode)


def missing(points: list[Point], rows: list[record.Row], device: str, commit: str) -> list[Point]:
    """The points that have no row of that commit and of a device of whose name `device` is
    part."""
    names = ("model", "mode", "impl", "batch", "sequence_length")
    known = {
        tuple(row[name] for name in names)
        for row in rows
        if device in row["device"] and row["commit"] == commit
    }
    return [
        p for p in points if (p.model, p.mode, p.implementation, p.batch, p.length) not in known
    ]


def measure(
    points: list[Point], seconds: float, output: Path, commit: str | None, deadline: float
) -> None:
    """Measure points in this process, once a line of standard input says so; a line of standard
    output says how each ended."""
    from mmfree_kernels.bench.builders import build

    if not sys.stdin.readline():
        return
    bench, idle_w = record.this_gpu(), None
    for point in points:
        begin = time.time()
        if begin > deadline:
            return
        try:
            row = record.measure_point(bench, point, seconds, build, idle_w)
        except (MMFreeError, RunFailed) as error:
            print(f"{point}: no row: {error}", file=sys.stderr, flush=True)
            print("no row", flush=True)
            continue
        idle_w = row["idle_w"]
        record.append(output, [row if commit is None else row | {"commit": commit}])
        took = f"{time.time() - begin:.0f} s in all"
        print(f"{point}: {gpu_row(row)}; {took}", file=sys.stderr, flush=True)
        print("row", flush=True)


def start(
    points: list[Point], options: argparse.Namespace, deadline: float
) -> subprocess.Popen[str]:
    """A process of their own for points, which loads what it needs and waits before it touches a
    GPU."""
    content = json.dumps([asdict(point) for point in points])
    more = ["--commit", options.commit] if options.commit is not None else []
    command = [
        sys.executable,
        __file__,
        "--points",
        content,
        "--seconds",
        str(options.seconds),
        "-o",
        str(options.output),
        "--deadline",
        str(deadline),
        *more,
    ]
    return subprocess.Popen(command, stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True)


def run(child: subprocess.Popen[str], points: list[Point], deadline: float) -> int:
    """Let a process measure its points; how many it got through, with or without a row."""
    with child:
        late = threading.Timer(
            min(max(deadline - time.time(), 0) + GRACE_S, threading.TIMEOUT_MAX), child.kill
        )
        late.daemon = True
        late.start()
        assert child.stdin is not None and child.stdout is not None
        with suppress(BrokenPipeError):  # it has ended already
            os.write(child.stdin.fileno(), b"measure\n")
        ended = sum(line.strip() in ("row", "no row") for line in child.stdout)
        status = child.wait()
        late.cancel()
    if status == 2:
        sys.exit(2)
    if status != 0 and ended < len(points):
        print(
            f"{points[ended]}: no row: the process ended with status {status}",
            file=sys.stderr,
            flush=True,
        )
        return ended + 1
    return ended if time.time() <= deadline else len(points)


def main() -> int:
    """Measure what was asked for; 1 where some point has no row."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument(
        "-o", "--output", type=Path, default=ROWS, help="JSON file that rows are added to"
    )
    parser.add_argument(
        "--only", action="append", default=[], help="words that a point's name must have"
    )
    parser.add_argument("--seconds", type=float, default=2.0, help="of each point, at least")
    parser.add_argument(
        "--budget-seconds", type=float, default=1e9, help="start no point after so long"
    )
    parser.add_argument(
        "--commit", help="recorded in the rows where this is no checkout with its history"
    )
    parser.add_argument(
        "--missing",
        metavar="DEVICE",
        help="leave out points that have a row of this commit and of a device of such a name",
    )
    parser.add_argument("--list", action="store_true", help="name the points and measure nothing")
    parser.add_argument("--points", help=argparse.SUPPRESS)
    parser.add_argument("--deadline", type=float, default=0.0, help=argparse.SUPPRESS)
    options = parser.parse_args()
    if options.points is not None:
        points = [Point(**fields) for fields in json.loads(options.points)]
        measure(points, options.seconds, options.output, options.commit, options.deadline)
        return 0
    asked = [
        p
        for p in POINTS
        if not options.only or any(all(w in str(p) for w in o.split()) for o in options.only)
    ]
    if options.list:
        print("\n".join(map(str, asked)))
        return 0
    record.check_gpu()
    record.check_output(options.output)
    if options.missing is not None:
        commit = options.commit or record.commit()
        asked = missing(asked, record.load(options.output), options.missing, commit)
    before = len(record.load(options.output))
    deadline = time.time() + options.budget_seconds
    groups = [list(group) for _, group in groupby(asked, _process)]
    following: dict[tuple[Point, ...], subprocess.Popen[str]] = {}
    try:
        while groups and time.time() <= deadline:
            points = groups.pop(0)
            child = following.pop(tuple(points), None) or start(points, options, deadline)
            if groups and not following:
                following[tuple(groups[0])] = start(groups[0], options, deadline)
            left = points[max(1, run(child, points, deadline)) :]
            groups[:0] = [left] if left else []
    finally:
        for child in following.values():
            child.communicate()  # nothing to measure
    found = len(record.load(options.output)) - before
    print(f"{found} of {len(asked)} points have a row in {options.output}", file=sys.stderr)
    return 0 if found == len(asked) else 1


if __name__ == "__main__":
    try:
        sys.exit(main())
    except MMFreeError as error:
        print(error, file=sys.stderr)
        sys.exit(2)
