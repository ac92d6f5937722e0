"""Norms as integer nodes: one weighted sum of squares and one inverse root for two norms in a
row."""

import math
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass

from mmfree_neuro.graph.nodes import (
    GLU,
    HERE,
    MLGRU,
    PRESENCE,
    ROOT,
    AnyNode,
    Embedding,
    Gain,
    Gains,
    Input,
    InverseRms,
    InverseRoot,
    MaxAbs,
    Norm,
    Output,
    Quantise,
    QuantScale,
    Reciprocal,
    Rescale,
    Residual,
)
from mmfree_neuro.integers.fixedpoint import Ints, QType, frac_for, multiplier
from mmfree_neuro.integers.tables import ROOT_FRAC, power_table
from mmfree_neuro.integers.ternary import TernaryMatrix
from mmfree_neuro.lowering.formats import WIDEST_RANGE, Formats, integer_gain, smallest_seen
from mmfree_neuro.lowering.ternarise import TernaryWeight

CODE = QType(8, 0)


MAX_ARITY = 62
"""How many accumulators a neuron that finds a maximum has: with two registers more, all of the
machine's are taken."""


Squaring = Embedding | MLGRU | GLU | Residual
"""The nodes that prepare the sum of squares of a norm."""


@dataclass(frozen=True)
class Scale:
    """What a product's sum is multiplied by, token by token, and where it comes from."""

    node: str
    port: str
    format: QType
    unit: float
    """What a sum of values one times a scale of one is worth."""
    shared: bool
    """Whether all products behind the norm read it at one port, `ROOT`; else each at its own."""


@dataclass(frozen=True)
class Source:
    """Where a ternary matrix reads: a node's port, and where its sum has a scale, that."""

    node: str
    port: str
    format: QType
    scale: Scale | None


def root_powers(source: Squaring, root: QType) -> Ints:
    """The powers of the root of a node's squares."""
    squares = source.squares.whole(source.output("sq").qtype)
    return power_table(
        math.sqrt(source.size) * 2.0 ** (squares.frac / 2 + root.frac - ROOT_FRAC - 15.5), 16
    )


def totals(source: Squaring) -> tuple[Input, ...]:
    """The inputs that sum a node's squares, or their digits."""
    whole = Input("total", source.name, "sq", "sum")
    if not source.squares.low_bits:
        return (whole,)
    return whole, Input("total.low", source.name, "sq.low", "sum")


