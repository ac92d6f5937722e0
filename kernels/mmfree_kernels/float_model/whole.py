"""The float model as the flow asks for it: calibrated, scored, its logits, how it goes on."""

import numpy as np
from numpy.typing import NDArray

from mmfree_kernels.float_model import calibrate as calibration
from mmfree_kernels.float_model import evaluate, model, streamed
from mmfree_kernels.float_model.evaluate import Scores
from mmfree_kernels.float_model.model import Numerics
from mmfree_neuro.lowering.scheme import Ranges, Scheme
from mmfree_neuro.lowering.ternarise import TernaryWeights
from mmfree_neuro.model.checkpoint import Checkpoint

FINITE = Numerics(tap=model.finite)
"""RangeError, instead of a result, where an activation is not finite."""


def calibrate(
    checkpoint: Checkpoint, tokens: NDArray[np.int64], scheme: Scheme, weights: TernaryWeights
) -> Ranges:
    """The ranges that lowering needs, measured on windows [n, time]."""
    return calibration.calibrate(checkpoint, tokens, scheme, weights=weights)


def scores(
    checkpoint: Checkpoint, windows: NDArray[np.int64], weights: TernaryWeights | None = None
) -> Scores:
    """Losses and choices on windows [n, time + 1], each from a zero state."""
    return evaluate.scores(checkpoint, windows, FINITE, weights)


def logits(checkpoint: Checkpoint, tokens: NDArray[np.int64]) -> NDArray[np.float64]:
    """Logits [n, time, vocabulary] of tokens [n, time]; a block is in memory at a time."""
    rows = [row.numpy().astype(np.float64) for row in streamed.stream(checkpoint, tokens, FINITE)]
    return np.concatenate(rows)


def greedy(
    checkpoint: Checkpoint, tokens: NDArray[np.int64], new_tokens: int
) -> tuple[NDArray[np.float64], NDArray[np.int64]]:
    """The logits of tokens [n, time], and how each row goes on [n, new_tokens]; the whole model is
    in memory."""
    float_model = model.from_checkpoint(checkpoint)
    found = evaluate.logits(float_model, tokens, FINITE).astype(np.float64)
    return found, evaluate.greedy(float_model, tokens, new_tokens, FINITE)
