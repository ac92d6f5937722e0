"""The MPI engine: ranks hold chips, packets travel as buffers, and the host is on rank 0.

Every rank calls `run` with the same arguments (start it with `mpiexec`); rank 0 gets the result,
and the others raise `Served` when their work is done.  Which rank holds which chip changes no bit
and no count.
"""

import time
import traceback
from collections.abc import Sequence
from typing import Any

import numpy as np
from numpy.typing import NDArray

from mmfree_kernels.cpu.memory import keep_freed
from mmfree_neuro.errors import RunFailed, Served
from mmfree_neuro.graph.nodes import Graph
from mmfree_neuro.integers.fixedpoint import Ints
from mmfree_neuro.mapping.mapping import Mapping
from mmfree_neuro.run import state_file
from mmfree_neuro.run.job import Job, Progress, Result, Saving, check, check_saving, silent
from mmfree_sims.mpi import ranks
from mmfree_sims.mpi.rank import Rank, RankTraffic
from mmfree_sims.tiles.book import Book, start_of
from mmfree_sims.tiles.host import Host, stands
from mmfree_sims.tiles.packets import Packet

TOKENS_IN_FLIGHT_PER_CHIP = 6


class _Wire:
    """Rank 0's host and its tile, taking turns."""

    def __init__(self, rank: Rank, job: Job, progress: Progress, book: Book) -> None:
        self.rank, self.job, self.progress, self.book = rank, job, progress, book
        self.logits: Ints = np.zeros((job.kept_from[-1], book.graph.vocabulary), np.int64)
        self.chosen, self.done = book.chosen(), book.done()
        self.clock: NDArray[np.float64] = np.zeros(2)

    def send(self, packet: Packet) -> None:
        """Send a packet of the embedding to the ranks that read it, this one among them."""
        for reader in self.rank.plan.abroad[packet.stretch]:
            if reader == self.rank.number:
                self.rank.tile.take([packet], self.rank.send)
            else:
                self.rank.send_to(packet, reader)

    def receive(self) -> Packet:
        """The next packet that the host reads."""
        while not self.rank.local:
            for packet in self.rank.wait():
                if packet.stretch in self.rank.for_host:
                    self.rank.local.append(packet)
                if packet.stretch in self.rank.tile.wanted:
                    self.rank.tile.take([packet], self.rank.send)
        return self.rank.local.popleft()

    def arrived(self, sequence: int, position: int, sent: Ints) -> None:
        """Keep the logits of one token where they are wanted, and tell."""
        if self.job.keep_logits:
            self.logits[self.job.kept_from[sequence] + position] = sent
        if position < len(self.job.sequences[sequence].tokens):
            self.done[0] += 1
            self.progress("prefill", self.done[0], self.job.prompted, ())

    def chose(self, sequence: int, number: int, token: int) -> None:
        """Keep a token, and tell."""
        self.chosen[self.job.chosen_from[sequence] + number] = token
        self.done[1] += 1
        self.progress("generate", self.done[1], self.chosen.size, (token,))

    def timed(self, seconds: NDArray[np.float64]) -> None:
        """Keep the seconds spent in prefill and generating."""
        self.clock[:] = seconds

    def save(self, stands: Ints) -> None:
        """Gather what was kept, and have it written."""
        self.book.save(self.rank.collect_kept(), stands, self.chosen, self.clock)

    def result(self, stands: Ints, started: float) -> Result:
        """What has come of the job, whose sequences stand so at the end, and of which the start
        took so many seconds."""
        tallies = self.rank.collect(self.rank.tallies)
        outcomes = self.book.outcomes(tallies, stands, self.chosen, self.logits)
        return Result(outcomes, {"start": started} | self.book.seconds(self.clock))


def _share(saving: Saving | None, comm: Any) -> Saving | None:
    """The saving of rank 0, on every rank: only that rank needs to see the folder of the run."""
    every, resumed = comm.bcast(
        (0, None) if saving is None else (saving.every, saving.resumed), root=0
    )
    if saving is None:
        return None
    return Saving(every, saving.write, resumed)


def serve(
    graph: Graph,
    mapping: Mapping,
    job: Job,
    progress: Progress = silent,
    saving: Saving | None = None,
    *,
    ranks_of_chips: Sequence[int] | None = None,
) -> tuple[Result | None, RankTraffic]:
    """Take part in a run; the result on rank 0, and what this rank did besides computing on every
    one."""
    begin = time.monotonic()
    comm = ranks.world()
    check(graph, job)
    check_saving(job, saving)
    if ranks_of_chips is None:
        ranks_of_chips = ranks.by_weight(graph, mapping, comm.Get_size())
    ranks.check_ranks(ranks_of_chips, mapping, comm.Get_size())
    ranks.agree(
        None,
        f"{state_file.identity(mapping, job)} {[a.new_tokens for a in job.sequences]} "
        f"{job.keep_logits} {job.in_flight} {list(ranks_of_chips)}",
    )
    if comm.Get_size() > 1:
        ranks.tie_to_parent()
    keep_freed()
    ranks.begin_run()
    saving = _share(saving, comm)
    rank = Rank(graph, mapping, ranks_of_chips, len(job.sequences))
    start = start_of(saving)
    resumed = None if saving is None else saving.resumed
    rank.restore(start.fed, None if resumed is None else resumed.states)
    ranks.meet()
    started = time.monotonic() - begin
    if rank.number:
        rank.serve()
        rank.collect(rank.tallies)
        return None, rank.traffic
    wire = _Wire(rank, job, progress, Book(graph, mapping, job, saving))
    in_flight = TOKENS_IN_FLIGHT_PER_CHIP * len(mapping.chips)
    host = Host(rank.plan, job, start, rank.tallies, rank.kept, wire, in_flight)
    host.run()
    rank.end_stream()
    return wire.result(stands(host.seats.walks), started), rank.traffic


def run(
    graph: Graph,
    mapping: Mapping,
    job: Job,
    progress: Progress = silent,
    saving: Saving | None = None,
    *,
    ranks_of_chips: Sequence[int] | None = None,
) -> Result:
    """Run a job on all ranks; `ranks_of_chips` gives each chip in use a rank, in order.  Ranks
    other than 0 raise Served."""
    try:
        result, _ = serve(graph, mapping, job, progress, saving, ranks_of_chips=ranks_of_chips)
    except Exception as error:
        if not ranks.is_running() or isinstance(error, RunFailed):
            raise
        who = f"rank {ranks.world().Get_rank()}"
        if isinstance(error, MemoryError):
            raise RunFailed(f"{who} ran out of memory ({error})") from None
        raise RunFailed(f"{who} failed\n{traceback.format_exc().rstrip()}") from None
    ranks.end_run()
    if result is None:
        raise Served
    return result
