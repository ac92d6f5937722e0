"""One token of each of a few sequences through a packed model, in one kernel.

A sequence has a group of programs, which run at the same time and send each other messages
(`messages`).  In every layer of weights a program has some rows.  It loads their weights, waits for
the whole input of the layer, normalises and quantises it for itself, and sends the values of its
rows.  The next layer's wait begins at once, so a token is a wave through 4 layers a block, without
a barrier over all programs.  Meanwhile the weights of the block after this one come to the L2
cache.
"""

from dataclasses import dataclass
from typing import NamedTuple

import torch
import triton
import triton.language as tl
from torch import Tensor

from mmfree_kernels.inference.layers import (
    channel_in,
    channel_out,
    choose,
    head,
    mixer_in,
    mixer_out,
)
from mmfree_kernels.inference.messages import emptied, fetched, four, mailboxes, share
from mmfree_kernels.inference.model import PackedModel
from mmfree_kernels.inference.threads import (
    codes_of,
    inside,
    layout_of,
    loaded_four,
    own_layout,
    places_of,
    row_of_one,
    rows_of,
    sums_of,
    weights_of,
)
from mmfree_kernels.ops.bitlinear.packed import INTERPRETED, overlaps
from mmfree_kernels.ops.gluon import gl, jit

FEW = 1 << 14
"""So many hidden values of several sequences are few."""
LARGE = 2048
"""From so many hidden values on a program has eight warps, below four."""
PROCESSORS = 132
"""Where there is no device to ask."""
HEAD_QUADS = 8
"""Four rows each, of the head's rows that a program takes at a time."""


