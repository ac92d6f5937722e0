"""The gates and the recurrence of the MLGRU, parallel over chunks of time; Triton.

Of raw projections i and f [batch, time, n], a lower bound b [n] and a mask m [batch, time]:

    a_t = b + (1 - b) σ(f_t)                 forget gate
    c_t = i_t σ(i_t) (1 - a_t) m_t           input
    h_t = a_t h_{t-1} + c_t                  state, float32

A chunk of time turns the state h before it into p h + e: p is the product of its gates, e the state
to which it would come from 0.  Gates 1/2, 1/4 and inputs 3, 2 give p = 1/8, e = 3 / 4 + 2 = 2.75.
From a state of 8 it comes to 1 + 2.75 = 3.75, by way of 7.  So one pass finds p and e of all chunks
at once, the next carries states from chunk to chunk, the last runs each chunk from its true state.

Backwards the same with dc_t = dh_t + a_{t+1} dc_{t+1}: a gradient g of the state after a chunk is
p g + r before it.  In r every dh_t is multiplied by the gates of the chunk up to its own.  With the
gates above, dh = 1, 1 give r = 1/2 + 1/8 = 0.625.

Within a chunk a thread steps through time; the loads of several steps come before the first step.
"""

from collections.abc import Sequence
from typing import Any

import torch
import triton
import triton.language as tl
from torch import Tensor

from mmfree_kernels.ops.bitlinear.checks import check

FLOATS = (torch.bfloat16, torch.float32)
FORWARD_STEPS = 8
"""Steps of time whose loads are in flight together."""
BACKWARD_STEPS = 8
"""Length of a chunk in the backward pass: its states stay in registers."""
CARRY_STEPS = 32
"""Chunks whose loads are in flight together while states are carried over them."""
SHORTEST_CHUNK = 64
BUSY = 1 << 18
"""Channels times chunks that keep a GPU's memory busy."""


@triton.jit
def _rows(rows, stride, count, inside, STEPS: tl.constexpr):
    """STEPS rows, zero from `count` on."""
    out = tl.tuple(())
    for k in tl.static_range(STEPS):
        out += (tl.load(rows + k * stride, mask=inside & (k < count), other=0.0),)
    return out


@triton.jit
def _kept(mask, count, STEPS: tl.constexpr):
    """The mask of STEPS steps."""
    out = tl.tuple(())
    for k in tl.static_range(STEPS):
        out += (1.0 if mask is None else tl.load(mask + k, mask=k < count, other=0.0),)
    return out


@triton.jit
def _vector(vector, d, inside):
    """A vector's part of this program, zeros where there is none."""
    if vector is None:
        return tl.zeros(d.shape, tl.float32)
    else:
        return tl.load(vector + d, mask=inside, other=0.0)


@triton.jit
def _sigmoid(x):
    """σ(x), to about 4e-7 of itself."""
    # 1 / (1 + e^-x) as the square of 1 / √(1 + 2^(-x log2 e)): 2^x and 1 / √x are one instruction
    # each, e^x and a quotient several.
    root = tl.rsqrt(1 + tl.exp2(x * -1.4426950408889634))
    return root * root


@triton.jit
def _gates(i, f, bound, kept):
    """Forget gate and input of one step."""
    i, f = i.to(tl.float32), f.to(tl.float32)
    gate = bound + (1 - bound) * _sigmoid(f)
    return gate, i * _sigmoid(i) * (1 - gate) * kept


