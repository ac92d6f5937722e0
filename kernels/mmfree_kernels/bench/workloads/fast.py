"""The fast paths at work: the packed model generates and takes prompts in, the fused half-blocks
train."""

import torch
from torch import Tensor

from mmfree_kernels.bench.workload import (
    ENOUGH,
    Embedding,
    Facts,
    Point,
    Subject,
    WrongResult,
    agreement,
    random_tokens,
    ternary_synapses,
)
from mmfree_kernels.bench.workloads import naive, plain
from mmfree_kernels.float_model.model import HGRNBitModel
from mmfree_kernels.inference import dozens, few
from mmfree_kernels.inference.decoder import Decoder
from mmfree_kernels.inference.model import PackedModel, from_checkpoint, random
from mmfree_kernels.inference.prefill import Prefill as Prompt
from mmfree_kernels.ops.bitlinear.packed import product, unpack
from mmfree_kernels.ops.bitlinear.product import int8_sums
from mmfree_kernels.training import half_blocks
from mmfree_kernels.training.captured import Gradients

PRECISION = "weights 2 bit, activations 8 bit, exact int32 sums, the rest float32, embedding"
CHECKED_ROWS = 4
CHECKED_STEPS = 16
CHECKED_CODES = 16
"""Rows of codes in every product that is held against the exact integers."""
CHECKED_PRODUCTS = 10**13
"""As many whole prompts are computed once more as take about so many ternary products, but one of
each row at least."""
SHORT = 512
"""Tokens of the short prompts, at least `ENOUGH` of which are always computed once more."""
TIMES_NOISE = 3.0
LEAST_NOISE = 0.02
LESS_GREEDY = 0.3
"""Sums are exact on both sides; norms and sigmoids add in another order, which moves an activation
over the edge to the next 8-bit code here and there, and that spreads, the more the deeper the
model.  So the yardstick is what the plain path does to itself with norms in float64 (or, for
prefill of many tokens, which keeps bfloat16 between products, with results rounded to bfloat16):
logits may be off by this many times as much, or `LEAST_NOISE`, but by `MOST` at most, and this
share of greedy tokens fewer be equal.  What is wrong in one block alone is for the tests of the
kernels."""
MOST = 0.25
"""On random weights of 370M to 13B right results are off by a median of 0.03 to 0.15 deviations;
without lower bounds, or the gains of one norm, the 370M model is off by 0.27 and more.  Where the
yardstick itself is longer, right and wrong cannot be told apart."""


def packed_model(subject: Subject, device: torch.device, embedding: Embedding) -> PackedModel:
    """The packed model of a subject."""
    if subject.checkpoint is None:
        return random(subject.config, device, embedding=embedding)
    return from_checkpoint(subject.checkpoint, device, embedding)


def compare(found: Tensor, expected: Tensor, noisy: Tensor, who: str) -> Facts:
    """Logits [n, vocabulary] against those of the plain path, by the yardstick of others of that
    path.

    Raises WrongResult where they, or the yardstick, are off by more than they may.
    """
    yardstick = agreement(
        noisy, expected, f"{who}, the plain path against itself", most=MOST, least=0.0
    )
    median, greedy = yardstick["median_difference_over_deviation"], yardstick["greedy_agreement"]
    most = min(MOST, max(LEAST_NOISE, TIMES_NOISE * median))
    near = agreement(found, expected, who, most=most, least=max(0.0, greedy - LESS_GREEDY))
    return {
        "against": "a plain pass with exact sums",
        **near,
        "median_of_plain_against_itself": median,
        "greedy_of_plain_against_itself": greedy,
    }


