"""Every machine gives the same integers, and intervals hold whatever the machines can give."""

from collections.abc import Callable
from typing import Any

import numpy as np
import pytest
from hypothesis import assume, given
from hypothesis import strategies as st

from mmfree_kernels.cpu.programs import VectorMachine
from mmfree_neuro.errors import RangeError
from mmfree_neuro.graph.bounds import Bounds, Interval
from mmfree_neuro.graph.machine import INSTRUCTIONS, REGISTER_HIGH, CheckedMachine, Machine
from mmfree_neuro.integers.fixedpoint import QType
from mmfree_neuro.integers.tables import sigmoid_table

TABLE = np.array([5, -7, 11, 0, 2**31 - 1, -3, 8, 9])
SMALL = QType(12, 4)

Op = Callable[[Machine, Any, Any, int], Any]


def recurrence(m: Machine) -> Callable[[Any, Any, Any], Any]:
    """A step of a recurrence on a machine."""
    return lambda h, f, c: m.add(h, m.mul_shr(f, c, 31))


def states(a: Any) -> Any:
    """The states of neurons in one slot: an interval as it is, an array as its only row."""
    return a if isinstance(a, Interval) else a[None]


OPS: dict[str, Op] = {
    "read": lambda m, a, b, s: m.read(a),
    "send": lambda m, a, b, s: m.send(a),
    "add": lambda m, a, b, s: m.add(a, b),
    "add-constant": lambda m, a, b, s: m.add(a, s),
    "neg": lambda m, a, b, s: m.neg(a),
    "min": lambda m, a, b, s: m.min(a, b),
    "max": lambda m, a, b, s: m.max(a, b),
    "max-constant": lambda m, a, b, s: m.max(a, s),
    "sub": lambda m, a, b, s: m.sub(a, b),
    "abs": lambda m, a, b, s: m.abs(a),
    "lt": lambda m, a, b, s: m.lt(a, b),
    "bit_and": lambda m, a, b, s: m.bit_and(a, (1 << s) - 1),
    "shl": lambda m, a, b, s: m.shl(a, s),
    "select": lambda m, a, b, s: m.select(m.lt(a, b), a, b),
    "lookup": lambda m, a, b, s: m.lookup(TABLE, m.bit_and(a, 7)),
    "mul_shr": lambda m, a, b, s: m.mul_shr(a, b, s),
    "mul_round": lambda m, a, b, s: m.mul_round(a, b, s),
    "square": lambda m, a, b, s: m.mul_round(a, a, s),
    "clip": lambda m, a, b, s: m.clip(a, -1000, 77),
    "fit": lambda m, a, b, s: m.fit(a, SMALL),
    "mul_fit": lambda m, a, b, s: m.mul_fit(a, b, s, SMALL),
    "square-fit": lambda m, a, b, s: m.mul_fit(a, a, s, SMALL),
    "sigmoid": lambda m, a, b, s: m.sigmoid(a, s, sigmoid_table(8)),
    "scan": lambda m, a, b, s: m.scan(recurrence(m), states(a), a, b)[0],
}


@st.composite
def intervals(draw: st.DrawFn) -> Interval:
    """An interval of a register, of any magnitude."""
    reach = (1 << draw(st.integers(0, 31))) - 1
    low, high = sorted((draw(st.integers(-reach, reach)), draw(st.integers(-reach, reach))))
    return Interval(low, high)


def arrays(data: st.DataObject, interval: Interval) -> np.ndarray:
    """Integers of an interval, its ends among them."""
    inner = data.draw(st.lists(st.integers(interval.low, interval.high), min_size=4, max_size=4))
    return np.array([interval.low, interval.high, *inner], np.int64)


@pytest.mark.parametrize("name", OPS)
@given(a=intervals(), b=intervals(), shift=st.integers(0, 24), data=st.data())
def test_intervals_hold_what_machines_give_and_machines_agree(
    name: str, a: Interval, b: Interval, shift: int, data: st.DataObject
) -> None:
    op, bounds = OPS[name], Bounds("n")
    try:
        proved = op(bounds, a, b, shift)
    except RangeError:
        assume(False)
    x, y = arrays(data, a), data.draw(st.permutations(arrays(data, b).tolist()))
    y = np.array(y, np.int64)
    plain, checked = Machine(), CheckedMachine("n")
    expected = np.asarray(op(plain, x, y, shift))
    assert np.array_equal(op(checked, x, y, shift), expected)
    assert plain.saturations == checked.saturations
    assert expected.min() >= proved.low
    assert expected.max() <= proved.high
    assert set(bounds.issued) <= set(INSTRUCTIONS)


@pytest.mark.parametrize("frac", range(23))
def test_the_vector_machine_has_the_same_sigmoid(frac: int) -> None:
    x = np.concatenate(
        [np.arange(-3000, 3000), np.linspace(-(2**23), 2**23, 4001).astype(np.int64)]
    )
    assert np.array_equal(
        VectorMachine(x.size).sigmoid(x, frac, sigmoid_table(8)),
        Machine().sigmoid(x, frac, sigmoid_table(8)),
    )


