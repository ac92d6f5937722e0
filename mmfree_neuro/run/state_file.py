"""The state of an unfinished run: saved beside the run, checked and gone on from."""

import hashlib
import json
from collections.abc import Iterator
from collections.abc import Mapping as Mapping_
from contextlib import contextmanager
from dataclasses import fields
from pathlib import Path

import numpy as np
import safetensors
from numpy.typing import NDArray

from mmfree_neuro.errors import InputError, RunFailed
from mmfree_neuro.files import read_bytes, whole_file
from mmfree_neuro.mapping.mapping import Mapping
from mmfree_neuro.mapping.mapping_file import mapping_to_plain
from mmfree_neuro.run.activity import Activity
from mmfree_neuro.run.folder import STATE_FILE, check_output
from mmfree_neuro.run.job import Job, RunState, Saving

STATE_FORMAT = "mmfree-neuro state 2"


def identity(mapping: Mapping, job: Job) -> str:
    """What a saved state belongs to: a hash of the mapping (and so of the graph), the prompt and
    the sampling."""
    content = [
        mapping_to_plain(mapping),
        job.tokens.tolist(),
        job.sampling.temperature,
        job.sampling.seed,
    ]
    return hashlib.sha256(json.dumps(content).encode()).hexdigest()


def save_state(state: RunState, belongs_to: str, folder: Path) -> None:
    """Write the state of an unfinished run into its folder, in place of an older one."""
    arrays = {"chosen": state.chosen} | {
        f"state.{name}": values for name, values in state.states.items()
    }
    for phase, activity in (("prefill", state.prefill), ("generate", state.generate)):
        arrays |= {
            f"{phase}.{f.name}": np.atleast_1d(getattr(activity, f.name)) for f in fields(activity)
        }
    kept = {name: np.ascontiguousarray(array, np.int64) for name, array in arrays.items()}
    content = json.dumps(
        {
            "fed": state.fed,
            "identity": belongs_to,
            "seconds": state.seconds,
            "sha256": _checksum(kept),
        }
    )
    specs = {
        name: safetensors.TensorSpec(
            dtype="int64", shape=list(a.shape), data_ptr=a.ctypes.data, data_len=a.nbytes
        )
        for name, a in kept.items()
    }
    with whole_file(folder / STATE_FILE) as scratch:
        scratch.write_bytes(safetensors.serialize(specs, {STATE_FORMAT: content}))


def _checksum(arrays: Mapping_[str, NDArray[np.int64]]) -> str:
    """One checksum of named arrays."""
    found = hashlib.sha256()
    for name in sorted(arrays):
        found.update(name.encode() + b"\0" + arrays[name].tobytes())
    return found.hexdigest()


def load_state(folder: Path, belongs_to: str) -> RunState:
    """The state of an unfinished run; InputError where there is none, or it is of another run."""
    path = folder / STATE_FILE
    data = read_bytes(path, InputError)
    try:
        arrays = {
            name: np.frombuffer(e["data"], np.int64) for name, e in safetensors.deserialize(data)
        }
        header = json.loads(data[8 : 8 + int.from_bytes(data[:8], "little")])
        content = json.loads(header["__metadata__"][STATE_FORMAT])
        phases = [_counted(arrays, phase) for phase in ("prefill", "generate")]
        states = {
            name.removeprefix("state."): a.copy()
            for name, a in arrays.items()
            if name.startswith("state.")
        }
        found = RunState(
            content["fed"],
            arrays["chosen"].copy(),
            states,
            phases[0],
            phases[1],
            content["seconds"],
        )
    except (safetensors.SafetensorError, KeyError, TypeError, ValueError, IndexError):
        raise InputError(
            f"{path}: not a saved state of this version ({STATE_FORMAT}), or cut short"
        ) from None
    if content.get("sha256") != _checksum(arrays):
        raise InputError(f"{path}: damaged: its arrays differ from their checksum")
    if content.get("identity") != belongs_to:
        raise InputError(
            f"{path}: belongs to another mapping, prompt, temperature or seed; use those of "
            "that run"
        )
    return found


def _counted(arrays: dict[str, NDArray[np.int64]], phase: str) -> Activity:
    counts = {f.name: arrays[f"{phase}.{f.name}"].copy() for f in fields(Activity)}
    return Activity(**counts | {"tokens": int(counts["tokens"][0])})  # type: ignore[arg-type]


@contextmanager
def saving(mapping: Mapping, job: Job, output: Path, every: int, resume: bool) -> Iterator[Saving]:
    """How the states of a run are kept in its folder; what ends the run early says whether it can
    be resumed."""
    belongs_to = identity(mapping, job)
    resumed = load_state(output, belongs_to) if resume else None
    check_output(output, resume=resume)
    latest = [0 if resumed is None else resumed.fed]

    def write(state: RunState) -> None:
        try:
            save_state(state, belongs_to, output)
        except InputError as error:
            raise RunFailed(str(error)) from None
        latest[0] = state.fed

    def hint() -> str:
        return (
            f"the state after {latest[0]} tokens is in {output}, --resume goes on from there"
            if latest[0]
            else ""
        )

    try:
        yield Saving(every, write, resumed)
    except RunFailed as failed:
        raise RunFailed("\n".join(filter(None, (str(failed), hint())))) from None
    except KeyboardInterrupt:
        raise KeyboardInterrupt(hint()) from None
