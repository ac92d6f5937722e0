"""The float model computes what the published one does, whole, in pieces, padded, and backwards."""

import hashlib
import json
from collections.abc import Callable, Mapping
from itertools import pairwise
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from numpy.typing import NDArray

torch = pytest.importorskip("torch")

from torch import Tensor

from mmfree_kernels.float_model.evaluate import greedy, logits, nats
from mmfree_kernels.float_model.model import HGRNBitModel, Numerics, from_checkpoint, to_checkpoint
from mmfree_kernels.ops.bitlinear import naive as bitlinear
from mmfree_kernels.ops.mlgru.naive import recurrence
from mmfree_neuro.hgrn_bit.config import FAMILY, ModelConfig
from mmfree_neuro.lowering import ternarise
from mmfree_neuro.model.checkpoint import Checkpoint, read

GOLDEN = Path(__file__).parents[1] / "golden"
NAMES = ("a_h64_l2_v256", "trained")
LIMIT = 1e-3
"""Of golden logits; the mildest real mistake, an eps of 1e-8 for 1e-6, moves one by 0.13."""

Load = Callable[[str], HGRNBitModel]


@pytest.fixture(scope="module")
def load() -> Load:
    """The model of a golden checkpoint."""
    models = {
        name: from_checkpoint(read(GOLDEN / name / "checkpoint", lambda _: {}, FAMILY))
        for name in NAMES
    }
    return models.__getitem__


def golden(name: str, what: str) -> NDArray[Any]:
    return np.load(GOLDEN / name / f"{what}.npy")


def largest_difference(found: Tensor | NDArray[Any], expected: Tensor | NDArray[Any]) -> float:
    a, b = (
        np.asarray(x.detach() if isinstance(x, Tensor) else x, np.float64)
        for x in (found, expected)
    )
    assert a.shape == b.shape
    return float(np.abs(a - b).max())


@pytest.mark.parametrize("name", NAMES)
def test_logits_are_the_published_ones(load: Load, name: str) -> None:
    assert (
        largest_difference(logits(load(name), golden(name, "inputs")), golden(name, "logits"))
        < LIMIT
    )


@torch.no_grad()
@pytest.mark.parametrize("name", NAMES)
@pytest.mark.parametrize(
    "cuts", [range(34), (0, 1, 8, 9, 31, 33), (0, 32, 33)], ids=["tokens", "chunks", "prompt"]
)
def test_any_cut_into_calls_gives_the_same_logits_and_state(
    load: Load, name: str, cuts: tuple[int, ...]
) -> None:
    model, tokens, state, pieces = load(name), torch.from_numpy(golden(name, "inputs")), None, []
    for start, stop in pairwise(cuts):
        piece, state = model(tokens[:, start:stop], state)
        pieces.append(piece)
    assert largest_difference(torch.cat(pieces, 1), golden(name, "logits")) < LIMIT
    assert state is not None
    expected = golden(name, "state")
    assert largest_difference(state, expected.reshape(*expected.shape[:2], -1)) < 1e-4


@torch.no_grad()
@pytest.mark.parametrize("name", NAMES)
def test_state_is_the_published_one(load: Load, name: str) -> None:
    expected = golden(name, "state")  # [layers, batch, heads, head_dim]
    _, state = load(name)(torch.from_numpy(golden(name, "inputs")))
    assert largest_difference(state, expected.reshape(*expected.shape[:2], -1)) < 1e-4


@torch.no_grad()
def test_a_call_leaves_the_state_it_was_given_alone(load: Load) -> None:
    model, tokens = load("trained"), torch.from_numpy(golden("trained", "inputs"))
    _, state = model(tokens[:, :5])
    kept = state.clone()
    model(tokens[:, 5:], state)
    assert torch.equal(state, kept)


