"""The graph of integer operations that a checkpoint is lowered to.  This page is its specification.

A graph is a tuple of nodes in topological order.  A node is a group of like neurons: each neuron
reads its inputs for one token, runs the node's program once, and sends its outputs.  All values are
integers in declared `QType`s.  An input reaches a neuron in one of five ways (`Input.how`):

- "ternary":   neuron i reads the sum over j of matrix[i, j] · source[first + j],
               with entries -1, 0, +1;
- "aligned":   neuron i reads source[i];
- "sum":       every neuron reads the sum of the source, or of `count` values from `first` on;
- "broadcast": every neuron reads the only value of the source (or, at a port that only says
               something of the token, the first);
- "group":     neuron i reads source[arity·i] … source[arity·i + arity - 1],
               each in an accumulator of its own.

Inputs with the same port, all of them ternary, sums or aligned, share that port's accumulator: the
neuron reads the sum of what they bring.  So a matrix can be divided by columns: a `PartialSum` sums
some columns, and the node that has the rest reads its sum, aligned, at the same port.

A machine that works in steps runs every neuron at every step, whether a token is there or not.  A
node fires one step after the latest of its sources (`steps.steps`), and an input with a `delay`
holds back what its source has sent earlier.  A node that has a state, or whose program does not
answer sums of zero with nothing, has a port of `presence`: what arrives there is never zero when a
token is there.  Engines that work with messages need neither.

A neuron's sum is defined modulo 2^accumulator_bits, as two's complement has it: an accumulator
wraps around, so neither the order of messages nor a split can change what is read.  `verify.verify`
proves that no sum leaves its accumulator, but for those that an input declares `calibrated`: these
are held by what calibration saw, and whatever they wrap to is a legal input of the program.  Of
them `verify` proves that the exact sum fits 32 bits, which engines hold; engines count every sum
that was read and had wrapped.  A `PartialSum` of such a sum sends it wrapped (`Output.wraps`).

A value is saturated only where a program says `fit`, and every such change is counted.  A payload
of zero is not sent; it is received as zero.  A state belongs to its neuron alone, and is zero
before the first token.

Where several sequences are under way at once, a neuron has a state for each of them, in `slots`.
The mark that travels with a token (`mark`) says whose token it is, and whether its sequence begins:
then the state is taken as zero, whatever another sequence has left in that slot.  So what comes out
for a sequence is what comes out for it alone, in whatever order the tokens of several sequences
enter.

Notation in the nodes' equations: `mul(a, c)` is
a · c.mantissa / 2^c.shift to the nearest integer, halves up; `fit[q]` saturates to the output's or
the named format; σ and silu use the graph's table.  `programs.run` computes exactly these
equations, instruction by instruction.

A new kind of node is a class with its equation and its declarations, and a case of `AnyNode`.  Then
mypy names `programs.run`, which lacks its program, and `verify` whatever it declares wrongly.
"""

from dataclasses import dataclass
from functools import cached_property
from typing import Literal

import numpy as np
from numpy.typing import NDArray

from mmfree_neuro.integers.fixedpoint import Ints, Multiplier, QType
from mmfree_neuro.integers.tables import SigmoidTable
from mmfree_neuro.integers.ternary import TernaryMatrix

PRESENCE = "presence"
"""The port of an input that says only that a token is there; no program reads it."""
PACE = "pace"
"""The port of an input that says only when its node fires; no program reads it."""
UNREAD = frozenset({PRESENCE, PACE})
"""The ports that no program reads."""
HERE = "here"
"""The port of what passes from node to node with a token, and is never zero; the token's mark where
there are several slots."""
MARK = "mark"
"""What the embedding reads beside a word where there are several slots."""
OF_TOKENS = UNREAD | {HERE}
"""The ports of what says something of a token, which all values of an output say alike."""
ROOT = "r"
"""The port at which the root of a norm arrives."""
How = Literal["ternary", "aligned", "sum", "broadcast", "group"]


