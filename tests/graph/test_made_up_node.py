"""A kind of node that nobody has heard of goes through every part of the project.

It has a state, a constant of its own, two accumulators and a look-up of σ.  What it does not
declare is refused by `verify`, in words that name the declaration.
"""

import subprocess
import sys
from dataclasses import replace
from importlib.util import find_spec
from pathlib import Path

import numpy as np
import pytest

from mmfree_kernels.cpu import programs as cpu
from mmfree_neuro.errors import GraphError
from mmfree_neuro.graph import graph_file, nodes, programs
from mmfree_neuro.graph.nodes import PRESENCE, Graph, Head, Input, MaxAbs, Node, Output, Rescale
from mmfree_neuro.graph.recorder import record
from mmfree_neuro.graph.summary import summarise
from mmfree_neuro.graph.verify import instruction_counts, verify
from mmfree_neuro.image.write import write_image
from mmfree_neuro.integers.fixedpoint import Multiplier, QType
from mmfree_neuro.integers.ternary import pack
from mmfree_neuro.mapping import mapping_file
from mmfree_neuro.mapping.footprint import Sizes
from mmfree_neuro.mapping.mapping import HOST, Location, Mapping, Shard
from mmfree_neuro.mapping.mapping_file import StoredMapping
from mmfree_neuro.pipeline import emulated
from mmfree_neuro.run import reference
from mmfree_neuro.run.job import Job, Result
from mmfree_neuro.systems.spec import SystemSpec
from mmfree_partition.check import check
from mmfree_partition.route import route
from mmfree_sims import fast
from mmfree_sims.emulator.emulator import available

TOKENS = np.array([[0, 1, 1, 0, 1], [1, 1, 0, 0, 1]])
SHORT = Job(TOKENS[:, :3], 1)
"""Triton's interpreter takes its time."""

# The kind is text, because a process of its own must know it too: Lava does without torch.
KIND = '''
from dataclasses import dataclass

from mmfree_neuro.graph import nodes, programs
from mmfree_neuro.integers.fixedpoint import Ints, QType


@dataclass(frozen=True)
class Leak:
    """h · mantissa / 2^shift is what a token leaves of the state."""

    mantissa: int
    shift: int


@dataclass(frozen=True, eq=False)
class Threshold(nodes.Node):
    """h = fit(leak(h) + y + x); v = h where h is at least the neuron's limit, else σ(h)."""

    state: QType
    limits: Ints
    leak: Leak

    @property
    def state_type(self):
        return self.state

    @property
    def constants(self):
        return {"limit": self.limits}

    @property
    def reads_sigmoid(self):
        return True


def threshold(m, node, table, constants, inputs, state):
    """The program of a Threshold."""
    arrived = m.add(m.read(inputs["y"]), m.read(inputs["x"]))

    def step(h, a, _b):
        kept = m.mul_round(h, node.leak.mantissa, node.leak.shift)
        return m.fit(m.add(kept, a), node.state)

    h, state = m.scan(step, state, arrived, arrived)
    below = m.lt(h, constants["limit"])
    v = m.select(below, m.mul_shr(m.sigmoid(h, node.state.frac, table), 1, 8), h)
    return {"v": m.send(m.fit(v, node.output("v").qtype))}, state


run_of_all_others = programs.run


def run_with_threshold(m, node, table, constants, inputs, state=None):
    """`programs.run` with one case more."""
    if isinstance(node, Threshold):
        return threshold(m, node, table, constants, inputs, state)
    return run_of_all_others(m, node, table, constants, inputs, state)
'''
ADDED = """
nodes.AnyNode = nodes.AnyNode | Threshold
programs.run = run_with_threshold
"""
IN_LAVA = """
import sys
from pathlib import Path

import numpy as np

from mmfree_neuro.mapping import mapping_file
from mmfree_neuro.pipeline import opened
from mmfree_neuro.run.job import Job, Result
from mmfree_sims.lava import engine

graph, stored = opened.open_mapped(Path(sys.argv[1]))
result = engine.run(graph, stored.mapping, Job(np.load(sys.argv[2]), 2))
np.savez(sys.argv[3], logits=result.logits, chosen=result.chosen,
         fired=result.prefill.fired, messages=result.prefill.messages)
"""


