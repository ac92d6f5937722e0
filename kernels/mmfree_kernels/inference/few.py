"""One token of a few sequences through a packed model, in four kernels a block.

Each kernel has its norm and its gates fused in.  Every program of a kernel reads the whole input of
its layer, normalises and quantises it for itself, which costs less than a kernel of its own would,
and owns some rows of the output.  Its weights, which no kernel writes, are on their way before it
waits for the kernel ahead (programmatic dependent launch).  Activations and states are float32.

The norm before a layer and that inside its BitLinear are two in a row.  With z = x · gains0,

    root0² = 1 / (mean x² + eps)      root1² = 1 / (root0² · mean z² + 1e-6),

so one pass over x gives both roots.  For x = 1, 7 and gains0 = 2, 2, mean x² is 25 and root0 = 1/5.
z = 2, 14 has mean z² = 100, so root1² = 1 / (100 / 25) and root1 = 1/2.  The twice normed x, z ·
root0 · root1 = 0.2, 1.4, has the mean square 1.
"""

import triton
import triton.language as tl
from torch import Tensor

from mmfree_kernels.inference.model import Linear
from mmfree_kernels.ops.bitlinear.packed import (
    INTERPRETED,
    begin,
    overlaps,
    quantise,
    row_sums,
    row_words,
)
from mmfree_neuro.hgrn_bit.config import BITLINEAR_EPS

INNER_EPS = tl.constexpr(BITLINEAR_EPS)


@triton.jit
def _groups(columns, GROUPS: tl.constexpr):
    """Where the columns lie, as [GROUPS, 16], and which of them there are."""
    # A group of 16 columns meets one packed word of every row.  GROUPS is a power of two, as Triton
    # asks for, and so may be more than there are: 5 groups of columns lie in 8.
    at = tl.arange(0, GROUPS)[:, None] * 16 + tl.arange(0, 16)[None, :]
    return at, at < columns


@triton.jit
def _mean(x, columns):
    return tl.sum(tl.sum(x, 1), 0) / columns


@triton.jit
def _twice_normed(x, gains, columns, eps):
    """x · gains, and what to multiply it with to normalise it a second time: root0 · root1."""
    z = x * gains
    root = tl.rsqrt(_mean(x * x, columns) + eps)
    return z, root * tl.rsqrt(root * root * _mean(z * z, columns) + INNER_EPS)


@triton.jit
def _product(weights, x, root, scale, INTERPRETED: tl.constexpr):
    """The product of x · root, quantised, with packed weights [GROUPS, ROWS]; `scale` is theirs."""
    q, total, inverse = quantise(x, root)
    return row_sums(weights, q, total, INTERPRETED) * (inverse * tl.load(scale))


