"""The plain float model at work on the GPU: eager torch, one call after the other, bfloat16
products.

Its ternary codes are made once, not in every call, which is the best that this path can do for
inference.  Training recomputes every block in the backward pass; without that it keeps more
activations than a GPU has memory.
"""

import math

import torch
from torch import Tensor
from torch.nn import functional
from torch.utils.checkpoint import checkpoint

from mmfree_kernels.bench.workload import (
    Facts,
    Point,
    Subject,
    WrongResult,
    agreement,
    random_tokens,
)
from mmfree_kernels.float_model.model import BitLinear, HGRNBitModel, Numerics, from_checkpoint
from mmfree_kernels.ops.bitlinear.naive import ternarise
from mmfree_neuro.hgrn_bit.config import ModelConfig

FAST, EXACT = Numerics(product_dtype=torch.bfloat16), Numerics()
CHECKED_ROWS = 4
CHECKED_STEPS = 8
MOST_MEDIAN = 0.35
LEAST_GREEDY = 0.3
"""A sum rounded to bfloat16 moves some activations over the edge to the next 8-bit code, and that
spreads: on random weights of 24 blocks the median logit is off by 0.12 deviations and 67 % of
greedy tokens stay, with exact sums in another order by 0.018 and 96 %.  Logits that have nothing to
do with each other are off by 0.95, and 0 % stay."""
MOST_LOSS = 0.02
"""And one over the root of the tokens: three deviations of the mean of what changed codes do to
each token's loss."""
LEAST_COSINE = 0.8
"""Gradients see the same codes change: with bfloat16 products they keep a cosine of 0.96 to 0.98 at
the 370M shape."""


def random_model(
    config: ModelConfig, device: torch.device, dtype: torch.dtype = torch.float32, seed: int = 0
) -> HGRNBitModel:
    """A model of that shape with weights spread like those of a trained one, made on the device."""
    with torch.device("meta"):
        model = HGRNBitModel(config).to(dtype)
    model.to_empty(device=device)
    generator = torch.Generator(device).manual_seed(seed)
    with torch.no_grad():
        for name, parameter in model.named_parameters():
            centre, spread = _spread(name, parameter)
            parameter.normal_(centre, spread, generator=generator)
    return model.eval()


def _spread(name: str, parameter: Tensor) -> tuple[float, float]:
    """Centre and deviation, as `mmfree_neuro.testing` has them."""
    if parameter.ndim == 1:
        return 1.0, 0.15
    spreads = {"model.embeddings.weight": 0.05, "model.lower_bounds": 0.3}
    return 0.0, spreads.get(
        name, (4 if name == "lm_head.weight" else 1.2) / math.sqrt(parameter.shape[1])
    )


def float_model(
    subject: Subject, device: torch.device, dtype: torch.dtype = torch.float32
) -> HGRNBitModel:
    """The float model of a subject."""
    if subject.checkpoint is None:
        return random_model(subject.config, device, dtype)
    return from_checkpoint(subject.checkpoint).to(device, dtype)


@torch.no_grad()
def freeze(model: HGRNBitModel) -> HGRNBitModel:
    """Let ternary codes in bfloat16 stand for the latent weights, which are given up."""
    tied = model.model.embeddings.weight if model.config.tie_word_embeddings else None
    for module in model.modules():
        if isinstance(module, BitLinear):
            codes, scale = ternarise(
                (module.weight if tied is None or module is not model.lm_head else tied).float()
            )
            module.frozen = codes.bfloat16(), float(scale)
            module.register_parameter("weight", None)
    return model


def weights_bytes(model: HGRNBitModel) -> int:
    """Parameters and codes."""
    codes = (
        module.frozen[0].nbytes
        for module in model.modules()
        if isinstance(module, BitLinear) and module.frozen
    )
    return sum(parameter.nbytes for parameter in model.parameters()) + sum(codes)


def last_logits(
    model: HGRNBitModel, tokens: Tensor, state: Tensor, numerics: Numerics
) -> tuple[Tensor, Tensor]:
    """Logits [batch, vocabulary] after the last of tokens [batch, time], and the state then."""
    x, states = model.model.embeddings(tokens).float(), []
    for layer, (block, bound) in enumerate(
        zip(model.model.layers, model.lower_bounds(), strict=True)
    ):
        x, last = block(x, bound, None, state[layer], "", numerics)
        states.append(last)
    head_in = numerics.norm(x[:, -1], model.model.norm.weight, model.config.rms_norm_eps)
    return model.lm_head(head_in, "", numerics), torch.stack(states)


class Generate:
    """One greedy token for each sequence, from the state that the last one left."""

    implementation = "plain torch, eager"
    precision = "ternary codes and products in bfloat16, activations 8 bit, the rest float32"

    def __init__(self, point: Point, subject: Subject, device: torch.device) -> None:
        self.model = freeze(float_model(subject, device))
        self.tokens, self.weights_bytes = point.batch, weights_bytes(self.model)
        self.current = random_tokens(subject.config.vocab_size, point.batch, device=device)
        self.state, self.logits = self.model.zero_state(point.batch), torch.empty(0)

    @torch.no_grad()
    def step(self) -> None:
        """One step of the whole batch."""
        logits, self.state = self.model(self.current[:, None], self.state, numerics=FAST)
        self.logits = logits[:, 0]
        self.current = self.logits.argmax(-1)

    @torch.no_grad()
    def check(self) -> Facts:
        """Some steps from a zero state against one pass with exact sums."""
        rows = slice(0, CHECKED_ROWS)
        self.state = self.model.zero_state(self.tokens)
        fed, found = [], []
        for _ in range(CHECKED_STEPS):
            fed.append(self.current[rows])
            self.step()
            found.append(self.logits[rows])
        expected, _ = self.model(torch.stack(fed, 1), numerics=EXACT)
        near = agreement(
            torch.stack(found, 1).flatten(0, 1),
            expected.flatten(0, 1),
            "naive, generate",
            most=MOST_MEDIAN,
            least=LEAST_GREEDY,
        )
        return {"against": "one pass with exact sums", **near}


