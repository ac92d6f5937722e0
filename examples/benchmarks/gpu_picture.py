"""Draws speed and energy against batch and length: the measured rows beside figures of the
reference implementation.

The rows are those of `gpu.py`; the reference figures are rows of
`mmfree_neuro/baselines/baselines.toml`, each with its source. Run: python
examples/benchmarks/gpu_picture.py [ROWS] [PICTURE]
"""

import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

from matplotlib.axes import Axes
from matplotlib.figure import Figure
from matplotlib.ticker import LogLocator

from mmfree_kernels.bench.record import load, of_record
from mmfree_neuro.baselines import published
from mmfree_neuro.errors import InputError, MMFreeError

ROWS = Path(__file__).parent / "results" / "gpu.json"
PICTURE = Path(__file__).parents[2] / "docs" / "gpu.png"
MODEL = "370m"
LENGTH = 512
"""Of the sequences that are generated, where batches are compared."""
OURS = {
    "fast": ("this project, packed weights", "#2f6db3", "o-"),
    "transformer": ("Transformer++, compiled and captured", "#d1782c", "s-"),
    "naive": ("plain torch, eager", "#8a949e", "^-"),
}
THEIRS = {
    ("NVIDIA H200", "reference implementation"): (
        "reference implementation, H200",
        "#4f9d69",
        "D--",
    ),
    ("NVIDIA H100", "reference code"): ("reference code, H100, published", "#a35fa8", "v:"),
}

Curve = tuple[str, str, str, list[tuple[float, float, float]]]
"""A label, a colour, a style, and points: where, tokens/s, mJ/token."""


def curves(
    rows: list[dict[str, Any]], mode: str, where: str, kept: Callable[[Any], bool]
) -> list[Curve]:
    """The curves of a mode along `where`, of rows of one device, one a point."""
    found = []
    for name, look in OURS.items():
        mine = [
            row
            for row in rows
            if (row["impl"], row["model"], row["mode"]) == (name, MODEL, mode) and kept(row)
        ]
        points = [(row[where], row["tokens_per_s"], row["millijoule_per_token"]) for row in mine]
        found.append((*look, sorted(points)))
    known = [
        row
        for row in published.load()
        if (row.model, row.mode) == (MODEL, mode) and row.same_architecture
    ]
    for (device, implementation), look in THEIRS.items():
        theirs = [
            row for row in known if (row.device, row.implementation) == (device, implementation)
        ]
        if where == "batch":  # a state has one size, so that the length does not matter
            theirs = [row for row in theirs if row.sequence_length in (0, 500)]
        points = [
            (getattr(row, where), row.tokens_per_s, row.millijoule_per_token) for row in theirs
        ]
        found.append((*look, sorted(points)))
    return [curve for curve in found if curve[-1]]


def panel(axes: Axes, found: list[Curve], value: int, label: str, along: str) -> None:
    """One quarter of the picture."""
    for name, colour, style, points in found:
        axes.plot(
            [p[0] for p in points],
            [p[value] for p in points],
            style,
            color=colour,
            label=name,
            markersize=4.5,
        )
    axes.set(xscale="log", yscale="log", xlabel=along, ylabel=label)
    places = sorted({point[0] for *_, points in found for point in points})
    axes.set_xticks(
        places,
        [f"{place:,.0f}" for place in places],
        rotation=45 if len(places) > 6 else 0,
        fontsize=7,
    )
    axes.minorticks_off()
    low, high = axes.get_ylim()
    axes.yaxis.set_major_locator(LogLocator(subs=(1, 2, 5) if high < 200 * low else (1,)))
    axes.yaxis.set_major_formatter(lambda y, _: f"{y:,.10g}")
    axes.grid(alpha=0.25)
    axes.spines[["top", "right"]].set_visible(False)


def draw(rows: list[dict[str, Any]], picture: Path, device: str = "") -> None:
    """Write the picture of the rows of one GPU, the one that was measured last or that is named."""
    rows = of_record([row for row in rows if row["model"] == MODEL], device)
    if not rows:
        raise InputError(f"there is no row of {MODEL} to draw")
    figure = Figure(figsize=(10, 7.2), layout="constrained")
    quarters = figure.subplots(2, 2)
    halves = (
        (
            "generate",
            "batch",
            lambda row: row["sequence_length"] == LENGTH,
            "sequences at once (generation)",
        ),
        (
            "prefill",
            "sequence_length",
            lambda row: row["batch"] == 1,
            "tokens of the prompt (prefill, one sequence)",
        ),
    )
    labels: dict[str, Any] = {}
    for column, (mode, where, kept, along) in enumerate(halves):
        found = curves(rows, mode, where, kept)
        for line, (value, label) in enumerate(((1, "tokens/s"), (2, "mJ/token"))):
            panel(quarters[line][column], found, value, label, along)
            labels |= dict(
                zip(*reversed(quarters[line][column].get_legend_handles_labels()), strict=True)
            )
    figure.legend(
        labels.values(),
        labels.keys(),
        loc="outside lower center",
        ncols=3,
        frameon=False,
        fontsize=8,
    )
    figure.suptitle(
        f"{MODEL.upper()}: speed and energy, on one {rows[0]['device']} unless another is named",
        fontsize=11,
    )
    picture.parent.mkdir(parents=True, exist_ok=True)
    figure.savefig(picture, dpi=150, metadata={"Software": None})


def main(arguments: list[str]) -> int:
    """Draw; 2 where the rows cannot be used."""
    rows, picture = (
        Path(a) if a else b for a, b in zip([*arguments, "", ""], (ROWS, PICTURE), strict=False)
    )
    try:
        draw(load(rows), picture)
    except MMFreeError as error:
        print(f"{rows}: {error}", file=sys.stderr)
        return 2
    print(f"wrote {picture}")
    return 0


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
