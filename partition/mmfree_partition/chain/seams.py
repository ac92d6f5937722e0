"""Cuts of the chain across which sums are passed on in parts, so that less crosses.

Where a cut goes through a node whose squares a norm sums, the neurons before the cut add up theirs
and send one sum. Where it goes deep into a node whose output is normed and then read by a narrower
product (the gate before `down_proj`), the chip before the cut also norms its part and does the
product's columns for it, and sends one partial sum a row in place of all that it gated.
`divide.by_columns` makes such a graph; this module says where, and what lies where.
"""

from dataclasses import dataclass
from itertools import pairwise

import numpy as np
from numpy.typing import NDArray

from mmfree_neuro.graph.partial_sums import Columns, sums
from mmfree_neuro.integers.fixedpoint import Ints
from mmfree_neuro.mapping.mapping import Shard
from mmfree_partition.chain import crossing
from mmfree_partition.chain.chain import Chain
from mmfree_partition.chain.links import Piece

TYPICAL = 32
"""Neurons of a shard by which the memory of one is estimated."""


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
    crossed: Ints
    loads: NDArray[
        np.float64
    ]  # [places, 4]: nanoseconds of synapses and of instructions, bytes, synaptic bytes


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
            if all(how == "sum" for _, how in readers):
                self.squares.setdefault(source, []).extend(reader for reader, _ in readers)
            elif (
                len(readers) == 1
                and readers[0][1] == "aligned"
                and (found := self._product(source, readers[0][0]))
            ):
                self.behind[source] = readers[0][0], found

    def _product(self, source: int, norm: int) -> int | None:
        """The only reader of a norm, if it is a product narrower than what the norm reads."""
        if source < 0 or self.chain.links[source].node.size != self.chain.links[norm].node.size:
            return None
        readers = [s.readers for s in self.crossings.streams if s.source == norm]
        if len(readers) != 1 or len(readers[0]) != 1 or readers[0][0][1] != "ternary":
            return None
        product = readers[0][0][0]
        return (
            product
            if self.chain.links[product].node.size < self.chain.links[source].node.size
            else None
        )

    def places(self, grain: int) -> Places:
        """Every place to cut, `grain` neurons apart; none where a cut through the sum of columns is
        better."""
        cuts: list[Cut] = []
        crossed: list[int] = []
        k = 0
        while k < len(self.chain.links):
            size = self.chain.links[k].node.size
            cuts.append(Cut(k, 0))
            crossed.append(crossing.before(self.crossings, k))
            constant, slope = crossing.inside(self.crossings, k, divided=k in self.squares)
            product = self.behind.get(k, (k, k))[1]
            narrow = min(size, self.chain.links[product].node.size // grain * grain)
            inner = [Cut(k, offset) for offset in range(grain, min(size, narrow + 1), grain)]
            if k in self.behind:
                inner += [Cut(k, narrow, columns) for columns in range(grain, narrow + 1, grain)]
                inner += [Cut(k, offset, offset) for offset in range(narrow + grain, size, grain)]
            for cut in inner:
                cuts.append(cut)
                sent = self.chain.links[product].node.size + 1 - cut.columns if cut.columns else 0
                crossed.append(constant + slope * cut.offset + sent)
            k = product + 1
        cuts.append(Cut(len(self.chain.links), 0))
        return Places(cuts, np.array([*crossed, 0], np.int64), self._loads(cuts))

    def _loads(self, cuts: list[Cut]) -> NDArray[np.float64]:
        each, columns = [], np.zeros((len(self.chain.links) + 1, 4))
        for k, link in enumerate(self.chain.links):
            shard = Shard(link.node.name, 0, min(TYPICAL, link.node.size))
            taken = self.chain.footprint(shard)
            each.append(
                (
                    *self.chain.nanoseconds[k],
                    taken.memory / shard.size,
                    taken.synaptic_memory / shard.size,
                )
            )
        one = np.array(each)
        for k, (norm, product) in self.behind.items():
            width = self.chain.links[norm].node.size
            columns[k] = one[norm] + one[product] * self.chain.links[product].node.size / width
        sizes = np.array([link.node.size for link in self.chain.links])
        before = np.vstack([np.zeros(4), (one * sizes[:, None]).cumsum(0)])
        node, offset, done = np.array([(cut.node, cut.offset, cut.columns) for cut in cuts]).T
        inside = np.vstack([one, np.zeros(4)])[node] * offset[:, None]
        loads: NDArray[np.float64] = before[node] + inside + columns[node] * done[:, None]
        return loads

    def columns(self, ends: list[Cut]) -> Columns:
        """Where the sums of the graph are divided for these cuts."""
        found: dict[str, set[int]] = {}
        for cut in ends:
            if cut.offset:
                for reader in self.squares.get(cut.node, ()):
                    found.setdefault(self._name(reader), set()).add(cut.offset)
            if cut.columns:
                found.setdefault(self._name(self.behind[cut.node][1]), set()).add(cut.columns)
        return tuple((name, tuple(sorted(at))) for name, at in sorted(found.items()))

    def _name(self, k: int) -> str:
        return self.chain.links[k].node.name

    def parts(self, ends: list[Cut], divided: Chain) -> list[list[Piece]]:
        """What lies between the cuts, on the chain of the divided graph."""
        at = dict(self.columns(ends))
        found = []
        for a, b in pairwise(ends):
            ranges: dict[str, tuple[int, int]] = {}
            for k, first, last in crossing.with_copies(
                self.crossings, (a.node, a.offset), (b.node, b.offset)
            ):
                normed = a.columns if a.columns and k == self.behind[a.node][0] else first
                ranges[self._name(k)] = normed, last
            if b.columns:
                norm, product = self.behind[b.node]
                ranges[self._name(norm)] = (a.columns if a.node == b.node else 0), b.columns
                ranges |= self._partial(product, at, b.columns)
            if b.offset:
                for reader in self.squares.get(b.node, ()):
                    ranges |= self._partial(reader, at, b.offset)
            pieces = (
                (divided.number[name], first, last)
                for name, (first, last) in ranges.items()
                if first < last
            )
            found.append(sorted(pieces))
        return found

    def _partial(
        self, k: int, at: dict[str, tuple[int, ...]], cut: int
    ) -> dict[str, tuple[int, int]]:
        """The partial sums of a node that end at a cut."""
        node = self.chain.links[k].node
        number = 1 + at[node.name].index(cut)
        return {
            f"{node.name}.{e.port}.part{number}": (0, node.size)
            for e in sums(self.chain.graph, node)
        }
