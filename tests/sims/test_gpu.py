"""The GPU engine gives the reference's integers and counts, bit for bit; without a GPU, through
Triton's interpreter.

The interpreter takes a millisecond or so for an instruction, whatever the number of neurons, so
tokens are few.
"""

import sys
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest

torch = pytest.importorskip("torch")
pytest.importorskip("triton")

from mmfree_kernels.cpu import programs as cpu
from mmfree_kernels.integer import neurons as gpu_neurons
from mmfree_kernels.integer.neurons import Counts, Neurons, all_sigmoids, on_device
from mmfree_kernels.integer.source import Stream, write
from mmfree_kernels.integer.walk import plan, read
from mmfree_kernels.ops.bitlinear import digits
from mmfree_neuro.cli.main import main
from mmfree_neuro.errors import EngineError
from mmfree_neuro.graph import graph_file, greedy, programs
from mmfree_neuro.graph.greedy import with_greedy
from mmfree_neuro.graph.machine import REGISTER_HIGH, Value
from mmfree_neuro.graph.nodes import (
    HERE,
    AnyNode,
    Embedding,
    Graph,
    Input,
    MaxAbs,
    Node,
    Output,
    PartialSum,
    mark,
)
from mmfree_neuro.graph.partial_sums import by_columns, evenly
from mmfree_neuro.graph.recorder import record
from mmfree_neuro.graph.slots import with_slots
from mmfree_neuro.graph.verify import sum_bound
from mmfree_neuro.integers.fixedpoint import QType
from mmfree_neuro.integers.tables import SIGMOID_INPUT_FRAC, SigmoidTable, sigmoid_table
from mmfree_neuro.mapping.mapping import Mapping
from mmfree_neuro.pipeline import engines
from mmfree_neuro.pipeline.quality import in_one_place
from mmfree_neuro.run import reference
from mmfree_neuro.run.activity import nothing
from mmfree_neuro.run.job import Job, RunState, Saving, silent
from mmfree_neuro.run.sampling import Sampling
from mmfree_sims import fast, gpu

pytestmark = pytest.mark.kernels

Mapper = Callable[..., Mapping]
ENDS = np.array([-REGISTER_HIGH, -(1 << 16), -1, 0, 1, 3, (1 << 20) + 1, REGISTER_HIGH])


@pytest.fixture(autouse=True)
def unpacked(monkeypatch: pytest.MonkeyPatch, device: str) -> None:
    """The interpreter is fastest with weights that are unpacked; test_digits has all ways."""
    if device == "cpu":
        monkeypatch.setattr(digits, "FEW", 0)
        monkeypatch.setattr(digits, "TOGETHER", 0)


def assert_equal_runs(graph: Graph, mapping: Mapping, job: Job) -> None:
    expected, found = reference.run(graph, mapping, job), gpu.run(graph, mapping, job)
    assert np.array_equal(found.logits, expected.logits)
    assert np.array_equal(found.chosen, expected.chosen)
    assert found.prefill == expected.prefill
    assert found.generate == expected.generate


# Whole runs.

with_lower_bounds = pytest.mark.parametrize("model_name", ["lower-bounds"], indirect=True)
without_lower_bounds = pytest.mark.parametrize("model_name", ["no-lower-bounds"], indirect=True)


def test_equal_to_the_reference_by_hand(hand_graph: Graph, hand_mapping: Mapping) -> None:
    assert_equal_runs(
        hand_graph, hand_mapping, Job(np.array([[0, 1, 1, 0], [1, 0, 0, 0]]), 3, Sampling(0.8, 11))
    )


def test_equal_to_the_reference(graph: Graph, make_mapping: Mapper, tokens: np.ndarray) -> None:
    assert_equal_runs(graph, make_mapping(graph, "random", 5), Job(tokens[:1, :3]))


@with_lower_bounds
def test_equal_to_the_reference_with_several_sequences_under_way(
    a16: Graph, make_mapping: Mapper, tokens: np.ndarray
) -> None:
    """The third takes the slot that the first has left."""
    many = with_slots(a16, 2)
    mapping = make_mapping(many, "random", 5)
    job = Job([tokens[0, :1], tokens[1, :2], tokens[2, :1]], [1, 2, 0], in_flight=2)
    expected, found = reference.run(many, mapping, job), gpu.run(many, mapping, job)
    for one, other in zip(found.outcomes, expected.outcomes, strict=True):
        assert np.array_equal(one.logits, other.logits)
        assert np.array_equal(one.chosen, other.chosen)
        assert (one.prefill, one.generate) == (other.prefill, other.generate)


