"""Writes a neuron program as the text of one Triton kernel.

Every number of a program (immediates, shifts, bounds of formats) becomes an argument of the kernel,
a parameter, as it may differ from layer to layer, and every result a variable.  So like programs
have the same text, and the few texts of a model are compiled once.

A kernel's lanes are some tokens of one sequence and some neurons, [TOKENS, NEURONS].  It goes
through a part of the tokens, that many at a time, counts in registers, and adds to the counts of
the neurons once, at the end.  Where neurons have states, a part is all that there is of a sequence,
its tokens go one by one, and the state stays in a register from one to the next.

Its arguments: for each input its array, how far apart its rows are and how long; the constants; the
tables; the sigmoid of every magnitude; the states [slots, neurons], where there are some; for each
output its array and the counts of non-zero values; the counts of saturations and of sums that did
not fit their accumulators; the bounds of the parts and their slots; how many counts all neurons
have in a slot; the number of neurons, how far apart rows of outputs are, and digits of outputs; the
parameters; TOKENS and NEURONS.

The head of a small model multiplies its sums by 3/2 and sends 16 bits: INPUT, MUL_FIT, OUTPUT.  It
becomes

    v0 = tl.load(x0 + token * w0 + neuron, mask=live, other=0).to(tl.int32)
    v1, changed = mul_fit(v0, p3, p0, p1, p2)
    saturations += tl.where(there, changed, 0)
    tl.store(y0 + token * width + neuron, v1, mask=live)
    n0 += ((v1 != 0) & there).to(tl.int32)

with 0, 1, 32767, 3 as p0 … p3.  To halve, halves up, is a shift by 0, the addition of 1 and a shift
by 1; 32767 is the bound of 16 bits, 3 the factor.  `token` [TOKENS, 1] and `neuron` [1, NEURONS]
are a lane's; it is `live` where the token is `there` and the neuron, too.

What goes through ternary matrices alone is sent in the digits that products want
(`ops.bitlinear.digits`), one array of digits after the other.
"""

import hashlib
import linecache
from dataclasses import dataclass
from functools import cache
from typing import Any

import triton
import triton.language as tl

from mmfree_kernels.integer import instructions
from mmfree_neuro.graph.recorder import Op, Program
from mmfree_neuro.integers.tables import SIGMOID_INPUT_BITS, SIGMOID_INPUT_FRAC

_INSTRUCTIONS = {
    Op.ADD: (2, "", "{} + {}"),
    Op.SUB: (2, "", "{} - {}"),
    Op.NEG: (1, "", "-{}"),
    Op.ABS: (1, "", "tl.abs({})"),
    Op.MIN: (2, "", "tl.minimum({}, {})"),
    Op.MAX: (2, "", "tl.maximum({}, {})"),
    Op.LESS: (2, "", "({} < {}).to(tl.int32)"),
    Op.AND: (1, "k", "{} & {}"),
    Op.SHL: (1, "s", "{} << {}"),
    Op.SELECT: (3, "", "tl.where({} != 0, {}, {})"),
    Op.MUL_SHR: (2, "s", "mul_shr({}, {}, {})"),
    Op.MUL_ROUND: (2, "r", "mul_round({}, {}, {}, {})"),
    Op.FIT: (1, "k", "fit({}, {})"),
    Op.MUL_FIT: (2, "rk", "mul_fit({}, {}, {}, {}, {})"),
}
"""For an instruction, how many registers it reads, which numbers follow them, and its text.

Of the numbers, s is its shift, r what rounds by its shift (two numbers), and k its constant.
"""
_COUNTING = (Op.FIT, Op.MUL_FIT)

_BEFORE = (
    "neuron = tl.program_id(1) * NEURONS + tl.arange(0, NEURONS)[None, :]",
    "here, part = neuron < size, tl.program_id(0)",
    "first, last = tl.load(bounds + part), tl.load(bounds + part + 1)",
    "slot = tl.load(slots + part).to(tl.int64)",
    "saturations = tl.zeros([TOKENS, NEURONS], tl.int32)",
    "wraps = tl.zeros([TOKENS, NEURONS], tl.int32)",
)
_TOKENS = "for fed in range(first, last, TOKENS):"
_LANES = (
    "token = fed + tl.arange(0, TOKENS)[:, None]",
    "there = token < last",
    "live = there & here",
)
_AFTER = (
    "count(saturated + slot * counts + neuron, saturations, here)",
    "count(wrapped + slot * counts + neuron, wraps, here)",
)
_STATES = "held_states + slot * size + neuron"
_CHANGED = "{} += tl.where(there, changed, 0)"
_UNBOUNDED = (1 << 31) - 1


