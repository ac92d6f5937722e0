"""Many mappings of one graph file, to compare."""

from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path

from mmfree_neuro import files
from mmfree_neuro.cost.explore import Choice, Point, points
from mmfree_neuro.errors import CapacityError
from mmfree_neuro.graph import graph_file
from mmfree_neuro.graph.summary import summarise
from mmfree_neuro.pipeline.map import Stage, Wish, place, with_weight_bits
from mmfree_neuro.run.activity import expected
from mmfree_neuro.systems.load import load_system


def explore(
    graph_path: Path, system_name: str, choices: Sequence[Choice], stage: Stage = lambda _: None
) -> tuple[list[Point], list[tuple[Choice, str]]]:
    """Map a graph file in many ways; what each gives, and why others cannot be."""
    graph, digest = graph_file.load_graph(graph_path)
    system = load_system(system_name)
    found: list[Point] = []
    failed: list[tuple[Choice, str]] = []
    for one in dict.fromkeys(replace(choice, copies=1) for choice in choices):
        stage(f"mapping: {one}, {one.chips or 'fewest'} chips")
        wide = with_weight_bits(system, one.weight_bits)
        try:
            spread, divide = one.split == "spread", one.split != "rows"
            wish = Wish(one.placer, one.chips, None, spread, one.head_on_host, divide=divide)
            divided, mapping = place(graph, digest, wide, wish)
        except CapacityError as error:
            failed.append((one, str(error)))
            continue
        counted, summary = expected(divided, mapping), summarise(divided)
        for choice in (choice for choice in choices if replace(choice, copies=1) == one):
            if choice.copies * len(mapping.chips) <= system.chips.central:
                found += points(choice, mapping, summary, counted, wide)
            else:
                needed = f"{choice.copies} copies of {len(mapping.chips)} chips"
                failed.append(
                    (choice, f"{graph.name}: {needed} are more than {system.chips.central:g} chips")
                )
    return found, failed


def draw_front(found: Sequence[Point], output: Path) -> None:
    """Draw the points of `explore` as a PNG."""
    from mmfree_neuro.report import pictures

    with files.whole_file(output) as scratch:
        scratch.write_bytes(pictures.fronts(found))