@torch.no_grad()
def test_left_padding(load: Load) -> None:
    name = "a_h64_l2_v256"
    mask, tokens = golden(name, "padded_mask"), golden(name, "inputs")
    assert set(mask[:, 0]) == {0, 1}  # one row is padded, one is not
    found, state = load(name)(torch.from_numpy(tokens), mask=torch.from_numpy(mask))
    expected = golden(name, "padded_logits")
    assert largest_difference(found.numpy()[mask == 1], expected[mask == 1]) < LIMIT
    for row, seen in enumerate(mask.astype(bool)):
        alone, alone_state = load(name)(torch.from_numpy(tokens[row][seen])[None])
        assert largest_difference(found[row][seen], alone[0]) < LIMIT
        assert largest_difference(state[:, row], alone_state[:, 0]) < 1e-4


@pytest.mark.parametrize("name", NAMES)
def test_greedy_continuation_is_the_published_one(load: Load, name: str) -> None:
    assert np.array_equal(greedy(load(name), golden(name, "inputs"), 16), golden(name, "greedy"))


def test_loss_on_text_is_the_published_one(load: Load) -> None:
    expected = golden("trained", "eval_nll").astype(np.float64)
    found = nats(load("trained"), golden("trained", "eval_tokens").astype(np.int64))
    assert found.shape == (32, 256)
    assert abs(found.mean() - expected.mean()) < 2e-3
    assert np.abs(found - expected).mean() < 2e-3
    assert (np.abs(found - expected) < LIMIT).mean() > 0.8


@pytest.mark.parametrize("name", NAMES)
def test_ternary_codes_and_scales_are_the_published_ones(name: str) -> None:
    tensors = read(GOLDEN / name / "checkpoint", lambda _: {}, FAMILY).tensors
    expected = json.loads((GOLDEN / name / "ternary.json").read_text(encoding="utf-8"))
    assert set(expected) == {
        n for n in tensors if n.endswith("_proj.weight") or n == "lm_head.weight"
    }
    for matrix, entry in expected.items():
        by_torch, torch_scale = bitlinear.ternarise(torch.from_numpy(tensors[matrix]))
        by_numpy, numpy_scale = ternarise.ternarise(tensors[matrix])
        for codes in (by_torch.numpy().astype(np.int8), by_numpy):
            assert hashlib.sha256(codes.tobytes()).hexdigest() == entry["sha256"], matrix
        assert [torch_scale.item(), numpy_scale] == pytest.approx([entry["scale"]] * 2, rel=1e-6)


def test_ternarise_by_hand() -> None:
    codes, scale = bitlinear.ternarise(torch.tensor([[4.0, -1.0, 0.5], [-3.5, 1.5, 1.5]]))
    assert scale.item() == 2.0  # the mean magnitude
    assert codes.tolist() == [[1, 0, 0], [-1, 1, 1]]  # -1/2 and 1/4 round to even zero, 3/4 to one


def test_quantise_activations_by_hand() -> None:
    q, s = bitlinear.quantise_activations(torch.tensor([[0.5, -1.0, 0.25], [0.0, 0.0, 0.0]]))
    assert q.tolist() == [[64, -127, 32], [0, 0, 0]]
    assert s.tolist() == [[127.0], [pytest.approx(127e5)]]


def test_bit_product_by_hand() -> None:
    y, weight = (
        torch.tensor([[127.0, -50.2, 3.4]]),
        torch.tensor([[4.0, -1.0, 0.5], [-3.5, 1.5, 1.5]]),
    )
    assert bitlinear.bit_product(y, weight).tolist() == [[2 * 127, 2 * (-127 - 50 + 3)]]
    exact = bitlinear.bit_product(y, weight, quantise=False)
    assert exact.tolist()[0] == pytest.approx([2 * 127, 2 * (-127 - 50.2 + 3.4)])


def test_nothing_times_anything_is_nothing() -> None:
    zero, one = torch.zeros(2, 3), torch.ones(2, 3)
    assert torch.equal(bitlinear.bit_linear(zero, one, torch.ones(3)), torch.zeros(2, 2))
    assert torch.equal(bitlinear.bit_linear(one, zero, torch.ones(3)), torch.zeros(2, 2))


