"""Roots of norms that every neuron finds for itself, so that a token does not wait for them.

Where the root of a norm comes after the product, it takes a token a step to go from the squares to
the one neuron that finds the root, and the values take a step to go through their gains.  With a
local root both steps are gone: the node in front sends its values times the gains beside its
squares, and each neuron behind the product sums the squares itself and finds the root by the same
program.  All bits stay; what it costs is a synaptic operation for each square and neuron, and the
program of a root in each.

    residual → gains → product (waits for the root)      residual, gains → product, with its root
             → root  ↗                                             squares ↗

A recurrence that has lost the root that told it of a token (`nodes.MLGRU.presence`) learns of it
from the last root that is left, or else from a `Relay`: one in each block that has no root, in step
with the end of the block.
"""

from collections.abc import Collection, Iterator
from dataclasses import dataclass, replace

from mmfree_neuro.errors import GraphError
from mmfree_neuro.graph.nodes import (
    GLU,
    HERE,
    MLGRU,
    PRESENCE,
    ROOT,
    AnyNode,
    Embedding,
    Gain,
    Graph,
    Head,
    Input,
    InverseRms,
    Residual,
    block_of,
)
from mmfree_neuro.graph.relays import TELLERS, Ends, without_unread
from mmfree_neuro.graph.steps import delayed
from mmfree_neuro.graph.verify import verify

ALL = "all"
"""The word for every norm of a graph."""


def kind_of(root: InverseRms) -> str:
    """Which norm of its block a root belongs to: such as `attn` for layers.3.attn.rms."""
    return root.name.split(".")[-2]


@dataclass(frozen=True, eq=False)
class _Norm:
    """A norm whose root comes after the product."""

    root: InverseRms
    gain: Gain


_VALUE = {Embedding: "x", MLGRU: "v", GLU: "v", Residual: "x"}
"""The output of a node in front of a norm that its gains multiply."""
_Reader = MLGRU | GLU | Residual | Head
"""The nodes behind the product of a norm."""


def _norms(graph: Graph) -> Iterator[_Norm]:
    """The norms that can have local roots: a root and gains side by side behind one node, the root
    read by nodes that can find it for themselves."""
    gains = {}
    for node in graph.nodes:
        if isinstance(node, Gain) and len(node.inputs) == 1:
            (entry,) = node.inputs
            value = _VALUE.get(type(graph.node(entry.source)))
            if (entry.how, entry.source_port) == ("aligned", value):
                gains[entry.source] = node
    elsewhere = {
        entry.source
        for node in graph.nodes
        for entry in node.inputs
        if entry.port not in (PRESENCE, HERE)
        and not (entry.port == ROOT and isinstance(node, _Reader))
    }
    for node in graph.nodes:
        if isinstance(node, InverseRms) and node.name not in elsewhere and "." in node.name:
            totals = [entry for entry in node.inputs if entry.port != PRESENCE]
            sources = {entry.source for entry in totals}
            if len(sources) == 1 and all(entry.how == "sum" for entry in totals):
                gain = gains.get(sources.pop())
                if gain is not None:
                    yield _Norm(node, gain)


def kinds(graph: Graph) -> tuple[str, ...]:
    """The kinds of norms of a graph that can have local roots, in their order."""
    return tuple(dict.fromkeys(kind_of(norm.root) for norm in _norms(graph)))


def chosen(graph: Graph, names: Collection[str]) -> tuple[str, ...]:
    """The kinds of norms that are named, in their order; `ALL` names every one.

    Raises GraphError where the graph has no norm of such a kind that can have a local root.
    """
    if not names:
        return ()
    known = kinds(graph)
    if not known:
        raise GraphError(
            f"{graph.name}: no norm can have a local root, for none has its root after the product"
        )
    for name in names:
        if name not in (ALL, *known):
            raise GraphError(
                f"{graph.name}: local roots of {name!r} were asked for, must be {ALL} or some of "
                f"{', '.join(known)}"
            )
    return tuple(kind for kind in known if ALL in names or kind in names)


def with_local_roots(graph: Graph, names: Collection[str]) -> Graph:
    """The same function of tokens, bit for bit, with local roots in the norms of these kinds;
    raises what `chosen` does."""
    local = chosen(graph, names)
    if not local:
        return graph
    norms = [norm for norm in _norms(graph) if kind_of(norm.root) in local]
    return verify(replace(graph, nodes=delayed(_relayed(_folded(graph, norms)))))


def _folded(graph: Graph, norms: list[_Norm]) -> list[AnyNode]:
    """The nodes without the roots and gains of some norms; what these did, the nodes around do."""
    source_of = {norm.gain.name: norm.gain.inputs[0].source for norm in norms}
    gain_of = {norm.gain.inputs[0].source: norm.gain for norm in norms}
    root_of = {norm.root.name: norm.root for norm in norms}
    nodes: list[AnyNode] = []
    for node in graph.nodes:
        if node.name in source_of or node.name in root_of:
            continue
        inputs: list[Input] = []
        root: InverseRms | None = None
        for entry in node.inputs:
            if entry.source in source_of:
                inputs.append(replace(entry, source=source_of[entry.source]))
            elif entry.source in root_of and entry.port == ROOT:
                root = root_of[entry.source]
                inputs += [other for other in root.inputs if other.port != PRESENCE]
            else:
                inputs.append(entry)
        if root is not None:
            assert isinstance(node, _Reader)
            if isinstance(node, MLGRU):  # whose presence the root was
                inputs.append(Input(PRESENCE, root.name, "r", "broadcast"))
            node = replace(node, inputs=tuple(inputs), root=root.inverse)
        else:
            node = replace(node, inputs=tuple(inputs))
        gain = gain_of.get(node.name)
        if gain is not None:
            assert isinstance(node, Embedding | MLGRU | GLU | Residual)
            outputs = (*node.outputs, *gain.outputs)
            node = replace(node, outputs=outputs, folded=gain.gains)
        nodes.append(node)
    return nodes


def _relayed(nodes: list[AnyNode]) -> list[AnyNode]:
    """The same nodes, whose inputs of presence read the last node in front that tells of a token;
    with a relay in every block that has none and another behind it."""
    told = {block_of(node.name) for node in nodes if isinstance(node, TELLERS)}
    ends = Ends(nodes)
    here = nodes[0].name, nodes[0].output(HERE)
    found: list[AnyNode] = []
    for node in nodes:
        block = ends.of(node)
        if block is not None and block not in told:
            found.append(ends.relay(node, *here))
            here = found[-1].name, found[-1].output(HERE)
        inputs = tuple(
            replace(entry, source=here[0], source_port=here[1].port)
            if entry.port in (PRESENCE, HERE)
            else entry
            for entry in node.inputs
        )
        found.append(replace(node, inputs=inputs))
        if isinstance(node, TELLERS):
            here = node.name, node.outputs[0]
    return without_unread(found)
