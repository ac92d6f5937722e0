"""Lowers a checkpoint to a graph of integer operations.

Two norms in a row need only one root.  With x the residual stream, g the gains of the block's norm,
w those inside the BitLinear and N the width, the published double norm is, exactly,

    RMS(RMS(x, g, e1), w, e2) = x · g · w / sqrt( Σ x² (g² + e2) / N + e1 · e2 )

so one weighted sum of squares and one inverse root serve both, for any gains.  Behind the MLGRU,
whose output is RMS(g, n, e1) · s = r · v with v = g · n · s and r a scalar of the token, the same
step gives

    RMS(r · v, w, e2) = v · w / sqrt( Σ (v² + e2 · g²) / N + e1 · e2 )

so the root of the inner norm is never taken.
"""

import math
from collections.abc import Mapping
from dataclasses import dataclass, field

import numpy as np
from numpy.typing import NDArray

from mmfree_neuro.errors import RangeError
from mmfree_neuro.graph.nodes import (
    GLU,
    MLGRU,
    AnyNode,
    Embedding,
    Gain,
    Graph,
    Head,
    Input,
    InverseRms,
    MaxAbs,
    Norm,
    Output,
    Quantise,
    QuantScale,
    Rescale,
    Residual,
    Squares,
)
from mmfree_neuro.graph.verify import verify
from mmfree_neuro.hgrn_bit.config import BITLINEAR_EPS
from mmfree_neuro.hgrn_bit.norms import norms_of
from mmfree_neuro.integers.fixedpoint import Ints, QType, frac_for, multiplier, quantise
from mmfree_neuro.integers.tables import GATE_FRAC, ROOT_FRAC, power_table, sigmoid_table
from mmfree_neuro.integers.ternary import TernaryMatrix
from mmfree_neuro.lowering.formats import SQUARE_BITS, WIDEST_RANGE, integer_gain, smallest_seen
from mmfree_neuro.lowering.norms import CODE, MAX_ARITY, NormGains, Source, root_powers
from mmfree_neuro.lowering.scheme import Range, Ranges, Scheme
from mmfree_neuro.lowering.ternarise import TernaryWeight, TernaryWeights
from mmfree_neuro.model.checkpoint import Checkpoint

EMBEDDING_SCALE_BITS = 20
WIDE_EMBEDDING = 1 << 24
"""Entries up to which an embedding table has 16-bit codes."""


