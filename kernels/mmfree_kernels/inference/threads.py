"""How the threads of a program hold an input and some rows of packed weights, and what they
compute together.

An input's columns are words of four.  The threads of a program hold them in rounds: in round r
thread t has word r · threads + t, so 640 words are 2 ½ rounds of 256 threads.  Tensors have as many
elements as the program has threads, [warps, 32], and there is a tuple of them: four values for each
round of an input, a packed word for each round of each row.  So a program computes as many rounds
and rows as there are, not a power of two.  In the last round some threads may have no word of their
own; they load the last one and count it as zero.

Four threads, a quad, hold the 16 columns of one group of packed weights.  They exchange their codes,
and each of them multiplies other rows with all 16, by DP4A: a quad of rows, one for each thread.  A
thread loads its rows of up to four quads at once, if they are neighbours in one tile of 16 rows:
with 2 quads in a unit, thread t has rows 2 t and 2 t + 1.

The norm before a layer and that inside its BitLinear are two in a row.  With z = x · gains0,

    root0² = 1 / (mean x² + eps)      root1² = 1 / (root0² · mean z² + 1e-6),

so one pass over x gives both roots.  For x = 1, 7 and gains0 = 2, 2, mean x² is 25 and root0 = 1/5.
z = 2, 14 has mean z² = 100, so root1² = 1 / (100 / 25) and root1 = 1/2.  The twice normed x, z ·
root0 · root1 = 0.2, 1.4, has the mean square 1.
"""

import triton
import triton.language as tl

from mmfree_kernels.inference.messages import read
from mmfree_kernels.ops.bitlinear.packed import INTERPRETED
from mmfree_kernels.ops.gluon import gl, jit
from mmfree_neuro.hgrn_bit.config import BITLINEAR_EPS

