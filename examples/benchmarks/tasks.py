"""Accuracy of the shipped checkpoint in a task of lm-evaluation-harness, as a float model and as
integers.

    pip install '.[torch,eval]'; python examples/benchmarks/tasks.py

The task is `examples/tasks/next_line`: no row is written unless all engines had its 200 documents.
"""

import json
import os
import subprocess
import sys
import tempfile
from pathlib import Path

from rows import write

EXAMPLES = Path(__file__).parents[1]
TASK, DOCUMENTS = "next_line", 200
RUNS = {
    "float": ["--engine", "float"],
    "a14": ["--engine", "fast", "--scheme", "a14"],
    "a16": ["--engine", "fast", "--scheme", "a16"],
    "a8": ["--engine", "fast", "--scheme", "a8"],
}


def main() -> None:
    """Evaluate, one after another, and write."""
    rows = []
    with tempfile.TemporaryDirectory() as scratch:
        offline = {"HF_HUB_OFFLINE": "1", "HF_DATASETS_OFFLINE": "1", "HF_DATASETS_CACHE": scratch}
        for name, options in RUNS.items():
            command = [
                *(sys.executable, "-m", "mmfree_neuro", "eval"),
                str(EXAMPLES / "checkpoints" / "stdlib-5m"),
                *("--tasks", TASK, "--include-path", str(EXAMPLES / "tasks"), "--json"),
                *options,
            ]
            ran = subprocess.run(
                command, env={**os.environ, **offline}, stdout=subprocess.PIPE, check=True
            )
            found = json.loads(ran.stdout)
            assert found["documents"] == {TASK: DOCUMENTS}, found["documents"]
            scores = found["results"][TASK]
            rows.append(
                {
                    "what": name,
                    "task": TASK,
                    "documents": DOCUMENTS,
                    "value": scores["acc,none"],
                    "unit": "accuracy",
                    "standard error": scores["acc_stderr,none"],
                    "accuracy by length": scores["acc_norm,none"],
                    "seconds": found["seconds"],
                }
            )
            print(json.dumps(rows[-1]), flush=True)
    write("tasks", rows)


if __name__ == "__main__":
    main()
