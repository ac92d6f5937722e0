"""The lowered graph means what the float model means."""

from collections.abc import Callable
from dataclasses import replace
from typing import Literal

import numpy as np
import pytest

from mmfree_neuro.errors import RangeError
from mmfree_neuro.graph.nodes import MLGRU, PRESENCE, ROOT, Graph, MaxAbs, Norm, QuantScale
from mmfree_neuro.graph.summary import summarise
from mmfree_neuro.hgrn_bit import lowering, norms
from mmfree_neuro.hgrn_bit.config import BITLINEAR_EPS, ModelConfig
from mmfree_neuro.hgrn_bit.names import ternary_weights
from mmfree_neuro.lowering.formats import low_bits
from mmfree_neuro.lowering.scheme import SCHEMES, Range, Ranges, Scheme
from mmfree_neuro.model.checkpoint import Checkpoint
from mmfree_neuro.pipeline import quality
from mmfree_neuro.run import reference
from mmfree_neuro.run.job import Job
from mmfree_sims import fast

SMALL = 1e-3, 1.0, 1e3
"""Spreads of what a norm reads: where its eps counts, and where it does not."""


def rms(x: np.ndarray, gain: np.ndarray, eps: float) -> np.ndarray:
    """The published norm, in float64."""
    return x / np.sqrt((x**2).mean() + eps) * gain


@pytest.mark.parametrize("spread", SMALL)
@pytest.mark.parametrize("eps", [1e-6, 1e-3])
def test_a_norm_behind_a_norm_is_one_norm(spread: float, eps: float) -> None:
    rng = np.random.default_rng(0)
    x, gain, inner = (
        rng.standard_normal(48) * spread,
        1 + rng.standard_normal(48),
        1 + 0.3 * rng.standard_normal(48),
    )
    gain, inner = gain.astype(np.float32), inner.astype(np.float32)
    norm = norms.double_norm(gain, eps, {"y": inner})
    assert norm.inner is not None
    found = x * norm.outer["y"] / np.sqrt(((x * norm.inner) ** 2).mean() + norm.floor)
    expected = rms(rms(x, gain, eps), inner, BITLINEAR_EPS)
    assert np.allclose(
        found, expected, rtol=1e-6, atol=0
    )  # the gains themselves are kept in float32
    wide = gain.astype(np.float64)
    exact = (
        x * wide * inner / np.sqrt((x**2 * (wide**2 + BITLINEAR_EPS)).mean() + eps * BITLINEAR_EPS)
    )
    assert np.allclose(exact, expected, rtol=1e-12, atol=0)


@pytest.mark.parametrize("spread", SMALL)
def test_a_norm_behind_the_recurrence_needs_no_root_of_its_own(
    spread: float, bounded_checkpoint: Checkpoint
) -> None:
    rng, eps = np.random.default_rng(1), bounded_checkpoint.config.rms_norm_eps
    g, swish = rng.standard_normal(64) * spread, rng.standard_normal(64)
    norm = norms.norms_of(bounded_checkpoint)["layers.1.o"]
    assert norm.inner is None
    gain, inner = (
        bounded_checkpoint.tensors[f"model.layers.1.attn.{name}.weight"].astype(np.float64)
        for name in ("g_norm", "o_proj.norm")
    )
    v = g * gain * swish
    found = v * norm.outer["y"] / np.sqrt((v**2 + BITLINEAR_EPS * g**2).mean() + norm.floor)
    expected = rms(rms(g, gain, eps) * swish, inner, BITLINEAR_EPS)
    assert np.allclose(found, expected, rtol=1e-12, atol=0)


def test_the_names_of_the_norms(bounded_checkpoint: Checkpoint) -> None:
    assert list(norms.norms_of(bounded_checkpoint)) == [
        "layers.0.attn",
        "layers.0.o",
        "layers.0.mlp",
        "layers.0.down",
        "layers.1.attn",
        "layers.1.o",
        "layers.1.mlp",
        "layers.1.down",
        "head",
    ]


def lowered(checkpoint: Checkpoint, tokens: np.ndarray, scheme: Scheme, name: str) -> Graph:
    """The graph of a checkpoint, calibrated on some tokens."""
    from mmfree_kernels.float_model.calibrate import calibrate

    return lowering.lower(
        checkpoint, ternary_weights(checkpoint), calibrate(checkpoint, tokens, scheme), scheme, name
    )


