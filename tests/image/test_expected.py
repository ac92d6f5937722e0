"""What a token counts at most, all of its payloads non-zero, is what the lists and entries of an
image say."""

import numpy as np

from mmfree_neuro.graph.nodes import Graph
from mmfree_neuro.image.build import Builder
from mmfree_neuro.mapping.mapping import HOST, Location, Mapping
from mmfree_neuro.run.activity import expected
from mmfree_neuro.target.layout import TERNARY, Core, list_size


def synapses(core: Core) -> tuple[int, int]:
    """Weights of all lists of a core, and how many of them are not zero."""
    read = done = 0
    for axon in core.axon.tolist():
        at = axon & 0xFFFFFF
        for _ in range(axon >> 24):
            header = int(core.syn[at])
            count, ternary = header >> 16 & 0xFFFF, header & 15 == TERNARY
            words = core.syn[at + 1 : at + list_size(count, 2 if ternary else 0)]
            read += count
            done += sum(int(word).bit_count() for word in words) if ternary else count
            at += 1 + len(words)
    return read, done


def test_every_payload_reads_its_lists_and_travels_along_its_entries(
    graph: Graph, mapping: Mapping
) -> None:
    """The host's core is the embedding's, which no axon leads to."""
    counts = expected(graph, mapping)
    reads, deliveries = dict[Location, int](), dict[Location, int]()
    for place, count in zip(mapping.locations, counts.reads.tolist(), strict=True):
        reads[place] = reads.get(place, 0) + count
    for route, messages in zip(mapping.routes, counts.messages.tolist(), strict=True):
        place = mapping.locations[route.source]
        deliveries[place] = deliveries.get(place, 0) + messages * len(route.destinations)
    done = 0
    for chip, cores in Builder(graph, mapping, 2).chips():
        for core in cores:
            place = Location(chip, core.number)
            read, nonzero = synapses(core)
            assert read == reads[place]
            assert core.out[:, 2].sum() == deliveries.get(place, 0)
            done += nonzero
    on_chips = [place.chip != HOST for place in mapping.locations]
    # Of a matrix that is cut into shards, each is counted with its share of all weights that are
    # not zero, to the nearest.
    assert abs(done - counts.synops[on_chips].sum()) <= np.count_nonzero(on_chips)
