"""The stages of a block for dozens of sequences: one program normalises a row and sends its codes,
and then every program multiplies the codes of all rows with its tiles of weights and sends values.
"""

import triton
import triton.language as tl

from mmfree_kernels.inference.octets import (
    coded,
    parcel,
    parts_of,
    products,
    rows_of,
    slots_of,
    some_of,
    strides_of,
    together_of,
    unpacked,
    value_of,
    values_of_three,
    values_of_two,
    weights_of,
    worth,
)
from mmfree_kernels.inference.threads import (
    INNER_EPS,
    factor_of,
    greatest,
    loaded,
    of_five,
    of_three,
    of_two,
    packed,
    received,
    received_two,
    root_of,
    sent,
    sigmoid,
    squares,
    step_of,
    times,
)
from mmfree_kernels.ops.gluon import gl, jit

MOST_AHEAD = tl.constexpr(64)
"""So many packed words a thread loads before the codes come, at most."""
MOST_UNPACKED = tl.constexpr(8)
"""Of so many pairs of words the codes are unpacked before others come."""


@jit
def _codes_sent(y, root, most, scale, box, slot, slots, COLUMNS: tl.constexpr, WARPS: tl.constexpr):
    """Send the codes of y · root, and last what they are worth in a product."""
    sent(packed(y, factor_of(most, root)), box + slot * (COLUMNS // 4), COLUMNS, WARPS)
    each = step_of(most, root) * scale
    gl.store(box + slots * (COLUMNS // 4) + slot, each.to(gl.int32, bitcast=True))


@jit
def normalise(
    vectors,
    scales,
    x,
    box,
    me,
    programs,
    count,
    slots,
    inverse,
    eps,
    COLUMNS: tl.constexpr,
    WARPS: tl.constexpr,
):
    """Send the codes of the twice normed rows x.

    The last programs begin, as they may have no tiles.
    """
    for slot in range(programs - 1 - me, count, programs):
        outer = loaded(vectors, COLUMNS, WARPS)
        gains, scale = loaded(vectors + COLUMNS, COLUMNS, WARPS), gl.load(scales)
        found = received(x + slot * COLUMNS, COLUMNS, WARPS, False)
        z = times(found, outer)
        y = times(z, gains)
        all_squares, normed, most = of_three(squares(found), squares(z), greatest(y), WARPS)
        root = root_of(all_squares, normed, inverse, eps)
        _codes_sent(y, root, most, scale, box, slot, slots, COLUMNS, WARPS)


@jit
def normalise_thrice(
    vectors,
    scales,
    x,
    box,
    me,
    programs,
    count,
    slots,
    inverse,
    eps,
    COLUMNS: tl.constexpr,
    WARPS: tl.constexpr,
):
    """Send the codes of the twice normed rows x for three projections, whose gains follow those of
    the first norm."""
    for slot in range(programs - 1 - me, count, programs):
        outer = loaded(vectors, COLUMNS, WARPS)
        i_gains = loaded(vectors + COLUMNS, COLUMNS, WARPS)
        f_gains = loaded(vectors + 2 * COLUMNS, COLUMNS, WARPS)
        g_gains = loaded(vectors + 3 * COLUMNS, COLUMNS, WARPS)
        i_scale, f_scale, g_scale = gl.load(scales), gl.load(scales + 1), gl.load(scales + 2)
        found = received(x + slot * COLUMNS, COLUMNS, WARPS, False)
        z = times(found, outer)
        i, f, g = times(z, i_gains), times(z, f_gains), times(z, g_gains)
        all_squares, normed, i_most, f_most, g_most = of_five(
            squares(found), squares(z), greatest(i), greatest(f), greatest(g), WARPS
        )
        root = root_of(all_squares, normed, inverse, eps)
        size = parcel(slots, COLUMNS)
        _codes_sent(i, root, i_most, i_scale, box, slot, slots, COLUMNS, WARPS)
        _codes_sent(f, root, f_most, f_scale, box + size, slot, slots, COLUMNS, WARPS)
        _codes_sent(g, root, g_most, g_scale, box + 2 * size, slot, slots, COLUMNS, WARPS)


@jit
def normalise_opened(
    vectors,
    scales,
    opened,
    box,
    me,
    programs,
    count,
    slots,
    inverse,
    eps,
    COLUMNS: tl.constexpr,
    WARPS: tl.constexpr,
):
    """Send the codes of the normed rows RMS(g) · silu(state), which lie one behind the other."""
    for slot in range(programs - 1 - me, count, programs):
        outer, gains = (loaded(vectors, COLUMNS, WARPS), loaded(vectors + COLUMNS, COLUMNS, WARPS))
        scale = gl.load(scales)
        g, h = received_two(opened + slot * (2 * COLUMNS), COLUMNS, WARPS, False)
        z = times(times(g, outer), h)
        y = times(z, gains)
        all_squares, normed, most = of_three(squares(g), squares(z), greatest(y), WARPS)
        root = root_of(all_squares, normed, inverse, eps)
        _codes_sent(y, root, most, scale, box, slot, slots, COLUMNS, WARPS)


@jit
def normalise_once(
    vectors,
    scales,
    v,
    box,
    me,
    programs,
    count,
    slots,
    inverse,
    COLUMNS: tl.constexpr,
    WARPS: tl.constexpr,
):
    """Send the codes of the normed rows v."""
    for slot in range(programs - 1 - me, count, programs):
        gains, scale = loaded(vectors, COLUMNS, WARPS), gl.load(scales)
        found = received(v + slot * COLUMNS, COLUMNS, WARPS, False)
        y = times(found, gains)
        all_squares, most = of_two(squares(found), greatest(y), WARPS)
        root = gl.rsqrt(all_squares * inverse + INNER_EPS)
        _codes_sent(y, root, most, scale, box, slot, slots, COLUMNS, WARPS)


@jit
def _added(x, y):
    return x[0] + y[0], x[1] + y[1], x[2] + y[2], x[3] + y[3]


@jit
def _multiplied(
    weights, box, count, COLUMNS: tl.constexpr, OCTETS: tl.constexpr, WARPS: tl.constexpr
):
    """The products of weights with the codes of a parcel, as each warp has them."""
    PARTS: tl.constexpr = parts_of(COLUMNS, OCTETS, WARPS)
    TOGETHER: tl.constexpr = together_of(COLUMNS, OCTETS, WARPS)
    found = ()
    for first in gl.static_range(0, PARTS, TOGETHER):
        q = coded(
            (box,), count, COLUMNS, OCTETS, WARPS, first, some_of(COLUMNS, OCTETS, WARPS, first)
        )
        for part in gl.static_range(some_of(COLUMNS, OCTETS, WARPS, first)):
            own = weights[first + part]
            if len(own) == 2:
                own = unpacked(own, False)
            more = products(own, q[part])
            if first + part > 0:
                more = _added(found, more)
            found = more
    return found


@jit
def _three_multiplied(
    wi, wf, wg, boxes, count, COLUMNS: tl.constexpr, OCTETS: tl.constexpr, WARPS: tl.constexpr
):
    """The products of three weights, each with a parcel of its own."""
    PARTS: tl.constexpr = parts_of(COLUMNS, OCTETS, WARPS)
    q = coded(boxes, count, COLUMNS, OCTETS, WARPS, 0, PARTS)
    if len(wi[0]) == 2:
        wi, wf, wg = _unpacked(wi, False), _unpacked(wf, False), _unpacked(wg, False)
    i, f, g = products(wi[0], q[0]), products(wf[0], q[PARTS]), products(wg[0], q[2 * PARTS])
    for part in gl.static_range(1, PARTS):
        i = _added(i, products(wi[part], q[part]))
        f = _added(f, products(wf[part], q[PARTS + part]))
        g = _added(g, products(wg[part], q[2 * PARTS + part]))
    return i, f, g


@jit
def _words(
    words,
    tile,
    last,
    APART: tl.constexpr,
    MATRICES: tl.constexpr,
    COLUMNS: tl.constexpr,
    OCTETS: tl.constexpr,
    WARPS: tl.constexpr,
    TILES: tl.constexpr,
):
    """The weights of so many matrices, which lie so many words apart, packed."""
    found = ()
    for n in gl.static_range(MATRICES):
        found += (weights_of(words + n * APART, tile, last, COLUMNS, OCTETS, WARPS, TILES),)
    return found


@triton.constexpr_function
def _pairs(weights):
    """How many pairs of packed words a thread has."""
    return len(weights) * weights[0][0].shape[0] * weights[0][0].shape[2]


@jit
def _unpacked(weights, AT_ONCE: tl.constexpr):
    found = ()
    for part in gl.static_range(len(weights)):
        found += (unpacked(weights[part], AT_ONCE),)
    return found


@jit
def _readied(weights, MATRICES: tl.constexpr):
    """The weights of so many matrices, unpacked before others come if they are few.

    Triton tells functions apart by their arguments, but not (a, b) from ((a, b),), so the number is
    one of them.
    """
    FEW: tl.constexpr = MATRICES * _pairs(weights[0]) <= MOST_UNPACKED
    found = weights
    if FEW:
        found = ()
        for n in gl.static_range(MATRICES):
            found += (_unpacked(weights[n], True),)
    return found


@jit
def mixer_in(
    words,
    bounds,
    box,
    state,
    opened,
    first,
    last,
    count,
    slots,
    HIDDEN: tl.constexpr,
    INNER: tl.constexpr,
    BOUNDED: tl.constexpr,
    OCTETS: tl.constexpr,
    WARPS: tl.constexpr,
    TILES: tl.constexpr,
    CHUNKS: tl.constexpr,
):
    """state = f · state + silu(i) · (1 - f), and send g and silu(state)."""
    THIRD: tl.constexpr = INNER * (HIDDEN // 16)
    slot = slots_of(OCTETS, WARPS)
    if first < last:
        weights = _readied(_words(words, first, last, THIRD, 3, HIDDEN, OCTETS, WARPS, TILES), 3)
        size = parcel(slots, HIDDEN)
        boxes = box, box + size, box + 2 * size
        factors = worth(boxes, count, slots, HIDDEN, OCTETS, WARPS)
        for chunk in gl.static_range(CHUNKS):
            tile = first + chunk * TILES
            wi, wf, wg = weights
            row = rows_of(tile, TILES, WARPS)
            live = (row < 16 * last) & (slot < count)
            before = gl.load(state + slot * INNER + row, mask=live, other=0.0)
            bound = before
            if BOUNDED:
                bound = gl.load(bounds + row, mask=row < 16 * last, other=0.0)
            if chunk + 1 < CHUNKS:
                weights = _words(words, tile + TILES, last, THIRD, 3, HIDDEN, OCTETS, WARPS, TILES)
            i, f, g = _three_multiplied(wi, wf, wg, boxes, count, HIDDEN, OCTETS, WARPS)
            i, f, g = values_of_three(i, f, g, factors)
            f = sigmoid(f)
            if BOUNDED:
                f = bound + (1 - bound) * f
            h = f * before + i * sigmoid(i) * (1 - f)
            at = opened + slot * (2 * INNER) + row
            gl.store(at, g, mask=live)
            gl.store(at + INNER, h * sigmoid(h), mask=live)
            gl.store(state + slot * INNER + row, h, mask=live)


@jit
def product_of(
    words,
    box,
    first,
    last,
    count,
    slots,
    COLUMNS: tl.constexpr,
    OCTETS: tl.constexpr,
    WARPS: tl.constexpr,
    TILES: tl.constexpr,
):
    """The product of tiles `first` … `last` with the codes of a parcel, of `count` sequences."""
    weights = _readied(_words(words, first, last, 0, 1, COLUMNS, OCTETS, WARPS, TILES), 1)
    factors = worth((box,), count, slots, COLUMNS, OCTETS, WARPS)
    found = _multiplied(weights[0], box, count, COLUMNS, OCTETS, WARPS)
    return value_of(found, factors[0])


@jit
def onto(
    words,
    box,
    x,
    out,
    first,
    last,
    count,
    slots,
    HIDDEN: tl.constexpr,
    COLUMNS: tl.constexpr,
    OCTETS: tl.constexpr,
    WARPS: tl.constexpr,
    TILES: tl.constexpr,
):
    """Send x, the program's own values of the stream, with the projection of the codes added to
    it; that is the result, too."""
    if first < last:
        row, slot = rows_of(first, TILES, WARPS), slots_of(OCTETS, WARPS)
        x = x + product_of(words, box, first, last, count, slots, COLUMNS, OCTETS, WARPS, TILES)
        gl.store(out + slot * HIDDEN + row, x, mask=(row < 16 * last) & (slot < count))
    return x


@jit
def channel_in(
    words,
    box,
    out,
    first,
    last,
    count,
    slots,
    HIDDEN: tl.constexpr,
    WIDTH: tl.constexpr,
    OCTETS: tl.constexpr,
    WARPS: tl.constexpr,
    TILES: tl.constexpr,
    CHUNKS: tl.constexpr,
):
    """Send silu(gate) · up."""
    HALF: tl.constexpr = WIDTH * (HIDDEN // 16)
    PARTS: tl.constexpr = parts_of(HIDDEN, OCTETS, WARPS)
    AHEAD: tl.constexpr = max(
        1, MOST_AHEAD // (4 * TILES * PARTS * strides_of(HIDDEN, OCTETS, WARPS))
    )
    slot = slots_of(OCTETS, WARPS)
    if first < last:
        weights = ()
        for chunk in gl.static_range(min(AHEAD, CHUNKS)):
            tile = first + chunk * TILES
            weights += (_words(words, tile, last, HALF, 2, HIDDEN, OCTETS, WARPS, TILES),)
        factors = worth((box,), count, slots, HIDDEN, OCTETS, WARPS)
        q = coded((box,), count, HIDDEN, OCTETS, WARPS, 0, PARTS)
        for chunk in gl.static_range(CHUNKS):
            tile = first + chunk * TILES
            if chunk + AHEAD < CHUNKS:
                after = tile + AHEAD * TILES
                weights += (_words(words, after, last, HALF, 2, HIDDEN, OCTETS, WARPS, TILES),)
            own = weights[chunk]
            wg, wu = _unpacked(own[0], False), _unpacked(own[1], False)
            gate, up = products(wg[0], q[0]), products(wu[0], q[0])
            for part in gl.static_range(1, PARTS):
                gate = _added(gate, products(wg[part], q[part]))
                up = _added(up, products(wu[part], q[part]))
            gate, up = values_of_two(gate, up, factors[0])
            row = rows_of(tile, TILES, WARPS)
            live = (row < 16 * last) & (slot < count)
            gl.store(out + slot * WIDTH + row, gate * sigmoid(gate) * up, mask=live)


@jit
def head(
    words,
    box,
    logits,
    bests,
    places,
    me,
    programs,
    count,
    slots,
    vocabulary,
    HIDDEN: tl.constexpr,
    OCTETS: tl.constexpr,
    WARPS: tl.constexpr,
    TILES: tl.constexpr,
):
    """The logits of all sequences; send the greatest of the program's, and the first word that has
    it, of each."""
    PARTS: tl.constexpr = parts_of(HIDDEN, OCTETS, WARPS)
    last = (vocabulary + 15) // 16
    slot = slots_of(OCTETS, WARPS)
    weights = weights_of(words, me * TILES, last, HIDDEN, OCTETS, WARPS, TILES)
    factors = worth((box,), count, slots, HIDDEN, OCTETS, WARPS)
    q = coded((box,), count, HIDDEN, OCTETS, WARPS, 0, 1)
    for part in gl.static_range(1, PARTS):
        q = q + coded((box,), count, HIDDEN, OCTETS, WARPS, part, 1)
    at = slot * vocabulary
    best = at * 0.0 + rows_of(0, TILES, WARPS) * 0.0 + float("-inf")
    where = at * 0 + rows_of(0, TILES, WARPS) * 0
    for tile in range(me * TILES, last, programs * TILES):
        now = _unpacked(weights, False)
        weights = weights_of(words, tile + programs * TILES, last, HIDDEN, OCTETS, WARPS, TILES)
        found = products(now[0], q[0])
        for part in gl.static_range(1, PARTS):
            found = _added(found, products(now[part], q[part]))
        value = value_of(found, factors[0])
        row = rows_of(tile, TILES, WARPS)
        live = (row < vocabulary) & (slot < count)
        gl.store(logits + at + row, value, mask=live)
        better = (value > best) & live
        where = gl.where(better, row, where)
        best = gl.where(better, value, best)
    # A sequence's values are in eight lanes of two rows each, of all tiles.
    best, where = _of_sequences(best, TILES, OCTETS), _of_sequences(where, TILES, OCTETS)
    most = _most(best)
    lowest = gl.where(best == most[None, :, None, :, :, None], where, vocabulary)
    lowest = gl.min(gl.min(gl.min(lowest, 5), 2), 0)
    sequence = _most(_of_sequences(slot + rows_of(0, TILES, WARPS) * 0, TILES, OCTETS))
    to = sequence * programs + me
    gl.store(bests + to, most, mask=sequence < count)
    gl.store(places + to, lowest.to(gl.float32), mask=sequence < count)


@jit
def _of_sequences(x, TILES: tl.constexpr, OCTETS: tl.constexpr):
    return gl.reshape(x, (TILES, OCTETS, 8, 4, 2, 2))


@jit
def _most(x):
    """The greatest of each sequence: [octets, 4, odd]."""
    return gl.max(gl.max(gl.max(x, 5), 2), 0)
