"""Graph files: written whole or not at all, and read back with one clear line when wrong.

A graph file is a safetensors file whose metadata holds the nodes as JSON and whose tensors hold
their arrays, ternary matrices as `ternary` packs them.  It is mapped into memory, so it opens at
once whatever its size.
"""

import hashlib
import json
import mmap
import os
from collections.abc import Mapping as Mapping_
from dataclasses import fields, is_dataclass
from functools import lru_cache
from pathlib import Path
from typing import Any, get_args, get_type_hints

import numpy as np
from numpy.typing import NDArray

from mmfree_neuro.errors import GraphError
from mmfree_neuro.files import whole_file
from mmfree_neuro.graph import nodes
from mmfree_neuro.graph.nodes import Graph
from mmfree_neuro.graph.verify import verify
from mmfree_neuro.integers.tables import SigmoidTable
from mmfree_neuro.integers.ternary import TernaryMatrix, packed_shape

GRAPH_FORMAT = "mmfree-neuro graph 2"

ALIGNMENT = 64
"""Where the arrays of a graph file begin: a multiple of a cache line."""
LARGEST_HEAD = 100_000_000
"""What the safetensors format allows for the head of a file."""
_KINDS: dict[str, np.dtype[Any]] = {
    "U8": np.dtype("u1"),
    "I8": np.dtype("i1"),
    "I16": np.dtype("<i2"),
    "I32": np.dtype("<i4"),
}
_DTYPES = {dtype.str: name for name, dtype in _KINDS.items()}


@lru_cache
def records(union: Any) -> dict[str, type]:
    """Every record that a graph file can hold, by name: what follows from the union of nodes.

    These are the kinds of nodes, and the records that their fields are made of.
    """
    known: dict[str, type] = {}
    seen: set[type] = set()

    def add(hint: Any) -> None:
        for part in get_args(hint):
            add(part)
        if not isinstance(hint, type) or not is_dataclass(hint) or hint is TernaryMatrix:
            return
        # Files know a record by its bare name.
        assert known.setdefault(hint.__name__, hint) is hint, f"two records {hint.__name__}"
        if hint not in seen:
            seen.add(hint)
            for part in get_type_hints(hint).values():
                add(part)

    add(union)
    add(SigmoidTable)
    return known


def _to_plain(value: Any, arrays: dict[str, NDArray[Any]]) -> Any:
    if isinstance(value, TernaryMatrix):
        name = _kept(value.data, arrays)
        return {
            "$ternary": name,
            "shape": list(value.shape),
            "fullest": value.fullest,
            "nonzero": value.nonzero,
        }
    if is_dataclass(value) and not isinstance(value, type):
        if type(value).__name__ not in records(nodes.AnyNode):
            raise GraphError(
                f"{type(value).__name__} is no record of a graph file, must be reached from "
                "nodes.AnyNode"
            )
        content = {f.name: _to_plain(getattr(value, f.name), arrays) for f in fields(value)}
        return {"$record": type(value).__name__, **content}
    if isinstance(value, np.ndarray):
        if value.dtype in (np.int8, np.int16):
            return {"$codes": _kept(value, arrays)}
        narrow = value.astype(np.int32)
        if not np.array_equal(narrow, value):
            raise GraphError("a graph's constants must fit 32 bits")
        return {"$array": _kept(narrow, arrays)}
    if isinstance(value, dict):
        return {"$map": {key: _to_plain(item, arrays) for key, item in value.items()}}
    return [_to_plain(item, arrays) for item in value] if isinstance(value, tuple) else value


def _kept(array: NDArray[Any], arrays: dict[str, NDArray[Any]]) -> str:
    name = f"a{len(arrays):05d}"
    arrays[name] = np.ascontiguousarray(array)
    return name


def _from_plain(value: Any, arrays: Mapping_[str, NDArray[Any]]) -> Any:
    if isinstance(value, list):
        return tuple(_from_plain(item, arrays) for item in value)
    if not isinstance(value, dict):
        return value
    if "$map" in value:
        return {key: _from_plain(item, arrays) for key, item in value["$map"].items()}
    if "$ternary" in value:
        return _matrix(
            arrays[value["$ternary"]], value["shape"], value["fullest"], value["nonzero"]
        )
    if "$codes" in value:
        return arrays[value["$codes"]]
    if "$array" in value:
        return arrays[value["$array"]].astype(np.int64)
    record = records(nodes.AnyNode)[value["$record"]]
    return record(
        **{name: _from_plain(item, arrays) for name, item in value.items() if name != "$record"}
    )


def _matrix(data: NDArray[np.uint8], shape: list[int], fullest: int, nonzero: int) -> TernaryMatrix:
    rows, columns = shape
    if data.shape != packed_shape(rows, columns):
        raise ValueError
    return TernaryMatrix(data, rows, columns, fullest, nonzero)


def save_graph(graph: Graph, path: Path) -> None:
    """Write a graph file: a safetensors file whose arrays begin at multiples of 64 bytes where they
    are packed."""
    head, arrays = _encoded(graph)
    with whole_file(path) as scratch, scratch.open("wb") as file:
        file.write(len(head).to_bytes(8, "little") + head)
        for array in arrays:
            file.write(array.data)


def digest_of(graph: Graph) -> str:
    """The SHA-256 that the file of a graph has, by which mappings know it."""
    return hashlib.sha256(_encoded(graph)[0]).hexdigest()


