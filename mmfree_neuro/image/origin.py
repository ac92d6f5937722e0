"""What an image was made from, as far as prompts, runs and reports need it; no machine does."""

import json
from collections import Counter
from dataclasses import asdict, dataclass

import numpy as np

from mmfree_neuro.errors import ImageError
from mmfree_neuro.files.reading import Misfit, parsed_json, reading
from mmfree_neuro.files.records import decoded
from mmfree_neuro.graph.nodes import Graph
from mmfree_neuro.graph.summary import GraphSummary, summarise
from mmfree_neuro.integers.fixedpoint import Ints
from mmfree_neuro.mapping.footprint import Footprint
from mmfree_neuro.mapping.mapping import HOST, Location, Mapping
from mmfree_neuro.mapping.mapping_file import PlainMapping, mapping_from_plain, mapping_to_plain
from mmfree_neuro.mapping.plausible import check_mapping, check_summary
from mmfree_neuro.systems.load import check_system
from mmfree_neuro.systems.spec import SystemSpec
from mmfree_neuro.target.image import Image
from mmfree_neuro.target.layout import ACCUMULATOR_BYTES, HOST_CHIP, Core


@dataclass(frozen=True)
class Origin:
    """What `origin.json` says."""

    summary: GraphSummary
    mapping: PlainMapping
    system: SystemSpec
    bos: int | None
    eos: tuple[int, ...]
    as_bytes: bool
    tokenizer: str | None


def origin_text(graph: Graph, mapping: Mapping, system: SystemSpec) -> str:
    """The content of `origin.json`."""
    content = {
        "summary": asdict(summarise(graph)),
        "mapping": mapping_to_plain(mapping),
        "system": asdict(system),
        "bos": graph.bos,
        "eos": list(graph.eos),
        "as_bytes": graph.as_bytes,
        "tokenizer": graph.tokenizer,
    }
    return json.dumps(content)


def origin_of(image: Image) -> tuple[Origin, Mapping]:
    """What an image says that it was made from, and the mapping; ImageError where that does not
    belong to its cores."""
    path = image.path / "origin.json"
    with reading(path, ImageError, AN_ORIGIN):
        origin = decoded(Origin, parsed_json(image.origin))
        check_system(origin.system, "its system")
        check_summary(origin.summary)
        mapping = mapping_from_plain(origin.mapping)
        _check_belongs(image, mapping)
        check_mapping(mapping, origin.summary, origin.system)
    return origin, mapping


AN_ORIGIN = "what a machine image was made from"


def _check_belongs(image: Image, mapping: Mapping) -> None:
    """Misfit where groups and entries of an image are not the shards and routes of a mapping."""
    if len(mapping.shards) != len(mapping.locations):
        raise Misfit(f"it has {len(mapping.locations)} locations for {len(mapping.shards)} shards")
    found = [(chip, core.number, int(row[2])) for chip, core in image.cores for row in core.group]
    expected = []
    for position in by_group(mapping):
        place, shard = mapping.locations[position], mapping.shards[position]
        chip = HOST_CHIP if place.chip == HOST else place.chip
        expected.append((chip, place.core, shard.size))
    if found != expected:
        raise Misfit("its shards are not the groups of the image")
    entries = sum(len(core.out) for _, core in image.cores)
    if entries != sum(len(route.destinations) for route in mapping.routes):
        raise Misfit("its routes are not the output entries of the image")


def by_group(mapping: Mapping) -> list[int]:
    """The shards of a mapping in the order of the groups of its image."""
    return sorted(
        range(len(mapping.shards)), key=lambda position: (mapping.locations[position], position)
    )


def by_entry(mapping: Mapping) -> Ints:
    """The route of each output entry of a mapping's image."""
    routes: dict[int, list[int]] = {}
    for number, route in enumerate(mapping.routes):
        routes.setdefault(route.source, []).append(number)
    found = [
        number
        for position in by_group(mapping)
        for number in routes.get(position, ())
        for _ in mapping.routes[number].destinations
    ]
    return np.array(found, np.int64)


def use_of_image(image: Image) -> dict[Location, Footprint]:
    """What the cores of an image hold, by its bytes."""
    return {
        Location(chip, core.number): use_of(core) for chip, core in image.cores if chip != HOST_CHIP
    }


def use_of(core: Core) -> Footprint:
    """What a core holds, by its bytes."""
    neurons, ports, constants, states = (core.group[:, k].astype(np.int64) for k in (2, 4, 8, 10))
    counts = core.out[:, 2].astype(np.int64)
    sent = {
        (int(owner), int(output))
        for owner, output in zip(core.senders, core.out[:, 0] & 15, strict=True)
    }
    outputs = Counter(owner for owner, _ in sent)
    return Footprint(
        memory=core.bytes,
        synaptic_memory=core.syn.nbytes,
        groups=len(core.group),
        neurons=int(neurons.sum()),
        input_axons=len(core.axon),
        map_entries=core.map_entries,
        output_axons=int(counts.sum()),
        accumulators=core.accumulators,
        instructions=len(core.code),
        state_per_neuron=int((ACCUMULATOR_BYTES * (ports + constants + states)).max(initial=0)),
        input_channels=int(ports.max(initial=0)),
        output_channels=max(outputs.values(), default=0),
    )
