"""Our counts of a small random model beside those of SANA-FE, which replays the same events on its
Loihi.

Two blocks of 64 channels, in all schemes on three mappings.  A row has the count of all tokens;
none is written unless every count of every token is equal, and the energies are to a part in 10⁹.
Run: pip install sanafe; python examples/benchmarks/sanafe_check.py
"""

import importlib.metadata
import tempfile
from collections.abc import Callable, Iterator
from itertools import count, pairwise
from pathlib import Path

import numpy as np
from rows import write

from mmfree_kernels.float_model.calibrate import calibrate
from mmfree_neuro.graph.nodes import AnyNode, Graph, block_of
from mmfree_neuro.hgrn_bit import lowering
from mmfree_neuro.hgrn_bit.config import ModelConfig
from mmfree_neuro.hgrn_bit.names import ternary_weights
from mmfree_neuro.hgrn_bit.synthetic import write_synthetic
from mmfree_neuro.lowering.scheme import SCHEMES
from mmfree_neuro.mapping.mapping import HOST, Location, Mapping, Shard
from mmfree_neuro.pipeline.families import read_checkpoint
from mmfree_neuro.run.job import Job
from mmfree_partition.route import route
from mmfree_sims import fast
from mmfree_sims.second_opinions.sanafe import Opinion, compare, record

MODEL = ModelConfig(vocab_size=256, hidden_size=64, num_hidden_layers=2, intermediate_size=128)
TOKENS = 32


def graphs(tokens: np.ndarray) -> Iterator[Graph]:
    """The model in every scheme."""
    with tempfile.TemporaryDirectory() as folder:
        write_synthetic(Path(folder) / "model", MODEL)
        checkpoint = read_checkpoint(Path(folder) / "model")
        weights = ternary_weights(checkpoint)
        for scheme in SCHEMES.values():
            ranges = calibrate(checkpoint, tokens, scheme, weights=weights)
            yield lowering.lower(checkpoint, weights, ranges, scheme, "synthetic")


def placed(graph: Graph, parts: int, place: Callable[[AnyNode, int], Location]) -> Mapping:
    """Every node in even parts, each where it is told."""
    shards, locations = [Shard(graph.embedding.name, 0, graph.embedding.size)], [Location(HOST, 0)]
    for node in graph.nodes[1:]:
        for number, (start, stop) in enumerate(
            pairwise(sorted({node.size * k // parts for k in range(parts + 1)}))
        ):
            shards.append(Shard(node.name, start, stop))
            locations.append(place(node, number))
    routes = route(graph, tuple(shards), tuple(locations))
    return Mapping("", "", "by hand", tuple(shards), tuple(locations), routes)


def mappings(graph: Graph) -> dict[str, Mapping]:
    """A core for every node; a chip of four cores for every block and for the head; and disorder on
    four chips."""
    rng, cores = np.random.default_rng(5), count()
    block = {node.name: block_of(node.name) for node in graph.nodes}
    chips = {name: graph.blocks if number is None else number for name, number in block.items()}
    return {
        "a core a node": placed(graph, 1, lambda *_: Location(0, next(cores))),
        "a chip a block": placed(graph, 4, lambda node, part: Location(chips[node.name], part)),
        "scattered": placed(graph, 12, lambda *_: Location(*rng.integers((4, 12)).tolist())),
    }


def rows(found: Opinion, what: str, about: dict[str, object]) -> Iterator[dict[str, object]]:
    """Every count and energy, and SANA-FE's."""
    for name, unit, ours, theirs in (
        ("synaptic events", "events", sum(found.ours.synops), sum(found.theirs.synops)),
        ("fires", "payloads", sum(found.ours.fires), sum(found.theirs.fires)),
        ("updates", "programs run", sum(found.ours.updates), sum(found.theirs.updates)),
        ("packets", "messages to a core", sum(found.ours.packets), sum(found.theirs.packets)),
        ("synapse energy", "pJ", found.our_energies.synapse_pj, found.their_energies.synapse_pj),
        ("soma energy", "pJ", found.our_energies.soma_pj, found.their_energies.soma_pj),
    ):
        row = {
            "what": f"{what}, {name}",
            "value": round(ours, 1),
            "unit": unit,
            "sana_fe": round(theirs, 1),
        }
        yield (
            row
            | ({"messages_that_no_synapse_reads": sum(found.unread)} if name == "packets" else {})
            | about
        )


def main() -> None:
    tokens = np.random.default_rng(3).integers(MODEL.vocab_size, size=(4, TOKENS))
    written: list[dict[str, object]] = []
    for graph in graphs(tokens):
        payloads = record(graph, tokens[0])
        for name, mapping in mappings(graph).items():
            found = compare(graph, mapping, payloads)
            if not found.agrees:
                raise SystemExit(
                    f"{graph.scheme}, {name}: SANA-FE counts otherwise: no row is written\n{found}"
                )
            if (
                sum(found.ours.synops)
                != fast.run(graph, mapping, Job(tokens[:1])).prefill.synops.sum()
            ):
                raise SystemExit(
                    f"{graph.scheme}, {name}: the fast engine counts otherwise: no row is written"
                )
            about = {"tokens": TOKENS, "chips": len(mapping.chips), "cores": len(mapping.cores)}
            written += rows(
                found,
                f"{graph.scheme}, {name}",
                about | {"sanafe": importlib.metadata.version("sanafe")},
            )
    write("sanafe_check", written)


if __name__ == "__main__":
    main()