@triton.jit
def _mixer_in(
    x,
    outer,
    gains,
    weights,
    scales,
    bounds,
    state,
    gate,
    columns,
    rows,
    eps,
    BATCH: tl.constexpr,
    BOUNDED: tl.constexpr,
    ROWS: tl.constexpr,
    GROUPS: tl.constexpr,
    PDL: tl.constexpr,
    INTERPRETED: tl.constexpr,
):
    """state = f · state + silu(i) · (1 - f) and gate = g, by three projections of the normed x."""
    first = tl.program_id(0) * ROWS
    r = first + tl.arange(0, ROWS)
    at, inside = _groups(columns, GROUPS)
    g0 = tl.load(outer + at, mask=inside, other=0.0)
    i_gains = tl.load(gains + at, mask=inside, other=0.0)
    f_gains = tl.load(gains + columns + at, mask=inside, other=0.0)
    g_gains = tl.load(gains + 2 * columns + at, mask=inside, other=0.0)
    i_weights = row_words(weights, first, ROWS, columns // 16, GROUPS, rows)
    # The three lie one above another in one matrix: with 2048 rows each, row 5 of f is row 2053.
    f_weights = row_words(weights, rows + first, ROWS, columns // 16, GROUPS, 2 * rows)
    g_weights = row_words(weights, 2 * rows + first, ROWS, columns // 16, GROUPS, 3 * rows)
    begin(PDL)
    for b in range(BATCH):
        z, root = _twice_normed(
            tl.load(x + b * columns + at, mask=inside, other=0.0), g0, columns, eps
        )
        # Each projection has gains of its own and so quantises z for itself.
        i = _product(i_weights, z * i_gains, root, scales, INTERPRETED)
        f = tl.sigmoid(_product(f_weights, z * f_gains, root, scales + 1, INTERPRETED))
        g = _product(g_weights, z * g_gains, root, scales + 2, INTERPRETED)
        if BOUNDED:
            bound = tl.load(bounds + r, mask=r < rows, other=0.0)
            f = bound + (1 - bound) * f
        # The state is updated in place: no other program reads or writes these rows of it.
        h = f * tl.load(state + b * rows + r, mask=r < rows, other=0.0) + i * tl.sigmoid(i) * (
            1 - f
        )
        tl.store(state + b * rows + r, h, mask=r < rows)
        tl.store(gate + b * rows + r, g, mask=r < rows)


@triton.jit
def _mixer_out(
    state,
    gate,
    outer,
    gains,
    weights,
    scales,
    x,
    columns,
    rows,
    eps,
    BATCH: tl.constexpr,
    ROWS: tl.constexpr,
    GROUPS: tl.constexpr,
    PDL: tl.constexpr,
    INTERPRETED: tl.constexpr,
):
    """x += the projection of RMS(gate) · silu(state)."""
    first = tl.program_id(0) * ROWS
    r = first + tl.arange(0, ROWS)
    at, inside = _groups(columns, GROUPS)
    g0, g1 = (
        tl.load(outer + at, mask=inside, other=0.0),
        tl.load(gains + at, mask=inside, other=0.0),
    )
    own = row_words(weights, first, ROWS, columns // 16, GROUPS, rows)
    begin(PDL)
    for b in range(BATCH):
        g = tl.load(gate + b * columns + at, mask=inside, other=0.0)
        h = tl.load(state + b * columns + at, mask=inside, other=0.0)
        o = g * g0 * h * tl.sigmoid(h)
        root = tl.rsqrt(_mean(g * g, columns) + eps)
        root *= tl.rsqrt(root * root * _mean(o * o, columns) + INNER_EPS)
        y = _product(own, o * g1, root, scales, INTERPRETED)
        before = tl.load(x + b * rows + r, mask=r < rows, other=0.0)
        tl.store(x + b * rows + r, before + y, mask=r < rows)


@triton.jit
def _channel_in(
    x,
    outer,
    gains,
    weights,
    scales,
    v,
    columns,
    rows,
    eps,
    BATCH: tl.constexpr,
    ROWS: tl.constexpr,
    GROUPS: tl.constexpr,
    PDL: tl.constexpr,
    INTERPRETED: tl.constexpr,
):
    """v = silu(gate) · up, from the two projections of the twice normed x."""
    first = tl.program_id(0) * ROWS
    r = first + tl.arange(0, ROWS)
    at, inside = _groups(columns, GROUPS)
    g0, g1 = (
        tl.load(outer + at, mask=inside, other=0.0),
        tl.load(gains + at, mask=inside, other=0.0),
    )
    gate_weights = row_words(weights, first, ROWS, columns // 16, GROUPS, rows)
    up_weights = row_words(weights, rows + first, ROWS, columns // 16, GROUPS, 2 * rows)
    begin(PDL)
    for b in range(BATCH):
        z, root = _twice_normed(
            tl.load(x + b * columns + at, mask=inside, other=0.0), g0, columns, eps
        )
        # Gate and up are rows of one layer, with the same gains and scale: z is quantised once.
        q, total, inverse = quantise(z * g1, root)
        factor = inverse * tl.load(scales)
        gate = row_sums(gate_weights, q, total, INTERPRETED) * factor
        up = row_sums(up_weights, q, total, INTERPRETED) * factor
        tl.store(v + b * rows + r, gate * tl.sigmoid(gate) * up, mask=r < rows)


@triton.jit
def _channel_out(
    v,
    gains,
    weights,
    scales,
    x,
    columns,
    rows,
    BATCH: tl.constexpr,
    ROWS: tl.constexpr,
    GROUPS: tl.constexpr,
    PDL: tl.constexpr,
    INTERPRETED: tl.constexpr,
):
    """x += the projection of the normed v."""
    first = tl.program_id(0) * ROWS
    r = first + tl.arange(0, ROWS)
    at, inside = _groups(columns, GROUPS)
    g1 = tl.load(gains + at, mask=inside, other=0.0)
    own = row_words(weights, first, ROWS, columns // 16, GROUPS, rows)
    begin(PDL)
    for b in range(BATCH):
        value = tl.load(v + b * columns + at, mask=inside, other=0.0)
        y = _product(
            own,
            value * g1,
            tl.rsqrt(_mean(value * value, columns) + INNER_EPS),
            scales,
            INTERPRETED,
        )
        before = tl.load(x + b * rows + r, mask=r < rows, other=0.0)
        tl.store(x + b * rows + r, before + y, mask=r < rows)


@triton.jit
def _head(
    x,
    outer,
    gains,
    weights,
    scales,
    logits,
    columns,
    rows,
    eps,
    BATCH: tl.constexpr,
    ROWS: tl.constexpr,
    GROUPS: tl.constexpr,
    PDL: tl.constexpr,
    INTERPRETED: tl.constexpr,
):
    """logits = the projection of the twice normed x."""
    first = tl.program_id(0) * ROWS
    r = first + tl.arange(0, ROWS)
    at, inside = _groups(columns, GROUPS)
    g0, g1 = (
        tl.load(outer + at, mask=inside, other=0.0),
        tl.load(gains + at, mask=inside, other=0.0),
    )
    own = row_words(weights, first, ROWS, columns // 16, GROUPS, rows)
    begin(PDL)
    for b in range(BATCH):
        z, root = _twice_normed(
            tl.load(x + b * columns + at, mask=inside, other=0.0), g0, columns, eps
        )
        y = _product(own, z * g1, root, scales, INTERPRETED)
        tl.store(logits + b * rows + r, y, mask=r < rows)


@triton.jit
def _embed(
    tokens,
    embedding,
    steps,
    x,
    vocabulary,
    hidden,
    HIDDEN: tl.constexpr,
    SCALED: tl.constexpr,
    PDL: tl.constexpr,
):
    b, k = tl.program_id(0).to(tl.int64), tl.arange(0, HIDDEN)
    begin(PDL)
    token = tl.load(tokens + b)
    known = (token >= 0) & (token < vocabulary)
    row = tl.load(embedding + token * hidden + k, mask=known & (k < hidden), other=0).to(tl.float32)
    if SCALED:
        row *= tl.load(steps + token, mask=known, other=0.0)
    tl.store(x + b * hidden + k, tl.where(known, row, float("nan")), mask=k < hidden)


@triton.jit
def _choose(logits, tokens, vocabulary, BLOCK: tl.constexpr, PDL: tl.constexpr):
    b = tl.program_id(0).to(tl.int64)
    begin(PDL)
    n = tl.arange(0, BLOCK)
    # A lane keeps the first of its largest logits; of lanes with the same logit the lowest word is
    # chosen.  With two lanes and logits 1, 3, 3, lane 0 sees words 0 and 2 and keeps 2, lane 1
    # keeps 1.  Both have the logit 3, so word 1 is chosen.
    best, where = tl.full((BLOCK,), float("-inf"), tl.float32), tl.zeros((BLOCK,), tl.int32)
    for start in range(0, vocabulary, BLOCK):
        some = tl.load(
            logits + b * vocabulary + start + n, mask=start + n < vocabulary, other=float("-inf")
        )
        where = tl.where(some > best, start + n, where)
        best = tl.maximum(some, best)
    top = tl.max(best, 0)
    tl.store(tokens + b, tl.min(tl.where(best == top, where, vocabulary), 0).to(tl.int64))


def _tile(rows: int, columns: int, matrices: int) -> tuple[int, int, int]:
    """Rows and groups of a program's tile, and its warps."""
    # Near the fastest of a search on an H100 at three sizes.
    groups = triton.next_power_of_2(columns // 16)
    if rows > 8192:
        return 16, groups, 4
    if matrices == 3 and rows <= 2048:
        return 4, groups, 4
    return 8, groups, 8 if matrices == 1 and groups >= 256 else 4


def embed(tokens: Tensor, embedding: Tensor, steps: Tensor | None, x: Tensor) -> None:
    """x [batch, hidden] = the embedding of tokens int64 [batch], times the steps of words if given.

    A token outside the vocabulary becomes NaN, and so do its logits.
    """
    vocabulary, hidden = embedding.shape
    pdl = overlaps()
    _embed[(len(tokens),)](
        tokens,
        embedding,
        x if steps is None else steps,
        x,
        vocabulary,
        hidden,
        triton.next_power_of_2(hidden),
        steps is not None,
        pdl,
        launch_pdl=pdl,
    )


def choose(logits: Tensor, tokens: Tensor) -> None:
    """tokens [batch] = the first largest of the logits [batch, vocabulary]."""
    pdl = overlaps()
    _choose[(len(tokens),)](
        logits, tokens, logits.shape[1], 4096, pdl, num_warps=32, launch_pdl=pdl
    )


def mixer_in(
    x: Tensor,
    outer: Tensor,
    linear: Linear,
    bound: Tensor | None,
    state: Tensor,
    gate: Tensor,
    eps: float,
) -> None:
    """Update `state` and write `gate`, both [batch, state size], from x [batch, hidden].

    `linear` has the projections i, f and g.
    """
    batch, columns = x.shape
    rows = state.shape[1]
    tile_rows, groups, warps = _tile(rows, columns, 3)
    pdl = overlaps()
    _mixer_in[(triton.cdiv(rows, tile_rows),)](
        x,
        outer,
        linear.gains,
        linear.weights,
        linear.scales,
        x if bound is None else bound,
        state,
        gate,
        columns,
        rows,
        eps,
        batch,
        bound is not None,
        tile_rows,
        groups,
        pdl,
        INTERPRETED,
        num_warps=warps,
        launch_pdl=pdl,
    )


def mixer_out(
    state: Tensor, gate: Tensor, outer: Tensor, linear: Linear, x: Tensor, eps: float
) -> None:
    """Add the output projection to x [batch, hidden]."""
    batch, columns = state.shape
    rows = x.shape[1]
    tile_rows, groups, warps = _tile(rows, columns, 1)
    pdl = overlaps()
    _mixer_out[(triton.cdiv(rows, tile_rows),)](
        state,
        gate,
        outer,
        linear.gains,
        linear.weights,
        linear.scales,
        x,
        columns,
        rows,
        eps,
        batch,
        tile_rows,
        groups,
        pdl,
        INTERPRETED,
        num_warps=warps,
        launch_pdl=pdl,
    )


def channel_in(x: Tensor, outer: Tensor, linear: Linear, v: Tensor, eps: float) -> None:
    """Write v [batch, gate width] from x [batch, hidden]; `linear` has the gate above up."""
    batch, columns = x.shape
    rows = v.shape[1]
    tile_rows, groups, warps = _tile(rows, columns, 2)
    pdl = overlaps()
    _channel_in[(triton.cdiv(rows, tile_rows),)](
        x,
        outer,
        linear.gains,
        linear.weights,
        linear.scales,
        v,
        columns,
        rows,
        eps,
        batch,
        tile_rows,
        groups,
        pdl,
        INTERPRETED,
        num_warps=warps,
        launch_pdl=pdl,
    )


def channel_out(v: Tensor, linear: Linear, x: Tensor) -> None:
    """Add the projection of v [batch, gate width] to x [batch, hidden]."""
    batch, columns = v.shape
    rows = x.shape[1]
    tile_rows, groups, warps = _tile(rows, columns, 1)
    pdl = overlaps()
    _channel_out[(triton.cdiv(rows, tile_rows),)](
        v,
        linear.gains,
        linear.weights,
        linear.scales,
        x,
        columns,
        rows,
        batch,
        tile_rows,
        groups,
        pdl,
        INTERPRETED,
        num_warps=warps,
        launch_pdl=pdl,
    )


def head(x: Tensor, outer: Tensor, linear: Linear, logits: Tensor, eps: float) -> None:
    """Write logits [batch, vocabulary] from x [batch, hidden]."""
    batch, columns = x.shape
    rows = logits.shape[1]
    tile_rows, groups, warps = _tile(rows, columns, 1)
    pdl = overlaps()
    _head[(triton.cdiv(rows, tile_rows),)](
        x,
        outer,
        linear.gains,
        linear.weights,
        linear.scales,
        logits,
        columns,
        rows,
        eps,
        batch,
        tile_rows,
        groups,
        pdl,
        INTERPRETED,
        num_warps=warps,
        launch_pdl=pdl,
    )
