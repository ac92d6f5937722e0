"""Places each block on a chip of its own, or on as many as it needs, and the head on the chips
after the last block.

The mapping of arXiv 2503.18002: one block per chip, spread over all usable cores.
"""

from mmfree_neuro.errors import CapacityError
from mmfree_neuro.graph.nodes import Graph, block_of
from mmfree_neuro.mapping.mapping import Shard
from mmfree_neuro.mapping.request import Request
from mmfree_neuro.systems.spec import SystemSpec
from mmfree_partition.chain import filling
from mmfree_partition.chain.chain import Chain
from mmfree_partition.chain.layout import MANY, cores_of, lay_out, parts_of, shares
from mmfree_partition.chain.links import Position
from mmfree_partition.placement import Placement


def place(graph: Graph, system: SystemSpec, request: Request) -> Placement:
    """All cores of the chips of a block in use for about the same time.

    Raises CapacityError where the system has too few chips, or `chips` is not the number that this
    mapping needs.
    """
    chain = Chain(graph, system.chip, request.on_host(graph), dict(request.entries))
    filling.need_room(chain)
    chips: list[list[list[Shard]]] = []
    for start, stop in _blocks(chain):
        chips += _of_block(chain, start, stop, request)
    if request.chips not in (None, len(chips)):
        raise CapacityError(
            f"{graph.name}: one block per chip needs {len(chips)} chips, {request.chips} were "
            "asked for"
        )
    return lay_out(chain, chips, system, request)


def _blocks(chain: Chain) -> list[tuple[Position, Position]]:
    blocks = [block_of(link.node.name) for link in chain.links]
    edges = [k for k in range(1, len(blocks)) if blocks[k] != blocks[k - 1]]
    return [((a, 0), (b, 0)) for a, b in zip([0, *edges], [*edges, len(blocks)], strict=True)]


def _of_block(
    chain: Chain, start: Position, stop: Position, request: Request
) -> list[list[list[Shard]]]:
    """The cores of the fewest chips that hold one block."""
    pieces = chain.pieces(start, stop)
    if held := cores_of(chain, pieces, request):
        return [held]
    filled = filling.fill(chain, pieces, float("inf"), MANY)
    assert filled is not None  # room for every single neuron is known
    chips = -(-len(filled) // request.cores_of(chain.chip))
    cores = filling.evenly(chain, pieces, chips * request.cores_of(chain.chip))
    assert cores is not None
    share = shares(cores, chips)
    if request.spread:
        return [held for part in parts_of(chain, share) if (held := cores_of(chain, part, request))]
    return share
