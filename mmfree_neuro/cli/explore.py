"""mmfree-neuro explore: many mappings of a graph, and which no other beats."""

import argparse
import json
from collections.abc import Collection
from pathlib import Path
from typing import Any

from mmfree_neuro.cli.options import add_command, add_greedy_on_chips, add_option, add_settings
from mmfree_neuro.cli.output import say, show
from mmfree_neuro.cost import explore as exploring
from mmfree_neuro.errors import InputError, shown
from mmfree_neuro.files.writing import check_outputs, keeping, save_text
from mmfree_neuro.mapping.request import SPLITS, Request, in_flight_of, kinds_of
from mmfree_neuro.pipeline import explore as pipeline_explore
from mmfree_neuro.report import terminal
from mmfree_neuro.systems.figures import settings_of
from mmfree_partition.placers import PLACERS

LONGEST_NUMBER = 9
"""Digits of a number of chips, bits or copies."""


def add(commands: Any) -> None:
    """Declare the command and its options."""
    p = add_command(
        commands, "explore", run, "explore model.graph --system alia-point-32 --chips fewest,24,32"
    )
    add_option(p, "graph", type=Path, help="graph file")
    add_option(p, "--system", required=True, help="name of a system, or a TOML file of your own")
    add_settings(p)
    add_option(
        p, "--chips", default="fewest", help="numbers of chips, as fewest,8,24 (default fewest)"
    )
    add_option(
        p,
        "--weight-bits",
        default="2",
        help="what a stored weight takes, as 2,8: changes what fits (default 2)",
    )
    add_option(
        p,
        "--splits",
        default="columns,spread",
        help="rows; columns (sums are divided too where it saves messages); "
        "spread (every node over as many cores of its chip as can be) (default columns,spread)",
    )
    add_option(
        p,
        "--placers",
        default="chain,block-per-chip",
        help="as chain,balanced (default chain,block-per-chip)",
    )
    add_option(
        p,
        "--copies",
        default="1",
        help=(
            "copies of the model, each with a sequence of its own; all share one barrier "
            "(default 1)"
        ),
    )
    add_option(
        p,
        "--local-roots",
        default="none",
        help=(
            "norms whose roots every neuron finds for itself, as none,all,attn+mlp: fewer steps, "
            "more synaptic operations (default none)"
        ),
    )
    add_option(
        p,
        "--in-flight",
        default="1",
        help=(
            "sequences under way at once, as 1,8,64,fill: more tokens a second, each later, and a "
            "state for each (default 1)"
        ),
    )
    add_option(
        p,
        "--head-on-host",
        action="store_true",
        help="leave the head and its norm to the host, as published",
    )
    add_greedy_on_chips(p)
    add_option(p, "-o", "--output", type=Path, help="write all points as JSON")
    add_option(p, "--picture", type=Path, help="draw the fronts as PNG")


def run(options: argparse.Namespace) -> None:
    """Map a graph in many ways and show which no other beats."""
    check_outputs([options.output, options.picture], [options.graph, Path(options.system)])
    chips = [
        None if text == "fewest" else _number(text, "chips") for text in options.chips.split(",")
    ]
    bits = [_number(text, "weight bits") for text in options.weight_bits.split(",")]
    copies = [_number(text, "copies") for text in options.copies.split(",")]
    in_flight = [in_flight_of(text) for text in options.in_flight.split(",")]
    known_names: dict[str, tuple[str, Collection[str]]] = {
        "split": (options.splits, SPLITS),
        "placer": (options.placers, PLACERS),
    }
    for what, (names, known) in known_names.items():
        for name in names.split(","):
            if name not in known:
                raise InputError(f"{what} {name!r} is not known, must be one of {', '.join(known)}")
    requests = [
        Request(
            placer,
            None if placer == "block-per-chip" else count,
            head_on_host=options.head_on_host,
            weight_bits=width,
            copies=copy,
            divide=SPLITS[split]["divide"],
            spread=SPLITS[split]["spread"],
            local_roots=kinds_of(kinds),
            in_flight=count_in_flight,
            greedy_on_chips=options.greedy_on_chips,
        )
        for width in bits
        for split in options.splits.split(",")
        for placer in options.placers.split(",")
        for count in chips
        for copy in copies
        for kinds in options.local_roots.split(",")
        for count_in_flight in in_flight
        if placer != "block-per-chip" or count == chips[0]
    ]
    requests = list(dict.fromkeys(requests))
    settings = settings_of(options.settings)
    found, failed = pipeline_explore.explore(options.graph, options.system, requests, say, settings)
    if not found:
        raise InputError(
            f"none of {len(requests)} ways to map {options.graph} is possible: {failed[0][1]}"
        )
    content = {"system": options.system, "set": settings, **exploring.content(found, failed)}
    written: list[Path] = []

    def result_shown(_kept: bool) -> None:
        lines = [terminal.table(found, failed), *(f"wrote {path}" for path in written)]
        show(content, "\n".join(lines), options.json)

    with keeping(result_shown):
        if options.picture is not None:
            pipeline_explore.draw_front(found, options.picture)
            written.append(options.picture)
        if options.output is not None:
            save_text(options.output, json.dumps(content, indent=1))
            written.append(options.output)


def _number(text: str, what: str) -> int:
    """A whole number of at least 1."""
    if not text.isdecimal() or len(text) > LONGEST_NUMBER or int(text) < 1:
        raise InputError(
            f"{what} are {shown(text)}, must be whole numbers of at least 1, such as 2,8"
        )
    return int(text)
