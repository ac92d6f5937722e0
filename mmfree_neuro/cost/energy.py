"""Energy from counts: each operation times what the chip's data file says it takes, and static
power times time.  What idle visits take is their instructions' energy, and a part of its own: the
fewer, the more tokens are under way.

Ranges are carried through: the low figure takes every constant at its low end (and the shortest
time), the high figure every constant at its high end.  Two sums stand side by side: that of the
chips alone, and that of the whole system.
"""

from collections import Counter
from dataclasses import dataclass

import numpy as np

from mmfree_neuro.cost.counted import Counted
from mmfree_neuro.cost.span import BOUNDS, Span
from mmfree_neuro.cost.timing import Timing
from mmfree_neuro.cost.traffic import traffic
from mmfree_neuro.integers.fixedpoint import Ints
from mmfree_neuro.mapping.mapping import HOST, Mapping
from mmfree_neuro.systems.spec import Quantity, SystemSpec

PJ_TO_MJ = 1e-9


@dataclass(frozen=True)
class Part:
    """One contribution to the energy of a token."""

    name: str
    operations_per_token: float
    """Of idle visits, their instructions."""
    each: Span
    unit: str
    """Of what one operation takes: pJ, or W."""
    millijoule_per_token: Span
    source: str


@dataclass(frozen=True)
class Energy:
    """Estimated energy of a token in one phase, by part and in all."""

    parts: tuple[Part, ...]
    chip_millijoule_per_token: Span
    """The calibration *chip*: what the chips in use draw, as the published one-chip figures count
    it."""
    millijoule_per_token: Span
    """The calibration *system*: board and host as well."""


def on_chips(mapping: Mapping, counts: Ints) -> int:
    """The sum of counts of shards, without those of the host."""
    return sum(
        count
        for count, place in zip(counts.tolist(), mapping.locations, strict=True)
        if place.chip != HOST
    )


def instructions(counted: Counted) -> Counter[str]:
    """Instructions of visits with a token on the chips by class, over the whole phase."""
    mapping, summary, activity = counted.mapping, counted.summary, counted.activity
    nodes = {node.name: node for node in summary.nodes}
    issued: Counter[str] = Counter()
    for position, (shard, place) in enumerate(zip(mapping.shards, mapping.locations, strict=True)):
        if place.chip != HOST:
            for name, count in nodes[shard.node].instructions.items():
                issued[name] += count * shard.size * int(activity.fired[position])
    return issued


def idle_instructions(counted: Counted) -> int:
    """Instructions of idle visits on the chips over the whole phase, where a token falls through
    alone: a neuron has it at one step of the machine, and is visited at all of them."""
    mapping, summary = counted.mapping, counted.summary
    guard = {node.name: node.idle_instructions for node in summary.nodes}
    each = np.array([guard[shard.node] * shard.size for shard in mapping.shards])
    return on_chips(mapping, each * counted.activity.fired) * summary.steps


def _part(name: str, operations: float, each: Quantity, unit_to_mj: Span) -> Part:
    span = Span(
        *(operations * getattr(each, bound) * getattr(unit_to_mj, bound) for bound in BOUNDS)
    )
    return Part(name, operations, _span(each), "pJ", span, each.source)


def _span(quantity: Quantity) -> Span:
    return Span(quantity.low, quantity.central, quantity.high)


def _power(name: str, count: float, watts: Quantity, timing: Timing) -> Part:
    seconds = timing.seconds_per_token
    span = Span(
        *(count * getattr(watts, bound) * getattr(seconds, bound) * 1e3 for bound in BOUNDS)
    )
    return Part(name, count, _span(watts), "W", span, watts.source)


@dataclass(frozen=True)
class Operations:
    """What a phase did that takes energy, in the whole phase."""

    tokens: int
    chips: int
    steps: int
    synops: int
    instructions: int
    idle_instructions: int
    """Where a token falls through alone."""
    messages: int
    hops: int
    crossings: int


def operations(counted: Counted) -> Operations:
    """What was done in a phase."""
    moved = traffic(counted)
    return Operations(
        counted.activity.tokens,
        len(counted.mapping.chips),
        counted.summary.steps,
        on_chips(counted.mapping, counted.activity.synops),
        sum(instructions(counted).values()),
        idle_instructions(counted),
        moved.messages,
        moved.hops,
        moved.crossings,
    )


def energy(counted: Counted, timing: Timing, *, copies: int = 1) -> Energy:
    """The energy of a token on average over a phase, whose timing has been estimated; `copies` as
    in `energy_of`."""
    return energy_of(operations(counted), counted.system, timing, copies=copies)


def energy_of(did: Operations, system: SystemSpec, timing: Timing, *, copies: int = 1) -> Energy:
    """The energy of a token, of what was done on a system.

    Where `copies` of the model work on sequences of their own, they share the board and the host.
    """
    chip, tokens = system.chip, did.tokens
    # A neuron is visited idly at all steps that a token takes after its entry, or at the few that
    # lie between it and the next token.
    idle = did.idle_instructions * (timing.steps_apart - 1) / max(1, did.steps)
    picojoule = Span(*(PJ_TO_MJ * getattr(timing.dynamic, bound) for bound in BOUNDS))
    parts = (
        _part("synaptic operations", did.synops / tokens, chip.energy_per_synop_pj, picojoule),
        _part(
            "neuron instructions",
            did.instructions / tokens,
            chip.energy_per_instruction_pj,
            picojoule,
        ),
        _part("idle visits", idle / tokens, chip.energy_per_instruction_pj, picojoule),
        _part("messages", did.messages / tokens, chip.energy_per_message_pj, picojoule),
        _part("mesh hops", did.hops / tokens, chip.energy_per_hop_pj, picojoule),
        _part("link crossings", did.crossings / tokens, chip.energy_per_crossing_pj, picojoule),
        _power("static power of the chips in use", did.chips, chip.static_power_w, timing),
    )
    whole = (
        *parts,
        _power("power of the board beyond the chips", 1 / copies, system.board_power_w, timing),
        _power("power of the host", 1 / copies, system.host_power_w, timing),
    )
    return Energy(whole, _sum(parts), _sum(whole))


def _sum(parts: tuple[Part, ...]) -> Span:
    return Span(
        *(sum(getattr(part.millijoule_per_token, bound) for part in parts) for bound in BOUNDS)
    )