@dataclass(frozen=True)
class Stream:
    """What neurons read of an input's array [tokens, values].

    Neuron i reads value i · stride + `first`, or zero from the length of a row on.  The second
    member of groups of three has stride 3 and `first` 1: neuron 0 reads value 1, neuron 1 value 4.
    """

    array: int
    """Which of the kernel's input arrays it is."""
    stride: int
    """0 where all neurons read the first value; 1 where each reads its own; else a group's size."""
    first: int = 0
    sign: int | None = None
    """The highest bit of the accumulator where its sums are held by calibration."""

    @property
    def text(self) -> str:
        """The values of all lanes."""
        k, value = self.array, f"neuron * {self.stride} + {self.first}"
        row = f"x{k} + token * w{k}"
        if self.stride == 0:
            return f"tl.load({row}, mask=there, other=0).to(tl.int32)"
        if self.stride == 1:
            return f"tl.load({row} + neuron, mask=live, other=0).to(tl.int32)"
        mask = f"live & ({value} < m{k})"
        return f"tl.load({row} + {value}, mask={mask}, other=0).to(tl.int32)"


@dataclass(frozen=True)
class Kernel:
    """A kernel's name and text, and the parameters with which it is one program."""

    name: str
    text: str
    parameters: tuple[int, ...]


class _Writer:
    """Goes through a program and names its values."""

    def __init__(
        self, program: Program, streams: tuple[Stream, ...], digits: tuple[int, ...]
    ) -> None:
        self.program, self.streams, self.digits = program, streams, digits
        self.parameters: list[int] = []
        self.lines: list[str] = []
        first = len(program.immediates)
        # Registers are taken again and again, but each result has a variable of its own.  This says
        # which variable stands for a register by now; at the beginning, presets alone have one.
        self.variables = {first + k: f"c{k}" for k in range(len(program.constants))}
        for row in program.code.tolist():
            self.instruction(*row)

    def number(self, value: int) -> str:
        """A parameter with this value."""
        self.parameters.append(value)
        return f"p{len(self.parameters) - 1}"

    def value(self, register: int) -> str:
        """What a register holds."""
        immediates = self.program.immediates
        if register < len(immediates):
            return self.number(immediates[register])
        return self.variables[register]

    def instruction(
        self, op: int, d: int, a: int, b: int, c: int, shift: int, constant: int
    ) -> None:
        """Write down one instruction; its fields are those of `recorder.Op`."""
        result = f"v{len(self.lines)}"
        counter = "saturations" if op in _COUNTING else ""
        match Op(op):
            case Op.INPUT:
                stream, text = self.streams[a], self.streams[a].text
                if stream.sign is not None:
                    text, counter = f"held({text}, {self.number(stream.sign)})", "wraps"
            case Op.LOOKUP:
                text = f"tl.load(t{b} + {self.value(a)}, mask=there, other=0)"
            case Op.SIGMOID:
                text = f"sigmoid({self.value(a)}, {', '.join(self.scale(shift))}, sigmoids, there)"
            case Op.OUTPUT:
                self.output(d, self.value(a))
                return
            case Op.LOAD:  # of the slot of the part
                text = "state"
            case Op.STORE:
                self.lines.append(f"state = {self.value(a)}")
                return
            case other:
                reads, kinds, form = _INSTRUCTIONS[other]
                # A quotient by 2^5 with halves up is a shift by 4, one more, and a shift by 1.
                numbers = {"s": [shift], "r": [max(0, shift - 1), int(shift > 0)], "k": [constant]}
                parameters = [self.number(n) for kind in kinds for n in numbers[kind]]
                text = form.format(*map(self.value, (a, b, c)[:reads]), *parameters)
        self.variables[d] = result
        self.lines += (
            [f"{result}, changed = {text}", _CHANGED.format(counter)]
            if counter
            else [f"{result} = {text}"]
        )

    def output(self, number: int, sent: str) -> None:
        """Write a value down, whole or in digits, and count it."""
        at, digits = f"y{number} + token * width + neuron", self.digits[number]
        for digit in range(digits):
            shift = 8 * (digits - 1 - digit)
            value = f"lower({sent}, {shift})" if digit else f"{sent} >> {shift}" if shift else sent
            where = f"{at} + {digit} * plane" if digit else at
            self.lines.append(f"tl.store({where}, {value}, mask=live)")
        self.lines.append(f"n{number} += (({sent} != 0) & there).to(tl.int32)")

    def scale(self, frac: int) -> list[str]:
        """How `Machine.sigmoid` scales a magnitude of so many fractional bits.

        The table is read at 11 fractional bits, so 8 of them are shifted up by 3 and 13 down by 2.
        Before the shift up a magnitude is cut at 2^(15 - 3), which is behind the table's end
        already: so no bit leaves the register.
        """
        up, down = max(0, SIGMOID_INPUT_FRAC - frac), max(0, frac - SIGMOID_INPUT_FRAC)
        most = 1 << max(0, SIGMOID_INPUT_BITS - up) if up else _UNBOUNDED
        return [self.number(n) for n in (most, min(up, SIGMOID_INPUT_BITS), min(down, 31))]


