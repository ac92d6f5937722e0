"""Every level of the neuron programs gives what the machine of `ops` gives: outputs, events,
saturations and states."""

import subprocess
import sys
from collections.abc import Callable, Iterator
from dataclasses import dataclass, replace
from pathlib import Path
from textwrap import dedent
from typing import Any

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from mmfree_kernels.cpu import memory, products
from mmfree_kernels.cpu import programs as cpu
from mmfree_neuro.errors import RangeError
from mmfree_neuro.graph import graph_file, programs, recorder
from mmfree_neuro.graph.bounds import Bounds, Interval
from mmfree_neuro.graph.machine import REGISTER_HIGH, Machine
from mmfree_neuro.graph.nodes import (
    HERE,
    MARK,
    MLGRU,
    AnyNode,
    Embedding,
    Graph,
    Input,
    MaxAbs,
    Norm,
    Output,
    Squares,
    mark,
)
from mmfree_neuro.graph.recorder import Op, Program, Recorder
from mmfree_neuro.graph.slots import with_slots
from mmfree_neuro.graph.verify import sum_bound
from mmfree_neuro.integers.fixedpoint import QType
from mmfree_neuro.integers.tables import SigmoidTable, sigmoid_table
from mmfree_neuro.mapping import mapping_file
from mmfree_neuro.mapping.mapping import Mapping
from mmfree_neuro.run import reference
from mmfree_neuro.run.job import Job
from mmfree_neuro.run.sampling import Sampling
from mmfree_sims import fast
from mmfree_sims.neurons import Neurons

LEVELS = cpu.available()
COMPILED = LEVELS[:-1]
each_level = pytest.mark.parametrize("level", LEVELS)
each_compiled_level = pytest.mark.parametrize("level", COMPILED)
needs_the_extension = pytest.mark.skipif(not COMPILED, reason="the extension is not built here")
KINDS = ("any", "small", "zeros", "highest", "lowest", "ends")


@pytest.fixture(autouse=True)
def levels_as_they_are() -> Iterator[None]:
    """What a test says about the levels that run here ends with it."""
    yield
    cpu.available.cache_clear()


def test_levels_fastest_first() -> None:
    assert tuple(level for level in cpu.LEVELS if level in LEVELS) == LEVELS
    assert LEVELS[-1] == "numpy"


def test_torch_stays_out() -> None:
    program = "import sys; import mmfree_kernels.cpu.programs; sys.exit('torch' in sys.modules)"
    subprocess.run([sys.executable, "-c", program], check=True)


# What a node's neurons read, and what the machine of `ops` makes of it.


@dataclass(frozen=True)
class Reads:
    """An input of a program: its range, and whether all neurons read the same."""

    low: int
    high: int
    common: bool


def reads(graph: Graph, node: AnyNode) -> dict[str, Reads]:
    """The inputs of a node by the name that its program gives them."""
    if isinstance(node, Embedding):
        most = int(np.iinfo(node.codes.dtype).max)
        marks = {MARK: Reads(0, 0, True)} if node.slots > 1 else {}  # drawn with the slots
        words = {"x": Reads(-most, most, False), "scale": Reads(0, int(node.scales.max()), True)}
        return words | marks
    found = {}
    for entry in node.inputs:
        source = graph.node(entry.source).output(entry.source_port)
        high = sum_bound(node, entry, source)
        one = Reads(0 if source.unsigned else -high, high, entry.how in ("broadcast", "sum"))
        members = (
            [f"{entry.port}/{k}" for k in range(node.arity)]
            if isinstance(node, MaxAbs)
            else [entry.port]
        )
        found |= dict.fromkeys(members, one)
    return found


def drawn(one: Reads, shape: tuple[int, int], kind: str, rng: np.random.Generator) -> np.ndarray:
    """Legal values of one kind."""
    whole = rng.integers(one.low, one.high + 1, shape)
    ends = np.array([one.low, 0, min(1, one.high), one.high])
    match kind:
        case "any":
            return whole
        case "small":
            return whole >> rng.integers(0, 32, shape)
        case "zeros":
            return np.zeros(shape, np.int64)
        case "highest":
            return np.full(shape, one.high)
        case "lowest":
            return np.full(shape, one.low)
    return ends[rng.integers(0, len(ends), shape)]


def given_to(
    graph: Graph, node: AnyNode, shape: tuple[int, int], kind: str, seed: int
) -> tuple[dict[str, np.ndarray], np.ndarray]:
    """Legal values [tokens, neurons] for every input of a node, [tokens, 1] where all neurons read
    the same; and the slots of the tokens."""
    rng, (tokens, neurons) = np.random.default_rng(seed), shape
    slots, starts = rng.integers(0, graph.slots, tokens), rng.random(tokens) < 0.2
    found = {
        name: drawn(one, (tokens, 1 if one.common else neurons), kind, rng)
        for name, one in reads(graph, node).items()
    }
    if graph.slots > 1:
        marks = mark(slots, starts)[:, None]
        found |= {name: marks for name in found if name in (HERE, MARK)}
    return found, slots.astype(np.int32)


