"""The model on fused halves computes what the plain one does, and its gradients are those of
float64.

The float64 statement below rounds where the model quantises.  A value next to a rounding boundary
may get another code in float32, so parameters are drawn until the nearest boundary is further away
than float32 can err.
"""

from collections.abc import Callable
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest

torch = pytest.importorskip("torch")
pytest.importorskip("triton")

import triton
from torch import Tensor
from torch.distributed.tensor import DTensor
from torch.nn import functional
from torch.utils.checkpoint import checkpoint

from mmfree_kernels.float_model.model import HGRNBitModel
from mmfree_kernels.ops.bitlinear import codes, product, rows
from mmfree_kernels.ops.glu import fused as glu
from mmfree_kernels.ops.loss import fused as cross_entropy
from mmfree_kernels.ops.mlgru import output, scan
from mmfree_kernels.training import captured, half_blocks, train
from mmfree_kernels.training.half_blocks import Recompute
from mmfree_kernels.training.ranks import Ranks, joined
from mmfree_kernels.training.sharded import divided
from mmfree_neuro.hgrn_bit.config import ModelConfig
from mmfree_neuro.model.corpus import of_bytes

# NumPy warns of the way in which Triton's interpreter makes loop bounds integers.
pytestmark = [
    pytest.mark.kernels,
    pytest.mark.filterwarnings("ignore:Conversion of an array with ndim:DeprecationWarning"),
]

CONFIG = ModelConfig(vocab_size=23, hidden_size=48, num_hidden_layers=2, intermediate_size=80)
ONE_LAYER = replace(CONFIG, num_hidden_layers=1)
CONFIGS = {
    "default": CONFIG,
    "expanded, no lower bounds": replace(
        ONE_LAYER, use_lower_bound=False, expand_ratio=2, num_heads=2
    ),
    "tied, large eps": replace(ONE_LAYER, tie_word_embeddings=True, rms_norm_eps=1e-2),
}
BATCH, TIME = 2, 3
Gradients = dict[str, Tensor]


def straight_through(exact: Tensor, quantised: Tensor) -> Tensor:
    return exact + (quantised - exact).detach()


class Exact:
    """The published equations in float64; `margin` is the least distance of a value to a rounding
    boundary."""

    def __init__(self, model: HGRNBitModel) -> None:
        self.model, self.config, self.margin = model, model.config, 0.5
        self.t = {n: p.detach().double().requires_grad_() for n, p in model.named_parameters()}

    def bit(self, x: Tensor, name: str, weight: str | None = None) -> Tensor:
        y, w = self.norm(x, f"{name}.norm", 1e-6), self.t[weight or f"{name}.weight"]
        s, m = 127 / y.abs().amax(-1, keepdim=True).clamp(min=1e-5), w.abs().mean().clamp(min=1e-5)
        self.margin = min(self.margin, ((y * s).frac().abs() - 0.5).abs().min().item())
        ternary = (w / m).round().clamp(-1, 1) * m
        return straight_through(y, (y * s).round() / s) @ straight_through(w, ternary).T

    def norm(self, x: Tensor, name: str, eps: float) -> Tensor:
        return x / (x.square().mean(-1, keepdim=True) + eps).sqrt() * self.t[f"{name}.weight"]

    def token_mixer(
        self, x: Tensor, layer: int, bound: Tensor | None, mask: Tensor | None, initial: Tensor
    ) -> tuple[Tensor, Tensor]:
        name, eps = f"model.layers.{layer}.attn", self.config.rms_norm_eps
        n = self.norm(x, f"model.layers.{layer}.attn_norm", eps)
        i, f, g = (self.bit(n, f"{name}.{p}_proj") for p in "ifg")
        f = f.sigmoid() if bound is None else bound + (1 - bound) * f.sigmoid()
        c = i * i.sigmoid() * (1 - f) * (1 if mask is None else mask[:, :, None])
        h, states = initial, []
        for step in range(x.shape[1]):
            h = f[:, step] * h + c[:, step]
            states.append(h)
        all_states = torch.stack(states, 1)
        o = self.norm(g, f"{name}.g_norm", eps) * all_states * all_states.sigmoid()
        return x + self.bit(o, f"{name}.o_proj"), h

    def channel_mixer(self, x: Tensor, layer: int) -> Tensor:
        name = f"model.layers.{layer}.mlp"
        n = self.norm(x, f"model.layers.{layer}.mlp_norm", self.config.rms_norm_eps)
        gate, up = self.bit(n, f"{name}.gate_proj").chunk(2, -1)
        return x + self.bit(gate * gate.sigmoid() * up, f"{name}.down_proj")

    def logits(self, tokens: Tensor, mask: Tensor | None = None) -> Tensor:
        x = self.t["model.embeddings.weight"][tokens]
        initial = x.new_zeros(len(tokens), self.config.state_size)
        for layer in range(self.config.num_hidden_layers):
            bound = None
            if self.config.use_lower_bound and layer:
                bound = self.t["model.lower_bounds"].softmax(0)[1 : layer + 1].sum(0)
            x, _ = self.token_mixer(x, layer, bound, mask, initial)
            x = self.channel_mixer(x, layer)
        tied = "model.embeddings.weight" if self.config.tie_word_embeddings else None
        return self.bit(self.norm(x, "model.norm", self.config.rms_norm_eps), "lm_head", tied)


