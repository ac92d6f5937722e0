"""One token of each of a few sequences through a packed model, in one kernel.

A sequence has a group of programs, which run at the same time and send each other messages
(`messages`).  In every layer of weights a program has some rows.  It loads their weights, waits for
the whole input of the layer, normalises and quantises it for itself, and sends the values of its
rows.  The next layer's wait begins at once, so a token is a wave through 4 layers a block, without
a barrier over all programs.  Meanwhile the weights of the block after this one come to the L2
cache.

How a program computes: its threads hold the words of an input in `ROUNDS` rounds.  The word of a
thread is four neighbouring columns, and so four threads, a quad, hold the 16 columns of one group
of packed weights.  They exchange their words.  Thread t of a quad then has the sums of rows t,
t + 4, t + 8 … with that group, by DP4A.  Sums over the threads of a warp and then over warps are
those of the rows.

The norm before a layer and that inside its BitLinear are two in a row.  With z = x · gains0,

    root0² = 1 / (mean x² + eps)      root1² = 1 / (root0² · mean z² + 1e-6),

so one pass over x gives both roots.  For x = 1, 7 and gains0 = 2, 2, mean x² is 25 and root0 = 1/5.
z = 2, 14 has mean z² = 100, so root1² = 1 / (100 / 25) and root1 = 1/2.  The twice normed x, z ·
root0 · root1 = 0.2, 1.4, has the mean square 1.
"""

from dataclasses import dataclass
from typing import NamedTuple

import torch
import triton
import triton.language as tl
from torch import Tensor

from mmfree_kernels.inference.messages import (
    emptied,
    fetched,
    floats,
    four,
    mailboxes,
    received,
    received_four,
    share,
)
from mmfree_kernels.inference.model import PackedModel
from mmfree_kernels.ops.bitlinear.packed import INTERPRETED, overlaps
from mmfree_kernels.ops.gluon import gl, jit
from mmfree_neuro.hgrn_bit.config import BITLINEAR_EPS

INNER_EPS = tl.constexpr(BITLINEAR_EPS)
_INTERPRETED = tl.constexpr(INTERPRETED)
_LOG2_E = tl.constexpr(1.4426950408889634)

FEW = 1 << 14
"""So many hidden values of several sequences are few."""
LARGE = 2048
"""From so many hidden values on a program has eight warps, below four."""
PROCESSORS = 132
"""Where there is no device to ask."""
HEAD_QUADS = 8
"""Four rows each, of the head's rows that a program takes at a time."""

_LOAD = tl.constexpr("ld.global.nc.v4.b32 {$0, $1, $2, $3}, [$4];")
_QUAD = tl.constexpr(" ".join(f"shfl.sync.idx.b32 ${k}, $4, {k}, 0x1C03, -1;" for k in range(4)))
_PACK = tl.constexpr(
    "{ .reg .b32 l, h; prmt.b32 l, $1, $2, 0x0040; prmt.b32 h, $3, $4, 0x0040;"
    " prmt.b32 $0, l, h, 0x5410; }"
)
_SIGMOID = tl.constexpr(
    "{ .reg .f32 t; ex2.approx.ftz.f32 t, $1; add.f32 t, t, 0f3F800000; rcp.approx.ftz.f32 $0, t; }"
)


@triton.constexpr_function
def _layout(warps):
    """That of [quads, rounds, threads]: each thread has all quads and rounds."""
    return gl.BlockedLayout([1, 1, 1], [1, 1, 32], [1, 1, warps], [2, 1, 0])


@triton.constexpr_function
def _own(warps):
    """That of [quads, 4] when a thread has a row; more than 8 quads go to more warps."""
    return gl.SliceLayout(1, gl.BlockedLayout([1, warps, 1], [8, 1, 4], [warps, 1, 1], [2, 1, 0]))


@jit
def _four(at):
    """The four values, float32, from each place [rounds, threads] on."""
    if _INTERPRETED:
        return gl.load(at), gl.load(at + 1), gl.load(at + 2), gl.load(at + 3)
    else:
        a, b, c, d = gl.inline_asm_elementwise(
            _LOAD,
            "=r,=r,=r,=r,l",
            [at],
            dtype=(gl.int32, gl.int32, gl.int32, gl.int32),
            is_pure=False,
            pack=1,
        )
        return floats(a, b, c, d)


