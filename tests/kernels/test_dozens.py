"""Dozens of sequences through a packed model in one kernel, with products on the tensor cores."""

from dataclasses import replace

import pytest

torch = pytest.importorskip("torch")
pytest.importorskip("triton")

from mmfree_kernels.bench.workloads import plain
from mmfree_kernels.inference import dozens, ends, many, messages, model, octets
from mmfree_kernels.inference.decoder import Decoder
from mmfree_kernels.ops.bitlinear.packed import words
from mmfree_neuro.hgrn_bit.config import ModelConfig
from mmfree_neuro.integers import ternary

pytestmark = pytest.mark.kernels

CONFIG = ModelConfig(vocab_size=50, hidden_size=32, num_hidden_layers=2, intermediate_size=48)
ROUNDING = 1e-4
"""Sums in another order; the tokens below are away from the boundaries between two codes."""


def _expected(
    packed: model.PackedModel, tokens: torch.Tensor, state: torch.Tensor
) -> tuple[torch.Tensor, torch.Tensor]:
    """Logits and state after tokens, by the kernels for many."""
    x = torch.empty(len(tokens), packed.config.hidden_size, device=packed.device)
    ends.embed(tokens, packed.embedding, packed.steps, x)
    after = torch.empty_like(state)
    return many.forward(packed, x[:, None], state, after), after


