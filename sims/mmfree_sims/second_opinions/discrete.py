"""A discrete-event simulation of a mapping, to check the formulas of `mmfree_neuro.cost.timing` on
small cases.

It knows what the formulas leave out: what waits for what.  Every core is one server for each of its
resources, every link of a mesh and every link between chips (each direction, and each chip's way
from and to the host) is one more.  A server does one thing at a time, in the order in which things
reach it, and takes what the chip's central figures say; queues have no limit.  The host computes in
no time.  Every payload is sent, as in `activity.expected`.

A shard that has all its inputs for a token takes the time of its instructions, and then sends its
payloads one after another, each once for every core that it goes to.  A payload branches on its way
as `mmfree_neuro.mapping.trees` says, and passes a link at most once.  At a core it takes the time
of an arrival, and then, side by side, that of the synapses that its readers there read and of their
synaptic operations (those of a shard spread evenly over its synapses).

With a barrier, what has arrived waits in the core for the step of the shard that reads it, as
`timing.load` counts it, and a step ends when nothing is under way.  At a step of a token that falls
through, a core first visits its neurons that have no token, and their guards take the time of their
instructions.  So every full step of a pipeline is the same, and so is every token that falls
through; one is simulated.  Of interleaved sequences all steps of the machine are, until the first
token is where it began.  Without a barrier, tokens follow each other through the queues, and a
new one leaves the host whenever one has been finished: in generation one is under way, in prefill
twice as many as a full pipeline has.

Payloads that go the same way can travel in bundles, for speed.  A bundle holds every server as long
as its payloads do one after another, so no server works more or less for it, but it moves on only
when it is whole: a way of n servers takes it up to n times as long as its payloads one by one, so
results come out too slow as a rule.

SimPy (`pip install simpy`, MIT) keeps the clock; it is imported here alone, and only when something
is simulated.
"""

import importlib
from collections import Counter
from collections.abc import Callable
from dataclasses import dataclass
from functools import partial
from itertools import pairwise
from typing import Any

from mmfree_neuro.cost.load import BETWEEN, MESH, PER_CORE, words_per_synapse
from mmfree_neuro.cost.timing import barrier
from mmfree_neuro.errors import EngineError, InputError
from mmfree_neuro.graph.nodes import Graph, span
from mmfree_neuro.graph.summary import summarise
from mmfree_neuro.mapping.mapping import HOST, Location, Mapping
from mmfree_neuro.mapping.trees import chip_path
from mmfree_neuro.run.activity import expected
from mmfree_neuro.systems.spec import SystemSpec

Server = tuple[str, tuple[int, ...]]
"""A resource by its name in `timing`, and where: (chip, core), (chip, core, core) on a mesh, or
(chip, chip)."""


@dataclass(frozen=True)
class _Router:
    """A router of a chip's mesh."""

    chip: int
    number: int


Way = dict[Location | _Router, dict[Location | _Router, Server | None]]
"""A tree of links: from every place, the next ones and the links to them."""
Then = Callable[[], None]
HOST_CORE = Location(HOST, 0)
INSTRUCTIONS, SYNOPS, WORDS, SENT, ARRIVED = PER_CORE
CROSSING, FROM_OR_TO_HOST = BETWEEN
PIPELINES = 2
"""How many pipelines the tokens under way would fill in prefill without a barrier."""
ROUNDS = 3
"""How often, at least, these tokens must be replaced to find a steady state."""


@dataclass(frozen=True)
class Outcome:
    """What a simulation took."""

    mode: str
    seconds_per_token: float
    """In steady state: in prefill without a barrier, the mean over the second half of the tokens
    that were finished while others still came in."""
    seconds: float
    """From the start of the first token to the end of the last, of those that were simulated."""
    tokens: int
    """How many were simulated; with a barrier one, or one step of a full pipeline, or one of each
    sequence."""
    steps: tuple[float, ...]
    """Seconds of every step before its barrier: all of a token that falls through, the first of
    them the host's, or of the machine meanwhile; one of a pipeline; none without a barrier."""
    busy: dict[Server, float]
    """Seconds that a server works for a token."""

    def busiest(self, resource: str) -> float:
        """Seconds a token of the busiest server of a resource; 0 where none works."""
        return max(
            (seconds for server, seconds in self.busy.items() if server[0] == resource), default=0.0
        )


