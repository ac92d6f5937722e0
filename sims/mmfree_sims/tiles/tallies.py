"""What the tiles of a run count and keep, in flat vectors that they can share or send.

Every stretch owns its part of each vector, and copies of others own none, so tiles never write to
the same place.
"""

from collections.abc import Callable, Iterable
from dataclasses import dataclass
from typing import Any

import numpy as np

from mmfree_neuro.graph.nodes import Graph
from mmfree_neuro.integers.fixedpoint import Ints
from mmfree_sims.counts import Layout
from mmfree_sims.neurons import forget
from mmfree_sims.tiles.plan import Stretch

Allocate = Callable[[tuple[int, ...], Any], Any]


@dataclass(frozen=True, eq=False)
class Tallies:
    """Counts of all neurons, a row for prefill and one for generation, and their recurrent
    states."""

    layout: Layout
    offsets: dict[str, int]
    """Where the states of a recurrent node begin."""
    events: Ints  # [2, events], as `Layout` says
    saturated: Ints  # [2, neurons]
    wrapped: Ints  # [2, neurons]
    states: Ints  # [recurrent neurons]

    def add(self, stretch: Stretch, phase: int, program: Any) -> tuple[int, int]:
        """Add what a stretch counted since it was last asked, unless it is a copy, and keep its
        state.

        Returns how many non-zero payloads it has sent since, and how many values it has saturated.
        """
        counted = (
            sum(int(events.sum()) for events in program.events.values()),
            int(program.saturated.sum()),
        )
        if stretch.primary:
            at = self.layout.saturated[stretch.node] + stretch.start
            self.saturated[phase, at : at + stretch.size] += program.saturated
            self.wrapped[phase, at : at + stretch.size] += program.wrapped
            for port, events in program.events.items():
                at = self.layout.events[stretch.node, port] + stretch.start
                self.events[phase, at : at + stretch.size] += events
            if program.state is not None:
                self.state_of(stretch)[:] = program.state
        forget(program)
        return counted

    def state_of(self, stretch: Stretch) -> Ints:
        """The states of a stretch, to read or to write."""
        at = self.offsets[stretch.node] + stretch.start
        return self.states[at : at + stretch.size]

    def copy_to(self, other: "Tallies", stretch: Stretch, ports: Iterable[str]) -> None:
        """Copy what belongs to a stretch and its outputs; nothing belongs to a copy."""
        if not stretch.primary:
            return
        at = self.layout.saturated[stretch.node] + stretch.start
        other.saturated[:, at : at + stretch.size] = self.saturated[:, at : at + stretch.size]
        other.wrapped[:, at : at + stretch.size] = self.wrapped[:, at : at + stretch.size]
        for port in ports:
            at = self.layout.events[stretch.node, port] + stretch.start
            other.events[:, at : at + stretch.size] = self.events[:, at : at + stretch.size]
        if stretch.node in self.offsets:
            other.state_of(stretch)[:] = self.state_of(stretch)

    def states_by_node(self, graph: Graph) -> dict[str, Ints]:
        """A copy of all states, by node."""
        return {
            name: self.states[at : at + graph.node(name).size].copy()
            for name, at in self.offsets.items()
        }

    def load_states(self, states: dict[str, Ints]) -> None:
        """Set all states."""
        for name, at in self.offsets.items():
            self.states[at : at + len(states[name])] = states[name]


def private(shape: tuple[int, ...], dtype: Any) -> Any:
    """Memory of this process."""
    return np.zeros(shape, dtype)


def allocate(graph: Graph, memory: Allocate = private) -> Tallies:
    """An empty tallies for a graph."""
    layout, offsets, end = Layout(graph), {}, 0
    for node in graph.nodes:
        if node.state_type is not None:
            offsets[node.name] = end
            end += node.size
    return Tallies(
        layout,
        offsets,
        memory((2, layout.events_size), np.int64),
        memory((2, layout.saturated_size), np.int64),
        memory((2, layout.saturated_size), np.int64),
        memory((end,), np.int64),
    )
