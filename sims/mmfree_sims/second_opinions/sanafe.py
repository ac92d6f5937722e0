"""A second opinion on our counts: the events of a mapped graph, replayed and counted by SANA-FE.

SANA-FE (SLAM-Lab, doi:10.1109/TCAD.2025.3537971; `pip install sanafe`, GPL-3.0) simulates spiking
chips and counts what they do.  It is called, here alone, and nothing of it is copied: its
description of Loihi, with the figures of Davies et al., IEEE Micro 38(1), 2018, is read from the
installed package.

Every output of a neuron (each port sends by itself) is a source, and each source is a neuron of
SANA-FE; the synapses of one of our neurons end at the source of its first port.  A token is a step,
at which the sources fire whose payload is not zero.  That they fire so, and not by what arrives, is
done by synapses with the weight 0, and by a bias that is above the threshold at the steps at which
the source must fire, else 0.  A neuron runs its program at every token, so every source is updated
at every step.  As no step is without a token, there are no idle visits; instructions are not
counted.

The host is no chip.  Its sources are input units, which cost nothing, on a core of their own behind
those of the chips; SANA-FE lists their fires, and they are taken off.  Nothing is sent to the host,
neither logits nor what a head there reads.  The cores of all chips lie in one mesh, in the
mapping's order, so hops and latencies mean nothing and are not read.

A packet is a message to one core of a chip, whoever sends it.  SANA-FE has none where no synapse of
the core reads the payload (a ternary matrix has only zeros in that column of the core), but our
routes send it.  Such messages are counted apart: our packets are those of the routes, less
`Opinion.unread`.
"""

import contextlib
import importlib
import importlib.resources
import io
import math
import tempfile
from collections import Counter
from dataclasses import dataclass
from itertools import count
from pathlib import Path
from types import ModuleType
from typing import Any

import numpy as np
from numpy.typing import NDArray

from mmfree_neuro.errors import EngineError, InputError
from mmfree_neuro.graph.nodes import AnyNode, Graph, Input, slots_of, span
from mmfree_neuro.integers.fixedpoint import Ints
from mmfree_neuro.mapping.mapping import HOST, Location, Mapping, Shard
from mmfree_neuro.run.session import marked
from mmfree_sims.counts import Counting
from mmfree_sims.neurons import EmbeddingNeurons, Int32, Neurons

Payloads = dict[tuple[str, str], Int32]
"""What every node sent, by node and port: [tokens, size]."""

HOST_CORE = Location(HOST, 0)
SYNAPSE, DENDRITE, SOMA, INPUT = (
    "loihi_dense_synapse",
    "loihi_dendrites",
    "loihi_lif",
    "loihi_inputs",
)
"""The units in use, by their names in SANA-FE's description of Loihi."""
THRESHOLD = 0.5
"""Of a soma: a bias of 1 makes it fire."""
SOURCES = 1024
"""The neurons that a core holds in SANA-FE's Loihi, and the states of its soma unit."""
PRECISION = 1e-9
"""Relative difference of equal energies: SANA-FE adds up an energy event by event and prints seven
digits."""
_PJ = 1e12


@dataclass(frozen=True)
class Counts:
    """What the chips did, token by token, the host left out."""

    synops: tuple[int, ...]
    fires: tuple[int, ...]
    """Payloads other than zero, of all ports."""
    updates: tuple[int, ...]
    """Programs run, once for each port."""
    packets: tuple[int, ...]
    """Messages to a core of a chip, the host's too."""


@dataclass(frozen=True)
class Energies:
    """What the synapses and the somas of the chips took, in all tokens."""

    synapse_pj: float
    soma_pj: float


@dataclass(frozen=True)
class Figures:
    """Energies of one operation, as the description of the chip has them."""

    synapse_pj: float
    access_pj: float
    update_pj: float
    spike_pj: float

    def energies(self, counts: Counts) -> Energies:
        """What the counted operations take; a soma is accessed whenever it is updated."""
        updates, fires = sum(counts.updates), sum(counts.fires)
        soma = updates * (self.access_pj + self.update_pj) + fires * self.spike_pj
        return Energies(sum(counts.synops) * self.synapse_pj, soma)


