"""Generation: one step of a batch of sequences, captured in a CUDA graph and replayed with a single
launch."""

import torch
from torch import Tensor

from mmfree_kernels.inference import dozens, ends, few, many
from mmfree_kernels.inference.model import PackedModel, check_tokens
from mmfree_kernels.training.captured import graph_of


class Decoder:
    """A batch of sequences that a packed model continues, token by token.

    `tokens` int64 [batch] is what the next step consumes, and the step leaves there what is
    likeliest to follow; `logits` float32 [batch, vocabulary] are those of the last step; `state`
    float32 [layers, batch, state] is carried. All three may be written between steps.
    """

    def __init__(self, model: PackedModel, batch: int) -> None:
        config, device = model.config, model.device
        self.model = model
        self.tokens = torch.zeros(batch, dtype=torch.int64, device=device)
        self.state = model.zero_state(batch)
        self.logits = torch.zeros(batch, config.vocab_size, device=device)
        self._whole: dozens.Step | few.Step | None = None
        if dozens.takes(config.hidden_size, batch, device):
            self._whole = dozens.Step(model, self.tokens, self.state, self.logits)
        elif few.takes(config.hidden_size, batch, device):
            self._whole = few.Step(model, self.tokens, self.state, self.logits)
        self._graph = graph_of(self._step) if device.type == "cuda" else None
        self.reset()

    def reset(self) -> None:
        """Every state and token to zero."""
        self.state.zero_()
        self.tokens.zero_()

    def step(self) -> None:
        """Feed `tokens`; afterwards `logits`, `tokens` and `state` are those after them."""
        if self._graph is None:
            self._step()
        else:
            self._graph.replay()

    def _step(self) -> None:
        if self._whole is not None:
            self._whole()
            return
        model = self.model
        x = torch.empty(len(self.tokens), model.config.hidden_size, device=model.device)
        ends.embed(self.tokens, model.embedding, model.steps, x)
        self.logits.copy_(many.forward(model, x[:, None], self.state, self.state))
        ends.choose(self.logits, self.tokens)

    def feed(self, prompt: Tensor) -> None:
        """Feed a prompt int64 [batch, time] step by step; `tokens` is then what is likeliest to
        follow it."""
        check_tokens(prompt, len(self.tokens))
        for tokens in prompt.T:
            self.tokens.copy_(tokens)
            self.step()
