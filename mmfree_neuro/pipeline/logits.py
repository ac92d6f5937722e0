"""Logits of whatever a path names, on any engine."""

from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from mmfree_neuro.errors import CheckpointError, InputError, RangeError
from mmfree_neuro.files.reading import named
from mmfree_neuro.graph.nodes import Graph
from mmfree_neuro.lowering.scheme import Scheme
from mmfree_neuro.mapping.mapping import Mapping
from mmfree_neuro.model import checkpoint as checkpoints
from mmfree_neuro.model import hub
from mmfree_neuro.model.checkpoint import Checkpoint
from mmfree_neuro.pipeline import opened
from mmfree_neuro.pipeline.convert import to_graph, within
from mmfree_neuro.pipeline.engines import SCORERS
from mmfree_neuro.pipeline.families import float_model, read_checkpoint
from mmfree_neuro.pipeline.quality import in_one_place
from mmfree_neuro.run.job import Job, check_new_tokens, check_shape
from mmfree_neuro.run.losses import quality_warnings


def load_source(
    path: Path,
    scheme: Scheme,
    text: str,
    tokens: NDArray[np.int64],
    new_tokens: int,
    *,
    as_bytes: bool = False,
    engine: str | None = None,
) -> tuple[Graph, Mapping, tuple[str, ...]]:
    """A graph and a mapping from whatever a path names: a mapping file, a graph file, or a
    checkpoint folder; and what a person should know of them.

    A checkpoint is not converted for tokens that could not be computed then; `engine`, where it
    scores text, says what it lost.
    """
    path = hub.located(path)
    if path.is_dir():
        checkpoint = read_checkpoint(path)
        _check_tokens(checkpoint, tokens, new_tokens)
        tokenizer = checkpoints.read_tokenizer(path)
        name = hub.name_of(path)
        with named(path, CheckpointError, RangeError):
            converted = to_graph(
                checkpoint,
                tokenizer,
                scheme,
                text,
                name,
                as_bytes=as_bytes,
                engine=engine if engine in SCORERS else None,
            )
        return converted.graph, in_one_place(converted.graph), converted.warnings
    if opened.is_mapping(path):
        graph, stored = opened.open_mapped(path)
        return graph, stored.mapping, quality_warnings(graph.quality)
    graph, _ = opened.open_graph(path)
    return graph, in_one_place(graph), quality_warnings(graph.quality)


def _check_tokens(
    checkpoint: Checkpoint[Any], tokens: NDArray[np.int64], new_tokens: int = 0
) -> None:
    job = Job(tokens, new_tokens)
    check_shape(job)
    check_new_tokens(job, checkpoint.config.vocab_size)
    within(tokens, checkpoint.config.vocab_size, "the tokens")


def float_logits(checkpoint: Checkpoint[Any], tokens: NDArray[Any]) -> NDArray[np.float64]:
    """Logits of the float model [rows, time, vocabulary]; InputError where tokens [rows, time] are
    not its own."""
    check_shape(Job(tokens))
    if tokens.dtype.kind not in "iu":
        raise InputError(f"the tokens are {tokens.dtype}, must be integers")
    _check_tokens(checkpoint, tokens)
    return float_model(checkpoint, "the float model").logits(checkpoint, tokens.astype(np.int64))


def float_result(
    folder: Path, tokens: NDArray[np.int64], new_tokens: int
) -> tuple[NDArray[np.float64], NDArray[np.int64], tuple[str, ...]]:
    """Logits of the float model, its greedy continuation, and what was not understood of the
    checkpoint."""
    folder = hub.located(folder)
    checkpoint = read_checkpoint(folder)
    _check_tokens(checkpoint, tokens, new_tokens)
    model = float_model(checkpoint, "the float engine")
    with named(folder, CheckpointError, RangeError):
        if new_tokens:
            return *model.greedy(checkpoint, tokens, new_tokens), checkpoint.warnings
        found = model.logits(checkpoint, tokens)
    return found, np.zeros((len(tokens), 0), np.int64), checkpoint.warnings
