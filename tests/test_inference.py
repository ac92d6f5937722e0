"""The packed model gives what the float model gives: token by token, for many sequences, in stretches of a prompt."""

from dataclasses import replace

import numpy as np
import pytest
import torch

from mmfree_kernels.inference import decoder, few, many, model
from mmfree_kernels.inference.decoder import Decoder
from mmfree_kernels.inference.prefill import Prefill, stretch_length
from mmfree_kernels.model import HGRNBitModel, from_checkpoint
from mmfree_neuro.checkpoint import Checkpoint, ModelConfig
from mmfree_neuro.errors import InputError
from mmfree_neuro.quantize import is_ternary
from mmfree_neuro.ternary import TILE

CONFIG = ModelConfig(vocab_size=50, hidden_size=32, num_hidden_layers=2, intermediate_size=48)
ROUNDING = 1e-4
"""Sums in another order; the tokens below are away from the boundaries between two codes."""


def _checkpoint(config: ModelConfig) -> Checkpoint:
    rng = np.random.default_rng(11)
    tensors = {name: rng.standard_normal(shape).astype(np.float32) for name, shape in config.shapes().items()}
    for name in tensors:
        if name.endswith("norm.weight"):
            tensors[name] = 1 + tensors[name] / 5
    return Checkpoint(config, tensors)


@pytest.fixture(scope="module", params=[True, False], ids=["lower-bounds", "no-lower-bounds"])
def both(request: pytest.FixtureRequest, device: str) -> tuple[model.PackedModel, HGRNBitModel]:
    """A packed model and its naive twin, with the same embedding."""
    checkpoint = _checkpoint(replace(CONFIG, use_lower_bound=request.param))
    table = torch.from_numpy(checkpoint.tensors["model.embeddings.weight"]).bfloat16().float().numpy()
    checkpoint = Checkpoint(checkpoint.config, {**checkpoint.tensors, "model.embeddings.weight": table})
    return model.from_checkpoint(checkpoint, device, "bfloat16"), from_checkpoint(checkpoint).to(device)


@pytest.fixture
def large_tiles(monkeypatch: pytest.MonkeyPatch) -> None:
    """Few programs, of which the interpreter runs one after another."""
    monkeypatch.setattr(few, "_tile", lambda rows, columns, matrices: (16, 4, 4))


