"""Generation: one step of a batch of sequences, captured in a CUDA graph and replayed with a single
launch."""

import torch
from torch import Tensor

from mmfree_kernels.inference import few, many
from mmfree_kernels.inference.model import PackedModel, check_tokens
from mmfree_kernels.training.captured import graph_of

FEW = 2048
"""One sequence goes through the kernels of `few`, and more while they have so many hidden values;
others do not."""


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
        self._x = torch.zeros(batch, config.hidden_size, device=device)
        self._gate = torch.zeros(batch, config.state_size, device=device)
        self._v = torch.zeros(batch, config.intermediate_size, device=device)
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
        model, x = self.model, self._x
        few.embed(self.tokens, model.embedding, model.steps, x)
        if len(x) == 1 or x.numel() <= FEW:
            self._few()
        else:
            self.logits.copy_(many.forward(model, x[:, None], self.state, self.state))
        few.choose(self.logits, self.tokens)

    def _few(self) -> None:
        eps, x = self.model.config.rms_norm_eps, self._x
        for number, layer in enumerate(self.model.layers):
            few.mixer_in(
                x, layer.attn_norm, layer.mixer_in, layer.bound, self.state[number], self._gate, eps
            )
            few.mixer_out(self.state[number], self._gate, layer.g_norm, layer.mixer_out, x, eps)
            few.channel_in(x, layer.mlp_norm, layer.channel_in, self._v, eps)
            few.channel_out(self._v, layer.channel_out, x)
        few.head(x, self.model.norm, self.model.head, self.logits, eps)

    def feed(self, prompt: Tensor) -> None:
        """Feed a prompt int64 [batch, time] step by step; `tokens` is then what is likeliest to
        follow it."""
        check_tokens(prompt, len(self.tokens))
        for tokens in prompt.T:
            self.tokens.copy_(tokens)
            self.step()