def error_of(checkpoint: Checkpoint, graph: Graph, tokens: np.ndarray, quantise: bool) -> float:
    """The mean difference of logits over their standard deviation, on tokens that were not
    calibrated on."""
    from mmfree_kernels.float_model import evaluate, model

    expected = evaluate.logits(
        model.from_checkpoint(checkpoint), tokens, model.Numerics(quantise=quantise)
    )
    found = fast.run(graph, quality.in_one_place(graph), Job(tokens)).logits * graph.logit_scale
    return float(np.abs(found - expected).mean() / expected.std())


@pytest.mark.usefixtures("needs_torch")
def test_static_16_bits_are_near_the_float_model(checkpoint: Checkpoint, a16: Graph) -> None:
    tokens = np.random.default_rng(8).integers(256, size=(2, 24))
    assert error_of(checkpoint, a16, tokens, quantise=False) < 0.005


@pytest.mark.usefixtures("needs_torch")
def test_8_bits_per_token_are_near_the_float_model(checkpoint: Checkpoint, a8: Graph) -> None:
    tokens = np.random.default_rng(8).integers(256, size=(2, 24))
    assert error_of(checkpoint, a8, tokens, quantise=True) < 0.03


def test_nothing_saturates_on_the_calibration_windows(
    a16: Graph, a8: Graph, tokens: np.ndarray
) -> None:
    for graph in (a16, a8):
        result = fast.run(graph, quality.in_one_place(graph), Job(tokens))
        assert result.prefill.saturations.sum() == 0


def test_the_nodes_of_a_block(a16: Graph, a8: Graph) -> None:
    kinds = [
        "attn.rms",
        "attn.norm",
        "mlgru",
        "o.rms",
        "o.norm",
        "o_proj",
        "mlp.rms",
        "mlp.norm",
        "glu",
        "down.rms",
        "down.norm",
        "down_proj",
    ]
    blocks = [f"layers.{layer}.{kind}" for layer in range(2) for kind in kinds]
    assert [node.name for node in a16.nodes] == [
        "embedding",
        *blocks,
        "head.rms",
        "head.norm",
        "head",
    ]
    assert sum(isinstance(node, QuantScale) for node in a8.nodes) == 9
    # 64 and 128 values in groups of 62: two levels each.
    assert sum(isinstance(node, MaxAbs) for node in a8.nodes) == 2 * (2 * (3 + 1 + 1 + 1) + 1)


@pytest.mark.parametrize("scheme", ["a14-late", "a16-late"])
def test_the_nodes_of_a_block_with_roots_after_products(
    scheme: str, random_graph: Callable[[str, str], Graph]
) -> None:
    """No node multiplies by a root before a product: all that read a sum multiply it."""
    graph = random_graph("lower-bounds", scheme)
    norms = [
        f"layers.{layer}.{norm}" for layer in range(2) for norm in ("attn", "o", "mlp", "down")
    ]
    for norm in (*norms, "head"):
        readers = {
            node.name: entry.port
            for node in graph.nodes
            for entry in node.inputs
            if (entry.source, entry.source_port) == (f"{norm}.rms", "r") and entry.port != PRESENCE
        }
        products = {
            node.name
            for node in graph.nodes
            for entry in node.inputs
            if entry.source == f"{norm}.gain"
        }
        assert readers == dict.fromkeys(products, ROOT)
    assert not any(isinstance(node, Norm) for node in graph.nodes)


def test_steps_of_a_block(random_graph: Callable[[str, str], Graph]) -> None:
    found = {
        scheme: summarise(random_graph("lower-bounds", scheme)).steps_per_block
        for scheme in ("a14", "a16", "a8", "a14-late", "a16-late", "a14-local", "a16-local")
    }
    late, local = {"a14-late": 8, "a16-late": 8}, {"a14-local": 4, "a16-local": 4}
    assert found == {"a14": 12, "a16": 12, "a8": 20} | late | local


@pytest.mark.usefixtures("needs_torch")
@pytest.mark.parametrize("scheme", ["a14", "a16"])
def test_roots_after_products_are_near_the_float_model(
    scheme: str, checkpoint: Checkpoint, tokens: np.ndarray
) -> None:
    late = lowered(checkpoint, tokens, SCHEMES[scheme], "late")
    others = np.random.default_rng(8).integers(256, size=(2, 24))
    assert error_of(checkpoint, late, others, quantise=False) < 0.005


