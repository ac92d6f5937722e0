"""Random graphs on random systems: a valid mapping with the reference's bits, or one line that says
what is short.

The tiles of these tests live in this process and pass packets on in the order in which they were
sent.
"""

import importlib.util
import re
from collections import Counter, deque
from collections.abc import Callable, Iterator
from dataclasses import dataclass, replace
from functools import lru_cache
from typing import Any

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from mmfree_kernels.cpu import programs as cpu
from mmfree_neuro.errors import CapacityError
from mmfree_neuro.graph.nodes import Graph
from mmfree_neuro.integers.fixedpoint import Ints
from mmfree_neuro.mapping.mapping import HOST, Mapping
from mmfree_neuro.mapping.request import Request
from mmfree_neuro.pipeline import map, quality
from mmfree_neuro.pipeline.map import with_weight_bits
from mmfree_neuro.run import reference
from mmfree_neuro.run.job import Job, Result
from mmfree_neuro.systems.load import load_system
from mmfree_neuro.systems.spec import Quantity, SystemSpec
from mmfree_partition.bound.gaps import gaps
from mmfree_partition.check import check
from mmfree_partition.placers import PLACERS
from mmfree_sims import fast
from mmfree_sims.tiles import tallies
from mmfree_sims.tiles.book import Book, start_of
from mmfree_sims.tiles.host import Host
from mmfree_sims.tiles.packets import Packet
from mmfree_sims.tiles.plan import Plan, by_chip
from mmfree_sims.tiles.tile import Tile

CASES = 500
RUN_EVERY = 8
"""One in so many valid mappings is run."""
DRAWN_PLACERS = [
    name for name in PLACERS if name != "mtkahypar" or importlib.util.find_spec("mtkahypar")
]


@pytest.fixture(autouse=True, scope="module")
def programs_recorded_once() -> Iterator[None]:
    """Many engines are made of a few nodes here; a program is the same every time."""
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(cpu, "record", lru_cache(maxsize=None)(cpu.record))
        yield


# Graphs, jobs and systems.


MODELS = (
    ("16x1x24", "a16"),
    ("32x2x80", "a16"),
    ("20x2x37", "a16"),
    ("16x1x40", "a8"),
    ("24x2x33-lower-bounds", "a8"),
    ("48x1x64", "a8"),
)
"""One or two blocks, hidden sizes of 16 to 48, with lower bounds and without, odd sizes."""


@pytest.fixture(scope="module")
def models(random_graph: Callable[[str, str], Graph]) -> list[Graph]:
    """Small random models as integers."""
    return [random_graph(name, scheme) for name, scheme in MODELS]


@pytest.fixture(scope="module")
def truths(models: list[Graph]) -> list[tuple[Job, Result]]:
    """A job of every model, and what the reference gives for it."""
    return [truth(which, graph) for which, graph in enumerate(models)]


def truth(which: int, graph: Graph) -> tuple[Job, Result]:
    """A job of a model, of sequences of several lengths, and what the reference gives for it."""
    rng = np.random.default_rng(which)
    job = Job([rng.integers(0, graph.vocabulary, length) for length in (5, 1, 3)], [3, 4, 0])
    return job, reference.run(graph, quality.in_one_place(graph), job)


@dataclass(frozen=True)
class Case:
    """A model by its number, a system and a asked."""

    which: int
    system: SystemSpec
    asked: Request


LIMITS = {
    "memory_bytes_per_core": [6000, 12000, 30000, 196608, 196608],
    "synaptic_memory_bytes_per_core": [3000, 10000, 128000, 128000],
    "neuron_groups_per_core": [None, 1, 3, 8, 8],
    "neurons_per_core": [4, 40, 200, 4096, 4096, 4096],
    "state_bytes_per_neuron": [100, *7 * [4096]],
    "input_axons_per_core": [100, 250, 1000, 16000, 16000, 16000],
    "axon_map_entries_per_core": [None, 200, 16000],
    "accumulators_per_core": [None, 300, 2000, 8192],
    "program_instructions_per_core": [None, None, None, None, None, 300, 1000, 4000],
    "output_axons_per_core": [None, None, None, None, None, 60, 300, 2000],
}


@st.composite
def cases(draw: st.DrawFn) -> Case:
    """Any model on any system, as anyone may asked."""
    figures = {name: draw(st.sampled_from(values)) for name, values in LIMITS.items()}
    cores, chips = draw(st.sampled_from([1, 3, 10, 40])), draw(st.sampled_from([1, 2, 8, 30]))
    spec = {
        n: None if v is None else Quantity(v, v, v, "drawn")
        for n, v in (figures | {"cores": cores}).items()
    }
    system = load_system("kapoho-point")
    system = replace(
        system, chips=Quantity(chips, chips, chips, "drawn"), chip=replace(system.chip, **spec)
    )
    asked = Request(
        draw(st.sampled_from(DRAWN_PLACERS)),
        draw(st.none() | st.integers(1, min(chips, 6))),
        draw(st.none() | st.integers(1, cores)),
        draw(st.booleans()),
        draw(st.booleans()),
        draw(st.sampled_from([None, 2, 3, 8])),
        divide=draw(st.booleans()),
        seed=draw(st.integers(0, 3)),
        in_flight=draw(st.sampled_from([1, 1, 2, 5, "fill"])),
    )
    return Case(
        draw(st.integers(0, len(MODELS) - 1)), with_weight_bits(system, asked.weight_bits), asked
    )


