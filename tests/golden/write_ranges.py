"""Writes ranges.json, what calibration gives for the random models of tests/conftest.py, and
shipped_ranges.json, what it gives for the checkpoint of the demo.

Needs torch. To run after a change of those models, of what calibration measures, or of the shipped
checkpoint, whose graph is then to be made by the same Python:

    python tests/golden/write_ranges.py
    mmfree-neuro convert examples/checkpoints/stdlib-5m -o examples/checkpoints/stdlib-5m.graph
"""

import importlib.util
import json
import re
from pathlib import Path

from mmfree_kernels.float_model.calibrate import calibrate
from mmfree_neuro.cli.demo import CHECKPOINT
from mmfree_neuro.hgrn_bit.names import ternary_weights
from mmfree_neuro.lowering.scheme import DEFAULT, SCHEMES, Ranges, scheme_named
from mmfree_neuro.model.tokenizer import Spelling
from mmfree_neuro.pipeline.families import read_checkpoint
from mmfree_neuro.pipeline.text import calibration_windows, windows_for

HERE = Path(__file__).parent


def main() -> None:
    """Calibrate every random model in every scheme, and the shipped one in the default."""
    spec = importlib.util.spec_from_file_location("conftest", HERE.parent / "conftest.py")
    assert spec is not None and spec.loader is not None
    conftest = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(conftest)
    stored = {
        model: {
            name: as_pairs(
                calibrate(
                    conftest._random_checkpoint(model), conftest._random_tokens(model), scheme
                )
            )
            for name, scheme in sorted(SCHEMES.items())
        }
        for model in conftest.MODELS
    }
    write("ranges.json", stored)
    write("shipped_ranges.json", as_pairs(shipped()))


def shipped() -> Ranges:
    """What `convert` measures of the shipped checkpoint."""
    checkpoint = read_checkpoint(CHECKPOINT)
    weights = ternary_weights(checkpoint)
    count = windows_for(sum(part.size for weight in weights.values() for part in weight.parts))
    tokens, _ = calibration_windows("stdlib", count, Spelling(checkpoint.config.vocab_size, None))
    return calibrate(checkpoint, tokens, scheme_named(DEFAULT), weights=weights)


def as_pairs(ranges: Ranges) -> dict[str, list[float]]:
    """Ranges as JSON has them."""
    return {what: [seen.low, seen.high] for what, seen in ranges.items()}


def write(name: str, content: object) -> None:
    """A file beside this one, in which a range is one line, not four."""
    text = re.sub(r"\[\s+(\S+),\s+(\S+)\s+\]", r"[\1, \2]", json.dumps(content, indent=1))
    (HERE / name).write_text(text + "\n", encoding="utf-8")


if __name__ == "__main__":
    main()
