"""Pictures of a report: chips and cores, use of every limit, energy by part, messages between
chips.

`draw` takes the plain data of `report.build` and gives figures of matplotlib by name, for notebooks
and files; an HTML page draws its own.
"""

import math
from collections.abc import Callable, Iterable, Sequence
from io import BytesIO
from typing import Any

import numpy as np
from matplotlib import colormaps
from matplotlib.axes import Axes
from matplotlib.backends.backend_agg import FigureCanvasAgg
from matplotlib.cm import ScalarMappable
from matplotlib.collections import PatchCollection
from matplotlib.colors import Colormap, LinearSegmentedColormap, LogNorm, Normalize
from matplotlib.figure import Figure
from matplotlib.patches import FancyBboxPatch, Patch, Rectangle
from matplotlib.ticker import FuncFormatter, LogLocator, NullFormatter

from mmfree_neuro.cost.explore import Point, front
from mmfree_neuro.cost.sensitivity import Sensitivity
from mmfree_neuro.mapping.mapping import HOST
from mmfree_neuro.report.record import Content, CoreInUse, Mapped
from mmfree_neuro.report.wording import KINDS, LIMITS, PHASES, figure, spread

SHADES: Colormap = LinearSegmentedColormap.from_list(
    "use", ["#dbe7f6", "#6ba3d6", "#1f5fa8", "#0b2a55"]
)
FREE, INK, FAINT, WARM, COOL = "#e6e6e6", "#22303c", "#8894a0", "#d9742b", "#2f6db3"
DOTS_PER_INCH = 130
MOST_CHIPS = 128
"""Cores are shown of so many chips; the links picture takes neighbouring chips together where there
are more."""
MOST_NAMED = 12
"""The links picture writes its numbers out up to so many rows."""


class Picture(Figure):
    """A figure that a notebook shows without pyplot."""

    def _repr_png_(self) -> bytes:
        return png(self)


def draw(report: Content) -> dict[str, Figure]:
    """Every picture of a report by its name; none of energy where no phase has tokens."""
    pictures = {
        "cores-by-memory": cores_by_memory(report),
        "cores-by-kind": cores_by_kind(report),
        "limits": limits(report),
        "links": links(report),
    }
    if any(phase is not None for phase in report["phases"].values()):
        pictures["energy"] = energy(report)
    return pictures


def png(picture: Figure) -> bytes:
    """A picture as a PNG, the same bytes every time."""
    buffer = BytesIO()
    FigureCanvasAgg(picture).print_png(buffer, metadata={"Software": None})
    return buffer.getvalue()


def _figure(width: float, height: float) -> tuple[Figure, Axes]:
    picture = Picture(
        figsize=(width, height), dpi=DOTS_PER_INCH, facecolor="white", layout="constrained"
    )
    axes = picture.add_subplot()
    for side in ("top", "right", "left", "bottom"):
        axes.spines[side].set_visible(False)
    axes.tick_params(length=0, colors=INK, labelsize=9)
    return picture, axes


