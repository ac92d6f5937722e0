"""Many mappings of one graph under the same costs: what each gives, and which of them nothing else
beats.

A figure is the median over all draws of the constants, with its interval; two mappings are compared
draw by draw, which says more than their intervals do.  Counts are those of a token whose payloads
are all non-zero, so nothing is run; every point can be costed in any mode. How wide weights are
stored changes what fits, not what a synapse takes: the rows that the constants are fitted to do not
say which width they had.  Copies of a model share the barrier of all chips in use.
"""

from collections.abc import Sequence
from dataclasses import dataclass, field, fields, replace
from typing import Any

import numpy as np

from mmfree_neuro.cost import constants
from mmfree_neuro.cost.constants import Constants, Floats
from mmfree_neuro.cost.counted import Counted
from mmfree_neuro.cost.energy import energy
from mmfree_neuro.cost.estimate import modes
from mmfree_neuro.cost.load import load
from mmfree_neuro.cost.span import QUANTILES, Span
from mmfree_neuro.cost.timing import Timing
from mmfree_neuro.cost.traffic import traffic
from mmfree_neuro.graph.summary import GraphSummary
from mmfree_neuro.mapping.request import Request
from mmfree_neuro.run.job import PHASES
from mmfree_neuro.target.layout import row_bytes


def label(request: Request) -> str:
    """A request in a few words."""
    parts = [request.placer, request.split]
    parts += [] if request.weight_bits is None else [f"{request.weight_bits} bits"]
    parts += ["head on the host"] if request.head_on_host else []
    parts += [f"local roots {'+'.join(request.local_roots)}"] if request.local_roots else []
    parts += [f"{request.in_flight} in flight"] if request.in_flight != 1 else []
    parts += ["greedy on the chips"] if request.greedy_on_chips else []
    return ", ".join([*parts, f"{request.copies} copies"] if request.copies > 1 else parts)


def plain(request: Request) -> dict[str, Any]:
    """A request as plain data: what differs between the points of one exploration."""
    names = (
        "placer",
        "chips",
        "split",
        "weight_bits",
        "head_on_host",
        "copies",
        "in_flight",
        "greedy_on_chips",
    )
    found = {name: getattr(request, name) for name in names}
    return found | {"local_roots": list(request.local_roots)}


@dataclass(frozen=True)
class Point:
    """What a request gives in one mode."""

    request: Request
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
    latency_seconds: Span
    """From the entry of a token to what goes to the host."""
    state_bytes: int
    """What the states of all sequences under way take of the cores' memory, by one copy."""
    rates: Floats = field(compare=False, repr=False)  # [draws]
    """Tokens a second."""
    energies: Floats = field(compare=False, repr=False)  # [draws]
    """Millijoules a token of the system."""

    def over(self, other: "Point") -> tuple[Span, Span]:
        """The ratios of this point's tokens a second and millijoules a token to another's, draw by
        draw: median and 5 to 95 %; 1 where the other takes no energy."""
        energies = np.ones_like(self.energies)
        np.divide(self.energies, other.energies, out=energies, where=other.energies > 0)
        ratios = self.rates / other.rates, energies
        rate, energy = (Span(*np.quantile(one, QUANTILES).tolist()) for one in ratios)
        return rate, energy


def points(request: Request, counted: Counted) -> tuple[Point, ...]:
    """A mapping in every mode, as the request's copies of it would run, with as many sequences as
    it has room for."""
    chips = request.copies * len(counted.mapping.chips)
    asked, drawn = replace(load(counted), chips=chips), constants.drawn(counted.system)
    return tuple(
        _point(request, phase, counted, mode(asked, drawn), drawn)
        for phase in PHASES
        for mode in modes(phase, counted.mapping.in_flight)
    )


def _point(
    request: Request, phase: str, counted: Counted, times: Timing, drawn: Constants
) -> Point:
    mapping, copies = counted.mapping, request.copies
    spent = energy(counted, times, drawn, copies=copies)
    rate = times.tokens_per_s
    return Point(
        request,
        phase,
        times.mode,
        copies * len(mapping.chips),
        copies * len(mapping.cores),
        Span(rate.low * copies, rate.central * copies, rate.high * copies),
        spent.chip_millijoule_per_token,
        spent.millijoule_per_token,
        traffic(counted).between_chips // counted.activity.tokens,
        times.resource,
        times.barrier_share,
        times.latency_seconds,
        state_bytes(counted.summary, mapping.in_flight),
        copies / times.seconds,
        spent.whole,
    )


def state_bytes(summary: GraphSummary, in_flight: int) -> int:
    """What the states of so many sequences take: a number of 32 bits for each neuron that keeps
    one."""
    return in_flight * sum(node.states for node in summary.nodes) * row_bytes("state")


def front(found: Sequence[Point]) -> tuple[Point, ...]:
    """The points that no other beats: faster or as fast, with no more energy (of the system) and no
    more chips; and a token no later, where sequences are interleaved.

    Of points that are equal in all of these, the first.
    """

    def key(point: Point) -> tuple[float, float, int, float]:
        latency = point.latency_seconds.central if point.mode == "interleaved" else 0.0
        rate, energy = point.tokens_per_s.central, point.millijoule_per_token.central
        return -rate, energy, point.chips, latency

    best: list[Point] = []
    for point in sorted(found, key=key):
        mine = key(point)
        if not any(all(a <= b for a, b in zip(key(other), mine, strict=True)) for other in best):
            best.append(point)
    return tuple(best)


def _plain_point(point: Point, fastest: Point) -> dict[str, Any]:
    found: dict[str, Any] = {"choice": plain(point.request)}
    for one in fields(point):
        value = getattr(point, one.name)
        if one.name not in ("request", "rates", "energies"):
            found[one.name] = vars(value) if isinstance(value, Span) else value
    rate, energy = point.over(fastest)
    return found | {
        "tokens_per_s_over_the_fastest": vars(rate),
        "millijoule_per_token_over_the_fastest": vars(energy),
    }


def content(found: Sequence[Point], failed: Sequence[tuple[Request, str]]) -> dict[str, Any]:
    """All points, each with whether it is on the front of its phase and mode and its ratios to the
    fastest of them, and what could not be mapped."""
    groups = sorted({(point.phase, point.mode) for point in found})
    fronts = {group: front([p for p in found if (p.phase, p.mode) == group]) for group in groups}
    rows = []
    for point in found:
        best = fronts[point.phase, point.mode]
        rows.append(_plain_point(point, best[0]) | {"front": point in best})
    return {"points": rows, "failed": [plain(request) | {"why": why} for request, why in failed]}
