"""From a mapping file and a prompt to the folder of a run."""

import importlib.metadata
import platform
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from datetime import datetime, timezone
from functools import partial
from pathlib import Path

import numpy as np

from mmfree_neuro.errors import InputError
from mmfree_neuro.files.writing import keeping
from mmfree_neuro.model.tokenizer import Speller, Typed, speller
from mmfree_neuro.pipeline import opened
from mmfree_neuro.pipeline.engines import DEFAULT_ENGINE, EMULATOR, engine_named, ranks_of
from mmfree_neuro.pipeline.placed import Placed, placed
from mmfree_neuro.pipeline.slow_code import slow_code_warnings
from mmfree_neuro.pipeline.text import spelling_of
from mmfree_neuro.run import run_file
from mmfree_neuro.run.folder import check_output, end_of_state, run_folder
from mmfree_neuro.run.job import Job, Model, Progress, Result, Saving, silent
from mmfree_neuro.run.losses import count_warnings, quality_warnings
from mmfree_neuro.run.run_file import RunRecord
from mmfree_neuro.run.sampling import Sampling
from mmfree_neuro.run.state_file import saving
from mmfree_neuro.target.image_file import is_image


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

    def job(self, model: Model, by: Speller, *, keep_logits: bool) -> Job:
        """The same in tokens of a model; one that its vocabulary has not got cannot end a text."""
        tokens = np.array([by.encode(self.prompt, special=self.special)], np.int64)
        stop = () if self.ignore_eos else tuple(t for t in model.eos if 0 <= t < model.vocabulary)
        return Job(tokens, self.new_tokens, self.sampling, keep_logits, stop)


Start = Callable[[Job, Progress, Saving], Result]
"""Runs a job on what was opened."""


def _opened(
    path: Path, engine: str | None, ranks_of_chips: Sequence[int] | None
) -> tuple[Model, Callable[[], Placed], str, Start]:
    """What a path names, how the records of its runs have it, and the engine that runs it."""
    if is_image(path):
        from mmfree_neuro.pipeline import emulated

        if engine not in (None, EMULATOR):
            raise InputError(
                f"{path}: is a machine image, which runs on engine {EMULATOR}, not on {engine}"
            )
        if ranks_of_chips is not None:
            raise InputError(f"{path}: is a machine image, which has no ranks to place chips on")
        image = emulated.OpenedImage(path)
        return image, image.placed, EMULATOR, partial(emulated.run, image)
    if engine == EMULATOR:
        raise InputError(
            f"{path}: engine {EMULATOR} runs machine images, must be made one by mmfree-neuro image"
        )
    graph, stored = opened.open_mapped(path)
    engine = engine or DEFAULT_ENGINE
    start = partial(engine_named(engine, ranks_of_chips), graph, stored.mapping)
    return graph, partial(placed, graph, stored.mapping, stored.system), engine, start


def simulate(
    path: Path,
    task: Task,
    engine: str | None,
    output: Path,
    progress: Progress = silent,
    show: Callable[[RunRecord], None] = lambda _: None,
    *,
    typed: Callable[[str], None] | None = None,
    save_every: int = 0,
    resume: bool = False,
    ranks_of_chips: Sequence[int] | None = None,
) -> RunRecord:
    """Run a mapping file on an engine, or a machine image on the emulator, and write the run's
    folder.

    Every `save_every` tokens the state is written there; with `resume` the run goes on from it.
    `show` is given the finished run, whether it can be kept or not, and `typed` its text as it
    comes, piece by piece.
    """
    worker = ranks_of(engine).is_worker()
    if not worker:
        check_output(output, resume=resume)
    model, placed_as, engine, start = _opened(path, engine, ranks_of_chips)
    with speller(spelling_of(model, as_bytes=task.as_bytes)) as by:
        job = task.job(model, by, keep_logits=False)
        if worker:
            start(job, progress, Saving(save_every, lambda _: None))
        with run_folder(output, resume=resume) as folder:
            where = placed_as()
            with saving(model, where.mapping, job, folder, save_every, resume) as kept:
                typing = None if typed is None else _Typing(progress, job, Typed(by), typed)
                if typing is not None and kept.resumed is not None:
                    typing.type(kept.resumed.chosen.tolist())
                result = start(job, typing or progress, kept)
            run = record_of(where, engine, task, job, result, by)
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
    where: Placed, engine: str, task: Task, job: Job, result: Result, by: Speller
) -> RunRecord:
    """The record of a finished job of one sequence, as of now; a token that ended the text is one
    of its tokens and no part of the text."""
    chosen = result.chosen[0].tolist()
    ended = bool(chosen) and chosen[-1] in job.stop
    summary, mapping = where.summary, where.mapping
    now = datetime.now(timezone.utc).isoformat(timespec="seconds")
    sampling = {"temperature": job.sampling.temperature, "seed": job.sampling.seed}
    return RunRecord(
        engine,
        summary.scheme,
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
        where.system,
        versions(),
        now,
        where.use,
        warnings=(
            *quality_warnings(summary.quality),
            *count_warnings(summary, mapping, result.prefill + result.generate),
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
