"""What tokens lose on those that followed, found where the logits are."""

import torch
import triton
import triton.language as tl
from torch import Tensor

BLOCK = 4096
"""Logits that a program looks at together."""


@triton.jit
def _losses_kernel(
    logits, stride, at, following, nats, chosen, vocabulary, scale, BLOCK: tl.constexpr
):
    question, lane = tl.program_id(0), tl.arange(0, BLOCK)
    row = logits + tl.load(at + question).to(tl.int64) * stride
    largest, word = tl.full([BLOCK], -(1 << 31), tl.int32), tl.zeros([BLOCK], tl.int32)
    for first in range(0, vocabulary, BLOCK):
        inside = first + lane < vocabulary
        found = tl.load(row + first + lane, mask=inside, other=0).to(tl.int32)
        larger = inside & (found > largest)
        largest, word = tl.where(larger, found, largest), tl.where(larger, first + lane, word)
    most = tl.max(largest, 0)
    tl.store(chosen + question, tl.min(tl.where(largest == most, word, vocabulary), 0))
    total = tl.zeros([BLOCK], tl.float64)
    for first in range(0, vocabulary, BLOCK):
        inside = first + lane < vocabulary
        found = tl.load(row + first + lane, mask=inside, other=0).to(tl.int32)
        below = (found.to(tl.float64) - most.to(tl.float64)) * tl.load(scale)
        total += tl.where(inside, tl.exp(below), 0.0)
    wanted = tl.load(row + tl.load(following + question)).to(tl.float64) - most.to(tl.float64)
    tl.store(nats + question, tl.log(tl.sum(total, 0)) - wanted * tl.load(scale))


def losses(logits: Tensor, at: Tensor, following: Tensor, scale: float) -> tuple[Tensor, Tensor]:
    """What rows `at` [m] of integer logits [n, vocabulary] lose in nats on the tokens `following`
    [m], both int32, and the tokens of their largest logits, the first of equal ones: float64 and
    int32 [m].

    `scale` is what one step of a logit is worth in natural units.
    """
    vocabulary, questions, device = logits.shape[1], len(at), logits.device
    nats = torch.empty(questions, dtype=torch.float64, device=device)
    chosen = torch.empty(questions, dtype=torch.int32, device=device)
    if questions:
        step = torch.tensor(scale, dtype=torch.float64, device=device)
        block = min(BLOCK, triton.next_power_of_2(vocabulary))
        rest = vocabulary, step, block
        _losses_kernel[(questions,)](logits, logits.stride(0), at, following, nats, chosen, *rest)
    return nats, chosen
