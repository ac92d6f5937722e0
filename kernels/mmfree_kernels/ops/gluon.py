"""Gluon, Triton's language in which a kernel says how a tensor lies in its threads; and in Triton's
interpreter, where tensors lie nowhere, the same functions without layouts.

Kernels import `gl` and `jit` from here.  A layout of shape [a, b] over warps and lanes is a promise
about speed alone: no result depends on it, so the interpreter tests what a GPU computes.
"""

from types import SimpleNamespace
from typing import Any

import triton
import triton.language as tl

from mmfree_kernels.ops.bitlinear.packed import INTERPRETED


def _without_layouts() -> SimpleNamespace:
    """What kernels here use of Gluon, on Triton's own functions."""

    def layout(*_: Any) -> None:
        return None

    def arange(start: int, end: int, layout: Any = None) -> Any:
        return tl.arange(start, end)

    def full(shape: Any, value: Any, dtype: Any, layout: Any = None) -> Any:
        return tl.full(shape, value, dtype)

    def convert_layout(tensor: Any, layout: Any) -> Any:
        return tensor

    def late(name: str) -> Any:
        # The interpreter exchanges the functions of `tl` when a kernel starts.
        return lambda *args, **more: getattr(tl, name)(*args, **more)

    names = "program_id num_programs load store where minimum maximum abs rsqrt sum max min"
    names += " reshape join split broadcast_to"
    return SimpleNamespace(
        **{name: late(name) for name in names.split()},
        arange=arange,
        full=full,
        convert_layout=convert_layout,
        BlockedLayout=layout,
        SliceLayout=layout,
        static_range=range,
        int32=tl.int32,
        int64=tl.int64,
        float32=tl.float32,
    )


if INTERPRETED:
    gl, jit = _without_layouts(), triton.jit
else:
    from triton.experimental import gluon
    from triton.experimental.gluon import language

    gl, jit = language, gluon.jit
