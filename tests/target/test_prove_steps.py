"""Which groups wait for which and for how many steps, against loops over everything."""

import numpy as np
import pytest

from mmfree_neuro.files.reading import Misfit
from mmfree_neuro.target import prove_steps
from mmfree_neuro.target.layout import Core
from mmfree_neuro.target.prove_lists import lists_of
from mmfree_neuro.target.prove_steps import Leads, depths, joined, leads_of, waits
from mmfree_neuro.target.side_by_side import Cores


def a_core(rng: np.random.Generator, number: int) -> tuple[Core, list[tuple[int, int]]]:
    """A core of up to four groups with up to two ports each, and lists of ones; pairs of an axon
    and a group that it leads to."""
    ports = rng.integers(0, 3, rng.integers(1, 5))
    group = np.zeros((len(ports), 16), "<u4")
    group[:, 2], group[:, 4] = 1, ports
    owner = np.repeat(np.arange(len(ports)), ports)
    axon, syn, pairs = [], [], []
    for a in range(rng.integers(0, 12)):
        some = rng.integers(0, len(owner), rng.integers(0, 3)) if len(owner) else owner
        axon.append(len(syn) | len(some) << 24)
        syn += [1 | 1 << 16 | int(port) << 32 for port in some]
        pairs += [(a, int(owner[port])) for port in some]
    rest = dict.fromkeys(("code", "pool", "table", "const", "state", "embed"), np.zeros(0, "<i4"))
    rest |= {"tables": np.zeros((0, 2), "<u4"), "out": np.zeros((0, 4), "<u4")}
    port = np.zeros((len(owner), 2), "<u4")
    made = {
        "group": group,
        "port": port,
        "axon": np.array(axon, "<u4"),
        "syn": np.array(syn, "<u8"),
    }
    return Core(number, **rest | made), pairs


def test_more_than_can_be_followed(monkeypatch: pytest.MonkeyPatch) -> None:
    """Entries that are written a thousand times are one."""
    three, zero = np.arange(3), np.zeros(3, np.int64)
    leads = Leads(zero, three, zero, zero + 9, 1, 3)
    source, core, first = np.repeat(three, 1000), np.zeros(3000, int), np.zeros(3000, int)
    assert len(waits(leads, source, core, first, first + 9)) == 9
    for name, most in (("MOST_COMPARED", 8), ("MOST_PAIRS", 8)):
        with monkeypatch.context() as patch:
            patch.setattr(prove_steps, name, most)
            with pytest.raises(Misfit) as error:
                waits(leads, source, core, first, first + 9)
            assert str(error.value) == "its entries and lists are too many to be followed"


@pytest.mark.parametrize("at_once", [1, 50, prove_steps.MOST_AT_ONCE])
@pytest.mark.parametrize("seed", range(20))
def test_who_waits_for_whom(seed: int, at_once: int, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(prove_steps, "MOST_AT_ONCE", at_once)
    rng = np.random.default_rng(seed)
    leads, axons, expected, groups = [], [], [], 0
    for _ in range(2):  # files
        drawn = [a_core(rng, number) for number in range(rng.integers(0, 4))]
        cores = Cores(tuple(core for core, _ in drawn))
        leads.append(leads_of(cores, lists_of(cores)))
        for core, pairs in drawn:
            expected.append({(axon, groups + group) for axon, group in pairs})
            axons.append(len(core.axon))
            groups += len(core.group)
    all_ = joined(leads)
    assert (all_.cores, all_.groups) == (len(axons), groups)
    stretches = zip(all_.core, all_.group, all_.first, all_.stop, strict=True)
    found: list[set[tuple[int, int]]] = [set() for _ in axons]
    for core, group, first, stop in stretches:
        found[core] |= {(axon, int(group)) for axon in range(first, stop)}
    assert found == expected

    entries = []
    for _ in range(30):
        core = int(rng.integers(len(axons) or 1))
        if axons and axons[core]:
            first = int(rng.integers(axons[core]))
            stop = int(rng.integers(first, axons[core])) + 1
            entries.append((int(rng.integers(groups)), core, first, stop))
    columns = np.array(entries, np.int64).reshape(-1, 4).T
    meant = {
        (source, group)
        for source, core, first, stop in entries
        for axon, group in expected[core]
        if first <= axon < stop
    }
    pairs = waits(all_, *columns)
    assert sorted(map(tuple, pairs.tolist())) == sorted(meant)


def ways(pairs: set[tuple[int, int]], groups: int, begin: int) -> list[int]:
    """The longest ways from a group, by looking at all of them; -1 for none, or a circle."""
    after = {a: {b for x, b in pairs if x == a} for a in range(groups)}
    reached, turn = {begin}, {begin}
    while turn:
        turn = {b for a in turn for b in after[a]} - reached
        reached |= turn

    def way(group: int, seen: frozenset[int]) -> float:
        if group in seen or group not in reached:
            return np.inf
        before = [way(a, seen | {group}) for a in reached if group in after[a]]
        return max(before, default=-1) + 1

    found = [way(group, frozenset()) if group in reached else -1 for group in range(groups)]
    return [-1 if one == np.inf else int(one) for one in found]


@pytest.mark.parametrize("seed", range(40))
def test_the_longest_way(seed: int) -> None:
    rng = np.random.default_rng(seed)
    groups = int(rng.integers(1, 8))
    drawn = rng.integers(0, groups, (rng.integers(0, 9), 2))
    if seed % 2:  # no circles
        drawn = np.sort(drawn[drawn[:, 0] != drawn[:, 1]], axis=1)
    pairs = {(int(a), int(b)) for a, b in drawn}
    found = depths(np.array(sorted(pairs), np.int64).reshape(-1, 2), groups, 0)
    assert found.tolist() == ways(pairs, groups, 0)


def test_nothing_leads_anywhere() -> None:
    none = np.zeros(0, np.int64)
    leads = Leads(none, none, none, none, 1, 1)
    assert waits(leads, none, none, none, none).shape == (0, 2)
    assert depths(np.zeros((0, 2), np.int64), 2, 1).tolist() == [-1, 0]
