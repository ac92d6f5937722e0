"""Reads `pytorch_model.bin` files without running what they contain."""

import pickle
from pathlib import Path

import torch

from mmfree_neuro.checkpoint import Float32
from mmfree_neuro.errors import CheckpointError


def load_bin(path: Path) -> dict[str, Float32]:
    """All tensors of one `.bin` file as float32; only tensors are unpickled (`weights_only`)."""
    try:
        content = torch.load(path, map_location="cpu", weights_only=True)
    except FileNotFoundError:
        raise CheckpointError(f"{path}: no such file") from None
    except (OSError, RuntimeError, EOFError, ValueError, pickle.UnpicklingError):
        raise CheckpointError(f"{path}: not readable as a file of tensors written by torch.save") from None
    if not isinstance(content, dict) or not all(isinstance(value, torch.Tensor) for value in content.values()):
        raise CheckpointError(f"{path}: must hold a state dict, names to tensors")
    return {str(name): value.float().numpy() for name, value in content.items()}
