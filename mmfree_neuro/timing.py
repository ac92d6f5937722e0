"""Time from counts: barrier-synchronised steps, pipelined in prefill and falling through in generation.

A step lasts as long as its slowest core and then the barrier.  A core's time is that of the synapses it reads, the
instructions it issues and the messages it sends.  In prefill every core works at every step, on a token of its own,
and a token enters at each step; in generation the steps of one token follow each other.  Links are not modelled as a
queue.
"""

from collections import defaultdict
from dataclasses import dataclass

from mmfree_neuro.activity import Activity
from mmfree_neuro.errors import HardwareError, InputError
from mmfree_neuro.hardware import ChipSpec, Quantity, SystemSpec
from mmfree_neuro.mapping import HOST, Location, Mapping
from mmfree_neuro.summary import GraphSummary

BOUNDS = ("low", "central", "high")
FEW_CHIPS = 4


@dataclass(frozen=True)
class Span:
    """A figure with its range."""

    low: float
    central: float
    high: float


@dataclass(frozen=True)
class Timing:
    """Estimated times of one phase on one mapping."""

    tokens_per_s: Span
    seconds_per_token: Span
    step_seconds: Span
    """One step in prefill; the mean step in generation."""
    steps_per_token: int
    slowest: Location
    """The core that sets the step (prefill), or that is slowest most often (generation), at central figures."""
    barrier_share: float
    """Of the time, at central figures."""


def _barrier(chip: ChipSpec, chips: int) -> Quantity:
    if chips == 1:
        return chip.barrier_one_chip_ns
    return chip.barrier_few_chips_ns if chips <= FEW_CHIPS else chip.barrier_many_chips_ns


def _core_times(
    mapping: Mapping, summary: GraphSummary, activity: Activity, chip: ChipSpec, bound: str
) -> dict[int, dict[Location, float]]:
    """Seconds per token of every core at every step."""
    nodes = {node.name: node for node in summary.nodes}
    sent = [0] * len(mapping.shards)
    for route, messages in zip(mapping.routes, activity.messages.tolist(), strict=True):
        sent[route.source] += messages
    per_synapse, per_instruction, per_message = (
        getattr(quantity, bound) * 1e-9
        for quantity in (chip.time_per_synapse_ns, chip.time_per_instruction_ns, chip.time_per_message_ns)
    )
    times: dict[int, dict[Location, float]] = defaultdict(lambda: defaultdict(float))
    for position, (shard, place) in enumerate(zip(mapping.shards, mapping.locations, strict=True)):
        if place.chip == HOST:
            continue
        node = nodes[shard.node]
        issued = int(activity.fired[position]) * shard.size * sum(node.instructions.values())
        seconds = int(activity.reads[position]) * per_synapse + issued * per_instruction + sent[position] * per_message
        times[node.step][place] += seconds / activity.tokens
    return times


def _phase(
    system: str, per_token: dict[str, float], step: dict[str, float], steps: int, slowest: Location, waiting: float
) -> Timing:
    if per_token["low"] <= 0:
        raise HardwareError(f"{system}: a token takes no time at the low figures, must have at least one above zero")
    rate = Span(1 / per_token["high"], 1 / per_token["central"], 1 / per_token["low"])
    return Timing(rate, Span(**per_token), Span(**step), steps, slowest, waiting / per_token["central"])


def prefill(mapping: Mapping, summary: GraphSummary, activity: Activity, system: SystemSpec) -> Timing:
    """Pipelined: all steps run at once on different tokens, so a token leaves at every step."""
    _need_tokens(activity)
    barrier, step, slowest = _barrier(system.chip, len(mapping.chips)), {}, mapping.cores[0]
    for bound in BOUNDS:
        cores: dict[Location, float] = defaultdict(float)
        for times in _core_times(mapping, summary, activity, system.chip, bound).values():
            for place, seconds in times.items():
                cores[place] += seconds
        if bound == "central":
            slowest = max(cores, key=lambda place: cores[place])
        step[bound] = max(cores.values()) + getattr(barrier, bound) * 1e-9
    return _phase(system.name, step, step, summary.steps, slowest, barrier.central * 1e-9)


def generation(mapping: Mapping, summary: GraphSummary, activity: Activity, system: SystemSpec) -> Timing:
    """Fall-through: the steps of one token one after another, each with its own slowest core."""
    _need_tokens(activity)
    barrier, total = _barrier(system.chip, len(mapping.chips)), {}
    slowest: dict[Location, int] = defaultdict(int)
    for bound in BOUNDS:
        steps = _core_times(mapping, summary, activity, system.chip, bound)
        total[bound] = (
            sum(max(times.values()) for times in steps.values()) + summary.steps * getattr(barrier, bound) * 1e-9
        )
        if bound == "central":
            for times in steps.values():
                slowest[max(times, key=lambda place: times[place])] += 1
    mean = {bound: seconds / summary.steps for bound, seconds in total.items()}
    most_often = max(slowest, key=lambda place: slowest[place])
    return _phase(system.name, total, mean, summary.steps, most_often, summary.steps * barrier.central * 1e-9)


def _need_tokens(activity: Activity) -> None:
    if activity.tokens < 1:
        raise InputError("the run has no token in this phase, must have at least one to be timed")