@jit
def _sigmoid(x):
    if _INTERPRETED:
        return 1.0 / (1.0 + tl.exp2(x * -_LOG2_E))
    else:
        return gl.inline_asm_elementwise(
            _SIGMOID, "=f,f", [x * -_LOG2_E], dtype=gl.float32, is_pure=True, pack=1
        )


@jit
def _dp4a(codes, q, total):
    """total + Σ code · q over the four bytes of each word; codes have no sign."""
    if _INTERPRETED:
        for k in range(4):
            total = total + ((codes >> 8 * k) & 255) * ((q << (24 - 8 * k)) >> 24)
        return total
    else:
        return gl.inline_asm_elementwise(
            "dp4a.u32.s32 $0, $1, $2, $3;",
            "=r,r,r,r",
            [codes, q, total],
            dtype=gl.int32,
            is_pure=True,
            pack=1,
        )


@jit
def _times(x, y):
    return x[0] * y[0], x[1] * y[1], x[2] * y[2], x[3] * y[3]


@jit
def _inside(x, columns, ROUNDS: tl.constexpr, LAYOUT: tl.constexpr, EXACT: tl.constexpr):
    """Zero where there are no columns."""
    if EXACT:
        return x
    else:
        here = _word(ROUNDS, x[0].shape[1], LAYOUT) < columns // 4
        return (
            gl.where(here, x[0], 0.0),
            gl.where(here, x[1], 0.0),
            gl.where(here, x[2], 0.0),
            gl.where(here, x[3], 0.0),
        )


@jit
def _word(ROUNDS: tl.constexpr, THREADS: tl.constexpr, LAYOUT: tl.constexpr):
    """Which word each thread holds in each round: [rounds, threads]."""
    round_ = gl.arange(0, ROUNDS, layout=gl.SliceLayout(1, gl.SliceLayout(0, LAYOUT)))
    thread = gl.arange(0, THREADS, layout=gl.SliceLayout(0, gl.SliceLayout(0, LAYOUT)))
    return round_[:, None] * THREADS + thread[None, :]


@jit
def _places(
    columns, ROUNDS: tl.constexpr, THREADS: tl.constexpr, LAYOUT: tl.constexpr, EXACT: tl.constexpr
):
    """Where the words of an input begin; behind its end, the last one does."""
    at = _word(ROUNDS, THREADS, LAYOUT) * 4
    if not EXACT:
        at = gl.minimum(at, columns - 4)
    return at.to(gl.int64)


@jit
def _squares(x, WARPS: tl.constexpr):
    """The sum of squares of each warp's values: [warps, 1]."""
    each = gl.sum(x[0] * x[0] + x[1] * x[1] + x[2] * x[2] + x[3] * x[3], 0)
    return gl.sum(gl.reshape(each, (WARPS, 32)), 1)[:, None]


@jit
def _greatest(x, WARPS: tl.constexpr):
    """The greatest magnitude of each warp's values: [warps, 1]."""
    one, two = gl.maximum(gl.abs(x[0]), gl.abs(x[1])), gl.maximum(gl.abs(x[2]), gl.abs(x[3]))
    return gl.max(gl.reshape(gl.max(gl.maximum(one, two), 0), (WARPS, 32)), 1)[:, None]


# Warps exchange what they found once: everything side by side, and every thread gets all of it.


@jit
def _sum(x):
    return gl.sum(gl.sum(x, 0), 0)


@jit
def _max(x):
    return gl.max(gl.max(x, 0), 0)


@jit
def _of_two(sums, greatest, WARPS: tl.constexpr):
    """A sum and a greatest value over all warps."""
    ALL: tl.constexpr = gl.BlockedLayout([WARPS, 1, 2], [32, 1, 1], [WARPS, 1, 1], [2, 1, 0])
    a, b = gl.split(gl.convert_layout(gl.join(sums, greatest), ALL))
    return _sum(a), _max(b)