class Prefill:
    """A whole prompt of each sequence: the logits after it, and the state."""

    implementation, precision = Generate.implementation, Generate.precision

    def __init__(self, point: Point, subject: Subject, device: torch.device) -> None:
        self.model = freeze(float_model(subject, device))
        self.tokens, self.weights_bytes = point.batch * point.length, weights_bytes(self.model)
        self.prompt = random_tokens(
            subject.config.vocab_size, point.batch, point.length, device=device
        )
        self.zero = self.model.zero_state(point.batch)
        self.logits = torch.empty(0)

    @torch.no_grad()
    def step(self) -> None:
        """One prefill from a zero state."""
        self.logits, _ = last_logits(self.model, self.prompt, self.zero, FAST)

    @torch.no_grad()
    def check(self) -> Facts:
        """Logits after the prompt against exact sums."""
        self.step()
        rows = slice(0, CHECKED_ROWS)
        expected, _ = last_logits(self.model, self.prompt[rows], self.zero[:, rows], EXACT)
        near = agreement(
            self.logits[rows], expected, "naive, prefill", most=MOST_MEDIAN, least=LEAST_GREEDY
        )
        return {"against": "the same pass with exact sums", **near}


class Train:
    """Loss and gradients of a batch, without an optimiser."""

    implementation = "plain torch, eager, every block recomputed in the backward pass, no optimiser"
    precision = (
        "weights and gradients bfloat16, products bfloat16, activations float32 with 8-bit codes"
    )

    def __init__(self, point: Point, subject: Subject, device: torch.device) -> None:
        self.model = float_model(subject, device, torch.bfloat16).train()
        self.tokens, self.weights_bytes = point.batch * point.length, weights_bytes(self.model)
        self.batch = random_tokens(
            subject.config.vocab_size, point.batch, point.length + 1, device=device
        )
        self.latest = torch.zeros(())

    def step(self) -> None:
        """One forward and backward pass."""
        self.model.zero_grad(set_to_none=True)
        loss = recomputed_loss(self.model, self.batch, FAST)
        loss.backward()
        self.latest = loss.detach()

    def check(self) -> Facts:
        """Loss and some gradients against exact sums, on the same batch."""
        self.step()
        return {
            "against": "exact sums",
            **compare_training(self.model, self.batch, float(self.latest), "naive, train"),
        }


def recomputed_loss(model: HGRNBitModel, tokens: Tensor, numerics: Numerics) -> Tensor:
    """Mean nats per predicted token of tokens [batch, time + 1]; a block keeps but its input for
    its backward."""
    x = model.model.embeddings(tokens[:, :-1]).float()
    zero = model.zero_state(len(tokens))
    for layer, (block, bound) in enumerate(
        zip(model.model.layers, model.lower_bounds(), strict=True)
    ):
        x, _ = checkpoint(block, x, bound, None, zero[layer], "", numerics, use_reentrant=False)
    weight = model.model.embeddings.weight if model.config.tie_word_embeddings else None
    head_in = numerics.norm(x, model.model.norm.weight, model.config.rms_norm_eps)
    logits = model.lm_head(head_in, "", numerics, weight)
    return functional.cross_entropy(logits.flatten(0, 1), tokens[:, 1:].flatten())


COMPARED = (
    "model.layers.0.attn.i_proj.weight",
    "model.layers.0.mlp.down_proj.weight",
    "lm_head.weight",
)


def compare_training(model: HGRNBitModel, batch: Tensor, loss: float, who: str) -> Facts:
    """The loss and gradients that a model holds of a batch against this path with exact sums, a
    sequence at a time.

    Its gradients are gone afterwards.  Raises WrongResult where they are too far from each other.
    """
    names = [name for name in COMPARED if name in dict(model.named_parameters())]
    found = {name: dict(model.named_parameters())[name].grad for name in names}
    model.zero_grad(set_to_none=True)
    exact = 0.0
    for row in batch:
        part = recomputed_loss(model, row[None], EXACT) / len(batch)
        part.backward()
        exact += float(part.detach())
    facts: Facts = {"loss": loss, "exact_loss": exact}
    if not abs(loss - exact) <= MOST_LOSS + (batch.shape[0] * (batch.shape[1] - 1)) ** -0.5:
        raise WrongResult(f"{who}: the loss is {loss:.4f}, must be {exact:.4f}")
    for name in names:
        expected, grad = dict(model.named_parameters())[name].grad, found[name]
        assert expected is not None and grad is not None
        near = float(
            functional.cosine_similarity(
                grad.double().flatten(), expected.double().flatten(), dim=0
            )
        )
        if not near >= LEAST_COSINE:
            raise WrongResult(
                f"{who}: a cosine of {near:.3f} of {name}'s gradient, must be at least "
                f"{LEAST_COSINE}"
            )
        facts[f"cosine_of_gradient {name}"] = near
    model.zero_grad(set_to_none=True)
    return facts
