"""Norms as integer nodes: one weighted sum of squares and one inverse root for two norms in a
row."""

import math
from collections.abc import Mapping
from dataclasses import dataclass

from mmfree_neuro.graph.nodes import (
    AnyNode,
    Gain,
    Input,
    InverseRms,
    MaxAbs,
    Norm,
    Output,
    Quantise,
    QuantScale,
    Rescale,
)
from mmfree_neuro.integers.fixedpoint import Ints, QType, frac_for, multiplier
from mmfree_neuro.integers.tables import ROOT_FRAC, power_table
from mmfree_neuro.integers.ternary import TernaryMatrix
from mmfree_neuro.lowering.formats import WIDEST_RANGE, Formats, integer_gain, smallest_seen
from mmfree_neuro.lowering.ternarise import TernaryWeight

CODE = QType(8, 0)


MAX_ARITY = 32
"""How many accumulators a neuron that finds a maximum has."""


@dataclass(frozen=True)
class Source:
    """Where a ternary matrix reads: a node's port, and for per-token scales the scale's."""

    node: str
    port: str
    format: QType
    scale: tuple[str, str, QType] | None


def root_powers(size: int, squares: QType, root: QType) -> Ints:
    return power_table(
        math.sqrt(size) * 2.0 ** (squares.frac / 2 + root.frac - ROOT_FRAC - 15.5), 16
    )


@dataclass(frozen=True)
class Norms:
    """Adds the nodes of norms to a graph that is being made."""

    formats: Formats
    nodes: list[AnyNode]

    def of(
        self,
        norm: str,
        source: AnyNode,
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
        source: AnyNode,
        port: str,
        floor: int,
        consumers: Mapping[str, TernaryWeight],
    ) -> dict[str, Source]:
        size, x, sq = source.size, source.output(port).qtype, source.output("sq").qtype
        root = self.formats.root_type(norm)
        rms = InverseRms(
            f"{norm}.rms",
            1,
            (Input("total", source.name, "sq", "sum"),),
            (Output("r", 1, root, unsigned=True),),
            floor,
            root_powers(size, sq, root),
            self.formats.scheme.newton_steps,
        )
        pre_shift = x.bits + root.bits - 32
        t_frac = x.frac + root.frac - pre_shift
        gains, shifts, outputs = {}, {}, []
        for name, weight in consumers.items():
            integer, gain_frac = integer_gain(self.formats.norms[norm].outer[name])
            bits = self.formats.activation_bits(weight.fullest)
            y = self.formats.value_type(f"{norm}.{name}", bits=bits, at_most=t_frac + gain_frac)
            gains[name], shifts[name] = integer, t_frac + gain_frac - y.frac
            outputs.append(Output(name, size, y))
        inputs = (Input("x", source.name, port, "aligned"), Input("r", rms.name, "r", "broadcast"))
        node = Norm(f"{norm}.norm", size, inputs, tuple(outputs), pre_shift, gains, shifts)
        self.nodes.extend([rms, node])
        return {o.port: Source(node.name, o.port, o.qtype, None) for o in outputs}

    def _per_token(
        self,
        norm: str,
        source: AnyNode,
        port: str,
        floor: int,
        consumers: Mapping[str, TernaryWeight],
    ) -> dict[str, Source]:
        size, x, sq, bits = (
            source.size,
            source.output(port).qtype,
            source.output("sq").qtype,
            self.formats.scheme.value_bits,
        )
        gains, shifts, formats = {}, {}, {}
        for name in consumers:
            integer, gain_frac = integer_gain(self.formats.norms[norm].outer[name])
            formats[name] = self.formats.value_type(
                f"{norm}.{name}.largest", at_most=x.frac + gain_frac
            )
            gains[name], shifts[name] = integer, x.frac + gain_frac - formats[name].frac
        outputs = tuple(Output(name, size, formats[name]) for name in consumers)
        gain = Gain(
            f"{norm}.gain",
            size,
            (Input("x", source.name, port, "aligned"),),
            outputs,
            gains,
            shifts,
        )
        self.nodes.append(gain)
        tops = {
            name: self._max_tree(f"{norm}.max.{name}", gain.name, gain.output(name))
            for name in consumers
        }

        root = self.formats.root_type(norm)
        inverse, scale = {}, {}
        for name in consumers:
            seen = self.formats.ranges[f"{norm}.{name}.largest"]
            inverse[name] = QType(
                bits, frac_for(self.formats.room * 127 / smallest_seen(seen, WIDEST_RANGE), bits)
            )
            scale[name] = self.formats.value_type(
                f"{norm}.{name}", at_most=formats[name].frac + root.frac
            )
        scales = QuantScale(
            f"{norm}.scale",
            1,
            (
                Input("total", source.name, "sq", "sum"),
                *(Input(f"max.{name}", top, "max", "broadcast") for name, top in tops.items()),
            ),
            (
                *(Output(f"inv.{name}", 1, inverse[name], unsigned=True) for name in consumers),
                *(Output(f"scale.{name}", 1, scale[name], unsigned=True) for name in consumers),
            ),
            floor,
            root_powers(size, sq, root),
            self.formats.scheme.newton_steps,
            root,
            {
                n: power_table(
                    127 * 2.0 ** (formats[n].frac + inverse[n].frac - ROOT_FRAC - 31), 32
                )
                for n in consumers
            },
            {n: formats[n].frac + root.frac - scale[n].frac for n in consumers},
        )
        inputs = [Input(f"v.{name}", gain.name, name, "aligned") for name in consumers]
        inputs += [
            Input(f"inv.{name}", scales.name, f"inv.{name}", "broadcast") for name in consumers
        ]
        quantised = Quantise(
            f"{norm}.quantise",
            size,
            tuple(inputs),
            tuple(Output(name, size, CODE) for name in consumers),
            {name: formats[name].frac + inverse[name].frac for name in consumers},
        )
        self.nodes.extend([scales, quantised])
        return {
            n: Source(quantised.name, n, CODE, (scales.name, f"scale.{n}", scale[n]))
            for n in consumers
        }

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


def ternary_product(
    port: str, source: Source, matrix: TernaryMatrix, weight_scale: float, out: QType
) -> tuple[tuple[Input, ...], Rescale]:
    """The inputs of one ternary product and how its sum becomes a value of `out`."""
    entry = Input(port, source.node, source.port, "ternary", matrix)
    if source.scale is None:
        return (entry,), Rescale(
            multiplier(weight_scale * 2.0 ** (out.frac - source.format.frac)), None
        )
    node, scale_port, format_ = source.scale
    reach = max(1, matrix.fullest) * source.format.high * format_.high
    shift = max(0, reach.bit_length() - 31)
    factor = multiplier(weight_scale / 127 * 2.0 ** (out.frac - format_.frac + shift))
    return (entry, Input(f"{port}.scale", node, scale_port, "broadcast")), Rescale(factor, shift)
