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
from mmfree_sims.tiles.host import Host
from mmfree_sims.tiles.packets import Packet

TOKENS_IN_FLIGHT_PER_CHIP = 6


class _Wire:
    """Rank 0's host and its tile, taking turns."""

    def __init__(self, rank: Rank, job: Job, progress: Progress, book: Book) -> None:
        self.rank, self.job, self.progress, self.book = rank, job, progress, book
        shape = len(job.tokens), job.fed if job.keep_logits else 0, book.graph.vocabulary
        self.logits: Ints = np.zeros(shape, np.int64)
        self.chosen: Ints = np.zeros((len(job.tokens), job.new_tokens), np.int64)
        self.clock: NDArray[np.float64] = np.zeros(2)
        self.done = [book.done(0), book.done(1)]

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

    def arrived(self, sequence: int, position: int, logits: Ints) -> None:
        """Keep the logits of one token, and tell."""
        if self.logits.shape[1]:
            self.logits[sequence, position] = logits
        if position < self.job.tokens.shape[1]:
            self.done[0] += 1
            self.progress("prefill", self.done[0], self.job.tokens.size, ())

    def chose(self, sequence: int, number: int, token: int) -> None:
        """Keep a token, and tell."""
        self.chosen[sequence, number] = token
        self.done[1] += 1
        self.progress("generate", self.done[1], self.chosen.size, (token,))

    def timed(self, seconds: NDArray[np.float64]) -> None:
        """Keep the seconds spent in prefill and generating."""
        self.clock[:] = seconds

    def save(self, fed: int) -> None:
        """Gather what was kept, and have it written."""
        self.book.save(self.rank.collect_kept(), fed, self.chosen[0], self.clock)

    def result(self, started: float) -> Result:
        """What has come of the job, of which the start took so many seconds."""
        chosen = self.book.all_chosen(self.chosen, self.done[1] - self.book.done(1))
        fed = self.job.fed_for(chosen.shape[1])
        prefill, generate = self.book.activities(self.rank.collect(self.rank.tallies), fed)
        seconds = {"start": started} | self.book.seconds(self.clock)
        return Result(self.logits[:, :fed], chosen, prefill, generate, seconds)


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
        f"{state_file.identity(mapping, job)} {job.new_tokens} {job.keep_logits} "
        f"{list(ranks_of_chips)}",
    )
    if comm.Get_size() > 1:
        ranks.tie_to_parent()
    keep_freed()
    ranks.begin_run()
    saving = _share(saving, comm)
    rank = Rank(graph, mapping, ranks_of_chips)
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
    Host(rank.plan, job, start, rank.tallies, rank.kept, wire, in_flight).run()
    rank.end_stream()
    return wire.result(started), rank.traffic


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
