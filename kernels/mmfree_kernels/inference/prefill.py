"""Prompts: chunk after chunk with a carried state, each length of chunk captured in a CUDA
graph on first use."""

from dataclasses import dataclass

import torch
from torch import Tensor

from mmfree_kernels.inference import ends, many
from mmfree_kernels.inference.model import PackedModel, check_tokens
from mmfree_kernels.training.captured import graph_of

VALUES = 1 << 22
"""Of the residual stream, in one chunk: what is live in a block is about thirty times as many
bytes."""
SHORTEST = 256


def chunk_length(model: PackedModel, batch: int) -> int:
    """How many tokens of each sequence go through a block together."""
    tokens = VALUES // (batch * model.config.hidden_size)
    return max(SHORTEST, tokens // SHORTEST * SHORTEST)


@dataclass(frozen=True, eq=False)
class _Captured:
    """The graph of one length of chunk and the tokens that it reads."""

    graph: torch.cuda.CUDAGraph | None
    tokens: Tensor  # [batch, length]


class Prefill:
    """Reads prompts of a batch of sequences of any length.

    `state` float32 [layers, batch, state] is carried from call to call, and `logits` float32
    [batch, vocabulary] are those after the last token read.  Where many lengths occur,
    `capture=False` does without graphs.
    """

    def __init__(
        self,
        model: PackedModel,
        batch: int,
        *,
        chunk: int | None = None,
        capture: bool | None = None,
    ) -> None:
        self.model, self.batch = model, batch
        self.chunk = chunk_length(model, batch) if chunk is None else chunk
        self.capture = model.device.type == "cuda" if capture is None else capture
        self.state = model.zero_state(batch)
        self.logits = torch.zeros(batch, model.config.vocab_size, device=model.device)
        self._captured: dict[int, _Captured] = {}
        self._pool = torch.cuda.graph_pool_handle() if self.capture else None

    def reset(self) -> None:
        """Every state to zero."""
        self.state.zero_()

    def feed(self, tokens: Tensor) -> Tensor:
        """Read tokens int64 [batch, time]; `logits` after the last of them."""
        check_tokens(tokens, self.batch)
        for some in tokens.split(self.chunk, 1):
            captured = self._captured.get(some.shape[1])
            if captured is None:
                captured = self._captured[some.shape[1]] = self._prepare(some.shape[1])
            captured.tokens.copy_(some)
            if captured.graph is None:
                self._read(captured.tokens)
            else:
                captured.graph.replay()
        return self.logits

    def _read(self, tokens: Tensor) -> None:
        model = self.model
        x = torch.empty(*tokens.shape, model.config.hidden_size, device=model.device)
        ends.embed(tokens.view(-1), model.embedding, model.steps, x.view(-1, x.shape[-1]))
        self.logits.copy_(many.forward(model, x, self.state, self.state))

    def _prepare(self, length: int) -> _Captured:
        tokens = torch.zeros(self.batch, length, dtype=torch.int64, device=self.model.device)
        if not self.capture:
            return _Captured(None, tokens)
        kept = self.state.clone()
        graph = graph_of(lambda: self._read(tokens), pool=self._pool)
        self.state.copy_(kept)
        return _Captured(graph, tokens)
