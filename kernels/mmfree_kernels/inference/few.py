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
from mmfree_kernels.inference.messages import emptied, fetched, mailboxes
from mmfree_kernels.inference.model import PackedModel
from mmfree_kernels.inference.products import groups_of, over_warps, rows_of, sums_of, weights_of
from mmfree_kernels.inference.threads import codes_of, line_layout, loaded, rounds_of
from mmfree_kernels.ops.bitlinear.packed import INTERPRETED, overlaps
from mmfree_kernels.ops.gluon import gl, jit

FEW = 8192
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
    HIDDEN: tl.constexpr,
    HIDDEN_QUADS: tl.constexpr,
    HIDDEN_UNIT: tl.constexpr,
    HIDDEN_CHUNKS: tl.constexpr,
    INNER: tl.constexpr,
    INNER_QUADS: tl.constexpr,
    INNER_UNIT: tl.constexpr,
    INNER_CHUNKS: tl.constexpr,
    WIDTH: tl.constexpr,
    WIDTH_QUADS: tl.constexpr,
    WIDTH_UNIT: tl.constexpr,
    WIDTH_CHUNKS: tl.constexpr,
    HEAD_QUADS: tl.constexpr,
):
    """A token of each sequence, from embedding to choice; group n of the programs has sequence n.

    `turns` says which of its two mailboxes a group uses now; the other one is emptied.
    """
    all_, everyone = gl.program_id(0), gl.num_programs(0)
    me, group = all_ % programs, all_ // programs
    turn = gl.load(turns + group)
    fetched(words, layer_words, all_, everyone, PREFETCHES)
    fetched(vectors, layer_vectors, all_, everyone, PREFETCHES)
    emptied(
        mail + (2 * group + 1 - turn) * size, size, me, programs, 32 * WARPS, line_layout(WARPS)
    )
    # A mailbox: x before each block and at the end, x between the halves, g and silu(state)
    # of each block, v, and what each program found best.
    x = mail + (2 * group + turn) * size
    middle = x + (layers + 1) * HIDDEN
    gates = middle + layers * HIDDEN
    v = gates + 2 * layers * INNER
    bests = v + layers * WIDTH
    h_first, s_first, w_first = me * hidden_rows, me * inner_rows, me * width_rows
    h_last = gl.minimum(HIDDEN, h_first + hidden_rows)
    s_last = gl.minimum(INNER, s_first + inner_rows)
    w_last = gl.minimum(WIDTH, w_first + width_rows)

    token = gl.load(tokens + group)
    known = (token >= 0) & (token < vocabulary)
    step = 1.0
    if SCALED:
        step = gl.load(steps + token, mask=known, other=0.0)
    for start in range(h_first, h_last, 32 * WARPS):
        row = start + gl.arange(0, 32 * WARPS, layout=line_layout(WARPS))
        live = row < h_last
        value = gl.load(embedding + token * HIDDEN + row, mask=live & known, other=0)
        value = gl.where(known, value.to(gl.float32) * step, float("nan"))
        gl.store(x + row, value, mask=live)

    state += group * INNER
    # How many words each layer of a block has.
    in_size, out_size = 3 * INNER * (HIDDEN // 16), HIDDEN * (INNER // 16)
    up_size, down_size = 2 * WIDTH * (HIDDEN // 16), HIDDEN * (WIDTH // 16)
    for layer in range(layers):
        out_words = words + in_size
        up_words = out_words + out_size
        down_words = up_words + up_size
        inner_vectors = vectors + 4 * HIDDEN
        up_vectors = inner_vectors + 2 * INNER
        down_vectors = up_vectors + 2 * HIDDEN
        bounds = down_vectors + WIDTH
        scales = bounds + INNER
        # Ahead of each layer, that of the next block comes; at the end the head.
        more = layer + 1 < layers
        if more:
            fetched(vectors + layer_vectors, layer_vectors, all_, everyone, PREFETCHES)
            fetched(words + layer_words, in_size, all_, everyone, PREFETCHES)
        else:
            fetched(words + layer_words, head_words, all_, everyone, PREFETCHES)
        mixer_in(
            words,
            vectors,
            scales,
            bounds,
            x,
            state,
            gates,
            s_first,
            s_last,
            hidden_inverse,
            eps,
            HIDDEN,
            INNER,
            BOUNDED,
            INNER_QUADS,
            INNER_UNIT,
            INNER_CHUNKS,
            WARPS,
        )
        if more:
            fetched(out_words + layer_words, out_size, all_, everyone, PREFETCHES)
        mixer_out(
            out_words,
            inner_vectors,
            scales + 4,
            gates,
            x,
            middle,
            h_first,
            h_last,
            inner_inverse,
            eps,
            INNER,
            HIDDEN_QUADS,
            HIDDEN_UNIT,
            HIDDEN_CHUNKS,
            WARPS,
        )
        if more:
            fetched(up_words + layer_words, up_size, all_, everyone, PREFETCHES)
        channel_in(
            up_words,
            up_vectors,
            scales + 8,
            middle,
            v,
            w_first,
            w_last,
            hidden_inverse,
            eps,
            HIDDEN,
            WIDTH,
            WIDTH_QUADS,
            WIDTH_UNIT,
            WIDTH_CHUNKS,
            WARPS,
        )
        if more:
            fetched(down_words + layer_words, down_size, all_, everyone, PREFETCHES)
        channel_out(
            down_words,
            down_vectors,
            scales + 12,
            v,
            middle,
            x + HIDDEN,
            h_first,
            h_last,
            width_inverse,
            WIDTH,
            HIDDEN_QUADS,
            HIDDEN_UNIT,
            HIDDEN_CHUNKS,
            WARPS,
        )
        words += layer_words
        vectors += layer_vectors
        x += HIDDEN
        middle += HIDDEN
        gates += 2 * INNER
        v += WIDTH
        state += batch * INNER
    head(
        words,
        vectors,
        x,
        logits + group * vocabulary,
        bests,
        bests + programs,
        me,
        programs,
        vocabulary,
        hidden_inverse,
        eps,
        HIDDEN,
        HEAD_QUADS,
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
    COLUMNS: tl.constexpr,
    QUADS: tl.constexpr,
    UNIT: tl.constexpr,
    WARPS: tl.constexpr,
):
    first = gl.program_id(0) * (4 * QUADS)
    last = gl.minimum(rows, first + 4 * QUADS)
    own = weights_of(words, first, last, COLUMNS, QUADS, UNIT, WARPS)
    q = codes_of(loaded(codes, COLUMNS, WARPS), 1.0)
    each = over_warps(sums_of(own, q, QUADS, UNIT, WARPS), groups_of(QUADS), WARPS)
    for group in gl.static_range(groups_of(QUADS)):
        row, live = rows_of(first, last, group, QUADS, UNIT, WARPS)
        gl.store(out + row, each[group], mask=live)


class Cut(NamedTuple):
    """How many rows a program has, in how many chunks of how many quads, and how many of these lie
    in one tile."""

    rows: int
    quads: int
    unit: int
    chunks: int


SPARE = 1.1
"""A program may have so many times its share of rows, so that more of them lie in one tile."""
WORDS = 96
"""So many packed words of its rows a thread can hold."""


def cut(rows: int, programs: int, matrices: int, rounds: int) -> Cut:
    """How to cut rows, a multiple of 16, for that many programs, whose threads hold their input in
    so many rounds.

    Where a thread cannot hold all words at once, it holds those of two chunks.
    """
    share_ = -(-(rows // 4) // programs)
    unit = next(u for u in (4, 2, 1) if -(-share_ // u) * u <= SPARE * share_ or u == 1)
    units = -(-share_ // unit)
    words = unit * matrices * rounds
    chunks = 1 if units * words <= WORDS else -(-units // max(1, WORDS // (2 * words)))
    together = -(-units // chunks)
    return Cut(4 * unit * units, unit * together, unit, -(-units // together))


@dataclass(frozen=True)
class Plan:
    """How many programs a sequence has, of how many warps."""

    programs: int
    warps: int


def processors(device: torch.device) -> int:
    """How many programs run at the same time, one on each."""
    if device.type == "cuda":
        return torch.cuda.get_device_properties(device).multi_processor_count
    return PROCESSORS


def plan(hidden: int, batch: int, device: torch.device) -> Plan:
    """The programs that are resident at once, shared out among the sequences.

    On an H200 370M was fastest with four warps, two programs a processor where there are several
    sequences; a program of eight warps has a processor for itself.
    """
    warps = 4 if hidden < LARGE else 8
    if INTERPRETED:
        return Plan(1, 1)
    most = processors(device)
    resident = most * (2 if warps == 4 and batch > 1 else 1)
    return Plan(min(most, resident // batch), warps)


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
        rounds = {name: rounds_of(columns, how.warps) for name, columns in inputs.items()}
        widest = max(rounds["INNER"], rounds["WIDTH"])
        cuts = {
            "HIDDEN": cut(hidden, programs, 1, widest),
            "INNER": cut(inner, programs, 3, rounds["HIDDEN"]),
            "WIDTH": cut(width, programs, 2, rounds["HIDDEN"]),
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
            self.constants |= {
                name: inputs[name],
                f"{name}_QUADS": cuts[name].quads,
                f"{name}_UNIT": cuts[name].unit,
                f"{name}_CHUNKS": cuts[name].chunks,
            }
        self.grid, self.warps = (batch * programs,), how.warps

    def __call__(self) -> None:
        """Take a step."""
        _token[self.grid](
            *self.arguments, **self.constants, num_warps=self.warps, launch_cooperative_grid=True
        )


def sums(q: Tensor, packed: Tensor, warps: int = 4, quads: int = 4, unit: int = 4) -> Tensor:
    """The products that `Step` takes, by themselves: exact sums float32 [tokens, rows] of codes q
    int8 [tokens, columns] and packed weights, each below 2^24."""
    tiles, groups, _ = packed.shape
    rows, columns = 16 * tiles, 16 * groups
    out = torch.empty(len(q), rows, device=q.device)
    for codes, row in zip(q.float(), out, strict=True):
        _products[(triton.cdiv(rows, 4 * quads),)](
            codes, packed, row, rows, columns, quads, unit, warps, num_warps=warps
        )
    return out
