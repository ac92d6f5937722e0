"""Models that score and continue texts of any lengths, on any engine: what a harness of tasks asks
for."""

from collections.abc import Iterator, Sequence
from contextlib import ExitStack
from pathlib import Path
from typing import Any, Protocol
from weakref import finalize

import numpy as np
from numpy.typing import NDArray

from mmfree_neuro.errors import CheckpointError, EngineError, InputError, RangeError
from mmfree_neuro.files.reading import named
from mmfree_neuro.graph.nodes import Graph
from mmfree_neuro.graph.slots import with_slots
from mmfree_neuro.lowering.scheme import Scheme
from mmfree_neuro.mapping.mapping import Mapping
from mmfree_neuro.model import checkpoint as checkpoints
from mmfree_neuro.model import hub
from mmfree_neuro.model.checkpoint import Checkpoint
from mmfree_neuro.model.tokenizer import Speller, Spelling, speller
from mmfree_neuro.pipeline import opened
from mmfree_neuro.pipeline.convert import to_graph
from mmfree_neuro.pipeline.engines import ENGINES, SCORERS, Engine, Scorer, engine_named
from mmfree_neuro.pipeline.families import FloatModel, float_model, read_checkpoint
from mmfree_neuro.pipeline.quality import in_one_place
from mmfree_neuro.pipeline.text import spelling_of
from mmfree_neuro.run.job import Job, check_known
from mmfree_neuro.run.sampling import Sampling
from mmfree_neuro.run.scores import Asked, Scores, answered, of_logits

Tokens = NDArray[np.int64]
AT_ONCE = 1 << 26
"""Logits that are in memory at once, at 8 bytes each."""
FLOAT = "float"
IN_FLIGHT = 8
"""Sequences that are under way at once unless told, where an engine has no reason for more."""


class Scored(Protocol):
    """A model on an engine."""

    vocabulary: int
    bos: int | None
    eos: tuple[int, ...]
    spelling: Spelling

    def answers(self, texts: Sequence[Asked]) -> list[Scores]:
        """What is lost on the tokens that each text is asked about."""

    def continued(
        self, texts: Sequence[Tokens], new_tokens: Sequence[int], sampling: Sampling
    ) -> list[Tokens]:
        """What each text goes on with, up to a token that ends a text."""


class Floats:
    """The float model of a checkpoint."""

    def __init__(self, checkpoint: Checkpoint[Any], spelling: Spelling, model: FloatModel) -> None:
        config = checkpoint.config
        self.checkpoint, self.spelling, self.model = checkpoint, spelling, model
        self.vocabulary, self.bos, self.eos = config.vocab_size, config.bos_token_id, config.eos

    def answers(self, texts: Sequence[Asked]) -> list[Scores]:
        logits = self.logits([text.tokens for text in texts])
        return [of_logits(found, text) for found, text in zip(logits, texts, strict=True)]

    def logits(self, texts: Sequence[Tokens]) -> Iterator[NDArray[np.float64]]:
        """For each text [time], one after another, the logits [time, vocabulary] behind each of its
        tokens."""
        for some in _chunks(texts, self.vocabulary):
            # What follows a token changes nothing before it, so shorter texts are filled up.
            filled = np.zeros((len(some), max(map(len, some))), np.int64)
            for row, text in zip(filled, some, strict=True):
                row[: len(text)] = text
            found = self.model.logits(self.checkpoint, filled)
            yield from (row[: len(text)] for row, text in zip(found, some, strict=True))

    def continued(
        self, texts: Sequence[Tokens], new_tokens: Sequence[int], sampling: Sampling
    ) -> list[Tokens]:
        if sampling.temperature:
            raise InputError(
                f"the temperature is {sampling.temperature}, must be 0 on engine {FLOAT}"
            )
        found = []
        for text, count in zip(texts, new_tokens, strict=True):
            chosen = self.model.greedy(self.checkpoint, text[None], count)[1][0]
            ends = np.flatnonzero(np.isin(chosen, self.eos))
            found.append(chosen[: ends[0] + 1] if ends.size else chosen)
        return found


class Integers:
    """A graph on an engine; where the engine scores text itself, by its `scorer`."""

    def __init__(
        self, graph: Graph, mapping: Mapping, engine: Engine, scorer: Scorer | None = None
    ) -> None:
        self.graph, self.mapping, self.engine, self.scorer = graph, mapping, engine, scorer
        self.vocabulary, self.bos, self.eos = graph.vocabulary, graph.bos, graph.eos
        self.spelling = spelling_of(graph)

    def answers(self, texts: Sequence[Asked]) -> list[Scores]:
        if self.scorer is None or self.graph.greedy:
            logits = self.logits([text.tokens for text in texts])
            return [of_logits(found, text) for found, text in zip(logits, texts, strict=True)]
        for tokens in ([t.tokens for t in texts], [t.following for t in texts]):
            check_known(tokens, self.vocabulary)
        session = self.scorer.session(self.graph, self.mapping)
        return answered(session, texts, self.graph.slots, self.scorer.chunk)

    def logits(self, texts: Sequence[Tokens]) -> Iterator[NDArray[np.float64]]:
        """For each text [time], one after another, the logits [time, vocabulary] behind each of its
        tokens."""
        for some in _chunks(texts, self.vocabulary):
            job = Job(some, in_flight=self.graph.slots)
            result = self.engine(self.graph, self.mapping, job)
            for one in result.outcomes:
                yield np.asarray(one.logits * self.graph.logit_scale, np.float64)

    def continued(
        self, texts: Sequence[Tokens], new_tokens: Sequence[int], sampling: Sampling
    ) -> list[Tokens]:
        stop = tuple(token for token in self.eos if 0 <= token < self.vocabulary)
        job = Job(texts, new_tokens, sampling, False, stop, self.graph.slots)
        return [one.chosen for one in self.engine(self.graph, self.mapping, job).outcomes]


