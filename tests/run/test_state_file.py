"""The state of an unfinished run comes back as it was saved, or is refused with one clear line."""

import json
import os
import resource
import secrets
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import replace
from errno import EINVAL, EIO, ENOSPC
from pathlib import Path
from typing import Any, NamedTuple, NoReturn

import numpy as np
import pytest
import safetensors
import safetensors.numpy

from mmfree_neuro.errors import InputError, RangeError, RunFailed
from mmfree_neuro.graph.nodes import Graph
from mmfree_neuro.graph.slots import with_slots
from mmfree_neuro.mapping.mapping import Mapping
from mmfree_neuro.run import state_file
from mmfree_neuro.run.folder import STATE_FILE
from mmfree_neuro.run.job import Job, RunState, Saving, silent
from mmfree_neuro.run.sampling import Sampling
from mmfree_neuro.run.state_file import STATE_FORMAT, identity, load_state, save_state, saving
from mmfree_sims import fast

Same = Callable[[Any, Any], bool]
Spoilt = Callable[[Any], Iterator[str]]
Tree = Callable[[Path], dict[str, bytes]]
TOKENS = np.array([[0, 97, 98, 99, 100]])
JOB = Job(TOKENS, 5, Sampling(0.9, 4), keep_logits=False)
MANY = Job(
    [TOKENS[0, :2], TOKENS[0], TOKENS[0, :1]],
    [2, 3, 0],
    [Sampling(0.9, seed) for seed in range(3)],
    keep_logits=False,
    in_flight=2,
)
"""The first ends when the second has been fed partly; the third takes its slot."""


class Going(NamedTuple):
    """A run, its states after every token, and what they belong to."""

    graph: Graph
    mapping: Mapping
    states: list[RunState]
    identity: str
    job: Job = JOB

    def load(self, folder: Path, job: Job | None = None) -> RunState:
        """The state in a folder, held against the run."""
        return load_state(folder, self.graph, self.mapping, job or self.job)


@pytest.fixture(scope="module")
def going(random_graph: Callable[[str, str], Graph], make_mapping: Callable[..., Mapping]) -> Going:
    """A run of the smallest model on the fast engine."""
    graph = random_graph("smallest", "a16")
    mapping = make_mapping(graph, "chain")
    states: list[RunState] = []
    fast.run(graph, mapping, JOB, silent, Saving(1, states.append))
    return Going(graph, mapping, states, identity(mapping, JOB))


@pytest.fixture(scope="module")
def several(
    random_graph: Callable[[str, str], Graph], make_mapping: Callable[..., Mapping]
) -> Going:
    """A run of three sequences, two of them under way at once."""
    graph = with_slots(random_graph("smallest", "a16"), 2)
    mapping = make_mapping(graph, "chain")
    states: list[RunState] = []
    fast.run(graph, mapping, MANY, silent, Saving(1, states.append))
    return Going(graph, mapping, states, identity(mapping, MANY), MANY)


@pytest.fixture
def path_of_several(several: Going, tmp_path: Path) -> Path:
    """The file of the state after six tokens: the first sequence has ended, the second is inside
    its prompt, the third has not begun."""
    state = several.states[5]
    save_state(state, several.identity, tmp_path)
    assert [(stand.slot, stand.fed, len(stand.chosen)) for stand in state.stands] == [
        (-1, 3, 2),
        (1, 3, 0),
        (-1, 0, 0),
    ]
    return tmp_path / STATE_FILE


@pytest.fixture
def path(going: Going, tmp_path: Path) -> Path:
    """The file of the state after seven tokens, two of them chosen and fed."""
    save_state(going.states[6], going.identity, tmp_path)
    return tmp_path / STATE_FILE


def message(going: Going, path: Path) -> str:
    """What is said of a file that is no state of a run, behind its name."""
    with pytest.raises((InputError, RangeError)) as error:
        going.load(path.parent)
    assert str(error.value).startswith(f"{path}: ")
    return str(error.value)[len(f"{path}: ") :]


