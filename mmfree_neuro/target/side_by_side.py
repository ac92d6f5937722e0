"""The cores of a file side by side, so that all of them are checked at once."""

from collections.abc import Callable
from dataclasses import dataclass
from functools import cached_property

import numpy as np
from numpy.typing import NDArray

from mmfree_neuro.files.reading import Misfit
from mmfree_neuro.target.layout import GROUP_FIELDS, SECTION_TYPES, SECTIONS, Core, Rows

Ints = NDArray[np.int64]
Truths = NDArray[np.bool_]


@dataclass(frozen=True, eq=False)
class Cores:
    """Sections of several cores, one behind another."""

    cores: tuple[Core, ...]

    @cached_property
    def starts(self) -> dict[str, Ints]:
        """Where the rows of each core begin in a section of all, and where the last ones end."""
        return {
            name: np.cumsum([0, *(len(getattr(core, name)) for core in self.cores)])
            for name in SECTIONS
        }

    def lengths(self, section: str) -> Ints:
        """How many rows of a section each core has, [cores]."""
        found: Ints = np.diff(self.starts[section])
        return found

    def owners(self, section: str) -> Ints:
        """The core of each row of a section, by its place."""
        return np.repeat(np.arange(len(self.cores)), self.lengths(section))

    @cached_property
    def groups(self) -> dict[str, Ints]:
        """Columns of GROUP by name, each [groups]."""
        rows = _joined([core.group for core in self.cores], 16).astype(np.int64)
        return dict(zip(GROUP_FIELDS, np.ascontiguousarray(rows.T), strict=True))

    @cached_property
    def ports(self) -> Ints:
        """Rows of PORT, [ports, 2]."""
        return _joined([core.port for core in self.cores], 2).astype(np.int64)

    @cached_property
    def port_neurons(self) -> Ints:
        """Neurons of each port's group."""
        return self.groups["neurons"].repeat(self.groups["ports"])

    @cached_property
    def tables(self) -> Ints:
        """Rows of TABLES, [tables, 2]."""
        return _joined([core.tables for core in self.cores], 2).astype(np.int64)

    @cached_property
    def axons(self) -> Rows:
        """Rows of AXON."""
        return np.concatenate([np.zeros(0, np.uint32), *(core.axon for core in self.cores)])

    @cached_property
    def syn(self) -> NDArray[np.uint64]:
        """Words of SYN."""
        return np.concatenate([np.zeros(0, np.uint64), *(core.syn for core in self.cores)])

    def sums(self, section: str, values: Ints) -> Ints:
        """Sums of what the rows of a section have, core by core."""
        found = np.zeros(len(self.cores), np.int64)
        np.add.at(found, self.owners(section), values)
        return found

    @cached_property
    def accumulators(self) -> Ints:
        """How many each core has, slots counted."""
        return self.sums("port", self.ports[:, 1] * self.port_neurons)

    @cached_property
    def memory_bytes(self) -> Ints:
        """What each core takes of its memory."""
        sizes = {name: np.dtype(kind).itemsize * n for name, (kind, n) in SECTION_TYPES.items()}
        return sum(
            (size * self.lengths(name) for name, size in sizes.items()), 4 * self.accumulators
        )

    def need(self, fine: Truths, section: str, say: Callable[[int, int], str]) -> None:
        """Misfit for the first row that is not as it must be, as `say` puts it, which is told its
        place in all cores and in its own."""
        if fine.all():
            return
        place = int(np.argmin(fine))
        starts = self.starts[section]
        owner = int(np.searchsorted(starts, place, "right")) - 1
        raise self.misfit(owner, say(place, place - int(starts[owner])))

    def misfit(self, owner: int, said: str) -> Misfit:
        """What is wrong with a core."""
        return Misfit(f"core {self.cores[owner].number}: {said}")


def _joined(rows: list[Rows], width: int) -> Rows:
    return np.concatenate([np.zeros((0, width), np.uint32), *rows])
