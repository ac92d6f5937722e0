"""Runs a machine image: from its bytes alone, as docs/machine.md tells what they do.

A machine has as many groups, output entries and cores as all its cores together, the host's first,
then those of the chips in order; counts come in that order.
"""

import os
from collections.abc import Sequence
from dataclasses import dataclass
from functools import lru_cache
from threading import Lock

import numpy as np
from numpy.typing import NDArray

from mmfree_neuro.errors import EngineError, ImageError, InputError, shown
from mmfree_neuro.target.embedding import embedding
from mmfree_neuro.target.image import Image
from mmfree_neuro.target.instructions import OWN_STATES, Op
from mmfree_neuro.target.layout import HOST_CHIP, RESULT, SECTIONS, Core

try:
    from mmfree_sims.emulator import _emulator
except ImportError:  # no compiler was found when the package was installed
    _emulator = None  # type: ignore[assignment]

Results = NDArray[np.int64]
"""The logits of tokens; or of a machine that chooses words itself, the words plus 1."""
Counted = NDArray[np.int64]
Tokens = Sequence[int] | NDArray[np.integer]

_ORDERS = (1 << 64) - 1

LEVELS = ("avx512", "avx2", "portable")
"""The instruction sets that the emulator is compiled for, fastest first."""


@lru_cache
def available() -> tuple[str, ...]:
    """The levels that run here, fastest first; none where the emulator was not compiled."""
    if _emulator is None:
        return ()
    return tuple(level for level in LEVELS if _emulator.supports(level))


@dataclass(frozen=True, eq=False)
class Counts:
    """What a machine counted: arrays of [groups], [entries] and [cores], as docs/machine.md tells
    them apart."""

    synaptic_operations: Counted
    synapses_read: Counted
    instructions: Counted
    idle_visits: Counted
    runs: Counted
    saturated: Counted
    wrapped: Counted
    messages: Counted
    end_markers: Counted
    deliveries: Counted
    words_read: Counted


