"""Constants of a system drawn together, as published rows leave them.

`systems/draws/loihi2.json` holds draws of all constants of Loihi 2 that time or energy reads, made
by `examples/benchmarks/posterior.py`: each inside its own range, and all together as likely as the
published rows are under them.  Of other chips no rows are fitted to: each figure is drawn inside
its own range alone, below its central value as often as above it.
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


def fitted(system: SystemSpec) -> bool:
    """Whether the chips of a system are of the kind that published rows were fitted to: most of
    their figures have the ranges that were drawn from."""
    known, have = _ranges(), figures(system)
    chip = [name for name in _drawn() if name.startswith("chip.")]
    return sum(_range(have[name]) == _range(known[name]) for name in chip) * 2 >= len(chip)


def draws_of(system: SystemSpec) -> Draws:
    """The figures of a system that time and energy read, drawn together, and `SAVED`.

    Of a fitted chip, a figure that has another range than the one that was drawn from keeps its
    place in it: so does the power of another board, and a figure that a user has set to one number
    is that number.
    """
    known, drawn = _ranges(), _drawn() if fitted(system) else {}
    found = {SAVED: _evenly(SAVED)}
    for name, value in figures(system).items():
        if not is_cost(name):
            continue
        if name not in drawn:
            found[name] = at(_evenly(name), value)
        elif _range(value) == _range(known[name]):
            found[name] = drawn[name]
        else:
            found[name] = at(_place(drawn[name], known[name]), value)
    return found


def left(system: SystemSpec) -> dict[str, float]:
    """What published rows leave of the ranges of a system's figures: for each that was drawn as it
    is the width of the interval from 5 to 95 % over that of its range, both of logarithms where the
    range has them."""
    known, have, found = _ranges(), figures(system), {}
    for name, values in (_drawn() if fitted(system) else {}).items():
        value = have[name]
        if _range(value) == _range(known[name]):
            ends = np.quantile(values, [0.05, 0.95])
            whole = np.array([value.low, value.high])
            if value.low > 0:
                ends, whole = np.log(ends), np.log(whole)
            found[name] = float((ends[1] - ends[0]) / (0.9 * (whole[1] - whole[0])))
    return found


def _range(value: Quantity) -> tuple[float, float]:
    return value.low, value.high


def _evenly(name: str) -> Floats:
    """Numbers from 0 to 1, as many in each part as in others, in an order of the name's own."""
    random = np.random.default_rng(zlib.crc32(name.encode()))
    return (random.permutation(SIZE) + 0.5) / SIZE


def at(places: Floats, value: Quantity) -> Floats:
    """The values at places from 0 to 1 in a range, whose central value is at 0.5: evenly on each
    side of it, of logarithms where both ends have them."""
    below = _between(value.low, value.central, 2 * places)
    return np.where(places < 0.5, below, _between(value.central, value.high, 2 * places - 1))


def _between(low: float, high: float, share: Floats) -> Floats:
    if low > 0:
        return np.asarray(low * (high / low) ** share)
    return np.asarray(low + (high - low) * share)


def _place(values: Floats, value: Quantity) -> Floats:
    """The places of values in a range, as `at` has them."""
    below, above = (
        _share(values, *ends) for ends in ((value.low, value.central), (value.central, value.high))
    )
    return np.where(values < value.central, 0.5 * below, 0.5 + 0.5 * above)


def _share(values: Floats, low: float, high: float) -> Floats:
    """Where values lie between two ends; 0 where these are one."""
    if low == high:
        return np.zeros(len(values))
    if low > 0:
        return np.asarray(np.log(values / low) / np.log(high / low))
    return np.asarray((values - low) / (high - low))
