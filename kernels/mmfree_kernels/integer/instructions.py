"""The instructions of neuron programs (`mmfree_neuro.graph.recorder.Op`) as Triton functions on
32-bit registers.

A product has 64 bits inside an instruction.  A shift or a bound is a scalar known at run time, so
that programs that differ only in such numbers are one kernel.
"""

import triton
import triton.language as tl

from mmfree_neuro.integers.tables import GATE_FRAC, SIGMOID_INPUT_BITS

_GATE_ONE = tl.constexpr(1 << GATE_FRAC)
_MOST_MAGNITUDE = tl.constexpr((1 << SIGMOID_INPUT_BITS) - 1)


@triton.jit
def mul_shr(a, b, shift):
    """floor(a · b / 2^shift)."""
    return ((a.to(tl.int64) * b) >> shift).to(tl.int32)


@triton.jit
def mul_round(a, b, before, after):
    """a · b / 2^(before + after) to the nearest, halves up; `after` is 1, or 0 where there is no
    shift."""
    return ((((a.to(tl.int64) * b) >> before) + after) >> after).to(tl.int32)


@triton.jit
def fit(a, high):
    """a inside ±high, and 1 where that changed it."""
    kept = tl.maximum(tl.minimum(a, high), -high)
    return kept, (kept != a).to(tl.int32)


@triton.jit
def mul_fit(a, b, before, after, high):
    """`mul_round`, whose result may have 64 bits here, and then `fit`."""
    found = (((a.to(tl.int64) * b) >> before) + after) >> after
    kept = tl.maximum(tl.minimum(found, high), -high)
    return kept.to(tl.int32), (kept != found).to(tl.int32)


@triton.jit
def sigmoid(x, most, up, down, table, live):
    """σ(x), the table having it for every magnitude min(|x|, most) · 2^up / 2^down, and σ(-x) = 1 -
    σ(x)."""
    magnitude = (tl.minimum(tl.abs(x), most) << up) >> down
    y = tl.load(table + tl.minimum(magnitude, _MOST_MAGNITUDE), mask=live, other=0)
    return tl.where(x < 0, _GATE_ONE - y, y)


@triton.jit
def held(total, sign):
    """A sum as an accumulator holds it whose highest bit is `sign`, and 1 where that changed it."""
    kept = ((total & (sign | (sign - 1))) ^ sign) - sign
    return kept, (kept != total).to(tl.int32)


@triton.jit
def lower(sent, shift):
    """A digit of what is sent, but the highest: eight bits, less 128."""
    return ((sent >> shift) & 255) - 128


@triton.jit
def count(address, number, here):
    """Add what the tokens of a part counted [tokens, neurons] to the counts of neurons."""
    total = tl.sum(number, 0)[None, :]
    tl.atomic_add(address, total.to(tl.int64), mask=here & (total != 0), sem="relaxed")


ALL = (mul_shr, mul_round, fit, mul_fit, sigmoid, held, lower, count)
"""What the text of a kernel calls."""
