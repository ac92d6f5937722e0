"""All ranks of a run: MPI itself, which rank holds which chip, and how they begin, fail and end
together."""

import ctypes
import os
import signal
import threading
import time
from collections.abc import Iterator, Sequence
from contextlib import contextmanager, suppress
from importlib.util import find_spec
from pathlib import Path
from typing import Any, Literal

from mmfree_neuro.errors import EngineError, InputError
from mmfree_neuro.graph.nodes import Graph
from mmfree_neuro.mapping.mapping import HOST, Mapping
from mmfree_sims.mpi import launcher
from mmfree_sims.silence import Silence


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


SHARED = Path("/dev/shm")
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


PATIENCE_SECONDS = 1.0
FORWARDING_SECONDS = 0.2
"""How long a worker that ends all ranks leaves rank 0 to say why."""
_PR_SET_PDEATHSIG = 1
SPIN_SECONDS = 0.0005
"""How long a rank that waits only yields its core before it sleeps, too."""
SLEEP_SECONDS = 0.00005

MPI: Any = None
_problem: str | None = None
"""Why MPI cannot be used here, where it is not for want of a library."""


def _begin() -> None:
    """Import MPI, which begins with it and waits there for the other ranks, without end where one
    has died before."""
    global MPI, _problem
    if find_spec("mpi4py") is None:
        return
    _problem = launcher.shortage(SHARED) or launcher.too_few_descriptors()
    with _default_signals():
        launcher.meet()
        if _problem is None:
            # mpi4py raises RuntimeError where it finds no MPI library
            with suppress(ImportError, RuntimeError):
                from mpi4py import MPI as begun

                MPI = begun
                _unname_shared_memory()
                launcher.remove_topology_file()


_begin()

_stage: Literal["alone", "agreed", "running"] = "alone"
"""Whether the ranks have agreed to begin, and whether a run is under way."""


def begin_run() -> None:
    """From here on, a rank that ends takes all others with it."""
    global _stage
    _stage = "running"


def end_run() -> None:
    """The run is over on this rank, which may end alone or begin another."""
    global _stage
    _stage = "agreed"


def is_running() -> bool:
    """Whether a run is under way."""
    return _stage == "running"


def world() -> Any:
    """The communicator of all ranks; EngineError where there is no MPI."""
    if MPI is None:
        raise EngineError(
            _problem
            or "the MPI engine needs mpi4py and an MPI library, such as: pip install mpi4py mpich"
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
    total = sum(synapses.values())
    before = 0
    ranks_of_chips = []
    for chip in mapping.chips:
        # A chip goes where its middle falls when all synapses are dealt out in equal shares.
        twice_middle = 2 * before + synapses[chip]
        ranks_of_chips.append(min(ranks - 1, twice_middle * ranks // max(1, 2 * total)))
        before += synapses[chip]
    return tuple(ranks_of_chips)


def check_ranks(ranks_of_chips: Sequence[int], mapping: Mapping, ranks: int) -> None:
    """InputError where they do not give every chip one of the ranks."""
    if len(ranks_of_chips) != len(mapping.chips):
        raise InputError(
            f"{len(ranks_of_chips)} ranks are named for the chips, must be one for each of "
            f"{len(mapping.chips)} chips"
        )
    for rank in ranks_of_chips:
        if not 0 <= rank < ranks:
            raise InputError(f"rank {rank} is named for a chip, must be 0 … {ranks - 1}")


def agree(problem: str | None, identity: str = "") -> None:
    """InputError on every rank where one of them cannot begin, with the problem of the first such
    rank.

    Every rank calls this once before a run, with its problem or with what it is about to run.
    """
    global _stage
    _stage = "agreed"
    with _default_signals():
        meet()
        everyone = world().allgather((problem, identity, _place(), os.getpid()))
    _neighbours.clear()
    _neighbours.update(
        {n: pid for n, (_, _, place, pid) in enumerate(everyone) if place == _place()}
    )
    for rank, (text, run, _, _) in enumerate(everyone):
        if text is not None:
            raise InputError(text)
        if run != everyone[0][1]:
            raise InputError(
                f"rank {rank} was given other chips, another mapping or job than rank 0, must be "
                "the same"
            )


_neighbours: dict[int, int] = {}
"""The process id of every rank that this one can look at."""
_silence = Silence()


def _place() -> str:
    """Where a process id means the same process."""
    boot = Path("/proc/sys/kernel/random/boot_id").read_text(encoding="ascii").strip()
    return f"{boot} {os.readlink('/proc/self/ns/pid')}"


def rest(since: float) -> None:
    """Leave the processor to others, as this rank has waited since then; once it has for long, say
    which rank is silent.

    Of the ranks that see the same, the first says it.
    """
    if time.perf_counter() - since < SPIN_SECONDS:
        os.sched_yield()
        return
    time.sleep(SLEEP_SECONDS)
    pids = {pid: f"rank {rank} (process {pid})" for rank, pid in _neighbours.items()}
    blamed = _silence.look(since, pids, pids)
    able = [rank for rank, pid in _neighbours.items() if pid not in blamed]
    if blamed and min(able) == world().Get_rank():
        _silence.tell(blamed)


def wait_for(request: Any) -> None:
    """Wait until a request is complete."""
    begin = time.perf_counter()
    while not request.Test():
        rest(begin)


def meet() -> None:
    """Wait for all other ranks."""
    wait_for(world().Ibarrier())


def is_worker() -> bool:
    """Whether this process is a rank other than 0."""
    return bool(world().Get_rank() != 0)


def refused(problem: str) -> str | None:
    """What the ranks are refused for where this one has a problem; None where it is for rank 0 to
    tell."""
    if MPI is None:
        # The first rank of a host has the word, and takes all with it when it ends.
        if launcher.local_rank():
            time.sleep(PATIENCE_SECONDS)
        return problem
    if _stage != "alone":
        return None if is_worker() else problem
    try:
        agree(problem)
    except InputError as first:
        problem = str(first)
    return None if is_worker() else problem


def end(status: int, *, waited_for: bool = False) -> None:
    """End all ranks at once, if they are in a run or wait for this one, or where this one cannot
    take part; a worker leaves rank 0 the time to say why."""
    if MPI is None and status:
        time.sleep(FORWARDING_SECONDS)
        launcher.abort(status)
    if MPI is not None and world().Get_size() > 1 and (is_running() or waited_for):
        for number in (signal.SIGINT, signal.SIGTERM):
            signal.signal(number, signal.SIG_IGN)
        # An abort ends mpiexec's forwarders, with whatever of our output they have not read yet.
        time.sleep(PATIENCE_SECONDS if is_worker() else FORWARDING_SECONDS)
        world().Abort(status)


def tie_to_parent() -> None:
    """This rank ends when the process that started it does."""
    ctypes.CDLL(None).prctl(_PR_SET_PDEATHSIG, signal.SIGKILL)