@triton.jit(do_not_specialize=["time", "length"])
def _summary_kernel(
    i,
    f,
    bound,
    mask,
    dh,
    ends,
    products,
    backs,
    i_batch,
    i_row,
    f_batch,
    f_row,
    dh_batch,
    dh_row,
    time,
    length,
    n,
    STEPS: tl.constexpr,
    BLOCK: tl.constexpr,
):
    """Of a chunk: the end e that it has from 0, the product p of its gates, and r of its dh."""
    chunk, batch = tl.program_id(0), tl.program_id(2).to(tl.int64)
    d = tl.program_id(1) * BLOCK + tl.arange(0, BLOCK)
    inside = d < n
    first = chunk.to(tl.int64) * length
    count = tl.minimum(time - first, length)
    i += batch * i_batch + first * i_row + d
    f += batch * f_batch + first * f_row + d
    if mask is not None:
        mask += batch * time + first
    if dh is not None:
        dh += batch * dh_batch + first * dh_row + d
    b = _vector(bound, d, inside)
    end, back = tl.zeros([BLOCK], tl.float32), tl.zeros([BLOCK], tl.float32)
    product = tl.full([BLOCK], 1.0, tl.float32)
    for t in range(0, count, STEPS):
        left = (count - t).to(tl.int32)
        i_t, f_t = (
            _rows(i + t * i_row, i_row, left, inside, STEPS),
            _rows(f + t * f_row, f_row, left, inside, STEPS),
        )
        if dh is not None:
            dh_t = _rows(dh + t * dh_row, dh_row, left, inside, STEPS)
        kept = _kept(mask if mask is None else mask + t, left, STEPS)
        for k in tl.static_range(STEPS):
            gate, c = _gates(i_t[k], f_t[k], b, kept[k])
            # Behind the last step f is read as 0, whose gate is not 1 and must not be applied.
            # There dh is read as 0, too, which adds nothing to `back`.
            end = tl.where(k < left, gate * end + c, end)
            product = tl.where(k < left, product * gate, product)
            if dh is not None:
                back += product * dh_t[k].to(tl.float32)
    place = (batch * tl.num_programs(0) + chunk) * n + d
    tl.store(ends + place, end, mask=inside)
    tl.store(products + place, product, mask=inside)
    if dh is not None:
        tl.store(backs + place, back, mask=inside)


@triton.jit
def _carried(sums, products, start, stride, chunks, inside, STEPS: tl.constexpr):
    """Replace what each chunk adds by what comes into it; the next chunk is `stride` away."""
    # The only loop over all of time, one step a chunk.  From a state of 8, two chunks that add 2.75
    # and 1 with products 1/8 and 1/2 are given the states 8 and 8 / 8 + 2.75 = 3.75.
    state = start
    for j in range(0, chunks, STEPS):
        added = _rows(sums + j * stride, stride, chunks - j, inside, STEPS)
        factor = _rows(products + j * stride, stride, chunks - j, inside, STEPS)
        for k in tl.static_range(STEPS):
            tl.store(sums + (j + k) * stride, state, mask=inside & (j + k < chunks))
            state = factor[k] * state + added[k]


@triton.jit(do_not_specialize=["chunks"])
def _carry_kernel(
    ends, products, initial, backs, d_final, chunks, n, STEPS: tl.constexpr, BLOCK: tl.constexpr
):
    """Turns `ends` into the states before chunks, `backs` into gradients of the states after."""
    batch = tl.program_id(1).to(tl.int64)
    d = tl.program_id(0) * BLOCK + tl.arange(0, BLOCK)
    inside = d < n
    place = batch * chunks * n + d
    if tl.program_id(2) == 0:
        start = tl.load(initial + batch * n + d, mask=inside, other=0.0)
        _carried(ends + place, products + place, start, n, chunks, inside, STEPS)
    elif backs is not None:
        # Gradients come from the end of time: the last chunk is first, and the next lies before it.
        start = _vector(d_final, batch * n + d, inside)
        place += (chunks - 1) * n
        _carried(backs + place, products + place, start, -n, chunks, inside, STEPS)


