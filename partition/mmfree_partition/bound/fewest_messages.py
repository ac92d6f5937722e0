"""The least that mappings by rows alone send from chip to chip, whatever places them: a bound by
linear programming.

Take a block half: a product D, which reads the residual stream x (H values) and makes n values v,
and the product E behind it, which reads all v and makes the next x.  Say that a chip holds the
share d of D's rows and e of E's.  Then, whatever else it holds, it receives

- H · (1 - e') payloads where d > 0: all of x, as itself or as what a norm made it from, but for the
  share e' of it that the chip makes itself, as it holds that share of the E before; nothing where x
  comes from the host;
- n · (1 - d) payloads where e > 0: all of v but for its own; and H · e of x where it holds neither
  D nor the E before.

So every chip has a cost of its own, which what it holds determines, and the mapping's messages are
at least the sum. No chip can hold more than its cores serve in the time of the slowest.  What chips
could hold at all, packed so that together they hold the whole, makes a linear program over all
possible contents, whose value is the bound.  Its duals price contents; the best content at given
prices is found by dynamic programming (for a fixed set of positive shares the cost is linear, so
all shares but one are 0 or 1), and any prices at all give a bound that holds, so nothing depends on
the program having been solved to the end.  Loads are rounded in favour of the bound's opponents.
"""

from dataclasses import dataclass
from itertools import pairwise

import numpy as np
from numpy.typing import NDArray

from mmfree_partition.bound.simplex import cheapest
from mmfree_partition.chain.chain import Chain

FINENESS = 40
"""Into how many steps the smallest product is divided, at least while a chip has no more than
MOST_STEPS."""
MOST_STEPS = 300
ROUNDS = 60
STEADINESS = 0.8
"""How much of the prices in each round is those of the best bound so far: prices of the program
alone jump about, and take more rounds."""
DEAR = 1e6
"""What it costs the program to leave a product unpacked, until it has contents for it."""
NEVER = -1e18

Floats = NDArray[np.float64]


@dataclass(frozen=True)
class Item:
    """One kind of product: what it takes of a chip, what a chip receives to begin with it, and what
    E needs of v."""

    load: float
    begins: int
    values: int
    """Payloads of what it reads, of which a chip that holds a share of the product before makes
    that share."""
    residual: bool
    """Whether it adds to the residual stream."""


def fewest_messages(chain: Chain, chips: int, room: float) -> int:
    """The least payloads a token from chip to chip, on that many chips that each take a load of
    `room` at most."""
    sequence = _items(chain)
    if chips == 1 or sum(item.load for item in sequence) <= room:
        return 0
    kinds = list(dict.fromkeys(sequence))
    number = [kinds.index(item) for item in sequence]
    pricing = _Pricing(kinds, sorted(set(pairwise(number))), room)
    if not pricing.possible:
        return 0
    count = np.bincount(number, minlength=len(kinds)).astype(float)
    # The first columns leave a product unpacked: dear, but on no chip, so that there is a solution.
    # The one behind them leaves a chip empty.
    columns = np.eye(len(kinds) + 1)
    costs = np.append(np.full(len(kinds), DEAR), 0.0)
    limits, basis = np.append(count, chips), np.arange(len(kinds) + 1)
    bound, best_prices = 0.0, np.zeros(len(kinds))
    for _ in range(ROUNDS):
        prices_of_all, basis = cheapest(columns, costs, limits, basis)
        prices = STEADINESS * best_prices + (1 - STEADINESS) * prices_of_all[:-1]
        gain, content, cost = pricing.best(prices)
        # At any prices, what a chip holds is worth no more than its messages and `gain`.  All chips
        # together hold all products, which bounds the messages of all.
        found = float(prices @ count) - chips * gain
        if found > bound:
            bound, best_prices = found, prices
        if bound >= float(prices_of_all @ limits) - 1e-3:  # the cheapest packing is that cheap
            break
        columns = np.column_stack([columns, np.append(content, 1.0)])
        costs = np.append(costs, cost)
    return int(np.ceil(bound - 1e-3))


def _items(chain: Chain) -> list[Item]:
    """The products of a chain in order, those that were divided by columns as one."""
    owner: dict[str, str] = {}
    for link in reversed(chain.links):
        for entry in link.node.inputs:
            if chain.graph.node(entry.source).passes_on:
                owner[entry.source] = owner.get(link.node.name, link.node.name)
    loads: dict[str, float] = {}
    for link, times in zip(chain.links, chain.nanoseconds, strict=True):
        if any(entry.matrix is not None for entry in link.node.inputs):
            name = owner.get(link.node.name, link.node.name)
            loads[name] = loads.get(name, 0.0) + link.node.size * times[0]
    items: list[Item] = []
    for name, load in loads.items():
        node = chain.graph.node(name)
        source = next(entry for entry in node.inputs if entry.matrix is not None)
        width = chain.graph.node(source.source).output(source.source_port).size
        residual = any(e.how == "aligned" and len(node.ports[e.port]) == 1 for e in node.inputs)
        stream = node.size if residual and len(items) > 1 else 0
        items.append(Item(load, width + stream if items else 0, width, residual))
    return items


