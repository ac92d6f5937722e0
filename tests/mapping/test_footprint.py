"""What shards take up on a core, counted by hand, and beside the bytes of images."""

from collections.abc import Callable
from dataclasses import replace

import numpy as np
import pytest

from mmfree_neuro.graph.nodes import Graph
from mmfree_neuro.graph.partial_sums import by_columns, evenly
from mmfree_neuro.graph.slots import with_slots
from mmfree_neuro.graph.verify import tables
from mmfree_neuro.image.build import Builder
from mmfree_neuro.image.origin import use_of
from mmfree_neuro.integers.ternary import pack
from mmfree_neuro.mapping.footprint import (
    EMPTY,
    FIGURES,
    Footprint,
    Sizes,
    entries_of_nodes,
    limits,
    over,
    use_of_cores,
)
from mmfree_neuro.mapping.mapping import HOST, Location, Mapping, Route, Shard
from mmfree_neuro.model.checkpoint import Checkpoint
from mmfree_neuro.systems.spec import SystemSpec
from mmfree_neuro.target.layout import MOST_IMMEDIATES

Change = Callable[..., SystemSpec]

GROUP, PORT, AXON, WORD, ENTRY = 64, 8, 4, 8, 16
"""Bytes of a row of each section."""
IMMEDIATES = 4 * MOST_IMMEDIATES


def of(graph: Graph, name: str, stop: int, system: SystemSpec) -> Footprint:
    """The footprint of the first neurons of a node."""
    return Sizes(graph, system.chip).of(Shard(name, 0, stop)).all


def test_a_footprint_by_hand(hand_graph: Graph, system: SystemSpec, with_figures: Change) -> None:
    """Three payloads arrive; each has a list: a header, and a word for up to 32 rows of two bits,
    or for up to 8 rows of eight.

    A row has one port, of two slots.  The program has eight instructions and a skip; nothing is
    looked up.
    """
    program = 9 * 8 + IMMEDIATES
    row = Footprint(
        memory=3 * 2 * WORD + GROUP + PORT + 3 * AXON + 2 * 4 + program,
        synaptic_memory=3 * 2 * WORD,
        groups=1,
        neurons=1,
        input_axons=3,
        map_entries=1,
        accumulators=2,
        instructions=9,
        state_per_neuron=4,
        input_channels=1,
        output_channels=1,
    )
    assert of(hand_graph, "head", 1, system) == row
    both = row._replace(memory=row.memory + 8, neurons=2, map_entries=2, accumulators=4)
    assert of(hand_graph, "head", 2, system) == both
    for bits in (3, 8):
        assert of(hand_graph, "head", 2, with_figures(system, weight_bits=bits)) == both


@pytest.mark.parametrize(
    ("rows", "bits", "words"), [(32, 2, 1), (33, 2, 2), (64, 2, 2), (8, 3, 1), (9, 8, 2)]
)
def test_gate_and_up_share_their_axons(
    rows: int, bits: int, words: int, system: SystemSpec, with_figures: Change, a16: Graph
) -> None:
    """A payload reaches both of a neuron's matrices by one axon, each by a list of its own."""
    found = of(a16, "layers.0.glu", rows, with_figures(system, weight_bits=bits))
    assert found.input_axons == 64
    assert found.synaptic_memory == 2 * 64 * (1 + words) * WORD


def test_inputs_that_read_parts_of_a_signal(hand_graph: Graph, system: SystemSpec) -> None:
    """Columns 0 and 1 by one matrix and column 2 by another have three axons, as all by one."""
    entry, codes = hand_graph.head.inputs[0], np.array([[1, -1, 0], [0, 1, 1]], np.int8)
    inputs = tuple(
        replace(entry, matrix=pack(codes[:, first:stop]), first=first)
        for first, stop in ((0, 2), (2, 3))
    )
    head = replace(hand_graph.head, inputs=inputs)
    graph = replace(hand_graph, nodes=(hand_graph.nodes[0], head))
    assert of(graph, "head", 2, system) == of(hand_graph, "head", 2, system)


