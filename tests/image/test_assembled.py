"""Programs as words: the guard, the counts, the same integers as the machine, and the same text."""

import re
from collections import Counter
from dataclasses import replace

import numpy as np
import pytest

from mmfree_neuro.errors import GraphError, ImageError
from mmfree_neuro.graph import assembler, programs
from mmfree_neuro.graph.assembler import Assembled, assemble, guard
from mmfree_neuro.graph.machine import CheckedMachine
from mmfree_neuro.graph.nodes import HERE, AnyNode, Graph, Rescale, mark
from mmfree_neuro.graph.slots import with_slots
from mmfree_neuro.graph.verify import instruction_counts, sum_bound
from mmfree_neuro.image.write import as_listed
from mmfree_neuro.integers.fixedpoint import Ints, Multiplier
from mmfree_neuro.target import listing
from mmfree_neuro.target.instructions import CONSTANT, IMMEDIATE, OWN_STATES, STATE, Op, instruction


@pytest.mark.parametrize("slots", [1, 3])
def test_instructions_are_those_that_are_counted(slots: int, graph: Graph) -> None:
    graph = with_slots(graph, slots)
    for name, issued in instruction_counts(graph).items():
        node = graph.node(name)
        found = Counter(one.op.name for one in assemble(node, graph.sigmoid).code)
        assert found == +(issued + guard(node)), name


def test_the_head_by_hand(hand_graph: Graph) -> None:
    """3/2 of a sum, halves up: the product is clipped before its last bit is rounded away."""
    program = as_listed(assemble(hand_graph.head, hand_graph.sigmoid))
    assert (
        listing.text(program, 7, ["Head", "Another"])
        == """program 7
; Head, Another
    RDC     r0, port 0
    SKP_C   r0, rest
    MUL_SHR r0, r0, #3, >> 0
    MIN     r0, r0, #65534  counts
    LT      r1, r0, #-65535
    SEL     r0, r1, #-65535, r0  counts
    ADD     r0, r0, #1
    MUL_SHR r0, r0, #1, >> 1
    SPIKE   0, r0
"""
    )


@pytest.mark.parametrize("slots", [1, 3])
def test_text_assembles_to_the_same_words(slots: int, graph: Graph) -> None:
    graph = with_slots(graph, slots)
    found = [assemble(node, graph.sigmoid) for node in graph.nodes]
    kinds = [type(node).__name__ for node in graph.nodes]
    listed = [as_listed(program) for program in found]
    text = listing.texts(zip(kinds, listed, strict=True))
    once = list(dict.fromkeys(listed))
    assert 10 < len(once) <= len(graph.nodes)
    assert list(listing.programs(text.splitlines())) == once
    comments = [line[2:].split(", ") for line in text.splitlines() if line.startswith("; ")]
    run_by = [{kind for kind, one in zip(kinds, listed, strict=True) if one == o} for o in once]
    assert [set(comment) for comment in comments] == run_by
    spelt = {line.strip() for line in text.splitlines()}
    by_number = {line for line in spelt if re.search(r"\bh\[", line)}
    assert len(by_number) == (slots > 1)  # all recurrences of a graph read their states alike
    written = {line for line in spelt if line.startswith("RMW")}
    assert {line.endswith(", #0") for line in written} == {slots == 1}
    for program in found:
        assert [instruction(one.word) for one in program.code] == list(program.code)


REGISTER = 1 << 31


def interpreted(
    program: Assembled, read: list[Ints], constants: list[Ints], states: Ints
) -> tuple[Ints, Ints]:
    """What the words of a program send [outputs, neurons], and the states [slots, neurons] after
    it; one after another, on arrays of neurons."""
    registers: dict[int, Ints] = {}
    size = states.shape[1]
    neuron = np.arange(size)
    sent: Ints = np.zeros((len(program.outputs), size), np.int64)
    after = states.copy()

    def value(field: int) -> Ints:
        if field < IMMEDIATE:
            return registers[field]
        if field < CONSTANT:
            return np.full(size, program.immediates[field - IMMEDIATE])
        return states[0] if field == STATE else constants[field - CONSTANT]

    for one in program.code:
        a, b, c = ([value(x) for x in one.operands] + [np.zeros(size, np.int64)] * 3)[:3]
        match one.op:
            case Op.RDC:
                found = read[one.s]
            case Op.RMW:
                after[b, neuron] = a
            case Op.SPIKE:
                sent[one.s] = a
            case Op.MOV if one.s == OWN_STATES:
                found = states[a, neuron]
            case Op.MOV:
                found = program.tables[one.s][a]
            case Op.SEL:
                found = np.where(a != 0, b, c)
            case Op.AND:
                found = a & b
            case Op.OR:
                found = a | b
            case Op.SHL:
                found = a << one.s
            case Op.ADD:
                found = a + b
            case Op.NEG:
                found = -a
            case Op.MIN:
                found = np.minimum(a, b)
            case Op.MUL_SHR:
                found = np.clip((a * b) >> one.s, -REGISTER, REGISTER - 1)
            case Op.LT:
                found = (a < b).astype(np.int64)
        if one.op not in (Op.RMW, Op.SPIKE, Op.SKP_C):
            assert np.all((found >= -REGISTER) & (found < REGISTER)), one
            registers[one.d] = found
    return sent, after