def streams(graph: Graph, node: AnyNode, values: dict[str, np.ndarray]) -> dict[str, cpu.Stream]:
    """The same as an engine hands them over; the members of a group lie side by side in one
    array."""
    if isinstance(node, MaxAbs):
        together = np.stack(list(values.values()), axis=2).astype(np.int32)
        flat = np.ascontiguousarray(together.reshape(len(together), -1))
        return {name: (flat, k, node.arity) for k, name in enumerate(values)}
    common = {name: one.common for name, one in reads(graph, node).items()}
    return {
        name: (np.ascontiguousarray(array, np.int32), 0, int(not common[name]))
        for name, array in values.items()
    }


@dataclass(frozen=True)
class Expected:
    """What neurons did: what they sent by output [tokens, neurons], their states [slots, neurons],
    and their saturated values in all."""

    sent: dict[str, np.ndarray]
    state: np.ndarray | None
    saturations: int


def by_machine(
    node: AnyNode,
    graph: Graph,
    own: dict[str, np.ndarray],
    values: dict[str, np.ndarray],
    state: np.ndarray | None,
) -> Expected:
    """On the machine that gives a program its meaning: token by token where there is a state, else
    all at once."""
    machine, rows = Machine(), []
    count = len(next(iter(values.values())))
    for here in [slice(None)] if state is None else range(count):
        inputs: dict[str, Any] = {name: array[here] for name, array in values.items()}
        if isinstance(node, MaxAbs):
            inputs = {"v": list(inputs.values())}
        sent, after = programs.run(machine, node, graph.sigmoid, own, inputs, state)
        state = None if state is None else after
        every = np.broadcast_arrays(*sent.values())  # a number is sent by all neurons
        shape = -1, every[0].shape[-1]
        rows.append({port: one.reshape(shape) for port, one in zip(sent, every, strict=True)})
    return Expected(
        {port: np.concatenate([row[port] for row in rows]) for port in rows[0]},
        state,
        machine.saturations,
    )


def own_constants(node: AnyNode, start: int, stop: int) -> dict[str, np.ndarray]:
    return {name: values[start:stop] for name, values in node.constants.items()}


def assert_all_levels_agree(
    graph: Graph,
    node: AnyNode,
    own: dict[str, np.ndarray],
    neurons: int,
    batches: list[tuple[int, str]],
    threads: int = 1,
    seed: int = 0,
) -> int:
    """Runs batches of tokens one after another on every level and on Machine; how many values were
    saturated."""
    shape = graph.slots, neurons
    bound = {
        level: cpu.bind(
            node, graph.sigmoid, own, neurons, slots=graph.slots, threads=threads, level=level
        )
        for level in LEVELS
    }
    state = np.zeros(shape, np.int64) if isinstance(node, MLGRU) else None
    saturations, events = 0, {output.port: np.zeros(shape, np.int64) for output in node.outputs}
    for number, (tokens, kind) in enumerate(batches):
        values, slots = given_to(graph, node, (tokens, neurons), kind, seed + number)
        each = {name: np.broadcast_to(array, (tokens, neurons)) for name, array in values.items()}
        expected = by_machine(node, graph, own, each, state)
        state, saturations = expected.state, saturations + expected.saturations
        for port, sent in expected.sent.items():
            np.add.at(events[port], slots, sent != 0)
        for level, program in bound.items():
            found, who = program.run(streams(graph, node, values), slots), (node.name, level, kind)
            assert list(found) == [output.port for output in node.outputs], who
            for port, sent in expected.sent.items():
                assert found[port].dtype == np.int32, who
                assert np.array_equal(found[port], sent), (*who, port)
                assert np.array_equal(program.events[port], events[port]), (*who, port)
            assert program.saturated.sum() == saturations, who
            if state is None:
                assert program.state is None
            else:
                assert program.state is not None
                assert np.array_equal(program.state, state), who
        for program in bound.values():
            assert np.array_equal(program.saturated, bound["numpy"].saturated), node.name
    return saturations


def kinds_of_nodes(graph: Graph) -> list[AnyNode]:
    """One node of every kind and shape: those of the first block, the embedding and the head."""
    return [node for node in graph.nodes if not node.name.startswith("layers.1")]


BATCHES = [
    (1, "any"),
    (19, "any"),
    (1, "zeros"),
    (8, "small"),
    (2, "highest"),
    (2, "lowest"),
    (9, "ends"),
]


