"""Mapping files: what lies where, what is sent, and the figures of the system."""

import json
import random
from collections.abc import Callable
from pathlib import Path
from typing import Any

from fuzzing.case import Case, Must
from fuzzing.kinds import results
from fuzzing.material import SIMULATE, Material
from fuzzing.values import VALUES, at, change, change_bytes, copied, mended, some_path, with_value

NAMES = "a16.map", "a16.graph"
STALE = 0.2
"""How many checksums are left stale."""
Break = Callable[[random.Random, Any], str]
"""Makes a mapping invalid; what was done."""


def _reading(draw: random.Random, material: Material, engines: tuple[str, ...]) -> dict[str, Any]:
    """Some commands that read a mapping, and the verdict on what they write."""
    which, engine = draw.random(), draw.choice(engines)
    proved = results.valid_mapping("a16.map")
    if which < 0.04:
        return {"commands": (("inspect", "a16.map"),), "verdict": proved}
    if which < 0.2 and engine != "lava":
        logits = ("logits", "a16.map", "--tokens", "tokens.npy", "-o", "out.npy", "--raw")
        same = results.logits_are(material.logits["a16.graph"])
        return {
            "commands": ((*logits, "--engine", engine),),
            "outputs": ("out.npy",),
            "verdict": results.both(proved, same),
        }
    same = results.run_is(material.run, counts=False)
    return {
        "commands": (("simulate", "a16.map", *SIMULATE, "--engine", engine, "-o", "out"),),
        "outputs": ("out",),
        "verdict": results.both(proved, same),
    }


def any_bytes(draw: random.Random, material: Material, folder: Path) -> Case:
    """Bytes anywhere in the file."""
    material.bring(folder, "a16.graph", "tokens.npy")
    what, data = change_bytes(draw, (material.folder / "a16.map").read_bytes())
    (folder / "a16.map").write_bytes(data)
    return Case(what, names=NAMES, **_reading(draw, material, ("fast",)))


def any_value(draw: random.Random, material: Material, folder: Path) -> Case:
    """One change anywhere in the JSON."""
    material.bring(folder, "a16.graph", "tokens.npy")
    tree = material.json("a16.map")
    inside = draw.choice(["mapping", "mapping", "system", ""])
    path = (inside, *some_path(draw, tree[inside])) if inside else some_path(draw, tree)
    what, text, path = change(draw, tree, path)
    _write(folder, text if draw.random() < STALE else mended(text))
    reading = _reading(draw, material, ("fast", "fast", "reference"))
    return Case(what, names=NAMES if path != ("graph_path",) else (), **reading)


def _write(folder: Path, text: str) -> None:
    (folder / "a16.map").write_bytes(text.encode(errors="surrogatepass"))


def _some(draw: random.Random, tree: Any, name: str) -> tuple[list[Any], int]:
    values = tree["mapping"][name]
    return values, draw.randrange(len(values))


def _route_gone(draw: random.Random, tree: Any) -> str:
    routes, k = _some(draw, tree, "routes")
    del routes[k]
    return f"route {k} is gone"


def _no_routes(_draw: random.Random, tree: Any) -> str:
    tree["mapping"]["routes"] = []
    return "no routes"


def _route_twice(draw: random.Random, tree: Any) -> str:
    routes, k = _some(draw, tree, "routes")
    routes.append(routes[k])
    return f"route {k} is there twice"


def _route_shorter(draw: random.Random, tree: Any) -> str:
    routes, k = _some(draw, tree, "routes")
    routes[k][4] -= 1
    return f"route {k} ends one payload early"


def _route_longer(draw: random.Random, tree: Any) -> str:
    routes, k = _some(draw, tree, "routes")
    routes[k][4] += draw.choice([1, 2**31, 2**63])
    return f"route {k} ends late"


def _route_elsewhere(draw: random.Random, tree: Any) -> str:
    routes, k = _some(draw, tree, "routes")
    routes[k][0] = draw.choice([-1, len(tree["mapping"]["shards"]), 10**9, 10**30])
    return f"route {k} begins at shard {routes[k][0]}"


