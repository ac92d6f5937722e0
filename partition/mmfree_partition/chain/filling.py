"""Cores filled with neighbouring pieces, as evenly as a limit of time allows."""

from mmfree_neuro.errors import CapacityError
from mmfree_neuro.mapping.mapping import Shard
from mmfree_partition.chain.chain import Chain


def need_room(chain: Chain) -> None:
    """CapacityError where not even one neuron of a node fits an empty core."""
    for link in chain.links:
        footprint_ = chain.footprint(Shard(link.node.name, 0, 1))
        if over := footprint_.over(chain.room):
            name, need, limit = over
            raise CapacityError(
                f"{link.node.name}: one neuron needs {need} of {name}, a core of "
                f"{chain.chip.name} has {limit}"
            )
