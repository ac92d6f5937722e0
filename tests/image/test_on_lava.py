"""Lava's chips keep their messages, so presence changes nothing there; what it costs is counted as
on the emulator, and the logits are those of the emulator, also without a barrier."""

from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from mmfree_neuro.graph import graph_file
from mmfree_neuro.graph.nodes import PRESENCE, Graph
from mmfree_neuro.image.write import write_image
from mmfree_neuro.mapping import mapping_file
from mmfree_neuro.mapping.mapping import Mapping
from mmfree_neuro.mapping.mapping_file import StoredMapping
from mmfree_neuro.pipeline import emulated
from mmfree_neuro.run.job import Job
from mmfree_neuro.systems.spec import SystemSpec
from mmfree_sims.emulator.emulator import Emulator, available

pytestmark = [
    pytest.mark.lava,
    pytest.mark.skipif(not available(), reason="needs the emulator in C"),
]

TOKENS, NEW = np.arange(3, 11)[None], 4

# Lava forks; the process of these tests may have torch in memory.
IN_LAVA = """
    import sys
    from dataclasses import replace
    from pathlib import Path

    import numpy as np

    from mmfree_neuro.graph.nodes import PRESENCE
    from mmfree_neuro.pipeline import opened
    from mmfree_neuro.run.job import Job
    from mmfree_partition.route import route
    from mmfree_sims.lava import engine

    graph, stored = opened.open_mapped(Path(sys.argv[1]))
    heedless = replace(
        graph,
        nodes=tuple(
            replace(n, inputs=tuple(i for i in n.inputs if i.port != PRESENCE)) for n in graph.nodes
        ),
    )
    mapping = stored.mapping
    fewer = replace(mapping, routes=route(heedless, mapping.shards, mapping.locations))
    job = Job(np.load(sys.argv[2]), int(sys.argv[3]))
    found = {}
    for name, some, places in (("with", graph, mapping), ("without", heedless, fewer)):
        result = engine.run(some, places, job)
        copies = [len(one.destinations) for one in places.routes]
        found |= {
            f"{name}.logits": result.logits,
            f"{name}.chosen": result.chosen,
            f"{name}.prefill": result.prefill.messages,
            f"{name}.generate": result.generate.messages,
            f"{name}.sent": copies @ (result.prefill.messages + result.generate.messages),
        }
    np.savez(sys.argv[4], **found)
"""


def presence_messages(graph: Graph, mapping: Mapping) -> int:
    """What a token costs: one message to each core that reads a signal for presence alone."""
    found = 0
    for place in mapping.cores:
        pairs = zip(mapping.shards, mapping.locations, strict=True)
        read: dict[bool, set[tuple[str, str]]] = {True: set(), False: set()}
        for node in {shard.node for shard, location in pairs if location == place}:
            for entry in graph.node(node).inputs:
                read[entry.port == PRESENCE].add((entry.source, entry.source_port))
        found += len(read[True] - read[False])
    return found


@pytest.mark.parametrize("scheme", ["a16", "a8"])
def test_presence_is_counted_and_changes_nothing(
    scheme: str,
    random_graph: Callable[[str, str], Graph],
    make_mapping: Callable[..., Mapping],
    system: SystemSpec,
    tmp_path: Path,
    run_python: Callable[..., Any],
) -> None:
    path = tmp_path / "model.graph"
    graph_file.save_graph(random_graph("16x1x24", scheme), path)
    graph, digest = graph_file.load_graph(path)
    mapping = replace(make_mapping(graph, "random", 3), graph=digest)
    mapping_file.save_mapping(StoredMapping(mapping, system, path), tmp_path / "model.map")
    np.save(tmp_path / "tokens.npy", TOKENS)
    run_python(
        IN_LAVA, tmp_path / "model.map", tmp_path / "tokens.npy", str(NEW), tmp_path / "found.npz"
    )
    lava = np.load(tmp_path / "found.npz")

    # With or without the inputs of presence: the same logits, and as many messages more as are read
    # for nothing else.
    for name in ("logits", "chosen"):
        assert np.array_equal(lava[f"with.{name}"], lava[f"without.{name}"])
    logits, chosen = lava["with.logits"][0], lava["with.chosen"][0]
    assert len(np.unique(logits, axis=0)) == len(logits) == TOKENS.size + NEW - 1
    per_token = presence_messages(graph, mapping)
    assert lava["with.sent"] - lava["without.sent"] == per_token * len(logits) > 0

    # The emulator with a barrier: the same logits and messages, route by route.
    write_image(graph, mapping, system, "0" * 64, tmp_path / "model.image")
    opened = emulated.OpenedImage(tmp_path / "model.image")
    ours = emulated.run(opened, Job(TOKENS, NEW))
    assert np.array_equal(ours.logits[0], logits) and np.array_equal(ours.chosen[0], chosen)
    assert np.array_equal(ours.prefill.messages, lava["with.prefill"])
    assert np.array_equal(ours.generate.messages, lava["with.generate"])

    # And with end markers: all tokens at once, and one by one.
    fed = np.concatenate([TOKENS[0], chosen[:-1]])
    session = emulated.Emulated(opened)
    assert np.array_equal(session.machine.asynchronous(fed, 5), logits)
    sent = session.activity(session.machine.take_counts(), len(fed)).messages
    assert np.array_equal(sent, lava["with.prefill"] + lava["with.generate"])
    alone = Emulator(opened.image)
    assert np.array_equal([alone.asynchronous([token], 5)[0] for token in fed], logits)
