"""Models of published shape through the whole flow on this machine: convert, map, and run on every
engine.

The checkpoints are synthetic (`mmfree_neuro.testing`), so nothing is downloaded and the text is
noise; speed and memory are those of any checkpoint of the shape.  Every engine is compared with the
fast one before a row is written, and for the 370M model the fast one with the reference.  Steps run
as commands of their own, as users run them. Run: python examples/benchmarks/full_size.py
[370m|1.3b|2.7b] [FOLDER FOR SEVERAL GB, KEPT]
"""

import json
import subprocess
import sys
import tempfile
from pathlib import Path

import numpy as np
from measure import CLI, run
from rows import write

PROMPT = {"370m": 512, "1.3b": 128, "2.7b": 64}
GENERATED = {"370m": 64, "1.3b": 16, "2.7b": 8}
MAPPINGS = {
    "370m": {
        "a block a chip": ["--system", "alia-point-32", "--block-per-chip"],
        "8 chips": ["--system", "kapoho-point", "--chips", "8"],
    },
    "1.3b": {"fewest chips": ["--system", "alia-point-32"]},
    "2.7b": {"fewest chips": ["--system", "alia-point"]},
}
RANKS = {"370m": (1, 2, 4), "1.3b": (2,), "2.7b": (2,)}

# Runs one engine on one mapping and leaves what it gave; Lava's parent must not have torch in
# memory.
ENGINE = """
import json, resource, sys
from pathlib import Path
import numpy as np
from mmfree_neuro.pipeline import engines
from mmfree_neuro.pipeline import opened
from mmfree_neuro.errors import Served
from mmfree_neuro.run.job import Job

path, engine, out = Path(sys.argv[1]), sys.argv[2], sys.argv[5]
prompt, generated = int(sys.argv[3]), int(sys.argv[4])
graph, stored = opened.open_mapped(path)
tokens = np.random.default_rng(1).integers(0, graph.vocabulary, (1, prompt))
try:
    result = engines.engine_named(engine)(graph, stored.mapping, Job(tokens, generated))
except Served:
    sys.exit()
counts = [array for activity in (result.prefill, result.generate) for array in activity.arrays()]
np.savez(out, result.logits.astype(np.int32), result.chosen, *counts)
content = {"seconds": result.seconds, "chips": len(stored.mapping.chips)}
Path(out).with_suffix(".json").write_text(json.dumps(content))
"""


def engine(
    folder: Path, mapping: Path, name: str, prompt: int, generated: int, ranks: int = 0
) -> dict[str, object]:
    """Run an engine in processes of its own: its seconds, its peak memory, and the file of what it
    gave."""
    out = folder / f"{mapping.stem}-{name}-{ranks}.npz"
    command = [
        sys.executable,
        "-c",
        ENGINE,
        str(mapping),
        name,
        str(prompt),
        str(generated),
        str(out),
    ]
    mpiexec = [str(Path(sys.executable).parent / "mpiexec"), "-n", str(ranks)] if ranks else []
    _, peak = run([*mpiexec, *command])
    return {**json.loads(out.with_suffix(".json").read_text()), "peak": peak, "file": out}


def compare(one: dict[str, object], other: dict[str, object], who: str) -> None:
    """End without a row where two runs differ in a bit or a count."""
    with np.load(str(one["file"])) as a, np.load(str(other["file"])) as b:
        if a.files != b.files or not all(np.array_equal(a[name], b[name]) for name in a.files):
            raise SystemExit(f"{who} differs from the fast engine: no row is written")


def row(what: str, value: float, unit: str, **more: object) -> dict[str, object]:
    return {"what": what, "value": float(f"{value:.4g}"), "unit": unit, **more}


def speeds(
    what: str, found: dict[str, object], prompt: int, generated: int
) -> list[dict[str, object]]:
    """Rows of one run."""
    seconds = found["seconds"]
    assert isinstance(seconds, dict)
    return [
        row(f"{what}: start", seconds["start"], "s", chips=found["chips"]),
        row(
            f"{what}: prefill of {prompt} tokens",
            prompt / seconds["prefill"],
            "tokens/s",
            chips=found["chips"],
        ),
        row(
            f"{what}: generation",
            (generated - 1) / seconds["generate"],
            "tokens/s",
            chips=found["chips"],
        ),
        row(f"{what}: peak memory", int(str(found["peak"])) / 2**20, "MiB", chips=found["chips"]),
    ]


def main(model: str, folder: Path) -> None:
    checkpoint, graph = folder / model, folder / f"{model}.graph"
    if not (checkpoint / "config.json").is_file():
        program = "import sys; from pathlib import Path; from mmfree_neuro import testing as t; "
        program += "t.write_synthetic(Path(sys.argv[1]), t.PUBLISHED[sys.argv[2]])"
        subprocess.run([sys.executable, "-c", program, str(checkpoint), model], check=True)
    seconds, peak = run([*CLI, "convert", str(checkpoint), "-o", str(graph)])
    rows = [
        row(f"{model} convert: time", seconds, "s"),
        row(f"{model} convert: peak memory", peak / 2**20, "MiB"),
        row(f"{model} graph file", graph.stat().st_size / 1e6, "MB"),
    ]
    prompt, generated = PROMPT[model], GENERATED[model]
    for name, options in MAPPINGS[model].items():
        mapping = folder / f"{model}-{name.replace(' ', '-')}.map"
        seconds, _ = run([*CLI, "map", str(graph), *options, "-o", str(mapping)])
        rows.append(row(f"{model}, {name}: map", seconds, "s"))
        if model == "370m":
            compare(
                engine(folder, mapping, "reference", 2, 1),
                engine(folder, mapping, "fast", 2, 1),
                "the reference",
            )
        fast = engine(folder, mapping, "fast", prompt, generated)
        rows += speeds(f"{model}, {name}, fast", fast, prompt, generated)
        lava = engine(folder, mapping, "lava", prompt, generated)
        compare(lava, fast, "lava")
        rows += speeds(f"{model}, {name}, lava", lava, prompt, generated)
        for ranks in RANKS[model]:
            mpi = engine(folder, mapping, "mpi", prompt, generated, ranks)
            compare(mpi, fast, f"mpi with {ranks} ranks")
            rows += speeds(f"{model}, {name}, mpi, {ranks} ranks", mpi, prompt, generated)
    write(f"full_size_{model}", rows)


if __name__ == "__main__":
    chosen = sys.argv[1] if len(sys.argv) > 1 else "370m"
    if chosen not in PROMPT:
        raise SystemExit(f"{chosen} is not known, must be one of {', '.join(PROMPT)}")
    if len(sys.argv) > 2:
        Path(sys.argv[2]).mkdir(parents=True, exist_ok=True)
        main(chosen, Path(sys.argv[2]))
    else:
        with tempfile.TemporaryDirectory() as scratch:
            main(chosen, Path(scratch))
