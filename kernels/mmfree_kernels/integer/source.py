"""Writes a neuron program as the text of one Triton kernel.

Every number of a program (immediates, shifts, bounds of formats) becomes an argument of the kernel,
a parameter, as it may differ from layer to layer, and every result a variable.  So like programs
have the same text, and the few texts of a model are compiled once.

A kernel's lanes are the pairs of a token and a neuron, neurons first; where neurons have states,
they are the neurons, and the tokens follow one another.  Its arguments: for each input its array
and width; the constants; the tables; the sigmoid of every magnitude; the states [slots, neurons],
where there are some; for each output its array and the counts of non-zero values; the counts of
saturations; the slots of the tokens; how many counts all neurons have in a slot; the numbers of
neurons and tokens; the parameters; LANES.

The head of a small model multiplies its sums by 3/2 and sends 16 bits: INPUT, MUL_FIT, OUTPUT.  It
becomes

    v0 = tl.load(x0 + at, mask=live, other=0)
    v1, changed = mul_fit(v0, p3, p0, p1, p2)
    lost += changed
    tl.store(y0 + at, v1, mask=live)
    count(e0 + counted, v1 != 0, live)

with 0, 1, 32767, 3 as p0 … p3.  To halve, halves up, is a shift by 0, the addition of 1 and a shift
by 1; 32767 is the bound of 16 bits, 3 the factor.  `at` is the place of a lane's token and neuron,
`counted` that of its neuron among the counts of the token's slot.
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

_PAIRS = (
    "    at = tl.program_id(0) * LANES + tl.arange(0, LANES)",
    "    live, neuron, token = at < size * tokens, at % size, at // size",
    "    counted = tl.load(slots + token, mask=live, other=0).to(tl.int64) * counts + neuron",
)
_NEURONS = (
    "    neuron = tl.program_id(0) * LANES + tl.arange(0, LANES)",
    "    live, token, at, fed = neuron < size, tl.zeros([LANES], tl.int32), neuron, 0",
)
_THIS_TOKEN = "        counted = tl.load(slots + fed).to(tl.int64) * counts + neuron"
_NEXT_TOKEN = "        token, at, fed = token + 1, at + size, fed + 1"
_HELD = "held + {} * size + neuron"
_UNBOUNDED = (1 << 31) - 1


@dataclass(frozen=True)
class Stream:
    """What neurons read of an input's array [tokens, width].

    Neuron i reads value i · stride + `first`, or zero from `width` on.  The second member of groups
    of three has stride 3 and `first` 1: neuron 0 reads value 1, neuron 1 value 4.
    """

    array: int
    """Which of the kernel's input arrays it is."""
    stride: int
    """0 where all neurons read the first value; 1 where each reads its own; else a group's size."""
    first: int = 0

    @property
    def text(self) -> str:
        """The values of all lanes."""
        k, value = self.array, f"neuron * {self.stride} + {self.first}"
        if self.stride == 0:
            return f"tl.load(x{k} + token * w{k}, mask=live, other=0)"
        if self.stride == 1:  # the width is the number of neurons: lanes know their places
            return f"tl.load(x{k} + at, mask=live, other=0)"
        return f"tl.load(x{k} + token * w{k} + {value}, mask=live & ({value} < w{k}), other=0)"


@dataclass(frozen=True)
class Kernel:
    """A kernel's text, and the parameters with which it is one program."""

    text: str
    parameters: tuple[int, ...]