@pytest.mark.slow
@pytest.mark.parametrize("threads", [1, 3])
def test_every_node_on_every_level(
    threads: int, a16: Graph, a8: Graph, monkeypatch: pytest.MonkeyPatch
) -> None:
    """All neurons, one, and a few that do not fill the lanes; saturations are counted neuron by
    neuron."""
    monkeypatch.setattr(cpu, "WORTH_A_THREAD", 0)
    batches, saturations = BATCHES if threads == 1 else [(19, "any"), (9, "ends")], 0
    for graph in (a16, a8, with_slots(a16, 2), with_slots(a8, 3)):
        for node in kinds_of_nodes(graph):
            stretches = {
                (0, node.size),
                (0, 1),
                (node.size // 2, node.size // 2 + 1),
                (node.size // 3, node.size),
            }
            for start, stop in sorted(stretches):
                own = own_constants(node, start, stop)
                saturations += assert_all_levels_agree(
                    graph, node, own, stop - start, batches, threads, start
                )
    assert saturations > 1000


@pytest.mark.parametrize("neurons", [15, 16, 17, 255, 256, 257, 700])
def test_every_number_of_neurons(
    neurons: int, a16: Graph, a8: Graph, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Around the numbers of lanes that the interpreter takes at a time, on several threads."""
    monkeypatch.setattr(cpu, "WORTH_A_THREAD", 0)
    for graph in (a16, a8, with_slots(a16, 3)):
        for name in ("layers.0.mlgru", "layers.0.o_proj", "layers.0.glu"):
            node = graph.node(name)
            own = {name: np.resize(values, neurons) for name, values in node.constants.items()}
            assert_all_levels_agree(
                graph, node, own, neurons, [(3, "any"), (2, "ends")], 3, neurons
            )


@pytest.mark.parametrize("threads", [1, 3, 1000])
def test_one_neuron_for_many_tokens(threads: int, a16: Graph, a8: Graph) -> None:
    """A neuron without constants and state takes its tokens side by side, on several threads where
    that is worth it."""
    for graph in (a16, a8, with_slots(a8, 3)):
        for node in kinds_of_nodes(graph):
            if node.size == 1 and not isinstance(node, MaxAbs):
                assert_all_levels_agree(
                    graph, node, {}, 1, [(3000, "any"), (700, "ends"), (1, "any")], threads
                )


@each_level
def test_one_neuron_with_constants_keeps_to_them(level: str, a16: Graph) -> None:
    """It once took its tokens side by side, too, and then read behind its constants."""
    node = a16.node("layers.0.attn.norm")
    assert isinstance(node, Norm)
    whole, tokens = cpu.bind(node, a16.sigmoid, node.constants, node.size, level=level), 37
    values, slots = given_to(a16, node, (tokens, node.size), "any", 3)
    expected = whole.run(streams(a16, node, values), slots)
    for at in (0, 1, node.size - 1):
        one = cpu.bind(node, a16.sigmoid, own_constants(node, at, at + 1), 1, level=level)
        array = np.ascontiguousarray(values["x"], np.int32)
        found = one.run({"x": (array, at, 1), "r": (values["r"].astype(np.int32), 0, 0)}, slots)
        for port, sent in expected.items():
            assert np.array_equal(found[port], sent[:, at : at + 1])
            assert np.array_equal(one.events[port], whole.events[port][:, at : at + 1])
        assert np.array_equal(one.saturated, whole.saturated[:, at : at + 1])


def in_slot_0(tokens: int) -> np.ndarray:
    """The slots of tokens of one sequence."""
    return np.zeros(tokens, np.int32)


@each_level
def test_counts_and_states_by_hand(level: str, hand_graph: Graph) -> None:
    """Logits of 3/2 times the sums, within ±32767: a saturation belongs to its neuron, an event to
    its output."""
    program = cpu.bind(hand_graph.head, hand_graph.sigmoid, {}, 2, level=level)
    sums = np.array([[8, 0], [30000, -30000], [-1, 0], [0, 21844], [0, 21845]], np.int32)
    found = program.run({"y": (sums, 0, 1)}, in_slot_0(5))["logits"]
    assert found.tolist() == [[12, 0], [32767, -32767], [-1, 0], [0, 32766], [0, 32767]]
    assert program.saturated.tolist() == [[1, 2]]
    assert program.events["logits"].tolist() == [[3, 3]]
    assert program.state is None
    program.run({"y": (sums[:1], 0, 1)}, in_slot_0(1))
    assert program.events["logits"].tolist() == [[4, 3]]


@each_level
def test_counts_slot_by_slot_by_hand(level: str, hand_graph: Graph) -> None:
    """The same, each token in the row of its slot."""
    program = cpu.bind(hand_graph.head, hand_graph.sigmoid, {}, 2, slots=3, level=level)
    sums = np.array([[8, 0], [30000, -30000], [-1, 0], [0, 21844], [0, 21845]], np.int32)
    found = program.run({"y": (sums, 0, 1)}, np.array([2, 0, 0, 2, 0], np.int32))["logits"]
    assert found.tolist() == [[12, 0], [32767, -32767], [-1, 0], [0, 32766], [0, 32767]]
    assert program.saturated.tolist() == [[1, 2], [0, 0], [0, 0]]
    assert program.events["logits"].tolist() == [[2, 2], [0, 0], [1, 1]]
    assert program.wrapped.tolist() == [[0, 0]] * 3
    program.run({"y": (sums[:1], 0, 1)}, np.array([1], np.int32))
    assert program.events["logits"].tolist() == [[2, 2], [1, 0], [1, 1]]


@each_level
def test_one_neuron_counts_slot_by_slot(level: str, hand_graph: Graph) -> None:
    """Also where its tokens take the lanes that neurons take elsewhere."""
    program = cpu.bind(hand_graph.head, hand_graph.sigmoid, {}, 1, slots=2, level=level)
    sums = np.array([[8], [30000], [0], [-30000], [30000]], np.int32)
    for times in (1, 2):
        found = program.run({"y": (sums, 0, 1)}, np.array([0, 1, 1, 0, 1], np.int32))["logits"]
        assert found.tolist() == [[12], [32767], [0], [-32767], [32767]]
        assert program.saturated.tolist() == [[times], [2 * times]]
        assert program.events["logits"].tolist() == [[2 * times], [2 * times]]


@each_level
def test_states_slot_by_slot(level: str, a16: Graph) -> None:
    """A sequence has the states that it has alone; one that begins takes zeros in whatever slot
    another has left."""
    many, neurons, tokens = with_slots(a16, 3), 20, 12
    one, node = a16.node("layers.0.mlgru"), many.node("layers.0.mlgru")
    own = own_constants(one, 0, neurons)
    values, _ = given_to(a16, one, (tokens, neurons), "small", 1)
    slots = np.array([2, 0, 2, 0, 0, 2, 0, 2, 2, 0, 0, 0], np.int32)
    starts = np.isin(np.arange(tokens), [0, 1, 5, 9])
    told = {name: array for name, array in values.items() if name in node.ports}
    told[HERE] = mark(slots.astype(np.int64), starts)[:, None]
    together = cpu.bind(node, many.sigmoid, own, neurons, slots=3, level=level)
    found = together.run(streams(many, node, told), slots)
    assert together.state is not None and together.state.dtype == np.int32
    assert together.state.shape == (3, neurons)
    assert not together.state[1].any()
    for begin, slot in ((0, 2), (1, 0), (5, 2), (9, 0)):
        later = np.flatnonzero(starts & (slots == slot) & (np.arange(tokens) > begin))
        end = later[0] if later.size else tokens
        mine = np.flatnonzero((slots == slot) & (np.arange(tokens) >= begin))
        mine = mine[mine < end]
        alone = cpu.bind(one, a16.sigmoid, own, neurons, level=level)
        rows = {name: array[mine] for name, array in values.items()}
        expected = alone.run(streams(a16, one, rows), in_slot_0(mine.size))
        assert all(np.array_equal(found[port][mine], sent) for port, sent in expected.items())
        if not later.size:
            assert alone.state is not None
            assert np.array_equal(together.state[slot], alone.state[0])


@each_level
@pytest.mark.parametrize(("first", "stride"), [(0, 1), (3, 1), (2, 5), (19, 0)])
def test_inputs_lie_anywhere(first: int, stride: int, level: str, hand_graph: Graph) -> None:
    """An offset, a stride, and one value that all neurons read."""
    program = cpu.bind(hand_graph.head, hand_graph.sigmoid, {}, 3, level=level)
    array = np.arange(40, dtype=np.int32).reshape(2, 20) * 2
    sums = array[:, [first + stride * k for k in range(3)]]
    found = program.run({"y": (array, first, stride)}, in_slot_0(2))["logits"]
    assert found.tolist() == (sums * 3 // 2).tolist()


# Groups.


@pytest.mark.parametrize(
    ("size", "arity"), [(70, 32), (64, 32), (33, 32), (1, 32), (7, 2), (5, 1), (129, 64)]
)
def test_groups_of_odd_sizes(size: int, arity: int) -> None:
    """The last group has fewer members; cut anywhere, a group reads its own."""
    codes, x_type = np.zeros((1, size), np.int8), QType(24, 0)
    squares = Squares(None, 0, QType(16, 0), 0)
    outputs = Output("x", size, x_type), Output("sq", size, QType(31, 0), unsigned=True)
    embedding = Embedding("x", size, (), outputs, codes, np.array([1]), 0, squares)
    neurons = -(-size // arity)
    node = MaxAbs(
        "max",
        neurons,
        (Input("v", "x", "x", "group"),),
        (Output("max", neurons, x_type, True),),
        arity,
    )
    graph = Graph("groups", "a8", (embedding, node), sigmoid_table(8), 32, 0, None, {})
    values = (
        np.random.default_rng(size)
        .integers(-x_type.high, x_type.high + 1, (5, size))
        .astype(np.int32)
    )
    expected = np.stack(
        [np.abs(values[:, k * arity : (k + 1) * arity]).max(1) for k in range(neurons)], 1
    )
    for start in range(neurons):
        for stop in range(start + 1, neurons + 1):
            payloads = np.ascontiguousarray(values[:, start * arity : stop * arity])
            for level in LEVELS:
                held = Neurons(graph, node, start, stop)
                held.program = cpu.bind(node, graph.sigmoid, {}, stop - start, level=level)
                found = held.fire([payloads], in_slot_0(5))["max"]
                assert np.array_equal(found, expected[:, start:stop])


# Instructions: programs drawn at random, as long as intervals prove that every value fits its
# register.

TABLE = np.array([5, -7, 11, 0, REGISTER_HIGH, -3, 8, -REGISTER_HIGH])
STATE = QType(20, 0)
Step = Callable[[Machine, list[Any]], Any]
"""An instruction on the values that a program has computed before."""


@st.composite
def instructions(draw: st.DrawFn, count: int, table: SigmoidTable) -> Step:
    """One instruction on some of `count` values, or on numbers."""

    def value() -> Callable[[list[Any]], Any]:
        at = draw(st.integers(0, count - 1))
        return lambda values: values[at]

    def operand() -> Callable[[list[Any]], Any]:
        number = draw(
            st.one_of(st.none(), st.integers(-5, 5), st.integers(-REGISTER_HIGH, REGISTER_HIGH))
        )
        return value() if number is None else lambda values: number

    a, b, c, shift = value(), operand(), operand(), draw(st.integers(0, 40))
    qtype, mask = QType(draw(st.integers(2, 32)), 0), (1 << draw(st.integers(0, 31))) - 1
    up, frac = draw(st.integers(0, 12)), draw(st.integers(-20, 42))
    low, high = sorted((draw(st.integers(-3000, 3000)), draw(st.integers(-3000, 3000))))
    steps: dict[str, Step] = {
        "add": lambda m, v: m.add(a(v), b(v)),
        "sub": lambda m, v: m.sub(a(v), b(v)),
        "neg": lambda m, v: m.neg(a(v)),
        "abs": lambda m, v: m.abs(a(v)),
        "min": lambda m, v: m.min(a(v), b(v)),
        "max": lambda m, v: m.max(a(v), b(v)),
        "and": lambda m, v: m.bit_and(a(v), mask),
        "shl": lambda m, v: m.shl(a(v), up),
        "select": lambda m, v: m.select(m.lt(a(v), b(v)), a(v), c(v)),
        "lookup": lambda m, v: m.lookup(TABLE, m.bit_and(a(v), 7)),
        "mul_shr": lambda m, v: m.mul_shr(a(v), b(v), shift),
        "mul_round": lambda m, v: m.mul_round(a(v), b(v), shift),
        "square": lambda m, v: m.mul_round(a(v), a(v), shift),
        "clip": lambda m, v: m.clip(a(v), low, high),
        "fit": lambda m, v: m.fit(a(v), qtype),
        "mul_fit": lambda m, v: m.mul_fit(a(v), b(v), shift, qtype),
        "sigmoid": lambda m, v: m.sigmoid(a(v), frac, table),
    }
    return steps[draw(st.sampled_from(sorted(steps)))]


@dataclass(frozen=True, eq=False)
class Drawn:
    """A legal program: the ranges of its inputs and constants, how many states a neuron has, its
    steps, and which values it sends."""

    inputs: list[Interval]
    constants: list[Interval]
    slots: int
    steps: list[Step]
    sent: list[int]
    table: SigmoidTable

    def run(
        self,
        m: Machine,
        inputs: list[Any],
        own: list[Any],
        states: Any,
        slot: Any = 0,
        start: Any = 0,
    ) -> tuple[list[Any], Any]:
        """What the program sends, and the states after it: of the token's slot it is the last
        value, as it fits."""
        found = [*inputs, *own]
        if not self.slots:
            self.follow(m, found)
            return [found[at] for at in self.sent], None

        def step(h: Any, _a: Any, _b: Any) -> Any:
            found.append(h)
            self.follow(m, found)
            return m.fit(found[-1], STATE)

        _, states = m.scan(step, states, inputs[0], inputs[0], slot, start)
        return [found[at] for at in self.sent], states

    def follow(self, m: Machine, found: list[Any]) -> None:
        """Add what the steps make of the values before them."""
        for step in self.steps:
            found.append(step(m, found))


@st.composite
def drawn_programs(draw: st.DrawFn) -> Drawn:
    """Straight lines of up to 24 instructions on a few inputs, constants and perhaps a state."""

    def interval() -> Interval:
        reach = (1 << draw(st.integers(0, 31))) - 1
        low, high = sorted((draw(st.integers(-reach, reach)), draw(st.integers(-reach, reach))))
        return Interval(low, high)

    table = sigmoid_table(draw(st.sampled_from([4, 8, 15])))
    inputs = [interval() for _ in range(draw(st.integers(1, 3)))]
    own = [interval() for _ in range(draw(st.integers(0, 2)))]
    slots = draw(st.sampled_from([0, 0, 1, 1, 2, 5]))
    # Lanes without a neuron hold zeros, and table look-ups must stand those as well.
    proved = [Interval(min(0, one.low), max(0, one.high)) for one in (*inputs, *own)]
    proved += [Interval(-STATE.high, STATE.high)] if slots else []
    steps: list[Step] = []
    for _ in range(draw(st.integers(1, 24))):
        step = draw(instructions(len(proved), table))
        try:
            found = step(Bounds("drawn"), proved)
        except RangeError:
            continue
        if max(found.high, -found.low) <= REGISTER_HIGH:
            steps.append(step)
            proved.append(found)
    sent = draw(st.lists(st.integers(0, len(proved) - 1), min_size=1, max_size=3, unique=True))
    return Drawn(inputs, own, slots, steps, [*sent, len(proved) - 1], table)


def written_down(drawn: Drawn) -> Program:
    """A drawn program on the recorder."""
    m = Recorder()
    own = [m.fresh() for _ in drawn.constants]
    inputs = [m.emit(Op.INPUT) for _ in drawn.inputs]
    told = [m.emit(Op.INPUT) for _ in range(2 if drawn.slots > 1 else 0)]
    sent, _ = drawn.run(m, inputs, own, None, *told)
    m.rows += [(Op.OUTPUT, [None, m.operand(value), None, None], 0, 0) for value in sent]
    code, registers = recorder._allocate(m.rows, [*m.immediates.values(), *own])
    constants, inputs, outputs = (
        tuple(f"{kind}{n}" for n in range(len(found)))
        for kind, found in (("c", own), ("x", inputs + told), ("y", sent))
    )
    return Program(
        code,
        tuple(m.immediates),
        constants,
        drawn.slots,
        registers,
        inputs,
        outputs,
        tuple(m.tables),
        drawn.table,
    )


class ByNeuron(Machine):
    """Counts what every neuron saturates, in the row of the slot that is under way."""

    def __init__(self, neurons: int, slots: int = 1) -> None:
        super().__init__()
        self.saturated = np.zeros((slots, neurons), np.int64)
        self.row = 0

    def fit(self, a: Any, qtype: QType) -> Any:
        self.saturated[self.row] += np.abs(a) > qtype.high
        return super().fit(a, qtype)


@pytest.mark.slow
@needs_the_extension
@settings(max_examples=settings.default.max_examples * 5 // 2)
@given(
    drawn=drawn_programs(),
    neurons=st.sampled_from([1, 2, 15, 16, 17, 40, 257]),
    tokens=st.integers(1, 6),
    threads=st.sampled_from([1, 3]),
    seed=st.integers(0, 1 << 30),
)
def test_random_programs(drawn: Drawn, neurons: int, tokens: int, threads: int, seed: int) -> None:
    rng, program = np.random.default_rng(seed), written_down(drawn)

    def legal(one: Interval, *shape: int) -> np.ndarray:
        return np.where(
            rng.random(shape) < 0.2, one.high, rng.integers(one.low, one.high + 1, shape)
        )

    own = [legal(one, neurons) for one in drawn.constants]
    inputs = [legal(one, tokens, neurons) for one in drawn.inputs]
    counted = max(drawn.slots, 2)  # what keeps no state counts in several slots, too
    machine, states = ByNeuron(neurons, counted), np.zeros((drawn.slots, neurons), np.int64)
    slots = rng.integers(0, 1 if drawn.slots == 1 else counted, tokens)
    starts = (rng.random(tokens) < 0.3) & (drawn.slots > 1)
    rows = []
    for token, (slot, start) in enumerate(zip(slots, starts, strict=True)):
        machine.row = slot
        here = [array[token] for array in inputs]
        sent, after = drawn.run(machine, here, own, states, slot, start)
        rows.append(sent)
        states = after if drawn.slots else states
    expected = {
        port: np.stack(side)
        for port, side in zip(program.outputs, zip(*rows, strict=True), strict=True)
    }
    events = {port: np.zeros((counted, neurons), np.int64) for port in expected}
    for port, side in expected.items():
        np.add.at(events[port], slots, side != 0)
    told = [slots[:, None], starts[:, None]] if drawn.slots > 1 else []
    for level in COMPILED:
        with pytest.MonkeyPatch.context() as patch:
            patch.setattr(cpu, "WORTH_A_THREAD", 0)
            named = dict(zip(program.constants, own, strict=True))
            compiled = cpu.Compiled(program, named, neurons, counted, threads, level)
            given_ = {
                name: (array.astype(np.int32), 0, int(number < len(inputs)))
                for number, (name, array) in enumerate(
                    zip(program.inputs, [*inputs, *told], strict=True)
                )
            }
            found = compiled.run(given_, slots.astype(np.int32))
        for port, side in expected.items():
            assert np.array_equal(found[port], side), level
            assert np.array_equal(compiled.events[port], events[port]), level
        assert np.array_equal(compiled.saturated, machine.saturated), level
        assert compiled.saturated.sum() == machine.saturations
        assert (compiled.state is not None) == (drawn.slots > 0)
        if drawn.slots:
            assert np.array_equal(compiled.state, states), level
    if not drawn.slots:
        vector, every_token = (
            cpu.VectorMachine(neurons, counted),
            [np.tile(array, (tokens, 1)) for array in own],
        )
        vector.rows = slots.astype(np.int32)
        sent, _ = drawn.run(vector, inputs, every_token, None)
        assert all(
            np.array_equal(side, other) for side, other in zip(sent, expected.values(), strict=True)
        )
        assert np.array_equal(vector.saturated, machine.saturated)


def of_one_instruction(op: Op, *, shift: int = 0, constant: int = 0, operands: int = 1) -> Program:
    """A program that does one thing to its inputs."""
    m = Recorder()
    inputs = [m.emit(Op.INPUT) for _ in range(operands)]
    result = m.emit(op, *inputs, shift=shift, constant=constant)
    m.rows.append((Op.OUTPUT, [None, result, None, None], 0, 0))
    code, registers = recorder._allocate(m.rows, [])
    names = tuple(f"x{n}" for n in range(operands))
    return Program(code, (), (), 0, registers, names, ("y",), (), sigmoid_table(8))


def ran(program: Program, level: str, *inputs: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """What a program sends for one token, and what its neurons saturate."""
    compiled = cpu.Compiled(program, {}, inputs[0].size, 1, 1, level)
    given_ = {
        name: (x[None].astype(np.int32), 0, 1)
        for name, x in zip(program.inputs, inputs, strict=True)
    }
    return compiled.run(given_, in_slot_0(1))["y"][0], compiled.saturated


ENDS = np.array(
    [0, 1, -1, 2, -2, 1 << 30, -(1 << 30), REGISTER_HIGH - 1, REGISTER_HIGH, -REGISTER_HIGH]
)


@each_compiled_level
def test_products_of_the_largest_values(level: str) -> None:
    """Every pair of extremes, at every shift; what passes the register's ends is saturated and
    counted."""
    a, b = (side.ravel() for side in np.meshgrid(ENDS, ENDS))
    for shift in range(63):
        for high in (127, REGISTER_HIGH):
            machine = ByNeuron(a.size)
            expected = machine.mul_fit(a, b, shift, QType(high.bit_length() + 1, 0))
            sent, saturated = ran(
                of_one_instruction(Op.MUL_FIT, shift=shift, constant=high, operands=2), level, a, b
            )
            assert np.array_equal(sent, expected)
            assert np.array_equal(saturated, machine.saturated)
        for op, product in ((Op.MUL_SHR, Machine().mul_shr), (Op.MUL_ROUND, Machine().mul_round)):
            expected = product(a, b, shift)
            fits = np.abs(expected) <= REGISTER_HIGH
            sent, _ = ran(of_one_instruction(op, shift=shift, operands=2), level, a, b)
            assert np.array_equal(sent[fits], expected[fits])


@each_level
def test_sigmoids_of_every_format(level: str) -> None:
    """Formats of up to 62 fractional bits, which is what lowering gives to a gate that is always
    near zero."""
    table, random, wrong = sigmoid_table(8), np.random.default_rng(0), []
    x = np.concatenate(
        [ENDS, np.arange(-300, 300), random.integers(-REGISTER_HIGH, REGISTER_HIGH, 300)]
    )
    for frac in range(-30, 63):
        for some in (x, x[:9]):  # many lanes and few
            if level == "numpy":
                found = cpu.VectorMachine(some.size).sigmoid(some, frac, table)
            else:
                found, _ = ran(of_one_instruction(Op.SIGMOID, shift=frac), level, some)
            if not np.array_equal(found, Machine().sigmoid(some, frac, table)):
                wrong.append((frac, some.size))
    assert wrong == []


# Without the extensions, and what is refused.


def test_memory_is_kept_where_the_library_can_be_told(monkeypatch: pytest.MonkeyPatch) -> None:
    """And where it cannot, nothing is said."""

    class Library:
        def mallopt(self, which: int, value: int) -> int:
            told.append((which, value))
            return 1

    def none(_: None) -> Any:
        raise OSError

    told: list[tuple[int, int]] = []
    monkeypatch.setattr(memory.ctypes, "CDLL", lambda _: Library())
    memory.keep_freed()
    assert told == [(-3, memory.LARGEST_REUSED), (-1, memory.KEPT)]
    for silent in (lambda _: object(), none):
        monkeypatch.setattr(memory.ctypes, "CDLL", silent)
        memory.keep_freed()


def test_without_the_extension(
    graph: Graph,
    make_mapping: Callable[..., Mapping],
    tokens: np.ndarray,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    mapping, job = make_mapping(graph, "random", 2), Job(tokens[:1, :6], 3, Sampling(0.9, 2))
    expected = reference.run(graph, mapping, job)
    for programs_missing, products_missing in ((True, False), (False, True), (True, True)):
        with monkeypatch.context() as patch:
            if programs_missing:
                patch.setattr(cpu, "_programs", None)
            if products_missing:
                patch.setattr(products, "_AVAILABLE", ("numpy",))
                patch.setattr(products, "_COMPILED", {})
            cpu.available.cache_clear()
            assert cpu.available() == (("numpy",) if programs_missing else LEVELS)
            assert products.available()[-1] == "numpy"
            session = fast.Fast(graph, mapping)
            interpreted = {
                isinstance(held.program, cpu.Interpreted) for held in session.neurons.values()
            }
            assert interpreted == {programs_missing or not COMPILED}
            found = fast.run(graph, mapping, job)
        assert np.array_equal(found.logits, expected.logits)
        assert np.array_equal(found.chosen, expected.chosen)
        assert found.prefill == expected.prefill
        assert found.generate == expected.generate


def test_where_no_compiler_was_found(
    hand_graph: Graph, hand_mapping: Mapping, system: Any, tmp_path: Path
) -> None:
    """Neither extension can be imported, and the fast engine runs all the same."""
    graph_file.save_graph(hand_graph, tmp_path / "a.graph")
    mapping = replace(hand_mapping, graph=graph_file.load_graph(tmp_path / "a.graph")[1])
    mapping_file.save_mapping(
        mapping_file.StoredMapping(mapping, system, tmp_path / "a.graph"), tmp_path / "a.map"
    )
    program = """
        import sys
        from pathlib import Path

        sys.modules["mmfree_kernels.cpu._programs"] = None
        sys.modules["mmfree_kernels.cpu._ternary"] = None

        import numpy as np

        from mmfree_kernels.cpu import programs, products as ternary
        from mmfree_neuro.pipeline import opened
        from mmfree_neuro.run.job import Job
        from mmfree_sims import fast

        assert programs.available() == ternary.available() == ("numpy",)
        graph, stored = opened.open_mapped(Path(sys.argv[1]))
        result = fast.run(graph, stored.mapping, Job(np.array([[0, 1]]), 1))
        print(result.logits.tolist(), result.chosen.tolist(), result.prefill.messages.tolist())
    """
    command = [sys.executable, "-W", "error", "-c", dedent(program), str(tmp_path / "a.map")]
    said = subprocess.run(command, check=True, capture_output=True, text=True).stdout
    assert said == "[[[12, 3], [-1, -3]]] [[0]] [5, 2, 2]\n"


@each_compiled_level
@pytest.mark.parametrize("wrong", [1 << 31, -(1 << 31) - 1, 1 << 40])
def test_a_constant_fits_32_bits(wrong: int, level: str, a16: Graph) -> None:
    node = a16.node("layers.0.attn.norm")
    for fits in (REGISTER_HIGH, -REGISTER_HIGH - 1):
        cpu.bind(
            node,
            a16.sigmoid,
            {name: np.array([7, fits]) for name in node.constants},
            2,
            level=level,
        )
    with pytest.raises(ValueError, match=r"^a constant of a program does not fit 32 bits$"):
        cpu.bind(
            node,
            a16.sigmoid,
            {name: np.array([7, wrong]) for name in node.constants},
            2,
            level=level,
        )


@each_compiled_level
def test_the_extension_has_room_for_64_inputs(level: str) -> None:
    output = Output("max", 1, QType(8, 0), unsigned=True)
    values = np.arange(65, dtype=np.int32)[None]
    for arity in (64, 65):
        node = MaxAbs("max", 1, (Input("v", "x", "x", "group"),), (output,), arity)
        program = cpu.bind(node, sigmoid_table(8), {}, 1, level=level)
        inputs = {f"v/{k}": (values, k, arity) for k in range(arity)}
        if arity == 64:
            assert program.run(inputs, in_slot_0(1))["max"].tolist() == [[63]]
            continue
        with pytest.raises(ValueError, match=r"^a program has too many arrays$"):
            program.run(inputs, in_slot_0(1))


@needs_the_extension
def test_the_extension_guards_itself() -> None:
    from mmfree_kernels.cpu import _programs

    with pytest.raises(TypeError, match=r"^run takes 16 arguments$"):
        _programs.run()  # type: ignore[call-arg]
    assert not _programs.supports("sse")
    assert _programs.supports("portable")