@with_lower_bounds
def test_words_that_the_graph_chooses(
    a8: Graph, make_mapping: Mapper, tokens: np.ndarray, monkeypatch: pytest.MonkeyPatch
) -> None:
    """On four levels, of two sequences under way."""
    monkeypatch.setattr(greedy, "MOST_LOGITS", 5)
    monkeypatch.setattr(greedy, "MOST_VALUES", 4)
    many = with_greedy(with_slots(a8, 2))
    assert many.nodes[-1].name == "largest.3"
    mapping = make_mapping(many, "random", 5)
    job = Job([tokens[0, :1], tokens[1, :2]], [2, 1], keep_logits=False, in_flight=2)
    expected, found = reference.run(many, mapping, job), gpu.run(many, mapping, job)
    for one, other in zip(found.outcomes, expected.outcomes, strict=True):
        assert one.chosen.tolist() == other.chosen.tolist()
        assert (one.prefill, one.generate) == (other.prefill, other.generate)


@without_lower_bounds
def test_equal_to_the_reference_without_lower_bounds(
    a8: Graph, make_mapping: Mapper, tokens: np.ndarray
) -> None:
    assert_equal_runs(a8, make_mapping(a8, "block-per-chip"), Job(tokens[:1, :2]))


@without_lower_bounds
def test_equal_to_the_reference_divided_and_loud(
    a16: Graph, make_mapping: Mapper, tokens: np.ndarray
) -> None:
    embedding = replace(a16.embedding, scales=a16.embedding.scales * 6)
    loud = replace(a16, nodes=(embedding, *a16.nodes[1:]))
    parts = tuple(
        (node.name, 2) for node in a16.nodes if node.name.startswith("layers.0") and _sums(node)
    )
    divided, job = by_columns(loud, evenly(loud, parts)), Job(tokens[:1, :2])
    mapping = make_mapping(divided, "random", 7)
    assert (
        sum(isinstance(node, PartialSum) for node in divided.nodes) == len(parts) + 3
    )  # i, f, g and gate, up
    assert reference.run(divided, mapping, job).prefill.saturations.sum() > 0
    assert_equal_runs(divided, mapping, job)


def test_equal_to_the_reference_where_sums_wrap(
    wraps: Graph, make_mapping: Mapper, tokens: np.ndarray
) -> None:
    parts = ("layers.0.mlgru", 2), ("layers.0.attn.rms", 2), ("layers.1.down_proj", 3)
    divided, job = by_columns(wraps, evenly(wraps, parts)), Job(tokens[:1, :2])
    mapping = make_mapping(divided, "random", 7)
    assert reference.run(divided, mapping, job).prefill.wrapped.sum() > 0
    assert_equal_runs(divided, mapping, job)


def _sums(node: AnyNode) -> bool:
    return any(entry.how in ("ternary", "sum") for entry in node.inputs)


@pytest.mark.parametrize("graph", ["a16", "a8", "a14-local"], indirect=True)
def test_goes_on_from_a_state_of_another_engine(
    graph: Graph, make_mapping: Mapper, tokens: np.ndarray
) -> None:
    mapping, last = make_mapping(graph, "chain"), tokens[0, 5:6]
    before, found = fast.Fast(graph, mapping), gpu.Gpu(graph, mapping)
    before.feed(tokens[0, :5])
    before.take_activity()
    found.restore(before.states())
    assert np.array_equal(found.feed(last), before.feed(last))
    assert_equal_states(found, before)
    assert found.take_activity() == before.take_activity()
    assert found.take_activity() == nothing(mapping)
    found.reset()
    assert all(not state.any() for state in found.states().values())


