"""Time from counts under the constants of a system, in the modes in which such a chip can run:
pipelined, falling through, interleaved, or without a barrier.

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
- interleaved (generation of several sequences): tokens fall through as above, but those of other
  sequences enter meanwhile, evenly spread over the steps of a token.  At each step of the machine
  the cores work on all tokens that are there, so a step lasts as long as the slowest resource needs
  for what these tokens ask of it together.  Where a token enters at every step, the machine is full
  and works as in prefill: more sequences gain nothing, they only wait.  Else a step takes what it
  takes on top when one token falls through, and a part of the visits is idle.  What fewer tokens
  at a time save of the dynamic energy is not known: between what one token alone saves and nothing,
  and it is drawn.
  So the throughput is about the least of what S sequences can ask for, S tokens in the steps of
  one, and what the slowest resource gives, the link to the host among them; it is less where tokens
  that enter evenly meet at one busy core;
- asynchronous: what these would gain without the barrier and without what a step takes on top.  In
  prefill a token leaves whenever the slowest resource has served one; in generation the steps still
  follow each other, as every norm needs the sum over a whole layer, and what travels takes its hops
  and crossings.  Neurons run when their inputs have come, so no visit is idle.
"""

from collections.abc import Callable
from dataclasses import dataclass, field
from functools import partial
from typing import Literal, NamedTuple

import numpy as np
from numpy.typing import NDArray

from mmfree_neuro.cost.constants import Constants, Floats
from mmfree_neuro.cost.load import BETWEEN, MESH, PER_CORE, Load
from mmfree_neuro.cost.span import Span
from mmfree_neuro.errors import HardwareError
from mmfree_neuro.integers.fixedpoint import Ints
from mmfree_neuro.mapping.mapping import HOST, Location
from mmfree_neuro.mapping.trees import MeshLink
from mmfree_neuro.systems.draws import SAVED
from mmfree_neuro.systems.spec import ChipSpec, Quantity

FEW_CHIPS = 4


class LinkOfChips(NamedTuple):
    """A link between two chips, or of the host and a chip, in one direction."""

    source: int
    destination: int


Where = Location | LinkOfChips | MeshLink
"""What is slow: a core, a link between chips, or a link of a chip's mesh."""


def where(place: Where) -> str:
    """What is slow, in words."""
    match place:
        case Location(chip, core):
            return f"core {core} of chip {chip}"
        case LinkOfChips():
            names = ["the host" if chip == HOST else f"chip {chip}" for chip in place]
            return f"link {names[0]} → {names[1]}"
        case MeshLink(chip, (column, row), (to_column, to_row)):
            names = [f"column {column}, row {row}", f"column {to_column}, row {to_row}"]
            return f"mesh link of chip {chip}, {names[0]} → {names[1]}"


@dataclass(frozen=True)
class Factor:
    """What the energy of what is counted is multiplied by."""

    why: str
    source: str
    values: Floats = field(compare=False, repr=False)  # [variants]


@dataclass(frozen=True)
class Timing:
    """Estimated times of one phase on one mapping, under constants of which there are several
    variants."""

    mode: str
    tokens_per_s: Span
    seconds_per_token: Span
    latency_seconds: Span
    """From the entry of a token to what goes to the host."""
    step_seconds: Span
    """One step where tokens are pipelined; the mean step where they fall through."""
    steps_per_token: int
    in_flight: int
    """How many sequences are under way at once."""
    steps_apart: float
    """How many steps of the machine lie between the entries of two tokens; 1 where no visit is
    idle."""
    dynamic: tuple[Factor, ...]
    """What the energy of what is counted is multiplied by."""
    slowest: Where
    """Where the time goes at central figures: the core or the link that sets most of the steps."""
    resource: str
    """Which resource that is."""
    barrier_share: float
    """Of the time."""
    seconds: Floats = field(compare=False, repr=False)  # [variants]
    """From token to token."""


def barrier_figure(chips: int) -> str:
    """The figure of what ends a step on that many chips."""
    if chips == 1:
        return "barrier_one_chip_ns"
    return "barrier_few_chips_ns" if chips <= FEW_CHIPS else "barrier_many_chips_ns"


