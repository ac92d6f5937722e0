"""What the Transformer++ does when it is measured: compiled, captured where launches would count,
and checked.

On a CPU nothing is compiled or captured, which is for tests.
"""

from collections.abc import Callable
from typing import Any

import torch
from torch import Tensor
from torch.nn import functional

from mmfree_kernels.bench.transformer import Cache, Transformer, rms_norm
from mmfree_kernels.bench.workload import (
    Facts,
    Point,
    Subject,
    WrongResult,
    agreement,
    random_tokens,
)
from mmfree_kernels.training.captured import graph_of

PRECISION = "bfloat16 weights and activations, float32 sums"
CHECKED_ROWS = 4
CHECKED_STEPS = 8
CHECKED_TOKENS = 32_768
"""At most so many tokens of prefill are computed once more in float32."""
MOST_MEDIAN = 0.03
"""bfloat16 keeps 8 bits: roundings of 0.2 to 0.4 % in each of some hundred operations add up to
about 1 %."""
LEAST_GREEDY = 0.75
"""The two best of 32,000 random logits lie about 0.2 deviations apart; noise of 1 % swaps few of
them."""
MOST_LOSS = 0.02
LEAST_COSINE = 0.98
"""Gradients in bfloat16 against float32; a wrong mask, rotation or norm leaves less than 0.9."""

Run = Callable[[], Any]


def compiled(
    function: Callable[..., Any], device: torch.device, mode: str | None = None
) -> Callable[..., Any]:
    """The function compiled for the shapes that it is given; itself on a CPU."""
    return (
        function
        if device.type == "cpu"
        else torch.compile(function, fullgraph=True, dynamic=False, mode=mode)
    )


def captured(run: Run, device: torch.device) -> tuple[Run, Callable[[], Any]]:
    """How to replay `run` as one CUDA graph, and what gives its latest result; `run` takes and
    gives static tensors."""
    latest: list[Any] = []

    def once() -> None:
        latest[:] = [run()]

    if device.type == "cpu":
        return once, lambda: latest[0]
    return graph_of(once).replay, lambda: latest[0]


class Generate:
    """One token for each sequence, whose last `length` tokens are in the cache."""

    implementation = "static cache, torch.compile max-autotune, one CUDA graph per step"
    precision = PRECISION

    def __init__(self, point: Point, subject: Subject, device: torch.device) -> None:
        self.model = Transformer(subject.config, device, torch.bfloat16)
        self.tokens, self.weights_bytes = point.batch, self.model.weights_bytes()
        self.prompt = random_tokens(
            subject.config.vocab_size, point.batch, point.length, device=device
        )
        shape = (
            point.batch,
            subject.config.hidden_size // self.model.head_size,
            point.length,
            self.model.head_size,
        )
        empty = [
            torch.empty(shape, dtype=torch.bfloat16, device=device)
            for _ in range(2 * len(self.model.blocks))
        ]
        self.cache: Cache = list(zip(empty[::2], empty[1::2], strict=True))
        self.current = torch.empty(point.batch, dtype=torch.int64, device=device)
        self.position = torch.empty(1, dtype=torch.int64, device=device)
        self._fill()
        advance = compiled(self.model.advance, device, "max-autotune-no-cudagraphs")
        with torch.no_grad():
            self.replay, self.logits = captured(
                lambda: advance(self.current, self.position, self.cache), device
            )

    def _fill(self) -> None:
        """The prompt into the cache, sequence by sequence."""
        with torch.no_grad():
            for row, prompt in enumerate(self.prompt):
                logits, found = self.model.prefill(prompt[None])
                self.current[row] = logits[0].argmax()
                for (keys, values), (k, v) in zip(self.cache, found, strict=True):
                    keys[row], values[row] = k[0], v[0]
        self.position.fill_(self.prompt.shape[1])

    def step(self) -> None:
        """One step of the whole batch."""
        with torch.no_grad():
            self.replay()

    def check(self) -> Facts:
        """Some steps against one float32 pass over prompt and generated tokens, each attending to
        as many as here."""
        self._fill()
        rows, length = slice(0, CHECKED_ROWS), self.prompt.shape[1]
        fed, logits = [self.prompt[rows]], []
        for _ in range(CHECKED_STEPS):
            fed.append(self.current[rows, None].clone())
            self.step()
            logits.append(self.logits()[rows].float().clone())
        expected = windowed(self.model.to(torch.float32), torch.cat(fed, 1), length)[:, length:]
        near = agreement(
            torch.stack(logits, 1).flatten(0, 1),
            expected.flatten(0, 1),
            "transformer, generate",
            most=MOST_MEDIAN,
            least=LEAST_GREEDY,
        )
        return {"against": "one float32 pass, eager", **near}


