"""Roots that every neuron finds for itself."""

from collections.abc import Callable
from dataclasses import replace
from typing import Any

import numpy as np
import pytest

from mmfree_neuro.errors import GraphError
from mmfree_neuro.graph.local_roots import ALL, chosen, kinds, with_local_roots
from mmfree_neuro.graph.nodes import (
    HERE,
    PACE,
    PRESENCE,
    ROOT,
    Gain,
    Gains,
    Graph,
    Input,
    InverseRms,
    Norm,
    Output,
    PartialSum,
    Relay,
    Residual,
    block_of,
)
from mmfree_neuro.graph.partial_sums import by_columns
from mmfree_neuro.graph.steps import delayed, steps
from mmfree_neuro.graph.verify import verify
from mmfree_neuro.integers.fixedpoint import QType
from mmfree_neuro.pipeline.quality import in_one_place
from mmfree_neuro.run import reference
from mmfree_neuro.run.job import Job
from mmfree_sims import fast

Graphs = Callable[[str, str], Graph]
NORMS = "attn", "o", "mlp", "down", "head"
JOB = Job(np.array([[7, 1, 200, 33, 5], [0, 255, 9, 9, 1]]), 3)


@pytest.fixture(scope="module", params=["lower-bounds", "no-lower-bounds"])
def late(request: pytest.FixtureRequest, random_graph: Graphs) -> Graph:
    """A tiny model with roots after the products."""
    return random_graph(request.param, "a14-late")


@pytest.mark.parametrize("names", [[name] for name in NORMS] + [["mlp", "o"], ["o", "down"], [ALL]])
def test_all_bits_stay(names: list[str], late: Graph) -> None:
    local = with_local_roots(late, names)
    expected, found = (fast.run(graph, in_one_place(graph), JOB) for graph in (late, local))
    assert np.array_equal(found.logits, expected.logits)
    assert np.array_equal(found.chosen, expected.chosen)


def test_the_reference_counts_a_sum_for_every_neuron(late: Graph) -> None:
    local = with_local_roots(late, [ALL])
    place, job = in_one_place(local), Job(JOB.tokens[:1, :3])
    slow, quick = reference.run(local, place, job), fast.run(local, place, job)
    assert np.array_equal(slow.logits, quick.logits)
    assert slow.prefill == quick.prefill


def test_a_root_that_saturates_is_counted_for_every_neuron(late: Graph) -> None:
    local = with_local_roots(late, ["o"])
    node = local.node("layers.0.o_proj")
    assert isinstance(node, Residual)
    assert node.root is not None
    narrow = replace(node.root.root, bits=8)
    changed = with_node(local, node.name, root=replace(node.root, root=narrow))
    place, job = in_one_place(changed), Job(JOB.tokens[:1, :3])
    slow, quick = reference.run(changed, place, job), fast.run(changed, place, job)
    assert np.array_equal(slow.logits, quick.logits)
    assert slow.prefill == quick.prefill
    at = [shard.node for shard in place.shards].index(node.name)
    assert slow.prefill.saturations[at] >= 3 * node.size


def test_a_local_root_by_hand(late: Graph) -> None:
    """The node in front sends what the gains sent; those behind sum its squares, in two digits."""
    local = with_local_roots(late, ["o"])
    gone = {f"layers.{block}.o.{what}" for block in (0, 1) for what in ("rms", "gain")}
    assert {n.name for n in late.nodes} - {n.name for n in local.nodes} == gone
    assert len(local.nodes) == len(late.nodes) - 4  # and no relay: other roots are left
    source, reader = local.node("layers.0.mlgru"), local.node("layers.0.o_proj")
    assert [output.port for output in source.outputs] == ["v", "sq", "sq.low", "y"]
    assert source.output("y") == late.node("layers.0.o.gain").output("y")
    read = {e.port: (e.source, e.source_port, e.how) for e in reader.inputs if e.port != "x"}
    assert read == {
        "y": ("layers.0.mlgru", "y", "ternary"),
        "total": ("layers.0.mlgru", "sq", "sum"),
        "total.low": ("layers.0.mlgru", "sq.low", "sum"),
    }
    step = steps(local.nodes)
    assert step["layers.0.o_proj"] == step["layers.0.mlgru"] + 1


def test_a_block_takes_four_steps_and_has_a_relay_in_step_with_its_end(late: Graph) -> None:
    local = with_local_roots(late, [ALL])
    assert not any(isinstance(node, InverseRms | Gain) for node in local.nodes)
    step = steps(local.nodes)
    names = ["mlgru", "o_proj", "glu", "down_proj"]
    assert [step[f"layers.{k}.{name}"] for k in (0, 1) for name in names] == [*range(1, 9)]
    assert step["head"] == 9
    (relay,) = (node for node in local.nodes if isinstance(node, Relay))
    assert (relay.name, step[relay.name]) == ("layers.0.here", 4)
    assert [(e.port, e.source, e.delay) for e in relay.inputs] == [
        (HERE, "embedding", 3),
        (PACE, "layers.0.glu", 0),
    ]
    assert max(entry.delay for node in local.nodes for entry in node.inputs) == 3


def test_a_root_that_is_left_says_that_a_token_is_there(late: Graph) -> None:
    local = with_local_roots(late, ["attn", "head"])
    assert not any(isinstance(node, Relay) for node in local.nodes)
    (entry,) = local.node("layers.1.mlgru").ports[PRESENCE]
    assert entry.source == "layers.0.down.rms"


