"""A mapping file: JSON that also holds the figures of its system, so that it stays what it was."""

import hashlib
import json
import os
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

from mmfree_neuro.errors import MappingError
from mmfree_neuro.files.reading import Misfit, read_json, reading
from mmfree_neuro.files.records import decoded
from mmfree_neuro.files.writing import save_text
from mmfree_neuro.mapping.mapping import Location, Mapping, Route, Shard
from mmfree_neuro.systems.load import check_system
from mmfree_neuro.systems.spec import SystemSpec

MAPPING_FORMAT = "mmfree-neuro mapping 8"
MAPPING_FILE = "a mapping file"


@dataclass(frozen=True)
class StoredMapping:
    """A mapping file: the mapping, the system that it is for, and where its graph lies."""

    mapping: Mapping
    system: SystemSpec
    graph_path: Path
    cores: int | None = None
    """How many cores of a chip it was allowed to use; None for all."""


@dataclass(frozen=True)
class PlainMapping:
    """A mapping as it is in JSON: places as pairs of chip and core, and the cores that routes go to
    written once."""

    graph: str
    system: str
    placer: str
    shards: tuple[tuple[str, int, int], ...]
    locations: tuple[tuple[int, int], ...]
    destinations: tuple[tuple[tuple[int, int], ...], ...]
    routes: tuple[tuple[int, str, int, int, int], ...]
    """Each the number of its shard, a port, the number of its destinations, start and stop."""
    columns: tuple[tuple[str, tuple[int, ...]], ...]
    local_roots: tuple[str, ...]
    in_flight: int
    greedy_on_chips: bool
    options: tuple[str, ...] = ()


@dataclass(frozen=True)
class _File:
    """The content of a mapping file."""

    format: str
    graph_path: str
    cores: int | None
    system: SystemSpec
    mapping: PlainMapping
    sha256: str


def mapping_to_plain(mapping: Mapping) -> dict[str, Any]:
    """A mapping as JSON, of the fields of `PlainMapping`."""
    sets: dict[tuple[Location, ...], int] = {}
    for route in mapping.routes:
        sets.setdefault(route.destinations, len(sets))
    return {
        "graph": mapping.graph,
        "system": mapping.system,
        "placer": mapping.placer,
        "shards": [[s.node, s.start, s.stop] for s in mapping.shards],
        "locations": [[p.chip, p.core] for p in mapping.locations],
        "destinations": [[[place.chip, place.core] for place in places] for places in sets],
        "routes": [
            [r.source, r.port, sets[r.destinations], r.start, r.stop] for r in mapping.routes
        ],
        "columns": [[name, list(cuts)] for name, cuts in mapping.columns],
        "local_roots": list(mapping.local_roots),
        "in_flight": mapping.in_flight,
        "greedy_on_chips": mapping.greedy_on_chips,
        "options": list(mapping.options),
    }


def mapping_from_plain(plain: PlainMapping) -> Mapping:
    """The mapping of `mapping_to_plain`; Misfit where a route names destinations that are not
    there."""
    sets = [tuple(map(Location._make, places)) for places in plain.destinations]
    for _, _, number, _, _ in plain.routes:
        if not 0 <= number < len(sets):
            raise Misfit(f"a route has destinations {number}, must have one of {len(sets)}")
    return Mapping(
        plain.graph,
        plain.system,
        plain.placer,
        tuple(map(Shard._make, plain.shards)),
        tuple(map(Location._make, plain.locations)),
        tuple(
            Route(source, port, sets[number], start, stop)
            for source, port, number, start, stop in plain.routes
        ),
        plain.columns,
        plain.local_roots,
        plain.in_flight,
        plain.greedy_on_chips,
        plain.options,
    )


def checksum(content: dict[str, Any]) -> str:
    """The SHA-256 of a JSON object, but for what it says of that itself."""
    rest = {name: value for name, value in content.items() if name != "sha256"}
    return hashlib.sha256(json.dumps(rest, sort_keys=True).encode()).hexdigest()


def check_format(content: dict[str, Any], known: str) -> None:
    """Misfit where the content of a JSON file is of another format, or is not what was written."""
    if content.get("format") != known:
        raise Misfit(f"its format is not {known!r}")
    if content.get("sha256") != checksum(content):
        raise Misfit("it is damaged, for it differs from its checksum")


def save_mapping(stored: StoredMapping, path: Path) -> None:
    """Write a mapping file; the graph is named by its path from there."""
    graph = os.path.relpath(stored.graph_path.resolve(), path.resolve().parent)
    content = {
        "format": MAPPING_FORMAT,
        "graph_path": graph,
        "cores": stored.cores,
        "system": asdict(stored.system),
        "mapping": mapping_to_plain(stored.mapping),
    }
    save_text(path, json.dumps(content | {"sha256": checksum(content)}))


def load_mapping(path: Path) -> StoredMapping:
    """The content of a mapping file, whose system has figures that can be; whether the mapping fits
    its graph, `check` of mmfree_partition says."""
    content = read_json(path, MappingError, MAPPING_FILE)
    with reading(path, MappingError, MAPPING_FILE):
        check_format(content, MAPPING_FORMAT)
        file = decoded(_File, content)
        check_system(file.system, "its system")
        if file.cores is not None and not 1 <= file.cores <= file.system.chip.cores.central:
            raise Misfit(f"cores is {file.cores}, must be 1 … {file.system.chip.cores.central:g}")
        mapping = mapping_from_plain(file.mapping)
        return StoredMapping(
            mapping, file.system, path.resolve().parent / file.graph_path, file.cores
        )
