"""A mapping file: JSON that also holds the figures of its system, so that it stays what it was."""

import json
import os
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

from mmfree_neuro.errors import MappingError
from mmfree_neuro.files import read_json, whole_file
from mmfree_neuro.graph.graph_file import load_graph
from mmfree_neuro.graph.nodes import Graph
from mmfree_neuro.graph.partial_sums import by_columns
from mmfree_neuro.mapping.mapping import Location, Mapping, Route, Shard
from mmfree_neuro.systems.spec import ChipSpec, Quantity, SystemSpec

MAPPING_FORMAT = "mmfree-neuro mapping 2"


@dataclass(frozen=True)
class StoredMapping:
    """A mapping file: the mapping, the system that it is for, and where its graph lies."""

    mapping: Mapping
    system: SystemSpec
    graph_path: Path
    cores: int | None = None
    """How many cores of a chip it was allowed to use; None for all."""


def mapping_to_plain(mapping: Mapping) -> dict[str, Any]:
    """A mapping as JSON; cores that many routes go to are written once."""
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
    }


def mapping_from_plain(raw: dict[str, Any]) -> Mapping:
    """The mapping of `mapping_to_plain`."""
    sets = [tuple(Location(*place) for place in places) for places in raw["destinations"]]
    return Mapping(
        raw["graph"],
        raw["system"],
        raw["placer"],
        tuple(Shard(*s) for s in raw["shards"]),
        tuple(Location(*p) for p in raw["locations"]),
        tuple(Route(r[0], r[1], sets[r[2]], r[3], r[4]) for r in raw["routes"]),
        tuple((name, tuple(cuts)) for name, cuts in raw["columns"]),
    )


def _with_quantities(raw: dict[str, Any]) -> dict[str, Any]:
    return {k: Quantity(**v) if isinstance(v, dict) else v for k, v in raw.items() if k != "chip"}


def system_from_plain(raw: dict[str, Any]) -> SystemSpec:
    return SystemSpec(chip=ChipSpec(**_with_quantities(raw["chip"])), **_with_quantities(raw))


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
    with whole_file(path) as scratch:
        scratch.write_text(json.dumps(content), encoding="utf-8")


def load_mapping(path: Path) -> StoredMapping:
    """The content of a mapping file."""
    content = read_json(path, MAPPING_FORMAT, MappingError, "a mapping file")
    try:
        mapping, system = (
            mapping_from_plain(content["mapping"]),
            system_from_plain(content["system"]),
        )
        graph, cores = path.resolve().parent / content["graph_path"], content["cores"]
    except (KeyError, TypeError, IndexError, AttributeError, ValueError):
        raise MappingError(f"{path}: not a mapping file, a part is missing") from None
    return StoredMapping(mapping, system, graph, cores)


def load_mapped(path: Path) -> tuple[Graph, StoredMapping]:
    """A mapping file and the graph that it maps, divided as it says; MappingError where the graph
    is another by now."""
    stored = load_mapping(path)
    graph, digest = load_graph(stored.graph_path)
    if digest != stored.mapping.graph:
        raise MappingError(
            f"{path}: belongs to another graph than {stored.graph_path}; map that graph again"
        )
    return by_columns(graph, stored.mapping.columns), stored