def test_recurrence_by_hand() -> None:
    f, c = torch.tensor([[[0.5], [0.25], [0.0]]]), torch.tensor([[[1.0], [2.0], [3.0]]])
    assert recurrence(f, c, torch.tensor([[4.0]])).flatten().tolist() == [3.0, 2.75, 3.0]


# A second, straightforward statement of the model, in float64 and differentiated by autograd.


def straight_through(exact: Tensor, quantised: Tensor) -> Tensor:
    return exact + (quantised - exact).detach()


class Plain:
    """The published equations, one after the other; `margin` is the least distance to a rounding
    boundary."""

    def __init__(self, config: ModelConfig, tensors: Mapping[str, NDArray[np.float32]]) -> None:
        self.config, self.margin = config, 0.5
        self.t = {n: torch.from_numpy(a).double().requires_grad_() for n, a in tensors.items()}

    def round(self, x: Tensor) -> Tensor:
        self.margin = min(self.margin, ((x - x.floor()) - 0.5).abs().min().item())
        return x.round()

    def product(self, y: Tensor, w: Tensor) -> Tensor:
        s = 127 / y.abs().amax(-1, keepdim=True).clamp(min=1e-5)
        m = w.abs().mean().clamp(min=1e-5)
        quantised, ternary = (
            self.round(y * s).clamp(-128, 127) / s,
            self.round(w / m).clamp(-1, 1) * m,
        )
        return straight_through(y, quantised) @ straight_through(w, ternary).T

    def rms(self, x: Tensor, gain: str, eps: float) -> Tensor:
        return x / ((x**2).mean(-1, keepdim=True) + eps).sqrt() * self.t[gain]

    def bit(self, x: Tensor, name: str, weight: str | None = None) -> Tensor:
        return self.product(
            self.rms(x, f"{name}.norm.weight", 1e-6), self.t[weight or f"{name}.weight"]
        )

    def mixer(self, n: Tensor, layer: int, name: str) -> Tensor:
        i, f, g = (self.bit(n, f"{name}.{p}_proj") for p in "ifg")
        f = f.sigmoid()
        if self.config.use_lower_bound and layer:
            p = self.t["model.lower_bounds"].softmax(0)
            bound = p[1 : layer + 1].sum(0)
            f = bound + (1 - bound) * f
        i = i * i.sigmoid() * (1 - f)
        h, states = torch.zeros_like(i[:, 0]), []
        for step in range(i.shape[1]):
            h = f[:, step] * h + i[:, step]
            states.append(h)
        state = torch.stack(states, 1)
        o = self.rms(g, f"{name}.g_norm.weight", self.config.rms_norm_eps) * state * state.sigmoid()
        return self.bit(o, f"{name}.o_proj")

    def logits(self, tokens: Tensor) -> Tensor:
        eps, x = self.config.rms_norm_eps, self.t["model.embeddings.weight"][tokens]
        for layer in range(self.config.num_hidden_layers):
            name = f"model.layers.{layer}"
            x = x + self.mixer(self.rms(x, f"{name}.attn_norm.weight", eps), layer, f"{name}.attn")
            u = self.bit(self.rms(x, f"{name}.mlp_norm.weight", eps), f"{name}.mlp.gate_proj")
            gate, up = (
                u[..., : self.config.intermediate_size],
                u[..., self.config.intermediate_size :],
            )
            x = x + self.bit(gate * gate.sigmoid() * up, f"{name}.mlp.down_proj")
        tied = "model.embeddings.weight" if self.config.tie_word_embeddings else None
        return self.bit(self.rms(x, "model.norm.weight", eps), "lm_head", tied)


