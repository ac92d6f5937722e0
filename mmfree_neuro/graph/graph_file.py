"""Graph files: written whole or not at all, and read back with one clear line when wrong.

A graph file is a safetensors file whose metadata holds the nodes as JSON and whose tensors hold
their arrays, ternary matrices as `ternary` packs them.  It is mapped into memory, so it opens at
once whatever its size.
"""

import hashlib
import json
import math
import mmap
import os
import time
from collections.abc import Callable, Iterator
from collections.abc import Mapping as Mapping_
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager
from dataclasses import dataclass, fields, is_dataclass
from functools import lru_cache
from pathlib import Path
from types import UnionType
from typing import Any, get_args, get_origin, get_type_hints

import numpy as np
from numpy.typing import NDArray

from mmfree_neuro.errors import GraphError, shown
from mmfree_neuro.files.reading import Misfit, opened, parsed_json, reading
from mmfree_neuro.files.records import Decode, decoded, decoder, located, record
from mmfree_neuro.files.writing import whole_file
from mmfree_neuro.graph import nodes
from mmfree_neuro.graph.nodes import Graph
from mmfree_neuro.graph.verify import verify
from mmfree_neuro.integers.tables import SigmoidTable
from mmfree_neuro.integers.ternary import TernaryMatrix, packed_shape

GRAPH_FORMAT = "mmfree-neuro graph 8"

A_GRAPH_FILE = "a graph file"

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


@dataclass(frozen=True)
class _Named:
    """A record of a graph file before it is made: which kind, and its fields."""

    kind: str
    content: dict[str, Any]


@dataclass(frozen=True)
class _Ternary:
    """A packed matrix as a graph file tells of it."""

    array: str
    shape: tuple[int, int]
    fullest: int
    nonzero: int


def _with_arrays(value: Any, arrays: Mapping_[str, NDArray[Any]]) -> Any:
    """Plain values, with the arrays and matrices that they name in their places."""
    if isinstance(value, list):
        return [_with_arrays(item, arrays) for item in value]
    if not isinstance(value, dict):
        return value
    if "$map" in value:
        return _with_arrays(value["$map"], arrays)
    if "$ternary" in value:
        named = {"array" if name == "$ternary" else name: item for name, item in value.items()}
        return _matrix(arrays, decoded(_Ternary, named))
    if "$codes" in value:
        return arrays[value["$codes"]]
    if "$array" in value:
        return arrays[value["$array"]].astype(np.int64)
    inside = {n: _with_arrays(item, arrays) for n, item in value.items() if n != "$record"}
    return _Named(str(value["$record"]), inside) if "$record" in value else inside


def _matrix(arrays: Mapping_[str, NDArray[Any]], said: _Ternary) -> TernaryMatrix:
    data, (rows, columns) = arrays[said.array], said.shape
    if data.dtype != np.uint8 or min(rows, columns) < 1:
        raise Misfit(f"matrix {said.array} must have rows and columns of packed codes")
    if data.shape != packed_shape(rows, columns):
        raise Misfit(
            f"matrix {said.array} is packed as {list(data.shape)}, must be "
            f"{list(packed_shape(rows, columns))}"
        )
    return TernaryMatrix(data, rows, columns, said.fullest, said.nonzero)


def _as_graphs_have_it(hint: Any, inside: Callable[[Any], Decode]) -> Decode | None:
    """The `Special` of graph files: arrays and matrices stand there, and records say their kind."""
    if hint is TernaryMatrix:
        return _instance(TernaryMatrix, "a matrix")
    origin, parts = get_origin(hint), get_args(hint)
    if origin in (np.ndarray, NDArray):  # since NumPy 2.5, NDArray is a type of its own
        (kind,) = parts if origin is NDArray else get_args(parts[1])
        return _instance(np.ndarray, f"an array of {kind.__name__}", np.dtype(kind))
    known = records(nodes.AnyNode)
    kinds = get_args(hint) if get_origin(hint) is UnionType else (hint,)
    if not all(isinstance(kind, type) and known.get(kind.__name__) is kind for kind in kinds):
        return None
    made = {kind.__name__: record(kind, inside) for kind in kinds}

    def decode(value: Any) -> Any:
        if not isinstance(value, _Named) or value.kind not in made:
            found = value.kind if isinstance(value, _Named) else value
            raise Misfit(f"is {shown(found)}, must be one of {', '.join(made)}")
        return made[value.kind](value.content)

    return decode


