"""Files: graphs, mappings and runs; each is written whole or not at all, and read back with one
clear line when wrong.

A graph file is a safetensors file whose metadata holds the nodes as JSON and whose tensors hold
their arrays, ternary matrices as `ternary` packs them; it is mapped into memory, so it opens at
once whatever its size.  A mapping file is JSON with the system's figures in it, so that it stays
what it was when the shipped data files change.  A run is a folder with `run.json`, or, while it is
not finished, with `state.safetensors`.
"""

import hashlib
import json
import mmap
import os
import shutil
import tempfile
from collections.abc import Iterator
from collections.abc import Mapping as Mapping_
from contextlib import contextmanager
from dataclasses import asdict, astuple, dataclass, field, fields, is_dataclass
from pathlib import Path
from typing import Any

import numpy as np
import safetensors
from numpy.typing import NDArray

from mmfree_neuro.errors import GraphError, InputError
from mmfree_neuro.files import read_bytes, read_json, whole_file, written
from mmfree_neuro.graph import nodes as ir
from mmfree_neuro.graph.nodes import Graph
from mmfree_neuro.graph.summary import GraphSummary, NodeSummary
from mmfree_neuro.graph.verify import verify
from mmfree_neuro.integers.fixedpoint import Multiplier, QType
from mmfree_neuro.integers.tables import SigmoidTable
from mmfree_neuro.integers.ternary import TernaryMatrix, packed_shape
from mmfree_neuro.mapping.footprint import Footprint
from mmfree_neuro.mapping.mapping import Location, Mapping
from mmfree_neuro.mapping.mapping_file import (
    mapping_from_plain,
    mapping_to_plain,
    system_from_plain,
)
from mmfree_neuro.run.activity import Activity
from mmfree_neuro.run.job import Job, RunState
from mmfree_neuro.systems.spec import SystemSpec

GRAPH_FORMAT = "mmfree-neuro graph 2"
RUN_FORMAT = "mmfree-neuro run 2"
STATE_FORMAT = "mmfree-neuro state 2"
STATE_FILE = "state.safetensors"

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

_RECORDS = {
    record.__name__: record
    for record in (
        ir.Input,
        ir.Output,
        ir.Squares,
        ir.Rescale,
        ir.Embedding,
        ir.InverseRms,
        ir.Norm,
        ir.Gain,
        ir.MaxAbs,
        ir.QuantScale,
        ir.Quantise,
        ir.MLGRU,
        ir.GLU,
        ir.Residual,
        ir.Head,
        ir.PartialSum,
        QType,
        Multiplier,
        SigmoidTable,
    )
}


@contextmanager
def whole_folder(path: Path) -> Iterator[Path]:
    """A temporary folder that takes the place of `path` when the block ends well; an older run
    there is replaced."""
    check_output(path, resume=True)
    with written(path):
        path.parent.mkdir(parents=True, exist_ok=True)
        scratch = Path(tempfile.mkdtemp(dir=path.parent, prefix=f".{path.name}-"))
        try:
            yield scratch
            scratch.chmod(0o755)
            _take_the_place(scratch, path)
        finally:
            shutil.rmtree(scratch, ignore_errors=True)


def _take_the_place(scratch: Path, path: Path) -> None:
    """Rename a folder over another, which stays where it is if that fails."""
    older = scratch.with_name(f"{scratch.name}-older")
    if path.exists():
        os.replace(path, older)
    try:
        os.replace(scratch, path)
    except OSError:
        if older.exists():
            os.replace(older, path)
        raise
    shutil.rmtree(older, ignore_errors=True)


