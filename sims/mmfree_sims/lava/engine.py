"""The Lava engine: one asynchronous Lava process per chip, or per core, and one for the host."""

import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import Any

from lava.magma.core.process.process import ProcessServer
from lava.magma.core.process.variable import VarServer
from lava.magma.core.run_configs import Loihi2SimCfg

from mmfree_neuro.errors import EngineError, RunFailed
from mmfree_neuro.graph.nodes import Graph
from mmfree_neuro.mapping.mapping import HOST, Mapping
from mmfree_neuro.run.job import (
    PHASES,
    Job,
    Progress,
    Result,
    Saving,
    check,
    check_drawn,
    check_saving,
    silent,
)
from mmfree_neuro.run.sampling import Sampling
from mmfree_sims.lava import guard
from mmfree_sims.lava.chip.process import GREEDY, Chip, ChipOfCores, Core, Host, JobHost
from mmfree_sims.lava.shared import NOBODY, Shared, allocate
from mmfree_sims.tiles.book import FROM_ZERO, Book, Start, start_of
from mmfree_sims.tiles.plan import Plan, by_chip, by_core

TOKENS_IN_FLIGHT_PER_CHIP = 6
CHANNEL_SLOTS = 64
MOST_CORES_AS_PROCESSES = 60


Chips = dict[int, Chip | ChipOfCores]
"""By number."""


def build(
    graph: Graph,
    mapping: Mapping,
    *,
    sampling: Sampling = GREEDY,
    width: int = 1,
    per_core: bool = False,
) -> tuple[Host, Chips]:
    """The model as a part of a Lava program: the Host, whose token ports are free, and the Chips
    behind it, connected.

    `sampling` and `width` are as `Host` says; InputError where words are to be drawn and the chips
    choose them.  The network runs as any other, by the `run` of one
    of its Processes, or by `guard.run`, which ends it whatever fails.
    """
    if graph.greedy:
        check_drawn(sampling)
    plan = Plan(graph, mapping, by_core(mapping) if per_core else by_chip)
    host = Host(plan=plan, sampling=sampling, width=width, name="the host")
    return host, _chips(plan, mapping, host, per_core=per_core)


def build_job(
    graph: Graph,
    mapping: Mapping,
    job: Job,
    shared: Shared | None = None,
    *,
    per_core: bool = False,
    start: Start = FROM_ZERO,
) -> tuple[JobHost, Chips]:
    """The JobHost and the Chips of a mapping, connected: Lava Processes for a program of the user's
    own, or for `run`.

    Whoever runs them without `guard.run` must stop them in a `finally`: Lava's processes outlive an
    exception, and Python then waits for them at its exit for ever.
    """
    plan = Plan(graph, mapping, by_core(mapping) if per_core else by_chip)
    in_flight = TOKENS_IN_FLIGHT_PER_CHIP * len(mapping.chips)
    host = JobHost(
        plan=plan, job=job, start=start, in_flight=in_flight, shared=shared, name="the host"
    )
    sequences = len(job.sequences)
    chips = _chips(
        plan, mapping, host, per_core=per_core, sequences=sequences, start=start, shared=shared
    )
    if shared is not None:
        owners = [place.chip for place in mapping.cores] if per_core else mapping.chips
        shared.ready[[chip not in chips for chip in owners]] = NOBODY
    return host, chips


def _chips(
    plan: Plan, mapping: Mapping, host: Host | JobHost, *, per_core: bool, **params: Any
) -> Chips:
    """The Chips, connected with each other and with the host.

    A chip that holds nothing but copies that nobody reads has nothing to do and is left out.
    """

    def chip_of(tile: int) -> int:
        return mapping.cores[tile].chip if per_core and tile != HOST else tile

    at_work = {chip_of(stretch.tile) for stretch in plan.stretches}
    made = ChipOfCores if per_core else Chip
    chips: Chips = {
        chip: made(plan=plan, mapping=mapping, chip=chip, name=f"chip {chip}", **params)
        for chip in mapping.chips
        if chip in at_work
    }
    processes: dict[int, Any] = {HOST: host, **chips}
    links = {
        (chip_of(tile), chip_of(other))
        for tile, others in plan.linked().items()
        for other in others
    }
    for sender, receiver in sorted(links):
        if sender != receiver:
            processes[sender].s_out.connect(processes[receiver].s_in)
    return chips


