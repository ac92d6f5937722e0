"""Norms as integer nodes: one weighted sum of squares and one inverse root for two norms in a
row."""

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass

from mmfree_neuro.graph.nodes import (
    GLU,
    MLGRU,
    PRESENCE,
    AnyNode,
    Embedding,
    Gain,
    Input,
    InverseRms,
    MaxAbs,
    Norm,
    Output,
    Quantise,
    QuantScale,
    Rescale,
    Residual,
)
from mmfree_neuro.integers.fixedpoint import Ints, QType, frac_for, multiplier
from mmfree_neuro.integers.tables import ROOT_FRAC, power_table
from mmfree_neuro.integers.ternary import TernaryMatrix
from mmfree_neuro.lowering.formats import WIDEST_RANGE, Formats, integer_gain, smallest_seen
from mmfree_neuro.lowering.ternarise import TernaryWeight

CODE = QType(8, 0)


MAX_ARITY = 32
"""How many accumulators a neuron that finds a maximum has."""


Squaring = Embedding | MLGRU | GLU | Residual
"""The nodes that prepare the sum of squares of a norm."""


@dataclass(frozen=True)
class Source:
    """Where a ternary matrix reads: a node's port, and for per-token scales the scale's."""

    node: str
    port: str
    format: QType
    scale: tuple[str, str, QType] | None


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
        if self.formats.scheme.activations == "static":
            return self._static(norm, source, port, floor, consumers)
        return self._per_token(norm, source, port, floor, consumers)

    def _static(
        self,
        norm: str,
        source: Squaring,
        port: str,
        floor: int,
        consumers: Mapping[str, TernaryWeight],
    ) -> dict[str, Source]:
        size, x = source.size, source.output(port).qtype
        root = self.formats.root_type(norm)
        rms = InverseRms(
            f"{norm}.rms",
            1,
            (*totals(source), presence(self.nodes)),
            (Output("r", 1, root, unsigned=True),),
            floor,
            root_powers(source, root),
            self.formats.scheme.newton_steps,
            source.squares.low_bits,
        )
        pre_shift = x.bits + root.bits - 32
        t_frac = x.frac + root.frac - pre_shift
        gains, shifts, outputs = {}, {}, []
        for name, weight in consumers.items():
            integer, gain_frac = integer_gain(self.formats.norms[norm].outer[name])
            y = self.formats.activations(f"{norm}.{name}", weight, t_frac + gain_frac)
            gains[name], shifts[name] = integer, t_frac + gain_frac - y.frac
            outputs.append(Output(name, size, y))
        inputs = (Input("x", source.name, port, "aligned"), Input("r", rms.name, "r", "broadcast"))
        node = Norm(f"{norm}.norm", size, inputs, tuple(outputs), pre_shift, gains, shifts)
        self.nodes.extend([rms, node])
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
        gain = self._gain(norm, source, port, consumers)
        scales = self._scales(norm, source, floor, gain)
        inputs = [Input(f"v.{name}", gain.name, name, "aligned") for name in consumers]
        inputs += [
            Input(f"inv.{name}", scales.name, f"inv.{name}", "broadcast") for name in consumers
        ]
        # A code is v · (127 / largest) in units of one: both formats' fractional bits go.
        shifts = {
            name: gain.output(name).qtype.frac + scales.output(f"inv.{name}").qtype.frac
            for name in consumers
        }
        outputs = tuple(Output(name, source.size, CODE) for name in consumers)
        codes = Quantise(f"{norm}.quantise", source.size, tuple(inputs), outputs, shifts)
        self.nodes.append(codes)
        return {
            name: Source(
                codes.name,
                name,
                CODE,
                (scales.name, f"scale.{name}", scales.output(f"scale.{name}").qtype),
            )
            for name in consumers
        }

    def _gain(
        self, norm: str, source: AnyNode, port: str, consumers: Mapping[str, TernaryWeight]
    ) -> Gain:
        """The node that multiplies by the gains of every consumer, without the root."""
        x = source.output(port).qtype
        gains, shifts, outputs = {}, {}, []
        for name in consumers:
            integer, gain_frac = integer_gain(self.formats.norms[norm].outer[name])
            largest = f"{norm}.{name}.largest"
            value = self.formats.value_type(largest, at_most=x.frac + gain_frac)
            gains[name], shifts[name] = integer, x.frac + gain_frac - value.frac
            outputs.append(Output(name, source.size, value))
        entry = Input("x", source.name, port, "aligned")
        node = Gain(f"{norm}.gain", source.size, (entry,), tuple(outputs), gains, shifts)
        self.nodes.append(node)
        return node

    def _scales(self, norm: str, source: Squaring, floor: int, gain: Gain) -> QuantScale:
        """The node that makes the scales of a token's codes, behind the trees that find its largest
        magnitudes."""
        bits, root = self.formats.scheme.value_bits, self.formats.root_type(norm)
        inputs = [*totals(source), presence(self.nodes)]
        inverses, scales, powers, shifts = [], [], {}, {}
        for value in gain.outputs:
            name = value.port
            top = self._max_tree(f"{norm}.max.{name}", gain.name, value)
            inputs.append(Input(f"max.{name}", top, "max", "broadcast"))
            seen = self.formats.ranges[f"{norm}.{name}.largest"]
            most = self.formats.room * 127 / smallest_seen(seen, WIDEST_RANGE)
            inverse = QType(bits, frac_for(most, bits))
            frac = value.qtype.frac
            scale = self.formats.value_type(f"{norm}.{name}", at_most=frac + root.frac)
            inverses.append(Output(f"inv.{name}", 1, inverse, unsigned=True))
            scales.append(Output(f"scale.{name}", 1, scale, unsigned=True))
            powers[name] = power_table(127 * 2.0 ** (frac + inverse.frac - ROOT_FRAC - 31), 32)
            shifts[name] = frac + root.frac - scale.frac
        node = QuantScale(
            f"{norm}.scale",
            1,
            tuple(inputs),
            (*inverses, *scales),
            floor,
            root_powers(source, root),
            self.formats.scheme.newton_steps,
            root,
            powers,
            shifts,
            source.squares.low_bits,
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
    *,
    calibrated: bool,
) -> tuple[tuple[Input, ...], Rescale]:
    """The inputs of one ternary product and how its sum becomes a value of `out`."""
    entry = Input(port, source.node, source.port, "ternary", matrix, calibrated=calibrated)
    if source.scale is None:
        return (entry,), Rescale(
            multiplier(weight_scale * 2.0 ** (out.frac - source.format.frac)), None
        )
    node, scale_port, format_ = source.scale
    reach = max(1, matrix.fullest) * source.format.high * format_.high
    shift = max(0, reach.bit_length() - 31)
    factor = multiplier(weight_scale / 127 * 2.0 ** (out.frac - format_.frac + shift))
    return (entry, Input(f"{port}.scale", node, scale_port, "broadcast")), Rescale(factor, shift)
