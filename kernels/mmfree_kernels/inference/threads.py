"""How the threads of a program hold an input, and how they normalise and quantise it.

The threads of a program hold the words of an input, four neighbouring columns each, in rounds:
in round r, thread t has word r · threads + t.  So 640 words are 2 ½ rounds of 256 threads.  In a
last round that is not full the other threads hold zeros.  Triton's tensors have a power of two of
elements, but rounds and rows are as many as there are.  So a tensor is what all threads hold once,
[warps, 32], and an input is a tuple of them: values 4 r … 4 r + 3 are those of round r.

The norm before a layer and that inside its BitLinear are two in a row.  With z = x · gains0,

    root0² = 1 / (mean x² + eps)      root1² = 1 / (root0² · mean z² + 1e-6),

so one pass over x gives both roots.  For x = 1, 7 and gains0 = 2, 2, mean x² is 25 and root0 = 1/5.
z = 2, 14 has mean z² = 100, so root1² = 1 / (100 / 25) and root1 = 1/2.  The twice normed x, z ·
root0 · root1 = 0.2, 1.4, has the mean square 1.
"""

import triton
import triton.language as tl

from mmfree_kernels.inference.messages import Place, read
from mmfree_kernels.ops.bitlinear.packed import INTERPRETED
from mmfree_kernels.ops.gluon import gl, jit
from mmfree_neuro.hgrn_bit.config import BITLINEAR_EPS

INNER_EPS = tl.constexpr(BITLINEAR_EPS)
_INTERPRETED = tl.constexpr(INTERPRETED)
_LOG2_E = tl.constexpr(1.4426950408889634)

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
    """That of [warps, 32]: each thread has one."""
    return gl.BlockedLayout([1, 1], [1, 32], [warps, 1], [1, 0])


@triton.constexpr_function
def line_layout(warps):
    """That of a line of values, one for each thread at a time."""
    return gl.BlockedLayout([1], [32], [warps], [0])


