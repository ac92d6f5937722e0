"""Cuts of the chain across which sums are passed on in parts, so that less crosses.

Where a cut goes through a node whose squares a norm sums, the neurons before the cut add up theirs
and send one sum. Where it goes deep into a node whose output is normed and then read by a narrower
product (the gate before `down_proj`), the chip before the cut also norms its part and does the
product's columns for it, and sends one partial sum a row in place of all that it gated.
`partial_sums.by_columns` makes such a graph; this module says where, and what lies where.
"""

import math
from dataclasses import dataclass
from itertools import pairwise

import numpy as np
from numpy.typing import NDArray

from mmfree_neuro.graph.partial_sums import Columns, sums, widest_part
from mmfree_neuro.integers.fixedpoint import Ints
from mmfree_neuro.mapping.footprint import GROWING, NOTHING
from mmfree_neuro.mapping.mapping import Shard
from mmfree_partition.chain import crossing
from mmfree_partition.chain.chain import Chain
from mmfree_partition.chain.filling import fitting
from mmfree_partition.chain.links import Piece


@dataclass(frozen=True, order=True)
class Cut:
    """A place to cut: before a neuron of a node; so many columns of the product behind that node
    are done before it."""

    node: int
    offset: int
    columns: int = 0


@dataclass(frozen=True, eq=False)
class Places:
    """Where the chain can be cut, in order and with both ends: what crosses, and what lies
    before."""

    cuts: list[Cut]
    crossed: Ints  # [places]
    loads: NDArray[np.float64]  # [places, 2 + limits]
    """Nanoseconds of synapses, nanoseconds of instructions, and for each of `limits` how much."""
    limits: tuple[str, ...]
    """What a core has so much of, and no more."""


