"""Graphs come back from their files as they were written, or are refused with one clear line."""

import hashlib
import json
import os
import time
from collections.abc import Callable, Iterator
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import safetensors

from mmfree_neuro.errors import GraphError, RangeError
from mmfree_neuro.graph import graph_file
from mmfree_neuro.graph.graph_file import GRAPH_FORMAT, load_graph, save_graph
from mmfree_neuro.graph.greedy import with_greedy
from mmfree_neuro.graph.nodes import Graph
from mmfree_neuro.graph.partial_sums import by_columns, evenly

Spoilt = Callable[[Any], Iterator[str]]


def message(path: Path) -> str:
    """What is said of a file that is no graph file, behind its name."""
    with pytest.raises(GraphError) as error:
        load_graph(path)
    name, said = str(error.value)[: len(str(path))], str(error.value)[len(str(path)) :]
    assert name == str(path)
    return said


def parts(data: bytes) -> tuple[dict[str, Any], bytes]:
    """The head of a graph's file, and what is behind it."""
    start = 8 + int.from_bytes(data[:8], "little")
    return json.loads(data[8:start]), data[start:]


def joined(head: dict[str, Any], rest: bytes) -> bytes:
    """A graph's file from its head and what is behind it."""
    text = json.dumps(head).encode()
    return len(text).to_bytes(8, "little") + text + rest


def described(data: bytes, content: dict[str, Any]) -> bytes:
    """A graph's file with another description, checksum and all."""
    head, rest = parts(data)
    plain = json.dumps(content)
    del head["__metadata__"]
    digest = graph_file.head_checksum(plain, head)
    return joined({"__metadata__": {GRAPH_FORMAT: plain, "sha256": digest}} | head, rest)


def description(data: bytes) -> dict[str, Any]:
    """What a graph's file says beside its arrays."""
    content: dict[str, Any] = json.loads(parts(data)[0]["__metadata__"][GRAPH_FORMAT])
    return content


@pytest.fixture
def path(hand_graph: Graph, tmp_path: Path) -> Path:
    """The file of the graph made by hand."""
    save_graph(hand_graph, tmp_path / "a.graph")
    return tmp_path / "a.graph"


def test_graphs_come_back(
    graph: Graph, hand_graph: Graph, tmp_path: Path, same: Callable[[Any, Any], bool]
) -> None:
    for one in (graph, replace(hand_graph, quality={"float_nats": 1.25}, bos=1)):
        save_graph(one, tmp_path / "deep" / "a.graph")
        back, digest = load_graph(tmp_path / "deep" / "a.graph")
        assert same(back, one)
        data = (tmp_path / "deep" / "a.graph").read_bytes()
        start = 8 + int.from_bytes(data[:8], "little")
        assert start % 64 == 0
        assert digest == hashlib.sha256(data[8:start]).hexdigest() == graph_file.digest_of(one)
        assert len(safetensors.deserialize(data)) > 0
    assert [path.name for path in (tmp_path / "deep").iterdir()] == ["a.graph"]


def test_a_divided_graph_comes_back(
    graph: Graph, tmp_path: Path, same: Callable[[Any, Any], bool]
) -> None:
    divided = by_columns(graph, evenly(graph, (("layers.0.down_proj", 3), ("head", 2))))
    save_graph(divided, tmp_path / "divided.graph")
    assert same(load_graph(tmp_path / "divided.graph")[0], divided)


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


@pytest.mark.parametrize("quality", [float("nan"), float("inf")])
def test_a_quality_is_a_number(quality: float, hand_graph: Graph, tmp_path: Path) -> None:
    """What could not be read again is not written."""
    with pytest.raises(GraphError) as error:
        save_graph(replace(hand_graph, quality={"nats": quality}), tmp_path / "a.graph")
    assert str(error.value) == f"hand: its quality nats is {quality}, must be finite"
    assert not list(tmp_path.iterdir())


