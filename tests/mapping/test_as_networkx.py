"""Graphs and mappings as networkx graphs."""

import networkx as nx

from mmfree_neuro.graph.nodes import Graph
from mmfree_neuro.mapping.as_networkx import graph_to_networkx, mapping_to_networkx
from mmfree_neuro.mapping.mapping import Mapping


def test_a_graph_by_hand(hand_graph: Graph) -> None:
    found = graph_to_networkx(hand_graph)
    assert found.graph == {"name": "hand", "scheme": "a16"}
    assert found.nodes["head"] == {"kind": "Head", "size": 2, "instructions": 9}
    assert found.nodes["embedding"]["kind"] == "Embedding"
    assert list(found.edges(data=True)) == [
        ("embedding", "head", {"port": "y", "source_port": "x", "how": "ternary", "synapses": 6})
    ]


def test_a_graph_has_an_edge_for_every_input(graph: Graph) -> None:
    found = graph_to_networkx(graph)
    assert list(found) == [node.name for node in graph.nodes]
    assert found.number_of_edges() == sum(len(node.inputs) for node in graph.nodes)
    assert nx.is_directed_acyclic_graph(found)
    assert set(nx.ancestors(found, "head")) == set(found) - {"head"}


def test_a_mapping_by_hand(hand_mapping: Mapping) -> None:
    found = mapping_to_networkx(hand_mapping)
    assert found.graph == {"system": "kapoho-point", "placer": "hand"}
    assert dict(found.nodes(data="shards")) == {
        (-1, 0): ["embedding[0:3]"],
        (0, 0): ["head[0:1]"],
        (0, 1): ["head[1:2]"],
    }
    assert {(a, b): n for a, b, n in found.edges(data="payloads")} == {
        ((-1, 0), (0, 0)): 3,
        ((-1, 0), (0, 1)): 3,
        ((0, 0), (-1, 0)): 1,
        ((0, 1), (-1, 0)): 1,
    }


def test_a_mapping_has_all_payloads(mapping: Mapping) -> None:
    found = mapping_to_networkx(mapping)
    assert set(found) == {(place.chip, place.core) for place in mapping.locations}
    assert sum(n for _, _, n in found.edges(data="payloads")) == sum(
        (r.stop - r.start) * len(r.destinations) for r in mapping.routes
    )
    assert sum(len(held) for _, held in found.nodes(data="shards")) == len(mapping.shards)
