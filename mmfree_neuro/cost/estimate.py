"""The estimate of a phase: its time in both of its modes, and the energy in the first, which
silicon has."""

from dataclasses import dataclass

from mmfree_neuro.cost import timing
from mmfree_neuro.cost.counted import Counted
from mmfree_neuro.cost.energy import Energy, energy_of, operations
from mmfree_neuro.cost.likely import Likely, likely
from mmfree_neuro.cost.load import load
from mmfree_neuro.cost.span import Span
from mmfree_neuro.cost.timing import Mode, Timing
from mmfree_neuro.cost.traffic import Traffic, traffic


def modes(phase: str, in_flight: int = 1) -> tuple[Mode, Mode]:
    """The modes of a phase, "prefill" or "generate", with so many sequences under way; the first is
    how the silicon works, the second without a barrier."""
    return timing.PREFILL if phase == "prefill" else timing.generating(in_flight)


@dataclass(frozen=True)
class Estimate:
    """What a phase would take on the chips."""

    timing: Timing
    without_barrier: Timing
    energy: Energy
    traffic: Traffic
    """In the whole phase."""
    likely: Likely | None
    """What published rows leave of it: the median, and 5 to 95 %; None where the constants of the
    system were not drawn."""

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
    asked = load(counted)
    times, free = (mode(asked, counted.system) for mode in modes(phase, in_flight))
    did = operations(counted)
    spent = energy_of(did, counted.system, times)
    return Estimate(times, free, spent, traffic(counted), likely(asked, did, counted.system, times))
