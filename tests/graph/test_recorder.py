"""Recorded programs say what the text of a program does, and a register is taken again only when it
is free."""

from typing import Any

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from mmfree_neuro.graph import recorder
from mmfree_neuro.graph.nodes import (
    HERE,
    MLGRU,
    PACE,
    PRESENCE,
    Embedding,
    Graph,
    Head,
    Input,
    MaxAbs,
    Output,
)
from mmfree_neuro.graph.recorder import WIDTH, Op, Program, Recorder, record
from mmfree_neuro.graph.slots import with_slots
from mmfree_neuro.integers.fixedpoint import QType
from mmfree_neuro.integers.tables import sigmoid_table

Row = tuple[Op, list[Any], int, int]
SMALL = QType(8, 0)


def test_a_head_by_hand(hand_graph: Graph) -> None:
    """Register 0 holds the mantissa 3; the sum comes into register 1 and is rounded, halved and
    sent there."""
    program = record(hand_graph.head, hand_graph.sigmoid)
    assert program.code.tolist() == [
        [Op.INPUT, 1, 0, 0, 0, 0, 0],
        [Op.MUL_FIT, 1, 1, 0, 0, 1, 32767],
        [Op.OUTPUT, 0, 1, 0, 0, 0, 0],
    ]
    assert program.code.dtype == np.int32
    assert (program.immediates, program.constants) == ((3,), ())
    assert (program.slots, program.registers) == (0, 2)
    assert (program.inputs, program.outputs, program.tables) == (("y",), ("logits",), ())
    assert program.sigmoid is hand_graph.sigmoid


def test_an_embedding_by_hand(hand_graph: Graph) -> None:
    """x = fit(code · scale), sq = fit(fit(x · 1)²): x stays in its register until it is sent, at
    the end."""
    program = record(hand_graph.embedding, hand_graph.sigmoid)
    assert program.code.tolist() == [
        [Op.INPUT, 1, 0, 0, 0, 0, 0],
        [Op.INPUT, 2, 1, 0, 0, 0, 0],
        [Op.MUL_FIT, 2, 1, 2, 0, 0, 127],
        [Op.MUL_FIT, 1, 2, 0, 0, 0, 127],
        [Op.MUL_FIT, 1, 1, 1, 0, 0, 32767],
        [Op.OUTPUT, 0, 2, 0, 0, 0, 0],
        [Op.OUTPUT, 1, 1, 0, 0, 0, 0],
    ]
    assert (program.immediates, program.registers) == ((1,), 3)
    assert (program.inputs, program.outputs) == (("x", "scale"), ("x", "sq"))


def test_a_maximum_by_hand() -> None:
    """The members of a group are inputs of their own."""
    entry, output = Input("v", "x", "x", "group"), Output("max", 2, SMALL, unsigned=True)
    program = record(MaxAbs("max", 2, (entry,), (output,), 3), sigmoid_table(8))
    assert program.inputs == ("v/0", "v/1", "v/2")
    assert program.code[:, :4].tolist() == [
        [Op.INPUT, 0, 0, 0],
        [Op.INPUT, 1, 1, 0],
        [Op.INPUT, 2, 2, 0],
        [Op.ABS, 0, 0, 0],
        [Op.ABS, 1, 1, 0],
        [Op.MAX, 1, 0, 1],
        [Op.ABS, 2, 2, 0],
        [Op.MAX, 2, 1, 2],
        [Op.OUTPUT, 0, 2, 0],
    ]
    assert program.registers == 3


@pytest.mark.parametrize("slots", [1, 3])
def test_presets_stand_first(slots: int, a16: Graph) -> None:
    """Immediates, then constants by name.  The state is read once and written once, before
    anything is sent; that of a single slot has the number 0."""
    node = next(node for node in with_slots(a16, slots).nodes if isinstance(node, MLGRU))
    program = record(node, a16.sigmoid)
    assert program.constants == tuple(node.constants)
    assert ("bounds" in program.constants) == (node.bounds is not None)
    assert program.slots == slots
    presets = len(program.immediates) + len(program.constants)
    op, register, a, b = (program.code[:, field] for field in range(4))
    assert register[(op < Op.OUTPUT) | (op == Op.LOAD)].min() >= presets
    (load,), (store,) = np.flatnonzero(op == Op.LOAD), np.flatnonzero(op == Op.STORE)
    assert load < store < np.flatnonzero(op == Op.OUTPUT).min()
    assert a[load] == b[store]
    if slots == 1:
        assert program.immediates[a[load]] == 0
        assert HERE not in program.inputs
    else:  # whatever the slot holds, a sequence that begins takes zero
        assert a[load] >= presets
        assert program.inputs[-1] == HERE
        assert program.code[load + 1, 0] == Op.SELECT
        assert program.immediates[program.code[load + 1, 3]] == 0
        assert program.code[load + 1, 4] == register[load]