def random_model(config: ModelConfig, seed: int, device: str) -> HGRNBitModel:
    """Gains are around one, matrices and lower bounds around zero."""
    generator, model = torch.Generator().manual_seed(seed), HGRNBitModel(config)
    with torch.no_grad():
        for parameter in model.parameters():
            centre = 1 if parameter.ndim == 1 else 0
            parameter.copy_(centre + 0.3 * torch.randn(parameter.shape, generator=generator))
    return model.to(device)


def draw(*shape: int, seed: int, device: str) -> Tensor:
    return torch.randn(shape, generator=torch.Generator().manual_seed(seed)).to(device)


def away_from_boundaries(
    config: ModelConfig, device: str, run: Callable[[Exact], Tensor]
) -> tuple[Exact, Tensor]:
    """The first random model that float32 is sure to round as float64 does, and what `run` gives of
    it."""
    for seed in range(200):
        exact = Exact(random_model(config, seed, device))
        result = run(exact)
        if exact.margin > 1e-4:
            return exact, result
    raise AssertionError("no seed is away from rounding boundaries")


def gradients(model: HGRNBitModel, loss: Tensor) -> Gradients:
    model.zero_grad()
    loss.backward()
    found = {name: p.grad.clone() for name, p in model.named_parameters() if p.grad is not None}
    assert all(
        found[name].dtype == p.dtype for name, p in model.named_parameters() if name in found
    )
    return found


def assert_close(found: Tensor, true: Tensor, what: str, bound: float = 2e-5) -> None:
    """To `bound` of the largest element, or of one where that is less."""
    assert found.shape == true.shape
    assert (found.double() - true).abs().max().item() <= bound * max(
        1.0, true.abs().max().item()
    ), what


def assert_gradients(found: Gradients, exact: Exact) -> None:
    true = {name: tensor.grad for name, tensor in exact.t.items() if tensor.grad is not None}
    assert found.keys() == true.keys()
    for name, gradient in found.items():
        assert_close(gradient, true[name], name)


MASK = torch.tensor([[0, 1, 1], [1, 1, 1]])


