"""From a mapping file and a prompt to the folder of a run."""

import importlib.metadata
import platform
from collections.abc import Callable, Sequence
from dataclasses import replace
from datetime import datetime, timezone
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from mmfree_neuro.errors import InputError, RunFailed
from mmfree_neuro.graph.nodes import Graph
from mmfree_neuro.graph.summary import summarise
from mmfree_neuro.mapping.footprint import use_of_cores
from mmfree_neuro.mapping.mapping import Mapping
from mmfree_neuro.model import tokenizer as texts
from mmfree_neuro.pipeline import opened
from mmfree_neuro.pipeline.engines import engine_named, ranks_of
from mmfree_neuro.run import run_file
from mmfree_neuro.run.folder import check_output, end_of_state, run_folder
from mmfree_neuro.run.job import Job, Progress, Result, Saving, silent
from mmfree_neuro.run.run_file import RunRecord
from mmfree_neuro.run.state_file import saving
from mmfree_neuro.systems.spec import SystemSpec


def simulate(
    path: Path,
    prompt: str,
    job_of: Callable[[NDArray[np.int64]], Job],
    engine: str,
    output: Path,
    progress: Progress = silent,
    show: Callable[[RunRecord], None] = lambda _: None,
    *,
    save_every: int = 0,
    resume: bool = False,
    ranks_of_chips: Sequence[int] | None = None,
) -> RunRecord:
    """Run a mapping file on an engine and write the run's folder.

    Every `save_every` tokens the state is written there; with `resume` the run goes on from it.
    `show` is given the finished run, whether it can be kept or not.
    """
    worker = ranks_of(engine).is_worker()
    if not worker:
        check_output(output, resume=resume)
    graph, stored = opened.open_mapped(path)
    job = replace(
        job_of(np.array([texts.encode(graph.bos, graph.tokenizer, prompt)], np.int64)),
        keep_logits=False,
    )
    start = engine_named(engine, ranks_of_chips)
    if worker:
        start(graph, stored.mapping, job, progress, Saving(save_every, lambda _: None))
    mapping = stored.mapping
    with run_folder(output, resume=resume) as folder:
        with saving(graph, mapping, job, folder, save_every, resume) as kept:
            result = start(graph, mapping, job, progress, kept)
        run = record_of(graph, mapping, stored.system, engine, prompt, job, result)
        try:
            run_file.save_run(run, folder)
            end_of_state(folder)
        except InputError as error:
            raise RunFailed(str(error)) from None
        finally:
            show(run)
    return run


def record_of(
    graph: Graph,
    mapping: Mapping,
    system: SystemSpec,
    engine: str,
    prompt: str,
    job: Job,
    result: Result,
) -> RunRecord:
    """The record of a finished job of one sequence, as of now."""
    now = datetime.now(timezone.utc).isoformat(timespec="seconds")
    sampling = {"temperature": job.sampling.temperature, "seed": job.sampling.seed}
    return RunRecord(
        engine,
        graph.scheme,
        prompt,
        texts.decode(graph.tokenizer, result.chosen[0]),
        tuple(job.tokens[0].tolist()),
        tuple(result.chosen[0].tolist()),
        sampling,
        result.seconds,
        result.prefill,
        result.generate,
        summarise(graph),
        mapping,
        system,
        versions(),
        now,
        use_of_cores(graph, mapping, system.chip),
    )


def versions() -> dict[str, str]:
    """The versions that a result depends on, as far as they are installed."""
    found = {"python": platform.python_version()}
    for package in ("mmfree-neuro", "numpy", "torch", "lava-nc", "mpi4py"):
        try:
            found[package] = importlib.metadata.version(package)
        except importlib.metadata.PackageNotFoundError:
            continue
    return found
