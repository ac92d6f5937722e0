"""The families of checkpoints: what the flow asks of one, and which there are.

A family's float model is imported when it is needed, because it needs torch.
"""

from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Protocol

import numpy as np
from numpy.typing import NDArray

from mmfree_neuro.errors import InputError, shown
from mmfree_neuro.graph.nodes import Graph
from mmfree_neuro.hgrn_bit import config, lowering, names
from mmfree_neuro.integers.ternary import Codes
from mmfree_neuro.lowering.scheme import Ranges, Scheme
from mmfree_neuro.lowering.ternarise import TernaryWeights
from mmfree_neuro.model import checkpoint as checkpoints
from mmfree_neuro.model.checkpoint import Checkpoint, ParseConfig
from mmfree_neuro.model.tensors import Entries

Tokens = NDArray[np.int64]


class Scores(Protocol):
    """What a float model made of windows [windows, length + 1]."""

    @property
    def nats(self) -> NDArray[np.float64]:
        """For every predicted token [windows, length]."""

    @property
    def chosen(self) -> Tokens:
        """The likeliest token [windows, length]."""


class FloatModel(Protocol):
    """The float model of a family, which works on a checkpoint of any size."""

    def calibrate(
        self, checkpoint: Any, tokens: Tokens, scheme: Scheme, weights: TernaryWeights
    ) -> Ranges:
        """The ranges that lowering needs, measured on windows [n, time]."""

    def scores(
        self, checkpoint: Any, windows: Tokens, weights: TernaryWeights | None = None
    ) -> Scores:
        """Losses and choices on windows [n, time + 1], each from a zero state."""

    def logits(self, checkpoint: Any, tokens: Tokens) -> NDArray[np.float64]:
        """Logits [n, time, vocabulary] of tokens [n, time], each row from a zero state."""

    def greedy(
        self, checkpoint: Any, tokens: Tokens, new_tokens: int
    ) -> tuple[NDArray[np.float64], Tokens]:
        """The logits of tokens [n, time], and how each row goes on [n, new_tokens]."""


@dataclass(frozen=True)
class Family:
    """What the flow asks of a family of checkpoints."""

    parse_config: ParseConfig
    codes: Callable[[Checkpoint[Any]], Iterator[tuple[str, Codes]]]
    """Name and ternary codes of every matrix, one after another."""
    ternary_weights: Callable[[Checkpoint[Any]], TernaryWeights]
    lower: Callable[[Checkpoint[Any], TernaryWeights, Ranges, Scheme, str], Graph]
    float_model: Callable[[], FloatModel]


def _hgrn_bit_float_model() -> FloatModel:
    from mmfree_kernels.float_model import whole

    return whole


FAMILIES = {
    "hgrn_bit": Family(
        config.parse_config,
        names.codes,
        names.ternary_weights,
        lowering.lower,
        _hgrn_bit_float_model,
    )
}
"""By the `model_type` of `config.json`."""


def family_of(checkpoint: Checkpoint[Any]) -> Family:
    """The family of a checkpoint."""
    return FAMILIES[checkpoint.config.model_type]


@contextmanager
def needs_torch(what: str) -> Iterator[None]:
    """InputError that names the extra to install, where the block finds no torch, or one that does
    not load."""
    try:
        yield
    except (ImportError, OSError) as error:
        name = getattr(error, "name", None)
        if name is not None and name.partition(".")[0] != "torch":
            raise
        missing = isinstance(error, ModuleNotFoundError)
        state = "is not installed" if missing else f"cannot be loaded ({shown(str(error))})"
        raise InputError(
            f"{what} needs torch, which {state}; install it with the torch extra: "
            "pip install 'mmfree-neuro[torch]'"
        ) from None


def read_checkpoint(folder: Path) -> Checkpoint[Any]:
    """A checkpoint in the published format, of any family."""

    def load_bin(path: Path) -> Entries:
        with needs_torch(f"{path}: reading a .bin file"):
            from mmfree_kernels.float_model import torch_bin
        return torch_bin.load_bin(path)

    parsers = {name: family.parse_config for name, family in FAMILIES.items()}
    return checkpoints.read(folder, load_bin, parsers)


def float_model(checkpoint: Checkpoint[Any], what: str) -> FloatModel:
    """The float model of a checkpoint's family; `what` is what it is needed for."""
    with needs_torch(what):
        return family_of(checkpoint).float_model()
