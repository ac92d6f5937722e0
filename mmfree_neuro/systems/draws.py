"""Constants of a system drawn together, as published rows leave them.

`systems/draws/loihi2.json` holds draws of all constants of Loihi 2 that time or energy reads, made
by `examples/benchmarks/posterior.py`: each inside its own range, and all together as likely as the
published rows are under them.
"""

import json
import zlib
from collections.abc import Mapping
from functools import lru_cache
from importlib import resources

import numpy as np
from numpy.typing import NDArray

from mmfree_neuro.systems.figures import figures
from mmfree_neuro.systems.load import load_system
from mmfree_neuro.systems.spec import Quantity, SystemSpec

Floats = NDArray[np.float64]
Draws = Mapping[str, Floats]
"""The values of every figure by its name, as chip.static_power_w, each [draws]."""
SAVED = "share of what one token alone saves that few tokens save"
"""What is drawn besides figures: 1 where several tokens under way save as much of the dynamic
energy as one alone, 0 where they save nothing.  Nothing published says which."""
DRAWN_FOR = "alia-point-32"
"""The system whose figures were drawn."""
SIZE = 500
"""How many draws there are."""
COSTS = (
    "time_",
    "energy_",
    "barrier_",
    "static_",
    "fall_through_",
    "multi_chip_",
    "board_",
    "host_",
    "powered_",
)
"""How the names of figures begin that time or energy reads."""


def is_cost(name: str) -> bool:
    """Whether time or energy reads the figure of a name, such as chip.static_power_w."""
    return name.partition(".")[2].startswith(COSTS)


@lru_cache
def _drawn() -> dict[str, Floats]:
    file = resources.files("mmfree_neuro.systems") / "draws" / "loihi2.json"
    return {name: np.array(values) for name, values in json.loads(file.read_text()).items()}


@lru_cache
def _ranges() -> dict[str, Quantity]:
    """The ranges that figures were drawn from."""
    return figures(load_system(DRAWN_FOR))


def draws_of(system: SystemSpec) -> Draws:
    """The figures of a system that time and energy read, drawn together, and `SAVED`.

    Of a system that is not the one that rows are fitted to, figures that are the same, with their
    sources, are drawn as rows leave them; any other is drawn inside its own range alone, below its
    central value as often as above it, so a figure that is set to one number is that number.
    """
    joint = _same(system)
    found = {SAVED: _evenly(SAVED)}
    for name, value in figures(system).items():
        if is_cost(name):
            found[name] = joint[name] if name in joint else at(_evenly(name), value)
    return found


def _same(system: SystemSpec) -> dict[str, Floats]:
    """The draws of those figures of a system that rows are fitted to."""
    known, have = _ranges(), figures(system)
    return {name: values for name, values in _drawn().items() if have[name] == known[name]}


def left(system: SystemSpec) -> dict[str, float]:
    """What published rows leave of the ranges of a system's figures: for each that they are fitted
    to, the width of the interval from 5 to 95 % over that of its range, both of logarithms where
    the range has them."""
    have, found = figures(system), {}
    for name, values in _same(system).items():
        value = have[name]
        ends, whole = np.quantile(values, [0.05, 0.95]), np.array([value.low, value.high])
        if value.low > 0:
            ends, whole = np.log(ends), np.log(whole)
        found[name] = float((ends[1] - ends[0]) / (0.9 * (whole[1] - whole[0])))
    return found


def _evenly(name: str) -> Floats:
    """Numbers from 0 to 1, as many in each part as in others, in an order of the name's own."""
    random = np.random.default_rng(zlib.crc32(name.encode()))
    return (random.permutation(SIZE) + 0.5) / SIZE


def at(places: Floats, value: Quantity) -> Floats:
    """The values at places from 0 to 1 in a range, whose central value is at 0.5: evenly on each
    side of it, of logarithms where the range does not begin at 0."""
    ends = np.array([value.low, value.central, value.high])
    if value.low > 0:
        ends = np.log(ends)
    found = np.interp(places, [0, 0.5, 1], ends)
    return np.clip(np.exp(found) if value.low > 0 else found, value.low, value.high)