def barrier(chip: ChipSpec, chips: int) -> Quantity:
    """What ends a step on that many chips."""
    value: Quantity = getattr(chip, barrier_figure(chips))
    return value


Table = Literal["each step", "all steps"] | int
"""Which steps of tokens are worked at together: one after another, all at once, or those of the
tokens of so many sequences."""


@dataclass(frozen=True)
class Uses:
    """How often the busiest of each resource is used at the steps of the machine, in the whole
    phase, and which that is; no constant is in it."""

    names: tuple[str, ...]
    figures: tuple[str, ...]
    """What one use takes, of a chip."""
    counts: Floats  # [resources, steps]
    places: tuple[Callable[[int], Where], ...]
    """For each resource what is busiest at a step."""


def uses(found: Load, table: Table, *, idle: bool) -> Uses:
    """The uses of all resources where tokens work together so; `idle` visits are among the
    instructions or not."""
    if (table, idle) not in found.known:
        found.known[table, idle] = _counted_uses(found, table, idle=idle)
    known: Uses = found.known[table, idle]
    return known


def _counted_uses(found: Load, table: Table, *, idle: bool) -> Uses:
    names, figures, counts = list[str](), list[str](), list[Floats]()
    places: list[Callable[[int], Where]] = []
    for name, figure in PER_CORE.items():
        used = _together(found, table, found.per_core[name])
        if idle and name == "instructions":
            used = used + found.guards.sum(0) - _together(found, table, found.guards)
        names.append(name)
        figures.append(figure)
        counts.append(used.max(1))
        places.append(partial(_core, found.cores, used.argmax(1)))
    # The links that are busiest at two steps may be two, so this is at least what one link carries.
    peaks = _together(found, table, found.mesh.messages[:, None])[:, 0]
    in_all = int(found.whole_mesh.messages[0])
    names.append(MESH)
    figures.append("time_per_hop_ns")
    counts.append(np.minimum(peaks, in_all))
    places.append(partial(_mesh_link, found, table, peaks < in_all))
    for name, figure in BETWEEN.items():
        chosen = [
            k
            for k, ends in enumerate(found.trees.links)
            if (HOST in ends) == (name == "links to the host")
        ]
        if chosen:
            links = _together(found, table, found.links[:, chosen])
            names.append(name)
            figures.append(figure)
            counts.append(links.max(1))
            places.append(partial(_link, found, chosen, links.argmax(1)))
    return Uses(tuple(names), tuple(figures), np.array(counts, np.float64), tuple(places))


def _core(cores: tuple[Location, ...], busiest: Ints, step: int) -> Where:
    return cores[busiest[step]]


def _link(found: Load, chosen: list[int], busiest: Ints, step: int) -> Where:
    return LinkOfChips(*found.trees.links[chosen[busiest[step]]])


def _mesh_link(found: Load, table: Table, by_step: NDArray[np.bool_], step: int) -> Where:
    """Of the steps that are worked at together, the busiest link of the busiest step; or that of
    all steps where that one carries less than the sum."""
    if not by_step[step]:
        return found.trees.mesh.link(int(found.whole_mesh.link[0]))
    busiest = int((_steps(found, table)[step] * found.mesh.messages).argmax())
    return found.trees.mesh.link(int(found.mesh.link[busiest]))


def _steps(found: Load, table: Table) -> Floats:
    """Which steps of tokens are worked at together in each step of the machine [steps of the
    machine, steps of a token], 1 or 0.

    Where the tokens of so many sequences enter evenly spread over the steps of one: two tokens in
    four steps enter at steps 0 and 2.  At step 1 of the machine the first is at step 1, the second,
    which has entered two steps before the first comes back, at step 3.
    """
    steps = found.steps
    if table == "each step":
        return np.eye(steps)
    if table == "all steps":
        return np.ones((1, steps))
    entries = np.arange(table) * steps // table
    worked = np.zeros((steps, steps))
    for step in range(steps):
        worked[step, (step - entries) % steps] = 1
    return worked


def _together(found: Load, table: Table, used: Floats | Ints) -> Floats:
    """Uses at every step of a token [steps, …] as those at every step of the machine."""
    if table == "each step":
        return used.astype(np.float64)
    if table == "all steps":
        return used.sum(0, dtype=np.float64)[None]
    product: Floats = _steps(found, table) @ used
    return product


