"""Text as tokens and tokens as text: by a model's own `tokenizer.json`, or byte by byte where the
vocabulary is one of bytes."""

import time
from collections.abc import Iterable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Protocol

import numpy as np

from mmfree_neuro.errors import InputError
from mmfree_neuro.integers.fixedpoint import Ints
from mmfree_neuro.model.tokenizer_process import TokenizerProcess

BYTE_VOCABULARIES = range(256, 261)
"""Sizes of vocabularies that are taken for bytes and a few special tokens behind them."""
NO_TEXT = "\ufffd"
"""Stands for what is no text: a byte that is not UTF-8, or a token that is no byte."""


@dataclass(frozen=True)
class Spelling:
    """How a model spells text."""

    vocabulary: int
    tokenizer: str | None = None
    """The content of its `tokenizer.json`."""
    bos: int | None = None
    """The token that its `config.json` puts before a text; bytes alone need it said there."""
    as_bytes: bool = False
    """Whether text is read as bytes whatever the tokenizer and the vocabulary say."""

    @property
    def by_tokenizer(self) -> bool:
        """Whether its tokenizer spells."""
        return self.tokenizer is not None and not self.as_bytes

    @property
    def is_known(self) -> bool:
        """Whether anything says how text is spelt."""
        return self.by_tokenizer or self.as_bytes or self.vocabulary in BYTE_VOCABULARIES


class Speller(Protocol):
    """Writes text as tokens of a model and reads them."""

    def encode(self, text: str, *, special: bool = False) -> list[int]:
        """The tokens of a prompt, with those that the model has before or behind a text.

        Names of special tokens inside the text are text like any other, unless `special`.
        """

    def encode_corpus(self, documents: Iterable[bytes]) -> Ints:
        """The tokens of all documents in a row, each a text of its own."""

    def decode(self, tokens: Iterable[int]) -> str:
        """Tokens that continue a text, as text: spaces at the beginning are kept.

        What is not UTF-8 is shown as replacement marks, and so is a character of which bytes are
        missing at the end.
        """

    def settled(self, tokens: Iterable[int]) -> str:
        """What of that text no token that follows will change, as far as one can tell."""


@contextmanager
def speller(spelling: Spelling) -> Iterator[Speller]:
    """Who spells for a model; InputError where nothing says how its text is spelt."""
    if spelling.by_tokenizer:
        process = TokenizerProcess(spelling.tokenizer or "")
        try:
            process.start()
            yield _ByTokenizer(process)
        finally:
            process.close()
    elif spelling.is_known:
        yield _ByBytes(spelling)
    else:
        raise InputError(
            f"the model has no tokenizer, and its vocabulary of {spelling.vocabulary} tokens is "
            "not one of bytes: put its tokenizer.json beside the weights and convert again, or "
            "have text read as bytes with --bytes"
        )


class _ByBytes:
    def __init__(self, spelling: Spelling) -> None:
        self.spelling = spelling

    def encode(self, text: str, *, special: bool = False) -> list[int]:
        bos, last = self.spelling.bos, self.spelling.vocabulary - 1
        if special:
            raise InputError("the model has no tokenizer, so a prompt cannot name special tokens")
        if bos is not None and not 0 <= bos <= last:
            raise InputError(
                f"the model puts token {bos} before a text (bos_token_id of config.json), must be "
                f"one of its vocabulary 0 … {last}, or null"
            )
        return _something([*([] if bos is None else [bos]), *_raw(text)], text)

    def encode_corpus(self, documents: Iterable[bytes]) -> Ints:
        return np.frombuffer(b"".join(documents), np.uint8).astype(np.int64)

    def decode(self, tokens: Iterable[int]) -> str:
        shown, run = [], bytearray()
        for token in tokens:
            if 0 <= token < 256:
                run.append(token)
            else:
                shown += [run.decode("utf-8", errors="replace"), NO_TEXT]
                run.clear()
        return "".join(shown) + run.decode("utf-8", errors="replace")

    def settled(self, tokens: Iterable[int]) -> str:
        return self.decode(tokens).rstrip(NO_TEXT)


class _ByTokenizer:
    def __init__(self, process: TokenizerProcess) -> None:
        self.process = process

    def encode(self, text: str, *, special: bool = False) -> list[int]:
        shown = _raw(text).decode("utf-8", errors="replace")
        return _something(self.process.encode([shown], special=special)[0], text)

    def encode_corpus(self, documents: Iterable[bytes]) -> Ints:
        texts = [document.decode("utf-8", errors="replace") for document in documents]
        pieces = self.process.encode(texts, special=False)
        return np.array([token for piece in pieces for token in piece], np.int64)

    def decode(self, tokens: Iterable[int]) -> str:
        return self.process.decode([int(token) for token in tokens])

    def settled(self, tokens: Iterable[int]) -> str:
        return self.process.settled([int(token) for token in tokens]).rstrip(NO_TEXT)


def _raw(text: str) -> bytes:
    """The bytes of a text; those of a command line that are not UTF-8 come as Python has them."""
    try:
        return text.encode(errors="surrogateescape")
    except UnicodeEncodeError as problem:
        raise InputError(
            f"the prompt holds U+{ord(text[problem.start]):04X}, half a character, must be Unicode "
            "text"
        ) from None


def _something(tokens: list[int], text: str) -> list[int]:
    """The tokens of a text, which are at least one."""
    if not tokens and text:
        raise InputError("the prompt becomes no token by tokenizer.json, must become at least one")
    if not tokens:
        raise InputError(
            "the prompt is empty, must have at least one byte for a model without a token to "
            "begin with"
        )
    return tokens


class Typed:
    """Text that is shown while its tokens come, once they are settled."""

    def __init__(self, by: Speller) -> None:
        self.by = by
        self.tokens: list[int] = []
        self.shown = ""
        self.not_before = 0.0

    def take(self, tokens: Iterable[int]) -> str:
        """What can be shown after more tokens.

        All tokens are decoded anew, so that takes a tenth of the time at most: now and then what
        there is to show comes with a later token.
        """
        self.tokens += tokens
        begin = time.monotonic()
        if begin < self.not_before:
            return ""
        text = self.by.settled(self.tokens)
        end = time.monotonic()
        self.not_before = end + 9 * (end - begin)
        if not text.startswith(self.shown):  # a decoder that mends what it has written
            return ""
        more = text[len(self.shown) :]
        self.shown = text
        return more

    def rest(self, text: str) -> str:
        """What is missing of the whole text; all of it, on a line of its own, where what has been
        shown is not its beginning."""
        return text[len(self.shown) :] if text.startswith(self.shown) else f"\n{text}"
