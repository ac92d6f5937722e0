"""The packed model gives what the float model gives: token by token, for many sequences, in
chunks of a prompt."""

from dataclasses import replace

import numpy as np
import pytest

torch = pytest.importorskip("torch")
pytest.importorskip("triton")

from mmfree_kernels.bench.workloads import plain
from mmfree_kernels.float_model.model import HGRNBitModel, from_checkpoint
from mmfree_kernels.inference import ends, few, many, messages, model
from mmfree_kernels.inference.decoder import Decoder
from mmfree_kernels.inference.prefill import Prefill, chunk_length
from mmfree_kernels.ops.bitlinear.packed import words
from mmfree_neuro.errors import InputError
from mmfree_neuro.hgrn_bit.config import ModelConfig
from mmfree_neuro.hgrn_bit.names import is_ternary
from mmfree_neuro.integers import ternary
from mmfree_neuro.integers.ternary import TILE
from mmfree_neuro.model.checkpoint import Checkpoint

pytestmark = pytest.mark.kernels

CONFIG = ModelConfig(vocab_size=50, hidden_size=32, num_hidden_layers=2, intermediate_size=48)
ROUNDING = 1e-4
"""Sums in another order; the tokens below are away from the boundaries between two codes."""


def _checkpoint(config: ModelConfig) -> Checkpoint:
    rng = np.random.default_rng(11)
    tensors = {
        name: rng.standard_normal(shape).astype(np.float32)
        for name, shape in config.shapes().items()
    }
    for name in tensors:
        if name.endswith("norm.weight"):
            tensors[name] = 1 + tensors[name] / 5
    return Checkpoint(config, tensors)


CONFIGS = {
    "lower-bounds": CONFIG,
    "expanded, tied": replace(
        CONFIG, num_hidden_layers=1, use_lower_bound=False, expand_ratio=2, tie_word_embeddings=True
    ),
}


@pytest.fixture(scope="module", params=CONFIGS)
def both(request: pytest.FixtureRequest, device: str) -> tuple[model.PackedModel, HGRNBitModel]:
    """A packed model and its naive twin, with the same embedding."""
    checkpoint = _checkpoint(CONFIGS[request.param])
    table = (
        torch.from_numpy(checkpoint.tensors["model.embeddings.weight"]).bfloat16().float().numpy()
    )
    checkpoint = Checkpoint(
        checkpoint.config, {**checkpoint.tensors, "model.embeddings.weight": table}
    )
    return model.from_checkpoint(checkpoint, device, "bfloat16"), from_checkpoint(checkpoint).to(
        device
    )


