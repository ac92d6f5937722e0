"""The Lava engine must give the bits of the reference, whatever the mapping, the processes and the
delays."""

from collections.abc import Callable
from dataclasses import replace
from itertools import pairwise
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from mmfree_neuro.errors import EngineError, InputError
from mmfree_neuro.graph import graph_file
from mmfree_neuro.graph.nodes import (
    Gain,
    Graph,
    InverseRms,
    Norm,
    Quantise,
    QuantScale,
    Relay,
    block_of,
)
from mmfree_neuro.graph.partial_sums import by_columns, evenly
from mmfree_neuro.mapping import mapping_file
from mmfree_neuro.mapping.mapping import HOST, Location, Mapping, Shard
from mmfree_neuro.mapping.request import Request
from mmfree_neuro.pipeline.map import place
from mmfree_neuro.run.job import Job
from mmfree_neuro.systems.load import load_system
from mmfree_neuro.testing import with_room
from mmfree_partition.check import check
from mmfree_partition.route import route
from mmfree_sims.tiles.plan import Plan, by_chip

pytest.importorskip("lava")

from mmfree_sims.lava import engine

pytestmark = pytest.mark.lava

SYSTEM = with_room(load_system("kapoho-point"))


def chain(graph: Graph, digest: str) -> Mapping:
    """Whole nodes in the graph's order, a third on each of three chips, two cores each."""
    shards = tuple(Shard(node.name, 0, node.size) for node in graph.nodes)
    halves = [6 * n // (len(shards) - 1) for n in range(len(shards) - 1)]
    places = (Location(HOST, 0), *(Location(half // 2, half % 2) for half in halves))
    return Mapping(digest, SYSTEM.name, "chain", shards, places, route(graph, shards, places))


def scattered(graph: Graph, digest: str) -> Mapping:
    """Nodes cut at random and thrown onto three cores of each of three chips, so that all chips
    send to each other."""
    random = np.random.default_rng(7)
    shards = [Shard(graph.nodes[0].name, 0, graph.nodes[0].size)]
    for node in graph.nodes[1:]:
        inner = random.integers(1, node.size, random.integers(0, 3)) if node.size > 1 else []
        cuts = sorted({0, node.size, *(int(cut) for cut in inner)})
        shards += [Shard(node.name, start, stop) for start, stop in pairwise(cuts)]
    places = (
        Location(HOST, 0),
        *(Location(*map(int, random.integers(0, 3, 2))) for _ in shards[1:]),
    )
    mapping = Mapping(
        digest, SYSTEM.name, "scattered", tuple(shards), places, route(graph, tuple(shards), places)
    )
    linked = Plan(graph, mapping, by_chip).linked()
    if any(isinstance(node, InverseRms | QuantScale) for node in graph.nodes):  # or there are few
        assert all(set(linked[chip]) >= {0, 1, 2} - {chip} for chip in range(3))
    return mapping


def block_per_chip(graph: Graph, digest: str) -> Mapping:
    _, mapping = place(graph, digest, SYSTEM, Request("block-per-chip", cores=3))
    assert mapping.chips == (0, 1, 2)
    return mapping


MAPPINGS = {"chain": chain, "scattered": scattered, "block-per-chip": block_per_chip}
GRAPHS = {
    f"{number}-{scheme}": (model, scheme)
    for number, model in ((1, "two-blocks"), (2, "two-other-blocks"))
    for scheme in ("a16", "a8")
} | {
    "1-a14": ("two-blocks", "a14"),
    "2-wraps": ("two-other-blocks", "wraps"),
    "1-late": ("two-blocks", "a14-late"),
    "1-local": ("two-blocks", "a14-local"),
}

# Lava forks; the parent that forks must not have torch in memory, as the process of these tests
# has.
COMPARE = """
    import multiprocessing
    import os
    import sys
    from multiprocessing import shared_memory
    from pathlib import Path

    import numpy as np

    from mmfree_neuro.run import reference
    from mmfree_neuro.pipeline import opened
    from mmfree_neuro.run.job import Job, silent
    from mmfree_neuro.run.sampling import Sampling
    from mmfree_sims import fast
    from mmfree_sims.lava import engine


    def delayed(graph, mapping, job):
        return engine._run(graph, mapping, job, silent, None, per_core=False, jitter_us=300)


    mine = f"t{os.getpid()}_"
    # so that this program's memory is known from that of others
    shared_memory._SHM_NAME_PREFIX = f"/{mine}"
    for path in sys.argv[1:]:
        graph, stored = opened.open_mapped(Path(path))
        random = np.random.default_rng(3)
        jobs = [
            (
                Job(random.integers(0, 256, (2, 6)), 4, Sampling(0.8, seed=4)),
                (engine.run_per_core, delayed),
            ),
            (Job(random.integers(0, 256, (1, 3)), 0), (engine.run,)),
        ]
        for job, engines in jobs:
            expected = reference.run(graph, stored.mapping, job)
            assert expected.prefill.tokens == job.tokens.size
            assert expected.prefill.messages.sum() > 0
            for run in (fast.run, *engines):
                found = run(graph, stored.mapping, job)
                who = path, run.__name__
                assert found.logits.dtype == expected.logits.dtype == np.int64, who
                assert np.array_equal(found.logits, expected.logits), who
                assert np.array_equal(found.chosen, expected.chosen), who
                assert found.prefill == expected.prefill, who
                assert found.generate == expected.generate, who
                assert set(found.seconds) == {"start", "prefill", "generate"}, who
        print(Path(path).name)
    assert "torch" not in sys.modules
    assert multiprocessing.active_children() == []
    assert not [name for name in os.listdir("/dev/shm") if name.startswith(mine)]
"""


@pytest.fixture(scope="module")
def graphs(
    tmp_path_factory: pytest.TempPathFactory, random_graph: Callable[[str, str], Graph]
) -> dict[str, Path]:
    folder = tmp_path_factory.mktemp("graphs")
    paths = {name: folder / f"{name}.graph" for name in GRAPHS}
    for name, path in paths.items():
        graph_file.save_graph(random_graph(*GRAPHS[name]), path)
    return paths


@pytest.mark.parametrize("name", MAPPINGS)
def test_every_engine_gives_the_bits_of_the_reference(
    name: str, graphs: dict[str, Path], tmp_path: Path, run_python: Callable[..., Any]
) -> None:
    """Fast, Lava per chip (also with random delays) and per core; 2 checkpoints, 3 schemes,
    and sums that wrap."""
    for graph_name, path in graphs.items():
        graph, digest = graph_file.load_graph(path)
        mapping = check(graph, MAPPINGS[name](graph, digest), SYSTEM)
        mapping_file.save_mapping(
            mapping_file.StoredMapping(mapping, SYSTEM, path), tmp_path / f"{graph_name}.map"
        )
    paths = sorted(tmp_path.glob("*.map"))
    assert run_python(COMPARE, *paths).stdout.split() == [path.name for path in paths]


def test_a_divided_graph_with_copies_and_its_head_on_the_host(
    graphs: dict[str, Path], tmp_path: Path, run_python: Callable[..., Any]
) -> None:
    """As above, on the scattered mapping; the nodes behind the last block are the host's, partial
    sums among them.

    A half of every norm in a block, or of its codes, lies on each of two more cores; one more copy
    is read by nobody.
    """
    parts = (("layers.0.mlgru", 2), ("layers.1.down_proj", 5), ("head", 3))
    for name in ("1-a16", "1-late", "1-local", "2-a8", "2-wraps"):
        graph, digest = graph_file.load_graph(graphs[name])
        by = {"a8": "layers.0.mlp.scale", "local": "layers.0.glu"}
        squares = by.get(name[2:], "layers.0.mlp.rms")
        columns = evenly(graph, (*parts, (squares, 2)))
        divided = by_columns(graph, columns)
        mapping = scattered(divided, digest)
        shards = list(mapping.shards)
        places = [
            place if block_of(shard.node) is not None else Location(HOST, 0)
            for shard, place in zip(shards, mapping.locations, strict=True)
        ]
        for node in (  # a relay has one neuron, and so one half
            n
            for n in divided.nodes
            if isinstance(n, Norm | Gain | Quantise | Relay) and block_of(n.name) is not None
        ):
            halves = [
                Shard(node.name, 0, node.size // 2),
                Shard(node.name, node.size // 2, node.size),
            ]
            for half, core in zip(halves, (Location(0, 0), Location(2, 1)), strict=True):
                shards += [half] if half.size else []
                places += [core] if half.size else []
        shards.append(Shard(node.name, 0, min(2, node.size)))
        places.append(Location(5, 0))
        routes = route(divided, tuple(shards), tuple(places))
        mapping = replace(
            mapping, shards=tuple(shards), locations=tuple(places), routes=routes, columns=columns
        )
        mapping_file.save_mapping(
            mapping_file.StoredMapping(mapping, SYSTEM, graphs[name]), tmp_path / f"{name}.map"
        )
    paths = sorted(tmp_path.glob("*.map"))
    names = ["1-a16.map", "1-late.map", "1-local.map", "2-a8.map", "2-wraps.map"]
    assert run_python(COMPARE, *paths).stdout.split() == names


def test_progress_is_reported(
    graphs: dict[str, Path], tmp_path: Path, run_python: Callable[..., Any]
) -> None:
    graph, digest = graph_file.load_graph(graphs["1-a16"])
    path = tmp_path / "1.map"
    mapping_file.save_mapping(
        mapping_file.StoredMapping(chain(graph, digest), SYSTEM, graphs["1-a16"]), path
    )
    program = """
        import sys
        from pathlib import Path

        import numpy as np

        from mmfree_neuro.pipeline import opened
        from mmfree_neuro.run.job import Job
        from mmfree_sims.lava import engine

        graph, stored = opened.open_mapped(Path(sys.argv[1]))
        told = []
        job = Job(np.arange(8).reshape(2, 4), 3)
        result = engine.run(graph, stored.mapping, job, lambda *what: told.append(what))
        done = [number for phase, number, *_ in told if phase == "prefill"]
        assert done == sorted(set(done))
        assert {(phase, total) for phase, _, total, _ in told} == {("prefill", 8), ("generate", 6)}
        assert [one[:3] for one in told].count(("prefill", 8, 8)) == 1
        assert told[-1][:3] == ("generate", 6, 6)
        assert not any(chosen for phase, *_, chosen in told if phase == "prefill")
        assert [token for *_, chosen in told for token in chosen] == result.chosen.ravel().tolist()
    """
    run_python(program, path)


def test_too_many_cores_to_be_processes(graphs: dict[str, Path]) -> None:
    graph, digest = graph_file.load_graph(graphs["1-a16"])
    _, mapping = place(graph, digest, SYSTEM, Request("block-per-chip", cores=40))
    with pytest.raises(EngineError) as caught:
        engine.run_per_core(graph, mapping, Job(np.zeros((1, 1), np.int64)))
    assert str(caught.value) == (
        f"the mapping uses {len(mapping.cores)} cores, must use at most 60 to run one Lava "
        "process per core"
    )


def test_a_job_that_does_not_fit_never_starts(graphs: dict[str, Path]) -> None:
    graph, digest = graph_file.load_graph(graphs["1-a16"])
    with pytest.raises(InputError) as caught:
        engine.run(graph, chain(graph, digest), Job(np.array([[3, 256]])))
    assert str(caught.value) == "token 256 is outside the vocabulary, must be 0 … 255"
