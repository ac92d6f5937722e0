"""The formulas of `mmfree_neuro.cost.timing` beside a discrete-event simulation of the same
mappings.

A small random model of two blocks of 64 channels, and one block of the 370M model, on one chip and
on three.  A row is the time of a token as simulated, over that of the formula; without a barrier in
prefill it is a mean over tokens that come in bursts, good to a twentieth (in disorder, to a tenth),
and the mean from the first start to the last end, never below 1, stands beside it.  None is written
unless every resource of the simulation works as long for a token as the formulas say, and nothing
with a barrier is faster than its formula. Run: pip install simpy; python
examples/benchmarks/discrete_check.py
"""

import math
import tempfile
import time
from collections.abc import Iterator
from itertools import count, pairwise
from pathlib import Path

import numpy as np
from rows import write

from mmfree_kernels.float_model.calibrate import calibrate
from mmfree_neuro.cost import timing
from mmfree_neuro.cost.constants import central
from mmfree_neuro.cost.counted import counted
from mmfree_neuro.cost.load import MESH, PER_CORE, Load, load
from mmfree_neuro.graph.nodes import Graph
from mmfree_neuro.graph.summary import summarise
from mmfree_neuro.hgrn_bit import lowering
from mmfree_neuro.hgrn_bit.config import ModelConfig
from mmfree_neuro.hgrn_bit.names import ternary_weights
from mmfree_neuro.hgrn_bit.synthetic import write_synthetic
from mmfree_neuro.lowering.scheme import SCHEMES
from mmfree_neuro.mapping.mapping import HOST, Location, Mapping, Shard
from mmfree_neuro.mapping.request import Request
from mmfree_neuro.pipeline import map
from mmfree_neuro.pipeline.families import read_checkpoint
from mmfree_neuro.run.activity import expected
from mmfree_neuro.systems.load import load_system
from mmfree_neuro.systems.spec import SystemSpec
from mmfree_neuro.testing import published_graph
from mmfree_partition.route import route
from mmfree_sims.second_opinions.discrete import Outcome, simulate

SMALL = ModelConfig(vocab_size=256, hidden_size=64, num_hidden_layers=2, intermediate_size=128)
FORMULAS = {
    "pipelined": timing.pipelined,
    "fall-through": timing.fall_through,
    "asynchronous prefill": timing.asynchronous_prefill,
    "asynchronous generation": timing.asynchronous_generation,
}
Case = tuple[str, Graph, Mapping, dict[str, tuple[int, int]]]
"""What it is, and the tokens and the payloads in a bundle of each mode."""


def small() -> Graph:
    """The small model in a16."""
    tokens = np.random.default_rng(3).integers(256, size=(4, 32))
    with tempfile.TemporaryDirectory() as folder:
        write_synthetic(Path(folder) / "model", SMALL)
        checkpoint = read_checkpoint(Path(folder) / "model")
        weights = ternary_weights(checkpoint)
        ranges = calibrate(checkpoint, tokens, SCHEMES["a16"], weights=weights)
        return lowering.lower(checkpoint, weights, ranges, SCHEMES["a16"], "synthetic")