@pytest.mark.parametrize(
    ("kept", "said"),
    [
        (0, "it is cut short"),
        (7, "it is cut short"),
        (100, "it is cut short, or begins otherwise"),
        (0.5, "it is cut short, or begins otherwise"),
        (-1, ""),
    ],
)
def test_a_graph_file_cut_short(kept: float, said: str, path: Path) -> None:
    data = path.read_bytes()
    start = 8 + int.from_bytes(data[:8], "little")
    path.write_bytes(data[: int(len(data) * kept) if isinstance(kept, float) else kept])
    if kept == -1:
        last = list(parts(data)[0])[-1]
        first, end = parts(data)[0][last]["data_offsets"]
        here = len(data) - start - 1
        said = f"array '{last}' has bytes {first} … {end}, of {here}, or it is cut short"
    assert message(path) == f": not a graph file: {said}"


@pytest.mark.parametrize("metadata", [None, {"format": "pt"}, {"mmfree-neuro graph 0": "{}"}])
def test_another_safetensors_file(metadata: dict[str, str] | None, tmp_path: Path) -> None:
    path = tmp_path / "model.safetensors"
    path.write_bytes(safetensors.serialize({}, metadata))
    assert message(path) == ": not a graph file: its format is not 'mmfree-neuro graph 8'"


def test_no_graph_file(tmp_path: Path) -> None:
    assert message(tmp_path / "none") == ": no such file, must be a graph file"
    assert message(tmp_path) == ": not a graph file: is a folder, must be a regular file"


def test_a_stored_graph_is_verified(hand_graph: Graph, tmp_path: Path) -> None:
    save_graph(replace(hand_graph, nodes=hand_graph.nodes[:1]), tmp_path / "a.graph")
    assert message(tmp_path / "a.graph") == (
        ": hand: a graph begins with an Embedding and ends with a Head, or behind it with the "
        "nodes that find its largest logit"
    )


def test_a_graph_that_chooses_words_is_no_file(
    random_graph: Callable[[str, str], Graph], tmp_path: Path
) -> None:
    save_graph(with_greedy(random_graph("16x1x24", "a14-late")), tmp_path / "a.graph")
    assert message(tmp_path / "a.graph") == (
        ": not a graph file: its last node chooses words, which a mapping asks for, must be the "
        "head"
    )


def test_a_description_that_differs_from_its_checksum(path: Path) -> None:
    path.write_bytes(path.read_bytes().replace(b'\\"scheme\\"', b'\\"schema\\"', 1))
    assert message(path) == (
        ": not a graph file: it is damaged, for its description differs from its checksum"
    )


def matrix_of(content: dict[str, Any]) -> dict[str, Any]:
    """How a file tells of the only matrix of the graph made by hand."""
    found: dict[str, Any] = content["nodes"][1]["inputs"][0]["matrix"]
    return found


DESCRIBED: dict[str, tuple[Callable[[dict[str, Any]], Any], str]] = {
    "a part missing": (lambda c: c.pop("scheme"), "has no scheme, must have one"),
    "a part more": (lambda c: c.update(sheme="a8"), "has 'sheme', must not"),
    "another kind": (
        lambda c: c["nodes"][0].update({"$record": "Embeding"}),
        ".nodes[0]: is 'Embeding', must be one of Embedding, InverseRms, Norm, Gain, MaxAbs, "
        "QuantScale, Quantise, MLGRU, GLU, Residual, Head, Largest, Relay, PartialSum",
    ),
    "no node": (
        lambda c: c["nodes"].append(3),
        ".nodes[2]: is 3, must be one of Embedding, InverseRms, Norm, Gain, MaxAbs, QuantScale, "
        "Quantise, MLGRU, GLU, Residual, Head, Largest, Relay, PartialSum",
    ),
    "no matrix": (
        lambda c: c["nodes"][1]["inputs"][0].update(matrix=4),
        ".nodes[1].inputs[0].matrix: is 4, must be a matrix",
    ),
    "no array": (
        lambda c: c["nodes"][0].update(scales=[1, 1]),
        ".nodes[0].scales: is [1, 1], must be an array of int64",
    ),
    "a taller matrix": (
        lambda c: matrix_of(c).update(shape=[17, 3]),
        "matrix a00004 is packed as [1, 1, 64], must be [2, 1, 64]",
    ),
    "a matrix of no rows": (
        lambda c: matrix_of(c).update(shape=[0, 3]),
        "matrix a00004 must have rows and columns of packed codes",
    ),
    "a matrix of numbers": (
        lambda c: matrix_of(c).update({"$ternary": "a00003"}),
        "matrix a00003 must have rows and columns of packed codes",
    ),
    "an odd matrix": (
        lambda c: matrix_of(c).update(fullest="2"),
        ".fullest: is '2', must be an integer of at most 64 bits",
    ),
    "no neurons": (
        lambda c: c["nodes"][1].update(size=0),
        "head has 0 neurons, must have 1 … {most}",
    ),
    "a checksum missing": (lambda c: c["sha256"].pop(), "its arrays have 0 checksums, must have 1"),
}


