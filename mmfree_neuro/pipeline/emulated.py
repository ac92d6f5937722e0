"""Machine images on the emulator, as runs have it: sessions, and counts of shards and routes."""

import time
from functools import cached_property
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np

from mmfree_neuro.errors import EngineError
from mmfree_neuro.files.reading import named
from mmfree_neuro.graph.nodes import slots_of
from mmfree_neuro.image.origin import Origin, by_entry, by_group, origin_of, use_of_image
from mmfree_neuro.integers.fixedpoint import Ints, QType
from mmfree_neuro.mapping.mapping import Mapping, Shard
from mmfree_neuro.pipeline.placed import Placed
from mmfree_neuro.run.activity import Activity, nothing
from mmfree_neuro.run.job import Job, Progress, Result, Saving, silent
from mmfree_neuro.run.session import drive, marked
from mmfree_neuro.target.image import Image
from mmfree_neuro.target.image_file import load_image

if TYPE_CHECKING:
    from mmfree_sims.emulator.emulator import Counts

CHUNK = 64
"""Tokens that enter one after another in prefill."""


class OpenedImage:
    """An image, proved, and what it was made from."""

    def __init__(self, path: Path) -> None:
        self.image: Image = load_image(path)
        self.origin: Origin
        self.mapping: Mapping
        self.origin, self.mapping = origin_of(self.image)

    @property
    def vocabulary(self) -> int:
        """How many tokens there are."""
        return self.image.about.vocabulary

    @property
    def logit_scale(self) -> float:
        """What one step of an integer logit is worth in natural units."""
        return float(2.0**-self.image.about.logit_frac)

    @property
    def greedy(self) -> bool:
        """Whether the machine chooses words itself."""
        return self.image.about.greedy

    @property
    def slots(self) -> int:
        """How many sequences can be under way at once."""
        return self.mapping.in_flight

    @property
    def recurrent(self) -> dict[str, tuple[int, QType]]:
        """The nodes that keep states, each as wide as a register."""
        register = QType(self.image.about.machine.register_bits, 0)
        return {n.name: (n.size, register) for n in self.origin.summary.nodes if n.states}

    @property
    def bos(self) -> int | None:
        """The token that stands before a text of bytes, where the model has one."""
        return self.origin.bos

    @property
    def eos(self) -> tuple[int, ...]:
        """The tokens that end a text."""
        return self.origin.eos

    @property
    def tokenizer(self) -> str | None:
        """The content of the checkpoint's `tokenizer.json`."""
        return self.origin.tokenizer

    @property
    def as_bytes(self) -> bool:
        """Whether text is read as bytes although the vocabulary is not one of bytes."""
        return self.origin.as_bytes

    def placed(self) -> Placed:
        """What it was made from, and what its cores hold by its bytes."""
        origin = self.origin
        return Placed(origin.summary, self.mapping, origin.system, use_of_image(self.image))


class Emulated:
    """A session of the emulator; counts are those of the mapping that the image was made from."""

    def __init__(self, opened: OpenedImage) -> None:
        from mmfree_sims.emulator.emulator import Emulator

        self.machine: Emulator = Emulator(opened.image)
        self.mapping, self.summary = opened.mapping, opened.origin.summary
        self.counted = [nothing(self.mapping) for _ in range(self.machine.slots)]

    def reset(self) -> None:
        """Every state to zero."""
        self.machine.reset()

    def feed(self, tokens: Ints, marks: Ints | None = None) -> Ints:
        """What goes to the host after each of n tokens, which enter one after another, as
        `Session.feed` gives it.

        The machine counts what it does, not for whom, so the tokens of one sequence leave it before
        those of the next enter.
        """
        marks = marked(tokens, marks)
        if self.machine.slots == 1 and marks[0] & 1:
            self.reset()
        slots = slots_of(marks)
        found = []
        for part in np.split(np.arange(len(tokens)), np.flatnonzero(np.diff(slots)) + 1):
            found.append(self.machine.prefill(tokens[part], marks[part]))
            counts, slot = self.machine.take_counts(), int(slots[part[0]])
            self.counted[slot] += self.activity(counts, len(part))
        return np.concatenate(found)

    def take_activity(self, slot: int = 0) -> Activity:
        """The counts of tokens in a slot since they were last taken."""
        taken, self.counted[slot] = self.counted[slot], nothing(self.mapping)
        return taken

    def activity(self, counts: "Counts", tokens: int) -> Activity:
        """Counts of groups and entries as those of shards and routes."""

        def by_shard(found: Ints) -> Ints:
            shards: Ints = np.empty(len(found), np.int64)
            shards[self._order] = found
            return shards

        messages: Ints = np.zeros(len(self.mapping.routes), np.int64)
        messages[self._routes] = counts.messages  # all entries of a route send the same
        return Activity(
            tokens,
            np.full(len(self._order), tokens),
            by_shard(counts.synaptic_operations),
            by_shard(counts.synapses_read),
            by_shard(counts.saturated),
            by_shard(counts.wrapped),
            messages,
        )

    @cached_property
    def _order(self) -> list[int]:
        return by_group(self.mapping)

    @cached_property
    def _routes(self) -> Ints:
        return by_entry(self.mapping)

    @cached_property
    def _recurrent(self) -> list[tuple[Shard, slice]]:
        """The shards whose neurons keep states [slots, neurons], and where these are among those of
        the machine."""
        found, at = [], 0
        nodes = {node.name: node for node in self.summary.nodes}
        for position in self._order:
            shard = self.mapping.shards[position]
            if nodes[shard.node].states:
                found.append((shard, slice(at, at + self.machine.slots * shard.size)))
                at += self.machine.slots * shard.size
        return found

    def states(self) -> dict[str, Ints]:
        """The states [slots, neurons] of every recurrent node."""
        held, slots = self.machine.states.astype(np.int64), self.machine.slots
        found: dict[str, Ints] = {
            node.name: np.zeros((slots, node.states), np.int64)
            for node in self.summary.nodes
            if node.states
        }
        for shard, place in self._recurrent:
            found[shard.node][:, shard.start : shard.stop] = held[place].reshape(slots, shard.size)
        return found

    def restore(self, states: dict[str, Ints]) -> None:
        """Go on from such states."""
        held = self.machine.states
        for shard, place in self._recurrent:
            held[place] = states[shard.node][:, shard.start : shard.stop].reshape(-1)
        self.machine.restore(held)


def run(
    opened: OpenedImage, job: Job, progress: Progress = silent, saving: Saving | None = None
) -> Result:
    """Run a job on the emulator."""
    begin = time.monotonic()
    session = Emulated(opened)
    with named(opened.image.path, EngineError):
        return drive(opened, session, job, CHUNK, progress, time.monotonic() - begin, saving)
