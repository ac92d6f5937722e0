"""2. The graph is mapped onto chips, twice: packed into few cores, and one block per chip as in the
literature.

Run after 01: python examples/02_map.py [OUTPUT FOLDER]
"""

import sys
from pathlib import Path

from mmfree_neuro.mapping.as_networkx import mapping_to_networkx
from mmfree_neuro.mapping.request import Request
from mmfree_neuro.pipeline import map
from mmfree_neuro.report import terminal


def main(folder: Path) -> None:
    graph_file = folder / "model.graph"
    graph, packed = map.map_graph(
        graph_file, "kapoho-point", folder / "packed.map", Request(chips=8)
    )
    print(
        terminal.mapping(
            graph, packed.mapping, packed.system, map.bounds(graph, packed.mapping, packed.system)
        )
    )
    graph, spread = map.map_graph(
        graph_file, "kapoho-point", folder / "spread.map", Request("block-per-chip", cores=16)
    )
    print(
        terminal.mapping(
            graph, spread.mapping, spread.system, map.bounds(graph, spread.mapping, spread.system)
        )
    )
    # For analysis of your own, a mapping is a networkx graph of cores.
    cores = mapping_to_networkx(packed.mapping)
    busiest = max(cores.edges(data="payloads"), key=lambda edge: edge[2])
    print(
        f"busiest connection: {busiest[0]} -> {busiest[1]}, at most {busiest[2]} payloads a token"
    )


if __name__ == "__main__":
    main(Path(sys.argv[1]) if len(sys.argv) > 1 else Path("examples-output"))
