"""Messages between the programs of one running kernel.

A value that one program writes and others wait for has a place in memory of its own, which is
`EMPTY` until then, or `octets.NO_CODES` where codes are to come.  Who needs the value reads until
it is there: no barrier over all programs, no flag beside the value.  `EMPTY` is a NaN whose bits no
arithmetic makes.  A kernel that uses a mailbox empties another one of the same size for the kernel
after it.

The programs of such a kernel have to run at the same time, so it is launched cooperatively.  In the
interpreter, where one runs after the other, there must be only one.
"""

from typing import NamedTuple

import torch
import triton
import triton.language as tl
from torch import Tensor

from mmfree_kernels.ops.bitlinear.packed import INTERPRETED
from mmfree_kernels.ops.gluon import gl, jit

EMPTY = -0x3F2152
_BITS = EMPTY & 0xFFFFFFFF
_EMPTY = tl.constexpr(EMPTY)
_INTERPRETED = tl.constexpr(INTERPRETED)
MOST_TOGETHER = tl.constexpr(8)
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


class Place(NamedTuple):
    """Where a thread reads: so many values behind its first one, and whether every thread does."""

    offset: int
    whole: bool


@triton.constexpr_function
def reading(places, width, waits, lightly, register):
    """The assembly that reads `width` values at each of a thread's places, and its registers.

    Its operands are the address of the first value, and whether the thread reads at places that not
    every one does; values that it does not read are zero.  Whoever `waits` reads again what has not
    come, until all has.  If `lightly`, a warp waits before that for one value alone, its last
    thread's, as many programs that read everything again and again hold up what is to come.
    """
    count = len(places) * width
    vector = {1: "", 2: ".v2", 4: ".v4"}[width]
    load = f"ld.{'relaxed.gpu.global' if waits else 'global.nc'}{vector}.b32"
    begin, loads, tests, any_ = ["{ .reg .pred p;"], [], [], []
    for number, place in enumerate(places):
        offset, whole = place
        p, values = f"p{number}", [f"${width * number + j}" for j in range(width)]
        # p: whether the thread is to read here.
        if whole:
            begin.append(f".reg .pred {p}; setp.eq.b32 {p}, 0, 0;")
        else:
            begin.append(f".reg .pred {p}; setp.ne.b32 {p}, ${count + 1}, 0;")
            begin += [f"mov.b32 {value}, 0;" for value in values]
        into = f"{{{', '.join(values)}}}" if width > 1 else values[0]
        loads.append(f"@{p} {load} {into}, [${count} + {4 * offset}];")
        tests.append(f"setp.eq.b32 {p}, {values[0]}, {_BITS:#x};")
        tests += [f"setp.eq.or.b32 {p}, {value}, {_BITS:#x}, {p};" for value in values[1:]]
        any_.append(f"or.pred p, p, {p};")
    text = [*begin, *loads, "}"]
    if waits:
        for offset in [offset for offset, whole in places if lightly and whole][-1:]:
            begin += [
                ".reg .pred q; .reg .b32 t; mov.u32 t, %laneid; setp.eq.u32 q, t, 31; early:",
                f"@q ld.relaxed.gpu.global.b32 t, [${count} + {4 * (offset + width - 1)}];",
                f"setp.eq.and.b32 p, t, {_BITS:#x}, q; vote.sync.any.pred p, p, -1;",
                "@p bra early;",
            ]
        text = [*begin, "again:", *loads, *tests, "setp.ne.b32 p, 0, 0;", *any_, _AGAIN]
    return " ".join(text), ",".join([f"=&{register}"] * count + ["l", "r"])


def mailboxes(groups: int, size: int, device: torch.device) -> Tensor:
    """Two empty mailboxes of `size` values for each group of programs, float32 [groups, 2,
    size]."""
    return torch.full((groups, 2, size), EMPTY, dtype=torch.int32, device=device).view(
        torch.float32
    )


@jit
def read(
    at,
    here,
    PLACES: tl.constexpr,
    WIDTH: tl.constexpr,
    TYPE: tl.constexpr,
    WAITS: tl.constexpr,
    LIGHTLY: tl.constexpr,
):
    """`WIDTH` values at each of the places from `at` on, as a tuple of tensors like `at`; at places
    that are not whole, zero except `here`.

    If it `WAITS` these are messages, and are read until all are there.
    """
    found = ()
    if _INTERPRETED:
        for offset, whole in PLACES:
            for j in range(WIDTH):
                found += (gl.load(at + (offset + j), mask=(here > 0) | whole, other=0),)
    else:
        for first in gl.static_range(0, len(PLACES), MOST_TOGETHER):
            found += _read(at, here, _some(PLACES, first), WIDTH, TYPE, WAITS, LIGHTLY)
    return found


@triton.constexpr_function
def _some(places, first):
    return places[first : first + MOST_TOGETHER.value]


@triton.constexpr_function
def _registers(kind, count):
    return "f" if kind == gl.float32 else "r", (kind,) * count


@jit
def _read(
    at,
    here,
    PLACES: tl.constexpr,
    WIDTH: tl.constexpr,
    TYPE: tl.constexpr,
    WAITS: tl.constexpr,
    LIGHTLY: tl.constexpr,
):
    REGISTERS: tl.constexpr = _registers(TYPE, len(PLACES) * WIDTH)
    READING: tl.constexpr = reading(PLACES, WIDTH, WAITS, LIGHTLY, REGISTERS[0])
    return gl.inline_asm_elementwise(
        READING[0], READING[1], [at, here], dtype=REGISTERS[1], is_pure=False, pack=1
    )


@jit
def received_one(at):
    """The message at each place, once it is there."""
    if _INTERPRETED:
        return gl.load(at)
    else:
        found = gl.inline_asm_elementwise(
            _ONE, "=&r,l", [at], dtype=gl.int32, is_pure=False, pack=1
        )
        return found.to(gl.float32, bitcast=True)


@jit
def emptied(
    box, size, first, count, BLOCK: tl.constexpr, LAYOUT: tl.constexpr, BITS: tl.constexpr = _EMPTY
):
    """Write `BITS` to what is program `first`'s of a mailbox that `count` programs share."""
    nothing = gl.full((BLOCK,), BITS, gl.int32, layout=LAYOUT)
    nothing = nothing.to(box.dtype.element_ty, bitcast=True)
    for start in range(first * BLOCK, size, count * BLOCK):
        at = start + gl.arange(0, BLOCK, layout=LAYOUT)
        gl.store(box + at, nothing, mask=at < size)


@jit
def fetched(at, size, number, count, PREFETCHES: tl.constexpr):
    """Let share `number` of `count` of so many words come to the L2 cache, where the device does
    so."""
    if PREFETCHES:
        each = ((size + count * 32 - 1) // (count * 32)) * 32
        gl.inline_asm_elementwise(
            _FETCH,
            "=r,l,r",
            [at + number * each, gl.minimum(each, size - number * each) * 4],
            dtype=gl.int32,
            is_pure=False,
            pack=1,
        )