def _chunks(texts: Sequence[Tokens], vocabulary: int) -> Iterator[list[Tokens]]:
    """Texts, as many together as have room for their logits."""
    some: list[Tokens] = []
    for text in texts:
        longest = max([len(text), *map(len, some)])
        if some and (len(some) + 1) * longest * vocabulary > AT_ONCE:
            yield some
            some = []
        some.append(text)
    if some:
        yield some


def scored(
    path: Path,
    engine: str,
    scheme: Scheme,
    in_flight: int | None = 1,
    calibrate: str = "stdlib",
    *,
    as_bytes: bool = False,
) -> Scored:
    """What a path names on an engine: a checkpoint folder on `float`, or on another engine as its
    graph in a scheme; a graph file with so many sequences in flight, or as many as suit the engine;
    or a mapping file, with as many as it is for."""
    path = hub.located(path)
    if engine not in (FLOAT, *ENGINES):
        known = ", ".join((FLOAT, *ENGINES))
        raise EngineError(f"engine {engine!r} is not known, must be one of {known}")
    if engine == FLOAT:
        if not path.is_dir():
            raise InputError(f"{path}: engine {FLOAT} runs a checkpoint, must be a folder of one")
        checkpoint, tokenizer = read_checkpoint(path), checkpoints.read_tokenizer(path)
        config = checkpoint.config
        spelling = Spelling(config.vocab_size, tokenizer, config.bos_token_id, as_bytes)
        return Floats(checkpoint, spelling, float_model(checkpoint, f"engine {FLOAT}"))
    run, scorer = engine_named(engine), SCORERS.get(engine)
    if opened.is_mapping(path):
        graph, stored = opened.open_mapped(path)
        return Integers(graph, stored.mapping, run, scorer)
    if path.is_dir():
        checkpoint, tokenizer = read_checkpoint(path), checkpoints.read_tokenizer(path)
        with named(path, CheckpointError, RangeError):
            graph = to_graph(
                checkpoint,
                tokenizer,
                scheme,
                calibrate,
                hub.name_of(path),
                as_bytes=as_bytes,
                engine=engine if scorer is not None else None,
            ).graph
    else:
        graph = opened.open_graph(path)[0]
    if in_flight is None:
        in_flight = IN_FLIGHT if scorer is None else max(IN_FLIGHT, scorer.side_by_side)
    slotted = with_slots(graph, in_flight)
    return Integers(slotted, in_one_place(slotted), run, scorer)


class Texts:
    """Scores and continues texts as their model spells them, without what it puts before or behind
    a text.  `close` ends the process that spells."""

    def __init__(self, model: Scored) -> None:
        self.model = model
        self._stack = ExitStack()
        # At the latest when Python ends, while what it stands on is still there.
        self.close = finalize(self, self._stack.close)
        self._by: Speller = self._stack.enter_context(speller(model.spelling))
        try:
            added = self._by.encode("")
        except InputError:  # nothing is
            added = []
        begun = self._by.encode("a")
        self._before = next(
            (k for k, (a, b) in enumerate(zip(added, begun, strict=False)) if a != b), len(added)
        )
        self._behind = len(added) - self._before

    @property
    def first(self) -> int:
        """The token before a text: the model's own, or else the one that ends a text, or 0."""
        return next((t for t in (self.model.bos, *self.model.eos) if t is not None), 0)

    def encode(self, text: str) -> list[int]:
        """The tokens of a text, which may be none."""
        if not text:
            return []
        found = self._by.encode(text)
        return found[self._before : len(found) - self._behind]

    def decode(self, tokens: Sequence[int]) -> str:
        """The text of tokens that continue one."""
        return self._by.decode(tokens)

    def score(
        self, pairs: Sequence[tuple[Sequence[int], Sequence[int]]]
    ) -> list[tuple[float, bool]]:
        """For each context and continuation, tokens both, the logarithm of how likely the
        continuation is, and whether its tokens are the likeliest; a context has at least one."""
        fed: dict[tuple[int, ...], list[int]] = {}
        for number, (context, continuation) in enumerate(pairs):
            fed.setdefault((*context, *continuation)[:-1], []).append(number)
        texts = []
        for tokens, numbers in fed.items():
            wanted = [np.array(pairs[number][1], np.int64) for number in numbers]
            at = [np.arange(len(tokens) - len(some), len(tokens)) for some in wanted]
            texts.append(Asked(np.array(tokens, np.int64), *map(np.concatenate, (at, wanted))))
        found: dict[int, tuple[float, bool]] = {}
        answers = self.model.answers(texts)
        for numbers, text, scores in zip(fed.values(), texts, answers, strict=True):
            equal, first = scores.chosen == text.following, 0
            for number in numbers:
                here = slice(first, first + len(pairs[number][1]))
                found[number] = -float(scores.nats[here].sum()), bool(equal[here].all())
                first = here.stop
        return [found[number] for number in range(len(pairs))]

    def go_on(
        self, contexts: Sequence[Sequence[int]], new_tokens: Sequence[int], sampling: Sampling
    ) -> list[str]:
        """What each context, which has at least one token, goes on with, without the token that
        ends a text."""
        texts = [np.array(context, np.int64) for context in contexts]
        found = self.model.continued(texts, new_tokens, sampling)
        return [
            self.decode([t for t in some.tolist() if t not in self.model.eos]) for some in found
        ]