SPLIT = 1
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
def rows_layout(warps, values):
    """That of [warps, 32, …] when a thread has what all warps have of a row; 1, 2 or 4 values."""
    more = values.bit_length() - 1
    return gl.BlockedLayout(
        [warps // min(SPLIT, warps), 1] + [2] * more,
        [min(SPLIT, warps), 32 // min(SPLIT, warps)] + [1] * more,
        [1, warps] + [1] * more,
        list(range(2 + more))[::-1],
    )


@triton.constexpr_function
def own_layout(warps):
    """That of [32] when a thread has a row."""
    return gl.SliceLayout(0, rows_layout(warps, 1))


@triton.constexpr_function
def rounds_of(columns, warps):
    """In how many rounds the threads hold so many columns."""
    return -(-columns // (128 * warps))


@triton.constexpr_function
def is_exact(columns, warps):
    """Whether every thread has a word in the last round, too."""
    return columns % (128 * warps) == 0


@triton.constexpr_function
def count_of(quads, group):
    """How many quads group `group` of eight has."""
    return min(8, quads - 8 * group)


@triton.constexpr_function
def width_of(count):
    """The power of two that holds so many."""
    return triton.next_power_of_2(count)


@triton.constexpr_function
def groups_of(quads):
    return -(-quads // 8)


@triton.constexpr_function
def mask_of(k):
    """Bits 2 k and 2 k + 1 of each byte, as int32."""
    mask = 0x03030303 << 2 * k
    return mask - (1 << 32) if mask >> 31 else mask


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
def _thread(WARPS: tl.constexpr):
    """The number of each thread: [warps, 32]."""
    LAYOUT: tl.constexpr = layout_of(WARPS)
    warp = gl.arange(0, WARPS, layout=gl.SliceLayout(1, LAYOUT))
    lane = gl.arange(0, 32, layout=gl.SliceLayout(0, LAYOUT))
    return warp[:, None] * 32 + lane[None, :]


@jit
def _here(COLUMNS: tl.constexpr, WARPS: tl.constexpr):
    """Whether each thread has a word in the last round: 0 or 1."""
    word = _thread(WARPS) + (rounds_of(COLUMNS, WARPS) - 1) * (32 * WARPS)
    return (word < COLUMNS // 4).to(gl.int32)


@jit
def loaded(base, COLUMNS: tl.constexpr, WARPS: tl.constexpr):
    """The four values of each round, float32, from `base` on."""
    return _values(base, COLUMNS, WARPS, False)


@jit
def received(base, COLUMNS: tl.constexpr, WARPS: tl.constexpr):
    """The four messages of each round, from `base` on, once all are there."""
    return _values(base, COLUMNS, WARPS, True)


@jit
def _values(base, COLUMNS: tl.constexpr, WARPS: tl.constexpr, WAITS: tl.constexpr):
    return read(
        base + _thread(WARPS) * 4,
        _here(COLUMNS, WARPS),
        rounds_of(COLUMNS, WARPS),
        not is_exact(COLUMNS, WARPS),
        128 * WARPS,
        4,
        gl.float32,
        WAITS,
    )


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
    """What y is multiplied with for its codes: 1 / `step_of` · root."""
    return gl.minimum(127.0 / greatest, root * 12700000.0)


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
def codes_of(y, factor):
    """8-bit codes of y · factor: the four words of each quad in each round; and last, -64 times the
    sum of all bytes that a thread has."""
    total = y[0].to(gl.int32) * 0
    found = ()
    for r in gl.static_range(len(y) // 4):
        a, b = _code(y[4 * r], factor), _code(y[4 * r + 1], factor)
        c, d = _code(y[4 * r + 2], factor), _code(y[4 * r + 3], factor)
        if _INTERPRETED:
            word = (a & 255) | ((b & 255) << 8) | ((c & 255) << 16) | (d << 24)
            four = _of_quad(word, 0), _of_quad(word, 1), _of_quad(word, 2), _of_quad(word, 3)
        else:
            word = gl.inline_asm_elementwise(
                _PACK, "=r,r,r,r,r", [a, b, c, d], dtype=gl.int32, is_pure=True, pack=1
            )
            four = gl.inline_asm_elementwise(
                _QUAD,
                "=r,=r,=r,=r,r",
                [word],
                dtype=(gl.int32, gl.int32, gl.int32, gl.int32),
                is_pure=True,
                pack=1,
            )
        for k in gl.static_range(4):
            total = _dp4a(word * 0 + 0x01010101, four[k], total)
        found += (four[0], four[1], four[2], four[3])
    found += (total * -64,)
    return found


@jit
def weights_of(
    base,
    first,
    last,
    COLUMNS: tl.constexpr,
    QUADS: tl.constexpr,
    UNIT: tl.constexpr,
    WARPS: tl.constexpr,
):
    """Packed words of a matrix's rows `first` … `last`: of `QUADS` quads of rows, `UNIT` together,
    a tuple of [rounds · UNIT] tensors for each unit.

    Where there are no such rows there are others.
    """
    thread = _thread(WARPS)
    # A unit's words of a group lie together, and those of thread t begin at t · UNIT.
    start = thread // 4 * 16 + thread % 4 * UNIT
    here = _here(COLUMNS, WARPS)
    found = ()
    for unit in gl.static_range(QUADS // UNIT):
        row = gl.minimum(first + unit * (4 * UNIT), last - 4 * UNIT)
        found += (
            read(
                base + ((row // 16) * COLUMNS + row % 16) + start,
                here,
                rounds_of(COLUMNS, WARPS),
                not is_exact(COLUMNS, WARPS),
                128 * WARPS,
                UNIT,
                gl.int32,
                False,
            ),
        )
    return found


@jit
def sums_of(weights, q, QUADS: tl.constexpr, UNIT: tl.constexpr, WARPS: tl.constexpr):
    """Σ weight · q of each warp's groups, for each group of eight quads a tensor [warps, 32]: lane
    4 s + t has row t of quad s."""
    totals = ()
    for quad in gl.static_range(QUADS):
        # Two bits of each byte stay where they are, worth 64, 16, 4 and 1 times a code, and the sum
        # is divided by four in between.
        total = q[len(q) - 1]
        for k in gl.static_range(4):
            for r in gl.static_range(len(q) // 4):
                word = weights[quad // UNIT][r * UNIT + quad % UNIT]
                total = _dp4a(word & mask_of(3 - k), q[4 * r + 3 - k], total)
            if k < 3:
                total = total >> 2
        totals += (total,)
    found = ()
    for group in gl.static_range(groups_of(QUADS)):
        found += (_of_lanes(totals[8 * group : 8 * group + 8], count_of(QUADS, group), WARPS),)
    return found


@jit
def _of_lanes(totals, COUNT: tl.constexpr, WARPS: tl.constexpr):
    """Of up to eight sums of each thread those over each warp: lane 4 s + t has that of sum s over
    lanes t, 4 + t …, with s counted modulo the next power of two."""
    WIDTH: tl.constexpr = width_of(COUNT)
    lane = _thread(WARPS) % 32
    if _INTERPRETED:
        found = totals[0] * 0
        for s in range(COUNT):
            each = tl.sum(tl.reshape(totals[s], (WARPS, 8, 4)), 1)[:, None, :]
            each = tl.reshape(tl.broadcast_to(each, (WARPS, 8, 4)), (WARPS, 32))
            found = tl.where(lane // 4 % WIDTH == s, each, found)
        return found.to(tl.int32)
    else:
        # Threads exchange half of their sums each time: 4, 2 and 1 of eight.
        if WIDTH == 8:
            totals = _halved(totals, COUNT, 4, lane)
        if WIDTH >= 4:
            totals = _halved(totals, COUNT if WIDTH == 4 else 4, 2, lane)
        if WIDTH >= 2:
            totals = _halved(totals, COUNT if WIDTH == 2 else 2, 1, lane)
        total = totals[0]
        if WIDTH < 2:
            total += _of_other(total, 4)
        if WIDTH < 4:
            total += _of_other(total, 8)
        if WIDTH < 8:
            total += _of_other(total, 16)
        return total


@triton.constexpr_function
def _shuffle(bit):
    return f"shfl.sync.bfly.b32 $0, $1, {bit}, 0x1F, -1;"


@jit
def _of_other(x, BIT: tl.constexpr):
    """The value of the lane whose number differs in that bit."""
    return gl.inline_asm_elementwise(
        _shuffle(BIT), "=r,r", [x], dtype=gl.int32, is_pure=True, pack=1
    )


@jit
def _halved(totals, COUNT: tl.constexpr, HALF: tl.constexpr, lane):
    """Sums of two lanes: of COUNT sums the lower lane has the first HALF, the other the rest."""
    upper = (lane & (4 * HALF)) != 0
    found = ()
    for s in gl.static_range(HALF):
        if s + HALF < COUNT:
            kept = gl.where(upper, totals[s + HALF], totals[s])
            sent = gl.where(upper, totals[s], totals[s + HALF])
            found += (kept + _of_other(sent, 4 * HALF),)
        else:
            found += (totals[s] + _of_other(totals[s], 4 * HALF),)
    return found


# A row to one thread: lane 4 s + t has row t of quad s of each group of eight.


@jit
def rows_of(
    first, last, GROUP: tl.constexpr, QUADS: tl.constexpr, UNIT: tl.constexpr, WARPS: tl.constexpr
):
    """The rows, from `first` on, of a group of eight quads, and which of them there are: [32]."""
    lane = gl.arange(0, 32, layout=own_layout(WARPS))
    quad = 8 * GROUP + lane // 4
    row = first + quad // UNIT * (4 * UNIT) + lane % 4 * UNIT + quad % UNIT
    return row, (row < last) & (quad < QUADS)


@jit
def over_warps(sums, COUNT: tl.constexpr, WARPS: tl.constexpr):
    """Tensors [warps, 32] of sums of each warp, summed over all warps: float32 [32]."""
    found = ()
    for four in gl.static_range((COUNT + 3) // 4):
        found += _over_warps(
            sums[4 * four : 4 * four + 4], 4 if COUNT - 4 * four > 4 else COUNT - 4 * four, WARPS
        )
    return found


@jit
def _over_warps(sums, COUNT: tl.constexpr, WARPS: tl.constexpr):
    OWN: tl.constexpr = own_layout(WARPS)
    if COUNT == 1:
        one = gl.sum(gl.convert_layout(sums[0], rows_layout(WARPS, 1)), 0)
        return (one.to(gl.float32),)
    elif COUNT == 2:
        both = gl.convert_layout(gl.join(sums[0], sums[1]), rows_layout(WARPS, 2))
        a, b = gl.split(gl.sum(both, 0))
        return (gl.convert_layout(a, OWN).to(gl.float32), gl.convert_layout(b, OWN).to(gl.float32))
    else:
        both = gl.join(gl.join(sums[0], sums[2]), gl.join(sums[1], sums[COUNT - 1]))
        first, second = gl.split(gl.sum(gl.convert_layout(both, rows_layout(WARPS, 4)), 0))
        a, c = gl.split(first)
        b, d = gl.split(second)
        found = (
            gl.convert_layout(a, OWN).to(gl.float32),
            gl.convert_layout(b, OWN).to(gl.float32),
            gl.convert_layout(c, OWN).to(gl.float32),
        )
        if COUNT == 4:
            found += (gl.convert_layout(d, OWN).to(gl.float32),)
        return found
