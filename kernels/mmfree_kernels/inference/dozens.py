"""One token of each of dozens of sequences through a packed model, in one kernel.

Eight sequences, or sixteen, have a group of programs, which run at the same time and send each
other messages (`messages`).  Every layer of weights has two stages: a program that has all of a row
normalises it and sends its 8-bit codes, and then each program multiplies the codes of all sequences
with its tiles of weights, on the tensor cores, and sends the values.  So a row is normalised once,
for all projections that read it.  A program keeps its own values of the stream x between blocks.
Groups do not meet.
"""

from dataclasses import dataclass
from typing import NamedTuple

import torch
import triton
import triton.language as tl
from torch import Tensor

from mmfree_kernels.inference.few import processors
from mmfree_kernels.inference.layers import choose
from mmfree_kernels.inference.messages import emptied, fetched, mailboxes
from mmfree_kernels.inference.model import PackedModel
from mmfree_kernels.inference.octets import (
    NO_CODES,
    OCTET,
    parcel,
    parts_of,
    places_of,
    rows_of,
    slots_of,
    strides_of,
)
from mmfree_kernels.inference.stages import (
    channel_in,
    head,
    mixer_in,
    normalise,
    normalise_once,
    normalise_opened,
    normalise_thrice,
    onto,
    product_of,
)
from mmfree_kernels.ops.bitlinear.packed import INTERPRETED, overlaps
from mmfree_kernels.ops.gluon import gl, jit
from mmfree_neuro.integers.ternary import TILE

_NO_CODES = tl.constexpr(NO_CODES)


