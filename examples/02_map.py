"""2. The graph is mapped onto chips, twice: packed into few cores, and one block per chip as in the
literature.

Run after 01: python examples/02_map.py [OUTPUT FOLDER]
"""

import sys
from pathlib import Path

import mmfree_neuro as mm
from mmfree_neuro.mapping.as_networkx import mapping_to_networkx


def main(folder: Path) -> None:
    graph = mm.load(folder / "model.graph")
    packed = graph.map("kapoho-point", chips=8)
    packed.save(folder / "packed.map")
    print(packed)
    spread = graph.map("kapoho-point", placer="block-per-chip", cores=16)
    spread.save(folder / "spread.map")
    print(spread)
    packed.plot("cores-by-kind").savefig(folder / "cores.png")
    # For analysis of your own, a mapping is a networkx graph of cores.
    cores = mapping_to_networkx(packed.mapping)
    busiest = max(cores.edges(data="payloads"), key=lambda edge: edge[2])
    print(
        f"busiest connection: {busiest[0]} -> {busiest[1]}, at most {busiest[2]} payloads a token"
    )


if __name__ == "__main__":
    main(Path(sys.argv[1]) if len(sys.argv) > 1 else Path("examples-output"))
