"""The engines by name."""

from collections.abc import Sequence
from functools import partial
from typing import Protocol

from mmfree_neuro.errors import EngineError, InputError
from mmfree_neuro.graph.nodes import Graph
from mmfree_neuro.mapping.mapping import Mapping
from mmfree_neuro.run.job import Job, Report, Result, Saving, silent

ENGINES = ("reference", "fast", "gpu", "lava", "lava-per-core", "mpi")


class Engine(Protocol):
    """Runs a job on a mapping."""

    def __call__(
        self,
        graph: Graph,
        mapping: Mapping,
        job: Job,
        report: Report = silent,
        saving: Saving | None = None,
    ) -> Result: ...


def engine_named(name: str, placement: Sequence[int] | None = None) -> Engine:
    """The engine of that name; `placement` gives each chip in use a rank, where the engine has
    ranks."""
    if placement is not None and name != "mpi":
        raise InputError(f"engine {name} has no ranks, must be mpi to place chips on them")
    match name:
        case "reference":
            from mmfree_neuro.run import reference

            return reference.run
        case "fast":
            from mmfree_sims import fast

            return fast.run
        case "gpu":
            from mmfree_sims import gpu

            return gpu.run
        case "lava" | "lava-per-core":
            from mmfree_sims.lava import engine

            return engine.run if name == "lava" else engine.run_per_core
        case "mpi":
            from mmfree_sims.mpi import engine as mpi

            return partial(mpi.run, placement=placement)
    raise EngineError(f"engine {name!r} is not known, must be one of {', '.join(ENGINES)}")


def is_worker(engine: str) -> bool:
    """Whether this process only takes part in a run whose result another process has."""
    if engine != "mpi":
        return False
    from mmfree_sims.mpi import engine as mpi

    return mpi.is_worker()


def refused(engine: str, problem: str) -> str | None:
    """What a command is refused for: its own problem, or that of the first rank which has one; None
    if that tells."""
    if engine != "mpi":
        return problem
    from mmfree_sims.mpi import engine as mpi

    return mpi.refused(problem)


def end_ranks(engine: str, status: int, *, waited_for: bool = False) -> None:
    """End the other ranks of a run that goes on without this process, or that wait for it."""
    if engine == "mpi":
        from mmfree_sims.mpi import engine as mpi

        mpi.end(status, waited_for=waited_for)
