"""What tokens lose on those that followed, found where the logits are."""

import torch
import triton
import triton.language as tl
from torch import Tensor

BLOCK = 4096
"""Logits that a program looks at together."""


@triton.jit
def _losses_kernel(
    logits, stride, following, nats, chosen, vocabulary, scale, BLOCK: tl.constexpr
):
    token = tl.program_id(0)
    row, lane = logits + token.to(tl.int64) * stride, tl.arange(0, BLOCK)
    largest, word = tl.full([BLOCK], -(1 << 31), tl.int32), tl.zeros([BLOCK], tl.int32)
    for at in range(0, vocabulary, BLOCK):
        inside = at + lane < vocabulary
        found = tl.load(row + at + lane, mask=inside, other=0).to(tl.int32)
        larger = inside & (found > largest)
        largest, word = tl.where(larger, found, largest), tl.where(larger, at + lane, word)
    most = tl.max(largest, 0)
    tl.store(chosen + token, tl.min(tl.where(largest == most, word, vocabulary), 0))
    total = tl.zeros([BLOCK], tl.float64)
    for at in range(0, vocabulary, BLOCK):
        inside = at + lane < vocabulary
        found = tl.load(row + at + lane, mask=inside, other=0).to(tl.int32)
        below = (found.to(tl.float64) - most.to(tl.float64)) * tl.load(scale)
        total += tl.where(inside, tl.exp(below), 0.0)
    wanted = tl.load(row + tl.load(following + token)).to(tl.float64) - most.to(tl.float64)
    tl.store(nats + token, tl.log(tl.sum(total, 0)) - wanted * tl.load(scale))


def losses(logits: Tensor, following: Tensor, scale: float) -> tuple[Tensor, Tensor]:
    """Nats that each row of integer logits [n, vocabulary] loses on the token that followed, int32
    [n], and the token of its largest logit, the first of equal ones: float64 and int32 [n].

    `scale` is what one step of a logit is worth in natural units.
    """
    tokens, vocabulary = logits.shape
    nats = torch.empty(tokens, dtype=torch.float64, device=logits.device)
    chosen = torch.empty(tokens, dtype=torch.int32, device=logits.device)
    step = torch.tensor(scale, dtype=torch.float64, device=logits.device)
    block = min(BLOCK, triton.next_power_of_2(vocabulary))
    _losses_kernel[(tokens,)](
        logits, logits.stride(0), following, nats, chosen, vocabulary, step, block
    )
    return nats, chosen