SMALL = {"vocab_size": 11, "hidden_size": 8, "num_hidden_layers": 2, "intermediate_size": 12}
SHAPES = {
    "default": ModelConfig(**SMALL),
    "heads": ModelConfig(**SMALL, num_heads=4),
    "no lower bounds": ModelConfig(**SMALL, use_lower_bound=False),
    "expanded": ModelConfig(**SMALL, use_lower_bound=False, expand_ratio=2, num_heads=2),
    "tied": ModelConfig(**SMALL, tie_word_embeddings=True),
    "large eps": ModelConfig(**SMALL, rms_norm_eps=1e-2),
    "three layers": ModelConfig(**SMALL | {"num_hidden_layers": 3}),
}


def random_checkpoint(config: ModelConfig, seed: int) -> Checkpoint:
    draw = np.random.default_rng(seed)
    centre = {1: 1.0, 2: 0.0}  # gains are around one, matrices and lower bounds around zero
    return Checkpoint(
        config,
        {
            n: (centre[len(s)] + 0.5 * draw.normal(size=s)).astype(np.float32)
            for n, s in config.shapes().items()
        },
    )


def away_from_boundaries(
    config: ModelConfig,
) -> tuple[Checkpoint, NDArray[np.int64], Plain, Tensor]:
    """The first random checkpoint and tokens that float32 is sure to round as float64 does, and its
    plain logits."""
    for seed in range(1000):
        checkpoint = random_checkpoint(config, seed)
        tokens = np.random.default_rng(seed).integers(0, config.vocab_size, (2, 5))
        plain = Plain(config, checkpoint.tensors)
        expected = plain.logits(torch.from_numpy(tokens))
        if plain.margin > 5e-4:
            return checkpoint, tokens, plain, expected
    raise AssertionError("no seed is away from rounding boundaries")


@pytest.mark.parametrize("shape", SHAPES)
def test_other_shapes_and_their_gradients(shape: str) -> None:
    checkpoint, tokens, plain, expected = away_from_boundaries(SHAPES[shape])
    model = from_checkpoint(checkpoint)
    found, state = model(torch.from_numpy(tokens))
    assert largest_difference(found, expected) < 1e-4
    assert state.shape == (checkpoint.config.num_hidden_layers, 2, checkpoint.config.state_size)

    weight = torch.from_numpy(np.random.default_rng(0).normal(size=tuple(expected.shape)))
    (found * weight.float()).sum().backward()
    (expected * weight).sum().backward()
    gradients = {name: parameter.grad for name, parameter in model.named_parameters()}
    assert gradients.keys() == plain.t.keys()
    for name, gradient in gradients.items():
        true = plain.t[name].grad
        assert gradient is not None and true is not None
        assert largest_difference(gradient, true) < 1e-4 * max(1.0, true.abs().max().item()), name


@pytest.mark.parametrize("quantise", [True, False])
def test_gradients_of_the_product(quantise: bool) -> None:
    draw = np.random.default_rng(3)
    y, weight, out = (torch.from_numpy(draw.normal(size=s)) for s in ((2, 3, 6), (4, 6), (2, 3, 4)))
    single = [x.float().requires_grad_() for x in (y, weight)]
    (bitlinear.bit_product(*single, quantise=quantise) * out.float()).sum().backward()

    plain, double = Plain(SHAPES["default"], {}), [y.requires_grad_(), weight.requires_grad_()]
    s, m = 127 / y.detach().abs().amax(-1, keepdim=True), weight.detach().abs().mean()
    codes = plain.round(weight / m).clamp(-1, 1)
    xq = straight_through(y, plain.round(y * s) / s) if quantise else y
    (xq @ straight_through(weight, codes * m).T * out).sum().backward()
    assert plain.margin > 1e-3
    for found, true in zip(single, double, strict=True):
        assert found.grad is not None and true.grad is not None
        assert largest_difference(found.grad, true.grad) < 1e-5