def write(
    name: str, program: Program, streams: tuple[Stream, ...], digits: tuple[int, ...] | None = None
) -> Kernel:
    """The kernel of that name of a program whose inputs lie as `streams` say; `digits` are those in
    which each output is sent, one each unless told."""
    outputs = range(len(program.outputs))
    writer = _Writer(program, streams, tuple(1 for _ in outputs) if digits is None else digits)
    constants, tables = range(len(program.constants)), range(len(program.tables))
    numbers = [f"p{k}" for k in range(len(writer.parameters))]
    arguments = [
        *(f"{what}{k}" for k in range(1 + max(s.array for s in streams)) for what in "xwm"),
        *(f"c{k}" for k in constants),
        *(f"t{k}" for k in tables),
        "sigmoids",
        *(["held_states"] if program.slots else []),
        *(f"{what}{k}" for k in outputs for what in "ye"),
        *("saturated", "wrapped", "bounds", "slots", "counts", "size", "width", "plane"),
        *numbers,
    ]
    # Triton would compile once more for a number that is 1 or a multiple of 16.
    unspecialised = ", ".join(f'"{name}"' for name in ("counts", *numbers))
    before = [
        *_BEFORE,
        *(f"c{k} = tl.load(c{k} + neuron, mask=here, other=0)" for k in constants),
        *(f"n{k} = tl.zeros([TOKENS, NEURONS], tl.int32)" for k in outputs),
    ]
    after = [*(f"count(e{k} + slot * counts + neuron, n{k}, here)" for k in outputs), *_AFTER]
    if program.slots:
        before.append(f"state = tl.load({_STATES}, mask=here, other=0)")
        after.append(f"tl.store({_STATES}, state, mask=here)")
    lines = [
        f"@triton.jit(do_not_specialize=[{unspecialised}])",
        f"def {name}({', '.join(arguments)}, TOKENS: tl.constexpr, NEURONS: tl.constexpr):",
        *(f"    {line}" for line in (*before, _TOKENS)),
        *(f"        {line}" for line in (*_LANES, *writer.lines)),
        *(f"    {line}" for line in after),
    ]
    return Kernel(name, "\n".join(lines) + "\n", tuple(writer.parameters))


@cache
def compiled(name: str, text: str) -> Any:
    """The Triton kernel of that name in a text."""
    # Triton reads the source of a function again: from the cache of lines, so no file is written.
    file = f"<neuron program {hashlib.sha256(text.encode()).hexdigest()[:16]}>"
    linecache.cache[file] = len(text), None, text.splitlines(keepends=True), file
    space = {"__name__": __name__, "triton": triton, "tl": tl} | {
        f.__name__: f for f in instructions.ALL
    }
    exec(compile(text, file, "exec"), space)
    return space[name]
