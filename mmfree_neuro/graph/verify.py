"""Proves that a graph is legal: wired right, every sum inside the accumulator unless calibration
holds it there, every register wide enough."""

from collections import Counter
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass, fields, is_dataclass
from typing import Any
from weakref import WeakKeyDictionary

import numpy as np

from mmfree_neuro.errors import GraphError, RangeError, shown
from mmfree_neuro.graph import programs
from mmfree_neuro.graph.bounds import Bounds, Interval
from mmfree_neuro.graph.machine import REGISTER_BITS, REGISTER_HIGH, Value
from mmfree_neuro.graph.nodes import (
    HERE,
    MARK,
    OF_TOKENS,
    UNREAD,
    AnyNode,
    Embedding,
    Graph,
    Head,
    Input,
    Largest,
    Output,
    largest_mark,
)
from mmfree_neuro.graph.presence import check_delays, check_presence
from mmfree_neuro.graph.steps import step_of
from mmfree_neuro.integers.fixedpoint import Ints, QType
from mmfree_neuro.integers.ternary import TernaryMatrix
from mmfree_neuro.target.layout import MOST_STATES

MAX_ARITY = 64
"""The largest group that a neuron reads."""
MOST_BITS = 32
"""The widest format and accumulator: what a register holds."""
MOST_FRACTION = 1000
"""The most fractional bits of a format; a power of two of as many is still a number of double
precision."""
MOST_NEWTON = 16
"""The most Newton steps of a root or a reciprocal; three make all bits of it right."""


def _interval(output: Output) -> Interval:
    return Interval(output.low, output.qtype.high)


def sum_bound(node: AnyNode, entry: Input, source: Output) -> int:
    """The largest magnitude that the sum behind an input can reach, whatever arrives."""
    if entry.how == "ternary":
        assert entry.matrix is not None
        return entry.matrix.fullest * source.largest
    return (_counted(entry, source) if entry.how == "sum" else 1) * source.largest


def _counted(entry: Input, source: Output) -> int:
    """How many values a sum adds up."""
    return source.size - entry.first if entry.count is None else entry.count


