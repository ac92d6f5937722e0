"""Many mappings of one graph file, to compare."""

from collections.abc import Mapping, Sequence
from dataclasses import replace
from pathlib import Path
from types import MappingProxyType

from mmfree_neuro.cost.counted import counted
from mmfree_neuro.cost.explore import Point, label, points
from mmfree_neuro.errors import CapacityError, GraphError
from mmfree_neuro.files.writing import whole_file
from mmfree_neuro.graph.local_roots import chosen
from mmfree_neuro.graph.summary import summarise
from mmfree_neuro.mapping.request import Request
from mmfree_neuro.pipeline.map import Stage, place, with_weight_bits
from mmfree_neuro.pipeline.opened import open_graph
from mmfree_neuro.run.activity import expected
from mmfree_neuro.systems.figures import Setting, with_figures
from mmfree_neuro.systems.load import load_system


def explore(
    graph_path: Path,
    system_name: str,
    requests: Sequence[Request],
    stage: Stage = lambda _: None,
    settings: Mapping[str, Setting] = MappingProxyType({}),
) -> tuple[list[Point], list[tuple[Request, str]]]:
    """Map a graph file in many ways onto a system, with some figures set; what each gives, and why
    others cannot be."""
    graph, digest = open_graph(graph_path)
    system = with_figures(load_system(system_name), settings)
    requests = [
        replace(request, local_roots=chosen(graph, request.local_roots)) for request in requests
    ]
    found: list[Point] = []
    failed: list[tuple[Request, str]] = []
    for one in dict.fromkeys(replace(request, copies=1) for request in requests):
        stage(f"mapping: {label(one)}, {one.chips or 'fewest'} chips")
        wide = with_weight_bits(system, one.weight_bits)
        try:
            divided, mapping = place(graph, digest, wide, one)
        except (CapacityError, GraphError) as error:
            failed.append((one, str(error)))
            continue
        most = counted(mapping, summarise(divided), expected(divided, mapping), wide)
        for asked in (request for request in requests if replace(request, copies=1) == one):
            request = replace(asked, in_flight=mapping.in_flight)
            if request.copies * len(mapping.chips) <= system.chips.central:
                found += points(request, most)
            else:
                needed = f"{request.copies} copies of {len(mapping.chips)} chips"
                failed.append(
                    (
                        request,
                        f"{graph.name}: {needed} are more than {system.chips.central:g} chips",
                    )
                )
    return found, failed


def draw_front(found: Sequence[Point], output: Path) -> None:
    """Draw the points of `explore` as a PNG."""
    from mmfree_neuro.report import pictures

    with whole_file(output) as scratch:
        scratch.write_bytes(pictures.png(pictures.fronts(found)))