class _Pricing:
    """The best that a chip can hold at given prices.

    A content is made of runs of products that follow each other.  A run pays for what its first
    product reads, goes on to the next product for nothing, and may pass over a product between two
    that both add to the stream, for the values that the second reads.  One product of all may be
    held in part.  A table over the load finds the best, a product at a time, as for a knapsack.

    Say that H is 4 and n is 6; D takes 40 of a chip's 100 and E takes 80; to begin with D costs 4,
    and to begin with E costs 6 + 4.  At prices of 6 and 12:

    - all of D and three quarters of E gain 6 + 9 - 4 = 11, the best;
    - half of D and all of E gain 3 + 12 - 4 - 6 / 2 = 8, as the other half of v has to come;
    - all of E alone gains 12 - 10 = 2.
    """

    def __init__(self, kinds: list[Item], follow: list[tuple[int, int]], room: float) -> None:
        self.kinds = kinds
        self.after = [[b for a, b in follow if a == k] for k in range(len(kinds))]
        self.skipping = [
            [
                c
                for b in self.after[k]
                for c in self.after[b]
                if kinds[c].residual and kinds[k].residual
            ]
            for k in range(len(kinds))
        ]
        self.nexts = [a + b for a, b in zip(self.after, self.skipping, strict=True)]
        self.nexts.append(list(range(len(kinds))))
        step = max(min(item.load for item in kinds) / FINENESS, room / MOST_STEPS)
        self.steps = [int(item.load / step) for item in kinds]
        self.room = int(np.ceil(room / step)) if step else 0
        self.possible = room > 0 and min(self.steps) > 0

    def best(self, prices: Floats) -> tuple[float, Floats, float]:
        """What is gained at most, price less cost, by a content; that content and its cost."""
        count = len(self.kinds)
        # values[used, state, load] is the most that is gained: whether a product is held in part,
        # the kind that the run has reached (`count` for no run), and steps of load.  origin says
        # how: the used, state and load before, the kind that was put in, how many of its steps, and
        # the kind put in whole behind a part, or -1.
        values = np.full((2, count + 1, self.room + 1), NEVER)
        origin = np.zeros((2, count + 1, self.room + 1, 6), np.int64)
        values[0, count, 0] = 0.0
        most = np.full((2, count + 1), NEVER / 2)  # with a smaller load, or without a part
        for load in range(self.room + 1):
            for used in (0, 1):
                # A run may end anywhere, and nothing is paid for that.
                ended = int(values[used, :count, load].argmax())
                if values[used, ended, load] > values[used, count, load]:
                    values[used, count, load] = values[used, ended, load]
                    origin[used, count, load] = origin[used, ended, load]
                # What gains no more than less does cannot lead to more either.
                for state in np.flatnonzero(values[used, :, load] > most[used]).tolist():
                    most[used:, state] = values[used, state, load]
                    self._extend(values, origin, prices, used, state, load)
        return self._read(values, origin)

    def _extend(
        self,
        values: Floats,
        origin: NDArray[np.int64],
        prices: Floats,
        used: int,
        state: int,
        load: int,
    ) -> None:
        """All ways to put one more product, or a share of one and the whole of the next, into a
        chip."""
        value = values[used, state, load]
        for kind in self.nexts[state]:
            steps = self.steps[kind]
            begins = self._begins(state, kind)
            if load + steps <= self.room:
                gained = value + prices[kind] - begins
                if gained > values[used, kind, load + steps]:
                    values[used, kind, load + steps] = gained
                    origin[used, kind, load + steps] = used, state, load, kind, steps, -1
            if used:
                continue
            # A part ends its run, unless all of the next product follows, which then lacks values.
            shares = np.arange(1, steps)
            gained = value + prices[kind] * shares / steps - begins
            self._put(
                values, origin, gained, (state, load, kind, -1), len(self.kinds), load + shares
            )
            for behind in (*self.after[kind], *self.skipping[kind]):
                missing = self._missing(kind, behind, shares / steps)
                both = gained + prices[behind] - missing
                self._put(
                    values,
                    origin,
                    both,
                    (state, load, kind, behind),
                    behind,
                    load + shares + self.steps[behind],
                )

    def _begins(self, state: int, kind: int) -> int:
        """What a chip receives to go on with a product after what it holds."""
        if state == len(self.kinds):
            return self.kinds[kind].begins
        return 0 if kind in self.after[state] else self.kinds[kind].values

    def _missing(self, kind: int, behind: int, share: Floats) -> Floats:
        """What it receives for a whole product when it holds a share of one before it."""
        values = self.kinds[behind].values
        return values * (1 - share) if behind in self.after[kind] else values + 0 * share

    def _put(
        self,
        values: Floats,
        origin: NDArray[np.int64],
        gained: Floats,
        way: tuple[int, int, int, int],
        state: int,
        loads: NDArray[np.int64],
    ) -> None:
        """Keep what is better than what was known at these loads, one for each share."""
        inside = loads <= self.room
        loads = loads[inside]
        gained = gained[inside]
        better = gained > values[1, state, loads]
        if not better.any():
            return
        where = loads[better]
        values[1, state, where] = gained[better]
        before, load, kind, behind = way
        origin[1, state, where, :4] = 0, before, load, kind
        origin[1, state, where, 4] = (np.flatnonzero(inside) + 1)[better]
        origin[1, state, where, 5] = behind

    def _read(self, values: Floats, origin: NDArray[np.int64]) -> tuple[float, Floats, float]:
        """The best of the table, followed back to an empty chip."""
        used, state, load = (int(k) for k in np.unravel_index(values.argmax(), values.shape))
        gain = float(values[used, state, load])
        content = np.zeros(len(self.kinds))
        cost = 0.0
        while load:
            before, from_state, from_load, kind, share, behind = origin[used, state, load].tolist()
            content[kind] += share / self.steps[kind]
            cost += self._begins(from_state, kind)
            if behind >= 0:
                content[behind] += 1
                cost += float(self._missing(kind, behind, np.array(share / self.steps[kind])))
            used, state, load = before, from_state, from_load
        return gain, content, cost
