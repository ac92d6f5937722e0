"""Products of octets of sequences with packed weights on the tensor cores, and how the threads of a
program hold them.

A tile is 16 rows of weights, and eight sequences are an octet.  The instruction
`mma.m16n8k32` multiplies a tile with an octet over 32 columns.  Thread 4 i + t of a warp gives it
rows i and i + 8 of the tile, and sequence i of the octet.  Which columns the instruction takes for
which is free, as long as both sides agree.  So thread t of four takes a whole group of 16 columns:
the word of packed weights of each of its rows, and 16 neighbouring codes of its sequence.  Two
instructions then multiply 64 columns, a stride.

The warps share out the strides.  What they found goes through shared memory, and each thread has
one of the four values that a warp's thread had: that of row `lane / 4 + 8 · high` and sequence
`2 · (lane % 4) + odd`.  Of eight warps, four have the values of a tile and four those of another
one, or the same.  Tensors of such values are [tiles, octets, 32 lanes, 2 odd, 2 high].

Packed codes of weights have no sign: 0, 1, 2 for -1, 0, +1.  So products begin at minus the sum of
the sequence's codes, which the tensor cores find, too.
"""

import triton
import triton.language as tl

from mmfree_kernels.ops.bitlinear.packed import INTERPRETED
from mmfree_kernels.ops.gluon import gl, jit

STRIDE = 64
"""Columns that a warp multiplies at a time."""
OCTET = 8
"""So many sequences the tensor cores take at a time."""
NO_CODES = -0x7F7F7F80
"""What stands where no codes have come: a code is never -128, so they are all greater as int32, and
so is every factor."""
MOST_READS = 16
"""So many reads of 16 codes a thread has on their way at most."""
_INTERPRETED = tl.constexpr(INTERPRETED)

_MULTIPLY = tl.constexpr(
    "mma.sync.aligned.m16n8k32.row.col.s32.u8.s8.s32"
    " {$0, $1, $2, $3}, {$4, $5, $6, $7}, {$12, $13}, {$16, $17, $16, $17};"
    " mma.sync.aligned.m16n8k32.row.col.s32.u8.s8.s32"
    " {$0, $1, $2, $3}, {$8, $9, $10, $11}, {$14, $15}, {$0, $1, $2, $3};"
)
_MULTIPLY_REGISTERS = tl.constexpr(",".join(["=&r"] * 4 + ["r"] * 14))
# Every row of weights is -1: the upper ones' products are those of the lower ones.
_SUBTRACT = tl.constexpr(
    "{ .reg .b32 z, c, d; mov.b32 z, 0;"
    " mma.sync.aligned.m16n8k32.row.col.s32.s8.s8.s32"
    " {$0, $1, c, d}, {$6, $6, $6, $6}, {$2, $3}, {z, z, z, z};"
    " mma.sync.aligned.m16n8k32.row.col.s32.s8.s8.s32"
    " {$0, $1, c, d}, {$6, $6, $6, $6}, {$4, $5}, {$0, $1, c, d}; }"
)
# Four by four codes of two rows.
_UNPACK = tl.constexpr(
    "{ .reg .b32 t; and.b32 $0, $8, 0x03030303; and.b32 $1, $9, 0x03030303;"
    + "".join(
        f" shr.u32 t, $8, {2 * p}; and.b32 ${2 * p}, t, 0x03030303;"
        f" shr.u32 t, $9, {2 * p}; and.b32 ${2 * p + 1}, t, 0x03030303;"
        for p in (1, 2, 3)
    )
    + " }"
)
_UNPACK_REGISTERS = tl.constexpr(",".join(["=&r"] * 8 + ["r"] * 2))


