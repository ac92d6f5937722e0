"""How fast the engines simulate the shipped checkpoint on 8 chips, all in one run on one machine.

The steps run as commands of their own, so that Lava starts without torch in memory, as it does for
users. Run: python examples/benchmarks/lava_speed.py [CHECKPOINT] [FOLDER]
"""

import subprocess
import sys
import tempfile
from pathlib import Path

import numpy as np
from rows import write

from mmfree_neuro.pipeline import engines, opened
from mmfree_neuro.run.job import Job

SHIPPED = Path(__file__).parent.parent / "checkpoints" / "stdlib-5m"
PROMPT = 384
GENERATED = 128


def main(checkpoint: Path, folder: Path) -> None:
    for step in (
        ["convert", str(checkpoint), "-o", str(folder / "model.graph")],
        [
            "map",
            str(folder / "model.graph"),
            "--system",
            "kapoho-point",
            "--chips",
            "8",
            "-o",
            str(folder / "model.map"),
        ],
    ):
        subprocess.run(
            [sys.executable, "-m", "mmfree_neuro", *step], check=True, stdout=subprocess.DEVNULL
        )
    graph, stored = opened.open_mapped(folder / "model.map")
    text = Path(subprocess.__file__).read_bytes()[:PROMPT]
    job = Job(np.frombuffer(text, np.uint8).astype(np.int64)[None], GENERATED)
    results = {
        name: engines.engine_named(name)(graph, stored.mapping, job, lambda *_: None)
        for name in ("lava", "fast")
    }
    lava, fast = results["lava"], results["fast"]
    same = (
        np.array_equal(lava.logits, fast.logits)
        and lava.prefill == fast.prefill
        and lava.generate == fast.generate
    )
    if not same:
        raise SystemExit("the Lava engine differs from the fast engine: no row is written")
    rows: list[dict[str, object]] = []
    for name, result in results.items():
        rates = PROMPT / result.seconds["prefill"], (GENERATED - 1) / result.seconds["generate"]
        rows += [
            {"what": f"{name} start", "value": round(result.seconds["start"], 3), "unit": "s"},
            {"what": f"{name} prefill", "value": round(rates[0], 1), "unit": "tokens/s"},
            {"what": f"{name} generation", "value": round(rates[1], 1), "unit": "tokens/s"},
        ]
    ratio = lava.seconds["prefill"] / fast.seconds["prefill"]
    rows.append({"what": "fast over lava, prefill", "value": round(ratio, 2), "unit": "ratio"})
    write("lava_speed", rows)


if __name__ == "__main__":
    source = Path(sys.argv[1]) if len(sys.argv) > 1 else SHIPPED
    if len(sys.argv) > 2:
        main(source, Path(sys.argv[2]))
    else:
        with tempfile.TemporaryDirectory() as scratch:
            main(source, Path(scratch))