@pytest.mark.parametrize(("bounded", "masked"), [(False, False), (True, True)])
def test_token_mixer(device: str, bounded: bool, masked: bool) -> None:
    size = CONFIG.hidden_size
    inputs = [
        draw(*s, seed=n, device=device)
        for n, s in enumerate([(BATCH, TIME, size), (BATCH, size), (size,)])
    ]
    inputs[2] = inputs[2].sigmoid()
    out_weight, state_weight = (
        draw(BATCH, TIME, size, seed=5, device=device),
        draw(BATCH, size, seed=6, device=device),
    )
    mask = MASK.float().to(device) if masked else None
    double = [tensor.double().requires_grad_() for tensor in inputs]

    def run(exact: Exact) -> Tensor:
        x, initial, bound = double
        out, last = exact.token_mixer(x, 0, bound if bounded else None, mask, initial)
        return (out * out_weight).sum() + (last * state_weight).sum()

    exact, expected = away_from_boundaries(CONFIG, device, run)
    expected.backward()
    x, initial, bound = (tensor.requires_grad_() for tensor in inputs)
    block = exact.model.model.layers[0]
    out, last = half_blocks.token_mixer(block, x, bound if bounded else None, mask, initial)
    assert out.dtype == last.dtype == torch.float32
    loss = (out * out_weight).sum() + (last * state_weight).sum()
    assert_close(loss, expected, "loss")
    assert_gradients(gradients(exact.model, loss), exact)
    for mine, true in zip(inputs[: 3 if bounded else 2], double, strict=False):
        assert mine.grad is not None and true.grad is not None
        assert_close(mine.grad, true.grad, "inputs")


def test_channel_mixer(device: str) -> None:
    x = draw(BATCH, TIME, CONFIG.hidden_size, seed=1, device=device)
    weight, double = draw(*x.shape, seed=2, device=device), x.double().requires_grad_()
    exact, expected = away_from_boundaries(
        CONFIG, device, lambda e: (e.channel_mixer(double, 0) * weight).sum()
    )
    expected.backward()
    loss = (
        half_blocks.channel_mixer(exact.model.model.layers[0], x.requires_grad_()) * weight
    ).sum()
    assert_close(loss, expected, "loss")
    assert_gradients(gradients(exact.model, loss), exact)
    assert x.grad is not None and double.grad is not None
    assert_close(x.grad, double.grad, "x")


def text(device: str, time: int = TIME) -> tuple[Tensor, Tensor]:
    generator = torch.Generator().manual_seed(1)
    tokens = torch.randint(CONFIG.vocab_size, (BATCH, time + 1), generator=generator).to(device)
    return tokens[:, :-1], tokens[:, 1:]


@pytest.mark.parametrize("shape", CONFIGS)
def test_loss_and_its_gradients(device: str, shape: str) -> None:
    tokens, targets = text(device)
    targets = targets.clone()
    targets[0, 2] = -100
    exact, expected = away_from_boundaries(
        CONFIGS[shape],
        device,
        lambda e: functional.cross_entropy(e.logits(tokens).flatten(0, 1), targets.flatten()),
    )
    expected.backward()
    loss = half_blocks.forward_loss(exact.model, tokens, targets)
    assert loss.dtype == torch.float32 and loss.shape == ()
    assert_close(loss, expected, "loss")
    assert_gradients(gradients(exact.model, loss), exact)


@pytest.mark.slow
def test_logits_their_gradients_and_a_carried_state(device: str) -> None:
    tokens, mask = text(device)[0], MASK.to(device)
    weight = draw(BATCH, TIME, CONFIG.vocab_size, seed=3, device=device)
    exact, expected = away_from_boundaries(CONFIG, device, lambda e: e.logits(tokens, mask))
    (expected * weight).sum().backward()
    found, state = half_blocks.forward(exact.model, tokens, mask=mask)
    plain, plain_state = exact.model(tokens, mask=mask)
    assert found.dtype == state.dtype == torch.float32
    assert_close(found, expected, "logits", 1e-5)
    assert_close(found, plain, "the plain model's logits", 1e-5)
    assert_close(state, plain_state, "the plain model's state", 1e-5)
    assert_gradients(gradients(exact.model, (found * weight).sum()), exact)

    with torch.no_grad():
        first, middle = half_blocks.forward(exact.model, tokens[:, :2], mask=mask[:, :2])
        kept = middle.clone()
        second, last = half_blocks.forward(exact.model, tokens[:, 2:], middle)
    assert torch.equal(middle, kept)
    assert_close(torch.cat([first, second], 1), found, "logits in two calls", 1e-5)
    assert_close(last, state, "state after two calls", 1e-5)