@triton.constexpr_function
def _strides(columns, octets, warps):
    """How a warp goes through its columns: so many strides at a time, a power of two, so often."""
    each = -(-columns // (STRIDE * warps))
    choices = [n for n in (4, 2, 1) if n * octets <= MOST_READS]
    together = min(choices, key=lambda n: (-(-each // n) * n, -n))
    return together, -(-each // together)


@triton.constexpr_function
def strides_of(columns, octets, warps):
    """How many strides a warp takes at a time."""
    return _strides(columns, octets, warps)[0]


@triton.constexpr_function
def parts_of(columns, octets, warps):
    """How often a warp takes them."""
    return _strides(columns, octets, warps)[1]


@triton.constexpr_function
def together_of(columns, octets, warps):
    """Of how many parts a thread reads the codes at a time."""
    return max(1, MOST_READS // (octets * _strides(columns, octets, warps)[0]))


@triton.constexpr_function
def some_of(columns, octets, warps, first):
    """Of how many parts from `first` on."""
    return min(together_of(columns, octets, warps), parts_of(columns, octets, warps) - first)


@triton.constexpr_function
def _least(words):
    """The assembly that finds the least of some words, two by two, so that none waits for long; and
    the registers that it fills, the last one with the least."""
    tests, names = [], []
    while len(words) > 1:
        found = []
        for n in range(0, len(words) - 1, 2):
            names.append(f"m{len(tests)}")
            tests.append(f"min.s32 {names[-1]}, {words[n]}, {words[n + 1]};")
            found.append(names[-1])
        words = found + words[2 * len(found) :]
    return tests, names or words


@triton.constexpr_function
def reading(width, pack, operands):
    """The assembly that reads `width` words from each of a thread's places, once all are there, and
    its registers.

    It takes `pack` places at once from each of so many operands, which are addresses.
    """
    words, loads = [], []
    outputs = width * operands * pack
    for operand in range(operands):
        for place in range(pack):
            own = [f"${(width * operand + j) * pack + place}" for j in range(width)]
            into = f"{{{', '.join(own)}}}" if width > 1 else own[0]
            vector = ".v4" if width > 1 else ""
            at = outputs + operand * pack + place
            loads.append(f"ld.relaxed.gpu.global{vector}.b32 {into}, [${at}];")
            words += own
    tests, names = _least(words)
    registers = f" .reg .b32 {', '.join(names)};" if tests else ""
    start = f"{{ .reg .pred p;{registers} again:"
    end = f"setp.eq.s32 p, {names[-1]}, {NO_CODES}; vote.sync.any.pred p, p, -1; @p bra again; }}"
    constraints = ["=&r"] * outputs + ["l"] * (operands * pack)
    return " ".join([start, *loads, *tests, end]), ",".join(constraints)


@triton.constexpr_function
def _types(count):
    return (gl.int32,) * count


@triton.constexpr_function
def _axis(parent, rank, axis):
    """The layout of a vector along one axis of a tensor of that layout."""
    for other in reversed(range(rank)):
        if other != axis:
            parent = gl.SliceLayout(other, parent)
    return parent


@triton.constexpr_function
def _spread(warps):
    """That of [tiles, octets, strides, threads]: a thread has all tiles, octets and strides."""
    return gl.BlockedLayout([1, 1, 1, 1], [1, 1, 1, 32], [1, 1, 1, warps], [3, 2, 1, 0])


@triton.constexpr_function
def _codes_layout(warps):
    """That of [octets, strides, threads]."""
    return gl.SliceLayout(0, _spread(warps))


@triton.constexpr_function
def _all(rank, warps):
    """That of [tiles, octets, warps, lanes, odd, high], and of several such side by side: a thread
    has what all warps found for one value."""
    more = rank - 6
    return gl.BlockedLayout(
        [1, 1, warps, 1, 1, 1] + [2] * more,
        [1, 1, 1, 32, 1, 1] + [1] * more,
        [warps // 4, 1, 1, 1, 2, 2] + [1] * more,
        list(reversed(range(rank))),
    )


@triton.constexpr_function
def own(warps):
    """That of [tiles, octets, lanes, odd, high]."""
    return gl.SliceLayout(2, _all(6, warps))


@jit
def rows_of(tile, TILES: tl.constexpr, WARPS: tl.constexpr):
    """The rows of the values that a thread has of `TILES` tiles from `tile` on: [tiles, 1, lanes,
    1, high]."""
    OWN: tl.constexpr = own(WARPS)
    tiles = gl.arange(0, TILES, layout=_axis(OWN, 5, 0))[:, None, None, None, None]
    lane = gl.arange(0, 32, layout=_axis(OWN, 5, 2))[None, None, :, None, None]
    high = gl.arange(0, 2, layout=_axis(OWN, 5, 4))[None, None, None, None, :]
    return (tile + tiles) * 16 + lane // 4 + high * 8


@jit
def slots_of(OCTETS: tl.constexpr, WARPS: tl.constexpr):
    """Their sequences: [1, octets, lanes, odd, 1]."""
    OWN: tl.constexpr = own(WARPS)
    octet = gl.arange(0, OCTETS, layout=_axis(OWN, 5, 1))[None, :, None, None, None]
    lane = gl.arange(0, 32, layout=_axis(OWN, 5, 2))[None, None, :, None, None]
    odd = gl.arange(0, 2, layout=_axis(OWN, 5, 3))[None, None, None, :, None]
    return octet * 8 + lane % 4 * 2 + odd


@jit
def weights_of(
    words,
    tile,
    last,
    COLUMNS: tl.constexpr,
    OCTETS: tl.constexpr,
    WARPS: tl.constexpr,
    TILES: tl.constexpr,
):
    """The packed words of a thread: for each part two, of rows `lane / 4` and eight below, [tiles,
    1, strides, threads].

    Where there are no columns the words are 0, and where there are no tiles they are others.
    """
    LAYOUT: tl.constexpr = _spread(WARPS)
    STRIDES: tl.constexpr = strides_of(COLUMNS, OCTETS, WARPS)
    PARTS: tl.constexpr = parts_of(COLUMNS, OCTETS, WARPS)
    GROUPS: tl.constexpr = COLUMNS // 16
    tiles = gl.arange(0, TILES, layout=_axis(LAYOUT, 4, 0))[:, None, None, None]
    stride = gl.arange(0, STRIDES, layout=_axis(LAYOUT, 4, 2))[None, None, :, None]
    thread = gl.arange(0, 32 * WARPS, layout=_axis(LAYOUT, 4, 3))[None, None, None, :]
    start = gl.minimum(tile + tiles, last - 1) * GROUPS
    found = ()
    for part in gl.static_range(PARTS):
        group = ((part * STRIDES + stride) * WARPS + thread // 32) * 4 + thread % 4
        at = (start + group) * 16 + thread % 32 // 4
        if (part + 1) * STRIDES * WARPS * 4 <= GROUPS:
            both = (gl.load(words + at), gl.load(words + at + 8))
        else:
            here = (group < GROUPS) & (tiles >= 0)
            both = (
                gl.load(words + at, mask=here, other=0),
                gl.load(words + at + 8, mask=here, other=0),
            )
        found += (both,)
    return found


@triton.constexpr_function
def places_of(columns):
    """How many places the codes of a sequence take, with their factor."""
    return columns // 4 + 1


@jit
def parcel(slots, COLUMNS: tl.constexpr):
    """How many places the codes of so many sequences take."""
    return slots * places_of(COLUMNS)


@jit
def _read(places, WIDTH: tl.constexpr, PACK: tl.constexpr):
    """`WIDTH` words from each place on, once all have come."""
    found = ()
    if _INTERPRETED:
        for k in range(WIDTH * len(places)):
            found += (gl.load(places[k // WIDTH] + k % WIDTH),)
    else:
        READING: tl.constexpr = reading(WIDTH, PACK, len(places))
        found = gl.inline_asm_elementwise(
            READING[0],
            READING[1],
            places,
            dtype=_types(WIDTH * len(places)),
            is_pure=False,
            pack=PACK,
        )
    return found


@jit
def worth(boxes, count, slots, COLUMNS: tl.constexpr, OCTETS: tl.constexpr, WARPS: tl.constexpr):
    """What the codes of each parcel stand for, of the sequences of a thread's values, [1, octets,
    lanes, odd, 1], once that has come.

    It is sent last.  Whoever waits for it first reads the codes once, as many programs that read
    all codes again and again would hold up the codes themselves.
    """
    slot = gl.minimum(slots_of(OCTETS, WARPS), count - 1)
    places = ()
    for k in gl.static_range(len(boxes)):
        places += (boxes[k] + slots * (COLUMNS // 4) + slot,)
    words = _read(places, 1, OCTETS)
    found = ()
    for k in gl.static_range(len(boxes)):
        found += (words[k].to(gl.float32, bitcast=True),)
    return found


@jit
def coded(
    boxes,
    count,
    COLUMNS: tl.constexpr,
    OCTETS: tl.constexpr,
    WARPS: tl.constexpr,
    FIRST: tl.constexpr,
    PARTS: tl.constexpr,
):
    """A thread's codes of some parts of each parcel, once they have come: of each part four words
    [octets, strides, threads], and two of minus their sums, of even and odd sequences.

    A parcel has messages of `count` sequences: codes [slots, columns / 4], and what they are worth
    [slots].  A thread without a sequence repeats the last one.
    """
    LAYOUT: tl.constexpr = _codes_layout(WARPS)
    STRIDES: tl.constexpr = strides_of(COLUMNS, OCTETS, WARPS)
    octet = gl.arange(0, OCTETS, layout=_axis(LAYOUT, 3, 0))[:, None, None]
    stride = gl.arange(0, STRIDES, layout=_axis(LAYOUT, 3, 1))[None, :, None]
    thread = gl.arange(0, 32 * WARPS, layout=_axis(LAYOUT, 3, 2))[None, None, :]
    sequence = gl.minimum(octet * 8 + thread % 32 // 4, count - 1) * (COLUMNS // 4)
    places = ()
    signs = ()
    for k in gl.static_range(len(boxes)):
        for part in gl.static_range(FIRST, FIRST + PARTS):
            group = ((part * STRIDES + stride) * WARPS + thread // 32) * 4 + thread % 4
            places += (boxes[k] + (sequence + gl.minimum(group, COLUMNS // 16 - 1) * 4),)
            # Codes beyond the last column are others, and do not count.
            sign = stride * 0 + thread * 0 - 1
            if (part + 1) * STRIDES * WARPS * 4 > COLUMNS // 16:
                sign = gl.where(group < COLUMNS // 16, -1, 0)
            signs += (sign,)
    words = _read(places, 4, OCTETS * STRIDES)
    found = ()
    for k in gl.static_range(len(places)):
        q0, q1, q2, q3 = words[4 * k], words[4 * k + 1], words[4 * k + 2], words[4 * k + 3]
        even, odd = _begun(q0, q1, q2, q3, signs[k])
        found += ((q0, q1, q2, q3, even, odd),)
    return found


@jit
def _begun(q0, q1, q2, q3, sign):
    """Minus the sums of a thread's codes over each stride, of even and of odd sequences, where
    `sign` is -1."""
    if _INTERPRETED:
        one = (sign & 0x01010101)[None]
        ones = one, one, one, one, one, one, one, one
        even, odd = _dot(ones, 0, q0, q1, q2, q3, 0), _dot(ones, 0, q0, q1, q2, q3, 1)
        return -gl.sum(even, 0), -gl.sum(odd, 0)
    else:
        return gl.inline_asm_elementwise(
            _SUBTRACT,
            "=&r,=&r,r,r,r,r,r",
            [q0, q1, q2, q3, sign],
            dtype=_types(2),
            is_pure=True,
            pack=1,
        )


@jit
def unpacked(both, AT_ONCE: tl.constexpr):
    """The codes of two packed words, in eight: of the upper and the lower row at columns 0 … 3 of
    16, at 4 … 7 and so on.

    What is unpacked `AT_ONCE` is so before the thread waits for anything.
    """
    if _INTERPRETED:
        found = ()
        for p in gl.static_range(4):
            found += ((both[0] >> 2 * p) & 0x03030303, (both[1] >> 2 * p) & 0x03030303)
        return found
    else:
        return gl.inline_asm_elementwise(
            _UNPACK,
            _UNPACK_REGISTERS,
            [both[0], both[1]],
            dtype=_types(8),
            is_pure=not AT_ONCE,
            pack=1,
        )


@jit
def products(weights, q):
    """Σ weight · code of each warp's strides, [tiles, octets, threads] of each of a thread's four
    values: even and odd sequences of the upper row, then of the lower one.

    `weights` are `unpacked`, and `q` is what `coded` gives of a part.
    """
    q0, q1, q2, q3, even, odd = q
    if _INTERPRETED:
        a, b, c, d = (
            _dot(weights, 0, q0, q1, q2, q3, 0) + even[None],
            _dot(weights, 0, q0, q1, q2, q3, 1) + odd[None],
            _dot(weights, 1, q0, q1, q2, q3, 0) + even[None],
            _dot(weights, 1, q0, q1, q2, q3, 1) + odd[None],
        )
    else:
        operands = weights
        operands += (q0[None], q1[None], q2[None], q3[None], even[None], odd[None])
        a, b, c, d = gl.inline_asm_elementwise(
            _MULTIPLY, _MULTIPLY_REGISTERS, operands, dtype=_types(4), is_pure=True, pack=1
        )
    return gl.sum(a, 2), gl.sum(b, 2), gl.sum(c, 2), gl.sum(d, 2)


@jit
def _dot(weights, lower, q0, q1, q2, q3, odd):
    """What the tensor cores do, for the interpreter: row i with sequences 2 t + odd, in thread
    4 i + t."""
    codes = q0, q1, q2, q3
    WARPS: tl.constexpr = q0.shape[2] // 32
    total = tl.zeros((1,), tl.int32)
    for p in tl.static_range(4):
        w, q = weights[2 * p + lower], codes[p]
        rows = tl.reshape(w, (w.shape[0], 1, w.shape[2], WARPS, 8, 1, 4))
        columns = tl.reshape(q, (1, q.shape[0], q.shape[1], WARPS, 1, 8, 4))
        for k in tl.static_range(4):
            byte = (rows >> (8 * k)) & 3
            total = total + byte * ((columns << (24 - 8 * k)) >> 24)
    sums = tl.sum(total, 6)  # [tiles, octets, strides, warps, rows, sequences]
    pairs = tl.reshape(sums, (*sums.shape[:5], 4, 2))
    chosen = tl.sum(tl.where(tl.arange(0, 2) == odd, pairs, 0), 6)
    return tl.reshape(chosen, (*sums.shape[:3], q0.shape[2])).to(tl.int32)


@jit
def _whole(x):
    """What each warp found, [tiles, octets, warps, lanes, odd, high]."""
    both = gl.join(gl.join(x[0], x[1]), gl.join(x[2], x[3]))
    return gl.reshape(both, (x[0].shape[0], x[0].shape[1], x[0].shape[2] // 32, 32, 2, 2))


@jit
def value_of(x, factor):
    """The values [tiles, octets, lanes, odd, high] of what the warps found, whose sums are worth
    `factor`: all of it exact but this product."""
    ALL: tl.constexpr = _all(6, x[0].shape[2] // 32)
    return gl.sum(gl.convert_layout(_whole(x), ALL), 2).to(gl.float32) * factor


@jit
def values_of_two(x, y, factor):
    """Of two products of the same codes."""
    ALL: tl.constexpr = _all(7, x[0].shape[2] // 32)
    OWN: tl.constexpr = own(x[0].shape[2] // 32)
    both = gl.sum(gl.convert_layout(gl.join(_whole(x), _whole(y)), ALL), 2)
    a, b = gl.split(both)
    a, b = gl.convert_layout(a, OWN), gl.convert_layout(b, OWN)
    return a.to(gl.float32) * factor, b.to(gl.float32) * factor


@jit
def values_of_three(x, y, z, factors):
    """Of three products, each of codes of its own."""
    ALL: tl.constexpr = _all(8, x[0].shape[2] // 32)
    OWN: tl.constexpr = own(x[0].shape[2] // 32)
    middle = _whole(y)
    both = gl.join(gl.join(_whole(x), _whole(z)), gl.join(middle, middle))
    first, second = gl.split(gl.sum(gl.convert_layout(both, ALL), 2))
    a, c = gl.split(first)
    b, _ = gl.split(second)
    a, b, c = gl.convert_layout(a, OWN), gl.convert_layout(b, OWN), gl.convert_layout(c, OWN)
    return (
        a.to(gl.float32) * factors[0],
        b.to(gl.float32) * factors[1],
        c.to(gl.float32) * factors[2],
    )