@triton.jit(do_not_specialize=["time", "length"])
def _states_kernel(
    i,
    f,
    bound,
    mask,
    starts,
    h,
    final,
    i_batch,
    i_row,
    f_batch,
    f_row,
    time,
    length,
    n,
    STEPS: tl.constexpr,
    BLOCK: tl.constexpr,
):
    """All states of a chunk, from the one before it; the last chunk also writes the final state."""
    chunk, batch = tl.program_id(0), tl.program_id(2).to(tl.int64)
    d = tl.program_id(1) * BLOCK + tl.arange(0, BLOCK)
    inside = d < n
    first = chunk.to(tl.int64) * length
    count = tl.minimum(time - first, length)
    i += batch * i_batch + first * i_row + d
    f += batch * f_batch + first * f_row + d
    h += (batch * time + first) * n + d
    if mask is not None:
        mask += batch * time + first
    b = _vector(bound, d, inside)
    state = tl.load(starts + (batch * tl.num_programs(0) + chunk) * n + d, mask=inside, other=0.0)
    for t in range(0, count, STEPS):
        left = (count - t).to(tl.int32)
        i_t, f_t = (
            _rows(i + t * i_row, i_row, left, inside, STEPS),
            _rows(f + t * f_row, f_row, left, inside, STEPS),
        )
        kept = _kept(mask if mask is None else mask + t, left, STEPS)
        for k in tl.static_range(STEPS):
            gate, c = _gates(i_t[k], f_t[k], b, kept[k])
            state = tl.where(k < left, gate * state + c, state)
            tl.store(h + t * n + k * n, state.to(h.dtype.element_ty), mask=inside & (k < left))
    if chunk == tl.num_programs(0) - 1:
        tl.store(final + batch * n + d, state, mask=inside)


@triton.jit(do_not_specialize=["time"])
def _gradient_kernel(
    i,
    f,
    bound,
    mask,
    dh,
    starts,
    backs,
    di,
    df,
    d_bounds,
    d_initial,
    i_batch,
    i_row,
    f_batch,
    f_row,
    dh_batch,
    dh_row,
    time,
    n,
    STEPS: tl.constexpr,
    BLOCK: tl.constexpr,
):
    """Gradients of a chunk of STEPS steps, between the state before and the gradient after it."""
    chunk, batch = tl.program_id(0), tl.program_id(2).to(tl.int64)
    d = tl.program_id(1) * BLOCK + tl.arange(0, BLOCK)
    inside = d < n
    first = chunk.to(tl.int64) * STEPS
    count = tl.minimum(time - first, STEPS)
    i_t = _rows(i + batch * i_batch + first * i_row + d, i_row, count, inside, STEPS)
    f_t = _rows(f + batch * f_batch + first * f_row + d, f_row, count, inside, STEPS)
    dh_t = _rows(dh + batch * dh_batch + first * dh_row + d, dh_row, count, inside, STEPS)
    if mask is not None:
        mask += batch * time + first
    kept = _kept(mask, count, STEPS)
    place = (batch * tl.num_programs(0) + chunk) * n + d
    b = _vector(bound, d, inside)
    state = tl.load(starts + place, mask=inside, other=0.0)
    back = _vector(backs, place, inside)
    # States are computed again rather than read: a chunk is so short that they stay in registers.
    before = tl.tuple(())
    for k in tl.static_range(STEPS):
        before += (state,)
        gate, c = _gates(i_t[k], f_t[k], b, kept[k])
        state = gate * state + c
    d_bound = tl.zeros([BLOCK], tl.float32)
    out = (batch * time + first) * n + d
    for k in tl.static_range(STEPS - 1, -1, -1):
        valid = k < count
        # h = a h' + x σ(x) (1 - a) m and a = b + (1 - b) σ(f), where h' is the state before.  With
        # s = σ(x), dh/da = h' - x s m, d(x s)/dx = s (1 + x (1 - s)) and da/db = 1 - σ(f).
        x, forget = i_t[k].to(tl.float32), _sigmoid(f_t[k].to(tl.float32))
        gate, squash = b + (1 - b) * forget, _sigmoid(x)
        dc = dh_t[k].to(tl.float32) + back
        d_gate = dc * (before[k] - x * squash * kept[k])
        dx = dc * kept[k] * (1 - gate) * squash * (1 + x * (1 - squash))
        tl.store(di + out + k * n, dx.to(di.dtype.element_ty), mask=inside & valid)
        d_forget = d_gate * (1 - b) * forget * (1 - forget)
        tl.store(df + out + k * n, d_forget.to(df.dtype.element_ty), mask=inside & valid)
        d_bound += tl.where(valid, d_gate * (1 - forget), 0.0)
        back = tl.where(valid, gate * dc, back)
    if d_bounds is not None:
        tl.store(d_bounds + place, d_bound, mask=inside)
    if chunk == 0:
        tl.store(d_initial + batch * n + d, back, mask=inside)


