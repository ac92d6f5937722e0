"""What is refused of the cores of an image together: entries that lead nowhere, results without a
sender or with two, an embedding that nobody reads."""

from collections.abc import Callable, Sequence
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from mmfree_neuro.files.reading import Misfit
from mmfree_neuro.target.embedding import embedding
from mmfree_neuro.target.image import Image
from mmfree_neuro.target.layout import HERE, HOST_CHIP, NO_PORT, PORT_OF_HOST, RESULT, Core
from mmfree_neuro.target.prove_lists import lists_of
from mmfree_neuro.target.prove_steps import Leads, depths, joined, waits
from mmfree_neuro.target.side_by_side import Cores

Ints = NDArray[np.int64]

MOST_VALUES = 1 << 28
"""Neurons, their outputs, states and accumulators of all cores: what an emulator needs memory
for."""
_CORES = 256


@dataclass(frozen=True, eq=False)
class _Entries:
    """All output entries of an image: each array has an element for each."""

    place: Ints  # of its core among all
    group: Ints  # among those of all cores
    chip: Ints
    neurons: Ints  # of its group
    outputs: Ints
    output: Ints
    kind: Ints
    to_core: Ints
    to_chip: Ints
    to_place: Ints  # of that core among all, -1 where it is not there
    first: Ints
    count: Ints
    to: Ints  # the axon or the logit


def _need(fine: NDArray[np.bool_], message: Callable[[int], str]) -> None:
    """Misfit, as `message` puts it, for the first of some rows that is not as it must be."""
    if not fine.all():
        raise Misfit(message(int(np.argmin(fine))))


def prove_image(image: Image, leads: Sequence[Leads]) -> None:
    """Misfit where cores that are right by themselves do not fit each other; `leads` are those of
    the host and of each chip."""
    _prove_sizes(image)
    entries = _entries(image)
    _prove_entries(image, entries)
    _prove_results(image, entries)
    _prove_board(image, entries)
    _prove_embedding(image)
    _prove_steps(image, entries, joined(leads))


def _prove_sizes(image: Image) -> None:
    most = image.about.machine.cores_per_chip
    for chip, cores in image.chips.items():
        if most is not None and len(cores) > most:
            raise Misfit(f"chip {chip} has {len(cores)} cores, must have at most {most}")
    size = sum(core.accumulators + _values(core) for _, core in image.cores)
    if size > MOST_VALUES:
        raise Misfit(
            f"it has {size} neurons, outputs, states and accumulators, must have at most "
            f"{MOST_VALUES}"
        )


def _values(core: Core) -> int:
    """How many neurons a core has, each counted for itself, each of its outputs and its states."""
    rows = core.group.astype(np.int64)
    return int((rows[:, 2] * (1 + rows[:, 10] + rows[:, 15])).sum())


def _entries(image: Image) -> _Entries:
    """Every entry, with what its group has."""
    out = np.concatenate([core.out for _, core in image.cores]).astype(np.int64)
    groups = np.concatenate([core.group for _, core in image.cores]).astype(np.int64)
    has, neurons, outputs = groups[:, 14], groups[:, 2], groups[:, 15]
    sizes = [len(core.out) for _, core in image.cores]
    chips = [chip for chip, _ in image.cores]
    to_core, to_chip = out[:, 0] >> 8 & 255, out[:, 0] >> 16
    return _Entries(
        np.repeat(np.arange(len(sizes)), sizes),
        np.repeat(np.arange(len(groups)), has),
        np.repeat(chips, sizes),
        np.repeat(neurons, has),
        np.repeat(outputs, has),
        out[:, 0] & 15,
        out[:, 0] >> 4 & 15,
        to_core,
        to_chip,
        _places(image, to_chip, to_core),
        *out[:, 1:].T,
    )


def _prove_entries(image: Image, e: _Entries) -> None:
    """Misfit where an entry takes what its group has not, or leads where nothing is."""

    def refuse(fine: NDArray[np.bool_], message: str, *values: Ints) -> None:
        _need(fine, lambda k: f"{_where(image, e, k)} {message.format(*(v[k] for v in values))}")

    refuse(e.output < e.outputs, "has output {}, of {}", e.output, e.outputs)
    refuse(
        (e.count >= 1) & (e.first + e.count <= e.neurons),
        "has neurons {} and {} on, of {}",
        e.first,
        e.count,
        e.neurons,
    )
    refuse(e.kind <= RESULT, "has kind {}, must be 0, 1 or 2", e.kind)
    axons = np.array([len(core.axon) for _, core in image.cores])[e.to_place]
    to_core, same = e.kind != RESULT, e.to_chip == e.chip
    refuse(
        ~to_core | (e.to_place >= 0), "leads to chip {} core {}, not there", e.to_chip, e.to_core
    )
    refuse(
        ~to_core | (same == (e.kind == HERE)),
        "has kind {} for chip {}, must be 0 on one chip and 1 between two",
        e.kind,
        e.to_chip,
    )
    refuse(
        ~to_core | (e.to + e.count <= axons),
        "leads to axons {} and {} on, of {}",
        e.to,
        e.count,
        axons,
    )
    refuse(
        to_core | ((e.to_core == 0) & (e.to_chip == HOST_CHIP)),
        "has a result for chip {} core {}, must be for the host's core 0",
        e.to_chip,
        e.to_core,
    )


