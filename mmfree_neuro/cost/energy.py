"""Energy from counts: each operation times what the chip's data file says it takes, and static
power times time.  What idle visits take is their instructions' energy, and a part of its own: the
fewer, the more tokens are under way.

All is computed for every variant of the constants at once, so a range of a power pairs each energy
with its own time.  Two sums stand side by side: that of the chips alone, and that of the whole
system, in which chips that are powered and not used draw what others draw.
"""

from collections import Counter
from dataclasses import dataclass, field

import numpy as np

from mmfree_neuro.cost.constants import Constants, Floats
from mmfree_neuro.cost.counted import Counted
from mmfree_neuro.cost.span import Span
from mmfree_neuro.cost.timing import Timing
from mmfree_neuro.cost.traffic import traffic
from mmfree_neuro.integers.fixedpoint import Ints
from mmfree_neuro.mapping.mapping import HOST, Mapping
from mmfree_neuro.systems.figures import figures

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
    """The calibration *system*: also its board, chips that are powered and not used, and a host
    that counts."""
    watts: Span
    """What the system draws."""
    whole: Floats = field(compare=False, repr=False)  # [variants]
    """Millijoules a token of the system."""


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


def energy(counted: Counted, timing: Timing, constants: Constants, *, copies: int = 1) -> Energy:
    """The energy of a token on average over a phase, whose timing has been estimated; `copies` as
    in `energy_of`."""
    return energy_of(operations(counted), timing, constants, copies=copies)


COUNTED = {
    "synaptic operations": ("synops", "energy_per_synop_pj"),
    "neuron instructions": ("instructions", "energy_per_instruction_pj"),
    "idle visits": ("idle_instructions", "energy_per_instruction_pj"),
    "messages": ("messages", "energy_per_message_pj"),
    "mesh hops": ("hops", "energy_per_hop_pj"),
    "link crossings": ("crossings", "energy_per_crossing_pj"),
}
"""What is counted of `Operations`, and what one of it takes, of a chip."""


def energy_of(did: Operations, timing: Timing, constants: Constants, *, copies: int = 1) -> Energy:
    """The energy of a token, of what was done, under the constants that its timing is of.

    Where `copies` of the model work on sequences of their own, they share the board, the chips that
    are powered and not used, and the host.
    """
    known = figures(constants.system)
    # A neuron is visited idly at all steps that a token takes after its entry, or at the few that
    # lie between it and the next token.
    idle = (timing.steps_apart - 1) / max(1, did.steps)
    factor = np.asarray(PJ_TO_MJ / did.tokens)
    for one in timing.dynamic:
        factor = factor * one.values
    used = did.chips
    static, board, host = (
        constants[name]
        for name in ("chip.static_power_w", "system.board_power_w", "system.host_power_w")
    )
    all_chips = np.full_like(static, constants.system.chips.central)
    powered = constants.values.get("system.powered_chips", all_chips)
    unused = np.maximum(powered - copies * used, 0) / copies
    parts, of_part = list[Part](), list[Floats]()

    def part(name: str, count: float, figure: str, unit: str, millijoule: Floats) -> None:
        each = constants.span(constants[figure])
        source = known[figure].source
        parts.append(Part(name, count, each, unit, constants.span(millijoule), source))
        of_part.append(millijoule)

    for name, (what, figure) in COUNTED.items():
        count = getattr(did, what) * (idle if name == "idle visits" else 1)
        each = constants[f"chip.{figure}"]
        part(name, count / did.tokens, f"chip.{figure}", "pJ", count * each * factor)
    to_mj = 1e3 * timing.seconds
    for name, count, figure, watts in (
        ("static power of the chips in use", used, "chip.static_power_w", used * static),
        (
            "static power of chips that are powered and not used",
            constants.span(unused).central,
            "chip.static_power_w",
            unused * static,
        ),
        ("power of the board beyond the chips", 1 / copies, "system.board_power_w", board / copies),
        ("power of the host", 1 / copies, "system.host_power_w", host / copies),
    ):
        part(name, count, figure, "W", watts * to_mj)
    chips = np.asarray(sum(of_part[: len(COUNTED) + 1]))
    whole = np.asarray(sum(of_part))
    watts_of_all = constants.span(copies * whole / to_mj)
    return Energy(tuple(parts), constants.span(chips), constants.span(whole), watts_of_all, whole)