@pytest.mark.parametrize("frac", range(-8, 0))
def test_the_machines_have_the_same_sigmoid_of_coarse_values(frac: int) -> None:
    x = np.arange(-40, 41)
    expected = Machine().sigmoid(x, frac, sigmoid_table(8))
    assert np.array_equal(VectorMachine(x.size).sigmoid(x, frac, sigmoid_table(8)), expected)
    exact = 1 / (1 + np.exp(-np.clip(x * 2.0**-frac, -99, 99)))
    assert np.abs(expected / 2**20 - exact).max() < 1e-4


def test_the_vector_machine_counts_saturations_neuron_by_neuron() -> None:
    machine = VectorMachine(3)
    machine.rows = np.zeros(2, np.int32)
    x = np.array([[127, 128, -128], [0, -300, 5]])
    assert machine.fit(x, QType(8, 0)).tolist() == [[127, 127, -127], [0, -127, 5]]
    machine.rows = machine.rows[:1]
    assert machine.fit(np.array([1, 2, 900]), QType(8, 0)).tolist() == [1, 2, 127]
    assert machine.saturated.tolist() == [[0, 2, 2]]


def test_the_vector_machine_counts_saturations_slot_by_slot() -> None:
    """Each token in its own row, also where a recurrence takes them one by one."""
    machine = VectorMachine(2, 3)
    machine.rows = np.array([2, 0, 2], np.int32)
    x = np.array([[128, 0], [0, 128], [-128, 128]])
    machine.fit(x, QType(8, 0))
    assert machine.saturated.tolist() == [[0, 1], [0, 0], [2, 1]]
    slots, states_ = machine.rows[:, None], np.zeros((3, 2), np.int64)
    machine.scan(lambda h, a, _: machine.fit(h + a, QType(8, 0)), states_, x, x, slots)
    assert machine.saturated.tolist() == [[0, 2], [0, 0], [3, 2]]
    assert machine.rows.tolist() == [2, 0, 2]


def doubled(h: Any, f: Any, c: Any) -> Any:
    """A step of a recurrence."""
    return 2 * h + f - c


def test_the_vector_machine_scans_many_tokens() -> None:
    machine, plain = VectorMachine(2), Machine()
    a, b = np.array([[1, 2], [3, 4], [5, 6]]), np.array([[7, 8], [9, 1], [2, 3]])
    state, rows = np.array([[10, 20]]), []
    for x, y in zip(a, b, strict=True):
        given_, state = plain.scan(doubled, state, x, y)
        rows.append(given_)
    found, last = machine.scan(doubled, np.array([[10, 20]]), a, b)
    assert np.array_equal(found, rows)
    assert np.array_equal(last, state)


def test_a_state_for_each_slot_by_hand() -> None:
    """What is given is the state in the token's slot after it; where a sequence begins, it was
    zero."""
    before = np.array([[10, 20], [100, 200], [7, 8]])
    a, b = np.array([1, 2]), np.array([5, 5])
    for machine in (Machine(), CheckedMachine("n")):
        given_, after = machine.scan(doubled, before, a, b, 1)
        assert given_.tolist() == [196, 397]
        assert after.tolist() == [[10, 20], [196, 397], [7, 8]]
        given_, after = machine.scan(doubled, before, a, b, np.array(2), np.array(1))
        assert given_.tolist() == [-4, -3]
        assert after.tolist() == [[10, 20], [100, 200], [-4, -3]]
    assert before.tolist() == [[10, 20], [100, 200], [7, 8]]


@given(tokens=st.integers(1, 9), slots=st.integers(1, 4), seed=st.integers(0, 1 << 30))
def test_the_vector_machine_scans_tokens_of_several_slots(
    tokens: int, slots: int, seed: int
) -> None:
    rng = np.random.default_rng(seed)
    a, b = rng.integers(-99, 99, (2, tokens, 3))
    slot, start = rng.integers(0, slots, tokens), rng.integers(0, 2, tokens)
    before = rng.integers(-99, 99, (slots, 3))
    state, rows = before, []
    for x, y, one, begins in zip(a, b, slot, start, strict=True):
        given_, state = Machine().scan(doubled, state, x, y, one, begins)
        rows.append(given_)
    machine = VectorMachine(3, slots)
    machine.rows = slot.astype(np.int32)
    found, last = machine.scan(doubled, before, a, b, slot[:, None], start[:, None])
    assert np.array_equal(found, rows)
    assert np.array_equal(last, state)


@pytest.mark.parametrize(
    ("slots", "slot", "said"),
    [
        (1, Interval(0, 1), "0 … 1 is read, of 1"),
        (3, Interval(-1, 2), "-1 … 2 is read, of 3"),
        (3, Interval(0, 3), "0 … 3 is read, of 3"),
        (0, 0, "0 … 0 is read, of 0"),
    ],
)
def test_intervals_end_where_states_end(slots: int, slot: Any, said: str) -> None:
    m, a = Bounds("layer3.x", slots), Interval(0, 1)
    with pytest.raises(RangeError) as error:
        m.scan(recurrence(m), Interval(-9, 9), a, a, slot)
    assert str(error.value) == f"layer3.x: the state of slot {said}"


