"""Models by their names on a hub, as far as they lie in the local cache; nothing is downloaded.

The cache is that of Hugging Face's library: `models--owner--name/snapshots/commit`, and `refs/main`
says which commit.
"""

import os
import re
from pathlib import Path

from mmfree_neuro.errors import CheckpointError

_NAME = re.compile(r"[\w.-]+/[\w.-]+")
_FILES = {
    f".{ending}" for ending in ("bin", "html", "json", "md", "npy", "npz", "safetensors", "txt")
}
_FILES |= {".graph", ".image", ".map", ".run"}
"""The endings of files, which are no names of models."""


def cache() -> Path:
    """Where the models of a hub lie on this machine."""
    for variable in ("HF_HUB_CACHE", "HUGGINGFACE_HUB_CACHE"):
        if os.environ.get(variable):
            return Path(os.environ[variable]).expanduser()
    home = Path(os.environ.get("XDG_CACHE_HOME") or "~/.cache")
    return Path(os.environ.get("HF_HOME") or home / "huggingface").expanduser() / "hub"


def located(path: Path) -> Path:
    """The path itself, or the folder in the cache where it is the name of a model on a hub, as
    ridger/MMfreeLM-370M.

    Raises CheckpointError, with the command that downloads it, where it looks like such a name and
    neither is there.
    """
    name = str(path)
    if (
        os.path.lexists(path)
        or not _NAME.fullmatch(name)
        or path.suffix in _FILES
        or path.parent.exists()
    ):
        return path
    folder = cache() / f"models--{name.replace('/', '--')}"
    snapshots = folder / "snapshots"
    try:
        commit = (folder / "refs" / "main").read_text(encoding="utf-8").strip()
    except (OSError, UnicodeDecodeError):
        commit = ""
    if commit and (snapshots / commit).is_dir():
        return snapshots / commit
    raise CheckpointError(
        f"{name}: no such file or folder, and no model of this name in the local cache {cache()}; "
        f"if it is one on the hub, this downloads it: hf download {name}"
    )


def name_of(folder: Path) -> str:
    """What the model in a folder is called: by the folder, or in the cache of a hub as it is called
    there."""
    whole = folder.resolve()
    stored = whole.parents[1].name if len(whole.parents) > 1 else ""
    if whole.parent.name == "snapshots" and stored.startswith("models--"):
        return stored.rpartition("--")[2]
    return whole.name