def simulate(
    graph: Graph,
    mapping: Mapping,
    system: SystemSpec,
    mode: str,
    tokens: int = 1,
    *,
    bundle: int = 1,
) -> Outcome:
    """Simulate one of `MODES` at the central figures; `tokens` matters without a barrier, and where
    sequences are interleaved: it is how many there are.

    `bundle` is how many payloads travel together at most.  Raises EngineError where SimPy is not
    installed, and InputError for too few tokens to find a steady state.
    """
    if mode not in MODES:
        raise InputError(f"mode {mode!r} is not known, must be one of {', '.join(MODES)}")
    for name, value in (("tokens", tokens), ("bundle", bundle)):
        if value < 1:
            raise InputError(f"{name} is {value}, must be at least 1")
    return MODES[mode](graph, mapping, system, tokens, bundle)


def _simpy() -> Any:
    try:
        return importlib.import_module("simpy")
    except ModuleNotFoundError as missing:
        raise EngineError(
            "simpy is not installed, must be for the discrete-event simulation: pip install simpy"
        ) from missing


class _Servers:
    """The clock and the queues."""

    def __init__(self, system: SystemSpec) -> None:
        figures = PER_CORE | {MESH: "time_per_hop_ns"} | BETWEEN
        self.ns = {name: getattr(system.chip, figure).central for name, figure in figures.items()}
        self.clock = _simpy().Environment()  # in nanoseconds
        self.free: dict[Server, float] = {}
        self.busy: dict[Server, float] = {}

    def serve(self, server: Server, uses: float, then: Then) -> None:
        """Queue for a server and use it so many times; what is to be done `then` is done when it
        has been."""
        now, time = self.clock.now, uses * self.ns[server[0]]
        self.free[server] = max(now, self.free.get(server, 0.0)) + time
        self.busy[server] = self.busy.get(server, 0.0) + time
        self.clock.timeout(self.free[server] - now).callbacks.append(lambda _: then())

    def serve_all(self, uses: dict[Server, float], then: Then) -> None:
        """The same with several servers side by side; at once where there is none."""
        left = len(uses)

        def done() -> None:
            nonlocal left
            left -= 1
            if not left:
                then()

        for server, count in uses.items():
            self.serve(server, count, done)
        if not uses:
            then()


@dataclass(frozen=True)
class _Stream:
    """A route with its tree."""

    source: int
    start: int
    stop: int
    way: Way
    destinations: frozenset[Location]
    readers: dict[Location, tuple["_Reader", ...]]


@dataclass(frozen=True)
class _Reader:
    """An input of a shard at a core: which of the payloads it reads, and the synapses of each."""

    shard: int
    first: int
    last: int
    synapses: float