class _Writer:
    """Goes through a program and names its values."""

    def __init__(self, program: Program, streams: tuple[Stream, ...]) -> None:
        self.program, self.streams = program, streams
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
        match Op(op):
            case Op.INPUT:
                text = self.streams[a].text
            case Op.LOOKUP:
                text = f"tl.load(t{b} + {self.value(a)}, mask=live, other=0)"
            case Op.SIGMOID:
                text = f"sigmoid({self.value(a)}, {', '.join(self.scale(shift))}, sigmoids, live)"
            case Op.OUTPUT:
                sent = self.value(a)
                self.lines += [
                    f"tl.store(y{d} + at, {sent}, mask=live)",
                    f"count(e{d} + counted, {sent} != 0, live)",
                ]
                return
            case Op.LOAD:
                text = f"tl.load({_HELD.format(self.value(a))}, mask=live, other=0)"
            case Op.STORE:
                where = _HELD.format(self.value(b))
                # The next token may read what other threads of the block have written.
                self.lines += [
                    f"tl.store({where}, {self.value(a)}, mask=live)",
                    "tl.debug_barrier()",
                ]
                return
            case other:
                reads, kinds, form = _INSTRUCTIONS[other]
                # A quotient by 2^5 with halves up is a shift by 4, one more, and a shift by 1.
                numbers = {"s": [shift], "r": [max(0, shift - 1), int(shift > 0)], "k": [constant]}
                parameters = [self.number(n) for kind in kinds for n in numbers[kind]]
                text = form.format(*map(self.value, (a, b, c)[:reads]), *parameters)
        self.variables[d] = result
        self.lines += (
            [f"{result}, changed = {text}", "lost += changed"]
            if op in _COUNTING
            else [f"{result} = {text}"]
        )

    def scale(self, frac: int) -> list[str]:
        """How `Machine.sigmoid` scales a magnitude of so many fractional bits.

        The table is read at 11 fractional bits, so 8 of them are shifted up by 3 and 13 down by 2.
        Before the shift up a magnitude is cut at 2^(15 - 3), which is behind the table's end
        already: so no bit leaves the register.
        """
        up, down = max(0, SIGMOID_INPUT_FRAC - frac), max(0, frac - SIGMOID_INPUT_FRAC)
        most = 1 << max(0, SIGMOID_INPUT_BITS - up) if up else _UNBOUNDED
        return [self.number(n) for n in (most, min(up, SIGMOID_INPUT_BITS), min(down, 31))]


def write(program: Program, streams: tuple[Stream, ...]) -> Kernel:
    """The kernel of a program whose inputs lie as `streams` say."""
    writer = _Writer(program, streams)
    constants = range(len(program.constants))
    inputs = [f"{side}{k}" for k in range(1 + max(s.array for s in streams)) for side in ("x", "w")]
    outputs = [f"{side}{k}" for k in range(len(program.outputs)) for side in ("y", "e")]
    tables = [*(f"t{k}" for k in range(len(program.tables))), "sigmoids"]
    state = ["held"] if program.slots else []
    numbers = ["counts", "size", "tokens", *(f"p{k}" for k in range(len(writer.parameters)))]
    arguments = [
        *inputs,
        *(f"c{k}" for k in constants),
        *tables,
        *state,
        *outputs,
        "saturated",
        "slots",
        *numbers,
    ]
    # Triton would compile once more for a number that is 1 or a multiple of 16.
    unspecialised = ", ".join(f'"{name}"' for name in [*inputs[1::2], *numbers])
    head = [
        f"@triton.jit(do_not_specialize=[{unspecialised}])",
        f"def neurons({', '.join(arguments)}, LANES: tl.constexpr):",
    ]
    load = [f"    c{k} = tl.load(c{k} + neuron, mask=live, other=0)" for k in constants]
    body = [
        "lost = tl.zeros([LANES], tl.int32)",
        *writer.lines,
        "count(saturated + counted, lost, live)",
    ]
    if program.slots:
        loop = ["    while fed < tokens:", _THIS_TOKEN, *(f"        {line}" for line in body)]
        lines = [*head, *_NEURONS, *load, *loop, _NEXT_TOKEN]
    else:
        lines = [*head, *_PAIRS, *load, *(f"    {line}" for line in body)]
    return Kernel("\n".join(lines) + "\n", tuple(writer.parameters))


@cache
def compiled(text: str) -> Any:
    """The Triton kernel of a text."""
    # Triton reads the source of a function again: from the cache of lines, so no file is written.
    name = f"<neuron program {hashlib.sha256(text.encode()).hexdigest()[:16]}>"
    linecache.cache[name] = len(text), None, text.splitlines(keepends=True), name
    space = {"__name__": __name__, "triton": triton, "tl": tl} | {
        f.__name__: f for f in instructions.ALL
    }
    exec(compile(text, name, "exec"), space)
    return space["neurons"]
