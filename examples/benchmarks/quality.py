"""What the integers of every scheme lose against the float model, on library modules that training
never saw; static activations with the roots of norms after the products and before them.

Run: python examples/benchmarks/quality.py [CHECKPOINT] [WINDOWS]
(windows of 1024 bytes, 64 of them unless told)
"""

import sys
from dataclasses import replace
from pathlib import Path

import numpy as np
from rows import write

from mmfree_kernels.float_model.calibrate import calibrate
from mmfree_kernels.float_model.evaluate import nats
from mmfree_kernels.float_model.model import from_checkpoint
from mmfree_neuro.hgrn_bit import lowering
from mmfree_neuro.hgrn_bit.names import ternary_weights
from mmfree_neuro.lowering.scheme import SCHEMES
from mmfree_neuro.model import corpus
from mmfree_neuro.model.tokenizer import Spelling
from mmfree_neuro.pipeline import engines, quality
from mmfree_neuro.pipeline import text as text_
from mmfree_neuro.pipeline.families import read_checkpoint
from mmfree_neuro.run.job import Job

SHIPPED = Path(__file__).parent.parent / "checkpoints" / "stdlib-5m"


def main(folder: Path, count: int) -> None:
    checkpoint = read_checkpoint(folder)
    text = corpus.load("stdlib")
    windows = corpus.windows(text.held_out, 1024, count)
    weights = ternary_weights(checkpoint)
    enough = text_.windows_for(sum(part.size for w in weights.values() for part in w.parts))
    calibration, _ = text_.calibration_windows("stdlib", enough, Spelling(256))
    whole = nats(
        from_checkpoint(checkpoint), corpus.windows(text.held_out, 1024, text.held_out.size)
    )
    rows: list[dict[str, object]] = [
        {
            "what": f"float, all held-out modules of {text.description}",
            "value": round(float(whole.mean()), 5),
            "unit": "nats/byte",
            "bytes": whole.size,
        }
    ]
    schemes = dict(SCHEMES)
    for name, scheme in SCHEMES.items():
        if scheme.activations == "static":
            schemes[f"{name}, roots before products,"] = replace(scheme, root="before")
    for name, scheme in schemes.items():
        ranges = calibrate(checkpoint, calibration, scheme, weights=weights)
        graph = lowering.lower(checkpoint, weights, ranges, scheme, folder.name)
        placed, few = quality.in_one_place(graph), Job(windows[:1, :6])
        fast, reference = (
            engines.engine_named(e)(graph, placed, few, lambda *_: None)
            for e in ("fast", "reference")
        )
        if not np.array_equal(fast.logits, reference.logits):
            raise SystemExit("the fast engine differs from the reference: no row is written")
        measured = quality.measure(checkpoint, graph, windows)
        size = windows[:, 1:].size
        for key, count in (
            ("saturated values", measured.saturated),
            ("wrapped sums", measured.wrapped),
        ):
            rows.append({"what": f"{name} {key}", "value": count, "unit": "", "bytes": size})
        for key, value in measured.quality.items():
            if key != "tokens":
                unit = "nats/byte" if key.endswith("nats") else "ratio"
                rows.append(
                    {"what": f"{name} {key}", "value": round(value, 6), "unit": unit, "bytes": size}
                )
    write("quality", rows)


if __name__ == "__main__":
    main(
        Path(sys.argv[1]) if len(sys.argv) > 1 else SHIPPED,
        int(sys.argv[2]) if len(sys.argv) > 2 else 64,
    )
