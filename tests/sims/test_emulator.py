"""The emulator on images made by hand, against what a few lines of NumPy give."""

from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
import pytest

from mmfree_neuro.errors import EngineError, ImageError, InputError
from mmfree_neuro.target.image import About, Image, Machine
from mmfree_neuro.target.image_file import load_image, save_image
from mmfree_neuro.target.instructions import OWN_STATES, Op
from mmfree_neuro.target.instructions import Instruction as I
from mmfree_neuro.target.layout import HOST_CHIP, IMAGE_FORMAT, Core
from mmfree_sims.emulator import emulator
from mmfree_sims.emulator.emulator import Emulator, available

pytestmark = pytest.mark.skipif(not available(), reason="needs the emulator in C")

ONES, TERNARY, BYTES = 1, 2, 3
Axons = list[list[tuple[list[int], list[int]]]]


class Group(NamedTuple):
    """A group before it has its places in sections."""

    code: list[I]
    neurons: int
    slots: list[int]
    """Of each port."""
    entries: Sequence[tuple[int, int, int, int, tuple[int, int], int]] = ()
    """Output, kind, first neuron, count, chip and core, axon or logit."""
    pool: Sequence[int] = ()
    const: Sequence[int] = ()
    """Constant by constant."""
    state: Sequence[int] = ()
    tables: Sequence[list[int]] = ()
    outputs: int = 2


def a_list(
    format_: int, port: int, weights: list[int], offset: int = 0, delay: int = 0, exponent: int = 0
) -> list[int]:
    """The words of a synapse list."""
    n = len(weights)
    words = [format_ | delay << 4 | exponent << 10 | n << 16 | port << 32 | offset << 44]
    bits, per_word = {ONES: (0, n), TERNARY: (1, 32), BYTES: (8, 8)}[format_]
    for k in range(0, n if bits else 0, per_word):
        word = 0
        for j, weight in enumerate(weights[k : k + per_word]):
            code = {1: 1, -1: 1 << 32}.get(weight, 0) if bits == 1 else weight & 255
            word |= code << bits * j
        words.append(word)
    return words