@with_lower_bounds
def test_goes_on_from_the_states_of_several_sequences(
    a16: Graph, make_mapping: Mapper, tokens: np.ndarray
) -> None:
    """One token of each, and then several of one, in an order that is not that of the slots."""
    many = with_slots(a16, 3)
    mapping = make_mapping(many, "chain")
    before, found = fast.Fast(many, mapping), gpu.Gpu(many, mapping)
    begin, slots = np.array([True, False, True, False, True]), np.array([2, 2, 0, 0, 1])
    before.feed(tokens[0, :5], mark(slots, begin))
    for slot in range(3):
        before.take_activity(slot)
    found.restore(before.states())
    for row, starts in ((np.array([2, 0]), [False, True]), (np.array([1, 1]), [False, False])):
        marks = mark(row, np.array(starts))
        assert np.array_equal(found.feed(tokens[1, :2], marks), before.feed(tokens[1, :2], marks))
        assert_equal_states(found, before)
    for slot in (1, 2, 0):
        assert found.take_activity(slot) == before.take_activity(slot)
        assert found.take_activity(slot) == nothing(mapping)


def assert_equal_states(found: gpu.Gpu, expected: fast.Fast) -> None:
    assert found.states().keys() == expected.states().keys()
    for name, state in expected.states().items():
        assert found.states()[name].dtype == np.int64
        assert np.array_equal(found.states()[name], state)


def test_a_saved_run_goes_on(hand_graph: Graph, hand_mapping: Mapping) -> None:
    job, states, later = (
        Job(np.array([[0, 1, 1, 0]]), 3, keep_logits=False),
        list[RunState](),
        list[RunState](),
    )
    expected = gpu.run(hand_graph, hand_mapping, job, silent, Saving(3, states.append))
    found = gpu.run(hand_graph, hand_mapping, job, silent, Saving(5, later.append, states[0]))
    assert ([state.fed for state in states], [state.fed for state in later]) == ([3], [5])
    assert np.array_equal(found.chosen, expected.chosen)
    assert (found.prefill, found.generate) == (expected.prefill, expected.generate)


def test_token_by_token_as_a_cuda_graph(
    a16: Graph, make_mapping: Mapper, tokens: np.ndarray, device: str
) -> None:
    if device != "cuda":
        pytest.skip("needs a GPU: the third token is the second that the recorded kernels compute")
    mapping = make_mapping(a16, "random", 2)
    expected, found = fast.Fast(a16, mapping), gpu.Gpu(a16, mapping)
    for row in tokens[:2]:
        for part in (row[:3], row[3:4], row[4:5], row[5:6], row[6:7], row[7:9], row[9:10]):
            assert np.array_equal(found.feed(part), expected.feed(part))
        assert_equal_states(found, expected)
        assert found.take_activity() == expected.take_activity()
        found.reset()
        expected.reset()


def test_a_token_of_each_sequence_as_a_cuda_graph(
    a16: Graph, make_mapping: Mapper, tokens: np.ndarray, device: str
) -> None:
    """One for each number of sequences, whichever they are, and whether they begin or not."""
    if device != "cuda":
        pytest.skip("needs a GPU: what is recorded is played from the third time on")
    many = with_slots(a16, 3)
    mapping = make_mapping(many, "random", 2)
    expected, found = fast.Fast(many, mapping), gpu.Gpu(many, mapping)
    rounds = [[0, 2], [2, 1], [1, 0], [0, 1, 2], [1, 2], [2, 1, 0], [1], [1, 0, 2], [2], [0], [1]]
    for number, slots in enumerate([*rounds, [0, 0, 1], *rounds]):
        starts = np.full(len(slots), number in (0, 3, 8))
        marks, words = (
            mark(np.array(slots), starts),
            tokens[number % 4, number : number + len(slots)],
        )
        assert np.array_equal(found.feed(words, marks), expected.feed(words, marks))
        assert_equal_states(found, expected)
    for slot in range(3):
        assert found.take_activity(slot) == expected.take_activity(slot)


# The kernels of neuron programs.

SLOTS = np.array([1, 0, 1])
"""The slots of the three tokens of a graph of several."""


