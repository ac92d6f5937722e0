"""The estimate of a phase: its time in both of its modes, and the energy in the first, which
silicon has; each as the median and the interval from 5 to 95 % under constants that are drawn
together."""

from dataclasses import dataclass

from mmfree_neuro.cost import constants, timing
from mmfree_neuro.cost.counted import Counted
from mmfree_neuro.cost.energy import Energy, energy_of, operations
from mmfree_neuro.cost.load import load
from mmfree_neuro.cost.span import Span
from mmfree_neuro.cost.timing import Mode, Timing
from mmfree_neuro.cost.traffic import Traffic, traffic


def modes(phase: str, in_flight: int = 1) -> tuple[Mode, Mode]:
    """The modes of a phase, "prefill" or "generate", with so many sequences under way; the first is
    how the silicon works, the second without a barrier."""
    return timing.PREFILL if phase == "prefill" else timing.generating(in_flight)


@dataclass(frozen=True)
class Corners:
    """What a phase would take with every figure of the system at its low end, with all central
    ones, and with every figure at its high end."""

    tokens_per_s: Span
    chip_millijoule_per_token: Span
    millijoule_per_token: Span


@dataclass(frozen=True)
class Estimate:
    """What a phase would take on the chips."""

    timing: Timing
    without_barrier: Timing
    energy: Energy
    traffic: Traffic
    """In the whole phase."""
    corners: Corners

    @property
    def tokens_per_s(self) -> Span:
        """Tokens a second."""
        return self.timing.tokens_per_s

    @property
    def chip_millijoule_per_token(self) -> Span:
        """Millijoules a token, of the chips in use alone."""
        return self.energy.chip_millijoule_per_token

    @property
    def millijoule_per_token(self) -> Span:
        """Millijoules a token, of the whole system."""
        return self.energy.millijoule_per_token


def estimate(counted: Counted, phase: str, in_flight: int = 1) -> Estimate:
    """The estimate of a phase, "prefill" or "generate", with so many sequences under way.  Raises
    InputError where it has no token."""
    asked, did = load(counted), operations(counted)
    mode, without_barrier = modes(phase, in_flight)
    drawn, ends = constants.drawn(counted.system), constants.corners(counted.system)
    times, at_ends = mode(asked, drawn), mode(asked, ends)
    spent = energy_of(did, at_ends, ends)
    corners = Corners(
        at_ends.tokens_per_s, spent.chip_millijoule_per_token, spent.millijoule_per_token
    )
    return Estimate(
        times,
        without_barrier(asked, drawn),
        energy_of(did, times, drawn),
        traffic(counted),
        corners,
    )