def check_rows(who: str, tensor: Tensor, shape: Sequence[int]) -> None:
    """Raise ValueError unless the tensor has that shape, one of FLOATS, and rows without gaps."""
    if tensor.shape != tuple(shape) or tensor.dtype not in FLOATS:
        wanted = f"{list(shape)} of {' or '.join(map(str, FLOATS))}"
        raise ValueError(f"{who} is {list(tensor.shape)} of {tensor.dtype}, must be {wanted}")
    if tensor.stride(-1) != 1:
        raise ValueError(f"{who} has strides {list(tensor.stride())}, the last must be 1")


def _check(
    i: Tensor, f: Tensor, bound: Tensor | None, mask: Tensor | None, initial: Tensor
) -> None:
    if i.ndim != 3 or 0 in i.shape:
        raise ValueError(
            f"i has shape {list(i.shape)}, must have [batch, time, channels], none of them 0"
        )
    batch, time, n = i.shape
    check_rows("i", i, i.shape)
    check_rows("f", f, i.shape)
    if bound is not None:
        check("bound", bound, (n,), [torch.float32])
    if mask is not None:
        check("mask", mask, (batch, time), [torch.float32])
    check("initial", initial, (batch, n), [torch.float32])


def _block(n: int) -> int:
    """Channels of a program."""
    return min(256, max(32, triton.next_power_of_2(n)))


