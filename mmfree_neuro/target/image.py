"""A machine image in memory: what its files say, whoever wrote them."""

from dataclasses import dataclass
from pathlib import Path

from mmfree_neuro.target.layout import HOST_CHIP, Bytes, Core


@dataclass(frozen=True)
class Machine:
    """The figures of the machine that an image is for.

    A limit of a core or a chip is None where the system sets none.
    """

    register_bits: int
    accumulator_bits: int
    payload_bits: int
    weight_bits: int
    groups_per_core: int | None
    neurons_per_core: int | None
    input_axons_per_core: int | None
    map_entries_per_core: int | None
    """Payloads that the neurons of a core can send, each once, wherever they go."""
    accumulators_per_core: int | None
    """Slots counted."""
    instructions_per_core: int | None
    memory_bytes_per_core: int | None
    synaptic_bytes_per_core: int | None
    cores_per_chip: int | None
    longest_delay: int | None
    """In steps, beyond the one that every message takes."""


@dataclass(frozen=True)
class About:
    """What image.json says, but for its own checksum."""

    format: str
    graph: str
    mapping: str
    system: str
    machine: Machine
    vocabulary: int
    greedy: bool
    """Whether the machine chooses words itself: a token then has one result, the word plus 1, and
    else as many logits as there are words."""
    logit_frac: int
    steps: int
    """How many steps after the one in which it entered the results of a token are sent."""
    chips: tuple[int, ...]
    files: dict[str, str]
    """The SHA-256 of each other file, by its name."""

    @property
    def results(self) -> int:
        """How many results a token has."""
        return 1 if self.greedy else self.vocabulary


@dataclass(frozen=True, eq=False)
class Image:
    """A loaded image, whose arrays are views of its files."""

    path: Path
    about: About
    host: Core
    chips: dict[int, tuple[Core, ...]]
    board: Bytes  # [chips, chips + 1]
    programs: bytes
    """The text of all programs."""
    symbols: bytes
    """Names for people, as JSON."""
    origin: bytes
    """What it was made from, as JSON."""

    @property
    def cores(self) -> tuple[tuple[int, Core], ...]:
        """All cores with the numbers of their chips: the host's, then those of the chips, in
        order."""
        inside = tuple((chip, core) for chip, cores in self.chips.items() for core in cores)
        return ((HOST_CHIP, self.host), *inside)