@jit
def _of_three(sums, others, greatest, WARPS: tl.constexpr):
    """Two sums and a greatest value over all warps."""
    ALL: tl.constexpr = gl.BlockedLayout(
        [WARPS, 1, 2, 2], [32, 1, 1, 1], [WARPS, 1, 1, 1], [3, 2, 1, 0]
    )
    both = gl.join(gl.join(sums, greatest), gl.join(others, others))
    first, second = gl.split(gl.convert_layout(both, ALL))
    a, c = gl.split(first)
    b, _ = gl.split(second)
    return _sum(a), _sum(b), _max(c)


@jit
def _of_five(sums, others, i, f, g, WARPS: tl.constexpr):
    """Two sums and three greatest values over all warps."""
    ALL: tl.constexpr = gl.BlockedLayout(
        [WARPS, 1, 2, 2, 2], [32, 1, 1, 1, 1], [WARPS, 1, 1, 1, 1], [4, 3, 2, 1, 0]
    )
    last = gl.join(g, g)
    both = gl.join(gl.join(gl.join(sums, others), gl.join(i, f)), gl.join(last, last))
    four_, rest = gl.split(gl.convert_layout(both, ALL))
    two, more = gl.split(four_)
    a, b = gl.split(two)
    c, d = gl.split(more)
    e, _ = gl.split(gl.split(rest)[0])
    return _sum(a), _sum(b), _max(c), _max(d), _max(e)


@jit
def _root(squares, normed, inverse, eps):
    """root0 · root1, from the sums of squares of x and z."""
    root = gl.rsqrt(squares * inverse + eps)
    return root * gl.rsqrt(root * root * (normed * inverse) + INNER_EPS)


@jit
def _step_of(greatest, root):
    """What a code of y · root stands for.  Of values that are no numbers it is none."""
    return gl.maximum(greatest * root, 1e-5) * (1.0 / 127.0) + root * 0.0


@jit
def _code(y, factor):
    """The nearest integer to y · factor, halves to even, in the lowest byte."""
    return (y * factor + 12582912.0).to(gl.int32, bitcast=True)


@jit
def _codes(y, factor):
    """8-bit codes of y · factor: the four words of each quad, and less the sum of their bytes."""
    a, b, c, d = _code(y[0], factor), _code(y[1], factor), _code(y[2], factor), _code(y[3], factor)
    if _INTERPRETED:
        word = (a & 255) | ((b & 255) << 8) | ((c & 255) << 16) | (d << 24)
        q0, q1, q2, q3 = _of_quad(word, 0), _of_quad(word, 1), _of_quad(word, 2), _of_quad(word, 3)
    else:
        word = gl.inline_asm_elementwise(
            _PACK, "=r,r,r,r,r", [a, b, c, d], dtype=gl.int32, is_pure=True, pack=1
        )
        q0, q1, q2, q3 = gl.inline_asm_elementwise(
            _QUAD,
            "=r,=r,=r,=r,r",
            [word],
            dtype=(gl.int32, gl.int32, gl.int32, gl.int32),
            is_pure=True,
            pack=1,
        )
    ones = word * 0 + 0x01010101
    total = _dp4a(ones, q0, _dp4a(ones, q1, _dp4a(ones, q2, _dp4a(ones, q3, word * 0))))
    return q0, q1, q2, q3, -total


