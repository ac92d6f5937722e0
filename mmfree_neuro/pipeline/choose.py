"""The mapping that does best at a goal, of those that `explore` would try.

For prefill and generation the best is the one with the most tokens a second, at the medians; for
chips, of those on the fewest chips, the one that generates fastest.  What else a request says stays
as it is.
"""

from collections.abc import Mapping
from dataclasses import dataclass, replace
from pathlib import Path
from types import MappingProxyType

from mmfree_neuro.cost.explore import Point
from mmfree_neuro.errors import CapacityError, InputError, shown
from mmfree_neuro.graph.local_roots import ALL, kinds
from mmfree_neuro.mapping.request import SPLITS, Request
from mmfree_neuro.pipeline.explore import explore
from mmfree_neuro.pipeline.map import Stage
from mmfree_neuro.pipeline.opened import open_graph
from mmfree_neuro.systems.figures import Setting, with_figures
from mmfree_neuro.systems.load import load_system

GOALS = {"generation": "generate", "prefill": "prefill", "chips": "generate"}
"""What a mapping can be best at, and the phase whose throughput counts."""
TIMES = 2, 3, 4, 6, 8
"""How many times the fewest chips are tried besides these."""
ROOTS: tuple[tuple[str, ...], ...] = (), ("o",), (ALL,)
"""Local roots that are tried: all of them pay where cores have little to read, those of `o` where
they have much (docs/steps.md)."""


@dataclass(frozen=True)
class Best:
    """What was chosen, and of what."""

    goal: str
    points: tuple[Point, ...]
    """In the goal's phase as the silicon works, the best first."""

    @property
    def request(self) -> Request:
        """That of the best."""
        return self.points[0].request


def check_goal(goal: str) -> None:
    """InputError where a goal is none."""
    if goal not in GOALS:
        raise InputError(f"--for is {shown(goal)}, must be one of {', '.join(GOALS)}")


def choose(
    graph_path: Path,
    system_name: str,
    request: Request,
    goal: str,
    stage: Stage = lambda _: None,
    settings: Mapping[str, Setting] = MappingProxyType({}),
) -> Best:
    """Try many mappings of a graph file onto a system, with some figures set.

    Raises CapacityError where none fits.
    """
    check_goal(goal)
    graph, _ = open_graph(graph_path)
    known = kinds(graph)
    ways = [
        replace(
            request,
            local_roots=roots,
            divide=SPLITS[split]["divide"],
            spread=SPLITS[split]["spread"],
        )
        for split in ("columns", "spread")
        for roots in ROOTS
        if not roots or (known and set(roots) <= {ALL, *known})
    ]
    found, failed = explore(graph_path, system_name, ways, stage, settings)
    if not found:
        raise CapacityError(failed[0][1])
    if goal != "chips":
        fewest = min(point.chips for point in found)
        most = int(with_figures(load_system(system_name), settings).chips.central)
        counts = [times * fewest for times in TIMES if times * fewest <= most]
        more = [replace(way, chips=count) for count in counts for way in ways]
        found += explore(graph_path, system_name, more, stage, settings)[0] if more else []

    def key(point: Point) -> tuple[float, ...]:
        rate, energy = point.tokens_per_s.central, point.millijoule_per_token.central
        return (point.chips if goal == "chips" else 0, -rate, energy, point.chips)

    mine = [p for p in found if p.phase == GOALS[goal] and p.mode != "asynchronous"]
    return Best(goal, tuple(sorted(mine, key=key)))
