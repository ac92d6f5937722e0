"""What the pictures of the HTML page are drawn from: where a run stands among other machines, and
the chips with their cores.

The templates of the page make SVG of it that follows the colours of the page.  The script of the
page colours cores anew and tells of the one that is pointed at; without it the picture is there all
the same.
"""

import math
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass
from itertools import zip_longest
from typing import Any

from mmfree_neuro.baselines.compared import Figures
from mmfree_neuro.mapping.mapping import HOST
from mmfree_neuro.report.record import Content, CoreInUse, Mapped
from mmfree_neuro.report.wording import KINDS, OTHER_KIND, PHASES, figure, spread


@dataclass(frozen=True)
class Dot:
    """A machine among others."""

    name: str
    kind: str
    """The class of its mark: other, comparable or ours."""
    mode: str
    rate: Figures
    """Tokens a second."""
    energy: Figures
    """Millijoules a token."""
    label: str = ""
    """Beside its mark."""

    @property
    def words(self) -> str:
        """All of it."""
        return (
            f"{self.name}, {PHASES[self.mode]}: {spread(self.rate, 'tokens/s')}, "
            f"{spread(self.energy, 'mJ/token')}"
        )


def dots(reports: Sequence[Content], labels: Sequence[str] = ()) -> list[Dot]:
    """Runs, with labels where they have some, and every machine that their reports name: other
    models first, and the runs last."""
    found: dict[str, list[Dot]] = {"other": [], "comparable": [], "ours": []}
    for report, label in zip_longest(reports, labels, fillvalue=""):
        assert not isinstance(report, str)
        comparison = report["comparison"]
        for kind, rows in (
            ("other", comparison["context"]),
            ("comparable", [ratio["theirs"] for ratio in comparison["ratios"]]),
        ):
            for row in rows:
                if row["millijoule_per_token"] is not None:
                    name = f"{row['name']} on {row['device']}, batch {row['batch']}"
                    rate, energy = _one(row["tokens_per_s"]), _one(row["millijoule_per_token"])
                    found[kind].append(Dot(name, kind, row["mode"], rate, energy))
        for mode, phase in report["phases"].items():
            if phase is not None:
                name = f"{report['header']['model']} on {report['header']['system']}, estimated"
                rate, energy = phase["tokens_per_s"], phase["millijoule_per_token"]
                found["ours"].append(Dot(name, "ours", mode, rate, energy, label))
    known = {dot.words for dot in found["comparable"]}
    found["other"] = [dot for dot in found["other"] if dot.words not in known]
    return list(
        {(dot.kind, dot.words, dot.label): dot for some in found.values() for dot in some}.values()
    )


def _one(value: float) -> Figures:
    return {"low": value, "central": value, "high": value}


RAISED = str.maketrans("-0123456789", "⁻⁰¹²³⁴⁵⁶⁷⁸⁹")
WIDE, HIGH = 760, 420
LEFT, RIGHT, TOP, BOTTOM = 66, 24, 12, 48


class Axis:
    """A logarithmic axis over whole decades that holds all values."""

    def __init__(self, values: Iterable[float], start: float, stop: float) -> None:
        logs = [math.log10(value) for value in values if value > 0] or [0.0]
        self.first, self.last = math.floor(min(logs)), math.ceil(max(logs))
        self.last += self.first == self.last
        self.start, self.stop = start, stop

    def at(self, value: float) -> float:
        """Where a value is; what is not positive is at the lower end."""
        power = math.log10(value) if value > 0 else self.first
        share = (power - self.first) / (self.last - self.first)
        return round(self.start + share * (self.stop - self.start), 1)

    def ticks(self) -> list[tuple[float, str]]:
        """Where the powers of ten are, and their names."""
        powers = range(self.first, self.last + 1)
        return [(self.at(10.0**power), f"10{str(power).translate(RAISED)}") for power in powers]


def scatter(found: Sequence[Dot]) -> dict[str, Any]:
    """Where machines are in a picture of tokens a second against millijoules a token."""
    across = Axis((v for dot in found for v in dot.rate.values()), LEFT, WIDE - RIGHT)  # type: ignore[misc]
    up = Axis((v for dot in found for v in dot.energy.values()), HIGH - BOTTOM, TOP)  # type: ignore[misc]
    marks = [
        {
            "dot": dot,
            "x": [across.at(dot.rate[end]) for end in ("low", "central", "high")],
            "y": [up.at(dot.energy[end]) for end in ("low", "central", "high")],
        }
        for dot in found
    ]
    box = {"wide": WIDE, "high": HIGH, "left": LEFT, "right": WIDE - RIGHT}
    box |= {"top": TOP, "bottom": HIGH - BOTTOM}
    kinds = {kind: any(dot.kind == kind for dot in found) for kind in ("other", "comparable")}
    ticks = {"across": across.ticks(), "up": up.ticks()}
    return {"box": box, "marks": marks, "kinds": kinds, **ticks}


# Chips and their cores.

CORE, GAP, HEAD = 10, 26, 20