def mark(slots: Ints, starts: NDArray[np.bool_]) -> Ints:
    """The marks of tokens whose sequences have these slots, never zero: 2 (slot + 1), and 1 more at
    the first token of a sequence."""
    return 2 * (slots + 1) + starts


def slots_of(marks: Ints) -> Ints:
    """The slots that marks name."""
    return (marks >> 1) - 1


def largest_mark(slots: int) -> int:
    """The largest mark of that many slots."""
    return 2 * slots + 1


@dataclass(frozen=True, eq=False)
class Input:
    """One input of a node: `port` is its name in the program, the rest says where it comes from and
    how."""

    port: str
    source: str
    source_port: str
    how: How
    matrix: TernaryMatrix | None = None  # [size, columns], only with "ternary"
    first: int = 0
    """The source's value that a "ternary" input's first column reads, or a "sum" begins with; 0 for
    the others."""
    count: int | None = None
    """How many values a "sum" adds up; None for all from the first on, and for the others."""
    delay: int = 0
    """How many steps what it brings waits, so that all sums of one token meet."""
    calibrated: bool = False
    """Whether the sum at its port is held inside the accumulator by calibration, not by proof; only
    with "ternary", and with "aligned" where a sum arrives that wraps."""

    @property
    def reaches_all(self) -> bool:
        """Whether each of the source's values that it needs goes to every neuron; else to one."""
        return self.how in ("ternary", "sum", "broadcast")


@dataclass(frozen=True)
class Output:
    """One output of a node: `size` payloads of a format, none negative where `unsigned`.

    Where it `wraps`, it passes a sum on that wraps, and holds one integer more: -2^(bits - 1).
    """

    port: str
    size: int
    qtype: QType
    unsigned: bool = False
    wraps: bool = False

    @property
    def low(self) -> int:
        """The smallest payload."""
        return 0 if self.unsigned else -self.largest

    @property
    def largest(self) -> int:
        """The largest magnitude of a payload."""
        return self.qtype.high + self.wraps


@dataclass(frozen=True, eq=False, repr=False)
class Node:
    """What all nodes have: a unique name, a number of neurons, inputs and outputs."""

    name: str
    size: int
    inputs: tuple[Input, ...]
    outputs: tuple[Output, ...]

    def __repr__(self) -> str:
        return f"<{type(self).__name__} {self.name}: {self.size} neurons>"

    def output(self, port: str) -> Output:
        """The output of that name."""
        return next(o for o in self.outputs if o.port == port)

    @cached_property
    def ports(self) -> dict[str, tuple[Input, ...]]:
        """The inputs by port: those of one port add up in one accumulator."""
        return {
            e.port: tuple(other for other in self.inputs if other.port == e.port)
            for e in self.inputs
        }

    # What everybody else asks of a node, so that nobody asks for its class.  A kind declares what
    # differs from these; `verify` holds every declaration against the node's program.

    @property
    def state_type(self) -> QType | None:
        """The format of the state that each neuron keeps from token to token; None without one."""
        return None

    @property
    def state_slots(self) -> int:
        """How many sequences can be under way whose states each neuron keeps; 0 without a state."""
        return 0 if self.state_type is None else 1

    @property
    def constants(self) -> dict[str, Ints]:
        """The arrays that give each neuron a value of its own, by name; each [size]."""
        return {}

    @property
    def group(self) -> int:
        """How many values a neuron reads at a port that is fed by "group"."""
        return 1

    @property
    def reads_sigmoid(self) -> bool:
        """Whether the program looks σ up, so that a core that runs it holds the graph's table."""
        return False

    @property
    def passes_on(self) -> bool:
        """Whether the only output is the sum as it arrives."""
        return False

    @cached_property
    def calibrated(self) -> frozenset[str]:
        """The ports whose sums are held by calibration."""
        return frozenset(entry.port for entry in self.inputs if entry.calibrated)

    @property
    def presence(self) -> str | None:
        """The port where what arrives is never zero when a token is there; None without one."""
        return PRESENCE if PRESENCE in self.ports else None

    @property
    def reads(self) -> tuple[str, ...]:
        """The names of what the program reads, in order: the ports, but for those of presence or
        pace alone."""
        return tuple(port for port in self.ports if port not in UNREAD)

    def stride(self, name: str) -> int:
        """How far apart neighbouring neurons read in what arrives; 0 where all read one value."""
        how = self.ports[name][0].how
        return {"broadcast": 0, "sum": 0, "group": self.group}.get(how, 1)

    def reads_group(self, name: str) -> bool:
        """Whether a neuron reads a list of `group` values there, each in its own accumulator."""
        return name in self.ports and self.ports[name][0].how == "group"

    @property
    def accumulators(self) -> int:
        """How many accumulators a neuron has."""
        return sum(self.group if self.reads_group(port) else 1 for port in self.ports)


