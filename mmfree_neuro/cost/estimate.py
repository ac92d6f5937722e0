"""The estimate of a phase: its time in every mode, and the energy in the first, which silicon
has."""

from collections.abc import Mapping
from dataclasses import dataclass

from mmfree_neuro.cost import timing
from mmfree_neuro.cost.counted import Counted
from mmfree_neuro.cost.energy import Energy, energy
from mmfree_neuro.cost.load import load
from mmfree_neuro.cost.span import Span
from mmfree_neuro.cost.timing import Mode, Timing
from mmfree_neuro.cost.traffic import Traffic, traffic

PHASES: dict[str, Mapping[str, Mode]] = {"prefill": timing.PREFILL, "generate": timing.GENERATION}


@dataclass(frozen=True)
class Estimate:
    """What a phase would take on the chips."""

    timing: Timing
    without_barrier: Timing
    energy: Energy
    traffic: Traffic
    """In the whole phase."""

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


def estimate(counted: Counted, phase: str) -> Estimate:
    """The estimate of a phase, "prefill" or "generate".  Raises InputError where it has no
    token."""
    asked = load(counted)
    times, free = (mode(asked, counted.system) for mode in PHASES[phase].values())
    return Estimate(times, free, energy(counted, times), traffic(counted))
