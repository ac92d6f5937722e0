"""Calibration sees everything that lowering gives a format, and its ranges contain what the model
does."""

from collections import defaultdict
from collections.abc import Callable
from dataclasses import replace

import numpy as np
import pytest

torch = pytest.importorskip("torch")

from torch import Tensor

from mmfree_kernels.float_model.calibrate import calibrate
from mmfree_kernels.float_model.evaluate import logits
from mmfree_kernels.float_model.model import Numerics, from_checkpoint
from mmfree_neuro.hgrn_bit.config import ModelConfig
from mmfree_neuro.hgrn_bit.lowering import lower
from mmfree_neuro.hgrn_bit.names import ternary_weights
from mmfree_neuro.hgrn_bit.norms import norms_of
from mmfree_neuro.lowering.scheme import SCHEMES, Range, Ranges, Scheme
from mmfree_neuro.model.checkpoint import Checkpoint
from mmfree_neuro.pipeline.text import windows_for

SMALL = ModelConfig(vocab_size=13, hidden_size=8, num_hidden_layers=2, intermediate_size=12)
SHAPES = {
    "default": SMALL,
    "expanded": replace(SMALL, use_lower_bound=False, expand_ratio=2),
    "tied": replace(SMALL, tie_word_embeddings=True, num_hidden_layers=3),
}
TOKENS = np.random.default_rng(1).integers(0, 13, (5, 9))


def random_checkpoint(config: ModelConfig) -> Checkpoint:
    draw = np.random.default_rng(0)
    centre = {1: 1.0, 2: 0.0}  # gains are around one, matrices and lower bounds around zero
    return Checkpoint(
        config,
        {
            n: (centre[len(s)] + 0.3 * draw.normal(size=s)).astype(np.float32)
            for n, s in config.shapes().items()
        },
    )


def seen(checkpoint: Checkpoint, scheme: Scheme) -> dict[str, Tensor]:
    """Every activation of the model over the tokens, by the tap's names: [windows · time, n]."""
    found: defaultdict[str, list[Tensor]] = defaultdict(list)

    def tap(name: str, value: Tensor) -> Tensor:
        found[name].append(value.flatten(0, 1))
        return value

    numerics = Numerics(tap=tap, quantise=scheme.activations == "per-token")
    logits(from_checkpoint(checkpoint), TOKENS, numerics)
    return {name: torch.cat(values) for name, values in found.items()}


def spans(found: Range, values: Tensor) -> bool:
    """Whether a range is that of one value per token."""
    return [found.low, found.high] == pytest.approx(
        [values.min().item(), values.max().item()], rel=1e-5
    )


def largest(values: Tensor) -> Tensor:
    """The largest magnitude per token."""
    return values.abs().amax(-1)


@pytest.mark.parametrize("shape", SHAPES)
@pytest.mark.parametrize("scheme", SCHEMES.values(), ids=SCHEMES)
def test_ranges_are_those_of_the_model(scheme: Scheme, shape: str) -> None:
    checkpoint = random_checkpoint(SHAPES[shape])
    ranges, values = calibrate(checkpoint, TOKENS, scheme, batch=2), seen(checkpoint, scheme)
    assert spans(ranges["head.y.sum"], largest(values["logits"]))
    for layer in range(checkpoint.config.num_hidden_layers):
        name = f"layers.{layer}"
        for port in "ifg":
            assert spans(ranges[f"{name}.attn.{port}.sum"], largest(values[f"{name}.attn.{port}"]))
        assert spans(ranges[f"{name}.h"], largest(values[f"{name}.attn.h"]))
        assert spans(ranges[f"{name}.mlp.y.sum"], largest(values[f"{name}.mlp.gate_up"]))
        assert spans(ranges[f"{name}.down.source"], largest(values[f"{name}.mlp.v"]))
    stream = torch.cat([values[name] for name in values if name.endswith(".x")])
    assert ranges["residual"].high >= stream.abs().max().item() * (1 - 1e-5)


@pytest.mark.parametrize("shape", SHAPES)
@pytest.mark.parametrize("scheme", SCHEMES.values(), ids=SCHEMES)
def test_one_root_of_the_weighted_squares_gives_what_both_norms_give(
    scheme: Scheme, shape: str
) -> None:
    """The ranges behind a norm, found by the identity, are those of the model's own BitLinear
    inputs."""
    checkpoint = random_checkpoint(SHAPES[shape])
    ranges, values = calibrate(checkpoint, TOKENS, scheme), seen(checkpoint, scheme)
    inputs = {"head.y": "lm_head.in"}
    for layer in range(checkpoint.config.num_hidden_layers):
        name = f"layers.{layer}"
        inputs |= {f"{name}.attn.{port}": f"{name}.attn.{port}_proj.in" for port in "ifg"}
        inputs |= {
            f"{name}.o.y": f"{name}.attn.o_proj.in",
            f"{name}.mlp.y": f"{name}.mlp.gate_proj.in",
        }
        inputs |= {f"{name}.down.y": f"{name}.mlp.down_proj.in"}
    for ours, models in inputs.items():
        found, true = ranges[ours], largest(values[models])
        assert [found.low, found.high] == pytest.approx(
            [true.min().item(), true.max().item()], rel=1e-4
        ), ours


