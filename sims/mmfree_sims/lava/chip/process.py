"""Lava Processes of a multi-chip system: `Chip`, the `Core` that it can be made of, and the `Host`.

All ports carry packets as `mmfree_sims.tiles.packets` describes them, in int32 vectors of
`vector_words` words.  Connect the output of a process to the input of every process that it sends
to (`Plan.linked` tells which); a packet that concerns nobody behind a port is dropped there.
"""

import logging
from typing import Any

from lava.magma.core.process.ports.ports import InPort, OutPort
from lava.magma.core.process.process import AbstractProcess
from lava.magma.core.process.variable import Var

from mmfree_neuro.mapping.mapping import Mapping
from mmfree_neuro.run.job import Job
from mmfree_sims.lava.shared import COUNTERS
from mmfree_sims.tiles.book import FROM_ZERO, Start
from mmfree_sims.tiles.packets import HEADER, LABEL
from mmfree_sims.tiles.plan import Plan

MOST_WORDS = 8192
"""The largest payload of a vector; what is larger takes several."""


def vector_words(plan: Plan) -> int:
    """The size of the vectors on every channel: a header, and room for what a stretch sends for one
    token, with its label."""
    most = max(plan.words(stretch) for stretch in plan.stretches if plan.abroad[stretch.number])
    return HEADER + LABEL + min(most, MOST_WORDS)


class _Process(AbstractProcess):
    """A Lava Process that leaves the root logger as it is."""

    def __init__(self, **params: Any) -> None:
        root = logging.getLogger()
        before = list(root.handlers)
        super().__init__(**params)  # which gives that logger one more handler
        for handler in [handler for handler in root.handlers if handler not in before]:
            root.removeHandler(handler)


class Chip(_Process):
    """All cores of one chip.

    Model `chip` runs them in one OS process; model `core` is one Lava Process for every core.  With
    RunSteps the chip runs until the stream ends, whatever the number; with RunContinuous until it
    is stopped.

    `plan` has a tile for every chip, or, for the model `core`, for every core; the job has so many
    `sequences`.
    Ports: `s_in`, `s_out`, packets.
    Vars: `counters` [COUNTERS], of the model `chip`.
    """

    def __init__(
        self,
        *,
        plan: Plan,
        mapping: Mapping,
        chip: int,
        sequences: int = 1,
        start: Start = FROM_ZERO,
        shared: Any = None,
        **kwargs: Any,
    ) -> None:
        super().__init__(
            plan=plan,
            mapping=mapping,
            tile=chip,
            number=mapping.chips.index(chip),
            sequences=sequences,
            start=start,
            shared=shared,
            **kwargs,
        )
        words = vector_words(plan)
        self.s_in = InPort(shape=(words,))
        self.s_out = OutPort(shape=(words,))
        self.counters = Var(shape=(COUNTERS,), init=0)


class Core(_Process):
    """One core of a chip, with the same ports and Vars."""

    def __init__(
        self, *, plan: Plan, tile: int, sequences: int, start: Start, shared: Any, **kwargs: Any
    ) -> None:
        super().__init__(
            plan=plan,
            tile=tile,
            number=tile,
            sequences=sequences,
            start=start,
            shared=shared,
            **kwargs,
        )
        words = vector_words(plan)
        self.s_in = InPort(shape=(words,))
        self.s_out = OutPort(shape=(words,))
        self.counters = Var(shape=(COUNTERS,), init=0)


class Host(_Process):
    """Embeds tokens, reads logits or the words that chips choose, or makes logits where a mapping
    leaves the head to it, and chooses the next token.

    Runs one job and ends the stream.

    Ports: `s_in`, `s_out`, packets as above.
    Vars: `counters` [COUNTERS]; `chosen`, the tokens chosen, those of all sequences one after
    another.
    """

    def __init__(
        self,
        *,
        plan: Plan,
        job: Job,
        start: Start = FROM_ZERO,
        in_flight: int = 16,
        shared: Any = None,
        **kwargs: Any,
    ) -> None:
        super().__init__(
            plan=plan,
            job=job,
            sequences=len(job.sequences),
            start=start,
            in_flight=in_flight,
            number=-1,
            shared=shared,
            **kwargs,
        )
        words = vector_words(plan)
        self.s_in = InPort(shape=(words,))
        self.s_out = OutPort(shape=(words,))
        self.counters = Var(shape=(COUNTERS,), init=0)
        self.chosen = Var(shape=(max(1, job.chosen_from[-1]),), init=0)
