"""Tiles that exchange packets give the bits and the counts of the fast engine, whoever holds what
and whatever comes first.

The network of these tests lives in this process: every channel from one holder of tiles to another
keeps its order, and a seeded generator decides which channel delivers next, how much, and into how
large a vector a packet goes.
"""

import random
from collections import deque
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, field, replace
from functools import lru_cache
from itertools import pairwise
from typing import Any

import numpy as np
import pytest

from mmfree_kernels.cpu import programs as cpu
from mmfree_neuro.graph import greedy
from mmfree_neuro.graph.greedy import with_greedy
from mmfree_neuro.graph.nodes import (
    Gain,
    Graph,
    InverseRms,
    MaxAbs,
    Norm,
    Quantise,
    QuantScale,
    Relay,
    block_of,
)
from mmfree_neuro.graph.partial_sums import by_columns, evenly
from mmfree_neuro.graph.slots import with_slots
from mmfree_neuro.integers.fixedpoint import Ints
from mmfree_neuro.integers.ternary import TILE
from mmfree_neuro.mapping.mapping import HOST, Location, Mapping, Shard
from mmfree_neuro.pipeline.quality import in_one_place
from mmfree_neuro.run import reference
from mmfree_neuro.run.job import Job, Outcome, Result, RunState, Saving, Stand, silent
from mmfree_neuro.run.sampling import Sampling
from mmfree_partition.route import route
from mmfree_sims import fast
from mmfree_sims.tiles import tallies
from mmfree_sims.tiles.book import Book, start_of
from mmfree_sims.tiles.host import TOGETHER, Host, stands
from mmfree_sims.tiles.packets import (
    FLAGS,
    GENERATED,
    POSITION,
    SAVE,
    SLOT,
    Packet,
    Reassembly,
    encode,
)
from mmfree_sims.tiles.plan import Plan, by_chip, by_core
from mmfree_sims.tiles.tile import Tile

TileOf = Callable[[Location], int]
CASES = 250
CHECKED_BY_THE_REFERENCE = 50
"""One in so many cases has its counts compared with the reference's, too."""


COPIED = InverseRms, Norm, Gain, MaxAbs, QuantScale, Quantise, Relay
"""Nodes of which several cores may hold the same neurons."""
OFTEN = 7, 1, 2, 1, 1, 7, 2, 2, 1, 2
"""How often each model has its turn: small ones more often, as their cases take less time."""


@pytest.fixture(autouse=True, scope="module")
def programs_recorded_once() -> Iterator[None]:
    """Thousands of stretches of a few nodes are bound here; a program is the same every time."""
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(cpu, "record", lru_cache(maxsize=None)(cpu.record))
        yield


# Models and mappings.


Divided = tuple[tuple[Graph, ...], ...]


@pytest.fixture(scope="module")
def models(random_graph: Callable[[str, str], Graph]) -> tuple[Graph, ...]:
    """Blocks 1 … 3, hidden sizes 16 … 64, all schemes, sums that
    wrap, roots after the products, for all and in every neuron, with lower bounds and without, odd
    sizes."""
    names = (
        ("16x1x24", "a16"),
        ("64x3x32", "a16"),
        ("48x1x80", "a8"),
        ("24x2x33", "a8"),
        ("48x2x80", "a16"),
        ("20x1x37-expanded", "a16"),
        ("24x2x33", "a14"),
        ("48x2x80", "wraps"),
        ("48x2x80", "a16-late"),
        ("24x2x33", "a14-local"),
    )
    return tuple(random_graph(name, scheme) for name, scheme in names)