def test_a_state_that_begins_is_zero_among_intervals() -> None:
    """And one that is chosen takes two instructions more."""
    for slot, more in ((0, {}), (Interval(0, 2), {"MOV": 1, "SEL": 1})):
        m, a = Bounds("n", 3), Interval(1, 1)
        given_, after = m.scan(lambda h, x, _, m=m: m.add(h, x), Interval(5, 9), a, a, slot)
        assert given_ == after == Interval(1, 10)
        assert dict(m.issued) == {"RMW": 1, "ADD": 1, **more}


def test_rounding_by_hand() -> None:
    m = Machine()
    x = np.array([-3, -1, 1, 3])
    assert m.mul_shr(x, 1, 1).tolist() == [-2, -1, 0, 1]
    assert m.mul_round(x, 1, 1).tolist() == [-1, 0, 1, 2]
    assert m.mul_fit(x, 100, 1, QType(8, 0)).tolist() == [-127, -50, 50, 127]
    assert m.saturations == 2


@pytest.mark.parametrize("op", ["add", "shl", "mul_shr", "mul_round", "sub"])
def test_the_checked_machine_stops_where_a_register_ends(op: str) -> None:
    m, top = CheckedMachine("layer3.x"), np.array([REGISTER_HIGH])
    calls = {
        "add": lambda: m.add(top, 1),
        "shl": lambda: m.shl(top, 1),
        "mul_shr": lambda: m.mul_shr(top, 2, 0),
        "mul_round": lambda: m.mul_round(top, 4, 1),
        "sub": lambda: m.sub(-top, top),
    }
    with pytest.raises(RangeError) as error:
        calls[op]()
    assert str(error.value) == "layer3.x: a value left the 32-bit register"


@pytest.mark.parametrize("op", ["add", "shl", "mul_shr", "mul_round", "sub", "mul_fit"])
def test_intervals_end_where_a_register_ends(op: str) -> None:
    m, top = Bounds("layer3.x"), Interval(0, REGISTER_HIGH)
    calls = {
        "add": lambda: m.add(top, 1),
        "shl": lambda: m.shl(top, 1),
        "mul_shr": lambda: m.mul_shr(top, 2, 0),
        "mul_round": lambda: m.mul_round(top, 4, 1),
        "sub": lambda: m.sub(Interval(-REGISTER_HIGH, 0), top),
        "mul_fit": lambda: m.mul_fit(Interval(0, REGISTER_HIGH + 1), 1, 0, SMALL),
    }
    worst = {
        "add": 2**31,
        "shl": 2**32 - 2,
        "mul_shr": 2**32 - 2,
        "mul_round": 2**33 - 3,  # before the last bit is rounded away
        "sub": 2**32 - 2,
        "mul_fit": 2**31,
    }
    with pytest.raises(RangeError) as error:
        calls[op]()
    assert (
        str(error.value)
        == f"layer3.x: a value can reach {worst[op]}, which a 32-bit register cannot hold"
    )


@pytest.mark.parametrize("index", [Interval(-1, 3), Interval(0, 8)])
def test_a_table_is_not_read_beyond_its_ends(index: Interval) -> None:
    with pytest.raises(RangeError) as error:
        Bounds("layer3.x").lookup(TABLE, index)
    assert (
        str(error.value) == f"layer3.x: a table of 8 entries is read at {index.low} … {index.high}"
    )


def test_instructions_by_hand() -> None:
    m = Bounds("n")
    x = m.read(Interval(-9, 9))
    m.send(m.mul_fit(m.abs(m.add(x, 1)), 3, 2, SMALL))
    assert dict(m.issued) == {
        "RDC": 1,
        "ADD": 2,
        "LT": 2,
        "NEG": 1,
        "SEL": 2,
        "MUL_SHR": 2,
        "MIN": 1,
        "SPIKE": 1,
    }


@pytest.mark.parametrize("shift", [-1, 63, 64])
@pytest.mark.parametrize("op", ["shl", "mul_shr", "mul_round", "mul_fit"])
def test_a_shift_keeps_something_of_a_product(op: str, shift: int) -> None:
    m, one = Bounds("layer3.x"), Interval(0, 1)
    calls = {
        "shl": lambda: m.shl(one, shift),
        "mul_shr": lambda: m.mul_shr(one, one, shift),
        "mul_round": lambda: m.mul_round(one, one, shift),
        "mul_fit": lambda: m.mul_fit(one, one, shift, QType(8, 0)),
    }
    with pytest.raises(RangeError) as error:
        calls[op]()
    assert str(error.value) == f"layer3.x: a shift by {shift} bits, must be 0 … 62"
