"""What a token waits for: the steps of a block, what each takes, and what fewer of them buy.

    python examples/benchmarks/steps.py [PICTURE] [--redraw]

The 370M model in scheme `a14` at two bits a weight, payloads all non-zero, one sequence, on the 32
chips of the literature; the published mapping (roots before products, a block on each of 24 chips)
beside mappings with fewer steps on the same chips, the head on the host and on the chips.  Shapes
alone matter, so graphs are those of `testing.published_graph`.  Every graph with fewer steps is
first held against the one it comes from: a small model gives the same logits.  Draws the steps of
block 11 of some of them; --redraw does that alone, from the rows in `results/steps.json`.
"""

import argparse
import json
import tempfile
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
from matplotlib.figure import Figure
from rows import write

from mmfree_neuro.cost import explore, timing
from mmfree_neuro.cost.counted import Counted, counted
from mmfree_neuro.cost.load import load
from mmfree_neuro.graph.local_roots import with_local_roots
from mmfree_neuro.graph.nodes import Graph
from mmfree_neuro.graph.summary import summarise
from mmfree_neuro.hgrn_bit.config import ModelConfig
from mmfree_neuro.hgrn_bit.synthetic import write_synthetic
from mmfree_neuro.lowering.scheme import DEFAULT, SCHEMES, Root
from mmfree_neuro.mapping.request import SPLITS, Request
from mmfree_neuro.pipeline import map
from mmfree_neuro.pipeline.families import read_checkpoint
from mmfree_neuro.pipeline.quality import in_one_place
from mmfree_neuro.run import reference
from mmfree_neuro.run.activity import expected
from mmfree_neuro.run.job import Job
from mmfree_neuro.systems.load import load_system
from mmfree_neuro.systems.spec import SystemSpec
from mmfree_neuro.testing import graph_of, published_graph

ROWS = Path(__file__).parent / "results" / "steps.json"
PICTURE = Path(__file__).parents[2] / "docs" / "steps.png"
CHIPS = 24
BLOCK = 11
"""The block whose steps are listed one by one."""


@dataclass(frozen=True)
class Way:
    """A graph and how it is mapped."""

    name: str
    root: Root
    placer: str
    split: str
    local: tuple[str, ...] = ()


PUBLISHED = Way("published mapping", "before", "block-per-chip", "rows")
WAYS = (
    PUBLISHED,
    Way("roots before products, spread", "before", "chain", "spread"),
    Way("published mapping, roots after products", "after", "block-per-chip", "rows"),
    Way("roots after products, spread", "after", "chain", "spread"),
    Way("local roots o, spread", "after", "chain", "spread", ("o",)),
    Way("local roots o+mlp, spread", "after", "chain", "spread", ("o", "mlp")),
    Way("local roots o+mlp+down, spread", "after", "chain", "spread", ("o", "mlp", "down")),
    Way("local roots all, spread", "after", "chain", "spread", ("all",)),
)
DRAWN = (PUBLISHED.name, "roots after products, spread", "local roots o, spread")
TINY = ModelConfig(
    vocab_size=256, hidden_size=64, num_hidden_layers=2, intermediate_size=128, expand_ratio=1
)


def check() -> None:
    """Local roots change no bit of a small model; else no row is written."""
    with tempfile.TemporaryDirectory() as folder:
        write_synthetic(Path(folder) / "tiny", TINY, seed=1)
        graph = graph_of(read_checkpoint(Path(folder) / "tiny"), SCHEMES[DEFAULT], "tiny")
    job = Job(np.array([[7, 1, 33, 5]]), 3)
    for way in WAYS:
        other = with_local_roots(graph, way.local)
        one, two = (reference.run(g, in_one_place(g), job) for g in (graph, other))
        if not np.array_equal(one.logits, two.logits):
            raise SystemExit(f"{way.name}: other logits: no row is written")


def mapped(way: Way, system: SystemSpec, *, host: bool) -> tuple[Request, Graph, Counted]:
    """The 370M model as a way has it, and its counts."""
    chips = None if way.placer == "block-per-chip" else CHIPS
    request = Request(
        way.placer,
        chips,
        head_on_host=host,
        weight_bits=2,
        local_roots=way.local,
        **SPLITS[way.split],
    )
    whole = published_graph("370m", scheme=DEFAULT, root=way.root)
    graph, mapping = map.place(whole, "", system, request)
    counts = counted(mapping, summarise(graph), expected(graph, mapping), system)
    return request, graph, counts