def test_a_number_is_one_immediate_wherever_it_stands() -> None:
    m = Recorder()
    x = m.emit(Op.INPUT)
    m.add(m.add(x, 7), np.int64(7))
    m.max(m.sub(7, x), -7)
    assert list(m.immediates) == [7, -7]


def test_tables_are_numbered_by_their_look_ups() -> None:
    m, tables = Recorder(), [np.arange(4), np.arange(9)]
    x = m.emit(Op.INPUT)
    found = m.add(m.lookup(tables[0], x), m.lookup(tables[1], x))
    m.rows.append((Op.OUTPUT, [None, found, None, None], 0, 0))
    code, _ = recorder._allocate(m.rows, [])
    assert all(a is b for a, b in zip(m.tables, tables, strict=True))
    assert code[code[:, 0] == Op.LOOKUP][:, 3].tolist() == [0, 1]
    assert not code[:, 6].any()


def test_every_operation_is_an_instruction() -> None:
    """What a program may ask a machine for, each with its operands, its shift and its constant."""
    m, table = Recorder(), sigmoid_table(8)
    a, b = m.emit(Op.INPUT), m.emit(Op.INPUT)
    (
        m.add(a, b),
        m.sub(a, b),
        m.neg(a),
        m.abs(a),
        m.min(a, b),
        m.max(a, b),
        m.lt(a, b),
        m.bit_and(a, 5),
        m.shl(a, 3),
    )
    (
        m.select(a, b, a),
        m.mul_shr(a, b, 4),
        m.mul_round(a, b, 5),
        m.fit(a, SMALL),
        m.mul_fit(a, b, 6, SMALL),
    )
    m.sigmoid(a, 9, table), m.clip(a, -4, 9), m.lookup(np.arange(2), a)
    said = [
        (op, [None if value is None else value.number for value in found[1:]], *k)
        for op, found, *k in m.rows[2:]
    ]
    low, high = m.immediates[-4].number, m.immediates[9].number
    middle = m.rows[17][1][0].number
    assert said == [
        (Op.ADD, [0, 1, None], 0, 0),
        (Op.SUB, [0, 1, None], 0, 0),
        (Op.NEG, [0, None, None], 0, 0),
        (Op.ABS, [0, None, None], 0, 0),
        (Op.MIN, [0, 1, None], 0, 0),
        (Op.MAX, [0, 1, None], 0, 0),
        (Op.LESS, [0, 1, None], 0, 0),
        (Op.AND, [0, None, None], 0, 5),
        (Op.SHL, [0, None, None], 3, 0),
        (Op.SELECT, [0, 1, 0], 0, 0),
        (Op.MUL_SHR, [0, 1, None], 4, 0),
        (Op.MUL_ROUND, [0, 1, None], 5, 0),
        (Op.FIT, [0, None, None], 0, 127),
        (Op.MUL_FIT, [0, 1, None], 6, 127),
        (Op.SIGMOID, [0, None, None], 9, 0),
        (Op.MIN, [0, high, None], 0, 0),
        (Op.MAX, [middle, low, None], 0, 0),
        (Op.LOOKUP, [0, None, None], 0, 0),
    ]
    assert (m.read(a), m.send(a)) == (a, a)


def test_a_recurrence_is_one_step() -> None:
    m = Recorder()
    a, b = m.emit(Op.INPUT), m.emit(Op.INPUT)
    given_, after = m.scan(lambda h, a, b: m.add(m.sub(h, a), b), None, a, b)
    assert given_ is after
    assert [op for op, *_ in m.rows] == [Op.INPUT, Op.INPUT, Op.LOAD, Op.SUB, Op.ADD, Op.STORE]
    slot = m.immediates[0]
    assert m.rows[2][1][1:] == [slot, None, None]
    assert m.rows[5][1] == [None, after, slot, None]