def _slowest(
    found: Load, constants: Constants, table: Table, *, idle: bool = False
) -> tuple[Floats, list[tuple[float, str, Where]]]:
    """Nanoseconds a token of the slowest resources of all steps of the machine [variants]; and for
    every step what its slowest takes at central figures, and which that is."""
    used = uses(found, table, idle=idle)
    each = [constants[f"chip.{figure}"] for figure in used.figures]
    taken = np.zeros((used.counts.shape[1], len(each[0])))
    for counts, ns in zip(used.counts, each, strict=True):
        np.maximum(taken, counts[:, None] * ns, out=taken)
    return taken.sum(0) / found.tokens, _named(found, constants.system.chip, table, idle=idle)


def _named(
    found: Load, chip: ChipSpec, table: Table, *, idle: bool
) -> list[tuple[float, str, Where]]:
    """For every step the nanoseconds a token that its slowest resource takes at central figures,
    and which that is."""
    used = uses(found, table, idle=idle)
    each = np.array([getattr(chip, figure).central for figure in used.figures])
    taken = used.counts * each[:, None] / found.tokens
    slowest = taken.argmax(0).tolist()
    return [
        (float(taken[k, step]), used.names[k], used.places[k](step))
        for step, k in enumerate(slowest)
    ]


def waits(found: Load, chip: ChipSpec) -> list[tuple[float, str, Where]]:
    """For every step of a token that falls through alone: the nanoseconds that its slowest resource
    takes, at central figures, and which that is; what else a step takes comes on top."""
    return _named(found, chip, "each step", idle=True)


@dataclass(frozen=True, eq=False)
class _Way:
    """How tokens enter, and what follows from that."""

    mode: str
    latency: Floats
    """Nanoseconds from the entry of a token to what goes to the host [variants]."""
    steps: float
    """Steps of the machine that a token takes of its time."""
    in_flight: int = 1
    idle: bool = False
    """Whether neurons are visited at steps at which they have no token."""
    saved: float | Floats | None = None
    """The share of what one token alone saves of the dynamic energy that is saved [variants]; None
    where nothing is."""


def _timing(
    way: _Way,
    constants: Constants,
    per_token: Floats,
    found: Load,
    slowest: tuple[str, Where],
    waiting: Floats | float = 0.0,
) -> Timing:
    """The record of nanoseconds a token [variants], of which a barrier takes `waiting`."""
    if not per_token.min() > 0:
        raise HardwareError(
            f"{constants.system.name}: a token takes no time at its lowest figures, must have "
            "at least one above zero"
        )
    seconds = 1e-9 * per_token
    each = constants.span(seconds)
    resource, place = slowest
    return Timing(
        way.mode,
        Span(1 / each.high, 1 / each.central, 1 / each.low),
        each,
        constants.span(1e-9 * way.latency),
        constants.span(seconds / way.steps),
        found.steps,
        way.in_flight,
        way.steps if way.idle else 1.0,
        _factors(way, constants),
        place,
        resource,
        constants.span(np.asarray(waiting / per_token)).central,
        seconds,
    )


def _factors(way: _Way, constants: Constants) -> tuple[Factor, ...]:
    """What the energy of what is counted is multiplied by."""
    chip, found = constants.system.chip, list[Factor]()
    if way.saved is not None:
        saves = 1 - constants["chip.fall_through_energy_ratio"]
        why = "tokens that do not fill the machine"
        factor = np.asarray(1 - way.saved * saves)
        found.append(Factor(why, chip.fall_through_energy_ratio.source, factor))
    if constants.system.chips.central > 1:
        name = "multi_chip_energy_ratio"
        why, each = "systems of several chips", constants[f"chip.{name}"]
        found.append(Factor(why, getattr(chip, name).source, each))
    return tuple(found)


def _ends(found: Load, constants: Constants) -> Floats:
    """What the barrier takes of a step [variants]."""
    return constants[f"chip.{barrier_figure(found.chips)}"]


