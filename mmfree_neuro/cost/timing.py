"""Time from counts, in the modes in which such a chip can run: pipelined, falling through, or
without a barrier.

The chips work in steps that a barrier ends.  A step lasts as long as its slowest resource and then
the barrier, whose length depends on how many chips take part.  The resources are, on every core,
the instructions of its neurons, its synaptic operations, the synapses that it reads from memory,
the messages that it sends (one to each core) and those that arrive, and beside the cores the links
of the meshes and those between chips.  They work side by side, as in the model that fits Loihi 2
best in the literature (arXiv 2601.10035).

- pipelined (prefill): every core works at every step, on a token of its own, and a token enters at
  each step.  So every neuron has a token at every step, and no visit is idle: the steps in which
  the pipeline fills and drains are not counted;
- fall-through (generation): the next token enters when the last has left, so the steps of a token
  follow each other, each with its own slowest resource.  They are those of the machine
  (docs/machine.md, "Generation"): the step of entry, in which the host sends, and those after it,
  a head on the host among them.  At every step a core visits all of its neurons, and those that
  have no token execute their guards (an idle visit);
- asynchronous: what either would gain without the barrier and without what a step takes on top.  In
  prefill a token leaves whenever the slowest resource has served one; in generation the steps still
  follow each other, as every norm needs the sum over a whole layer, and what travels takes its hops
  and crossings.  Neurons run when their inputs have come, so no visit is idle.
"""

from collections.abc import Callable
from dataclasses import dataclass

import numpy as np

from mmfree_neuro.cost.load import BETWEEN, MESH, PER_CORE, Floats, Load
from mmfree_neuro.cost.span import BOUNDS, Span
from mmfree_neuro.errors import HardwareError
from mmfree_neuro.mapping.mapping import HOST, Location
from mmfree_neuro.systems.spec import ChipSpec, Quantity, SystemSpec

FEW_CHIPS = 4


@dataclass(frozen=True)
class Timing:
    """Estimated times of one phase on one mapping."""

    mode: str
    tokens_per_s: Span
    seconds_per_token: Span
    step_seconds: Span
    """One step where tokens are pipelined; the mean step where they fall through."""
    steps_per_token: int
    slowest: Location
    """Where the time goes at central figures: the core (or the chip whose link) that sets most of
    the steps."""
    resource: str
    """Which resource of it."""
    barrier_share: float
    """Of the time, at central figures."""
    alone: bool
    """Whether one token at a time is under way."""
    idle_visits: bool
    """Whether neurons are visited at steps at which they have no token."""


def barrier(chip: ChipSpec, chips: int) -> Quantity:
    """What ends a step on that many chips."""
    if chips == 1:
        return chip.barrier_one_chip_ns
    return chip.barrier_few_chips_ns if chips <= FEW_CHIPS else chip.barrier_many_chips_ns


def _slowest(
    found: Load, chip: ChipSpec, bound: str, *, together: bool, idle: bool = False
) -> tuple[Floats, list[tuple[str, Location]]]:
    """Nanoseconds a token of the slowest resource, at every step or over all of them together, and
    which it is; `idle` visits are among the instructions or not."""
    cores, rows = found.cores, 1 if together else found.last + 1
    names, times = [], []
    for name, figure in PER_CORE.items():
        uses = found.per_core[name] + (found.idle if idle and name == "instructions" else 0)
        uses = uses.sum(0, keepdims=True) if together else uses
        names.append([(name, cores[k]) for k in uses.argmax(1)])
        times.append(uses.max(1) * getattr(getattr(chip, figure), bound))
    mesh = np.array([found.mesh[1]]) if together else found.mesh[0]
    names.append([(MESH, cores[0])] * rows)
    times.append(mesh * getattr(chip.time_per_hop_ns, bound))
    for name, figure in BETWEEN.items():
        chosen = [
            k
            for k, ends in enumerate(found.trees.links)
            if (HOST in ends) == (name == "links to the host")
        ]
        if chosen:
            links = found.links[:, chosen]
            links = links.sum(0, keepdims=True) if together else links
            names.append(
                [(name, Location(max(found.trees.links[chosen[k]]), 0)) for k in links.argmax(1)]
            )
            times.append(links.max(1) * getattr(getattr(chip, figure), bound))
    table = np.array(times) / found.tokens
    which = table.argmax(0)
    return table.max(0), [names[k][row] for row, k in enumerate(which)]


