"""How a graph is to be mapped onto a system: one record, from the command line to the placers."""

from collections.abc import Collection
from dataclasses import dataclass
from typing import Literal

from mmfree_neuro.errors import InputError, shown
from mmfree_neuro.graph.nodes import Graph, block_of
from mmfree_neuro.systems.spec import ChipSpec

SPLITS = {
    "rows": {"divide": False, "spread": False},
    "columns": {"divide": True, "spread": False},
    "spread": {"divide": True, "spread": True},
}
"""By rows alone; and by columns where that saves messages; and every node over as many cores of its
chip as can be besides."""


InFlight = int | Literal["fill"]
"""Sequences in flight; "fill" for as many as a token takes steps, which fill the machine."""


def in_flight_of(text: str) -> InFlight:
    """How many sequences in flight are meant.  Raises InputError for anything else."""
    if text == "fill":
        return "fill"
    if not text.isdecimal() or len(text) > LONGEST_NUMBER or int(text) < 1:
        raise InputError(
            f"sequences in flight are {shown(text)}, must be a whole number of at least 1, or fill"
        )
    return int(text)


LONGEST_NUMBER = 9
"""Digits of a number of sequences."""


def kinds_of(local_roots: str | Collection[str]) -> tuple[str, ...]:
    """The kinds of norms that are named: as "o+mlp", or one by one; "none" names none."""
    if isinstance(local_roots, str):
        return () if local_roots == "none" else tuple(local_roots.split("+"))
    return tuple(local_roots)


@dataclass(frozen=True)
class Request:
    """How a graph is to be mapped onto a system."""

    placer: str = "chain"
    chips: int | None = None
    """Exactly so many; None for as few as the placer can do with."""
    cores: int | None = None
    """At most so many of a chip; None for all."""
    spread: bool = False
    """Every node of a chip over as many of its cores as have room, instead of each core filled
    before the next."""
    head_on_host: bool = False
    """The head and its norm stay on the host, beside the embedding."""
    weight_bits: int | None = None
    """What a stored weight takes; None for what the chip's description says."""
    divide: bool = True
    """Sums may be divided by columns where that saves messages between chips."""
    refine: bool = False
    """Cores are swapped on their chips while that saves hops, whatever placed them."""
    seed: int = 0
    """Of placers that draw."""
    copies: int = 1
    """Of the whole model, each with a sequence of its own; they share a barrier."""
    local_roots: tuple[str, ...] = ()
    """The kinds of norms whose roots every neuron finds for itself, or all; none unless told."""
    in_flight: InFlight = 1
    """How many sequences can be under way at once."""
    greedy_on_chips: bool = False
    """The chips choose the words, so one payload for a token goes to the host, not its logits."""
    entries: tuple[tuple[str, int], ...] = ()
    """Output entries that a shard of a node is counted with, for some nodes; placing finds out."""

    @property
    def options(self) -> tuple[str, ...]:
        """The options of `mmfree-neuro map` that ask for it; copies have none."""
        given = {
            "--placer": self.placer,
            "--chips": self.chips,
            "--cores": self.cores,
            "--weight-bits": self.weight_bits,
            "--local-roots": "+".join(self.local_roots) or None,
            "--in-flight": None if self.in_flight == 1 else self.in_flight,
            "--seed": self.seed or None,
        }
        switches = {
            "--spread": self.spread,
            "--rows-only": not self.divide,
            "--refine": self.refine,
            "--head-on-host": self.head_on_host,
            "--greedy-on-chips": self.greedy_on_chips,
        }
        valued = ((name, str(value)) for name, value in given.items() if value is not None)
        told = (name for name, is_on in switches.items() if is_on)
        return (*(word for pair in valued for word in pair), *told)

    @property
    def split(self) -> str:
        """Which of `SPLITS` this is; spread by rows alone has no name and counts as spread."""
        if self.spread:
            return "spread"
        return "columns" if self.divide else "rows"

    def cores_of(self, chip: ChipSpec) -> int:
        """How many cores of such a chip may be used."""
        return int(chip.cores.central) if self.cores is None else self.cores

    def on_host(self, graph: Graph) -> frozenset[str]:
        """The nodes that stay on the host."""
        if not self.head_on_host:
            return frozenset({graph.embedding.name})
        return frozenset(node.name for node in graph.nodes if block_of(node.name) is None)
