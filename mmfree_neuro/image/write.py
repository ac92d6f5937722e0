"""Writes the image of a mapping: its figures, its programs as text, names for people, its board."""

import json
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np

from mmfree_neuro.errors import CapacityError, GraphError
from mmfree_neuro.graph.assembler import Assembled
from mmfree_neuro.graph.nodes import Graph
from mmfree_neuro.graph.steps import steps
from mmfree_neuro.image.build import Builder
from mmfree_neuro.image.origin import origin_text
from mmfree_neuro.mapping.footprint import limits
from mmfree_neuro.mapping.mapping import HOST, Location, Mapping
from mmfree_neuro.mapping.trees import chip_path
from mmfree_neuro.systems.spec import SystemSpec
from mmfree_neuro.target import listing
from mmfree_neuro.target.image import About, Image, Machine
from mmfree_neuro.target.image_file import load_image, save_image
from mmfree_neuro.target.layout import IMAGE_FORMAT, NO_PORT, PORT_OF_HOST, Bytes

REGISTER_BITS = 32


def write_image(
    graph: Graph, mapping: Mapping, system: SystemSpec, digest: str, path: Path
) -> Image:
    """Write the image of a mapping, whose own SHA-256 is `digest`, into a folder, and give it.

    The graph is divided as the mapping says.  Raises CapacityError where the machine cannot hold
    back what must wait, or has no room for a number, and GraphError where what goes to the host is
    not the last that a token sends.
    """
    step, last = steps(graph.nodes), graph.to_host[0]
    for name, fires in step.items():
        if fires > step[last]:
            raise GraphError(
                f"{name}: fires at step {fires}, behind the {step[last]} of {last}, must be read "
                "by it in the end"
            )
    waits = max((entry.delay for node in graph.nodes for entry in node.inputs), default=0)
    if waits > LONGEST_DELAY:
        raise CapacityError(
            f"{graph.name}: a sum waits {waits} steps for another one, a synapse can hold back "
            f"{LONGEST_DELAY}"
        )
    builder = Builder(graph, mapping, int(system.chip.weight_bits.central))
    about = About(
        IMAGE_FORMAT,
        mapping.graph,
        digest,
        system.name,
        machine_of(graph, system),
        graph.vocabulary,
        graph.greedy,
        graph.head.outputs[0].qtype.frac,
        step[last],
        (),
        {},
    )
    proved: list[Image] = []
    save_image(
        path,
        about,
        builder.host(),
        builder.chips(),
        next_ports(mapping, system),
        programs=programs_text(builder),
        symbols=json.dumps(symbols(builder)),
        origin=origin_text(graph, mapping, system),
        check=lambda folder: proved.append(load_image(folder)),
    )
    return replace(proved[0], path=path)


LONGEST_DELAY = 63
"""What the field of a synapse list holds."""


def machine_of(graph: Graph, system: SystemSpec) -> Machine:
    """The figures of a system's chips as those of the machine."""
    chip, room = system.chip, limits(system.chip)
    for what, bits, least, most in (
        ("weight_bits", int(chip.weight_bits.central), 2, 8),
        ("payload_bits", int(chip.payload_bits.central), 2, REGISTER_BITS),
    ):
        if not least <= bits <= most:
            raise CapacityError(
                f"{system.name}: {what} is {bits}, an image must have {least} … {most}"
            )
    return Machine(
        REGISTER_BITS,
        graph.accumulator_bits,
        int(chip.payload_bits.central),
        int(chip.weight_bits.central),
        room["groups"],
        room["neurons"],
        room["input_axons"],
        room["map_entries"],
        room["accumulators"],
        room["instructions"],
        room["memory"],
        room["synaptic_memory"],
        int(chip.cores.central),
        LONGEST_DELAY,
    )


def next_ports(mapping: Mapping, system: SystemSpec) -> Bytes:
    """Through which port each chip in use passes on what is for each other, and for the host."""
    chips = mapping.chips
    columns, rows = int(system.chip_columns.central), int(system.chip_rows.central)
    found = np.full((len(chips), len(chips) + 1), NO_PORT, np.uint8)
    found[:, -1] = PORT_OF_HOST
    steps_of = {1: 0, -1: 1, columns: 2, -columns: 3, columns * rows: 4, -columns * rows: 5}
    for i, here in enumerate(chips):
        for j, there in enumerate(chips):
            if i != j:
                found[i, j] = steps_of[chip_path(here, there, columns, rows)[1] - here]
    return found


def programs_text(builder: Builder) -> str:
    """Every program once."""
    return listing.texts(
        (kind, as_listed(builder.programs[name])) for name, kind in kinds(builder.graph).items()
    )


def kinds(graph: Graph) -> dict[str, str]:
    """The kind of every node by its name, in order."""
    return {node.name: type(node).__name__ for node in graph.nodes}


def as_listed(program: Assembled) -> listing.Listed:
    """A program as the text has it."""
    return listing.listed(program.code, program.immediates, program.tables)


def symbols(builder: Builder) -> dict[str, Any]:
    """Names for people: the kinds of nodes, which neurons the groups of every core hold, and what
    arrives at its axons."""
    axons: dict[Location, list[list[Any]]] = {}
    for (place, (node, port)), (read, first) in builder.axons.items():
        axons.setdefault(place, []).append([first, node, port, int(read[0]), len(read)])
    cores = [
        {
            "chip": "host" if place.chip == HOST else str(place.chip),
            "core": place.core,
            "groups": [
                [group.shard.node, group.shard.start, group.shard.stop] for _, group in some
            ],
            "axons": axons.get(place, []),
        }
        for place, some in sorted(builder.groups.items())
    ]
    return {"kinds": kinds(builder.graph), "cores": cores}