def run(
    graph: Graph,
    mapping: Mapping,
    job: Job,
    progress: Progress = silent,
    saving: Saving | None = None,
) -> Result:
    """Run a job in Lava, one process per chip."""
    return _run(graph, mapping, job, progress, saving, per_core=False, jitter_us=0)


def run_per_core(
    graph: Graph,
    mapping: Mapping,
    job: Job,
    progress: Progress = silent,
    saving: Saving | None = None,
) -> Result:
    """Run a job in Lava, one process per core; for small models."""
    if len(mapping.cores) > MOST_CORES_AS_PROCESSES:
        raise EngineError(
            f"the mapping uses {len(mapping.cores)} cores, must use at most "
            f"{MOST_CORES_AS_PROCESSES} to run "
            "one Lava process per core"
        )
    return _run(graph, mapping, job, progress, saving, per_core=True, jitter_us=0)


def _run(
    graph: Graph,
    mapping: Mapping,
    job: Job,
    progress: Progress,
    saving: Saving | None,
    *,
    per_core: bool,
    jitter_us: int,
) -> Result:
    check(graph, job)
    check_saving(job, saving)
    begin = time.monotonic()
    with guard.turn(), _memory(), _forgotten():
        shared = allocate(graph, job, len(mapping.cores if per_core else mapping.chips))
        shared.jitter[0] = jitter_us
        if saving is not None and saving.resumed is not None:
            shared.tallies.load_states(saving.resumed.states)
        book = Book(graph, mapping, job, saving)
        shared.chosen[:], shared.known[:] = book.chosen(), book.known()
        host, _ = build_job(graph, mapping, job, shared, per_core=per_core, start=start_of(saving))
        guard.run(
            host,
            Loihi2SimCfg(),
            channel_slots=CHANNEL_SLOTS,
            watch=_watcher(shared, job, progress, book),
            pulse=lambda: (shared.counters.tobytes(), shared.ready.tolist()),
        )
        seconds = {"start": float(shared.clock[2]) - begin} | book.seconds(shared.clock)
        outcomes = book.outcomes(shared.tallies, shared.stands, shared.chosen, shared.logits)
        return Result(outcomes, seconds)


@contextmanager
def _memory() -> Iterator[None]:
    """RunFailed where this process runs out of memory."""
    try:
        yield
    except MemoryError as error:
        raise RunFailed(f"the lava engine ran out of memory ({error})") from None


@contextmanager
def _forgotten() -> Iterator[None]:
    """Lava keeps every Process and Var for good, with all that they refer to: none of those that
    are made inside."""
    processes, variables = ProcessServer(), VarServer()
    before = {id(process) for process in processes.processes}
    try:
        yield
    finally:
        ours = {
            id(process): process
            for process in processes.processes
            if isinstance(process, JobHost | Chip | ChipOfCores | Core)
            and id(process) not in before
        }
        processes.processes[:] = [p for p in processes.processes if id(p) not in ours]
        variables.vars[:] = [var for var in variables.vars if id(var.process) not in ours]
        for process in ours.values():
            # They refer to each other in circles, and would stay until memory is searched.
            process.__dict__.clear()
            process._runtime = None  # Lava looks at it when a Process goes


def _watcher(shared: Shared, job: Job, progress: Progress, book: Book) -> Callable[[], None]:
    totals, before = (job.prompted, job.to_choose), book.done()
    told, known = [0, 0], book.known()

    def watch() -> None:
        for phase, name in enumerate(PHASES):
            done = int(shared.done[phase])
            if done != told[phase]:
                told[phase] = done
                chosen = more() if phase else ()
                progress(name, before[phase] + done, totals[phase], chosen)
        if shared.saving[0] != shared.saving[1]:
            book.save(shared.kept, shared.stands, shared.chosen, shared.clock)
            shared.saving[1] = shared.saving[0]

    def more() -> list[int]:
        """The tokens that were chosen since this was last asked."""
        found = []
        for sequence, count in enumerate(shared.known.tolist()):
            at = job.chosen_from[sequence]
            found += shared.chosen[at + known[sequence] : at + count].tolist()
            known[sequence] = count
        return found

    return watch