@dataclass(frozen=True, eq=False)
class Squares:
    """How a node prepares the sum of squares of the norm that follows it.

    u  = fit[width](mul(z, gains / 2^shift))      gains all 1 where `gains` is None
    sq = fit[whole](u² / 2^square_shift)          to the nearest, halves up

    Where accumulators are too narrow for a sum of squares, a square is sent in two digits, its
    `low_bits` lowest bits and the others:

    sq = floor(square / 2^low_bits)      sq.low = square mod 2^low_bits
    """

    gains: Ints | None  # [size]
    shift: int
    width: QType
    square_shift: int
    low_bits: int = 0
    """0 where a square is sent whole."""

    def whole(self, sent: QType) -> QType:
        """The format of a square from that of the output `sq`."""
        return QType(sent.bits + self.low_bits, sent.frac + self.low_bits)

    @property
    def constants(self) -> dict[str, Ints]:
        """The gains as a constant of the node, where there are any."""
        return {} if self.gains is None else {"squares": self.gains}


@dataclass(frozen=True, eq=False)
class Gains:
    """What a value z is multiplied by for each of several products: for each output p

    p = fit(mul(z, values[p] / 2^shifts[p]))
    """

    values: dict[str, Ints]  # each [size]
    shifts: dict[str, int]

    @property
    def constants(self) -> dict[str, Ints]:
        """The gains as constants of the node."""
        return {f"gains.{port}": values for port, values in self.values.items()}


@dataclass(frozen=True, eq=False)
class InverseRoot:
    """How the root of a norm comes from a sum of squares: r = fit(1 / sqrt(total + floor)).

    The total is what arrives at the port `total`, or the sums of two digits put together:
    total · 2^low_bits + total.low.
    The radicand is shifted left by 2k until its top bit pair is set; 24 first guesses by its top
    five bits; `newton` steps y ← y (3 - w y²) / 2; then times powers[k] / 2^28, which undoes the
    shift and holds sqrt(n).
    """

    floor: int
    powers: Ints  # [16]
    newton: int
    low_bits: int
    root: QType
    """The format of r."""


@dataclass(frozen=True)
class Rescale:
    """How a ternary sum becomes a value of the output's format.

    value = fit(mul(sum, factor))                           without a scale
    value = fit(mul(floor(sum · scale / 2^shift), factor))   with what arrives at the port `scale`

    A scale belongs to the token: that of its 8-bit codes from a `QuantScale`, or the root of the
    norm of what the sum is made of.  A node with a `root` of its own finds that
    from the squares, and nothing arrives at `ROOT`.
    """

    factor: Multiplier
    scale: str | None = None
    shift: int = 0


def _folded(gains: Gains | None) -> dict[str, Ints]:
    return {} if gains is None else gains.constants


