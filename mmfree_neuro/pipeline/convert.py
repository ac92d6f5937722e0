"""The flow from a checkpoint to a report, step by step; the command line and the examples call
these functions.

The folders `partition/`, `kernels/` and `sims/` are imported where they are needed, so that a Lava
run starts without torch in memory and everything else works without Lava.
"""

import importlib.metadata
import json
import os
import platform
from collections.abc import Callable, Sequence
from dataclasses import replace
from datetime import datetime, timezone
from functools import partial
from pathlib import Path
from typing import Any, Protocol

import numpy as np
from numpy.typing import NDArray

from mmfree_neuro import files
from mmfree_neuro.errors import EngineError, InputError
from mmfree_neuro.graph import graph_file
from mmfree_neuro.graph.nodes import Graph
from mmfree_neuro.graph.summary import summarise
from mmfree_neuro.integers.fixedpoint import Ints
from mmfree_neuro.lowering import hgrn_bit
from mmfree_neuro.lowering.scheme import Scheme
from mmfree_neuro.lowering.ternarise import TernaryWeights, ternary_weights
from mmfree_neuro.mapping import mapping_file
from mmfree_neuro.mapping.footprint import use_of_cores
from mmfree_neuro.mapping.mapping import Mapping
from mmfree_neuro.model import checkpoint as checkpoints
from mmfree_neuro.model import tokenizer as texts
from mmfree_neuro.model.checkpoint import Checkpoint
from mmfree_neuro.run import run_file
from mmfree_neuro.run.folder import whole_folder
from mmfree_neuro.run.job import Job, Report, Result, Saving, check_new_tokens, check_shape, silent
from mmfree_neuro.run.run_file import Run
from mmfree_neuro.run.state_file import saving

ENGINES = ("reference", "fast", "gpu", "lava", "lava-per-core", "mpi")
CALIBRATION_WINDOW = 512
BYTES_PER_TOKEN = 8
"""More than the words of a tokenizer have on average: so many bytes are read for a token of a
window."""


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


Stage = Callable[[str], None]


def read_checkpoint(folder: Path) -> Checkpoint:
    """A checkpoint in the published format."""
    from mmfree_kernels.torch_bin import load_bin

    return checkpoints.read(folder, load_bin)


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
            from mmfree_sims import mpi

            return partial(mpi.run, placement=placement)
    raise EngineError(f"engine {name!r} is not known, must be one of {', '.join(ENGINES)}")


def load_tokens(path: Path) -> NDArray[np.int64]:
    """Token ids [sequences, time] from a `.npy` file; a single row may lack its first dimension."""
    try:
        tokens = np.load(path, allow_pickle=False)
    except (OSError, ValueError, EOFError):
        raise InputError(f"{path}: not readable as an .npy file of numbers") from None
    if (
        not isinstance(tokens, np.ndarray)
        or not np.issubdtype(tokens.dtype, np.integer)
        or tokens.ndim not in (1, 2)
    ):
        raise InputError(f"{path}: must hold integers of shape [sequences, time]")
    return np.atleast_2d(tokens).astype(np.int64)


def calibration_text(
    name: str, count: tuple[int, int], tokenizer: str | None = None
) -> tuple[NDArray[np.int64], NDArray[np.int64]]:
    """Windows of tokens to calibrate on, and others [n, time + 1] to measure quality on, `count` of
    each at most.

    From `stdlib`, a folder of Python sources, or a text file, by a tokenizer or byte by byte; or
    from an `.npy` file of token ids, of which every fourth row is kept for quality.
    """
    if name.endswith(".npy"):
        tokens = load_tokens(Path(name))
        if len(tokens) < 4:
            raise InputError(
                f"{name}: has {len(tokens)} rows, must have at least 4 to calibrate on some and "
                "measure on others"
            )
        kept = np.arange(len(tokens)) % 4 == 3
        return tokens[~kept][:, :-1], tokens[kept]
    from mmfree_neuro.model.corpus import load

    corpus = load(name)
    length = min(CALIBRATION_WINDOW, corpus.held_out.size - 1)
    calibration, held_out = (
        _windows(side, length, n, tokenizer)
        for side, n in zip((corpus.train, corpus.held_out), count, strict=True)
    )
    return calibration[:, :-1], held_out


