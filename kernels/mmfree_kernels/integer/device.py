"""Where the kernels of the engine `gpu` run."""

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