@dataclass
class _Lowering:
    checkpoint: Checkpoint
    weights: TernaryWeights
    ranges: Ranges
    scheme: Scheme
    norms: dict[str, NormGains]
    nodes: list[AnyNode] = field(default_factory=list)

    @property
    def room(self) -> float:
        return float(2.0**self.scheme.headroom_bits)

    def value_type(self, *names: str, bits: int | None = None, at_most: int = 62) -> QType:
        """A format that holds the calibrated ranges of these names with head room."""
        bits = bits or self.scheme.value_bits
        return QType(
            bits, min(at_most, frac_for(self.room * max(self.ranges[n].high for n in names), bits))
        )

    def squares(self, norm: str, size: int, source: QType) -> tuple[Squares, Output, int]:
        """How a node squares for a norm, its output of squares, and the norm's floor in their
        units."""
        gains = self.norms[norm]
        width = QType(
            SQUARE_BITS, frac_for(self.room * self.ranges[f"{norm}.inner"].high, SQUARE_BITS)
        )
        integer, gain_frac = (None, 0) if gains.inner is None else integer_gain(gains.inner)
        width = QType(SQUARE_BITS, min(width.frac, source.frac + gain_frac))
        limit = (1 << (self.scheme.accumulator_bits - 1)) - 1
        for bits in range(min(self.scheme.value_bits, 31), 1, -1):
            square_shift = max(0, 2 * (SQUARE_BITS - 1) - (bits - 1))
            frac = 2 * width.frac - square_shift
            floor = max(1, round(gains.floor * size * 2.0**frac))
            if size * QType(bits, frac).high + floor <= limit:
                output = Output("sq", size, QType(bits, frac), unsigned=True)
                return (
                    Squares(integer, source.frac + gain_frac - width.frac, width, square_shift),
                    output,
                    floor,
                )
        raise RangeError(
            f"{norm}: the sum of {size} squares does not fit {self.scheme.accumulator_bits} bits"
        )

    def root_type(self, norm: str) -> QType:
        """The format of a norm's inverse root: the smallest mean square seen, and head room below
        it."""
        smallest = smallest_seen(self.ranges[f"{norm}.mean_square"], WIDEST_RANGE**2)
        return QType(
            self.scheme.value_bits,
            frac_for(self.room / math.sqrt(smallest), self.scheme.value_bits),
        )

    def norm(
        self,
        norm: str,
        source: AnyNode,
        port: str,
        floor: int,
        consumers: Mapping[str, TernaryWeight],
    ) -> dict[str, Source]:
        """The nodes of one norm of source.port; where each consumer's matrix reads."""
        if self.scheme.activations == "static":
            return self.static_norm(norm, source, port, floor, consumers)
        return self.per_token_norm(norm, source, port, floor, consumers)

    def static_norm(
        self,
        norm: str,
        source: AnyNode,
        port: str,
        floor: int,
        consumers: Mapping[str, TernaryWeight],
    ) -> dict[str, Source]:
        size, x, sq = source.size, source.output(port).qtype, source.output("sq").qtype
        root = self.root_type(norm)
        rms = InverseRms(
            f"{norm}.rms",
            1,
            (Input("total", source.name, "sq", "sum"),),
            (Output("r", 1, root, unsigned=True),),
            floor,
            root_powers(size, sq, root),
            self.scheme.newton_steps,
        )
        pre_shift = x.bits + root.bits - 32
        t_frac = x.frac + root.frac - pre_shift
        gains, shifts, outputs = {}, {}, []
        for name, weight in consumers.items():
            integer, gain_frac = integer_gain(self.norms[norm].outer[name])
            bits = self.activation_bits(weight.fullest)
            y = self.value_type(f"{norm}.{name}", bits=bits, at_most=t_frac + gain_frac)
            gains[name], shifts[name] = integer, t_frac + gain_frac - y.frac
            outputs.append(Output(name, size, y))
        inputs = (Input("x", source.name, port, "aligned"), Input("r", rms.name, "r", "broadcast"))
        node = Norm(f"{norm}.norm", size, inputs, tuple(outputs), pre_shift, gains, shifts)
        self.nodes += [rms, node]
        return {o.port: Source(node.name, o.port, o.qtype, None) for o in outputs}

    def activation_bits(self, fullest: int) -> int:
        """The scheme's width, or the widest with which the fullest row's sum is sure to fit the
        accumulator."""
        limit, bits = (1 << (self.scheme.accumulator_bits - 1)) - 1, self.scheme.activation_bits
        while bits > 2 and fullest * ((1 << (bits - 1)) - 1) > limit:
            bits -= 1
        return bits

    def per_token_norm(
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
            self.scheme.value_bits,
        )
        gains, shifts, formats = {}, {}, {}
        for name in consumers:
            integer, gain_frac = integer_gain(self.norms[norm].outer[name])
            formats[name] = self.value_type(f"{norm}.{name}.largest", at_most=x.frac + gain_frac)
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
            name: self.max_tree(f"{norm}.max.{name}", gain.name, gain.output(name))
            for name in consumers
        }

        root = self.root_type(norm)
        inverse, scale = {}, {}
        for name in consumers:
            seen = self.ranges[f"{norm}.{name}.largest"]
            inverse[name] = QType(
                bits, frac_for(self.room * 127 / smallest_seen(seen, WIDEST_RANGE), bits)
            )
            scale[name] = self.value_type(f"{norm}.{name}", at_most=formats[name].frac + root.frac)
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
            self.scheme.newton_steps,
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
        self.nodes += [scales, quantised]
        return {
            n: Source(quantised.name, n, CODE, (scales.name, f"scale.{n}", scale[n]))
            for n in consumers
        }

    def max_tree(self, name: str, source: str, values: Output) -> str:
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

    def ternary(
        self, port: str, source: Source, matrix: TernaryMatrix, weight_scale: float, out: QType
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
        return (entry, Input(f"{port}.scale", node, scale_port, "broadcast")), Rescale(
            factor, shift
        )

    def residual(
        self, name: str, x: AnyNode, source: Source, weight: TernaryWeight, next_norm: str
    ) -> tuple[Residual, int]:
        """The node that adds a projection to the residual stream."""
        x_out = x.output("x")
        inputs, rescale = self.ternary("y", source, weight.parts[0], weight.scale, x_out.qtype)
        squares, sq, floor = self.squares(next_norm, x.size, x_out.qtype)
        node = Residual(
            name,
            x.size,
            (Input("x", x.name, "x", "aligned"), *inputs),
            (x_out, sq),
            {"y": rescale},
            squares,
        )
        self.nodes.append(node)
        return node, floor

    def mlgru(
        self, layer: int, sources: dict[str, Source], weights: dict[str, TernaryWeight]
    ) -> tuple[MLGRU, int]:
        """The recurrence of one block."""
        name, size = f"layers.{layer}", weights["i"].parts[0].rows
        formats = {p: self.value_type(f"{name}.attn.{p}.sum") for p in "ifg"}
        state = self.value_type(
            f"{name}.h", bits=self.scheme.state_bits, at_most=GATE_FRAC + formats["i"].frac
        )
        gains, gain_frac = integer_gain(
            self.checkpoint.tensors[f"model.layers.{layer}.attn.g_norm.weight"]
        )
        v = self.value_type(f"{name}.o.source", at_most=formats["g"].frac + state.frac)
        squares, sq, floor = self.squares(f"{name}.o", size, v)
        g_frac = min(
            formats["g"].frac,
            frac_for(self.room * self.ranges[f"{name}.attn.g.sum"].high, SQUARE_BITS),
        )
        eps_factor = BITLINEAR_EPS * 2.0 ** (sq.qtype.frac - 2 * g_frac + 15)
        eps = multiplier(eps_factor) if eps_factor * 2**15 >= 0.5 else None
        inputs: tuple[Input, ...] = ()
        rescale = {}
        for p in "ifg":
            added, rescale[p] = self.ternary(
                p, sources[p], weights[p].parts[0], weights[p].scale, formats[p]
            )
            inputs += added
        node = MLGRU(
            f"{name}.mlgru",
            size,
            inputs,
            (Output("v", size, v), sq),
            rescale,
            formats["i"],
            formats["f"],
            formats["g"],
            state,
            self.bounds(layer),
            gains,
            gain_frac,
            formats["g"].frac + state.frac - v.frac,
            squares,
            formats["g"].frac - g_frac,
            eps,
        )
        self.nodes.append(node)
        return node, floor

    def bounds(self, layer: int) -> Ints | None:
        """The forget gate's lower bounds of one block; none in the first."""
        if not self.checkpoint.config.use_lower_bound or layer == 0:
            return None
        raw = self.checkpoint.tensors["model.lower_bounds"].astype(np.float64)
        p = np.exp(raw - raw.max(0))
        p /= p.sum(0)
        return quantise(p[1 : layer + 1].sum(0), QType(GATE_FRAC + 2, GATE_FRAC))

    def glu(self, layer: int, source: Source) -> tuple[GLU, int]:
        """The gate of one block's channel mixer; gate and up are the two halves of one matrix with
        one scale."""
        name = f"layers.{layer}"
        weight = self.weights[f"model.layers.{layer}.mlp.gate_proj.weight"]
        (gate_matrix, up_matrix), scale, size = weight.parts, weight.scale, weight.parts[0].rows
        gate_type = self.value_type(f"{name}.gate_up")
        gate, rescale = self.ternary("gate", source, gate_matrix, scale, gate_type)
        up, up_rescale = self.ternary("up", source, up_matrix, scale, gate_type)
        v = self.value_type(f"{name}.down.source", at_most=2 * gate_type.frac)
        squares, sq, floor = self.squares(f"{name}.down", size, v)
        node = GLU(
            f"{name}.glu",
            size,
            gate + up,
            (Output("v", size, v), sq),
            {"gate": rescale, "up": up_rescale},
            gate_type,
            2 * gate_type.frac - v.frac,
            squares,
        )
        self.nodes.append(node)
        return node, floor

    def block(self, layer: int, x: AnyNode, floor: int, next_norm: str) -> tuple[Residual, int]:
        """All nodes of one block."""
        name, prefix = f"layers.{layer}", f"model.layers.{layer}."
        mixing = {p: self.weights[f"{prefix}attn.{p}_proj.weight"] for p in "ifgo"}
        gate, down = (
            self.weights[f"{prefix}mlp.gate_proj.weight"],
            self.weights[f"{prefix}mlp.down_proj.weight"],
        )
        sources = self.norm(f"{name}.attn", x, "x", floor, {p: mixing[p] for p in "ifg"})
        mixer, floor = self.mlgru(layer, sources, mixing)
        source = self.norm(f"{name}.o", mixer, "v", floor, {"y": mixing["o"]})["y"]
        x, floor = self.residual(f"{name}.o_proj", x, source, mixing["o"], f"{name}.mlp")
        glu, floor = self.glu(layer, self.norm(f"{name}.mlp", x, "x", floor, {"y": gate})["y"])
        source = self.norm(f"{name}.down", glu, "v", floor, {"y": down})["y"]
        return self.residual(f"{name}.down_proj", x, source, down, next_norm)

    def embedding(self, x: QType) -> tuple[NDArray[np.int8] | NDArray[np.int16], Ints, int]:
        """Codes, scales and shift of the embedding: each word's largest magnitude becomes the
        largest code."""
        table = self.checkpoint.tensors["model.embeddings.weight"]
        bits = self.scheme.embedding_bits or (16 if table.size <= WIDE_EMBEDDING else 8)
        high = QType(bits, 0).high
        largest = np.array([np.abs(row).max() for row in table], np.float64)
        shift = max(0, frac_for(float(largest.max()) / high * 2.0**x.frac, EMBEDDING_SCALE_BITS))
        scales = quantise(largest / high * 2.0**x.frac, QType(EMBEDDING_SCALE_BITS, shift))
        codes = np.zeros(table.shape, np.int8 if bits == 8 else np.int16)
        for token, row in enumerate(table):
            if scales[token]:
                natural = float(scales[token]) * 2.0 ** (-shift - x.frac)
                codes[token] = np.clip(np.rint(row / natural), -high, high)
        return codes, scales, shift

    def run(self, name: str) -> Graph:
        """The whole graph."""
        config = self.checkpoint.config
        x_type = self.value_type("residual")
        squares, sq, floor = self.squares("layers.0.attn", config.hidden_size, x_type)
        codes, scales, shift = self.embedding(x_type)
        x: AnyNode = Embedding(
            "embedding",
            config.hidden_size,
            (),
            (Output("x", config.hidden_size, x_type), sq),
            codes,
            scales,
            shift,
            squares,
        )
        self.nodes.append(x)
        for layer in range(config.num_hidden_layers):
            last = layer + 1 == config.num_hidden_layers
            x, floor = self.block(layer, x, floor, "head" if last else f"layers.{layer + 1}.attn")
        weight = self.weights["lm_head.weight"]
        source = self.norm("head", x, "x", floor, {"y": weight})["y"]
        logits = self.value_type("logits")
        inputs, rescale = self.ternary("y", source, weight.parts[0], weight.scale, logits)
        self.nodes.append(
            Head(
                "head",
                config.vocab_size,
                inputs,
                (Output("logits", config.vocab_size, logits),),
                {"y": rescale},
            )
        )
        table_ = sigmoid_table(self.scheme.log2_sigmoid_segments)
        return Graph(
            name,
            self.scheme.name,
            tuple(self.nodes),
            table_,
            self.scheme.accumulator_bits,
            config.num_hidden_layers,
            config.bos_token_id,
            {},
        )


def _check_ranges(ranges: Mapping[str, Range]) -> None:
    """A RangeError where calibration measured something that is not finite."""
    for name, measured in ranges.items():
        if not math.isfinite(measured.high) or not math.isfinite(measured.low):
            raise RangeError(
                f"{name}: calibration measured {measured.low} … {measured.high}, must be finite"
            )


def lower(
    checkpoint: Checkpoint, weights: TernaryWeights, ranges: Ranges, scheme: Scheme, name: str
) -> Graph:
    """The verified graph of a checkpoint and its packed weights; `ranges` as
    `mmfree_kernels.float_model.calibrate` measures them.

    Raises RangeError where the scheme's widths cannot be proved to suffice.
    """
    _check_ranges(ranges)
    return verify(_Lowering(checkpoint, weights, ranges, scheme, norms_of(checkpoint)).run(name))
