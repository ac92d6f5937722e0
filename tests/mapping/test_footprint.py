"""What shards take up on a core, counted by hand."""

from collections.abc import Callable
from dataclasses import replace

import numpy as np
import pytest

from mmfree_neuro.errors import CapacityError
from mmfree_neuro.graph.nodes import Graph
from mmfree_neuro.mapping.footprint import (
    EMPTY,
    Footprint,
    footprint,
    limits,
    need_programs,
    use_of_cores,
)
from mmfree_neuro.mapping.mapping import HOST, Location, Mapping, Shard
from mmfree_neuro.model.checkpoint import Checkpoint
from mmfree_neuro.pipeline.quality import in_one_place
from mmfree_neuro.systems.spec import SystemSpec
from mmfree_partition.route import route

Change = Callable[..., SystemSpec]


def of(graph: Graph, name: str, stop: int, chip: SystemSpec) -> Footprint:
    """The footprint of the first neurons of a node."""
    return footprint(graph, graph.node(name), Shard(name, 0, stop), chip.chip)


def test_a_footprint_by_hand(hand_graph: Graph, system: SystemSpec, with_figures: Change) -> None:
    """Three payloads arrive; each has a list of as many 2-bit weights as there are rows, in whole
    words of 64 bits.

    A row has one accumulator of four bytes.
    """
    assert of(hand_graph, "head", 2, system) == Footprint(24 + 8, 24, 2, 4, 3)
    assert of(hand_graph, "head", 1, system) == Footprint(24 + 4, 24, 1, 4, 3)
    by_bytes = with_figures(system, synaptic_word_bits=8)
    assert of(hand_graph, "head", 2, by_bytes) == Footprint(3 + 8, 3, 2, 4, 3)
    assert of(hand_graph, "head", 2, with_figures(by_bytes, weight_bits=5)) == Footprint(
        6 + 8, 6, 2, 4, 3
    )


@pytest.mark.parametrize(
    ("rows", "word", "words"), [(16, 64, 1), (17, 64, 2), (64, 64, 4), (2, 8, 1), (3, 8, 2)]
)
def test_gate_and_up_share_their_lists(
    rows: int, word: int, words: int, system: SystemSpec, with_figures: Change, a16: Graph
) -> None:
    """A payload reaches both of a neuron's matrices by one axon: 2 · 2 bits a row.  The table has 2
    words an entry."""
    synaptic, table = 64 * words * word // 8, 2 * 4 * len(a16.sigmoid.values)
    found = of(a16, "layers.0.glu", rows, with_figures(system, synaptic_word_bits=word))
    assert found == Footprint(synaptic + 8 * rows + table, synaptic, rows, 8, 64)


def test_ternary_aligned_and_broadcast_inputs_by_hand(a8: Graph, system: SystemSpec) -> None:
    """33 rows of two bits are two words; an aligned payload reaches one row, the scale reaches all
    33."""
    lists, words = 64 * 16 + 33 * 8 + 16, 3 + 1  # three accumulators and the gains of the next norm
    assert of(a8, "layers.0.o_proj", 33, system) == Footprint(
        lists + 33 * 4 * words, lists, 33, 4 * words, 64 + 33 + 1
    )


def test_a_recurrent_neuron_holds_constants_and_a_state(
    a16: Graph, checkpoint: Checkpoint, system: SystemSpec
) -> None:
    """Three matrices of which each has inputs of its own, and presence; in the second block, a
    neuron may have a lower bound."""
    table, bounds = 2 * 4 * len(a16.sigmoid.values), int(checkpoint.config.use_lower_bound)
    for name, words in (("layers.0.mlgru", 4 + 1 + 1), ("layers.1.mlgru", 4 + 1 + bounds + 1)):
        assert of(a16, name, 10, system) == Footprint(
            193 * 8 + 10 * 4 * words + table, 193 * 8, 10, 4 * words, 193
        )


