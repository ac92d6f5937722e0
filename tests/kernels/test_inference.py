"""The packed model gives what the float model gives: token by token, for many sequences, in
chunks of a prompt."""

from dataclasses import replace

import numpy as np
import pytest

torch = pytest.importorskip("torch")
pytest.importorskip("triton")

from mmfree_kernels.bench.workloads import plain
from mmfree_kernels.float_model.model import HGRNBitModel, from_checkpoint
from mmfree_kernels.inference import dozens, ends, few, many, messages, model, threads
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
    monkeypatch.setattr(dozens, "SEQUENCES", {})
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


def test_a_word_of_zeros_leaves_zeros(device: str) -> None:
    packed = model.random(CONFIG, device)
    packed.embedding[7] = 0
    session = Decoder(packed, 1)
    session.tokens[0], session.logits[:] = 7, 1
    session.step()
    assert not session.logits.any() and not session.state.any()
    assert session.tokens.tolist() == [0]


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
    ("rows", "columns", "warps", "quads", "unit"),
    [
        (32, 16, 1, 4, 4),
        (48, 272, 4, 4, 4),
        (80, 1024, 4, 4, 2),
        (16, 2560, 8, 4, 1),
        (48, 320, 2, 3, 1),
        (64, 320, 1, 5, 1),
        (64, 640, 4, 14, 2),
        (80, 96, 1, 20, 4),
    ],
    ids=[
        "one group",
        "a warp without a word",
        "two full rounds",
        "two and a half rounds of eight warps",
        "three quads",
        "five quads, of which a program may lack some",
        "two groups of quads",
        "three groups of quads",
    ],
)
def test_products_are_exact(
    device: str, rows: int, columns: int, warps: int, quads: int, unit: int
) -> None:
    generator = torch.Generator().manual_seed(5)
    codes = torch.randint(-1, 2, (rows, columns), dtype=torch.int8, generator=generator)
    q = torch.randint(-127, 128, (3, columns), dtype=torch.int8, generator=generator)
    q[0], q[1] = 127, -127
    packed = words(ternary.pack(codes.numpy()), device)
    found = few.sums(q.to(device), packed, warps, quads, unit)
    assert torch.equal(found.cpu(), q.float() @ codes.float().mT)


@pytest.mark.slow
@torch.no_grad()
def test_more_warps_give_the_same(device: str, monkeypatch: pytest.MonkeyPatch) -> None:
    """40 words of 32 threads, with chunks of rows, and of 128."""
    packed = model.random(
        replace(CONFIG, hidden_size=160, intermediate_size=48, num_hidden_layers=1), device
    )
    prompt = torch.tensor([[3]], device=device)
    expected = plain.logits(packed, prompt)[:, -1]
    programs = few.plan(160, 1, packed.device).programs
    for warps, words_ in ((1, 24), (4, few.WORDS)):
        how = few.Plan(programs, warps)
        monkeypatch.setattr(few, "plan", lambda *_, how=how: how)
        monkeypatch.setattr(few, "WORDS", words_)
        session = Decoder(packed, 1)
        session.feed(prompt)
        assert (session.logits - expected).abs().max() < ROUNDING * expected.std()


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
        # An activation may fall to the other side of a rounding boundary, in any sequence.
        assert (session.logits - expected).abs().median(1).values.max() < 0.1 * expected.std()
        assert torch.equal(session.tokens, session.logits.argmax(-1))


def test_how_inputs_and_rows_are_shared_out() -> None:
    # Eight warps: 640 words are two and a half rounds of 256 threads.
    assert threads.rounds_of(2560, 8) == 3
    assert [place.offset for place in threads.places_of(2560, 1, 8)] == [0, 1024, 2048]
    assert [place.whole for place in threads.places_of(2560, 1, 8)] == [True, True, False]
    assert threads.places_of(1024, 2, 4) == tuple((offset, True) for offset in (0, 512, 1024, 1536))
    assert threads.places_of(32, 2, 4) == ((0, False), (32, False))
    # 256 quads of 132 programs: two each, in one tile.  2,816 rows: six instead of 5.3.
    assert few.cut(1024, 132, 1, 2) == (8, 2, 2, 1)
    assert few.cut(2816, 132, 2, 2) == (24, 6, 2, 1)
    assert few.cut(2560, 132, 3, 3) == (20, 5, 1, 1)
    assert few.cut(6912, 132, 2, 3) == (56, 14, 2, 1)
    # 64 rows of 16 programs are 128 words of a thread, in chunks of 32.
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
    assert few.takes(1024, 8, cpu) and not few.takes(1024, 9, cpu)
    assert few.takes(32, 256, cpu) and not few.takes(32, 257, cpu)


def test_reads_of_messages() -> None:
    text, registers = messages.reading((messages.Place(0, True),), 4, True, False, "f")
    assert registers == "=&f,=&f,=&f,=&f,l,r"
    assert text == (
        "{ .reg .pred p; .reg .pred p0; setp.eq.b32 p0, 0, 0; again: "
        "@p0 ld.relaxed.gpu.global.v4.b32 {$0, $1, $2, $3}, [$4 + 0]; "
        "setp.eq.b32 p0, $0, 0xffc0deae; setp.eq.or.b32 p0, $1, 0xffc0deae, p0; "
        "setp.eq.or.b32 p0, $2, 0xffc0deae, p0; setp.eq.or.b32 p0, $3, 0xffc0deae, p0; "
        "setp.ne.b32 p, 0, 0; or.pred p, p, p0; vote.sync.any.pred p, p, -1; @p bra again; }"
    )
    # One value is waited for, at the last place that every thread has.
    places = messages.Place(0, True), messages.Place(512, True), messages.Place(1024, False)
    light, _ = messages.reading(places, 4, True, True, "f")
    start, rest = light.split(" again: ")
    assert start.endswith(
        " .reg .pred q; .reg .b32 t; mov.u32 t, %laneid; setp.eq.u32 q, t, 31; early:"
        " @q ld.relaxed.gpu.global.b32 t, [$12 + 2060]; setp.eq.and.b32 p, t, 0xffc0deae, q;"
        " vote.sync.any.pred p, p, -1; @p bra early;"
    )
    assert rest in messages.reading(places, 4, True, False, "f")[0]
    assert "early" not in messages.reading(places[2:], 4, True, True, "f")[0]
    places = messages.Place(0, True), messages.Place(512, False)
    text, registers = messages.reading(places, 1, False, False, "r")
    assert registers == "=&r,=&r,l,r"
    assert text == (
        "{ .reg .pred p; .reg .pred p0; setp.eq.b32 p0, 0, 0; "
        ".reg .pred p1; setp.ne.b32 p1, $3, 0; mov.b32 $1, 0; "
        "@p0 ld.global.nc.b32 $0, [$2 + 0]; @p1 ld.global.nc.b32 $1, [$2 + 2048]; }"
    )
