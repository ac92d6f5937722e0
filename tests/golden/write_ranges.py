"""Writes ranges.json, what calibration gives for the random models of tests/conftest.py.

Needs torch. To run after a change of those models, or of what calibration measures:

    python tests/golden/write_ranges.py
"""

import importlib.util
import json
import re
from pathlib import Path

from mmfree_kernels.float_model.calibrate import calibrate
from mmfree_neuro.lowering.scheme import SCHEMES

HERE = Path(__file__).parent


def main() -> None:
    """Calibrate every model in every scheme."""
    spec = importlib.util.spec_from_file_location("conftest", HERE.parent / "conftest.py")
    assert spec is not None and spec.loader is not None
    conftest = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(conftest)
    stored = {
        model: {
            name: {
                what: [seen.low, seen.high]
                for what, seen in calibrate(
                    conftest._random_checkpoint(model), conftest._random_tokens(model), scheme
                ).items()
            }
            for name, scheme in sorted(SCHEMES.items())
        }
        for model in conftest.MODELS
    }
    text = json.dumps(stored, indent=1)
    # a range is one line, not four
    text = re.sub(r"\[\s+(\S+),\s+(\S+)\s+\]", r"[\1, \2]", text)
    (HERE / "ranges.json").write_text(text + "\n", encoding="utf-8")


if __name__ == "__main__":
    main()