@dataclass(frozen=True)
class Opinion:
    """Our counts beside SANA-FE's; our energies are counts times figures."""

    ours: Counts
    theirs: Counts
    figures: Figures
    our_energies: Energies
    their_energies: Energies
    unread: tuple[int, ...]
    """Messages, token by token, to cores that need them by their inputs, but have no synapse that
    reads them."""

    @property
    def agrees(self) -> bool:
        """Whether every count of every token is equal, and the energies are to a part in 10⁹."""
        pairs = (
            (self.our_energies.synapse_pj, self.their_energies.synapse_pj),
            (self.our_energies.soma_pj, self.their_energies.soma_pj),
        )
        return self.ours == self.theirs and all(
            math.isclose(a, b, rel_tol=PRECISION) for a, b in pairs
        )


def record(graph: Graph, tokens: Ints) -> Payloads:
    """What every node sends for the tokens of one sequence."""
    marks = marked(tokens, None)
    slots = slots_of(marks).astype(np.int32)
    payloads: Payloads = {
        (graph.embedding.name, port): sent
        for port, sent in EmbeddingNeurons(graph).fire(tokens, marks).items()
    }
    for node in graph.nodes[1:]:
        neurons = Neurons(graph, node, 0, node.size)
        arrived = [
            np.ascontiguousarray(payloads[entry.source, entry.source_port][:, first:last])
            for entry, (first, last) in zip(node.inputs, neurons.spans, strict=True)
        ]
        payloads |= {(node.name, port): sent for port, sent in neurons.fire(arrived, slots).items()}
    return payloads


def compare(graph: Graph, mapping: Mapping, payloads: Payloads) -> Opinion:
    """Count the events on the mapping ourselves and let SANA-FE count them.

    There is at least one token.  SANA-FE takes about 0.9 kB for a synapse.  Raises EngineError
    where it is not installed, and InputError for a mapping that its Loihi has no room for.
    """
    sanafe = _sanafe()
    replay = _Replay(sanafe, graph, mapping, payloads)
    theirs, their_energies = replay.run()
    unread = _unread(graph, mapping, payloads)
    ours, figures = _ours(graph, mapping, payloads, unread), replay.figures()
    return Opinion(ours, theirs, figures, figures.energies(ours), their_energies, unread)


def _sanafe() -> ModuleType:
    try:
        return importlib.import_module("sanafe")
    except ModuleNotFoundError as missing:
        raise EngineError(
            "sanafe is not installed, must be for the second opinion: pip install sanafe"
        ) from missing


def _ours(graph: Graph, mapping: Mapping, payloads: Payloads, unread: tuple[int, ...]) -> Counts:
    """The counts of every token from its `Activity`."""
    counting = Counting(graph, mapping)
    none = np.zeros(counting.layout.saturated_size, np.int64)
    copies = np.array(
        [sum(core.chip != HOST for core in route.destinations) for route in mapping.routes]
    )
    held = [
        shard
        for shard, place in zip(mapping.shards, mapping.locations, strict=True)
        if place.chip != HOST
    ]
    on_chips = np.array([place.chip != HOST for place in mapping.locations])
    programs = sum(shard.size * len(graph.node(shard.node).outputs) for shard in held)
    sent = [
        payloads[shard.node, output.port][:, shard.start : shard.stop]
        for shard in held
        for output in graph.node(shard.node).outputs
    ]
    rows: list[tuple[int, int, int, int]] = []
    for token in range(len(unread)):
        events = np.zeros(counting.layout.events_size, np.int64)
        for key, values in payloads.items():
            at = counting.layout.events[key]
            events[at : at + values.shape[1]] = values[token] != 0
        activity = counting.activity(events, none, none, 1)
        fires = sum(int(np.count_nonzero(values[token])) for values in sent)
        packets = int(activity.messages @ copies) - unread[token]
        rows.append((int(activity.synops @ on_chips), fires, programs, packets))
    return Counts(*zip(*rows, strict=True))


def _synapses(graph: Graph, entry: Input, shard: Shard) -> Ints:
    """The synapses of a shard at one input [synapses, 2]: the value of the source, and the neuron
    of the shard."""
    if entry.matrix is not None:
        neurons, values = np.nonzero(entry.matrix.codes(shard.start, shard.stop))
        return np.stack([values + entry.first, neurons], 1)
    node, size = graph.node(shard.node), graph.node(entry.source).output(entry.source_port).size
    spans = [span(node, entry, at, at + 1, size) for at in range(shard.start, shard.stop)]
    return np.array(
        [(value, neuron) for neuron, (a, b) in enumerate(spans) for value in range(a, b)]
    )