def test_groups_and_sums_by_hand(a8: Graph, a16: Graph, system: SystemSpec) -> None:
    """A neuron of the largest of 32 has 32 accumulators; that of a sum has one for all 64
    payloads, and one for presence."""
    assert of(a8, "layers.0.o.max.y.0", 1, system) == Footprint(32 * 8 + 128, 32 * 8, 1, 128, 32)
    assert of(a8, "layers.0.o.max.y.0", 2, system) == Footprint(64 * 8 + 256, 64 * 8, 2, 128, 64)
    assert of(a16, "layers.0.o.rms", 1, system) == Footprint(65 * 8 + 8, 65 * 8, 1, 8, 65)


def test_the_use_of_cores_by_hand(
    hand_graph: Graph, hand_mapping: Mapping, system: SystemSpec
) -> None:
    row = Footprint(28, 24, 1, 4, 3)
    assert use_of_cores(hand_graph, hand_mapping, system.chip) == {
        Location(0, 0): row,
        Location(0, 1): row,
    }
    together = replace(hand_mapping, locations=(Location(HOST, 0), Location(3, 5), Location(3, 5)))
    assert use_of_cores(hand_graph, together, system.chip) == {
        Location(3, 5): Footprint(56, 48, 2, 4, 6)
    }


def test_footprints_add_up() -> None:
    both = Footprint(1, 2, 3, 4, 5) + Footprint(10, 20, 30, 3, 50)
    assert both == Footprint(11, 22, 33, 4, 55)
    assert both + EMPTY == both


def test_the_first_limit_that_is_passed() -> None:
    use = Footprint(11, 22, 33, 4, 55)
    assert use.fits(use)
    assert use.over(use) is None
    names = "memory", "synaptic memory", "neurons", "state per neuron", "input axons"
    for position, (name, need) in enumerate(zip(names, (11, 22, 33, 4, 55), strict=True)):
        less = Footprint(*(np.array([11, 22, 33, 4, 55]) - np.eye(5, dtype=int)[position]).tolist())
        assert not use.fits(less)
        assert use.over(less) == (name, need, need - 1)
    assert use.over(EMPTY) == ("memory", 11, 0)


def test_the_limits_of_a_core(system: SystemSpec) -> None:
    assert limits(system.chip) == Footprint(196608, 131072, 8192, 4096, 16000)


PROGRAMS = [
    (
        "program_instructions_per_core",
        8,
        "head: core 0 of chip 0 needs 8 instructions, loihi2 has 7",
    ),
    ("output_axons_per_core", 1, "head: core 0 of chip 0 needs 1 outgoing axons, loihi2 has 0"),
]
"""A row's program has eight instructions, and its logit goes to the host alone."""


@pytest.mark.parametrize(("figure", "enough", "message"), PROGRAMS)
def test_programs_and_outgoing_axons_by_hand(
    figure: str,
    enough: int,
    message: str,
    hand_graph: Graph,
    hand_mapping: Mapping,
    system: SystemSpec,
    with_figures: Change,
) -> None:
    need_programs(hand_graph, hand_mapping, system.chip)
    need_programs(hand_graph, hand_mapping, with_figures(system, **{figure: enough}).chip)
    with pytest.raises(CapacityError) as error:
        need_programs(hand_graph, hand_mapping, with_figures(system, **{figure: enough - 1}).chip)
    assert str(error.value) == message


def test_a_program_is_on_a_core_once(
    hand_graph: Graph, hand_mapping: Mapping, system: SystemSpec, with_figures: Change
) -> None:
    together = replace(hand_mapping, locations=(Location(HOST, 0), Location(0, 0), Location(0, 0)))
    need_programs(hand_graph, together, with_figures(system, program_instructions_per_core=8).chip)


def test_all_nodes_of_a_core_are_named(
    a16: Graph, system: SystemSpec, with_figures: Change
) -> None:
    """The root goes to its own core and the next, as presence; 64 normalised values, in three
    formats, go to the next."""
    whole = in_one_place(a16)
    places = tuple(place._replace(core=place.core // 2) for place in whole.locations)
    mapping = replace(whole, locations=places, routes=route(a16, whole.shards, places))
    with pytest.raises(CapacityError) as error:
        need_programs(a16, mapping, with_figures(system, output_axons_per_core=192).chip)
    assert str(error.value) == (
        "layers.0.attn.rms, layers.0.attn.norm: core 0 of chip 0 needs 194 outgoing axons, "
        "loihi2 has 192"
    )
