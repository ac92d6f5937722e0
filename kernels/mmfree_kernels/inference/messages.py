"""Messages between the programs of one running kernel.

A value that one program writes and others wait for has a place in memory of its own, which is
`EMPTY` until then.  Who needs it reads until it is there: no barrier over all programs, no flag
beside the value.  `EMPTY` is a NaN whose bits no arithmetic makes.  A kernel that uses a mailbox
empties another one of the same size for the kernel after it.

The programs of such a kernel have to run at the same time, so it is launched cooperatively.  In the
interpreter, where one runs after the other, there must be only one.
"""

from functools import lru_cache
from typing import NamedTuple

import torch
import triton.language as tl
from torch import Tensor

from mmfree_kernels.ops.bitlinear.packed import INTERPRETED
from mmfree_kernels.ops.gluon import gl, jit

EMPTY = -0x3F2152
_BITS = EMPTY & 0xFFFFFFFF
_EMPTY = tl.constexpr(EMPTY)
_INTERPRETED = tl.constexpr(INTERPRETED)
MOST_TOGETHER = 8
"""So many reads of four values a thread has on their way at most."""

# All lanes of a warp go round together, so that the compiler knows them together afterwards.
_AGAIN = "vote.sync.any.pred p, p, -1; @p bra again; }"
_ONE = tl.constexpr(
    "{ .reg .pred p; again: ld.relaxed.gpu.global.b32 $0, [$1]; "
    f"setp.eq.b32 p, $0, {_BITS:#x}; {_AGAIN}"
)
_FETCH = tl.constexpr(
    "{ .reg .pred p, q; .reg .b32 t; mov.u32 t, %tid.x; setp.eq.u32 p, t, 0;"
    " setp.gt.and.s32 q, $2, 0, p; @q cp.async.bulk.prefetch.L2.global [$1], $2; mov.b32 $0, 0; }"
)


class Four(NamedTuple):
    """The assembly that reads four neighbouring values at each of `pack` places of a thread."""

    text: str
    registers: str
    pack: int


@lru_cache
def four(places: int) -> Four:
    """How a thread that has so many places to read from, a power of two, reads them."""
    pack = min(MOST_TOGETHER, places)
    values = range(4 * pack)
    # Value j of place k is in register j · pack + k.
    loads = [
        f"ld.relaxed.gpu.global.v4.b32 {{{', '.join(f'${j * pack + k}' for j in range(4))}}}, "
        f"[${4 * pack + k}];"
        for k in range(pack)
    ]
    tests = [f"setp.eq.b32 p, $0, {_BITS:#x};"]
    tests += [f"setp.eq.or.b32 p, ${v}, {_BITS:#x}, p;" for v in values[1:]]
    text = " ".join(["{ .reg .pred p; again:", *loads, *tests, _AGAIN])
    return Four(text, ",".join(["=&r"] * len(values) + ["l"] * pack), pack)


def mailboxes(groups: int, size: int, device: torch.device) -> Tensor:
    """Two empty mailboxes of `size` values for each group of programs, float32 [groups, 2,
    size]."""
    return torch.full((groups, 2, size), EMPTY, dtype=torch.int32, device=device).view(
        torch.float32
    )


@jit
def floats(a, b, c, d):
    """The bits of four tensors as float32."""
    return (
        a.to(gl.float32, bitcast=True),
        b.to(gl.float32, bitcast=True),
        c.to(gl.float32, bitcast=True),
        d.to(gl.float32, bitcast=True),
    )


@jit
def received_four(at, TEXT: tl.constexpr, REGISTERS: tl.constexpr, PACK: tl.constexpr):
    """The four messages from each place on, as four tensors, once all are there."""
    if _INTERPRETED:
        return gl.load(at), gl.load(at + 1), gl.load(at + 2), gl.load(at + 3)
    else:
        a, b, c, d = gl.inline_asm_elementwise(
            TEXT,
            REGISTERS,
            [at],
            dtype=(gl.int32, gl.int32, gl.int32, gl.int32),
            is_pure=False,
            pack=PACK,
        )
        return floats(a, b, c, d)


@jit
def received(at):
    """The message at each place, once it is there."""
    if _INTERPRETED:
        return gl.load(at)
    else:
        found = gl.inline_asm_elementwise(
            _ONE, "=&r,l", [at], dtype=gl.int32, is_pure=False, pack=1
        )
        return found.to(gl.float32, bitcast=True)


@jit
def emptied(box, size, first, count, BLOCK: tl.constexpr, LAYOUT: tl.constexpr):
    """Empty what is program `first`'s of a mailbox that `count` programs share."""
    nothing = gl.full((BLOCK,), _EMPTY, gl.int32, layout=LAYOUT).to(gl.float32, bitcast=True)
    for start in range(first * BLOCK, size, count * BLOCK):
        at = start + gl.arange(0, BLOCK, layout=LAYOUT)
        gl.store(box + at, nothing, mask=at < size)


@jit
def share(size, number, count):
    """Where share `number` of `count` of so many words begins, and how many bytes it has."""
    each = ((size + count * 32 - 1) // (count * 32)) * 32
    return number * each, gl.minimum(each, size - number * each) * 4


@jit
def fetched(at, size, PREFETCHES: tl.constexpr):
    """Let bytes come to the L2 cache, where the device does so."""
    if PREFETCHES:
        gl.inline_asm_elementwise(
            _FETCH, "=r,l,r", [at, size], dtype=gl.int32, is_pure=False, pack=1
        )