def _instance(kind: type[Any], what: str, dtype: np.dtype[Any] | None = None) -> Decode:
    def decode(value: Any) -> Any:
        if not isinstance(value, kind) or (dtype is not None and dtype != value.dtype):
            raise Misfit(f"is {shown(value)}, must be {what}")
        return value

    return decode


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
    for name, value in graph.quality.items():
        if not math.isfinite(value):
            raise GraphError(f"{graph.name}: its quality {name} is {value}, must be finite")
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
        "eos": list(graph.eos),
        "as_bytes": graph.as_bytes,
        "quality": graph.quality,
        "tokenizer": text,
        "sigmoid": _to_plain(graph.sigmoid, arrays),
        "nodes": [_to_plain(node, arrays) for node in graph.nodes],
    }
    # Packed matrices are whole cache lines, so behind an aligned start all of them are aligned;
    # bytes come last.
    order = sorted(arrays, key=lambda name: (arrays[name].ndim != 3, -arrays[name].itemsize, name))
    content["sha256"] = _checksums([arrays[name] for name in order])
    plain = json.dumps(content)
    entries: dict[str, Any] = {}
    at = 0
    for name in order:
        array = arrays[name]
        entries[name] = {
            "dtype": _DTYPES[array.dtype.str],
            "shape": list(array.shape),
            "data_offsets": [at, at + array.nbytes],
        }
        at += array.nbytes
    metadata = {GRAPH_FORMAT: plain, "sha256": head_checksum(plain, entries)}
    head = json.dumps({"__metadata__": metadata} | entries).encode()
    head += b" " * (-(8 + len(head)) % ALIGNMENT)
    return head, [arrays[name] for name in order]


def head_checksum(plain: str, entries: Mapping_[str, Any]) -> str:
    """The SHA-256 of what the head of a graph's file says: the description, and which array lies
    where."""
    return hashlib.sha256(json.dumps([plain, entries], sort_keys=True).encode()).hexdigest()


PIECE_BYTES = 1 << 25
"""How many bytes of arrays have a checksum together: many, for a thread that hashes them waits for
others in between."""


def _checksums(arrays: list[NDArray[Any]]) -> list[str]:
    """The SHA-256 of every piece of some arrays, one behind another."""
    found, piece, room = [], hashlib.sha256(), PIECE_BYTES
    for array in arrays:
        data = array.reshape(-1).view(np.uint8)
        while data.size:
            piece.update(data[:room].data)
            data, room = data[room:], room - min(room, data.size)
            if room == 0:
                found.append(piece.hexdigest())
                piece, room = hashlib.sha256(), PIECE_BYTES
    return found if room == PIECE_BYTES else [*found, piece.hexdigest()]


@dataclass(frozen=True)
class _Content:
    """What a graph file says beside its arrays."""

    name: str
    scheme: str
    accumulator_bits: int
    blocks: int
    bos: int | None
    eos: tuple[int, ...]
    as_bytes: bool
    quality: dict[str, float]
    tokenizer: str | None
    sigmoid: SigmoidTable
    nodes: "tuple[nodes.AnyNode, ...]"  # a text, so that a kind that joins the union counts
    sha256: tuple[str, ...]


@contextmanager
def loaded(path: Path) -> Iterator[tuple[Graph, str]]:
    """The verified graph of a file, and the SHA-256 of its head, which holds those of all its
    arrays.

    The file is mapped, not read: packed weights and the embedding are views of it.  Every array is
    held against its checksum while the block does something else, and GraphError is raised at its
    end; once in a process for a file that has not changed since.
    """
    with reading(path, GraphError, A_GRAPH_FILE):
        raw, size, identity = _mapped(path)
        head = bytes(raw[8:size])
        entries = parsed_json(head)
        metadata = entries.pop("__metadata__", {})
        plain = metadata.get(GRAPH_FORMAT)
        if not isinstance(plain, str):
            raise Misfit(f"its format is not {GRAPH_FORMAT!r}")
        arrays = _arrays(raw[size:], entries)
        if head_checksum(plain, entries) != metadata.get("sha256"):
            raise Misfit("it is damaged, for its description differs from its checksum")
        description = parsed_json(plain)
        checksums = located(".sha256", _CHECKSUMS, description.get("sha256"))
    with _intact(path, identity, raw[size:], checksums):
        with reading(path, GraphError, A_GRAPH_FILE):
            graph = _graph(description, arrays, len(raw))
        yield graph, hashlib.sha256(head).hexdigest()


def load_graph(path: Path) -> tuple[Graph, str]:
    """What `loaded` gives, after its end."""
    with loaded(path) as found:
        pass
    return found


