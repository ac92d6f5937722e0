"""The figures of a system that time and energy read, many times over: as they are drawn together,
or all at the low ends, the middles and the high ends of their ranges.

Costs are computed for all of these at once, and shown as a range: of what is drawn, the median and
the interval from 5 to 95 %.  Two mappings are compared draw by draw, so what one does not know of
the chip does not blur what one knows of their ratio.
"""

from collections.abc import Mapping
from dataclasses import dataclass
from functools import lru_cache

import numpy as np
from numpy.typing import NDArray

from mmfree_neuro.cost.span import BOUNDS, QUANTILES, Span
from mmfree_neuro.systems.draws import SAVED, draws_of, is_cost
from mmfree_neuro.systems.figures import figures
from mmfree_neuro.systems.spec import SystemSpec

Floats = NDArray[np.float64]


@dataclass(frozen=True, eq=False)
class Constants:
    """Figures of a system, each in as many variants as the others."""

    system: SystemSpec
    """Where only one figure is wanted, such as to name what is slowest, its central ones serve."""
    values: Mapping[str, Floats]  # each [variants]
    drawn: bool
    """Whether variants are draws; or else in order from the low ends to the high ones."""

    def __getitem__(self, name: str) -> Floats:
        """All variants of a figure, such as chip.static_power_w, [variants]."""
        return self.values[name]

    def span(self, values: Floats) -> Span:
        """What follows from the variants [variants] as a figure with its range."""
        if self.drawn:
            low, central, high = np.quantile(values, QUANTILES).tolist()
        else:
            low, central, high = (float(values[k]) for k in (0, len(values) // 2, -1))
        return Span(low, central, high)


@lru_cache(maxsize=16)
def drawn(system: SystemSpec) -> Constants:
    """The figures as they are drawn together."""
    return Constants(system, draws_of(system), drawn=True)


def corners(system: SystemSpec) -> Constants:
    """All figures at their low ends, all central ones, and all at their high ends."""
    return _ordered(system, BOUNDS, [1.0, 0.5, 0.0])


def central(system: SystemSpec) -> Constants:
    """The central figures alone."""
    return _ordered(system, ("central",), [0.5])


def _ordered(system: SystemSpec, bounds: tuple[str, ...], saved: list[float]) -> Constants:
    values = {
        name: np.array([getattr(value, bound) for bound in bounds])
        for name, value in figures(system).items()
        if is_cost(name)
    }
    return Constants(system, values | {SAVED: np.array(saved)}, drawn=False)