def parts(path: Path) -> tuple[dict[str, np.ndarray], dict[str, Any]]:
    """The arrays of a state's file, and what it says beside them."""
    with safetensors.safe_open(path, "numpy") as file:
        arrays = {name: file.get_tensor(name) for name in file.offset_keys()}
        plain: dict[str, Any] = json.loads(file.metadata()[STATE_FORMAT])
    return arrays, plain


def write_anew(path: Path, arrays: dict[str, np.ndarray], plain: Any, *, mended: bool) -> None:
    """Write a state's file; its checksum is right where it is mended."""
    if mended:
        rest = {name: value for name, value in plain.items() if name != "sha256"}
        plain = rest | {"sha256": state_file._checksum(rest, arrays)}
    path.write_bytes(safetensors.numpy.save(arrays, {STATE_FORMAT: json.dumps(plain)}))


def test_states_come_back(going: Going, tmp_path: Path, same: Same) -> None:
    assert [state.fed for state in going.states] == list(range(1, 9))
    for state in going.states:  # one takes the place of another
        save_state(state, going.identity, tmp_path / "deep" / "run")
        found = going.load(tmp_path / "deep" / "run")
        assert same(found, state)
        (stand,) = found.stands
        assert all(array.flags.writeable for array in (stand.chosen, *found.states.values()))
    assert [path.name for path in (tmp_path / "deep" / "run").iterdir()] == [STATE_FILE]


def test_states_of_several_sequences_come_back(several: Going, tmp_path: Path, same: Same) -> None:
    """Of those that have not begun and those that have ended, too."""
    assert [state.fed for state in several.states] == list(range(1, 11))
    for state in several.states:
        save_state(state, several.identity, tmp_path)
        found = several.load(tmp_path)
        assert same(found, state)
        assert {values.shape for values in found.states.values()} == {(2, 16)}
        arrays = [stand.chosen for stand in found.stands] + [*found.states.values()]
        arrays += [array for stand in found.stands for array in stand.prefill.arrays()[1:]]
        assert all(array.flags.writeable for array in arrays)
    assert {stand.slot for state in several.states for stand in state.stands} == {-1, 0, 1}


def test_a_state_of_nothing_comes_back(
    hand_graph: Graph, hand_mapping: Mapping, tmp_path: Path, same: Same
) -> None:
    """Of a graph without recurrence, before anything was chosen."""
    job, states = Job(np.array([[0, 1]]), 1, keep_logits=False), []
    fast.run(hand_graph, hand_mapping, job, silent, Saving(1, states.append))
    save_state(states[0], identity(hand_mapping, job), tmp_path)
    assert same(load_state(tmp_path, hand_graph, hand_mapping, job), states[0])


def test_what_a_state_belongs_to(hand_mapping: Mapping) -> None:
    """The mapping with its graph, the prompt and the draws; not how many tokens are asked for."""
    mine = identity(hand_mapping, JOB)
    assert (
        mine
        == identity(hand_mapping, replace(JOB, new_tokens=99))
        == identity(replace(hand_mapping), JOB)
    )
    others = [
        identity(replace(hand_mapping, graph="other"), JOB),
        identity(replace(hand_mapping, locations=hand_mapping.locations[::-1]), JOB),
        identity(replace(hand_mapping, routes=hand_mapping.routes[1:]), JOB),
        identity(replace(hand_mapping, columns=(("head", (16,)),)), JOB),
        identity(hand_mapping, replace(JOB, tokens=TOKENS[:, 1:])),
        identity(hand_mapping, replace(JOB, tokens=TOKENS + 1)),
        identity(hand_mapping, replace(JOB, sampling=Sampling(0.8, 4))),
        identity(hand_mapping, replace(JOB, sampling=Sampling(0.9, 5))),
        identity(hand_mapping, replace(JOB, stop=(1,))),
        identity(hand_mapping, replace(JOB, stop=(1, 2))),
    ]
    assert len({mine, *others}) == 1 + len(others)


