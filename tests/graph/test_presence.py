"""Neurons that run at every step must know whether a token is there, and sums must meet."""

from collections.abc import Callable
from dataclasses import replace

import pytest

from mmfree_neuro.errors import GraphError
from mmfree_neuro.graph.nodes import (
    MLGRU,
    PRESENCE,
    ROOT,
    AnyNode,
    Graph,
    Input,
    InverseRms,
    Norm,
    Quantise,
    QuantScale,
    Relay,
)
from mmfree_neuro.graph.steps import delayed, steps
from mmfree_neuro.graph.verify import verify


def with_node(graph: Graph, node: AnyNode) -> Graph:
    """The graph with another node in the place of that of the same name."""
    return replace(
        graph, nodes=tuple(node if one.name == node.name else one for one in graph.nodes)
    )


def refused(graph: Graph) -> str:
    with pytest.raises(GraphError) as error:
        verify(graph)
    return str(error.value)


def test_every_root_and_recurrence_knows_of_the_token_from_the_root_before(graph: Graph) -> None:
    roots = [node for node in graph.nodes if isinstance(node, InverseRms | QuantScale)]
    if not roots:  # every neuron finds its own
        (relay,) = (node for node in graph.nodes if isinstance(node, Relay))
        sources = [
            next(entry.source for entry in node.inputs if entry.port == node.presence)
            for node in (graph.node("layers.0.mlgru"), relay, graph.node("layers.1.mlgru"))
        ]
        assert sources == ["embedding", "embedding", relay.name]
        return
    before = {
        node.name: entry.source
        for node in graph.nodes
        for entry in node.inputs
        if entry.port == node.presence and not isinstance(node, Norm | Quantise)
    }
    assert [before[node.name] for node in roots] == [
        "embedding",
        *(node.name for node in roots[:-1]),
    ]
    recurrent = [node.name for node in graph.nodes if isinstance(node, MLGRU)]
    assert before.keys() == {node.name for node in roots} | set(recurrent)
    assert [before[name] for name in recurrent] == [roots[0].name, roots[4].name]


def test_delays_by_hand(a16: Graph) -> None:
    """The root fires at step 1, the norm at 2, the recurrence at 3, its norm at 4 and 5, and the
    projection at 6: the residual stream, sent at 0, waits five steps."""
    step = steps(a16.nodes)
    names = ["attn.rms", "attn.norm", "mlgru", "o.rms", "o.norm", "o_proj"]
    assert [step[f"layers.0.{name}"] for name in names] == [1, 2, 3, 4, 5, 6]
    entries = {entry.port: entry.delay for entry in a16.node("layers.0.o_proj").inputs}
    assert entries == {"x": 5, "y": 0}
    assert delayed(a16.nodes) == a16.nodes  # the nodes themselves


def test_delays_by_hand_with_roots_after_products(
    random_graph: Callable[[str, str], Graph],
) -> None:
    """Root and gains work at step 1, the recurrence at 2, and so on: a product's sum and its root
    arrive together, and the residual stream waits three steps."""
    late = random_graph("lower-bounds", "a14-late")
    step = steps(late.nodes)
    names = ["attn.rms", "attn.gain", "mlgru", "o.rms", "o.gain", "o_proj"]
    assert [step[f"layers.0.{name}"] for name in names] == [1, 1, 2, 3, 3, 4]
    entries = {entry.port: entry.delay for entry in late.node("layers.0.o_proj").inputs}
    assert entries == {"x": 3, "y": 0, "r": 0}


def test_an_input_that_waits_too_long_or_not_enough(a16: Graph) -> None:
    node = a16.node("layers.0.o_proj")
    for wait in (4, 6):
        inputs = tuple(
            replace(entry, delay=wait) if entry.port == "x" else entry for entry in node.inputs
        )
        assert refused(with_node(a16, replace(node, inputs=inputs))) == (
            f"layers.0.o_proj: input x: waits {wait} steps, must wait 5, for all sums of one token "
            "to meet"
        )


def test_what_keeps_a_state_must_know_of_the_token(graph: Graph) -> None:
    node = graph.node("layers.0.mlgru")
    scales = {
        port: replace(one, scale=None) if one.scale == ROOT else one
        for port, one in node.rescale.items()
    }
    inputs = tuple(entry for entry in node.inputs if entry.port not in (PRESENCE, ROOT))
    changed = replace(node, inputs=inputs, rescale=scales)
    assert refused(with_node(graph, changed)) == (
        "layers.0.mlgru: keeps a state, must have an input of presence"
    )


def test_what_answers_nothing_with_something_must_know_of_the_token(a16: Graph) -> None:
    node = a16.node("layers.0.o.rms")
    inputs = tuple(entry for entry in node.inputs if entry.port != PRESENCE)
    found = refused(with_node(a16, replace(node, inputs=inputs)))
    high = node.outputs[0].qtype.high
    assert found.startswith("layers.0.o.rms: output r is ") and found.endswith(
        f" … {high} when nothing arrives, must have an input of presence"
    )


def test_what_says_that_a_token_is_there_is_never_zero(a16: Graph) -> None:
    node = a16.node("layers.0.mlgru")
    others = tuple(entry for entry in node.inputs if entry.port != PRESENCE)
    for entry in (
        Input(PRESENCE, "layers.0.attn.norm", "i", "aligned"),
        Input(PRESENCE, "layers.0.attn.norm", "i", "broadcast"),
    ):
        changed = replace(
            a16, nodes=delayed(with_node(a16, replace(node, inputs=(*others, entry))).nodes)
        )
        assert refused(changed) == (
            "layers.0.mlgru: input presence: what arrives from layers.0.attn.norm.i can be zero, "
            "must say that a token is there"
        )