# Tiles in this process.


class Net:
    """A host and a tile for every chip."""

    def __init__(self, graph: Graph, mapping: Mapping, job: Job) -> None:
        self.plan, self.job = Plan(graph, mapping, by_chip), job
        rows = len(job.sequences)
        self.tallies, self.kept = tallies.allocate(graph, rows), tallies.allocate(graph, rows)
        tiles = {stretch.tile for stretch in self.plan.stretches} - {HOST}
        self.tiles = {tile: Tile(self.plan, [tile], self.tallies, self.kept) for tile in tiles}
        for tile in self.tiles.values():
            tile.restore([])
        self.sent: deque[tuple[int, Packet]] = deque()
        self.received: deque[Packet] = deque()
        self.logits = np.zeros((job.kept_from[-1], graph.vocabulary), np.int64)
        self.book = Book(graph, mapping, job, None)

    def run(self) -> "Net":
        """Run the job."""
        Host(self.plan, self.job, start_of(None), self.tallies, self.kept, self, 30).run()
        assert not self.sent
        for tile in self.tiles.values():
            tile.settle()
        return self

    def send(self, packet: Packet) -> None:
        for tile in self.plan.abroad[packet.stretch]:
            if tile == HOST:
                self.received.append(packet)
            else:
                self.sent.append((tile, packet))

    def receive(self) -> Packet:
        while not self.received:
            tile, packet = self.sent.popleft()
            self.tiles[tile].take([packet], self.send)
        return self.received.popleft()

    def arrived(self, sequence: int, position: int, logits: Ints) -> None:
        self.logits[self.job.kept_from[sequence] + position] = logits

    def chose(self, *_: int) -> None:
        pass

    def timed(self, seconds: Any) -> None:
        assert (seconds >= 0).all()

    def save(self, stands: Ints) -> None:
        raise AssertionError("a run that is not saved keeps no state")


def assert_runs(truth: tuple[Job, Result], graph: Graph, mapping: Mapping) -> None:
    """Tiles, the fast engine and the reference give the same bits; tiles and the fast engine the
    same counts."""
    asked, expected = truth
    job = replace(asked, in_flight=graph.slots)
    whole = fast.run(graph, mapping, job)
    net = Net(graph, mapping, job).run()
    logits = np.concatenate([outcome.logits for outcome in expected.outcomes])
    assert np.array_equal(np.concatenate([outcome.logits for outcome in whole.outcomes]), logits)
    assert np.array_equal(net.logits, logits)
    fed = [one.fed_for(one.new_tokens) for one in job.sequences]
    counts = [[outcome.prefill, outcome.generate] for outcome in whole.outcomes]
    assert net.book.counts(net.tallies, fed) == counts


def assert_says_what_is_short(graph: Graph, message: str) -> None:
    """Nodes of the graph, parts of them or the graph, and then at least two numbers: the need, and
    what there is."""
    who, what = message.split(": ", 1)
    named = {re.sub(r"[.]\w+[.]part\d+$", "", name) for name in re.split(", | … ", who)}
    assert named <= {node.name for node in graph.nodes} | {graph.name}, message
    assert len(re.findall(r"\b\d+\b", what)) >= 2, message


@pytest.mark.slow
def test_five_hundred_random_mappings(
    models: list[Graph], truths: list[tuple[Job, Result]], draws: Any
) -> None:
    outcomes: Counter[str] = Counter()
    drawn = draws.times * CASES

    @settings(max_examples=drawn)
    @given(cases())
    def one(case: Case) -> None:
        graph, cores = models[case.which], case.asked.cores or int(case.system.chip.cores.central)
        try:
            divided, mapping = map.place(graph, "", case.system, case.asked)
        except CapacityError as error:
            outcomes["short"] += 1
            assert_says_what_is_short(graph, str(error))
            return
        outcomes["valid"] += 1
        assert check(divided, mapping, case.system) is mapping
        outcomes["several"] += mapping.in_flight > 1
        assert mapping.in_flight == divided.slots
        assert case.asked.in_flight in ("fill", mapping.in_flight)
        assert max(place.core for place in mapping.locations) < cores
        assert case.asked.chips in (None, len(mapping.chips))
        found = gaps(divided, mapping, case.system, cores)
        for gap in (found.cores, found.chips, found.slowest_core_ns, found.messages_between_chips):
            assert gap.least is None or gap.found >= gap.least * (1 - 1e-9)
        assert (found.messages_between_chips.least is None) == bool(mapping.columns)
        if outcomes["valid"] % RUN_EVERY == 0:
            outcomes["run"] += 1
            assert_runs(truths[case.which], divided, mapping)

    one()
    assert outcomes["valid"] > drawn // 10, outcomes
    assert outcomes["short"] > drawn // 10, outcomes
    assert outcomes["several"] > drawn // 20, outcomes
    assert outcomes["run"] >= 5, outcomes
