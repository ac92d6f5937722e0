"""A corpus whose tokens are those of a tokenizer."""

import os
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import ExitStack
from dataclasses import dataclass
from itertools import chain, islice
from queue import SimpleQueue

import numpy as np
from numpy.typing import NDArray

from mmfree_neuro.errors import InputError
from mmfree_neuro.model.corpus import Corpus, Texts
from mmfree_neuro.model.tokenizer_process import TokenizerProcess

MOST_PROCESSES = 16
TOGETHER_BYTES = 1 << 20
"""Documents of about so many bytes are spelt in one go, which takes about a second."""


@dataclass(frozen=True)
class Vocabulary:
    """What a model must know of its tokenizer."""

    size: int
    bos: int | None
    """The token that the tokenizer puts before a text."""
    eos: int | None
    """The token that ends a text, by its usual names, else what the tokenizer puts behind one."""


def vocabulary_of(tokenizer: str) -> Vocabulary:
    """What the content of a `tokenizer.json` says."""
    process = TokenizerProcess(tokenizer)
    try:
        size, before, behind, named = process.facts()
    finally:
        process.close()
    eos = named if named is not None else behind[0] if behind else None
    return Vocabulary(size, before[-1] if before else None, eos)


def corpus_of(texts: Texts, tokenizer: str) -> Corpus:
    """The tokens of all documents in their order, each with what the tokenizer puts around it.

    Raises InputError where the tokenizer cannot be used, or makes no tokens of a side.
    """
    with ExitStack() as stack:
        idle: SimpleQueue[TokenizerProcess] = SimpleQueue()
        workers = min(len(os.sched_getaffinity(0)), MOST_PROCESSES)
        for _ in range(workers):
            process = TokenizerProcess(tokenizer)
            stack.callback(process.close)
            idle.put(process)

        def spelt(documents: list[str]) -> NDArray[np.int32]:
            process = idle.get()
            try:
                found = process.encode(documents, special=False)
            finally:
                idle.put(process)
            return np.fromiter(chain.from_iterable(found), np.int32)

        pool = stack.enter_context(ThreadPoolExecutor(workers))
        sides = []
        for side in (texts.train, texts.held_out):
            waiting, found = _together(side), [np.zeros(0, np.int32)]
            while some := list(islice(waiting, 2 * workers)):  # the rest stays bytes until then
                found += pool.map(spelt, some)
            sides.append(np.concatenate(found))
    if not all(side.size for side in sides):
        raise InputError(
            f"{texts.description}: becomes no tokens by tokenizer.json, must become some"
        )
    return Corpus(sides[0], sides[1], texts.description, sum(map(len, texts.held_out)))


def _together(documents: list[bytes]) -> Iterator[list[str]]:
    """Documents in their order, as many together as are spelt in one go."""
    some: list[str] = []
    size = 0
    for document in documents:
        if some and size + len(document) > TOGETHER_BYTES:
            yield some
            some, size = [], 0
        some.append(document.decode("utf-8", errors="replace"))
        size += len(document)
    yield some