@triton.constexpr_function
def rounds_of(columns, warps):
    """In how many rounds the threads hold so many columns."""
    return -(-columns // (128 * warps))


@triton.constexpr_function
def places_of(columns, inputs, warps):
    """Where the words of a thread begin, in inputs that lie one behind the other."""
    rounds, each = rounds_of(columns, warps), 128 * warps
    return tuple(
        Place(number * columns + r * each, (r + 1) * each <= columns)
        for number in range(inputs)
        for r in range(rounds)
    )


@jit
def sigmoid(x):
    if _INTERPRETED:
        return 1.0 / (1.0 + tl.exp2(x * -_LOG2_E))
    else:
        return gl.inline_asm_elementwise(
            _SIGMOID, "=f,f", [x * -_LOG2_E], dtype=gl.float32, is_pure=True, pack=1
        )


@jit
def dp4a(codes, q, total):
    """total + Σ code · q over the four bytes of each word; codes have no sign."""
    if _INTERPRETED:
        shifts = (tl.arange(0, 4) * 8)[None, None, :]
        bytes_ = (codes[:, :, None] >> shifts) & 255
        total = total + tl.sum(bytes_ * ((q[:, :, None] << (24 - shifts)) >> 24), 2).to(tl.int32)
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
def number_of(WARPS: tl.constexpr):
    """The number of each thread: [warps, 32]."""
    LAYOUT: tl.constexpr = layout_of(WARPS)
    warp = gl.arange(0, WARPS, layout=gl.SliceLayout(1, LAYOUT))
    lane = gl.arange(0, 32, layout=gl.SliceLayout(0, LAYOUT))
    return warp[:, None] * 32 + lane[None, :]


@jit
def here(COLUMNS: tl.constexpr, WARPS: tl.constexpr):
    """Whether each thread has a word in the last round: 0 or 1."""
    word = number_of(WARPS) + (rounds_of(COLUMNS, WARPS) - 1) * (32 * WARPS)
    return (word < COLUMNS // 4).to(gl.int32)


@jit
def loaded(base, COLUMNS: tl.constexpr, WARPS: tl.constexpr):
    """The four values of each round, float32, from `base` on."""
    return _values(base, COLUMNS, 1, WARPS, False, False)


@jit
def received(base, COLUMNS: tl.constexpr, WARPS: tl.constexpr, LIGHTLY: tl.constexpr):
    """The four messages of each round, from `base` on, once all are there."""
    return _values(base, COLUMNS, 1, WARPS, True, LIGHTLY)


@jit
def received_two(base, COLUMNS: tl.constexpr, WARPS: tl.constexpr, LIGHTLY: tl.constexpr):
    """The messages of two inputs, one behind the other, once all of both are there."""
    both = _values(base, COLUMNS, 2, WARPS, True, LIGHTLY)
    return both[: len(both) // 2], both[len(both) // 2 :]


@jit
def _values(
    base,
    COLUMNS: tl.constexpr,
    INPUTS: tl.constexpr,
    WARPS: tl.constexpr,
    WAITS: tl.constexpr,
    LIGHTLY: tl.constexpr,
):
    PLACES: tl.constexpr = places_of(COLUMNS, INPUTS, WARPS)
    at = base + number_of(WARPS) * 4
    return read(at, here(COLUMNS, WARPS), PLACES, 4, gl.float32, WAITS, LIGHTLY)


@jit
def times(x, y):
    out = (x[0] * y[0],)
    for k in gl.static_range(1, len(x)):
        out += (x[k] * y[k],)
    return out


@jit
def squares(x):
    """The sum of squares of each warp's values: [warps, 1]."""
    a, b, c, d = x[0] * x[0], x[1] * x[1], x[2] * x[2], x[3] * x[3]
    for r in gl.static_range(1, len(x) // 4):
        a += x[4 * r] * x[4 * r]
        b += x[4 * r + 1] * x[4 * r + 1]
        c += x[4 * r + 2] * x[4 * r + 2]
        d += x[4 * r + 3] * x[4 * r + 3]
    return gl.sum((a + b) + (c + d), 1)[:, None]


@jit
def greatest(x):
    """The greatest magnitude of each warp's values: [warps, 1]."""
    one, two = gl.maximum(gl.abs(x[0]), gl.abs(x[1])), gl.maximum(gl.abs(x[2]), gl.abs(x[3]))
    for r in gl.static_range(1, len(x) // 4):
        one = gl.maximum(one, gl.maximum(gl.abs(x[4 * r]), gl.abs(x[4 * r + 1])))
        two = gl.maximum(two, gl.maximum(gl.abs(x[4 * r + 2]), gl.abs(x[4 * r + 3])))
    # Magnitudes are ordered like their bits, and of integers a warp finds the greatest at once.
    bits = gl.maximum(one, two).to(gl.int32, bitcast=True)
    return gl.max(bits, 1)[:, None].to(gl.float32, bitcast=True)


# Warps exchange what they found once: everything side by side, and every thread gets all of it.


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
def _sum(x):
    return gl.sum(gl.sum(x, 0), 0)


@jit
def _max(x):
    return gl.max(gl.max(x, 0), 0)


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
def factor_of(greatest, root):
    """What y is multiplied with for its codes: 1 / `step_of` · root.  Where the greatest is no
    number all codes are 0 or -1, as a message must not look like none."""
    factor = gl.minimum(127.0 / gl.maximum(greatest, 1e-30), root * 12700000.0)
    return gl.where(greatest == greatest, factor, 0.0)


@jit
def _code(y, factor):
    """The nearest integer to y · factor, halves to even, in the lowest byte."""
    return (y * factor + 12582912.0).to(gl.int32, bitcast=True)


@jit
def _of_quad(word, k):
    """The word of thread k of each quad, for all four."""
    quads = gl.reshape(word, (word.shape[0], 8, 4))
    chosen = tl.sum(tl.where(tl.arange(0, 4)[None, None, :] == k, quads, 0), 2).to(tl.int32)
    return gl.reshape(gl.broadcast_to(chosen[:, :, None], quads.shape), word.shape)


@jit
def packed(y, factor):
    """8-bit codes of y · factor, the four of each round in one word."""
    found = ()
    for r in gl.static_range(len(y) // 4):
        a, b = _code(y[4 * r], factor), _code(y[4 * r + 1], factor)
        c, d = _code(y[4 * r + 2], factor), _code(y[4 * r + 3], factor)
        if _INTERPRETED:
            word = (a & 255) | ((b & 255) << 8) | ((c & 255) << 16) | (d << 24)
        else:
            word = gl.inline_asm_elementwise(
                _PACK, "=r,r,r,r,r", [a, b, c, d], dtype=gl.int32, is_pure=True, pack=1
            )
        found += (word,)
    return found


@jit
def codes_of(y, factor):
    """8-bit codes of y · factor: the four words of each quad in each round; and last, -64 times the
    sum of all bytes that a thread has."""
    total = y[0].to(gl.int32) * 0
    words = packed(y, factor)
    found = ()
    for r in gl.static_range(len(words)):
        word = words[r]
        if _INTERPRETED:
            four = _of_quad(word, 0), _of_quad(word, 1), _of_quad(word, 2), _of_quad(word, 3)
        else:
            four = gl.inline_asm_elementwise(
                _QUAD,
                "=r,=r,=r,=r,r",
                [word],
                dtype=(gl.int32, gl.int32, gl.int32, gl.int32),
                is_pure=True,
                pack=1,
            )
        for k in gl.static_range(4):
            total = dp4a(word * 0 + 0x01010101, four[k], total)
        found += (four[0], four[1], four[2], four[3])
    found += (total * -64,)
    return found


@jit
def sent(words, box, COLUMNS: tl.constexpr, WARPS: tl.constexpr):
    """Write the packed codes of all rounds to `box`."""
    thread, last = number_of(WARPS), here(COLUMNS, WARPS) > 0
    for r in gl.static_range(len(words)):
        at = box + r * (32 * WARPS) + thread
        if (r + 1) * (128 * WARPS) <= COLUMNS:
            gl.store(at, words[r])
        else:
            gl.store(at, words[r], mask=last)