def reads(graph: Graph, node: AnyNode, rng: np.random.Generator) -> dict[str, np.ndarray]:
    """Legal values [3 tokens, values] for every port of a node, many of them at the ends of what
    can arrive; marks are those of SLOTS, and the second token begins a sequence."""
    marks = mark(SLOTS, np.array([False, True, False]))[:, None]
    if isinstance(node, Embedding):
        words = node.codes[[3, 0, 1]], rng.integers(0, node.scales.max() + 1, (3, 1)), marks
        return dict(zip(node.reads, words, strict=False))
    found = {}
    for port, entries in node.ports.items():
        entry, source = entries[0], graph.node(entries[0].source).output(entries[0].source_port)
        high = sum_bound(node, entry, source)
        width = {"broadcast": 1, "sum": 1, "group": source.size}.get(entry.how, node.size)
        low = 0 if source.unsigned else -high
        anything, ends = (
            rng.integers(low, high + 1, (3, width)),
            rng.choice([low, 0, 1, high], (3, width)),
        )
        found[port] = np.where(
            rng.random((3, width)) < 0.5, anything >> rng.integers(0, 31, (3, width)), ends
        )
        if port == HERE and graph.slots > 1:
            found[port] = marks
    return found


def streams(graph: Graph, node: AnyNode, values: dict[str, np.ndarray]) -> dict[str, cpu.Stream]:
    """The same for the CPU."""
    if isinstance(node, MaxAbs):
        padded = np.zeros((3, node.size * node.arity), np.int32)
        padded[:, : values["v"].shape[1]] = values["v"]
        return {f"v/{k}": (padded, k, node.arity) for k in range(node.arity)}
    return {
        port: (np.ascontiguousarray(v, np.int32), 0, int(v.shape[1] > 1))
        for port, v in values.items()
    }


def assert_equal_programs(
    node: AnyNode,
    table: SigmoidTable,
    values: dict[str, np.ndarray],
    given: dict[str, cpu.Stream],
    device: str,
    slots: np.ndarray,
) -> int:
    """The kernel sends, counts and keeps what NumPy does; how many values saturated."""
    place, rows = torch.device(device), int(slots.max()) + 1
    zeros = {
        port: torch.zeros((rows, node.size), dtype=torch.int64, device=place)
        for port in ("", *_ports(node))
    }
    events = {port: zeros[port] for port in _ports(node)}
    counts = Counts(events, zeros[""], torch.zeros_like(zeros[""]), node.size)
    here = Neurons(node, table, all_sigmoids(table, place), counts)
    there = cpu.bind(node, table, node.constants, node.size, slots=rows, level="numpy")
    planned = plan(np.zeros(len(slots), np.int64), mark(slots, np.zeros(len(slots), np.bool_)))
    order = np.arange(len(slots)) if planned.order is None else planned.order
    walk = read(torch.from_numpy(planned.numbers).to(place), planned.shape)
    for _ in range(2):  # the second time from the state that the first one left
        arrived = {port: on_device(array[order], place) for port, array in values.items()}
        sent = here.run(arrived, walk)
        expected = there.run(given, slots.astype(np.int32))
        for port, array in expected.items():
            assert np.array_equal(sent[port].cpu().numpy(), array[order]), (node.name, port)
    for port, events in there.events.items():
        assert np.array_equal(counts.events[port].cpu().numpy(), events), (node.name, port)
    assert np.array_equal(counts.saturated.cpu().numpy(), there.saturated), node.name
    if there.state is not None:
        assert here.state is not None
        assert here.state.shape == there.state.shape
        assert np.array_equal(here.state.cpu().numpy(), there.state), node.name
    return int(there.saturated.sum())


def _ports(node: AnyNode) -> tuple[str, ...]:
    return tuple(output.port for output in node.outputs)


@pytest.mark.parametrize("in_flight", [1, 2])
def test_every_program_where_values_saturate(in_flight: int, graph: Graph, device: str) -> None:
    graph = with_slots(graph, in_flight)
    kinds = {type(node).__name__: node for node in graph.nodes}
    rng, saturated, slots = np.random.default_rng(5), {}, SLOTS * (in_flight > 1)
    for kind, node in kinds.items():
        values = reads(graph, node, rng)
        saturated[kind] = assert_equal_programs(
            node, graph.sigmoid, values, streams(graph, node, values), device, slots
        )
    assert sum(number > 0 for number in saturated.values()) >= 4


