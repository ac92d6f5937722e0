"""Reads `pytorch_model.bin` files without running what they contain."""

import warnings
from pathlib import Path

import torch

from mmfree_neuro.checkpoint import Float32
from mmfree_neuro.errors import CheckpointError


def _is_plain(value: object) -> bool:
    return isinstance(value, torch.Tensor) and value.layout == torch.strided and value.device.type == "cpu"


def load_bin(path: Path) -> dict[str, Float32]:
    """All tensors of one `.bin` file as float32; only tensors are unpickled (`weights_only`)."""
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")  # torch comments on files that it then refuses
            content = torch.load(path, map_location="cpu", weights_only=True)
    except FileNotFoundError:
        raise CheckpointError(f"{path}: no such file") from None
    except Exception:  # a damaged pickle fails in a dozen ways
        raise CheckpointError(f"{path}: not readable as a file of tensors written by torch.save") from None
    if not isinstance(content, dict) or not all(map(_is_plain, content.values())):
        raise CheckpointError(f"{path}: must hold a state dict, names to tensors")
    return {str(name): value.detach().float().numpy() for name, value in content.items()}