def test_ternary_aligned_and_broadcast_inputs_by_hand(a8: Graph, system: SystemSpec) -> None:
    """33 rows of two bits are two words; an aligned payload reaches one row, the scale reaches all
    33, all by a list of ones, which is a header alone."""
    found = of(a8, "layers.0.o_proj", 33, system)
    assert found.synaptic_memory == (64 * 3 + 33 + 1) * WORD
    assert found.input_axons == 64 + 33 + 1
    node = a8.node("layers.0.o_proj")
    waits = {entry.port: entry.delay for entry in node.inputs}
    assert found.accumulators == 33 * sum(2 + delay for delay in waits.values())
    assert found.state_per_neuron == 4 * (3 + 1)  # three sums and a gain
    assert (found.input_channels, found.output_channels) == (3, 2)


def test_a_recurrent_neuron_holds_constants_and_a_state(
    a16: Graph, checkpoint: Checkpoint, system: SystemSpec
) -> None:
    """Three matrices of which each has inputs of its own, and presence; in the second block, a
    neuron may have a lower bound."""
    bounds = int(checkpoint.config.use_lower_bound)
    for name, words in (("layers.0.mlgru", 4 + 1 + 1), ("layers.1.mlgru", 4 + 1 + bounds + 1)):
        found = of(a16, name, 10, system)
        assert found.synaptic_memory == (3 * 64 * 2 + 1) * WORD
        assert found.state_per_neuron == 4 * words
        assert found.memory > found.synaptic_memory + sum(4 * n for n in tables(a16)[name].values())


def test_a_recurrent_neuron_holds_a_state_for_each_slot(graph: Graph, system: SystemSpec) -> None:
    """Of 4 bytes; the mark arrives where presence did, or beside the root that stood for it."""
    before = of(graph, "layers.0.mlgru", 10, system)
    ports = len(graph.node("layers.0.mlgru").ports)
    for slots in (2, 7):
        many = with_slots(graph, slots)
        more = len(many.node("layers.0.mlgru").ports) - ports
        found = of(many, "layers.0.mlgru", 10, system)
        assert found.state_per_neuron == before.state_per_neuron + 4 * (slots - 1 + more)
        assert found.input_channels == before.input_channels + more
        longer = of(with_slots(graph, slots + 1), "layers.0.mlgru", 10, system)
        assert longer.memory == found.memory + 10 * 4
        assert longer.state_per_neuron == found.state_per_neuron + 4


def test_groups_and_sums_by_hand(a8: Graph, a16: Graph, system: SystemSpec) -> None:
    """A neuron of the largest of 62 has 62 ports; that of a sum has one for all 64 payloads, and
    one for presence."""
    largest = of(a8, "layers.0.o.max.y.0", 2, system)
    assert (largest.accumulators, largest.input_axons) == (2 * 62 * 2, 64)
    assert largest.synaptic_memory == 64 * WORD
    root = of(a16, "layers.0.o.rms", 1, system)
    assert (root.input_axons, root.input_channels) == (65, 2)


def test_the_use_of_cores_by_hand(
    hand_graph: Graph, hand_mapping: Mapping, system: SystemSpec
) -> None:
    """A logit goes to the host alone.  The program is on a core once."""
    row = of(hand_graph, "head", 1, system) + Footprint(memory=ENTRY, output_axons=1)
    assert use_of_cores(hand_graph, hand_mapping, system.chip) == {
        Location(0, 0): row,
        Location(0, 1): row,
    }
    together = replace(hand_mapping, locations=(Location(HOST, 0), Location(3, 5), Location(3, 5)))
    found = use_of_cores(hand_graph, together, system.chip)[3, 5]
    assert found.memory == 2 * row.memory - 9 * 8 - IMMEDIATES
    assert (found.groups, found.neurons, found.instructions) == (2, 2, 9)


def test_entries_are_counted_as_they_were_found(
    hand_graph: Graph, hand_mapping: Mapping, system: SystemSpec
) -> None:
    assert entries_of_nodes(hand_mapping) == {"embedding": 2, "head": 1}
    shard = Shard("head", 0, 1)
    without = Sizes(hand_graph, system.chip).of(shard).all
    found = Sizes(hand_graph, system.chip, {"head": 5}).of(shard).all
    assert found == without._replace(memory=without.memory + 5 * ENTRY)


def test_an_output_that_nobody_reads_is_not_sent(hand_graph: Graph, system: SystemSpec) -> None:
    """The embedding of the graph made by hand squares for no norm."""
    assert of(hand_graph, "embedding", 3, system).output_channels == 1


