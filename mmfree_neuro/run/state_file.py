"""The state of an unfinished run: saved beside the run, checked and gone on from."""

import hashlib
import json
from collections.abc import Iterator
from collections.abc import Mapping as Mapping_
from contextlib import contextmanager, suppress
from dataclasses import dataclass, fields
from pathlib import Path
from typing import Any

import numpy as np
import safetensors
from numpy.typing import NDArray

from mmfree_neuro.errors import InputError, RunFailed
from mmfree_neuro.files.reading import Misfit, parsed_json, read_bytes, reading
from mmfree_neuro.files.records import decoded
from mmfree_neuro.files.writing import whole_file
from mmfree_neuro.integers.fixedpoint import fit
from mmfree_neuro.mapping.mapping import Mapping
from mmfree_neuro.mapping.mapping_file import mapping_to_plain
from mmfree_neuro.run.activity import Activity
from mmfree_neuro.run.folder import STATE_FILE
from mmfree_neuro.run.job import Job, Model, RunState, Saving

STATE_FORMAT = "mmfree-neuro state 4"
A_STATE = "the saved state of a run"


def identity(mapping: Mapping, job: Job) -> str:
    """What a saved state belongs to: a hash of the mapping (and so of the graph), the prompt, the
    sampling and what ends it."""
    content = [
        mapping_to_plain(mapping),
        job.tokens.tolist(),
        job.sampling.temperature,
        job.sampling.seed,
        job.stop,
    ]
    return hashlib.sha256(json.dumps(content).encode()).hexdigest()


@dataclass(frozen=True)
class _Said:
    """What a state says beside its arrays."""

    fed: int
    identity: str
    seconds: dict[str, float]
    sha256: str


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
    said = {"fed": state.fed, "identity": belongs_to, "seconds": state.seconds}
    content = json.dumps(said | {"sha256": _checksum(said, kept)})
    specs = {
        name: safetensors.TensorSpec(
            dtype="int64", shape=list(a.shape), data_ptr=a.ctypes.data, data_len=a.nbytes
        )
        for name, a in kept.items()
    }
    with whole_file(folder / STATE_FILE, durable=True) as scratch:
        scratch.write_bytes(safetensors.serialize(specs, {STATE_FORMAT: content}))


def _checksum(said: Mapping_[str, Any], arrays: Mapping_[str, NDArray[np.int64]]) -> str:
    """One checksum of all that a state says, and of its named arrays."""
    found = hashlib.sha256(json.dumps(said, sort_keys=True).encode() + b"\0")
    for name in sorted(arrays):
        found.update(name.encode() + b"\0" + arrays[name].tobytes())
    return found.hexdigest()


def load_state(folder: Path, model: Model, mapping: Mapping, job: Job) -> RunState:
    """The state of an unfinished run; InputError where there is none, it is of another run, or does
    not fit this one."""
    path = folder / STATE_FILE
    if not path.exists():
        raise InputError(
            f"{folder}: holds no state of an unfinished run, must be run without --resume"
        )
    data = read_bytes(path, InputError, A_STATE)
    with reading(path, InputError, A_STATE):
        arrays = {
            name: np.frombuffer(e["data"], np.int64) for name, e in safetensors.deserialize(data)
        }
        header = parsed_json(data[8 : 8 + int.from_bytes(data[:8], "little")])
        content = header.get("__metadata__", {}).get(STATE_FORMAT)
        if content is None:
            raise Misfit(f"its format is not {STATE_FORMAT!r}")
        plain = parsed_json(content)
        said = decoded(_Said, plain)
        if said.sha256 != _checksum({n: v for n, v in plain.items() if n != "sha256"}, arrays):
            raise Misfit("it is damaged, for it differs from its checksum")
        if said.identity != identity(mapping, job):
            raise Misfit(
                "it belongs to another mapping, prompt, temperature, seed or --ignore-eos, must be "
                "resumed with those of its run"
            )
        return _fitting(said, arrays, model, mapping, job)


