"""Weak scaling of the MPI engine: so many blocks on every rank, whatever the number of ranks, one
thread a rank.

The blocks have the 370M model's shape (12.8 M weights each), the vocabulary is of 256 words so that
no rank has the head's work beside its own.  Ranks are compared with the fast engine before a row is
written.  Beside the rates stand the time that ranks waited, the time that a message took in MPI
calls at both ends, and that of an empty ping-pong. Run under no mpiexec of your own: python
examples/benchmarks/mpi_scaling.py
"""

import json
import subprocess
import sys
import tempfile
from pathlib import Path
from typing import Any

from measure import CLI, run
from rows import write

BLOCKS = 4
"""On every rank."""
RANKS = (1, 2, 4)
PROMPT, GENERATED = 256, 33

PROGRAM = """
import json, sys, time
from dataclasses import asdict
from pathlib import Path
import numpy as np
from mmfree_neuro.pipeline import opened
from mmfree_neuro.run.job import Job
from mmfree_sims import fast
from mmfree_sims.mpi import engine as mpi
from mmfree_sims.mpi import ranks

comm, prompt, generated = ranks.world(), int(sys.argv[3]), int(sys.argv[4])
buffer, turns = np.zeros(int(sys.argv[5]), np.int32), 2000
comm.Barrier()
begin = time.perf_counter()
for _ in range(turns if comm.Get_size() > 1 else 0):
    if comm.Get_rank() == 0:
        comm.Send(buffer, 1), comm.Recv(buffer, 1)
    elif comm.Get_rank() == 1:
        comm.Recv(buffer, 0), comm.Send(buffer, 0)
ping = (time.perf_counter() - begin) / turns / 2
comm.Barrier()
graph, stored = opened.open_mapped(Path(sys.argv[1]))
job = Job(np.random.default_rng(1).integers(0, graph.vocabulary, (1, prompt)), generated)
begin = time.perf_counter()
result, traffic = mpi.serve(graph, stored.mapping, job)
everyone = comm.gather(asdict(traffic) | {"seconds": time.perf_counter() - begin})
if result is not None:
    expected = fast.run(graph, stored.mapping, job)
    same = np.array_equal(result.logits, expected.logits)
    same = same and np.array_equal(result.chosen, expected.chosen)
    if not same or result.prefill != expected.prefill or result.generate != expected.generate:
        sys.exit("the MPI engine differs from the fast engine")
    row = {"seconds": result.seconds, "ping": ping, "ranks": everyone}
    Path(sys.argv[2]).write_text(json.dumps(row))
"""

SYNTHETIC = """
import sys
from dataclasses import replace
from pathlib import Path
from mmfree_neuro import testing
config = replace(testing.PUBLISHED["370m"], num_hidden_layers=int(sys.argv[2]), vocab_size=256)
testing.write_synthetic(Path(sys.argv[1]), config)
"""


def measured(ranks: int, folder: Path) -> dict[str, Any]:
    """What a model of BLOCKS blocks a rank does on so many ranks."""
    name = folder / f"{ranks * BLOCKS}-blocks"
    subprocess.run([sys.executable, "-c", SYNTHETIC, str(name), str(ranks * BLOCKS)], check=True)
    run([*CLI, "convert", str(name), "-o", f"{name}.graph"])
    run(
        [
            *CLI,
            "map",
            f"{name}.graph",
            "--system",
            "alia-point-32",
            "--block-per-chip",
            "-o",
            f"{name}.map",
        ]
    )
    mpiexec = [
        str(Path(sys.executable).parent / "mpiexec"),
        "-n",
        str(ranks),
        sys.executable,
        "-c",
        PROGRAM,
    ]
    run([*mpiexec, f"{name}.map", f"{name}.json", str(PROMPT), str(GENERATED), "2048"])
    return json.loads(Path(f"{name}.json").read_text())


def rows_of(ranks: int, found: dict[str, Any], alone: dict[str, float]) -> list[dict[str, object]]:
    """Rows of one number of ranks; `alone` are the rates of one rank, and are set where they are
    not yet known."""
    seconds, everyone = found["seconds"], found["ranks"]
    rates = {
        "prefill": PROMPT / seconds["prefill"],
        "generate": (GENERATED - 1) / seconds["generate"],
    }
    alone.update(rates if not alone else {})
    messages = sum(rank["messages"] for rank in everyone)
    rows: list[dict[str, object]] = []

    def add(what: str, value: float, unit: str) -> None:
        row = {"what": f"{what}, {ranks} ranks", "value": float(f"{value:.4g}"), "unit": unit}
        rows.append(row | {"ranks": ranks, "blocks": ranks * BLOCKS, "messages": messages})

    for phase, rate in rates.items():
        # A pipeline of ranks keeps its prefill rate; a generated token passes all ranks one after
        # the other.
        ideal = alone[phase] if phase == "prefill" else alone[phase] / ranks
        add(phase, rate, "tokens/s")
        add(f"{phase} over ideal", rate / ideal, "ratio")
    waiting = sum(rank["waiting"] for rank in everyone)
    add("share of time waiting", waiting / sum(rank["seconds"] for rank in everyone), "ratio")
    if messages:
        add(
            "MPI calls a message",
            1e6 * sum(rank["sending"] + rank["receiving"] for rank in everyone) / messages,
            "us",
        )
        add("8 KiB one way", 1e6 * found["ping"], "us")
    return rows


def main(folder: Path) -> None:
    rows: list[dict[str, object]] = []
    alone: dict[str, float] = {}
    for ranks in RANKS:
        rows += rows_of(ranks, measured(ranks, folder), alone)
    write("mpi_scaling", rows)


if __name__ == "__main__":
    with tempfile.TemporaryDirectory() as scratch:
        main(Path(scratch))