def _other_cores(draw: random.Random, tree: Any) -> str:
    routes, k = _some(draw, tree, "routes")
    sets = len(tree["mapping"]["destinations"])
    routes[k][2] = (routes[k][2] + draw.randrange(1, sets)) % sets
    return f"route {k} goes to other cores"


def _core_dropped(draw: random.Random, tree: Any) -> str:
    sets, k = _some(draw, tree, "destinations")
    del sets[k][draw.randrange(len(sets[k]))]
    return f"destinations {k} lack a core"


def _core_added(draw: random.Random, tree: Any) -> str:
    sets, k = _some(draw, tree, "destinations")
    sets[k].append(draw.choice([[99, 0], [0, 119], [1, 10**6], [-7, 3], sets[k][0]]))
    return f"destinations {k} have {sets[k][-1]} too"


def _shard_twice(draw: random.Random, tree: Any) -> str:
    shards, k = _some(draw, tree, "shards")
    k = max(k, 1)
    shards.append(shards[k])
    tree["mapping"]["locations"].append(tree["mapping"]["locations"][k])
    return f"shard {k} is there twice"


def _shard_gone(draw: random.Random, tree: Any) -> str:
    shards, k = _some(draw, tree, "shards")
    del shards[k]
    return f"shard {k} is gone"


def _shard_longer(draw: random.Random, tree: Any) -> str:
    shards, k = _some(draw, tree, "shards")
    shards[k][draw.choice([1, 2])] += draw.choice([1, -1, 16, 10**9, 2**63])
    return f"shard {k} is {shards[k]}"


def _other_node(draw: random.Random, tree: Any) -> str:
    shards, k = _some(draw, tree, "shards")
    shards[k][0] = draw.choice(["nothing", "", "head" if shards[k][0] != "head" else "x"])
    return f"shard {k} is of {shards[k][0]!r}"


def _moved(draw: random.Random, tree: Any) -> str:
    places, k = _some(draw, tree, "locations")
    places[k] = draw.choice([[99, 0], [0, 5000], [7, 119], [-1, 3], [-9, 0], [10**12, 0]])
    return f"shard {k} lies at {places[k]}"


def _embedding_on_a_chip(_draw: random.Random, tree: Any) -> str:
    tree["mapping"]["locations"][0] = [0, 0]
    return "the embedding lies at [0, 0]"


def _all_on_one(_draw: random.Random, tree: Any) -> str:
    places = tree["mapping"]["locations"]
    places[1:] = [[0, 0]] * (len(places) - 1)
    return "every shard lies at [0, 0]"


def _places_swapped(draw: random.Random, tree: Any) -> str:
    places = tree["mapping"]["locations"]
    a, b = draw.sample([k for k in range(len(places))], 2)
    while places[a] == places[b]:
        a, b = draw.sample([k for k in range(len(places))], 2)
    places[a], places[b] = places[b], places[a]
    return f"shards {a} and {b} have changed places"


def _figure(draw: random.Random, tree: Any) -> str:
    chip = draw.choice([tree["system"], tree["system"]["chip"]])
    name = draw.choice(
        [key for key, value in chip.items() if isinstance(value, dict) and key != "chip"]
    )
    value = draw.choice([-1e9, float("nan"), float("inf"), -1, "5", None, [1]])
    chip[name][draw.choice(["low", "central", "high"])] = value
    return f"{name} has {value}"


def _tight(draw: random.Random, tree: Any) -> str:
    name = draw.choice(
        ["cores", "neurons_per_core", "synaptic_memory_bytes_per_core", "input_axons_per_core"]
    )
    tree["system"]["chip"][name] |= {"low": 1, "central": 1, "high": 1}
    return f"{name} is 1"


def _other_graph(draw: random.Random, tree: Any) -> str:
    tree["mapping"]["graph"] = draw.choice(["0" * 64, "", None, 5, []])
    return f"the graph is {tree['mapping']['graph']!r}"