def test_what_a_state_of_several_sequences_belongs_to(hand_mapping: Mapping) -> None:
    """The prompts and draws of all in their order, and how many tokens are asked for, as some may
    have ended; not how many are under way at once."""
    mine = identity(hand_mapping, MANY)
    assert mine == identity(hand_mapping, replace(MANY, in_flight=1, keep_logits=True))
    prompts, draws = list(MANY.tokens), list(MANY.sampling)  # type: ignore[arg-type]
    others = [
        identity(hand_mapping, replace(MANY, new_tokens=[2, 3, 1])),
        identity(hand_mapping, replace(MANY, new_tokens=3)),
        identity(hand_mapping, replace(MANY, sampling=draws[::-1])),
        identity(hand_mapping, replace(MANY, sampling=Sampling(0.9, 0))),
        identity(hand_mapping, replace(MANY, tokens=prompts[::-1])),
        identity(hand_mapping, replace(MANY, tokens=[prompts[0], prompts[1], prompts[2] + 1])),
        identity(hand_mapping, replace(MANY, stop=(1,))),
        identity(hand_mapping, Job(prompts[:1], 2, draws[0])),
    ]
    assert len({mine, *others}) == 1 + len(others)


def test_a_state_of_another_run(going: Going, path: Path) -> None:
    with pytest.raises(InputError) as error:
        going.load(path.parent, replace(JOB, sampling=Sampling(0.9, 5)))
    assert str(error.value) == (
        f"{path}: not the saved state of a run: it belongs to another mapping, prompt, "
        "temperature, seed or --ignore-eos, must be resumed with those of its run"
    )


def test_no_state(going: Going, tmp_path: Path) -> None:
    (tmp_path / "folder" / STATE_FILE).mkdir(parents=True)
    with pytest.raises(InputError) as error:
        going.load(tmp_path / "none")
    assert str(error.value) == (
        f"{tmp_path / 'none'}: holds no state of an unfinished run, must be run without --resume"
    )
    assert message(going, tmp_path / "folder" / STATE_FILE) == (
        "not the saved state of a run: is a folder, must be a regular file"
    )


@pytest.mark.parametrize("kept", [0, 1, 7, 8, 100, 0.3, 0.9, -1])
def test_a_state_cut_short(kept: float, going: Going, path: Path) -> None:
    data = path.read_bytes()
    path.write_bytes(data[: int(len(data) * kept) if isinstance(kept, float) else kept])
    assert message(going, path).startswith("not the saved state of a run, or damaged (")


