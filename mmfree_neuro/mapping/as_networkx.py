"""Graphs and mappings as networkx graphs, for analysis of the user's own."""

import networkx as nx

from mmfree_neuro.graph.nodes import Graph
from mmfree_neuro.graph.summary import summarise
from mmfree_neuro.mapping.mapping import Mapping


def graph_to_networkx(graph: Graph) -> "nx.MultiDiGraph[str]":
    """Nodes by name with `kind`, `size` and `instructions` (of a visit to a neuron with a token);
    an edge for every input.

    Edges carry `port`, `source_port`, `how`, and `synapses`, the ternary weights behind them.
    """
    found: nx.MultiDiGraph[str] = nx.MultiDiGraph(name=graph.name, scheme=graph.scheme)
    for node, about in zip(graph.nodes, summarise(graph).nodes, strict=True):
        found.add_node(
            node.name,
            kind=about.kind,
            size=about.size,
            instructions=sum(about.instructions.values()),
        )
        for entry in node.inputs:
            synapses = 0 if entry.matrix is None else int(entry.matrix.size)
            found.add_edge(
                entry.source,
                node.name,
                port=entry.port,
                source_port=entry.source_port,
                how=entry.how,
                synapses=synapses,
            )
    return found


def mapping_to_networkx(mapping: Mapping) -> "nx.DiGraph[tuple[int, int]]":
    """Cores (chip, core) with their `shards`; an edge where payloads travel, with how many a token
    at most.

    The host is (-1, 0).
    """
    found: nx.DiGraph[tuple[int, int]] = nx.DiGraph(system=mapping.system, placer=mapping.placer)
    for shard, place in zip(mapping.shards, mapping.locations, strict=True):
        key = place.chip, place.core
        if key not in found:
            found.add_node(key, shards=[])
        found.nodes[key]["shards"].append(f"{shard.node}[{shard.start}:{shard.stop}]")
    for route in mapping.routes:
        source = mapping.locations[route.source]
        for destination in route.destinations:
            ends = (source.chip, source.core), (destination.chip, destination.core)
            before = found.edges[ends]["payloads"] if found.has_edge(*ends) else 0
            found.add_edge(*ends, payloads=before + route.stop - route.start)
    return found
