"""What is refused of synapse lists."""

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import numpy as np

from mmfree_neuro.target.layout import ALL_ONES, EIGHT_BITS, TERNARY
from mmfree_neuro.target.side_by_side import Cores, Ints, Truths

MOST_EXPONENT = 31
_NEURONS_PER_WORD = np.array([1, 1, 32, 8])
"""By format."""


@dataclass(frozen=True, eq=False)
class Lists:
    """All synapse lists of some cores, as their headers say: each array has an element for each, in
    the order of words."""

    axon: Ints  # among those of all cores
    word: Ints  # the header's place in SYN of all cores
    words: Ints  # behind the header
    format: Ints
    delay: Ints
    exponent: Ints
    count: Ints
    port: Ints  # of its core
    offset: Ints

    def need(self, cores: Cores, fine: Truths, say: Callable[[int], str]) -> None:
        """Misfit, as `say` puts it, for the first list that is not as it must be."""
        if not fine.all():
            k = int(np.argmin(fine))
            _refuse(cores, int(self.axon[k]), f"has a list {say(k)}")


def _refuse(cores: Cores, axon: int, said: str) -> None:
    """Misfit for an axon."""
    starts = cores.starts["axon"]
    owner = int(np.searchsorted(starts, axon, "right")) - 1
    raise cores.misfit(owner, f"axon {axon - starts[owner]} {said}")


def _need(cores: Cores, fine: Truths, axons: Ints, said: str) -> None:
    """Misfit for the axon of the first of some lists that is not as it must be."""
    if not fine.all():
        _refuse(cores, int(axons[int(np.argmin(fine))]), said)


def lists_of(cores: Cores) -> Lists:
    """The lists of all axons; Misfit where they leave SYN, share words or have no format."""
    owners = cores.owners("axon")
    at = (cores.axons & np.uint32(0xFFFFFF)).astype(np.int64) + cores.starts["syn"][owners]
    left = (cores.axons >> np.uint32(24)).astype(np.int64)
    total, length = cores.sums("axon", left), cores.lengths("syn")
    for owner in np.flatnonzero(total > length)[:1]:
        said = f"the axons have {total[owner]} lists, in SYN of {length[owner]} words"
        raise cores.misfit(owner, said)
    axons, ends, found = np.arange(len(at)), cores.starts["syn"][owners + 1], []
    for turn in range(int(left.max(initial=0))):
        still = left > turn
        axons, at, left, ends = axons[still], at[still], left[still], ends[still]
        _need(cores, at < ends, axons, "has a list behind the end of SYN")
        header = cores.syn[at]
        format_ = (header & np.uint64(15)).astype(np.int64)
        _need(cores, (format_ >= 1) & (format_ <= 3), axons, "has a list of no known format")
        count = (header >> np.uint64(16) & np.uint64(0xFFFF)).astype(np.int64)
        words = -(-count // _NEURONS_PER_WORD[format_]) * (format_ != ALL_ONES)
        found.append((axons, at, words, format_, header, count))
        at = at + 1 + words
        _need(cores, at <= ends, axons, "has a list past the end of SYN")
    return _in_order(cores, found)


def _in_order(cores: Cores, found: list[tuple[Any, ...]]) -> Lists:
    """Axons, words, sizes, formats, headers and counts of lists by turns, as lists in order."""
    none = [np.zeros(0, np.int64)] * 4 + [np.zeros(0, np.uint64), np.zeros(0, np.int64)]
    columns = [np.concatenate(parts) for parts in zip(none, *found, strict=True)]
    if len(found) > 1 or (np.diff(columns[1]) <= 0).any():
        order = np.argsort(columns[1], kind="stable")
        columns = [column[order] for column in columns]
    axons, at, words, format_, header, count = columns
    apart = at[1:] > (at + words)[:-1]
    _need(cores, apart, axons[1:], "has a list that shares words with another")

    def field(first: int, bits: int) -> Ints:
        return (header >> np.uint64(first) & np.uint64((1 << bits) - 1)).astype(np.int64)

    return Lists(
        axons, at, words, format_, field(4, 6), field(10, 6), count, field(32, 12), field(44, 20)
    )


def prove_weights(cores: Cores, lists: Lists, weight_bits: int) -> None:
    """Misfit where words are of no list, hold no codes, or something behind the last one."""
    taken = np.bincount(lists.axon, 1 + lists.words, len(cores.axons)).astype(np.int64)
    used, length = cores.sums("axon", taken), cores.lengths("syn")
    for owner in np.flatnonzero(used != length)[:1]:
        said = f"lists take {used[owner]} words, must take all {length[owner]} of SYN"
        raise cores.misfit(owner, said)
    _prove_ternary(cores, lists)
    _prove_eight_bits(cores, lists, weight_bits)
    for format_, per_word in ((TERNARY, 32), (EIGHT_BITS, 8)):
        chosen = np.flatnonzero((lists.format == format_) & (lists.count % per_word != 0))
        last = cores.syn[(lists.word + lists.words)[chosen]]
        used = (lists.count[chosen] % per_word).astype(np.uint64)
        if format_ == TERNARY:
            behind = (last & np.uint64(0xFFFFFFFF) | last >> np.uint64(32)) >> used
        else:
            behind = last >> np.uint64(8) * used
        said = "has a weight behind the end of a list"
        _need(cores, behind == 0, lists.axon[chosen], said)


def _marked(cores: Cores, lists: Lists, format_: int) -> Truths | None:
    """Which words of SYN hold weights of a format, None for none."""
    chosen = lists.format == format_
    if not chosen.any():
        return None
    # +1 where the words of a list begin and -1 behind them: sums of these are 1 inside.
    steps = np.zeros(len(cores.syn) + 1, np.int8)
    steps[lists.word[chosen] + 1] = 1
    steps[(lists.word + lists.words)[chosen] + 1] -= 1
    marked: Truths = np.cumsum(steps[:-1], dtype=np.int8).view(bool)
    return marked


def _refuse_word(cores: Cores, lists: Lists, word: int, said: str) -> None:
    """Misfit for the axon whose list has a word."""
    _refuse(cores, int(lists.axon[np.searchsorted(lists.word, word, "right") - 1]), said)


def _prove_ternary(cores: Cores, lists: Lists) -> None:
    marked = _marked(cores, lists, TERNARY)
    if marked is None:
        return
    halves = cores.syn.view("<u4")
    both = (halves[::2] & halves[1::2]).astype(bool) & marked
    if both.any():
        _refuse_word(cores, lists, int(np.argmax(both)), "has a weight that is +1 and -1")


def _prove_eight_bits(cores: Cores, lists: Lists, weight_bits: int) -> None:
    marked = _marked(cores, lists, EIGHT_BITS)
    if marked is None:
        return
    most = 1 << (weight_bits - 1)
    codes = cores.syn[marked].view("i1").reshape(-1, 8)
    wide = ((codes < -most) | (codes >= most)).any(axis=1)
    if wide.any():
        word = int(np.flatnonzero(marked)[np.argmax(wide)])
        _refuse_word(cores, lists, word, f"has a weight of more than {weight_bits} bits")