@jit
def _token(
    tokens,
    embedding,
    steps,
    words,
    vectors,
    state,
    logits,
    mail,
    turns,
    layers,
    batch,
    hidden,
    inner,
    width,
    vocabulary,
    layer_words,
    layer_vectors,
    head_words,
    size,
    programs,
    hidden_rows,
    inner_rows,
    width_rows,
    hidden_inverse,
    inner_inverse,
    width_inverse,
    eps,
    SCALED: tl.constexpr,
    BOUNDED: tl.constexpr,
    PREFETCHES: tl.constexpr,
    WARPS: tl.constexpr,
    COUNT: tl.constexpr,
    HIDDEN_ROUNDS: tl.constexpr,
    HIDDEN_EXACT: tl.constexpr,
    HIDDEN_QUADS: tl.constexpr,
    HIDDEN_UNIT: tl.constexpr,
    HIDDEN_CHUNKS: tl.constexpr,
    HIDDEN_TEXT: tl.constexpr,
    HIDDEN_REGISTERS: tl.constexpr,
    HIDDEN_PACK: tl.constexpr,
    INNER_ROUNDS: tl.constexpr,
    INNER_EXACT: tl.constexpr,
    INNER_QUADS: tl.constexpr,
    INNER_UNIT: tl.constexpr,
    INNER_CHUNKS: tl.constexpr,
    INNER_TEXT: tl.constexpr,
    INNER_REGISTERS: tl.constexpr,
    INNER_PACK: tl.constexpr,
    WIDTH_ROUNDS: tl.constexpr,
    WIDTH_EXACT: tl.constexpr,
    WIDTH_QUADS: tl.constexpr,
    WIDTH_UNIT: tl.constexpr,
    WIDTH_CHUNKS: tl.constexpr,
    WIDTH_TEXT: tl.constexpr,
    WIDTH_REGISTERS: tl.constexpr,
    WIDTH_PACK: tl.constexpr,
    HEAD_QUADS: tl.constexpr,
):
    """A token of each sequence, from embedding to choice; group n of the programs has sequence n.

    `turns` says which of its two mailboxes a group uses now; the other one is emptied.
    """
    all_, everyone = gl.program_id(0), gl.num_programs(0)
    me, group = all_ % programs, all_ // programs
    turn = gl.load(turns + group)
    word_start, word_bytes = share(layer_words, all_, everyone)
    vector_start, vector_bytes = share(layer_vectors, all_, everyone)
    head_start, head_bytes = share(head_words, all_, everyone)
    fetched(words + word_start, word_bytes, PREFETCHES)
    fetched(vectors + vector_start, vector_bytes, PREFETCHES)
    emptied(
        mail + (2 * group + 1 - turn) * size,
        size,
        me,
        programs,
        32 * WARPS,
        gl.SliceLayout(0, gl.SliceLayout(0, layout_of(WARPS))),
    )
    # A mailbox: x before each block and at the end, x between the halves, g, silu(state), v, and
    # what each program found best.
    x = mail + (2 * group + turn) * size
    middle = x + (layers + 1) * hidden
    gates = middle + layers * hidden
    opened = gates + layers * inner
    v = opened + layers * inner
    bests = v + layers * width
    h_first, s_first, w_first = me * hidden_rows, me * inner_rows, me * width_rows
    h_last = gl.minimum(hidden, h_first + hidden_rows)
    s_last = gl.minimum(inner, s_first + inner_rows)
    w_last = gl.minimum(width, w_first + width_rows)

    token = gl.load(tokens + group)
    known = (token >= 0) & (token < vocabulary)
    step = 1.0
    if SCALED:
        step = gl.load(steps + token, mask=known, other=0.0)
    for chunk in gl.static_range(HIDDEN_CHUNKS):
        row = rows_of(h_first + chunk * (4 * HIDDEN_QUADS), HIDDEN_QUADS, WARPS)
        live = row < h_last
        value = gl.load(embedding + token * hidden + row, mask=live & known, other=0)
        value = gl.where(known, value.to(gl.float32) * step, float("nan"))
        gl.store(x + row, value, mask=live)

    state += group * inner
    for layer in range(layers):
        out_words = words + 3 * inner * (hidden // 16)
        up_words = out_words + hidden * (inner // 16)
        down_words = up_words + 2 * width * (hidden // 16)
        inner_vectors = vectors + 4 * hidden
        up_vectors = inner_vectors + 2 * inner
        down_vectors = up_vectors + 2 * hidden
        bounds = down_vectors + width
        scales = bounds + inner
        if layer + 1 < layers:
            fetched(words + layer_words + word_start, word_bytes, PREFETCHES)
            fetched(vectors + layer_vectors + vector_start, vector_bytes, PREFETCHES)
        else:
            fetched(words + layer_words + head_start, head_bytes, PREFETCHES)
        mixer_in(
            words,
            vectors,
            scales,
            bounds,
            x,
            state,
            gates,
            opened,
            s_first,
            s_last,
            hidden,
            inner,
            hidden_inverse,
            eps,
            BOUNDED,
            HIDDEN_ROUNDS,
            HIDDEN_EXACT,
            INNER_QUADS,
            INNER_UNIT,
            INNER_CHUNKS,
            HIDDEN_TEXT,
            HIDDEN_REGISTERS,
            HIDDEN_PACK,
            WARPS,
        )
        mixer_out(
            out_words,
            inner_vectors,
            scales + 4,
            gates,
            opened,
            x,
            middle,
            h_first,
            h_last,
            inner,
            inner_inverse,
            eps,
            INNER_ROUNDS,
            INNER_EXACT,
            HIDDEN_QUADS,
            HIDDEN_UNIT,
            HIDDEN_CHUNKS,
            INNER_TEXT,
            INNER_REGISTERS,
            INNER_PACK,
            WARPS,
        )
        channel_in(
            up_words,
            up_vectors,
            scales + 8,
            middle,
            v,
            w_first,
            w_last,
            hidden,
            width,
            hidden_inverse,
            eps,
            HIDDEN_ROUNDS,
            HIDDEN_EXACT,
            WIDTH_QUADS,
            WIDTH_UNIT,
            WIDTH_CHUNKS,
            HIDDEN_TEXT,
            HIDDEN_REGISTERS,
            HIDDEN_PACK,
            WARPS,
        )
        channel_out(
            down_words,
            down_vectors,
            scales + 12,
            v,
            middle,
            x + hidden,
            h_first,
            h_last,
            width,
            width_inverse,
            WIDTH_ROUNDS,
            WIDTH_EXACT,
            HIDDEN_QUADS,
            HIDDEN_UNIT,
            HIDDEN_CHUNKS,
            WIDTH_TEXT,
            WIDTH_REGISTERS,
            WIDTH_PACK,
            WARPS,
        )
        words += layer_words
        vectors += layer_vectors
        x += hidden
        middle += hidden
        gates += inner
        opened += inner
        v += width
        state += batch * inner
    head(
        words,
        vectors,
        x,
        logits + group * vocabulary,
        bests,
        bests + programs,
        me,
        programs,
        hidden,
        vocabulary,
        hidden_inverse,
        eps,
        HIDDEN_ROUNDS,
        HIDDEN_EXACT,
        HEAD_QUADS,
        HIDDEN_TEXT,
        HIDDEN_REGISTERS,
        HIDDEN_PACK,
        WARPS,
    )
    if me == 0:
        choose(bests, bests + programs, tokens + group, programs, COUNT, WARPS)
        # Every program of the group has sent its best, and so has read which turn it is.
        gl.store(turns + group, 1 - turn)


@jit
def _products(
    codes,
    words,
    out,
    rows,
    columns,
    ROUNDS: tl.constexpr,
    EXACT: tl.constexpr,
    QUADS: tl.constexpr,
    WARPS: tl.constexpr,
):
    LAYOUT: tl.constexpr = layout_of(WARPS)
    THREADS: tl.constexpr = 32 * WARPS
    first = gl.program_id(0) * (4 * QUADS)
    own = weights_of(words, first, rows, columns, QUADS, 1, ROUNDS, THREADS, EXACT, LAYOUT)
    found = loaded_four(codes + places_of(columns, ROUNDS, THREADS, LAYOUT, EXACT))
    q = codes_of(inside(found, columns, ROUNDS, LAYOUT, EXACT), 1.0)
    each = gl.convert_layout(row_of_one(sums_of(own, q, WARPS), WARPS), own_layout(WARPS))
    row = rows_of(first, QUADS, WARPS)
    gl.store(out + row, each, mask=row < rows)


class Input(NamedTuple):
    """How the threads of a program hold an input: in how many rounds, and whether exactly."""

    rounds: int
    exact: bool


class Cut(NamedTuple):
    """How many rows a program has, in how many chunks of how many quads, and how many of these lie
    in one tile."""

    rows: int
    quads: int
    unit: int
    chunks: int


def held(columns: int, warps: int) -> Input:
    """How `warps` warps hold so many columns."""
    rounds = max(1, triton.next_power_of_2(columns // 4) // (32 * warps))
    return Input(rounds, rounds * 32 * warps == columns // 4)


SPARE = 1.15
"""A program may have so many times its share of rows, so that more of them lie in one tile."""
WORDS = 32
"""So many packed words of a matrix a thread loads at a time; twice as many of several matrices."""


def cut(rows: int, programs: int, matrices: int, rounds: int) -> Cut:
    """How to cut rows, a multiple of 16, for that many programs, whose threads hold their input in
    so many rounds."""
    share_ = -(-(rows // 4) // programs)
    unit = next(u for u in (4, 2, 1) if -(-share_ // u) * u <= SPARE * share_ or u == 1)
    quads = -(-share_ // unit) * unit
    words = WORDS * min(matrices, 2)
    most = max(unit, 1 << max(0, (words // (matrices * rounds)).bit_length() - 1))
    together = min(most, triton.next_power_of_2(quads))
    return Cut(4 * quads, together, unit, -(-quads // together))


@dataclass(frozen=True)
class Plan:
    """How many programs a sequence has, of how many warps."""

    programs: int
    warps: int


def plan(hidden: int, batch: int, device: torch.device) -> Plan:
    """The programs that are resident at once, shared out among the sequences.

    On an H200 370M was fastest with four warps, two programs a processor where there are several
    sequences; a program of eight warps has a processor for itself.
    """
    warps = 4 if hidden < LARGE else 8
    if INTERPRETED:
        return Plan(1, 1)
    processors = (
        torch.cuda.get_device_properties(device).multi_processor_count
        if device.type == "cuda"
        else PROCESSORS
    )
    resident = processors * (2 if warps == 4 and batch > 1 else 1)
    return Plan(min(processors, resident // batch), warps)


def takes(hidden: int, batch: int, device: torch.device) -> bool:
    """Whether so many sequences are few: one always is, more while all hidden values together are
    at most `FEW`, and each has a program."""
    if batch > 1 and batch * hidden > FEW:
        return False
    return plan(hidden, batch, device).programs > 0


class Step:
    """The kernel for one model and its sequences, with its mailboxes.

    `tokens` int64 [batch] are read and replaced by the likeliest words that follow, `state`
    float32 [layers, batch, state] is carried, and `logits` float32 [batch, vocabulary] written.
    """

    def __init__(self, model: PackedModel, tokens: Tensor, state: Tensor, logits: Tensor) -> None:
        config, batch = model.config, len(tokens)
        hidden, inner, width = config.hidden_size, config.state_size, config.intermediate_size
        layers = config.num_hidden_layers
        how = plan(hidden, batch, model.device)
        programs = how.programs
        size = (layers + 1) * hidden + layers * (hidden + 2 * inner + width) + 2 * programs
        self.mail = mailboxes(batch, -(-size // 4) * 4, model.device)
        self.turns = torch.zeros(batch, dtype=torch.int32, device=model.device)
        inputs = {"HIDDEN": hidden, "INNER": inner, "WIDTH": width}
        found = {name: held(columns, how.warps) for name, columns in inputs.items()}
        widest = max(found["INNER"].rounds, found["WIDTH"].rounds)
        cuts = {
            "HIDDEN": cut(hidden, programs, 1, widest),
            "INNER": cut(inner, programs, 3, found["HIDDEN"].rounds),
            "WIDTH": cut(width, programs, 2, found["HIDDEN"].rounds),
        }
        self.arguments = (
            tokens,
            model.embedding,
            tokens if model.steps is None else model.steps,
            model.words,
            model.vectors,
            state,
            logits,
            self.mail,
            self.turns,
            layers,
            batch,
            hidden,
            inner,
            width,
            config.vocab_size,
            model.layer_words,
            model.layer_vectors,
            model.head.weights.numel(),
            self.mail.shape[2],
            programs,
            *(cuts[name].rows for name in inputs),
            *(1 / columns for columns in inputs.values()),
            config.rms_norm_eps,
        )
        self.constants = {
            "SCALED": model.steps is not None,
            "BOUNDED": any(layer.bound is not None for layer in model.layers),
            "PREFETCHES": overlaps(),
            "WARPS": how.warps,
            "COUNT": max(32 * how.warps, triton.next_power_of_2(programs)),
            "HEAD_QUADS": HEAD_QUADS,
        }
        for name in inputs:
            reads = four(found[name].rounds)
            self.constants |= {
                f"{name}_ROUNDS": found[name].rounds,
                f"{name}_EXACT": found[name].exact,
                f"{name}_QUADS": cuts[name].quads,
                f"{name}_UNIT": cuts[name].unit,
                f"{name}_CHUNKS": cuts[name].chunks,
                f"{name}_TEXT": reads.text,
                f"{name}_REGISTERS": reads.registers,
                f"{name}_PACK": reads.pack,
            }
        self.grid, self.warps = (batch * programs,), how.warps

    def __call__(self) -> None:
        """Take a step."""
        _token[self.grid](
            *self.arguments, **self.constants, num_warps=self.warps, launch_cooperative_grid=True
        )


def sums(q: Tensor, packed: Tensor, warps: int = 4) -> Tensor:
    """The products that `Step` takes, by themselves: exact sums float32 [tokens, rows] of codes q
    int8 [tokens, columns] and packed weights, each below 2^24."""
    tiles, groups, _ = packed.shape
    rows, columns = 16 * tiles, 16 * groups
    out = torch.empty(len(q), rows, device=q.device)
    warps = 1 if INTERPRETED else warps
    how = held(columns, warps)
    for codes, row in zip(q.float(), out, strict=True):
        _products[(triton.cdiv(rows, 16),)](
            codes, packed, row, rows, columns, how.rounds, how.exact, 4, warps, num_warps=warps
        )
    return out
