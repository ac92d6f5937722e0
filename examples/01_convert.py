"""1. A trained checkpoint becomes integers: convert it, see what that cost, and look at a few
nodes.

Run: python examples/01_convert.py [OUTPUT FOLDER]
"""

import sys
from pathlib import Path

from mmfree_neuro.lowering.scheme import SCHEMES
from mmfree_neuro.pipeline import convert
from mmfree_neuro.report import terminal

CHECKPOINT = Path(__file__).parent / "checkpoints" / "stdlib-5m"


def main(folder: Path) -> None:
    # Calibration reads text: here the library sources of the Python that runs this.
    graph = convert.convert(CHECKPOINT, folder / "model.graph", SCHEMES["a16"], "stdlib")
    print(terminal.quality(graph.quality))
    # The first block, node by node: what each reads, what it sends and in which format, and what
    # its program costs.
    print("\n".join(terminal.graph_text(graph).splitlines()[3:17]))


if __name__ == "__main__":
    main(Path(sys.argv[1]) if len(sys.argv) > 1 else Path("examples-output"))