def chunk_length(batch: int, time: int, n: int) -> int:
    """How many steps of time a chunk has.

    Chunks are short enough to fill the machine, but no shorter than SHORTEST_CHUNK or so.  Where
    fewer than four would do, all of time is one chunk, since chunks read i and f twice.  With 1024
    channels a sequence of 16000 steps has 250 chunks of 64 steps.  Of 2048 steps, 16 sequences fill
    the machine with 16 chunks of 128 steps each, and 128 sequences without being cut.
    """
    chunks = min(BUSY // (batch * n), triton.cdiv(time, SHORTEST_CHUNK))
    if chunks < 4:
        return time
    return triton.cdiv(triton.cdiv(time, chunks), FORWARD_STEPS) * FORWARD_STEPS


def gated_scan(
    i: Tensor,
    f: Tensor,
    bound: Tensor | None,
    mask: Tensor | None,
    initial: Tensor,
    out_dtype: torch.dtype,
    *,
    chunk: int | None = None,
    final: Tensor | None = None,
) -> tuple[Tensor, Tensor]:
    """States h [batch, time, n] of `out_dtype`, and the last of them [batch, n] in float32.

    i, f: [batch, time, n], bfloat16 or float32, of any strides whose last is 1; bound [n], mask
    [batch, time] and initial [batch, n] are float32 and contiguous.  `chunk` is the length of a
    chunk of time, chosen if not given. The last states are written to `final` if that is given,
    which may be `initial` itself.

    Raises ValueError for arguments of another shape, dtype or layout.
    """
    _check(i, f, bound, mask, initial)
    batch, time, n = i.shape
    final = torch.empty_like(initial) if final is None else final
    check("final", final, (batch, n), [torch.float32])
    if chunk is not None and chunk < 1:
        raise ValueError(f"a chunk is {chunk} steps, must be at least 1")
    length = chunk_length(batch, time, n) if chunk is None else chunk
    chunks = triton.cdiv(time, length)
    block = _block(n)
    warps = max(1, block // 128)
    grid = (chunks, triton.cdiv(n, block), batch)
    strides = i.stride(0), i.stride(1), f.stride(0), f.stride(1)
    starts = initial
    if chunks > 1:
        starts, products = initial.new_empty(2, batch, chunks, n)
        _summary_kernel[grid](
            i,
            f,
            bound,
            mask,
            None,
            starts,
            products,
            None,
            *strides,
            0,
            0,
            time,
            length,
            n,
            STEPS=FORWARD_STEPS,
            BLOCK=block,
            num_warps=warps,
        )
        _carry_kernel[(triton.cdiv(n, 32), batch, 1)](
            starts,
            products,
            initial,
            None,
            None,
            chunks,
            n,
            STEPS=CARRY_STEPS,
            BLOCK=32,
            num_warps=1,
        )
    h = i.new_empty(i.shape, dtype=out_dtype)
    _states_kernel[grid](
        i,
        f,
        bound,
        mask,
        starts,
        h,
        final,
        *strides,
        time,
        length,
        n,
        STEPS=FORWARD_STEPS,
        BLOCK=block,
        num_warps=warps,
    )
    return h, final


def gated_scan_backward(
    i: Tensor,
    f: Tensor,
    bound: Tensor | None,
    mask: Tensor | None,
    initial: Tensor,
    dh: Tensor,
    d_final: Tensor | None,
    *,
    steps: int = BACKWARD_STEPS,
) -> tuple[Tensor, Tensor, Tensor | None, Tensor]:
    """Gradients of i, f, bound and initial.

    dh [batch, time, n] and d_final [batch, n] are those of the states and of the last state.  The
    first five arguments are those of `gated_scan`, whose states are computed again.  The gradients
    of i and f have the dtypes of i and f, the others are float32.  Beyond them all it needs memory
    of 3 / steps of a float32 [batch, time, n]: three values for a chunk.

    Raises ValueError for arguments of another shape, dtype or layout.
    """
    _check(i, f, bound, mask, initial)
    batch, time, n = i.shape
    check_rows("dh", dh, i.shape)
    if d_final is not None:
        check("d_final", d_final, (batch, n), [torch.float32])
    chunks = triton.cdiv(time, steps)
    strides = i.stride(0), i.stride(1), f.stride(0), f.stride(1), dh.stride(0), dh.stride(1)
    starts, backs, products = initial, d_final, None
    if chunks > 1:
        starts, backs, products = initial.new_empty(3, batch, chunks, n)
        block = _block(n)
        _summary_kernel[chunks, triton.cdiv(n, block), batch](
            i,
            f,
            bound,
            mask,
            dh,
            starts,
            products,
            backs,
            *strides,
            time,
            steps,
            n,
            STEPS=steps,
            BLOCK=block,
            num_warps=max(1, block // 64),
        )
        _carry_kernel[(triton.cdiv(n, 32), batch, 2)](
            starts,
            products,
            initial,
            backs,
            d_final,
            chunks,
            n,
            STEPS=CARRY_STEPS,
            BLOCK=32,
            num_warps=1,
        )
    d_bounds = None
    if bound is not None:  # one a chunk, where the products were: nobody reads them again
        d_bounds = initial.new_empty(batch, chunks, n) if products is None else products
    di, df = i.new_empty(i.shape), f.new_empty(f.shape)
    d_initial = torch.empty_like(initial)
    _gradient_kernel[chunks, triton.cdiv(n, 64), batch](
        i,
        f,
        bound,
        mask,
        dh,
        starts,
        backs,
        di,
        df,
        d_bounds,
        d_initial,
        *strides,
        time,
        n,
        STEPS=steps,
        BLOCK=64,
        num_warps=2,
    )
    return di, df, None if d_bounds is None else d_bounds.sum((0, 1)), d_initial


class _Scan(torch.autograd.Function):
    @staticmethod
    def forward(
        ctx: Any, i: Tensor, f: Tensor, bound: Tensor | None, mask: Tensor | None, initial: Tensor
    ) -> tuple[Tensor, Tensor]:
        ctx.save_for_backward(i, f, bound, mask, initial)
        return gated_scan(i, f, bound, mask, initial, i.dtype)

    @staticmethod
    def backward(
        ctx: Any, dh: Tensor, d_final: Tensor
    ) -> tuple[Tensor, Tensor, Tensor | None, None, Tensor]:
        i, f, bound, mask, initial = ctx.saved_tensors
        grads = dh.contiguous(), d_final.contiguous()
        di, df, d_bound, d_initial = gated_scan_backward(i, f, bound, mask, initial, *grads)
        return di, df, d_bound, None, d_initial


def scan(
    i: Tensor, f: Tensor, bound: Tensor | None, mask: Tensor | None, initial: Tensor
) -> tuple[Tensor, Tensor]:
    """`gated_scan` with gradients for all but the mask; states have the dtype of i."""
    states: tuple[Tensor, Tensor] = _Scan.apply(i, f, bound, mask, initial)
    return states
