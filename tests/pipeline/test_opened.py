"""Whoever opens a graph or a mapping gets it proved, or one line that says what is wrong with
it."""

import hashlib
import json
import os
import shutil
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest

import mmfree_neuro as door
from mmfree_neuro.cli.main import main
from mmfree_neuro.errors import GraphError, HardwareError, MappingError, MMFreeError
from mmfree_neuro.graph.graph_file import GRAPH_FORMAT, head_checksum, load_graph, save_graph
from mmfree_neuro.graph.nodes import Graph
from mmfree_neuro.graph.partial_sums import by_columns, evenly
from mmfree_neuro.mapping.mapping import Mapping
from mmfree_neuro.mapping.mapping_file import StoredMapping, checksum, load_mapping, save_mapping
from mmfree_neuro.mapping.request import Request
from mmfree_neuro.pipeline.map import map_graph
from mmfree_neuro.pipeline.opened import is_mapping, open_graph, open_mapped
from mmfree_neuro.systems.load import load_system
from mmfree_neuro.systems.spec import SystemSpec

Files = Callable[[str], str]
Said = pytest.CaptureFixture[str]


@pytest.fixture(scope="module")
def files(make_files: Callable[[str, int], Files]) -> Files:
    return make_files("smallest", 2)


@pytest.fixture
def stored(hand_graph: Graph, hand_mapping: Mapping, system: SystemSpec, tmp_path: Path) -> Path:
    """A folder with the file of a graph and that of a mapping of it."""
    save_graph(hand_graph, tmp_path / "graphs" / "hand.graph")
    digest = load_graph(tmp_path / "graphs" / "hand.graph")[1]
    mapping = replace(hand_mapping, graph=digest)
    save_mapping(
        StoredMapping(mapping, system, tmp_path / "graphs" / "hand.graph"),
        tmp_path / "maps" / "hand.map",
    )
    return tmp_path


def message(path: Path) -> str:
    """What is said of a mapping that cannot be opened, behind its name."""
    with pytest.raises((MappingError, GraphError, HardwareError)) as error:
        open_mapped(path)
    assert str(error.value).startswith(f"{path}: ")
    return str(error.value)[len(f"{path}: ") :]


def test_mappings_come_back(
    stored: Path,
    hand_graph: Graph,
    hand_mapping: Mapping,
    system: SystemSpec,
    same: Callable[[Any, Any], bool],
) -> None:
    graph, back = open_mapped(stored / "maps" / "hand.map")
    assert same(graph, hand_graph)
    assert replace(back.mapping, graph="") == hand_mapping
    assert back.system == system


def test_a_divided_graph_comes_back(
    graph: Graph,
    make_mapping: Callable[..., Mapping],
    tmp_path: Path,
    same: Callable[[Any, Any], bool],
) -> None:
    """The file holds the graph in one piece; a mapping says how it is divided."""
    save_graph(graph, tmp_path / "a.graph")
    columns = evenly(graph, (("layers.0.down_proj", 3), ("head", 2)))
    divided, digest = by_columns(graph, columns), load_graph(tmp_path / "a.graph")[1]
    mapping = replace(make_mapping(divided, "random"), graph=digest, columns=columns)
    save_mapping(
        StoredMapping(mapping, load_system("kapoho-point"), tmp_path / "a.graph"),
        tmp_path / "a.map",
    )
    back, stored = open_mapped(tmp_path / "a.map")
    assert stored.mapping == mapping
    assert same(back, divided)


def test_a_mapping_moves_with_its_graph(
    stored: Path, tmp_path_factory: pytest.TempPathFactory
) -> None:
    moved = stored.rename(tmp_path_factory.mktemp("moved") / "here")
    assert open_mapped(moved / "maps" / "hand.map")[0].name == "hand"


def test_a_mapping_of_another_graph(stored: Path, hand_graph: Graph) -> None:
    path = stored / "maps" / "hand.map"
    save_graph(replace(hand_graph, name="other"), stored / "graphs" / "hand.graph")
    other = load_mapping(path).graph_path
    assert message(path) == f"belongs to another graph than {other}; map that graph again"


