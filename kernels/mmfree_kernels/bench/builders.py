"""The work of every implementation in every mode."""

import torch

from mmfree_kernels.bench.workload import Builder, Point, Subject, Workload
from mmfree_kernels.bench.workloads import naive, transformer
from mmfree_neuro.errors import EngineError

try:
    from mmfree_kernels.bench.workloads import fast
except ModuleNotFoundError as missing:
    raise EngineError(
        "bench gpu: Triton is not installed, must be: pip install triton"
    ) from missing

BUILDERS: dict[tuple[str, str], Builder] = {
    ("fast", "generate"): fast.Generate,
    ("fast", "prefill"): fast.Prefill,
    ("fast", "train"): fast.Train,
    ("naive", "generate"): naive.Generate,
    ("naive", "prefill"): naive.Prefill,
    ("naive", "train"): naive.Train,
    ("transformer", "generate"): transformer.Generate,
    ("transformer", "prefill"): transformer.Prefill,
    ("transformer", "train"): transformer.Train,
}


def build(point: Point, model: Subject, device: torch.device) -> Workload:
    """The workload of a point."""
    return BUILDERS[point.implementation, point.mode](point, model, device)
