"""Minimises the slowest core: the chain is cut into one part for every core, all equally slow as
far as may be."""

from contextlib import suppress

from mmfree_neuro.errors import CapacityError
from mmfree_neuro.graph.nodes import Graph
from mmfree_neuro.mapping.mapping import Shard
from mmfree_neuro.mapping.request import Request
from mmfree_neuro.systems.spec import SystemSpec
from mmfree_partition.chain import filling
from mmfree_partition.chain.chain import Chain
from mmfree_partition.chain.layout import (
    behind_the_head,
    beside_the_head,
    chips_for,
    lay_out,
    on_chips,
    parts_of,
    shares,
)
from mmfree_partition.placement import Placement


def place(graph: Graph, system: SystemSpec, request: Request) -> Placement:
    """Every core in use for about the same time, whatever crosses between chips.

    Raises CapacityError where the system has too little room.
    """
    chain = Chain(graph, system.chip, request.on_host(graph), dict(request.entries))
    filling.need_room(chain)
    chips = chips_for(chain, system, request)
    if (behind := behind_the_head(chain)) and (before := chain.without(behind)).neurons >= chips:
        parts = parts_of(before, _shares(before, chips, request))
        with suppress(CapacityError):
            return on_chips(chain, beside_the_head(chain, parts), system, request)
    share = _shares(chain, chips, request)
    if request.spread:
        return on_chips(chain, parts_of(chain, share), system, request)
    return lay_out(chain, share, system, request)


def _shares(chain: Chain, chips: int, request: Request) -> list[list[list[Shard]]]:
    """What evenly filled cores hold, in even shares of the chips."""
    cores = filling.evenly(chain, chain.whole(), chips * request.cores_of(chain.chip))
    assert cores is not None
    return shares(cores, chips)