def test_which_file_is_a_mapping(stored: Path, tmp_path: Path) -> None:
    """By how it begins, whatever its name; what begins like neither, by its name."""
    graph, mapping = stored / "graphs" / "hand.graph", stored / "maps" / "hand.map"
    shutil.copy(mapping, tmp_path / "mapping.graph")
    shutil.copy(graph, tmp_path / "graph.map")
    (tmp_path / "odd.map").write_text(" ")
    (tmp_path / "odd.graph").write_text(" ")
    os.mkfifo(tmp_path / "pipe.map")
    found = {
        path.name: is_mapping(path)
        for path in (graph, mapping, *tmp_path.glob("*.*"), Path("a\0b"), Path("none"))
    }
    assert found == {
        "hand.graph": False,
        "hand.map": True,
        "mapping.graph": True,
        "graph.map": False,
        "odd.map": True,
        "odd.graph": False,
        "pipe.map": True,
        "a\0b": False,
        "none": False,
    }
    with pytest.raises(GraphError) as error:
        open_graph(mapping)
    assert str(error.value) == f"{mapping}: is a mapping file, must be a graph file"


def changed(path: Path, change: Callable[[dict[str, Any]], Any]) -> None:
    """Change a mapping file, and mend its checksum."""
    content = json.loads(path.read_text())
    change(content)
    path.write_text(json.dumps(content | {"sha256": checksum(content)}))


CHANGES: dict[str, tuple[Callable[[dict[str, Any]], Any], str]] = {
    "no routes": (
        lambda m: m.update(routes=[]),
        "mapping: payload 0 of embedding.x reaches core 0 of chip 0 0 times, must 1",
    ),
    "a shard twice": (
        lambda m: (m["shards"].append(m["shards"][1]), m["locations"].append([0, 5])),
        "mapping: neuron 0 of head is held 2 times, must be held once",
    ),
    "a shard missing": (
        lambda m: (m["shards"].pop(), m["locations"].pop()),
        "mapping: neuron 1 of head is held 0 times, must be held once",
    ),
    "chip 99 of 8": (
        lambda m: m["locations"].__setitem__(1, [99, 0]),
        "mapping: head is on core 0 of chip 99, which kapoho-point does not have",
    ),
    "the embedding on a core": (
        lambda m: m["locations"].__setitem__(0, [0, 0]),
        "mapping: embedding is on chip 0; the host holds the embedding, and nothing else but the "
        "head with its norm",
    ),
    "another system": (
        lambda m: m.update(system="hala-point"),
        "not a mapping file: it is for hala-point, and holds kapoho-point",
    ),
    "local roots of no norm": (
        lambda m: m.update(local_roots=["o"]),
        "hand: no norm can have a local root, for none has its root after the product",
    ),
    "no sequence in flight": (
        lambda m: m.update(in_flight=0),
        "hand: 0 sequences in flight were asked for, must be 1 … 4096",
    ),
    "more sequences in flight than there can be": (
        lambda m: m.update(in_flight=5000),
        "hand: 5000 sequences in flight were asked for, must be 1 … 4096",
    ),
    "columns of no node": (
        lambda m: m.update(columns=[["tail", [16]]]),
        "tail: divided by columns, but no node of hand has this name",
    ),
    "columns that are none": (
        lambda m: m.update(columns=[["head", [-16]]]),
        "head: divided before columns -16, must be multiples of 16 in order between 0 and 3",
    ),
}


@pytest.mark.parametrize("change", CHANGES)
def test_a_mapping_that_is_not_valid(change: str, stored: Path) -> None:
    """Its checksum is its own, so somebody wrote it."""
    how, said = CHANGES[change]
    path = stored / "maps" / "hand.map"
    changed(path, lambda content: how(content["mapping"]))
    assert message(path) == said


def test_a_mapping_names_each_kind_of_local_root_once(files: Files, tmp_path: Path) -> None:
    shutil.copy(files("a14-late.graph"), tmp_path)
    shutil.copy(files("a14-late.map"), tmp_path)
    path = tmp_path / "a14-late.map"
    for roots in (["o", "o"], ["all"], ["down", "o"]):
        changed(path, lambda content, r=roots: content["mapping"].update(local_roots=r))
        assert message(path) == (
            f"not a mapping file: its local roots are {', '.join(roots)}, must be each kind once "
            "and in order"
        )


