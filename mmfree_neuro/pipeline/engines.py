"""The engines: one table of what each is called, what it needs and how it is run."""

from collections.abc import Callable, Sequence
from contextlib import suppress
from dataclasses import dataclass
from functools import partial
from importlib.util import find_spec
from typing import Any, Protocol

from mmfree_neuro.errors import EngineError, InputError
from mmfree_neuro.graph.nodes import Graph
from mmfree_neuro.mapping.mapping import Mapping
from mmfree_neuro.run.activity import Activity
from mmfree_neuro.run.job import Job, Progress, Result, Saving, silent
from mmfree_neuro.run.scores import Scoring
from mmfree_neuro.run.session import Session


class Engine(Protocol):
    """Runs a job on a mapping."""

    def __call__(
        self,
        graph: Graph,
        mapping: Mapping,
        job: Job,
        progress: Progress = silent,
        saving: Saving | None = None,
    ) -> Result: ...


class Ranks(Protocol):
    """What an engine whose runs are spread over several processes of ours knows of them."""

    def is_worker(self) -> bool:
        """Whether this process only takes part in a run whose result another process has."""

    def refused(self, problem: str) -> str | None:
        """What all are refused for where this one has a problem; None where another one tells."""

    def end(self, status: int, *, waited_for: bool = False) -> None:
        """End the others, if a run is under way or they wait for this one."""


class ScoringSession(Session, Scoring, Protocol):
    """A session of an engine that scores."""

    def take_all_activity(self) -> Activity:
        """The counts of tokens in all slots since they were last taken."""


@dataclass(frozen=True)
class Scorer:
    """How an engine scores windows of text; `load` imports what it stands on."""

    name: str
    side_by_side: int
    """Windows that are under way at once."""
    chunk: int
    """Tokens that are computed together."""
    load: Callable[[], Callable[[Graph, Mapping], ScoringSession]]

    def session(self, graph: Graph, mapping: Mapping) -> ScoringSession:
        """A session of a graph that has as many slots as windows are under way."""
        return self.load()(graph, mapping)


@dataclass(frozen=True)
class EngineRecord:
    """One engine; `load` and `ranks` import what it stands on."""

    name: str
    needs: str
    """Beyond the project's own dependencies, in words; empty for nothing."""
    load: Callable[[], Callable[..., Result]]
    ranks: Callable[[], Ranks] | None = None
    """Where its runs are spread over processes of ours: what knows of them."""


def _reference() -> Callable[..., Result]:
    from mmfree_neuro.run import reference

    return reference.run


def _fast() -> Callable[..., Result]:
    from mmfree_sims import fast

    return fast.run


def _gpu() -> Callable[..., Result]:
    from mmfree_sims import gpu

    return gpu.run


def _fast_session() -> Callable[[Graph, Mapping], ScoringSession]:
    from mmfree_sims import fast

    return fast.Fast


def _gpu_session() -> Callable[[Graph, Mapping], ScoringSession]:
    from mmfree_sims import gpu

    return gpu.Gpu


def _lava() -> Callable[..., Result]:
    from mmfree_sims.lava import engine

    return engine.run


def _lava_per_core() -> Callable[..., Result]:
    from mmfree_sims.lava import engine

    return engine.run_per_core


def _mpi() -> Callable[..., Result]:
    from mmfree_sims.mpi import engine

    return engine.run


def _mpi_ranks() -> Ranks:
    from mmfree_sims.mpi import ranks

    return ranks


ENGINES = {
    engine.name: engine
    for engine in (
        EngineRecord("reference", "", _reference),
        EngineRecord("fast", "", _fast),
        EngineRecord("gpu", "torch, Triton and a GPU", _gpu),
        EngineRecord("lava", "lava-nc", _lava),
        EngineRecord("lava-per-core", "lava-nc", _lava_per_core),
        EngineRecord("mpi", "mpi4py and an MPI library", _mpi, _mpi_ranks),
    )
}


SCORERS = {
    scorer.name: scorer
    for scorer in (Scorer("fast", 1, 64, _fast_session), Scorer("gpu", 128, 4096, _gpu_session))
}
"""The engines that score windows of text."""


LAVA = "lava.magma.core"
"""A package that lava-nc has and that takes no time to find."""
DEFAULT_ENGINE = "lava"
"""What runs a mapping unless one is named."""
INSTEAD = "fast"
"""What runs it where lava-nc is not installed; tokens and counts are the same."""
WITHOUT_LAVA = (
    f"lava-nc is not installed, so engine {INSTEAD} runs; tokens and counts are the same on every "
    "engine"
)
EMULATOR = "emulator"
"""What runs a machine image; it knows no mapping, and so is none of `ENGINES`."""


def default_engine() -> str:
    """What runs a mapping here unless one is named."""
    # An uninstalled lava-nc may leave a folder, and lava-dl alone has one, too: neither is Lava.
    with suppress(ModuleNotFoundError):
        if find_spec(LAVA) is not None:
            return DEFAULT_ENGINE
    return INSTEAD


def default_scorer() -> str:
    """What computes a graph's logits here, or scores text, unless an engine is named: `gpu` where
    there is a GPU with all that it needs, else `fast`; they give the same bits."""
    if any(find_spec(package) is None for package in ("torch", "triton")):
        return "fast"
    try:
        from mmfree_kernels.integer.device import has_gpu
    except ImportError:  # one of them is there and broken
        return "fast"
    return "gpu" if has_gpu() else "fast"


def scorer_named(name: str) -> Scorer:
    """The engine of that name that scores windows of text."""
    if name not in SCORERS:
        raise EngineError(f"engine {name} scores no text, must be {' or '.join(SCORERS)}")
    return SCORERS[name]


def names_and_needs() -> str:
    """The engines by name, each with what it needs."""
    return ", ".join(
        engine.name + (f" (needs {engine.needs})" if engine.needs else "")
        for engine in ENGINES.values()
    )


def engine_named(name: str, ranks_of_chips: Sequence[int] | None = None) -> Engine:
    """The engine of that name; `ranks_of_chips` gives each chip in use a rank, where the engine has
    ranks."""
    if name not in ENGINES:
        raise EngineError(f"engine {name!r} is not known, must be one of {', '.join(ENGINES)}")
    ranked = [engine.name for engine in ENGINES.values() if engine.ranks is not None]
    if ranks_of_chips is not None and name not in ranked:
        raise InputError(
            f"engine {name} has no ranks, must be {' or '.join(ranked)} to place chips on them"
        )
    run = ENGINES[name].load()
    return run if ranks_of_chips is None else partial(run, ranks_of_chips=ranks_of_chips)


def is_ranked(name: str) -> bool:
    """Whether the runs of an engine are spread over processes of ours."""
    return name in ENGINES and ENGINES[name].ranks is not None


class _Alone:
    """The only process of a run."""

    def is_worker(self) -> bool:
        return False

    def refused(self, problem: str) -> str | None:
        return problem

    def end(self, status: int, *, waited_for: bool = False) -> None:
        pass


def ranks_of(name: Any) -> Ranks:
    """The processes that a run on this engine is spread over, be it this one alone."""
    engine = ENGINES.get(name)
    return _Alone() if engine is None or engine.ranks is None else engine.ranks()
