"""What is refused of a core by itself: rows that leave their sections, programs and lists that
break a rule, and more than the machine has."""

from collections.abc import Callable, Iterator

import numpy as np
from numpy.typing import NDArray

from mmfree_neuro.files.reading import Misfit
from mmfree_neuro.files.records import located
from mmfree_neuro.target.image import About, Machine
from mmfree_neuro.target.layout import (
    GROUP_FIELDS,
    HOST_CHIP,
    MOST_CONSTANTS,
    MOST_IMMEDIATES,
    MOST_OUTPUTS,
    Core,
)
from mmfree_neuro.target.prove_lists import MOST_EXPONENT, Lists, lists_of, prove_weights
from mmfree_neuro.target.prove_program import Needs, needs_of

Ints = NDArray[np.int64]

MOST_NEURONS = 1 << 20
"""Neurons of a group: what the offset of a synapse list can tell apart."""
MOST_SLOTS = 65
"""Slots of a port: what the longest delay that a list can have needs."""
MOST_STEPS = 1 << 16
_BITS = {
    "register_bits": (32, 32),
    "accumulator_bits": (2, 32),
    "payload_bits": (2, 32),
    "weight_bits": (2, 8),
}


def prove_about(about: About) -> None:
    """Misfit where a figure is out of reach."""
    for name, (least, most) in _BITS.items():
        _between(f"machine.{name}", getattr(about.machine, name), least, most)
    for name, value in vars(about.machine).items():
        if name not in _BITS and value is not None:
            _between(f"machine.{name}", value, 0, (1 << 63) - 1)
    _between("vocabulary", about.vocabulary, 1, (1 << 31) - 1)
    _between("logit_frac", about.logit_frac, 0, 62)
    _between("steps", about.steps, 0, MOST_STEPS)
    for number in about.chips:
        _between("chips", number, 0, HOST_CHIP - 1)
    if list(about.chips) != sorted(set(about.chips)):
        raise Misfit("chips are not in order")


def _between(name: str, value: int, least: int, most: int) -> None:
    if not least <= value <= most:
        must = f"{least}" if least == most else f"{least} … {most}"
        raise Misfit(f"{name} is {value}, must be {must}")


def prove_core(core: Core, machine: Machine, chip: int) -> None:
    """Misfit where a core breaks a rule by itself; what others lead to it is not looked at."""

    def prove(core: Core) -> None:
        rows = core.group.astype(np.int64)
        groups = dict(zip(GROUP_FIELDS, rows.T, strict=True))
        _prove_groups(core, groups)
        _prove_ports(core, groups)
        _prove_programs(core, groups)
        lists = lists_of(core)
        _prove_lists(core, groups, lists, machine)
        prove_weights(core, lists, machine.weight_bits)
        if chip != HOST_CHIP:
            _prove_limits(core, groups, machine)
            if len(core.embed):
                raise Misfit(f"EMBED has {len(core.embed)} bytes, must be empty but on the host")

    located(f"core {core.number}", prove, core)


def need(fine: NDArray[np.bool_], message: Callable[[int], str]) -> None:
    """Misfit, as `message` puts it, for the first of some rows that is not as it must be."""
    if not fine.all():
        raise Misfit(message(int(np.argmin(fine))))


def _prove_groups(core: Core, groups: dict[str, Ints]) -> None:
    """Rows of GROUP, and of TABLES: each within its section."""
    for name, least, most in (
        ("neurons", 1, MOST_NEURONS),
        ("immediates", 0, MOST_IMMEDIATES),
        ("constants", 0, MOST_CONSTANTS),
        ("states", 0, 1),
        ("outputs", 0, MOST_OUTPUTS),
    ):
        value = groups[name]
        need(
            (value >= least) & (value <= most),
            lambda g, name=name, value=value, least=least, most=most: (  # type: ignore[misc]
                f"group {g} has {value[g]} {name}, must have {least} … {most}"
            ),
        )
    for first, size, section, length in _ranges(core, groups):
        need(
            first + size <= length,
            lambda g, first=first, size=size, section=section, length=length: (  # type: ignore[misc]
                f"group {g} has {section} {first[g]} … {first[g] + size[g]}, must end at {length}"
            ),
        )
    for section, first, size in (
        ("PORT", groups["port"], groups["ports"]),
        ("STATE", groups["state"], groups["states"] * groups["neurons"]),
        ("OUT", groups["entry"], groups["entries"]),
    ):
        _prove_in_turn(section, first, size, len(getattr(core, section.lower())))
    tables = core.tables.astype(np.int64)
    need(
        tables.sum(1) <= len(core.table),
        lambda row: f"table {row} ends at {tables[row].sum()}, TABLE at {len(core.table)}",
    )