@pytest.mark.parametrize("time", [1, 2, 7, 8, 33])
def test_gradients_of_the_recurrence(time: int) -> None:
    draw = np.random.default_rng(time)
    f, c, out = (torch.from_numpy(draw.uniform(low, 1, (2, time, 3))) for low in (0, -1, -1))
    initial = torch.from_numpy(draw.normal(size=(2, 3)))
    single = [x.float().requires_grad_() for x in (f, c, initial)]
    found = recurrence(*single)
    (found * out.float()).sum().backward()

    double = [x.requires_grad_() for x in (f, c, initial)]
    h, states = initial, []
    for step in range(time):
        h = f[:, step] * h + c[:, step]
        states.append(h)
    expected = torch.stack(states, 1)
    (expected * out).sum().backward()
    assert largest_difference(found, expected) < 1e-5
    for mine, true in zip(single, double, strict=True):
        assert mine.grad is not None and true.grad is not None
        assert largest_difference(mine.grad, true.grad) < 1e-5


def test_the_product_with_bfloat16_rounds_only_its_result() -> None:
    draw = np.random.default_rng(5)
    y, weight = (torch.from_numpy(draw.normal(size=s)).float() for s in ((4, 64), (32, 64)))
    exact = bitlinear.bit_product(y, weight)
    rounded = bitlinear.bit_product(y, weight, dtype=torch.bfloat16)
    assert torch.all((rounded - exact).abs() <= exact.abs() / 256 + 1e-6)


def test_a_model_goes_to_a_checkpoint_and_back(load: Load) -> None:
    stored = read(GOLDEN / "trained" / "checkpoint", lambda _: {}, FAMILY)
    again = to_checkpoint(load("trained"))
    assert again.config == stored.config
    assert list(again.tensors) == list(stored.tensors)
    assert all(np.array_equal(again.tensors[name], value) for name, value in stored.tensors.items())


def test_fresh_parameters_are_spread_as_the_published_code_spreads_them() -> None:
    config = ModelConfig(vocab_size=256, hidden_size=64, num_hidden_layers=2, intermediate_size=128)
    model = HGRNBitModel(config)
    model.initialise(seed=1)
    fresh = to_checkpoint(model).tensors
    reach = 2**-2.5 * (6 / (64 + 64)) ** 0.5
    for name in ("i_proj", "f_proj", "g_proj", "o_proj"):
        weight = fresh[f"model.layers.1.attn.{name}.weight"]
        assert 0.99 * reach < np.abs(weight).max() <= reach
    spreads = {
        "model.layers.0.mlp.gate_proj.weight": 0.02,
        "model.layers.1.mlp.down_proj.weight": 0.01,
    }
    for name, spread in (
        spreads | {"lm_head.weight": 0.02, "model.embeddings.weight": 0.02}
    ).items():
        assert fresh[name].std() == pytest.approx(spread, rel=0.05)
    assert all((value == 1).all() for name, value in fresh.items() if "norm" in name)
    assert (fresh["model.lower_bounds"] == 0).all()
    bounds = model.lower_bounds()
    assert bounds[0] is None and bounds[1] is not None
    assert bounds[1].tolist() == [0.5] * 64  # layer / layers at the start

    twin = HGRNBitModel(config)
    twin.initialise(seed=1)
    assert all(
        np.array_equal(fresh[name], value) for name, value in to_checkpoint(twin).tensors.items()
    )


def test_the_tap_sees_activations_and_may_replace_them(load: Load) -> None:
    names: list[str] = []

    def tap(name: str, value: Tensor) -> Tensor:
        names.append(name)
        return torch.zeros_like(value) if name == "logits" else value

    out = logits(load("a_h64_l2_v256"), golden("a_h64_l2_v256", "inputs"), Numerics(tap=tap))
    assert not out.any()
    block = "i_proj.in", "i", "f_proj.in", "f", "g_proj.in", "g", "h", "v", "o_proj.in", "o", "x"
    layer = [f"attn.{name}" for name in block]
    mixer = "gate_proj.in", "gate_up", "v", "down_proj.in", "down", "x"
    layer += [f"mlp.{name}" for name in mixer]
    layers = [f"layers.{n}.{name}" for n in range(2) for name in layer]
    assert names == ["embeddings.x", *layers, "lm_head.in", "logits"]