def _windows(
    side: NDArray[np.uint8], length: int, count: int, tokenizer: str | None
) -> NDArray[np.int64]:
    """Windows of at most `length` + 1 tokens, all of one length, spread evenly over a text."""
    from mmfree_neuro.model.corpus import windows

    if tokenizer is None:
        return windows(side, length, count)
    stretches = windows(side, min(BYTES_PER_TOKEN * length, side.size - 1), count)
    found = [
        texts.encode_corpus(tokenizer, [bytes(s.astype(np.uint8))])[: length + 1] for s in stretches
    ]
    shortest = min(len(tokens) for tokens in found)
    if shortest < 2:
        raise InputError(
            f"a part of the text has {shortest} tokens, must have at least 2 to calibrate on"
        )
    return np.stack([tokens[:shortest] for tokens in found])


def nats(logits: NDArray[np.float64], following: Ints) -> NDArray[np.float64]:
    """Nats per predicted token, from logits [..., vocabulary] and the tokens that followed."""
    shifted = logits - logits.max(-1, keepdims=True)
    chosen = np.take_along_axis(shifted, following[..., None], -1)[..., 0]
    lost: NDArray[np.float64] = np.log(np.exp(shifted).sum(-1)) - chosen
    return lost


def in_one_place(graph: Graph) -> Mapping:
    """A mapping that only serves to compute logits: every node whole, on a core of its own of one
    chip."""
    from mmfree_neuro.mapping.mapping import HOST, Location, Shard
    from mmfree_partition.route import route

    shards = tuple(Shard(node.name, 0, node.size) for node in graph.nodes)
    locations = (Location(HOST, 0), *(Location(0, core) for core in range(len(shards) - 1)))
    return Mapping("", "", "none", shards, locations, route(graph, shards, locations))


def quality(
    checkpoint: Checkpoint,
    graph: Graph,
    windows: NDArray[np.int64],
    weights: TernaryWeights | None = None,
) -> dict[str, float]:
    """What a graph loses against the float model on windows [n, time + 1], each from a zero state.

    `weights` are the checkpoint's ternary weights where they are at hand.
    """
    from mmfree_kernels.evaluate import scores
    from mmfree_sims import fast

    inputs, following = np.ascontiguousarray(windows[:, :-1]), windows[:, 1:]
    floats = scores(checkpoint, windows, weights=weights)
    session, lost, agreed = fast.Fast(graph, in_one_place(graph)), 0.0, 0
    for number, row in enumerate(inputs):
        session.reset()
        for at in range(0, len(row), fast.CHUNK):  # so that few logits are in memory at a time
            here = slice(at, at + fast.CHUNK)
            logits = session.feed(row[here])
            lost += float(
                nats(logits.astype(np.float64) * graph.logit_scale, following[number, here]).sum()
            )
            agreed += int((logits.argmax(-1) == floats.chosen[number, here]).sum())
    float_nats, integer_nats = float(floats.nats.mean()), lost / following.size
    return {
        "tokens": following.size,
        "float_nats": float_nats,
        "integer_nats": integer_nats,
        "perplexity_ratio": float(np.exp(integer_nats - float_nats)),
        "greedy_agreement": agreed / following.size,
    }


