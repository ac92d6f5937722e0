"""Lowers a checkpoint to a graph of integer operations.

Two norms in a row need only one root.  With x the residual stream, g the gains of the block's norm,
w those inside the BitLinear and N the width, the published double norm is, exactly,

    RMS(RMS(x, g, e1), w, e2) = x · g · w / sqrt( Σ x² (g² + e2) / N + e1 · e2 )

so one weighted sum of squares and one inverse root serve both, for any gains.  Behind the MLGRU,
whose output is RMS(g, n, e1) · s = r · v with v = g · n · s and r a scalar of the token, the same
step gives

    RMS(r · v, w, e2) = v · w / sqrt( Σ (v² + e2 · g²) / N + e1 · e2 )

so the root of the inner norm is never taken.

A root r is one number of a token, and a ternary product T is linear, so with u = x · g · w

    T (r · u) = r · (T u)

and a product can begin with u before r is known (`Scheme.root` "after"): the neurons that read the
sum multiply it by r.  Then a block takes 8 steps, with the root before the product 12.
"""

import math
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass, field

import numpy as np
from numpy.typing import NDArray

from mmfree_neuro.errors import RangeError
from mmfree_neuro.graph.nodes import (
    GLU,
    MLGRU,
    AnyNode,
    Embedding,
    Graph,
    Head,
    Input,
    Output,
    Rescale,
    Residual,
)
from mmfree_neuro.graph.steps import delayed
from mmfree_neuro.graph.verify import verify
from mmfree_neuro.hgrn_bit.config import BITLINEAR_EPS, ModelConfig
from mmfree_neuro.hgrn_bit.norms import norms_of
from mmfree_neuro.integers.fixedpoint import Ints, QType, frac_for, multiplier, quantise
from mmfree_neuro.integers.tables import GATE_FRAC, sigmoid_table
from mmfree_neuro.integers.ternary import TernaryMatrix
from mmfree_neuro.lowering.formats import SQUARE_BITS, Formats, integer_gain
from mmfree_neuro.lowering.norms import Norms, Source, Squaring, presence, ternary_product, together
from mmfree_neuro.lowering.scheme import Range, Ranges, Scheme
from mmfree_neuro.lowering.ternarise import TernaryWeight, TernaryWeights
from mmfree_neuro.model.checkpoint import Checkpoint

EMBEDDING_SCALE_BITS = 20
WIDE_EMBEDDING = 1 << 24
"""Entries up to which an embedding table has 16-bit codes."""


