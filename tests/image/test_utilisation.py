"""What Intel's compiler printed for the cores of public networks, counted from an image of the same
networks: input axons, neuron groups, neurons and entries of the outgoing map."""

from collections.abc import Callable
from dataclasses import replace
from itertools import pairwise
from pathlib import Path

import numpy as np
import pytest

from mmfree_neuro.graph.nodes import Graph, Head, Input, Output, PartialSum
from mmfree_neuro.graph.verify import verify
from mmfree_neuro.image.write import write_image
from mmfree_neuro.integers.fixedpoint import QType
from mmfree_neuro.integers.ternary import pack
from mmfree_neuro.mapping.footprint import limits
from mmfree_neuro.mapping.mapping import HOST, Location, Mapping, Shard
from mmfree_neuro.systems.spec import SystemSpec
from mmfree_neuro.target.layout import Core
from mmfree_partition.check import check
from mmfree_partition.route import route

CODE = QType(8, 0)


def used(core: Core) -> list[int]:
    """What a core has of each."""
    return [len(core.axon), len(core.group), int(core.group[:, 2].sum()), core.map_entries]


def network(hand_graph: Graph, *sizes: int) -> Graph:
    """Layers of so many neurons, of which each reads all of the one before; the first is the
    embedding, which the host sends, and the last is the head."""
    embedding = replace(
        hand_graph.embedding,
        size=sizes[0],
        outputs=tuple(replace(one, size=sizes[0]) for one in hand_graph.embedding.outputs),
        codes=np.ones((sizes[-1], sizes[0]), np.int8),
        scales=np.ones(sizes[-1], np.int64),
    )
    nodes: list[PartialSum | Head] = []
    source, port = "embedding", "x"
    for number, (columns, rows) in enumerate(pairwise(sizes)):
        codes = np.zeros((rows, columns), np.int8)
        codes[np.arange(rows), np.arange(rows) % columns] = 1
        inputs = (Input("y", source, port, "ternary", pack(codes)),)
        if number < len(sizes) - 2:
            source, port = f"layers.{number}.y", "sum"
            nodes.append(PartialSum(source, rows, inputs, (Output(port, rows, CODE),)))
        else:
            nodes.append(
                replace(
                    hand_graph.head,
                    size=rows,
                    inputs=inputs,
                    outputs=(Output("logits", rows, CODE),),
                )
            )
    return replace(hand_graph, nodes=(embedding, *nodes), blocks=len(nodes) - 1)


Cores = Callable[[Graph, list[list[tuple[str, int, int]]]], list[Core]]


@pytest.fixture
def cores_of(system: SystemSpec, tmp_path: Path) -> Cores:
    """The function that gives the cores of a graph's image, from the shards of each core."""

    def made(graph: Graph, shards_of: list[list[tuple[str, int, int]]]) -> list[Core]:
        shards = [Shard("embedding", 0, graph.embedding.size)]
        places = [Location(HOST, 0)]
        for number, some in enumerate(shards_of):
            shards += [Shard(*one) for one in some]
            places += [Location(0, number)] * len(some)
        routes = route(graph, tuple(shards), tuple(places))
        mapping = Mapping("", system.name, "hand", tuple(shards), tuple(places), routes)
        check(verify(graph), mapping, system)
        return list(write_image(graph, mapping, system, "0" * 64, tmp_path / "image").chips[0])

    return made


def test_an_image_classifier(hand_graph: Graph, cores_of: Cores, system: SystemSpec) -> None:
    """784 pixels, layers of 64, 64 and 10, each on a core: 4.90 % of the input axons, 12.5 % of the
    groups, 1.56 % of the neurons and 0.40 % of the map are what the first takes."""
    graph = network(hand_graph, 784, 64, 64, 10)
    cores = cores_of(graph, [[("layers.0.y", 0, 64)], [("layers.1.y", 0, 64)], [("head", 0, 10)]])
    assert [used(core) for core in cores] == [[784, 1, 64, 64], [64, 1, 64, 64], [64, 1, 10, 10]]
    assert percentages(cores[0], system) == ["4.90", "12.50", "1.56", "0.40"]


def test_two_groups_of_a_core(hand_graph: Graph, cores_of: Cores, system: SystemSpec) -> None:
    """256 neurons in two groups: 25 % of the groups, 6.25 % of the neurons, 1.60 % of the map."""
    graph = network(hand_graph, 784, 128, 128, 10)
    both = [("layers.0.y", 0, 128), ("layers.1.y", 0, 128)]
    cores = cores_of(graph, [both, [("head", 0, 10)]])
    assert used(cores[0]) == [784 + 128, 2, 256, 256]
    assert percentages(cores[0], system)[1:] == ["25.00", "6.25", "1.60"]


def percentages(core: Core, system: SystemSpec) -> list[str]:
    """What a core has, as Intel's compiler prints it."""
    room = limits(system.chip)
    most = [room[name] for name in ("input_axons", "groups", "neurons", "map_entries")]
    return [f"{100 * has / (of or 0):.2f}" for has, of in zip(used(core), most, strict=True)]


def test_the_dense_layers_of_pilotnet(hand_graph: Graph, cores_of: Cores) -> None:
    """2,560 values from two cores, 100 neurons on twelve, then 50, 10 and 1.

    The compiler printed 2560, 1, 8, 8 for a core of the twelve; 100, 1, 50, 50 and 50, 1, 10, 10
    and 10, 1, 1, 1 for the others; and 1,280 entries for each of the two, although each of their
    payloads goes to twelve cores.
    """
    graph = network(hand_graph, 4, 2560, 100, 50, 10, 1)
    cuts = [8 * k for k in range(9)] + [73, 82, 91, 100]
    twelve = [[("layers.1.y", *cut)] for cut in pairwise(cuts)]
    halves = [[("layers.0.y", 0, 1280)], [("layers.0.y", 1280, 2560)]]
    last = [[("layers.2.y", 0, 50)], [("layers.3.y", 0, 10)], [("head", 0, 1)]]
    cores = cores_of(graph, [*halves, *twelve, *last])
    assert [used(core)[1:] for core in cores[:2]] == [[1, 1280, 1280]] * 2
    assert [len(core.out) for core in cores[:2]] == [12] * 2
    assert [used(core) for core in cores[2:10]] == [[2560, 1, 8, 8]] * 8
    assert [used(core) for core in cores[14:]] == [[100, 1, 50, 50], [50, 1, 10, 10], [10, 1, 1, 1]]