@torch.no_grad()
def windowed(model: Transformer, tokens: Tensor, window: int) -> Tensor:
    """Logits [batch, time, vocabulary], each token attending to the last `window` tokens up to
    itself; eager."""
    positions = torch.arange(tokens.shape[1], device=tokens.device)
    x, turn = functional.embedding(tokens, model.embedding), model.rotations(positions)
    age = positions[:, None] - positions
    mask = (age >= 0) & (age < window)
    for block in model.blocks:
        q, k, v = model.heads(x, block, turn)
        x = model.mix(x, block, functional.scaled_dot_product_attention(q, k, v, attn_mask=mask))
    return functional.linear(rms_norm(x, model.norm), model.head)


class Prefill:
    """A whole prompt of each sequence: the logits after it, and its cache."""

    implementation = "scaled_dot_product_attention, torch.compile, one CUDA graph"
    precision = PRECISION

    def __init__(self, point: Point, subject: Subject, device: torch.device) -> None:
        self.model = Transformer(subject.config, device, torch.bfloat16)
        self.tokens, self.weights_bytes = point.batch * point.length, self.model.weights_bytes()
        self.vocabulary = subject.config.vocab_size
        self.prompt = random_tokens(self.vocabulary, point.batch, point.length, device=device)
        prefill = compiled(self.model.prefill, device)
        with torch.no_grad():
            self.replay, self.result = captured(lambda: prefill(self.prompt), device)

    def step(self) -> None:
        """One prefill."""
        with torch.no_grad():
            self.replay()

    @torch.no_grad()
    def check(self) -> Facts:
        """Logits after several prompts, against float32."""
        plain, found, expected = self.model.to(torch.float32), [], []
        rows = min(CHECKED_ROWS, len(self.prompt))
        for seed in range(
            max(1, min(CHECKED_STEPS, CHECKED_TOKENS // (rows * self.prompt.shape[1])))
        ):
            self.prompt.copy_(
                random_tokens(
                    self.vocabulary, *self.prompt.shape, device=self.prompt.device, seed=seed
                )
            )
            self.step()
            found.append(self.result()[0][:rows].float().clone())
            expected += [plain.prefill(prompt[None])[0] for prompt in self.prompt[:rows]]
        near = agreement(
            torch.cat(found),
            torch.cat(expected),
            "transformer, prefill",
            most=MOST_MEDIAN,
            least=LEAST_GREEDY,
        )
        return {"against": "float32, eager", **near}


class Train:
    """Loss and gradients of a batch, without an optimiser."""

    implementation = (
        "scaled_dot_product_attention, torch.compile forward and backward, no "
        "recomputation, no optimiser"
    )
    precision = f"{PRECISION}, bfloat16 gradients"

    def __init__(self, point: Point, subject: Subject, device: torch.device) -> None:
        self.model = Transformer(subject.config, device, torch.bfloat16)
        self.tokens, self.weights_bytes = point.batch * point.length, self.model.weights_bytes()
        self.batch = random_tokens(
            subject.config.vocab_size, point.batch, point.length + 1, device=device
        )
        for weight in self.model.weights():
            weight.requires_grad_()
        self.loss = compiled(self.model.loss, device)
        self.latest = torch.zeros(())

    def step(self) -> None:
        """One forward and backward pass."""
        for weight in self.model.weights():
            weight.grad = None
        loss = self.loss(self.batch)
        loss.backward()
        self.latest = loss.detach()

    def check(self) -> Facts:
        """Loss and some gradients against float32, sequence by sequence."""
        self.step()
        plain, loss = self.model.to(torch.float32), 0.0
        for weight in plain.weights():
            weight.requires_grad_()
        for row in self.batch:
            part = plain.loss(row[None]) / len(self.batch)
            part.backward()
            loss += float(part.detach())
        facts: Facts = {
            "against": "float32, eager",
            "loss": float(self.latest),
            "float32_loss": loss,
        }
        if not abs(float(self.latest) - loss) <= MOST_LOSS:
            raise WrongResult(
                f"transformer, train: the loss is {float(self.latest):.4f}, must be {loss:.4f}"
            )
        for name, block in (("query_key_value", 0), ("down", -1)):
            pair = (model.blocks[block][name].grad for model in (self.model, plain))
            facts[f"cosine_of_gradients_{name}"] = cosine(
                *(grad for grad in pair if grad is not None)
            )
        worst = min(
            value
            for name, value in facts.items()
            if name.startswith("cosine") and isinstance(value, float)
        )
        if not worst >= LEAST_COSINE:
            raise WrongResult(
                f"transformer, train: a gradient has a cosine of {worst:.3f}, below {LEAST_COSINE}"
            )
        return facts


def cosine(a: Tensor, b: Tensor) -> float:
    """Of the angle between two tensors."""
    return float(functional.cosine_similarity(a.double().flatten(), b.double().flatten(), dim=0))
