"""Loss and gradients as one CUDA graph: a step of training launches once instead of more than a
thousand times."""

from collections.abc import Callable
from typing import Any

import torch
from torch import Tensor, nn
from torch.nn.parallel import DistributedDataParallel

from mmfree_kernels.float_model.model import HGRNBitModel
from mmfree_kernels.training.ranks import ALONE, Ranks

Loss = Callable[[HGRNBitModel, Tensor], Tensor]
"""The mean loss of a model on tokens int64 [batch, length + 1]."""


def graph_of(
    run: Callable[[], object],
    *,
    pool: Any = None,
    between: Callable[[], None] = lambda: None,
    times: int = 1,
    stream: torch.cuda.Stream | None = None,
) -> torch.cuda.CUDAGraph:
    """The CUDA graph of what `run` enqueues on tensors that stay where they are.

    It runs so many `times` before, which compiles what capture must find compiled, and then
    `between`, and all of it is enqueued on `stream` where one is given.
    """
    side = stream or torch.cuda.Stream()
    side.wait_stream(torch.cuda.current_stream())
    with torch.cuda.stream(side):
        for _ in range(times):
            run()
    torch.cuda.current_stream().wait_stream(side)
    between()
    if stream is not None:
        # What torch's products have on this stream from before is not the graph's own, and whoever
        # frees it would take it from the graph.
        torch._C._cuda_clearCublasWorkspaces()
    graph = torch.cuda.CUDAGraph()
    with torch.cuda.graph(graph, pool=pool, stream=stream):
        run()
    return graph


UNTIL_SETTLED = 12
"""Passes after which torch's reducer of gradients asks for nothing more that cannot be captured."""


class _Lost(nn.Module):
    """A model whose output is its loss."""

    def __init__(self, model: HGRNBitModel, loss: Loss) -> None:
        super().__init__()
        self.model, self.loss = model, loss

    def forward(self, tokens: Tensor) -> Tensor:
        return self.loss(self.model, tokens)


class Gradients:
    """Gives the loss of a batch, and leaves its gradients where the parameters have them.

    Where several processes train together each gives the loss of its share, and the gradients are
    those of all, reduced while the backward pass runs.

    On a GPU the first batch captures forward and backward pass; every batch must have its shape.
    Gradients then stay in the same memory and may be changed between calls; one that is set to None
    stays None.  On a CPU nothing is captured, nor where the model is `sharded` (`sharded.divided`),
    which reduces its gradients itself.
    """

    def __init__(
        self, model: HGRNBitModel, loss: Loss, ranks: Ranks = ALONE, *, sharded: bool = False
    ) -> None:
        self.model, self.loss, self.sharded = model, loss, sharded
        self.lost: nn.Module = _Lost(model, loss)
        self.captures = not sharded and next(model.parameters()).device.type == "cuda"
        self.stream: torch.cuda.Stream | None = None
        self.times = 1
        if ranks.count > 1 and not sharded:
            _without_unused(model)
            self.stream = torch.cuda.Stream() if self.captures else None
            self.lost, self.times = _reduced(self.lost, ranks, self.stream), UNTIL_SETTLED
        self.graph: torch.cuda.CUDAGraph | None = None
        self.tokens = self.latest = torch.zeros(())

    def __call__(self, tokens: Tensor) -> Tensor:
        """The loss of tokens int64 [batch, length + 1], a scalar that the next call may write
        to."""
        if not self.captures:
            return self._once(tokens)
        if self.graph is None:
            self._capture(tokens)
        elif tokens.shape != self.tokens.shape:
            raise ValueError(
                f"tokens have shape {tuple(tokens.shape)}, must have {tuple(self.tokens.shape)}"
            )
        self.tokens.copy_(tokens)
        assert self.graph is not None
        self.graph.replay()
        return self.latest

    def _once(self, tokens: Tensor) -> Tensor:
        self.model.zero_grad(set_to_none=True)
        loss: Tensor = self.lost(tokens)
        loss.backward()
        return loss.detach()

    def _capture(self, tokens: Tensor) -> None:
        self.tokens = tokens.clone()

        def run() -> None:
            self.latest = self._once(self.tokens)

        def between() -> None:
            self.model.zero_grad(set_to_none=True)
            torch.cuda.empty_cache()  # the graph has memory of its own

        self.graph = graph_of(run, between=between, times=self.times, stream=self.stream)


def _without_unused(model: HGRNBitModel) -> None:
    """Let torch's reducer not wait for gradients that never come: the first block has no lower
    bound, so that nothing uses the latent ones of a model of one block."""
    if model.config.num_hidden_layers == 1 and model.config.use_lower_bound:
        model.model.lower_bounds.requires_grad_(False)


def _reduced(lost: nn.Module, ranks: Ranks, stream: torch.cuda.Stream | None) -> nn.Module:
    """The same, with gradients that are the mean over all processes.

    The nodes that add up gradients belong to the stream on which they are made, which must be that
    of the backward passes.
    """
    if stream is None:
        return DistributedDataParallel(lost)
    stream.wait_stream(torch.cuda.current_stream())
    with torch.cuda.stream(stream):
        reduced = DistributedDataParallel(lost, device_ids=[ranks.local])
    torch.cuda.current_stream().wait_stream(stream)
    return reduced