def test_footprints_add_up() -> None:
    both = Footprint(*range(1, 13)) + Footprint(*range(10, 130, 10))
    assert both == Footprint(*(11 * k for k in range(1, 10)), *range(100, 130, 10))
    assert both + EMPTY == both


@pytest.mark.parametrize("name", FIGURES)
def test_every_limit_is_kept(name: str, system: SystemSpec, with_figures: Change) -> None:
    use = Footprint(**dict.fromkeys(FIGURES, 7))
    of_chip = dict.fromkeys(FIGURES.values(), 8) | {FIGURES[name]: 7}
    room = limits(with_figures(system, **of_chip).chip)
    assert over(use, room) is None
    more = use._replace(**{name: 8})
    assert over(more, room) == (name.replace("_", " "), 8, 7)
    assert over(more, room | {name: None}) is None


def test_the_limits_of_a_core(system: SystemSpec) -> None:
    assert limits(system.chip) == {
        "memory": 196_608,
        "synaptic_memory": 128_000,
        "groups": 8,
        "neurons": 4096,
        "input_axons": 16_000,
        "map_entries": 16_000,
        "output_axons": None,
        "accumulators": 8192,
        "instructions": None,
        "state_per_neuron": 4096,
        "input_channels": 64,
        "output_channels": 16,
    }
    least = limits(system.chip, "low")
    assert (least["synaptic_memory"], least["input_channels"]) == (96_000, 2)


def assert_bounds(graph: Graph, mapping: Mapping, system: SystemSpec) -> None:
    """No core of the image has more of anything than is counted, and little less."""
    bound = use_of_cores(graph, mapping, system.chip)
    builder = Builder(graph, mapping, int(system.chip.weight_bits.central))
    found = {
        Location(chip, core.number): use_of(core)
        for chip, cores in builder.chips()
        for core in cores
    }
    assert list(found) == list(bound)
    for place, has in found.items():
        most = bound[place]
        axons = most.input_axons - has.input_axons
        assert axons >= 0
        assert most.memory >= has.memory
        # Immediates, rows of tables, and lists of payloads that two groups read by one axon.
        programs = len(
            {s.node for s, p in zip(mapping.shards, mapping.locations, strict=True) if p == place}
        )
        assert most.memory - has.memory <= programs * (IMMEDIATES + 16 * 8) + axons * AXON
        assert most._replace(memory=0, input_axons=0) == has._replace(memory=0, input_axons=0)


def test_an_image_takes_no_more(graph: Graph, mapping: Mapping, system: SystemSpec) -> None:
    assert_bounds(graph, mapping, system)


@pytest.mark.parametrize("slots", [2, 5])
def test_an_image_for_several_sequences_takes_no_more(
    slots: int, graph: Graph, make_mapping: Callable[..., Mapping], system: SystemSpec
) -> None:
    many = with_slots(graph, slots)
    assert_bounds(many, make_mapping(many, "random", slots), system)


def test_an_image_of_wide_weights_takes_no_more(
    a16: Graph, make_mapping: Callable[..., Mapping], system: SystemSpec, with_figures: Change
) -> None:
    assert_bounds(a16, make_mapping(a16, "random"), with_figures(system, weight_bits=8))


def test_an_image_with_divided_sums_takes_no_more(
    graph: Graph, make_mapping: Callable[..., Mapping], system: SystemSpec
) -> None:
    names = [node.name for node in graph.nodes if node.name.endswith(("rms", "down_proj"))]
    columns = evenly(graph, tuple((name, 2) for name in names))
    divided = by_columns(graph, columns)
    mapping = replace(make_mapping(divided, "random"), columns=columns)
    assert_bounds(divided, mapping, system)


def test_shards_that_share_a_core_share_axons(
    graph: Graph, make_mapping: Callable[..., Mapping], system: SystemSpec
) -> None:
    """All on one core: the norm and the residual stream read the same values, by the same axons."""
    mapping = make_mapping(graph, "chain")
    places = tuple(p if p.chip == HOST else Location(0, 0) for p in mapping.locations)
    here = (Location(0, 0),)
    routes = tuple(
        Route(r.source, r.port, here if r.destinations[0].chip != HOST else r.destinations, *r[3:])
        for r in mapping.routes
    )
    assert_bounds(graph, replace(mapping, locations=places, routes=routes), system)
