"""From float to integer: ternary codes, schemes, and the ranges that calibration measures.

Weights are ternarised once, in float32, from the stored values; ternarising codes again would keep
them and shrink their scale.
"""

from collections.abc import Mapping
from dataclasses import dataclass

import numpy as np

from mmfree_neuro.integers.ternary import Codes, TernaryMatrix
from mmfree_neuro.model.tensors import Float32

_ROWS = 256


def ternarise(weight: Float32) -> tuple[Codes, float]:
    """Codes -1, 0, +1 (weight's shape) and the scale max(mean |w|, 1e-5), as the published kernel
    makes them."""
    pieces = [
        weight[at : at + _ROWS] for at in range(0, len(weight), _ROWS)
    ]  # so that no temporary is as large
    mean = np.float32(
        sum(float(np.abs(piece).sum(dtype=np.float64)) for piece in pieces) / weight.size
    )
    scale = max(mean, np.float32(1e-5))
    inverse, codes = np.float32(1) / scale, np.empty(weight.shape, np.int8)
    for number, piece in enumerate(pieces):
        codes[number * _ROWS : (number + 1) * _ROWS] = np.clip(np.rint(piece * inverse), -1, 1)
    return codes, float(scale)


@dataclass(frozen=True, eq=False)
class TernaryWeight:
    """A weight of a checkpoint as the graph needs it: in one matrix, or in two of the same scale
    (gate and up)."""

    parts: tuple[TernaryMatrix, ...]
    scale: float

    @property
    def fullest(self) -> int:
        """The most non-zero codes that a row has."""
        return max(part.fullest for part in self.parts)


TernaryWeights = Mapping[str, TernaryWeight]
"""By tensor name."""