def check_output(path: Path, *, resume: bool) -> None:
    """InputError where a run cannot or must not be written to a folder, as without `resume` over an
    unfinished one."""
    with written(path):
        if not path.exists():
            above = next(folder for folder in path.resolve().parents if folder.exists())
            if not above.is_dir() or not os.access(above, os.W_OK | os.X_OK):
                raise InputError(
                    f"{path}: cannot be written, since {above} is no folder that can be written to"
                )
            return
        names = {entry.name for entry in path.iterdir()} if path.is_dir() else None
    if names is not None:  # a state that was being written when its run was killed
        names = {name for name in names if not name.startswith(f".{STATE_FILE}-")}
    if names is None or (names and "run.json" not in names and names != {STATE_FILE}):
        raise InputError(f"{path}: exists and is not a run, must be a new folder or an older run")
    if STATE_FILE in names and not resume:
        raise InputError(
            f"{path}: holds the state of an unfinished run, must be another folder, or use --resume"
        )


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
    record = _RECORDS[value["$record"]]
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
    with whole_file(path) as scratch, scratch.open("wb") as file:
        file.write(len(head).to_bytes(8, "little") + head)
        for name in order:
            file.write(arrays[name].data)


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
        _compare(arrays, content["sha256"], everything=check)
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
    arrays: Mapping_[str, NDArray[Any]], checksums: dict[str, str], *, everything: bool
) -> None:
    """_Damaged with the name of an array that differs from its checksum; KeyError where one has
    none."""
    for name, array in arrays.items():
        if (everything or array.dtype == np.int32) and hashlib.sha256(
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


@dataclass(frozen=True, eq=False)
class Run:
    """A finished run: everything that costing and reporting need."""

    engine: str
    scheme: str
    prompt: str
    text: str
    prompt_tokens: tuple[int, ...]
    new_tokens: tuple[int, ...]
    sampling: dict[str, float]
    seconds: dict[str, float]
    prefill: Activity
    generate: Activity
    summary: GraphSummary
    mapping: Mapping
    system: SystemSpec
    versions: dict[str, str]
    date: str
    use: dict[Location, Footprint] = field(default_factory=dict)
    """What is in use on every core."""


def _activity_to_plain(activity: Activity) -> dict[str, Any]:
    return {
        f.name: getattr(activity, f.name)
        if f.name == "tokens"
        else getattr(activity, f.name).tolist()
        for f in fields(activity)
    }


def _activity_from_plain(raw: dict[str, Any]) -> Activity:
    counts = {name: np.array(value, np.int64) for name, value in raw.items() if name != "tokens"}
    return Activity(tokens=raw["tokens"], **counts)


def save_run(run: Run, folder: Path) -> None:
    """Write the `run.json` of a run into an existing folder."""
    content = {
        "format": RUN_FORMAT,
        **{f.name: getattr(run, f.name) for f in fields(run)},
        "prefill": _activity_to_plain(run.prefill),
        "generate": _activity_to_plain(run.generate),
        "summary": asdict(run.summary),
        "mapping": mapping_to_plain(run.mapping),
        "system": asdict(run.system),
        "use": [[place.chip, place.core, *astuple(used)] for place, used in run.use.items()],
    }
    (folder / "run.json").write_text(json.dumps(content), encoding="utf-8")


def load_run(folder: Path) -> Run:
    """The run in a folder."""
    path = folder / "run.json"
    raw = read_json(path, RUN_FORMAT, InputError, "a run")
    try:
        summary = dict(raw["summary"])
        nodes = tuple(NodeSummary(**node) for node in summary.pop("nodes"))
        return Run(
            raw["engine"],
            raw["scheme"],
            raw["prompt"],
            raw["text"],
            tuple(raw["prompt_tokens"]),
            tuple(raw["new_tokens"]),
            raw["sampling"],
            raw["seconds"],
            _activity_from_plain(raw["prefill"]),
            _activity_from_plain(raw["generate"]),
            GraphSummary(nodes=nodes, **summary),
            mapping_from_plain(raw["mapping"]),
            system_from_plain(raw["system"]),
            raw["versions"],
            raw["date"],
            {Location(u[0], u[1]): Footprint(*u[2:]) for u in raw["use"]},
        )
    except (KeyError, TypeError, IndexError, AttributeError, ValueError):
        raise InputError(f"{path}: not a run, a part is missing") from None


def identity(mapping: Mapping, job: Job) -> str:
    """What a saved state belongs to: a hash of the mapping (and so of the graph), the prompt and
    the sampling."""
    content = [
        mapping_to_plain(mapping),
        job.tokens.tolist(),
        job.sampling.temperature,
        job.sampling.seed,
    ]
    return hashlib.sha256(json.dumps(content).encode()).hexdigest()


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
    content = json.dumps(
        {
            "fed": state.fed,
            "identity": belongs_to,
            "seconds": state.seconds,
            "sha256": _checksum(kept),
        }
    )
    specs = {
        name: safetensors.TensorSpec(
            dtype="int64", shape=list(a.shape), data_ptr=a.ctypes.data, data_len=a.nbytes
        )
        for name, a in kept.items()
    }
    with whole_file(folder / STATE_FILE) as scratch:
        scratch.write_bytes(safetensors.serialize(specs, {STATE_FORMAT: content}))


def _checksum(arrays: Mapping_[str, NDArray[np.int64]]) -> str:
    """One checksum of named arrays."""
    found = hashlib.sha256()
    for name in sorted(arrays):
        found.update(name.encode() + b"\0" + arrays[name].tobytes())
    return found.hexdigest()


def load_state(folder: Path, belongs_to: str) -> RunState:
    """The state of an unfinished run; InputError where there is none, or it is of another run."""
    path = folder / STATE_FILE
    data = read_bytes(path, InputError)
    try:
        arrays = {
            name: np.frombuffer(e["data"], np.int64) for name, e in safetensors.deserialize(data)
        }
        header = json.loads(data[8 : 8 + int.from_bytes(data[:8], "little")])
        content = json.loads(header["__metadata__"][STATE_FORMAT])
        phases = [_counted(arrays, phase) for phase in ("prefill", "generate")]
        states = {
            name.removeprefix("state."): a.copy()
            for name, a in arrays.items()
            if name.startswith("state.")
        }
        found = RunState(
            content["fed"],
            arrays["chosen"].copy(),
            states,
            phases[0],
            phases[1],
            content["seconds"],
        )
    except (safetensors.SafetensorError, KeyError, TypeError, ValueError, IndexError):
        raise InputError(
            f"{path}: not a saved state of this version ({STATE_FORMAT}), or cut short"
        ) from None
    if content.get("sha256") != _checksum(arrays):
        raise InputError(f"{path}: damaged: its arrays differ from their checksum")
    if content.get("identity") != belongs_to:
        raise InputError(
            f"{path}: belongs to another mapping, prompt, temperature or seed; use those of "
            "that run"
        )
    return found


def _counted(arrays: dict[str, NDArray[np.int64]], phase: str) -> Activity:
    counts = {f.name: arrays[f"{phase}.{f.name}"].copy() for f in fields(Activity)}
    return Activity(**counts | {"tokens": int(counts["tokens"][0])})  # type: ignore[arg-type]
