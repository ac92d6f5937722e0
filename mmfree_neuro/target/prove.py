"""What is refused of a core by itself: rows that leave their sections, programs and lists that
break a rule, and more than the machine has."""

import numpy as np
from numpy.typing import NDArray

from mmfree_neuro.files.reading import Misfit
from mmfree_neuro.target.image import About, Machine
from mmfree_neuro.target.layout import (
    HOST_CHIP,
    MOST_CONSTANTS,
    MOST_IMMEDIATES,
    MOST_OUTPUTS,
    MOST_STATES,
    Core,
)
from mmfree_neuro.target.prove_lists import MOST_EXPONENT, Lists, lists_of, prove_weights
from mmfree_neuro.target.prove_program import NEEDED, needs_of
from mmfree_neuro.target.prove_steps import Leads, leads_of
from mmfree_neuro.target.side_by_side import Cores

Ints = NDArray[np.int64]

MOST_NEURONS = 1 << 20
"""Neurons of a group: what the offset of a synapse list can tell apart."""
MOST_SLOTS = 65
"""Slots of a port: what the longest delay that a list can have needs."""
MOST_STEPS = 1 << 16
_NUMBERS = (
    ("neurons", 1, MOST_NEURONS),
    ("immediates", 0, MOST_IMMEDIATES),
    ("constants", 0, MOST_CONSTANTS),
    ("states", 0, MOST_STATES),
    ("outputs", 0, MOST_OUTPUTS),
)
"""How many of each a group has at least and at most."""
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


def prove_cores(cores: tuple[Core, ...], machine: Machine, chip: int) -> Leads:
    """Where axons lead; Misfit where a core breaks a rule by itself, without what others lead to
    it."""
    all_ = Cores(cores)
    _prove_groups(all_)
    _prove_ports(all_)
    _prove_programs(all_)
    lists = lists_of(all_)
    _prove_lists(all_, lists, machine)
    prove_weights(all_, lists, machine.weight_bits)
    if chip != HOST_CHIP:
        _prove_limits(all_, machine)
    return leads_of(all_, lists)


def _prove_groups(cores: Cores) -> None:
    """Rows of GROUP, and of TABLES: each within its section."""
    groups = cores.groups
    for name, least, most in _NUMBERS:
        value = groups[name]
        cores.need(
            (value >= least) & (value <= most),
            "group",
            lambda g, own, name=name, least=least, most=most: (  # type: ignore[misc]
                f"group {own} has {groups[name][g]} {name}, must have {least} … {most}"
            ),
        )
    owners = cores.owners("group")
    for section, first, size in (
        ("code", groups["code"], groups["instructions"]),
        ("pool", groups["immediate"], groups["immediates"]),
        ("const", groups["constant"], groups["constants"] * groups["neurons"]),
        ("tables", groups["table"], groups["tables"]),
    ):
        end, length = first + size, cores.lengths(section)[owners]
        cores.need(
            end <= length,
            "group",
            lambda g, own, end=end, length=length, section=section: (  # type: ignore[misc]
                f"group {own} has {section.upper()} up to {end[g]}, must end at {length[g]}"
            ),
        )
    _prove_in_turn(cores, "port", groups["port"], groups["ports"])
    _prove_in_turn(cores, "state", groups["state"], groups["states"] * groups["neurons"])
    _prove_in_turn(cores, "out", groups["entry"], groups["entries"])
    ends, lengths = cores.tables.sum(1), cores.lengths("table")[cores.owners("tables")]
    cores.need(
        ends <= lengths,
        "tables",
        lambda row, own: f"table {own} ends at {ends[row]}, TABLE at {lengths[row]}",
    )


def _prove_in_turn(cores: Cores, section: str, first: Ints, size: Ints) -> None:
    """Rows that each belong to one group: those of group after group, and no others."""
    starts = np.cumsum(size) - size
    starts -= np.append(starts, 0)[cores.starts["group"][:-1]][cores.owners("group")]
    name = section.upper()
    cores.need(
        (first == starts) | (size == 0),
        "group",
        lambda g, own: f"group {own} begins in {name} at {first[g]}, must at {starts[g]}",
    )
    total, length = cores.sums("group", size), cores.lengths(section)
    for owner in np.flatnonzero(total != length)[:1]:
        said = f"the groups have {total[owner]} rows of {name}, which has {length[owner]}"
        raise cores.misfit(owner, said)


