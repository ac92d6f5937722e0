"""Files come back as they were written, or are refused with one clear line."""

import hashlib
import json
from collections.abc import Callable
from dataclasses import fields, is_dataclass, replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import safetensors

from mmfree_neuro.errors import GraphError, InputError, MappingError
from mmfree_neuro.files import whole_file
from mmfree_neuro.graph.graph_file import load_graph, save_graph
from mmfree_neuro.graph.nodes import Graph
from mmfree_neuro.graph.partial_sums import by_columns, evenly
from mmfree_neuro.graph.summary import summarise
from mmfree_neuro.mapping.footprint import use_of_cores
from mmfree_neuro.mapping.mapping import Mapping
from mmfree_neuro.mapping.mapping_file import StoredMapping, load_mapping, open_mapped, save_mapping
from mmfree_neuro.run.folder import whole_folder
from mmfree_neuro.run.job import Job
from mmfree_neuro.run.run_file import RunRecord, load_run, save_run
from mmfree_neuro.run.state_file import identity
from mmfree_neuro.systems.load import load_system
from mmfree_neuro.systems.spec import SystemSpec
from mmfree_sims import fast


def same(a: Any, b: Any) -> bool:
    """Whether two records hold the same, arrays and their types included."""
    if isinstance(a, np.ndarray):
        return isinstance(b, np.ndarray) and a.dtype == b.dtype and np.array_equal(a, b)
    if is_dataclass(a):
        return type(a) is type(b) and all(
            same(getattr(a, f.name), getattr(b, f.name)) for f in fields(a)
        )
    if isinstance(a, tuple):
        return (
            isinstance(b, tuple)
            and len(a) == len(b)
            and all(same(x, y) for x, y in zip(a, b, strict=True))
        )
    if isinstance(a, dict):
        return list(a) == list(b) and all(same(value, b[key]) for key, value in a.items())
    return type(a) is type(b) and bool(a == b)


def test_graphs_come_back(graph: Graph, hand_graph: Graph, tmp_path: Path) -> None:
    for one in (graph, replace(hand_graph, quality={"float_nats": 1.25}, bos=1)):
        save_graph(one, tmp_path / "deep" / "a.graph")
        back, digest = load_graph(tmp_path / "deep" / "a.graph")
        assert same(back, one)
        data = (tmp_path / "deep" / "a.graph").read_bytes()
        start = 8 + int.from_bytes(data[:8], "little")
        assert start % 64 == 0
        assert digest == hashlib.sha256(data[8:start]).hexdigest()
        assert len(safetensors.deserialize(data)) > 0
    assert [path.name for path in (tmp_path / "deep").iterdir()] == ["a.graph"]


def test_a_graph_makes_the_same_file_every_time(hand_graph: Graph, tmp_path: Path) -> None:
    for n in range(8):
        save_graph(hand_graph, tmp_path / f"{n}.graph")
    assert len({path.read_bytes() for path in tmp_path.iterdir()}) == 1


def test_a_constant_fits_32_bits(hand_graph: Graph, tmp_path: Path) -> None:
    wide = replace(hand_graph.nodes[0], scales=np.full(2, 2**31))
    with pytest.raises(GraphError) as error:
        save_graph(replace(hand_graph, nodes=(wide, hand_graph.head)), tmp_path / "a.graph")
    assert str(error.value) == "a graph's constants must fit 32 bits"
    assert not list(tmp_path.iterdir())


@pytest.mark.parametrize("kept", [0, 7, 100, 0.5, -1])
def test_a_graph_file_cut_short(kept: float, hand_graph: Graph, tmp_path: Path) -> None:
    path = tmp_path / "a.graph"
    save_graph(hand_graph, path)
    data = path.read_bytes()
    path.write_bytes(data[: int(len(data) * kept) if isinstance(kept, float) else kept])
    with pytest.raises(GraphError) as error:
        load_graph(path)
    assert str(error.value) == f"{path}: not a graph file, or cut short"


