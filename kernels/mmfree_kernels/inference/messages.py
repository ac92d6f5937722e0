"""Messages between the programs of one running kernel.

A value that one program writes and others wait for has a place in memory of its own, which is
`EMPTY` until then.  Who needs it reads until it is there: no barrier over all programs, no flag
beside the value.  `EMPTY` is a NaN whose bits no arithmetic makes.  A kernel that uses a mailbox
empties another one of the same size for the kernel after it.

The programs of such a kernel have to run at the same time, so it is launched cooperatively.  In the
interpreter, where one runs after the other, there must be only one.
"""

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
SELECTIVE = False
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


@triton.constexpr_function
def _reading(rounds, first, some, stride, width, waits, kind):
    """The assembly that reads `width` values at each of some places of a thread, and its registers.

    `rounds` places are `stride` values apart, beginning with number `first`.  If `some`, the last
    one is read where the second operand is not zero, and is zero elsewhere.  Whoever `waits` reads
    until there is no empty value.
    """
    count = rounds * width
    vector = {1: "", 2: ".v2", 4: ".v4"}[width]
    load = f"ld.{'relaxed.gpu.global' if waits else 'global.nc'}{vector}.b32"
    loads = []
    for r in range(rounds):
        values = ", ".join(f"${width * r + j}" for j in range(width))
        values = f"{{{values}}}" if width > 1 else values
        loads.append(f"{load} {values}, [${count} + {4 * stride * (first + r)}];")
    start = "{ .reg .pred p, q;"
    if some:
        start += f" setp.ne.b32 q, ${count + 1}, 0;"
        start += "".join(f" mov.b32 ${v}, 0;" for v in range(count - width, count))
        loads[-1] = "@q " + loads[-1]
    if waits and SELECTIVE:
        preds = ", ".join(f"q{r}" for r in range(rounds))
        lines = [start, f".reg .pred {preds};"]
        lines += [f"setp.eq.u32 q{r}, 0, 0;" for r in range(rounds)]
        if some:
            lines += [f"setp.ne.b32 q{rounds - 1}, ${count + 1}, 0;"]
        lines += ["again:"]
        lines += [f"@q{r} {l.removeprefix('@q ')}" for r, l in enumerate(loads)]
        for r in range(rounds):
            lines += [f"setp.eq.b32 q{r}, ${width * r}, {_BITS:#x};"]
            for j in range(1, width):
                lines += [f"setp.eq.or.b32 q{r}, ${width * r + j}, {_BITS:#x}, q{r};"]
        lines += ["setp.eq.u32 p, 0, 1;"] + [f"or.pred p, p, q{r};" for r in range(rounds)]
        text = " ".join([*lines, _AGAIN])
    elif waits:
        tests = [f"setp.eq.b32 p, $0, {_BITS:#x};"]
        tests += [f"setp.eq.or.b32 p, ${v}, {_BITS:#x}, p;" for v in range(1, count)]
        text = " ".join([start, "again:", *loads, *tests, _AGAIN])
    else:
        text = " ".join([start, *loads, "}"])
    return text, ",".join([f"=&{kind}"] * count + ["l", "r"])


def mailboxes(groups: int, size: int, device: torch.device) -> Tensor:
    """Two empty mailboxes of `size` values for each group of programs, float32 [groups, 2,
    size]."""
    return torch.full((groups, 2, size), EMPTY, dtype=torch.int32, device=device).view(
        torch.float32
    )


@triton.constexpr_function
def _register(kind):
    return "f" if kind == gl.float32 else "r"


@triton.constexpr_function
def _types(kind, count):
    return (kind,) * count


@jit
def read(
    at,
    here,
    ROUNDS: tl.constexpr,
    SOME: tl.constexpr,
    STRIDE: tl.constexpr,
    WIDTH: tl.constexpr,
    TYPE: tl.constexpr,
    WAITS: tl.constexpr,
):
    """`WIDTH` values from `at` on, in each of `ROUNDS` rounds, as tensors like `at`; round r is
    r · `STRIDE` values behind.  If `SOME`, those of the last round are zero except `here`.

    If it `WAITS` these are messages, and are read until all are there.
    """
    found = ()
    if _INTERPRETED:
        for r in range(ROUNDS):
            mask = (here > 0) | (not SOME or r + 1 < ROUNDS)
            for j in range(WIDTH):
                found += (gl.load(at + (r * STRIDE + j), mask=mask, other=0),)
    else:
        for first in gl.static_range(0, ROUNDS, MOST_TOGETHER):
            found += _read(at, here, first, ROUNDS, SOME, STRIDE, WIDTH, TYPE, WAITS)
    return found


@triton.constexpr_function
def _together(rounds, first):
    return min(MOST_TOGETHER, rounds - first)


@jit
def _read(
    at,
    here,
    FIRST: tl.constexpr,
    ROUNDS: tl.constexpr,
    SOME: tl.constexpr,
    STRIDE: tl.constexpr,
    WIDTH: tl.constexpr,
    TYPE: tl.constexpr,
    WAITS: tl.constexpr,
):
    """Those of some rounds: at most so many reads are on their way together."""
    COUNT: tl.constexpr = _together(ROUNDS, FIRST)
    KIND: tl.constexpr = _register(TYPE)
    READING: tl.constexpr = _reading(
        COUNT, FIRST, SOME and FIRST + COUNT == ROUNDS, STRIDE, WIDTH, WAITS, KIND
    )
    return gl.inline_asm_elementwise(
        READING[0], READING[1], [at, here], dtype=_types(TYPE, COUNT * WIDTH), is_pure=False, pack=1
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
