"""What it costs to prove a graph and its mapping when they are opened, beside whole commands.

    python examples/benchmarks/opening.py [FOLDER, KEPT]

The models have the published shapes and drawn codes.  Opening holds every array against its
checksum, what matrices say of themselves against their codes, and the mapping against graph and
system.  "Before" is the same without these three proofs.  A file with one flipped bit must be
refused, or no row is written.
"""

import statistics
import sys
import tempfile
import time
from collections.abc import Callable
from pathlib import Path

from measure import CLI, run
from rows import write

import mmfree_partition.check
from mmfree_neuro.errors import GraphError
from mmfree_neuro.graph import graph_file
from mmfree_neuro.mapping.request import Request
from mmfree_neuro.pipeline import map, opened
from mmfree_neuro.testing import published_graph

TIMES = 7
MODELS = {
    "370m": ("alia-point-32", Request("block-per-chip")),
    "2.7b": ("alia-point", Request("chain")),
}


def cold(path: Path) -> None:
    """Open a mapping as a command does, which has opened nothing before."""
    graph_file._INTACT.clear()
    opened._PROVED.clear()
    opened.open_mapped(path)


def unproved(path: Path) -> None:
    """Open a mapping whose graph is known, and believe it."""
    check = mmfree_partition.check.check
    mmfree_partition.check.check = lambda _graph, mapping, _system: mapping
    try:
        opened.open_mapped(path)
    finally:
        mmfree_partition.check.check = check


def seconds(opening: Callable[[Path], None], path: Path) -> float:
    """The median of some openings."""
    took = []
    for _ in range(TIMES):
        begin = time.perf_counter()
        opening(path)
        took.append(time.perf_counter() - begin)
    return statistics.median(took)


def refuse_a_flipped_bit(path: Path) -> None:
    """SystemExit where a graph with one flipped bit is opened."""
    with path.open("r+b") as file:
        at = path.stat().st_size // 2
        file.seek(at)
        byte = file.read(1)
        for content, refused in ((bytes([byte[0] ^ 16]), True), (byte, False)):
            file.seek(at)
            file.write(content)
            file.flush()
            try:
                opened.open_graph(path)
                found = False
            except GraphError:
                found = True
            if found != refused:
                raise SystemExit(f"{path}: refused {found}, must be {refused}: no row is written")


def measured(model: str, folder: Path) -> list[dict[str, object]]:
    """The rows of one model."""
    graph, mapping = folder / f"{model}.graph", folder / f"{model}.map"
    system, request = MODELS[model]
    if not mapping.exists():
        graph_file.save_graph(published_graph(model, seed=1), graph)
        map.map_graph(graph, system, mapping, request)
    refuse_a_flipped_bit(graph)
    time.sleep(2 * graph_file.YOUNG_NS / 1e9)  # a file that has just changed is hashed every time
    unproved(mapping)
    before, after = seconds(unproved, mapping), seconds(cold, mapping)
    what = ["--prompt", "x", "--bytes", "--new-tokens", "1", "--engine", "fast"]
    simulate, _ = run([*CLI, "simulate", str(mapping), *what, "-o", str(folder / "run")])
    mapped, _ = run([*CLI, "map", str(graph), "--system", system, "-o", str(folder / "again.map")])
    about = {
        "model": model,
        "graph_bytes": graph.stat().st_size,
        "before_s": before,
        "opening_s": after,
        "simulate_s": simulate,
        "map_s": mapped,
    }
    return [
        {"what": f"proofs at the opening of {model}", "value": after - before, "unit": "s"} | about
    ]


def main() -> None:
    with tempfile.TemporaryDirectory() as scratch:
        folder = Path(sys.argv[1] if len(sys.argv) > 1 else scratch)
        write("opening", [row for model in MODELS for row in measured(model, folder)])


if __name__ == "__main__":
    main()
