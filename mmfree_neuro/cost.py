"""Energy from counts: each operation times what the chip's data file says it takes, and static power times time.

Ranges are carried through: the low figure takes every constant at its low end (and the shortest time), the high figure
every constant at its high end.
"""

from collections import Counter
from dataclasses import dataclass

from mmfree_neuro.activity import Activity
from mmfree_neuro.hardware import Quantity, SystemSpec
from mmfree_neuro.mapping import HOST, Mapping
from mmfree_neuro.summary import GraphSummary
from mmfree_neuro.timing import BOUNDS, Span, Timing
from mmfree_neuro.traffic import traffic


@dataclass(frozen=True)
class Part:
    """One contribution to the energy of a token."""

    name: str
    operations_per_token: float
    millijoule_per_token: Span
    source: str


@dataclass(frozen=True)
class Energy:
    """Estimated energy of a token in one phase, by part and in all."""

    parts: tuple[Part, ...]
    millijoule_per_token: Span


def instructions(mapping: Mapping, summary: GraphSummary, activity: Activity) -> Counter[str]:
    """Instructions issued on the chips by class, over the whole run."""
    nodes = {node.name: node for node in summary.nodes}
    issued: Counter[str] = Counter()
    for position, (shard, place) in enumerate(zip(mapping.shards, mapping.locations, strict=True)):
        if place.chip != HOST:
            for name, count in nodes[shard.node].instructions.items():
                issued[name] += count * shard.size * int(activity.fired[position])
    return issued


def _part(name: str, operations: float, each: Quantity, unit_to_mj: float) -> Part:
    span = Span(*(operations * getattr(each, bound) * unit_to_mj for bound in BOUNDS))
    return Part(name, operations, span, each.source)


def _power(name: str, chips: int, watts: Quantity, timing: Timing) -> Part:
    seconds = timing.seconds_per_token
    span = Span(*(chips * getattr(watts, bound) * getattr(seconds, bound) * 1e3 for bound in BOUNDS))
    return Part(name, chips, span, watts.source)


def energy(mapping: Mapping, summary: GraphSummary, activity: Activity, system: SystemSpec, timing: Timing) -> Energy:
    """The energy of a token on average over a phase, whose timing has been estimated."""
    chip, tokens, moved = system.chip, activity.tokens, traffic(mapping, activity, system)
    issued = sum(instructions(mapping, summary, activity).values())
    pj_to_mj = 1e-9
    parts = (
        _part("synaptic operations", int(activity.synops.sum()) / tokens, chip.energy_per_synop_pj, pj_to_mj),
        _part("neuron instructions", issued / tokens, chip.energy_per_instruction_pj, pj_to_mj),
        _part("messages", moved.messages / tokens, chip.energy_per_message_pj, pj_to_mj),
        _part("mesh hops", moved.hops / tokens, chip.energy_per_hop_pj, pj_to_mj),
        _part("link crossings", moved.crossings / tokens, chip.energy_per_crossing_pj, pj_to_mj),
        _power("static power of the chips in use", len(mapping.chips), chip.static_power_w, timing),
        _power("power of the board beyond the chips", 1, system.board_power_w, timing),
    )
    total = Span(*(sum(getattr(part.millijoule_per_token, bound) for part in parts) for bound in BOUNDS))
    return Energy(parts, total)
