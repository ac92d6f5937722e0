"""Text as tokens and tokens as text: by a model's own `tokenizer.json`, or byte by byte where it
has none.

The package `tokenizers` is imported where a `tokenizer.json` is used; models of bytes do without
it.
"""

from collections.abc import Iterable
from typing import TYPE_CHECKING

import numpy as np

from mmfree_neuro.errors import InputError
from mmfree_neuro.integers.fixedpoint import Ints

if TYPE_CHECKING:
    from tokenizers import Tokenizer

_BEFORE = "a"
"""Stands before a continuation when it is decoded, for decoders drop the space at the beginning of
a text."""


def encode(bos: int | None, tokenizer_json: str | None, text: str) -> list[int]:
    """The tokens of a text behind `bos`, where the model has one; UTF-8 bytes without a
    `tokenizer.json`.

    Names of special tokens inside the text are text like any other.
    """
    raw = text.encode(errors="surrogateescape")
    begin = [] if bos is None else [bos]
    tokens = [*begin, *(raw if tokenizer_json is None else _ids(_read(tokenizer_json), raw))]
    if not tokens:
        raise InputError(
            "the prompt is empty, must have at least one byte for a model without a token to "
            "begin with"
        )
    return tokens


def decode(tokenizer_json: str | None, tokens: Iterable[int]) -> str:
    """Tokens that continue a text, as text: spaces at the beginning are kept, special tokens left
    out.

    Whatever is not UTF-8 is shown as replacement marks, and so is a character of which bytes are
    missing at the end.
    """
    ids = [int(token) for token in tokens]
    if tokenizer_json is None:
        return bytes(token for token in ids if 0 <= token < 256).decode("utf-8", errors="replace")
    tokenizer = _read(tokenizer_json)
    before = _ids(tokenizer, _BEFORE.encode())
    return tokenizer.decode([*before, *ids]).removeprefix(tokenizer.decode(before))


def encode_corpus(tokenizer_json: str, documents: Iterable[bytes]) -> Ints:
    """The tokens of all documents in a row, each with the special tokens that its `tokenizer.json`
    puts around a text.

    Bytes that are not UTF-8 become replacement marks.
    """
    tokenizer = _read(tokenizer_json)
    pieces = (np.array(_ids(tokenizer, document, special=True), np.int64) for document in documents)
    return np.concatenate([np.zeros(0, np.int64), *pieces])


def check_tokenizer(tokenizer_json: str, vocabulary: int) -> None:
    """InputError where a `tokenizer.json` is none, or has a token outside of a model's
    vocabulary."""
    last = max(_read(tokenizer_json).get_vocab().values(), default=0)
    if last >= vocabulary:
        raise InputError(
            f"tokenizer.json: has token {last}, which is outside the vocabulary 0 … "
            f"{vocabulary - 1}"
        )


def _read(tokenizer_json: str) -> "Tokenizer":
    try:
        from tokenizers import Tokenizer
    except ImportError:
        raise InputError(
            "tokenizer.json: cannot be used because the package tokenizers is not installed, "
            "must be there for models "
            "that have one: pip install tokenizers"
        ) from None
    try:
        tokenizer = Tokenizer.from_str(tokenizer_json)
    except Exception as error:  # the library raises nothing more special
        raise InputError(
            f"tokenizer.json: is not readable ({error}), must be a tokenizer in the format of "
            "Hugging Face tokenizers"
        ) from None
    tokenizer.no_truncation()
    tokenizer.no_padding()
    tokenizer.encode_special_tokens = True
    return tokenizer


def _ids(tokenizer: "Tokenizer", raw: bytes, *, special: bool = False) -> list[int]:
    return tokenizer.encode(raw.decode("utf-8", errors="replace"), add_special_tokens=special).ids
