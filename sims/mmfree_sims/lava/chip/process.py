"""Lava Processes of a multi-chip system: `Chip`, the `Core` that it can be made of, and the `Host`.

All ports carry packets, int32 vectors as `mmfree_sims.lava.core` describes them.  Connect the output of a process to
the input of every process that it sends to (`core.linked` tells which); a packet that concerns nobody behind a port is
dropped there.
"""

from typing import Any

from lava.magma.core.process.ports.ports import InPort, OutPort
from lava.magma.core.process.process import AbstractProcess
from lava.magma.core.process.variable import Var

from mmfree_neuro.ir import Graph
from mmfree_neuro.job import Job
from mmfree_neuro.mapping import Location, Mapping
from mmfree_sims.lava.core import packet_words

COUNTERS = 4
"""Values of `counters`: packets received, packets sent, shards fired, saturated values."""


class Chip(AbstractProcess):
    """All cores of one chip.

    Model `chip` runs them in one OS process; model `core` is one Lava Process for every core.  With RunSteps the chip
    runs until the stream ends, whatever the number; with RunContinuous until it is stopped.

    Ports: `s_in`, `s_out`, packets of `core.packet_words` int32 words.
    Vars: `counters` [COUNTERS], of the model `chip`.
    """

    def __init__(self, *, graph: Graph, mapping: Mapping, chip: int, shared: Any = None, **kwargs: Any) -> None:
        cores = tuple(location for location in mapping.cores if location.chip == chip)
        tile = mapping.chips.index(chip)
        super().__init__(graph=graph, mapping=mapping, tile=tile, cores=cores, shared=shared, **kwargs)
        words = packet_words(graph, mapping)
        self.s_in = InPort(shape=(words,))
        self.s_out = OutPort(shape=(words,))
        self.counters = Var(shape=(COUNTERS,), init=0)


class Core(AbstractProcess):
    """One core of a chip, with the same ports and Vars."""

    def __init__(
        self, *, graph: Graph, mapping: Mapping, cores: tuple[Location, ...], shared: Any, **kwargs: Any
    ) -> None:
        tile = mapping.cores.index(cores[0])
        super().__init__(graph=graph, mapping=mapping, tile=tile, cores=cores, shared=shared, **kwargs)
        words = packet_words(graph, mapping)
        self.s_in = InPort(shape=(words,))
        self.s_out = OutPort(shape=(words,))
        self.counters = Var(shape=(COUNTERS,), init=0)


class Host(AbstractProcess):
    """Embeds tokens, reads logits, chooses the next token; runs one job and ends the stream.

    Ports: `s_in`, `s_out`, packets as above.
    Vars: `counters` [COUNTERS]; `chosen` [sequences · new tokens], the tokens chosen.
    """

    def __init__(
        self, *, graph: Graph, mapping: Mapping, job: Job, in_flight: int = 16, shared: Any = None, **kwargs: Any
    ) -> None:
        super().__init__(graph=graph, mapping=mapping, job=job, in_flight=in_flight, shared=shared, **kwargs)
        words = packet_words(graph, mapping)
        self.s_in = InPort(shape=(words,))
        self.s_out = OutPort(shape=(words,))
        self.counters = Var(shape=(COUNTERS,), init=0)
        self.chosen = Var(shape=(max(1, job.tokens.shape[0] * job.new_tokens),), init=0)