@dataclass
class _Lowering:
    checkpoint: Checkpoint[ModelConfig]
    weights: TernaryWeights
    formats: Formats
    nodes: list[AnyNode] = field(default_factory=list)

    def norm(
        self,
        norm: str,
        source: Squaring,
        port: str,
        floor: int,
        consumers: Mapping[str, TernaryWeight],
    ) -> dict[str, Source]:
        """The nodes of one norm of source.port; where each consumer's matrix reads."""
        return Norms(self.formats, self.nodes).of(norm, source, port, floor, consumers)

    def product(
        self, port: str, source: Source, matrix: TernaryMatrix, scale: float, out: QType
    ) -> tuple[tuple[Input, ...], Rescale]:
        """The inputs of one ternary product and how its sum becomes a value of `out`."""
        calibrated = self.formats.is_calibrated(matrix, source.format)
        limit = self.formats.limit
        return ternary_product(port, source, matrix, scale, out, limit, calibrated=calibrated)

    def residual(
        self, name: str, x: AnyNode, source: Source, weight: TernaryWeight, next_norm: str
    ) -> tuple[Residual, int]:
        """The node that adds a projection to the residual stream."""
        x_out = x.output("x")
        inputs, rescale = self.product("y", source, weight.parts[0], weight.scale, x_out.qtype)
        squares, sq, floor = self.formats.squares(next_norm, x.size, x_out.qtype)
        node = Residual(
            name,
            x.size,
            (Input("x", x.name, "x", "aligned"), *inputs),
            (x_out, *sq),
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
        formats = {p: self.formats.value_type(f"{name}.attn.{p}.sum") for p in "ifg"}
        state = self.formats.value_type(
            f"{name}.h", bits=self.formats.scheme.state_bits, at_most=GATE_FRAC + formats["i"].frac
        )
        gains, gain_frac = integer_gain(
            self.checkpoint.tensors[f"model.layers.{layer}.attn.g_norm.weight"]
        )
        v = self.formats.value_type(f"{name}.o.source", at_most=formats["g"].frac + state.frac)
        squares, sq, floor = self.formats.squares(f"{name}.o", size, v)
        g_frac = min(
            formats["g"].frac,
            frac_for(
                self.formats.room * self.formats.ranges[f"{name}.attn.g.sum"].high, SQUARE_BITS
            ),
        )
        whole = squares.whole(sq[0].qtype)
        eps_factor = BITLINEAR_EPS * 2.0 ** (whole.frac - 2 * g_frac + 15)
        eps = multiplier(eps_factor) if eps_factor * 2**15 >= 0.5 else None
        inputs: tuple[Input, ...] = ()
        rescale = {}
        for p in "ifg":
            added, rescale[p] = self.product(
                p, sources[p], weights[p].parts[0], weights[p].scale, formats[p]
            )
            inputs = together(inputs, added)
        if not any(source.scale and source.scale.shared for source in sources.values()):
            inputs += (presence(self.nodes),)
        node = MLGRU(
            f"{name}.mlgru",
            size,
            inputs,
            (Output("v", size, v), *sq),
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
        gate_type = self.formats.value_type(f"{name}.mlp.y.sum")
        gate, rescale = self.product("gate", source, gate_matrix, scale, gate_type)
        up, up_rescale = self.product("up", source, up_matrix, scale, gate_type)
        v = self.formats.value_type(f"{name}.down.source", at_most=2 * gate_type.frac)
        squares, sq, floor = self.formats.squares(f"{name}.down", size, v)
        node = GLU(
            f"{name}.glu",
            size,
            together(gate, up),
            (Output("v", size, v), *sq),
            {"gate": rescale, "up": up_rescale},
            gate_type,
            2 * gate_type.frac - v.frac,
            squares,
        )
        self.nodes.append(node)
        return node, floor

    def block(self, layer: int, x: Squaring, floor: int, next_norm: str) -> tuple[Residual, int]:
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
        bits = self.formats.scheme.embedding_bits or (16 if table.size <= WIDE_EMBEDDING else 8)
        high = QType(bits, 0).high
        largest = np.array([np.abs(row).max() for row in table], np.float64)
        scale_bits = min(EMBEDDING_SCALE_BITS, self.formats.scheme.accumulator_bits)
        shift = max(0, frac_for(float(largest.max()) / high * 2.0**x.frac, scale_bits))
        scales = quantise(largest / high * 2.0**x.frac, QType(scale_bits, shift))
        codes = np.zeros(table.shape, np.int8 if bits == 8 else np.int16)
        for token, row in enumerate(table):
            if scales[token]:
                natural = float(scales[token]) * 2.0 ** (-shift - x.frac)
                codes[token] = np.clip(np.rint(row / natural), -high, high)
        return codes, scales, shift

    def run(self, name: str) -> Graph:
        """The whole graph."""
        config = self.checkpoint.config
        x_type = self.formats.value_type("residual")
        squares, sq, floor = self.formats.squares("layers.0.attn", config.hidden_size, x_type)
        codes, scales, shift = self.embedding(x_type)
        x: Squaring = Embedding(
            "embedding",
            config.hidden_size,
            (),
            (
                Output("x", config.hidden_size, x_type),
                *sq,
                Output("here", config.hidden_size, QType(2, 0), unsigned=True),
            ),
            codes,
            scales,
            shift,
            squares,
        )
        self.nodes.append(x)
        for layer in range(config.num_hidden_layers):
            last = layer + 1 == config.num_hidden_layers
            with _named(f"layers.{layer}"):
                x, floor = self.block(
                    layer, x, floor, "head" if last else f"layers.{layer + 1}.attn"
                )
        weight = self.weights["lm_head.weight"]
        source = self.norm("head", x, "x", floor, {"y": weight})["y"]
        logits = self.formats.value_type("head.y.sum")
        inputs, rescale = self.product("y", source, weight.parts[0], weight.scale, logits)
        self.nodes.append(
            Head(
                "head",
                config.vocab_size,
                inputs,
                (Output("logits", config.vocab_size, logits),),
                {"y": rescale},
            )
        )
        table_ = sigmoid_table(self.formats.scheme.log2_sigmoid_segments)
        return Graph(
            name,
            self.formats.scheme.name,
            delayed(self.nodes),
            table_,
            self.formats.scheme.accumulator_bits,
            config.num_hidden_layers,
            config.bos_token_id,
            {},
            eos=config.eos,
        )


@contextmanager
def _named(block: str) -> Iterator[None]:
    """What does not fit inside is said together with the block that it is of."""
    try:
        yield
    except RangeError as error:
        if str(error).startswith("layers."):
            raise
        raise RangeError(f"{block}: {error}") from None


def _check_ranges(ranges: Mapping[str, Range]) -> None:
    """A RangeError where calibration measured something that is not finite."""
    for name, measured in ranges.items():
        if not math.isfinite(measured.high) or not math.isfinite(measured.low):
            raise RangeError(
                f"{name}: calibration measured {measured.low} … {measured.high}, must be finite"
            )


def lower(
    checkpoint: Checkpoint[ModelConfig],
    weights: TernaryWeights,
    ranges: Ranges,
    scheme: Scheme,
    name: str,
) -> Graph:
    """The verified graph of a checkpoint and its packed weights; `ranges` as
    `mmfree_kernels.float_model.calibrate` measures them.

    Raises RangeError where the scheme's widths cannot be proved to suffice.
    """
    _check_ranges(ranges)
    return verify(
        _Lowering(checkpoint, weights, Formats(ranges, scheme, norms_of(checkpoint))).run(name)
    )
