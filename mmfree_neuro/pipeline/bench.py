"""One measured point of a model on this machine's GPU."""

from pathlib import Path
from typing import Any


def bench_gpu(point: dict[str, Any], seconds: float, output: Path | None) -> dict[str, Any]:
    """Measure a point, given as the arguments of `bench.workload.point`, on this GPU: its row.

    Raises InputError, before anything is loaded, where `record.append` could not add it to
    `output`.
    """
    from mmfree_kernels.bench import meter, record, workload

    chosen = workload.point(**point)
    meter.check_seconds(seconds)
    if output is not None:
        record.check_output(output)
    bench = record.this_gpu()
    # Building needs Triton; that a GPU is missing has been told before.
    from mmfree_kernels.bench.builders import build

    return record.measure_point(bench, chosen, seconds, build)
