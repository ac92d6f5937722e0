"""mmfree-neuro map: a graph file is placed on a system."""

import argparse
from pathlib import Path
from typing import Any

from mmfree_neuro.cli.options import (
    add_command,
    add_greedy_on_chips,
    add_local_roots,
    add_option,
    add_settings,
)
from mmfree_neuro.cli.output import say, show
from mmfree_neuro.errors import InputError
from mmfree_neuro.files.writing import check_outputs
from mmfree_neuro.graph.nodes import Graph
from mmfree_neuro.mapping.mapping_file import StoredMapping
from mmfree_neuro.mapping.request import Request, in_flight_of, kinds_of
from mmfree_neuro.pipeline import choose as choosing
from mmfree_neuro.pipeline import map as mapping
from mmfree_neuro.report import terminal
from mmfree_neuro.systems.figures import settings_of
from mmfree_partition import placers


def add(commands: Any) -> None:
    """Declare the command and its options."""
    p = add_command(
        commands, "map", run, "map model.graph --system alia-point --block-per-chip -o model.map"
    )
    add_option(p, "graph", type=Path, help="graph file")
    add_option(p, "--system", required=True, help="name of a system, or a TOML file of your own")
    add_settings(p)
    add_option(p, "-o", "--output", type=Path, required=True, help="mapping file to write (.map)")
    add_option(
        p,
        "--for",
        dest="goal",
        metavar="GOAL",
        help="try many mappings and take the best for generation or prefill (tokens a second), or "
        "for chips (the fewest, and then generation)",
    )
    add_option(p, "--placer", help=f"{placers.names_and_needs()} (default chain)")
    add_option(p, "--block-per-chip", action="store_true", help="short for --placer block-per-chip")
    add_option(
        p, "--chips", type=int, help="how many chips to spread over (default: as few as fit)"
    )
    add_option(p, "--cores", type=int, help="use at most this many cores of a chip (default: all)")
    add_option(
        p,
        "--spread",
        action="store_true",
        help="every node of a chip over as many of its cores as can be: faster generation, more "
        "messages",
    )
    add_option(
        p,
        "--rows-only",
        action="store_true",
        help="divide no sum by columns, even where that saves messages between chips",
    )
    add_option(
        p, "--refine", action="store_true", help="swap cores on their chips while that saves hops"
    )
    add_option(
        p,
        "--head-on-host",
        action="store_true",
        help="leave the head and its norm to the host, as published",
    )
    add_option(
        p,
        "--weight-bits",
        type=int,
        help="what a stored weight takes (default: as the chip's description says)",
    )
    add_local_roots(p)
    add_option(
        p,
        "--in-flight",
        default="1",
        metavar="SEQUENCES",
        help="how many sequences can be under way at once, each with states of its own, or fill "
        "for as many as fill the machine (default 1)",
    )
    add_greedy_on_chips(p)
    add_option(p, "--seed", type=int, default=0, help="seed of placers that draw (default 0)")


def run(options: argparse.Namespace) -> None:
    """Map a graph onto a system."""
    settings = settings_of(options.settings)
    request, best = _request(options), None
    if options.goal is not None:
        _check_free(options)
        check_outputs([options.output], [options.graph, Path(options.system)])
        best = choosing.choose(options.graph, options.system, request, options.goal, say, settings)
        request = best.request

    def shown(graph: Graph, stored: StoredMapping, kept: bool) -> None:
        bounds = mapping.bounds(graph, stored.mapping, stored.system, options.cores)
        begin = f"wrote {options.output}\n" if kept else ""
        found = graph, stored.mapping, stored.system, bounds
        content: dict[str, Any] = {"mapping": str(options.output) if kept else None}
        content |= terminal.mapping_content(*found)
        text = f"{begin}{terminal.mapping(*found)}"
        if best is not None:
            content["for"] = terminal.best_of_content(best.goal, best.points)
            text += f"\n{terminal.best_of(best.goal, best.points)}"
        show(content, text, options.json)

    mapping.map_graph(options.graph, options.system, options.output, request, shown, settings)


def _check_free(options: argparse.Namespace) -> None:
    """InputError where something is told that --for chooses."""
    told = {
        "--chips": options.chips is not None,
        "--spread": options.spread,
        "--rows-only": options.rows_only,
        "--local-roots": options.local_roots != "none",
    }
    for name in (name for name, there in told.items() if there):
        raise InputError(f"--for chooses what {name} says, must come without it")


def _request(options: argparse.Namespace) -> Request:
    """What the options ask for."""
    return Request(
        _placer(options),
        options.chips,
        options.cores,
        options.spread,
        options.head_on_host,
        options.weight_bits,
        not options.rows_only,
        options.refine,
        options.seed,
        local_roots=kinds_of(options.local_roots),
        in_flight=in_flight_of(options.in_flight),
        greedy_on_chips=options.greedy_on_chips,
    )


def _placer(options: argparse.Namespace) -> str:
    """The placer that is named, or the default."""
    if not options.block_per_chip:
        return options.placer or "chain"
    if options.placer not in (None, "block-per-chip"):
        raise InputError(f"--block-per-chip and --placer {options.placer} contradict each other")
    return "block-per-chip"
