"""What is measured: a point, the work that it stands for, and what a wrong result is.

A workload does one kind of work again and again.  Before it is measured it proves that it computes
what it should: a wrong result ends the measurement, so that no row exists of it.
"""

from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Literal, Protocol, get_args

import torch
from torch import Tensor

from mmfree_kernels.float_model.torch_bin import load_bin
from mmfree_neuro.baselines.measured import IMPLEMENTATIONS, MODES
from mmfree_neuro.errors import InputError, RunFailed
from mmfree_neuro.hgrn_bit.config import FAMILY, PUBLISHED, ModelConfig
from mmfree_neuro.hgrn_bit.names import is_ternary
from mmfree_neuro.model import checkpoint as checkpoints
from mmfree_neuro.model import hub
from mmfree_neuro.model.checkpoint import Checkpoint

Embedding = Literal["int8", "bfloat16"]
EMBEDDINGS: tuple[Embedding, ...] = get_args(Embedding)
SHAPES = PUBLISHED | {
    "13b": ModelConfig(hidden_size=5120, num_hidden_layers=40, intermediate_size=13824)
}
"""The published shapes, and one of 13B parameters of which no checkpoint exists."""
LENGTH = {"generate": 512, "prefill": 2048, "train": 2048}
BATCH = {"generate": 1, "prefill": 1, "train": 8}

Facts = dict[str, float | int | str]


class WrongResult(RunFailed):
    """A workload computed something else than it should have: it gets no row."""


@dataclass(frozen=True)
class Point:
    """One measurement: an implementation of a model at work on sequences of one length.

    `length` is what the sequences hold: before the token that is generated, or in all for prefill
    and training.
    """

    model: str
    """A name of `SHAPES`, or the path of a checkpoint folder."""
    mode: str
    implementation: str = "fast"
    batch: int = 1
    length: int = 512
    embedding: Embedding = "int8"
    """How the packed model keeps its embedding; a choice where `packed`."""

    def __post_init__(self) -> None:
        known_names = {"mode": MODES, "implementation": IMPLEMENTATIONS, "embedding": EMBEDDINGS}
        for what, known in known_names.items():
            if getattr(self, what) not in known:
                raise InputError(
                    f"{what} {getattr(self, what)!r} is not known, must be one of "
                    f"{', '.join(known)}"
                )
        for what in ("batch", "length"):
            if getattr(self, what) < 1:
                raise InputError(f"{what} is {getattr(self, what)}, must be at least 1")
        if self.embedding != EMBEDDINGS[0] and not self.packed:
            raise InputError(
                f"embedding {self.embedding} is not for {self.implementation} {self.mode}, must "
                f"be {EMBEDDINGS[0]} "
                "but for fast generate and fast prefill"
            )

    @property
    def packed(self) -> bool:
        """Whether it is the packed model that works."""
        return self.implementation == "fast" and self.mode != "train"

    def __str__(self) -> str:
        other = "" if self.embedding == EMBEDDINGS[0] else f", embedding {self.embedding}"
        return (
            f"{self.implementation} {self.model} {self.mode}, batch {self.batch}, length "
            f"{self.length}{other}"
        )


def point(
    model: str,
    mode: str,
    implementation: str = "fast",
    batch: int | None = None,
    length: int | None = None,
    embedding: Embedding = "int8",
) -> Point:
    """A point with the usual batch and length of its mode where none is given."""
    batch = (
        BATCH.get(mode, 1) if batch is None else batch
    )  # a mode that is not known is refused below
    length = LENGTH.get(mode, 1) if length is None else length
    return Point(model, mode, implementation, batch, length, embedding)


@dataclass(frozen=True)
class Subject:
    """The model of a point: a shape, and its weights where it is a checkpoint rather than drawn at
    random."""

    name: str
    config: ModelConfig
    checkpoint: Checkpoint | None = None


def subject(model: str) -> Subject:
    """The model of that name, or of the checkpoint in that folder."""
    if model in SHAPES:
        return Subject(model, SHAPES[model])
    folder = hub.located(Path(model))
    if not folder.is_dir():
        raise InputError(
            f"model {model!r} is not known, must be one of {', '.join(SHAPES)}, or a checkpoint "
            "folder"
        )
    checkpoint = checkpoints.read(folder, load_bin, FAMILY)
    return Subject(hub.name_of(folder), checkpoint.config, checkpoint)


def ternary_synapses(config: ModelConfig) -> int:
    """The weights of a model of that shape that are ternary, with the head's."""
    shapes = config.shapes()
    head = 0 if "lm_head.weight" in shapes else config.vocab_size * config.hidden_size
    return head + sum(
        rows * columns for rows, columns in (s for name, s in shapes.items() if is_ternary(name))
    )


class Workload(Protocol):
    """Work that can be repeated: built once, checked once, and then stepped as fast as the device
    takes it."""

    implementation: str
    """How it is done, in words."""
    precision: str
    tokens: int
    """Tokens of one step, over the whole batch."""
    weights_bytes: int

    def step(self) -> None:
        """Enqueue one unit of work; does not wait for the device."""
        ...

    def check(self) -> Facts:
        """Compare results with those of a plainer computation; what was compared and how near it
        came.

        Raises WrongResult where they differ by more than they may.
        """
        ...


Builder = Callable[[Point, Subject, torch.device], Workload]


def random_tokens(vocabulary: int, *shape: int, device: torch.device, seed: int = 0) -> Tensor:
    """Token ids drawn evenly, int64; equal seeds give equal tokens on every device."""
    generator = torch.Generator().manual_seed(seed)
    return torch.randint(vocabulary, shape, generator=generator).to(device)


ENOUGH = 8
"""So many greedy tokens or more are worth a share; of fewer, one that differs says little."""


def agreement(
    found: Tensor, expected: Tensor, who: str, *, most: float, least: float
) -> dict[str, float]:
    """How near logits [n, vocabulary] come: median |difference| over deviation, and the share of
    equal greedy tokens.

    Raises WrongResult where a logit is not finite, the median above `most`, or the share, of
    `ENOUGH` tokens, below `least`.
    """
    found, expected = found.double(), expected.double()
    if not bool(found.isfinite().all()):
        raise WrongResult(f"{who}: a logit is not finite")
    median = float((found - expected).abs().median() / expected.std())
    same = float((found.argmax(-1) == expected.argmax(-1)).double().mean())
    if not median <= most:
        raise WrongResult(
            f"{who}: the median logit is off by {median:.3g} deviations, must be at most {most:g}"
        )
    if same < least and len(found) >= ENOUGH:
        raise WrongResult(
            f"{who}: {same:.3g} of the greedy tokens are equal, must be at least {least:g}"
        )
    return {
        "median_difference_over_deviation": median,
        "greedy_agreement": same,
        "logits_compared": found.shape[0],
    }
