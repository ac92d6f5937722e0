"""What a program does for one layer: it loads the weights of its rows, waits for the input, and
sends the values of its rows."""

import triton.language as tl

from mmfree_kernels.inference.messages import received, received_four
from mmfree_kernels.inference.threads import (
    INNER_EPS,
    codes_of,
    greatest,
    inside,
    layout_of,
    loaded_four,
    of_five,
    of_three,
    of_two,
    own_layout,
    places_of,
    root_of,
    row_of_one,
    rows_of,
    rows_of_three,
    rows_of_two,
    sigmoid,
    squares,
    step_of,
    sums_of,
    times,
    weights_of,
)
from mmfree_kernels.ops.gluon import gl, jit


@jit
def mixer_in(
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
    LAYOUT: tl.constexpr = layout_of(WARPS)
    THREADS: tl.constexpr = 32 * WARPS
    # The three lie one above another: each is so many words.
    third = inner * (hidden // 16)
    wi = weights_of(words, first, last, hidden, QUADS, UNIT, ROUNDS, THREADS, EXACT, LAYOUT)
    wf = weights_of(words + third, first, last, hidden, QUADS, UNIT, ROUNDS, THREADS, EXACT, LAYOUT)
    wg = weights_of(
        words + 2 * third, first, last, hidden, QUADS, UNIT, ROUNDS, THREADS, EXACT, LAYOUT
    )
    at = places_of(hidden, ROUNDS, THREADS, LAYOUT, EXACT)
    outer, i_gains = loaded_four(vectors + at), loaded_four(vectors + hidden + at)
    f_gains, g_gains = (
        loaded_four(vectors + 2 * hidden + at),
        loaded_four(vectors + 3 * hidden + at),
    )
    i_scale, f_scale, g_scale = gl.load(scales), gl.load(scales + 1), gl.load(scales + 2)
    found = received_four(x + at, TEXT, REGISTERS, PACK)
    found = inside(found, hidden, ROUNDS, LAYOUT, EXACT)
    z = times(found, outer)
    # Each projection has gains of its own and so quantises z for itself.
    yi, yf, yg = times(z, i_gains), times(z, f_gains), times(z, g_gains)
    all_squares, normed, mi, mf, mg = of_five(
        squares(found, WARPS),
        squares(z, WARPS),
        greatest(yi, WARPS),
        greatest(yf, WARPS),
        greatest(yg, WARPS),
        WARPS,
    )
    root = root_of(all_squares, normed, inverse, eps)
    ni, nf, ng = step_of(mi, root), step_of(mf, root), step_of(mg, root)
    qi, qf, qg = codes_of(yi, root / ni), codes_of(yf, root / nf), codes_of(yg, root / ng)
    for chunk in gl.static_range(CHUNKS):
        begin = first + chunk * (4 * QUADS)
        if chunk > 0:
            wi = weights_of(words, begin, last, hidden, QUADS, UNIT, ROUNDS, THREADS, EXACT, LAYOUT)
            wf = weights_of(
                words + third, begin, last, hidden, QUADS, UNIT, ROUNDS, THREADS, EXACT, LAYOUT
            )
            wg = weights_of(
                words + 2 * third, begin, last, hidden, QUADS, UNIT, ROUNDS, THREADS, EXACT, LAYOUT
            )
        row = rows_of(begin, QUADS, WARPS)
        live = row < last
        before = gl.load(state + row, mask=live, other=0.0)
        i, f, g = rows_of_three(
            sums_of(wi, qi, WARPS), sums_of(wf, qf, WARPS), sums_of(wg, qg, WARPS), WARPS
        )
        i, f, g = i * (ni * i_scale), sigmoid(f * (nf * f_scale)), g * (ng * g_scale)
        if BOUNDED:
            bound = gl.load(bounds + row, mask=live, other=0.0)
            f = bound + (1 - bound) * f
        h = f * before + i * sigmoid(i) * (1 - f)
        gl.store(gates + row, g, mask=live)
        gl.store(opened + row, h * sigmoid(h), mask=live)
        gl.store(state + row, h, mask=live)


@jit
def mixer_out(
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
    LAYOUT: tl.constexpr = layout_of(WARPS)
    THREADS: tl.constexpr = 32 * WARPS
    own = weights_of(words, first, last, inner, QUADS, UNIT, ROUNDS, THREADS, EXACT, LAYOUT)
    at = places_of(inner, ROUNDS, THREADS, LAYOUT, EXACT)
    outer, gains, factor = (
        loaded_four(vectors + at),
        loaded_four(vectors + inner + at),
        gl.load(scale),
    )
    g, h = (
        received_four(gates + at, TEXT, REGISTERS, PACK),
        received_four(opened + at, TEXT, REGISTERS, PACK),
    )
    g, h = inside(g, inner, ROUNDS, LAYOUT, EXACT), inside(h, inner, ROUNDS, LAYOUT, EXACT)
    z = times(times(g, outer), h)
    y = times(z, gains)
    all_squares, normed, most = of_three(
        squares(g, WARPS), squares(z, WARPS), greatest(y, WARPS), WARPS
    )
    root = root_of(all_squares, normed, inverse, eps)
    step = step_of(most, root)
    _added(
        own,
        words,
        codes_of(y, root / step),
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
            own = weights_of(
                words,
                begin,
                last,
                columns,
                QUADS,
                UNIT,
                ROUNDS,
                32 * WARPS,
                EXACT,
                layout_of(WARPS),
            )
        row = rows_of(begin, QUADS, WARPS)
        live = row < last
        # It has arrived already: the whole input of the block has.
        before = gl.load(x + row, mask=live, other=0.0, cache_modifier=".cg")
        found = gl.convert_layout(row_of_one(sums_of(own, q, WARPS), WARPS), own_layout(WARPS))
        gl.store(out + row, before + found * factor, mask=live)


@jit
def channel_in(
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
    LAYOUT: tl.constexpr = layout_of(WARPS)
    THREADS: tl.constexpr = 32 * WARPS
    half = width * (hidden // 16)
    wg = weights_of(words, first, last, hidden, QUADS, UNIT, ROUNDS, THREADS, EXACT, LAYOUT)
    wu = weights_of(words + half, first, last, hidden, QUADS, UNIT, ROUNDS, THREADS, EXACT, LAYOUT)
    q, factor = _normed(
        vectors, scale, x, hidden, inverse, eps, ROUNDS, EXACT, TEXT, REGISTERS, PACK, WARPS
    )
    for chunk in gl.static_range(CHUNKS):
        begin = first + chunk * (4 * QUADS)
        if chunk > 0:
            wg = weights_of(words, begin, last, hidden, QUADS, UNIT, ROUNDS, THREADS, EXACT, LAYOUT)
            wu = weights_of(
                words + half, begin, last, hidden, QUADS, UNIT, ROUNDS, THREADS, EXACT, LAYOUT
            )
        row = rows_of(begin, QUADS, WARPS)
        gate, up = rows_of_two(sums_of(wg, q, WARPS), sums_of(wu, q, WARPS), WARPS)
        gate, up = gate * factor, up * factor
        gl.store(out + row, gate * sigmoid(gate) * up, mask=row < last)


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
    LAYOUT: tl.constexpr = layout_of(WARPS)
    THREADS: tl.constexpr = 32 * WARPS
    at = places_of(columns, ROUNDS, THREADS, LAYOUT, EXACT)
    outer, gains, factor = (
        loaded_four(vectors + at),
        loaded_four(vectors + columns + at),
        gl.load(scale),
    )
    found = received_four(x + at, TEXT, REGISTERS, PACK)
    found = inside(found, columns, ROUNDS, LAYOUT, EXACT)
    z = times(found, outer)
    y = times(z, gains)
    all_squares, normed, most = of_three(
        squares(found, WARPS), squares(z, WARPS), greatest(y, WARPS), WARPS
    )
    root = root_of(all_squares, normed, inverse, eps)
    step = step_of(most, root)
    return codes_of(y, root / step), step * factor


@jit
def channel_out(
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
    LAYOUT: tl.constexpr = layout_of(WARPS)
    THREADS: tl.constexpr = 32 * WARPS
    own = weights_of(words, first, last, width, QUADS, UNIT, ROUNDS, THREADS, EXACT, LAYOUT)
    at = places_of(width, ROUNDS, THREADS, LAYOUT, EXACT)
    gains, factor = loaded_four(vectors + at), gl.load(scale)
    found = received_four(v + at, TEXT, REGISTERS, PACK)
    found = inside(found, width, ROUNDS, LAYOUT, EXACT)
    y = times(found, gains)
    all_squares, most = of_two(squares(found, WARPS), greatest(y, WARPS), WARPS)
    root = gl.rsqrt(all_squares * inverse + INNER_EPS)
    step = step_of(most, root)
    _added(
        own,
        words,
        codes_of(y, root / step),
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
def head(
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
    LAYOUT: tl.constexpr = layout_of(WARPS)
    THREADS: tl.constexpr = 32 * WARPS
    OWN: tl.constexpr = own_layout(WARPS)
    end = (vocabulary + 15) // 16 * 16  # the last tile is full, too
    ahead = weights_of(
        words, me * (4 * QUADS), end, hidden, QUADS, 4, ROUNDS, THREADS, EXACT, LAYOUT
    )
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
        ahead = weights_of(words, after, end, hidden, QUADS, 4, ROUNDS, THREADS, EXACT, LAYOUT)
        found = gl.convert_layout(row_of_one(sums_of(now, q, WARPS), WARPS), OWN) * factor
        row = rows_of(first, QUADS, WARPS)
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
def choose(bests, places, tokens, programs, COUNT: tl.constexpr, WARPS: tl.constexpr):
    """The token of the greatest logit of all programs, the lowest of those that have it."""
    THREAD: tl.constexpr = gl.SliceLayout(0, gl.SliceLayout(0, layout_of(WARPS)))
    program = gl.minimum(gl.arange(0, COUNT, layout=THREAD), programs - 1)
    value, word = received(bests + program), received(places + program)
    chosen = gl.min(gl.where(value == gl.max(value, 0), word, 16777216.0), 0)
    gl.store(tokens, chosen.to(gl.int64))