def test_a_recurrence_of_several_slots_is_one_step() -> None:
    """The state of the token's slot, or zero where its sequence begins."""
    m = Recorder()
    a, slot, start = m.emit(Op.INPUT), m.emit(Op.INPUT), m.emit(Op.INPUT)
    given_, after = m.scan(lambda h, a, _: m.add(h, a), None, a, a, slot, start)
    assert given_ is after
    assert [op for op, *_ in m.rows[3:]] == [Op.LOAD, Op.SELECT, Op.ADD, Op.STORE]
    (held, *load), (before, *select), (_, *add), store = (found for _, found, *_ in m.rows[3:])
    assert load == [slot, None, None]
    assert select == [start, m.immediates[0], held]
    assert add == [before, a, None]
    assert store == [None, after, slot, None]


def test_a_recurrence_may_end_in_a_number() -> None:
    m = Recorder()
    a = m.emit(Op.INPUT)
    given_, _ = m.scan(lambda *_: 5, None, a, a)
    assert given_ is m.immediates[5]
    assert m.rows[-1] == (Op.STORE, [None, m.immediates[5], m.immediates[0], None], 0, 0)


# Registers: the code is followed row by row, with the value that every register holds.


def assert_registers_hold_their_values(
    rows: list[Row], fixed: list[Any], code: np.ndarray, registers: int
) -> None:
    """Every instruction finds its operands' values where it looks for them; presets are never
    written."""
    assert code.shape == (len(rows), WIDTH)
    held = {register: value.number for register, value in enumerate(fixed)}
    for (op, (result, *operands), shift, constant), row in zip(rows, code.tolist(), strict=True):
        assert (row[0], row[5], row[6]) == (op, shift, 0 if op == Op.LOOKUP else constant)
        for value, register in zip(operands, row[2:5], strict=True):
            if value is not None:
                assert held[register] == value.number
        if result is not None:
            assert len(fixed) <= row[1] < registers
            held[row[1]] = result.number


def live_at_once(rows: list[Row], fixed: list[Any]) -> int:
    """The fewest registers: presets, and the values that are alive at the same time, an unread
    result for itself."""
    presets = {value.number for value in fixed}
    last = {
        value.number: at
        for at, (_, found, _, _) in enumerate(rows)
        for value in found[1:]
        if value is not None
    }
    most, alive = 0, set()
    for at, (_, (result, *_), _, _) in enumerate(rows):
        alive = {number for number in alive if last.get(number, -1) > at}
        if result is not None:
            alive.add(result.number)
        most = max(most, len(alive - presets))
    return len(fixed) + most


def recorded(
    node: Any, graph: Graph, monkeypatch: pytest.MonkeyPatch
) -> tuple[Program, list[Row], list[Any]]:
    """The program of a node, and what its registers were given for."""
    seen: list[Any] = []
    allocate = recorder._allocate

    def watched(rows: list[Row], fixed: list[Any]) -> tuple[np.ndarray, int]:
        seen.extend((rows, fixed))
        return allocate(rows, fixed)

    monkeypatch.setattr(recorder, "_allocate", watched)
    return record(node, graph.sigmoid), seen[0], seen[1]


def test_registers_of_every_node(a16: Graph, a8: Graph, monkeypatch: pytest.MonkeyPatch) -> None:
    graphs = a16, a8, with_slots(a16, 2), with_slots(a8, 5)
    for graph, node in ((each, node) for each in graphs for node in each.nodes):
        with monkeypatch.context() as patch:
            program, rows, fixed = recorded(node, graph, patch)
        assert_registers_hold_their_values(rows, fixed, program.code, program.registers)
        assert program.registers == live_at_once(rows, fixed), node.name
        assert len(fixed) == len(program.immediates) + len(program.constants)
        op = program.code[:, 0]
        assert (op == Op.INPUT).sum() == len(program.inputs)
        assert (op == Op.OUTPUT).sum() == len(program.outputs) == len(node.outputs)
        assert program.outputs == tuple(output.port for output in node.outputs)
        assert program.slots == (graph.slots if isinstance(node, MLGRU) else 0)
        stores, loads = (op == Op.STORE).sum(), (op == Op.LOAD).sum()
        assert stores == loads == isinstance(node, MLGRU)
        assert len(set(program.immediates)) == len(program.immediates)
        if isinstance(node, Head):
            assert not program.constants
        ports = dict.fromkeys(name.split("/")[0] for name in program.inputs)
        assert list(ports) == (
            ["x", "scale", "mark"][: 2 + (graph.slots > 1)]
            if isinstance(node, Embedding)
            else [e.port for e in node.inputs if e.port not in (PRESENCE, PACE)]
        )


