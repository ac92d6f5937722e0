"""The section EMBED of the host: what the values of tokens are."""

from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray

from mmfree_neuro.files.reading import Misfit
from mmfree_neuro.target.layout import Bytes, Core

_HEAD_BYTES = 32


@dataclass(frozen=True, eq=False)
class Embedding:
    """The codes and scales of tokens, and which group of the host reads them at which of its
    ports."""

    codes: NDArray[Any]  # [tokens, values], int8 or int16
    scales: NDArray[np.int32]  # [tokens]
    group: int
    code_port: int
    scale_port: int


def embedding(host: Core) -> Embedding:
    """What EMBED says, as views of its bytes; Misfit where its parts do not fill it."""
    raw: Bytes = host.embed
    if len(raw) < _HEAD_BYTES:
        raise Misfit(f"EMBED has {len(raw)} bytes, must have a header of {_HEAD_BYTES}")
    tokens, values, width, group, code_port, scale_port, *rest = (
        raw[:_HEAD_BYTES].view("<u4").tolist()
    )
    if width not in (1, 2) or any(rest):
        raise Misfit(f"EMBED has codes of {width} bytes, must be 1 or 2, and 0 in its last numbers")
    size = tokens * values * width
    begin = _HEAD_BYTES + size + -size % 8
    if len(raw) != begin + 4 * tokens or raw[_HEAD_BYTES + size : begin].any():
        raise Misfit(
            f"EMBED has {len(raw)} bytes, must have {begin + 4 * tokens}, and 0 between codes and "
            "scales"
        )
    codes = raw[_HEAD_BYTES : _HEAD_BYTES + size].view(f"<i{width}").reshape(tokens, values)
    return Embedding(codes, raw[begin:].view("<i4"), group, code_port, scale_port)