def _encoded(graph: Graph) -> tuple[bytes, list[NDArray[Any]]]:
    """The head of a graph's file, and its arrays in their order there."""
    arrays: dict[str, NDArray[Any]] = {}
    text = (
        None
        if graph.tokenizer is None
        else _kept(np.frombuffer(graph.tokenizer.encode(), np.uint8), arrays)
    )
    content = {
        "name": graph.name,
        "scheme": graph.scheme,
        "accumulator_bits": graph.accumulator_bits,
        "blocks": graph.blocks,
        "bos": graph.bos,
        "quality": graph.quality,
        "tokenizer": text,
        "sigmoid": _to_plain(graph.sigmoid, arrays),
        "nodes": [_to_plain(node, arrays) for node in graph.nodes],
    }
    # Packed matrices are whole cache lines, so behind an aligned start all of them are aligned;
    # bytes come last.
    order = sorted(arrays, key=lambda name: (arrays[name].ndim != 3, -arrays[name].itemsize, name))
    content["sha256"] = {name: hashlib.sha256(arrays[name].data).hexdigest() for name in order}
    plain = json.dumps(content)
    header: dict[str, Any] = {
        "__metadata__": {GRAPH_FORMAT: plain, "sha256": hashlib.sha256(plain.encode()).hexdigest()}
    }
    at = 0
    for name in order:
        array = arrays[name]
        header[name] = {
            "dtype": _DTYPES[array.dtype.str],
            "shape": list(array.shape),
            "data_offsets": [at, at + array.nbytes],
        }
        at += array.nbytes
    head = json.dumps(header).encode()
    head += b" " * (-(8 + len(head)) % ALIGNMENT)
    return head, [arrays[name] for name in order]


def load_graph(path: Path, *, check: bool = False) -> tuple[Graph, str]:
    """The verified graph of a file, and the SHA-256 of its head, which holds those of all its
    arrays.

    The file is mapped, not read: packed weights and the embedding are views of it.  Constants are
    checked against their checksums at once, weights with `check` alone, since that reads the whole
    file.
    """
    raw, size = _mapped(path)
    head = bytes(raw[8:size])
    try:
        entries = json.loads(head)
        metadata = entries.pop("__metadata__", {})
        known = isinstance(metadata.get(GRAPH_FORMAT), str)
    except (ValueError, TypeError, AttributeError, RecursionError):
        raise GraphError(f"{path}: not a graph file, or cut short") from None
    if not known:
        raise GraphError(f"{path}: not a graph file of this version ({GRAPH_FORMAT})")
    try:
        arrays = {name: _view(raw[size:], entry) for name, entry in entries.items()}
    except (ValueError, KeyError, TypeError):
        raise GraphError(f"{path}: not a graph file, or cut short") from None
    if size + sum(array.nbytes for array in arrays.values()) != len(raw):
        raise GraphError(f"{path}: not a graph file, or cut short")
    plain = metadata[GRAPH_FORMAT]
    if hashlib.sha256(plain.encode()).hexdigest() != metadata.get("sha256"):
        raise GraphError(f"{path}: damaged: its description differs from its checksum")
    try:
        content = json.loads(plain)
        _compare(arrays, content["sha256"], content["tokenizer"], everything=check)
        graph = _graph(arrays, content)
    except (KeyError, TypeError, IndexError, AttributeError, ValueError):
        raise GraphError(f"{path}: not a graph file, a part is missing or damaged") from None
    except _Damaged as damaged:
        raise GraphError(f"{path}: damaged: array {damaged} differs from its checksum") from None
    return verify(graph), hashlib.sha256(head).hexdigest()


class _Damaged(Exception):
    pass


def _mapped(path: Path) -> tuple[NDArray[np.uint8], int]:
    """The bytes of a safetensors file, and where its arrays begin."""
    try:
        with path.open("rb") as file:
            if os.fstat(file.fileno()).st_size < 8:
                raise GraphError(f"{path}: not a graph file, or cut short")
            raw = np.frombuffer(mmap.mmap(file.fileno(), 0, access=mmap.ACCESS_READ), np.uint8)
    except OSError as problem:
        raise GraphError(f"{path}: not readable ({problem.strerror})") from None
    size = 8 + int.from_bytes(bytes(raw[:8]), "little")
    if size > min(len(raw), LARGEST_HEAD):
        raise GraphError(f"{path}: not a graph file, or cut short")
    return raw, size


def _view(data: NDArray[np.uint8], entry: Any) -> NDArray[Any]:
    first, last = entry["data_offsets"]
    if not 0 <= first <= last <= len(data):
        raise ValueError
    return data[first:last].view(_KINDS[entry["dtype"]]).reshape(entry["shape"])


def _compare(
    arrays: Mapping_[str, NDArray[Any]],
    checksums: dict[str, str],
    text: str | None,
    *,
    everything: bool,
) -> None:
    """_Damaged with the name of an array that differs from its checksum; KeyError where one has
    none."""
    for name, array in arrays.items():
        if (everything or array.dtype == np.int32 or name == text) and hashlib.sha256(
            array.data
        ).hexdigest() != checksums[name]:
            raise _Damaged(name)


def _graph(arrays: Mapping_[str, NDArray[Any]], content: dict[str, Any]) -> Graph:
    text = content["tokenizer"]
    return Graph(
        content["name"],
        content["scheme"],
        tuple(_from_plain(node, arrays) for node in content["nodes"]),
        _from_plain(content["sigmoid"], arrays),
        content["accumulator_bits"],
        content["blocks"],
        content["bos"],
        content["quality"],
        None if text is None else bytes(arrays[text]).decode(),
    )
