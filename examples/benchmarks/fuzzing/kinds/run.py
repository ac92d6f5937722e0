"""What runs leave: `run.json`, the state of an unfinished run, and rows of GPUs beside a report."""

import json
import random
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np

from fuzzing.case import Case
from fuzzing.kinds import results
from fuzzing.material import PROMPT, SIMULATE, Material
from fuzzing.values import change, change_bytes, mended, some_path
from mmfree_neuro.mapping import mapping_file
from mmfree_neuro.run import state_file
from mmfree_neuro.run.folder import STATE_FILE
from mmfree_neuro.run.job import RunState

STALE = 0.2
"""How many checksums are left stale."""


def _showing(draw: random.Random) -> dict[str, Any]:
    """Some command that reads a run, and the verdict on what it writes."""
    which = draw.random()
    if which < 0.3:
        return {"commands": (("inspect", "run", *(["--json"] * (which < 0.1))),)}
    suffix = "json" if which < 0.75 else "md" if which < 0.97 else "html"
    output = f"out.{suffix}"
    return {
        "commands": (("report", "run", "-o", output),),
        "outputs": (output,),
        "verdict": results.plain_numbers(output) if suffix == "json" else lambda _: "",
    }


def record(draw: random.Random, material: Material, folder: Path) -> Case:
    """`run.json` with one change."""
    material.bring(folder, "run")
    path = folder / "run" / "run.json"
    if draw.random() < 0.2:
        what, data = change_bytes(draw, path.read_bytes())
        path.write_bytes(data)
    else:
        what, text, _ = change(draw, json.loads(path.read_text(encoding="utf-8")))
        text = text if draw.random() < STALE else mended(text)
        path.write_bytes(text.encode(errors="surrogatepass"))
    return Case(what, names=("run.json",), **_showing(draw))


def _counted(draw: random.Random, tree: Any) -> str:
    phase = draw.choice(["prefill", "generate"])
    name = draw.choice(["fired", "synops", "reads", "saturations", "wrapped", "messages"])
    counts = tree[phase][name]
    k, how = draw.randrange(len(counts)), draw.choice(["negative", "gone", "one more", "half"])
    if how == "negative":
        counts[k] = -1 - counts[k]
    if how == "gone":
        del counts[k]
    if how == "one more":
        counts.append(0)
    if how == "half":
        counts[k] += 0.5
    return f"{phase}.{name}.{k} is {how}"


def _counted_tokens(draw: random.Random, tree: Any) -> str:
    phase = draw.choice(["prefill", "generate"])
    tree[phase]["tokens"] += draw.choice([-1, 1, 10**6, 2**64, -100])
    return f"{phase} has {tree[phase]['tokens']} tokens"


def _took(draw: random.Random, tree: Any) -> str:
    seconds: Any = draw.choice([-1.0, float("nan"), float("inf"), "1", None, -(10**9)])
    name = draw.choice(["prefill", "generate"])
    tree["seconds"][name] = seconds
    return f"{name} took {seconds}"


def _of_no_token(draw: random.Random, tree: Any) -> str:
    name = draw.choice(["prompt_tokens", "new_tokens"])
    tokens = tree["results"][0][name]
    tokens[draw.randrange(len(tokens))] = draw.choice([-1, 0.5, 2**70, None, "a"])
    return f"{name} are {tokens}"


def _placed(draw: random.Random, tree: Any) -> str:
    places = tree["mapping"]["locations"]
    k = draw.randrange(len(places))
    places[k] = draw.choice([[99, 0], [0, 10**6], [-2, 0], [0], [0, 0, 0]])
    return f"shard {k} lies at {places[k]}"


def _sharded(draw: random.Random, tree: Any) -> str:
    shards = tree["mapping"]["shards"]
    k = draw.randrange(len(shards))
    if draw.random() < 0.5:
        del shards[k]
        return f"shard {k} is gone"
    shards[k][2] += draw.choice([10**6, -(10**6)])
    return f"shard {k} ends at {shards[k][2]}"