@pytest.mark.slow
@pytest.mark.parametrize(
    ("at_most", "batch"), [(0, 1), (few.FEW, 2), (0, 2)], ids=["one", "few", "many"]
)
@torch.no_grad()
def test_decoder(
    both: tuple[model.PackedModel, HGRNBitModel],
    at_most: int,
    batch: int,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr(few, "FEW", at_most)
    packed, naive = both
    prompt = torch.tensor([[3, 41], [40, 7]], device=packed.device)[:batch]
    expected, state = naive(prompt)
    session = Decoder(packed, batch)
    session.feed(prompt[:, :1])
    first = session.logits.clone()
    assert (first - expected[:, 0]).abs().max() < ROUNDING
    session.feed(prompt[:, 1:])
    assert (session.logits - expected[:, -1]).abs().max() < ROUNDING
    assert (session.state - state).abs().max() < ROUNDING
    assert torch.equal(session.tokens, session.logits.argmax(-1))
    session.reset()
    session.feed(prompt[:, :1])
    assert torch.equal(session.logits, first)


@pytest.mark.slow
@pytest.mark.parametrize("together", [256, 0], ids=["packed", "unpacked"])
@torch.no_grad()
def test_prefill(
    both: tuple[model.PackedModel, HGRNBitModel], together: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(many, "TOGETHER", together)
    packed, naive = both
    prompt = torch.tensor([[3, 41, 8, 0, 17], [7, 7, 2, 30, 5]], device=packed.device)
    expected, state = naive(prompt)
    session = Prefill(packed, 2, chunk=3)
    logits = session.feed(prompt)
    # Unpacked, projections are kept in bfloat16, which moves some codes by one.
    bound = ROUNDING if together else 0.2 * expected.std()
    assert (logits - expected[:, -1]).abs().max() < bound
    assert (session.state - state).abs().max() < bound
    if together:
        cut = Prefill(packed, 2, chunk=5)
        assert (cut.feed(prompt[:, :1]) - expected[:, 0]).abs().max() < ROUNDING
        assert (cut.feed(prompt[:, 1:]) - expected[:, -1]).abs().max() < ROUNDING
        cut.reset()
        assert not cut.state.any()


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


def test_two_sequences_are_two(both: tuple[model.PackedModel, HGRNBitModel]) -> None:
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
    ends.choose(logits, tokens)
    assert tokens.tolist() == [0, 4200, 77]


def test_embeddings(device: str) -> None:
    checkpoint = _checkpoint(CONFIG)
    table = torch.from_numpy(checkpoint.tensors["model.embeddings.weight"])
    for kind, bound in (
        ("int8", table.abs().amax(1) / 253),
        ("bfloat16", table.abs().amax(1) / 128),
    ):
        packed = model.from_checkpoint(checkpoint, device, kind)
        assert packed.embedding.dtype == getattr(torch, kind)
        x = torch.empty(4, 32, device=device)
        ends.embed(torch.tensor([0, 5, 47, 5], device=device), packed.embedding, packed.steps, x)
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
    config = packed.config
    sizes = {name: parameter.numel() for name, parameter in naive.named_parameters()}
    head = 64 * 32  # fills its last tile
    ternary = head + sum(
        size for name, size in sizes.items() if is_ternary(name) and "proj" in name
    )
    others = 4 * sum(size for name, size in sizes.items() if name.endswith("norm.weight"))
    bounds = 4 * config.state_size * config.num_hidden_layers
    scales = 4 * (config.num_hidden_layers * model.SCALES + 4)
    assert packed.weights_bytes == ternary // 4 + 2 * 50 * 32 + others + bounds + scales


def test_stretches() -> None:
    packed = model.random(CONFIG, "cpu")
    assert chunk_length(packed, 1) == 131072
    assert chunk_length(packed, 1000) == 256


def test_refusals(device: str) -> None:
    checkpoint = _checkpoint(replace(CONFIG, intermediate_size=40))
    with pytest.raises(InputError) as refused:
        model.from_checkpoint(checkpoint, device)
    assert str(refused.value) == "the gate width is 40, must be a multiple of 16 for packed weights"
    packed = model.random(CONFIG, device)
    for session in (Prefill(packed, 2), Decoder(packed, 2)):
        for tokens, found in (
            (torch.zeros(3, 4, dtype=torch.int64), "torch.int64 [3, 4]"),
            (torch.zeros(2, 0, dtype=torch.int64), "torch.int64 [2, 0]"),
            (torch.zeros(2, 1), "torch.float32 [2, 1]"),
        ):
            with pytest.raises(ValueError) as wrong:
                session.feed(tokens)
            assert str(wrong.value) == f"tokens are {found}, must be int64 [2, at least 1]"


def test_unknown_tokens_have_no_logits(device: str) -> None:
    packed = model.random(CONFIG, device)
    x = torch.empty(4, 32, device=device)
    ends.embed(torch.tensor([-1, 49, 50, 2**40], device=device), packed.embedding, packed.steps, x)
    assert x.isnan().all(1).tolist() == [True, False, True, True]
    assert x[1].isfinite().all()


@pytest.mark.filterwarnings("ignore:All-NaN slice encountered", "ignore:invalid value")
@pytest.mark.parametrize("batch", [1, 3])
def test_a_sequence_with_an_unknown_token_has_no_logits_and_others_have(
    device: str, batch: int
) -> None:
    session = Decoder(model.random(CONFIG, device), batch)
    session.tokens.copy_(torch.tensor([50, 7, 3][:batch]))
    session.step()
    assert session.logits[0].isnan().all()
    assert session.state[:, 0].isnan().all()
    assert session.logits[1:].isfinite().all()


@torch.no_grad()
def test_mailboxes_change_places_and_are_empty_for_the_step_after(device: str) -> None:
    config = replace(CONFIG, vocab_size=16, hidden_size=16, intermediate_size=16)
    packed = model.random(config, device)
    tokens = torch.tensor([3, 11], device=device)
    state, logits = packed.zero_state(2), torch.zeros(2, 16, device=device)
    step = few.Step(packed, tokens, state, logits)
    empty = step.mail.view(torch.int32) == messages.EMPTY
    assert empty.all()
    for turn in (0, 1, 0):
        assert step.turns.tolist() == [turn, turn]
        step()
        empty = step.mail.view(torch.int32) == messages.EMPTY
        # Two values for each block's end and beginning, four rows between, and each program's best.
        used = 3 * 16 + 2 * (16 + 2 * 16 + 16) + 2 * step.grid[0] // 2
        assert not empty[:, turn, :used].any()
        assert empty[:, 1 - turn].all()


@pytest.mark.parametrize(
    ("rows", "columns", "warps"),
    [(32, 16, 1), (32, 272, 4), (16, 1024, 4), (16, 2560, 8)],
    ids=["one group", "rounds not full", "two rounds", "eight warps"],
)
def test_products_are_exact(device: str, rows: int, columns: int, warps: int) -> None:
    generator = torch.Generator().manual_seed(5)
    codes = torch.randint(-1, 2, (rows, columns), dtype=torch.int8, generator=generator)
    q = torch.randint(-127, 128, (3, columns), dtype=torch.int8, generator=generator)
    q[0], q[1] = 127, -127
    found = few.sums(q.to(device), words(ternary.pack(codes.numpy()), device), warps)
    assert torch.equal(found.cpu(), q.float() @ codes.float().mT)


LARGER = {
    "370M": replace(CONFIG, hidden_size=1024, intermediate_size=2816, vocab_size=1000),
    "rounds not full": replace(
        CONFIG, hidden_size=2560, num_hidden_layers=1, intermediate_size=6912
    ),
}


@pytest.mark.parametrize("shape", LARGER)
@pytest.mark.parametrize("batch", [1, 4])
@torch.no_grad()
def test_programs_of_a_gpu(shape: str, batch: int, device: str) -> None:
    if device == "cpu":
        pytest.skip("one after another, programs could not wait for each other")
    packed = model.random(LARGER[shape], device)
    session = Decoder(packed, batch)
    prompt = torch.tensor([[3, 41, 7], [40, 7, 2], [1, 1, 9], [0, 49, 5]], device=device)[:batch]
    expected = plain.logits(packed, prompt)[:, -1]
    for _ in range(20):
        session.reset()
        session.feed(prompt)
        # An activation may fall to the other side of a rounding boundary.
        assert (session.logits - expected).abs().median() < 0.02 * expected.std()


def test_how_inputs_and_rows_are_shared_out() -> None:
    assert few.held(1024, 4) == (2, True)
    assert few.held(2816, 4) == (8, False)
    assert few.held(32, 4) == (1, False)
    # 256 quads of 132 programs: two each, in one tile.  2,816 rows: six instead of 5.3.
    assert few.cut(1024, 132, 1, 2) == (8, 2, 2, 1)
    assert few.cut(2816, 132, 2, 2) == (24, 8, 2, 1)
    # 64 rows of 16 programs, in four chunks: 4 quads of 8 rounds are 32 words of a thread.
    assert few.cut(1024, 16, 1, 8) == (64, 4, 4, 4)
    assert few.cut(32, 1, 3, 1) == (32, 8, 4, 1)


def test_programs_that_are_resident(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(few, "INTERPRETED", False)
    cpu = torch.device("cpu")
    assert few.plan(1024, 1, cpu) == few.Plan(132, 4)
    assert few.plan(1024, 2, cpu) == few.Plan(132, 4)
    assert few.plan(1024, 16, cpu) == few.Plan(16, 4)
    assert few.plan(2048, 4, cpu) == few.Plan(33, 8)
    assert few.takes(5120, 1, cpu)
    assert few.takes(1024, 16, cpu) and not few.takes(1024, 17, cpu)
    assert few.takes(32, 264, cpu) and not few.takes(32, 265, cpu)


def test_reads_of_messages() -> None:
    one = messages.four(1)
    assert one.registers == "=&r,=&r,=&r,=&r,l"
    assert one.text == (
        "{ .reg .pred p; again: ld.relaxed.gpu.global.v4.b32 {$0, $1, $2, $3}, [$4]; "
        "setp.eq.b32 p, $0, 0xffc0deae; setp.eq.or.b32 p, $1, 0xffc0deae, p; "
        "setp.eq.or.b32 p, $2, 0xffc0deae, p; setp.eq.or.b32 p, $3, 0xffc0deae, p; "
        "vote.sync.any.pred p, p, -1; @p bra again; }"
    )
    assert messages.four(2).text.count("{$0, $2, $4, $6}, [$8]") == 1
    assert [messages.four(places).pack for places in (1, 4, 16)] == [1, 4, 8]
