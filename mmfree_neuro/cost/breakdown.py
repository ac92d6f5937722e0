"""Where the time and the dynamic energy of a token go: by what fires at a step; by kind of node,
block, core, chip and link.  All at central figures."""

from collections import defaultdict
from collections.abc import Callable, Hashable, Sequence
from dataclasses import dataclass
from typing import TypeVar

import numpy as np

from mmfree_neuro.cost.counted import Counted
from mmfree_neuro.cost.load import Floats, Load
from mmfree_neuro.cost.timing import Timing, barrier, waits, where
from mmfree_neuro.mapping.mapping import HOST, Location
from mmfree_neuro.mapping.trees import Link

Key = TypeVar("Key", bound=Hashable)


@dataclass(frozen=True)
class Steps:
    """Steps of a token at which the same kinds of nodes fire, one after another where it falls
    through alone."""

    kinds: tuple[str, ...]
    """None where nothing fires but what only waits."""
    steps: int
    seconds: float
    """Of all of them, with their barriers and what a step takes besides."""
    busy_seconds: float
    """Of their slowest resources alone."""
    resource: str
    """What takes most of that, and where."""
    slowest: str


@dataclass(frozen=True)
class Step:
    """A step of a token that falls through alone."""

    block: int | None
    """Whose nodes fire at it; None for those outside the blocks."""
    kinds: tuple[str, ...]
    """None where nothing fires but what only waits."""
    seconds: float
    """With its barrier and what a step takes besides."""
    busy_seconds: float
    """Of its slowest resource alone."""
    resource: str
    slowest: str


def each_step(asked: Load, counts: Counted) -> tuple[Step, ...]:
    """The steps of a token that falls through alone, one after another."""
    chip, summary = counts.system.chip, counts.summary
    more = barrier(chip, asked.chips).central + chip.fall_through_step_ns.central
    kinds: dict[int, dict[str, None]] = defaultdict(dict)
    blocks: dict[int, int] = {}
    for node in summary.nodes:
        kinds[node.step][node.kind] = None
        if node.block is not None:
            blocks[node.step] = node.block
    return tuple(
        Step(
            blocks.get(step),
            tuple(sorted(kinds[step])),
            1e-9 * (ns + more),
            1e-9 * ns,
            resource,
            where(place),
        )
        for step, (ns, resource, place) in enumerate(waits(asked, chip))
    )


def by_step(each: Sequence[Step]) -> tuple[Steps, ...]:
    """The steps of a token that falls through alone, by what fires at them, longest first."""
    found: dict[tuple[str, ...], list[Step]] = defaultdict(list)
    for step in each:
        found[step.kinds].append(step)
    rows = []
    for names, steps in found.items():
        of: dict[tuple[str, str], float] = defaultdict(float)
        for step in steps:
            of[step.resource, step.slowest] += step.busy_seconds
        by_resource: dict[str, float] = defaultdict(float)
        for (resource, _), busy in of.items():
            by_resource[resource] += busy
        resource = max(by_resource, key=by_resource.__getitem__)
        slowest = max((p for r, p in of if r == resource), key=lambda p: of[resource, p])
        seconds = sum(step.seconds for step in steps)
        busy_seconds = sum(step.busy_seconds for step in steps)
        rows.append(Steps(names, len(steps), seconds, busy_seconds, resource, slowest))
    return tuple(sorted(rows, key=lambda row: -row.seconds))


@dataclass(frozen=True)
class Dynamic:
    """Millijoules a token of what is counted (no static power, no idle visits), by what they belong
    to: what a node sends belongs to it, all the way."""

    kinds: dict[str, float]
    blocks: dict[int | None, float]
    """None for what belongs to no block."""
    cores: dict[Location, float]
    chips: dict[int, float]
    links: dict[Link, float]
    """Between chips, and from and to the host."""


def dynamic(counts: Counted, times: Timing) -> Dynamic:
    """The dynamic energy of a token in a phase whose timing at central figures is known."""
    mapping, activity, chip = counts.mapping, counts.activity, counts.system.chip
    nodes = {node.name: node for node in counts.summary.nodes}
    scale = 1e-9 / activity.tokens
    for factor in times.dynamic:
        scale *= float(factor.values[0])
    issued = np.array(
        [shard.size * sum(nodes[shard.node].instructions.values()) for shard in mapping.shards]
    )
    shards: Floats = np.asarray(
        activity.synops * chip.energy_per_synop_pj.central
        + activity.fired * issued * chip.energy_per_instruction_pj.central,
        np.float64,
    )
    trees = counts.trees
    sent: Floats = np.asarray(
        trees.deliveries * chip.energy_per_message_pj.central
        + trees.hops * chip.energy_per_hop_pj.central,
        np.float64,
    )
    messages: Floats = scale * activity.messages.astype(np.float64)
    crossing = messages * chip.energy_per_crossing_pj.central
    on_chip = np.array([place.chip != HOST for place in mapping.locations])
    own = np.where(on_chip, scale * shards, 0.0)
    sources = [route.source for route in mapping.routes]
    np.add.at(own, sources, messages * sent + crossing * trees.crossings)

    def by(key: Callable[[int], Key]) -> dict[Key, float]:
        found: dict[Key, float] = defaultdict(float)
        for position, value in enumerate(own.tolist()):
            found[key(position)] += value
        return dict(sorted(found.items(), key=lambda one: -one[1]))

    links: dict[Link, float] = defaultdict(float)
    for route, link in zip(trees.link_route.tolist(), trees.link.tolist(), strict=True):
        links[trees.links[link]] += float(crossing[route])
    return Dynamic(
        by(lambda k: nodes[mapping.shards[k].node].kind),
        by(lambda k: nodes[mapping.shards[k].node].block),
        by(lambda k: mapping.locations[k]),
        by(lambda k: mapping.locations[k].chip),
        dict(sorted(links.items(), key=lambda one: -one[1])),
    )