def _figured(draw: random.Random, tree: Any) -> str:
    chip = tree["system"]["chip"]
    name = draw.choice([key for key, value in chip.items() if isinstance(value, dict)])
    end, value = draw.choice(["low", "central", "high"]), draw.choice([-1e9, float("nan"), "5"])
    chip[name][end] = value
    return f"{end} of {name} is {value}"


def _used(draw: random.Random, tree: Any) -> str:
    k = draw.randrange(len(tree["use"]))
    column = draw.randrange(len(tree["use"][k]))
    tree["use"][k][column] = draw.choice([-5, 2**70, 10**12, 0.5])
    return f"use of core {k}: number {column} is {tree['use'][k][column]}"


RUN_LIES: tuple[Callable[[random.Random, Any], str], ...] = (
    _counted,
    _counted,
    _counted_tokens,
    _took,
    _of_no_token,
    _placed,
    _sharded,
    _figured,
    _used,
)


def lying_record(draw: random.Random, material: Material, folder: Path) -> Case:
    """A run that cannot have been, its checksum right."""
    material.bring(folder, "run")
    tree = material.json("run/run.json")
    what = draw.choice(RUN_LIES)(draw, tree)
    (folder / "run" / "run.json").write_text(mended(json.dumps(tree)), encoding="utf-8")
    return Case(what, names=("run.json",), must="be refused", **_showing(draw))


def gpu_rows(draw: random.Random, material: Material, folder: Path) -> Case:
    """Rows of GPUs with one change, beside a run."""
    material.bring(folder, "run", "rows.json")
    path = folder / "rows.json"
    if draw.random() < 0.2:
        what, data = change_bytes(draw, path.read_bytes())
        path.write_bytes(data)
    else:
        what, text, _ = change(draw, json.loads(path.read_text(encoding="utf-8")))
        path.write_bytes(text.encode(errors="surrogatepass"))
    command = ("report", "run", "-o", "out.json", "--gpu-rows", "rows.json")
    return Case(what, (command,), ("rows.json",), ("out.json",), results.plain_numbers("out.json"))


RESUME = ("simulate", "a16.map", *SIMULATE, "--engine", "fast", "-o", "out", "--resume")


def _resumed(material: Material, folder: Path, draw: random.Random) -> Path:
    """A folder whose unfinished run is gone on with."""
    material.bring(folder, "a16.graph", "a16.map")
    (folder / "out").mkdir()
    path = folder / "out" / STATE_FILE
    path.write_bytes((material.folder / "half" / STATE_FILE).read_bytes())
    return path


def _head(data: bytes) -> tuple[Any, bytes]:
    size = 8 + int.from_bytes(data[:8], "little")
    return json.loads(data[8:size]), data[size:]


def state(draw: random.Random, material: Material, folder: Path) -> Case:
    """The state's bytes, its arrays' header, and what it says of the run: checksums are stale."""
    path = _resumed(material, folder, draw)
    data = path.read_bytes()
    which = draw.random()
    if which < 0.4:
        what, data = change_bytes(draw, data)
    else:
        head, arrays = _head(data)
        format_ = next(iter(head["__metadata__"]))
        if which < 0.8:
            content = json.loads(head["__metadata__"][format_])
            what, head["__metadata__"][format_], _ = change(draw, content)
            text = json.dumps(head)
        else:
            name = draw.choice([key for key in head if key != "__metadata__"])
            what, text, _ = change(draw, head, (name, *some_path(draw, head[name])))
        raw = text.encode(errors="surrogatepass")
        raw += b" " * (-len(raw) % 8)
        data = len(raw).to_bytes(8, "little") + raw + arrays
    path.write_bytes(data)
    verdict = results.run_is(material.run)
    return Case(what, (RESUME,), (STATE_FILE,), ("out",), verdict)


Lie = Callable[[random.Random, RunState], tuple[str, RunState]]


def _standing(state: RunState, **changed: Any) -> RunState:
    """A state whose only sequence stands otherwise."""
    (stand,) = state.stands
    return replace(state, stands=(replace(stand, **changed),))


def _other_fed(draw: random.Random, state: RunState) -> tuple[str, RunState]:
    fed = state.fed + draw.choice([-state.fed, -3, -2, -1, 1, 2, 3, 10**9, -state.fed - 1])
    return f"{fed} tokens fed instead of {state.fed}", _standing(state, fed=fed)