def sums(rng: np.random.Generator, graph: Graph, node: AnyNode, name: str) -> Ints:
    """What the neurons of a node may read at a port, or at one of a group's."""
    entries = node.ports[name.partition("/")[0]]
    sources = [graph.node(entry.source).output(entry.source_port) for entry in entries]
    bound = sum(sum_bound(node, *pair) for pair in zip(entries, sources, strict=True))
    reach = np.minimum(1 << rng.integers(0, 32, node.size), bound)
    positive = all(
        source.unsigned and entry.how != "ternary"
        for entry, source in zip(entries, sources, strict=True)
    )
    return rng.integers(0 if positive else -reach, reach + 1)


@pytest.mark.parametrize("slots", [1, 3])
def test_words_compute_what_programs_say(slots: int, graph: Graph) -> None:
    """On sums from small ones to the largest that can be, and on the marks of any sequence."""
    rng, graph = np.random.default_rng(5), with_slots(graph, slots)
    for node in graph.nodes[1:]:
        program = assemble(node, graph.sigmoid)
        named = {name: sums(rng, graph, node, name) for name in program.ports}
        if node.state_slots > 1:
            starts = rng.random(node.size) < 0.5
            named[HERE] = mark(rng.integers(0, slots, node.size), starts)
        read = list(named.values())
        inputs = {
            port: [named[f"{port}/{k}"] for k in range(node.group)]
            if node.reads_group(port)
            else named[port]
            for port in node.reads
        }
        states = np.zeros((1, node.size), np.int64)
        if node.state_type is not None:
            high, shape = node.state_type.high, (node.state_slots, node.size)
            states = rng.integers(-high, high + 1, shape)
        machine = CheckedMachine(node.name)
        constants = [node.constants[name] for name in program.constants]
        sent, after = programs.run(machine, node, graph.sigmoid, node.constants, inputs, states)
        found, kept = interpreted(program, read, constants, states)
        for number, output in enumerate(node.outputs):
            assert np.array_equal(found[number], np.broadcast_to(sent[output.port], node.size))
        assert np.array_equal(kept, states if after is None else after), node.name


def test_a_program_that_is_too_long_for_its_fields(
    hand_graph: Graph, monkeypatch: pytest.MonkeyPatch
) -> None:
    for what, most, found in (
        ("registers", "REGISTERS", 2),
        ("immediates", "MOST_IMMEDIATES", 4),
        ("outputs", "MOST_OUTPUTS", 1),
    ):
        with monkeypatch.context() as patch:
            patch.setattr(assembler, most, found - 1)
            with pytest.raises(GraphError) as error:
                assemble(hand_graph.head, hand_graph.sigmoid)
        assert (
            str(error.value)
            == f"head: its program takes {found} {what}, must take at most {found - 1}"
        )


def test_a_wide_value_is_rounded_before_it_is_clipped(hand_graph: Graph) -> None:
    """Twice the largest value of 32 bits is in no register."""
    head = hand_graph.head
    wide = replace(head.outputs[0], qtype=replace(head.outputs[0].qtype, bits=32))
    node = replace(head, outputs=(wide,), rescale={"y": Rescale(Multiplier(3, 1), None)})
    ops = [one.op.name for one in assemble(node, hand_graph.sigmoid).code]
    assert ops[2:] == ["MUL_SHR", "ADD", "MUL_SHR", "MIN", "LT", "SEL", "SPIKE"]


@pytest.mark.parametrize(
    "line",
    [
        "    ADD     r0, r1, r2",
        "program 0\n    JMP     r0",
        "program 0\n    ADD     r0, r1",
        "program 0\n    ADD     r0, r1, x2",
        "program 0\n  ADD r0",
        "program 0\ntable t0: 1 b",
    ],
)
def test_text_that_is_no_program(line: str) -> None:
    lines = line.splitlines()
    with pytest.raises(ImageError) as error:
        list(listing.programs(lines))
    last = " ".join(lines[-1].split())
    assert str(error.value) == f"line {len(lines)} is {last!r}, must be an instruction"