def rows_of(
    way: Way, system: SystemSpec, points: dict[tuple[str, bool], explore.Point], *, host: bool
) -> list[dict[str, Any]]:
    """Speed and energy of a way, in both phases as the silicon works, beside `points`, those of the
    published mapping, which are added where they are not there."""
    request, _, counts = mapped(way, system, host=host)
    summary = counts.summary
    home = "head on the host" if host else "head on chips"
    rows = []
    for point in explore.points(request, counts):
        if point.mode == "asynchronous":
            continue
        published = points.setdefault((point.phase, host), point)  # the first way is that
        faster, dearer = point.over(published)
        about = {
            "steps_per_block": summary.steps_per_block,
            "steps": summary.steps + 1,
            "chips": point.chips,
            "slowest": point.resource,
            "barrier_share": round(point.barrier_share, 3),
            "messages between chips": point.messages_off_chips,
        }
        for unit, span, ratio in (
            ("tokens/s", point.tokens_per_s, faster),
            ("mJ/token, system", point.millijoule_per_token, dearer),
        ):
            rows.append(
                {
                    "what": f"370m, {way.name}, {home}: {point.phase}",
                    "value": round(span.central, 3),
                    "unit": unit,
                    "low": round(span.low, 3),
                    "high": round(span.high, 3),
                    "over the published mapping": [
                        round(value, 3) for value in (ratio.low, ratio.central, ratio.high)
                    ],
                    **about,
                }
            )
    return rows


def steps_of(way: Way, system: SystemSpec) -> list[dict[str, Any]]:
    """What each step of one block waits for, the head on the host."""
    _, _, counts = mapped(way, system, host=True)
    chip = counts.system.chip
    waits = timing.waits(load(counts), chip)
    nodes = [node for node in counts.summary.nodes if node.block == BLOCK]
    prefix = f"layers.{BLOCK}."
    rows = []
    for step in sorted({node.step for node in nodes}):
        names = [node.name.removeprefix(prefix) for node in nodes if node.step == step]
        rows.append(
            {
                "what": f"370m, {way.name}, block {BLOCK}: {', '.join(names)}",
                "value": round(waits[step][0] / 1e3, 2),
                "unit": "us",
                "slowest": waits[step][1],
                "barrier_us": chip.barrier_many_chips_ns.central / 1e3,
                "fall_through_us": chip.fall_through_step_ns.central / 1e3,
                "way": way.name,
            }
        )
    return rows


def draw(rows: list[dict[str, Any]], output: Path) -> None:
    """The steps of one block, one under another for each way."""
    picture = Figure(figsize=(11, 1.5 * len(DRAWN)), dpi=120, facecolor="white")
    picture.set_layout_engine("constrained")
    axes = picture.subplots(len(DRAWN), 1, sharex=True)
    inks = {"barrier": "#c3cad1", "step alone": "#8a949e", "slowest resource": "#2f6db3"}
    for axis, way in zip(axes, DRAWN, strict=True):
        at = 0.0
        mine = [row for row in rows if row.get("way") == way]
        for row in mine:
            widths = row["barrier_us"], row["fall_through_us"], row["value"]
            middle = at + sum(widths) / 2
            for (name, ink), width in zip(inks.items(), widths, strict=True):
                axis.barh(0, width, left=at, color=ink, label=name if row is mine[0] else None)
                at += width
            axis.axvline(at, color="white", lw=2)
            text = row["what"].partition(": ")[2].replace(", ", "\n")
            axis.annotate(text, (middle, 0.45), ha="center", va="bottom", fontsize=7)
        axis.set_title(f"{way}: {len(mine)} steps, {at:.0f} µs", loc="left", fontsize=9)
        axis.set(ylim=(-0.5, 1.1), yticks=[])
        axis.spines[["top", "right", "left"]].set_visible(False)
    picture.legend(
        *axes[0].get_legend_handles_labels(),
        loc="outside lower right",
        fontsize=8,
        frameon=False,
        ncols=3,
    )
    axes[-1].set_xlabel(f"µs of a token in block {BLOCK} of 24 (central figures)", fontsize=9)
    picture.savefig(output, metadata={"Software": None})


def main(output: Path) -> None:
    check()
    rows: list[dict[str, Any]] = []
    for scheme in SCHEMES:
        roots: tuple[Root, ...] = ("before", "after")
        for root in roots:
            graph = published_graph("370m", scheme=scheme, root=root, blocks=2)
            found = summarise(graph).steps_per_block
            what = f"steps a block, {scheme}, roots {root} products"
            rows.append({"what": what, "value": found, "unit": "steps"})
    system = map.with_weight_bits(load_system("alia-point-32"), 2)
    points: dict[tuple[str, bool], explore.Point] = {}
    for way in WAYS:
        for host in (True, False):
            rows += rows_of(way, system, points, host=host)
            print(rows[-2]["what"], rows[-2]["value"], flush=True)
    listed = [row for way in WAYS if way.name in DRAWN for row in steps_of(way, system)]
    draw(listed, output)
    write("steps", rows + listed)


if __name__ == "__main__":
    parser = argparse.ArgumentParser(description="Measures and draws the steps of a block.")
    parser.add_argument("picture", type=Path, nargs="?", default=PICTURE)
    parser.add_argument("--redraw", action="store_true")
    options = parser.parse_args()
    if options.redraw:
        draw(json.loads(ROWS.read_text(encoding="utf-8")), options.picture)
    else:
        main(options.picture)