@pytest.mark.parametrize("metadata", [None, {"format": "pt"}, {"format": "mmfree-neuro graph 0"}])
def test_another_safetensors_file(metadata: dict[str, str] | None, tmp_path: Path) -> None:
    path = tmp_path / "model.safetensors"
    path.write_bytes(safetensors.serialize({}, metadata))
    with pytest.raises(GraphError) as error:
        load_graph(path)
    assert str(error.value) == f"{path}: not a graph file of this version (mmfree-neuro graph 2)"


def test_no_graph_file(tmp_path: Path) -> None:
    for path, why in (
        (tmp_path / "none", "No such file or directory"),
        (tmp_path, "Is a directory"),
    ):
        with pytest.raises(GraphError) as error:
            load_graph(path)
        assert str(error.value) == f"{path}: not readable ({why})"


def test_a_stored_graph_is_verified(hand_graph: Graph, tmp_path: Path) -> None:
    save_graph(replace(hand_graph, nodes=hand_graph.nodes[:1]), tmp_path / "a.graph")
    with pytest.raises(GraphError) as error:
        load_graph(tmp_path / "a.graph")
    assert str(error.value) == "hand: a graph begins with an Embedding and ends with a Head"


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


def test_mappings_come_back(
    stored: Path, hand_graph: Graph, hand_mapping: Mapping, system: SystemSpec
) -> None:
    graph, back = open_mapped(stored / "maps" / "hand.map")
    assert same(graph, hand_graph)
    assert replace(back.mapping, graph="") == hand_mapping
    assert back.system == system