@pytest.mark.parametrize("case", DESCRIBED)
def test_a_description_of_something_else(case: str, path: Path) -> None:
    """Its checksum is its own, so somebody wrote it."""
    change, said = DESCRIBED[case]
    content = description(path.read_bytes())
    change(content)
    path.write_bytes(described(path.read_bytes(), content))
    said = said.replace("{most}", str(4 * path.stat().st_size))
    assert message(path) == f": not a graph file: {said}"


ENTRIES: dict[str, tuple[dict[str, Any], str]] = {
    "beyond the end": (
        {"data_offsets": [0, 1 << 40]},
        "array 'a00004' has bytes 0 … 1099511627776, of {all}, or it is cut short",
    ),
    "backwards": (
        {"data_offsets": [64, 0]},
        "array 'a00004' has bytes 64 … 0, of {all}, or it is cut short",
    ),
    "another shape": (
        {"shape": [1, 1, 63]},
        "array 'a00004' has bytes 0 … 64, of {all}, or it is cut short",
    ),
    "an overlap": ({"data_offsets": [1, 65]}, "its arrays leave or share bytes at 0"),
    "a shape of texts": ({"shape": ["x"]}, "[0]: is 'x', must be an integer of at most 64 bits"),
}


@pytest.mark.parametrize("case", ENTRIES)
def test_an_array_that_lies_elsewhere(case: str, path: Path) -> None:
    change, said = ENTRIES[case]
    head, rest = parts(path.read_bytes())
    head["a00004"] |= change
    path.write_bytes(joined(head, rest))
    assert message(path) == f": not a graph file: {said.replace('{all}', str(len(rest)))}"


def test_arrays_that_have_changed_places(path: Path) -> None:
    head, rest = parts(path.read_bytes())
    same = [name for name, entry in head.items() if entry.get("dtype") == "I32"]
    one, other = next(
        (one, other)
        for one in same
        for other in same
        if one < other and head[one]["shape"] == head[other]["shape"]
    )
    head[one], head[other] = head[other], head[one]
    path.write_bytes(joined(head, rest))
    assert message(path) == (
        ": not a graph file: it is damaged, for its description differs from its checksum"
    )


def test_bytes_that_belong_to_no_array(path: Path) -> None:
    data = path.read_bytes()
    left = len(parts(data)[1])
    path.write_bytes(data + b"\0")
    assert message(path) == (
        f": not a graph file: its arrays have {left} bytes, must have {left + 1}, or it is cut "
        "short"
    )


def test_a_damaged_array_is_found(tmp_path: Path, a16: Graph) -> None:
    path = tmp_path / "model.graph"
    save_graph(a16, path)
    data = path.read_bytes()
    head, rest = parts(data)
    start = len(data) - len(rest)
    for name, entry in head.items():
        if name == "__metadata__":
            continue
        first = start + entry["data_offsets"][0]
        path.write_bytes(data[:first] + bytes([data[first] ^ 1]) + data[first + 1 :])
        assert message(path) == (
            f": not a graph file: it is damaged, for bytes 0 … {len(rest)} of its arrays differ "
            "from their checksum"
        )
    path.write_bytes(data)
    load_graph(path)


