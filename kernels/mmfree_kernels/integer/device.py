"""Where the kernels of the engine `gpu` run."""

from collections.abc import Iterator
from contextlib import contextmanager

import torch
import triton

from mmfree_neuro.errors import EngineError


def has_gpu() -> bool:
    """Whether there is a GPU that torch can use and kernels are compiled for."""
    return not triton.knobs.runtime.interpret and torch.cuda.is_available()


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
