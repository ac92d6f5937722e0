"""The state of an unfinished run: saved beside the run, checked and gone on from."""

import hashlib
import json
from collections.abc import Iterator
from collections.abc import Mapping as Mapping_
from contextlib import contextmanager, suppress
from dataclasses import asdict, dataclass, fields
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
from mmfree_neuro.run.job import PHASES, Asked, Job, Model, RunState, Saving, Stand
from mmfree_neuro.run.sequences import NOWHERE

STATE_FORMAT = "mmfree-neuro state 5"
A_STATE = "the saved state of a run"
COUNTS = tuple(field.name for field in fields(Activity) if field.name != "tokens")
"""The counts of an activity, in their order."""


def identity(mapping: Mapping, job: Job) -> str:
    """What a saved state belongs to: a hash of the mapping (and so of the graph), the prompts, the
    sampling and what ends them.

    Of several sequences, some may have ended, so how many tokens were asked for is part of it; one
    can be asked for more later on.
    """
    content = [
        {name: of for name, of in mapping_to_plain(mapping).items() if name != "options"},
        [
            [asked.tokens.tolist(), asked.sampling.temperature, asked.sampling.seed]
            for asked in job.sequences
        ],
        [asked.new_tokens for asked in job.sequences if len(job.sequences) > 1],
        job.stop,
    ]
    return hashlib.sha256(json.dumps(content).encode()).hexdigest()


@dataclass(frozen=True)
class _SaidStand:
    """What a state says of a sequence."""

    slot: int
    fed: int
    chosen: int
    """How many tokens were chosen."""
    prefill: int
    generate: int
    """How many tokens were counted."""


@dataclass(frozen=True)
class _Said:
    """What a state says beside its arrays."""

    stands: tuple[_SaidStand, ...]
    identity: str
    seconds: dict[str, float]
    sha256: str


def save_state(state: RunState, belongs_to: str, folder: Path) -> None:
    """Write the state of an unfinished run into its folder, in place of an older one."""
    stands = state.stands
    arrays = {f"state.{name}": values.reshape(-1) for name, values in state.states.items()}
    arrays["chosen"] = np.concatenate([stand.chosen for stand in stands])
    for phase in PHASES:
        for name in COUNTS:
            counted = [getattr(getattr(stand, phase), name) for stand in stands]
            arrays[f"{phase}.{name}"] = np.concatenate(counted)
    kept = {name: np.ascontiguousarray(array, np.int64) for name, array in arrays.items()}
    told = [
        _SaidStand(s.slot, s.fed, len(s.chosen), s.prefill.tokens, s.generate.tokens)
        for s in stands
    ]
    said = {
        "stands": [asdict(stand) for stand in told],
        "identity": belongs_to,
        "seconds": state.seconds,
    }
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
            what = "prompt" if len(job.sequences) == 1 else "prompts or new tokens of some"
            raise Misfit(
                f"it belongs to another mapping, {what}, temperature, seed or --ignore-eos, must "
                "be resumed with those of its run"
            )
        return _fitting(said, arrays, model, mapping, job)


def _fitting(
    said: _Said, arrays: Mapping_[str, NDArray[np.int64]], model: Model, mapping: Mapping, job: Job
) -> RunState:
    """The state, held against the run that it is to go on; Misfit where it is none of that run."""
    if len(said.stands) != len(job.sequences):
        raise Misfit(f"it has {len(said.stands)} sequences, must have {len(job.sequences)}")
    if not any(stand.fed for stand in said.stands):
        raise Misfit("no token was fed, must have been saved after some")
    ends = np.cumsum([stand.chosen for stand in said.stands])
    if min(stand.chosen for stand in said.stands) < 0 or ends[-1] != len(arrays["chosen"]):
        raise Misfit(
            f"it holds {len(arrays['chosen'])} tokens that were chosen, must hold those of all "
            "sequences"
        )
    chosen = np.split(arrays["chosen"], ends[:-1])
    for each in zip(said.stands, chosen, job.sequences, strict=True):
        _check_stand(*each, model, job)
    slots = [stand.slot for stand in said.stands if stand.slot != NOWHERE]
    if len(set(slots)) < len(slots) or not all(0 <= slot < model.slots for slot in slots):
        raise Misfit(f"sequences have slots {slots}, must be some of {model.slots}, none twice")
    if not all(said.seconds.get(name, -1) >= 0 for name in PHASES):
        raise Misfit("the seconds of prefill and of generation must not be negative")
    states = {}
    for name, (size, qtype) in model.recurrent.items():
        values = arrays[f"state.{name}"]
        if len(values) != model.slots * size:
            raise Misfit(f"{name} has {len(values)} states, must have {model.slots * size}")
        held = fit(values, qtype, f"the state of {name}")
        states[name] = held.reshape(model.slots, size).copy()
    counted = {phase: _counted(said, arrays, phase, mapping) for phase in PHASES}
    stands = (
        Stand(stand.slot, stand.fed, tokens.copy(), prefill, generate)
        for stand, tokens, prefill, generate in zip(
            said.stands, chosen, *counted.values(), strict=True
        )
    )
    return RunState(tuple(stands), states, said.seconds)