def _prove_ports(cores: Cores) -> None:
    """Slots, and that ports share no accumulators."""
    first, slots = cores.ports.T
    cores.need(
        (slots >= 1) & (slots <= MOST_SLOTS),
        "port",
        lambda p, own: f"port {own} has {slots[p]} slots, must have 1 … {MOST_SLOTS}",
    )
    size, owners = slots * cores.port_neurons, cores.owners("port")
    order = np.lexsort((first, owners))
    starts = np.cumsum(size[order]) - size[order]
    starts -= np.append(starts, 0)[cores.starts["port"][:-1]][owners]
    cores.need(
        first[order] == starts,
        "port",
        lambda k, own: (
            f"port {own + order[k] - k} begins at accumulator {first[order[k]]}, must at "
            f"{starts[k]}, for none is shared or left out"
        ),
    )


def _prove_programs(cores: Cores) -> None:
    """Programs that are the same or apart, each legal, and with all that it needs."""
    groups, owners = cores.groups, cores.owners("group")
    rows = np.stack([owners, groups["code"], groups["instructions"]], 1)
    programs, which = np.unique(rows, axis=0, return_inverse=True)
    needs = np.zeros((len(programs), len(NEEDED)), np.int64)
    ends = [0] * len(cores.cores)
    for k, (core, at, length) in enumerate(programs.tolist()):
        if length and at < ends[core]:
            raise cores.misfit(core, f"the program at {at} of CODE overlaps another")
        ends[core] = max(ends[core], at + length)
        try:
            needs[k] = needs_of(cores.cores[core].code[at : at + length].tobytes())
        except Misfit as problem:
            raise cores.misfit(core, f"the program at {at} of CODE: {problem}") from None
    for column, name in enumerate(NEEDED):
        least = needs[which.ravel(), column]
        cores.need(
            groups[name] >= least,
            "group",
            lambda g, own, name=name, least=least: (  # type: ignore[misc]
                f"group {own} has {groups[name][g]} {name}, must have {least[g]} for its program"
            ),
        )


def _prove_lists(cores: Cores, lists: Lists, machine: Machine) -> None:
    """Headers of synapse lists."""
    longest = 63 if machine.longest_delay is None else machine.longest_delay
    owners = cores.owners("axon")[lists.axon]
    ports = cores.lengths("port")[owners]
    lists.need(cores, lists.count >= 1, lambda k: "of no neurons")
    lists.need(
        cores,
        lists.exponent <= MOST_EXPONENT,
        lambda k: f"with exponent {lists.exponent[k]}, must be at most {MOST_EXPONENT}",
    )
    lists.need(
        cores,
        lists.delay <= longest,
        lambda k: f"with delay {lists.delay[k]}, must be at most {longest}",
    )
    lists.need(cores, lists.port < ports, lambda k: f"to port {lists.port[k]}, of {ports[k]}")
    port = lists.port + cores.starts["port"][owners]
    end, neurons = lists.offset + lists.count, cores.port_neurons[port]
    lists.need(cores, end <= neurons, lambda k: f"to neurons up to {end[k]}, of {neurons[k]}")
    slots = cores.ports[port, 1]
    lists.need(
        cores,
        lists.delay + 2 <= slots,
        lambda k: f"with delay {lists.delay[k]}, to a port of {slots[k]} slots",
    )


def _prove_limits(cores: Cores, machine: Machine) -> None:
    """What cores have, held against what they may have."""
    for name, has in (
        ("groups", cores.lengths("group")),
        ("neurons", cores.sums("group", cores.groups["neurons"])),
        ("input_axons", cores.lengths("axon")),
        ("map_entries", np.array([core.map_entries for core in cores.cores], np.int64)),
        ("accumulators", cores.accumulators),
        ("instructions", cores.lengths("code")),
        ("memory_bytes", cores.memory_bytes),
        ("synaptic_bytes", 8 * cores.lengths("syn")),
    ):
        most = getattr(machine, f"{name}_per_core")
        for owner in [] if most is None else np.flatnonzero(has > most)[:1]:
            said = f"has {has[owner]} {name.replace('_', ' ')}, must have at most {most}"
            raise cores.misfit(owner, said)
    for owner in np.flatnonzero(cores.lengths("embed"))[:1]:
        size = len(cores.cores[owner].embed)
        raise cores.misfit(owner, f"EMBED has {size} bytes, must be empty but on the host")