_SAME = [field.name for field in fields(Graph) if field.name != "tokenizer"]
"""The fields of a graph that a file has as they are."""
_INTACT: set[tuple[int, ...]] = set()
"""The files whose arrays have been held against their checksums, as they were then."""
YOUNG_NS = 2_000_000_000
"""How long after its last change a file is not yet remembered; clocks of files tick slowly."""


def _mapped(path: Path) -> tuple[NDArray[np.uint8], int, tuple[int, ...]]:
    """The bytes of a safetensors file, where its arrays begin, and what changes when it does."""
    with opened(path) as file:
        status = os.fstat(file.fileno())
        if status.st_size < 8:
            raise Misfit("it is cut short")
        raw = np.frombuffer(mmap.mmap(file.fileno(), 0, access=mmap.ACCESS_READ), np.uint8)
    size = 8 + int.from_bytes(bytes(raw[:8]), "little")
    if size > min(len(raw), LARGEST_HEAD):
        raise Misfit("it is cut short, or begins otherwise")
    which = status.st_dev, status.st_ino, status.st_size
    return raw, size, (*which, status.st_mtime_ns, status.st_ctime_ns)


def _arrays(data: NDArray[np.uint8], entries: Mapping_[str, Any]) -> dict[str, NDArray[Any]]:
    """The arrays of a file as views of it; Misfit where they do not fill it, one behind another."""
    found = {name: _view(data, name, entry) for name, entry in entries.items()}
    end = 0
    for first, last in sorted(tuple(entry["data_offsets"]) for entry in entries.values()):
        if first != end:
            raise Misfit(f"its arrays leave or share bytes at {end}")
        end = last
    if end != len(data):
        raise Misfit(f"its arrays have {end} bytes, must have {len(data)}, or it is cut short")
    return found


def _view(data: NDArray[np.uint8], name: str, entry: Any) -> NDArray[Any]:
    first, last = entry["data_offsets"]
    shape, dtype = decoded_shape(entry["shape"]), _KINDS[entry["dtype"]]
    if not 0 <= first <= last <= len(data) or math.prod(shape) * dtype.itemsize != last - first:
        raise Misfit(
            f"array {shown(name)} has bytes {first} … {last}, of {len(data)}, or it is cut short"
        )
    return data[first:last].view(dtype).reshape(shape)


decoded_shape: Decode = decoder(tuple[int, ...])
_CHECKSUMS: Decode = decoder(tuple[str, ...])


def _graph(description: Any, arrays: Mapping_[str, NDArray[Any]], file_bytes: int) -> Graph:
    """The verified graph that a file of so many bytes describes."""
    content: _Content = record(_Content, _field)(_with_arrays(description, arrays))
    largest = 4 * file_bytes  # for a weight takes two bits
    for node in content.nodes:
        if not 1 <= node.size <= largest:
            raise Misfit(f"{node.name} has {node.size} neurons, must have 1 … {largest}")
    text = content.tokenizer
    given = {name: getattr(content, name) for name in _SAME}
    graph = verify(Graph(**given, tokenizer=None if text is None else bytes(arrays[text]).decode()))
    if graph.greedy:
        raise Misfit("its last node chooses words, which a mapping asks for, must be the head")
    return graph


def _field(hint: Any) -> Decode:
    return decoder(hint, _as_graphs_have_it)


@contextmanager
def _intact(
    path: Path, identity: tuple[int, ...], data: NDArray[np.uint8], checksums: tuple[str, ...]
) -> Iterator[None]:
    """Holds the bytes of all arrays against their checksums while the block does something else;
    GraphError at its end, however it ends, where a piece differs."""
    if identity in _INTACT:
        yield
        return
    starts = range(0, len(data), PIECE_BYTES)
    with reading(path, GraphError, A_GRAPH_FILE):
        if len(starts) != len(checksums):
            raise Misfit(f"its arrays have {len(checksums)} checksums, must have {len(starts)}")

    def checksum(start: int) -> str:
        return hashlib.sha256(data[start : start + PIECE_BYTES].data).hexdigest()

    with ThreadPoolExecutor(min(8, os.cpu_count() or 1)) as pool:  # hashing lets other threads run
        found = pool.map(checksum, starts)
        try:
            yield
        finally:
            with reading(path, GraphError, A_GRAPH_FILE):
                for start, one, expected in zip(starts, found, checksums, strict=True):
                    if one != expected:
                        stop = min(start + PIECE_BYTES, len(data))
                        raise Misfit(
                            f"it is damaged, for bytes {start} … {stop} of its arrays differ from "
                            "their checksum"
                        )
    # A file that has just changed could change again without a later time to show it.
    if time.time_ns() - max(identity[3:]) > YOUNG_NS:
        _INTACT.add(identity)
