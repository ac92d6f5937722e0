"""Shards cover every neuron once, and each fits an empty core."""

from collections import Counter
from collections.abc import Callable

import numpy as np
import pytest

from mmfree_neuro.errors import CapacityError
from mmfree_neuro.footprint import EMPTY, Footprint, footprint, limits, use_of_cores
from mmfree_neuro.hardware import SystemSpec
from mmfree_neuro.ir import Graph, block_of
from mmfree_neuro.mapping import Location, Mapping, Shard
from mmfree_partition.split import split

Change = Callable[..., SystemSpec]


def covered(graph: Graph, shards: tuple[Shard, ...]) -> bool:
    """Whether the shards are the graph's nodes, in order, cut in pieces."""
    expected = [(node.name, neuron) for node in graph.nodes for neuron in range(node.size)]
    return [(s.node, neuron) for s in shards for neuron in range(s.start, s.stop)] == expected


@pytest.mark.parametrize("memory", [196608, 6000, 3000])
@pytest.mark.parametrize("cores", [None, 1, 7, 40])
def test_shards_cover_the_graph_and_fit(
    memory: int, cores: int | None, graph: Graph, system: SystemSpec, with_figures: Change
) -> None:
    chip = with_figures(system, memory_bytes_per_core=memory, input_axons_per_core=300).chip
    shards = split(graph, chip, cores)
    assert covered(graph, shards)
    assert shards[0] == Shard("embedding", 0, graph.embedding.size)
    for shard in shards[1:]:
        assert footprint(graph, graph.node(shard.node), shard, 2).fits(limits(chip))
    for node in graph.nodes:
        sizes = [shard.size for shard in shards if shard.node == node.name]
        assert max(sizes) - min(sizes) <= 1


def test_without_a_number_of_cores_there_are_as_few_as_fit(
    graph: Graph, system: SystemSpec, with_figures: Change
) -> None:
    assert len(split(graph, system.chip)) == len(graph.nodes)
    chip = with_figures(system, neurons_per_core=50).chip
    assert len(split(graph, chip)) == 1 + sum(-(-node.size // 50) for node in graph.nodes[1:])


@pytest.mark.parametrize("cores", [40, 120])
def test_a_block_is_spread_over_the_cores(cores: int, graph: Graph, system: SystemSpec) -> None:
    shards = split(graph, system.chip, cores)
    for block in (0, 1):
        assert sum(block_of(shard.node) == block for shard in shards) == cores


def test_a_block_that_needs_more_cores_is_spread_over_a_multiple(
    graph: Graph, system: SystemSpec, with_figures: Change
) -> None:
    chip = with_figures(system, neurons_per_core=50).chip
    for block in (0, 1, None):
        least = sum(block_of(shard.node) == block for shard in split(graph, chip)[1:])
        spread = sum(block_of(shard.node) == block for shard in split(graph, chip, 5)[1:])
        assert least > 5
        assert spread == -(-least // 5) * 5


@pytest.mark.parametrize("cores", range(20, 60, 3))
def test_the_heaviest_node_gets_the_next_core(cores: int, graph: Graph, system: SystemSpec) -> None:
    parts = Counter(shard.node for shard in split(graph, system.chip, cores) if block_of(shard.node) == 0)
    loads = {}
    for name in parts:
        node = graph.node(name)
        loads[name] = node.size * 64 + sum(entry.matrix.size for entry in node.inputs if entry.matrix is not None)
    heaviest = max(loads[name] / count for name, count in parts.items() if count < graph.node(name).size)
    for name, count in parts.items():  # with one part less, this node would have been the heaviest
        assert count == 1 or loads[name] / (count - 1) >= heaviest


def test_never_more_parts_than_neurons(hand_graph: Graph, system: SystemSpec) -> None:
    assert split(hand_graph, system.chip, 9) == (Shard("embedding", 0, 3), Shard("head", 0, 1), Shard("head", 1, 2))


def test_one_neuron_fits_a_core(hand_graph: Graph, system: SystemSpec, with_figures: Change) -> None:
    with pytest.raises(CapacityError) as error:
        split(hand_graph, with_figures(system, input_axons_per_core=2).chip)
    assert str(error.value) == "head: not even one neuron fits a core of loihi2"


def test_a_footprint_by_hand(hand_graph: Graph) -> None:
    # Six 2-bit weights are two bytes, three of them one; a word of accumulator a neuron; three axons.
    assert footprint(hand_graph, hand_graph.head, Shard("head", 0, 2), 2) == Footprint(2 + 8, 2, 2, 4, 3)
    assert footprint(hand_graph, hand_graph.head, Shard("head", 1, 2), 2) == Footprint(1 + 4, 1, 1, 4, 3)


def test_the_use_of_cores_by_hand(hand_graph: Graph, hand_mapping: Mapping) -> None:
    assert use_of_cores(hand_graph, hand_mapping, 2) == {
        Location(0, 0): Footprint(5, 1, 1, 4, 3), Location(0, 1): Footprint(5, 1, 1, 4, 3)
    }  # fmt: skip


def test_footprints_add_up() -> None:
    both = Footprint(1, 2, 3, 4, 5) + Footprint(10, 20, 30, 3, 50)
    assert both == Footprint(11, 22, 33, 4, 55)
    assert both + EMPTY == both
    assert both.fits(both)
    for position in range(5):
        less = Footprint(*(np.array([11, 22, 33, 4, 55]) - np.eye(5, dtype=int)[position]).tolist())
        assert not both.fits(less)