def test_every_piece_of_the_arrays_has_its_checksum(
    path: Path, monkeypatch: pytest.MonkeyPatch, hand_graph: Graph
) -> None:
    """Of 100 bytes each here; a piece may hold the end of one array and the beginning of others."""
    monkeypatch.setattr(graph_file, "PIECE_BYTES", 100)
    save_graph(hand_graph, path)
    data = path.read_bytes()
    _, rest = parts(data)
    starts = range(0, len(rest), 100)
    assert description(data)["sha256"] == [
        hashlib.sha256(rest[start : start + 100]).hexdigest() for start in starts
    ]
    assert len(starts) > 2
    for start in starts:
        at = len(data) - len(rest) + min(start + 57, len(rest) - 1)
        path.write_bytes(data[:at] + bytes([data[at] ^ 64]) + data[at + 1 :])
        assert message(path) == (
            f": not a graph file: it is damaged, for bytes {start} … "
            f"{min(start + 100, len(rest))} of its arrays differ from their checksum"
        )
    path.write_bytes(data)
    assert load_graph(path)[1] == graph_file.digest_of(hand_graph)


def test_a_file_that_changes_is_checked_again(path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """A file that has been checked is not read whole again until it changes; one that has just
    changed is not trusted yet, for its times would not show another change."""
    checked: list[int] = []
    pool = graph_file.ThreadPoolExecutor
    monkeypatch.setattr(
        graph_file, "ThreadPoolExecutor", lambda threads: (checked.append(1), pool(threads))[1]
    )
    for _ in range(2):
        load_graph(path)
    assert len(checked) == 2
    later = time.time_ns() + 2 * graph_file.YOUNG_NS
    monkeypatch.setattr(time, "time_ns", lambda: later)
    for _ in range(3):
        load_graph(path)
    assert len(checked) == 3
    data, times = path.read_bytes(), path.stat()
    path.write_bytes(data[:-1] + bytes([data[-1] ^ 1]))
    os.utime(path, ns=(times.st_atime_ns, times.st_mtime_ns))  # as a copy with its times does
    assert message(path).startswith(": not a graph file: it is damaged, for bytes ")


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


def spoilt_parts(content: dict[str, Any], spoilt: Spoilt) -> Iterator[str]:
    """What a file says, changed part by part in place: all but the nodes, and one node of each
    kind."""
    kinds = {node["$record"]: node for node in reversed(content["nodes"])}
    for kind, node in kinds.items():
        yield from (f"{kind}{where}" for where in spoilt(node))
    nodes = content.pop("nodes")
    for where in spoilt(content):
        content["nodes"] = nodes
        yield where
        content.pop("nodes")
    content["nodes"] = nodes


@pytest.mark.slow
@pytest.mark.parametrize("scheme", ["a16", "a8"])
def test_values_of_every_wrong_type(
    scheme: str, random_graph: Callable[[str, str], Graph], tmp_path: Path, spoilt: Spoilt
) -> None:
    """With checksums that are right: one line that names the file, or a graph that is legal.

    Of the changes every fifth is made, which are two or three of each part.
    """
    path, refused, accepted = tmp_path / "a.graph", 0, 0
    save_graph(random_graph("16x1x40", scheme), path)
    data = path.read_bytes()
    content = description(data)
    for number, where in enumerate(spoilt_parts(content, spoilt)):
        if number % 5:
            continue
        path.write_bytes(described(data, content))
        try:
            load_graph(path)
            accepted += 1
        except (GraphError, RangeError) as error:
            refused += 1
            assert str(error).startswith(f"{path}: "), where
            assert "\n" not in str(error), where
    assert refused > 5 * accepted > 10
    path.write_bytes(described(data, content))
    load_graph(path)
