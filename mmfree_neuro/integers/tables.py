"""Look-up tables of the neuron programs, computed from real functions once, as integers."""

import math
from dataclasses import dataclass
from functools import lru_cache

import numpy as np

from mmfree_neuro.integers.fixedpoint import Ints

GATE_FRAC = 20
"""Fractional bits of a gate: sigmoid's values and the forget gate's lower bounds."""
SIGMOID_INPUT_FRAC = 11
"""Fractional bits at which a sigmoid reads its input; 15 bits of magnitude, so ±16."""
SIGMOID_INPUT_BITS = 15


@dataclass(frozen=True, eq=False)
class SigmoidTable:
    """Sigmoid on [0, 16) as `2^log2_segments` chords: `values` at their left ends, `slopes` to
    their right ends.

    With n segments the chords are off by at most (16 / n)² / 83, as |σ''| ≤ 0.0963.
    """

    log2_segments: int
    values: Ints  # [segments], GATE_FRAC fractional bits
    slopes: Ints  # [segments], rise over one segment

    @property
    def segment_bits(self) -> int:
        """How many low bits of the magnitude lie inside a segment."""
        return SIGMOID_INPUT_BITS - self.log2_segments


@lru_cache
def sigmoid_table(log2_segments: int) -> SigmoidTable:
    """The sigmoid table with 2^log2_segments segments."""
    ends = np.arange(2**log2_segments + 1) * 2.0 ** (
        SIGMOID_INPUT_BITS - SIGMOID_INPUT_FRAC - log2_segments
    )
    exact = np.array([1 / (1 + math.exp(-x)) for x in ends])
    values = np.floor(exact * 2**GATE_FRAC + 0.5).astype(np.int64)
    return SigmoidTable(log2_segments, values[:-1], np.diff(values))


ROOT_FRAC = 22
"""Fractional bits of a normalised inverse root or reciprocal while Newton steps refine it."""
ROOT_FIRST = 8
"""The first index of `inverse_root_guess`: a normalised radicand has its top bit pair set."""


@lru_cache
def inverse_root_guess() -> Ints:
    """First guesses of 1/sqrt(w) for w in [1/4, 1), by the top five bits of w: 24 entries."""
    middles = (np.arange(ROOT_FIRST, 32) + 0.5) / 32
    return np.array([round(2**ROOT_FRAC / math.sqrt(m)) for m in middles], np.int64)


RECIPROCAL_FIRST = 16


@lru_cache
def reciprocal_guess() -> Ints:
    """First guesses of 1/a for a in [1/2, 1), by the top five bits of a: 16 entries."""
    middles = (np.arange(RECIPROCAL_FIRST, 32) + 0.5) / 32
    return np.array([round(2**ROOT_FRAC / m) for m in middles], np.int64)


POWER_SHIFT = 28


def power_table(factor: float, entries: int) -> Ints:
    """factor · 2^k for k in 0 … entries-1 with POWER_SHIFT fractional bits, at most 2^31 - 1.

    A root or reciprocal y below 2^(ROOT_FRAC + 1) times the largest entry is 2^26, more than any
    payload: where the table is cut off, the result saturates as it would have without the cut.
    """
    return np.array(
        [min(round(factor * 2.0 ** (k + POWER_SHIFT)), 2**31 - 1) for k in range(entries)], np.int64
    )
