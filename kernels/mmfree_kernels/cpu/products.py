"""Exact integer products of activations with packed ternary weights, and the synaptic operations
behind them.

Every level gives the same integers; they differ in speed.  The compiled ones read the packed
weights as they lie.
"""

import numpy as np
from numpy.typing import DTypeLike, NDArray

from mmfree_neuro.integers.ternary import TILE, TernaryMatrix

try:
    from mmfree_kernels.cpu import _ternary
except ImportError:  # installed where no compiler was found
    _COMPILED: dict[str, int] = {}
else:
    _COMPILED = _ternary.levels()

Integers = NDArray[np.int32]

LEVELS = ("avx512-vnni", "avx2", "portable", "numpy")
_AVAILABLE = (*_COMPILED, "numpy")
_WEIGHTS, _ZEROS = 3, 1
"""The bits of a packed weight that are multiplied: its code, or the flag that it is zero."""
_STEP = 1 << 20
"""About how many weights the numpy level unpacks at once."""


def available() -> tuple[str, ...]:
    """The levels that this machine has, fastest first."""
    return _AVAILABLE


def product(
    matrix: TernaryMatrix,
    x: Integers,  # [tokens, columns]
    bits: int,
    start: int = 0,
    stop: int | None = None,
    *,
    threads: int = 1,
    level: str | None = None,
) -> Integers:  # [tokens, stop - start]
    """x · rows `start` … `stop` - 1, exact wherever it fits int32; `x` fits `bits` (8 or 16) with
    its sign."""
    stop = matrix.rows if stop is None else stop
    level = _AVAILABLE[0] if level is None else level
    _check(matrix, x, bits, start, stop, threads, level)
    if level == "numpy":
        return _with_numpy(matrix, x, bits, start, stop, _WEIGHTS)
    out = np.empty((len(x), stop - start), np.int32)
    _ternary.product(_COMPILED[level], matrix.data, x, out, bits, start, stop, _WEIGHTS, threads)
    return out


def synops(
    matrix: TernaryMatrix,
    events: NDArray[np.int64],  # [columns]
    start: int = 0,
    stop: int | None = None,
    *,
    level: str | None = None,
) -> NDArray[np.int64]:  # [stop - start]
    """The synaptic operations that rows `start` … `stop` - 1 do when input j sends `events[j]`
    messages."""
    stop = matrix.rows if stop is None else stop
    level = _AVAILABLE[0] if level is None else level
    if events.dtype != np.int64 or events.ndim != 1:
        raise ValueError(f"events are int64 [columns], not {events.dtype} {list(events.shape)}")
    most = int(events.view(np.uint64).max(initial=0))
    if most >= 1 << 63:
        raise ValueError("events are counts and cannot be negative")
    # A digit of 15 bits has the sum of up to 2^16 of them in int32; longer rows take smaller
    # digits.
    width = 7 if most < 1 << 7 else min(15, 31 - len(events).bit_length())
    shifts = range(0, max(1, most.bit_length()), width)
    digits = np.empty((len(shifts), len(events)), np.int32)
    for digit, shift in zip(digits, shifts, strict=True):
        digit[:] = events if len(shifts) == 1 else events >> shift & (1 << width) - 1
    bits = 8 if width == 7 else 16
    _check(matrix, digits, bits, start, stop, 1, level)
    if level == "numpy":
        counts = _with_numpy(matrix, digits, bits, start, stop, _ZEROS)
    else:
        counts = np.empty((len(digits), stop - start), np.int32)
        _ternary.product(
            _COMPILED[level], matrix.data, digits, counts, bits, start, stop, _ZEROS, 1
        )
        np.negative(counts, out=counts)
    total = counts[0].astype(np.int64)
    for count, shift in zip(counts[1:], shifts[1:], strict=True):
        total += count.astype(np.int64) << shift
    return total


def filled(matrix: TernaryMatrix) -> NDArray[np.int64]:
    """How many non-zero weights each row has."""
    return synops(matrix, np.ones(matrix.columns, np.int64))


def is_legal(matrix: TernaryMatrix) -> bool:
    """Whether all of the packed form holds weights, of zero beyond the matrix."""
    holds = _ternary.legal(matrix.data) if _COMPILED else matrix.holds_weights
    return holds and matrix.is_empty_beyond


def _check(
    matrix: TernaryMatrix, x: Integers, bits: int, start: int, stop: int, threads: int, level: str
) -> None:
    if (
        x.dtype != np.int32
        or x.ndim != 2
        or x.shape[1] != matrix.columns
        or not x.flags.c_contiguous
    ):
        kind = "contiguous" if x.flags.c_contiguous else "strided"
        found = f"{kind} {x.dtype} {list(x.shape)}"
        raise ValueError(
            f"activations are contiguous int32 [tokens, {matrix.columns}], not {found}"
        )
    if bits not in (8, 16):
        raise ValueError(f"activations have 8 or 16 bits, not {bits}")
    if not 0 <= start <= stop <= matrix.rows:
        raise ValueError(f"rows {start} … {stop - 1} are not among the {matrix.rows} of the matrix")
    if threads < 1:
        raise ValueError(f"threads is {threads} and must be at least 1")
    if level not in _AVAILABLE:
        raise ValueError(f"level is {level!r} and must be one of {', '.join(_AVAILABLE)}")


def _with_numpy(
    matrix: TernaryMatrix, x: Integers, bits: int, start: int, stop: int, kind: int
) -> Integers:
    """The same by floating-point products, of weights or of the flags "is not zero", whose every
    sum is exact."""
    low, high = int(x.min(initial=0)), int(x.max(initial=0))
    if low < -1 << bits - 1 or high >= 1 << bits - 1:
        raise ValueError(f"an activation does not fit {bits} bits")
    real: DTypeLike = np.float32 if matrix.fullest * max(-low, high) < 1 << 24 else np.float64
    given, out = x.astype(real), np.empty((len(x), stop - start), np.int32)
    step = max(TILE, _STEP // max(1, matrix.columns) // TILE * TILE)
    for first in range(start, stop, step):
        codes = matrix.codes(first, min(first + step, stop))
        factors = codes if kind == _WEIGHTS else codes != 0
        out[:, first - start : first - start + step] = given @ factors.astype(real).T
    return out
