"""The folder of a run: what is written there, and who may."""

from collections.abc import Iterator
from contextlib import contextmanager, suppress
from pathlib import Path

from mmfree_neuro.errors import InputError
from mmfree_neuro.files.lock import check_unlocked, locked
from mmfree_neuro.files.writing import check_folder, check_outputs, written

STATE_FILE = "state.safetensors"
RUN_FILE = "run.json"
CHECKPOINT_FILE = "config.json"
"""What tells a checkpoint's folder, which no run is written to."""
IMAGE_FILE = "image.json"
"""What tells a machine image."""


@contextmanager
def run_folder(path: Path, *, resume: bool) -> Iterator[Path]:
    """The folder of a run, made where it is missing, for this process alone to write into.

    Files there that are not of a run are never touched.  What a killed run was writing is taken
    away.  Raises InputError, as `check_output` and `locked` do.
    """
    check_output(path, resume=resume)
    with locked(path):
        check_output(path, resume=resume)  # again, for another run may have ended in the meantime
        for name in (STATE_FILE, RUN_FILE):
            for scratch in path.glob(f".{name}-*"):
                with suppress(OSError):
                    scratch.unlink()
        yield path


def holds_run(path: Path) -> bool:
    """Whether a folder is that of a finished run; InputError where it is that of an unfinished
    one, or cannot be looked into."""
    try:
        finished, unfinished = (path / RUN_FILE).is_file(), (path / STATE_FILE).is_file()
    except OSError as error:
        raise InputError(f"{path}: not readable ({error.strerror})") from None
    if finished:
        return True
    if unfinished:
        raise InputError(f"{path}: its run is unfinished, must be gone on with by --resume")
    return False


def end_of_state(folder: Path) -> None:
    """Take away the state of a run that is finished and kept."""
    with written(folder / STATE_FILE):
        (folder / STATE_FILE).unlink(missing_ok=True)


def check_output(path: Path, *, resume: bool) -> None:
    """InputError where a run cannot or must not be written to a folder, as without `resume` over an
    unfinished one."""
    try:
        is_there, is_folder = path.exists(), path.is_dir()
    except OSError as error:
        raise InputError(f"{path}: cannot be written ({error.strerror})") from None
    if is_there and not is_folder:
        raise InputError(f"{path}: is no folder, must be a new or an existing folder")
    check_folder(path, path)
    check_unlocked(path)
    if (path / CHECKPOINT_FILE).exists():
        raise InputError(f"{path}: holds a checkpoint, must be another folder")
    if (path / IMAGE_FILE).exists():
        raise InputError(f"{path}: holds a machine image, must be another folder")
    if (path / STATE_FILE).exists() and not resume:
        raise InputError(
            f"{path}: holds the state of an unfinished run, must be another folder, or use --resume"
        )
    check_outputs([path / STATE_FILE, path / RUN_FILE])
    if not _is_ours(path / RUN_FILE):
        raise InputError(f"{path}: has a {RUN_FILE} of something else, must be another folder")


def _is_ours(path: Path) -> bool:
    """Whether a `run.json` is of this project, whatever its version, or there is none."""
    try:
        with path.open("rb") as file:
            return file.read(100).startswith(b'{"format": "mmfree-neuro run')
    except FileNotFoundError:
        return True
    except OSError:
        return False