@dataclass(frozen=True)
class Grid:
    """Where chips and cores lie in the picture: chips side by side, cores as on their meshes."""

    chips: Sequence[int]
    cores: int
    each: int
    """Cores of a router."""
    routers: int
    """Of a row of the mesh."""

    @property
    def across(self) -> int:
        """Chips side by side."""
        return min(len(self.chips), max(2, round(math.sqrt(len(self.chips) * 1.5))))

    @property
    def inside(self) -> int:
        """Cores of a router side by side."""
        return math.isqrt(self.each)

    @property
    def wide(self) -> int:
        """Of a chip."""
        return self.routers * self.inside * CORE

    @property
    def high(self) -> int:
        """Of a chip."""
        rows = -(-self.cores // (self.routers * self.each))
        return rows * -(-self.each // self.inside) * CORE

    def chip(self, chip: int) -> tuple[float, float]:
        """The corner of a chip."""
        row, column = divmod(self.chips.index(chip), self.across)
        return column * (self.wide + GAP) + 6, row * (self.high + GAP + HEAD) + HEAD

    def core(self, core: int) -> tuple[int, int]:
        """The corner of a core in its chip."""
        router, inside = divmod(core, self.each)
        column = router % self.routers * self.inside + inside % self.inside
        row = router // self.routers * -(-self.each // self.inside) + inside // self.inside
        return column * CORE, row * CORE

    @property
    def size(self) -> tuple[int, int]:
        """Of the whole picture."""
        rows = -(-len(self.chips) // self.across)
        return self.across * (self.wide + GAP), rows * (self.high + GAP + HEAD) + 6


def _grid(report: Mapped) -> Grid:
    mapping = report["mapping"]
    cores = mapping["cores_per_chip"]
    each = min(mapping["cores_per_router"], cores)
    chips = sorted({core["chip"] for core in mapping["content"]})
    return Grid(chips, cores, each, min(mapping["mesh_columns"], -(-cores // each)))


def chips(report: Content) -> dict[str, Any]:
    """The chips in use with their cores, and what goes from chip to chip."""
    grid, content = _grid(report), report["mapping"]["content"]
    used = {(core["chip"], core["core"]): number for number, core in enumerate(content)}
    blocks = _blocks(content)
    shown = []
    for chip in grid.chips:
        cores = []
        for core in range(grid.cores):
            number = used.get((chip, core))
            colour = "" if number is None else KINDS.get(content[number]["kind"], OTHER_KIND)
            cores.append((*grid.core(core), number, colour))
        name = f"chip {chip}{blocks.get(chip, '')}"
        shown.append({"at": grid.chip(chip), "name": name, "cores": cores})
    arrows = list(_arrows(report, grid))
    return {"size": grid.size, "chip": (grid.wide, grid.high), "chips": shown, "arrows": arrows}


def _blocks(content: Sequence[CoreInUse]) -> dict[int, str]:
    """Which blocks lie on each chip, in words."""
    found: dict[int, set[int]] = {}
    for core in content:
        if core["block"] is not None:
            found.setdefault(core["chip"], set()).add(core["block"])
    return {
        chip: f", block {min(some)}" if len(some) == 1 else f", blocks {min(some)}–{max(some)}"
        for chip, some in found.items()
    }


def _arrows(report: Content, grid: Grid) -> Iterator[dict[str, Any]]:
    """Messages from chip to chip; those of the host are in a table."""
    between = [one for one in report["links"] if HOST not in (one["source"], one["destination"])]
    most = max((one["messages_per_token"] for one in between), default=0.0) or 1.0
    for one in between:
        (x, y), (u, v) = grid.chip(one["source"]), grid.chip(one["destination"])
        long = math.hypot(u - x, v - y)
        # Two chips that send to each other have an arrow each, one on either side of the line.
        aside = 6 * (y - v) / long + grid.wide / 2, 6 * (u - x) / long + grid.high / 2
        back = 12 * (u - x) / long, 12 * (v - y) / long
        ends = (x + aside[0], y + aside[1]), (u + aside[0] - back[0], v + aside[1] - back[1])
        yield {
            "from": tuple(map(round, ends[0])),
            "to": tuple(map(round, ends[1])),
            "wide": round(0.8 + 3.2 * one["messages_per_token"] / most, 1),
            "words": f"chip {one['source']} to chip {one['destination']}: "
            f"{figure(one['messages_per_token'], 'messages per token')}",
        }


LIMITED = {
    "synaptic_memory": "synaptic memory, % of the limit",
    "memory": "memory, % of the limit",
    "neurons": "neurons, % of the limit",
}


def core_data(report: Content) -> dict[str, Any]:
    """What the script of the page knows of cores in use: names of figures, colours of kinds, and
    for each core its chip, number, kind, block, what lies there and its figures."""
    spent = {
        mode: {
            (core["chip"], core["core"]): core["millijoule_per_token"]
            for core in phase["dynamic"]["cores"]
        }
        for mode, phase in report["phases"].items()
        if phase is not None
    }
    use, rows = report["mapping"]["use"], []
    for core in report["mapping"]["content"]:
        shares = [
            100 * core["use"][name] / limit if (limit := use[name]["limit"]) else 0.0
            for name in LIMITED
        ]
        energies = [by.get((core["chip"], core["core"]), 0.0) for by in spent.values()]
        figures = [float(f"{value:.3g}") for value in (*shares, *energies)]
        place = [core["chip"], core["core"], core["kind"], core["block"]]
        rows.append([*place, ", ".join(core["holds"]), figures])
    energy = [f"dynamic energy in {PHASES[mode]}, mJ/token" for mode in spent]
    kinds = {str(row[2]): KINDS.get(str(row[2]), OTHER_KIND) for row in rows}
    return {"figures": [*LIMITED.values(), *energy], "kinds": kinds, "cores": rows}