def divided(which: int, whole: Graph) -> tuple[Graph, ...]:
    """A model, and some of its nodes divided by columns in three ways."""
    rng, found = random.Random(which), [whole]
    for _ in range(3):
        parts = []
        for node in whole.nodes:
            groups = [
                -(-entry.matrix.columns // TILE)
                for entry in node.inputs
                if entry.matrix is not None
            ]
            if groups and rng.random() < 0.5:
                parts.append((node.name, rng.randint(1, min(groups))))
        found.append(by_columns(whole, evenly(whole, tuple(parts))))
    return tuple(found)


@pytest.fixture(scope="module")
def parts(models: tuple[Graph, ...]) -> Divided:
    """Every model, whole and divided in three ways."""
    return tuple(divided(which, graph) for which, graph in enumerate(models))


@pytest.fixture(scope="module")
def several(models: tuple[Graph, ...]) -> Divided:
    """The same for two to four sequences under way at once."""
    return tuple(
        divided(which, with_slots(graph, 2 + which % 3)) for which, graph in enumerate(models)
    )


def mapped(graph: Graph, rng: random.Random) -> Mapping:
    """Nodes cut at random, and thrown onto a few cores of one to five chips.

    The head of some is on the host, and some have copies of parts of nodes that may have them.
    """
    chips, cores, most = rng.randint(1, 5), rng.randint(1, 4), rng.randint(0, 2)
    head_on_host, copies = rng.random() < 0.3, rng.choice([0, 0, 1, 3])
    shards, places = [Shard(graph.embedding.name, 0, graph.embedding.size)], [Location(HOST, 0)]
    for node in graph.nodes[1:]:
        inner = rng.sample(range(1, node.size), min(rng.randint(0, most), node.size - 1))
        for start, stop in pairwise([0, *sorted(inner), node.size]):
            shards.append(Shard(node.name, start, stop))
            on_host = head_on_host and block_of(node.name) is None
            places.append(
                Location(HOST, 0)
                if on_host
                else Location(rng.randrange(chips), rng.randrange(cores))
            )
        for _ in range(copies if isinstance(node, COPIED) and not on_host else 0):
            start = rng.choice([0, rng.randrange(node.size)])
            shards.append(Shard(node.name, start, rng.randint(start + 1, node.size)))
            places.append(Location(rng.randrange(chips), rng.randrange(cores)))
    order = rng.sample(range(len(shards)), len(shards))
    shards, places = [shards[k] for k in order], [places[k] for k in order]
    return Mapping(
        "", "", "random", tuple(shards), tuple(places), route(graph, tuple(shards), tuple(places))
    )


def asked(graph: Graph, rng: random.Random, fewest: int = 1, most: int = 5) -> Job:
    """Some prompts of 1 … 19 tokens, each continued by 0 … 4, greedily or by draws."""
    count = rng.choice([1, 1, 2, 3, 5])
    count = min(max(count, fewest), most)
    lengths = [rng.choice([1, 2, 5, 2 * TOGETHER + 3]) for _ in range(count)]
    return Job(
        [np.array([rng.randrange(graph.vocabulary) for _ in range(n)]) for n in lengths],
        [rng.randint(0, 4) for _ in lengths],
        [Sampling(rng.choice([0, 0.7, 5]), rng.randrange(9)) for _ in lengths],
    )


# The network.


@dataclass
class Holder:
    """Some tiles in one place, what they await, and what has come."""

    tiles: frozenset[int]
    tile: Tile
    packets: Reassembly
    arrived: list[Packet] = field(default_factory=list)


class Net:
    """A host and holders of tiles; `workers` says which tiles lie together."""

    def __init__(
        self,
        graph: Graph,
        mapping: Mapping,
        job: Job,
        tile_of: TileOf,
        workers: int,
        seed: int,
        *,
        room: int = 64,
        saving: Saving | None = None,
    ) -> None:
        self.random, self.room = random.Random(seed), room
        self.job, self.plan = job, Plan(graph, mapping, tile_of)
        count = len(job.sequences)
        self.tallies, self.kept = tallies.allocate(graph, count), tallies.allocate(graph, count)
        start = start_of(saving)
        if start.fed:
            assert saving is not None and saving.resumed is not None
            self.tallies.load_states(saving.resumed.states)
        self.holders = self.held_by(workers, start.fed)
        self.holder_of = {
            tile: name for name, holder in self.holders.items() for tile in holder.tiles
        }
        self.for_host = Reassembly(self.plan, self.plan.read_by(HOST))
        self.channels: dict[tuple[int, int], deque[Any]] = {}
        self.received: deque[Packet] = deque()
        fed = [asked.fed_for(asked.new_tokens) for asked in job.sequences]
        self.logits = [np.zeros((tokens, graph.vocabulary), np.int64) for tokens in fed]
        self.book, self.clock, self.saved_at = Book(graph, mapping, job, saving), np.zeros(2), []
        self.chosen = self.book.chosen()
        self.host = Host(
            self.plan, job, start, self.tallies, self.kept, self, self.random.randint(1, 30)
        )

    def held_by(self, workers: int, fed: list[int]) -> dict[int, Holder]:
        """The tiles dealt at random to at most so many workers."""
        hands: dict[int, set[int]] = {}
        for tile in sorted({stretch.tile for stretch in self.plan.stretches} - {HOST}):
            hands.setdefault(self.random.randrange(workers), set()).add(tile)
        found = {}
        for name, tiles in hands.items():
            tile = Tile(self.plan, tiles, self.tallies, self.kept)
            tile.restore(fed)
            found[name] = Holder(frozenset(tiles), tile, Reassembly(self.plan, tile.wanted))
        return found

    def run(self) -> "Net":
        """Run the job; then nothing must be on its way or half taken."""
        self.host.run()
        for holder in self.holders.values():
            holder.tile.settle()
            assert not holder.packets.parts
        for tile in (self.host.terminal.tile, *(holder.tile for holder in self.holders.values())):
            assert not any(a.packets for firing in tile.firings for a in firing.arrivals.values())
        assert not any(self.channels.values())
        return self

    @property
    def outcomes(self) -> tuple[Outcome, ...]:
        """What came of every sequence; of logits those that came here, and zero before them."""
        self.book.job = replace(self.job, keep_logits=True)  # they are kept here in any case
        where = stands(self.host.seats.walks)
        return self.book.outcomes(self.tallies, where, self.chosen, np.concatenate(self.logits))

    def post(self, sender: int, packet: Packet) -> None:
        """Put the vectors of a packet into the channel to everybody else who reads it."""
        readers = {
            HOST if tile == HOST else self.holder_of[tile]
            for tile in self.plan.abroad[packet.stretch]
        }
        for reader in sorted(readers - ({sender} if sender != HOST else set())):
            self.channels.setdefault((sender, reader), deque()).extend(encode(packet, self.room))

    def deliver(self) -> None:
        """Some vectors of some channel arrive."""
        sender, reader = self.random.choice(
            [key for key, vectors in self.channels.items() if vectors]
        )
        vectors = self.channels[sender, reader]
        packets = self.for_host if reader == HOST else self.holders[reader].packets
        count = self.random.randint(1, len(vectors))
        found = [
            packet
            for packet in (packets.take(vectors.popleft()) for _ in range(count))
            if packet is not None
        ]
        if reader == HOST:
            self.received.extend(found)
        else:
            self.holders[reader].tile.take(found, lambda packet: self.post(reader, packet))

    # What the host sees of it.

    def send(self, packet: Packet) -> None:
        self.post(HOST, packet)

    def receive(self) -> Packet:
        while not self.received:
            self.deliver()
        return self.received.popleft()

    def arrived(self, sequence: int, position: int, logits: Ints) -> None:
        self.logits[sequence][position] = logits

    def chose(self, sequence: int, number: int, token: int) -> None:
        self.chosen[self.job.chosen_from[sequence] + number] = token

    def timed(self, seconds: Any) -> None:
        self.clock[:] = seconds

    def save(self, stands: Ints) -> None:
        self.saved_at.append(int(stands[:, 1].sum()))
        self.book.save(self.kept, stands, self.chosen, self.clock)


def assignment(mapping: Mapping, rng: random.Random) -> TileOf:
    """Every chip a tile, every core a tile, or the chips dealt to ranks that are a tile each."""
    ranks = {chip: rng.randrange(3) for chip in mapping.chips}
    return rng.choice([by_chip, by_core(mapping), lambda place: ranks.get(place.chip, HOST)])


class Uncounted(reference.Reference):
    """The reference's bits alone."""

    def count(self, *_: object) -> None:
        pass


def bits_of_the_reference(graph: Graph, job: Job, outcomes: Sequence[Outcome]) -> list[np.ndarray]:
    """The logits of the reference that is fed each prompt and what was chosen."""
    session, found = Uncounted(graph, Mapping("", "", "", (), (), ())), []
    for asked, outcome in zip(job.sequences, outcomes, strict=True):
        session.reset()
        found.append(session.feed(np.concatenate([asked.tokens, outcome.chosen[:-1]])))
    return found


def one_by_one(
    run: Callable[[Graph, Mapping, Job], Result], graph: Graph, mapping: Mapping, job: Job
) -> list[Outcome]:
    """What comes of the sequences of a job, each in a job of its own."""
    found = []
    for asked in job.sequences:
        alone = Job([asked.tokens], asked.new_tokens, asked.sampling, stop=job.stop)
        found += run(graph, mapping, alone).outcomes
    return found


def assert_same_outcomes(
    found: Sequence[Outcome], expected: Sequence[Outcome], stands: Sequence[Stand] = ()
) -> None:
    """The logits behind what had been fed in a run that was gone on with, and all else."""
    assert len(found) == len(expected)
    before = [stand.fed for stand in stands] or [0] * len(found)
    for one, other, fed in zip(found, expected, before, strict=True):
        assert one.logits.shape == other.logits.shape
        assert np.array_equal(one.logits[fed:], other.logits[fed:])
        assert not one.logits[:fed].any()
        assert one.chosen.tolist() == other.chosen.tolist()
        assert (one.prefill, one.generate) == (other.prefill, other.generate)


def differing_bits(a: np.ndarray, b: np.ndarray) -> int:
    """How many bits of two arrays of integers differ."""
    assert a.shape == b.shape
    assert a.dtype == b.dtype == np.int64
    return int(np.unpackbits((a ^ b).view(np.uint8)).sum())


@pytest.mark.slow
@pytest.mark.parametrize("seed", [2026, 2027])
def test_hundreds_of_random_cases_give_the_same_bits(
    seed: int, models: tuple[Graph, ...], parts: Divided, several: Divided, draws: Any
) -> None:
    """Random mappings, numbers of workers, orders of messages and sizes of vectors; several jobs
    for every model.

    Half of the graphs are divided by columns; their bits are still those of the whole.  Half have
    slots for several sequences, which are under way at once; each gives what it gives alone.
    """
    cases, rng = draws.times * CASES, random.Random(draws.seed(seed))
    compared, differing, by_reference, together = 0, 0, 0, 0
    jobs = [[asked(graph, rng) for _ in range(5)] for graph in models]
    known: dict[int, list[np.ndarray]] = {}
    for number in range(cases):
        which = rng.choices(range(len(jobs)), OFTEN)[0]
        job = rng.choice(jobs[which])
        graphs = several[which] if rng.random() < 0.5 else parts[which]
        graph = rng.choice(graphs) if number % 2 else graphs[0]
        mapping = mapped(graph, rng)
        workers, room = rng.randint(1, 8), rng.choice([13, 100, 1 << 20, 1 << 20])
        asking = replace(job, in_flight=rng.randint(1, graph.slots))
        together += min(asking.in_flight, len(job.sequences)) > 1
        tiles = assignment(mapping, rng)
        found = Net(graph, mapping, asking, tiles, workers, number, room=room).run().outcomes
        expected = one_by_one(fast.run, graph, mapping, job)
        if id(job) not in known:
            known[id(job)] = bits_of_the_reference(models[which], job, expected)
        for one, other, bits in zip(found, expected, known[id(job)], strict=True):
            differing += differing_bits(one.logits, other.logits)
            differing += differing_bits(other.logits, bits)
            differing += differing_bits(one.chosen, other.chosen)
            assert one.prefill == other.prefill, f"case {number}"
            assert one.generate == other.generate, f"case {number}"
        if number % CHECKED_BY_THE_REFERENCE == 0:
            assert_same_outcomes(found, one_by_one(reference.run, graph, mapping, job))
            by_reference += 1
        assert differing == 0, f"case {number}"
        compared += 1
    assert together > cases // 8
    assert (compared, differing, by_reference) == (cases, 0, cases // CHECKED_BY_THE_REFERENCE)


@pytest.mark.slow
@pytest.mark.parametrize("which", range(len(OFTEN)))
def test_tiles_choose_the_words_that_the_host_would_choose(
    which: int, models: tuple[Graph, ...], monkeypatch: pytest.MonkeyPatch
) -> None:
    """Random mappings of the nodes behind the head, too, on as many levels as can be."""
    monkeypatch.setattr(greedy, "MOST_LOGITS", 5)
    monkeypatch.setattr(greedy, "MOST_VALUES", 3)
    rng, whole = random.Random(which), with_slots(models[which], 3)
    graph = rng.choice(divided(which, with_greedy(whole)))
    for number in range(6):
        mapping, job = mapped(graph, rng), replace(asked(graph, rng), sampling=Sampling())
        asking = replace(job, in_flight=rng.randint(1, 3), keep_logits=False)
        workers, room = rng.randint(1, 8), rng.choice([13, 100, 1 << 20])
        tiles = assignment(mapping, rng)
        net = Net(graph, mapping, asking, tiles, workers, number, room=room)
        found = net.run().outcomes
        expected = fast.run(graph, mapping, asking).outcomes
        on_host = fast.run(whole, in_one_place(whole), job).outcomes
        for one, same, other in zip(found, expected, on_host, strict=True):
            assert one.chosen.tolist() == same.chosen.tolist() == other.chosen.tolist()
            assert (one.prefill, one.generate) == (same.prefill, same.generate)


# Saving and resuming.


def states_of(
    run: Callable[[Saving], Any], every: int, resumed: RunState | None = None
) -> tuple[list[RunState], Any]:
    """What a run writes every so many tokens, and its result."""
    written: list[RunState] = []
    return written, run(Saving(every, written.append, resumed))


def assert_same_state(a: RunState, b: RunState) -> None:
    for one, other in zip(a.stands, b.stands, strict=True):
        assert one.fed == other.fed
        assert one.slot == other.slot
        assert one.chosen.tolist() == other.chosen.tolist()
        assert (one.prefill, one.generate) == (other.prefill, other.generate)
    assert list(a.states) == list(b.states)
    assert all(np.array_equal(a.states[name], b.states[name]) for name in a.states)


@pytest.mark.slow
@pytest.mark.parametrize("which", range(6))
def test_states_are_those_of_the_fast_engine_and_runs_go_on_from_them(
    which: int, parts: Divided, several: Divided
) -> None:
    """Every state of a run that is saved at some interval, whatever is on its way meanwhile, and
    the rest from it."""
    rng = random.Random(which)
    for number in range(6):
        graph = rng.choice([parts, several])[which][number % 4]
        mapping, length = mapped(graph, rng), rng.choice([1, 4, 9, 2 * TOGETHER + 2])
        tokens = np.array([[rng.randrange(graph.vocabulary) for _ in range(length)]])
        job = Job(tokens, rng.randint(2, 5), Sampling(rng.choice([0, 2]), 7), keep_logits=False)
        every = rng.choice([1, 2, 3, 7, length, length + 1])

        def spread(
            saving: Saving,
            graph: Graph = graph,
            job: Job = job,
            mapping: Mapping = mapping,
            number: int = number,
        ) -> Net:
            room, tiles = rng.choice([13, 100, 1 << 20]), assignment(mapping, rng)
            return Net(
                graph, mapping, job, tiles, rng.randint(1, 8), number, room=room, saving=saving
            ).run()

        def alone(
            saving: Saving, graph: Graph = graph, job: Job = job, mapping: Mapping = mapping
        ) -> Any:
            return fast.run(graph, mapping, job, silent, saving)

        expected = fast.run(graph, mapping, replace(job, keep_logits=True)).outcomes
        wanted, _ = states_of(alone, every)
        written, whole = states_of(spread, every)
        end = job.sequences[0].fed_for(job.to_choose)
        assert whole.saved_at == [fed for fed in range(1, end) if fed % every == 0]
        assert [state.fed for state in wanted] == whole.saved_at
        assert_same_outcomes(whole.outcomes, expected)
        for one, other in zip(written, wanted, strict=True):
            assert_same_state(one, other)
        for at in {0, len(written) // 2, len(written) - 1} if written else ():
            state = rng.choice([written, wanted])[at]
            later, rest = states_of(spread, every, state)
            assert_same_outcomes(rest.outcomes, expected, state.stands)
            for one, other in zip(later, wanted[at + 1 :], strict=True):
                assert_same_state(one, other)


@pytest.mark.slow
@pytest.mark.parametrize("which", range(len(OFTEN)))
def test_several_sequences_are_saved_and_gone_on_with(which: int, several: Divided) -> None:
    """At once and one after another, from every state that tiles or another engine have written;
    some of them end at a token."""
    rng = random.Random(which)
    for number in range(4):
        graph = several[which][number % 4]
        mapping, drawn = mapped(graph, rng), asked(graph, rng, 2)
        expected = one_by_one(fast.run, graph, mapping, drawn)
        if number % 2:
            tokens = [token for one in expected for token in one.chosen.tolist()]
            drawn = replace(drawn, stop=(rng.choice([*tokens, 0]),))
            expected = one_by_one(fast.run, graph, mapping, drawn)
        end, every = sum(len(one.logits) for one in expected), rng.choice([1, 2, 3, 7])
        job = replace(drawn, keep_logits=False, in_flight=rng.randint(1, graph.slots))

        def spread(
            saving: Saving,
            graph: Graph = graph,
            job: Job = job,
            mapping: Mapping = mapping,
            number: int = number,
        ) -> Net:
            room, tiles = rng.choice([13, 100, 1 << 20]), assignment(mapping, rng)
            return Net(
                graph, mapping, job, tiles, rng.randint(1, 8), number, room=room, saving=saving
            ).run()

        def elsewhere(
            saving: Saving, graph: Graph = graph, job: Job = job, mapping: Mapping = mapping
        ) -> Any:
            return rng.choice([fast, fast, reference]).run(graph, mapping, job, silent, saving)

        written, whole = states_of(spread, every)
        assert_same_outcomes(whole.outcomes, expected)
        assert whole.saved_at == [fed for fed in range(1, end) if fed % every == 0]
        theirs, result = states_of(elsewhere, every)
        assert [state.fed for state in written] == [state.fed for state in theirs] == whole.saved_at
        for states in (written, theirs):
            for state in rng.sample(states, min(4, len(states))):
                later, rest = states_of(spread, every, state)
                assert_same_outcomes(rest.outcomes, expected, state.stands)
                assert [one.fed for one in later] == [at for at in whole.saved_at if at > state.fed]
                _, result = states_of(elsewhere, 0, state)
                for one, other in zip(result.outcomes, expected, strict=True):
                    assert one.chosen.tolist() == other.chosen.tolist()
                    assert (one.prefill, one.generate) == (other.prefill, other.generate)


@pytest.mark.slow
@pytest.mark.parametrize("which", range(3))
def test_states_of_sequences_one_after_another_are_those_of_the_fast_engine(
    which: int, parts: Divided, several: Divided
) -> None:
    """Where one sequence is under way at a time, all engines feed the same tokens in the same
    order."""
    rng = random.Random(which)
    for graph in (parts[which][which], several[which][which]):
        mapping, job = mapped(graph, rng), replace(asked(graph, rng, 3), keep_logits=False)
        wanted: list[RunState] = []
        fast.run(graph, mapping, job, silent, Saving(2, wanted.append))
        written: list[RunState] = []
        saving = Saving(2, written.append)
        Net(graph, mapping, job, assignment(mapping, rng), 3, which, saving=saving).run()
        for one, other in zip(written, wanted, strict=True):
            assert_same_state(one, other)


def test_a_run_that_goes_on_for_longer(models: tuple[Graph, ...]) -> None:
    """A state that is saved of a shorter run is that of a longer one."""
    rng, graph = random.Random(5), models[0]
    mapping, short = (
        mapped(graph, rng),
        Job(np.array([[3, 1, 4, 1, 5]]), 3, Sampling(2, 1), keep_logits=False),
    )
    written, _ = states_of(
        lambda saving: Net(graph, mapping, short, by_chip, 3, 0, saving=saving).run(), 1
    )
    longer = replace(short, new_tokens=9)
    expected = fast.run(graph, mapping, replace(longer, keep_logits=True)).outcomes
    assert [state.fed for state in written] == [1, 2, 3, 4, 5, 6]
    for state in written:
        saving = Saving(0, lambda _: None, state)
        rest = Net(graph, mapping, longer, by_core(mapping), 3, 1, saving=saving).run()
        assert_same_outcomes(rest.outcomes, expected, state.stands)


# By hand.


@pytest.fixture
def two_slots(hand_graph: Graph) -> Graph:
    """The graph made by hand, for two sequences under way at once."""
    embedding = replace(hand_graph.embedding, slots=2)
    return replace(hand_graph, nodes=(embedding, *hand_graph.nodes[1:]))


def a_packet(token: int, tokens: int, *, sequence: int = 0, flags: int = 0) -> Packet:
    """What the embedding of the graph made by hand sends for words 0, 1, 0, 1 …; the last token has
    the flag SAVE, if any has."""
    words = np.array([[3, -5, 7], [-1, 0, -2]], np.int32)[(token + np.arange(tokens)) % 2]
    labels = np.array([[sequence, token + k, flags & GENERATED, 0] for k in range(tokens)])
    labels[-1, FLAGS] = flags
    return Packet(labels.astype(np.int32), 0, {"x": words, "sq": words**2})


def told(packet: Packet) -> tuple[int, int, int, int]:
    """Of a packet of one sequence in slot 0: the sequence, its first token, how many tokens, and
    the flags of the last one."""
    sequence, token, _, _ = packet.labels[0].tolist()
    flags = int(packet.labels[-1, FLAGS])
    same = a_packet(token, packet.tokens, sequence=sequence, flags=flags)
    assert packet.labels.tolist() == same.labels.tolist()
    return sequence, token, packet.tokens, flags


@pytest.fixture
def tile(hand_graph: Graph, hand_mapping: Mapping) -> Tile:
    """Chip 0 with both rows of the head, in one stretch."""
    plan = Plan(hand_graph, hand_mapping, by_chip)
    return Tile(plan, [0], tallies.allocate(hand_graph, 2), tallies.allocate(hand_graph, 2))


def taken(tile: Tile, *packets: Packet) -> list[Packet]:
    """What a tile sends after some packets."""
    sent: list[Packet] = []
    tile.take(packets, sent.append)
    return sent


def test_a_tile_by_hand(tile: Tile) -> None:
    assert [firing.stretch.node for firing in tile.firings] == ["head"]
    assert tile.wanted == {0}
    first, second = taken(tile, a_packet(0, 3)), taken(tile, a_packet(3, 1, flags=GENERATED))
    logits = [[12, 3], [-1, -3], [12, 3], [-1, -3]]
    assert [(*told(packet), packet.stretch) for packet in first] == [(0, 0, 3, 0, 1)]
    assert [(*told(packet), packet.stretch) for packet in second] == [(0, 3, 1, GENERATED, 1)]
    assert first[0].sent["logits"].tolist() == logits[:3]
    assert second[0].sent["logits"].tolist() == logits[3:]
    tile.settle()
    counts = tile.firings[0].tallies.events
    assert counts[:, 6:].tolist() == [[3, 3], [1, 1], [0, 0], [0, 0]]
    assert not counts[:, :6].any()


def test_packets_that_came_together_fire_together(tile: Tile) -> None:
    """At most so many, and none behind one whose states are kept: a state that is kept is that
    right after its token."""
    sent = taken(tile, a_packet(0, 2), a_packet(2, 4, flags=SAVE), a_packet(6, 30))
    assert [told(packet) for packet in sent] == [(0, 0, 6, SAVE), (0, 6, 16, 0), (0, 22, 14, 0)]
    firing, none = tile.firings[0], [[0, 0]] * 3
    assert firing.kept.events[:, 6:].tolist() == [[6, 6], *none]
    tile.settle()
    assert firing.tallies.events[:, 6:].tolist() == [[36, 36], *none]


def test_another_sequence_begins_with_its_own_counts(tile: Tile) -> None:
    first = taken(tile, a_packet(0, 2))
    second = taken(tile, a_packet(0, 1, sequence=1), a_packet(1, 1, sequence=1))
    assert [told(packet) for packet in (*first, *second)] == [(0, 0, 2, 0), (1, 0, 2, 0)]
    assert tile.firings[0].tallies.events[:, 6:].tolist() == [[2, 2], *[[0, 0]] * 3]
    tile.settle()
    assert tile.firings[0].tallies.events[:, 6:].tolist() == [[2, 2], [0, 0], [2, 2], [0, 0]]


def test_tokens_of_two_sequences_fire_together(two_slots: Graph, hand_mapping: Mapping) -> None:
    plan, both = Plan(two_slots, hand_mapping, by_chip), [tallies.allocate(two_slots, 2)] * 2
    tile = Tile(plan, [0], *both)
    one, other = a_packet(0, 2), a_packet(0, 1, sequence=1)
    other.labels[:, SLOT] = 1
    (sent,) = taken(tile, one, other)
    assert sent.labels.tolist() == [[0, 0, 0, 0], [0, 1, 0, 0], [1, 0, 0, 1]]
    assert sent.sent["logits"].tolist() == [[12, 3], [-1, -3], [12, 3]]
    tile.settle()
    assert both[0].events[:, 6:].tolist() == [[2, 2], [0, 0], [1, 1], [0, 0]]


@pytest.mark.parametrize(
    ("before", "packet", "message"),
    [
        ([], a_packet(1, 2), "head: token 1 of sequence 0 came out of order"),
        ([a_packet(0, 2)], a_packet(3, 1), "head: token 3 of sequence 0 came out of order"),
        (
            [a_packet(0, 2)],
            a_packet(1, 1, flags=GENERATED),
            "head: token 1 of sequence 0 came out of order",
        ),
        (
            [a_packet(0, 2)],
            a_packet(2, 1, sequence=1),
            "head: token 2 of sequence 1 came out of order",
        ),
    ],
)
def test_a_token_out_of_order(
    before: list[Packet], packet: Packet, message: str, tile: Tile
) -> None:
    taken(tile, *before)
    with pytest.raises(RuntimeError) as error:
        taken(tile, packet)
    assert str(error.value) == message


def test_a_tile_goes_on_where_a_run_was_saved(tile: Tile) -> None:
    tile.restore([5, 2])
    assert [told(packet) for packet in taken(tile, a_packet(5, 2))] == [(0, 5, 2, 0)]
    assert [told(packet) for packet in taken(tile, a_packet(2, 1, sequence=1))] == [(1, 2, 1, 0)]
    tile.restore([5])
    with pytest.raises(RuntimeError) as error:
        taken(tile, a_packet(4, 1))
    assert str(error.value) == "head: token 4 of sequence 0 came out of order"


class Paper:
    """A wire to a head of two rows that answers at once, token by token; writes down what the host
    does."""

    def __init__(self, graph: Graph) -> None:
        self.graph, self.sent, self.answers, self.said = graph, [], deque(), []

    def send(self, packet: Packet) -> None:
        self.sent.append(packet.labels.tolist() if self.graph.slots > 1 else told(packet))
        for label in packet.labels:
            odd = label[POSITION] % 2
            logits = np.array([[odd, 1 - odd]], np.int32)
            self.answers.append(Packet(label[None], 1, {"logits": logits}))

    def receive(self) -> Packet:
        return self.answers.popleft()

    def arrived(self, sequence: int, position: int, logits: Ints) -> None:
        self.said.append(("arrived", sequence, position, *logits.tolist()))

    def chose(self, sequence: int, number: int, token: int) -> None:
        self.said.append(("chose", sequence, number, token))

    def timed(self, seconds: Any) -> None:
        assert (seconds >= 0).all()

    def save(self, stands: Ints) -> None:
        self.said.append(("save", *map(tuple, stands.tolist())))


def hosted(
    graph: Graph, mapping: Mapping, job: Job, saving: Saving | None = None, in_flight: int = 30
) -> Paper:
    paper, start = Paper(graph), start_of(saving)
    both = [tallies.allocate(graph, len(job.sequences)) for _ in range(2)]
    Host(Plan(graph, mapping, by_chip), job, start, *both, paper, in_flight).run()
    return paper


def test_a_host_by_hand(hand_graph: Graph, hand_mapping: Mapping) -> None:
    paper = hosted(hand_graph, hand_mapping, Job(np.array([[0, 1, 1], [1, 0, 0]]), 2))
    assert paper.sent == [(0, 0, 3, 0), (0, 3, 1, GENERATED), (1, 0, 3, 0), (1, 3, 1, GENERATED)]
    # Odd tokens have [1, 0] for logits, even ones [0, 1].
    assert paper.said[:6] == [
        ("arrived", 0, 0, 0, 1),
        ("arrived", 0, 1, 1, 0),
        ("arrived", 0, 2, 0, 1),
        ("chose", 0, 0, 1),
        ("arrived", 0, 3, 1, 0),
        ("chose", 0, 1, 0),
    ]
    assert len(paper.said) == 12


def test_a_host_of_two_sequences_by_hand(two_slots: Graph, hand_mapping: Mapping) -> None:
    """Of three sequences two are under way; the third takes the slot of the one that ends first.

    Where states are kept, a sequence that waits has no slot, nor has one that has ended.
    """
    job = Job([np.array([0, 1, 1]), np.array([1, 0]), np.array([1])], [3, 1, 0], in_flight=2)
    paper = hosted(two_slots, hand_mapping, job)
    assert paper.sent == [
        [[0, 0, 0, 0], [0, 1, 0, 0], [0, 2, 0, 0], [1, 0, 0, 1], [1, 1, 0, 1]],
        [[0, 3, GENERATED, 0]],
        [[2, 0, 0, 1]],
        [[0, 4, GENERATED, 0]],
    ]
    # Odd tokens have [1, 0] for logits, even ones [0, 1].
    assert [said for said in paper.said if said[0] == "chose"] == [
        ("chose", 0, 0, 1),
        ("chose", 1, 0, 0),
        ("chose", 0, 1, 0),
        ("chose", 0, 2, 1),
    ]
    job = replace(job, keep_logits=False)
    paper = hosted(two_slots, hand_mapping, job, Saving(3, lambda _: None))
    assert paper.sent == [
        [[0, 0, 0, 0], [0, 1, 0, 0], [0, 2, SAVE, 0]],
        [[1, 0, 0, 1], [1, 1, 0, 1]],
        [[0, 3, GENERATED | SAVE, 0]],
        [[2, 0, 0, 1]],
        [[0, 4, GENERATED, 0]],
    ]
    assert [said for said in paper.said if said[0] == "save"] == [
        ("save", (0, 3, 1), (-1, 0, 0), (-1, 0, 0)),
        ("save", (0, 4, 2), (-1, 2, 1), (-1, 0, 0)),
    ]


class Silent(Paper):
    """A wire to nobody: all is on the host."""

    def send(self, packet: Packet) -> None:
        self.sent.append(told(packet))


def test_a_host_with_the_head_by_hand(hand_graph: Graph, hand_mapping: Mapping) -> None:
    """EmbeddingNeurons [3, -5, 7] and [-1, 0, -2] have the logits [12, 3] and [-1, -3]: after
    either, word 0 is chosen."""
    mapping = replace(hand_mapping, locations=(Location(HOST, 0),) * 3)
    paper, both = Silent(hand_graph), [tallies.allocate(hand_graph, 1) for _ in range(2)]
    host = Host(
        Plan(hand_graph, mapping, by_chip),
        Job(np.array([[1, 0, 1]]), 2),
        start_of(Saving(2, lambda _: None)),
        *both,
        paper,
        30,
    )
    host.run()
    assert paper.sent == [(0, 0, 2, SAVE), (0, 2, 1, 0), (0, 3, 1, GENERATED | SAVE)]
    assert paper.said == [
        ("arrived", 0, 0, -1, -3),
        ("arrived", 0, 1, 12, 3),
        ("save", (0, 2, 0)),
        ("arrived", 0, 2, -1, -3),
        ("chose", 0, 0, 0),
        ("arrived", 0, 3, 12, 3),
        ("chose", 0, 1, 0),
    ]
    assert both[0].events.tolist() == [[3, 1, 3, 3, 1, 3, 3, 3], [1] * 8]
    # What is kept behind the last token is not taken.
    assert both[1].events.tolist() == both[0].events.tolist()
    assert host.totals().tolist() == [20 + 8, 0]


def test_a_prompt_goes_in_packets_around_the_tokens_whose_states_are_kept(
    hand_graph: Graph, hand_mapping: Mapping
) -> None:
    job = Job(np.zeros((1, 21), np.int64), 4, keep_logits=False)
    assert hosted(hand_graph, hand_mapping, job).sent[:3] == [
        (0, 0, 8, 0),
        (0, 8, 8, 0),
        (0, 16, 5, 0),
    ]
    paper = hosted(hand_graph, hand_mapping, job, Saving(10, lambda _: None))
    assert paper.sent == [
        (0, 0, 8, 0),
        (0, 8, 2, SAVE),
        (0, 10, 8, 0),
        (0, 18, 1, 0),
        (0, 19, 1, SAVE),
        (0, 20, 1, 0),
        (0, 21, 1, GENERATED),
        (0, 22, 1, GENERATED),
        (0, 23, 1, GENERATED),
    ]
    assert [said for said in paper.said if said[0] == "save"] == [
        ("save", (0, 10, 0)),
        ("save", (0, 20, 0)),
    ]
    every = hosted(hand_graph, hand_mapping, job, Saving(1, lambda _: None))
    flags = [SAVE] * 21 + [SAVE | GENERATED] * 3
    assert every.sent == [(0, token, 1, flag) for token, flag in enumerate(flags)]
    saved = [said[1][1] for said in every.said if said[0] == "save"]
    assert saved == [*range(1, 24)]  # nothing is taken of the end


def test_a_state_is_taken_before_the_next_is_kept(hand_graph: Graph, hand_mapping: Mapping) -> None:
    """However many tokens may be under way."""
    job = Job(np.zeros((1, 20), np.int64), keep_logits=False)
    kept: list[int] = []

    class Watched(Paper):
        def send(self, packet: Packet) -> None:
            if packet.labels[-1, FLAGS] & SAVE:
                kept.append(packet.labels[-1, POSITION] + 1)
                assert len(kept) == 1, "two states are under way"
            super().send(packet)

        def save(self, stands: Ints) -> None:
            assert kept == stands[:, 1].tolist()
            kept.clear()

    for every in (1, 2, 3, 9):
        kept.clear()
        paper = Watched(hand_graph)
        both = tallies.allocate(hand_graph, 1), tallies.allocate(hand_graph, 1)
        start = start_of(Saving(every, lambda _: None))
        Host(Plan(hand_graph, hand_mapping, by_chip), job, start, *both, paper, 100).run()
        assert sum(tokens for _, _, tokens, _ in paper.sent) == 20


def test_no_more_tokens_are_under_way_than_may_be(hand_graph: Graph, hand_mapping: Mapping) -> None:
    under_way: list[int] = []

    class Watched(Paper):
        def send(self, packet: Packet) -> None:
            under_way.append(under_way[-1] + packet.tokens)
            super().send(packet)

        def arrived(self, *_: object) -> None:
            under_way.append(under_way[-1] - 1)

    job, plan = Job(np.zeros((1, 90), np.int64)), Plan(hand_graph, hand_mapping, by_chip)
    for in_flight in (30, 6, 1):
        under_way[:] = [0]
        both = tallies.allocate(hand_graph, 1), tallies.allocate(hand_graph, 1)
        Host(plan, job, start_of(None), *both, Watched(hand_graph), in_flight).run()
        assert under_way[-1] == 0
        assert max(under_way) <= in_flight


@pytest.mark.slow
@pytest.mark.parametrize("which", range(6))
def test_a_token_ends_a_run_on_tiles_as_on_the_fast_engine(which: int, parts: Divided) -> None:
    """Whatever is saved meanwhile, and from whatever state it goes on."""
    rng = random.Random(which)
    for number in range(4):
        graph = parts[which][number % 4]
        mapping, length = mapped(graph, rng), rng.choice([1, 4, 2 * TOGETHER + 2])
        tokens = np.array([[rng.randrange(graph.vocabulary) for _ in range(length)]])
        job = Job(tokens, 6, Sampling(5, 7), keep_logits=False)
        stop = fast.run(graph, mapping, job).chosen[0, rng.randrange(6)]
        job = replace(job, stop=(int(stop),))
        wanted: list[RunState] = []
        fast.run(graph, mapping, job, silent, Saving(1, wanted.append))
        expected = fast.run(graph, mapping, replace(job, keep_logits=True)).outcomes
        assert expected[0].chosen[-1] == stop
        for state in (None, *wanted):
            written: list[RunState] = []
            saving = Saving(rng.choice([1, 2, 5]), written.append, state)
            tiles = assignment(mapping, rng)
            net = Net(graph, mapping, job, tiles, rng.randint(1, 8), number, saving=saving).run()
            assert net.host.seats.walks[0].end == len(expected[0].logits)
            assert_same_outcomes(net.outcomes, expected, () if state is None else state.stands)
            for one in written:
                assert_same_state(one, wanted[one.fed - 1])
