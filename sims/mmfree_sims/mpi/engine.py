"""The MPI engine: ranks hold chips, packets travel as buffers, and the host is on rank 0.

Every rank calls `run` with the same arguments (start it with `mpiexec`); rank 0 gets the result,
and the others raise `Served` when their work is done.  Which rank holds which chip changes no bit
and no count.
"""

import ctypes
import os
import signal
import threading
import time
import traceback
from collections import deque
from collections.abc import Iterator, Sequence
from contextlib import contextmanager, suppress
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal

import numpy as np
from numpy.typing import NDArray

from mmfree_kernels.cpu.memory import keep_freed
from mmfree_neuro.errors import EngineError, InputError, RunFailed, Served
from mmfree_neuro.graph.nodes import Graph
from mmfree_neuro.integers.fixedpoint import Ints
from mmfree_neuro.mapping.mapping import HOST, Location, Mapping
from mmfree_neuro.run import state_file
from mmfree_neuro.run.job import Job, Report, Result, Saving, check, check_saving, silent
from mmfree_sims.neurons import Int32
from mmfree_sims.tiles import board
from mmfree_sims.tiles.board import Board
from mmfree_sims.tiles.book import Book, start_of
from mmfree_sims.tiles.host import Host
from mmfree_sims.tiles.packets import END, Packet, Reassembly, control, encode
from mmfree_sims.tiles.plan import Plan
from mmfree_sims.tiles.tile import Tile


@contextmanager
def _default_signals() -> Iterator[None]:
    """Ctrl-C and SIGTERM end this process at once, even inside a library that waits for ever."""
    numbers = (
        (signal.SIGINT, signal.SIGTERM)
        if threading.current_thread() is threading.main_thread()
        else ()
    )
    before = {number: signal.signal(number, signal.SIG_DFL) for number in numbers}
    try:
        yield
    finally:
        for number, handler in before.items():
            signal.signal(number, handler)


MPI_MEMORY = "mpich_", "sm_segment", "vader_segment"
"""How MPICH and Open MPI name the memory that ranks of one host share."""


def _unname_shared_memory() -> None:
    """Take the names away from the memory that the ranks of one host share, which all have open
    when MPI has begun.

    An MPI library does so when it is finalised, which a killed run never comes to.
    """
    with suppress(OSError):
        lines = Path("/proc/self/maps").read_text(encoding="utf-8", errors="replace").splitlines()
        paths = {
            line.split(maxsplit=5)[5]
            for line in lines
            if line.count(" ") >= 5 and "/dev/shm/" in line
        }
        for path in paths:
            if Path(path).name.startswith(MPI_MEMORY):
                with suppress(OSError):
                    os.unlink(path)


try:
    with (
        _default_signals()
    ):  # MPI waits here for the other ranks, without end where one has died before
        from mpi4py import MPI
    _unname_shared_memory()
except (ImportError, RuntimeError):  # mpi4py raises RuntimeError where it finds no MPI library
    MPI = None  # type: ignore[assignment]

TOKENS_IN_FLIGHT_PER_CHIP = 6
PACKET, COLLECT = 1, 2
"""Tags: a packet, or END; and the wish of rank 0 to have the states that were kept."""
MOST_VALUES = 1 << 28
"""The largest payload of one message."""
SPIN_SECONDS = 0.0005
"""How long a rank that waits only yields its core before it sleeps, too."""
SLEEP_SECONDS = 0.00005
PATIENCE_SECONDS = 1.0
_PR_SET_PDEATHSIG = 1


@dataclass
class Traffic:
    """What a rank did besides computing."""

    messages: int = 0
    """Sent to other ranks."""
    values: int = 0
    """Payloads in them, of 32 bits."""
    waiting: float = 0.0
    """Seconds without anything to do."""
    sending: float = 0.0
    """Seconds in calls that send."""
    receiving: float = 0.0
    """Seconds in calls that receive a message that has come."""


def world() -> Any:
    """The communicator of all ranks; EngineError where there is no MPI."""
    if MPI is None:
        raise EngineError(
            "the MPI engine needs mpi4py and an MPI library, such as: pip install mpi4py mpich"
        )
    return MPI.COMM_WORLD