def test_a_register_is_free_after_the_last_reading() -> None:
    """Two values live, one after another takes the place of the one that has been read for the last
    time."""
    m = Recorder()
    x, y = m.emit(Op.INPUT), m.emit(Op.INPUT)
    total = m.add(x, y)  # x is read again, y is not
    twice = m.add(total, x)
    m.rows.append((Op.OUTPUT, [None, twice, None, None], 0, 0))
    m.rows.append((Op.OUTPUT, [None, total, None, None], 0, 0))
    code, registers = recorder._allocate(m.rows, [])
    assert code[:, :5].tolist() == [
        [Op.INPUT, 0, 0, 0, 0],
        [Op.INPUT, 1, 1, 0, 0],
        [Op.ADD, 1, 0, 1, 0],
        [Op.ADD, 0, 1, 0, 0],
        [Op.OUTPUT, 0, 0, 0, 0],
        [Op.OUTPUT, 1, 1, 0, 0],
    ]
    assert registers == 2


def test_a_value_that_nobody_reads_gives_its_register_back() -> None:
    m = Recorder()
    x = m.emit(Op.INPUT)
    m.neg(x), m.abs(x)
    last = m.add(x, x)
    m.rows.append((Op.OUTPUT, [None, last, None, None], 0, 0))
    code, registers = recorder._allocate(m.rows, [])
    assert code[:, 1].tolist() == [0, 1, 1, 0, 0]
    assert registers == 2


def test_a_value_read_twice_by_one_instruction_is_freed_once() -> None:
    m = Recorder()
    x = m.emit(Op.INPUT)
    square = m.mul_shr(x, x, 0)
    one, two = m.neg(square), m.abs(square)
    m.rows.append((Op.OUTPUT, [None, m.add(one, two), None, None], 0, 0))
    fixed: list[Any] = []
    code, registers = recorder._allocate(m.rows, fixed)
    assert_registers_hold_their_values(m.rows, fixed, code, registers)
    assert registers == 2


def test_presets_are_never_taken() -> None:
    """Not even when they are read for the last time: the next token reads them again."""
    m = Recorder()
    gain, x = m.fresh(), m.emit(Op.INPUT)
    product = m.mul_shr(x, gain, 0)
    m.rows.append((Op.OUTPUT, [None, m.add(product, 5), None, None], 0, 0))
    fixed = [*m.immediates.values(), gain]
    code, registers = recorder._allocate(m.rows, fixed)
    assert_registers_hold_their_values(m.rows, fixed, code, registers)
    assert registers == 3


@given(data=st.data())
def test_registers_of_random_programs(data: st.DataObject) -> None:
    m = Recorder()
    preset = [m.fresh() for _ in range(data.draw(st.integers(0, 3)))]
    values = [*preset, *(m.emit(Op.INPUT) for _ in range(data.draw(st.integers(1, 4))))]
    for _ in range(data.draw(st.integers(0, 25))):
        op, count = data.draw(st.sampled_from([(Op.NEG, 1), (Op.ADD, 2), (Op.SELECT, 3)]))
        operand = st.one_of(st.sampled_from(values), st.integers(-2, 2))
        values.append(m.emit(op, *data.draw(st.lists(operand, min_size=count, max_size=count))))
    for _ in range(data.draw(st.integers(1, 3))):
        m.rows.append((Op.OUTPUT, [None, data.draw(st.sampled_from(values)), None, None], 0, 0))
    fixed = [*m.immediates.values(), *preset]
    code, registers = recorder._allocate(m.rows, fixed)
    assert_registers_hold_their_values(m.rows, fixed, code, registers)
    assert registers == live_at_once(m.rows, fixed)
