"""Both ends of a model for many tokens: embeddings in, the likeliest words out."""

import triton
import triton.language as tl
from torch import Tensor

from mmfree_kernels.ops.bitlinear.packed import begin, overlaps


@triton.jit
def _embed(
    tokens,
    embedding,
    steps,
    x,
    vocabulary,
    hidden,
    HIDDEN: tl.constexpr,
    SCALED: tl.constexpr,
    PDL: tl.constexpr,
):
    b, k = tl.program_id(0).to(tl.int64), tl.arange(0, HIDDEN)
    begin(PDL)
    token = tl.load(tokens + b)
    known = (token >= 0) & (token < vocabulary)
    row = tl.load(embedding + token * hidden + k, mask=known & (k < hidden), other=0).to(tl.float32)
    if SCALED:
        row *= tl.load(steps + token, mask=known, other=0.0)
    tl.store(x + b * hidden + k, tl.where(known, row, float("nan")), mask=k < hidden)


@triton.jit
def _choose(logits, tokens, vocabulary, BLOCK: tl.constexpr, PDL: tl.constexpr):
    b = tl.program_id(0).to(tl.int64)
    begin(PDL)
    n = tl.arange(0, BLOCK)
    # A lane keeps the first of its largest logits; of lanes with the same logit the lowest word is
    # chosen.  With two lanes and logits 1, 3, 3, lane 0 sees words 0 and 2 and keeps 2, lane 1
    # keeps 1.  Both have the logit 3, so word 1 is chosen.
    best, where = tl.full((BLOCK,), float("-inf"), tl.float32), tl.zeros((BLOCK,), tl.int32)
    for start in range(0, vocabulary, BLOCK):
        some = tl.load(
            logits + b * vocabulary + start + n, mask=start + n < vocabulary, other=float("-inf")
        )
        where = tl.where(some > best, start + n, where)
        best = tl.maximum(some, best)
    top = tl.max(best, 0)
    tl.store(tokens + b, tl.min(tl.where(best == top, where, vocabulary), 0).to(tl.int64))


def embed(tokens: Tensor, embedding: Tensor, steps: Tensor | None, x: Tensor) -> None:
    """x [batch, hidden] = the embedding of tokens int64 [batch], times the steps of words if given.

    A token outside the vocabulary becomes NaN, and so do its logits.
    """
    vocabulary, hidden = embedding.shape
    pdl = overlaps()
    _embed[(len(tokens),)](
        tokens,
        embedding,
        x if steps is None else steps,
        x,
        vocabulary,
        hidden,
        triton.next_power_of_2(hidden),
        steps is not None,
        pdl,
        launch_pdl=pdl,
    )


def choose(logits: Tensor, tokens: Tensor) -> None:
    """tokens [batch] = the first largest of the logits [batch, vocabulary]."""
    pdl = overlaps()
    _choose[(len(tokens),)](
        logits, tokens, logits.shape[1], 4096, pdl, num_warps=32, launch_pdl=pdl
    )
