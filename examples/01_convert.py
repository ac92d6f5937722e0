"""1. A trained checkpoint becomes integers: convert it, see what that cost, and look at a few
nodes.

Run: python examples/01_convert.py [OUTPUT FOLDER]
"""

import sys
from pathlib import Path

import mmfree_neuro as mm

CHECKPOINT = Path(__file__).parent / "checkpoints" / "stdlib-5m"


def main(folder: Path) -> None:
    model = mm.load(CHECKPOINT)
    # Calibration reads text: here the library sources of the Python that runs this.
    graph = model.convert("a14", calibrate="stdlib")
    graph.save(folder / "model.graph")
    ratio, agreement = graph.quality["perplexity_ratio"], graph.quality["greedy_agreement"]
    print(f"perplexity ratio {ratio:.5f}, greedy token equal in {100 * agreement:.2f} %")
    # The first block, node by node: what each reads, what it sends and in which format, and what
    # its program costs.
    print("\n".join(str(graph).splitlines()[3:17]))


if __name__ == "__main__":
    main(Path(sys.argv[1]) if len(sys.argv) > 1 else Path("examples-output"))
