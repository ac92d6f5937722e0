"""A figure with its range."""

from dataclasses import dataclass

BOUNDS = ("low", "central", "high")


@dataclass(frozen=True)
class Span:
    """A figure with its range."""

    low: float
    central: float
    high: float
