"""What a phase of a run asks of every resource of the chips, step by step; no cost is in it."""

from collections.abc import Hashable, Sequence
from dataclasses import dataclass, field
from functools import cached_property
from typing import Any

import numpy as np
from numpy.typing import NDArray

from mmfree_neuro.cost.counted import Counted
from mmfree_neuro.errors import InputError
from mmfree_neuro.graph.summary import GraphSummary
from mmfree_neuro.integers.fixedpoint import Ints
from mmfree_neuro.mapping.mapping import HOST, Location, Mapping, Shard
from mmfree_neuro.mapping.trees import RouteTrees
from mmfree_neuro.run.activity import Activity
from mmfree_neuro.systems.spec import SystemSpec
from mmfree_neuro.target.layout import weight_words

WORDS = "memory words read"
PER_CORE = {
    "instructions": "time_per_instruction_ns",
    "synaptic operations": "time_per_synop_ns",
    WORDS: "time_per_word_ns",
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
    last: int
    """The number of the last step; the first, 0, is the host's."""
    cores: tuple[Location, ...]
    per_core: dict[str, Floats]  # each [last + 1, cores], uses in the whole phase
    guards: Floats  # [last + 1, cores]
    """Instructions of visits without a token to the neurons that fire at a step, in the whole
    phase: what each step at which they have no token takes of their core."""
    trees: RouteTrees
    sent: Ints  # [routes], messages in the whole phase
    route_step: Ints  # [routes]
    farthest: tuple[Ints, Ints]  # each [last + 1], the most hops and crossings of a route
    known: dict[Hashable, Any] = field(default_factory=dict, init=False, repr=False)
    """What has been found out of it, for whoever asks again."""

    @property
    def steps(self) -> int:
        """How many steps the machine makes for a token alone: that in which the token enters, and
        those after it."""
        return self.last + 1

    @cached_property
    def mesh(self) -> "Peaks":
        """The busiest mesh link at every step."""
        return _peaks(self.trees, self.sent, self.route_step[self.trees.run_route], self.last)

    @cached_property
    def whole_mesh(self) -> "Peaks":
        """The busiest mesh link in all steps, as if they were one."""
        return _peaks(self.trees, self.sent, np.zeros_like(self.trees.run_route), 0)

    @cached_property
    def links(self) -> Floats:
        """Messages over every link between chips [last + 1, links]."""
        count = len(self.trees.links)
        bins = self.route_step[self.trees.link_route] * count + self.trees.link
        flat = np.bincount(bins, self.sent[self.trees.link_route], (self.last + 1) * count)
        return flat.astype(np.float64, copy=False).reshape(self.last + 1, count)


@dataclass(frozen=True)
class Peaks:
    """The busiest mesh link at every step: its messages in the whole phase, and its number."""

    messages: Ints  # [last + 1]
    link: Ints  # [last + 1]


def _peaks(trees: RouteTrees, sent: Ints, run_step: Ints, last: int) -> Peaks:
    """The busiest mesh link at every step.

    The links of a step are swept in the order of their numbers.  The messages of a run are added
    where the run starts and taken off where it stops, so their running sum is what the link there
    carries.  For 3 messages on links [0, 4), 5 on [2, 6) and 1 on [4, 5):

        link          0   2   4   4   5   6
        change       +3  +5  -3  +1  -1  -5
        running sum   3   8   5   6   5   0     the peak is 8, on links 2 and 3
    """
    messages = sent[trees.run_route]
    link = np.concatenate([trees.run_start, trees.run_stop])
    change = np.concatenate([messages, -messages])
    step = np.concatenate([run_step, run_step])
    # At one link, what leaves comes off first: +1 before -3 would give 9, which no link carries.
    order = np.lexsort((change, link, step))
    peaks: Ints = np.zeros(last + 1, np.int64)
    # Every run that starts at a step stops at it, so the sum begins each step at 0 by itself.
    step, carried = step[order], change[order].cumsum()
    np.maximum.at(peaks, step, carried)
    highest = np.flatnonzero(carried == peaks[step])
    steps, first = np.unique(step[highest], return_index=True)
    busiest: Ints = np.zeros(last + 1, np.int64)
    busiest[steps] = link[order][highest[first]]
    return Peaks(peaks, busiest)


def load(counted: Counted) -> Load:
    """What a phase asked of every resource.  Raises InputError where it has no token."""
    mapping, summary, activity = counted.mapping, counted.summary, counted.activity
    trees = counted.trees
    if activity.tokens < 1:
        raise InputError("the run has no token in this phase, must have at least one to be timed")
    nodes = {node.name: node for node in summary.nodes}
    cores = mapping.cores
    numbers = {place: number for number, place in enumerate(cores)}
    shard_step = np.array([nodes[shard.node].step for shard in mapping.shards])
    shard_core = np.array([numbers.get(place, -1) for place in mapping.locations])  # -1: the host
    issued = activity.fired * np.array(
        [shard.size * sum(nodes[shard.node].instructions.values()) for shard in mapping.shards]
    )
    source = np.array([route.source for route in mapping.routes], np.int64)
    route_step = shard_step[source]

    def by_core(step: Ints, core: Ints, uses: Ints | Floats) -> Floats:
        """The sum of uses at every step on every core [steps + 1, cores]; the host's are no load.

        Step 2 on core 1 of 3 is bin 2 * 3 + 1 = 7 of a histogram whose weights are the uses.
        """
        on_chip = core >= 0
        bins = step[on_chip] * len(cores) + core[on_chip]
        flat = np.bincount(bins, uses[on_chip], (summary.steps + 1) * len(cores))
        # With weights bincount gives floats, but integers where there is nothing to count.
        return flat.astype(np.float64, copy=False).reshape(summary.steps + 1, len(cores))

    words = activity.reads * words_per_synapse(mapping.shards, summary, counted.system)
    guards = activity.fired * np.array(
        [shard.size * nodes[shard.node].idle_instructions for shard in mapping.shards]
    )
    # The core of the source issues a message for each destination; only links carry one for many.
    sends = activity.messages * trees.deliveries
    per_core = dict(
        zip(
            PER_CORE,
            (
                by_core(shard_step, shard_core, issued),
                by_core(shard_step, shard_core, activity.synops),
                by_core(shard_step, shard_core, words),
                by_core(route_step, shard_core[source], sends),
                _arrivals(mapping, activity, route_step, numbers, summary.steps),
            ),
            strict=True,
        )
    )
    farthest: tuple[Ints, Ints] = (
        np.zeros(summary.steps + 1, np.int64),
        np.zeros(summary.steps + 1, np.int64),
    )
    for most, way in zip(farthest, (trees.depth, trees.far), strict=True):
        np.maximum.at(most, route_step, way)
    return Load(
        len(mapping.chips),
        activity.tokens,
        summary.steps,
        cores,
        per_core,
        by_core(shard_step, shard_core, guards),
        trees,
        activity.messages,
        route_step,
        farthest,
    )


def words_per_synapse(shards: Sequence[Shard], summary: GraphSummary, system: SystemSpec) -> Floats:
    """Memory words of weights that are read for a synapse of each shard [shards].

    A payload reads the weights of all neurons of a shard, and what is read is whole words of 64
    bits: 20 ternary weights of 2 bits take one, of 8 bits three.  Nodes without ternary weights,
    which add up or gate what arrives, read none.  What else a node with ternary weights reads (the
    residual stream, a root) counts as weights; it is a thousandth of them.
    """
    bits = int(system.chip.weight_bits.central)
    weighing = {node.name for node in summary.nodes if node.ternary_synapses}
    return np.array(
        [
            weight_words(shard.size, bits) / shard.size if shard.node in weighing else 0.0
            for shard in shards
        ]
    )


def _arrivals(
    mapping: Mapping, activity: Activity, route_step: Ints, numbers: dict[Location, int], last: int
) -> Floats:
    """Messages that arrive at every core at every step [last + 1, cores]."""
    # Many routes of a step go to the same cores.  Their messages are added up before they are given
    # to the cores: three routes to the same 100 cores take 100 additions instead of 300.
    sums: dict[tuple[int, int], int] = {}
    places: dict[int, tuple[Location, ...]] = {}  # by identity, as routes share these tuples
    for route, step, messages in zip(
        mapping.routes, route_step.tolist(), activity.messages.tolist(), strict=True
    ):
        key = id(route.destinations)
        places[key] = route.destinations
        sums[key, step] = sums.get((key, step), 0) + messages
    cores = {
        key: np.array([numbers[place] for place in destinations if place.chip != HOST], int)
        for key, destinations in places.items()
    }
    arrived = np.zeros((last + 1, len(numbers)))
    for (key, step), messages in sums.items():
        arrived[step, cores[key]] += messages  # a route names a core once, so no index repeats
    return arrived