def _unread(graph: Graph, mapping: Mapping, payloads: Payloads) -> tuple[int, ...]:
    """The messages of every token to a core of a chip that needs them by its inputs, but has no
    synapse for them."""
    flags: dict[tuple[Location, str, str], NDArray[np.bool_]] = {}  # each [2, size]: needed, read
    for shard, place in zip(mapping.shards, mapping.locations, strict=True):
        node = graph.node(shard.node)
        for entry in () if place.chip == HOST else node.inputs:
            size = graph.node(entry.source).output(entry.source_port).size
            first, last = span(node, entry, shard.start, shard.stop, size)
            needed, read = flags.setdefault(
                (place, entry.source, entry.source_port), np.zeros((2, size), np.bool_)
            )
            needed[first:last] = True
            read[_synapses(graph, entry, shard)[:, 0]] = True
    total: Ints = np.zeros(len(next(iter(payloads.values()))), np.int64)
    for route in mapping.routes:
        name, here = mapping.shards[route.source].node, slice(route.start, route.stop)
        for needed, read in (
            flags[p, name, route.port] for p in route.destinations if (p, name, route.port) in flags
        ):
            total += np.count_nonzero(
                payloads[name, route.port][:, here][:, (needed & ~read)[here]], axis=1
            )
    return tuple(total.tolist())


class _Replay:
    """A chip of SANA-FE loaded with the graph, and what its sources must fire."""

    def __init__(
        self, sanafe: ModuleType, graph: Graph, mapping: Mapping, payloads: Payloads
    ) -> None:
        self.graph, self.mapping = graph, mapping
        self.fires = {
            (position, output.port): payloads[shard.node, output.port][:, shard.start : shard.stop]
            != 0
            for position, shard in enumerate(mapping.shards)
            for output in graph.node(shard.node).outputs
        }
        held = Counter[Location]()
        for (position, _), fires in self.fires.items():
            held[mapping.locations[position]] += fires.shape[1]
        self.architecture = _architecture(sanafe, len(held), held[HOST_CORE])
        self.cores = _cores(mapping, held, self.architecture.cores())
        self.network, self.inputs = sanafe.Network(), count()
        self.groups = {key: self._group(*key) for key in self.fires}
        for position, place in enumerate(mapping.locations):
            if place.chip != HOST:
                self._connect(position)
        self.chip = sanafe.SpikingChip(self.architecture)
        self.chip.load(self.network)

    def _group(self, position: int, port: str) -> Any:
        """The sources of one port of a shard, on their core."""
        fires, place = self.fires[position, port], self.mapping.locations[position]
        group = self.network.create_neuron_group(
            f"{position} {port}",
            fires.shape[1],
            model_attributes={}
            if place.chip == HOST
            else {"threshold": THRESHOLD, "force_update": True},
            default_synapse_hw_name=SYNAPSE,
            default_dendrite_hw_name=DENDRITE,
            log_spikes=place.chip == HOST,
            soma_hw_name=SOMA,
        )
        if place.chip == HOST:
            for source, train in zip(group, fires.T, strict=True):
                spikes = {"spikes": train.astype(int).tolist()}
                source.set_attributes(
                    soma_hw_name=f"{INPUT}[{next(self.inputs)}]", model_attributes=spikes
                )
        group.map_to_core(self.cores[place])
        return group

    def _connect(self, position: int) -> None:
        """The synapses of a shard, each with the weight 0."""
        shard, place = self.mapping.shards[position], self.mapping.locations[position]
        node = self.graph.node(shard.node)
        own = self.groups[position, node.outputs[0].port]
        for entry in node.inputs:
            synapses = _synapses(self.graph, entry, shard)
            sender = _senders(self.mapping, self.graph.node(entry.source), place)[synapses[:, 0]]
            for number in np.unique(sender).tolist():
                mine = synapses[sender == number] - [self.mapping.shards[number].start, 0]
                source = self.groups[number, entry.source_port]
                source.connect_neurons_sparse(own, {"w": [0.0] * len(mine)}, mine.tolist())

    def figures(self) -> Figures:
        """The figures of the units in use."""
        units = {
            unit.name: unit.model_info.model_attributes
            for unit in self.architecture.cores()[0].pipeline_hw
        }
        soma = (
            units[SOMA][f"energy_{name}"] * _PJ
            for name in ("access_neuron", "update_neuron", "spike_out")
        )
        return Figures(units[SYNAPSE]["energy_process_spike"] * _PJ, *soma)

    def run(self) -> tuple[Counts, Energies]:
        """Fire as prescribed, a step for every token."""
        mapped, places = self.chip.mapped_neuron_groups, self.mapping.locations
        prescribed = [
            (mapped[f"{position} {port}"], np.vstack([np.zeros_like(fires[:1]), fires]))
            for (position, port), fires in self.fires.items()
            if places[position].chip != HOST
        ]
        rows: list[tuple[int, int, int, int]] = []
        synapse_pj = soma_pj = 0.0
        for token in range(len(next(iter(self.fires.values())))):
            for sources, fires in prescribed:
                for number in np.flatnonzero(fires[token + 1] != fires[token]):
                    sources[number].set_attributes(
                        model_attributes={"bias": float(fires[token + 1, number])}
                    )
            done = self._step()
            hosted = len(done["spike_trace"][0])  # an input unit that fires counts as updated, too
            fired, updated = done["neurons_fired"] - hosted, done["neurons_updated"] - hosted
            rows.append((done["spikes"], fired, updated, done["packets_sent"]))
            synapse_pj += done["energy"]["synapse"] * _PJ
            soma_pj += done["energy"]["soma"] * _PJ
        return Counts(*zip(*rows, strict=True)), Energies(synapse_pj, soma_pj)

    def _step(self) -> Any:
        """What one step did; the progress that SANA-FE prints is dropped."""
        with contextlib.redirect_stdout(io.StringIO()):
            return self.chip.sim(1, timing_model="simple", processing_threads=1, spike_trace=True)


