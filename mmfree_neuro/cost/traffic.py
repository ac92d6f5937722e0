"""Messages of a run and the way they went in all."""

from dataclasses import dataclass

import numpy as np

from mmfree_neuro.cost.counted import Counted


@dataclass(frozen=True)
class Traffic:
    """Messages of a run and the way they went in all."""

    messages: int
    """One for every core that a payload was delivered to."""
    silent: int
    """Deliveries that were saved because the payload was zero."""
    hops: int
    crossings: int
    between_chips: int
    """One for every other chip, or the host, that a payload was delivered to."""


def traffic(counted: Counted) -> Traffic:
    """The traffic of a phase."""
    mapping, activity, trees = counted.mapping, counted.activity, counted.trees
    sent = activity.messages
    sizes = np.array([route.stop - route.start for route in mapping.routes], np.int64)
    silent = sizes * activity.tokens - sent
    return Traffic(
        int(sent @ trees.deliveries),
        int(silent @ trees.deliveries),
        int(sent @ trees.hops),
        int(sent @ trees.crossings),
        int(sent @ trees.chips_reached),
    )
