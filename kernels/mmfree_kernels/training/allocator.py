"""How torch's memory of a GPU grows; to import this does not import torch, which reads it once."""

import os

NAMES = "PYTORCH_ALLOC_CONF", "PYTORCH_CUDA_ALLOC_CONF"
"""Where torch looks: the second before version 2.9."""
EXPANDABLE = "expandable_segments:True"


def expand() -> None:
    """Let torch take memory of a GPU page by page, where the environment does not say how.

    Whatever is gathered and let go again, of many sizes, leaves holes that the next size does not
    fit; what torch took in large pieces it keeps, holes and all.  Must be called before torch uses
    a GPU.
    """
    if not any(name in os.environ for name in NAMES):
        os.environ.update(dict.fromkeys(NAMES, EXPANDABLE))
