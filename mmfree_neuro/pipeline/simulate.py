"""From a mapping file and a prompt to the folder of a run."""

import importlib.metadata
import platform
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from datetime import datetime, timezone
from pathlib import Path

import numpy as np

from mmfree_neuro.files.writing import keeping
from mmfree_neuro.graph.nodes import Graph
from mmfree_neuro.graph.summary import summarise
from mmfree_neuro.mapping.footprint import use_of_cores
from mmfree_neuro.mapping.mapping import Mapping
from mmfree_neuro.model.tokenizer import Speller, Typed, speller
from mmfree_neuro.pipeline import opened
from mmfree_neuro.pipeline.engines import engine_named, ranks_of
from mmfree_neuro.pipeline.slow_code import slow_code_warnings
from mmfree_neuro.pipeline.text import spelling_of
from mmfree_neuro.run import run_file
from mmfree_neuro.run.folder import check_output, end_of_state, run_folder
from mmfree_neuro.run.job import Job, Progress, Result, Saving, silent
from mmfree_neuro.run.losses import quality_warnings, saturation_warnings
from mmfree_neuro.run.run_file import RunRecord
from mmfree_neuro.run.sampling import Sampling
from mmfree_neuro.run.state_file import saving
from mmfree_neuro.systems.spec import SystemSpec


@dataclass(frozen=True)
class Task:
    """A text to go on with, and how."""

    prompt: str
    new_tokens: int = 64
    """How many tokens to generate at most."""
    sampling: Sampling = field(default_factory=Sampling)
    ignore_eos: bool = False
    """Whether all of them are generated, be there one among them that ends a text."""
    special: bool = False
    """Whether names of special tokens in the prompt stand for these tokens."""
    as_bytes: bool = False
    """Whether text is read as bytes, whatever tokenizer and vocabulary the model has."""

    def job(self, graph: Graph, by: Speller, *, keep_logits: bool) -> Job:
        """The same in tokens of a model; one that its vocabulary has not got cannot end a text."""
        tokens = np.array([by.encode(self.prompt, special=self.special)], np.int64)
        stop = () if self.ignore_eos else tuple(t for t in graph.eos if 0 <= t < graph.vocabulary)
        return Job(tokens, self.new_tokens, self.sampling, keep_logits, stop)


def simulate(
    path: Path,
    task: Task,
    engine: str,
    output: Path,
    progress: Progress = silent,
    show: Callable[[RunRecord], None] = lambda _: None,
    *,
    typed: Callable[[str], None] | None = None,
    save_every: int = 0,
    resume: bool = False,
    ranks_of_chips: Sequence[int] | None = None,
) -> RunRecord:
    """Run a mapping file on an engine and write the run's folder.

    Every `save_every` tokens the state is written there; with `resume` the run goes on from it.
    `show` is given the finished run, whether it can be kept or not, and `typed` its text as it
    comes, piece by piece.
    """
    worker = ranks_of(engine).is_worker()
    if not worker:
        check_output(output, resume=resume)
    graph, stored = opened.open_mapped(path)
    mapping, start = stored.mapping, engine_named(engine, ranks_of_chips)
    with speller(spelling_of(graph, as_bytes=task.as_bytes)) as by:
        job = task.job(graph, by, keep_logits=False)
        if worker:
            start(graph, mapping, job, progress, Saving(save_every, lambda _: None))
        with run_folder(output, resume=resume) as folder:
            with saving(graph, mapping, job, folder, save_every, resume) as kept:
                typing = None if typed is None else _Typing(progress, job, Typed(by), typed)
                if typing is not None and kept.resumed is not None:
                    typing.type(kept.resumed.chosen.tolist())
                result = start(graph, mapping, job, typing or progress, kept)
            run = record_of(graph, mapping, stored.system, engine, task, job, result, by)
            _keep(run, folder, typing, show)
    return run


@dataclass(frozen=True)
class _Typing:
    """Progress that also types the text as its tokens come."""

    progress: Progress
    job: Job
    text: Typed
    typed: Callable[[str], None]

    def __call__(self, phase: str, done: int, total: int, chosen: Sequence[int]) -> None:
        self.progress(phase, done, total, chosen)
        self.type(chosen)

    def type(self, chosen: Sequence[int]) -> None:
        """Type what can be shown after more tokens."""
        more = self.text.take(token for token in chosen if token not in self.job.stop)
        if more:
            self.typed(more)


def _keep(
    run: RunRecord, folder: Path, typing: _Typing | None, show: Callable[[RunRecord], None]
) -> None:
    """Write a finished run into its folder, and show it whether that is possible or not."""

    def shown(_kept: bool) -> None:
        if typing is not None:
            typing.typed(typing.text.rest(run.text))
        show(run)

    with keeping(shown):
        run_file.save_run(run, folder)
        end_of_state(folder)


def record_of(
    graph: Graph,
    mapping: Mapping,
    system: SystemSpec,
    engine: str,
    task: Task,
    job: Job,
    result: Result,
    by: Speller,
) -> RunRecord:
    """The record of a finished job of one sequence, as of now; a token that ended the text is one
    of its tokens and no part of the text."""
    chosen = result.chosen[0].tolist()
    ended = bool(chosen) and chosen[-1] in job.stop
    summary = summarise(graph)
    now = datetime.now(timezone.utc).isoformat(timespec="seconds")
    sampling = {"temperature": job.sampling.temperature, "seed": job.sampling.seed}
    return RunRecord(
        engine,
        graph.scheme,
        task.prompt,
        by.decode(chosen[:-1] if ended else chosen),
        tuple(job.tokens[0].tolist()),
        tuple(chosen),
        sampling,
        result.seconds,
        result.prefill,
        result.generate,
        summary,
        mapping,
        system,
        versions(),
        now,
        use_of_cores(graph, mapping, system.chip),
        warnings=(
            *quality_warnings(graph.quality),
            *saturation_warnings(summary, mapping, result.prefill + result.generate),
            *slow_code_warnings(),
        ),
        ended="eos" if ended else "length",
        asked=job.new_tokens,
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