@pytest.fixture
def kind(monkeypatch: pytest.MonkeyPatch) -> type[Node]:
    """The class of the made-up node, which the union of nodes and the programs know."""
    known: dict[str, object] = {"__name__": "made_up"}
    monkeypatch.setitem(sys.modules, "made_up", sys.modules[__name__])
    exec(compile(KIND, "made_up.py", "exec", dont_inherit=True), known)
    monkeypatch.setattr(nodes, "AnyNode", nodes.AnyNode | known["Threshold"])
    monkeypatch.setattr(programs, "run", known["run_with_threshold"])
    made: type[Node] = known["Threshold"]  # type: ignore[assignment]
    made.leak_of_a_half = known["Leak"](1, 1)  # type: ignore[attr-defined, operator]
    return made


def graph_with(kind: type[Node], hand_graph: Graph) -> Graph:
    """The graph made by hand with a Threshold of three neurons between its two nodes."""
    matrix = pack(np.array([[1, -1, 0], [0, 1, 1], [1, 1, 1]], np.int8))
    inputs = (
        Input("y", "embedding", "x", "ternary", matrix),
        Input("x", "embedding", "x", "aligned"),
        Input(PRESENCE, "embedding", "here", "broadcast"),
    )
    limits, leak = np.array([2, -3, 5]), kind.leak_of_a_half  # type: ignore[attr-defined]
    node = kind("threshold", 3, inputs, (Output("v", 3, QType(16, 0)),), QType(16, 4), limits, leak)  # type: ignore[call-arg]
    head = Head(
        "head",
        2,
        (
            Input(
                "y", "threshold", "v", "ternary", pack(np.array([[1, -1, 0], [0, 1, 1]], np.int8))
            ),
        ),
        (Output("logits", 2, QType(16, 0)),),
        {"y": Rescale(Multiplier(3, 1), None)},
    )
    here = Output("here", 3, QType(2, 0), unsigned=True)
    embedding = replace(hand_graph.embedding, outputs=(*hand_graph.embedding.outputs, here))
    return Graph("made up", "a16", (embedding, node, head), hand_graph.sigmoid, 32, 0, None, {})  # type: ignore[arg-type]


def mapped(graph: Graph, digest: str = "") -> Mapping:
    """The Threshold on two cores of one chip, the head on another chip."""
    shards = (
        Shard("embedding", 0, 3),
        Shard("threshold", 0, 2),
        Shard("threshold", 2, 3),
        Shard("head", 0, 2),
    )
    places = Location(HOST, 0), Location(0, 0), Location(0, 1), Location(1, 0)
    return Mapping(digest, "kapoho-point", "hand", shards, places, route(graph, shards, places))


