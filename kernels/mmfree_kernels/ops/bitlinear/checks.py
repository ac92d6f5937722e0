"""What BitLinear's kernels ask of their arguments."""

from collections.abc import Sequence

import torch
from torch import Tensor


def check(
    who: str, tensor: Tensor, shape: tuple[int, ...], dtypes: Sequence[torch.dtype] = ()
) -> None:
    """Raise ValueError unless the tensor is contiguous, of that shape and of one of those types, if
    any are given."""
    if tuple(tensor.shape) != shape:
        raise ValueError(f"{who} has shape {tuple(tensor.shape)}, must have {shape}")
    if dtypes and tensor.dtype not in dtypes:
        raise ValueError(f"{who} is of {tensor.dtype}, must be of {' or '.join(map(str, dtypes))}")
    if not tensor.is_contiguous():
        raise ValueError(f"{who} is not contiguous, must be")


def check_offsets(digits: int, offsets: Tensor | None, rows: int) -> None:
    """ValueError where several digits lack the offsets of rows, or a single one has any."""
    if digits == 1 and offsets is not None:
        raise ValueError("a single digit has offsets, must have none")
    if digits > 1 and offsets is None:
        raise ValueError(f"{digits} digits have no offsets, must have one of each of {rows} rows")
    if offsets is not None:
        check("the offsets", offsets, (rows,), [torch.int32])