@dataclass(frozen=True)
class Norms:
    """Adds the nodes of norms to a graph that is being made."""

    formats: Formats
    nodes: list[AnyNode]

    def of(
        self,
        norm: str,
        source: Squaring,
        port: str,
        floor: int,
        consumers: Mapping[str, TernaryWeight],
    ) -> dict[str, Source]:
        """The nodes of one norm of source.port; where each consumer's matrix reads."""
        scheme = self.formats.scheme
        if scheme.activations == "per-token":
            return self._per_token(norm, source, port, floor, consumers)
        root = self._root(norm, source, floor)
        if scheme.root == "before":
            return self._root_before(norm, source, port, root, consumers)
        return self._root_after(norm, source, port, root, consumers)

    def _root(self, norm: str, source: Squaring, floor: int) -> InverseRms:
        """The node that takes a norm's root."""
        root = self.formats.root_type(norm)
        rms = InverseRms(
            f"{norm}.rms",
            1,
            (*totals(source), presence(self.nodes)),
            (Output("r", 1, root, unsigned=True),),
            self._inverse(source, root, floor),
        )
        self.nodes.append(rms)
        return rms

    def _inverse(self, source: Squaring, root: QType, floor: int) -> InverseRoot:
        """How the root of a node's squares is found, in a format."""
        powers, steps = root_powers(source, root), self.formats.scheme.newton_steps
        return InverseRoot(floor, powers, steps, source.squares.low_bits, root)

    def _root_after(
        self,
        norm: str,
        source: Squaring,
        port: str,
        rms: InverseRms,
        consumers: Mapping[str, TernaryWeight],
    ) -> dict[str, Source]:
        """Gains alone; the root goes where the products' sums arrive, while they are made."""

        def value_type(name: str, frac: int) -> QType:
            return self.formats.activations(f"{norm}.{name}", consumers[name], frac)

        gain = self._gain(norm, source, port, consumers, value_type)
        scale = Scale(rms.name, "r", rms.output("r").qtype, 1.0, shared=True)
        return {o.port: Source(gain.name, o.port, o.qtype, scale) for o in gain.outputs}

    def _root_before(
        self,
        norm: str,
        source: Squaring,
        port: str,
        rms: InverseRms,
        consumers: Mapping[str, TernaryWeight],
    ) -> dict[str, Source]:
        """Root and gains at once, before the products."""
        size, x, root = source.size, source.output(port).qtype, rms.output("r").qtype
        pre_shift = x.bits + root.bits - 32
        t_frac = x.frac + root.frac - pre_shift
        gains, shifts, outputs = {}, {}, []
        for name, weight in consumers.items():
            integer, gain_frac = integer_gain(self.formats.norms[norm].outer[name])
            y = self.formats.activations(f"{norm}.{name}", weight, t_frac + gain_frac)
            gains[name], shifts[name] = integer, t_frac + gain_frac - y.frac
            outputs.append(Output(name, size, y))
        inputs = (Input("x", source.name, port, "aligned"), Input(ROOT, rms.name, "r", "broadcast"))
        node = Norm(f"{norm}.norm", size, inputs, tuple(outputs), pre_shift, Gains(gains, shifts))
        self.nodes.append(node)
        return {o.port: Source(node.name, o.port, o.qtype, None) for o in outputs}

    def _per_token(
        self,
        norm: str,
        source: Squaring,
        port: str,
        floor: int,
        consumers: Mapping[str, TernaryWeight],
    ) -> dict[str, Source]:
        """Gains without the root, the largest magnitudes, scales made of these, and the codes."""

        def value_type(name: str, frac: int) -> QType:
            return self.formats.value_type(f"{norm}.{name}.largest", at_most=frac)

        gain = self._gain(norm, source, port, consumers, value_type)
        largest = tuple(
            Input(
                f"max.{value.port}",
                self._max_tree(f"{norm}.max.{value.port}", gain.name, value),
                "max",
                "broadcast",
            )
            for value in gain.outputs
        )
        scales = self._scales(norm, source, floor, gain, largest)
        codes = self._codes(norm, gain, largest)
        return {
            name: Source(
                codes.name,
                name,
                CODE,
                Scale(
                    scales.name,
                    f"scale.{name}",
                    scales.output(f"scale.{name}").qtype,
                    1 / 127,
                    shared=False,
                ),
            )
            for name in consumers
        }

    def _gain(
        self,
        norm: str,
        source: AnyNode,
        port: str,
        consumers: Mapping[str, TernaryWeight],
        value_type: Callable[[str, int], QType],
    ) -> Gain:
        """The node that multiplies by the gains of every consumer, without the root; `value_type`
        gives the format of what it sends to one, of at most so many fractional bits."""
        x = source.output(port).qtype
        gains, shifts, outputs = {}, {}, []
        for name in consumers:
            integer, gain_frac = integer_gain(self.formats.norms[norm].outer[name])
            value = value_type(name, x.frac + gain_frac)
            gains[name], shifts[name] = integer, x.frac + gain_frac - value.frac
            outputs.append(Output(name, source.size, value))
        entry = Input("x", source.name, port, "aligned")
        node = Gain(f"{norm}.gain", source.size, (entry,), tuple(outputs), Gains(gains, shifts))
        self.nodes.append(node)
        return node

    def _scales(
        self, norm: str, source: Squaring, floor: int, gain: Gain, largest: tuple[Input, ...]
    ) -> QuantScale:
        """The node that makes the scales of a token's codes from its largest magnitudes."""
        root = self.formats.root_type(norm)
        scales, shifts = [], {}
        for value in gain.outputs:
            frac = value.qtype.frac + root.frac
            scale = self.formats.value_type(f"{norm}.{value.port}", at_most=frac)
            scales.append(Output(f"scale.{value.port}", 1, scale, unsigned=True))
            shifts[value.port] = frac - scale.frac
        node = QuantScale(
            f"{norm}.scale",
            1,
            (*totals(source), presence(self.nodes), *largest),
            (Output(HERE, 1, QType(2, 0), unsigned=True), *scales),
            self._inverse(source, root, floor),
            shifts,
        )
        self.nodes.append(node)
        return node

    def _codes(self, norm: str, gain: Gain, largest: tuple[Input, ...]) -> Quantise:
        """The node that makes a token's codes, beside the one that makes their scales."""
        bits, steps = self.formats.scheme.value_bits, self.formats.scheme.newton_steps
        inputs, reciprocals, shifts = [], {}, {}
        for value in gain.outputs:
            inputs.append(Input(f"v.{value.port}", gain.name, value.port, "aligned"))
            seen = self.formats.ranges[f"{norm}.{value.port}.largest"]
            most = self.formats.room * 127 / smallest_seen(seen, WIDEST_RANGE)
            inverse = QType(bits, frac_for(most, bits))
            # A code is v · (127 / largest) in units of one: both formats' fractional bits go.
            shifts[value.port] = frac = value.qtype.frac + inverse.frac
            powers = power_table(127 * 2.0 ** (frac - ROOT_FRAC - 31), 32)
            reciprocals[value.port] = Reciprocal(powers, steps, inverse)
        outputs = tuple(Output(value.port, gain.size, CODE) for value in gain.outputs)
        node = Quantise(
            f"{norm}.quantise", gain.size, (*inputs, *largest), outputs, reciprocals, shifts
        )
        self.nodes.append(node)
        return node

    def _max_tree(self, name: str, source: str, values: Output) -> str:
        """Nodes that find the largest magnitude of a node's output, MAX_ARITY at a time; the name
        of the last."""
        level = 0
        while level == 0 or values.size > 1:
            arity = min(MAX_ARITY, values.size)
            found = Output("max", -(-values.size // arity), values.qtype, unsigned=True)
            entry = Input("v", source, values.port, "group")
            node = MaxAbs(f"{name}.{level}", found.size, (entry,), (found,), arity)
            self.nodes.append(node)
            source, values, level = node.name, found, level + 1
        return source


def presence(nodes: Sequence[AnyNode]) -> Input:
    """The input that says that a token is there, for the node after these: by what the last norm
    sends to all, which is never zero, or else by the embedding."""
    for node in reversed(nodes):
        if isinstance(node, InverseRms | QuantScale):
            return Input(PRESENCE, node.name, node.outputs[0].port, "broadcast")
    return Input(PRESENCE, nodes[0].name, "here", "broadcast")


def ternary_product(
    port: str,
    source: Source,
    matrix: TernaryMatrix,
    weight_scale: float,
    out: QType,
    limit: int,
    *,
    calibrated: bool,
) -> tuple[tuple[Input, ...], Rescale]:
    """The inputs of one ternary product, and how its sum, which an accumulator of up to `limit`
    holds, becomes a value of `out`."""
    entry = Input(port, source.node, source.port, "ternary", matrix, calibrated=calibrated)
    scale, frac = source.scale, out.frac - source.format.frac
    if scale is None:
        return (entry,), Rescale(multiplier(weight_scale * 2.0**frac))
    largest = min(max(1, matrix.fullest) * source.format.high, limit + 1)
    shift = max(0, (largest * scale.format.high).bit_length() - 31)
    factor = multiplier(weight_scale * scale.unit * 2.0 ** (frac - scale.format.frac + shift))
    at = ROOT if scale.shared else f"{port}.scale"
    return (entry, Input(at, scale.node, scale.port, "broadcast")), Rescale(factor, at, shift)


def together(*products: tuple[Input, ...]) -> tuple[Input, ...]:
    """The inputs of several products, with what they share once."""
    inputs: dict[str, Input] = {}
    for product in products:
        for entry in product:
            inputs.setdefault(entry.port, entry)
    return tuple(inputs.values())