def _where(image: Image, e: _Entries, k: int) -> str:
    """The name of an entry."""
    place = int(e.place[k])
    chip, core = image.cores[place]
    number = k - int(np.searchsorted(e.place, place))
    who = "the host" if chip == HOST_CHIP else f"chip {chip} core {core.number}"
    return f"{who}: entry {number}"


def _places(image: Image, chips: Ints, cores: Ints) -> Ints:
    """The places among all of cores of chips, -1 where there is no such core."""
    numbers = (*image.chips, HOST_CHIP)
    row_of = np.zeros(HOST_CHIP + 1, np.int64)
    row_of[list(numbers)] = np.arange(1, len(numbers) + 1)
    places = np.full((len(numbers) + 1, _CORES), -1)
    for place, (chip, core) in enumerate(image.cores):
        places[row_of[chip], core.number] = place
    found: Ints = places[row_of[chips], cores]
    return found


def _prove_results(image: Image, e: _Entries) -> None:
    """Misfit where a result has no sender, or two."""
    results = image.about.results
    chosen = e.kind == RESULT
    first, count = e.to[chosen], e.count[chosen]
    order = np.argsort(first, kind="stable")
    begins, ends = first[order], np.cumsum(count[order])
    _need(
        begins == ends - count[order],
        lambda k: (
            f"results: result {min(begins[k], ends[k] - count[order][k])} has no sender or two, "
            "must have one"
        ),
    )
    sent = int(ends[-1]) if len(ends) else 0
    if sent != results:
        raise Misfit(f"results: {sent} of them have a sender, must be {results}")


def _prove_board(image: Image, e: _Entries) -> None:
    """Misfit where a chip has no port for what it sends."""
    board = image.board
    if ((board > PORT_OF_HOST) & (board != NO_PORT)).any():
        raise Misfit("board: a port is none of 0 … 6 and 255")
    column = np.zeros(HOST_CHIP + 1, np.int64)
    column[[*image.chips, HOST_CHIP]] = np.arange(len(image.chips) + 1)
    away = (e.kind != HERE) & (e.chip != HOST_CHIP)
    ports = board[column[e.chip[away]], column[e.to_chip[away]]]
    _need(
        ports != NO_PORT,
        lambda k: (
            f"board: chip {e.chip[away][k]} has no port for what is for chip {e.to_chip[away][k]}"
        ),
    )


def _prove_embedding(image: Image) -> None:
    """Misfit where no group of the host can read the embedding, or others add to its ports."""
    host = image.host
    embed = embedding(host)
    tokens, values = embed.codes.shape
    if tokens != image.about.vocabulary:
        raise Misfit(f"EMBED has {tokens} tokens, must have {image.about.vocabulary}")
    if embed.group >= len(host.group):
        raise Misfit(f"EMBED is for group {embed.group}, of {len(host.group)}")
    row = host.group[embed.group].tolist()
    if row[2] != values:
        raise Misfit(f"EMBED has {values} values of a token, for a group of {row[2]} neurons")
    ports = embed.ports
    if max(ports) >= row[4] or len(set(ports)) < len(ports):
        raise Misfit(
            f"EMBED is for ports {', '.join(map(str, ports))}, must be {len(ports)} of {row[4]}"
        )
    reached = lists_of(Cores((host,))).port
    if ((reached >= row[3]) & (reached < row[3] + row[4])).any():
        raise Misfit("the host: a list leads to the group that reads the embedding")


def _prove_steps(image: Image, e: _Entries, leads: Leads) -> None:
    """Misfit where results would have to be sent before what they are made of can be there.

    Where entries lead round in a circle on the way, it is not known.
    """
    inside = e.kind != RESULT
    pairs = waits(leads, *(part[inside] for part in (e.group, e.to_place, e.to, e.to + e.count)))
    depth = depths(pairs, leads.groups, embedding(image.host).group)
    needed, steps = int(depth[e.group[~inside]].max(initial=0)), image.about.steps
    if steps < needed:
        raise Misfit(
            f"steps is {steps}, must be at least {needed}, for so many entries lead one after "
            "another from the embedding to a result"
        )