def test_every_instruction_at_the_ends_of_a_register(
    monkeypatch: pytest.MonkeyPatch, device: str
) -> None:
    table, entries = sigmoid_table(7), np.array([5, -7, REGISTER_HIGH, 0])

    def run(
        m: Value,
        _node: Node,
        table: SigmoidTable,
        _constants: Value,
        inputs: Value,
        _state: Value = None,
    ) -> Value:
        a, b = m.read(inputs["a"]), m.read(inputs["b"])
        half, other = m.mul_shr(a, 1, 1), m.mul_shr(b, 1, 1)
        results = [
            m.add(half, other),
            m.sub(half, other),
            m.neg(a),
            m.abs(a),
            m.min(a, b),
            m.max(a, 9),
            m.bit_and(a, 0xFFFF),
            m.select(m.lt(a, b), a, m.add(b, 0)),
            m.shl(m.mul_shr(a, 1, 8), 8),
            m.lookup(entries, m.bit_and(a, 3)),
            m.mul_shr(a, b, 31),
            m.mul_shr(a, b, 62),
            m.mul_round(a, b, 31),
            m.mul_round(a, b, 62),
            m.mul_round(a, 1, 0),
            m.mul_round(a, 3, 2),
            m.clip(a, -5, 1 << 20),
            m.fit(a, QType(16, 0)),
            m.mul_fit(a, b, 0, QType(32, 0)),
            m.mul_fit(a, b, 1, QType(9, 0)),
            m.mul_fit(a, b, 45, QType(16, 0)),
            *(m.sigmoid(a, frac, table) for frac in (0, 1, 10, SIGMOID_INPUT_FRAC, 12, 20, 45)),
        ]
        return {f"o{k}": result for k, result in enumerate(results)}, None

    monkeypatch.setattr(programs, "run", run)
    inputs = tuple(Input(port, port, "x", "aligned") for port in "ab")
    node = Node("by hand", 64, inputs, tuple(Output(f"o{k}", 64, QType(32, 0)) for k in range(28)))
    a, b = (side.reshape(1, 64).repeat(3, 0) for side in np.meshgrid(ENDS, ENDS))
    values = {"a": a + np.array([[0], [1], [-1]]) * (abs(a) < 9), "b": b}
    given: dict[str, cpu.Stream] = {
        port: (array.astype(np.int32), 0, 1) for port, array in values.items()
    }
    slots = np.zeros(3, np.int64)
    assert assert_equal_programs(node, table, values, given, device, slots) > 0  # type: ignore[arg-type]


def test_the_text_of_a_kernel_by_hand(hand_graph: Graph) -> None:
    """Sums times 3/2: rounded by a shift of 0, one more and a shift of 1, inside ±32767."""
    kernel = write("head", record(hand_graph.head, hand_graph.sigmoid), (Stream(0, 1),))
    before, _, inside = kernel.text.partition("    for fed in range(first, last, TOKENS):\n")
    assert before.splitlines()[1].startswith("def head(x0, w0, m0, sigmoids, y0, e0, saturated,")
    assert inside.splitlines() == [
        "        token = fed + tl.arange(0, TOKENS)[:, None]",
        "        there = token < last",
        "        live = there & here",
        "        v0 = tl.load(x0 + token * w0 + neuron, mask=live, other=0).to(tl.int32)",
        "        v1, changed = mul_fit(v0, p3, p0, p1, p2)",
        "        saturations += tl.where(there, changed, 0)",
        "        tl.store(y0 + token * width + neuron, v1, mask=live)",
        "        n0 += ((v1 != 0) & there).to(tl.int32)",
        "    count(e0 + slot * counts + neuron, n0, here)",
        "    count(saturated + slot * counts + neuron, saturations, here)",
        "    count(wrapped + slot * counts + neuron, wraps, here)",
    ]
    assert kernel.parameters == (0, 1, 32767, 3)


def test_the_text_of_digits_and_of_a_sum_that_may_wrap(hand_graph: Graph) -> None:
    kernel = write(
        "head", record(hand_graph.head, hand_graph.sigmoid), (Stream(0, 1, sign=1 << 23),), (2,)
    )
    lines = [line.strip() for line in kernel.text.splitlines()]
    assert [line for line in lines if line.startswith(("v0", "wraps += ", "tl.store"))] == [
        f"v0, changed = held({Stream(0, 1).text}, p0)",
        "wraps += tl.where(there, changed, 0)",
        "tl.store(y0 + token * width + neuron, v2 >> 8, mask=live)",
        "tl.store(y0 + token * width + neuron + 1 * plane, lower(v2, 0), mask=live)",
    ]
    assert kernel.parameters[0] == 1 << 23


