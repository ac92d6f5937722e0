"""What crosses a cut of the chain, and what lies behind one in copies so that less does."""

from collections.abc import Sequence
from dataclasses import dataclass

from mmfree_neuro.graph.nodes import AnyNode
from mmfree_partition.chain.chain import Chain
from mmfree_partition.chain.links import Piece, Position

Reader = tuple[int, str]
"""A node, counted along the chain, and how it reads."""


@dataclass(frozen=True)
class Stream:
    """The payloads of one output, and who reads them."""

    source: int
    """The node that sends them, counted along the chain; -1 for one on the host."""
    size: int
    readers: tuple[Reader, ...]


@dataclass(frozen=True, eq=False)
class Crossings:
    """What decides what crosses the cuts of a chain."""

    chain: Chain
    streams: tuple[Stream, ...]
    copies: tuple[frozenset[int], ...]
    """For each node, those that a part which begins inside it holds copies of."""


def crossings_of(chain: Chain) -> Crossings:
    """The streams of a chain and the copies that pay, found once for all of its cuts."""
    streams = streams_of(chain)
    copies = (_copies(chain, streams, k) for k in range(len(chain.links)))
    return Crossings(chain, streams, tuple(copies))


def streams_of(chain: Chain) -> tuple[Stream, ...]:
    """Every output that a node of the chain reads."""
    read: dict[tuple[str, str], list[Reader]] = {}
    for k, link in enumerate(chain.links):
        for entry in link.node.inputs:
            read.setdefault((entry.source, entry.source_port), []).append((k, entry.how))
    return tuple(
        Stream(chain.number.get(name, -1), chain.graph.node(name).output(port).size, tuple(readers))
        for (name, port), readers in read.items()
    )


def copyable(node: AnyNode) -> bool:
    """Whether several cores may hold the same neurons of a node: those without weights and without
    state."""
    weights = any(entry.how == "ternary" for entry in node.inputs)
    return bool(node.inputs) and node.state_type is None and not weights


def _copies(chain: Chain, streams: Sequence[Stream], k: int) -> frozenset[int]:
    """The nodes to be copied for a cut inside node k; none where fewer payloads cross without.

    Say that a recurrence of 1024 neurons is cut, which reads three formats of 1024 values from the
    norm in front of it.  Without copies these 3072 payloads cross, beside the residual stream.  A
    copy of the norm makes them behind the cut from that stream, which crosses anyway, and from one
    root: 1025 payloads in place of 4097.
    """
    sources = {
        chain.number.get(entry.source, -1)
        for entry in chain.links[k].node.inputs
        if entry.how == "ternary"
    }
    copies = frozenset(
        source for source in sources if source >= 0 and copyable(chain.links[source].node)
    )
    plain, _ = _crossing(streams, k, frozenset())
    copied, _ = _crossing(streams, k, copies)
    return copies if copied < plain else frozenset()


def _crossing(
    streams: Sequence[Stream], k: int, copied: frozenset[int], *, divided: bool = False
) -> tuple[int, int]:
    """Payloads that cross a cut inside node k: a constant, and how many more for each neuron
    before the cut.

    Behind the cut are copies of the nodes `copied`, which need what these read in place of what
    they send.  Where sums are divided, what node k sends to them crosses as one sum.

    Say that an `o_proj` of 1024 neurons is cut before neuron m, and nothing is copied.  It reads
    1024 values of a norm, and every neuron behind the cut needs them all: 1024.  To its rows it
    adds the residual stream, of which each neuron needs its own value: 1024 - m.  The neurons
    before the cut send their value and its square to nodes behind it: 2 m.  The next root learns
    from the last one that there is a token: 1.  Together (2049, 1); or (2050, 0) where the squares
    are added up before the cut.
    """
    constant = 0
    slope = 0
    for stream in streams:
        # A copy stands behind the cut and sends from there; what it reads has to come.
        sent_here = stream.source not in copied
        behind = [(r, how) for r, how in stream.readers if r >= k and sent_here]
        for_copies = any(r in copied for r, _ in stream.readers)
        # What the host sends does not count, and what is sent behind the cut does not cross it.
        if not 0 <= stream.source <= k or not (behind or for_copies):
            continue
        if stream.source == k and divided and all(how == "sum" for _, how in behind):
            constant += 1
        elif stream.source == k:
            slope += 1
        elif for_copies or any(r > k or how != "aligned" for r, how in behind):
            constant += stream.size
        else:
            # Only node k reads it, neuron by neuron, so the cut divides it as it divides the node.
            constant += stream.size
            slope -= 1
    return constant, slope


def before(crossings: Crossings, k: int) -> int:
    """Payloads that cross a cut in front of node k."""
    return sum(
        stream.size
        for stream in crossings.streams
        if 0 <= stream.source < k <= max(reader for reader, _ in stream.readers)
    )


def inside(crossings: Crossings, k: int, *, divided: bool, copying: bool = True) -> tuple[int, int]:
    """What crosses a cut inside node k, as a constant and how much more for each neuron before
    the cut; behind it are the copies that pay, unless there are none."""
    copies = crossings.copies[k] if copying else frozenset[int]()
    return _crossing(crossings.streams, k, copies, divided=divided)


def copied(crossings: Crossings, start: Position) -> list[int]:
    """The nodes of which a part that begins there holds copies."""
    return sorted(crossings.copies[start[0]]) if start[1] else []


def with_copies(crossings: Crossings, start: Position, stop: Position) -> list[Piece]:
    """What a chip holds that has a part: its neurons, and copies where it begins inside a node
    and they pay."""
    links = crossings.chain.links
    copies = copied(crossings, start) if start < stop else []
    return [*((k, 0, links[k].node.size) for k in copies), *crossings.chain.pieces(start, stop)]
