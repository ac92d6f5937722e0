"""What is refused of synapse lists."""

from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from mmfree_neuro.files.reading import Misfit
from mmfree_neuro.target.layout import ALL_ONES, EIGHT_BITS, TERNARY, Core

Ints = NDArray[np.int64]

MOST_EXPONENT = 31
_NEURONS_PER_WORD = np.array([1, 1, 32, 8])
"""By format."""


@dataclass(frozen=True, eq=False)
class Lists:
    """All synapse lists of a core, as their headers say: each array has an element for each."""

    axon: Ints
    word: Ints  # the header's place in SYN
    words: Ints  # behind the header
    format: Ints
    delay: Ints
    exponent: Ints
    count: Ints
    port: Ints
    offset: Ints


def lists_of(core: Core) -> Lists:
    """The lists of all axons; Misfit where they leave SYN, share words or have no format."""
    at = (core.axon & np.uint32(0xFFFFFF)).astype(np.int64)
    left = (core.axon >> np.uint32(24)).astype(np.int64)
    if left.sum() > len(core.syn):
        raise Misfit(f"the axons have {left.sum()} lists, in SYN of {len(core.syn)} words")
    axons, found = np.arange(len(at)), []
    for turn in range(int(left.max(initial=0))):
        still = left > turn
        axons, at, left = axons[still], at[still], left[still]
        _need(at < len(core.syn), axons, "axon {} has a list behind the end of SYN")
        header = core.syn[at]
        format_ = (header & np.uint64(15)).astype(np.int64)
        _need((format_ >= 1) & (format_ <= 3), axons, "axon {} has a list of no known format")
        count = (header >> np.uint64(16) & np.uint64(0xFFFF)).astype(np.int64)
        words = -(-count // _NEURONS_PER_WORD[format_]) * (format_ != ALL_ONES)
        found.append((axons, at, words, format_, header, count))
        at = at + 1 + words
        _need(at <= len(core.syn), axons, "axon {} has a list past the end of SYN")
    none = np.zeros(0, np.int64)
    columns = [np.concatenate(parts) for parts in zip(*found, strict=True)] or [none] * 6
    order = np.argsort(columns[1], kind="stable")
    axons, at, words, format_, header, count = (column[order] for column in columns)
    _need(
        at[1:] > (at + words)[:-1], axons[1:], "axon {} has a list that shares words with another"
    )
    header = header.astype(np.uint64)

    def field(first: int, bits: int) -> Ints:
        return (header >> np.uint64(first) & np.uint64((1 << bits) - 1)).astype(np.int64)

    return Lists(
        axons, at, words, format_, field(4, 6), field(10, 6), count, field(32, 12), field(44, 20)
    )


def _need(fine: NDArray[np.bool_], axons: Ints, message: str) -> None:
    """Misfit, with the axon, for the first list that is not as it must be."""
    if not fine.all():
        raise Misfit(message.format(axons[int(np.argmin(fine))]))


def prove_weights(core: Core, lists: Lists, weight_bits: int) -> None:
    """Misfit where words of a list hold no codes, or something behind the last one."""
    _prove_ternary(core, lists)
    _prove_eight_bits(core, lists, weight_bits)
    for format_, per_word in ((TERNARY, 32), (EIGHT_BITS, 8)):
        chosen = np.flatnonzero((lists.format == format_) & (lists.count % per_word != 0))
        last = core.syn[(lists.word + lists.words)[chosen]]
        used = (lists.count[chosen] % per_word).astype(np.uint64)
        if format_ == TERNARY:
            behind = (last & np.uint64(0xFFFFFFFF) | last >> np.uint64(32)) >> used
        else:
            behind = last >> np.uint64(8) * used
        _need(behind == 0, lists.axon[chosen], "axon {} has a weight behind the end of a list")


def _marked(core: Core, lists: Lists, format_: int) -> NDArray[np.bool_] | None:
    """Which words of SYN hold weights of a format, None for none."""
    chosen = lists.format == format_
    if not chosen.any():
        return None
    # +1 where the words of a list begin and -1 behind them: sums of these are 1 inside.
    steps = np.zeros(len(core.syn) + 1, np.int8)
    steps[lists.word[chosen] + 1] = 1
    steps[(lists.word + lists.words)[chosen] + 1] -= 1
    marked: NDArray[np.bool_] = np.cumsum(steps[:-1], dtype=np.int8).view(bool)
    return marked


def _list_at(lists: Lists, word: int) -> int:
    """The axon whose list has a word."""
    return int(lists.axon[np.searchsorted(lists.word, word, "right") - 1])


def _prove_ternary(core: Core, lists: Lists) -> None:
    marked = _marked(core, lists, TERNARY)
    if marked is None:
        return
    halves = core.syn.view("<u4")
    both = (halves[::2] & halves[1::2]).astype(bool) & marked
    if both.any():
        axon = _list_at(lists, int(np.argmax(both)))
        raise Misfit(f"axon {axon} has a weight that is +1 and -1")


def _prove_eight_bits(core: Core, lists: Lists, weight_bits: int) -> None:
    marked = _marked(core, lists, EIGHT_BITS)
    if marked is None:
        return
    most = 1 << (weight_bits - 1)
    codes = core.syn[marked].view("i1").reshape(-1, 8)
    wide = ((codes < -most) | (codes >= most)).any(axis=1)
    if wide.any():
        axon = _list_at(lists, int(np.flatnonzero(marked)[np.argmax(wide)]))
        raise Misfit(f"axon {axon} has a weight of more than {weight_bits} bits")
