"""What the tiles of a run count and keep, in flat vectors that they can share or send.

Every stretch owns its part of each vector, and copies of others own none, so tiles never write to
the same place.
"""

from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass, field
from typing import Any

import numpy as np

from mmfree_neuro.graph.nodes import Graph
from mmfree_neuro.integers.fixedpoint import Ints
from mmfree_sims.counts import Layout
from mmfree_sims.neurons import forget
from mmfree_sims.tiles.packets import FLAGS, GENERATED, SEQUENCE, SLOT
from mmfree_sims.tiles.plan import Stretch

Allocate = Callable[[tuple[int, ...], Any], Any]


@dataclass(frozen=True, eq=False)
class Tallies:
    """Counts of all neurons, for each sequence a row for prefill and one for generation, and their
    recurrent states."""

    layout: Layout
    offsets: dict[str, int]
    """Where a recurrent node begins among the neurons."""
    events: Ints  # [2 · sequences, events], as `Layout` says
    saturated: Ints  # [2 · sequences, neurons]
    wrapped: Ints  # [2 · sequences, neurons]
    states: Ints  # [slots, recurrent neurons]

    def add(self, stretch: Stretch, row: int, program: Any, slot: int) -> tuple[int, int]:
        """Add what a stretch counted in a slot since it was last asked, unless it is a copy.

        Returns how many non-zero payloads it has sent since, and how many values it has saturated.
        """
        counted = (
            sum(int(events[slot].sum()) for events in program.events.values()),
            int(program.saturated[slot].sum()),
        )
        if stretch.primary:
            at = self.layout.saturated[stretch.node] + stretch.start
            self.saturated[row, at : at + stretch.size] += program.saturated[slot]
            self.wrapped[row, at : at + stretch.size] += program.wrapped[slot]
            for port, events in program.events.items():
                at = self.layout.events[stretch.node, port] + stretch.start
                self.events[row, at : at + stretch.size] += events[slot]
        forget(program, slot)
        return counted

    def state_of(self, stretch: Stretch) -> Ints:
        """The states [slots, neurons] of a stretch, to read or to write."""
        at = self.offsets[stretch.node] + stretch.start
        return self.states[:, at : at + stretch.size]

    def copy_to(
        self, other: "Tallies", stretch: Stretch, ports: Iterable[str], rows: Sequence[int]
    ) -> None:
        """Copy what belongs to a stretch and its outputs in some rows, and its states; nothing
        belongs to a copy."""
        if not stretch.primary:
            return
        at = self.layout.saturated[stretch.node] + stretch.start
        for row in rows:
            other.saturated[row, at : at + stretch.size] = self.saturated[
                row, at : at + stretch.size
            ]
            other.wrapped[row, at : at + stretch.size] = self.wrapped[row, at : at + stretch.size]
        for port in ports:
            at = self.layout.events[stretch.node, port] + stretch.start
            for row in rows:
                other.events[row, at : at + stretch.size] = self.events[row, at : at + stretch.size]
        if stretch.node in self.offsets:
            other.state_of(stretch)[:] = self.state_of(stretch)

    def states_by_node(self, graph: Graph) -> dict[str, Ints]:
        """A copy of all states [slots, neurons], by node."""
        return {
            name: self.states[:, at : at + graph.node(name).size].copy()
            for name, at in self.offsets.items()
        }

    def load_states(self, states: dict[str, Ints]) -> None:
        """Set all states."""
        for name, at in self.offsets.items():
            self.states[:, at : at + states[name].shape[1]] = states[name]


def private(shape: tuple[int, ...], dtype: Any) -> Any:
    """Memory of this process."""
    return np.zeros(shape, dtype)


def allocate(graph: Graph, sequences: int, memory: Allocate = private) -> Tallies:
    """An empty tallies for a graph and so many sequences."""
    layout, offsets, end = Layout(graph), {}, 0
    for node in graph.nodes:
        if node.state_type is not None:
            offsets[node.name] = end
            end += node.size
    return Tallies(
        layout,
        offsets,
        memory((2 * sequences, layout.events_size), np.int64),
        memory((2 * sequences, layout.saturated_size), np.int64),
        memory((2 * sequences, layout.saturated_size), np.int64),
        memory((graph.slots, end), np.int64),
    )


@dataclass(eq=False)
class Ledger:
    """Whose the counts are that the neurons of a stretch hold in each slot."""

    tallies: Tallies
    stretch: Stretch
    program: Any
    rows: dict[int, int] = field(default_factory=dict)
    """The row of the tallies by slot."""
    counted: Ints = field(default_factory=lambda: np.zeros(2, np.int64))
    """Non-zero payloads sent and values saturated, up to the last `settle`."""
    changed: set[int] = field(default_factory=set)
    """The rows in which more was put down since states were last kept."""

    def begin(self, labels: list[list[int]]) -> None:
        """Tokens with these labels come next; what was counted for others in their slots is put
        down."""
        for label in labels:
            slot, row = label[SLOT], 2 * label[SEQUENCE] + (label[FLAGS] & GENERATED)
            if self.rows.get(slot, row) != row:
                self.put_down(slot)
            self.rows[slot] = row

    def put_down(self, slot: int) -> None:
        """Move what was counted in a slot to the tallies."""
        row = self.rows[slot]
        self.counted += self.tallies.add(self.stretch, row, self.program, slot)
        self.changed.add(row)

    def settle(self) -> None:
        """Move everything that was counted to the tallies, and the states."""
        for slot in self.rows:
            self.put_down(slot)
        if self.stretch.primary and self.program.state is not None:
            self.tallies.state_of(self.stretch)[:] = self.program.state

    def keep(self, kept: Tallies) -> None:
        """Settle, and copy what has changed since states were last kept."""
        self.settle()
        rows = sorted(self.changed)
        self.tallies.copy_to(kept, self.stretch, self.program.events, rows)
        self.changed.clear()
