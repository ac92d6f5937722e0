"""Logits of whatever a path names, on any engine."""

from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from mmfree_neuro.errors import InputError
from mmfree_neuro.graph.nodes import Graph
from mmfree_neuro.lowering.scheme import Scheme
from mmfree_neuro.mapping.mapping import Mapping
from mmfree_neuro.model import checkpoint as checkpoints
from mmfree_neuro.model.checkpoint import Checkpoint
from mmfree_neuro.pipeline import opened
from mmfree_neuro.pipeline.convert import to_graph, within
from mmfree_neuro.pipeline.families import float_model, read_checkpoint
from mmfree_neuro.pipeline.quality import in_one_place
from mmfree_neuro.run.job import check_new_tokens, check_shape


def load_source(
    path: Path, scheme: Scheme, text: str, *, as_bytes: bool = False
) -> tuple[Graph, Mapping]:
    """A graph and a mapping from whatever a path names: a mapping file, a graph file, or a
    checkpoint folder."""
    if path.is_dir():
        graph = to_graph(
            read_checkpoint(path),
            checkpoints.read_tokenizer(path),
            scheme,
            text,
            path.resolve().name,
            as_bytes=as_bytes,
        )
        return graph, in_one_place(graph)
    if opened.is_mapping(path):
        graph, stored = opened.open_mapped(path)
        return graph, stored.mapping
    graph, _ = opened.open_graph(path)
    return graph, in_one_place(graph)


def float_logits(checkpoint: Checkpoint[Any], tokens: NDArray[Any]) -> NDArray[np.float64]:
    """Logits of the float model [rows, time, vocabulary]; InputError where tokens [rows, time] are
    not its own."""
    check_shape(tokens)
    if not np.issubdtype(tokens.dtype, np.integer):
        raise InputError(f"the tokens are {tokens.dtype}, must be integers")
    within(tokens, checkpoint.config.vocab_size, "the tokens")
    return float_model(checkpoint, "the float model").logits(checkpoint, tokens.astype(np.int64))


def float_result(
    folder: Path, tokens: NDArray[np.int64], new_tokens: int
) -> tuple[NDArray[np.float64], NDArray[np.int64]]:
    """Logits of the float model and its greedy continuation."""
    checkpoint = read_checkpoint(folder)
    check_shape(tokens)
    check_new_tokens(tokens, new_tokens, checkpoint.config.vocab_size)
    within(tokens, checkpoint.config.vocab_size, "the tokens")
    model = float_model(checkpoint, "the float engine")
    if new_tokens == 0:
        return model.logits(checkpoint, tokens), np.zeros((len(tokens), 0), np.int64)
    return model.greedy(checkpoint, tokens, new_tokens)