def by_weight(graph: Graph, mapping: Mapping, ranks: int) -> tuple[int, ...]:
    """A rank for every chip in use, in order: neighbours together, about as many synapses on each
    rank."""
    synapses = {chip: 0 for chip in mapping.chips}
    for shard, place in zip(mapping.shards, mapping.locations, strict=True):
        if place.chip != HOST:
            matrices = [e.matrix for e in graph.node(shard.node).inputs if e.matrix is not None]
            synapses[place.chip] += shard.size * sum(matrix.columns for matrix in matrices)
    total, before, found = sum(synapses.values()), 0, []
    for chip in mapping.chips:
        found.append(min(ranks - 1, (2 * before + synapses[chip]) * ranks // max(1, 2 * total)))
        before += synapses[chip]
    return tuple(found)


def check_placement(placement: Sequence[int], mapping: Mapping, ranks: int) -> None:
    """InputError where a placement does not give every chip one of the ranks."""
    if len(placement) != len(mapping.chips):
        raise InputError(
            f"the placement names {len(placement)} ranks, must name one for each of "
            f"{len(mapping.chips)} chips"
        )
    for rank in placement:
        if not 0 <= rank < ranks:
            raise InputError(f"the placement names rank {rank}, must be 0 … {ranks - 1}")


class Node:
    """One rank: its tile, its messages and its counts."""

    def __init__(self, graph: Graph, mapping: Mapping, placement: Sequence[int]) -> None:
        self.comm = world()
        self.rank, self.ranks = self.comm.Get_rank(), self.comm.Get_size()
        rank_of = dict(zip(mapping.chips, placement, strict=True))

        def tile_of(place: Location) -> int:
            return HOST if place.chip == HOST else rank_of[place.chip]

        self.plan = Plan(graph, mapping, tile_of)
        self.board, self.kept = board.allocate(graph), board.allocate(graph)
        self.tile = Tile(self.plan, [self.rank], self.board, self.kept)
        self.for_host = self.plan.read_by(HOST) if self.rank == 0 else frozenset()
        self.packets = Reassembly(self.plan, self.tile.wanted | self.for_host)
        self.outgoing: deque[tuple[Any, Int32]] = deque()
        self.local: deque[Packet] = deque()
        """Packets for the host, on rank 0."""
        self.traffic = Traffic()
        self.ended = False

    def send(self, packet: Packet) -> None:
        """Send a packet to every other rank that reads it, and to the host where that is here."""
        if packet.stretch in self.for_host:
            self.local.append(packet)
        for rank in sorted(
            {max(reader, 0) for reader in self.plan.abroad[packet.stretch]} - {self.rank}
        ):
            for vector in encode(packet, MOST_VALUES):
                self.post(vector, rank)

    def post(self, vector: Int32, rank: int) -> None:
        """Begin to send a vector; it is kept until it has gone."""
        begin = time.perf_counter()
        self.outgoing.append(
            (self.comm.Isend([vector, MPI.INT32_T], dest=rank, tag=PACKET), vector)
        )
        while self.outgoing and self.outgoing[0][0].Test():
            self.outgoing.popleft()
        self.traffic.messages += 1
        self.traffic.values += len(vector)
        self.traffic.sending += time.perf_counter() - begin

    def arrived(self) -> list[Packet]:
        """Every packet that has come; notes the end of the stream, and answers the wish for kept
        states."""
        found, status = [], MPI.Status()
        while not self.ended and self.comm.Iprobe(
            source=MPI.ANY_SOURCE, tag=MPI.ANY_TAG, status=status
        ):
            if status.Get_tag() == COLLECT:
                self.comm.Recv(
                    [np.empty(0, np.int32), MPI.INT32_T], source=status.Get_source(), tag=COLLECT
                )
                self.collect(self.kept)
                continue
            begin = time.perf_counter()
            vector = np.empty(status.Get_count(MPI.INT32_T), np.int32)
            self.comm.Recv([vector, MPI.INT32_T], source=status.Get_source(), tag=PACKET)
            self.traffic.receiving += time.perf_counter() - begin
            self.ended = bool(vector[2] & END)
            packet = None if self.ended else self.packets.take(vector)
            if packet is not None:
                found.append(packet)
        return found

    def wait(self) -> list[Packet]:
        """Packets that have come, at least one, unless the stream has ended."""
        found = self.arrived()
        if not found and not self.ended:
            begin = time.perf_counter()
            while not found and not self.ended:
                if time.perf_counter() - begin < SPIN_SECONDS:
                    os.sched_yield()
                else:
                    time.sleep(SLEEP_SECONDS)
                found = self.arrived()
            self.traffic.waiting += time.perf_counter() - begin
        return found

    def serve(self) -> None:
        """Run the tile until rank 0 ends the stream."""
        while not self.ended:
            self.tile.take(self.wait(), self.send)
        self.tile.settle()
        self.flush()

    def flush(self) -> None:
        """Wait until everything has been sent."""
        while self.outgoing:
            self.outgoing.popleft()[0].Wait()

    def collect(self, ours: Board) -> Board:
        """On rank 0, what all ranks have on such a board: every neuron's counts and state are on
        one rank alone."""
        whole = board.allocate(self.plan.graph) if self.rank == 0 else ours
        for name in ("events", "saturated", "states"):
            self.comm.Reduce(
                getattr(ours, name),
                getattr(whole, name) if self.rank == 0 else None,
                op=MPI.SUM,
                root=0,
            )
        return whole


class _Wire:
    """Rank 0's host and its tile, taking turns."""

    def __init__(self, node: Node, job: Job, report: Report, book: Book, logits: Ints) -> None:
        self.node, self.job, self.report, self.book, self.logits = node, job, report, book, logits
        self.chosen: Ints = np.zeros((len(job.tokens), job.new_tokens), np.int64)
        self.clock: NDArray[np.float64] = np.zeros(2)
        self.done = [book.done(0), book.done(1)]

    def send(self, packet: Packet) -> None:
        """Send a packet of the embedding to the ranks that read it, this one among them."""
        for reader in self.node.plan.abroad[packet.stretch]:
            if reader == self.node.rank:
                self.node.tile.take([packet], self.node.send)
            else:
                for vector in encode(packet, MOST_VALUES):
                    self.node.post(vector, reader)

    def receive(self) -> Packet:
        """The next packet that the host reads."""
        while not self.node.local:
            for packet in self.node.wait():
                if packet.stretch in self.node.for_host:
                    self.node.local.append(packet)
                if packet.stretch in self.node.tile.wanted:
                    self.node.tile.take([packet], self.node.send)
        return self.node.local.popleft()

    def arrived(self, sequence: int, position: int, logits: Ints) -> None:
        """Keep the logits of one token, and tell."""
        if self.logits.shape[1]:
            self.logits[sequence, position] = logits
        if position < self.job.tokens.shape[1]:
            self.done[0] += 1
            self.report("prefill", self.done[0], self.job.tokens.size)

    def chose(self, sequence: int, number: int, token: int) -> None:
        """Keep a token, and tell."""
        self.chosen[sequence, number] = token
        self.done[1] += 1
        self.report("generate", self.done[1], self.chosen.size)

    def timed(self, seconds: NDArray[np.float64]) -> None:
        """Keep the seconds spent in prefill and generating."""
        self.clock[:] = seconds

    def save(self, fed: int) -> None:
        """Gather what was kept, and have it written."""
        for rank in range(1, self.node.ranks):
            self.node.comm.Send([np.empty(0, np.int32), MPI.INT32_T], dest=rank, tag=COLLECT)
        self.book.save(self.node.collect(self.node.kept), fed, self.chosen[0], self.clock)


def agree(problem: str | None, identity: str = "") -> None:
    """InputError on every rank where one of them cannot begin, with the problem of the first such
    rank.

    Every rank calls this once before a run, with its problem or with what it is about to run.
    """
    global _stage
    _stage = "agreed"
    with _default_signals():
        found = world().allgather((problem, identity))
    for rank, (text, run) in enumerate(found):
        if text is not None:
            raise InputError(text)
        if run != found[0][1]:
            raise InputError(
                f"rank {rank} was given another mapping, job or placement than rank 0, must be "
                "the same"
            )


def is_worker() -> bool:
    """Whether this process is a rank other than 0."""
    return bool(world().Get_rank() != 0)


_stage: Literal["alone", "agreed", "running"] = "alone"
"""Whether the ranks have agreed to begin, and whether a run is under way."""


def refused(problem: str) -> str | None:
    """What the ranks are refused for where this one has a problem; None where it is for rank 0 to
    tell."""
    if MPI is None or _stage != "alone":
        return problem if MPI is None or not is_worker() else None
    try:
        agree(problem)
    except InputError as first:
        problem = str(first)
    return None if is_worker() else problem


def end(status: int, *, waited_for: bool = False) -> None:
    """End all ranks at once, if they are in a run or wait for this one; a worker leaves rank 0 the
    time to say why."""
    if MPI is not None and world().Get_size() > 1 and (_stage == "running" or waited_for):
        for number in (signal.SIGINT, signal.SIGTERM):
            signal.signal(number, signal.SIG_IGN)
        if is_worker():
            time.sleep(PATIENCE_SECONDS)
        world().Abort(status)


def _share(saving: Saving | None, comm: Any) -> Saving | None:
    """The saving of rank 0, on every rank: only that rank needs to see the folder of the run."""
    every, resumed = comm.bcast(
        (0, None) if saving is None else (saving.every, saving.resumed), root=0
    )
    if saving is None:
        return None
    return Saving(every, saving.write, resumed)


def _tie_to_parent() -> None:
    """This rank ends when the process that started it does."""
    ctypes.CDLL(None).prctl(_PR_SET_PDEATHSIG, signal.SIGKILL)


def serve(
    graph: Graph,
    mapping: Mapping,
    job: Job,
    report: Report = silent,
    saving: Saving | None = None,
    *,
    placement: Sequence[int] | None = None,
) -> tuple[Result | None, Traffic]:
    """Take part in a run; the result on rank 0, and what this rank did besides computing on every
    one."""
    begin, comm = time.monotonic(), world()
    check(graph, job)
    check_saving(job, saving)
    placement = by_weight(graph, mapping, comm.Get_size()) if placement is None else placement
    check_placement(placement, mapping, comm.Get_size())
    agree(
        None,
        f"{state_file.identity(mapping, job)} {job.new_tokens} {job.keep_logits} {list(placement)}",
    )
    if comm.Get_size() > 1:
        _tie_to_parent()
    keep_freed()
    global _stage
    _stage = "running"
    saving = _share(saving, comm)
    node = Node(graph, mapping, placement)
    start = start_of(saving)
    if saving is not None and saving.resumed is not None:
        node.board.load_states(saving.resumed.states)
    node.tile.restore(start.fed)
    _forget_states_of_others(node)
    comm.Barrier()
    started = time.monotonic() - begin
    if node.rank:
        node.serve()
        node.collect(node.board)
        return None, node.traffic
    book = Book(graph, mapping, job, saving)
    logits: Ints = np.zeros(
        (len(job.tokens), job.fed if job.keep_logits else 0, graph.vocabulary), np.int64
    )
    wire = _Wire(node, job, report, book, logits)
    Host(
        node.plan,
        job,
        start,
        node.board,
        node.kept,
        wire,
        TOKENS_IN_FLIGHT_PER_CHIP * len(mapping.chips),
    ).run()
    for rank in range(1, node.ranks):
        node.post(control(END), rank)
    node.tile.settle()
    node.flush()
    prefill, generate = book.activities(node.collect(node.board), job.fed)
    known = book.chosen()[: job.new_tokens]
    wire.chosen[0, : len(known)] = known
    seconds = {"start": started} | book.seconds(wire.clock)
    return Result(logits, wire.chosen, prefill, generate, seconds), node.traffic


def _forget_states_of_others(node: Node) -> None:
    """Leave on the board the states of this rank's own neurons alone, since those of all ranks are
    summed."""
    mine = {firing.stretch.number for firing in node.tile.firings}
    for stretch in node.plan.stretches:
        if stretch.node in node.board.offsets and stretch.number not in mine:
            node.board.state_of(stretch)[:] = 0


def run(
    graph: Graph,
    mapping: Mapping,
    job: Job,
    report: Report = silent,
    saving: Saving | None = None,
    *,
    placement: Sequence[int] | None = None,
) -> Result:
    """Run a job on all ranks; `placement` gives each chip in use a rank, in order.  Ranks other
    than 0 raise Served."""
    global _stage
    try:
        result, _ = serve(graph, mapping, job, report, saving, placement=placement)
    except Exception as error:
        if _stage != "running" or isinstance(error, RunFailed):
            raise
        raise RunFailed(
            f"rank {world().Get_rank()} failed\n{traceback.format_exc().rstrip()}"
        ) from None
    _stage = "agreed"
    if result is None:
        raise Served
    return result