def test_a_mapping_is_checked_with_room_for_its_sequences(files: Files, tmp_path: Path) -> None:
    """Another number of slots is another graph, whose mixers keep other states and read marks."""
    shutil.copy(files("a14-late.graph"), tmp_path)
    path, where = tmp_path / "three.map", Request("block-per-chip", cores=4, in_flight=3)
    map_graph(tmp_path / "a14-late.graph", "kapoho-point", path, where)
    graph, stored = open_mapped(path)
    assert (graph.slots, stored.mapping.in_flight) == (3, 3)
    changed(path, lambda content: content["mapping"].update(in_flight=2))
    assert open_mapped(path)[0].slots == 2
    changed(path, lambda content: content["mapping"].update(in_flight=4096))
    assert message(path) == (
        "mapping: core 0 of chip 0 needs 16408 of state per neuron, loihi2 has 4096"
    )
    changed(path, lambda content: content["mapping"].update(in_flight=1))
    assert message(path) == "mapping: shard layers.0.here[0:1] is not part of the graph"


def test_all_of_a_mapping_on_one_core(files: Files, tmp_path: Path) -> None:
    shutil.copy(files("a16.graph"), tmp_path)
    shutil.copy(files("a16.map"), tmp_path)
    path = tmp_path / "a16.map"

    def gather(content: dict[str, Any]) -> None:
        places = content["mapping"]["locations"]
        places[:] = [place if place[0] < 0 else [0, 0] for place in places]

    changed(path, gather)
    assert message(path) == (
        "mapping: payload 15 of layers.0.mlgru.v reaches core 0 of chip 0 0 times, must 1"
    )


def test_a_mapping_on_more_cores_than_it_may_have(files: Files, tmp_path: Path) -> None:
    for name in ("a16.graph", "a16.map"):
        shutil.copy(files(name), tmp_path)
    path = tmp_path / "a16.map"
    changed(path, lambda content: content.update(cores=1))
    assert message(path) == ("not a mapping file: it uses 2 cores of a chip, must use at most 1")


def test_a_mapping_that_is_for_a_graph_elsewhere(stored: Path) -> None:
    path = stored / "maps" / "hand.map"
    for there, said in (
        ("none.graph", "no such file, must be a graph file"),
        ("hand.map", "not a graph file: it is cut short, or begins otherwise"),
        ("../graphs", "not a graph file: is a folder, must be a regular file"),
        ("/dev/zero", "not a graph file: is a device, must be a regular file"),
    ):
        changed(path, lambda content, there=there: content.update(graph_path=there))  # type: ignore[misc]
        with pytest.raises(GraphError) as error:
            open_mapped(path)
        assert str(error.value) == f"{path}: its graph {path.parent / there}: {said}"


# A graph that is damaged, or says of itself what is not so.


def openers(folder: Path) -> dict[str, tuple[list[str], Callable[[], Any]]]:
    """Whatever opens the graph in a folder: commands, and calls of the Python interface."""
    graph, mapping, out = folder / "a16.graph", folder / "a16.map", str(folder / "out")
    np.save(folder / "tokens.npy", np.array([[0, 1]]))
    tokens = ["--tokens", str(folder / "tokens.npy"), "--engine", "fast", "-o", out]
    run = ["--prompt", "a", "--new-tokens", "1", "--engine", "fast", "-o", out]
    return {
        "inspect a graph": (["inspect", str(graph)], lambda: door.load(graph)),
        "inspect a mapping": (["inspect", str(mapping)], lambda: door.load(mapping)),
        "map": (["map", str(graph), "--system", "kapoho-point", "-o", out], lambda: None),
        "explore": (["explore", str(graph), "--system", "kapoho-point"], lambda: None),
        "simulate": (["simulate", str(mapping), *run], lambda: None),
        "logits of a graph": (["logits", str(graph), *tokens], lambda: None),
        "logits of a mapping": (["logits", str(mapping), *tokens], lambda: None),
    }


