"""Token ids from files, and windows of text to calibrate and to measure quality on."""

from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from mmfree_neuro.errors import InputError
from mmfree_neuro.model import tokenizer as texts

CALIBRATION_WINDOW = 512


BYTES_PER_TOKEN = 8
"""More than the words of a tokenizer have on average: so many bytes are read for a token of a
window."""


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