def _check_stand(
    stand: _SaidStand, chosen: NDArray[np.int64], asked: Asked, model: Model, job: Job
) -> None:
    """Misfit where a sequence cannot stand like that."""
    length = len(asked.tokens)
    known = max(0, stand.fed - length + 1) if asked.new_tokens or len(job.sequences) == 1 else 0
    if stand.fed < 0 or len(chosen) != known:
        raise Misfit(
            f"{len(chosen)} tokens were chosen after {stand.fed} of a prompt of {length}, must be "
            f"{known}"
        )
    if known and not 0 <= int(chosen.min()) <= int(chosen.max()) < model.vocabulary:
        raise Misfit(f"a token that was chosen is outside the vocabulary of {model.vocabulary}")
    ended = stand.slot == NOWHERE and stand.fed > 0
    before = chosen[:-1] if ended else chosen
    if set(job.stop) & set(before.tolist()):
        raise Misfit("a token that was chosen ends its run, must not have been gone on from")
    stopped = bool(known) and int(chosen[-1]) in job.stop
    if ended and not stopped and stand.fed != asked.fed_for(asked.new_tokens):
        raise Misfit(f"a sequence has ended after {stand.fed} tokens, must have a slot")
    if (stand.prefill, stand.generate) != (min(stand.fed, length), max(0, stand.fed - length)):
        raise Misfit(
            f"{stand.prefill} and {stand.generate} tokens were counted, must be {stand.fed} in all"
        )


def _counted(
    said: _Said, arrays: Mapping_[str, NDArray[np.int64]], phase: str, mapping: Mapping
) -> list[Activity]:
    """The counts of a phase of every sequence; Misfit where they are not those of the mapping."""
    count, rows = len(said.stands), {}
    for name in COUNTS:
        values = arrays[f"{phase}.{name}"]
        needed = len(mapping.routes) if name == "messages" else len(mapping.shards)
        if len(values) != count * needed or values.min(initial=0) < 0:
            raise Misfit(f"{phase}.{name} must hold {count * needed} counts, none negative")
        rows[name] = values.reshape(count, needed)
    return [
        Activity(getattr(stand, phase), *(rows[name][k].copy() for name in COUNTS))
        for k, stand in enumerate(said.stands)
    ]


def _fed(folder: Path) -> int:
    """After how many tokens the state in a folder was saved; 0 where there is none.

    The file is asked, as a run may be interrupted between writing it and taking note of that.
    """
    path = folder / STATE_FILE
    # What cannot be read cannot be gone on from.
    with suppress(Exception), safetensors.safe_open(path, "numpy") as file:
        stands = parsed_json(file.metadata()[STATE_FORMAT])["stands"]
        return sum(int(stand["fed"]) for stand in stands)
    return 0


@contextmanager
def saving(
    model: Model, mapping: Mapping, job: Job, folder: Path, every: int, resume: bool
) -> Iterator[Saving]:
    """How the states of a run are kept in its folder, after `every` tokens of each sequence under
    way; what ends the run early says whether it can be resumed."""
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
        yield Saving(every * max(1, job.under_way), write, resumed)
    except RunFailed as failed:
        raise RunFailed("\n".join(filter(None, (str(failed), hint())))) from None
    except KeyboardInterrupt:
        raise KeyboardInterrupt(hint()) from None