def assert_refused(folder: Path, capsys: Said, said: Callable[[str], bool]) -> None:
    """Everything that opens the graph in a folder refuses it, and writes nothing."""
    for who, (command, call) in openers(folder).items():
        capsys.readouterr()
        assert main(command) == 2, who
        found = capsys.readouterr()
        assert found.out == "", who
        assert found.err.startswith("mmfree-neuro: "), who
        assert said(found.err[len("mmfree-neuro: ") : -1]), (who, found.err)
        if "inspect" in who:
            with pytest.raises(MMFreeError) as error:
                call()
            assert said(str(error.value)), who
        assert not (folder / "out").exists(), who


@pytest.mark.slow
def test_one_flipped_bit_anywhere(files: Files, tmp_path: Path, capsys: Said) -> None:
    """At thirty places of a graph's file, from its first byte to its last."""
    for name in ("a16.graph", "a16.map"):
        shutil.copy(files(name), tmp_path)
    graph = tmp_path / "a16.graph"
    data = graph.read_bytes()
    for number in range(30):
        at = number * (len(data) - 1) // 29
        graph.write_bytes(data[:at] + bytes([data[at] ^ 1 << number % 8]) + data[at + 1 :])

        def names_it(said: str) -> bool:
            own = f"{tmp_path / 'a16.map'}: "
            other = f"{own}belongs to another graph than {graph}; map that graph again"
            return said == other or said.removeprefix(f"{own}its graph ").startswith(f"{graph}: ")

        assert_refused(tmp_path, capsys, names_it)
    graph.write_bytes(data)
    for who, (command, _) in openers(tmp_path).items():
        shutil.rmtree(tmp_path / "out", ignore_errors=True)
        (tmp_path / "out").unlink(missing_ok=True)
        assert main(command) == 0, who


def described(path: Path, change: Callable[[dict[str, Any]], Any]) -> None:
    """Change what a graph's file says of itself, and mend its checksums and its mapping's."""
    data = path.read_bytes()
    start = 8 + int.from_bytes(data[:8], "little")
    head = json.loads(data[8:start])
    content = json.loads(head["__metadata__"][GRAPH_FORMAT])
    change(content)
    plain = json.dumps(content)
    del head["__metadata__"]
    metadata = {GRAPH_FORMAT: plain, "sha256": head_checksum(plain, head)}
    text = json.dumps({"__metadata__": metadata} | head).encode()
    path.write_bytes(len(text).to_bytes(8, "little") + text + data[start:])
    graph = hashlib.sha256(text).hexdigest()
    changed(path.with_suffix(".map"), lambda content: content["mapping"].update(graph=graph))


@pytest.mark.slow
@pytest.mark.parametrize("figure", ["fullest", "nonzero"])
def test_a_matrix_that_says_what_is_not_so(
    figure: str, files: Files, tmp_path: Path, capsys: Said
) -> None:
    """`fullest` is what the proof rests on that no sum overflows."""
    for name in ("a16.graph", "a16.map"):
        shutil.copy(files(name), tmp_path)
    graph = tmp_path / "a16.graph"
    where = []

    def lower(content: dict[str, Any]) -> None:
        node = next(node for node in content["nodes"] if node["$record"] == "MLGRU")
        matrix = node["inputs"][0]["matrix"]
        matrix[figure] -= 1
        where.append((node["name"], node["inputs"][0]["port"], matrix))

    described(graph, lower)
    name, port, matrix = where[0]
    right = {"nonzero": matrix["nonzero"], "fullest": matrix["fullest"]}
    right[figure] += 1
    said = (
        f"{graph}: {name}: input {port}: the matrix has {right['nonzero']} non-zero codes, "
        f"{right['fullest']} in its fullest row, must have {matrix['nonzero']} and "
        f"{matrix['fullest']}"
    )
    mapping = f"{tmp_path / 'a16.map'}: its graph "
    assert_refused(tmp_path, capsys, lambda found: found.removeprefix(mapping) == said)
