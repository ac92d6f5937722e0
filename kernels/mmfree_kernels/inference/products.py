"""What the threads of a program compute with some rows of packed weights.

Four threads, a quad, hold the 16 columns of one group of packed weights.  They exchange their codes
(`threads.codes_of`), and each multiplies all 16 with a row of its own, by DP4A: the four rows of
four threads are a quad of rows.  If quads of rows are neighbours in one tile, a thread loads its
words of them at once: with two quads in such a unit, thread t has rows 2 t and 2 t + 1.

The sums of eight quads of rows over a warp are 32, so each lane gets one; and each lane adds up
what all warps have of its row.
"""

import triton
import triton.language as tl

from mmfree_kernels.inference.messages import read
from mmfree_kernels.inference.threads import dp4a, here, number_of, places_of
from mmfree_kernels.ops.bitlinear.packed import INTERPRETED
from mmfree_kernels.ops.gluon import gl, jit

_INTERPRETED = tl.constexpr(INTERPRETED)


@triton.constexpr_function
def rows_layout(warps, values):
    """That of [warps, 32, …] when a thread has what all warps have of a row; 1, 2 or 4 values."""
    more = values.bit_length() - 1
    return gl.BlockedLayout(
        [warps, 1] + [2] * more,
        [1, 32] + [1] * more,
        [1, warps] + [1] * more,
        list(range(2 + more))[::-1],
    )


@triton.constexpr_function
def own_layout(warps):
    """That of [32] when a thread has a row."""
    return gl.SliceLayout(0, rows_layout(warps, 1))


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
    # The group of four words of an input has 16 words of a tile, as many as it has columns.
    PLACES: tl.constexpr = places_of(COLUMNS, 1, WARPS)
    thread = number_of(WARPS)
    # A unit's words of a group lie together, and those of thread t begin at t · UNIT.
    start = thread // 4 * 16 + thread % 4 * UNIT
    some = here(COLUMNS, WARPS)
    found = ()
    for unit in gl.static_range(QUADS // UNIT):
        row = gl.minimum(first + unit * (4 * UNIT), last - 4 * UNIT)
        tile = base + ((row // 16) * COLUMNS + row % 16)
        found += (read(tile + start, some, PLACES, UNIT, gl.int32, False, False),)
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
                total = dp4a(word & mask_of(3 - k), q[4 * r + 3 - k], total)
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
    lane = number_of(WARPS) % 32
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