def test_lower_bounds_begin_behind_the_first_block(checkpoint: Checkpoint, a16: Graph) -> None:
    first, second = (node for node in a16.nodes if isinstance(node, MLGRU))
    assert first.bounds is None
    if checkpoint.config.use_lower_bound:
        assert second.bounds is not None
        model = pytest.importorskip("mmfree_kernels.float_model.model")
        expected = model.from_checkpoint(checkpoint).lower_bounds()[1].detach().numpy()
        assert np.abs(second.bounds / 2**20 - expected).max() < 2**-19
    else:
        assert second.bounds is None


@pytest.mark.usefixtures("needs_torch")
@pytest.mark.parametrize("expand", [2, 0.5])
def test_a_state_of_another_width(expand: float, tokens: np.ndarray) -> None:
    from mmfree_kernels.float_model import model

    fresh = model.HGRNBitModel(
        ModelConfig(
            vocab_size=256,
            hidden_size=64,
            num_hidden_layers=1,
            use_lower_bound=False,
            intermediate_size=96,
            expand_ratio=expand,
        )
    )
    fresh.initialise(0)
    checkpoint = model.to_checkpoint(fresh)
    graph = lowered(checkpoint, tokens, SCHEMES["a16"], "wide")
    assert next(n for n in graph.nodes if isinstance(n, MLGRU)).size == 64 * expand
    assert error_of(checkpoint, graph, tokens[:1], quantise=False) < 0.01
    job = Job(tokens[:1, :5])
    placed = quality.in_one_place(graph)
    assert np.array_equal(
        fast.run(graph, placed, job).logits, reference.run(graph, placed, job).logits
    )


@pytest.mark.usefixtures("needs_torch")
def test_a_tied_head(tokens: np.ndarray) -> None:
    from mmfree_kernels.float_model import model

    config = ModelConfig(
        vocab_size=256,
        hidden_size=64,
        num_hidden_layers=1,
        intermediate_size=96,
        tie_word_embeddings=True,
    )
    fresh = model.HGRNBitModel(config)
    fresh.initialise(0)
    checkpoint = model.to_checkpoint(fresh)
    graph = lowered(checkpoint, tokens, SCHEMES["a16"], "tied")
    assert error_of(checkpoint, graph, tokens[:1], quantise=False) < 0.01


@pytest.mark.parametrize(("low", "high"), [(0.0, float("inf")), (float("nan"), 1.0)])
def test_ranges_are_finite(low: float, high: float, bounded_checkpoint: Checkpoint) -> None:
    with pytest.raises(RangeError) as error:
        weights = ternary_weights(bounded_checkpoint)
        lowering.lower(
            bounded_checkpoint, weights, {"residual": Range(low, high)}, SCHEMES["a16"], "tiny"
        )
    assert str(error.value) == f"residual: calibration measured {low} … {high}, must be finite"


def with_stored_ranges(checkpoint: Checkpoint, ranges: Ranges, scheme: Scheme) -> Graph:
    """The graph of a checkpoint in a scheme whose activations are static."""
    return lowering.lower(checkpoint, ternary_weights(checkpoint), ranges, scheme, "tiny")


@pytest.fixture
def ranges(stored_ranges: dict[str, dict[str, Ranges]]) -> Ranges:
    """Those of the random model with lower bounds."""
    return stored_ranges["lower-bounds"]["a16"]


A14, A16 = (replace(SCHEMES[name], root="before") for name in ("a14", "a16"))


def test_squares_fit_the_accumulator(bounded_checkpoint: Checkpoint, ranges: Ranges) -> None:
    narrow = replace(A16, accumulator_bits=6)
    with pytest.raises(RangeError) as error:
        with_stored_ranges(bounded_checkpoint, ranges, narrow)
    assert str(error.value) == "layers.0.attn: the sum of 64 squares does not fit 6 bits"


@pytest.mark.parametrize("bits", [16, 20, 24])
def test_narrow_accumulators_narrow_the_activations(
    bits: int, bounded_checkpoint: Checkpoint, ranges: Ranges
) -> None:
    scheme = replace(A16, accumulator_bits=bits, value_bits=bits)
    graph = with_stored_ranges(bounded_checkpoint, ranges, scheme)
    assert graph.accumulator_bits == bits
    assert graph.node("head.norm").outputs[0].qtype.bits < 16 or bits == 24


