"""Which groups wait for which, and how many steps that takes from the embedding to the results.

A core without a barrier waits in the same way for end markers: a group for all entries of which a
payload has a list to one of its ports.
"""

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np

from mmfree_neuro.files.reading import Misfit
from mmfree_neuro.target.prove_lists import Lists
from mmfree_neuro.target.side_by_side import Cores, Ints


@dataclass(frozen=True, eq=False)
class Leads:
    """Where the axons of some cores lead: each of the axons `first` … `stop` - 1 of a core has a
    list to a group.

    Cores and groups are numbered as they follow each other; there are so many in all.
    """

    core: Ints
    group: Ints
    first: Ints
    stop: Ints
    cores: int
    groups: int


def leads_of(cores: Cores, lists: Lists) -> Leads:
    """Where the axons of cores lead, by their lists."""
    groups = len(cores.groups["ports"])
    core = cores.owners("axon")[lists.axon]
    group_of = np.arange(groups).repeat(cores.groups["ports"])
    group = group_of[lists.port + cores.starts["port"][core]]
    order = np.argsort(group.astype(np.min_scalar_type(groups)), kind="stable")
    group, axon, core = group[order], lists.axon[order], core[order]
    same = (np.diff(group) == 0) & ((np.diff(axon) == 0) | (np.diff(axon) == 1))
    begins = np.flatnonzero(np.append(True, ~same)[: len(axon)])
    ends = np.flatnonzero(np.append(~same, True)[: len(axon)])
    start = cores.starts["axon"][core[begins]]
    return Leads(
        core[begins],
        group[begins],
        axon[begins] - start,
        axon[ends] + 1 - start,
        len(cores.cores),
        groups,
    )


def joined(leads: Sequence[Leads]) -> Leads:
    """The same of all cores, those of one file behind those of another."""
    cores, groups = (
        np.cumsum([0, *(getattr(one, name) for one in leads)]) for name in ("cores", "groups")
    )
    return Leads(
        np.concatenate([one.core + begin for one, begin in zip(leads, cores, strict=False)]),
        np.concatenate([one.group + begin for one, begin in zip(leads, groups, strict=False)]),
        np.concatenate([one.first for one in leads]),
        np.concatenate([one.stop for one in leads]),
        int(cores[-1]),
        int(groups[-1]),
    )


MOST_AT_ONCE = 1 << 22
"""Pairs of entries and stretches of axons that are looked at together."""
MOST_COMPARED = 1 << 31
"""Such pairs that are looked at in all; the largest published model has a hundredth of it."""
MOST_PAIRS = 1 << 24
"""Pairs of groups of which one waits for the other."""


def waits(leads: Leads, source: Ints, core: Ints, first: Ints, stop: Ints) -> Ints:
    """Pairs of groups, [pairs, 2]: one sends to axons `first` … `stop` - 1 of a core, and of these
    some lead to the other.  Misfit where there are more than any image needs."""
    rows = np.stack([core, source, first, stop]).astype(np.int64)
    rows = rows[:, np.lexsort(rows[::-1])]
    again = (np.diff(rows) == 0).all(0)
    core, source, first, stop = rows[:, np.append(True, ~again)[: rows.shape[1]]]
    entries, stretches = _by_core(core, leads.cores), _by_core(leads.core, leads.cores)
    if sum(len(some) * len(there) for some, there in zip(entries, stretches, strict=True)) > (
        MOST_COMPARED
    ):
        raise Misfit("its entries and lists are too many to be followed")
    found, count = [np.zeros(0, np.int64)], 0
    for some, there in zip(entries, stretches, strict=True):
        step = MOST_AT_ONCE // max(1, len(there)) + 1
        for begin in range(0, len(some), step):
            e = some[begin : begin + step]
            meet = (first[e, None] < leads.stop[there]) & (leads.first[there] < stop[e, None])
            senders, readers = np.nonzero(meet)
            pairs = np.unique(source[e[senders]] * leads.groups + leads.group[there[readers]])
            count += len(pairs)
            if count > MOST_PAIRS:
                raise Misfit("its entries and lists are too many to be followed")
            found.append(pairs)
    found = [np.unique(np.concatenate(found))]
    return np.stack(np.divmod(np.concatenate(found), max(1, leads.groups)), 1)


def _by_core(core: Ints, cores: int) -> list[Ints]:
    """The places where each core stands."""
    order = np.argsort(core, kind="stable")
    return np.split(order, np.searchsorted(core[order], np.arange(1, cores)))


def depths(pairs: Ints, groups: int, begin: int) -> Ints:
    """The number of pairs on the longest way from one group to each other one, [groups]; -1 where
    there is no way, or one that leads round in a circle."""
    pairs = pairs[np.argsort(pairs[:, 0], kind="stable")]
    starts = np.searchsorted(pairs[:, 0], np.arange(groups + 1))
    reached = np.zeros(groups, bool)
    reached[begin] = True
    turn = np.array([begin])
    while len(turn):
        after = _after(pairs, starts, turn)
        turn = np.unique(after[~reached[after]])
        reached[turn] = True
    # A group is passed once all that it waits for have been.
    left = np.bincount(pairs[reached[pairs[:, 0]], 1], minlength=groups)
    found = np.full(groups, -1)
    turn, step = np.array([begin]) if not left[begin] else np.zeros(0, np.int64), 0
    while len(turn):
        found[turn] = step
        after = _after(pairs, starts, turn)
        groups_after, times = np.unique(after, return_counts=True)
        left[groups_after] -= times
        turn, step = groups_after[left[groups_after] == 0], step + 1
    return found


def _after(pairs: Ints, starts: Ints, turn: Ints) -> Ints:
    """The second groups of all pairs with one of some first groups."""
    counts = starts[turn + 1] - starts[turn]
    at = np.arange(counts.sum()) - np.repeat(counts.cumsum() - counts - starts[turn], counts)
    after: Ints = pairs[at, 1]
    return after
