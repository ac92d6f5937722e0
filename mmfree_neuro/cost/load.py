"""What a phase of a run asks of every resource of the chips, step by step; no cost is in it."""

from dataclasses import dataclass
from functools import cached_property

import numpy as np
from numpy.typing import NDArray

from mmfree_neuro.errors import InputError
from mmfree_neuro.graph.summary import GraphSummary
from mmfree_neuro.integers.fixedpoint import Ints
from mmfree_neuro.mapping.mapping import HOST, Location, Mapping
from mmfree_neuro.mapping.trees import Ways
from mmfree_neuro.run.activity import Activity

PER_CORE = {
    "instructions": "time_per_instruction_ns",
    "synaptic operations": "time_per_synop_ns",
    "synapses read": "time_per_synapse_ns",
    "messages sent": "time_per_message_ns",
    "messages that arrive": "time_per_arrival_ns",
}
"""The resources of a core, and what one use of each takes."""


MESH = "links of the mesh"


BETWEEN = {
    "links between chips": "time_per_crossing_ns",
    "links to the host": "time_per_host_message_ns",
}
"""The resources between chips, and how long one message holds each."""


Floats = NDArray[np.float64]


@dataclass(frozen=True, eq=False)
class Load:
    """What every resource does for a token, by step; the costs of one use are not in it."""

    chips: int
    """That take part in the barrier."""
    tokens: int
    steps: int
    """At which something on a chip fires."""
    last: int
    """The number of the last step; the first, 0, is the host's."""
    cores: tuple[Location, ...]
    per_core: dict[str, Floats]  # each [last + 1, cores], uses in the whole phase
    ways: Ways
    sent: Ints  # [routes], messages in the whole phase
    route_step: Ints  # [routes]
    farthest: tuple[Ints, Ints]  # each [last + 1], the most hops and crossings of a route

    @cached_property
    def mesh(self) -> tuple[Ints, int]:
        """Messages over the busiest mesh link at every step [last + 1], and over all steps
        together."""
        each = self.route_step[self.ways.run_route]
        return _peaks(self.ways, self.sent, each, self.last), int(
            _peaks(self.ways, self.sent, 0 * each, 0)[0]
        )

    @cached_property
    def links(self) -> Floats:
        """Messages over every link between chips [last + 1, links]."""
        count = len(self.ways.links)
        key = self.route_step[self.ways.link_route] * count + self.ways.link
        flat = np.bincount(key, self.sent[self.ways.link_route], (self.last + 1) * count)
        return flat.astype(np.float64, copy=False).reshape(self.last + 1, count)


def _peaks(found: Ways, sent: Ints, step: Ints, steps: int) -> Ints:
    """At every step, the messages over the busiest mesh link: runs are swept from end to end."""
    amount = sent[found.run_route]
    at = np.concatenate([found.run_start, found.run_stop])
    change, when = np.concatenate([amount, -amount]), np.concatenate([step, step])
    order = np.lexsort((change, at, when))  # at one link, what leaves goes before what comes
    peaks: Ints = np.zeros(steps + 1, np.int64)
    np.maximum.at(peaks, when[order], change[order].cumsum())
    return peaks


def load(mapping: Mapping, summary: GraphSummary, activity: Activity, ways: Ways) -> Load:
    """What a phase asked of every resource.  Raises InputError where it has no token."""
    if activity.tokens < 1:
        raise InputError("the run has no token in this phase, must have at least one to be timed")
    nodes, cores = {node.name: node for node in summary.nodes}, mapping.cores
    number = {place: k for k, place in enumerate(cores)}
    step = np.array([nodes[shard.node].step for shard in mapping.shards])
    core = np.array([number.get(place, -1) for place in mapping.locations])
    issued = activity.fired * np.array(
        [shard.size * sum(nodes[shard.node].instructions.values()) for shard in mapping.shards]
    )
    source = np.array([route.source for route in mapping.routes], np.int64)
    route_step = step[source]

    def by_core(steps: Ints, cores_: Ints, uses: Ints) -> Floats:
        there = cores_ >= 0
        key = steps[there] * len(cores) + cores_[there]
        flat = np.bincount(key, uses[there], (summary.steps + 1) * len(cores))
        return flat.astype(np.float64, copy=False).reshape(summary.steps + 1, len(cores))

    sends = activity.messages * ways.deliveries
    per_core = dict(
        zip(
            PER_CORE,
            (
                by_core(step, core, issued),
                by_core(step, core, activity.synops),
                by_core(step, core, activity.reads),
                by_core(route_step, core[source], sends),
                _arrivals(mapping, activity, route_step, number, summary.steps),
            ),
            strict=True,
        )
    )
    farthest: tuple[Ints, Ints] = (
        np.zeros(summary.steps + 1, np.int64),
        np.zeros(summary.steps + 1, np.int64),
    )
    for most, way in zip(farthest, (ways.depth, ways.far), strict=True):
        np.maximum.at(most, route_step, way)
    steps = len(set(step[core >= 0].tolist()))
    return Load(
        len(mapping.chips),
        activity.tokens,
        steps,
        summary.steps,
        cores,
        per_core,
        ways,
        activity.messages,
        route_step,
        farthest,
    )


def _arrivals(
    mapping: Mapping, activity: Activity, route_step: Ints, number: dict[Location, int], steps: int
) -> Floats:
    """Messages that arrive at every core at every step [steps + 1, cores]."""
    sums: dict[tuple[int, int], int] = {}
    places: dict[int, tuple[Location, ...]] = {}
    for route, step, messages in zip(
        mapping.routes, route_step.tolist(), activity.messages.tolist(), strict=True
    ):
        key = id(route.destinations)
        places[key] = route.destinations
        sums[key, step] = sums.get((key, step), 0) + messages
    cores = {
        key: np.array([number[d] for d in found if d.chip != HOST], int)
        for key, found in places.items()
    }
    arrived = np.zeros((steps + 1, len(number)))
    for (key, step), messages in sums.items():
        arrived[step, cores[key]] += messages
    return arrived