def disorder(graph: Graph, seed: int) -> Mapping:
    """Every node in up to three parts, each on any of twelve cores of three chips."""
    rng = np.random.default_rng(seed)
    shards, locations = [Shard(graph.embedding.name, 0, graph.embedding.size)], [Location(HOST, 0)]
    for node in graph.nodes[1:]:
        edges = {node.size * k // 3 for k in range(4)}
        for start, stop in pairwise(sorted(edges)):
            shards.append(Shard(node.name, start, stop))
            locations.append(Location(int(rng.integers(3)), int(rng.integers(12))))
    return Mapping(
        "",
        "",
        "disorder",
        tuple(shards),
        tuple(locations),
        route(graph, tuple(shards), tuple(locations)),
    )


def chain(graph: Graph) -> Mapping:
    """Every node on a core of its own, one after another on three chips."""
    nodes, cores = graph.nodes, count()
    shards = tuple(Shard(node.name, 0, node.size) for node in nodes)
    places = (Location(3 * k // len(nodes), next(cores)) for k in range(1, len(nodes)))
    locations = Location(HOST, 0), *places
    return Mapping("", "", "chain", shards, locations, route(graph, shards, locations))


def cases(system: SystemSpec) -> Iterator[Case]:
    """The mappings to look at."""
    exact = dict.fromkeys(FORMULAS, (1, 1)) | {"asynchronous prefill": (560, 16)}
    graph = small()
    yield "2 blocks of 64, a core for every node, 3 chips", graph, chain(graph), exact
    asked = Request("block-per-chip", cores=5)
    yield (
        "2 blocks of 64, a block on each chip, 3 chips",
        *map.place(graph, "", system, asked),
        exact,
    )
    yield "2 blocks of 64, in disorder, 3 chips", graph, disorder(graph, 0), exact
    block = published_graph("370m", blocks=1)
    bundled = dict.fromkeys(FORMULAS, (1, 8)) | {"asynchronous prefill": (240, 256)}
    for placer, chips in (("block-per-chip", 1), ("chain", 3)):
        asked = Request(placer, chips=chips, head_on_host=True)
        yield (
            f"1 block of 370M, {placer}, {chips} chips",
            *map.place(block, "", system, asked),
            bundled,
        )


def agree(found: Outcome, load: Load, system: SystemSpec) -> None:
    """Stop where the busiest server of a resource works longer or shorter than the formulas say."""
    uses = dict(load.per_core)
    if found.mode == "fall-through":
        uses["instructions"] = uses["instructions"] + load.guards.sum(0) - load.guards
    wanted = {name: uses[name].sum(0).max() for name in PER_CORE} | {
        MESH: load.whole_mesh.messages[0]
    }
    for name, most in wanted.items():
        ns = getattr(system.chip, PER_CORE.get(name, "time_per_hop_ns")).central
        if not math.isclose(found.busiest(name), most * ns * 1e-9, rel_tol=1e-9, abs_tol=1e-15):
            wrong = f"{name} take {found.busiest(name)} s, must be {most * ns * 1e-9} s"
            raise SystemExit(f"{found.mode}: {wrong}: no row is written")


def row(what: str, load: Load, found: Outcome, formula_s: float) -> dict[str, object]:
    """One row; barriers, which are the same in both, are taken off once."""
    ratio, barriers_s = (
        found.seconds_per_token / formula_s,
        found.seconds_per_token - sum(found.steps),
    )
    beside = (
        (found.seconds_per_token - barriers_s) / (formula_s - barriers_s) if found.steps else ratio
    )
    if found.steps and ratio < 1 - 1e-9:
        raise SystemExit(
            f"{what}: the simulation takes {ratio} of the formula, must be at least 1: no row "
            "is written"
        )
    return {
        "what": f"{what}, {found.mode}",
        "value": round(ratio, 3),
        "unit": "simulated / formula",
        "without_barriers": round(beside, 3),
        "from_start_to_end": round(found.seconds / found.tokens / formula_s, 3),
        "simulated_us_per_token": round(found.seconds_per_token * 1e6, 3),
        "formula_us_per_token": round(formula_s * 1e6, 3),
        "tokens": found.tokens,
        "steps": load.steps,
        "chips": load.chips,
        "cores": len(load.cores),
    }


def rows(system: SystemSpec) -> Iterator[dict[str, object]]:
    """A row for every case and mode."""
    for what, graph, mapping, how in cases(system):
        asked = load(counted(mapping, summarise(graph), expected(graph, mapping), system))
        for mode, formula in FORMULAS.items():
            (tokens, bundle), begin, estimate = (
                how[mode],
                time.perf_counter(),
                formula(asked, central(system)),
            )
            found = simulate(graph, mapping, system, mode, tokens, bundle=bundle)
            agree(found, asked, system)
            about = {
                "bundle": bundle,
                "slowest": estimate.resource,
                "took_s": round(time.perf_counter() - begin, 1),
            }
            yield row(what, asked, found, estimate.seconds_per_token.central) | about


if __name__ == "__main__":
    write("discrete_check", list(rows(load_system("kapoho-point"))))