class Seams:
    """The sums of a chain that cuts can divide."""

    def __init__(self, chain: Chain, *, divide: bool) -> None:
        self.chain = chain
        self.crossings = crossing.crossings_of(chain)
        self.squares: dict[int, list[int]] = {}
        """For a node, those that sum one of its outputs."""
        self.behind: dict[int, tuple[int, int]] = {}
        """For a node, the norm and the narrower product behind it."""
        for stream in self.crossings.streams if divide else ():
            source, readers = stream.source, stream.readers
            if all(how == "sum" and self._is_one(reader) for reader, how in readers):
                if not all(self._carried(reader) for reader, _ in readers):
                    continue
                summing = self.squares.setdefault(source, [])  # two digits have the same readers
                summing.extend(reader for reader, _ in readers if reader not in summing)
            elif (
                len(readers) == 1
                and readers[0][1] == "aligned"
                and (product := self._product(source, readers[0][0]))
            ):
                self.behind[source] = readers[0][0], product

    def _is_one(self, k: int) -> bool:
        """Whether a node has one neuron; where many sum the same squares, each has them sent."""
        return self.chain.links[k].node.size == 1

    def _carried(self, k: int) -> bool:
        """Whether the chip's messages can carry partial sums of a node."""
        bits = widest_part(self.chain.graph, self.chain.links[k].node)
        return bits <= self.chain.chip.payload_bits.central

    def _product(self, source: int, norm: int) -> int | None:
        """The only reader of a norm, if it is a product narrower than what the norm reads."""
        if source < 0 or self.chain.links[source].node.size != self.chain.links[norm].node.size:
            return None
        readers = [s.readers for s in self.crossings.streams if s.source == norm]
        if len(readers) != 1 or len(readers[0]) != 1 or readers[0][0][1] != "ternary":
            return None
        product = readers[0][0][0]
        narrow = self.chain.links[product].node.size < self.chain.links[source].node.size
        return product if narrow and self._carried(product) else None

    def places(self, grain: int, most_ns: float = math.inf) -> Places:
        """Every place to cut, `grain` neurons apart; none where a cut through the sum of columns is
        better.  No core may take longer than `most_ns`.

        In the published 370M model, a gate of 2816 neurons is normed and read by a `down_proj` of
        1024 rows.  Across a cut inside it go 1026 payloads (the residual stream, a root, the sum of
        the first squares), and for each neuron before the cut what it gated:

        - before neuron 512, no column done: 1026 + 512;
        - before neuron 1024, 512 columns done: 1026 + 1024 - 512 gated values not yet used, 1024
          partial sums, and the root of all squares, which comes back: 2563;
        - before neuron 2048, 2048 columns done: 1026 + 1024 + 1, as before any behind 1024.

        Where the root comes after the product it does not come back: one payload less.

        Without columns, the last would be 1026 + 2048.  So up to as many neurons as the product has
        rows no column is done, there the columns catch up, and behind that they keep step.  Where
        they have caught up, a cut costs less than any inside the norm and the product, which
        therefore have none.
        """
        cuts: list[Cut] = []
        crossed: list[int] = []
        k = 0
        while k < len(self.chain.links):
            size = self.chain.links[k].node.size
            cuts.append(Cut(k, 0))
            crossed.append(crossing.before(self.crossings, k))
            constant, slope = crossing.inside(self.crossings, k, divided=k in self.squares)
            norm, product = self.behind.get(k, (k, k))
            rows = self.chain.links[product].node.size
            narrow = min(size, rows // grain * grain)
            inner = [Cut(k, offset) for offset in range(grain, min(size, narrow + 1), grain)]
            if k in self.behind:
                inner += [Cut(k, narrow, columns) for columns in range(grain, narrow + 1, grain)]
                inner += [Cut(k, offset, offset) for offset in range(narrow + grain, size, grain)]
            # A norm with a root has it come back; gains alone need none.
            roots = sum(e.how == "broadcast" for e in self.chain.links[norm].node.inputs)
            for cut in inner:
                cuts.append(cut)
                more = rows + roots - cut.columns if cut.columns else 0
                crossed.append(constant + slope * cut.offset + more)
            k = product + 1
        cuts.append(Cut(len(self.chain.links), 0))
        limits = tuple(name for name in GROWING if self.chain.room[name] is not None)
        loads = self._loads(cuts, most_ns, limits)
        return Places(cuts, np.array([*crossed, 0], np.int64), loads, limits)

    def _loads(
        self, cuts: list[Cut], most_ns: float, limits: tuple[str, ...]
    ) -> NDArray[np.float64]:
        """What lies before each cut, as `Places` has it: whole nodes, neurons of the node that is
        cut, and columns; neurons as if they lay on cores that hold as many of them as they can."""
        each = []
        for k, link in enumerate(self.chain.links):
            count = fitting(self.chain, k, 0, link.node.size, NOTHING, (most_ns, most_ns))
            shard = Shard(link.node.name, 0, max(1, count))
            taken = self.chain.sizes.of(shard).all
            amounts = (getattr(taken, name) / shard.size for name in limits)
            each.append((*self.chain.nanoseconds[k], *amounts))
        one = np.array(each)
        # A column is a neuron of the norm, and of every row of the product one weight in `width`.
        column = np.zeros((len(self.chain.links) + 1, one.shape[1]))
        for k, (norm, product) in self.behind.items():
            width = self.chain.links[norm].node.size
            column[k] = one[norm] + one[product] * self.chain.links[product].node.size / width
        sizes = np.array([link.node.size for link in self.chain.links])
        before = np.vstack([np.zeros(one.shape[1]), (one * sizes[:, None]).cumsum(0)])
        node, offset, done = np.array([(cut.node, cut.offset, cut.columns) for cut in cuts]).T
        inside = np.vstack([one, np.zeros(one.shape[1])])[node] * offset[:, None]
        loads: NDArray[np.float64] = before[node] + inside + column[node] * done[:, None]
        return loads

    def columns(self, ends: list[Cut]) -> Columns:
        """Where the sums of the graph are divided for these cuts."""
        columns: dict[str, set[int]] = {}
        for cut in ends:
            if cut.offset:
                for reader in self.squares.get(cut.node, ()):
                    columns.setdefault(self._name(reader), set()).add(cut.offset)
            if cut.columns:
                columns.setdefault(self._name(self.behind[cut.node][1]), set()).add(cut.columns)
        return tuple((name, tuple(sorted(before))) for name, before in sorted(columns.items()))

    def _name(self, k: int) -> str:
        return self.chain.links[k].node.name

    def parts(self, ends: list[Cut], divided: Chain) -> list[list[Piece]]:
        """What lies between the cuts, on the chain of the divided graph.

        A part that ends inside a gate takes columns from behind its end: neurons of the norm and
        a partial sum of every row.  The next part goes on with the columns behind those.
        """
        columns = dict(self.columns(ends))
        parts = []
        for start, stop in pairwise(ends):
            ranges: dict[str, tuple[int, int]] = {}
            pieces = crossing.with_copies(
                self.crossings, (start.node, start.offset), (stop.node, stop.offset)
            )
            for k, first, last in pieces:
                done_before = start.columns > 0 and k == self.behind[start.node][0]
                ranges[self._name(k)] = (start.columns if done_before else first), last
            if stop.columns:
                norm, product = self.behind[stop.node]
                first = start.columns if start.node == stop.node else 0
                ranges[self._name(norm)] = first, stop.columns
                ranges |= self._partial(product, columns, stop.columns)
            # A part that only does columns has no squares of its own to add up.
            if stop.offset and (start.node, start.offset) != (stop.node, stop.offset):
                for reader in self.squares.get(stop.node, ()):
                    ranges |= self._partial(reader, columns, stop.offset)
            on_divided = (
                (divided.number[name], first, last)
                for name, (first, last) in ranges.items()
                if first < last
            )
            parts.append(sorted(on_divided))
        return parts

    def _partial(
        self, k: int, columns: dict[str, tuple[int, ...]], cut: int
    ) -> dict[str, tuple[int, int]]:
        """The partial sums of a node that end at a cut."""
        node = self.chain.links[k].node
        number = 1 + columns[node.name].index(cut)
        return {
            f"{node.name}.{e.port}.part{number}": (0, node.size)
            for e in sums(self.chain.graph, node)
        }
