"""Many mappings of one graph under the same costs: what each gives, and which of them nothing else
beats.

Counts are those of a token whose payloads are all non-zero, so nothing is run; every point can be
costed in any mode. How wide weights are stored changes what fits, not what a synapse takes: the
rows that the constants are fitted to do not say which width they had.  Copies of a model share the
barrier of all chips in use.
"""

from collections.abc import Sequence
from dataclasses import asdict, dataclass, replace
from typing import Any

from mmfree_neuro.cost import energy as cost
from mmfree_neuro.cost import load as load_
from mmfree_neuro.cost import timing
from mmfree_neuro.cost.span import Span
from mmfree_neuro.cost.timing import Timing
from mmfree_neuro.cost.traffic import traffic
from mmfree_neuro.graph.summary import GraphSummary
from mmfree_neuro.mapping.mapping import Mapping
from mmfree_neuro.mapping.trees import Ways, ways
from mmfree_neuro.run.activity import Activity
from mmfree_neuro.systems.spec import SystemSpec

SPLITS = ("rows", "columns", "spread")
"""By rows alone; and by columns where that saves messages; and every node over all cores of its
chip besides."""
MODES = {"prefill": timing.PREFILL, "generate": timing.GENERATION}


@dataclass(frozen=True)
class Choice:
    """One way to map a graph: a wish, and how many copies of the model work on sequences of their
    own."""

    placer: str
    chips: int | None
    split: str
    """One of `SPLITS`."""
    weight_bits: int
    head_on_host: bool
    copies: int

    def __str__(self) -> str:
        parts = [self.placer, self.split, f"{self.weight_bits} bits"]
        parts += ["head on the host"] if self.head_on_host else []
        return ", ".join([*parts, f"{self.copies} copies"] if self.copies > 1 else parts)


@dataclass(frozen=True)
class Point:
    """What a choice gives in one mode."""

    choice: Choice
    phase: str
    mode: str
    chips: int
    """In use, by all copies together."""
    cores: int
    tokens_per_s: Span
    """Of all copies together."""
    chip_millijoule_per_token: Span
    millijoule_per_token: Span
    messages_off_chips: int
    """A token: payloads from chip to chip, and from and to the host."""
    resource: str
    """What is slowest."""
    barrier_share: float


def points(
    choice: Choice, mapping: Mapping, summary: GraphSummary, activity: Activity, system: SystemSpec
) -> tuple[Point, ...]:
    """A mapping in every mode."""
    found = ways(mapping, system)
    chips = choice.copies * len(mapping.chips)
    load = replace(load_.load(mapping, summary, activity, found), chips=chips)
    return tuple(
        _point(choice, phase, mapping, summary, activity, system, estimate(load, system), found)
        for phase, modes in MODES.items()
        for estimate in modes.values()
    )


def _point(
    choice: Choice,
    phase: str,
    mapping: Mapping,
    summary: GraphSummary,
    activity: Activity,
    system: SystemSpec,
    times: Timing,
    found: Ways,
) -> Point:
    energy = cost.energy(mapping, summary, activity, system, times, found, copies=choice.copies)
    rate = times.tokens_per_s
    return Point(
        choice,
        phase,
        times.mode,
        choice.copies * len(mapping.chips),
        choice.copies * len(mapping.cores),
        Span(rate.low * choice.copies, rate.central * choice.copies, rate.high * choice.copies),
        energy.chip_millijoule_per_token,
        energy.millijoule_per_token,
        traffic(mapping, activity, found).between_chips // activity.tokens,
        times.resource,
        times.barrier_share,
    )


def front(found: Sequence[Point]) -> tuple[Point, ...]:
    """The points that no other beats: faster or as fast, with no more energy (of the system) and no
    more chips.

    Of points that are equal in all of these, the first.
    """

    def key(point: Point) -> tuple[float, float, int]:
        return -point.tokens_per_s.central, point.millijoule_per_token.central, point.chips

    best: list[Point] = []
    for point in sorted(found, key=key):
        mine = key(point)
        if not any(all(a <= b for a, b in zip(key(other), mine, strict=True)) for other in best):
            best.append(point)
    return tuple(best)


def content(found: Sequence[Point], failed: Sequence[tuple[Choice, str]]) -> dict[str, Any]:
    """All points, each with whether it is on the front of its phase and mode, and what could not be
    mapped."""
    groups = sorted({(point.phase, point.mode) for point in found})
    best = {p for group in groups for p in front([p for p in found if (p.phase, p.mode) == group])}
    return {
        "points": [asdict(point) | {"front": point in best} for point in found],
        "failed": [asdict(choice) | {"why": why} for choice, why in failed],
    }
