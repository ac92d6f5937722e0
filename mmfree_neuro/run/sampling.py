"""Chooses tokens from integer logits, in integers alone, so every machine chooses the same."""

from dataclasses import dataclass
from functools import lru_cache

import numpy as np

from mmfree_neuro.errors import InputError
from mmfree_neuro.integers.fixedpoint import Ints

_LOG2_STEPS = 8
_ONE_BITS = 30


@dataclass(frozen=True)
class Sampling:
    """Greedy at temperature 0 (the first of equal logits), otherwise seeded draws at that
    temperature."""

    temperature: float = 0.0
    seed: int = 0

    def __post_init__(self) -> None:
        if not 0 <= self.temperature <= 100:
            raise InputError(f"the temperature is {self.temperature}, must be between 0 and 100")
        if self.seed < 0:
            raise InputError(f"the seed is {self.seed}, must not be negative")


@lru_cache
def _powers() -> Ints:
    return np.array(
        [round(2 ** (_ONE_BITS - k / 2**_LOG2_STEPS)) for k in range(2**_LOG2_STEPS)], np.int64
    )


def weights(logits: Ints, logit_scale: float, temperature: float) -> Ints:
    """Integers proportional to exp(logits · logit_scale / temperature), 2^30 at the largest logit,
    to a part in 370."""
    sharpness = logit_scale / temperature * np.log2(np.e) * 2 ** (_LOG2_STEPS + 24)
    factor = round(
        min(sharpness, 2.0**38)
    )  # so that the product stays in 64 bits; sharper is greedy anyway
    below = ((int(logits.max()) - logits) * factor) >> 24
    whole = np.minimum(below >> _LOG2_STEPS, 62)
    shifted: Ints = _powers()[below & (2**_LOG2_STEPS - 1)] >> whole
    return shifted


def choose(logits: Ints, logit_scale: float, sampling: Sampling, position: int) -> int:
    """The next token after `position` tokens; the draw depends on the seed and the position
    alone."""
    if sampling.temperature == 0:
        return int(logits.argmax())
    cumulative = weights(logits, logit_scale, sampling.temperature).cumsum()
    draw = np.random.default_rng((sampling.seed, position)).integers(int(cumulative[-1]))
    return int(np.searchsorted(cumulative, draw, side="right"))
