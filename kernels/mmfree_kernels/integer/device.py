"""Where the kernels of the engine `gpu` run."""

from collections.abc import Iterator
from contextlib import contextmanager

import torch
import triton

from mmfree_neuro.errors import EngineError

OLDEST_TRITON = 3, 6
"""The oldest release that the kernels are compiled with."""


def triton_release() -> tuple[int, ...]:
    """Major and minor number of the Triton that is installed; zeros of a folder that only has its
    name."""
    return tuple(int(part) for part in getattr(triton, "__version__", "0.0").split(".")[:2])


def check_triton() -> None:
    """EngineError where Triton is too old."""
    if triton_release() < OLDEST_TRITON:
        found, oldest = (".".join(map(str, r)) for r in (triton_release(), OLDEST_TRITON))
        raise EngineError(
            f"engine gpu: Triton {found} is installed, must be {oldest} or newer: "
            f"pip install 'triton>={oldest}'"
        )


def has_gpu() -> bool:
    """Whether there is a GPU that torch can use and kernels are compiled for."""
    return (
        triton_release() >= OLDEST_TRITON
        and not triton.knobs.runtime.interpret
        and torch.cuda.is_available()
    )


def find_device() -> torch.device:
    """Where kernels run: a GPU, or the CPU where Triton's interpreter is on; EngineError without
    either."""
    if triton.knobs.runtime.interpret:
        return torch.device("cpu")
    if not has_gpu():
        raise EngineError(
            "engine gpu: torch finds no GPU on this machine, must find one; engine fast gives "
            "the same on the CPU"
        )
    return torch.device("cuda")


@contextmanager
def fitting() -> Iterator[None]:
    """EngineError where what is done inside needs more memory than the GPU has."""
    try:
        yield
    except torch.OutOfMemoryError:
        raise EngineError(
            "engine gpu: the model and the sequences under way do not fit the GPU's memory, must "
            "be fewer sequences or a smaller model; engine fast gives the same on the CPU"
        ) from None