def _other_path(draw: random.Random, tree: Any) -> str:
    tree["graph_path"] = draw.choice(
        [
            "nothing.graph",
            "",
            ".",
            "a16.map",
            "/dev/null",
            "tokens.npy",
            "x" * 5000,
            "a\0b",
            "\ud800",
            None,
            5,
            ["a16.graph"],
            "../" * 50 + "a16.graph",
            "a\x1b[31m.graph",
        ]
    )
    return f"the graph lies at {tree['graph_path']!r}"[:100]


def _divided(draw: random.Random, tree: Any) -> str:
    shards = [s[0] for s in tree["mapping"]["shards"]]
    tree["mapping"]["columns"] = [[draw.choice(shards), draw.choice([[4], [0], [99], [8, 4], []])]]
    return f"columns are {tree['mapping']['columns']}"


def _used(draw: random.Random, tree: Any) -> str:
    tree["cores"] = draw.choice([0, -1, 10**9, 10**30, "8", 0.5, [], True, float("nan")])
    return f"cores are {tree['cores']!r}"


BREAKS: tuple[Break, ...] = (
    _route_gone,
    _no_routes,
    _route_twice,
    _route_shorter,
    _route_longer,
    _route_elsewhere,
    _other_cores,
    _core_dropped,
    _core_added,
    _shard_twice,
    _shard_gone,
    _shard_longer,
    _other_node,
    _moved,
    _embedding_on_a_chip,
    _all_on_one,
    _places_swapped,
    _figure,
    _tight,
    _other_graph,
    _other_path,
    _divided,
    _used,
)


MAY_BE_VALID = _places_swapped, _divided, _shard_twice
"""Of these some are valid: shards of one node may change places, or be there twice without weights
and states."""


def broken(draw: random.Random, material: Material, folder: Path) -> Case:
    """A mapping that is no longer one."""
    return _broken(draw, material, folder, ("fast", "fast", "reference"))


def on_lava(draw: random.Random, material: Material, folder: Path) -> Case:
    """A mapping that is no longer one, in Lava."""
    return _broken(draw, material, folder, ("lava",))


def _broken(
    draw: random.Random, material: Material, folder: Path, engines: tuple[str, ...]
) -> Case:
    material.bring(folder, "a16.graph", "tokens.npy")
    tree = material.json("a16.map")
    how = draw.choice(BREAKS)
    what = how(draw, tree)
    _write(folder, mended(json.dumps(tree)))
    reading = _reading(draw, material, engines)
    must: Must = "either" if how in MAY_BE_VALID else "be refused"
    return Case(what, names=NAMES if how != _other_path else (), must=must, **reading)


def equivalent(draw: random.Random, material: Material, folder: Path) -> Case:
    """Another text of the same mapping, or another valid mapping."""
    material.bring(folder, "a16.graph", "tokens.npy")
    tree = copied(material.json("a16.map"))
    which = draw.choice(["spaces", "order of keys", "order of routes", "order of shards", "source"])
    if which == "order of routes":
        draw.shuffle(tree["mapping"]["routes"])
    if which == "order of keys":
        tree = dict(reversed(tree.items()))
    if which == "order of shards":
        _reordered(draw, tree["mapping"])
    text = json.dumps(tree, indent=draw.choice([1, 2, 8]) if which == "spaces" else None)
    if which == "source":
        path = ("system", "chip", "cores", "source")
        assert at(tree, path)
        text = with_value(tree, path, VALUES["5,000 characters"])
    _write(folder, mended(text))
    reading = _reading(draw, material, ("fast", "reference"))
    return Case(f"another {which}", names=("a16.map",), must="be accepted", **reading)


def _reordered(draw: random.Random, mapping: Any) -> None:
    order = list(range(len(mapping["shards"])))
    draw.shuffle(order)
    new = {old: k for k, old in enumerate(order)}
    for name in ("shards", "locations"):
        mapping[name] = [mapping[name][k] for k in order]
    for route in mapping["routes"]:
        route[0] = new[route[0]]