@jit
def _of_quad(word, k):
    """The word of thread k of each quad, for all four."""
    quads = gl.reshape(word, (word.shape[0], word.shape[1] // 4, 4))
    chosen = tl.sum(tl.where(tl.arange(0, 4)[None, None, :] == k, quads, 0), 2).to(tl.int32)
    return gl.reshape(gl.broadcast_to(chosen[:, :, None], quads.shape), word.shape)


@jit
def _weights(
    base,
    first,
    last,
    columns,
    QUADS: tl.constexpr,
    UNIT: tl.constexpr,
    ROUNDS: tl.constexpr,
    THREADS: tl.constexpr,
    EXACT: tl.constexpr,
    LAYOUT: tl.constexpr,
):
    """Packed weights [quads, rounds, threads] of a matrix's rows `first` … `last`: quad s has rows
    first + 4 s …

    `UNIT` quads lie in one tile of 16 rows.  Where there are no such rows there are others.
    """
    quad = gl.arange(0, QUADS, layout=gl.SliceLayout(1, gl.SliceLayout(2, LAYOUT)))
    row = gl.minimum(first + quad // UNIT * (4 * UNIT), last - 4 * UNIT)
    tiles = base + ((row // 16) * columns + row % 16)
    thread = gl.arange(0, THREADS, layout=gl.SliceLayout(0, gl.SliceLayout(0, LAYOUT)))
    group = (thread // 4 * 16 + thread % 4).to(gl.int64)[None, :][None, :, :]
    round_ = gl.arange(0, ROUNDS, layout=gl.SliceLayout(0, gl.SliceLayout(2, LAYOUT)))
    within = (quad % UNIT * 4)[:, None, None] + (round_ * (4 * THREADS))[None, :, None]
    at = (tiles[:, None, None] + group) + within
    if EXACT:
        return gl.load(at)
    else:
        here = _word(ROUNDS, THREADS, LAYOUT) < columns // 4
        return gl.load(at, mask=here[None, :, :] & (quad >= 0)[:, None, None], other=0)


@jit
def _sums(weights, q, WARPS: tl.constexpr):
    """Σ weight · q of each warp's groups, [quads, warps, 4]; weights are [quads, rounds,
    threads]."""
    total = _dp4a(weights & 0x03030303, q[0][None, :, :], q[4][None, :, :])
    total = _dp4a((weights >> 2) & 0x03030303, q[1][None, :, :], total)
    total = _dp4a((weights >> 4) & 0x03030303, q[2][None, :, :], total)
    total = _dp4a((weights >> 6) & 0x03030303, q[3][None, :, :], total)
    each = gl.reshape(gl.sum(total, 1), (weights.shape[0], WARPS, 8, 4))
    return gl.sum(each, 2)


# The sums of a quad's four rows go to four threads, of each quad to others: a row to one thread.


@jit
def _rows(first, QUADS: tl.constexpr, WARPS: tl.constexpr):
    """The rows from `first` on that go to the threads: [quads, 4]."""
    OWN: tl.constexpr = _own(WARPS)
    quad = gl.arange(0, QUADS, layout=gl.SliceLayout(1, OWN))
    return first + quad[:, None] * 4 + gl.arange(0, 4, layout=gl.SliceLayout(0, OWN))[None, :]


@jit
def _row_of_one(sums, WARPS: tl.constexpr):
    """Sums [quads, warps, 4] over all warps, as float32 [quads, 4]."""
    ROW: tl.constexpr = gl.BlockedLayout([1, WARPS, 1], [8, 1, 4], [WARPS, 1, 1], [2, 1, 0])
    return gl.sum(gl.convert_layout(sums, ROW), 1).to(gl.float32)


@jit
def _rows_of_two(a, b, WARPS: tl.constexpr):
    ROW: tl.constexpr = gl.BlockedLayout(
        [1, WARPS, 1, 2], [8, 1, 4, 1], [WARPS, 1, 1, 1], [3, 2, 1, 0]
    )
    OWN: tl.constexpr = _own(WARPS)
    a, b = gl.split(gl.convert_layout(gl.join(a, b), ROW))
    a, b = gl.convert_layout(gl.sum(a, 1), OWN), gl.convert_layout(gl.sum(b, 1), OWN)
    return a.to(gl.float32), b.to(gl.float32)


@jit
def _rows_of_three(a, b, c, WARPS: tl.constexpr):
    ROW: tl.constexpr = gl.BlockedLayout(
        [1, WARPS, 1, 2, 2], [8, 1, 4, 1, 1], [WARPS, 1, 1, 1, 1], [4, 3, 2, 1, 0]
    )
    OWN: tl.constexpr = _own(WARPS)
    both = gl.join(gl.join(a, c), gl.join(b, b))
    first, second = gl.split(gl.convert_layout(both, ROW))
    a, c = gl.split(first)
    b, _ = gl.split(second)
    a, b = gl.convert_layout(gl.sum(a, 1), OWN), gl.convert_layout(gl.sum(b, 1), OWN)
    c = gl.convert_layout(gl.sum(c, 1), OWN)
    return a.to(gl.float32), b.to(gl.float32), c.to(gl.float32)


@jit
def _mixer_in(
    words,
    vectors,
    scales,
    bounds,
    x,
    state,
    gates,
    opened,
    first,
    last,
    hidden,
    inner,
    inverse,
    eps,
    BOUNDED: tl.constexpr,
    ROUNDS: tl.constexpr,
    EXACT: tl.constexpr,
    QUADS: tl.constexpr,
    UNIT: tl.constexpr,
    CHUNKS: tl.constexpr,
    TEXT: tl.constexpr,
    REGISTERS: tl.constexpr,
    PACK: tl.constexpr,
    WARPS: tl.constexpr,
):
    """state = f · state + silu(i) · (1 - f), and send g and silu(state), by three projections of
    the twice normed x."""
    LAYOUT: tl.constexpr = _layout(WARPS)
    THREADS: tl.constexpr = 32 * WARPS
    # The three lie one above another: each is so many words.
    third = inner * (hidden // 16)
    wi = _weights(words, first, last, hidden, QUADS, UNIT, ROUNDS, THREADS, EXACT, LAYOUT)
    wf = _weights(words + third, first, last, hidden, QUADS, UNIT, ROUNDS, THREADS, EXACT, LAYOUT)
    wg = _weights(
        words + 2 * third, first, last, hidden, QUADS, UNIT, ROUNDS, THREADS, EXACT, LAYOUT
    )
    at = _places(hidden, ROUNDS, THREADS, LAYOUT, EXACT)
    outer, i_gains = _four(vectors + at), _four(vectors + hidden + at)
    f_gains, g_gains = _four(vectors + 2 * hidden + at), _four(vectors + 3 * hidden + at)
    i_scale, f_scale, g_scale = gl.load(scales), gl.load(scales + 1), gl.load(scales + 2)
    found = received_four(x + at, TEXT, REGISTERS, PACK)
    found = _inside(found, hidden, ROUNDS, LAYOUT, EXACT)
    z = _times(found, outer)
    # Each projection has gains of its own and so quantises z for itself.
    yi, yf, yg = _times(z, i_gains), _times(z, f_gains), _times(z, g_gains)
    squares, normed, mi, mf, mg = _of_five(
        _squares(found, WARPS),
        _squares(z, WARPS),
        _greatest(yi, WARPS),
        _greatest(yf, WARPS),
        _greatest(yg, WARPS),
        WARPS,
    )
    root = _root(squares, normed, inverse, eps)
    ni, nf, ng = _step_of(mi, root), _step_of(mf, root), _step_of(mg, root)
    qi, qf, qg = _codes(yi, root / ni), _codes(yf, root / nf), _codes(yg, root / ng)
    for chunk in gl.static_range(CHUNKS):
        begin = first + chunk * (4 * QUADS)
        if chunk > 0:
            wi = _weights(words, begin, last, hidden, QUADS, UNIT, ROUNDS, THREADS, EXACT, LAYOUT)
            wf = _weights(
                words + third, begin, last, hidden, QUADS, UNIT, ROUNDS, THREADS, EXACT, LAYOUT
            )
            wg = _weights(
                words + 2 * third, begin, last, hidden, QUADS, UNIT, ROUNDS, THREADS, EXACT, LAYOUT
            )
        row = _rows(begin, QUADS, WARPS)
        live = row < last
        before = gl.load(state + row, mask=live, other=0.0)
        i, f, g = _rows_of_three(
            _sums(wi, qi, WARPS), _sums(wf, qf, WARPS), _sums(wg, qg, WARPS), WARPS
        )
        i, f, g = i * (ni * i_scale), _sigmoid(f * (nf * f_scale)), g * (ng * g_scale)
        if BOUNDED:
            bound = gl.load(bounds + row, mask=live, other=0.0)
            f = bound + (1 - bound) * f
        h = f * before + i * _sigmoid(i) * (1 - f)
        gl.store(gates + row, g, mask=live)
        gl.store(opened + row, h * _sigmoid(h), mask=live)
        gl.store(state + row, h, mask=live)


@jit
def _mixer_out(
    words,
    vectors,
    scale,
    gates,
    opened,
    x,
    out,
    first,
    last,
    inner,
    inverse,
    eps,
    ROUNDS: tl.constexpr,
    EXACT: tl.constexpr,
    QUADS: tl.constexpr,
    UNIT: tl.constexpr,
    CHUNKS: tl.constexpr,
    TEXT: tl.constexpr,
    REGISTERS: tl.constexpr,
    PACK: tl.constexpr,
    WARPS: tl.constexpr,
):
    """Send x + the projection of RMS(g) · silu(state)."""
    LAYOUT: tl.constexpr = _layout(WARPS)
    THREADS: tl.constexpr = 32 * WARPS
    own = _weights(words, first, last, inner, QUADS, UNIT, ROUNDS, THREADS, EXACT, LAYOUT)
    at = _places(inner, ROUNDS, THREADS, LAYOUT, EXACT)
    outer, gains, factor = _four(vectors + at), _four(vectors + inner + at), gl.load(scale)
    g, h = (
        received_four(gates + at, TEXT, REGISTERS, PACK),
        received_four(opened + at, TEXT, REGISTERS, PACK),
    )
    g, h = _inside(g, inner, ROUNDS, LAYOUT, EXACT), _inside(h, inner, ROUNDS, LAYOUT, EXACT)
    z = _times(_times(g, outer), h)
    y = _times(z, gains)
    squares, normed, greatest = _of_three(
        _squares(g, WARPS), _squares(z, WARPS), _greatest(y, WARPS), WARPS
    )
    root = _root(squares, normed, inverse, eps)
    step = _step_of(greatest, root)
    _added(
        own,
        words,
        _codes(y, root / step),
        step * factor,
        x,
        out,
        first,
        last,
        inner,
        ROUNDS,
        EXACT,
        QUADS,
        UNIT,
        CHUNKS,
        WARPS,
    )


@jit
def _added(
    own,
    words,
    q,
    factor,
    x,
    out,
    first,
    last,
    columns,
    ROUNDS: tl.constexpr,
    EXACT: tl.constexpr,
    QUADS: tl.constexpr,
    UNIT: tl.constexpr,
    CHUNKS: tl.constexpr,
    WARPS: tl.constexpr,
):
    """Send x + factor · the products of q and the program's rows, the first of which are `own`."""
    for chunk in gl.static_range(CHUNKS):
        begin = first + chunk * (4 * QUADS)
        if chunk > 0:
            own = _weights(
                words, begin, last, columns, QUADS, UNIT, ROUNDS, 32 * WARPS, EXACT, _layout(WARPS)
            )
        row = _rows(begin, QUADS, WARPS)
        live = row < last
        # It has arrived already: the whole input of the block has.
        before = gl.load(x + row, mask=live, other=0.0, cache_modifier=".cg")
        found = gl.convert_layout(_row_of_one(_sums(own, q, WARPS), WARPS), _own(WARPS))
        gl.store(out + row, before + found * factor, mask=live)


@jit
def _channel_in(
    words,
    vectors,
    scale,
    x,
    out,
    first,
    last,
    hidden,
    width,
    inverse,
    eps,
    ROUNDS: tl.constexpr,
    EXACT: tl.constexpr,
    QUADS: tl.constexpr,
    UNIT: tl.constexpr,
    CHUNKS: tl.constexpr,
    TEXT: tl.constexpr,
    REGISTERS: tl.constexpr,
    PACK: tl.constexpr,
    WARPS: tl.constexpr,
):
    """Send silu(gate) · up, from the two projections of the twice normed x."""
    LAYOUT: tl.constexpr = _layout(WARPS)
    THREADS: tl.constexpr = 32 * WARPS
    half = width * (hidden // 16)
    wg = _weights(words, first, last, hidden, QUADS, UNIT, ROUNDS, THREADS, EXACT, LAYOUT)
    wu = _weights(words + half, first, last, hidden, QUADS, UNIT, ROUNDS, THREADS, EXACT, LAYOUT)
    q, factor = _normed(
        vectors, scale, x, hidden, inverse, eps, ROUNDS, EXACT, TEXT, REGISTERS, PACK, WARPS
    )
    for chunk in gl.static_range(CHUNKS):
        begin = first + chunk * (4 * QUADS)
        if chunk > 0:
            wg = _weights(words, begin, last, hidden, QUADS, UNIT, ROUNDS, THREADS, EXACT, LAYOUT)
            wu = _weights(
                words + half, begin, last, hidden, QUADS, UNIT, ROUNDS, THREADS, EXACT, LAYOUT
            )
        row = _rows(begin, QUADS, WARPS)
        gate, up = _rows_of_two(_sums(wg, q, WARPS), _sums(wu, q, WARPS), WARPS)
        gate, up = gate * factor, up * factor
        gl.store(out + row, gate * _sigmoid(gate) * up, mask=row < last)


@jit
def _normed(
    vectors,
    scale,
    x,
    columns,
    inverse,
    eps,
    ROUNDS: tl.constexpr,
    EXACT: tl.constexpr,
    TEXT: tl.constexpr,
    REGISTERS: tl.constexpr,
    PACK: tl.constexpr,
    WARPS: tl.constexpr,
):
    """The codes of the twice normed x, once it has come, and what a product with them is worth.

    `vectors` has the gains of both norms, one behind the other.
    """
    LAYOUT: tl.constexpr = _layout(WARPS)
    THREADS: tl.constexpr = 32 * WARPS
    at = _places(columns, ROUNDS, THREADS, LAYOUT, EXACT)
    outer, gains, factor = _four(vectors + at), _four(vectors + columns + at), gl.load(scale)
    found = received_four(x + at, TEXT, REGISTERS, PACK)
    found = _inside(found, columns, ROUNDS, LAYOUT, EXACT)
    z = _times(found, outer)
    y = _times(z, gains)
    squares, normed, greatest = _of_three(
        _squares(found, WARPS), _squares(z, WARPS), _greatest(y, WARPS), WARPS
    )
    root = _root(squares, normed, inverse, eps)
    step = _step_of(greatest, root)
    return _codes(y, root / step), step * factor


@jit
def _channel_out(
    words,
    vectors,
    scale,
    v,
    x,
    out,
    first,
    last,
    width,
    inverse,
    ROUNDS: tl.constexpr,
    EXACT: tl.constexpr,
    QUADS: tl.constexpr,
    UNIT: tl.constexpr,
    CHUNKS: tl.constexpr,
    TEXT: tl.constexpr,
    REGISTERS: tl.constexpr,
    PACK: tl.constexpr,
    WARPS: tl.constexpr,
):
    """Send x + the projection of the normed v."""
    LAYOUT: tl.constexpr = _layout(WARPS)
    THREADS: tl.constexpr = 32 * WARPS
    own = _weights(words, first, last, width, QUADS, UNIT, ROUNDS, THREADS, EXACT, LAYOUT)
    at = _places(width, ROUNDS, THREADS, LAYOUT, EXACT)
    gains, factor = _four(vectors + at), gl.load(scale)
    found = received_four(v + at, TEXT, REGISTERS, PACK)
    found = _inside(found, width, ROUNDS, LAYOUT, EXACT)
    y = _times(found, gains)
    squares, greatest = _of_two(_squares(found, WARPS), _greatest(y, WARPS), WARPS)
    root = gl.rsqrt(squares * inverse + INNER_EPS)
    step = _step_of(greatest, root)
    _added(
        own,
        words,
        _codes(y, root / step),
        step * factor,
        x,
        out,
        first,
        last,
        width,
        ROUNDS,
        EXACT,
        QUADS,
        UNIT,
        CHUNKS,
        WARPS,
    )


@jit
def _head(
    words,
    vectors,
    x,
    logits,
    bests,
    places,
    me,
    programs,
    hidden,
    vocabulary,
    inverse,
    eps,
    ROUNDS: tl.constexpr,
    EXACT: tl.constexpr,
    QUADS: tl.constexpr,
    TEXT: tl.constexpr,
    REGISTERS: tl.constexpr,
    PACK: tl.constexpr,
    WARPS: tl.constexpr,
):
    """logits = the projection of the twice normed x; send the greatest of a program's, and the
    first word that has it."""
    LAYOUT: tl.constexpr = _layout(WARPS)
    THREADS: tl.constexpr = 32 * WARPS
    OWN: tl.constexpr = _own(WARPS)
    end = (vocabulary + 15) // 16 * 16  # the last tile is full, too
    ahead = _weights(words, me * (4 * QUADS), end, hidden, QUADS, 4, ROUNDS, THREADS, EXACT, LAYOUT)
    q, factor = _normed(
        vectors,
        vectors + 2 * hidden,
        x,
        hidden,
        inverse,
        eps,
        ROUNDS,
        EXACT,
        TEXT,
        REGISTERS,
        PACK,
        WARPS,
    )
    best = gl.full((QUADS, 4), float("-inf"), gl.float32, layout=OWN)
    where = gl.full((QUADS, 4), 0, gl.int32, layout=OWN)
    for first in range(me * (4 * QUADS), vocabulary, programs * (4 * QUADS)):
        now = ahead
        after = first + programs * (4 * QUADS)
        ahead = _weights(words, after, end, hidden, QUADS, 4, ROUNDS, THREADS, EXACT, LAYOUT)
        found = gl.convert_layout(_row_of_one(_sums(now, q, WARPS), WARPS), OWN) * factor
        row = _rows(first, QUADS, WARPS)
        gl.store(logits + row, found, mask=row < vocabulary)
        better = (found > best) & (row < vocabulary)
        where = gl.where(better, row, where)
        best = gl.where(better, found, best)
    most = gl.max(gl.max(best, 1), 0)
    # Of words with the same logit the lowest is chosen.
    lowest = gl.min(gl.min(gl.where(best == most, where, vocabulary), 1), 0)
    gl.store(bests + me, most)
    gl.store(places + me, lowest.to(gl.float32))


@jit
def _choose(bests, places, tokens, programs, COUNT: tl.constexpr, WARPS: tl.constexpr):
    """The token of the greatest logit of all programs, the lowest of those that have it."""
    THREAD: tl.constexpr = gl.SliceLayout(0, gl.SliceLayout(0, _layout(WARPS)))
    program = gl.minimum(gl.arange(0, COUNT, layout=THREAD), programs - 1)
    value, word = received(bests + program), received(places + program)
    chosen = gl.min(gl.where(value == gl.max(value, 0), word, 16777216.0), 0)
    gl.store(tokens, chosen.to(gl.int64))


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
        gl.SliceLayout(0, gl.SliceLayout(0, _layout(WARPS))),
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
        row = _rows(h_first + chunk * (4 * HIDDEN_QUADS), HIDDEN_QUADS, WARPS)
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
        _mixer_in(
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
        _mixer_out(
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
        _channel_in(
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
        _channel_out(
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
    _head(
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
        _choose(bests, bests + programs, tokens + group, programs, COUNT, WARPS)
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
    LAYOUT: tl.constexpr = _layout(WARPS)
    THREADS: tl.constexpr = 32 * WARPS
    first = gl.program_id(0) * (4 * QUADS)
    own = _weights(words, first, rows, columns, QUADS, 1, ROUNDS, THREADS, EXACT, LAYOUT)
    found = _four(codes + _places(columns, ROUNDS, THREADS, LAYOUT, EXACT))
    q = _codes(_inside(found, columns, ROUNDS, LAYOUT, EXACT), 1.0)
    each = gl.convert_layout(_row_of_one(_sums(own, q, WARPS), WARPS), _own(WARPS))
    row = _rows(first, QUADS, WARPS)
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
