"""The chips of a run with their cores, as the HTML page draws them: where each lies on its board,
what goes from chip to chip, and what the script of the page knows of every core."""

import math
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from itertools import pairwise
from typing import Any

from mmfree_neuro.mapping.mapping import HOST
from mmfree_neuro.report.record import Content, CoreInUse, Mapped
from mmfree_neuro.report.wording import KINDS, OTHER_KIND, PHASES, figure

CORE, GAP, HEAD, FRAME = 10, 26, 26, 3
"""Pixels: of a core, between two chips, of the name above a chip, of a frame around its cores."""
WHOLE_BOARD = 32
"""A board of up to so many chips is drawn whole; of a larger one the rows and columns in use."""


@dataclass(frozen=True)
class Grid:
    """Where chips and cores lie in the picture: chips as on their board, cores as on their
    meshes."""

    used: Sequence[int]
    of_system: int
    columns: int
    """Of chips on the board; grids that lie behind the first are drawn below it."""
    cores: int
    each: int
    """Cores of a router."""
    routers: int
    """Of a row of the mesh."""

    @property
    def places(self) -> tuple[range, list[int]]:
        """The columns and the rows of the board that are drawn."""
        columns = min(self.columns, self.of_system)
        if self.of_system <= WHOLE_BOARD:
            return range(columns), list(range(-(-self.of_system // columns)))
        across = [chip % columns for chip in self.used]
        return range(min(across), max(across) + 1), sorted({chip // columns for chip in self.used})

    @property
    def chips(self) -> list[int]:
        """The chips that are drawn, in use or not."""
        columns, rows = self.places
        found = (
            row * min(self.columns, self.of_system) + column for row in rows for column in columns
        )
        return [chip for chip in found if chip < self.of_system]

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

    def chip(self, chip: int) -> tuple[int, int]:
        """The corner of a chip."""
        columns, rows = self.places
        row, column = divmod(chip, min(self.columns, self.of_system))
        across, down = column - columns.start, rows.index(row)
        return across * (self.wide + GAP) + 6, down * (self.high + GAP + HEAD) + HEAD

    def core(self, core: int) -> tuple[int, int]:
        """The corner of a core in its chip."""
        router, inside = divmod(core, self.each)
        column = router % self.routers * self.inside + inside % self.inside
        row = router // self.routers * -(-self.each // self.inside) + inside // self.inside
        return column * CORE, row * CORE

    @property
    def size(self) -> tuple[int, int]:
        """Of the whole picture."""
        columns, rows = self.places
        return len(columns) * (self.wide + GAP) + 6, len(rows) * (self.high + GAP + HEAD)

    def way(self, source: int, destination: int, aside: int) -> list[tuple[int, int]]:
        """The corners of a line from chip to chip, which runs between chips and their names,
        `aside` of the middle of its lanes.

        It leaves a chip at the side of the other one and runs along the gap there.  Where that is
        not the gap beside the other chip, it changes below a row of chips.
        """
        (x, y), (u, v) = self.chip(source), self.chip(destination)
        right, beside = self.wide + FRAME, GAP // 2
        if u < x:
            begin, leave, arrive, end = x - FRAME, x - beside, u + self.wide + beside, u + right
        elif u == x:
            begin, end = x + right, u + right
            leave = arrive = x + self.wide + beside
        else:
            begin, leave, arrive, end = x + right, x + self.wide + beside, u - beside, u - FRAME
        from_, to = y + self.high // 2 + aside, v + self.high // 2 + aside
        below = min(y, v) + self.high + GAP // 2 + aside
        change = [] if leave == arrive else [(leave + aside, below), (arrive + aside, below)]
        ends = (begin, from_), (leave + aside, from_), (arrive + aside, to), (end, to)
        corners = [*ends[:2], *change, *ends[2:]]
        return [corners[0], *(new for old, new in pairwise(corners) if old != new)]


def _grid(report: Mapped) -> Grid:
    mapping = report["mapping"]
    cores = mapping["cores_per_chip"]
    each = min(mapping["cores_per_router"], cores)
    used = sorted({core["chip"] for core in mapping["content"]})
    board = mapping["chips_of_system"], mapping["chip_columns"]
    return Grid(used, *board, cores, each, min(mapping["mesh_columns"], -(-cores // each)))


def chips(report: Content) -> dict[str, Any]:
    """The chips in use with their cores, and what goes from chip to chip."""
    grid, content = _grid(report), report["mapping"]["content"]
    numbers = {(core["chip"], core["core"]): number for number, core in enumerate(content)}
    blocks = _blocks(content)
    shown = []
    for chip in grid.chips:
        cores = []
        for core in range(grid.cores if chip in grid.used else 0):
            number = numbers.get((chip, core))
            colour = "" if number is None else KINDS.get(content[number]["kind"], OTHER_KIND)
            cores.append((*grid.core(core), number, colour))
        more = blocks.get(chip, "") if cores else ", not in use"
        shown.append({"at": grid.chip(chip), "name": f"chip {chip}", "more": more, "cores": cores})
    return {
        "size": grid.size,
        "columns": len(grid.places[0]),
        "chip": (grid.wide, grid.high),
        "chips": shown,
        "arrows": list(_arrows(report, grid)),
        "words": _in_words(report, grid),
    }


def _in_words(report: Mapped, grid: Grid) -> str:
    """The picture in a sentence."""
    mapping = report["mapping"]
    columns, rows = grid.places
    if len(grid.chips) < grid.of_system:
        begin = f"The rows and columns in use of {grid.of_system:,} chips, {grid.columns:,} a row"
    else:
        begin = f"The board of {len(columns)} × {len(rows)} chips"
    return f"{begin}; {mapping['cores']:,} cores of {mapping['chips']:,} of them are in use"


def _blocks(content: Sequence[CoreInUse]) -> dict[int, str]:
    """Which blocks lie on each chip, in words."""
    found: dict[int, set[int]] = {}
    for core in content:
        found.setdefault(core["chip"], set()).update(core["blocks"])
    return {
        chip: f", block {min(some)}" if len(some) == 1 else f", blocks {min(some)}–{max(some)}"
        for chip, some in found.items()
        if some
    }


def _arrows(report: Content, grid: Grid) -> Iterator[dict[str, Any]]:
    """Messages from chip to chip; those of the host are in a table."""
    between = [one for one in report["links"] if HOST not in (one["source"], one["destination"])]
    most = max((one["messages_per_token"] for one in between), default=0.0) or 1.0
    for number, one in enumerate(between):
        source, destination = one["source"], one["destination"]
        aside = (2 + 3 * (number % 3)) * (1 if source < destination else -1)
        yield {
            "way": grid.way(source, destination, aside),
            "wide": round(0.8 + 3.2 * one["messages_per_token"] / most, 1),
            "words": f"chip {source} to chip {destination}: "
            f"{figure(one['messages_per_token'], 'messages per token')}",
        }


LIMITED = {"synaptic_memory": "synaptic memory", "memory": "memory", "neurons": "neurons"}
OUTSIDE = "#8a8f98"
"""Of cores of no block."""


def block_colours(blocks: Sequence[int]) -> list[str]:
    """A colour for each block: neighbours differ in hue and in lightness, and no hue is that of our
    estimates."""
    lights = 40, 62
    return [
        f"hsl({70 + round(285 * number / max(1, len(blocks) - 1))} 60% {lights[number % 2]}%)"
        for number in range(len(blocks))
    ]


def core_data(report: Content) -> dict[str, Any]:
    """What the script of the page knows: the colours of kinds and of blocks; every figure with the
    values that cores have, smallest first, in words and as shares of the largest; and for each core
    in use its chip, number, kind, block, what lies there, and which values it has."""
    use, content = report["mapping"]["use"], report["mapping"]["content"]
    figures = [
        _valued(f"{words}, % of the limit", "%", [100 * value / limit for value in of_cores])
        for name, words in LIMITED.items()
        if (limit := use[name]["limit"])
        for of_cores in ([core["use"][name] for core in content],)
    ]
    for mode, phase in report["phases"].items():
        if phase is not None:
            spent = {
                (core["chip"], core["core"]): core["millijoule_per_token"]
                for core in phase["dynamic"]["cores"]
            }
            each = [spent.get((core["chip"], core["core"]), 0.0) for core in content]
            name = f"dynamic energy in {PHASES[mode]}"
            figures.append(_valued(f"{name}, per token", "mJ/token", each))
    blocks = sorted({core["block"] for core in content if core["block"] is not None})
    kinds = dict.fromkeys(core["kind"] for core in content)
    return {
        "figures": [shown for shown, _ in figures],
        "kinds": {kind: KINDS.get(kind, OTHER_KIND) for kind in kinds},
        "blocks": dict(zip(map(str, blocks), block_colours(blocks), strict=True)),
        "outside": OUTSIDE,
        "cores": [
            [
                *(core["chip"], core["core"], core["kind"], core["block"]),
                ", ".join(core["holds"]),
                [which[number] for _, which in figures],
            ]
            for number, core in enumerate(content)
        ],
    }


def _valued(name: str, unit: str, values: Sequence[float]) -> tuple[dict[str, Any], list[int]]:
    """A figure with its values to three digits, and which of them each core has."""
    rounded = [float(f"{value:.3g}") for value in values]
    different = sorted(set(rounded))
    place = {value: number for number, value in enumerate(different)}
    least, most = different[0], different[-1]
    shares = [round((v - least) / (most - least), 3) if most > least else 0.5 for v in different]
    words = [figure(value, unit) for value in different]
    return {"name": name, "words": words, "shares": shares}, [place[v] for v in rounded]