@pytest.mark.usefixtures("large_tiles")
@pytest.mark.parametrize(("at_most", "batch"), [(0, 1), (decoder.FEW, 2), (0, 2)], ids=["one", "few", "many"])
@torch.no_grad()
def test_decoder(
    both: tuple[model.PackedModel, HGRNBitModel], at_most: int, batch: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(decoder, "FEW", at_most)
    packed, naive = both
    prompt = torch.tensor([[3, 41], [40, 7]], device=packed.device)[:batch]
    expected, state = naive(prompt)
    session = Decoder(packed, batch)
    session.feed(prompt)
    assert (session.logits - expected[:, -1]).abs().max() < ROUNDING
    assert (session.state - state).abs().max() < ROUNDING
    assert torch.equal(session.tokens, session.logits.argmax(-1))
    before = session.logits.clone()
    session.reset()
    session.feed(prompt)
    assert torch.equal(session.logits, before)


@pytest.mark.parametrize("together", [256, 0], ids=["packed", "unpacked"])
@torch.no_grad()
def test_prefill(both: tuple[model.PackedModel, HGRNBitModel], together: int, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(many, "TOGETHER", together)
    packed, naive = both
    prompt = torch.tensor([[3, 41, 8, 0, 17], [7, 7, 2, 30, 5]], device=packed.device)
    expected, state = naive(prompt)
    session = Prefill(packed, 2, stretch=3)
    logits = session.feed(prompt)
    # Unpacked, projections are kept in bfloat16, which moves some codes by one.
    bound = ROUNDING if together else 0.2 * expected.std()
    assert (logits - expected[:, -1]).abs().max() < bound
    assert (session.state - state).abs().max() < bound
    if together:
        cut = Prefill(packed, 2, stretch=5)
        assert (cut.feed(prompt[:, :1]) - expected[:, 0]).abs().max() < ROUNDING
        assert (cut.feed(prompt[:, 1:]) - expected[:, -1]).abs().max() < ROUNDING
        cut.reset()
        assert not cut.state.any()


@pytest.mark.usefixtures("large_tiles")
@torch.no_grad()
def test_generation_after_a_prompt(both: tuple[model.PackedModel, HGRNBitModel]) -> None:
    packed, naive = both
    tokens = torch.tensor([[3, 41, 8]], device=packed.device)
    prompt, session = Prefill(packed, 1), Decoder(packed, 1)
    session.tokens.copy_(prompt.feed(tokens).argmax(-1))
    session.state.copy_(prompt.state)
    whole = torch.cat([tokens, session.tokens[:, None].clone()], 1)
    session.step()
    assert (session.logits - naive(whole)[0][:, -1]).abs().max() < ROUNDING


def test_two_sequences_are_two(both: tuple[model.PackedModel, HGRNBitModel], large_tiles: None) -> None:
    packed, _ = both
    pair, one = Decoder(packed, 2), Decoder(packed, 1)
    pair.feed(torch.tensor([[3], [41]], device=packed.device))
    one.feed(torch.tensor([[41]], device=packed.device))
    assert torch.equal(pair.logits[1], one.logits[0])
    assert torch.equal(pair.state[:, 1], one.state[:, 0])


def test_the_first_of_equal_logits_is_chosen(device: str) -> None:
    logits = torch.zeros(3, 5000, device=device)
    logits[1, 4999] = logits[1, 4200] = 1
    logits[2] = float("-inf")
    logits[2, 77] = -5
    tokens = torch.full((3,), 9, device=device)
    few.choose(logits, tokens)
    assert tokens.tolist() == [0, 4200, 77]


def test_embeddings(device: str) -> None:
    checkpoint = _checkpoint(CONFIG)
    table = torch.from_numpy(checkpoint.tensors["model.embeddings.weight"])
    for kind, bound in (("int8", table.abs().amax(1) / 253), ("bfloat16", table.abs().amax(1) / 128)):
        packed = model.from_checkpoint(checkpoint, device, kind)
        assert packed.embedding.dtype == getattr(torch, kind)
        x = torch.empty(4, 32, device=device)
        few.embed(torch.tensor([0, 5, 47, 5], device=device), packed.embedding, packed.steps, x)
        assert ((x.cpu() - table[[0, 5, 47, 5]]).abs() <= bound[[0, 5, 47, 5], None]).all()


@pytest.mark.parametrize("kind", ["int8", "bfloat16"])
def test_random_models(device: str, kind: model.EmbeddingKind) -> None:
    packed = model.random(CONFIG, device, 3, kind)
    again = model.random(CONFIG, device, 3, kind)
    assert packed.weights_bytes == again.weights_bytes
    assert torch.equal(packed.layers[1].channel_in.weights, again.layers[1].channel_in.weights)
    assert packed.layers[0].mixer_in.weights.shape == (3 * 32 // TILE, 32 // TILE, TILE)
    codes = packed.head.weights.view(torch.uint8) & 3
    assert codes.max() == 2
    assert 0.6 < float((codes != 1).float().mean()) < 0.73


def test_weights_take_two_bits(both: tuple[model.PackedModel, HGRNBitModel]) -> None:
    packed, naive = both
    sizes = {name: parameter.numel() for name, parameter in naive.named_parameters()}
    ternary = sum(size for name, size in sizes.items() if is_ternary(name)) + 14 * 32  # fills the head's last tile
    others = 4 * sum(size for name, size in sizes.items() if name.endswith("norm.weight"))
    bounds = 4 * 32 if packed.layers[1].bound is not None else 0
    scales = 4 * (CONFIG.num_hidden_layers * 6 + 1)
    assert packed.weights_bytes == ternary // 4 + 2 * 50 * 32 + others + bounds + scales


def test_stretches() -> None:
    packed = model.random(CONFIG, "cpu")
    assert stretch_length(packed, 1) == 131072
    assert stretch_length(packed, 1000) == 256


def test_refusals(device: str) -> None:
    checkpoint = _checkpoint(replace(CONFIG, intermediate_size=40))
    with pytest.raises(InputError) as refused:
        model.from_checkpoint(checkpoint, device)
    assert str(refused.value) == "the gate width is 40, must be a multiple of 16 for packed weights"
    session = Prefill(model.random(CONFIG, device), 2)
    with pytest.raises(ValueError) as wrong:
        session.feed(torch.zeros(3, 4, dtype=torch.int64))
    assert str(wrong.value) == "tokens have shape (3, 4), must have (2, at least 1)"