def _way(source: Location, destinations: tuple[Location, ...], system: SystemSpec) -> Way:
    """The tree of links from a place to others."""
    columns, each = (
        int(q.central) for q in (system.chip.mesh_columns, system.chip.cores_per_router)
    )
    grid = int(system.chip_columns.central), int(system.chip_rows.central)
    found: Way = {}
    for end in destinations:
        if end == source:
            continue
        start, stop = (_Router(place.chip, place.core // each) for place in (source, end))
        if source.chip == end.chip:
            path = _across(start, stop, columns)
        else:
            between = (
                []
                if HOST in (source.chip, end.chip)
                else chip_path(source.chip, end.chip, *grid)[1:-1]
            )
            leave, enter = (
                _across(start, _Router(source.chip, 0), columns),
                _across(_Router(end.chip, 0), stop, columns),
            )
            path = leave + [_Router(chip, 0) for chip in between] + enter
        places: list[Location | _Router] = [source, *path, end]
        for a, b in pairwise(places):
            found.setdefault(a, {})[b] = _link(a, b)
    return found


def _across(a: _Router, b: _Router, columns: int) -> list[_Router]:
    """The routers on the way on one chip, along the row of the first and then along a column, both
    ends included."""
    path = [a.number]
    while path[-1] % columns != b.number % columns:
        path.append(path[-1] + (1 if b.number % columns > path[-1] % columns else -1))
    while path[-1] != b.number:
        path.append(path[-1] + (columns if b.number > path[-1] else -columns))
    return [_Router(a.chip, number) for number in path]


def _link(a: Location | _Router, b: Location | _Router) -> Server | None:
    """What serves the way from one place to the next; nothing between a core and its router."""
    if not (isinstance(a, _Router) and isinstance(b, _Router)):
        return None
    if a.chip == b.chip:
        return MESH, (a.chip, a.number, b.number)
    return FROM_OR_TO_HOST if HOST in (a.chip, b.chip) else CROSSING, (a.chip, b.chip)


def _streams(
    graph: Graph, mapping: Mapping, system: SystemSpec
) -> tuple[list[list[_Stream]], list[int]]:
    """The streams that every shard sends [shards], and how many payloads every shard reads for a
    token [shards]."""
    readers: dict[tuple[Location, str, str], list[_Reader]] = {}
    need = []
    for number, (shard, place) in enumerate(zip(mapping.shards, mapping.locations, strict=True)):
        node, inputs = graph.node(shard.node), 0
        for entry in node.inputs:
            size = graph.node(entry.source).output(entry.source_port).size
            first, last = span(node, entry, shard.start, shard.stop, size)
            each = shard.size if entry.reaches_all else 1
            readers.setdefault((place, entry.source, entry.source_port), []).append(
                _Reader(number, first, last, each)
            )
            inputs += last - first
        need.append(inputs)
    ways: dict[tuple[Location, tuple[Location, ...]], Way] = {}
    streams: list[list[_Stream]] = [[] for _ in mapping.shards]
    for route in mapping.routes:
        key = mapping.locations[route.source], route.destinations
        ways[key] = ways.get(key) or _way(*key, system)
        name = mapping.shards[route.source].node
        there = {
            place: tuple(readers.get((place, name, route.port), ())) for place in route.destinations
        }
        streams[route.source].append(
            _Stream(
                route.source,
                route.start,
                route.stop,
                ways[key],
                frozenset(route.destinations),
                there,
            )
        )
    return streams, need


class _Machine:
    """A mapping on its chips."""

    def __init__(
        self, graph: Graph, mapping: Mapping, system: SystemSpec, bundle: int, *, waits: bool
    ) -> None:
        activity, summary = expected(graph, mapping), summarise(graph)
        nodes = {node.name: node for node in summary.nodes}
        self.servers, self.places, self.bundle, self.steps = (
            _Servers(system),
            mapping.locations,
            bundle,
            summary.steps,
        )
        self.step = [nodes[shard.node].step for shard in mapping.shards]
        self.issued = [
            shard.size * sum(nodes[shard.node].instructions.values()) for shard in mapping.shards
        ]
        self.guards = [shard.size * nodes[shard.node].idle_instructions for shard in mapping.shards]
        self.reads = activity.reads.tolist()
        self.words = words_per_synapse(mapping.shards, summary, system).tolist()
        self.share = [
            synops / max(reads, 1)
            for synops, reads in zip(activity.synops, self.reads, strict=True)
        ]
        self.streams, self.need = _streams(graph, mapping, system)
        self.waits = waits
        """Whether what arrives waits for the step of its reader."""
        last, output = graph.to_host
        self.last = {k for k, shard in enumerate(mapping.shards) if shard.node == last}
        self.missing: dict[tuple[int, int], int] = {}
        self.arrived: Counter[int] = Counter()
        """Payloads of a token that have come to the host."""
        self.size = output.size
        self.finished: Callable[[int], None] = lambda token: None

    def use(self, place: Location, uses: dict[str, float], then: Then) -> None:
        """Use resources of a core side by side; the host's take no time."""
        at: tuple[int, ...] = place.chip, place.core
        self.servers.serve_all(
            {} if place.chip == HOST else {(name, at): n for name, n in uses.items()}, then
        )

    def read(self, shard: int, synapses: float, then: Then) -> None:
        """Read synapses of a shard and do its operations with them."""
        self.use(
            self.places[shard],
            {WORDS: synapses * self.words[shard], SYNOPS: synapses * self.share[shard]},
            then,
        )

    def begin(self, shard: int) -> None:
        """A step of a shard whose inputs all wait in its core."""
        self.read(shard, self.reads[shard], partial(self.fire, shard, 0))

    def fire(self, shard: int, token: int) -> None:
        """Compute the neurons of a shard, then send their payloads."""
        self.use(
            self.places[shard], {INSTRUCTIONS: self.issued[shard]}, partial(self.send, shard, token)
        )

    def send(self, shard: int, token: int) -> None:
        """Queue every payload of a shard for sending, or bundles of them."""
        place = self.places[shard]
        for stream in self.streams[shard]:
            for start in range(stream.start, stream.stop, self.bundle):
                stop = min(start + self.bundle, stream.stop)
                go = partial(self.forward, stream, place, start, stop, token)
                self.use(place, {SENT: (stop - start) * len(stream.destinations)}, go)

    def forward(
        self, stream: _Stream, place: Location | _Router, start: int, stop: int, token: int
    ) -> None:
        """Payloads are at a place of their way: they arrive there, or go on, or both."""
        for onward, link in stream.way.get(place, {}).items():
            go = partial(self.forward, stream, onward, start, stop, token)
            if link is None:
                go()
            else:
                self.servers.serve(link, stop - start, go)
        if isinstance(place, _Router):
            return
        if place == HOST_CORE and stream.source in self.last:
            self.arrived[token] += stop - start
            if self.arrived[token] == self.size:
                self.finished(token)
        elif place in stream.destinations:
            self.use(
                place,
                {ARRIVED: stop - start},
                partial(self.receive, stream.readers[place], start, stop, token),
            )

    def receive(self, readers: tuple[_Reader, ...], start: int, stop: int, token: int) -> None:
        """Payloads have arrived at the core of their readers."""
        if self.waits:
            return
        for reader in readers:
            count = min(stop, reader.last) - max(start, reader.first)
            if count > 0:
                self.read(
                    reader.shard,
                    count * reader.synapses,
                    partial(self.count, reader.shard, count, token),
                )

    def count(self, shard: int, payloads: int, token: int) -> None:
        """A shard has read so many payloads more; it fires with the last."""
        key = shard, token
        self.missing[key] = self.missing.get(key, self.need[shard]) - payloads
        if not self.missing[key]:
            del self.missing[key]
            self.fire(shard, token)

    def visit(self, shards: list[int]) -> None:
        """Visit the neurons of shards that have no token."""
        guards = Counter[Location]()
        for shard in shards:
            guards[self.places[shard]] += self.guards[shard]
        for place, instructions in guards.items():
            self.use(place, {INSTRUCTIONS: instructions}, lambda: None)

    def together(self, shards: list[int], idle: list[int]) -> float:
        """Nanoseconds of a step in which some shards work and some are idle, until nothing is under
        way."""
        start = float(self.servers.clock.now)
        self.visit(idle)
        for shard in shards:
            self.begin(shard)
        self.servers.clock.run()
        return float(self.servers.clock.now) - start

    def follow(self, tokens: int, under_way: int) -> list[float]:
        """Tokens follow each other, so many of them under way at most; when each has been finished,
        in nanoseconds."""
        waiting, ends = iter(range(tokens)), list[float]()
        sources = [shard for shard, need in enumerate(self.need) if not need]

        def start() -> None:
            token = next(waiting, None)
            if token is not None:
                for source in sources:
                    self.fire(source, token)

        def finished(token: int) -> None:
            ends.append(float(self.servers.clock.now))
            start()

        self.finished = finished
        for _ in range(under_way):
            start()
        self.servers.clock.run()
        return ends


def _outcome(
    mode: str, machine: _Machine, per_token: float, whole: float, tokens: int, steps: list[float]
) -> Outcome:
    """The record of nanoseconds."""
    busy = {server: ns * 1e-9 / tokens for server, ns in machine.servers.busy.items()}
    return Outcome(
        mode, per_token * 1e-9, whole * 1e-9, tokens, tuple(ns * 1e-9 for ns in steps), busy
    )


def _pipelined(
    graph: Graph, mapping: Mapping, system: SystemSpec, tokens: int, bundle: int
) -> Outcome:
    """One step of a full pipeline, every shard on a token of its own, and the barrier."""
    machine = _Machine(graph, mapping, system, bundle, waits=True)
    step = machine.together(list(range(len(mapping.shards))), [])
    whole = step + barrier(system.chip, len(mapping.chips)).central
    return _outcome("pipelined", machine, whole, whole, 1, [step])


def _fall_through(
    graph: Graph, mapping: Mapping, system: SystemSpec, tokens: int, bundle: int
) -> Outcome:
    """The steps of one token, each with a barrier; in the first, the host sends."""
    machine = _Machine(graph, mapping, system, bundle, waits=True)
    steps = []
    for now in range(machine.steps + 1):
        shards: dict[bool, list[int]] = {True: [], False: []}
        for shard, step in enumerate(machine.step):
            shards[step == now].append(shard)
        steps.append(machine.together(shards[True], shards[False]))
    ends = (
        barrier(system.chip, len(mapping.chips)).central + system.chip.fall_through_step_ns.central
    )
    whole = sum(steps) + len(steps) * ends
    return _outcome("fall-through", machine, whole, whole, 1, steps)


def _interleaved(
    graph: Graph, mapping: Mapping, system: SystemSpec, tokens: int, bundle: int
) -> Outcome:
    """A token of each of some sequences, entering evenly over the steps of one: all steps of the
    machine until the first token is where it began, each with a barrier."""
    machine = _Machine(graph, mapping, system, bundle, waits=True)
    count, took = machine.steps + 1, []
    full = tokens >= count
    entries = [number * count // tokens for number in range(tokens)]
    for now in range(count):
        there = {(now - entry) % count for entry in entries}
        shards: dict[bool, list[int]] = {True: [], False: []}
        for shard, step in enumerate(machine.step):
            shards[step in there].append(shard)
        took.append(machine.together(shards[True], shards[False]))
    ends = barrier(system.chip, len(mapping.chips)).central
    ends += 0 if full else system.chip.fall_through_step_ns.central
    whole = sum(took) + count * ends
    ran = min(tokens, count)
    return _outcome("interleaved", machine, whole / ran, whole, ran, took)


def _asynchronous_prefill(
    graph: Graph, mapping: Mapping, system: SystemSpec, tokens: int, bundle: int
) -> Outcome:
    """Tokens follow each other, enough of them under way to keep the slowest server at work."""
    machine = _Machine(graph, mapping, system, bundle, waits=False)
    under_way = PIPELINES * (machine.steps + 1)
    if tokens < ROUNDS * under_way:
        raise InputError(
            f"tokens is {tokens}, must be at least {ROUNDS * under_way} where {under_way} are "
            "under way"
        )
    ends = machine.follow(tokens, under_way)
    last = tokens - under_way
    first = last // 2
    per_token = (ends[last] - ends[first]) / (last - first)
    return _outcome("asynchronous prefill", machine, per_token, ends[-1], tokens, [])


def _asynchronous_generation(
    graph: Graph, mapping: Mapping, system: SystemSpec, tokens: int, bundle: int
) -> Outcome:
    """A token starts when the last has been finished."""
    machine = _Machine(graph, mapping, system, bundle, waits=False)
    ends = machine.follow(tokens, 1)
    return _outcome("asynchronous generation", machine, ends[-1] / tokens, ends[-1], tokens, [])


MODES = {
    "pipelined": _pipelined,
    "fall-through": _fall_through,
    "interleaved": _interleaved,
    "asynchronous prefill": _asynchronous_prefill,
    "asynchronous generation": _asynchronous_generation,
}