def test_a_sum_that_every_neuron_needs_is_divided_once_for_all(late: Graph) -> None:
    """Each part of a sum of squares has one neuron, whose sum all behind it read."""
    local = with_local_roots(late, ["down"])
    divided = by_columns(local, (("layers.1.down_proj", (32, 80)),))
    parts = {node.name: node for node in divided.nodes if isinstance(node, PartialSum)}
    assert {name: node.size for name, node in parts.items()} == {
        f"layers.1.down_proj.{port}.part{number}": size
        for port, size in (("y", 64), ("total", 1), ("total.low", 1))
        for number in (1, 2)
    }
    reader = divided.node("layers.1.down_proj")
    assert [(e.source, e.how, e.first, e.count) for e in reader.ports["total"]] == [
        ("layers.1.glu", "sum", 80, 48),
        ("layers.1.down_proj.total.part2", "sum", 0, None),
    ]
    expected, found = (fast.run(graph, in_one_place(graph), JOB) for graph in (late, divided))
    assert np.array_equal(found.logits, expected.logits)


def test_kinds_are_named_in_any_order(late: Graph) -> None:
    assert kinds(late) == NORMS
    assert chosen(late, ["head", "o"]) == ("o", "head")
    assert chosen(late, [ALL]) == chosen(late, [ALL, "o"]) == NORMS
    assert chosen(late, ()) == ()
    assert with_local_roots(late, ()) is late


def test_what_a_graph_does_not_have(late: Graph, a8: Graph, a16: Graph) -> None:
    for graph in (a8, a16, with_local_roots(late, [ALL])):
        with pytest.raises(GraphError) as error:
            with_local_roots(graph, [ALL])
        assert str(error.value) == (
            "tiny: no norm can have a local root, for none has its root after the product"
        )
        assert with_local_roots(graph, ()) is graph
    with pytest.raises(GraphError) as error:
        with_local_roots(late, ["o", "norm"])
    assert str(error.value) == (
        "tiny: local roots of 'norm' were asked for, must be all or some of attn, o, mlp, down, "
        "head"
    )


@pytest.mark.parametrize(
    ("first", "then"),
    [(["o"], ["attn", "head"]), (["attn", "o", "mlp", "down"], ["head"]), (["head"], ["all"])],
)
def test_roots_may_become_local_one_after_another(
    first: list[str], then: list[str], late: Graph
) -> None:
    """Also where relays are there already."""
    twice, once = (
        with_local_roots(with_local_roots(late, first), then),
        with_local_roots(late, [*first, *then]),
    )
    assert [node.name for node in twice.nodes] == [node.name for node in once.nodes]
    assert steps(twice.nodes) == steps(once.nodes)
    expected, found = (fast.run(graph, in_one_place(graph), JOB) for graph in (late, twice))
    assert np.array_equal(found.logits, expected.logits)


def with_node(graph: Graph, name: str, **changes: Any) -> Graph:
    """The graph with another node of that name."""
    nodes = (replace(n, **changes) if n.name == name else n for n in graph.nodes)
    return verify(replace(graph, nodes=delayed(nodes)))


def test_norms_that_cannot_have_a_local_root_are_left_out(late: Graph) -> None:
    """Gains of something else than the value, a root that a norm reads too, and one without a
    kind."""
    gain = late.node("layers.0.o.gain")
    squares = tuple(replace(entry, source_port="sq") for entry in gain.inputs)
    other = with_node(late, gain.name, inputs=squares)
    assert set(kinds(other)) == set(NORMS)  # the other block has all
    assert with_local_roots(other, ["o"]).node(gain.name) is not None
    # The root that is left in block 0 tells the relay of block 1, which passes it on as it is.
    relayed = with_local_roots(other, NORMS[:-1])
    assert relayed.node("layers.1.here").inputs[0].source == "layers.0.o.rms"
    expected, found = (fast.run(graph, in_one_place(graph), JOB) for graph in (other, relayed))
    assert np.array_equal(found.logits, expected.logits)
    size = gain.size
    norm = Norm(
        "layers.0.o.norm",
        size,
        (
            Input("x", "layers.0.mlgru", "v", "aligned"),
            Input(ROOT, "layers.0.o.rms", "r", "broadcast"),
        ),
        (Output("y", size, QType(24, 0)),),
        24,
        Gains({"y": np.ones(size, np.int64)}, {"y": 8}),
    )
    at = [node.name for node in late.nodes].index("layers.0.o_proj")
    nodes = (*late.nodes[:at], norm, *late.nodes[at:])
    both = verify(replace(late, nodes=delayed(nodes)))
    assert with_local_roots(both, ["o"]).node("layers.0.o.rms") is not None
    renamed = {"head.rms": "rms"}
    nodes = tuple(
        replace(
            node,
            name=renamed.get(node.name, node.name),
            inputs=tuple(replace(e, source=renamed.get(e.source, e.source)) for e in node.inputs),
        )
        for node in late.nodes
    )
    assert kinds(verify(replace(late, nodes=nodes))) == NORMS[:-1]


def test_blocks_of_relays(late: Graph) -> None:
    local = with_local_roots(late, [ALL])
    assert [block_of(node.name) for node in local.nodes if isinstance(node, Relay)] == [0]