@pytest.mark.slow
def test_a_made_up_node_everywhere(
    kind: type[Node], hand_graph: Graph, system: SystemSpec, tmp_path: Path
) -> None:
    graph = verify(graph_with(kind, hand_graph))
    node = graph.node("threshold")
    assert sum(instruction_counts(graph)["threshold"].values()) > 20

    # Its program, written down for C; the same in NumPy.
    program = record(node, graph.sigmoid)
    assert program.slots == 1
    assert (program.constants, program.inputs) == (("limit",), ("y", "x"))
    arrays = np.array([[4, -9, 2], [7, 7, 7]], np.int32), np.array([[1, 0, -1]] * 2, np.int32)
    streams = {"y": (arrays[0], 0, 1), "x": (arrays[1], 0, 1)}
    levels = [cpu.bind(node, graph.sigmoid, node.constants, 3, level=n) for n in cpu.available()]
    sent = [neurons.run(streams, np.zeros(2, np.int32))["v"] for neurons in levels]
    assert all(np.array_equal(values, sent[-1]) for values in sent)

    # What it takes on a core: three accumulators (that of presence among them), a constant and a
    # state in words, and σ's table.
    taken = Sizes(graph, system.chip).of(Shard("threshold", 0, 3)).all
    assert taken.state_per_neuron == 4 * (3 + 1 + 1)
    assert taken.memory > taken.synaptic_memory + 2 * 4 * len(graph.sigmoid.values)
    assert check(graph, mapped(graph), system) == mapped(graph)
    assert [about.kind for about in summarise(graph).nodes] == ["Embedding", "Threshold", "Head"]

    # To a file and back.
    graph_file.save_graph(graph, tmp_path / "made-up.graph")
    loaded, digest = graph_file.load_graph(tmp_path / "made-up.graph")
    again = loaded.node("threshold")
    assert type(again) is kind and np.array_equal(again.constants["limit"], [2, -3, 5])
    assert again.leak == node.leak  # type: ignore[union-attr]

    # On every engine: the same integers and counts.
    mapping, job = mapped(loaded, digest), Job(TOKENS, 2)
    expected = reference.run(loaded, mapping, job)
    assert len(np.unique(expected.logits)) > 4
    assert_same(fast.run(loaded, mapping, job), expected)

    # As a machine image, from whose bytes alone the emulator gives the same.
    if available():
        write_image(loaded, mapping, system, digest, tmp_path / "made-up.image")
        image = emulated.OpenedImage(tmp_path / "made-up.image")
        assert_same(emulated.run(image, job), expected)

    if find_spec("triton") and find_spec("torch"):
        assert_same(in_triton(loaded, mapping), reference.run(loaded, mapping, SHORT))
    if find_spec("lava"):
        stored = StoredMapping(mapping, system, tmp_path / "made-up.graph")
        mapping_file.save_mapping(stored, tmp_path / "made-up.map")
        found = in_lava(tmp_path)
        assert np.array_equal(found["logits"], expected.logits)
        assert np.array_equal(found["chosen"], expected.chosen)
        assert np.array_equal(found["fired"], expected.prefill.fired)
        assert np.array_equal(found["messages"], expected.prefill.messages)


def assert_same(found: Result, expected: Result) -> None:
    """The same integers and the same counts."""
    assert np.array_equal(found.logits, expected.logits)
    assert np.array_equal(found.chosen, expected.chosen)
    assert (found.prefill, found.generate) == (expected.prefill, expected.generate)


def in_triton(graph: Graph, mapping: Mapping) -> Result:
    """What Triton's kernels give, in its interpreter where there is no GPU."""
    from mmfree_sims import gpu

    return gpu.run(graph, mapping, SHORT)


def in_lava(folder: Path) -> dict[str, np.ndarray]:
    """What the Lava engine gives for the mapping in a folder."""
    script, tokens, result = folder / "in_lava.py", folder / "tokens.npy", folder / "result.npz"
    script.write_text(KIND + ADDED + IN_LAVA, encoding="utf-8")
    np.save(tokens, TOKENS)
    command = [sys.executable, script, folder / "made-up.map", tokens, result]
    subprocess.run(list(map(str, command)), check=True, timeout=120)
    return dict(np.load(result))


@pytest.mark.parametrize(
    ("declaration", "said"),
    [
        ("state_type", "threshold: the program keeps a state, must declare its state_type"),
        ("constants", "threshold: the program reads the constant limit, must declare it"),
        ("reads_sigmoid", "threshold: the program reads σ, must declare reads_sigmoid"),
    ],
)
def test_a_declaration_that_is_missing(
    declaration: str, said: str, kind: type[Node], hand_graph: Graph
) -> None:
    silent = type("Threshold", (kind,), {declaration: getattr(Node, declaration)})
    with pytest.raises(GraphError) as error:
        verify(graph_with(silent, hand_graph))
    assert str(error.value) == said


