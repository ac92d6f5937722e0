"""Which figures of a system an estimate depends on: each alone at the ends of its range, all others
at their central value; and what share of the estimate's variance goes with each where all are drawn
together."""

import math
from collections.abc import Iterator
from dataclasses import dataclass, replace

import numpy as np

from mmfree_neuro.cost import constants
from mmfree_neuro.cost.constants import Floats
from mmfree_neuro.cost.counted import Counted
from mmfree_neuro.cost.energy import energy_of, operations
from mmfree_neuro.cost.estimate import modes
from mmfree_neuro.cost.load import load
from mmfree_neuro.systems.draws import is_cost
from mmfree_neuro.systems.figures import figures, with_figure
from mmfree_neuro.systems.spec import Quantity, SystemSpec


@dataclass(frozen=True)
class Cost:
    """What a token takes at central figures."""

    tokens_per_s: float
    chip_millijoule_per_token: float
    millijoule_per_token: float


@dataclass(frozen=True)
class Swing:
    """What one figure at its ends makes of a phase."""

    figure: str
    """Such as chip.barrier_many_chips_ns."""
    low: float
    high: float
    at_low: Cost
    at_high: Cost
    share_of_rate: float
    """Of the variance of tokens a second over all draws, by ranks: what goes with this figure, 0
    where it alone changes nothing.  It
    is no effect of the figure alone: figures that rows tie to each other share it, so shares need
    not add up to 1."""
    share_of_energy: float
    """Of that of the system's millijoules a token."""
    source: str

    def widest(self, base: Cost) -> float:
        """By what share of itself a figure of the cost changes at most: the throughput or the
        system's energy."""
        each = [
            (abs(getattr(end, name) - getattr(base, name)), getattr(base, name))
            for end in (self.at_low, self.at_high)
            for name in ("tokens_per_s", "millijoule_per_token")
        ]
        return max(by / of if of else math.inf for by, of in each if by)


@dataclass(frozen=True)
class Sensitivity:
    """The cost of a phase at central figures; and what every figure makes of it that has a range
    and matters there, that which changes most first."""

    phase: str
    base: Cost
    swings: tuple[Swing, ...]


def sensitivity(counts: Counted, phase: str, in_flight: int = 1) -> Sensitivity:
    """That of a phase, "prefill" or "generate", with so many sequences under way.

    Raises InputError where the phase has no token.
    """
    asked, did, (mode, _) = load(counts), operations(counts), modes(phase, in_flight)

    def cost(system: SystemSpec) -> Cost:
        figures_of = constants.central(system)
        times = mode(asked, figures_of)
        spent = energy_of(did, times, figures_of)
        return Cost(
            times.tokens_per_s.central,
            spent.chip_millijoule_per_token.central,
            spent.millijoule_per_token.central,
        )

    drawn = constants.drawn(counts.system)
    times = mode(asked, drawn)
    energy = energy_of(did, times, drawn).whole
    base = cost(counts.system)
    swings = []
    for name, value, low, high in _ends(counts.system):
        at_low, at_high = cost(low), cost(high)
        if (at_low, at_high) != (base, base):
            rate_share, energy_share = (
                _share(drawn[name], result)
                if any(getattr(end, of) != getattr(base, of) for end in (at_low, at_high))
                else 0.0
                for of, result in (
                    ("tokens_per_s", times.seconds),
                    ("millijoule_per_token", energy),
                )
            )
            swings.append(
                Swing(
                    name,
                    value.low,
                    value.high,
                    at_low,
                    at_high,
                    rate_share,
                    energy_share,
                    value.source,
                )
            )
    by_width = sorted(swings, key=lambda swing: -swing.widest(base))
    return Sensitivity(phase, base, tuple(by_width))


def _share(figure: Floats, result: Floats) -> float:
    """The share of a result's variance that goes with a figure: its squared rank correlation."""
    if np.ptp(figure) == 0 or np.ptp(result) == 0:
        return 0.0
    ranks = np.array([values.argsort().argsort() for values in (figure, result)])
    return float(np.corrcoef(ranks)[0, 1] ** 2)


def _ends(system: SystemSpec) -> Iterator[tuple[str, Quantity, SystemSpec, SystemSpec]]:
    """Every figure with a range, and the system with its low and its high end as the central
    value."""
    for name, value in figures(system).items():
        if is_cost(name) and value.low < value.high:
            low, high = (
                with_figure(system, name, replace(value, central=end))
                for end in (value.low, value.high)
            )
            yield name, value, low, high