def test_a_divided_graph_comes_back(
    graph: Graph, make_mapping: Callable[..., Mapping], tmp_path: Path
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
    job = Job(np.array([[1]]))
    assert identity(mapping, job) != identity(replace(mapping, columns=columns[:1]), job)
    save_graph(divided, tmp_path / "divided.graph")
    assert same(load_graph(tmp_path / "divided.graph", check=True)[0], divided)


def test_a_mapping_moves_with_its_graph(
    stored: Path, tmp_path_factory: pytest.TempPathFactory
) -> None:
    moved = stored.rename(tmp_path_factory.mktemp("moved") / "here")
    assert open_mapped(moved / "maps" / "hand.map")[0].name == "hand"


def test_a_mapping_of_another_graph(stored: Path, hand_graph: Graph) -> None:
    path = stored / "maps" / "hand.map"
    save_graph(replace(hand_graph, name="other"), stored / "graphs" / "hand.graph")
    with pytest.raises(MappingError) as error:
        open_mapped(path)
    other = load_mapping(path).graph_path
    assert (
        str(error.value) == f"{path}: belongs to another graph than {other}; map that graph again"
    )


@pytest.mark.parametrize(
    ("content", "problem"),
    [
        ("", "not a mapping file, or cut short"),
        ('{"format": "mmf', "not a mapping file, or cut short"),
        ("[]", "not a mapping file of this version (mmfree-neuro mapping 2)"),
        (
            '{"format": "mmfree-neuro run 3"}',
            "not a mapping file of this version (mmfree-neuro mapping 2)",
        ),
        ('{"format": "mmfree-neuro mapping 2"}', "not a mapping file, a part is missing"),
    ],
)
def test_another_mapping_file(content: str, problem: str, tmp_path: Path) -> None:
    path = tmp_path / "a.map"
    path.write_text(content)
    with pytest.raises(MappingError) as error:
        load_mapping(path)
    assert str(error.value) == f"{path}: {problem}"


@pytest.mark.parametrize("part", ["graph_path", "system", "mapping"])
def test_a_mapping_file_without_a_part(part: str, stored: Path) -> None:
    path = stored / "maps" / "hand.map"
    content = json.loads(path.read_text())
    for value in (None, 3):
        path.write_text(json.dumps(content | {part: value}))
        with pytest.raises(MappingError) as error:
            load_mapping(path)
        assert str(error.value) == f"{path}: not a mapping file, a part is missing"


def test_no_mapping_file(tmp_path: Path) -> None:
    with pytest.raises(MappingError) as error:
        load_mapping(tmp_path / "none")
    assert str(error.value) == f"{tmp_path / 'none'}: not readable (No such file or directory)"


@pytest.fixture
def finished(graph: Graph, make_mapping: Callable[..., Mapping], system: SystemSpec) -> RunRecord:
    """A run of the tiny model."""
    mapping = make_mapping(graph, "block-per-chip")
    result = fast.run(graph, mapping, Job(np.array([[72, 105]]), 3))
    return RunRecord(
        "fast",
        graph.scheme,
        "Hi",
        "…",
        (72, 105),
        tuple(result.chosen[0].tolist()),
        {"temperature": 0.0, "seed": 0},
        result.seconds,
        result.prefill,
        result.generate,
        summarise(graph),
        mapping,
        system,
        {"python": "3"},
        "today",
        use_of_cores(graph, mapping, system.chip),
    )


def test_runs_come_back(finished: RunRecord, tmp_path: Path) -> None:
    with whole_folder(tmp_path / "run") as folder:
        save_run(finished, folder)
    assert same(load_run(tmp_path / "run"), finished)
    with whole_folder(tmp_path / "run") as folder:  # a run may take an older one's place
        save_run(replace(finished, text="other"), folder)
    assert load_run(tmp_path / "run").text == "other"
    assert [path.name for path in tmp_path.iterdir()] == ["run"]


@pytest.mark.parametrize(
    ("content", "problem"),
    [
        ("{", "not a run, or cut short"),
        ("3", "not a run of this version (mmfree-neuro run 3)"),
        ('{"format": "mmfree-neuro mapping 2"}', "not a run of this version (mmfree-neuro run 3)"),
        ('{"format": "mmfree-neuro run 3", "engine": "fast"}', "not a run, a part is missing"),
    ],
)
def test_another_run(content: str, problem: str, tmp_path: Path) -> None:
    (tmp_path / "run.json").write_text(content)
    with pytest.raises(InputError) as error:
        load_run(tmp_path)
    assert str(error.value) == f"{tmp_path / 'run.json'}: {problem}"


def test_no_run(tmp_path: Path) -> None:
    with pytest.raises(InputError) as error:
        load_run(tmp_path)
    assert str(error.value) == f"{tmp_path / 'run.json'}: not readable (No such file or directory)"


def test_a_file_is_written_whole_or_not_at_all(tmp_path: Path) -> None:
    path = tmp_path / "a.txt"
    path.write_text("old")
    with pytest.raises(KeyError), whole_file(path) as scratch:
        scratch.write_text("half")
        raise KeyError
    assert [p.read_text() for p in tmp_path.iterdir()] == ["old"]
    with whole_file(path) as scratch:
        scratch.write_text("new")
    assert [p.read_text() for p in tmp_path.iterdir()] == ["new"]


def test_a_folder_is_written_whole_or_not_at_all(tmp_path: Path) -> None:
    with pytest.raises(KeyError), whole_folder(tmp_path / "run") as folder:
        (folder / "run.json").write_text("half")
        raise KeyError
    assert not list(tmp_path.iterdir())


def test_what_cannot_be_written(tmp_path: Path) -> None:
    (tmp_path / "file").write_text("")
    for path, why in (
        (tmp_path / "file" / "a", "File exists"),
        (tmp_path / "file" / "a" / "b", "Not a directory"),
    ):
        with pytest.raises(InputError) as error, whole_file(path):
            pass
        assert str(error.value) == f"{path}: cannot be written ({why})"
        with pytest.raises(InputError) as error, whole_folder(path):
            pass
        above = tmp_path / "file"
        assert (
            str(error.value)
            == f"{path}: cannot be written, since {above} is no folder that can be written to"
        )
    with pytest.raises(InputError) as error, whole_file(tmp_path):
        pass
    assert str(error.value) == f"{tmp_path}: is a folder, must be a file to write"


def test_nothing_but_an_older_run_is_replaced(tmp_path: Path) -> None:
    (tmp_path / "thesis").mkdir()
    (tmp_path / "thesis" / "thesis.tex").write_text("all of it")
    for path in (tmp_path / "thesis", tmp_path / "thesis" / "thesis.tex"):
        with pytest.raises(InputError) as error, whole_folder(path):
            pass
        assert (
            str(error.value)
            == f"{path}: exists and is not a run, must be a new folder or an older run"
        )
    assert (tmp_path / "thesis" / "thesis.tex").read_text() == "all of it"


def test_a_graph_file_with_a_part_missing(tmp_path: Path, a16: Graph) -> None:
    path = tmp_path / "model.graph"
    save_graph(a16, path)
    data = path.read_bytes()
    path.write_bytes(data.replace(b'\\"scheme\\"', b'\\"schema\\"', 1))
    with pytest.raises(GraphError) as error:
        load_graph(path)
    assert str(error.value) == f"{path}: damaged: its description differs from its checksum"
    path.write_bytes(_described(data, lambda content: content.pop("scheme")))
    with pytest.raises(GraphError) as error:
        load_graph(path)
    assert str(error.value) == f"{path}: not a graph file, a part is missing or damaged"


def _described(data: bytes, change: Callable[[dict[str, Any]], Any]) -> bytes:
    """A graph file with another description, checksum and all."""
    start = 8 + int.from_bytes(data[:8], "little")
    head = json.loads(data[8:start])
    content = json.loads(head["__metadata__"]["mmfree-neuro graph 3"])
    change(content)
    plain = json.dumps(content)
    head["__metadata__"] = {
        "mmfree-neuro graph 3": plain,
        "sha256": hashlib.sha256(plain.encode()).hexdigest(),
    }
    text = json.dumps(head).encode()
    return len(text).to_bytes(8, "little") + text + data[start:]


def test_a_matrix_has_the_shape_that_is_said(tmp_path: Path, hand_graph: Graph) -> None:
    path = tmp_path / "model.graph"
    save_graph(hand_graph, path)

    def taller(content: dict[str, Any]) -> None:
        content["nodes"][1]["inputs"][0]["matrix"]["shape"] = [17, 3]

    path.write_bytes(_described(path.read_bytes(), taller))
    with pytest.raises(GraphError) as error:
        load_graph(path)
    assert str(error.value) == f"{path}: not a graph file, a part is missing or damaged"


def test_a_damaged_array_is_found(tmp_path: Path, a16: Graph) -> None:
    path = tmp_path / "model.graph"
    save_graph(a16, path)
    data = path.read_bytes()
    start = 8 + int.from_bytes(data[:8], "little")
    head = json.loads(data[8:start])
    for name, entry in head.items():
        if name == "__metadata__":
            continue
        first = start + entry["data_offsets"][0]
        path.write_bytes(data[:first] + bytes([data[first] ^ 1]) + data[first + 1 :])
        with pytest.raises(GraphError) as error:
            load_graph(path, check=True)
        assert str(error.value) == f"{path}: damaged: array {name} differs from its checksum"
        if entry["dtype"] == "I32":  # constants are checked whenever a file is opened
            with pytest.raises(GraphError):
                load_graph(path)
        else:
            load_graph(path)


def test_a_large_file_is_mapped(tmp_path: Path, a16: Graph) -> None:
    save_graph(a16, tmp_path / "model.graph")
    graph, _ = load_graph(tmp_path / "model.graph")
    matrices = [
        entry.matrix.data
        for node in graph.nodes
        for entry in node.inputs
        if entry.matrix is not None
    ]
    for array in (*matrices, graph.embedding.codes):
        assert not array.flags.owndata
        assert not array.flags.writeable
    assert all(matrix.ctypes.data % 64 == 0 for matrix in matrices)
