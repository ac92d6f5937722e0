"""What a program does for one layer: it loads the weights of its rows, waits for the input, and
sends the values of its rows."""

import triton.language as tl

from mmfree_kernels.inference.messages import received_one
from mmfree_kernels.inference.products import (
    groups_of,
    over_warps,
    own_layout,
    rows_of,
    sums_of,
    weights_of,
)
from mmfree_kernels.inference.threads import (
    INNER_EPS,
    codes_of,
    factor_of,
    greatest,
    line_layout,
    loaded,
    of_five,
    of_three,
    of_two,
    received,
    received_two,
    root_of,
    sigmoid,
    squares,
    step_of,
    times,
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
    first,
    last,
    inverse,
    eps,
    HIDDEN: tl.constexpr,
    INNER: tl.constexpr,
    BOUNDED: tl.constexpr,
    QUADS: tl.constexpr,
    UNIT: tl.constexpr,
    CHUNKS: tl.constexpr,
    WARPS: tl.constexpr,
):
    """state = f · state + silu(i) · (1 - f), by three projections of the twice normed x; send g to
    the first half of `gates` and silu(state) to the second."""
    # The three lie one above another: each is so many words.
    third = INNER * (HIDDEN // 16)
    wi = weights_of(words, first, last, HIDDEN, QUADS, UNIT, WARPS)
    wf = weights_of(words + third, first, last, HIDDEN, QUADS, UNIT, WARPS)
    wg = weights_of(words + 2 * third, first, last, HIDDEN, QUADS, UNIT, WARPS)
    before = _of_rows(state, first, last, QUADS, UNIT, WARPS)
    if BOUNDED:
        least = _of_rows(bounds, first, last, QUADS, UNIT, WARPS)
    outer = loaded(vectors, HIDDEN, WARPS)
    i_gains = loaded(vectors + HIDDEN, HIDDEN, WARPS)
    f_gains = loaded(vectors + 2 * HIDDEN, HIDDEN, WARPS)
    g_gains = loaded(vectors + 3 * HIDDEN, HIDDEN, WARPS)
    i_scale, f_scale, g_scale = gl.load(scales), gl.load(scales + 1), gl.load(scales + 2)
    found = received(x, HIDDEN, WARPS, True)
    z = times(found, outer)
    # Each projection has gains of its own and so quantises z for itself.
    yi, yf, yg = times(z, i_gains), times(z, f_gains), times(z, g_gains)
    all_squares, normed, mi, mf, mg = of_five(
        squares(found), squares(z), greatest(yi), greatest(yf), greatest(yg), WARPS
    )
    root = root_of(all_squares, normed, inverse, eps)
    qi = codes_of(yi, factor_of(mi, root))
    qf = codes_of(yf, factor_of(mf, root))
    qg = codes_of(yg, factor_of(mg, root))
    i_step, f_step, g_step = (
        step_of(mi, root) * i_scale,
        step_of(mf, root) * f_scale,
        step_of(mg, root) * g_scale,
    )
    for chunk in gl.static_range(CHUNKS):
        begin = first + chunk * (4 * QUADS)
        ci, cf, cg, now = wi, wf, wg, before
        if BOUNDED:
            bound = least
        if chunk + 1 < CHUNKS:
            after = begin + 4 * QUADS
            wi = weights_of(words, after, last, HIDDEN, QUADS, UNIT, WARPS)
            wf = weights_of(words + third, after, last, HIDDEN, QUADS, UNIT, WARPS)
            wg = weights_of(words + 2 * third, after, last, HIDDEN, QUADS, UNIT, WARPS)
            before = _of_rows(state, after, last, QUADS, UNIT, WARPS)
            if BOUNDED:
                least = _of_rows(bounds, after, last, QUADS, UNIT, WARPS)
        si = sums_of(ci, qi, QUADS, UNIT, WARPS)
        sf = sums_of(cf, qf, QUADS, UNIT, WARPS)
        sg = sums_of(cg, qg, QUADS, UNIT, WARPS)
        for group in gl.static_range(groups_of(QUADS)):
            row, live = rows_of(begin, last, group, QUADS, UNIT, WARPS)
            i, f, g = over_warps((si[group], sf[group], sg[group]), 3, WARPS)
            i, f, g = i * i_step, sigmoid(f * f_step), g * g_step
            if BOUNDED:
                f = bound[group] + (1 - bound[group]) * f
            h = f * now[group] + i * sigmoid(i) * (1 - f)
            gl.store(gates + row, g, mask=live)
            gl.store(gates + INNER + row, h * sigmoid(h), mask=live)
            gl.store(state + row, h, mask=live)


@jit
def _of_rows(base, first, last, QUADS: tl.constexpr, UNIT: tl.constexpr, WARPS: tl.constexpr):
    """A value of each row, for each group of eight quads a tensor [32]."""
    found = ()
    for group in gl.static_range(groups_of(QUADS)):
        row, live = rows_of(first, last, group, QUADS, UNIT, WARPS)
        found += (gl.load(base + row, mask=live, other=0.0, cache_modifier=".cg"),)
    return found


@jit
def mixer_out(
    words,
    vectors,
    scale,
    gates,
    x,
    out,
    first,
    last,
    inverse,
    eps,
    INNER: tl.constexpr,
    QUADS: tl.constexpr,
    UNIT: tl.constexpr,
    CHUNKS: tl.constexpr,
    WARPS: tl.constexpr,
):
    """Send x + the projection of RMS(g) · silu(state); `gates` has one behind the other."""
    own = weights_of(words, first, last, INNER, QUADS, UNIT, WARPS)
    # It has arrived already: the whole input of the block has.
    before = _of_rows(x, first, last, QUADS, UNIT, WARPS)
    outer = loaded(vectors, INNER, WARPS)
    gains = loaded(vectors + INNER, INNER, WARPS)
    factor = gl.load(scale)
    g, h = received_two(gates, INNER, WARPS, True)
    z = times(times(g, outer), h)
    y = times(z, gains)
    all_squares, normed, most = of_three(squares(g), squares(z), greatest(y), WARPS)
    root = root_of(all_squares, normed, inverse, eps)
    _added(
        own,
        before,
        words,
        codes_of(y, factor_of(most, root)),
        step_of(most, root) * factor,
        x,
        out,
        first,
        last,
        INNER,
        QUADS,
        UNIT,
        CHUNKS,
        WARPS,
    )


@jit
def _added(
    own,
    before,
    words,
    q,
    factor,
    x,
    out,
    first,
    last,
    COLUMNS: tl.constexpr,
    QUADS: tl.constexpr,
    UNIT: tl.constexpr,
    CHUNKS: tl.constexpr,
    WARPS: tl.constexpr,
):
    """Send x + factor · the products of q and the program's rows; of the first chunk of these
    `own` are the weights and `before` is x."""
    for chunk in gl.static_range(CHUNKS):
        begin = first + chunk * (4 * QUADS)
        weights, now = own, before
        if chunk + 1 < CHUNKS:
            after = begin + 4 * QUADS
            own = weights_of(words, after, last, COLUMNS, QUADS, UNIT, WARPS)
            before = _of_rows(x, after, last, QUADS, UNIT, WARPS)
        found = over_warps(sums_of(weights, q, QUADS, UNIT, WARPS), groups_of(QUADS), WARPS)
        for group in gl.static_range(groups_of(QUADS)):
            row, live = rows_of(begin, last, group, QUADS, UNIT, WARPS)
            gl.store(out + row, now[group] + found[group] * factor, mask=live)


@jit
def channel_in(
    words,
    vectors,
    scale,
    x,
    out,
    first,
    last,
    inverse,
    eps,
    HIDDEN: tl.constexpr,
    WIDTH: tl.constexpr,
    QUADS: tl.constexpr,
    UNIT: tl.constexpr,
    CHUNKS: tl.constexpr,
    WARPS: tl.constexpr,
):
    """Send silu(gate) · up, from the two projections of the twice normed x."""
    half = WIDTH * (HIDDEN // 16)
    wg = weights_of(words, first, last, HIDDEN, QUADS, UNIT, WARPS)
    wu = weights_of(words + half, first, last, HIDDEN, QUADS, UNIT, WARPS)
    q, factor = _normed(vectors, scale, x, inverse, eps, HIDDEN, WARPS)
    for chunk in gl.static_range(CHUNKS):
        begin = first + chunk * (4 * QUADS)
        cg, cu = wg, wu
        if chunk + 1 < CHUNKS:
            after = begin + 4 * QUADS
            wg = weights_of(words, after, last, HIDDEN, QUADS, UNIT, WARPS)
            wu = weights_of(words + half, after, last, HIDDEN, QUADS, UNIT, WARPS)
        found = over_warps(
            sums_of(cg, q, QUADS, UNIT, WARPS) + sums_of(cu, q, QUADS, UNIT, WARPS),
            2 * groups_of(QUADS),
            WARPS,
        )
        for group in gl.static_range(groups_of(QUADS)):
            row, live = rows_of(begin, last, group, QUADS, UNIT, WARPS)
            gate, up = found[group] * factor, found[group + groups_of(QUADS)] * factor
            gl.store(out + row, gate * sigmoid(gate) * up, mask=live)


@jit
def _normed(vectors, scale, x, inverse, eps, COLUMNS: tl.constexpr, WARPS: tl.constexpr):
    """The codes of the twice normed x, once it has come, and what a product with them is worth.

    `vectors` has the gains of both norms, one behind the other.
    """
    outer = loaded(vectors, COLUMNS, WARPS)
    gains = loaded(vectors + COLUMNS, COLUMNS, WARPS)
    factor = gl.load(scale)
    found = received(x, COLUMNS, WARPS, True)
    z = times(found, outer)
    y = times(z, gains)
    all_squares, normed, most = of_three(squares(found), squares(z), greatest(y), WARPS)
    root = root_of(all_squares, normed, inverse, eps)
    return codes_of(y, factor_of(most, root)), step_of(most, root) * factor


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
    inverse,
    WIDTH: tl.constexpr,
    QUADS: tl.constexpr,
    UNIT: tl.constexpr,
    CHUNKS: tl.constexpr,
    WARPS: tl.constexpr,
):
    """Send x + the projection of the normed v."""
    own = weights_of(words, first, last, WIDTH, QUADS, UNIT, WARPS)
    # It has arrived already, as a whole.
    before = _of_rows(x, first, last, QUADS, UNIT, WARPS)
    gains, factor = loaded(vectors, WIDTH, WARPS), gl.load(scale)
    found = received(v, WIDTH, WARPS, True)
    y = times(found, gains)
    all_squares, most = of_two(squares(found), greatest(y), WARPS)
    root = gl.rsqrt(all_squares * inverse + INNER_EPS)
    _added(
        own,
        before,
        words,
        codes_of(y, factor_of(most, root)),
        step_of(most, root) * factor,
        x,
        out,
        first,
        last,
        WIDTH,
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
    vocabulary,
    inverse,
    eps,
    HIDDEN: tl.constexpr,
    QUADS: tl.constexpr,
    WARPS: tl.constexpr,
):
    """logits = the projection of the twice normed x; send the greatest of a program's, and the
    first word that has it."""
    OWN: tl.constexpr = own_layout(WARPS)
    end = (vocabulary + 15) // 16 * 16  # the last tile is full, too
    first = me * (4 * QUADS)
    ahead = weights_of(words, first, end, HIDDEN, QUADS, 4, WARPS)
    q, factor = _normed(vectors, vectors + 2 * HIDDEN, x, inverse, eps, HIDDEN, WARPS)
    best = gl.full((32,), float("-inf"), gl.float32, layout=OWN)
    where = gl.full((32,), 0, gl.int32, layout=OWN)
    for first in range(me * (4 * QUADS), vocabulary, programs * (4 * QUADS)):
        now = ahead
        after = first + programs * (4 * QUADS)
        ahead = weights_of(words, after, end, HIDDEN, QUADS, 4, WARPS)
        found = over_warps(sums_of(now, q, QUADS, 4, WARPS), groups_of(QUADS), WARPS)
        for group in gl.static_range(groups_of(QUADS)):
            row, live = rows_of(first, vocabulary, group, QUADS, 4, WARPS)
            value = found[group] * factor
            gl.store(logits + row, value, mask=live)
            better = (value > best) & live
            where = gl.where(better, row, where)
            best = gl.where(better, value, best)
    most = gl.max(best, 0)
    # Of words with the same logit the lowest is chosen.
    lowest = gl.min(gl.where(best == most, where, vocabulary), 0)
    gl.store(bests + me, most)
    gl.store(places + me, lowest.to(gl.float32))


@jit
def choose(bests, places, tokens, programs, COUNT: tl.constexpr, WARPS: tl.constexpr):
    """The token of the greatest logit of all programs, the lowest of those that have it."""
    program = gl.minimum(gl.arange(0, COUNT, layout=line_layout(WARPS)), programs - 1)
    value, word = received_one(bests + program), received_one(places + program)
    chosen = gl.min(gl.where(value == gl.max(value, 0), word, 16777216.0), 0)
    gl.store(tokens, chosen.to(gl.int64))