def norm_names(checkpoint: Checkpoint) -> set[str]:
    names = set()
    for norm, gains in norms_of(checkpoint).items():
        names |= {f"{norm}.source", f"{norm}.inner", f"{norm}.mean_square"}
        names |= {f"{norm}.{port}{what}" for port in gains.outer for what in ("", ".largest")}
    return names


@pytest.mark.parametrize("shape", SHAPES)
@pytest.mark.parametrize("scheme", SCHEMES.values(), ids=SCHEMES)
def test_every_name_that_lowering_reads_is_there(scheme: Scheme, shape: str) -> None:
    checkpoint = random_checkpoint(SHAPES[shape])
    ranges = calibrate(checkpoint, TOKENS, scheme)
    layers = [f"layers.{n}" for n in range(checkpoint.config.num_hidden_layers)]
    sums = {
        f"{name}.{what}"
        for name in layers
        for what in (
            "attn.i.sum",
            "attn.f.sum",
            "attn.g.sum",
            "h",
            "mlp.y.sum",
            "o.y.sum",
            "down.y.sum",
        )
    }
    products = {f"{norm}.{port}" for norm, g in norms_of(checkpoint).items() for port in g.outer}
    folded = {f"{product}.folded" for product in products}
    assert set(ranges) == {"residual", "head.y.sum"} | sums | folded | norm_names(checkpoint)
    assert all(0 <= found.low <= found.high < float("inf") for found in ranges.values())
    assert all(ranges[f"{norm}.mean_square"].low > 0 for norm in norms_of(checkpoint))

    read: set[str] = set()

    class Watched(dict[str, Range]):
        def __getitem__(self, name: str) -> Range:
            read.add(name)
            return super().__getitem__(name)

    graph = lower(checkpoint, ternary_weights(checkpoint), Watched(ranges), scheme, "tiny")
    assert graph.scheme == scheme.name
    held = {f"{name}.{norm}.y.sum" for name in layers for norm in ("o", "down")}
    assert {"residual", "head.y.sum"} | (sums - held) <= read <= set(ranges)


@pytest.mark.parametrize("shape", SHAPES)
@pytest.mark.parametrize("scheme", SCHEMES.values(), ids=SCHEMES)
def test_packed_weights_give_the_same_ranges(scheme: Scheme, shape: str) -> None:
    checkpoint = random_checkpoint(SHAPES[shape])
    weights = ternary_weights(checkpoint)
    assert calibrate(checkpoint, TOKENS, scheme, weights=weights) == calibrate(
        checkpoint, TOKENS, scheme
    )


@pytest.mark.parametrize("batch", [1, 3, 8])
def test_ranges_do_not_depend_on_the_batch(batch: int) -> None:
    checkpoint = random_checkpoint(SMALL)
    one: Ranges = calibrate(checkpoint, TOKENS, SCHEMES["a16"], batch=5)
    other = calibrate(checkpoint, TOKENS, SCHEMES["a16"], batch=batch)
    assert one.keys() == other.keys()
    for name, found in one.items():
        assert [other[name].low, other[name].high] == pytest.approx(
            [found.low, found.high], rel=1e-5
        ), name


def test_more_text_only_widens_ranges() -> None:
    checkpoint = random_checkpoint(SMALL)
    few, many = (
        calibrate(checkpoint, tokens, SCHEMES["a16"], batch=1) for tokens in (TOKENS[:2], TOKENS)
    )
    for name, found in few.items():
        assert many[name].low <= found.low <= found.high <= many[name].high


def test_tokens_that_the_text_lacks_fit_the_residual_stream() -> None:
    checkpoint = random_checkpoint(SMALL)
    embeddings = checkpoint.tensors["model.embeddings.weight"].copy()
    embeddings[12] = 1000
    rare = Checkpoint(SMALL, {**checkpoint.tensors, "model.embeddings.weight": embeddings})
    assert calibrate(rare, TOKENS % 12, SCHEMES["a16"])["residual"].high == 1000


@pytest.mark.parametrize(
    ("ternary_weights", "windows"),
    [
        (1, (32, 16)),
        (5_000_000, (32, 16)),
        (43_000_000, (32, 16)),
        (100_000_000, (14, 7)),
        (341_049_344, (4, 2)),
        (2_619_473_920, (4, 2)),
    ],
)
def test_larger_models_get_fewer_windows(ternary_weights: int, windows: tuple[int, int]) -> None:
    assert windows_for(ternary_weights) == windows


@pytest.mark.slow
def test_the_stored_ranges_are_those_of_calibration(
    stored_ranges: dict[str, dict[str, Ranges]],
    random_checkpoint: Callable[[str], Checkpoint],
    random_tokens: Callable[[str], np.ndarray],
) -> None:
    """Versions of torch and kinds of CPU add up floats in other orders, which changes the last
    bits; with activations of 8 bits such a bit can round one to the code beside it."""
    for model, schemes in stored_ranges.items():
        for scheme, stored in schemes.items():
            fresh = calibrate(random_checkpoint(model), random_tokens(model), SCHEMES[scheme])
            assert list(fresh) == list(stored)
            near = 1e-5 if scheme == "a16" else 1e-2
            for name, seen in fresh.items():
                ends = (seen.low, seen.high), (stored[name].low, stored[name].high)
                assert np.isclose(*ends, rtol=near, atol=0).all(), (model, scheme, name)
