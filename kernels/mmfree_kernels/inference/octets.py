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
`2 · (lane % 4) + odd`.  Tensors of such values are [tiles, octets, 32 lanes, 2 odd, 2 high].

Packed codes of weights have no sign: 0, 1, 2 for -1, 0, +1.  So the sum of a sequence's codes is
subtracted from each product.
"""

import triton
import triton.language as tl

from mmfree_kernels.ops.bitlinear.packed import INTERPRETED
from mmfree_kernels.ops.gluon import gl, jit

WARPS = 4
"""Of a program: one for each value that a thread has of a tile and an octet."""
STRIDE = 64
"""Columns that a warp multiplies at a time."""
OCTET = 8
"""So many sequences the tensor cores take at a time."""
NO_CODES = -0x7F7F7F80
"""What stands where no codes have come: a code is never -128, so they are all greater as int32, and
so is every factor and every sum."""
MOST_READS = 16
"""So many reads of 16 codes a thread has on their way at most."""
_INTERPRETED = tl.constexpr(INTERPRETED)
_WARPS = tl.constexpr(WARPS)
_THREADS = tl.constexpr(32 * WARPS)

_MULTIPLY = tl.constexpr(
    "{ .reg .b32 z; mov.b32 z, 0;"
    " mma.sync.aligned.m16n8k32.row.col.s32.u8.s8.s32"
    " {$0, $1, $2, $3}, {$4, $5, $6, $7}, {$12, $13}, {z, z, z, z};"
    " mma.sync.aligned.m16n8k32.row.col.s32.u8.s8.s32"
    " {$0, $1, $2, $3}, {$8, $9, $10, $11}, {$14, $15}, {$0, $1, $2, $3}; }"
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
def _strides(columns, octets):
    """How a warp goes through its columns: so many strides at a time, a power of two, so often."""
    each = -(-columns // (STRIDE * WARPS))
    choices = [n for n in (4, 2, 1) if n * octets <= MOST_READS]
    together = min(choices, key=lambda n: (-(-each // n) * n, -n))
    return together, -(-each // together)


@triton.constexpr_function
def strides_of(columns, octets):
    """How many strides a warp takes at a time."""
    return _strides(columns, octets)[0]


@triton.constexpr_function
def parts_of(columns, octets):
    """How often a warp takes them."""
    return _strides(columns, octets)[1]


@triton.constexpr_function
def together_of(columns, octets):
    """Of how many parts a thread reads the codes at a time."""
    return max(1, MOST_READS // (octets * _strides(columns, octets)[0]))


@triton.constexpr_function
def some_of(columns, octets, first):
    """Of how many parts from `first` on."""
    return min(together_of(columns, octets), parts_of(columns, octets) - first)


@triton.constexpr_function
def reading(octets, strides, parts, factors):
    """The assembly that reads the codes of so many parts, and the factors and sums of codes of so
    many parcels, once all are there; its registers, the places of a thread, and how many results
    there are.

    It takes all octets and strides of a thread at once.  Results are the four words of each part,
    then the factor and the sum of each parcel; operands are the addresses of the codes, and then of
    factors and sums of codes, one of each warp that made them.

    A thread waits for the factors, which are sent last, as many programs that read all codes again
    and again would hold up the codes themselves.
    """
    pack = octets * strides
    outputs = 4 * parts + 2 * factors

    def register(number, place):
        return f"${number * pack + place}"

    loads, early, words, awaited, after, names = [], [], [], [], [], []
    for part in range(parts):
        for place in range(pack):
            four = [register(4 * part + j, place) for j in range(4)]
            address = register(outputs + part, place)
            loads.append(f"ld.relaxed.gpu.global.v4.b32 {{{', '.join(four)}}}, [{address}];")
            words += four
    for number in range(factors):
        factor, total = 4 * parts + 2 * number, 4 * parts + 2 * number + 1
        address = outputs + parts + 2 * number
        for place in range(pack):
            if place % strides:  # an octet has one factor and one sum
                after.append(f"mov.b32 {register(factor, place)}, 0;")
                after.append(f"mov.b32 {register(total, place)}, 0;")
                continue
            four = [f"t{number}_{place}_{j}" for j in range(4)]
            names += four
            words += four
            awaited.append(register(factor, place))
            early.append(f"ld.relaxed.gpu.global.b32 {awaited[-1]}, [{register(address, place)}];")
            into, where = ", ".join(four), register(address + 1, place)
            loads.append(f"ld.relaxed.gpu.global.v4.b32 {{{into}}}, [{where}];")
            after.append(f"add.s32 {four[0]}, {four[0]}, {four[1]};")
            after.append(f"add.s32 {four[2]}, {four[2]}, {four[3]};")
            after.append(f"add.s32 {register(total, place)}, {four[0]}, {four[2]};")
    waits = []
    if awaited:
        waits = ["early:", *early, f"setp.eq.s32 p, {awaited[0]}, {NO_CODES};"]
        waits += [f"setp.eq.or.s32 p, {value}, {NO_CODES}, p;" for value in awaited[1:]]
        waits.append("vote.sync.any.pred p, p, -1; @p bra early;")
    # The least of all words, two by two, so that none waits for long.
    tests: list[str] = []
    least = words
    while len(least) > 1:
        next_ = []
        for n in range(0, len(least) - 1, 2):
            names.append(f"m{len(tests)}")
            tests.append(f"min.s32 {names[-1]}, {least[n]}, {least[n + 1]};")
            next_.append(names[-1])
        least = next_ + least[2 * len(next_) :]
    start = f"{{ .reg .pred p; .reg .b32 {', '.join(names)};"
    again = f"setp.eq.s32 p, {least[0]}, {NO_CODES}; vote.sync.any.pred p, p, -1; @p bra again;"
    text = " ".join([start, *waits, "again:", *loads, *tests, again, *after, "}"])
    operands = (parts + 2 * factors) * pack
    return text, ",".join(["=&r"] * (outputs * pack) + ["l"] * operands), pack, outputs


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
def _spread():
    """That of [tiles, octets, strides, threads]: a thread has all tiles, octets and strides."""
    return gl.BlockedLayout([1, 1, 1, 1], [1, 1, 1, 32], [1, 1, 1, WARPS], [3, 2, 1, 0])


@triton.constexpr_function
def _codes_layout():
    """That of [octets, strides, threads]."""
    return gl.SliceLayout(0, _spread())


@triton.constexpr_function
def _all(rank):
    """That of [tiles, octets, warps, lanes, odd, high], and of several such side by side: a thread
    has what all warps found for one value."""
    more = rank - 6
    return gl.BlockedLayout(
        [1, 1, WARPS, 1, 1, 1] + [2] * more,
        [1, 1, 1, 32, 1, 1] + [1] * more,
        [1, 1, 1, 1, 2, 2] + [1] * more,
        list(reversed(range(rank))),
    )


@triton.constexpr_function
def own():
    """That of [tiles, octets, lanes, odd, high]."""
    return gl.SliceLayout(2, _all(6))


@jit
def rows_of(tile, TILES: tl.constexpr):
    """The rows of the values that a thread has of `TILES` tiles from `tile` on: [tiles, 1, lanes,
    1, high]."""
    OWN: tl.constexpr = own()
    tiles = gl.arange(0, TILES, layout=_axis(OWN, 5, 0))[:, None, None, None, None]
    lane = gl.arange(0, 32, layout=_axis(OWN, 5, 2))[None, None, :, None, None]
    high = gl.arange(0, 2, layout=_axis(OWN, 5, 4))[None, None, None, None, :]
    return (tile + tiles) * 16 + lane // 4 + high * 8


@jit
def slots_of(OCTETS: tl.constexpr):
    """Their sequences: [1, octets, lanes, odd, 1]."""
    OWN: tl.constexpr = own()
    octet = gl.arange(0, OCTETS, layout=_axis(OWN, 5, 1))[None, :, None, None, None]
    lane = gl.arange(0, 32, layout=_axis(OWN, 5, 2))[None, None, :, None, None]
    odd = gl.arange(0, 2, layout=_axis(OWN, 5, 3))[None, None, None, :, None]
    return octet * 8 + lane % 4 * 2 + odd


@jit
def weights_of(words, tile, last, COLUMNS: tl.constexpr, OCTETS: tl.constexpr, TILES: tl.constexpr):
    """The packed words of a thread: for each part two, of rows `lane / 4` and eight below, [tiles,
    1, strides, threads].

    Where there are no columns the words are 0, and where there are no tiles they are others.
    """
    LAYOUT: tl.constexpr = _spread()
    STRIDES: tl.constexpr = strides_of(COLUMNS, OCTETS)
    PARTS: tl.constexpr = parts_of(COLUMNS, OCTETS)
    GROUPS: tl.constexpr = COLUMNS // 16
    tiles = gl.arange(0, TILES, layout=_axis(LAYOUT, 4, 0))[:, None, None, None]
    stride = gl.arange(0, STRIDES, layout=_axis(LAYOUT, 4, 2))[None, None, :, None]
    thread = gl.arange(0, _THREADS, layout=_axis(LAYOUT, 4, 3))[None, None, None, :]
    start = gl.minimum(tile + tiles, last - 1) * GROUPS
    found = ()
    for part in gl.static_range(PARTS):
        group = ((part * STRIDES + stride) * _WARPS + thread // 32) * 4 + thread % 4
        at = (start + group) * 16 + thread % 32 // 4
        if (part + 1) * STRIDES * _WARPS * 4 <= GROUPS:
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
    """How many places the codes of a sequence take, with their sums and their factor."""
    return columns // 4 + WARPS + 1


@jit
def parcel(slots, COLUMNS: tl.constexpr):
    """How many places the codes of so many sequences take."""
    return slots * places_of(COLUMNS)


@jit
def coded(
    boxes,
    count,
    slots,
    COLUMNS: tl.constexpr,
    OCTETS: tl.constexpr,
    FIRST: tl.constexpr,
    PARTS: tl.constexpr,
    FACTORS: tl.constexpr,
):
    """A thread's codes of some parts of each parcel, once they have come, four words each of
    [octets, strides, threads]; and, if asked for, of the values that it will have, the factors and
    the sums of codes [1, octets, lanes, odd, high] of each parcel.

    A parcel has messages of `count` sequences: codes [slots, columns / 4], sums [slots, warps], and
    factors [slots].  A thread without a sequence repeats the last one.
    """
    LAYOUT: tl.constexpr = _codes_layout()
    STRIDES: tl.constexpr = strides_of(COLUMNS, OCTETS)
    octet = gl.arange(0, OCTETS, layout=_axis(LAYOUT, 3, 0))[:, None, None]
    stride = gl.arange(0, STRIDES, layout=_axis(LAYOUT, 3, 1))[None, :, None]
    thread = gl.arange(0, _THREADS, layout=_axis(LAYOUT, 3, 2))[None, None, :]
    sequence = gl.minimum(octet * 8 + thread % 32 // 4, count - 1) * (COLUMNS // 4)
    # A thread's values are of another sequence than its codes.  Warps 2 and 3 have the odd ones.
    other = gl.minimum(octet * 8 + thread % 4 * 2 + thread // 64, count - 1) + stride * 0
    places = ()
    for k in gl.static_range(len(boxes)):
        for part in gl.static_range(FIRST, FIRST + PARTS):
            group = ((part * STRIDES + stride) * _WARPS + thread // 32) * 4 + thread % 4
            places += (boxes[k] + (sequence + gl.minimum(group, COLUMNS // 16 - 1) * 4),)
    beside = ()
    if FACTORS:
        for k in gl.static_range(len(boxes)):
            totals = boxes[k] + slots * (COLUMNS // 4)
            beside += (totals + slots * _WARPS + other, totals + other * _WARPS)
    if _INTERPRETED:
        found = ()
        for k in range(4 * len(places)):
            found += (gl.load(places[k // 4] + k % 4),)
        for k in range(len(beside)):
            value = gl.load(beside[k])
            if k % 2:
                value += gl.load(beside[k] + 1) + gl.load(beside[k] + 2) + gl.load(beside[k] + 3)
            found += (gl.where(stride == 0, value, 0),)
    else:
        READING: tl.constexpr = reading(OCTETS, STRIDES, len(places), len(beside) // 2)
        found = gl.inline_asm_elementwise(
            READING[0],
            READING[1],
            places + beside,
            dtype=_types(READING[3]),
            is_pure=False,
            pack=READING[2],
        )
    of_values = ()
    for k in gl.static_range(4 * len(places), len(found)):
        of_values += (_of_values(gl.sum(found[k], 1), OCTETS),)
    return found[: 4 * len(places)], of_values


@jit
def _of_values(x, OCTETS: tl.constexpr):
    """Values [octets, threads] beside those that the threads will have."""
    by_warp = gl.reshape(x, (OCTETS, 2, 2, 32))
    mine = gl.permute(by_warp, (0, 3, 1, 2))
    return gl.convert_layout(mine, gl.SliceLayout(0, own()), assert_trivial=True)[None]


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
def products(weights, q, NUMBER: tl.constexpr):
    """Σ weight · code of each warp's strides, [tiles, octets, threads] of each of a thread's four
    values: even and odd sequences of the upper row, then of the lower one.

    `weights` are `unpacked`.  `q` has the four words of codes of each part, of which part `NUMBER`
    is meant.
    """
    q0, q1, q2, q3 = q[4 * NUMBER], q[4 * NUMBER + 1], q[4 * NUMBER + 2], q[4 * NUMBER + 3]
    if _INTERPRETED:
        a, b, c, d = (
            _dot(weights, 0, q0, q1, q2, q3, 0),
            _dot(weights, 0, q0, q1, q2, q3, 1),
            _dot(weights, 1, q0, q1, q2, q3, 0),
            _dot(weights, 1, q0, q1, q2, q3, 1),
        )
    else:
        operands = weights
        operands += (q0[None], q1[None], q2[None], q3[None])
        a, b, c, d = gl.inline_asm_elementwise(
            _MULTIPLY,
            "=&r,=&r,=&r,=&r,r,r,r,r,r,r,r,r,r,r,r,r",
            operands,
            dtype=_types(4),
            is_pure=True,
            pack=1,
        )
    return gl.sum(a, 2), gl.sum(b, 2), gl.sum(c, 2), gl.sum(d, 2)


@jit
def _dot(weights, lower, q0, q1, q2, q3, odd):
    """What the tensor cores do, for the interpreter: row i with sequences 2 t + odd, in thread
    4 i + t."""
    codes = q0, q1, q2, q3
    total = tl.zeros((1,), tl.int32)
    for p in tl.static_range(4):
        w, q = weights[2 * p + lower], codes[p]
        rows = tl.reshape(w, (w.shape[0], 1, w.shape[2], _WARPS, 8, 1, 4))
        columns = tl.reshape(q, (1, q.shape[0], q.shape[1], _WARPS, 1, 8, 4))
        for k in tl.static_range(4):
            byte = (rows >> (8 * k)) & 3
            total = total + byte * ((columns << (24 - 8 * k)) >> 24)
    sums = tl.sum(total, 6)  # [tiles, octets, strides, warps, rows, sequences]
    pairs = tl.reshape(sums, (*sums.shape[:5], 4, 2))
    chosen = tl.sum(tl.where(tl.arange(0, 2) == odd, pairs, 0), 6)
    return tl.reshape(chosen, (*sums.shape[:3], _THREADS)).to(tl.int32)


@jit
def _whole(x):
    """What each warp found, [tiles, octets, warps, lanes, odd, high]."""
    both = gl.join(gl.join(x[0], x[1]), gl.join(x[2], x[3]))
    return gl.reshape(both, (x[0].shape[0], x[0].shape[1], _WARPS, 32, 2, 2))


@jit
def _worth(sums, of_values, NUMBER: tl.constexpr):
    """Sums less that of the codes, times the factor; all of it exact but the last product."""
    factor = of_values[2 * NUMBER].to(gl.float32, bitcast=True)
    return (sums - of_values[2 * NUMBER + 1]).to(gl.float32) * factor


@jit
def value_of(x, of_values):
    """The values [tiles, octets, lanes, odd, high] of what the warps found."""
    ALL: tl.constexpr = _all(6)
    return _worth(gl.sum(gl.convert_layout(_whole(x), ALL), 2), of_values, 0)


@jit
def values_of_two(x, y, of_values):
    """Of two products of the same codes."""
    ALL: tl.constexpr = _all(7)
    OWN: tl.constexpr = own()
    both = gl.sum(gl.convert_layout(gl.join(_whole(x), _whole(y)), ALL), 2)
    a, b = gl.split(both)
    a, b = gl.convert_layout(a, OWN), gl.convert_layout(b, OWN)
    return _worth(a, of_values, 0), _worth(b, of_values, 0)


@jit
def values_of_three(x, y, z, of_values):
    """Of three products, each of codes of its own."""
    ALL: tl.constexpr = _all(8)
    OWN: tl.constexpr = own()
    middle = _whole(y)
    both = gl.join(gl.join(_whole(x), _whole(z)), gl.join(middle, middle))
    first, second = gl.split(gl.sum(gl.convert_layout(both, ALL), 2))
    a, c = gl.split(first)
    b, _ = gl.split(second)
    a, b, c = gl.convert_layout(a, OWN), gl.convert_layout(b, OWN), gl.convert_layout(c, OWN)
    return _worth(a, of_values, 0), _worth(b, of_values, 1), _worth(c, of_values, 2)