@pytest.mark.parametrize(
    ("declaration", "value", "said"),
    [
        (
            "constants",
            {"limit": np.zeros(3, int), "slack": np.zeros(3, int)},
            "threshold: declares the constant slack, which the program never reads",
        ),
        (
            "output",
            lambda _node, _port: Output("v", 3, QType(16, 0)),
            "threshold: output w is not sent by the program",
        ),
    ],
)
def test_a_declaration_that_is_wrong(
    declaration: str, value: object, said: str, kind: type[Node], hand_graph: Graph
) -> None:
    graph = graph_with(kind, hand_graph)
    wrong = type("Threshold", (kind,), {declaration: value})
    node = graph.nodes[1]
    outputs = node.outputs if declaration == "constants" else (Output("w", 3, QType(16, 0)),)
    inputs = node.inputs
    changed = wrong("threshold", 3, inputs, outputs, QType(16, 4), node.limits, node.leak)  # type: ignore[call-arg, union-attr]
    with pytest.raises(GraphError) as error:
        verify(
            Graph(
                "x",
                "a16",
                (graph.nodes[0], changed, graph.nodes[2]),
                graph.sigmoid,
                32,
                0,
                None,
                {},
            )
        )  # type: ignore[arg-type]
    assert str(error.value) == said


def test_what_a_kind_of_ours_must_not_declare_wrongly(a8: Graph) -> None:
    """The same holds for the kinds that exist: declarations are taken away or added one by one."""

    def changed(name: str, **declarations: object) -> Graph:
        node = next(n for n in a8.nodes if type(n).__name__ == name)
        other = type(name, (type(node),), declarations)
        values = {f: getattr(node, f) for f in node.__dataclass_fields__}
        at = a8.nodes.index(node)
        replaced = (*a8.nodes[:at], other(**values), *a8.nodes[at + 1 :])
        return Graph("a8", "a8", replaced, a8.sigmoid, a8.accumulator_bits, 2, None, {})

    cases = {
        "{}: declares a state_type, but the program keeps no state": changed(
            "GLU", state_type=QType(8, 0)
        ),
        "{}: declares passes_on, but the program sends something else": changed(
            "GLU", passes_on=True
        ),
        "{}: the program never reads σ, must not declare reads_sigmoid": changed(
            "Residual", reads_sigmoid=True
        ),
        "{}: the program reads σ, must declare reads_sigmoid": changed(
            "GLU", reads_sigmoid=Node.reads_sigmoid
        ),
    }
    for said, graph in cases.items():
        with pytest.raises(GraphError) as error:
            verify(graph)
        assert str(error.value) == said.format(str(error.value).split(":")[0])
    with pytest.raises(GraphError, match="values in groups of 1 need another number of neurons"):
        verify(changed("MaxAbs", group=1))
    assert MaxAbs.group is not Node.group


def test_inputs_that_nobody_reads_and_ports_that_nobody_feeds(hand_graph: Graph) -> None:
    head = hand_graph.head
    for port, said in (
        (("y", "z"), "head: input z is never read by the program"),
        (("z",), "head: the program reads y, which no input brings"),
        ((), "head: has no input, must read some node"),
    ):
        inputs = tuple(Input(p, "embedding", "x", "ternary", head.inputs[0].matrix) for p in port)
        wrong = Head("head", 2, inputs, head.outputs, head.rescale)
        graph = Graph(
            "x", "a16", (hand_graph.embedding, wrong), hand_graph.sigmoid, 32, 0, None, {}
        )
        with pytest.raises(GraphError) as error:
            verify(graph)
        assert str(error.value) == said


def test_a_kind_outside_the_union_is_not_saved(
    kind: type[Node], hand_graph: Graph, tmp_path: Path
) -> None:
    stranger = type("Stranger", (kind,), {})
    with pytest.raises(GraphError) as error:
        graph_file.save_graph(graph_with(stranger, hand_graph), tmp_path / "x.graph")
    assert str(error.value) == (
        "Stranger is no record of a graph file, must be reached from nodes.AnyNode"
    )
    assert list(tmp_path.iterdir()) == []
