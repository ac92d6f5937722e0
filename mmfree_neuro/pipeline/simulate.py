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
from mmfree_neuro.pipeline.engines import EMULATOR, default_engine, engine_named, ranks_of
from mmfree_neuro.pipeline.placed import Placed, placed
from mmfree_neuro.pipeline.slow_code import slow_code_warnings
from mmfree_neuro.pipeline.text import spelling_of
from mmfree_neuro.run import run_file
from mmfree_neuro.run.folder import check_output, end_of_state, run_folder
from mmfree_neuro.run.job import (
    PHASES,
    Asked,
    Job,
    Model,
    Outcome,
    Progress,
    Result,
    Saving,
    silent,
)
from mmfree_neuro.run.losses import count_warnings, quality_warnings
from mmfree_neuro.run.run_file import Continued, RunRecord, totals
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


def job_of(
    tasks: Sequence[Task],
    model: Model,
    by: Speller,
    *,
    keep_logits: bool,
    in_flight: int | None = None,
) -> Job:
    """Texts as tokens of a model, by default as many in flight as it has room for; what reads and
    ends them is that of the first.  A token that the vocabulary has not got cannot end a text."""
    first = tasks[0]
    prompts = [np.array(by.encode(task.prompt, special=first.special), np.int64) for task in tasks]
    stop = () if first.ignore_eos else tuple(t for t in model.eos if 0 <= t < model.vocabulary)
    return Job(
        prompts,
        [task.new_tokens for task in tasks],
        [task.sampling for task in tasks],
        keep_logits,
        stop,
        model.slots if in_flight is None else in_flight,
    )


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
    engine = engine or default_engine()
    start = partial(engine_named(engine, ranks_of_chips), graph, stored.mapping)
    return graph, partial(placed, graph, stored.mapping, stored.system), engine, start


def simulate(
    path: Path,
    tasks: Sequence[Task],
    engine: str | None,
    output: Path,
    progress: Progress = silent,
    show: Callable[[RunRecord], None] = lambda _: None,
    *,
    typed: Callable[[str], None] | None = None,
    save_every: int = 0,
    resume: bool = False,
    ranks_of_chips: Sequence[int] | None = None,
    in_flight: int | None = None,
) -> RunRecord:
    """Run a mapping file on an engine, or a machine image on the emulator, and write the run's
    folder.

    Of several tasks at most `in_flight` are under way at once.  Every `save_every` tokens the state
    is written; with `resume` the run goes on from it.  `show` is given the finished run, whether it
    can be kept or not, and `typed` the text of a single task as it comes, piece by piece.
    """
    worker = ranks_of(engine).is_worker()
    if not worker:
        check_output(output, resume=resume)
    model, placed_as, engine, start = _opened(path, engine, ranks_of_chips)
    with speller(spelling_of(model, as_bytes=tasks[0].as_bytes)) as by:
        job = job_of(tasks, model, by, keep_logits=False, in_flight=in_flight)
        if worker:
            start(job, progress, Saving(save_every, lambda _: None))
        with run_folder(output, resume=resume) as folder:
            where = placed_as()
            with saving(model, where.mapping, job, folder, save_every, resume) as kept:
                typing = None if typed is None else _Typing(progress, job, Typed(by), typed)
                if typing is not None and kept.resumed is not None:
                    typing.type(kept.resumed.stands[0].chosen.tolist())
                result = start(job, typing or progress, kept)
            run = record_of(where, engine, tasks, job, result, by)
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
            typing.typed(typing.text.rest(run.only.text))
        show(run)

    with keeping(shown):
        run_file.save_run(run, folder)
        end_of_state(folder)


def record_of(
    where: Placed, engine: str, tasks: Sequence[Task], job: Job, result: Result, by: Speller
) -> RunRecord:
    """The record of a finished job of some tasks, as of now."""
    summary, mapping = where.summary, where.mapping
    now = datetime.now(timezone.utc).isoformat(timespec="seconds")
    parts = zip(tasks, job.sequences, result.outcomes, strict=True)
    return RunRecord(
        engine,
        summary.scheme,
        tuple(_continued(task.prompt, asked, job.stop, came, by) for task, asked, came in parts),
        job.in_flight,
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
    )


def _continued(
    prompt: str, asked: Asked, stop: tuple[int, ...], came: Outcome, by: Speller
) -> Continued:
    """What came of a prompt; a token that ended the text is one of its tokens and no part of the
    text."""
    chosen = came.chosen.tolist()
    ended = bool(chosen) and chosen[-1] in stop
    return Continued(
        prompt,
        by.decode(chosen[:-1] if ended else chosen),
        tuple(asked.tokens.tolist()),
        tuple(chosen),
        {"temperature": asked.sampling.temperature, "seed": asked.sampling.seed},
        "eos" if ended else "length",
        asked.new_tokens,
        {phase: totals(getattr(came, phase)) for phase in PHASES},
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
