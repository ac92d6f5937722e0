"""How fast every level multiplies packed ternary matrices, on one thread, beside NumPy's float32
and torch's int8.

One token: 1024 x 2816, one matrix again and again ("cache") and matrices that together exceed the
caches ("memory"). Many tokens: 2816 x 1024 against torch._int_mm, twice for 16 bits, whose operands
are int8 before the clock starts. Run: python examples/benchmarks/ternary_products.py
"""

import os
import statistics
import sys
import time
from collections.abc import Callable

import numpy as np
import torch
from rows import write

from mmfree_kernels.cpu import products
from mmfree_neuro.integers.ternary import TernaryMatrix, pack

MEMORY_BYTES = 64 << 20
ROUNDS = 9
ROUND_S = 0.03
LARGEST = {8: 127, 16: 32639}  # 16 bits that two signed bytes hold, as torch needs them

Call = Callable[[int], object]


def seconds(calls: dict[str, Call]) -> dict[str, float]:
    """The best of the medians of rounds in which the calls take turns; each is given a counter."""
    best = dict.fromkeys(calls, float("inf"))
    counts = dict.fromkeys(calls, 0)
    for _ in range(ROUNDS):
        for name, call in calls.items():
            taken: list[float] = []
            while sum(taken) < ROUND_S or len(taken) < 3:
                began = time.perf_counter()
                call(counts[name])
                taken.append(time.perf_counter() - began)
                counts[name] += 1
            best[name] = min(best[name], statistics.median(taken))
    return best


def activations(tokens: int, columns: int, bits: int) -> np.ndarray:
    return np.random.default_rng(bits).integers(
        -LARGEST[bits], LARGEST[bits] + 1, (tokens, columns), np.int32
    )


def check(found: np.ndarray, codes: np.ndarray, x: np.ndarray, name: str) -> None:
    if not np.array_equal(found, x.astype(np.int64) @ codes.T.astype(np.int64)):
        raise SystemExit(f"{name} differs from the int64 product: no row is written")


def product(level: str, matrices: list[TernaryMatrix], x: np.ndarray, bits: int) -> Call:
    return lambda i: products.product(matrices[i % len(matrices)], x, bits, level=level)


def one_token(codes: np.ndarray, levels: tuple[str, ...]) -> list[dict[str, object]]:
    matrix, real = pack(codes), codes.astype(np.float32)
    rows: list[dict[str, object]] = []
    for place in ("cache", "memory"):
        ours, floats = (
            1 if place == "cache" else 1 + MEMORY_BYTES // a.nbytes for a in (matrix.data, real)
        )
        matrices = [
            TernaryMatrix(matrix.data.copy(), *codes.shape, matrix.fullest, matrix.nonzero)
            for _ in range(ours)
        ]
        reals = [real.copy() for _ in range(floats)]
        given = activations(1, codes.shape[1], 8)[0].astype(np.float32)
        calls: dict[str, Call] = {
            "numpy float32": lambda i, reals=reals, given=given: reals[i % len(reals)] @ given
        }
        for bits in (8, 16):
            x = activations(1, codes.shape[1], bits)
            for level in levels:
                check(products.product(matrix, x, bits, level=level), codes, x, level)
                calls[f"{level}, {bits} bits"] = product(level, matrices, x, bits)
        best = seconds(calls)
        for name, time_s in best.items():
            rows.append(
                {
                    "what": f"1 token, {place}, {name}",
                    "value": round(time_s * 1e6, 1),
                    "unit": "us",
                    "times_numpy_float32": round(best["numpy float32"] / time_s, 2),
                }
            )
    return rows


def with_torch(x: np.ndarray, weights: torch.Tensor, bits: int) -> Call:
    if bits == 8:
        narrow = torch.from_numpy(x.astype(np.int8))
        return lambda _: torch._int_mm(narrow, weights)
    high, low = (
        torch.from_numpy(part.astype(np.int8)) for part in ((x + 128) >> 8, ((x + 128) & 255) - 128)
    )
    return lambda _: torch.add(torch._int_mm(low, weights), torch._int_mm(high, weights), alpha=256)


def many_tokens(codes: np.ndarray, levels: tuple[str, ...], tokens: int) -> list[dict[str, object]]:
    matrix, weights = pack(codes), torch.from_numpy(codes).t().contiguous()
    rows: list[dict[str, object]] = []
    for bits in (8, 16):
        x = activations(tokens, codes.shape[1], bits)
        calls = {"torch._int_mm": with_torch(x, weights, bits)}
        calls |= {level: product(level, [matrix], x, bits) for level in levels}
        for name, call in calls.items():
            check(np.asarray(call(0)), codes, x, name)
        best = seconds(calls)
        for name, time_s in best.items():
            rows.append(
                {
                    "what": f"{tokens} tokens, {bits} bits, {name}",
                    "value": round(codes.size * tokens / time_s / 1e9, 1),
                    "unit": "G multiply-adds/s",
                    "times_torch_int_mm": round(best["torch._int_mm"] / time_s, 2),
                }
            )
    return rows


def main() -> None:
    torch.set_num_threads(1)
    rng = np.random.default_rng(0)
    levels = products.available()
    rows = one_token(rng.integers(-1, 2, (1024, 2816), np.int8), levels)
    for tokens in (128, 512):
        rows += many_tokens(rng.integers(-1, 2, (2816, 1024), np.int8), levels, tokens)
    write("ternary_products", rows)


if __name__ == "__main__":
    if os.environ.get("OPENBLAS_NUM_THREADS") != "1":  # read when NumPy starts
        os.environ["OPENBLAS_NUM_THREADS"] = "1"
        os.execv(sys.executable, [sys.executable, *sys.argv])
    main()
