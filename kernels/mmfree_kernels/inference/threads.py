"""How the threads of a program hold an input and some rows of packed weights, and what they
compute together.

The threads of a program hold the words of an input in `ROUNDS` rounds.  The word of a
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

import triton
import triton.language as tl

from mmfree_kernels.inference.messages import floats
from mmfree_kernels.ops.bitlinear.packed import INTERPRETED
from mmfree_kernels.ops.gluon import gl, jit
from mmfree_neuro.hgrn_bit.config import BITLINEAR_EPS

INNER_EPS = tl.constexpr(BITLINEAR_EPS)
_INTERPRETED = tl.constexpr(INTERPRETED)
_LOG2_E = tl.constexpr(1.4426950408889634)

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
def layout_of(warps):
    """That of [quads, rounds, threads]: each thread has all quads and rounds."""
    return gl.BlockedLayout([1, 1, 1], [1, 1, 32], [1, 1, warps], [2, 1, 0])


@triton.constexpr_function
def own_layout(warps):
    """That of [quads, 4] when a thread has a row; more than 8 quads go to more warps."""
    return gl.SliceLayout(1, gl.BlockedLayout([1, warps, 1], [8, 1, 4], [warps, 1, 1], [2, 1, 0]))


@jit
def loaded_four(at):
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
def sigmoid(x):
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
def times(x, y):
    return x[0] * y[0], x[1] * y[1], x[2] * y[2], x[3] * y[3]


@jit
def inside(x, columns, ROUNDS: tl.constexpr, LAYOUT: tl.constexpr, EXACT: tl.constexpr):
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
def places_of(
    columns, ROUNDS: tl.constexpr, THREADS: tl.constexpr, LAYOUT: tl.constexpr, EXACT: tl.constexpr
):
    """Where the words of an input begin; behind its end, the last one does."""
    at = _word(ROUNDS, THREADS, LAYOUT) * 4
    if not EXACT:
        at = gl.minimum(at, columns - 4)
    return at.to(gl.int64)


@jit
def squares(x, WARPS: tl.constexpr):
    """The sum of squares of each warp's values: [warps, 1]."""
    each = gl.sum(x[0] * x[0] + x[1] * x[1] + x[2] * x[2] + x[3] * x[3], 0)
    return gl.sum(gl.reshape(each, (WARPS, 32)), 1)[:, None]


@jit
def greatest(x, WARPS: tl.constexpr):
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
def of_two(sums, greatest, WARPS: tl.constexpr):
    """A sum and a greatest value over all warps."""
    ALL: tl.constexpr = gl.BlockedLayout([WARPS, 1, 2], [32, 1, 1], [WARPS, 1, 1], [2, 1, 0])
    a, b = gl.split(gl.convert_layout(gl.join(sums, greatest), ALL))
    return _sum(a), _max(b)


@jit
def of_three(sums, others, greatest, WARPS: tl.constexpr):
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
def of_five(sums, others, i, f, g, WARPS: tl.constexpr):
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
def root_of(squares, normed, inverse, eps):
    """root0 · root1, from the sums of squares of x and z."""
    root = gl.rsqrt(squares * inverse + eps)
    return root * gl.rsqrt(root * root * (normed * inverse) + INNER_EPS)


@jit
def step_of(greatest, root):
    """What a code of y · root stands for.  Of values that are no numbers it is none."""
    return gl.maximum(greatest * root, 1e-5) * (1.0 / 127.0) + root * 0.0


@jit
def _code(y, factor):
    """The nearest integer to y · factor, halves to even, in the lowest byte."""
    return (y * factor + 12582912.0).to(gl.int32, bitcast=True)


@jit
def codes_of(y, factor):
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
def weights_of(
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
def sums_of(weights, q, WARPS: tl.constexpr):
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
def rows_of(first, QUADS: tl.constexpr, WARPS: tl.constexpr):
    """The rows from `first` on that go to the threads: [quads, 4]."""
    OWN: tl.constexpr = own_layout(WARPS)
    quad = gl.arange(0, QUADS, layout=gl.SliceLayout(1, OWN))
    return first + quad[:, None] * 4 + gl.arange(0, 4, layout=gl.SliceLayout(0, OWN))[None, :]


@jit
def row_of_one(sums, WARPS: tl.constexpr):
    """Sums [quads, warps, 4] over all warps, as float32 [quads, 4]."""
    ROW: tl.constexpr = gl.BlockedLayout([1, WARPS, 1], [8, 1, 4], [WARPS, 1, 1], [2, 1, 0])
    return gl.sum(gl.convert_layout(sums, ROW), 1).to(gl.float32)


@jit
def rows_of_two(a, b, WARPS: tl.constexpr):
    ROW: tl.constexpr = gl.BlockedLayout(
        [1, WARPS, 1, 2], [8, 1, 4, 1], [WARPS, 1, 1, 1], [3, 2, 1, 0]
    )
    OWN: tl.constexpr = own_layout(WARPS)
    a, b = gl.split(gl.convert_layout(gl.join(a, b), ROW))
    a, b = gl.convert_layout(gl.sum(a, 1), OWN), gl.convert_layout(gl.sum(b, 1), OWN)
    return a.to(gl.float32), b.to(gl.float32)


@jit
def rows_of_three(a, b, c, WARPS: tl.constexpr):
    ROW: tl.constexpr = gl.BlockedLayout(
        [1, WARPS, 1, 2, 2], [8, 1, 4, 1, 1], [WARPS, 1, 1, 1, 1], [4, 3, 2, 1, 0]
    )
    OWN: tl.constexpr = own_layout(WARPS)
    both = gl.join(gl.join(a, c), gl.join(b, b))
    first, second = gl.split(gl.convert_layout(both, ROW))
    a, c = gl.split(first)
    b, _ = gl.split(second)
    a, b = gl.convert_layout(gl.sum(a, 1), OWN), gl.convert_layout(gl.sum(b, 1), OWN)
    c = gl.convert_layout(gl.sum(c, 1), OWN)
    return a.to(gl.float32), b.to(gl.float32), c.to(gl.float32)
