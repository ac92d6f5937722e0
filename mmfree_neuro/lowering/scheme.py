"""Schemes, and the ranges that calibration measures."""

from collections.abc import Mapping
from dataclasses import dataclass, replace
from typing import Literal, get_args

from mmfree_neuro.errors import InputError

Root = Literal["before", "after"]
"""Whether the root of a norm comes before the ternary product behind it, or after."""
ROOTS: tuple[Root, ...] = get_args(Root)


@dataclass(frozen=True)
class Scheme:
    """How a model is made of integers; the defaults of `a16` lose nothing (arXiv 2503.18002, table
    1), and `a14` does with accumulators and payloads of 24 bits.

    Activations are "static", with one power-of-two scale per tensor from calibration, or
    "per-token", 8-bit codes scaled by the token's largest magnitude.
    """

    name: str
    activations: Literal["static", "per-token"]
    activation_bits: int = 16
    value_bits: int = 24
    """Width of the residual stream, of pre-activations and of what norms read."""
    state_bits: int = 24
    embedding_bits: Literal[8, 16] | None = None
    """Width of the codes of the embedding table, in which every word has a scale of its own; where
    it is not said, 16 for tables of up to 2^24 entries and 8 for larger ones, which would dwarf the
    ternary weights."""
    accumulator_bits: int = 32
    calibrated_sums: bool = False
    """Whether calibration may hold a ternary sum inside its accumulator where proof would take bits
    of its activations.  Static activations then have `activation_bits`, or up to 16 where more are
    proved to fit."""
    root: Root = "after"
    """Whether a norm's root multiplies what a product reads, or the product's sum: then the product
    need not wait for the root, which saves a step a norm.  Of static activations alone; per-token
    codes are made without the root anyway."""
    headroom_bits: int = 1
    """How many times the calibrated range, as a power of two, every format still holds."""
    log2_sigmoid_segments: int = 8
    newton_steps: int = 3


_SCHEMES = (
    Scheme("a14", "static", activation_bits=14, accumulator_bits=24, calibrated_sums=True),
    Scheme("a16", "static"),
    Scheme("a8", "per-token", activation_bits=8),
)
SCHEMES = {scheme.name: scheme for scheme in _SCHEMES}
DEFAULT = "a14"
"""The scheme that is taken where none is asked for."""


def scheme_named(name: str, root: str = "after") -> Scheme:
    """The scheme of that name, its roots before the products or after.  Raises InputError."""
    if name not in SCHEMES:
        raise InputError(
            f"scheme {name!r} is not known, must be one of {', '.join(sorted(SCHEMES))}"
        )
    for known in ROOTS:
        if root == known:
            chosen = SCHEMES[name]
            return chosen if chosen.root == known else replace(chosen, root=known)
    raise InputError(f"root {root!r} is not known, must be one of {', '.join(ROOTS)}")


@dataclass(frozen=True)
class Range:
    """The smallest and the largest of what one quantity was per token, in natural units, over the
    calibration text."""

    low: float
    high: float


Ranges = Mapping[str, Range]
"""Measured ranges by the names in `range_names`."""
