"""The stages of a block for dozens of sequences: one program normalises a row and sends its codes,
and then every program multiplies the codes of all rows with its tiles of weights and sends values.
"""

import triton
import triton.language as tl

from mmfree_kernels.inference.octets import (
    WARPS,
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
)
from mmfree_kernels.inference.threads import (
    INNER_EPS,
    factor_of,
    greatest,
    layout_of,
    loaded,
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

_WARPS = tl.constexpr(WARPS)
MOST_AHEAD = tl.constexpr(64)
"""So many packed words a thread loads before the codes come, at most."""
MOST_UNPACKED = tl.constexpr(8)
"""Of so many pairs of words the codes are unpacked before others come."""


@jit
def _codes_sent(y, root, most, scale, box, slot, slots, COLUMNS: tl.constexpr):
    """Send the codes of y · root, their sums, and last what they are worth in a product."""
    totals = box + slots * (COLUMNS // 4)
    words = packed(y, factor_of(most, root))
    each = sent(words, box + slot * (COLUMNS // 4), COLUMNS, _WARPS)
    warp = gl.arange(0, _WARPS, layout=gl.SliceLayout(1, layout_of(_WARPS)))
    gl.store(totals + slot * _WARPS + warp, each)
    worth = step_of(most, root) * scale
    gl.store(totals + slots * _WARPS + slot, worth.to(gl.int32, bitcast=True))


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
    PROJECTIONS: tl.constexpr,
    COLUMNS: tl.constexpr,
):
    """Send the codes of the twice normed rows x, for each of the projections, whose gains follow
    those of the first norm.

    The last programs begin, as they may have no tiles.
    """
    for unit in range(programs - 1 - me, PROJECTIONS * count, programs):
        slot, projection = unit, 0
        if PROJECTIONS > 1:
            slot, projection = unit % count, unit // count
        outer = loaded(vectors, COLUMNS, _WARPS)
        gains = loaded(vectors + (1 + projection) * COLUMNS, COLUMNS, _WARPS)
        scale = gl.load(scales + projection)
        found = received(x + slot * COLUMNS, COLUMNS, _WARPS)
        z = times(found, outer)
        y = times(z, gains)
        all_squares, normed, most = of_three(squares(found), squares(z), greatest(y), _WARPS)
        root = root_of(all_squares, normed, inverse, eps)
        own = box + projection * parcel(slots, COLUMNS)
        _codes_sent(y, root, most, scale, own, slot, slots, COLUMNS)


@jit
def normalise_opened(
    vectors, scales, opened, box, me, programs, count, slots, inverse, eps, COLUMNS: tl.constexpr
):
    """Send the codes of the normed rows RMS(g) · silu(state), which lie one behind the other."""
    for slot in range(programs - 1 - me, count, programs):
        outer, gains = (
            loaded(vectors, COLUMNS, _WARPS),
            loaded(vectors + COLUMNS, COLUMNS, _WARPS),
        )
        scale = gl.load(scales)
        g, h = received_two(opened + slot * (2 * COLUMNS), COLUMNS, _WARPS)
        z = times(times(g, outer), h)
        y = times(z, gains)
        all_squares, normed, most = of_three(squares(g), squares(z), greatest(y), _WARPS)
        root = root_of(all_squares, normed, inverse, eps)
        _codes_sent(y, root, most, scale, box, slot, slots, COLUMNS)


@jit
def normalise_once(
    vectors, scales, v, box, me, programs, count, slots, inverse, COLUMNS: tl.constexpr
):
    """Send the codes of the normed rows v."""
    for slot in range(programs - 1 - me, count, programs):
        gains, scale = loaded(vectors, COLUMNS, _WARPS), gl.load(scales)
        found = received(v + slot * COLUMNS, COLUMNS, _WARPS)
        y = times(found, gains)
        all_squares, most = of_two(squares(found), greatest(y), _WARPS)
        root = gl.rsqrt(all_squares * inverse + INNER_EPS)
        _codes_sent(y, root, most, scale, box, slot, slots, COLUMNS)


@jit
def _added(x, y):
    return x[0] + y[0], x[1] + y[1], x[2] + y[2], x[3] + y[3]


@jit
def _multiplied(weights, box, count, slots, COLUMNS: tl.constexpr, OCTETS: tl.constexpr):
    """The products of each of some weights with the codes of a parcel, as each warp has them, and
    the factors and sums of codes."""
    PARTS: tl.constexpr = parts_of(COLUMNS, OCTETS)
    TOGETHER: tl.constexpr = together_of(COLUMNS, OCTETS)
    EARLY: tl.constexpr = len(weights) * _pairs(weights[0]) <= MOST_UNPACKED
    if EARLY:
        early = ()
        for n in gl.static_range(len(weights)):
            early += (_unpacked(weights[n], True),)
        weights = early
    found = ()
    of_values = ()
    for first in gl.static_range(0, PARTS, TOGETHER):
        q, beside = coded(
            (box,),
            count,
            slots,
            COLUMNS,
            OCTETS,
            first,
            some_of(COLUMNS, OCTETS, first),
            first == 0,
        )
        if first == 0:
            of_values = beside
        for part in gl.static_range(some_of(COLUMNS, OCTETS, first)):
            after = ()
            for n in gl.static_range(len(weights)):
                own = weights[n][first + part]
                if not EARLY:
                    own = unpacked(own, False)
                more = products(own, q, part)
                if first + part > 0:
                    more = _added(found[n], more)
                after += (more,)
            found = after
    return found, of_values


@jit
def _three_multiplied(wi, wf, wg, box, count, slots, COLUMNS: tl.constexpr, OCTETS: tl.constexpr):
    """The products of three weights, each with a parcel of its own."""
    PARTS: tl.constexpr = parts_of(COLUMNS, OCTETS)
    size = parcel(slots, COLUMNS)
    if together_of(COLUMNS, OCTETS) >= 3 * PARTS:
        EARLY: tl.constexpr = 3 * _pairs(wi) <= MOST_UNPACKED
        if EARLY:
            wi, wf, wg = _unpacked(wi, True), _unpacked(wf, True), _unpacked(wg, True)
        boxes = box, box + size, box + 2 * size
        q, of_values = coded(boxes, count, slots, COLUMNS, OCTETS, 0, PARTS, True)
        if not EARLY:
            wi, wf, wg = _unpacked(wi, False), _unpacked(wf, False), _unpacked(wg, False)
        i, f, g = products(wi[0], q, 0), products(wf[0], q, PARTS), products(wg[0], q, 2 * PARTS)
        for part in gl.static_range(1, PARTS):
            i = _added(i, products(wi[part], q, part))
            f = _added(f, products(wf[part], q, PARTS + part))
            g = _added(g, products(wg[part], q, 2 * PARTS + part))
        return i, f, g, of_values
    else:
        i, of_i = _multiplied((wi,), box, count, slots, COLUMNS, OCTETS)
        f, of_f = _multiplied((wf,), box + size, count, slots, COLUMNS, OCTETS)
        g, of_g = _multiplied((wg,), box + 2 * size, count, slots, COLUMNS, OCTETS)
        return i[0], f[0], g[0], of_i + of_f + of_g


@jit
def _words(
    words,
    tile,
    last,
    APART: tl.constexpr,
    MATRICES: tl.constexpr,
    COLUMNS: tl.constexpr,
    OCTETS: tl.constexpr,
    TILES: tl.constexpr,
):
    """The weights of so many matrices, which lie so many words apart, packed."""
    found = ()
    for n in gl.static_range(MATRICES):
        found += (weights_of(words + n * APART, tile, last, COLUMNS, OCTETS, TILES),)
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
    TILES: tl.constexpr,
    CHUNKS: tl.constexpr,
):
    """state = f · state + silu(i) · (1 - f), and send g and silu(state)."""
    THIRD: tl.constexpr = INNER * (HIDDEN // 16)
    slot = slots_of(OCTETS)
    if first < last:
        weights = _words(words, first, last, THIRD, 3, HIDDEN, OCTETS, TILES)
        for chunk in gl.static_range(CHUNKS):
            tile = first + chunk * TILES
            wi, wf, wg = weights
            row = rows_of(tile, TILES)
            live = (row < 16 * last) & (slot < count)
            before = gl.load(state + slot * INNER + row, mask=live, other=0.0)
            bound = before
            if BOUNDED:
                bound = gl.load(bounds + row, mask=row < 16 * last, other=0.0)
            if chunk + 1 < CHUNKS:
                weights = _words(words, tile + TILES, last, THIRD, 3, HIDDEN, OCTETS, TILES)
            i, f, g, of_values = _three_multiplied(wi, wf, wg, box, count, slots, HIDDEN, OCTETS)
            i, f, g = values_of_three(i, f, g, of_values)
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
    TILES: tl.constexpr,
):
    """The product of tiles `first` … `last` with the codes of a parcel, of `count` sequences."""
    weights = _words(words, first, last, 0, 1, COLUMNS, OCTETS, TILES)
    found, of_values = _multiplied(weights, box, count, slots, COLUMNS, OCTETS)
    return value_of(found[0], of_values)


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
    TILES: tl.constexpr,
):
    """Send x, the program's own values of the stream, with the projection of the codes added to
    it; that is the result, too."""
    if first < last:
        row, slot = rows_of(first, TILES), slots_of(OCTETS)
        x = x + product_of(words, box, first, last, count, slots, COLUMNS, OCTETS, TILES)
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
    TILES: tl.constexpr,
    CHUNKS: tl.constexpr,
):
    """Send silu(gate) · up."""
    HALF: tl.constexpr = WIDTH * (HIDDEN // 16)
    PARTS: tl.constexpr = parts_of(HIDDEN, OCTETS)
    AHEAD: tl.constexpr = max(1, MOST_AHEAD // (4 * TILES * PARTS * strides_of(HIDDEN, OCTETS)))
    slot = slots_of(OCTETS)
    if first < last:
        weights = ()
        for chunk in gl.static_range(min(AHEAD, CHUNKS)):
            tile = first + chunk * TILES
            weights += (_words(words, tile, last, HALF, 2, HIDDEN, OCTETS, TILES),)
        if together_of(HIDDEN, OCTETS) >= PARTS:
            q, of_values = coded((box,), count, slots, HIDDEN, OCTETS, 0, PARTS, True)
        for chunk in gl.static_range(CHUNKS):
            tile = first + chunk * TILES
            if chunk + AHEAD < CHUNKS:
                after = tile + AHEAD * TILES
                weights += (_words(words, after, last, HALF, 2, HIDDEN, OCTETS, TILES),)
            own = weights[chunk]
            if together_of(HIDDEN, OCTETS) >= PARTS:
                wg, wu = _unpacked(own[0], False), _unpacked(own[1], False)
                gate, up = products(wg[0], q, 0), products(wu[0], q, 0)
                for part in gl.static_range(1, PARTS):
                    gate = _added(gate, products(wg[part], q, part))
                    up = _added(up, products(wu[part], q, part))
                gate, up = values_of_two(gate, up, of_values)
            else:
                both, beside = _multiplied(own, box, count, slots, HIDDEN, OCTETS)
                gate, up = values_of_two(both[0], both[1], beside)
            row = rows_of(tile, TILES)
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
    TILES: tl.constexpr,
):
    """The logits of all sequences; send the greatest of the program's, and the first word that has
    it, of each."""
    PARTS: tl.constexpr = parts_of(HIDDEN, OCTETS)
    last = (vocabulary + 15) // 16
    slot = slots_of(OCTETS)
    weights = weights_of(words, me * TILES, last, HIDDEN, OCTETS, TILES)
    q = ()
    of_values = ()
    for part in gl.static_range(PARTS):
        some, beside = coded((box,), count, slots, HIDDEN, OCTETS, part, 1, part == 0)
        q = q + some
        of_values = of_values + beside
    at = slot * vocabulary
    best = at * 0.0 + rows_of(0, TILES) * 0.0 + float("-inf")
    where = at * 0 + rows_of(0, TILES) * 0
    for tile in range(me * TILES, last, programs * TILES):
        now = _unpacked(weights, False)
        weights = weights_of(words, tile + programs * TILES, last, HIDDEN, OCTETS, TILES)
        found = products(now[0], q, 0)
        for part in gl.static_range(1, PARTS):
            found = _added(found, products(now[part], q, part))
        value = value_of(found, of_values)
        row = rows_of(tile, TILES)
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
    sequence = _most(_of_sequences(slot + rows_of(0, TILES) * 0, TILES, OCTETS))
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