def test_a_bit_of_a_state_that_flipped(going: Going, path: Path) -> None:
    """Every bit of the arrays counts."""
    data = bytearray(path.read_bytes())
    begin = 8 + int.from_bytes(data[:8], "little")
    for at in (begin, (begin + len(data)) // 2, len(data) - 1):
        path.write_bytes(bytes(data[:at]) + bytes([data[at] ^ 4]) + bytes(data[at + 1 :]))
        assert message(going, path) == (
            "not the saved state of a run: it is damaged, for it differs from its checksum"
        )


@pytest.mark.parametrize("metadata", [None, {"format": "pt"}, {"mmfree-neuro state 4": "{}"}])
def test_another_safetensors_file(
    metadata: dict[str, str] | None, going: Going, path: Path
) -> None:
    path.write_bytes(safetensors.numpy.save({"chosen": np.zeros(3, np.int64)}, metadata))
    assert message(going, path) == (
        "not the saved state of a run: its format is not 'mmfree-neuro state 5'"
    )


Change = Callable[[dict[str, np.ndarray], dict[str, Any]], Any]
CHANGES: dict[str, tuple[Change, str]] = {
    "less was fed": (
        lambda arrays, said: said["stands"][0].update(fed=6),
        "3 tokens were chosen after 6 of a prompt of 5, must be 2",
    ),
    "more was fed": (
        lambda arrays, said: said["stands"][0].update(fed=13),
        "3 tokens were chosen after 13 of a prompt of 5, must be 9",
    ),
    "nothing was fed": (
        lambda arrays, said: (
            said["stands"][0].update(fed=0, chosen=0),
            arrays.update(chosen=np.zeros(0, np.int64)),
        ),
        "no token was fed, must have been saved after some",
    ),
    "less than nothing was fed": (
        lambda arrays, said: (
            said["stands"][0].update(fed=-1, chosen=0),
            arrays.update(chosen=np.zeros(0, np.int64)),
        ),
        "0 tokens were chosen after -1 of a prompt of 5, must be 0",
    ),
    "fed and chosen, not counted": (
        lambda arrays, said: (
            said["stands"][0].update(fed=6, chosen=2),
            arrays.update(chosen=arrays["chosen"][:2]),
        ),
        "5 and 2 tokens were counted, must be 6 in all",
    ),
    "fewer counted of the prompt": (
        lambda arrays, said: said["stands"][0].update(prefill=4, generate=3),
        "4 and 3 tokens were counted, must be 7 in all",
    ),
    "more were chosen than are told of": (
        lambda arrays, said: arrays.update(chosen=np.array([0, 1, 2, 3])),
        "it holds 4 tokens that were chosen, must hold those of all sequences",
    ),
    "fewer were chosen than are told of": (
        lambda arrays, said: arrays.update(chosen=arrays["chosen"][:2]),
        "it holds 2 tokens that were chosen, must hold those of all sequences",
    ),
    "no sequence": (lambda arrays, said: said.update(stands=[]), "it has 0 sequences, must have 1"),
    "another sequence": (
        lambda arrays, said: said["stands"].append(said["stands"][0]),
        "it has 2 sequences, must have 1",
    ),
    "another slot": (
        lambda arrays, said: said["stands"][0].update(slot=1),
        "sequences have slots [1], must be some of 1, none twice",
    ),
    "a slot that is none": (
        lambda arrays, said: said["stands"][0].update(slot=-2),
        "sequences have slots [-2], must be some of 1, none twice",
    ),
    "no slot": (
        lambda arrays, said: said["stands"][0].update(slot=-1),
        "a sequence has ended after 7 tokens, must have a slot",
    ),
    "another vocabulary": (
        lambda arrays, said: arrays.update(chosen=np.array([0, 256, 1])),
        "a token that was chosen is outside the vocabulary of 256",
    ),
    "a token that is none": (
        lambda arrays, said: arrays.update(chosen=np.array([0, -1, 1])),
        "a token that was chosen is outside the vocabulary of 256",
    ),
    "negative seconds": (
        lambda arrays, said: said["seconds"].update(prefill=-1.0),
        "the seconds of prefill and of generation must not be negative",
    ),
    "no seconds": (
        lambda arrays, said: said["seconds"].pop("generate"),
        "the seconds of prefill and of generation must not be negative",
    ),
    "fewer states": (
        lambda arrays, said: arrays.update(
            {"state.layers.0.mlgru": arrays["state.layers.0.mlgru"][1:]}
        ),
        "layers.0.mlgru has 15 states, must have 16",
    ),
    "fewer counts": (
        lambda arrays, said: arrays.update({"prefill.fired": arrays["prefill.fired"][1:]}),
        "prefill.fired must hold {shards} counts, none negative",
    ),
    "fewer messages": (
        lambda arrays, said: arrays.update({"generate.messages": np.zeros(0, np.int64)}),
        "generate.messages must hold {routes} counts, none negative",
    ),
    "a negative count": (
        lambda arrays, said: arrays.update({"generate.synops": -arrays["generate.synops"] - 1}),
        "generate.synops must hold {shards} counts, none negative",
    ),
    "no fed": (
        lambda arrays, said: said["stands"][0].pop("fed"),
        ".stands[0]: has no fed, must have one",
    ),
    "a text for fed": (
        lambda arrays, said: said["stands"][0].update(fed="7"),
        ".stands[0].fed: is '7', must be an integer of at most 64 bits",
    ),
}
SEVERAL: dict[str, tuple[Change, str]] = {
    "one sequence less": (
        lambda arrays, said: said["stands"].pop(),
        "it has 2 sequences, must have 3",
    ),
    "nothing was fed": (
        lambda arrays, said: (
            [stand.update(fed=0, chosen=0) for stand in said["stands"]],
            arrays.update(chosen=np.zeros(0, np.int64)),
        ),
        "no token was fed, must have been saved after some",
    ),
    "less was chosen than nothing": (
        lambda arrays, said: (
            said["stands"][0].update(chosen=3),
            said["stands"][1].update(chosen=-1),
        ),
        "it holds 2 tokens that were chosen, must hold those of all sequences",
    ),
    "more was chosen": (
        lambda arrays, said: arrays.update(chosen=np.array([0, 1, 2])),
        "it holds 3 tokens that were chosen, must hold those of all sequences",
    ),
    "of another was chosen": (
        lambda arrays, said: (
            said["stands"][0].update(chosen=1),
            said["stands"][1].update(chosen=1),
        ),
        "1 tokens were chosen after 3 of a prompt of 2, must be 2",
    ),
    "chosen where none was asked for": (
        lambda arrays, said: (
            said["stands"][2].update(fed=1, chosen=1, prefill=1),
            arrays.update(chosen=np.array([0, 1, 2])),
        ),
        "1 tokens were chosen after 1 of a prompt of 1, must be 0",
    ),
    "two in one slot": (
        lambda arrays, said: said["stands"][2].update(slot=1),
        "sequences have slots [1, 1], must be some of 2, none twice",
    ),
    "a slot that is not there": (
        lambda arrays, said: said["stands"][1].update(slot=2),
        "sequences have slots [2], must be some of 2, none twice",
    ),
    "ended inside its prompt": (
        lambda arrays, said: said["stands"][1].update(slot=-1),
        "a sequence has ended after 3 tokens, must have a slot",
    ),
    "counted for another": (
        lambda arrays, said: (
            said["stands"][0].update(prefill=3),
            said["stands"][1].update(prefill=2),
        ),
        "3 and 1 tokens were counted, must be 3 in all",
    ),
    "the states of one slot": (
        lambda arrays, said: arrays.update(
            {"state.layers.0.mlgru": arrays["state.layers.0.mlgru"][:16]}
        ),
        "layers.0.mlgru has 16 states, must have 32",
    ),
    "the counts of two sequences": (
        lambda arrays, said: arrays.update(
            {"prefill.fired": arrays["prefill.fired"][: 2 * len(arrays["prefill.fired"]) // 3]}
        ),
        "prefill.fired must hold {shards} counts, none negative",
    ),
    "a negative count of messages": (
        lambda arrays, said: arrays.update({"prefill.messages": -arrays["prefill.messages"]}),
        "prefill.messages must hold {routes} counts, none negative",
    ),
}


@pytest.mark.parametrize("change", SEVERAL)
def test_a_state_of_several_sequences_that_somebody_changed(
    change: str, several: Going, path_of_several: Path
) -> None:
    how, said = SEVERAL[change]
    arrays, plain = parts(path_of_several)
    how(arrays, plain)
    shards, routes = len(several.mapping.shards), len(several.mapping.routes)
    write_anew(path_of_several, arrays, plain, mended=True)
    said = said.format(shards=3 * shards, routes=3 * routes)
    assert message(several, path_of_several) == f"not the saved state of a run: {said}"


@pytest.mark.parametrize("change", CHANGES)
def test_a_state_that_somebody_changed(change: str, going: Going, path: Path) -> None:
    """Its checksum says so; where that was made anew, what it says is still no run's."""
    how, said = CHANGES[change]
    arrays, plain = parts(path)
    how(arrays, plain)
    said = said.format(shards=len(going.mapping.shards), routes=len(going.mapping.routes))
    write_anew(path, arrays, plain, mended=True)
    assert message(going, path) == f"not the saved state of a run: {said}"
    write_anew(path, arrays, plain, mended=False)
    if "fed" in change and ("no fed" in change or "text" in change):
        return  # which is seen before the checksum
    assert message(going, path) == (
        "not the saved state of a run: it is damaged, for it differs from its checksum"
    )


def test_a_state_of_a_run_that_had_ended(going: Going, tmp_path: Path) -> None:
    """No run goes on behind a token that ends it."""
    state = going.states[6]
    job = replace(JOB, stop=(int(state.stands[0].chosen[1]),))
    save_state(state, identity(going.mapping, job), tmp_path)
    with pytest.raises(InputError) as error:
        going.load(tmp_path, job)
    assert str(error.value) == (
        f"{tmp_path / STATE_FILE}: not the saved state of a run: a token that was chosen ends its "
        "run, must not have been gone on from"
    )


def test_a_sequence_ends_at_the_token_that_ends_it(several: Going, tmp_path: Path) -> None:
    """Before as many as were asked for: then it has ended, and else it has not."""
    state = several.states[7]
    assert [stand.slot for stand in state.stands] == [-1, 1, -1]
    early, job = state.stands[0].chosen[:1], replace(MANY, new_tokens=[9, 3, 0])
    ended = replace(state.stands[0], fed=2, chosen=early)
    ended = replace(ended, generate=replace(ended.generate, tokens=0))
    stopped = replace(state, stands=(ended, *state.stands[1:]))
    for stop in ((int(early[0]),), ()):
        asked = replace(job, stop=stop)
        save_state(stopped, identity(several.mapping, asked), tmp_path)
        if stop:
            assert several.load(tmp_path, asked).stands[0].fed == 2
            continue
        with pytest.raises(InputError) as error:
            several.load(tmp_path, asked)
        assert str(error.value) == (
            f"{tmp_path / STATE_FILE}: not the saved state of a run: a sequence has ended after 2 "
            "tokens, must have a slot"
        )


def test_a_state_beyond_its_format(going: Going, path: Path) -> None:
    arrays, plain = parts(path)
    name = "state.layers.0.mlgru"
    arrays[name] = arrays[name].copy()
    arrays[name][3] = 1 << 40
    write_anew(path, arrays, plain, mended=True)
    state = going.graph.node("layers.0.mlgru").state_type
    assert message(going, path) == (f"the state of layers.0.mlgru: {1 << 40} does not fit {state}")


@pytest.mark.parametrize("name", ["chosen", "state.layers.0.mlgru", "prefill.fired"])
def test_a_state_with_an_array_missing(name: str, going: Going, path: Path) -> None:
    arrays, plain = parts(path)
    del arrays[name]
    write_anew(path, arrays, plain, mended=True)
    assert message(going, path) == f"not the saved state of a run, or damaged (\"'{name}'\")"


def test_every_value_of_every_wrong_type(going: Going, path: Path, spoilt: Spoilt) -> None:
    """With a checksum that is right: one line that names the file, or the state of a run."""
    arrays, plain = parts(path)
    refused, accepted = 0, 0
    for where in spoilt(plain):
        write_anew(path, arrays, plain, mended=True)
        try:
            going.load(path.parent)
            accepted += 1
        except InputError as error:
            refused += 1
            assert str(error).startswith(f"{path}: not the saved state of a run"), where
            assert "\n" not in str(error), where
    assert refused > 2 * accepted > 10


# Writes that fail.


@contextmanager
def room_for(size: int) -> Iterator[None]:
    """No file can be larger than that, as on a disk that is full."""
    before = resource.getrlimit(resource.RLIMIT_FSIZE)
    resource.setrlimit(resource.RLIMIT_FSIZE, (size, before[1]))
    try:
        yield
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, before)


def fails(error: int) -> Callable[..., NoReturn]:
    """What fails as an operating system does."""

    def fail(*_: object, **__: object) -> NoReturn:
        raise OSError(error, os.strerror(error))

    return fail


def test_the_older_state_stays_where_the_next_cannot_be_written(
    going: Going, path: Path, tree: Tree
) -> None:
    before = tree(path.parent)
    with pytest.raises(InputError) as error, room_for(500):
        save_state(going.states[7], going.identity, path.parent)
    assert str(error.value) == f"{path}: cannot be written (File too large)"
    assert tree(path.parent) == before
    assert going.load(path.parent).fed == 7


@pytest.mark.parametrize(
    ("holder", "step"), [(Path, "write_bytes"), (os, "open"), (os, "fsync"), (os, "replace")]
)
def test_no_step_of_writing_a_state_harms_the_older(
    holder: Any, step: str, going: Going, path: Path, monkeypatch: pytest.MonkeyPatch, tree: Tree
) -> None:
    before = tree(path.parent)
    with monkeypatch.context() as patch:
        patch.setattr(holder, step, fails(ENOSPC))
        with pytest.raises(InputError) as error:
            save_state(going.states[7], going.identity, path.parent)
    assert str(error.value) == f"{path}: cannot be written (No space left on device)"
    assert tree(path.parent) == before


def test_a_state_is_on_the_disk_before_it_takes_the_place_of_another(
    going: Going, path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """And its name after it.  Not every file system can do that for folders."""
    steps: list[str] = []
    sync, put = os.fsync, os.replace

    def synced(descriptor: int) -> None:
        steps.append(Path(os.readlink(f"/proc/self/fd/{descriptor}")).name)
        if len(steps) == 3:
            fails(EINVAL)()
        sync(descriptor)

    def replaced(source: Path, target: Path) -> None:
        steps.append("replaced")
        put(source, target)

    monkeypatch.setattr(os, "fsync", synced)
    monkeypatch.setattr(os, "replace", replaced)
    monkeypatch.setattr(secrets, "token_hex", lambda _size: "0")
    save_state(going.states[7], going.identity, path.parent)
    assert steps == [f".{STATE_FILE}-0", "replaced", path.parent.name]
    monkeypatch.setattr(os, "fsync", fails(EIO))
    with pytest.raises(InputError) as error:
        save_state(going.states[7], going.identity, path.parent)
    assert str(error.value) == f"{path}: cannot be written (Input/output error)"


# What keeps the states of a run.


def keeping(going: Going, folder: Path, *, resume: bool = False) -> Any:
    return saving(going.graph, going.mapping, JOB, folder, 1, resume)


def test_what_ends_a_run_says_that_it_can_be_resumed(going: Going, tmp_path: Path) -> None:
    hint = f"the state after 7 tokens is in {tmp_path}, --resume goes on from there"
    with pytest.raises(RunFailed) as failed, keeping(going, tmp_path) as kept:
        kept.write(going.states[6])
        raise RunFailed("chip 1 died")
    assert str(failed.value) == f"chip 1 died\n{hint}"
    with pytest.raises(KeyboardInterrupt) as interrupt, keeping(going, tmp_path, resume=True):
        raise KeyboardInterrupt
    assert str(interrupt.value) == hint
    with pytest.raises(RunFailed) as failed, keeping(going, tmp_path / "new"):
        raise RunFailed("chip 1 died")
    assert str(failed.value) == "chip 1 died"


def test_a_run_that_is_interrupted_while_its_state_is_written(
    going: Going, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The state has its name, and its folder is not on the disk yet."""
    put = os.replace

    def replaced(source: Path, target: Path) -> None:
        put(source, target)
        raise KeyboardInterrupt

    monkeypatch.setattr(os, "replace", replaced)
    with pytest.raises(KeyboardInterrupt) as interrupt, keeping(going, tmp_path) as kept:
        kept.write(going.states[6])
    assert str(interrupt.value) == (
        f"the state after 7 tokens is in {tmp_path}, --resume goes on from there"
    )


def test_a_state_that_cannot_be_written_ends_the_run(
    going: Going, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    with pytest.raises(RunFailed) as failed, keeping(going, tmp_path) as kept:
        kept.write(going.states[6])
        monkeypatch.setattr(Path, "write_bytes", fails(ENOSPC))
        kept.write(going.states[7])
    assert str(failed.value) == (
        f"{tmp_path / STATE_FILE}: cannot be written (No space left on device)\n"
        f"the state after 7 tokens is in {tmp_path}, --resume goes on from there"
    )


@pytest.mark.parametrize(("prompts", "every"), [(1, 10), (2, 20), (5, 20)])
def test_a_state_is_saved_by_what_is_really_under_way(
    prompts: int, every: int, several: Going, tmp_path: Path
) -> None:
    """After ten tokens of each sequence: of two at most here, and of a single prompt of that."""
    job = Job([np.array([1, 2])] * prompts, 3, keep_logits=False, in_flight=2)
    with saving(several.graph, several.mapping, job, tmp_path, 10, resume=False) as kept:
        assert kept.every == every