def _senders(mapping: Mapping, node: AnyNode, place: Location) -> Ints:
    """The shard that sends each value of a node to a core: the first on the core's chip that holds
    it, or of all."""
    senders: Ints = np.full(node.size, -1)
    holders = [position for position, shard in enumerate(mapping.shards) if shard.node == node.name]
    for position in sorted(
        holders, key=lambda p: (mapping.locations[p].chip != place.chip, p), reverse=True
    ):
        senders[mapping.shards[position].start : mapping.shards[position].stop] = position
    return senders


def _cores(mapping: Mapping, held: Counter[Location], cores: list[Any]) -> dict[Location, Any]:
    """The core of SANA-FE for each of ours, which hold that many sources; the host's is the
    last."""
    places = (*mapping.cores, HOST_CORE)
    if len(places) > len(cores):
        raise InputError(
            f"the mapping uses {len(places) - 1} cores, must use at most {len(cores) - 1} for "
            "SANA-FE's Loihi"
        )
    for place in places:
        if held[place] > SOURCES:
            name = "the host" if place.chip == HOST else f"core {place.core} of chip {place.chip}"
            raise InputError(
                f"{name} has {held[place]} outputs, must have at most {SOURCES} for SANA-FE's Loihi"
            )
    return dict(zip(places, cores, strict=False))


def _architecture(sanafe: ModuleType, cores: int, inputs: int) -> Any:
    """SANA-FE's Loihi from its package, with only the tiles for so many cores, and so many input
    units a core.

    In the file a chip has 128 cores with 1024 input units each, of some 10 kB.
    """
    text = (
        importlib.resources.files("sanafe.examples")
        .joinpath("loihi.yaml")
        .read_text(encoding="utf-8")
    )
    with tempfile.TemporaryDirectory() as folder:
        path = Path(folder) / "loihi.yaml"
        path.write_text(
            text.replace(f"{INPUT}[0..1023]", f"{INPUT}[0..{inputs - 1}]"), encoding="utf-8"
        )
        architecture = sanafe.load_arch(path)
    tiles = architecture.tiles
    architecture.tiles = tiles[: -(-cores // len(tiles[0].cores))]
    return architecture