def _odd_fed(draw: random.Random, state: RunState) -> tuple[str, RunState]:
    fed: Any = draw.choice([True, 7.0, "7", None, [7], float("nan"), 1e999])
    return f"{fed!r} tokens fed", _standing(state, fed=fed)


def _other_chosen(draw: random.Random, state: RunState) -> tuple[str, RunState]:
    before = state.stands[0].chosen
    chosen = draw.choice(
        [
            before[:-1],
            np.append(before, 5),
            before[:0],
            before - 300,
            before + 2**40,
            np.arange(10**5),
        ]
    )
    return f"chosen {chosen[:9].tolist()}", _standing(state, chosen=chosen)


def _other_states(draw: random.Random, state: RunState) -> tuple[str, RunState]:
    name = draw.choice(list(state.states))
    values = state.states[name]
    how = draw.choice(["gone", "longer", "shorter", "renamed"])
    states = {key: value for key, value in state.states.items() if key != name}
    if how == "longer":
        states[name] = np.pad(values, ((0, 0), (0, 1)))
    if how == "shorter":
        states[name] = values[:, :-1]
    if how == "renamed":
        states["nothing"] = values
    return f"the state of {name} is {how}", replace(state, states=states)


def _beyond(draw: random.Random, state: RunState) -> tuple[str, RunState]:
    name = draw.choice(list(state.states))
    values = state.states[name].copy()
    values[0, 0] = draw.choice([2**31, -(2**40), 2**62])
    return f"the state of {name} begins with {values[0, 0]}", replace(state, states={name: values})


def _other_counts(draw: random.Random, state: RunState) -> tuple[str, RunState]:
    field = draw.choice(
        ["fired", "synops", "reads", "saturations", "wrapped", "messages", "tokens"]
    )
    if field == "tokens":
        tokens = draw.choice([-1, 0, 4, 10**6])
        return f"{tokens} tokens counted", _standing(
            state, prefill=replace(state.stands[0].prefill, tokens=tokens)
        )
    prefill = state.stands[0].prefill
    counts = getattr(prefill, field)
    changed = draw.choice([counts[:-1], np.append(counts, 1), -counts - 1, counts[:0]])
    lying = replace(prefill, **{field: changed})
    return f"{field} {changed[:5].tolist()} of {len(changed)}", _standing(state, prefill=lying)


def _other_seconds(draw: random.Random, state: RunState) -> tuple[str, RunState]:
    seconds: Any = draw.choice(
        [
            {},
            {"prefill": 1.0},
            {"prefill": "x", "generate": 1.0},
            None,
            {"prefill": -5.0, "generate": 1.0},
            {"prefill": float("nan"), "generate": 1.0},
            [1, 2],
            {"prefill": [], "generate": {}},
        ]
    )
    return f"seconds {seconds}", replace(state, seconds=seconds)


LIES: tuple[Lie, ...] = (
    _other_fed,
    _other_fed,
    _odd_fed,
    _other_chosen,
    _other_states,
    _beyond,
    _other_counts,
    _other_seconds,
)


def lying_state(draw: random.Random, material: Material, folder: Path) -> Case:
    """A state that cannot be of this run, every checksum right."""
    path = _resumed(material, folder, draw)
    what, changed = draw.choice(LIES)(draw, material.state)
    stored = mapping_file.load_mapping(material.folder / "a16.map")
    belongs_to = state_file.identity(stored.mapping, material.job)
    state_file.save_state(changed, belongs_to, path.parent)
    return Case(what, (RESUME,), (STATE_FILE,), ("out",), must="be refused")


def other_run(draw: random.Random, material: Material, folder: Path) -> Case:
    """A state that is gone on with by another prompt, seed or mapping, or for fewer tokens."""
    _resumed(material, folder, draw)
    changed = draw.choice(
        [
            ("--prompt", PROMPT + "x"),
            ("--seed", "1"),
            ("--temperature", "0.5"),
            ("--new-tokens", "1"),
        ]
    )
    command = (*RESUME, *changed)
    return Case(f"{changed[0]} {changed[1]}", (command,), (), ("out",), must="be refused")
