"""Lava Processes of a multi-chip system: `Chip`, or `ChipOfCores` with its `Core`s, and the `Host`,
to which a program sends tokens, or the `JobHost`, which runs a job.

Ports `s_in` and `s_out` carry packets as `mmfree_sims.tiles.packets` describes them, in int32
vectors of `vector_words` words.  Connect the output of a process to the input of every process that
it sends to (`Plan.linked` tells which); a packet that concerns nobody behind a port is dropped
there.

Each Process has one model, without a tag: any RunConfig finds it, whatever tags are selected for
the Processes beside it.
"""

import logging
from typing import Any

from lava.magma.core.process.ports.ports import InPort, OutPort
from lava.magma.core.process.process import AbstractProcess
from lava.magma.core.process.variable import Var

from mmfree_neuro.mapping.mapping import Mapping
from mmfree_neuro.run.job import Job
from mmfree_neuro.run.sampling import Sampling
from mmfree_sims.lava.shared import COUNTERS
from mmfree_sims.tiles.book import FROM_ZERO, Start
from mmfree_sims.tiles.packets import HEADER, LABEL
from mmfree_sims.tiles.plan import Plan

MOST_WORDS = 8192
"""The largest payload of a vector; what is larger takes several."""


GREEDY = Sampling()


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


class _Connected(_Process):
    """A Process that sends and receives packets.

    Ports: `s_in`, `s_out`, packets.
    """

    def __init__(self, *, plan: Plan, **params: Any) -> None:
        super().__init__(plan=plan, **params)
        words = vector_words(plan)
        self.s_in = InPort(shape=(words,))
        self.s_out = OutPort(shape=(words,))


class _Counting(_Connected):
    """One that counts, too.

    Vars: `counters` [COUNTERS].
    """

    def __init__(self, **params: Any) -> None:
        super().__init__(**params)
        self.counters = Var(shape=(COUNTERS,), init=0)


class Chip(_Counting):
    """All cores of one chip, in one OS process.

    With RunSteps it runs until the stream ends, whatever the number; with RunContinuous until it is
    stopped.  A further run goes on from the states of the last.

    `plan` has a tile for every chip; the job has so many `sequences`.
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
            tile=chip,
            number=mapping.chips.index(chip),
            sequences=sequences,
            start=start,
            shared=shared,
            **kwargs,
        )


class ChipOfCores(_Connected):
    """One chip as a network of `Core`s, each an OS process; `plan` has a tile for every core."""

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
            chip=chip,
            sequences=sequences,
            start=start,
            shared=shared,
            **kwargs,
        )


class Core(_Counting):
    """One core of a chip."""

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


class Host(_Counting):
    """The model's way in and out for the other Processes of a program.

    In every step of RunSteps, or until it is stopped, it takes one message from `tokens_in` and
    sends one to `tokens_out`, so Processes of Lava's own that run step by step can stand on both
    sides.  A message has room for `width` words, which are fed one after another.  A word is the
    number of a token plus 1; the answer in its place is the word that the model chooses to follow,
    by `sampling`.  `mmfree_sims.tiles.answers` names the other words: NOTHING (0) feeds nothing and
    is answered by 0, AGAIN (-1) feeds the word that was chosen last, RESTART (-2) begins a new
    sequence.  What is none of these is refused: answered by 0, counted, and the first of it told on
    stderr.  Lava adds what several Processes send to one port, so connect one.

    Ports: `tokens_in`, `tokens_out` [width]; `s_in`, `s_out`, packets.
    Vars: `counters` [COUNTERS]; `refused` [1].
    """

    def __init__(
        self, *, plan: Plan, sampling: Sampling = GREEDY, width: int = 1, **kwargs: Any
    ) -> None:
        super().__init__(
            plan=plan, sampling=sampling, sequences=1, number=-1, shared=None, **kwargs
        )
        self.tokens_in = InPort(shape=(width,))
        self.tokens_out = OutPort(shape=(width,))
        self.refused = Var(shape=(1,), init=0)


class JobHost(_Counting):
    """Runs one job and ends the stream: embeds tokens, reads logits or the words that chips choose,
    or makes logits where a mapping leaves the head to it, and chooses the next token.

    Ports: `s_in`, `s_out`, packets.
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
        self.chosen = Var(shape=(max(1, job.chosen_from[-1]),), init=0)
