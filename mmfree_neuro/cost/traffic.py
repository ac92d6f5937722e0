"""Messages of a run and the way they went in all."""

from dataclasses import dataclass

import numpy as np

from mmfree_neuro.mapping.mapping import Mapping
from mmfree_neuro.mapping.trees import Ways
from mmfree_neuro.run.activity import Activity


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


def traffic(mapping: Mapping, activity: Activity, found: Ways) -> Traffic:
    """The traffic of a run; `found` as `ways` finds it."""
    sent = activity.messages
    sizes = np.array([route.stop - route.start for route in mapping.routes], np.int64)
    silent = sizes * activity.tokens - sent
    return Traffic(
        int(sent @ found.deliveries),
        int(silent @ found.deliveries),
        int(sent @ found.hops),
        int(sent @ found.crossings),
        int(sent @ found.chips_reached),
    )