def to_graph(
    checkpoint: Checkpoint,
    tokenizer: str | None,
    scheme: Scheme,
    text: str,
    name: str,
    stage: Stage = lambda _: None,
) -> Graph:
    """Calibrate and lower a checkpoint, and measure what it lost."""
    from mmfree_kernels.calibrate import calibrate, windows_for
    from mmfree_neuro.run.job import check

    if tokenizer is not None:
        texts.check_tokenizer(tokenizer, checkpoint.config.vocab_size)
    stage("packing")
    weights = ternary_weights(checkpoint)
    windows = windows_for(sum(part.size for weight in weights.values() for part in weight.parts))
    calibration, held_out = calibration_text(text, windows, tokenizer)
    for tokens in (calibration, held_out):
        _within(tokens, checkpoint.config.vocab_size, text)
    stage("calibrating")
    ranges = calibrate(checkpoint, calibration, scheme, weights=weights)
    stage("lowering")
    graph = hgrn_bit.lower(checkpoint, weights, ranges, scheme, name)
    check(graph, Job(calibration))
    stage("measuring quality")
    return replace(
        graph, tokenizer=tokenizer, quality=quality(checkpoint, graph, held_out, weights)
    )


def _within(tokens: Ints, vocabulary: int, text: str) -> None:
    low, high = int(tokens.min()), int(tokens.max())
    if low < 0 or high >= vocabulary:
        wrong = low if low < 0 else high
        raise InputError(
            f"{text}: holds token {wrong}, which is outside the vocabulary 0 … {vocabulary - 1}"
        )


def convert(
    folder: Path, output: Path, scheme: Scheme, text: str, stage: Stage = lambda _: None
) -> Graph:
    """Turn a checkpoint folder into a graph file."""
    stage("reading")
    graph = to_graph(
        read_checkpoint(folder),
        checkpoints.read_tokenizer(folder),
        scheme,
        text,
        folder.resolve().name,
        stage,
    )
    stage("writing")
    graph_file.save_graph(graph, output)
    return graph


def simulate(
    path: Path,
    prompt: str,
    job_of: Callable[[NDArray[np.int64]], Job],
    engine: str,
    output: Path,
    report: Report = silent,
    *,
    save_every: int = 0,
    resume: bool = False,
    placement: Sequence[int] | None = None,
) -> Run:
    """Run a mapping file on an engine and write the run's folder.

    Every `save_every` tokens the state is written there; with `resume` the run goes on from it.
    """
    graph, stored = mapping_file.load_mapped(path)
    job = replace(
        job_of(np.array([texts.encode(graph.bos, graph.tokenizer, prompt)], np.int64)),
        keep_logits=False,
    )
    start = engine_named(engine, placement)
    if is_worker(engine):
        start(graph, stored.mapping, job, report, Saving(save_every, lambda _: None))
    with saving(stored.mapping, job, output, save_every, resume) as kept:
        result = start(graph, stored.mapping, job, report, kept)
    now = datetime.now(timezone.utc).isoformat(timespec="seconds")
    sampling = {"temperature": job.sampling.temperature, "seed": job.sampling.seed}
    run = Run(
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
        stored.mapping,
        stored.system,
        versions(),
        now,
        use_of_cores(graph, stored.mapping, stored.system.chip),
    )
    with whole_folder(output) as folder:
        run_file.save_run(run, folder)
    return run


def is_worker(engine: str) -> bool:
    """Whether this process only takes part in a run whose result another process has."""
    if engine != "mpi":
        return False
    from mmfree_sims import mpi

    return mpi.is_worker()


def refused(engine: str, problem: str) -> str | None:
    """What a command is refused for: its own problem, or that of the first rank which has one; None
    if that tells."""
    if engine != "mpi":
        return problem
    from mmfree_sims import mpi

    return mpi.refused(problem)


def end_ranks(engine: str, status: int, *, waited_for: bool = False) -> None:
    """End the other ranks of a run that goes on without this process, or that wait for it."""
    if engine == "mpi":
        from mmfree_sims import mpi

        mpi.end(status, waited_for=waited_for)