class Emulator:
    """A machine that an image was loaded into."""

    def __init__(
        self, image: Image, *, threads: int | None = None, level: str | None = None
    ) -> None:
        levels = available()
        if not levels:
            raise EngineError("the emulator was not compiled, must be built with a C compiler")
        if level is not None and level not in levels:
            raise EngineError(f"level {shown(level)} is not here, must be one of {levels}")
        self.image = image
        self.cores = image.cores
        about, machine = image.about, image.about.machine
        self._vocabulary, self._steps, self._results = about.vocabulary, about.steps, about.results
        groups, entries, states = (
            sum(len(getattr(core, name)) for _, core in self.cores)
            for name in ("group", "out", "state")
        )
        self._shape = groups, entries, len(self.cores), states
        embed = embedding(image.host)
        self.slots = embed.slots
        """How many sequences can be under way at once."""
        threads = threads or len(os.sched_getaffinity(0))
        self._lock = Lock()
        self._trap: str | None = None
        self._machine = _emulator.Machine(
            tuple(
                (chip, core.number, *(getattr(core, name) for name in SECTIONS[:-1]))
                for chip, core in self.cores
            ),
            _targets(image),
            (machine.accumulator_bits, machine.payload_bits, self._results, threads),
            (embed.codes, embed.codes.itemsize, embed.scales, embed.group, *(*embed.ports, -1)[:3]),
            level or levels[0],
        )

    def reset(self) -> None:
        """Back to the states before the first token, and empty accumulators.

        Time goes on, and counts stay, but those of a machine that had trapped.
        """
        with self._lock:
            if self._trap is not None:
                self._take()
            self._machine.reset()
            self._trap = None

    def step(self, token: int | None) -> None:
        """One step of the whole machine, in which a token of the only sequence enters or none."""
        tokens = np.array([-1]) if token is None else self._checked([token])
        self._advance(tokens, self._marks(None, 1), 0, 1)

    @property
    def results(self) -> Results:
        """What has been sent as result in the last step, [results]; ImageError after a trap."""
        found: Results = np.empty(self._results, np.int64)
        with self._lock:
            self._need_whole()
            self._machine.read_results(found)
        return found

    def generate(self, token: int, mark: int | None = None) -> Results:
        """The results of a token that falls through alone, [results]."""
        return self.prefill([token], None if mark is None else [mark])[0]

    def prefill(self, tokens: Tokens, marks: Tokens | None = None) -> Results:
        """The results of tokens that enter step by step, [tokens, results]; then the machine
        drains.  Their `marks` say whose they are: unless told, those of the sequence in slot 0."""
        chosen = self._checked(tokens)
        idle = np.full(self._steps if len(chosen) else 0, -1)
        told = np.concatenate([self._marks(marks, len(chosen)), np.zeros(len(idle), np.int32)])
        return self._advance(np.concatenate([chosen, idle]), told, len(chosen), self._steps)

    def asynchronous(self, tokens: Tokens, order: int, marks: Tokens | None = None) -> Results:
        """The results of tokens without a barrier, [tokens, results]: groups wait for end
        markers, and what arrives first is drawn from `order`; `marks` as in `prefill`."""
        chosen = self._checked(tokens).astype(np.int32)
        told = self._marks(marks, len(chosen))
        found: Results = np.zeros((len(chosen), self._results), np.int64)
        with self._lock:
            self._need_whole()
            self._stopped(self._machine.asynchronous(chosen, told, found, order & _ORDERS))
            self._need_whole()
        return found

    @property
    def states(self) -> NDArray[np.int32]:
        """The states of all neurons that have one, to go on from later; ImageError after a trap."""
        found: NDArray[np.int32] = np.empty(self._shape[3], np.int32)
        with self._lock:
            self._need_whole()
            self._machine.read_states(found)
        return found

    def restore(self, states: NDArray[np.int32]) -> None:
        """Go on from such states, with empty accumulators."""
        chosen = np.ascontiguousarray(states, np.int32)
        if chosen.shape != self._shape[3:]:
            raise InputError(
                f"{self.image.path}: the states are {list(chosen.shape)}, must be "
                f"{list(self._shape[3:])}"
            )
        self.reset()
        self._machine.write_states(chosen)

    def take_counts(self) -> Counts:
        """What was counted since it was last taken; ImageError after a trap, in whose step some
        neurons ran and others did not."""
        with self._lock:
            self._need_whole()
            return self._take()

    def _take(self) -> Counts:
        """What was counted, from now on no more."""
        groups, entries, cores, _ = self._shape
        of_groups = np.empty((groups, 7), np.int64)
        of_entries, of_cores = np.empty((entries, 2), np.int64), np.empty((cores, 2), np.int64)
        self._machine.take_counts(of_groups, of_entries, of_cores)
        return Counts(*of_groups.T, *of_entries.T, *of_cores.T)

    def _need_whole(self) -> None:
        """ImageError where the machine has trapped."""
        if self._trap is not None:
            raise ImageError(self._trap)

    def _checked(self, tokens: Tokens) -> NDArray[np.int64]:
        """Tokens that the host can embed."""
        chosen = np.asarray(tokens, np.int64).reshape(-1)
        wrong = chosen[(chosen < 0) | (chosen >= self._vocabulary)]
        if len(wrong):
            raise InputError(
                f"{self.image.path}: token {wrong[0]} is not known, must be 0 … "
                f"{self._vocabulary - 1}"
            )
        return chosen

    def _marks(self, marks: Tokens | None, tokens: int) -> NDArray[np.int32]:
        """The marks of so many tokens, if need be those of a sequence that goes on in slot 0."""
        if marks is None:
            return np.full(tokens, 2, np.int32)
        chosen = np.asarray(marks, np.int64).reshape(-1)
        wrong = chosen[(chosen < 2) | (chosen > 2 * self.slots + 1)]
        if len(wrong):
            raise InputError(
                f"{self.image.path}: mark {wrong[0]} is not known, must be 2 … {2 * self.slots + 1}"
            )
        if len(chosen) != tokens:
            raise InputError(
                f"{self.image.path}: {len(chosen)} marks were given for {tokens} tokens, must be "
                "as many"
            )
        return chosen.astype(np.int32)

    def _advance(
        self, tokens: NDArray[np.int64], marks: NDArray[np.int32], rows: int, first: int
    ) -> Results:
        """Steps with these tokens and marks, token -1 for none; the results of those from `first`
        on."""
        found: Results = np.empty((rows, self._results), np.int64)
        with self._lock:
            self._need_whole()
            self._stopped(self._machine.advance(tokens.astype(np.int32), marks, found, first))
            self._need_whole()
        return found

    def _stopped(self, stop: tuple[int, ...] | None) -> None:
        """Keep in one line why the machine stopped, if it did."""
        if stop is None:
            return
        place, group, *trap = stop
        chip, core = self.cores[place]
        where = "the host" if chip == HOST_CHIP else f"chip {chip} core {core.number}"
        self._trap = f"{self.image.path}: {where} group {group} "
        if not trap:
            self._trap += "waits in vain for end markers, for entries lead round in a circle"
            return
        neuron, number, op, a, b = trap
        reason = self._reason(core, group, number, Op(op), a, b)
        self._trap += f"neuron {neuron} trapped at instruction {number}: {reason}"

    def _reason(self, core: Core, group: int, number: int, op: Op, a: int, b: int) -> str:
        """What an instruction could not do."""
        row = core.group[group]
        shift = int(core.code[int(row[0]) + number]) >> 40 & 255
        if op == Op.RMW:
            return f"RMW writes state {b}, of {int(row[10])}"
        if op == Op.MOV and shift == OWN_STATES:
            return f"MOV reads state {a}, of {int(row[10])}"
        if op == Op.MOV:
            entries = core.tables[int(row[11]) + shift, 1]
            return f"MOV reads entry {a} of table {shift}, which has {entries}"
        if op == Op.SPIKE:
            bits = self.image.about.machine.payload_bits
            return f"SPIKE sends {a}, which does not fit {bits} bits"
        result = {Op.ADD: a + b, Op.NEG: -a, Op.SHL: a << shift}[op]
        return f"{op.name} gives {result}, which does not fit 32 bits"


def _targets(image: Image) -> NDArray[np.int32]:
    """The place among all cores that each output entry leads to, -1 for a result."""
    row_of = np.zeros(HOST_CHIP + 1, np.int64)
    row_of[[HOST_CHIP, *image.chips]] = np.arange(len(image.chips) + 1)
    places = np.full((len(image.chips) + 1, 256), -1, np.int32)
    for place, (chip, core) in enumerate(image.cores):
        places[row_of[chip], core.number] = place
    first = np.concatenate([core.out[:, 0] for _, core in image.cores])
    found = places[row_of[first >> 16], first >> 8 & 255]
    return np.where(first >> 4 & 15 == RESULT, -1, found).astype(np.int32)
