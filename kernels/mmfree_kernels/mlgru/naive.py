"""The MLGRU recurrence h_t = f_t · h_{t-1} + c_t, element by element, over a sequence.

Computed by doubling: after step k every position holds the recurrence over the last 2^k positions, so a sequence of T
takes log2 T element-wise passes and no loop over time.  Its gradient is the same recurrence backwards:
dc_t = dh_t + f_{t+1} · dc_{t+1} and df_t = dc_t · h_{t-1}; neither pass keeps what lies between.
"""

from typing import Any

import torch
from torch import Tensor


def _doubling(f: Tensor, c: Tensor) -> Tensor:
    span = 1
    while span < c.shape[1]:
        c = torch.cat([c[:, :span], c[:, span:] + f[:, span:] * c[:, :-span]], 1)
        f = torch.cat([f[:, :span], f[:, span:] * f[:, :-span]], 1)
        span *= 2
    return c


class _Recurrence(torch.autograd.Function):
    @staticmethod
    def forward(ctx: Any, f: Tensor, c: Tensor, initial: Tensor) -> Tensor:
        h = _doubling(f, torch.cat([c[:, :1] + f[:, :1] * initial[:, None], c[:, 1:]], 1))
        ctx.save_for_backward(f, h, initial)
        return h

    @staticmethod
    def backward(ctx: Any, grad: Tensor) -> tuple[Tensor, Tensor, Tensor]:
        f, h, initial = ctx.saved_tensors
        ahead = torch.cat([f[:, 1:], torch.zeros_like(f[:, :1])], 1)
        dc = _doubling(ahead.flip(1), grad.flip(1)).flip(1)
        before = torch.cat([initial[:, None], h[:, :-1]], 1)
        return dc * before, dc, dc[:, 0] * f[:, 0]


def recurrence(f: Tensor, c: Tensor, initial: Tensor) -> Tensor:
    """All states of the recurrence: f, c [batch, time, n] and the state before them [batch, n]; [batch, time, n]."""
    states: Tensor = _Recurrence.apply(f, c, initial)
    return states
