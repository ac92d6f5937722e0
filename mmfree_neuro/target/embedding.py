"""The section EMBED of the host: what the values of tokens are."""

from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray

from mmfree_neuro.files.reading import Misfit
from mmfree_neuro.target.layout import MOST_STATES, Bytes, Core

_HEAD_BYTES = 32


@dataclass(frozen=True, eq=False)
class Embedding:
    """The codes and scales of tokens, and which group of the host reads them at which of its
    ports."""

    codes: NDArray[Any]  # [tokens, values], int8 or int16
    scales: NDArray[np.int32]  # [tokens]
    group: int
    ports: tuple[int, ...]
    """Those of codes and scales, and that of marks where there are some."""
    slots: int
    """How many sequences marks tell apart; 1 where there are none."""


def embedding(host: Core) -> Embedding:
    """What EMBED says, as views of its bytes; Misfit where its parts do not fill it."""
    raw: Bytes = host.embed
    if len(raw) < _HEAD_BYTES:
        raise Misfit(f"EMBED has {len(raw)} bytes, must have a header of {_HEAD_BYTES}")
    tokens, values, width, group, code_port, scale_port, mark_port, slots = (
        raw[:_HEAD_BYTES].view("<u4").tolist()
    )
    if width not in (1, 2):
        raise Misfit(f"EMBED has codes of {width} bytes, must be 1 or 2")
    if not 1 <= slots <= MOST_STATES or (slots == 1 and mark_port):
        raise Misfit(
            f"EMBED is for {slots} slots and marks at port {mark_port}, must be for 1 … "
            f"{MOST_STATES}, and 0 for the port of 1"
        )
    size = tokens * values * width
    begin = _HEAD_BYTES + size + -size % 8
    if len(raw) != begin + 4 * tokens or raw[_HEAD_BYTES + size : begin].any():
        raise Misfit(
            f"EMBED has {len(raw)} bytes, must have {begin + 4 * tokens}, and 0 between codes and "
            "scales"
        )
    codes = raw[_HEAD_BYTES : _HEAD_BYTES + size].view(f"<i{width}").reshape(tokens, values)
    marks = (mark_port,) if slots > 1 else ()
    return Embedding(codes, raw[begin:].view("<i4"), group, (code_port, scale_port, *marks), slots)