def _fitting(
    said: _Said, arrays: Mapping_[str, NDArray[np.int64]], model: Model, mapping: Mapping, job: Job
) -> RunState:
    """The state, held against the run that it is to go on; Misfit where it is none of that run."""
    chosen, length = arrays["chosen"], int(job.tokens.shape[1])
    known = max(0, said.fed - length + 1)
    if said.fed < 1 or len(chosen) != known:
        raise Misfit(
            f"{len(chosen)} tokens were chosen after {said.fed} of a prompt of {length}, must be "
            f"{known}"
        )
    if known and not 0 <= int(chosen.min()) <= int(chosen.max()) < model.vocabulary:
        raise Misfit(f"a token that was chosen is outside the vocabulary of {model.vocabulary}")
    if set(job.stop) & set(chosen.tolist()):
        raise Misfit("a token that was chosen ends its run, must not have been gone on from")
    if not all(said.seconds.get(name, -1) >= 0 for name in ("prefill", "generate")):
        raise Misfit("the seconds of prefill and of generation must not be negative")
    states = {}
    for name, (size, qtype) in model.recurrent.items():
        values = arrays[f"state.{name}"]
        if len(values) != size:
            raise Misfit(f"{name} has {len(values)} states, must have {size}")
        states[name] = fit(values, qtype, f"the state of {name}").copy()
    prefill, generate = (_counted(arrays, phase, mapping) for phase in ("prefill", "generate"))
    if (prefill.tokens, generate.tokens) != (min(said.fed, length), max(0, said.fed - length)):
        raise Misfit(
            f"{prefill.tokens} and {generate.tokens} tokens were counted, must be {said.fed} in all"
        )
    return RunState(said.fed, chosen.copy(), states, prefill, generate, said.seconds)


def _counted(arrays: Mapping_[str, NDArray[np.int64]], phase: str, mapping: Mapping) -> Activity:
    """The counts of a phase; Misfit where they are not those of the mapping."""
    counts = {f.name: arrays[f"{phase}.{f.name}"].copy() for f in fields(Activity)}
    lengths = {"tokens": 1, "messages": len(mapping.routes)}
    for name, values in counts.items():
        needed = lengths.get(name, len(mapping.shards))
        if len(values) != needed or values.min(initial=0) < 0:
            raise Misfit(f"{phase}.{name} must hold {needed} counts, none negative")
    return Activity(**counts | {"tokens": int(counts["tokens"][0])})  # type: ignore[arg-type]


def _fed(folder: Path) -> int:
    """After how many tokens the state in a folder was saved; 0 where there is none.

    The file is asked, as a run may be interrupted between writing it and taking note of that.
    """
    path = folder / STATE_FILE
    # What cannot be read cannot be gone on from.
    with suppress(Exception), safetensors.safe_open(path, "numpy") as file:
        return int(parsed_json(file.metadata()[STATE_FORMAT])["fed"])
    return 0


@contextmanager
def saving(
    model: Model, mapping: Mapping, job: Job, folder: Path, every: int, resume: bool
) -> Iterator[Saving]:
    """How the states of a run are kept in its folder; what ends the run early says whether it can
    be resumed."""
    belongs_to = identity(mapping, job)
    resumed = load_state(folder, model, mapping, job) if resume else None

    def write(state: RunState) -> None:
        try:
            save_state(state, belongs_to, folder)
        except InputError as error:
            raise RunFailed(str(error)) from None

    def hint() -> str:
        fed = _fed(folder)
        return (
            f"the state after {fed} tokens is in {folder}, --resume goes on from there"
            if fed
            else ""
        )

    try:
        yield Saving(every, write, resumed)
    except RunFailed as failed:
        raise RunFailed("\n".join(filter(None, (str(failed), hint())))) from None
    except KeyboardInterrupt:
        raise KeyboardInterrupt(hint()) from None
