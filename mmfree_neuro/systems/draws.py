"""Constants of a system drawn together, as published rows leave them.

`systems/draws/loihi2.json` holds draws of all constants of Loihi 2 that time or energy reads, made
by `examples/benchmarks/posterior.py`: each inside its own range, and all together as likely as the
published rows are under them.
"""

import json
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
SHARE = "energy of an operation on many chips, over one chip"
"""What is drawn besides figures: the dynamic energy on the board of a system of several chips, over
that on a board of one chip, to which the energies are fitted."""
DRAWN_FOR = "alia-point-32"
"""The system whose figures were drawn."""


@lru_cache
def _drawn() -> dict[str, Floats]:
    file = resources.files("mmfree_neuro.systems") / "draws" / "loihi2.json"
    return {name: np.array(values) for name, values in json.loads(file.read_text()).items()}


@lru_cache
def _ranges() -> dict[str, Quantity]:
    """The ranges that figures were drawn from."""
    return figures(load_system(DRAWN_FOR))


def draws_of(system: SystemSpec) -> dict[str, Floats] | None:
    """The figures of a system that time and energy read, drawn together; None where its chips are
    not of the kind that was drawn.

    A figure that has another range than the one that was drawn from keeps its place in it: so does
    the power of another board, and a figure that a user has set to one number is that number.
    """
    known, drawn, have = _ranges(), _drawn(), figures(system)
    chip = [name for name in drawn if name.startswith("chip.")]
    if sum(_range(have[name]) == _range(known[name]) for name in chip) * 2 < len(chip):
        return None
    found = {SHARE: drawn[SHARE]}
    size = len(drawn[SHARE])
    for name, value in have.items():
        if name not in drawn:
            found[name] = np.full(size, value.central)
        elif _range(value) == _range(known[name]):
            found[name] = drawn[name]
        else:
            found[name] = _placed(drawn[name], known[name], value)
    return found


def _range(value: Quantity) -> tuple[float, float]:
    return value.low, value.high


def _placed(drawn: Floats, before: Quantity, now: Quantity) -> Floats:
    """Values at the same places of another range: of logarithms where both have them."""
    if before.low > 0 and now.low > 0:
        share = np.log(drawn / before.low) / np.log(before.high / before.low)
        return np.asarray(now.low * (now.high / now.low) ** share)
    share = (drawn - before.low) / (before.high - before.low)
    return np.asarray(now.low + share * (now.high - now.low))