@triton.constexpr_function
def _four_each(warps):
    """The layout of a vector of which a thread has four neighbours."""
    return gl.BlockedLayout([4], [32], [warps], [0])


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
    parcels,
    turns,
    layers,
    batch,
    vocabulary,
    layer_words,
    layer_vectors,
    head_words,
    values_size,
    layer_size,
    size,
    programs,
    slots,
    hidden_tiles,
    inner_tiles,
    width_tiles,
    hidden_inverse,
    inner_inverse,
    width_inverse,
    eps,
    HIDDEN: tl.constexpr,
    INNER: tl.constexpr,
    WIDTH: tl.constexpr,
    SCALED: tl.constexpr,
    BOUNDED: tl.constexpr,
    PREFETCHES: tl.constexpr,
    OCTETS: tl.constexpr,
    WARPS: tl.constexpr,
    COUNT: tl.constexpr,
    HIDDEN_TILES: tl.constexpr,
    INNER_TILES: tl.constexpr,
    INNER_CHUNKS: tl.constexpr,
    WIDTH_TILES: tl.constexpr,
    WIDTH_CHUNKS: tl.constexpr,
    HEAD_TILES: tl.constexpr,
):
    """A token of each sequence, from embedding to choice; group n of the programs has sequences
    n · slots and on.

    `turns` says which of its two mailboxes a group uses now; the other one is emptied.  `parcels`
    is the same memory as `mail`, for what is no float.
    """
    EACH: tl.constexpr = _four_each(WARPS)
    all_, everyone = gl.program_id(0), gl.num_programs(0)
    me, group = all_ % programs, all_ // programs
    begin = group * slots
    count = gl.minimum(slots, batch - begin)
    turn = gl.load(turns + group)
    fetched(words, layer_words, all_, everyone, PREFETCHES)
    fetched(vectors, layer_vectors, all_, everyone, PREFETCHES)
    # Of a block: x, g and silu(state), x between the halves, v; then the codes of x for three
    # projections, and of the three other inputs.  At the end: x, what each program found best, and
    # the codes of x.
    at, other = (2 * group + turn).to(gl.int64) * size, (2 * group + 1 - turn).to(gl.int64) * size
    x, box = mail + at, parcels + at + values_size
    old, old_box = mail + other, parcels + other + values_size
    opened_codes = 3 * parcel(slots, HIDDEN)
    middle_codes = opened_codes + parcel(slots, INNER)
    v_codes = middle_codes + parcel(slots, HIDDEN)
    h_first, s_first, w_first = me * hidden_tiles, me * inner_tiles, me * width_tiles
    h_last = gl.minimum(HIDDEN // 16, h_first + hidden_tiles)
    s_last = gl.minimum(INNER // 16, s_first + inner_tiles)
    w_last = gl.minimum(WIDTH // 16, w_first + width_tiles)

    row, slot = rows_of(h_first, HIDDEN_TILES, WARPS), slots_of(OCTETS, WARPS)
    token = gl.load(tokens + begin + slot, mask=slot < count, other=0)
    known = (token >= 0) & (token < vocabulary)
    live = (row < 16 * h_last) & (slot < count)
    own = gl.load(embedding + token * HIDDEN + row, mask=live & known, other=0).to(gl.float32)
    if SCALED:
        own = own * gl.load(steps + token, mask=known, other=0.0)
    own = gl.where(known, own, float("nan"))
    gl.store(x + slot * HIDDEN + row, own, mask=live)

    state += begin * INNER
    for layer in range(layers):
        out_words = words + 3 * INNER * (HIDDEN // 16)
        up_words = out_words + HIDDEN * (INNER // 16)
        down_words = up_words + 2 * WIDTH * (HIDDEN // 16)
        inner_vectors = vectors + 4 * HIDDEN
        up_vectors = inner_vectors + 2 * INNER
        down_vectors = up_vectors + 2 * HIDDEN
        bounds = down_vectors + WIDTH
        scales = bounds + INNER
        opened = x + slots * HIDDEN
        middle = opened + slots * (2 * INNER)
        v = middle + slots * HIDDEN
        normalise_thrice(
            vectors, scales, x, box, me, programs, count, slots, hidden_inverse, eps, HIDDEN, WARPS
        )
        mixer_in(
            words,
            bounds,
            box,
            state,
            opened,
            s_first,
            s_last,
            count,
            slots,
            HIDDEN,
            INNER,
            BOUNDED,
            OCTETS,
            WARPS,
            INNER_TILES,
            INNER_CHUNKS,
        )
        normalise_opened(
            inner_vectors,
            scales + 4,
            opened,
            box + opened_codes,
            me,
            programs,
            count,
            slots,
            inner_inverse,
            eps,
            INNER,
            WARPS,
        )
        # While the codes are on their way.
        emptied(old, values_size, me, programs, 4 * 32 * WARPS, EACH)
        emptied(old_box, layer_size - values_size, me, programs, 4 * 32 * WARPS, EACH, _NO_CODES)
        if layer + 1 < layers:
            fetched(words + layer_words, layer_words, all_, everyone, PREFETCHES)
            fetched(vectors + layer_vectors, layer_vectors, all_, everyone, PREFETCHES)
        else:
            fetched(words + layer_words, head_words, all_, everyone, PREFETCHES)
        own = onto(
            out_words,
            box + opened_codes,
            own,
            middle,
            h_first,
            h_last,
            count,
            slots,
            HIDDEN,
            INNER,
            OCTETS,
            WARPS,
            HIDDEN_TILES,
        )
        normalise(
            up_vectors,
            scales + 8,
            middle,
            box + middle_codes,
            me,
            programs,
            count,
            slots,
            hidden_inverse,
            eps,
            HIDDEN,
            WARPS,
        )
        channel_in(
            up_words,
            box + middle_codes,
            v,
            w_first,
            w_last,
            count,
            slots,
            HIDDEN,
            WIDTH,
            OCTETS,
            WARPS,
            WIDTH_TILES,
            WIDTH_CHUNKS,
        )
        normalise_once(
            down_vectors,
            scales + 12,
            v,
            box + v_codes,
            me,
            programs,
            count,
            slots,
            width_inverse,
            WIDTH,
            WARPS,
        )
        x += layer_size
        own = onto(
            down_words,
            box + v_codes,
            own,
            x,
            h_first,
            h_last,
            count,
            slots,
            HIDDEN,
            WIDTH,
            OCTETS,
            WARPS,
            HIDDEN_TILES,
        )
        box += layer_size
        old += layer_size
        old_box += layer_size
        words += layer_words
        vectors += layer_vectors
        state += batch * INNER
    bests = x + slots * HIDDEN
    places = bests + slots * programs
    values = slots * (HIDDEN + 2 * programs)
    box += values - values_size
    emptied(old, values, me, programs, 4 * 32 * WARPS, EACH)
    emptied(
        old_box + (values - values_size),
        parcel(slots, HIDDEN),
        me,
        programs,
        4 * 32 * WARPS,
        EACH,
        _NO_CODES,
    )
    normalise(
        vectors,
        vectors + 2 * HIDDEN,
        x,
        box,
        me,
        programs,
        count,
        slots,
        hidden_inverse,
        eps,
        HIDDEN,
        WARPS,
    )
    head(
        words,
        box,
        logits + begin.to(gl.int64) * vocabulary,
        bests,
        places,
        me,
        programs,
        count,
        slots,
        vocabulary,
        HIDDEN,
        OCTETS,
        WARPS,
        HEAD_TILES,
    )
    for number in range(me, count, programs):
        choose(
            bests + number * programs,
            places + number * programs,
            tokens + begin + number,
            programs,
            COUNT,
            WARPS,
        )
    if me == 0:
        # Every program of the group has sent its best, and so has read which turn it is.
        gl.store(turns + group, 1 - turn)


@jit
def _products(
    words,
    box,
    out,
    rows,
    COLUMNS: tl.constexpr,
    OCTETS: tl.constexpr,
    WARPS: tl.constexpr,
    TILES: tl.constexpr,
):
    first, last = gl.program_id(0) * TILES, rows // 16
    found = product_of(
        words, box, first, last, 8 * OCTETS, 8 * OCTETS, COLUMNS, OCTETS, WARPS, TILES
    )
    row = rows_of(first, TILES, WARPS)
    gl.store(out + slots_of(OCTETS, WARPS) * rows + row, found, mask=row < rows)


SEQUENCES = {1024: (9, 64), 2048: (4, 32), 2560: (3, 24)}
"""From so many sequences to so many, of a model of up to so many hidden values, a step is this
kernel.  Of fewer `few` was faster on an H200 (for three of 1.3B, two of 2.7B), or as fast (for
eight of 370M); of more of 1.3B the kernels for many; more of the others have no room."""
MOST_TILES = 4
"""So many tiles of the stream a program has at most, whose weights a thread holds together."""


@dataclass(frozen=True)
class Plan:
    """How many sequences a group has, a multiple of eight, how many programs, and how many warps
    each of these, four or eight."""

    slots: int
    programs: int
    warps: int


def plan(hidden: int, batch: int, device: torch.device) -> Plan:
    """Groups of eight sequences have equal parts of the device's programs, but no more programs
    than the stream has tiles.  More than 32 sequences are in groups of sixteen, with a quarter
    each.

    That was fastest on an H200; a program of four warps was so for up to 16 sequences of 370M.
    """
    slots = OCTET if batch <= 32 else 2 * OCTET
    groups = -(-batch // slots)
    warps = 4 if hidden <= 1024 and groups <= 2 else 8
    if INTERPRETED:
        return Plan(slots, 1, warps)
    share = groups if slots == OCTET else 4
    return Plan(slots, min(hidden // TILE, processors(device) // share), warps)


def takes(hidden: int, batch: int, device: torch.device) -> bool:
    """Whether so many sequences are dozens, and there are programs enough for each group."""
    nothing = 1, 0
    least, most = next((n for largest, n in SEQUENCES.items() if hidden <= largest), nothing)
    if not least <= batch <= most:
        return False
    programs = plan(hidden, batch, device).programs
    return INTERPRETED or MOST_TILES * programs >= hidden // TILE


HEAD_TILES = 2
"""So many tiles of the head a program takes at a time."""


class Share(NamedTuple):
    """How many tiles a program has, in how many chunks of how many."""

    tiles: int
    together: int
    chunks: int


MOST_WORDS = 32
"""So many packed words a thread has of one stage."""


def share_of(rows: int, programs: int, words: int) -> Share:
    """The tiles of so many rows, of which a thread has so many packed words each."""
    tiles = -(-(rows // TILE) // programs)
    choices = [n for n in (8, 4, 2, 1) if n == 1 or n * words <= MOST_WORDS]
    together = min(choices, key=lambda n: (-(-tiles // n) * n, -n))
    return Share(tiles, together, -(-tiles // together))


class Step:
    """The kernel for one model and its sequences, with its mailboxes.

    `tokens` int64 [batch] are read and replaced by the likeliest words that follow, `state`
    float32 [layers, batch, state] is carried, and `logits` float32 [batch, vocabulary] written.
    """

    def __init__(
        self,
        model: PackedModel,
        tokens: Tensor,
        state: Tensor,
        logits: Tensor,
        how: Plan | None = None,
    ) -> None:
        config, batch = model.config, len(tokens)
        how = plan(config.hidden_size, batch, model.device) if how is None else how
        hidden, inner, width = config.hidden_size, config.state_size, config.intermediate_size
        layers, slots, programs = config.num_hidden_layers, how.slots, how.programs
        groups, octets = -(-batch // slots), slots // OCTET

        def codes(columns: int) -> int:
            return slots * int(places_of(columns))

        values_size = slots * (2 * hidden + 2 * inner + width)
        layer_size = values_size + 4 * codes(hidden) + codes(inner) + codes(width)
        end = slots * (hidden + 2 * programs)
        size = layers * layer_size + end + codes(hidden)
        self.mail = mailboxes(groups, size, model.device)
        for box in self.mail.view(torch.int32).view(2 * groups, size):
            blocks = box[: layers * layer_size].view(layers, layer_size)
            blocks[:, values_size:] = NO_CODES
            box[layers * layer_size + end :] = NO_CODES
        self.turns = torch.zeros(groups, dtype=torch.int32, device=model.device)
        words = 2 * strides_of(hidden, octets, how.warps) * parts_of(hidden, octets, how.warps)
        shares = (
            share_of(hidden, programs, 0),
            share_of(inner, programs, 3 * words),
            share_of(width, programs, 2 * words),
        )
        self.arguments = (
            tokens,
            model.embedding,
            tokens if model.steps is None else model.steps,
            model.words,
            model.vectors,
            state,
            logits,
            self.mail,
            self.mail.view(torch.int32),
            self.turns,
            layers,
            batch,
            config.vocab_size,
            model.layer_words,
            model.layer_vectors,
            model.head.weights.numel(),
            values_size,
            layer_size,
            size,
            programs,
            slots,
            *(found.tiles for found in shares),
            *(1 / columns for columns in (hidden, inner, width)),
            config.rms_norm_eps,
        )
        self.constants = {
            "HIDDEN": hidden,
            "INNER": inner,
            "WIDTH": width,
            "SCALED": model.steps is not None,
            "BOUNDED": any(layer.bound is not None for layer in model.layers),
            "PREFETCHES": overlaps(),
            "OCTETS": octets,
            "WARPS": how.warps,
            "COUNT": max(32 * how.warps, triton.next_power_of_2(programs)),
            "HIDDEN_TILES": triton.next_power_of_2(shares[0].tiles),
            "INNER_TILES": shares[1].together,
            "INNER_CHUNKS": shares[1].chunks,
            "WIDTH_TILES": shares[2].together,
            "WIDTH_CHUNKS": shares[2].chunks,
            "HEAD_TILES": HEAD_TILES,
        }
        self.grid, self.warps = (groups * programs,), how.warps

    def __call__(self) -> None:
        """Take a step."""
        _token[self.grid](
            *self.arguments,
            **self.constants,
            num_warps=1 if INTERPRETED else self.warps,
            launch_cooperative_grid=True,
        )


def sums(q: Tensor, packed: Tensor, warps: int) -> Tensor:
    """The products that `Step` takes, by themselves: exact sums float32 [tokens, rows] of codes q
    int8 [tokens, columns], 8, 16, 32 and so on, and packed weights, each below 2^24."""
    tiles, groups, _ = packed.shape
    rows, columns, slots = TILE * tiles, TILE * groups, len(q)
    factors = torch.ones(slots, device=q.device).view(torch.int32)
    parcel_ = torch.cat([q.contiguous().view(torch.int32).flatten(), factors])
    out = torch.empty(slots, rows, device=q.device)
    _products[(triton.cdiv(tiles, HEAD_TILES),)](
        packed,
        parcel_,
        out,
        rows,
        columns,
        slots // OCTET,
        warps,
        HEAD_TILES,
        num_warps=1 if INTERPRETED else warps,
    )
    return out
