"""A figure with its range."""

from dataclasses import dataclass

BOUNDS = ("low", "central", "high")
QUANTILES = (0.05, 0.5, 0.95)
"""What these are of draws."""


@dataclass(frozen=True)
class Span:
    """A figure with its range."""

    low: float
    central: float
    high: float