def waits(found: Load, chip: ChipSpec) -> list[tuple[float, str]]:
    """For every step of a token that falls through alone: the nanoseconds that its slowest resource
    takes, at central figures, and which that is; what else a step takes comes on top."""
    times, names = _slowest(found, chip, "central", together=False, idle=True)
    return [(float(ns), name) for ns, (name, _) in zip(times, names, strict=True)]


def _timing(
    mode: str,
    system: str,
    per_token: Floats,
    found: Load,
    where: tuple[str, Location],
    waiting: float,
    *,
    alone: bool,
    idle_visits: bool = False,
) -> Timing:
    """The record of nanoseconds a token at the three bounds, of which a barrier takes `waiting`."""
    if per_token[0] <= 0:
        raise HardwareError(
            f"{system}: a token takes no time at the low figures, must have at least one above zero"
        )
    low, central, high = (float(ns) * 1e-9 for ns in per_token)
    steps = found.steps if alone else 1
    step = Span(low / steps, central / steps, high / steps)
    resource, place = where
    return Timing(
        mode,
        Span(1 / high, 1 / central, 1 / low),
        Span(low, central, high),
        step,
        found.steps,
        place,
        resource,
        waiting * 1e-9 / central,
        alone,
        idle_visits,
    )


def pipelined(found: Load, system: SystemSpec) -> Timing:
    """All steps run at once on different tokens, so a token leaves at every step."""
    ends = barrier(system.chip, found.chips)
    each = [_slowest(found, system.chip, bound, together=True) for bound in BOUNDS]
    per_token = np.array(
        [ns[0] + getattr(ends, bound) for (ns, _), bound in zip(each, BOUNDS, strict=True)]
    )
    return _timing(
        "pipelined", system.name, per_token, found, each[1][1][0], ends.central, alone=False
    )


def fall_through(found: Load, system: SystemSpec) -> Timing:
    """The steps of one token one after another, each with its own slowest resource, idle visits
    among what takes time."""
    chip, ends = system.chip, barrier(system.chip, found.chips)
    each = [_slowest(found, chip, bound, together=False, idle=True) for bound in BOUNDS]
    per_step = [
        getattr(ends, bound) + getattr(chip.fall_through_step_ns, bound) for bound in BOUNDS
    ]
    per_token = np.array(
        [ns.sum() + found.steps * b for (ns, _), b in zip(each, per_step, strict=True)]
    )
    waiting = found.steps * ends.central
    where = _most(each[1])
    return _timing(
        "fall-through", system.name, per_token, found, where, waiting, alone=True, idle_visits=True
    )


def asynchronous_prefill(found: Load, system: SystemSpec) -> Timing:
    """Pipelined, without a barrier."""
    each = [_slowest(found, system.chip, bound, together=True) for bound in BOUNDS]
    per_token = np.array([ns[0] for ns, _ in each])
    return _timing("asynchronous", system.name, per_token, found, each[1][1][0], 0.0, alone=False)


def asynchronous_generation(found: Load, system: SystemSpec) -> Timing:
    """One token at a time, without a barrier; what travels takes its hops and crossings, one after
    another."""
    chip = system.chip
    each = [_slowest(found, chip, bound, together=False) for bound in BOUNDS]
    hops, crossings = (int(most.sum()) for most in found.farthest)
    per_token = np.array(
        [
            ns.sum()
            + hops * getattr(chip.time_per_hop_ns, bound)
            + crossings * getattr(chip.time_per_crossing_ns, bound)
            for (ns, _), bound in zip(each, BOUNDS, strict=True)
        ]
    )
    return _timing("asynchronous", system.name, per_token, found, _most(each[1]), 0.0, alone=True)


def _most(slowest: tuple[Floats, list[tuple[str, Location]]]) -> tuple[str, Location]:
    """Which resource takes the most time over all steps, and where it is slowest in the most
    steps."""
    times, names = slowest
    total: dict[str, float] = {}
    for ns, (name, _) in zip(times, names, strict=True):
        total[name] = total.get(name, 0.0) + float(ns)
    name = max(total, key=lambda key: total[key])
    places = [place for other, place in names if other == name]
    return name, max(dict.fromkeys(places), key=places.count)


Mode = Callable[[Load, SystemSpec], Timing]
PREFILL: dict[str, Mode] = {"pipelined": pipelined, "asynchronous": asynchronous_prefill}
GENERATION: dict[str, Mode] = {
    "fall-through": fall_through,
    "asynchronous": asynchronous_generation,
}
"""The modes of each phase; the first is how the silicon works."""
