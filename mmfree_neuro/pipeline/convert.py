"""From a checkpoint to a graph: calibrated, lowered, and its quality measured."""

from collections.abc import Callable
from dataclasses import dataclass, replace
from functools import partial
from pathlib import Path
from typing import Any

from mmfree_neuro.errors import CheckpointError, InputError, RangeError
from mmfree_neuro.files.reading import named
from mmfree_neuro.files.writing import check_outputs, keeping
from mmfree_neuro.graph import graph_file
from mmfree_neuro.graph.nodes import Graph
from mmfree_neuro.integers.fixedpoint import Ints
from mmfree_neuro.lowering.scheme import Scheme
from mmfree_neuro.model import checkpoint as checkpoints
from mmfree_neuro.model import hub
from mmfree_neuro.model.checkpoint import Checkpoint
from mmfree_neuro.model.tokenizer import Spelling, speller
from mmfree_neuro.pipeline.engines import scorer_named
from mmfree_neuro.pipeline.families import family_of, float_model, read_checkpoint
from mmfree_neuro.pipeline.opened import files_behind
from mmfree_neuro.pipeline.quality import measure
from mmfree_neuro.pipeline.text import (
    Source,
    calibration_windows,
    described,
    files_of,
    spelling_of,
    windows_for,
)
from mmfree_neuro.run.job import Job, check

Stage = Callable[[str], None]
"""Called when a stage begins."""
STAGES = "reading", "packing", "calibrating", "lowering", "measuring quality", "writing"
"""Of a conversion, in their order."""


@dataclass(frozen=True)
class Converted:
    """A graph, and what a person should know of how it came about, a sentence each."""

    graph: Graph
    warnings: tuple[str, ...]
    engine: str
    """What computed the integers whose quality was measured."""


def to_graph(
    checkpoint: Checkpoint[Any],
    tokenizer: str | None,
    scheme: Scheme,
    source: Source,
    name: str,
    stage: Stage = lambda _: None,
    *,
    as_bytes: bool = False,
    engine: str | None = None,
) -> Converted:
    """Calibrate and lower a checkpoint, and measure what it lost; `as_bytes` has text read as bytes
    whatever the tokenizer and the vocabulary say, and `engine` computes the integers that are
    measured, the fastest here unless named."""
    family, model = family_of(checkpoint), float_model(checkpoint, "calibration")
    spelling = Spelling(checkpoint.config.vocab_size, tokenizer, as_bytes=as_bytes)
    if spelling.by_tokenizer:
        with speller(spelling):  # it is read, whether it is needed for calibration or not
            pass
    stage("packing")
    weights = family.ternary_weights(checkpoint)
    windows = windows_for(sum(part.size for weight in weights.values() for part in weight.parts))
    calibration, held_out = calibration_windows(source, windows, spelling)
    for tokens in (calibration, held_out):
        within(tokens, checkpoint.config.vocab_size, described(source))
    stage("calibrating")
    ranges = model.calibrate(checkpoint, calibration, scheme, weights=weights)
    stage("lowering")
    graph = family.lower(checkpoint, weights, ranges, scheme, name)
    check(graph, Job(calibration))
    stage("measuring quality")
    measured = measure(checkpoint, graph, held_out, weights, engine)
    graph = replace(
        graph,
        tokenizer=None if as_bytes else tokenizer,
        as_bytes=as_bytes,
        quality=measured.quality,
    )
    warnings = *checkpoint.warnings, *measured.warnings, *text_warnings(graph)
    return Converted(graph, warnings, measured.engine)


def text_warnings(graph: Graph) -> tuple[str, ...]:
    """What there is to say of texts that a model cannot begin, end or read."""
    spelling, last = spelling_of(graph), graph.vocabulary - 1
    found = [
        f"no text ends at token {token} (eos_token_id), which is outside the vocabulary 0 … {last}"
        for token in graph.eos
        if not 0 <= token <= last
    ]
    if not spelling.is_known:
        found.append(
            "the model has no tokenizer, and its vocabulary is not one of bytes: it takes token "
            "ids, and text only with --bytes"
        )
    if not spelling.by_tokenizer and graph.bos is not None and not 0 <= graph.bos <= last:
        found.append(
            f"token {graph.bos} (bos_token_id) stands before a text of bytes and is outside the "
            f"vocabulary 0 … {last}: prompts are refused, until config.json has one that is not, "
            "or null"
        )
    return tuple(found)


def within(tokens: Ints, vocabulary: int, text: str) -> None:
    low, high = int(tokens.min()), int(tokens.max())
    if low < 0 or high >= vocabulary:
        wrong = low if low < 0 else high
        raise InputError(
            f"{text}: holds token {wrong}, which is outside the vocabulary 0 … {vocabulary - 1}"
        )


def convert(
    folder: Path,
    output: Path,
    scheme: Scheme,
    source: Source,
    stage: Stage = lambda _: None,
    show: Callable[[Converted, bool], None] = lambda _, __: None,
    *,
    as_bytes: bool = False,
    engine: str | None = None,
) -> Converted:
    """Turn a checkpoint folder into a graph file; `show` is given what came of it, and told whether
    it could be kept."""
    if engine is not None:
        scorer_named(engine)
    folder = hub.located(folder)
    checkpoints.check_is_folder(folder)
    check_outputs([output], [*files_behind(folder), *files_of(source)])
    stage("reading")
    with named(folder, CheckpointError, RangeError):
        converted = to_graph(
            read_checkpoint(folder),
            checkpoints.read_tokenizer(folder),
            scheme,
            source,
            hub.name_of(folder),
            stage,
            as_bytes=as_bytes,
            engine=engine,
        )
    stage("writing")
    with keeping(partial(show, converted)):
        graph_file.save_graph(converted.graph, output)
    return converted