@dataclass(frozen=True, eq=False, repr=False)
class Embedding(Node):
    """On the host: x = fit(codes[token] · scales[token] / 2^shift), to the nearest, halves up; sq
    as in `Squares`; `folded` of x; here = 1, or the token's `mark` where there are several `slots`,
    by which others know that there is a token."""

    codes: NDArray[np.int8] | NDArray[np.int16]  # [vocabulary, size]
    scales: Ints  # [vocabulary]
    shift: int
    squares: Squares
    folded: Gains | None = None
    slots: int = 1

    @property
    def constants(self) -> dict[str, Ints]:
        return self.squares.constants | _folded(self.folded)

    @property
    def reads(self) -> tuple[str, ...]:
        """A word's codes, its scale, and the token's mark where there are several slots."""
        return ("x", "scale", MARK) if self.slots > 1 else ("x", "scale")

    def stride(self, name: str) -> int:
        return int(name == "x")

    def read(self, tokens: Ints, marks: Ints) -> dict[str, Ints]:
        """What the program reads for tokens of any shape and their marks: codes [..., size], scales
        [..., 1] and marks [..., 1]."""
        x, scale = self.codes[tokens].astype(np.int64), self.scales[tokens][..., None]
        found = {"x": x, "scale": scale, MARK: marks[..., None]}
        return {name: found[name] for name in self.reads}


@dataclass(frozen=True, eq=False, repr=False)
class InverseRms(Node):
    """One neuron: r as in `InverseRoot`, for all that read it."""

    inverse: InverseRoot


@dataclass(frozen=True, eq=False, repr=False)
class Norm(Node):
    """t = floor(x · r / 2^pre_shift), and the gains of t as in `Gains`."""

    pre_shift: int
    gains: Gains

    @property
    def constants(self) -> dict[str, Ints]:
        return self.gains.constants

    @property
    def presence(self) -> str:
        """The root, which is never zero."""
        return ROOT


@dataclass(frozen=True, eq=False, repr=False)
class Gain(Node):
    """A norm's gains without its root: those of x as in `Gains`."""

    gains: Gains

    @property
    def constants(self) -> dict[str, Ints]:
        return self.gains.constants


@dataclass(frozen=True, eq=False, repr=False)
class MaxAbs(Node):
    """max = the largest magnitude among the `arity` values of the group."""

    arity: int

    @property
    def group(self) -> int:
        return self.arity


@dataclass(frozen=True, eq=False, repr=False)
class QuantScale(Node):
    """One neuron that turns a norm's root and the largest magnitudes into scales of 8-bit codes.

    r        as in `InverseRoot`
    scale_p  = fit(max_p · r / 2^scale_shift[p])
    here     = 1, by which others know that there is a token
    """

    inverse: InverseRoot
    scale_shift: dict[str, int]


@dataclass(frozen=True, eq=False)
class Reciprocal:
    """How the largest magnitude becomes what codes are made with: inv = fit(127 / max), max at
    least 1.

    max is shifted left until its top bit is set; 16 first guesses by its top five bits; `newton`
    steps y ← y (2 - a y); then times powers[k] / 2^28.
    """

    powers: Ints  # [32]
    newton: int
    inverse: QType
    """The format of inv."""


@dataclass(frozen=True, eq=False, repr=False)
class Quantise(Node):
    """For each output p: p = fit(v_p · inv_p / 2^shifts[p]), to the nearest, halves up: an 8-bit
    code; inv_p from the largest magnitude max_p as in `Reciprocal`, which every neuron finds, so
    that codes do not wait for it."""

    reciprocals: dict[str, Reciprocal]
    shifts: dict[str, int]


