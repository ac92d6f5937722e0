"""What decides a training run, and the learning rate that follows from it.

The learning rate falls from its peak along a cosine and is halved in the second half, as for
one-bit models; or it stays, and falls in the last fifth (`wsd`: warm-up, stable, decay).
"""

import math
from dataclasses import dataclass

from mmfree_neuro.errors import InputError, shown

MOST = 10**12
"""No number of a recipe is larger."""
SCHEDULES = "cosine", "wsd"
DECAY = 0.2
"""The share of the steps in which the rate of `wsd` falls to zero."""


@dataclass(frozen=True)
class Recipe:
    """What decides a training run, given its corpus."""

    steps: int = 2000
    batch: int = 64
    window: int = 512
    learning_rate: float = 2e-3
    """Its peak: at twice this, rounding alone moves a loss by more than a percent."""
    warmup: int = 100
    weight_decay: float = 0.01
    clip: float = 1.0
    seed: int = 0
    accumulate: int = 1
    """How many batches a step adds the gradients of."""
    schedule: str = "cosine"

    @property
    def tokens(self) -> int:
        """How many tokens a step sees."""
        return self.batch * self.accumulate * self.window

    def __post_init__(self) -> None:
        if self.schedule not in SCHEDULES:
            raise InputError(
                f"schedule {shown(self.schedule)} is not known, must be {' or '.join(SCHEDULES)}"
            )
        for name in ("steps", "batch", "window", "accumulate"):
            if not 1 <= getattr(self, name) <= MOST:
                raise InputError(f"{name} is {shown(getattr(self, name))}, must be 1 … {MOST}")
        if not 0 < self.learning_rate <= 1:
            raise InputError(
                f"the learning rate is {self.learning_rate}, must be above 0 and at most 1"
            )
        if not 0 <= self.seed < 1 << 63:
            raise InputError(f"the seed is {shown(self.seed)}, must be 0 … {(1 << 63) - 1}")


def learning_rate(recipe: Recipe, step: int) -> float:
    """The rate of one step: linear warm-up, then a cosine, halved from the middle on, or a stable
    rate and a linear fall."""
    if step < recipe.warmup:
        return recipe.learning_rate * (step + 1) / recipe.warmup
    share = step / recipe.steps
    if recipe.schedule == "wsd":
        return recipe.learning_rate * min(1.0, (1 - share) / DECAY)
    return (
        recipe.learning_rate
        * 0.5
        * (1 + math.cos(math.pi * share))
        * (0.5 if share >= 0.5 else 1.0)
    )
