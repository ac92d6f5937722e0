"""A model that is streamed block by block computes what the whole model computes."""

from collections import Counter
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest

torch = pytest.importorskip("torch")

from torch import Tensor

from mmfree_kernels.float_model.evaluate import logits, nats, scores
from mmfree_kernels.float_model.model import Numerics, from_checkpoint
from mmfree_kernels.float_model.streamed import stepwise, stream, windows_at_once
from mmfree_kernels.ops.mlgru.naive import recurrence
from mmfree_neuro.hgrn_bit.config import FAMILY, PUBLISHED, ModelConfig
from mmfree_neuro.hgrn_bit.names import is_ternary, ternary_weights
from mmfree_neuro.model.checkpoint import Checkpoint, read
from mmfree_neuro.model.tensors import Float32

GOLDEN = Path(__file__).parents[1] / "golden"
SMALL = ModelConfig(vocab_size=13, hidden_size=8, num_hidden_layers=3, intermediate_size=12)
SHAPES = {
    "default": SMALL,
    "expanded": replace(SMALL, use_lower_bound=False, expand_ratio=2),
    "tied": replace(SMALL, tie_word_embeddings=True, rms_norm_eps=1e-2),
}
TOKENS = np.random.default_rng(1).integers(0, 13, (5, 9))
SMOOTH = Numerics(quantise=False)
"""Without rounding, a difference in the last bit stays one."""


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


@pytest.mark.parametrize("name", ["a_h64_l2_v256", "trained"])
def test_logits_are_the_published_ones(name: str) -> None:
    checkpoint, tokens = (
        read(GOLDEN / name / "checkpoint", lambda _: {}, FAMILY),
        np.load(GOLDEN / name / "inputs.npy"),
    )
    found = torch.cat([*stream(checkpoint, tokens)]).numpy()
    assert np.abs(found - np.load(GOLDEN / name / "logits.npy")).max() < 1e-3


@pytest.mark.parametrize("batch", [None, 1, 2, 5])
@pytest.mark.parametrize("shape", SHAPES)
def test_logits_are_those_of_the_whole_model(shape: str, batch: int | None) -> None:
    checkpoint = random_checkpoint(SHAPES[shape])
    found = [*stream(checkpoint, TOKENS, SMOOTH, batch=batch)]
    assert [out.shape for out in found] == [(1, 9, 13)] * 5
    assert (
        np.abs(torch.cat(found).numpy() - logits(from_checkpoint(checkpoint), TOKENS, SMOOTH)).max()
        < 1e-4
    )


@pytest.mark.parametrize("shape", SHAPES)
def test_packed_weights_give_the_same_logits(shape: str) -> None:
    checkpoint = random_checkpoint(SHAPES[shape])
    weights = ternary_weights(checkpoint)
    assert torch.equal(
        torch.cat([*stream(checkpoint, TOKENS, weights=weights)]),
        torch.cat([*stream(checkpoint, TOKENS)]),
    )


def test_the_tap_sees_what_it_sees_in_the_model() -> None:
    checkpoint, seen = random_checkpoint(SMALL), [dict[str, list[Tensor]]() for _ in range(2)]

    def numerics(found: dict[str, list[Tensor]]) -> Numerics:
        def tap(name: str, value: Tensor) -> Tensor:
            found.setdefault(name, []).append(value.clone())
            return value

        return replace(SMOOTH, tap=tap)

    logits(from_checkpoint(checkpoint), TOKENS, numerics(seen[0]))
    for _ in stream(checkpoint, TOKENS, numerics(seen[1]), batch=2):
        pass
    assert list(seen[0]) == list(seen[1])
    for name, (value,) in seen[0].items():
        head = name in ("lm_head.in", "logits")
        assert [len(part) for part in seen[1][name]] == ([1] * 5 if head else [2, 2, 1]), name
        assert torch.allclose(torch.cat(seen[1][name]), value, rtol=1e-4, atol=1e-5), name


def test_the_tap_may_replace_what_it_sees() -> None:
    def tap(name: str, value: Tensor) -> Tensor:
        return torch.zeros_like(value) if name in ("embeddings.x", "layers.1.mlp.x") else value

    checkpoint = random_checkpoint(SMALL)
    whole = logits(from_checkpoint(checkpoint), TOKENS, replace(SMOOTH, tap=tap))
    assert (
        np.abs(
            torch.cat([*stream(checkpoint, TOKENS, replace(SMOOTH, tap=tap))]).numpy() - whole
        ).max()
        < 1e-4
    )


class Counted(dict[str, Float32]):
    """Tensors that know how often they were looked up."""

    def __init__(self, tensors: dict[str, Float32]) -> None:
        super().__init__(tensors)
        self.read = Counter[str]()

    def __getitem__(self, name: str) -> Float32:
        self.read[name] += 1
        return super().__getitem__(name)


def test_every_tensor_is_read_once() -> None:
    tensors = Counted(dict(random_checkpoint(SMALL).tensors))
    checkpoint = Checkpoint(SMALL, tensors)
    for _ in stream(checkpoint, TOKENS, batch=1):
        pass
    assert tensors.read == Counter(SMALL.shapes().keys())
    weights = ternary_weights(checkpoint)
    tensors.read.clear()
    for _ in stream(checkpoint, TOKENS, weights=weights):
        pass
    assert tensors.read == Counter(name for name in SMALL.shapes() if not is_ternary(name))


@pytest.mark.parametrize("time", [1, 2, 33])
def test_the_recurrence_step_by_step(time: int) -> None:
    draw = torch.Generator().manual_seed(time)
    f, c = (torch.rand(2, time, 3, generator=draw) for _ in range(2))
    initial = torch.rand(2, 3, generator=draw)
    assert torch.allclose(stepwise(f, c, initial), recurrence(f, c, initial), atol=1e-6)


def test_scores_are_those_of_the_whole_model() -> None:
    checkpoint = read(GOLDEN / "trained" / "checkpoint", lambda _: {}, FAMILY)
    windows = np.load(GOLDEN / "trained" / "eval_tokens.npy").astype(np.int64)[:4, :150]
    model = from_checkpoint(checkpoint)
    found = scores(checkpoint, windows, SMOOTH)
    assert found.nats.shape == found.chosen.shape == (4, 149)
    assert np.abs(found.nats - nats(model, windows, numerics=SMOOTH)).max() < 1e-4
    assert (found.chosen == logits(model, windows[:, :-1], SMOOTH).argmax(-1)).mean() > 0.99
    again = scores(checkpoint, windows, SMOOTH, ternary_weights(checkpoint))
    assert np.array_equal(again.nats, found.nats) and np.array_equal(again.chosen, found.chosen)


def test_windows_at_once() -> None:
    assert {name: windows_at_once(config, 512) for name, config in PUBLISHED.items()} == {
        "370m": 2,
        "1.3b": 1,
        "2.7b": 1,
    }
    assert windows_at_once(SMALL, 512) == 597