def _check_shape(node: AnyNode, entry: Input, source: Output) -> None:
    who = f"{node.name}: input {entry.port}"
    passed_on = entry.how == "aligned" and source.wraps
    if entry.calibrated and not passed_on and entry.how != "ternary":
        raise GraphError(
            f"{who}: is held by calibration, but reads {entry.how}, must read ternary or a sum "
            "that wraps"
        )
    if entry.how == "ternary":
        matrix = entry.matrix
        if entry.count is not None:
            raise GraphError(
                f"{who}: reads {entry.count} values by a matrix, must read its columns"
            )
        if matrix is None or matrix.rows != node.size:
            have = None if matrix is None else list(matrix.shape)
            raise GraphError(f"{who}: the matrix has shape {have}, must have {node.size} rows")
        if not 0 <= entry.first <= source.size - matrix.columns:
            raise GraphError(
                f"{who}: the matrix reads values {entry.first} … "
                f"{entry.first + matrix.columns - 1}, must read among "
                f"0 … {source.size - 1}"
            )
        return
    if entry.matrix is not None:
        raise GraphError(f"{who}: reads {entry.how} by a matrix, must read ternary")
    if entry.how == "sum":
        if not 0 <= entry.first < entry.first + _counted(entry, source) <= source.size:
            raise GraphError(
                f"{who}: sums {_counted(entry, source)} values from value {entry.first} on, "
                "must sum some of "
                f"0 … {source.size - 1}"
            )
    elif entry.first or entry.count is not None:
        raise GraphError(f"{who}: reads {entry.how} from value {entry.first}, must read all from 0")
    if not 1 <= node.group <= MAX_ARITY:
        raise GraphError(f"{who}: reads groups of {node.group} values, must have 1 … {MAX_ARITY}")
    expected = {"aligned": node.size, "sum": source.size, "broadcast": 1, "group": source.size}[
        entry.how
    ]
    if source.size != expected and not (entry.how == "broadcast" and entry.port in OF_TOKENS):
        raise GraphError(f"{who}: reads {source.size} values {entry.how}, must read {expected}")
    if entry.how == "group" and node.size != -(-source.size // node.group):
        raise GraphError(
            f"{who}: {source.size} values in groups of {node.group} need another number of neurons "
            f"than {node.size}"
        )


def _sources(node: AnyNode, outputs: dict[tuple[str, str], Output]) -> dict[Input, Output]:
    """What each input reads; a GraphError where it cannot."""
    found = {}
    for entry in node.inputs:
        source = outputs.get((entry.source, entry.source_port))
        if source is None:
            raise GraphError(
                f"{node.name}: input {entry.port} reads {entry.source}.{entry.source_port}, "
                "which no earlier node sends"
            )
        _check_shape(node, entry, source)
        if len(node.ports[entry.port]) > 1 and entry.how not in ("ternary", "sum", "aligned"):
            raise GraphError(
                f"{node.name}: input {entry.port}: reads {entry.how} at a port that inputs "
                "share, must read ternary, "
                "sum or aligned there"
            )
        hows = {other.how for other in node.ports[entry.port]}
        if node.size > 1 and "sum" in hows and len(hows) > 1:
            raise GraphError(
                f"{node.name}: input {entry.port}: reads one sum for all and a value for each "
                "neuron at one port, must read either there"
            )
        found[entry] = source
    return found


def _magnitude(node: AnyNode, entry: Input, source: Output, sums: dict[str, Ints]) -> Ints | int:
    """The largest magnitude that a ternary, sum or aligned input can bring to each neuron."""
    if entry.matrix is not None:
        return entry.matrix.filled * source.largest
    if entry.source not in sums:
        return sum_bound(node, entry, source)
    each = np.broadcast_to(sums[entry.source], source.size)  # of a partial sum, value by value
    if entry.how == "aligned":
        return each
    return int(each[entry.first : entry.first + _counted(entry, source)].sum())


def _inputs(
    graph: Graph,
    node: AnyNode,
    sources: dict[Input, Output],
    sums: dict[str, Ints],
    sent: dict[tuple[str, str], Interval],
) -> dict[str, Value]:
    """What a program can read at each port; `sums` has the magnitudes of partial sums, neuron by
    neuron, and `sent` what outputs can be.

    Those of a shared port are added neuron by neuron, so a sum in parts is proved to be no larger
    than in one.
    """
    found: dict[str, Value] = {}
    for port, entries in node.ports.items():
        if port == HERE and entries[0].how == "broadcast":  # whose exact bounds choose a state
            reached = sent[entries[0].source, entries[0].source_port]
            found[port] = _read(graph, node, port, reached)
            continue
        if len(entries) == 1:
            bound = sum_bound(node, entries[0], sources[entries[0]])
        else:
            bound = int(
                np.max(sum(_magnitude(node, entry, sources[entry], sums) for entry in entries))
            )
        positive = all(sources[entry].unsigned and entry.how != "ternary" for entry in entries)
        # What says that a token is there is never zero, as `check_presence` proves.
        low = int(port == node.presence) if positive else -bound
        reach = _read(graph, node, port, Interval(low, bound))
        found[port] = [reach] * node.group if node.reads_group(port) else reach
    return found


def _highest(graph: Graph) -> int:
    """The largest sum that an accumulator holds."""
    return (1 << (graph.accumulator_bits - 1)) - 1


def _read(graph: Graph, node: AnyNode, port: str, exact: Interval) -> Interval:
    """What a program reads of a sum: the sum itself where it is sure to fit the accumulator, and
    all that an accumulator holds where calibration holds it."""
    who, bound, limit = f"{node.name}: input {port}", exact.high, _highest(graph)
    reaches = f"{who}: the sum can reach {bound}, which"
    if port not in node.calibrated:
        if bound > limit:
            raise RangeError(f"{reaches} a {graph.accumulator_bits}-bit accumulator cannot hold")
        return exact
    if bound <= limit:
        raise GraphError(
            f"{who}: is held by calibration, but the sum cannot pass {bound}, which a "
            f"{graph.accumulator_bits}-bit accumulator holds, must not declare it"
        )
    if bound > REGISTER_HIGH:
        raise RangeError(f"{reaches} does not fit the {REGISTER_BITS} bits of an exact sum")
    return Interval(-limit - 1, limit)


class _Asked(dict[str, Any]):
    """What a node offers its program, by name; GraphError where the program asks for more."""

    def __init__(self, node: AnyNode, offered: Mapping[str, Any], missing: str) -> None:
        super().__init__(offered)
        self.node, self.missing, self.asked = node, missing, set[str]()

    def __getitem__(self, name: str) -> Any:
        if name not in self:
            raise GraphError(f"{self.node.name}: {self.missing.format(name)}")
        self.asked.add(name)
        return super().__getitem__(name)

    @property
    def unused(self) -> list[str]:
        """The names that the program did not ask for."""
        return [name for name in self if name not in self.asked]


def _words(graph: Graph) -> dict[str, Value]:
    """What the embedding's program can read; GraphError where codes and scales do not match,
    RangeError where one is none that a format or an accumulator has."""
    node, codes, scales = graph.embedding, graph.embedding.codes, graph.embedding.scales
    if codes.ndim != 2 or codes.shape[1] != node.size or scales.shape != codes.shape[:1]:
        raise GraphError(
            f"{node.name}: {list(codes.shape)} codes have {list(scales.shape)} scales, must be "
            f"[vocabulary, {node.size}] and [vocabulary]"
        )
    reach = int(np.iinfo(codes.dtype).max)
    if int(codes.min()) < -reach:
        raise RangeError(f"{node.name}: a code is {-reach - 1}, must be {-reach} … {reach}")
    if int(scales.min()) < 0:
        raise RangeError(f"{node.name}: a scale is {int(scales.min())}, must not be negative")
    found = {"x": Interval(-reach, reach), "scale": Interval(0, int(scales.max()))}
    if not 1 <= node.slots <= MOST_STATES:
        raise GraphError(f"{node.name}: has {node.slots} slots, must have 1 … {MOST_STATES}")
    for port, read in found.items():
        if read.high > _highest(graph):
            raise RangeError(
                f"{node.name}: {port} can be {read.high}, which a {graph.accumulator_bits}-bit "
                "accumulator cannot hold"
            )
    if node.slots > 1:
        found[MARK] = Interval(2, largest_mark(node.slots))
    return dict(found)


@dataclass(frozen=True)
class _Proved:
    """What the proof of a node found."""

    issued: Counter[str]
    """What a neuron issues for a token, by instruction class."""
    tables: dict[bytes, int]
    """The tables that its program reads, by content, with how many entries each has."""


def _prove(
    graph: Graph, node: AnyNode, inputs: dict[str, Value]
) -> tuple[_Proved, dict[tuple[str, str], Interval]]:
    """What the program of a node takes, and what its outputs can be; GraphError or RangeError where
    the program is not legal."""
    if node.state_type is not None and node.state_slots != graph.slots:
        raise GraphError(
            f"{node.name}: has {node.state_slots} slots, must have {graph.slots} as the embedding"
        )
    machine = Bounds(node.name, graph.slots)
    high = 0 if node.state_type is None else node.state_type.high
    constants = _Asked(node, node.constants, "the program reads the constant {}, must declare it")
    arriving = _Asked(node, inputs, "the program reads {}, which no input brings")
    sent, state = programs.run(
        machine, node, graph.sigmoid, constants, arriving, Interval(-high, high)
    )
    _check_declarations(node, machine, constants, arriving, keeps_state=state is not None)
    if node.passes_on and not _is_passed_on(node, arriving, sent):
        raise GraphError(f"{node.name}: declares passes_on, but the program sends something else")
    for output in node.outputs:
        if output.size != node.size:
            raise GraphError(
                f"{node.name}: output {output.port} has {output.size} values, must have {node.size}"
            )
        if output.port not in sent:
            raise GraphError(f"{node.name}: output {output.port} is not sent by the program")
        if output.wraps and not (node.passes_on and node.calibrated):
            raise GraphError(
                f"{node.name}: output {output.port} wraps, must pass on a sum that is held by "
                "calibration"
            )
        declared, reached = _interval(output), sent[output.port]
        if reached.low < declared.low or reached.high > declared.high:
            raise RangeError(
                f"{node.name}: output {output.port} can be {reached.low} … {reached.high}, must be "
                f"{declared.low} … {declared.high}"
            )
    reach = {(node.name, port): reached for port, reached in sent.items()}
    return _Proved(machine.issued, machine.tables), reach


def _is_passed_on(node: AnyNode, arriving: _Asked, sent: Mapping[str, Value]) -> bool:
    """Whether the only output is the only sum, as it arrives."""
    alone = len(node.outputs) == 1 == len(node.ports) and node.state_type is None
    if not alone or node.constants:
        return False
    (port,) = node.ports
    return bool(sent.get(node.outputs[0].port) is dict.__getitem__(arriving, port))


def _check_declarations(
    node: AnyNode, machine: Bounds, constants: _Asked, arriving: _Asked, *, keeps_state: bool
) -> None:
    """GraphError where a node declares something else than what its program does."""
    for name in constants.unused:
        raise GraphError(
            f"{node.name}: declares the constant {name}, which the program never reads"
        )
    for name in set(arriving.unused) - UNREAD:
        raise GraphError(f"{node.name}: input {name} is never read by the program")
    if keeps_state and node.state_type is None:
        raise GraphError(f"{node.name}: the program keeps a state, must declare its state_type")
    if not keeps_state and node.state_type is not None:
        raise GraphError(f"{node.name}: declares a state_type, but the program keeps no state")
    if machine.read_sigmoid != node.reads_sigmoid:
        wrong = (
            "reads σ, must declare" if machine.read_sigmoid else "never reads σ, must not declare"
        )
        raise GraphError(f"{node.name}: the program {wrong} reads_sigmoid")


def verify_matrices(
    graph: Graph,
    is_legal: Callable[[TernaryMatrix], bool] = lambda m: m.holds_weights and m.is_empty_beyond,
    filled: Callable[[TernaryMatrix], Ints] = lambda matrix: matrix.filled,
) -> Graph:
    """The same graph, its packed matrices read whole: every code -1, 0 or +1, every row as full as
    is said.

    `verify` trusts the figures that a packed matrix comes with.  `is_legal` and `filled` are those
    of `mmfree_kernels.cpu.products`, or slower ones.
    """
    for node in graph.nodes:
        for entry in node.inputs:
            if entry.matrix is not None:
                who = f"{node.name}: input {entry.port}"
                if not is_legal(entry.matrix):
                    raise GraphError(f"{who}: the matrix holds a code other than -1, 0, +1")
                _check_filled(entry.matrix, filled(entry.matrix), who)
    return graph


def _check_filled(matrix: TernaryMatrix, counts: Ints, who: str) -> None:
    """GraphError where a matrix has other non-zero codes than it says."""
    fullest, nonzero = int(counts.max(initial=0)), int(counts.sum())
    if (fullest, nonzero) != (matrix.fullest, matrix.nonzero):
        raise GraphError(
            f"{who}: the matrix has {nonzero} non-zero codes, {fullest} in its fullest row, must "
            f"have {matrix.nonzero} and {matrix.fullest}"
        )


def verify(graph: Graph) -> Graph:
    """The same graph, proved legal by the rules of `nodes`; GraphError or RangeError otherwise."""
    instruction_counts(graph)
    return graph


_PROVED: WeakKeyDictionary[Graph, dict[str, _Proved]] = WeakKeyDictionary()
"""What was found in graphs that were proved; a graph cannot change, so once is enough."""


def instruction_counts(graph: Graph) -> dict[str, Counter[str]]:
    """What one neuron of each node issues for one token, by node name and instruction class.

    The graph is verified on the way, when this is first asked of it.
    """
    return {name: found.issued for name, found in _proof(graph).items()}


def tables(graph: Graph) -> dict[str, dict[bytes, int]]:
    """The tables that the program of each node reads, by their content as 32-bit numbers, with how
    many entries each has; the graph is verified on the way."""
    return {name: found.tables for name, found in _proof(graph).items()}


def _proof(graph: Graph) -> dict[str, _Proved]:
    if graph not in _PROVED:
        _PROVED[graph] = _proved(graph)
    return _PROVED[graph]


def _qtypes(value: Any) -> Iterator[QType]:
    """The formats that a record holds, those of the records in it among them."""
    if isinstance(value, QType):
        yield value
    elif is_dataclass(value):
        for field in fields(value):
            yield from _qtypes(getattr(value, field.name))
    elif isinstance(value, tuple | dict):
        for item in value.values() if isinstance(value, dict) else value:
            yield from _qtypes(item)


def _numbers(node: AnyNode, name: str) -> Iterator[int]:
    """The fields of that name in the records that a node holds."""
    for field in fields(node):
        if hasattr(record := getattr(node, field.name), name):
            yield getattr(record, name)


def _check_node(node: AnyNode) -> None:
    """GraphError or RangeError where a node by itself cannot be, or would take for ever to prove.

    What is more than any number here needs is refused before it is computed with.
    """
    parts = node.name.split(".")
    if parts[0] == "layers" and not (len(parts) > 2 and parts[1].isdecimal()):
        raise GraphError(f"{shown(node.name)}: names no block, must be such as layers.0.mlgru")
    if node.size < 1:
        raise GraphError(f"{node.name}: has {node.size} neurons, must have some")
    for qtype in _qtypes(node):
        if not 2 <= qtype.bits <= MOST_BITS or abs(qtype.frac) > MOST_FRACTION:
            raise RangeError(
                f"{node.name}: a format is {qtype}, must have 2 … {MOST_BITS} bits, "
                f"{-MOST_FRACTION} … {MOST_FRACTION} of them fractional"
            )
    for digits in _numbers(node, "low_bits"):
        if not 0 <= digits < MOST_BITS:
            raise RangeError(
                f"{node.name}: a low digit has {digits} bits, must have 0 … {MOST_BITS - 1}"
            )
    for steps in _numbers(node, "newton"):
        if not 0 <= steps <= MOST_NEWTON:
            raise GraphError(f"{node.name}: has {steps} Newton steps, must have 0 … {MOST_NEWTON}")
    ports = Counter(output.port for output in node.outputs)
    for port, times in ports.items():
        if times > 1:
            raise GraphError(f"{node.name}: {times} outputs are named {port}, must have one each")


def _finds_largest(nodes: Sequence[AnyNode], head: int) -> bool:
    """Whether nothing stands behind the head, or what finds the largest of its logits level by
    level, and nothing of that kind stands elsewhere."""
    if any(isinstance(node, Largest) for node in nodes[:head]):
        return False
    source, before = nodes[head].name, nodes[head].outputs
    for node in nodes[head + 1 :]:
        if not isinstance(node, Largest) or node.first_level != (node is nodes[head + 1]):
            return False
        entries = [entry for entry in node.inputs if entry.port not in UNREAD]
        reads = {entry.port: (entry.source, entry.source_port) for entry in entries}
        words = {} if node.first_level else {"word": (source, "word")}
        values = [output for output in before if output.port in ("value", "logits")]
        groups = all(entry.how == "group" for entry in entries)
        if len(values) != 1 or reads != {"value": (source, values[0].port)} | words or not groups:
            return False
        if node.values != values[0].size or not 1 <= node.arity <= MAX_ARITY:
            return False
        source, before = node.name, node.outputs
    return head + 1 == len(nodes) or (nodes[-1].size, [o.port for o in before]) == (1, ["word"])


def _check_ends(graph: Graph) -> None:
    """GraphError where a graph does not begin and end with the words of one vocabulary."""
    nodes = graph.nodes
    heads = [number for number, node in enumerate(nodes) if isinstance(node, Head)]
    if not heads or not isinstance(nodes[0], Embedding) or not _finds_largest(nodes, heads[-1]):
        raise GraphError(
            f"{graph.name}: a graph begins with an Embedding and ends with a Head, or behind it "
            "with the nodes that find its largest logit"
        )
    words = len(graph.embedding.codes)
    if words != graph.vocabulary:
        raise GraphError(
            f"{graph.name}: the embedding has {words} words, must have {graph.vocabulary} as the "
            "head"
        )
    if not 2 <= graph.accumulator_bits <= MOST_BITS:
        raise RangeError(
            f"{graph.name}: has accumulators of {graph.accumulator_bits} bits, must be 2 … "
            f"{MOST_BITS}"
        )
    if not 0 <= graph.blocks <= len(graph.nodes):
        raise GraphError(
            f"{graph.name}: has {graph.blocks} blocks, must have 0 … {len(graph.nodes)}"
        )


def _proved(graph: Graph) -> dict[str, _Proved]:
    _check_ends(graph)
    outputs: dict[tuple[str, str], Output] = {}
    sums: dict[str, Ints] = {}
    found: dict[str, _Proved] = {}
    sent: dict[tuple[str, str], Interval] = {}
    never_zero: set[tuple[str, str]] = set()
    step: dict[str, int] = {}
    for node in graph.nodes:
        _check_node(node)
        if node.name in found:
            raise GraphError(f"{node.name}: two nodes have this name")
        if not node.inputs and node is not graph.embedding:
            raise GraphError(f"{node.name}: has no input, must read some node")
        for name, values in node.constants.items():
            if values.shape != (node.size,):
                raise GraphError(
                    f"{node.name}: {name} has shape {list(values.shape)}, must have {[node.size]}"
                )
        sources = _sources(node, outputs)
        step[node.name] = step_of(node, step)
        reach = _inputs(graph, node, sources, sums, sent) if node.inputs else _words(graph)
        found[node.name], reached = _prove(graph, node, reach)
        sent |= reached
        never_zero |= {signal for signal, some in reached.items() if some.low > 0}
        if node.inputs:
            check_delays(node, step)
            check_presence(graph, node, never_zero)
        if node.passes_on:
            magnitudes = [
                _magnitude(node, entry, source, sums) for entry, source in sources.items()
            ]
            # What an accumulator holds is passed on, also of a sum that wraps.
            together = np.sum(np.broadcast_arrays(*magnitudes), axis=0)
            sums[node.name] = np.minimum(together, _highest(graph) + 1)
        outputs |= {(node.name, output.port): output for output in node.outputs}
    return found