@dataclass(frozen=True, eq=False, repr=False)
class MLGRU(Node):
    """The token mixer's recurrence, all of one channel in one neuron; h is its state, zero before
    the first token.  Of several `slots`, it is the one that the mark at HERE names.

    i, fp, g = the rescaled ternary sums, in the formats `i_type`, `f_type`, `g_type`
    f  = σ(fp);  where there are lower bounds: f = bound + (1 - bound) · f
    c  = i · σ(i)                                  in h's format
    h  = fit[state](c + f · (h - c))
    v  = fit(mul(g, gains / 2^gain_shift) · h · σ(h) / 2^v_shift)
    sq = fit[whole](the squares of v + eps · g²), sent as in `Squares`
         eps · g² as mul(floor(u² / 2^15), eps), u = fit(g / 2^g_shift)
    `folded` of v
    """

    rescale: dict[str, Rescale]  # i, f, g
    i_type: QType
    f_type: QType
    g_type: QType
    state: QType
    bounds: Ints | None  # [size], GATE_FRAC fractional bits
    gains: Ints  # [size]
    gain_shift: int
    v_shift: int
    squares: Squares
    g_shift: int
    eps: Multiplier | None
    root: InverseRoot | None = None
    folded: Gains | None = None
    slots: int = 1

    @property
    def presence(self) -> str | None:
        """The port of marks or of presence, or the root by which its sums are multiplied, which is
        never zero."""
        return next((port for port in (HERE, PRESENCE, ROOT) if port in self.ports), None)

    @property
    def state_type(self) -> QType:
        return self.state

    @property
    def state_slots(self) -> int:
        return self.slots

    @property
    def constants(self) -> dict[str, Ints]:
        bounds = {} if self.bounds is None else {"bounds": self.bounds}
        return {"gains": self.gains} | bounds | self.squares.constants | _folded(self.folded)

    @property
    def reads_sigmoid(self) -> bool:
        return True


@dataclass(frozen=True, eq=False, repr=False)
class GLU(Node):
    """The channel mixer's gate: v = fit(gate · σ(gate) · up / 2^v_shift), gate and up the rescaled
    sums; sq and `folded` of v."""

    rescale: dict[str, Rescale]  # gate, up
    gate_type: QType
    v_shift: int
    squares: Squares
    root: InverseRoot | None = None
    folded: Gains | None = None

    @property
    def constants(self) -> dict[str, Ints]:
        return self.squares.constants | _folded(self.folded)

    @property
    def reads_sigmoid(self) -> bool:
        return True


@dataclass(frozen=True, eq=False, repr=False)
class Residual(Node):
    """x' = fit(x + rescaled ternary sum), sq as in `Squares`, `folded` of x'."""

    rescale: dict[str, Rescale]  # y
    squares: Squares
    root: InverseRoot | None = None
    folded: Gains | None = None

    @property
    def constants(self) -> dict[str, Ints]:
        return self.squares.constants | _folded(self.folded)


@dataclass(frozen=True, eq=False, repr=False)
class Head(Node):
    """logits = the rescaled ternary sum; sent to the host."""

    rescale: dict[str, Rescale]  # y
    root: InverseRoot | None = None


@dataclass(frozen=True, eq=False, repr=False)
class Largest(Node):
    """The largest of `arity` neighbouring logits, and whose it is; of equal ones the first.

    value = the largest of the values of the group, of which there are `values` in all groups
    word  = the number of its word plus 1, so never zero: where words arrive, the one beside it

    The last of them, one neuron, sends the word to the host, and no value.
    """

    arity: int
    values: int

    @property
    def group(self) -> int:
        return self.arity

    @property
    def first_level(self) -> bool:
        """Whether it reads logits, so that a word is known by where its logit stands."""
        return "word" not in self.ports

    @property
    def fewest(self) -> int:
        """How many values the last group has, which may be fewer than the others."""
        return self.values - (self.size - 1) * self.arity

    @property
    def constants(self) -> dict[str, Ints]:
        """The number of a neuron's first word plus 1, and how many values it has where the last has
        fewer."""
        before = self.arity * np.arange(self.size)
        first = {"first": before + 1} if self.first_level else {}
        uneven = self.fewest < self.arity
        members = {"members": np.minimum(self.arity, self.values - before)} if uneven else {}
        return first | members


@dataclass(frozen=True, eq=False, repr=False)
class Relay(Node):
    """One neuron that passes on what says that there is a token: here = here."""

    @property
    def presence(self) -> str:
        """What it passes on."""
        return HERE


@dataclass(frozen=True, eq=False, repr=False)
class PartialSum(Node):
    """sum = the sum y of some columns, as its accumulator holds it; the node that adds the rest
    reads it."""

    @property
    def passes_on(self) -> bool:
        return True