@pytest.mark.slow
def test_what_is_recomputed_does_not_show(device: str) -> None:
    model, (tokens, targets) = random_model(ONE_LAYER, 0, device), text(device, 2)
    choices = Recompute(), Recompute(ifg=True), Recompute(gate_up=False)
    first, *others = (
        gradients(model, half_blocks.forward_loss(model, tokens, targets, recompute=r))
        for r in choices
    )
    for other in others:
        assert all(torch.equal(first[name], other[name]) for name in first)


@pytest.mark.slow
def test_checkpoints_do_not_show(device: str) -> None:
    model = random_model(CONFIG, 0, device)
    block, x = (
        model.model.layers[1],
        draw(1, 2, CONFIG.hidden_size, seed=0, device=device).requires_grad_(),
    )
    bound, initial = model.lower_bounds()[1], torch.zeros(1, CONFIG.state_size, device=device)

    def run(x: Tensor) -> Tensor:
        assert bound is not None
        out, _ = half_blocks.token_mixer(block, x, bound.detach(), None, initial)
        return half_blocks.channel_mixer(block, out).square().mean()

    plain = gradients(model, run(x))
    mine, x.grad = x.grad, None
    again = gradients(model, checkpoint(run, x, use_reentrant=False))
    assert mine is not None and x.grad is not None and torch.equal(mine, x.grad)
    assert plain.keys() == again.keys() and all(
        torch.equal(plain[name], again[name]) for name in plain
    )


def test_only_the_last_state_is_used(device: str) -> None:
    model, x = (
        random_model(ONE_LAYER, 0, device),
        draw(1, 2, CONFIG.hidden_size, seed=0, device=device),
    )
    initial = draw(1, CONFIG.hidden_size, seed=1, device=device).requires_grad_()
    _, last = half_blocks.token_mixer(model.model.layers[0], x, None, None, initial)
    found = gradients(model, last.sum())
    assert found["model.layers.0.attn.i_proj.weight"].any()
    assert not found["model.layers.0.attn.o_proj.weight"].any()
    assert initial.grad is not None and initial.grad.all()


@pytest.mark.parametrize("kind", ["autocast", "model"])
def test_bfloat16(device: str, kind: str) -> None:
    """Loss and gradients are near those of float32, in the types of the parameters."""
    model, (tokens, targets) = random_model(ONE_LAYER, 0, device), text(device)
    exact = functional.cross_entropy(model(tokens)[0].flatten(0, 1), targets.flatten())
    true, expected = gradients(model, exact), exact.item()
    if kind == "model":
        loss = half_blocks.forward_loss(model.bfloat16(), tokens, targets)
    else:
        loss = train.fused_loss(model, torch.cat([tokens, targets[:, -1:]], 1))
    assert loss.dtype == torch.float32
    assert loss.item() == pytest.approx(expected, rel=0.05)
    for name, gradient in gradients(model, loss).items():
        near = functional.cosine_similarity(gradient.float().flatten(), true[name].flatten(), 0)
        assert near.item() > 0.9, (name, near.item())


def test_no_length_is_compiled_for(device: str) -> None:
    if device == "cpu":
        pytest.skip("Triton's interpreter compiles nothing")
    modules = rows, product, codes, glu, cross_entropy, output, scan
    kernels = [
        kernel
        for m in modules
        for kernel in vars(m).values()
        if isinstance(kernel, triton.JITFunction)
    ]
    for kernel in kernels:
        kernel.device_caches.clear()  # what other tests compiled

    def compiled() -> dict[str, int]:
        return {
            kernel.__name__: len(kernel.device_caches[torch.cuda.current_device()][0])
            for kernel in kernels
        }

    model, counts = random_model(CONFIG, 0, device), []
    for time in (48, 47, 33, 64, 40):
        half_blocks.forward_loss(model, *text(device, time)).backward()
        counts.append(compiled())
    assert sum(counts[0].values()) > 10
    assert [{k: n for k, n in count.items() if n != counts[0][k]} for count in counts] == [{}] * 5