def versions() -> dict[str, str]:
    """The versions that a result depends on, as far as they are installed."""
    found = {"python": platform.python_version()}
    for package in ("mmfree-neuro", "numpy", "torch", "lava-nc", "mpi4py"):
        try:
            found[package] = importlib.metadata.version(package)
        except importlib.metadata.PackageNotFoundError:
            continue
    return found


def load_source(path: Path, scheme: Scheme, text: str) -> tuple[Graph, Mapping]:
    """A graph and a mapping from whatever a path names: a mapping file, a graph file, or a
    checkpoint folder."""
    if path.is_dir():
        graph = to_graph(
            read_checkpoint(path),
            checkpoints.read_tokenizer(path),
            scheme,
            text,
            path.resolve().name,
        )
        return graph, in_one_place(graph)
    if path.suffix == ".map":
        graph, stored = mapping_file.load_mapped(path)
        return graph, stored.mapping
    graph, _ = graph_file.load_graph(path)
    return graph, in_one_place(graph)


def float_result(
    folder: Path, tokens: NDArray[np.int64], new_tokens: int
) -> tuple[NDArray[np.float64], NDArray[np.int64]]:
    """Logits of the float model and its greedy continuation."""
    from mmfree_kernels import evaluate, model, streamed

    checkpoint = read_checkpoint(folder)
    check_shape(tokens)
    check_new_tokens(tokens, new_tokens, checkpoint.config.vocab_size)
    _within(tokens, checkpoint.config.vocab_size, "the tokens")
    if new_tokens == 0:  # a model of any size
        windows = [
            window.numpy().astype(np.float64) for window in streamed.stream(checkpoint, tokens)
        ]
        return np.concatenate(windows), np.zeros((len(tokens), 0), np.int64)
    float_model = model.from_checkpoint(checkpoint)
    return evaluate.logits(float_model, tokens).astype(np.float64), evaluate.greedy(
        float_model, tokens, new_tokens
    )


def bench_gpu(point: dict[str, Any], seconds: float, output: Path | None) -> dict[str, Any]:
    """Measure a point, given as the arguments of `bench.workload.point`, on this GPU: its row.

    Raises InputError, before anything is loaded, where `record.append` could not add it to
    `output`.
    """
    from mmfree_kernels.bench import meter, record, workload

    chosen = workload.point(**point)
    meter.check_seconds(seconds)
    if output is not None:
        record.check_output(output)
    bench = record.this_gpu()
    from mmfree_kernels.bench.builders import (
        build,
    )  # needs Triton; a missing GPU is told before that

    return record.measure_point(bench, chosen, seconds, build)


def write_report(folder: Path, output: Path, gpu_rows: Sequence[Path] = ()) -> dict[str, Any]:
    """Write the report of a run as `.html`, `.md` or `.json`, by the name of the output; its
    content.

    `gpu_rows` are files of rows that `bench gpu` wrote, to stand beside those that come with the
    project; a row that was measured later takes the place of an earlier one.
    """
    from mmfree_neuro.baselines import measured, published, roofline
    from mmfree_neuro.report import content as content_
    from mmfree_neuro.report import pages, pictures

    for path in gpu_rows:
        if os.path.exists(path) and os.path.exists(output) and os.path.samefile(path, output):
            raise InputError(f"{output}: is a file of GPU rows, must be another file to write")
    run = run_file.load_run(folder)
    rows, left_out = measured.load(gpu_rows)
    content = content_.build(run, published.load() + rows, run.use, roofline.load())
    content["comparison"]["sentences"] += left_out
    match output.suffix:
        case ".html":
            text = pages.to_html(content, pictures.draw(content))
        case ".md":
            text = pages.to_markdown(content)
        case ".json":
            text = json.dumps(content, indent=2)
        case suffix:
            raise InputError(f"{output}: ends in {suffix!r}, must end in .html, .md or .json")
    with files.whole_file(output) as scratch:
        scratch.write_text(text, encoding="utf-8")
    return content