# What is refused.


def test_messages_of_the_kernels(
    hand_graph: Graph, device: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    with pytest.raises(ValueError) as wide:
        on_device(np.array([1 << 31]), torch.device(device))
    assert str(wide.value) == "a constant of a program does not fit 32 bits"
    head, counted = hand_graph.head, torch.zeros((1, 2), dtype=torch.int64, device=device)
    table = hand_graph.sigmoid
    neurons = Neurons(
        head,
        table,
        all_sigmoids(table, torch.device(device)),
        Counts({"logits": counted}, counted, counted, 2),
    )
    x = torch.ones((4, 2), dtype=torch.int32, device=device)
    planned = plan(np.zeros(4, np.int64), np.full(4, 2))
    walk = read(torch.from_numpy(planned.numbers).to(device), planned.shape)
    for wrong, found in (
        (x.float(), "torch.float32 [4, 2] with strides [2, 1]"),
        (x[:3], "torch.int32 [3, 2] with strides [2, 1]"),
        (x.T.contiguous().T, "torch.int32 [4, 2] with strides [1, 4]"),
    ):
        with pytest.raises(ValueError) as refused:
            neurons.run({"y": wrong}, walk)
        assert str(refused.value) == (
            f"head: input y is {found}, must be int8, int16 or int32 [4, values] with rows in one "
            "piece"
        )
    monkeypatch.setattr(gpu_neurons, "MOST_VALUES", 63)
    with pytest.raises(ValueError) as many:
        neurons.run({"y": x}, walk)
    assert str(many.value) == "head: 4 tokens have more than 63 values, must come in parts"


def test_without_a_gpu(
    hand_graph: Graph,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
) -> None:
    graph, tokens = tmp_path / "hand.graph", tmp_path / "tokens.npy"
    graph_file.save_graph(hand_graph, graph)
    np.save(tokens, np.array([[0, 1]]))
    arguments = ["logits", str(graph), "--tokens", str(tokens), "--raw", "--engine", "gpu", "-o"]
    assert main([*arguments, str(tmp_path / "found.npy")]) == 0
    assert (
        np.load(tmp_path / "found.npy").tolist()
        == reference.run(
            hand_graph, in_one_place(hand_graph), Job(np.array([[0, 1]]))
        ).logits.tolist()
    )
    monkeypatch.delenv("TRITON_INTERPRET", raising=False)
    monkeypatch.setattr(torch.cuda, "is_available", lambda: False)
    capsys.readouterr()
    assert main([*arguments, str(tmp_path / "none.npy")]) == 2
    assert capsys.readouterr().err == (
        "mmfree-neuro: engine gpu: torch finds no GPU on this machine, must find one; "
        "engine fast gives the same on the CPU\n"
    )
    assert not (tmp_path / "none.npy").exists()


def test_a_model_that_does_not_fit_the_gpu(
    hand_graph: Graph, hand_mapping: Mapping, monkeypatch: pytest.MonkeyPatch
) -> None:
    def full(*_: object) -> None:
        raise torch.OutOfMemoryError("CUDA out of memory")

    session = gpu.Gpu(hand_graph, hand_mapping)
    monkeypatch.setattr(session.network, "_sent", full)
    one = np.zeros(1, np.int64)
    for call in (
        lambda: session.feed(one),
        lambda: session.score(one, mark(one, one == 0), one, one),
    ):
        with pytest.raises(EngineError) as refused:
            call()
        assert str(refused.value) == (
            "engine gpu: the model and the sequences under way do not fit the GPU's memory, must "
            "be fewer sequences or a smaller model; engine fast gives the same on the CPU"
        )


def test_without_triton(monkeypatch: pytest.MonkeyPatch) -> None:
    assert engines.engine_named("gpu") is gpu.run
    for name in [
        name
        for name in sys.modules
        if name.startswith(("mmfree_kernels.integer", "mmfree_sims.gpu"))
    ]:
        monkeypatch.delitem(sys.modules, name)
    monkeypatch.delattr("mmfree_sims.gpu")
    monkeypatch.setitem(sys.modules, "triton", None)
    with pytest.raises(EngineError) as engine:
        engines.engine_named("gpu")
    assert (
        str(engine.value) == "engine gpu needs Triton, which is not installed: pip install triton"
    )