def _chips(report: Mapped, colour: Callable[[CoreInUse], Any]) -> tuple[Figure, Axes]:
    """The chips in use side by side, each a mesh of routers with their cores, those in use in the
    colour that `colour` gives."""
    mapping = report["mapping"]
    cores = mapping["cores_per_chip"]
    each = min(mapping["cores_per_router"], cores)
    routers = min(mapping["mesh_columns"], -(-cores // each))
    wide_router = math.isqrt(each)  # its cores side by side; those of four are two by two
    columns = routers * wide_router
    rows = -(-cores // (routers * each)) * -(-each // wide_router)
    chips = sorted({core["chip"] for core in mapping["content"]})
    shown = chips[:MOST_CHIPS]
    wide = max(1, min(len(shown), round(math.sqrt(len(shown) * 1.6 * (rows + 3) / (columns + 2)))))
    high = -(-len(shown) // wide)
    scale = min(0.36, 10.5 / (wide * (columns + 2)))
    picture, axes = _figure(
        max(6.0, wide * (columns + 2) * scale) + 1.2, high * (rows + 3) * scale + 0.9
    )
    used = {(core["chip"], core["core"]): colour(core) for core in mapping["content"]}
    squares, colours = [], []
    for position, chip in enumerate(shown):
        left, top = position % wide * (columns + 2), position // wide * (rows + 3)
        frame = (left - 0.35, top - 0.35), columns + 0.7, rows + 0.7
        axes.add_patch(
            FancyBboxPatch(
                *frame, "round,pad=0,rounding_size=0.5", fc="#fafbfc", ec="#b8c2cc", lw=0.8
            )
        )
        axes.text(
            left, top - 0.7, f"chip {chip}", fontsize=min(8, 130 * scale), color=INK, va="bottom"
        )
        for core in range(cores):
            router, inside = divmod(core, each)
            column = router % routers * wide_router + inside % wide_router
            row = router // routers * -(-each // wide_router) + inside // wide_router
            squares.append(Rectangle((left + column + 0.06, top + row + 0.06), 0.88, 0.88))
            colours.append(used.get((chip, core), FREE))
    axes.add_collection(PatchCollection(squares, facecolors=colours, edgecolors="none"))
    axes.set(
        xlim=(-1, wide * (columns + 2) - 1),
        ylim=(high * (rows + 3) - 2, -1.8),
        xticks=[],
        yticks=[],
    )
    axes.set_aspect("equal", anchor="NW")
    if len(chips) > len(shown):
        axes.set_xlabel(f"the first {len(shown)} of {len(chips)} chips", fontsize=9, color=INK)
    return picture, axes


def _not_in_use(report: Mapped) -> list[tuple[str, Any]]:
    mapping = report["mapping"]
    return (
        [("core not in use", FREE)]
        if mapping["cores"] < mapping["chips"] * mapping["cores_per_chip"]
        else []
    )


def _legend(picture: Figure, entries: Iterable[tuple[str, Any]]) -> None:
    handles = [Patch(facecolor=colour, label=label) for label, colour in entries]
    picture.legend(
        handles=handles,
        loc="outside lower left",
        ncols=int(picture.get_figwidth() / 1.4),
        frameon=False,
        fontsize=9,
        labelcolor=INK,
        handlelength=1,
        handleheight=1,
    )


def cores_by_memory(report: Mapped) -> Figure:
    """Every core by the share of its synaptic memory in use."""
    limit = report["mapping"]["use"]["synaptic_memory"]["limit"]
    assert limit is not None  # every chip's file says it
    shades = ScalarMappable(Normalize(0, 100), SHADES)
    picture, axes = _chips(report, lambda core: SHADES(core["use"]["synaptic_memory"] / limit))
    bar = picture.colorbar(
        shades, ax=axes, orientation="vertical", fraction=0.03, pad=0.01, aspect=25, shrink=0.8
    )
    bar.set_label("% of the synaptic memory of a core", fontsize=9, color=INK)
    bar.ax.spines["outline"].set_visible(False)
    bar.ax.tick_params(length=0, labelsize=9, colors=INK)
    _legend(picture, _not_in_use(report))
    return picture


def cores_by_kind(report: Mapped) -> Figure:
    """Every core by the kind of node that most of its synapses belong to."""
    present = {core["kind"] for core in report["mapping"]["content"]}
    picture, _ = _chips(report, lambda core: KINDS.get(core["kind"], FAINT))
    known = [(kind, colour) for kind, colour in KINDS.items() if kind in present]
    others = [("another kind", FAINT)] if present - KINDS.keys() else []
    _legend(picture, [*known, *others, *_not_in_use(report)])
    return picture


def limits(report: Mapped) -> Figure:
    """The fullest core and the mean, as a share of each limit."""
    use = report["mapping"]["use"]
    limited = [(*LIMITS[name], row) for name, row in use.items() if row["limit"] is not None]
    picture, axes = _figure(9, 1.2 + 0.44 * len(limited))
    for row, (_, unit, used) in enumerate(limited):
        most, mean, limit = used["max"], used["mean"], used["limit"]
        shares = [100 * value / limit if limit else 0.0 for value in (most, mean)]
        axes.barh(row, 100, height=0.62, color="#f0f2f4")
        axes.barh(
            row, shares[0], height=0.62, color="#a9c8e8", label="fullest core" if row == 0 else None
        )
        axes.barh(
            row,
            shares[1],
            height=0.3,
            color=COOL,
            label="mean of the cores in use" if row == 0 else None,
        )
        text = f"{shares[0]:.3g} %   {figure(most)} of {figure(limit, unit)}"
        axes.text(max(101.5, shares[0] + 1.5), row, text, va="center", fontsize=9, color=INK)
    axes.axvline(100, color=WARM, lw=1.2, label="limit")
    axes.set(
        yticks=range(len(limited)), yticklabels=[label for label, *_ in limited], xlim=(0, 100)
    )
    axes.set_xticks([0, 25, 50, 75, 100], ["0", "25", "50", "75", "100 %"])
    axes.invert_yaxis()
    picture.legend(loc="outside lower left", ncols=3, frameon=False, fontsize=9, labelcolor=INK)
    return picture


def _decades(report: Content) -> tuple[float, float]:
    """The ends of a logarithmic axis that shows every positive figure of energy."""
    phases = [phase for phase in report["phases"].values() if phase is not None]
    spans = [part["millijoule_per_token"] for phase in phases for part in phase["parts"]]
    spans += [phase["millijoule_per_token"] for phase in phases]
    central = [span["central"] for span in spans if span["central"] > 0]
    high = [span["high"] for span in spans if span["high"] > 0]
    if not high:
        return 0.1, 10.0
    return min(central or high) / 10, max(high) * 2


def energy(report: Content) -> Figure:
    """A dot at the median and a line from 5 to 95 %, for each part and for the whole."""
    phases = {name: phase for name, phase in report["phases"].items() if phase is not None}
    colours = dict(zip(PHASES, (WARM, COOL), strict=True))
    least, most = _decades(report)
    names = [part["name"] for part in next(iter(phases.values()))["parts"]]
    picture, axes = _figure(10, 5.2)
    for number, (name, phase) in enumerate(phases.items()):
        spans = [part["millijoule_per_token"] for part in phase["parts"]] + [
            phase["millijoule_per_token"]
        ]
        for row, span in enumerate(spans):
            at = row + (number - (len(phases) - 1) / 2) * 0.36 + (0.4 if row == len(names) else 0)
            low, central, high = (max(span[bound], least) for bound in ("low", "central", "high"))
            if span["high"] > 0:
                axes.plot(
                    [low, high],
                    [at, at],
                    color=colours[name],
                    lw=5,
                    alpha=0.3,
                    solid_capstyle="round",
                )
            if span["central"] > 0:
                axes.plot(central, at, "o", color=colours[name], ms=7)
            axes.text(
                1.01,
                at,
                spread(span, "mJ"),
                va="center",
                fontsize=8.5,
                color=colours[name],
                transform=axes.get_yaxis_transform(),
            )
    axes.axhline(len(names) - 0.3, color=FAINT, lw=0.8)
    axes.set_xscale("log")
    axes.minorticks_off()
    axes.set(
        xlim=(least, most),
        yticks=[*range(len(names)), len(names) + 0.4],
        yticklabels=[*names, "in all"],
    )
    axes.set_xlabel("mJ per token: median, and the range from 5 to 95 %", fontsize=9, color=INK)
    axes.grid(axis="x", color="#e3e7eb", lw=0.8)
    axes.set_axisbelow(True)
    axes.invert_yaxis()
    _legend(picture, [(PHASES[name], colours[name]) for name in phases])
    return picture


def _between(report: Content) -> tuple[list[int], int, np.ndarray[Any, Any]]:
    """The chips that rows and columns begin with, how many chips each takes together, and messages
    [from, to]."""
    ends = {link[end] for link in report["links"] for end in ("source", "destination")}
    chips = sorted((ends or {core["chip"] for core in report["mapping"]["content"]}) - {HOST})
    hosts, together = sorted(ends & {HOST}), -(-len(chips) // MOST_CHIPS)
    position = {HOST: 0} | {
        chip: len(hosts) + index // together for index, chip in enumerate(chips)
    }
    starts = hosts + chips[::together]
    table = np.zeros((len(starts), len(starts)))
    for link in report["links"]:
        table[position[link["source"]], position[link["destination"]]] += link["messages_per_token"]
    table[table == 0] = np.nan
    return starts, together, table


def links(report: Content) -> Figure:
    """A matrix: from the chips of the row to those of the column."""
    ends, together, table = _between(report)
    side = min(
        9.0, max(3.4, 0.62 * len(ends) + 1.4) if len(ends) <= MOST_NAMED else 0.22 * len(ends) + 2
    )
    picture, axes = _figure(side + (1.4 if len(ends) > MOST_NAMED else 0), side)
    sent = table[~np.isnan(table)]
    norm = LogNorm(sent.min() / 2, sent.max() * 2) if sent.size else LogNorm(1, 10)
    shades = colormaps["YlGnBu"].with_extremes(bad="#f4f5f7")
    image = axes.imshow(table, norm=norm, cmap=shades)
    names = ["host" if chip == HOST else str(chip) for chip in ends]
    step = -(-len(ends) // 32)
    axes.set_xticks(
        range(0, len(ends), step), names[::step], rotation=90 if len(ends) > MOST_NAMED else 0
    )
    axes.set_yticks(range(0, len(ends), step), names[::step])
    note = "" if together == 1 else f" and the {together - 1} that follow it"
    axes.set_xlabel(f"to chip{note}", fontsize=9, color=INK)
    axes.set_ylabel(f"from chip{note}", fontsize=9, color=INK)
    axes.set_xticks(np.arange(-0.5, len(ends)), minor=True)
    axes.set_yticks(np.arange(-0.5, len(ends)), minor=True)
    axes.grid(which="minor", color="white", lw=1)
    axes.tick_params(which="minor", length=0)
    if len(ends) <= MOST_NAMED:
        _write_out(axes, table, norm)
        return picture
    bar = picture.colorbar(image, ax=axes, shrink=0.8, aspect=25)
    bar.set_label("messages per token", fontsize=9, color=INK)
    bar.ax.spines["outline"].set_visible(False)
    bar.ax.tick_params(which="both", length=0, labelsize=9, colors=INK)
    return picture


def _write_out(axes: Axes, table: np.ndarray[Any, Any], norm: Normalize) -> None:
    for (row, column), value in np.ndenumerate(table):
        if not np.isnan(value):
            ink = "white" if norm(value) > 0.55 else INK
            axes.text(
                column, row, figure(float(value)), ha="center", va="center", fontsize=8, color=ink
            )


MOST_BARS = 12
"""The tornado picture shows so many figures of a phase, those that change most."""


def tornado(found: Sequence[Sensitivity]) -> Figure:
    """For every phase: what each figure at its ends makes of the throughput and of the system's
    energy of a token, beside the line of all central figures."""
    rows = max(2, *(min(MOST_BARS, len(one.swings)) for one in found))
    size = 12, (0.9 + 0.3 * rows) * len(found)
    picture = Picture(figsize=size, dpi=DOTS_PER_INCH, facecolor="white")
    picture.set_layout_engine("constrained")
    panels = {"tokens_per_s": "tokens/s", "millijoule_per_token": "mJ/token, system"}
    for row, one in enumerate(found):
        swings = one.swings[:MOST_BARS]
        for column, (name, label) in enumerate(panels.items()):
            axes = picture.add_subplot(len(found), 2, 2 * row + column + 1)
            middle = getattr(one.base, name)
            for place, swing in enumerate(swings):
                for end, ink in ((swing.at_low, COOL), (swing.at_high, WARM)):
                    axes.barh(place, getattr(end, name) - middle, 0.7, middle, color=ink)
            axes.axvline(middle, color=INK, lw=0.8)
            names = [swing.figure.partition(".")[2].replace("_", " ") for swing in swings]
            axes.set_yticks(range(len(swings)), names if column == 0 else [""] * len(swings))
            axes.invert_yaxis()
            axes.set_title(f"{PHASES[one.phase]}: {label}", fontsize=10, color=INK)
            axes.grid(axis="x", color="#e3e7eb", lw=0.8)
            axes.set_axisbelow(True)
            axes.tick_params(which="both", length=0, labelsize=8, colors=INK)
    _legend(picture, [("at its low end", COOL), ("at its high end", WARM)])
    return picture


def fronts(found: Sequence[Point]) -> Figure:
    """For every phase and mode: tokens a second against the system's energy of a token, those on
    the front in colour.

    A point's size grows with its chips; lines from it go from 5 to 95 %.
    """
    groups = list(dict.fromkeys((point.phase, point.mode) for point in found))
    picture = Picture(
        figsize=(11, 4.4 * -(-len(groups) // 2)), dpi=DOTS_PER_INCH, facecolor="white"
    )
    picture.set_layout_engine("constrained")
    named: list[tuple[Axes, Sequence[Point]]] = []
    for number, (phase, mode) in enumerate(groups, start=1):
        axes = picture.add_subplot(-(-len(groups) // 2), 2, number)
        here = [point for point in found if (point.phase, point.mode) == (phase, mode)]
        best = front(here)
        for point in here:
            rate, energy = point.tokens_per_s, point.millijoule_per_token
            ink = COOL if point in best else "#c3cad1"
            axes.plot([rate.low, rate.high], [energy.central] * 2, color=ink, lw=0.8, alpha=0.5)
            axes.plot([rate.central] * 2, [energy.low, energy.high], color=ink, lw=0.8, alpha=0.5)
            axes.scatter(
                rate.central,
                energy.central,
                s=8 + 2 * point.chips,
                color=ink,
                zorder=2 + (point in best),
            )
        scale = "log" if any(point.millijoule_per_token.high > 0 for point in here) else "linear"
        axes.set(xscale="log", yscale=scale, title=f"{PHASES[phase]}, {mode}")
        for axis in (axes.xaxis, axes.yaxis) if scale == "log" else ():
            axis.set_major_locator(LogLocator(subs=(1, 2, 5)))
            axis.set_major_formatter(FuncFormatter(lambda value, _: f"{value:g}"))
            axis.set_minor_formatter(NullFormatter())
        axes.set_xlabel("tokens/s", fontsize=9, color=INK)
        axes.set_ylabel("mJ/token, system", fontsize=9, color=INK)
        axes.grid(color="#e3e7eb", lw=0.8)
        axes.tick_params(which="both", length=0, labelsize=8, colors=INK)
        named.append((axes, best))
    FigureCanvasAgg(picture).draw()  # which gives the panels their places
    picture.set_layout_engine("none")
    for axes, points in named:
        _name(axes, points)
    return picture


APART = 12
"""Points of a picture, from one label to the next."""


def _name(axes: Axes, best: Sequence[Point]) -> None:
    """Labels on the right of a panel's best points, from above to below, none over another; a line
    leads from one that had to move."""
    scale = axes.get_figure(root=True).dpi / 72  # type: ignore[union-attr]
    last = math.inf
    for point in sorted(best, key=lambda point: -point.millijoule_per_token.central):
        at = point.tokens_per_s.central, point.millijoule_per_token.central
        _, high = axes.transData.transform(at) / scale
        label = min(high + 9, last - APART)
        last = label
        arrow = {"arrowstyle": "-", "color": FAINT, "lw": 0.6, "shrinkA": 0, "shrinkB": 3}
        axes.annotate(
            f"{point.chips} chip{'s' if point.chips > 1 else ''}",
            at,
            (9, label - high),
            textcoords="offset points",
            fontsize=7.5,
            color=INK,
            va="center",
            bbox={"boxstyle": "square,pad=0.1", "fc": "white", "ec": "none", "alpha": 0.8},
            arrowprops=arrow if high + 9 - label > APART / 2 else None,
        )
