"""The MLGRU on a GPU: gates and recurrence (`scan`), output gate with norm and quantiser
(`output`)."""

from mmfree_kernels.ops.mlgru.output import output_activations, output_backward, output_normalise
from mmfree_kernels.ops.mlgru.scan import gated_scan, gated_scan_backward, scan

__all__ = [
    "gated_scan",
    "gated_scan_backward",
    "output_activations",
    "output_backward",
    "output_normalise",
    "scan",
]