def _ranges(core: Core, groups: dict[str, Ints]) -> Iterator[tuple[Ints, Ints, str, int]]:
    """What each group has of sections that groups may share: firsts, sizes, the section."""
    neurons = groups["neurons"]
    for section, first, size in (
        ("CODE", groups["code"], groups["instructions"]),
        ("POOL", groups["immediate"], groups["immediates"]),
        ("CONST", groups["constant"], groups["constants"] * neurons),
        ("TABLES", groups["table"], groups["tables"]),
    ):
        yield first, size, section, len(getattr(core, section.lower()))


def _prove_in_turn(section: str, first: Ints, size: Ints, length: int) -> None:
    """Rows that each belong to one group: those of group after group, and no others."""
    ends = np.cumsum(size)
    need(
        (first == ends - size) | (size == 0),
        lambda g: f"group {g} begins in {section} at {first[g]}, must at {ends[g] - size[g]}",
    )
    end = int(ends[-1]) if len(ends) else 0
    if end != length:
        raise Misfit(f"the groups have {end} rows of {section}, which has {length}")


def _prove_ports(core: Core, groups: dict[str, Ints]) -> None:
    """Slots, and that ports share no accumulators."""
    first, slots = core.port.astype(np.int64).T
    need(
        (slots >= 1) & (slots <= MOST_SLOTS),
        lambda p: f"port {p} has {slots[p]} slots, must have 1 … {MOST_SLOTS}",
    )
    size = slots * groups["neurons"].repeat(groups["ports"])
    order = np.argsort(first, kind="stable")
    ends = np.cumsum(size[order])
    need(
        first[order] == ends - size[order],
        lambda k: (
            f"port {order[k]} begins at accumulator {first[order[k]]}, must at "
            f"{ends[k] - size[order[k]]}, for none is shared or left out"
        ),
    )


def _prove_programs(core: Core, groups: dict[str, Ints]) -> None:
    """Programs that are the same or apart, each legal, and with all that it needs."""
    ranges = np.unique(np.stack([groups["code"], groups["instructions"]], 1), axis=0)
    ranges = ranges[ranges[:, 1] > 0]
    apart = ranges[1:, 0] >= ranges.sum(1)[:-1]
    need(apart, lambda k: f"the programs at {ranges[k, 0]} and {ranges[k + 1, 0]} of CODE overlap")
    for first, size in ranges.tolist():
        code = core.code[first : first + size].tobytes()
        needs: Needs = located(f"the program at {first} of CODE", needs_of, code)
        chosen = np.flatnonzero((groups["code"] == first) & (groups["instructions"] == size))
        for name, least in vars(needs).items():
            has = groups[name][chosen]
            need(
                has >= least,
                lambda k, chosen=chosen, has=has, name=name, least=least: (  # type: ignore[misc]
                    f"group {chosen[k]} has {has[k]} {name}, must have {least} for its program"
                ),
            )


def _prove_lists(core: Core, groups: dict[str, Ints], lists: Lists, machine: Machine) -> None:
    """Headers of synapse lists."""

    def refuse(fine: NDArray[np.bool_], message: Callable[[int], str]) -> None:
        need(fine, lambda k: f"axon {lists.axon[k]} has a list {message(k)}")

    longest = 63 if machine.longest_delay is None else machine.longest_delay
    refuse(lists.count >= 1, lambda k: "of no neurons")
    refuse(
        lists.exponent <= MOST_EXPONENT,
        lambda k: f"with exponent {lists.exponent[k]}, must be at most {MOST_EXPONENT}",
    )
    refuse(
        lists.delay <= longest, lambda k: f"with delay {lists.delay[k]}, must be at most {longest}"
    )
    refuse(lists.port < len(core.port), lambda k: f"to port {lists.port[k]}, of {len(core.port)}")
    neurons = groups["neurons"].repeat(groups["ports"])[lists.port]
    refuse(
        lists.offset + lists.count <= neurons,
        lambda k: f"to neurons up to {lists.offset[k] + lists.count[k]}, of {neurons[k]}",
    )
    slots = core.port[:, 1].astype(np.int64)[lists.port]
    refuse(
        lists.delay + 2 <= slots,
        lambda k: f"with delay {lists.delay[k]}, to a port of {slots[k]} slots",
    )


def _prove_limits(core: Core, groups: dict[str, Ints], machine: Machine) -> None:
    """What a core has, held against what it may have."""
    for name, has in (
        ("groups", len(core.group)),
        ("neurons", int(groups["neurons"].sum())),
        ("input_axons", len(core.axon)),
        ("output_entries", len(core.out)),
        ("accumulators", core.accumulators),
        ("instructions", len(core.code)),
        ("memory_bytes", core.bytes),
        ("synaptic_bytes", core.syn.nbytes),
    ):
        most = getattr(machine, f"{name}_per_core")
        if most is not None and has > most:
            raise Misfit(f"has {has} {name.replace('_', ' ')}, must have at most {most}")