def exact_products(model: PackedModel) -> int:
    """How many products of packed weights with random and extreme codes equal those of plain torch,
    bit for bit.

    Five ways to multiply: `few.sums` and `dozens.sums` of four and of eight warps, the products of
    the kernels that decode a few sequences and dozens; `product`, which takes some dozens of
    tokens, and the head after prompts; and, as long prompts do it, `unpack` to int8 and then
    `int8_sums`.  Raises WrongResult at the first that differs.
    """
    first, last = model.layers[0], model.layers[-1]
    layers = {
        "mixer in": first.mixer_in,
        "mixer out": last.mixer_out,
        "channel in": first.channel_in,
        "channel out": last.channel_out,
        "head": model.head,
    }
    for name, linear in layers.items():
        weights = linear.weights[: len(linear.weights) // len(linear.scales)]
        codes = plain.codes(weights)
        q = torch.randint(-127, 128, (CHECKED_CODES, codes.shape[1]), dtype=torch.int8).to(
            model.device
        )
        q[0], q[1], q[2] = 0, 127, -127
        expected = (q.double() @ codes.double().mT).to(torch.int32)
        unpacked = unpack(weights, torch.empty(codes.shape, dtype=torch.int8, device=model.device))
        eight = torch.cat([q, q])[: max(8, len(q))]
        octets = [dozens.sums(eight, weights, warps)[: len(q)].to(torch.int32) for warps in (4, 8)]
        ways = {
            "sums": few.sums(q, weights).to(torch.int32),
            "octets of four warps": octets[0],
            "octets of eight warps": octets[1],
            "product": product(q, weights),
            "int8 sums": int8_sums(q, unpacked),
        }
        for how, found in ways.items():
            if not torch.equal(found, expected):
                raise WrongResult(f"fast: {how} of {name} differs from the exact integers")
    return len(ways) * len(layers)


class Generate:
    """One greedy token for each sequence."""

    implementation = "packed weights, fused Triton kernels, one CUDA graph per step"

    def __init__(self, point: Point, subject: Subject, device: torch.device) -> None:
        self.precision = f"{PRECISION} {point.embedding}"
        self.model = packed_model(subject, device, point.embedding)
        self.tokens, self.weights_bytes = point.batch, self.model.weights_bytes
        self.decoder = Decoder(self.model, point.batch)
        self.first = random_tokens(subject.config.vocab_size, point.batch, device=device)
        self.decoder.tokens.copy_(self.first)

    def step(self) -> None:
        """One step of the whole batch."""
        self.decoder.step()

    def check(self) -> Facts:
        """Some steps from a zero state against one plain pass over the tokens that they
        consumed."""
        self.decoder.reset()
        self.decoder.tokens.copy_(self.first)
        fed, found = [], []
        # From the first to the last, as sequences may have programs of their own.
        last, some = self.tokens - 1, min(self.tokens, CHECKED_ROWS)
        rows = [round(n * last / max(1, some - 1)) for n in range(some)]
        for _ in range(CHECKED_STEPS):
            fed.append(self.decoder.tokens[rows].clone())
            self.step()
            found.append(self.decoder.logits[rows].clone())
        tokens = torch.stack(fed, 1)
        expected, noisy = (
            plain.logits(self.model, tokens, how) for how in (plain.EXACT, plain.OTHER_ORDER)
        )
        near = compare(
            torch.stack(found, 1).flatten(0, 1),
            expected.flatten(0, 1),
            noisy.flatten(0, 1),
            "fast, generate",
        )
        return {**near, "integer_products_equal": exact_products(self.model)}


class Prefill:
    """A whole prompt of each sequence: the logits after it, and the state."""

    implementation = (
        "packed weights, fused Triton kernels, int8 tensor cores, chunks in CUDA graphs"
    )

    def __init__(self, point: Point, subject: Subject, device: torch.device) -> None:
        self.precision = f"{PRECISION} {point.embedding}; between products bfloat16"
        self.model = packed_model(subject, device, point.embedding)
        self.tokens, self.weights_bytes = point.batch * point.length, self.model.weights_bytes
        self.prompt = random_tokens(
            subject.config.vocab_size, point.batch, point.length, device=device
        )
        self.prefill = Prompt(self.model, point.batch)

    def step(self) -> None:
        """One prefill from a zero state."""
        self.prefill.reset()
        self.prefill.feed(self.prompt)

    def check(self) -> Facts:
        """Logits after prompts as they are measured, and after short ones, against the plain pass
        with exact sums.

        Of long prompts only some are compared, and of fewer than `ENOUGH` the median alone decides;
        of the short ones, which no graph is captured for, the greedy tokens count in every case.
        """
        short = {
            f"{name}_of_short_prompts": fact
            for name, fact in self._short().items()
            if name != "against"
        }
        return {**self._whole(), **short, "integer_products_equal": exact_products(self.model)}

    def _whole(self) -> Facts:
        found, expected, noisy = list[Tensor](), list[Tensor](), list[Tensor]()
        rows, vocabulary = self.prompt[:CHECKED_ROWS], self.model.config.vocab_size
        prompts = CHECKED_PRODUCTS // (rows.numel() * ternary_synapses(self.model.config))
        for seed in range(max(1, min(CHECKED_STEPS, prompts))):
            self.prompt.copy_(
                random_tokens(vocabulary, *self.prompt.shape, device=self.prompt.device, seed=seed)
            )
            self.step()
            found.append(self.prefill.logits[: len(rows)].clone())
            for prompt in rows:
                for kept, how in ((expected, plain.EXACT), (noisy, plain.ROUNDED)):
                    kept.append(plain.logits(self.model, prompt[None], how, last=True)[:, 0])
        return compare(torch.cat(found), torch.cat(expected), torch.cat(noisy), "fast, prefill")

    def _short(self) -> Facts:
        batch, length = self.prompt.shape[0], min(self.prompt.shape[1], SHORT)
        reader, found, fed = (
            Prompt(self.model, batch, capture=False),
            list[Tensor](),
            list[Tensor](),
        )
        for seed in range(-(-ENOUGH // batch)):
            prompt = random_tokens(
                self.model.config.vocab_size,
                batch,
                length,
                device=self.prompt.device,
                seed=CHECKED_STEPS + seed,
            )
            reader.reset()
            fed.append(prompt[:ENOUGH])
            found.append(reader.feed(prompt)[:ENOUGH].clone())
        tokens = torch.cat(fed)
        expected, noisy = (
            plain.logits(self.model, tokens, how, last=True)[:, 0]
            for how in (plain.EXACT, plain.ROUNDED)
        )
        return compare(torch.cat(found), expected, noisy, "fast, short prompts")


def _loss(model: HGRNBitModel, tokens: Tensor) -> Tensor:
    return half_blocks.forward_loss(model, tokens[:, :-1].contiguous(), tokens[:, 1:].contiguous())


class Train:
    """Loss and gradients of a batch, without an optimiser."""

    implementation = (
        "fused Triton half-blocks, int8 products forward, gate and up recomputed, fused loss, "
        "one CUDA graph, "
        "no optimiser"
    )
    precision = (
        "weights, gradients and activations bfloat16, forward products int8, norms and "
        "recurrence float32"
    )

    def __init__(self, point: Point, subject: Subject, device: torch.device) -> None:
        self.model = naive.float_model(subject, device, torch.bfloat16).train()
        self.tokens, self.weights_bytes = (
            point.batch * point.length,
            naive.weights_bytes(self.model),
        )
        self.batch = random_tokens(
            subject.config.vocab_size, point.batch, point.length + 1, device=device
        )
        self.gradients, self.latest = Gradients(self.model, _loss), torch.zeros(())

    def step(self) -> None:
        """One forward and backward pass."""
        self.latest = self.gradients(self.batch)

    def check(self) -> Facts:
        """Loss and some gradients against the plain path with exact sums, on the same batch."""
        self.step()
        near = naive.compare_training(self.model, self.batch, float(self.latest), "fast, train")
        return {"against": "the plain path with exact sums", **near}
