"""Lays pieces of the chain out on chips and their cores."""

from collections.abc import Sequence

from mmfree_neuro.errors import CapacityError
from mmfree_neuro.mapping.mapping import Location, Shard
from mmfree_neuro.mapping.request import Request
from mmfree_neuro.systems.spec import SystemSpec
from mmfree_partition.chain import filling
from mmfree_partition.chain.chain import Chain
from mmfree_partition.chain.links import Piece
from mmfree_partition.placement import Placement, host_shards

MANY = 1 << 40


def chip_order(system: SystemSpec) -> list[int]:
    """The chips of a system along a line that turns at the ends of rows, so that neighbours are
    linked."""
    columns, rows, chips = (
        int(q.central) for q in (system.chip_columns, system.chip_rows, system.chips)
    )
    order: list[int] = []
    for layer in range(-(-chips // (columns * rows))):
        lines = range(rows) if layer % 2 == 0 else reversed(range(rows))
        for line in lines:
            row = range(columns) if len(order) // columns % 2 == 0 else reversed(range(columns))
            order += [column + columns * (line + rows * layer) for column in row]
    return [chip for chip in order if chip < chips]


def core_order(system: SystemSpec, cores: int) -> list[int]:
    """The first `cores` cores of a chip, router by router and row by row, turning at the ends of
    rows."""
    routers = int(system.chip.mesh_columns.central)
    columns = routers * int(system.chip.cores_per_router.central)
    order = []
    for first in range(0, cores, columns):
        row = list(range(first, min(first + columns, cores)))
        order += row if first // columns % 2 == 0 else row[::-1]
    return order


def cores_of(chain: Chain, pieces: Sequence[Piece], request: Request) -> list[list[Shard]] | None:
    """Pieces on the cores of one chip, as the request wants them; None where they do not fit.

    What has no room spread over all cores fills them one after another.
    """
    if request.spread:
        spread = filling.spread(chain, pieces, request.cores_of(chain.chip))
        if spread is not None:
            return spread
    return filling.evenly(chain, pieces, request.cores_of(chain.chip))


def lay_out(
    chain: Chain, chips: Sequence[Sequence[Sequence[Shard]]], system: SystemSpec, request: Request
) -> Placement:
    """The placement of what every core of every chip holds, chips in the order of `chip_order`."""
    graph = chain.graph
    if len(chips) > int(system.chips.central):
        raise CapacityError(
            f"{graph.name}: the mapping needs {len(chips)} chips, {system.name} has "
            f"{int(system.chips.central)}"
        )
    order = chip_order(system)
    cores = core_order(system, request.cores_of(chain.chip))
    shards, locations = host_shards({node.name: node.size for node in graph.nodes}, chain.host)
    for number, chip in enumerate(chips):
        for position, held in enumerate(chip):
            shards += held
            locations += [Location(order[number], cores[position])] * len(held)
    number_of = {node.name: k for k, node in enumerate(graph.nodes)}
    placed = sorted(
        zip(shards, locations, strict=True), key=lambda one: (number_of[one[0].node], one[0].start)
    )
    return Placement(tuple(shard for shard, _ in placed), tuple(place for _, place in placed))


def on_chips(
    chain: Chain, parts: Sequence[Sequence[Piece]], system: SystemSpec, request: Request
) -> Placement:
    """Pieces on every chip.  Raises CapacityError where some do not fit their chip."""
    chips = []
    for number, pieces in enumerate(parts):
        held = cores_of(chain, pieces, request)
        if held is None:
            names = [chain.links[k].node.name for k, _, _ in pieces]
            raise CapacityError(
                f"{chain.graph.name}: {names[0]} … {names[-1]} do not fit "
                f"{request.cores_of(chain.chip)} cores of chip {number}"
            )
        chips.append(held)
    return lay_out(chain, chips, system, request)


def behind_the_head(chain: Chain) -> frozenset[str]:
    """The nodes of the chain that find the largest logit; none where the head is on the host."""
    head = chain.number.get(chain.graph.head.name, len(chain.links))
    return frozenset(link.node.name for link in chain.links[head + 1 :])


def beside_the_head(chain: Chain, parts: Sequence[Sequence[Piece]]) -> list[list[Piece]]:
    """Parts of what does not stand behind the head, and what does on the chips that hold the head,
    in the same shares.

    So at most two payloads a group cross to the next of these nodes, and not all logits to one
    chip.
    """
    head, found = chain.number[chain.graph.head.name], []
    rows = chain.links[head].node.size
    for part in parts:
        more = [
            share(chain, k, first, last, rows)
            for number, first, last in part
            if number == head
            for k in range(head + 1, len(chain.links))
        ]
        found.append([*part, *(piece for piece in more if piece[1] < piece[2])])
    return found


def share(chain: Chain, k: int, first: int, last: int, parts: int) -> Piece:
    """Of the neurons of node k, divided into so many parts, those of some neighbouring parts."""
    size = chain.links[k].node.size
    return k, size * first // parts, size * last // parts


def chips_for(chain: Chain, system: SystemSpec, request: Request) -> int:
    """How many chips to use.  Raises CapacityError where that many are too few or too many."""
    available = int(system.chips.central)
    filled = filling.fill(chain, chain.whole(), float("inf"), MANY)
    assert filled is not None  # room for every single neuron is known
    least = -(-len(filled) // request.cores_of(chain.chip))
    chips = request.chips or least
    if least > min(chips, available):
        first = filled[min(chips, available) * request.cores_of(chain.chip)][0].node
        limit = f"{chips} were asked for" if request.chips else f"{system.name} has {available}"
        raise CapacityError(
            f"{first}: does not fit behind what comes before it: all nodes need {least} chips "
            f"of {request.cores_of(chain.chip)} "
            f"cores, {limit}"
        )
    neurons = sum(link.node.size for link in chain.links)
    if neurons < chips:
        raise CapacityError(
            f"{chain.graph.name}: {neurons} neurons are too few to use {chips} chips"
        )
    return chips


def shares(cores: list[list[Shard]], chips: int) -> list[list[list[Shard]]]:
    """What cores hold, in order, as even shares of that many chips, none of them empty."""
    cores = list(cores)
    while len(cores) < chips:
        largest = max(range(len(cores)), key=lambda k: sum(shard.size for shard in cores[k]))
        cores[largest : largest + 1] = _halves(cores[largest])
    return [cores[len(cores) * k // chips : len(cores) * (k + 1) // chips] for k in range(chips)]


def _halves(core: list[Shard]) -> tuple[list[Shard], list[Shard]]:
    """A core of at least two neurons as two, the first with half of them."""
    left = sum(shard.size for shard in core) // 2
    first, second = list[Shard](), list[Shard]()
    for shard in core:
        cut = min(shard.start + left, shard.stop)
        left -= cut - shard.start
        first += [Shard(shard.node, shard.start, cut)] if shard.start < cut else []
        second += [Shard(shard.node, cut, shard.stop)] if cut < shard.stop else []
    return first, second


def parts_of(chain: Chain, share: list[list[list[Shard]]]) -> list[list[Piece]]:
    """The pieces that the shares of chips are made of."""
    parts = []
    for chip in share:
        pieces: list[Piece] = []
        for shard in (shard for core in chip for shard in core):
            k = chain.number[shard.node]
            if pieces and pieces[-1][0] == k:
                pieces[-1] = k, pieces[-1][1], shard.stop
            else:
                pieces.append((k, shard.start, shard.stop))
        parts.append(pieces)
    return parts
