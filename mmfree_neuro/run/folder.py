"""The folder of a run: what may be written to, and how an older run is replaced as a whole."""

import os
import shutil
import tempfile
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from mmfree_neuro.errors import InputError
from mmfree_neuro.files import written

STATE_FILE = "state.safetensors"


@contextmanager
def whole_folder(path: Path) -> Iterator[Path]:
    """A temporary folder that takes the place of `path` when the block ends well; an older run
    there is replaced."""
    check_output(path, resume=True)
    with written(path):
        path.parent.mkdir(parents=True, exist_ok=True)
        scratch = Path(tempfile.mkdtemp(dir=path.parent, prefix=f".{path.name}-"))
        try:
            yield scratch
            scratch.chmod(0o755)
            _take_the_place(scratch, path)
        finally:
            shutil.rmtree(scratch, ignore_errors=True)


def _take_the_place(scratch: Path, path: Path) -> None:
    """Rename a folder over another, which stays where it is if that fails."""
    older = scratch.with_name(f"{scratch.name}-older")
    if path.exists():
        os.replace(path, older)
    try:
        os.replace(scratch, path)
    except OSError:
        if older.exists():
            os.replace(older, path)
        raise
    shutil.rmtree(older, ignore_errors=True)


def check_output(path: Path, *, resume: bool) -> None:
    """InputError where a run cannot or must not be written to a folder, as without `resume` over an
    unfinished one."""
    with written(path):
        if not path.exists():
            above = next(folder for folder in path.resolve().parents if folder.exists())
            if not above.is_dir() or not os.access(above, os.W_OK | os.X_OK):
                raise InputError(
                    f"{path}: cannot be written, since {above} is no folder that can be written to"
                )
            return
        names = {entry.name for entry in path.iterdir()} if path.is_dir() else None
    if names is not None:  # a state that was being written when its run was killed
        names = {name for name in names if not name.startswith(f".{STATE_FILE}-")}
    if names is None or (names and "run.json" not in names and names != {STATE_FILE}):
        raise InputError(f"{path}: exists and is not a run, must be a new folder or an older run")
    if STATE_FILE in names and not resume:
        raise InputError(
            f"{path}: holds the state of an unfinished run, must be another folder, or use --resume"
        )
