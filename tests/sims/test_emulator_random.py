"""The emulator against a second one, slow and obvious, on images drawn at random: same bits, same
counts, same traps."""

import hashlib
import json
import os
import random
import shutil
from collections import Counter
from collections.abc import Callable, Iterator
from functools import cache
from pathlib import Path
from typing import Any
from zlib import crc32

import numpy as np
import pytest

from mmfree_neuro.errors import ImageError
from mmfree_neuro.target.image import About, Image, Machine
from mmfree_neuro.target.image_file import digest_of, load_image, save_image
from mmfree_neuro.target.instructions import OWN_STATES, THE_REST, Instruction, Op, instruction
from mmfree_neuro.target.layout import HOST_CHIP, IMAGE_FORMAT, Core
from mmfree_sims.emulator.emulator import Counts, Emulator, available

pytestmark = pytest.mark.skipif(not available(), reason="needs the emulator in C")


# The second emulator.  Everything is a Python integer, neuron by neuron.


class Trapped(Exception):
    """Where an instruction could not do what it should."""


def wrap(value: int, bits: int) -> int:
    return ((value + (1 << bits - 1)) & ((1 << bits) - 1)) - (1 << bits - 1)


def weights(core: Core, at: int) -> tuple[dict[str, int], list[int], int]:
    """A list at some word: its header, its weights, and how many words it has."""
    header = int(core.syn[at])
    names = {"format": 4, "delay": 6, "exponent": 6, "count": 16, "port": 12, "offset": 20}
    fields = {}
    for name, bits in names.items():
        fields[name] = header & ((1 << bits) - 1)
        header >>= bits
    n = fields["count"]
    if fields["format"] == 1:
        return fields, [1] * n, 1
    per_word = 32 if fields["format"] == 2 else 8
    words = [int(w) for w in core.syn[at + 1 : at + 1 + -(-n // per_word)]]
    if fields["format"] == 2:
        found = [
            (words[j // 32] >> j % 32 & 1) - (words[j // 32] >> 32 + j % 32 & 1) for j in range(n)
        ]
    else:
        found = [wrap(words[j // 8] >> 8 * (j % 8) & 255, 8) for j in range(n)]
    return fields, found, 1 + len(words)


@cache
def assembled(code: bytes) -> list[Instruction]:
    return [instruction(int(word)) for word in np.frombuffer(code, "<u8")]


class Slow:
    """The machine of docs/machine.md, word for word."""

    def __init__(self, image: Image) -> None:
        self.image, self.machine, self.t = image, image.about.machine, 0
        self.cores = dict(image.cores and [((c, k.number), k) for c, k in image.cores])
        self.state = {}
        self.sums: Counter[Any] = Counter()  # by core, port, step, neuron
        self.counts: Counter[Any] = Counter()
        for at, core in self.cores.items():
            for g, row in enumerate(core.group.tolist()):
                for i in range(row[2] * row[10]):
                    self.state[at, g, i] = int(core.state[row[9] + i])

    def step(self, token: int | None, mark: int = 2) -> list[int]:
        self.logits = [0] * self.image.about.vocabulary
        sent = []
        for at, core in self.cores.items():
            for g in range(len(core.group)):
                sent += [
                    (at, core, g, spikes) for spikes in [self.run_group(at, core, g, token, mark)]
                ]
        for at, core, g, spikes in sent:
            row = core.group[g].tolist()
            for e in range(row[13], row[13] + row[14]):
                self.send(at, core, e, spikes)
        self.t += 1
        return self.logits

    def prefill(self, tokens: list[int], marks: list[int]) -> list[list[int]]:
        """The logits of tokens that enter step by step; then the machine drains."""
        idle = self.image.about.steps
        pairs = [*zip(tokens, marks, strict=True), *[(None, 0)] * idle]
        return [self.step(*pair) for pair in pairs][idle:]

    def run_group(
        self, at: Any, core: Core, g: int, token: int | None, mark: int
    ) -> dict[Any, int]:
        row = core.group[g].tolist()
        embeds = core.embed[:32].view("<u4").tolist() if len(core.embed) else None
        if embeds and embeds[3] == g:
            if token is None:
                return {}
            tokens, values, width = embeds[:3]
            size = tokens * values * width
            codes = core.embed[32 : 32 + size].view(f"<i{width}")
            scales = core.embed[32 + size + -size % 8 :].view("<i4")
            for i in range(values):
                self.sums[at, row[3] + embeds[4], self.t, i] = int(codes[token * values + i])
                self.sums[at, row[3] + embeds[5], self.t, i] = int(scales[token])
                if embeds[7] > 1:
                    self.sums[at, row[3] + embeds[6], self.t, i] = mark
        spikes: dict[Any, int] = {}
        idle = sum(self.run(at, core, g, i, spikes) for i in range(row[2]))
        self.counts["idle_visits", at, g] += idle
        self.counts["runs", at, g] += idle < row[2]
        return spikes

    def run(self, at: Any, core: Core, g: int, i: int, spikes: dict[Any, int]) -> bool:
        row = core.group[g].tolist()
        program = assembled(core.code[row[0] : row[0] + row[1]].tobytes())
        old = [self.state[at, g, i + k * row[2]] for k in range(row[10])]
        registers: dict[int, int] = {}
        first_skip = next((n for n, one in enumerate(program) if one.op == Op.SKP_C), None)

        def read(operand: int) -> int:
            if operand < 64:
                return registers[operand]
            if operand < 128:
                return int(core.pool[row[5] + operand - 64])
            if operand < 192:
                return int(core.const[row[7] + (operand - 128) * row[2] + i])
            return old[0]

        pc = 0
        while pc < len(program):
            one = program[pc]
            self.counts["instructions", at, g] += 1
            a, b, c = (
                (read(x) for x in (*one.operands, *[64] * 3)[:3]) if one.operands else (0,) * 3
            )
            if one.op == Op.SKP_C and a == 0:
                pc = len(program) if one.s == THE_REST else pc + 1 + one.s
                if pc == len(program) and program[first_skip or 0] is one:
                    return True
                continue
            if one.op == Op.RDC:
                exact = self.sums[at, row[3] + one.s, self.t, i]
                registers[one.d] = wrap(exact, self.machine.accumulator_bits)
                self.counts["wrapped", at, g] += registers[one.d] != exact
            elif one.op == Op.RMW:
                if not 0 <= b < row[10]:
                    raise Trapped(at, g, i, pc)
                self.state[at, g, i + b * row[2]] = a
            elif one.op == Op.SPIKE:
                if wrap(a, self.machine.payload_bits) != a:
                    raise Trapped(at, g, i, pc)
                spikes[one.s, i] = a
            elif one.op != Op.SKP_C:
                value = self.value(core, row, one, old, a, b, c)
                if value is None or wrap(value, 32) != value:
                    raise Trapped(at, g, i, pc)
                registers[one.d] = value
                clips = (one.op == Op.SEL and a != 0) or (one.op == Op.MIN and value != a)
                self.counts["saturated", at, g] += one.counts and clips
            pc += 1
        return False

    def value(
        self, core: Core, row: list[int], one: Instruction, old: list[int], a: int, b: int, c: int
    ) -> int | None:
        if one.op == Op.MOV and one.s == OWN_STATES:
            return old[a] if 0 <= a < row[10] else None
        if one.op == Op.MOV:
            first, entries = core.tables[row[11] + one.s].tolist()
            return int(core.table[first + a]) if 0 <= a < entries else None
        if one.op == Op.MUL_SHR:
            return max(-(1 << 31), min((1 << 31) - 1, a * b >> one.s))
        return {
            Op.SEL: b if a else c,
            Op.AND: a & b,
            Op.OR: a | b,
            Op.SHL: a << one.s,
            Op.ADD: a + b,
            Op.NEG: -a,
            Op.MIN: min(a, b),
            Op.LT: int(a < b),
            Op.GE: int(a >= b),
            Op.EQ: int(a == b),
        }[one.op]

    def send(self, at: Any, core: Core, e: int, spikes: dict[Any, int]) -> None:
        what, first, count, to = core.out[e].tolist()
        for k in range(count):
            payload = spikes.get((what & 15, first + k), 0)
            if not payload:
                continue
            self.counts["messages", at, e] += 1
            if what >> 4 & 15 == 2:
                self.logits[to + k] = payload
            else:
                self.arrive((what >> 16, what >> 8 & 255), to + k, payload)

    def arrive(self, at: Any, axon: int, payload: int) -> None:
        core = self.cores[at]
        self.counts["deliveries", at] += 1
        word, lists = int(core.axon[axon]) & 0xFFFFFF, int(core.axon[axon]) >> 24
        for _ in range(lists):
            fields, found, words = weights(core, word)
            word += words
            self.counts["words_read", at] += words
            group = next(
                g
                for g, row in enumerate(core.group.tolist())
                if row[3] <= fields["port"] < row[3] + row[4]
            )
            self.counts["synapses_read", at, group] += len(found)
            self.counts["synaptic_operations", at, group] += sum(w != 0 for w in found)
            due = self.t + 1 + fields["delay"]
            for j, w in enumerate(found):
                key = at, fields["port"], due, fields["offset"] + j
                self.sums[key] += (w << fields["exponent"]) * payload


def counted(slow: Slow) -> dict[str, list[int]]:
    """What the slow emulator counted, in the order of `Counts`."""

    def of(name: str, section: str | None) -> list[int]:
        if section is None:
            return [slow.counts[name, at] for at in slow.cores]
        return [
            slow.counts[name, at, k]
            for at, core in slow.cores.items()
            for k in range(len(getattr(core, section)))
        ]

    sections = {"messages": "out", "end_markers": "out", "deliveries": None, "words_read": None}
    return {name: of(name, sections.get(name, "group")) for name in Counts.__dataclass_fields__}


# Images drawn at random.

MARK_REGISTER = 15
"""Where programs of the embedding keep the mark of a token."""


def program(
    rng: random.Random, tables: int, outputs: int, states: int, consts: int, marks: bool
) -> list[Instruction]:
    """A program that rarely traps: what it computes with is cut to 12 bits, by immediate 0, and the
    numbers of states by immediate 4."""
    code = [Instruction(Op.RDC, d=p, s=p) for p in range(2)]
    if marks:
        code.append(Instruction(Op.RDC, d=MARK_REGISTER, s=2))
    if rng.random() < 0.8:
        code += [Instruction(Op.OR, d=2, a=0, b=1), Instruction(Op.SKP_C, a=2, s=0)]
    skip = len(code) - 1
    written = [0, 1]
    sources = [64, 65, 66, *range(128, 128 + consts), *([192] if states else [])]
    sources += [MARK_REGISTER] if marks else []
    for _ in range(rng.randrange(3, 9)):
        a, b, c = (rng.choice(written + sources) for _ in range(3))
        d = rng.randrange(3, 9)
        op = rng.choice(
            [Op.SEL, Op.AND, Op.OR, Op.ADD, Op.MIN, Op.MUL_SHR, Op.LT, Op.GE, Op.EQ, Op.NEG, Op.SHL]
        )
        reads = {Op.SEL: 3, Op.NEG: 1, Op.SHL: 1}.get(op, 2)
        shift = rng.randrange(4) if op == Op.SHL else rng.randrange(16) if op == Op.MUL_SHR else 0
        flag = op in (Op.SEL, Op.MIN) and rng.random() < 0.5
        code.append(
            Instruction(op, d, *(a, b, c)[:reads], *[0] * (3 - reads), s=shift, counts=flag)
        )
        written.append(d)
        if rng.random() < 0.4:  # a step aside, of which some neurons take none
            code.append(Instruction(Op.SKP_C, a=d, s=1))
            code.append(Instruction(Op.MIN, d=d, a=d, b=64, counts=True))
        code.append(Instruction(Op.AND, d=d, a=d, b=64))
    if tables:
        code.append(Instruction(Op.AND, d=9, a=written[-1], b=67))
        code.append(Instruction(Op.MOV, d=10, a=9, s=rng.randrange(tables)))
        written.append(10)
    if states:
        write_states(rng, code, written)
    if rng.random() < 0.04:  # may be too much for a register
        code.append(Instruction(Op.SHL, d=11, a=written[-1], s=20))
    for output in range(outputs):
        code.append(
            Instruction(Op.OR, d=12, a=rng.choice(written[2:]), b=rng.choice([66, 67, 192]))
        )
        if not states or rng.random() < 0.5:
            code[-1] = Instruction(Op.OR, d=12, a=rng.choice(written[2:]), b=rng.choice([66, 67]))
        code.append(Instruction(Op.SPIKE, a=12, s=output))
    if code[skip].op == Op.SKP_C:
        code[skip] = Instruction(
            Op.SKP_C, a=2, s=THE_REST if len(code) % 2 else len(code) - 1 - skip
        )
    return code


def write_states(rng: random.Random, code: list[Instruction], written: list[int]) -> None:
    """Read some of a neuron's states and write one; reading gives what was there before."""

    def read() -> None:
        code.append(Instruction(Op.AND, d=13, a=rng.choice(written), b=68))
        which = 13 if rng.random() < 0.99 else written[-1]  # may be a state that is not there
        code.append(Instruction(Op.MOV, d=14, a=which, s=OWN_STATES))
        written.append(14)

    for _ in range(rng.randrange(3)):
        read()
    code.append(Instruction(Op.AND, d=16, a=rng.choice(written), b=68))
    if rng.random() < 0.3:  # some neurons write none
        code.append(Instruction(Op.SKP_C, a=rng.choice(written), s=1))
    which = 16 if rng.random() < 0.7 else 69 if rng.random() < 0.95 else written[-1]
    code.append(Instruction(Op.RMW, a=rng.choice(written[2:]), b=which))
    if rng.random() < 0.5:
        read()


def one_list(
    rng: random.Random, port: int, delay: int, offset: int, count: int, format_: int
) -> list[int]:
    """The words of a synapse list with drawn weights."""
    header = format_ | delay << 4 | rng.choice([0, 0, 1, 3]) << 10 | count << 16 | port << 32
    words = [header | offset << 44]
    if format_ == 2:
        words += [0] * -(-count // 32)
        for j in range(count):
            words[1 + j // 32] |= rng.choice([0, 1, 1 << 32]) << j % 32
    if format_ == 3:
        words += [0] * -(-count // 8)
        for j in range(count):
            words[1 + j // 8] |= rng.randrange(256) << 8 * (j % 8)
    return words


def draw_core(rng: random.Random, number: int, host: bool, vocabulary: int) -> dict[str, Any]:
    """The sections of a core as lists; its entries come later.  The first group of the host reads
    the embedding, and marks as well where there are several slots."""
    several = rng.choice([1, 1, 3, 40])
    s: dict[str, Any] = {
        n: [] for n in ("group", "port", "code", "pool", "tables", "table", "const")
    }
    s |= {"state": [], "axon": [], "syn": [], "out": [], "number": number, "embed": b""}
    first = 0
    for g in range(rng.randrange(1, 4)):
        neurons = (
            rng.choice([1, 5, 31, 40, 70, 260]) if rng.random() < 0.3 else rng.randrange(1, 40)
        )
        tables, outputs = rng.randrange(3), rng.randrange(1, 3)
        states, consts = rng.choice([0, 0, 0, 1, 1, 2, 4, 16]), rng.randrange(3)
        marks = host and g == 0 and several > 1
        code = program(rng, tables, outputs, states, consts, marks)
        s["group"].append(
            [
                len(s["code"]),
                len(code),
                neurons,
                len(s["port"]),
                2 + marks,
                len(s["pool"]),
                6,
                len(s["const"]),
                consts,
                len(s["state"]),
                states,
                len(s["tables"]),
                tables,
                0,
                0,
                outputs,
            ]
        )
        for _ in range(2 + marks):
            slots = rng.randrange(2, 6)
            s["port"].append([first, slots])
            first += slots * neurons
        s["code"] += [one.word for one in code]
        s["pool"] += [4095, rng.randrange(-99, 99), rng.randrange(1, 99), 7]
        s["pool"] += [max(states, 1) - 1, rng.randrange(max(states, 1))]
        s["const"] += [rng.randrange(-2000, 2000) for _ in range(consts * neurons)]
        s["state"] += [rng.randrange(-2000, 2000) for _ in range(neurons * states)]
        for _ in range(tables):
            s["tables"].append([len(s["table"]), 8])
            s["table"] += [rng.randrange(-3000, 3000) for _ in range(8)]
        if host and g == 0:
            codes = np.array([rng.randrange(-127, 128) for _ in range(vocabulary * neurons)], "i1")
            scales = np.array([rng.randrange(1, 5000) for _ in range(vocabulary)], "<i4")
            of_marks = [2, several] if marks else [0, 1]
            head = np.array([vocabulary, neurons, 1, 0, 0, 1, *of_marks], "<u4").tobytes()
            s["embed"] = head + codes.tobytes() + bytes(-codes.size % 8) + scales.tobytes()
    reached = range(s["group"][0][4] if host else 0, len(s["port"]))
    for _ in range(rng.randrange(3, 7) if reached else 0):
        draw_axons(rng, s, list(reached))
    return s


def draw_axons(rng: random.Random, s: dict[str, Any], ports: list[int]) -> None:
    """Some neighbouring axons with alike lists: like rows of a matrix, like a diagonal, or all
    different."""
    kind, lists = rng.choice(["rows", "rows", "diagonal", "any"]), rng.randrange(0, 4)
    plan = []
    for _ in range(lists):
        port = rng.choice(ports)
        neurons = s["group"][
            next(g for g, r in enumerate(s["group"]) if r[3] <= port < r[3] + r[4])
        ][2]
        delay = rng.randrange(s["port"][port][1] - 1)
        plan.append((port, delay, neurons, rng.randrange(neurons), rng.randrange(1, 4)))
    for k in range(rng.choice([1, 3, 20])):
        s["axon"].append(len(s["syn"]) | lists << 24)
        fixed = rng.randrange(1 << 30)
        for port, delay, neurons, offset, format_ in plan:
            if kind == "any":
                offset, format_ = rng.randrange(neurons), rng.randrange(1, 4)
            count = 1 if kind == "diagonal" else max(1, neurons - offset - rng.randrange(2))
            if kind == "rows":
                count = neurons - offset
            if kind == "diagonal":
                offset = (offset + k) % neurons
            words = one_list(rng, port, delay, offset, count, format_)
            words[0] = words[0] & ~(63 << 10) | (fixed & 0 if kind == "any" else 1) << 10
            s["syn"] += words


def draw_entries(rng: random.Random, cores: dict[Any, Any], vocabulary: int) -> None:
    """Entries from all groups to axons somewhere, and results until each logit has its neuron."""
    logit = 0
    for at, s in cores.items():
        for row in s["group"]:
            row[13], neurons = len(s["out"]), row[2]
            for output in range(row[15]):
                for _ in range(rng.randrange(1, 4)):
                    to = rng.choice([k for k in cores if cores[k]["axon"]] or [None])
                    if to is None:
                        continue
                    axon = rng.randrange(len(cores[to]["axon"]))
                    count = rng.randrange(1, min(neurons, len(cores[to]["axon"]) - axon) + 1)
                    what = output | int(to[0] != at[0]) << 4 | to[1] << 8 | to[0] << 16
                    s["out"].append([what, rng.randrange(neurons - count + 1), count, axon])
            if at[0] != HOST_CHIP and logit < vocabulary:
                count = min(neurons, vocabulary - logit)
                s["out"].append([0 | 2 << 4 | HOST_CHIP << 16, neurons - count, count, logit])
                logit += count
            row[14] = len(s["out"]) - row[13]


def as_core(s: dict[str, Any]) -> Core:
    kinds = {"group": ("<u4", 16), "port": ("<u4", 2), "tables": ("<u4", 2), "out": ("<u4", 4)}
    arrays = {n: np.array(s[n], k).reshape(-1, w) for n, (k, w) in kinds.items()}
    for name, kind in {"code": "<u8", "syn": "<u8", "axon": "<u4"}.items():
        arrays[name] = np.array(s[name], kind)
    for name in ("pool", "table", "const", "state"):
        arrays[name] = np.array(s[name], "<i4")
    return Core(s["number"], **arrays, embed=np.frombuffer(s["embed"], np.uint8))


FREE = dict.fromkeys(Machine.__dataclass_fields__)


def draw_image(seed: int, path: Path) -> Path:
    rng = random.Random(seed)
    numbers = sorted(rng.sample(range(9), rng.randrange(1, 4)))
    cores: dict[Any, Any] = {(HOST_CHIP, 0): draw_core(rng, 0, True, 6)}
    for chip in numbers:
        for number in sorted(rng.sample(range(5), rng.randrange(1, 4))):
            cores[chip, number] = draw_core(rng, number, False, 6)
    rows = [row for (chip, _), s in cores.items() if chip != HOST_CHIP for row in s["group"]]
    assert sum(row[2] for row in rows) >= 6
    draw_entries(rng, cores, 6)
    bits = {"register_bits": 32, "accumulator_bits": rng.choice([14, 20, 24, 32]), "weight_bits": 8}
    machine = Machine(**FREE | bits | {"payload_bits": rng.choice([13, 24, 24])})
    about = About(IMAGE_FORMAT, "g", "m", "drawn", machine, 6, False, 0, 3, (), {})
    chips = [(c, tuple(as_core(s) for (k, _), s in cores.items() if k == c)) for c in numbers]
    board = np.full((len(numbers), len(numbers) + 1), 6, np.uint8)
    host = as_core(cores[HOST_CHIP, 0])
    save_image(path, about, host, chips, board, programs="", symbols="{}")
    return path


def steps(rng: random.Random) -> Iterator[int | None]:
    for _ in range(8):
        yield rng.choice([None, 0, 3, 5])


def same(
    slow: Slow, fast: list[Emulator], expected: Callable[[], Any], found: Callable[[Emulator], Any]
) -> bool:
    """Hold what the emulators give, their states and traps against the slow one; False after a
    trap."""
    try:
        wanted, trapped = expected(), None
    except Trapped as trap:
        wanted, trapped = None, trap.args
    said = set()
    for emulator in fast:
        if trapped:
            with pytest.raises(ImageError) as error:
                found(emulator)
            said.add(str(error.value))
            continue
        assert found(emulator) == wanted
        assert emulator.states.tolist() == list(slow.state.values())
    if trapped:
        (chip, core), group, neuron, number = trapped
        where = "the host" if chip == HOST_CHIP else f"chip {chip} core {core}"
        assert len(said) == 1
        assert (
            f"{where} group {group} neuron {neuron} trapped at instruction {number}: " in said.pop()
        )
    return not trapped


@pytest.mark.parametrize(
    "seed", [pytest.param(k, marks=[pytest.mark.slow] * (k >= 6)) for k in range(24)]
)
def test_images_that_are_drawn_at_random(seed: int, tmp_path: Path) -> None:
    image = load_image(draw_image(seed, tmp_path / "image"))
    fast = [Emulator(image, level=level, threads=n) for level in available() for n in (1, 2)]
    slow, rng = Slow(image), random.Random(seed)
    for token in steps(rng):

        def stepped(emulator: Emulator, token: int | None = token) -> list[int]:
            emulator.step(token)
            return emulator.results.tolist()

        if not same(slow, fast, lambda token=token: slow.step(token), stepped):  # type: ignore[misc]
            return
    tokens = [rng.randrange(6) for _ in range(5)]
    marks = [rng.randrange(2, 2 * fast[0].slots + 2) for _ in tokens]
    if not same(
        slow,
        fast,
        lambda: slow.prefill(tokens, marks),
        lambda emulator: emulator.prefill(tokens, marks).tolist(),
    ):
        return
    for emulator in fast:
        counts = emulator.take_counts()
        assert {n: getattr(counts, n).tolist() for n in counted(slow)} == counted(slow)


# Images that somebody changed.


def mend_sections(data: bytearray) -> None:
    """Give the sections of a file of cores the checksums that their content has now."""
    if data[:8] == b"MMFCORES" and len(data) >= 16:
        numbers = np.frombuffer(data, "<u4", offset=0, count=len(data) // 4)
        for core in range(min(int(numbers[3]), 8)):
            for section in range(12):
                at = 4 + 64 * core + 2 + 5 * section
                if at + 4 > len(numbers):
                    return
                first, high, length = (int(x) for x in numbers[at : at + 3])
                if not high and 8 * first + length <= len(data):
                    crc = crc32(data[8 * first : 8 * first + length])
                    data[4 * at + 12 : 4 * at + 16] = crc.to_bytes(4, "little")


def mend(folder: Path, name: str, data: bytearray) -> None:
    """Write a file of an image with the checksums that its content has now."""
    mend_sections(data)
    about = json.loads((folder / "image.json").read_text())
    if name != "image.json":
        (folder / name).write_bytes(data)
        about["files"][name] = hashlib.sha256(data).hexdigest()
    else:
        about = json.loads(data)
    del about["sha256"]
    about["sha256"] = digest_of(about)
    (folder / "image.json").write_text(json.dumps(about))


def spoil(rng: random.Random, data: bytearray) -> None:
    """Change one number of a file of cores: of a directory, or somewhere in a section."""
    width = rng.choice([1, 4, 4, 8])
    starts = 16 if rng.random() < 0.1 else 16 + 256 * int.from_bytes(data[12:16], "little")
    at = rng.randrange(starts // width, len(data) // width) * width
    old = int.from_bytes(data[at : at + width], "little")
    new = rng.choice(
        [
            rng.getrandbits(8 * width),
            old ^ 1 << rng.randrange(8 * width),
            old + rng.choice([1, -1, 2, 32, 1 << 16]),
            rng.randrange(70),
            (1 << 8 * width) - 1,
        ]
    )
    data[at : at + width] = (new % (1 << 8 * width)).to_bytes(width, "little")


def spoil_about(rng: random.Random, data: bytearray) -> None:
    about = json.loads(data)
    inside = rng.choice([about, about["machine"]])
    name = rng.choice(list(inside))
    inside[name] = rng.choice([None, 0, -1, 7, 1 << 40, "x", [1], {}, 2.5, True])
    data[:] = json.dumps(about).encode()


def run_a_little(image: Image, level: str, threads: int) -> str:
    """What comes out, or the trap that stops it."""
    try:
        emulator = Emulator(image, level=level, threads=threads)
        last = 2 * emulator.slots + 1
        seen = [emulator.prefill([0, 0], [last, 2]), emulator.generate(0), emulator.states]
        seen.append(emulator.asynchronous([0, 0, 0], 1, [2, last, last - 1]))
        counts = emulator.take_counts()
        return repr([one.tolist() for one in (*seen, *vars(counts).values())])
    except ImageError as error:
        assert str(error).startswith(f"{image.path}: ")
        return str(error)


@pytest.mark.slow
def test_images_that_somebody_changed(tmp_path: Path, draws: Any) -> None:
    """Each is refused in one line or does something, the same at all levels; nothing crashes."""
    rng = random.Random(draws.seed(0))
    originals = [draw_image(seed, tmp_path / f"image{seed}") for seed in range(5)]
    refused = 0
    for _ in range(500 * draws.times):
        folder = tmp_path / "changed"
        shutil.copytree(rng.choice(originals), folder)
        name = rng.choice(sorted(n for n in os.listdir(folder) if n[0] in "chi"))
        data = bytearray((folder / name).read_bytes())
        if name == "image.json":
            spoil_about(rng, data)
        else:
            for _ in range(rng.choice([1, 1, 2])):
                spoil(rng, data)
        if rng.random() < 0.03:
            del data[rng.randrange(len(data)) :]
        if name != "image.json" or data.endswith(b"}"):
            mend(folder, name, data)
        try:
            image = load_image(folder)
        except ImageError as error:
            refused += 1
            assert str(error).startswith(str(folder))
        else:
            if image.about.steps < 1000:
                assert len({run_a_little(image, x, n) for x in available() for n in (1, 2)}) == 1
        shutil.rmtree(folder)
    assert 100 * draws.times < refused < 490 * draws.times