@pytest.mark.slow
@pytest.mark.filterwarnings("ignore:All-NaN slice encountered", "ignore:invalid value")
@pytest.mark.parametrize("slots", [8, 16], ids=["two groups", "sixteen, bounds, two blocks"])
@torch.no_grad()
def test_a_step(device: str, slots: int, monkeypatch: pytest.MonkeyPatch) -> None:
    """Logits, state and choice are those of the kernels for many, step by step; each step leaves an
    empty mailbox to the one after it; and an unknown token is its own sequence's matter."""
    # In the interpreter one program takes all tiles; on a GPU each of two has one.
    how = dozens.Plan(slots, 1 if device == "cpu" else 2, slots // 2)
    monkeypatch.setattr(dozens, "plan", lambda *_: how)
    config = replace(CONFIG, use_lower_bound=True)
    if slots == 8:
        config = replace(CONFIG, use_lower_bound=False, num_hidden_layers=1, expand_ratio=2)
    packed = model.random(config, device, 3, "bfloat16" if slots == 8 else "int8")
    tokens = torch.tensor([3, 41, 0, 7, 50, 11, 49, 2, 2, 30], device=device)
    known = tokens < 50
    session = Decoder(packed, len(tokens))
    step = session._whole
    assert isinstance(step, dozens.Step)
    session.tokens.copy_(tokens)
    first = int(step.turns[0])  # recording a graph takes steps, too
    nothing = step.mail.view(torch.int32)[:, first].clone()
    assert set(nothing.unique().tolist()) == {messages.EMPTY, octets.NO_CODES}
    for turn in (first,) if slots == 8 else (first, 1 - first):
        expected, after = _expected(packed, session.tokens, session.state)
        session.step()
        logits, state = session.logits, session.state
        assert (logits[known] - expected[known]).abs().max() < ROUNDING
        assert (state[:, known] - after[:, known]).abs().max() < ROUNDING
        assert torch.equal(session.tokens[known], logits[known].argmax(-1))
        assert logits[~known].isnan().all() and state[:, ~known].isnan().all()
        assert (step.turns == 1 - turn).all()
        found = step.mail.view(torch.int32)
        assert torch.equal(found[:, 1 - turn], nothing)
        assert not torch.equal(found[:, turn], nothing)
        session.tokens[~known] = 50


@pytest.mark.parametrize("warps", [4, 8])
@pytest.mark.parametrize(
    ("rows", "columns", "tokens"),
    [(16, 16, 8), (48, 272, 16), (80, 1024, 8), (32, 2816, 8), (16, 1296, 32)],
    ids=["one word", "two octets", "five tiles", "44 strides", "four octets"],
)
def test_products_are_exact(device: str, rows: int, columns: int, tokens: int, warps: int) -> None:
    generator = torch.Generator().manual_seed(5)
    codes = torch.randint(-1, 2, (rows, columns), dtype=torch.int8, generator=generator)
    q = torch.randint(-127, 128, (tokens, columns), dtype=torch.int8, generator=generator)
    q[0], q[1] = 127, -127
    found = dozens.sums(q.to(device), words(ternary.pack(codes.numpy()), device), warps)
    assert torch.equal(found.cpu(), q.float() @ codes.float().mT)


@pytest.mark.slow
@torch.no_grad()
def test_columns_in_several_parts(device: str, monkeypatch: pytest.MonkeyPatch) -> None:
    """A stride at a time, where several would be taken together; of 24 tiles, eight at a time."""
    if device != "cpu":
        pytest.skip("a compiled kernel does not see what is replaced here")
    monkeypatch.setattr(octets, "_strides", lambda columns, *_: (1, -(-columns // 256)))
    monkeypatch.setattr(dozens, "MOST_WORDS", 1024)
    config = replace(CONFIG, hidden_size=384, num_hidden_layers=1, intermediate_size=16)
    packed = model.random(config, device, 3)
    tokens = torch.tensor([3], device=device)
    state, logits = packed.zero_state(1), torch.zeros(1, 50, device=device)
    expected, after = _expected(packed, tokens, state)
    dozens.Step(packed, tokens, state, logits, dozens.Plan(8, 1, 4))()
    assert (logits - expected).abs().max() < ROUNDING
    assert (state - after).abs().max() < ROUNDING


@pytest.mark.parametrize(
    ("hidden", "width", "layers", "batch"),
    [
        *((1024, 2816, 2, batch) for batch in (16, 19, 32, 41, 64)),
        *((2048, 5632, 2, batch) for batch in (7, 9, 32)),
        *((2560, 6912, 1, batch) for batch in (3, 24)),
    ],
)
@torch.no_grad()
def test_programs_of_a_gpu(hidden: int, width: int, layers: int, batch: int, device: str) -> None:
    if device == "cpu":
        pytest.skip("one after another, programs could not wait for each other")
    config = replace(
        CONFIG,
        hidden_size=hidden,
        intermediate_size=width,
        num_hidden_layers=layers,
        vocab_size=1000,
    )
    packed = model.random(config, device)
    tokens = torch.zeros(batch, dtype=torch.int64, device=device)
    state, logits = packed.zero_state(batch), torch.zeros(batch, 1000, device=device)
    step = dozens.Step(packed, tokens, state, logits)
    nothing = step.mail.view(torch.int32)[:, 0].clone()
    generator = torch.Generator().manual_seed(1)
    prompt = torch.randint(1000, (batch, 3), generator=generator).to(device)
    expected = plain.logits(packed, prompt)[:, -1]
    for _ in range(20):
        state.zero_()
        for column in prompt.T:
            tokens.copy_(column)
            step()
        # An activation may fall to the other side of a rounding boundary, in any sequence.
        assert (logits - expected).abs().median(1).values.max() < 0.1 * expected.std()
        assert torch.equal(tokens, logits.argmax(-1))
        other = step.mail.view(torch.int32)[:, 1 - int(step.turns[0])]
        assert not torch.equal(other, nothing)
        assert torch.equal(step.mail.view(torch.int32)[:, int(step.turns[0])], nothing)


def test_what_is_dozens(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(dozens, "INTERPRETED", False)
    cpu = torch.device("cpu")
    for hidden, least, most in ((512, 9, 64), (1024, 9, 64), (2048, 4, 32), (2560, 3, 24)):
        found = [batch for batch in range(1, 70) if dozens.takes(hidden, batch, cpu)]
        assert found == list(range(least, most + 1))
    assert not dozens.takes(2576, 1, cpu)
    assert dozens.plan(1024, 16, cpu) == dozens.Plan(8, 64, 4)
    assert dozens.plan(1024, 17, cpu) == dozens.Plan(8, 44, 8)
    assert dozens.plan(1024, 32, cpu) == dozens.Plan(8, 33, 8)
    assert dozens.plan(1024, 33, cpu) == dozens.plan(1024, 64, cpu) == dozens.Plan(16, 33, 8)
    assert dozens.plan(2048, 8, cpu) == dozens.Plan(8, 128, 8)
    assert dozens.plan(2560, 9, cpu) == dozens.Plan(8, 66, 8)
    # A program has four tiles of the stream at most.
    monkeypatch.setattr(dozens, "processors", lambda _: 32)
    assert dozens.takes(1024, 16, cpu) and not dozens.takes(1024, 17, cpu)
    monkeypatch.setattr(dozens, "processors", lambda _: 2)
    assert not dozens.takes(1024, 64, cpu)


def test_how_tiles_and_columns_are_shared_out() -> None:
    # 176 tiles of 64 programs: three of each, one by one, not four.
    assert dozens.share_of(2816, 64, 16) == (3, 1, 3)
    assert dozens.share_of(1024, 33, 8) == (2, 2, 1)
    assert dozens.share_of(1024, 33, 24) == (2, 1, 2)
    columns = 16, 1024, 2816, 2560
    assert [octets.strides_of(each, 1, 4) for each in columns] == [1, 4, 1, 2]
    assert [octets.parts_of(each, 1, 4) for each in columns] == [1, 1, 11, 5]
    assert [octets.strides_of(each, 2, 8) for each in columns] == [1, 2, 2, 1]
    assert [octets.parts_of(each, 2, 8) for each in columns] == [1, 1, 3, 5]
    assert octets.some_of(2816, 1, 4, 0) == 11
    assert octets.some_of(6912, 1, 4, 16) == 11


def test_reads_of_codes() -> None:
    text, registers = octets.reading(1, 1, 1)
    assert registers == "=&r,l"
    assert text == (
        "{ .reg .pred p; again: ld.relaxed.gpu.global.b32 $0, [$1];"
        " setp.eq.s32 p, $0, -2139062144; vote.sync.any.pred p, p, -1; @p bra again; }"
    )
    text, registers = octets.reading(4, 1, 2)
    assert registers == "=&r,=&r,=&r,=&r,=&r,=&r,=&r,=&r,l,l"
    assert text == (
        "{ .reg .pred p; .reg .b32 m0, m1, m2, m3, m4, m5, m6; again:"
        " ld.relaxed.gpu.global.v4.b32 {$0, $1, $2, $3}, [$8];"
        " ld.relaxed.gpu.global.v4.b32 {$4, $5, $6, $7}, [$9];"
        " min.s32 m0, $0, $1; min.s32 m1, $2, $3; min.s32 m2, $4, $5; min.s32 m3, $6, $7;"
        " min.s32 m4, m0, m1; min.s32 m5, m2, m3; min.s32 m6, m4, m5;"
        " setp.eq.s32 p, m6, -2139062144; vote.sync.any.pred p, p, -1; @p bra again; }"
    )
    # Two places at once: words of one operand lie side by side.
    assert "{$0, $2, $4, $6}, [$8]" in octets.reading(4, 2, 1)[0]
    assert "{$1, $3, $5, $7}, [$9]" in octets.reading(4, 2, 1)[0]