AnyNode = (
    Embedding
    | InverseRms
    | Norm
    | Gain
    | MaxAbs
    | QuantScale
    | Quantise
    | MLGRU
    | GLU
    | Residual
    | Head
    | Largest
    | Relay
    | PartialSum
)


@dataclass(frozen=True, eq=False, repr=False)
class Graph:
    """A whole model as integers: one Embedding first, blocks, and one Head last; or behind the head
    the nodes that find the largest logit, where the graph is greedy."""

    name: str
    scheme: str
    nodes: tuple[AnyNode, ...]
    sigmoid: SigmoidTable
    accumulator_bits: int
    blocks: int
    bos: int | None
    """The token that stands before a text of bytes, where the model has one; it need not be in the
    vocabulary."""
    quality: dict[str, float]
    """What calibration measured: nats per token of the float model and of these integers, on how
    many tokens."""
    tokenizer: str | None = None
    """The content of the checkpoint's `tokenizer.json`, by which text becomes tokens."""
    eos: tuple[int, ...] = ()
    """The tokens that end a text; none of them need be in the vocabulary."""
    as_bytes: bool = False
    """Whether text is read as bytes although the vocabulary is not one of bytes."""

    def __repr__(self) -> str:
        return f"<Graph {self.name}, {self.scheme}: {self.blocks} blocks, {len(self.nodes)} nodes>"

    @property
    def embedding(self) -> Embedding:
        """The first node."""
        node = self.nodes[0]
        assert isinstance(node, Embedding)
        return node

    @cached_property
    def head(self) -> Head:
        """The node of the logits."""
        return next(node for node in reversed(self.nodes) if isinstance(node, Head))

    @property
    def greedy(self) -> bool:
        """Whether the last node sends the greedy choice, and not the logits."""
        return isinstance(self.nodes[-1], Largest)

    @property
    def to_host(self) -> tuple[str, Output]:
        """The node and its output that go to the host: the logits; or the word of the largest, plus
        1, where the graph is greedy."""
        return self.nodes[-1].name, self.nodes[-1].outputs[0]

    @property
    def vocabulary(self) -> int:
        """How many tokens there are."""
        return self.head.size

    @property
    def payload_bits(self) -> int:
        """The bits of the widest payload that a node sends."""
        return max(output.qtype.bits for node in self.nodes for output in node.outputs)

    @property
    def logit_scale(self) -> float:
        """What one step of an integer logit is worth in natural units; a power of two."""
        return float(2.0 ** -self.head.outputs[0].qtype.frac)

    @property
    def slots(self) -> int:
        """How many sequences can be under way at once."""
        return self.embedding.slots

    @property
    def recurrent(self) -> dict[str, tuple[int, QType]]:
        """The nodes that keep states, [slots, neurons]: how many neurons, and the format."""
        return {n.name: (n.size, n.state_type) for n in self.nodes if n.state_type is not None}

    def node(self, name: str) -> AnyNode:
        """The node of that name."""
        return self._by_name[name]

    @cached_property
    def _by_name(self) -> dict[str, AnyNode]:
        return {node.name: node for node in self.nodes}


def span(node: AnyNode, entry: Input, start: int, stop: int, source_size: int) -> tuple[int, int]:
    """Which of its source's values an input needs for the neurons from `start` to `stop`."""
    match entry.how:
        case "ternary":
            assert entry.matrix is not None
            return entry.first, entry.first + entry.matrix.columns
        case "aligned":
            return start, stop
        case "group":
            return start * node.group, min(stop * node.group, source_size)
        case "sum":
            return entry.first, source_size if entry.count is None else entry.first + entry.count
        case "broadcast":
            return 0, 1


def block_of(name: str) -> int | None:
    """The block that a node belongs to by its name; None for the embedding and the head."""
    parts = name.split(".")
    return int(parts[1]) if parts[0] == "layers" else None