def pipelined(found: Load, constants: Constants) -> Timing:
    """All steps run at once on different tokens, so a token leaves at every step."""
    ends = _ends(found, constants)
    busy, slowest = _slowest(found, constants, "all steps")
    per_token = busy + ends
    way = _Way("pipelined", found.steps * per_token, 1)
    return _timing(way, constants, per_token, found, _most(slowest), ends)


def generation(found: Load, constants: Constants, in_flight: int = 1) -> Timing:
    """How so many sequences generate: a token falls through alone, or tokens are interleaved."""
    if in_flight == 1:
        return fall_through(found, constants)
    return interleaved(found, constants, in_flight)


def fall_through(found: Load, constants: Constants) -> Timing:
    """The steps of one token one after another, each with its own slowest resource, idle visits
    among what takes time."""
    ends = _ends(found, constants)
    busy, slowest = _slowest(found, constants, "each step", idle=True)
    per_token = busy + found.steps * (ends + constants["chip.fall_through_step_ns"])
    way = _Way("fall-through", per_token, found.steps, idle=True, saved=1.0)
    return _timing(way, constants, per_token, found, _most(slowest), found.steps * ends)


def interleaved(found: Load, constants: Constants, in_flight: int) -> Timing:
    """The steps of the machine while tokens of so many sequences are on their way."""
    steps, ends = found.steps, _ends(found, constants)
    if in_flight >= steps:
        busy, slowest = _slowest(found, constants, "all steps")
        per_token = busy + ends
        way = _Way("interleaved", in_flight * per_token, 1, in_flight)
        return _timing(way, constants, per_token, found, _most(slowest), ends)
    busy, slowest = _slowest(found, constants, in_flight, idle=True)
    latency = busy + steps * (ends + constants["chip.fall_through_step_ns"])
    way = _Way(
        "interleaved", latency, steps / in_flight, in_flight, idle=True, saved=constants[SAVED]
    )
    waiting = steps * ends / in_flight
    return _timing(way, constants, latency / in_flight, found, _most(slowest), waiting)


def asynchronous_prefill(found: Load, constants: Constants) -> Timing:
    """Pipelined, without a barrier."""
    per_token, slowest = _slowest(found, constants, "all steps")
    way = _Way("asynchronous", found.steps * per_token, 1)
    return _timing(way, constants, per_token, found, _most(slowest))


def asynchronous_generation(found: Load, constants: Constants, in_flight: int = 1) -> Timing:
    """A token of each sequence at a time, without a barrier; what travels takes its hops and
    crossings, one after another, and no resource serves more tokens than in prefill."""
    busy, one_by_one = _slowest(found, constants, "each step")
    hops, crossings = (int(most.sum()) for most in found.farthest)
    travel = hops * constants["chip.time_per_hop_ns"]
    travel = travel + crossings * constants["chip.time_per_crossing_ns"]
    latency = busy + travel
    least, at_once = _slowest(found, constants, "all steps")
    per_token = np.maximum(latency / in_flight, least)
    full = constants.span(least).central > constants.span(latency).central / in_flight
    way = _Way(
        "asynchronous",
        per_token * in_flight,
        found.steps / in_flight,
        in_flight,
        saved=1.0 if in_flight == 1 else None,
    )
    return _timing(way, constants, per_token, found, _most(at_once if full else one_by_one))


def _most(slowest: list[tuple[float, str, Where]]) -> tuple[str, Where]:
    """Which resource takes the most time over all steps, and where it is slowest in the most
    steps."""
    total: dict[str, float] = {}
    for ns, name, _ in slowest:
        total[name] = total.get(name, 0.0) + ns
    name = max(total, key=lambda key: total[key])
    places = [place for _, other, place in slowest if other == name]
    return name, max(dict.fromkeys(places), key=places.count)


Mode = Callable[[Load, Constants], Timing]
PREFILL: tuple[Mode, Mode] = pipelined, asynchronous_prefill
"""The modes of prefill; the first is how the silicon works."""


def generating(in_flight: int) -> tuple[Mode, Mode]:
    """The modes in which so many sequences generate; the first is how the silicon works."""
    return (
        partial(generation, in_flight=in_flight),
        partial(asynchronous_generation, in_flight=in_flight),
    )