def fused(model: HGRNBitModel, tokens: Tensor) -> Tensor:
    return half_blocks.forward_loss(model, tokens[:, :-1], tokens[:, 1:])


@pytest.mark.slow
def test_captured_gradients(device: str) -> None:
    """Those of one batch after another, in the same memory."""
    model = random_model(ONE_LAYER, 0, device)
    step = captured.Gradients(model, fused)
    for seed in (1, 2):
        tokens = torch.randint(
            ONE_LAYER.vocab_size, (2, 3), generator=torch.Generator().manual_seed(seed)
        ).to(device)
        loss = step(tokens).clone()
        found = {name: p.grad.clone() for name, p in model.named_parameters() if p.grad is not None}
        twin = random_model(ONE_LAYER, 0, device)
        expected = half_blocks.forward_loss(twin, tokens[:, :-1], tokens[:, 1:])
        expected.backward()
        assert torch.equal(loss, expected.detach())
        wanted = {name: p.grad for name, p in twin.named_parameters() if p.grad is not None}
        assert found.keys() == wanted.keys()
        for name, gradient in wanted.items():  # torch adds up an embedding's in any order on a GPU
            assert torch.allclose(found[name], gradient, rtol=1e-5, atol=1e-7), name
    if device == "cuda":
        with pytest.raises(ValueError) as refused:
            step(tokens[:1])
        assert str(refused.value) == "tokens have shape (1, 3), must have (2, 3)"


def test_a_training_run(device: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    if device == "cpu":
        monkeypatch.setattr(train, "plain_loss", train.fused_loss)
    seen: list[train.Progress] = []
    corpus = of_bytes(np.arange(20, dtype=np.uint8), np.arange(10, dtype=np.uint8), "numbers")
    recipe = train.Recipe(steps=2, batch=1, window=4, warmup=1)
    config = replace(ONE_LAYER, vocab_size=256)
    outcome = train.train(config, corpus, recipe, tmp_path, report_every=1, report=seen.append)
    assert [progress.step for progress in seen] == [1, 2]
    assert seen[0].loss == pytest.approx(np.log(256), rel=0.05)
    assert outcome.finished and outcome.held_out_nats == pytest.approx(np.log(256), rel=0.1)


@pytest.mark.slow
def test_captured_gradients_of_processes(device: str) -> None:
    """They are reduced within the captured step, of which torch has nothing to remark; here there
    is but one process."""
    model, twin = (random_model(ONE_LAYER, 0, device) for _ in range(2))
    tokens = torch.zeros(2, 6, dtype=torch.int64, device=device)
    with joined(alone=True):
        loss = fused if device == "cuda" else train.plain_loss  # for the sake of time
        several = captured.Gradients(model, loss, Ranks(0, 2, 0))
        alone = captured.Gradients(twin, loss)
        for _ in range(2):
            assert torch.equal(several(tokens), alone(tokens))
            wanted = dict(twin.named_parameters())
            for name, parameter in model.named_parameters():
                assert (parameter.grad is None) == (wanted[name].grad is None)
                if parameter.grad is not None:
                    close = torch.allclose(parameter.grad, wanted[name].grad, rtol=1e-5, atol=1e-7)
                    assert close, name


@pytest.mark.slow
def test_a_model_that_is_divided(device: str) -> None:
    """Its weights are gathered around every block, and change nothing: one process alone has the
    bits of the whole model."""
    twin = random_model(CONFIG, 0, device)
    expected = half_blocks.forward_loss(twin, *text(device))
    expected.backward()
    weights = dict(twin.named_parameters())
    with joined(alone=True) as ranks:
        model = divided(CONFIG, lambda name, _: weights[name].detach(), ranks)
        loss = half_blocks.forward_loss(model, *text(device))
        loss.backward()
        assert torch.equal(loss, expected)
        for name, parameter in model.named_parameters():
            assert isinstance(parameter.grad, DTensor)
            found = parameter.grad.full_tensor()
            # Torch adds up an embedding's in any order on a GPU.
            assert torch.allclose(found, weights[name].grad, rtol=1e-5, atol=1e-7), name