def test_24_bits_hold_all_that_16_bit_activations_send(
    bounded_checkpoint: Checkpoint, stored_ranges: dict[str, dict[str, Ranges]], tokens: np.ndarray
) -> None:
    """Where all sums are proved, activations have 16 bits, and two digits of a square are all of
    it: so the bits are those of `a16`."""
    graphs = [
        with_stored_ranges(bounded_checkpoint, stored_ranges["lower-bounds"]["a16"], SCHEMES[name])
        for name in ("a14", "a16")
    ]
    narrow, wide = (fast.run(g, quality.in_one_place(g), Job(tokens)) for g in graphs)
    assert np.array_equal(narrow.logits, wide.logits)
    outputs = [output for node in graphs[0].nodes for output in node.outputs]
    assert max(output.qtype.bits for output in outputs) == graphs[0].accumulator_bits == 24
    assert [o.port for o in graphs[0].embedding.outputs] == ["x", "sq", "sq.low", "here"]
    assert [o.port for o in graphs[1].embedding.outputs] == ["x", "sq", "here"]


@pytest.mark.parametrize(
    ("size", "high", "floor", "limit", "low"),
    [
        (256, 2**23 - 1, 1, 2**31 - 1, 0),
        (256, 2**23 - 1, 1, 2**23 - 1, 15),
        (1024, 2**21 - 1, 1, 2**23 - 1, 13),
        (2816, 2**19 - 1, 1, 2**23 - 1, 11),
        (1, 2**23 - 1, 1, 2**23 - 1, 22),  # as the floor does not fit beside it
        (2, 3, 1, 3, 1),
        (2, 7, 1, 3, None),
    ],
)
def test_digits_of_squares_by_hand(
    size: int, high: int, floor: int, limit: int, low: int | None
) -> None:
    assert low_bits(size, high, floor, limit) == low


@pytest.mark.parametrize(
    ("bits", "activations", "calibrated"), [(24, 16, False), (21, 15, False), (19, 14, True)]
)
def test_activations_are_as_wide_as_is_proved_and_then_as_calibration_allows(
    bits: int,
    activations: int,
    calibrated: bool,
    bounded_checkpoint: Checkpoint,
    stored_ranges: dict[str, dict[str, Ranges]],
) -> None:
    scheme = replace(A14, accumulator_bits=bits, value_bits=min(bits, 24))
    ranges = stored_ranges["lower-bounds"]["a14"]
    graph = with_stored_ranges(bounded_checkpoint, ranges, scheme)
    assert graph.node("layers.0.attn.norm").outputs[0].qtype.bits == activations
    assert ("i" in graph.node("layers.0.mlgru").calibrated) == calibrated


@pytest.mark.parametrize(
    ("root", "node", "seen_as"), [("before", "norm", "sum"), ("after", "gain", "folded")]
)
def test_a_sum_that_calibration_saw_leaves_room(
    root: Literal["before", "after"],
    node: str,
    seen_as: str,
    bounded_checkpoint: Checkpoint,
    stored_ranges: dict[str, dict[str, Ranges]],
) -> None:
    """Twice the largest sum that was seen fits the accumulator, and with a bit more it would not:
    a sum four times as large costs two bits."""
    scheme = replace(A14, accumulator_bits=17, value_bits=17, root=root)
    ranges = dict(stored_ranges["lower-bounds"]["a14"])
    name, weight = (
        f"layers.0.o.y.{seen_as}",
        ternary_weights(bounded_checkpoint)["model.layers.0.attn.o_proj.weight"],
    )
    limit, found = 2**16 - 1, []
    frac = with_stored_ranges(bounded_checkpoint, ranges, scheme).node(f"layers.0.o.{node}")
    step = weight.scale * 2.0 ** -frac.outputs[0].qtype.frac
    for seen in (limit / 2, limit / 2 + 1, 2 * limit):
        ranges[name] = Range(0.0, seen * step)
        graph = with_stored_ranges(bounded_checkpoint, ranges, scheme)
        found.append(graph.node(f"layers.0.o.{node}").outputs[0].qtype.bits)
    assert found == [14, 13, 12]