def core(
    number: int, groups: list[Group], axons: list[list[list[int]]], embed: bytes = b""
) -> Core:
    """The sections of a core; an axon is a list of synapse lists."""
    rows, ports, code, pool, tables, table, const, state, out = ([] for _ in range(9))
    first = 0
    for g in groups:
        rows.append([len(code), len(g.code), g.neurons, len(ports), len(g.slots), len(pool)])
        rows[-1] += [len(g.pool), len(const), len(g.const) // g.neurons, len(state)]
        rows[-1] += [len(g.state) // g.neurons, len(tables), len(g.tables), len(out)]
        rows[-1] += [len(g.entries), g.outputs]
        for slots in g.slots:
            ports.append([first, slots])
            first += slots * g.neurons
        code += [one.word for one in g.code]
        pool, const, state = [*pool, *g.pool], [*const, *g.const], [*state, *g.state]
        for entries in g.tables:
            tables.append([len(table), len(entries)])
            table = table + entries
        for output, kind, start, count, (chip, to), axon in g.entries:
            out.append([output | kind << 4 | to << 8 | chip << 16, start, count, axon])
    syn: list[int] = []
    places = []
    for lists in axons:
        places.append(len(syn) | len(lists) << 24)
        syn = syn + [word for one in lists for word in one]

    def table_of(values: Any, width: int) -> Any:
        return np.array(values, "<u4").reshape(-1, width)

    return Core(
        number,
        table_of(rows, 16),
        table_of(ports, 2),
        np.array(code, "<u8"),
        np.array(pool, "<i4"),
        table_of(tables, 2),
        np.array(table, "<i4"),
        np.array(const, "<i4"),
        np.array(state, "<i4"),
        np.array(places, "<u4"),
        np.array(syn, "<u8"),
        table_of(out, 4),
        np.frombuffer(embed, np.uint8),
    )


def embed(codes: Any, scales: list[int], width: int = 1, slots: int = 1) -> bytes:
    """EMBED for group 0 with its ports 0 and 1, and port 2 for the marks of several slots."""
    data = np.array(codes, f"<i{width}")
    marks = [2, slots] if slots > 1 else [0, 1]
    head = np.array([*data.shape, width, 0, 0, 1, *marks], "<u4").tobytes()
    return head + data.tobytes() + bytes(-data.nbytes % 8) + np.array(scales, "<i4").tobytes()


FREE = dict.fromkeys(Machine.__dataclass_fields__)
BITS = {"register_bits": 32, "accumulator_bits": 24, "payload_bits": 24, "weight_bits": 8}
HOST = (HOST_CHIP, 0)


def loaded(
    path: Path, host: Core, chips: dict[int, tuple[Core, ...]], *, vocabulary: int, steps: int = 1
) -> Image:
    about = About(
        IMAGE_FORMAT, "", "", "", Machine(**FREE | BITS), vocabulary, False, 0, steps, (), {}
    )
    board = np.zeros((len(chips), len(chips) + 1), np.uint8)
    save_image(path, about, host, chips.items(), board, programs="", symbols="{}")
    return load_image(path)


# A network of three layers on two chips.  The host embeds 3 values; 40 neurons with a state add up
# ternary sums; 5 neurons add what these send, through 8 bits, to the values of the same token,
# which wait for a step; 4 of them send logits.

CODES = np.array([[5, -7, 0], [1, 2, 3], [-100, 50, 25], [0, 0, 9]])
SCALES = [3, 40, 7, 11]
RNG = np.random.default_rng(5)
FIRST = RNG.integers(-1, 2, (3, 40))
SECOND = RNG.integers(-128, 128, (40, 5))
STATES = RNG.integers(-50, 50, 40)


@pytest.fixture
def network(tmp_path: Path) -> Image:
    to_layer, to_sum = (2, 1), (7, 4)
    host = core(
        0,
        [
            Group(
                [I(Op.RDC, 0, s=0), I(Op.RDC, 1, s=1), I(Op.MUL_SHR, 2, 0, 1), I(Op.SPIKE, a=2),
                 I(Op.SPIKE, a=1, s=1)],
                3, [1, 1],
                [(0, 1, 0, 3, to_layer, 0), (1, 1, 2, 1, to_layer, 3), (0, 1, 0, 3, to_sum, 40)],
            )
        ],
        [], embed(CODES, SCALES),
    )  # fmt: skip
    layer = core(
        1,
        [
            Group(
                [I(Op.RDC, 0, s=1), I(Op.SKP_C, a=0, s=5), I(Op.RDC, 1, s=0), I(Op.ADD, 2, 1, 192),
                 I(Op.MIN, 3, 2, 64, counts=True), I(Op.RMW, a=3, b=65), I(Op.SPIKE, a=3)],
                40, [2, 2], [(0, 1, 0, 40, to_sum, 0)], pool=[500, 0], state=STATES.tolist(),
            )
        ],
        [[a_list(TERNARY, 0, row)] for row in FIRST.tolist()] + [[a_list(ONES, 1, [1] * 40)]],
    )  # fmt: skip
    total = core(
        4,
        [
            Group(
                [I(Op.RDC, 0, s=0), I(Op.RDC, 1, s=1), I(Op.OR, 2, 0, 1), I(Op.SKP_C, a=2, s=2),
                 I(Op.ADD, 3, 0, 1), I(Op.SPIKE, a=3)],
                5, [2, 3], [(0, 2, 1, 4, HOST, 0)],
            )
        ],
        [[a_list(BYTES, 0, row)] for row in SECOND.tolist()]
        + [[a_list(ONES, 1, [1], offset=i, delay=1)] for i in range(3)],
    )  # fmt: skip
    return loaded(tmp_path / "image", host, {2: (layer,), 7: (total,)}, vocabulary=4, steps=2)


def expected(tokens: list[int]) -> tuple[Any, Any, int]:
    """Logits [tokens, 4], the states after the last one, and how many values were saturated."""
    state, rows, saturated = STATES, [], 0
    for token in tokens:
        values = CODES[token] * SCALES[token]
        saturated += int((values @ FIRST + state > 500).sum())
        state = np.minimum(values @ FIRST + state, 500)
        rows.append((state @ SECOND + np.pad(values, (0, 2)))[1:])
    return np.array(rows), state, saturated


TOKENS = [1, 0, 2, 2, 3, 1, 0, 2, 1, 1]
WAYS: dict[str, Callable[[Emulator], Any]] = {
    "generation": lambda e: np.array([e.generate(token) for token in TOKENS]),
    "prefill": lambda e: e.prefill(TOKENS),
    "one by one, then prefill": lambda e: np.array(
        [*map(e.generate, TOKENS[:3]), *e.prefill(TOKENS[3:])]
    ),
} | {f"no barrier, {k}": lambda e, k=k: e.asynchronous(TOKENS, k) for k in (0, 1, 2**63)}  # type: ignore[misc]


@pytest.mark.parametrize("threads", [1, 3])
@pytest.mark.parametrize("level", available())
def test_all_ways_give_the_same_bits(network: Image, level: str, threads: int) -> None:
    logits, states, saturated = expected(TOKENS)
    emulator = Emulator(network, level=level, threads=threads)
    taken = []
    for way, run in WAYS.items():
        emulator.reset()
        assert np.array_equal(run(emulator), logits), way
        assert np.array_equal(emulator.states, states), way
        counts = emulator.take_counts()
        assert counts.saturated.tolist() == [0, saturated, 0]
        assert counts.runs.tolist() == [10, 10, 10]
        assert counts.wrapped.sum() == 0
        without = way.startswith("no barrier")
        assert counts.end_markers.tolist() == [10 * without] * 5
        taken.append([counts.messages, counts.deliveries, counts.words_read, counts.synapses_read])
    assert all(np.array_equal(a, b) for one in taken for a, b in zip(one, taken[0], strict=True))


def test_what_is_counted(network: Image) -> None:
    """Token 3 is 0, 0, 99 and its presence."""
    emulator = Emulator(network)
    emulator.generate(3)
    counts = emulator.take_counts()
    state = np.minimum(99 * FIRST[2] + STATES, 500)
    sent = np.count_nonzero(state)
    assert counts.messages.tolist() == [1, 1, 1, sent, 4]
    assert counts.end_markers.tolist() == [0] * 5
    assert counts.deliveries.tolist() == [0, 2, sent + 1]
    assert counts.words_read.tolist() == [0, 3 + 1, 2 * sent + 1]
    assert counts.synapses_read.tolist() == [0, 80, 5 * sent + 1]
    nonzero = np.count_nonzero(SECOND[state != 0])
    assert counts.synaptic_operations.tolist() == [0, np.count_nonzero(FIRST[2]) + 40, nonzero + 1]
    assert counts.instructions.tolist() == [15, 40 * (2 + 7 + 2), 5 * (4 + 4 + 6)]
    assert counts.idle_visits.tolist() == [0, 80, 10]
    assert counts.runs.tolist() == [1, 1, 1]
    assert emulator.take_counts().instructions.tolist() == [0, 0, 0]


def test_steps_one_by_one(network: Image) -> None:
    emulator = Emulator(network)
    emulator.step(2)
    emulator.step(None)
    assert emulator.results.tolist() == [0, 0, 0, 0]
    emulator.step(None)
    assert np.array_equal(emulator.results, expected([2])[0][0])
    emulator.step(None)
    assert emulator.results.tolist() == [0, 0, 0, 0]


def test_states_to_go_on_from(network: Image) -> None:
    emulator = Emulator(network)
    emulator.prefill(TOKENS[:4])
    kept = emulator.states
    emulator.prefill(TOKENS)
    emulator.restore(kept)
    assert np.array_equal(emulator.prefill(TOKENS[4:]), expected(TOKENS)[0][4:])
    assert emulator.prefill([]).shape == (0, 4)
    assert emulator.asynchronous([], 0).shape == (0, 4)


# Several sequences.  Each of 300 neurons adds the values of its own sequence up in one of four
# states: of three slots, and one that no mark names.

MANY, SLOTS = 300, 3
VALUES = RNG.integers(-100, 101, (4, MANY))
BEFORE = RNG.integers(-50, 50, (SLOTS + 1, MANY))
MARKED = [3, 7, 6, 2, 4, 6, 5, 3, 4, 7]
"""The marks of `TOKENS`, in slots 0, 2, 2, 0, 1, 2, 1, 0, 1, 2; slot 1 first goes on from where it
is."""


@pytest.fixture
def several(tmp_path: Path) -> Image:
    host = core(
        0,
        [
            Group(
                [I(Op.RDC, 0, s=0), I(Op.RDC, 1, s=1), I(Op.MUL_SHR, 2, 0, 1), I(Op.RDC, 3, s=2),
                 I(Op.SPIKE, a=2), I(Op.SPIKE, a=3, s=1)],
                MANY, [1, 1, 1], [(0, 1, 0, MANY, (0, 0), 0), (1, 1, 7, 1, (0, 0), MANY)],
            )
        ],
        [], embed(VALUES, SCALES, slots=SLOTS),
    )  # fmt: skip
    one = core(
        0,
        [
            Group(
                [I(Op.RDC, 0, s=1), I(Op.SKP_C, a=0, s=255), I(Op.MUL_SHR, 1, 0, 64, s=1),
                 I(Op.ADD, 1, 1, 65), I(Op.MOV, 2, 1, s=OWN_STATES), I(Op.AND, 3, 0, 64),
                 I(Op.SEL, 2, 3, 66, 2), I(Op.RDC, 4, s=0), I(Op.ADD, 5, 2, 4), I(Op.RMW, a=5, b=1),
                 I(Op.MOV, 6, 1, s=OWN_STATES), I(Op.ADD, 5, 5, 6), I(Op.SPIKE, a=5)],
                MANY, [2, 2], [(0, 2, 296, 4, HOST, 0)], pool=[1, -1, 0],
                state=BEFORE.reshape(-1).tolist(),
            )
        ],
        [*([a_list(ONES, 0, [1], offset=i)] for i in range(MANY)), [a_list(ONES, 1, [1] * MANY)]],
    )  # fmt: skip
    return loaded(tmp_path / "image", host, {0: (one,)}, vocabulary=4)


def summed(tokens: list[int], marks: list[int]) -> tuple[Any, Any]:
    """Logits [tokens, 4], each with the state before the token once more, and the states after
    the last token."""
    states, rows = BEFORE.copy(), []
    for token, mark in zip(tokens, marks, strict=True):
        slot, before = mark // 2 - 1, states[mark // 2 - 1].copy()
        states[slot] = VALUES[token] * SCALES[token] + (0 if mark % 2 else before)
        rows.append((states[slot] + before)[296:])
    return np.array(rows), states


MARKED_WAYS: dict[str, Callable[[Emulator], Any]] = {
    "generation": lambda e: np.array([*map(e.generate, TOKENS, MARKED)]),
    "prefill": lambda e: e.prefill(TOKENS, MARKED),
    "one by one, then prefill": lambda e: np.array(
        [*map(e.generate, TOKENS[:3], MARKED), *e.prefill(TOKENS[3:], np.array(MARKED[3:]))]
    ),
    "no barrier": lambda e: e.asynchronous(TOKENS, 1, MARKED),
}


@pytest.mark.parametrize("threads", [1, 3])
@pytest.mark.parametrize("level", available())
def test_sequences_of_several_slots(several: Image, level: str, threads: int) -> None:
    logits, states = summed(TOKENS, MARKED)
    emulator = Emulator(several, level=level, threads=threads)
    assert emulator.slots == SLOTS
    for way, run in MARKED_WAYS.items():
        emulator.reset()
        assert np.array_equal(emulator.states, BEFORE.reshape(-1)), way
        assert np.array_equal(run(emulator), logits), way
        assert np.array_equal(emulator.states, states.reshape(-1)), way
    emulator.reset()
    emulator.restore(states.reshape(-1).astype(np.int32))
    later = (emulator.states.reshape(states.shape)[1] * 2 + VALUES[2] * SCALES[2])[296:]
    assert np.array_equal(emulator.generate(2, 4), later)


def test_without_marks_the_sequence_of_slot_0_goes_on(several: Image) -> None:
    emulator, marks = Emulator(several), [2] * len(TOKENS)
    logits, states = summed(TOKENS, marks)
    for run in (
        lambda: emulator.prefill(TOKENS),
        lambda: emulator.asynchronous(TOKENS, 0),
        lambda: np.array([*map(emulator.generate, TOKENS)]),
    ):
        emulator.reset()
        assert np.array_equal(run(), logits)
        assert np.array_equal(emulator.states, states.reshape(-1))
    emulator.reset()
    emulator.step(TOKENS[0])
    emulator.step(None)
    assert np.array_equal(emulator.results, logits[0])


@pytest.mark.parametrize(("mark", "slots"), [(1, 1), (4, 1), (-2, 1), (0, 3), (8, 3)])
def test_marks_that_are_not_known(mark: int, slots: int, network: Image, several: Image) -> None:
    image = network if slots == 1 else several
    emulator = Emulator(image)
    for run in (
        lambda: emulator.generate(0, mark),
        lambda: emulator.prefill([0, 1], [2, mark]),
        lambda: emulator.asynchronous([0, 1], 0, [2, mark]),
    ):
        with pytest.raises(InputError) as error:
            run()
        assert str(error.value) == (
            f"{image.path}: mark {mark} is not known, must be 2 … {2 * slots + 1}"
        )


@pytest.mark.parametrize("marks", [[], [2], [2, 3, 2]])
def test_marks_that_are_too_few_or_too_many(marks: list[int], several: Image) -> None:
    emulator = Emulator(several)
    for run in (
        lambda: emulator.prefill([0, 1], marks),
        lambda: emulator.asynchronous([0, 1], 0, marks),
    ):
        with pytest.raises(InputError) as error:
            run()
        assert str(error.value) == (
            f"{several.path}: {len(marks)} marks were given for 2 tokens, must be as many"
        )


# One group of neurons on a chip, whose ports are given what a token is: its code and its scale.


def one_group(path: Path, group: Group, codes: Any, scales: list[int], exponent: int = 0) -> Image:
    """Neuron i gets code i at port 0; all get the scale at port 1, and once more at port 2."""
    n = group.neurons
    host = core(
        0,
        [
            Group(
                [I(Op.RDC, 0, s=0), I(Op.RDC, 1, s=1), I(Op.SPIKE, a=0), I(Op.SPIKE, a=1, s=1)],
                n, [1, 1], [(0, 1, 0, n, (0, 0), 0), (1, 1, 0, 1, (0, 0), n)],
            )
        ],
        [], embed(codes, scales, 2),
    )  # fmt: skip
    axons = [[a_list(ONES, 0, [1], offset=i, exponent=exponent)] for i in range(n)]
    one = core(0, [group], [*axons, [a_list(ONES, 1, [1] * n)]])
    return loaded(path, host, {0: (one,)}, vocabulary=len(codes))


@pytest.mark.parametrize("level", available())
def test_neurons_that_skip_beside_others_that_do_not(tmp_path: Path, level: str) -> None:
    """Those with 0 are idle; those below 0 skip what would double them."""
    code = [I(Op.RDC, 0, s=0), I(Op.SKP_C, a=0, s=5), I(Op.GE, 1, 0, 64), I(Op.SKP_C, a=1, s=1),
            I(Op.ADD, 0, 0, 0), I(Op.MIN, 2, 0, 65, counts=True), I(Op.SPIKE, a=2)]  # fmt: skip
    n = 600
    codes = np.array([np.arange(n) % 7 - 3, np.zeros(n, int)])
    group = Group(code, n, [2, 2], [(0, 2, 0, 2, HOST, 0)], pool=[0, 3])
    emulator = Emulator(one_group(tmp_path / "i", group, codes, [1, 1]), level=level, threads=1)
    assert emulator.generate(0).tolist() == [-3, -2]
    counts = emulator.take_counts()
    kinds = [int((codes[0] == value).sum()) for value in range(-3, 4)]
    below, above = sum(kinds[:3]), sum(kinds[4:])
    assert counts.idle_visits[1] == n + kinds[3]
    assert counts.instructions[1] == 2 * n + 2 * kinds[3] + 6 * below + 7 * above
    assert counts.saturated[1] == kinds[5] + kinds[6]
    assert counts.runs[1] == 1
    assert emulator.generate(1).tolist() == [0, 0]
    assert emulator.take_counts().runs[1] == 0


def test_accumulators_wrap_around(tmp_path: Path) -> None:
    """100 · 2^17 is 2^23 and something more than 24 bits with sign hold."""
    code = [I(Op.RDC, 0, s=0), I(Op.SPIKE, a=0)]
    group = Group(code, 3, [2, 2], [(0, 2, 0, 3, HOST, 0)])
    codes = [[100, -100, 63]] + [[0] * 3] * 2
    emulator = Emulator(one_group(tmp_path / "i", group, codes, [1] * 3, exponent=17))
    assert emulator.generate(0).tolist() == [
        (100 << 17) - (1 << 24),
        (1 << 24) - (100 << 17),
        63 << 17,
    ]
    assert emulator.take_counts().wrapped.tolist() == [0, 2]


# What stops a machine.

POOL = [(1 << 31) - 1, -(1 << 31), 1, 0, -20_000, 20_000]
BEGIN = [I(Op.RDC, 0, s=0), I(Op.LT, 1, 0, 68), I(Op.MOV, 4, 1), I(Op.LT, 2, 69, 0)]
"""Register 2 is 1 where the code is above 20,000.  One below -20,000 traps at instruction 2."""
TRAPS = {
    "4: ADD gives 2147483648, which does not fit 32 bits": [I(Op.ADD, 3, 64, 2)],
    "5: NEG gives 2147483648, which does not fit 32 bits": [
        I(Op.SEL, 3, 2, 65, 67),
        I(Op.NEG, 3, 3),
    ],
    "4: SHL gives 2147483648, which does not fit 32 bits": [I(Op.SHL, 3, 2, s=31)],
    # In the place of what was read.
    "5: ADD gives 2147483649, which does not fit 32 bits": [
        I(Op.ADD, 3, 2, 2),
        I(Op.ADD, 3, 64, 3),
    ],
    "5: SHL gives 4294967296, which does not fit 32 bits": [
        I(Op.ADD, 3, 2, 2),
        I(Op.SHL, 3, 3, s=31),
    ],
    "4: MOV reads entry 1 of table 1, which has 1": [I(Op.MOV, 3, 2, s=1)],
    "5: MOV reads entry -1 of table 0, which has 1": [I(Op.NEG, 3, 2), I(Op.MOV, 3, 3)],
    "4: RMW writes state 1, of 1": [I(Op.RMW, a=0, b=2)],
    "5: RMW writes state -1, of 3": [I(Op.NEG, 3, 2), I(Op.RMW, a=0, b=3)],
    "5: RMW writes state 4, of 4": [I(Op.SHL, 3, 2, s=2), I(Op.RMW, a=0, b=3)],
    "4: MOV reads state 1, of 1": [I(Op.MOV, 3, 2, s=OWN_STATES)],
    "5: MOV reads state -1, of 1": [I(Op.NEG, 3, 2), I(Op.MOV, 3, 3, s=OWN_STATES)],
    "5: MOV reads state 1048576, of 4096": [I(Op.SHL, 3, 2, s=20), I(Op.MOV, 3, 3, s=OWN_STATES)],
    "5: SPIKE sends 8388608, which does not fit 24 bits": [I(Op.SHL, 3, 2, s=23), I(Op.SPIKE, a=3)],
}


@pytest.mark.parametrize("level", available())
@pytest.mark.parametrize("said", TRAPS)
def test_traps(said: str, level: str, tmp_path: Path) -> None:
    """Neuron 277 is the first that traps; neuron 290 would at an earlier instruction."""
    codes = np.zeros((2, 300), int)
    codes[1, [277, 290]] = 32_767, -32_768
    end = [] if said.startswith("5: SPIKE") else [I(Op.SPIKE, a=2)]
    group = Group(
        BEGIN + TRAPS[said] + end,
        300,
        [2, 2],
        [(0, 2, 0, 2, HOST, 0)],
        pool=POOL,
        state=[0] * 300 * (int(said.rsplit(maxsplit=1)[1]) if "state" in said else 0),
        tables=[[0], [0]],
    )
    image = one_group(tmp_path / "i", group, codes, [1, 1])
    emulator = Emulator(image, level=level)
    emulator.generate(0)
    counted = emulator.take_counts()
    message = f"{image.path}: chip 0 core 0 group 0 neuron 277 trapped at instruction {said}"
    for run in (
        lambda: emulator.generate(1),
        lambda: emulator.step(None),
        emulator.take_counts,
        lambda: emulator.states,
        lambda: emulator.results,
    ):
        with pytest.raises(ImageError) as error:
            run()
        assert str(error.value) == message
    emulator.reset()  # and what the trapped step counted is gone
    emulator.generate(0)
    again = emulator.take_counts()
    for name, found in vars(again).items():
        assert np.array_equal(found, getattr(counted, name)), name
    with pytest.raises(ImageError) as error:
        emulator.asynchronous([0, 1, 0], 3)
    assert str(error.value) == message
    with pytest.raises(ImageError) as error:
        emulator.asynchronous([0], 3)
    assert str(error.value) == message


def test_a_host_that_traps(tmp_path: Path) -> None:
    host = core(
        0,
        [Group([I(Op.RDC, 0, s=0), I(Op.SHL, 1, 0, s=31), I(Op.SPIKE, a=0)], 1, [1, 1],
               [(0, 2, 0, 1, HOST, 0)])],
        [], embed([[2]], [1]),
    )  # fmt: skip
    image = loaded(tmp_path / "i", host, {}, vocabulary=1)
    with pytest.raises(ImageError) as error:
        Emulator(image).generate(0)
    assert str(error.value) == (
        f"{image.path}: the host group 0 neuron 0 trapped at instruction 1: SHL gives 4294967296, "
        "which does not fit 32 bits"
    )


def test_a_circle_without_a_barrier(tmp_path: Path) -> None:
    """What a neuron sends to itself is for the next token, which nobody knows without a barrier."""
    code = [I(Op.RDC, 0, s=0), I(Op.RDC, 1, s=1), I(Op.ADD, 2, 0, 1), I(Op.SPIKE, a=2)]
    entries = [(0, 2, 0, 2, HOST, 0), (0, 0, 0, 1, (0, 0), 0)]
    group = Group(code, 2, [2, 2], entries)
    image = one_group(tmp_path / "i", group, [[3, 4], [5, 6]], [10, 20])
    emulator = Emulator(image)
    assert emulator.prefill([0, 1]).tolist() == [[13, 14], [38, 26]]
    with pytest.raises(ImageError) as error:
        emulator.asynchronous([0], 0)
    assert str(error.value) == (
        f"{image.path}: chip 0 core 0 group 0 waits in vain for end markers, for entries lead "
        "round in a circle"
    )


@pytest.mark.parametrize("level", available())
def test_threads_share_cores(level: str, tmp_path: Path) -> None:
    """Four cores with so many weights and instructions that a step is shared; token 1 is too large
    for all of them, and the first is told of."""
    rng = np.random.default_rng(3)
    weights = rng.integers(-1, 2, (4, 400, 320))
    codes = rng.integers(-100, 101, (1280, 400))
    codes[1] = 30_000
    entries = [(0, 1, 0, 400, (0, number), 0) for number in range(4)]
    begin = [I(Op.RDC, 0, s=0), I(Op.SPIKE, a=0)]
    host = core(0, [Group(begin, 400, [1, 1], entries)], [], embed(codes, [1] * 1280, 2))
    code = [I(Op.RDC, 0, s=0), *[I(Op.ADD, 0, 0, 64)] * 120, I(Op.SHL, 0, 0, s=8), I(Op.SPIKE, a=0)]
    cores = tuple(
        core(
            number,
            [Group(code, 320, [2], [(0, 2, 0, 320, HOST, 320 * number)], pool=[0])],
            [[a_list(TERNARY, 0, row)] for row in weights[number].tolist()],
        )
        for number in range(4)
    )
    image = loaded(tmp_path / "i", host, {0: cores}, vocabulary=1280)
    tokens = [*range(2, 12)]
    expected = [(codes[tokens] @ one) << 8 for one in weights]
    for threads in (1, 2, 4):
        emulator = Emulator(image, level=level, threads=threads)
        assert np.array_equal(emulator.prefill(tokens), np.concatenate(expected, 1))
        with pytest.raises(ImageError) as error:
            emulator.generate(1)
        sent = (int(weights[0, :, 0].sum()) * 30_000) << 8
        assert str(error.value) == (
            f"{image.path}: chip 0 core 0 group 0 neuron 0 trapped at instruction 122: SPIKE sends "
            f"{sent}, which does not fit 24 bits"
        )


@pytest.mark.parametrize("token", [-1, 4])
def test_tokens_that_are_not_there(network: Image, token: int) -> None:
    emulator = Emulator(network)
    for run in (emulator.step, emulator.generate):
        with pytest.raises(InputError) as error:
            run(token)
        assert str(error.value) == f"{network.path}: token {token} is not known, must be 0 … 3"
    for many in (lambda: emulator.prefill([0, token]), lambda: emulator.asynchronous([token], 0)):
        with pytest.raises(InputError):
            many()


def test_states_of_something_else(network: Image) -> None:
    with pytest.raises(InputError) as error:
        Emulator(network).restore(np.zeros(39, np.int32))
    assert str(error.value) == f"{network.path}: the states are [39], must be [40]"


def test_a_level_that_is_not_here(network: Image) -> None:
    with pytest.raises(EngineError) as error:
        Emulator(network, level="abacus")
    assert str(error.value) == f"level 'abacus' is not here, must be one of {available()}"


def test_without_a_compiler(network: Image, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(emulator, "_emulator", None)
    available.cache_clear()
    with pytest.raises(EngineError) as error:
        Emulator(network)
    assert str(error.value) == "the emulator was not compiled, must be built with a C compiler"
    monkeypatch.undo()
    available.cache_clear()
