"""Token ids from files, and windows of text to calibrate and to measure quality on."""

import math
import os
from collections.abc import Sequence
from pathlib import Path
from typing import IO, Any

import numpy as np
from numpy.typing import NDArray

from mmfree_neuro.errors import InputError
from mmfree_neuro.files.reading import Misfit, opened, reading
from mmfree_neuro.model import corpus
from mmfree_neuro.model.tokenizer import Speller, Spelling, speller
from mmfree_neuro.run.job import Model

CALIBRATION_WINDOW = 512
TOKEN_FILE = "an .npy file of integers [sequences, time]"
LARGEST_TOKEN = (1 << 63) - 1


BYTES_PER_TOKEN = 8
"""More than the words of a tokenizer have on average: so many bytes are read for a token of a
window."""


def load_tokens(path: Path) -> NDArray[np.int64]:
    """Token ids [sequences, time] from a `.npy` file; a single row may lack its first dimension."""
    with reading(path, InputError, TOKEN_FILE), opened(path) as file:
        size = os.fstat(file.fileno()).st_size
        shape, by_columns, dtype = _header(file)
        if dtype.kind not in "iu" or len(shape) not in (1, 2):
            raise Misfit(f"holds {dtype} of shape {list(shape)}")
        needed = math.prod(shape) * dtype.itemsize
        if min(shape) < 0 or needed > size - file.tell():
            raise Misfit(
                f"claims {needed} bytes of numbers, has {size - file.tell()}, or is cut short"
            )
        if needed < size - file.tell():
            raise Misfit(f"claims {needed} bytes of numbers, has {size - file.tell()}")
        stored = np.frombuffer(file.read(needed), dtype)
        tokens = stored.reshape(shape, order="F" if by_columns else "C")
        if stored.size and int(stored.max()) > LARGEST_TOKEN:
            raise Misfit(f"holds {stored.max()}, must be at most {LARGEST_TOKEN}")
    return np.atleast_2d(tokens).astype(np.int64)


def _header(file: IO[bytes]) -> tuple[tuple[int, ...], bool, np.dtype[Any]]:
    """What an `.npy` file says of its array: the shape, whether columns are contiguous, the
    type."""
    npy: Any = np.lib.format
    version = npy.read_magic(file)
    if version not in ((1, 0), (2, 0)):
        raise Misfit(f"is of version {version[0]}.{version[1]}, must be 1.0 or 2.0")
    read = npy.read_array_header_1_0 if version == (1, 0) else npy.read_array_header_2_0
    header: tuple[tuple[int, ...], bool, np.dtype[Any]] = read(file)
    return header


_MOST_WINDOWS = 32
_LEAST_WINDOWS = 4
_WEIGHTS_AND_WINDOWS = 1_400_000_000


def windows_for(ternary_weights: int) -> tuple[int, int]:
    """How many windows of 512 tokens to calibrate on, and how many others to measure quality on.

    Time is weights times windows: two cores take about 0.7e12 multiply-adds in ten seconds, which
    are 4 windows of the 370M model.  Models of up to 43 million ternary weights get 32, and nothing
    gets fewer than 4, so that above 370M time grows with the model.  2048 tokens are enough: a
    range is an extreme, which grows little with more text, formats hold twice the range, and a
    larger model has more values per token to find it in.  Quality gets half as many.
    """
    calibration = min(_MOST_WINDOWS, max(_LEAST_WINDOWS, _WEIGHTS_AND_WINDOWS // ternary_weights))
    return calibration, calibration // 2


Source = str | Path | Sequence[str] | NDArray[np.integer[Any]]
"""Where calibration takes its tokens from; see `calibration_windows`."""


def files_of(source: Source) -> list[Path]:
    """The files that a source is read from."""
    return corpus.files_of(str(source)) if isinstance(source, str | Path) else []


def described(source: Source) -> str:
    """A source of tokens in a few words, for messages."""
    if isinstance(source, np.ndarray):
        return f"an array of shape {list(source.shape)}"
    return str(source) if isinstance(source, str | Path) else f"{len(source)} texts"


def spelling_of(model: Model, *, as_bytes: bool = False) -> Spelling:
    """How a model spells text; `as_bytes` has it read as bytes."""
    return Spelling(model.vocabulary, model.tokenizer, model.bos, model.as_bytes or as_bytes)


def calibration_windows(
    source: Source, count: tuple[int, int], spelling: Spelling
) -> tuple[NDArray[np.int64], NDArray[np.int64]]:
    """Windows of tokens [n, time] to calibrate on, and others [n, time + 1] to measure quality on;
    of texts `count` of each at most.

    A source is a name (`stdlib`, a folder of Python sources, a text file, an `.npy` file of token
    ids), some texts, or an array of token ids.  Texts become tokens as the model spells them; of
    token ids [rows, time] every fourth row is kept for quality, and a single row is cut into rows.
    """
    if isinstance(source, np.ndarray):
        return _split(_rows(source), described(source))
    if isinstance(source, str | Path):
        name = str(source)
        if name.endswith(".npy"):
            return _split(load_tokens(Path(name)), name)
        text = corpus.load(name)
    else:
        text = corpus.from_texts(source)
    length = min(CALIBRATION_WINDOW, text.held_out.size - 1)
    with speller(spelling) as by:
        calibration, held_out = (
            _windows(side, length, n, by if spelling.by_tokenizer else None)
            for side, n in zip((text.train, text.held_out), count, strict=True)
        )
    return calibration[:, :-1], held_out


def _rows(tokens: NDArray[np.integer[Any]]) -> NDArray[np.int64]:
    """Token ids as rows; a single row becomes at least four of them."""
    if tokens.dtype.kind not in "iu" or tokens.ndim not in (1, 2):
        raise InputError(
            f"the token ids are {tokens.dtype} {list(tokens.shape)}, must be integers of shape "
            "[rows, time] or [time]"
        )
    if tokens.ndim == 2:
        return tokens.astype(np.int64)
    length = min(CALIBRATION_WINDOW + 1, max(2, len(tokens) // 4))
    whole = len(tokens) // length * length
    return tokens[:whole].reshape(-1, length).astype(np.int64)


def _split(tokens: NDArray[np.int64], name: str) -> tuple[NDArray[np.int64], NDArray[np.int64]]:
    if len(tokens) < 4:
        raise InputError(
            f"{name}: has {len(tokens)} rows, must have at least 4 to calibrate on some and "
            "measure on others"
        )
    if tokens.shape[1] < 2:
        raise InputError(f"{name}: has rows of {tokens.shape[1]} tokens, must have at least 2")
    held_out = np.arange(len(tokens)) % 4 == 3
    return tokens[~held_out][:, :-1], tokens[held_out]


def _windows(
    side: NDArray[np.integer[Any]], length: int, count: int, by: Speller | None
) -> NDArray[np.int64]:
    """Windows of at most `length` + 1 tokens, all of one length, spread evenly over a text: by a
    tokenizer, or bytes."""
    if by is None:
        return corpus.windows(side, length, count)
    stretches = corpus.windows(side, min(BYTES_PER_TOKEN * length, side.size - 1), count)
    found = [by.encode_corpus([bytes(s.astype(np.uint8))])[: length + 1] for s in stretches]
    shortest = min(len(tokens) for tokens in found)
    if shortest < 2:
        raise InputError(
            f"a part of the text has {shortest} tokens, must have at least 2 to calibrate on"
        )
    return np.stack([tokens[:shortest] for tokens in found])
