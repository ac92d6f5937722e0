"""Draws rooms on their floors as SVG, each arrow from a room down to one that it imports.

Arrows that others imply are drawn faintly: where a imports b and b imports c, the arrow from a to c
says nothing new. The other arrows pass between the boxes of the floors that they cross: on each of
them an arrow has a place of its own, as a box does. The order of a floor is found as is usual for
layered graphs: each place moves to the middle of its neighbours above, then of those below, again
and again, and the order with the fewest crossings is kept.
"""

from collections.abc import Callable, Iterable
from dataclasses import dataclass
from html import escape
from itertools import combinations, pairwise
from pathlib import Path

Arrow = tuple[str, str]
Place = str | tuple[str, str, int]
"""A room, or where the arrow between two rooms passes a floor."""

Links = dict[Place, list[Place]]
"""The neighbours of each place on the next floor up, or down."""

COLOURS = {
    "mmfree_neuro": ("#dbe8f7", "#2c5f9e"),
    "mmfree_partition": ("#dff0dc", "#3d7a35"),
    "mmfree_kernels": ("#fbe6d0", "#a85b12"),
    "mmfree_sims": ("#ece0f4", "#71449b"),
}
"""Of each package: what its boxes are filled with, and what lines and letters are drawn in."""

BOX, FLOOR, GAP, LETTER = 30, 86, 22, 7.6
"""The height of a box and of a floor, the room between neighbours, and the width of a letter."""

LEFT, TOP, RIGHT = 74, 64, 24
"""Margins: floors are numbered on the left, and colours are explained on top."""

PASSAGE, LEGEND = 14, 630
"""The width of where an arrow passes a floor, and of the text on top. All are in pixels."""

SWEEPS = 24


@dataclass(frozen=True)
class Drawing:
    """Where everything lies."""

    rows: tuple[tuple[Place, ...], ...]  # from the ground up, each from left to right
    x: dict[Place, float]  # the middle of each
    paths: dict[Arrow, tuple[Place, ...]]  # of arrows that no others imply, downwards

    @property
    def width(self) -> float:
        """Of the whole picture."""
        return max(LEGEND, max(x + width(place) / 2 for place, x in self.x.items())) + RIGHT

    @property
    def height(self) -> float:
        """Of the whole picture."""
        return TOP + FLOOR * len(self.rows)

    def y(self, floor: int) -> float:
        """The middle of a floor."""
        return TOP + FLOOR * (len(self.rows) - floor - 0.5)


def picture(path: Path, floors: dict[str, int], arrows: set[Arrow]) -> None:
    """Write the picture of rooms, given the floor of each."""
    path.write_text(svg(floors, arrows), encoding="utf-8")


def svg(floors: dict[str, int], arrows: set[Arrow]) -> str:
    """The picture as text."""
    drawing = draw(floors, arrows)
    size = f"{drawing.width:.0f} {drawing.height:.0f}"
    parts = [
        f'<svg xmlns="http://www.w3.org/2000/svg" viewBox="0 0 {size}" width="{size.split()[0]}" '
        'font-family="DejaVu Sans, Verdana, sans-serif" font-size="12">',
        "<title>The rooms of the four packages on their floors, drawn from their imports</title>",
        _heads(),
        f'<rect width="100%" height="100%" fill="#ffffff"/>{_legend(floors)}',
        *_bands(drawing),
        *_faint(drawing, floors, arrows - set(drawing.paths)),
        *_strong(drawing, floors),
        *(_box(drawing, room, floor) for room, floor in sorted(floors.items())),
        "</svg>",
    ]
    return "\n".join(parts) + "\n"


# Where things lie.


def draw(floors: dict[str, int], arrows: set[Arrow]) -> Drawing:
    """An order of every floor with few crossings, and the places along it."""
    paths = {arrow: _path(arrow, floors) for arrow in sorted(needed(arrows, floors))}
    places: set[Place] = {*floors, *(place for path in paths.values() for place in path)}
    rows: list[list[Place]] = [[] for _ in range(1 + max(floors.values()))]
    for place in sorted(places, key=str):
        rows[floors[place] if isinstance(place, str) else place[2]].append(place)
    above: Links = {place: [] for place in places}
    below: Links = {place: [] for place in places}
    for path in paths.values():
        for upper, lower in pairwise(path):
            above[lower].append(upper)
            below[upper].append(lower)
    ordered = _ordered(rows, above, below)
    x = _straightened(ordered, {place: above[place] + below[place] for place in places})
    return Drawing(tuple(map(tuple, ordered)), x, paths)


def needed(arrows: set[Arrow], floors: dict[str, int]) -> set[Arrow]:
    """The arrows down that no longer way implies."""
    down = {(a, b) for a, b in arrows if floors[a] > floors[b]}
    below = {a: {b for other, b in down if other == a} for a in floors}
    reached: dict[str, set[str]] = {}
    for room in sorted(floors, key=lambda name: floors[name]):
        reached[room] = below[room].union(*(reached[other] for other in below[room]))
    return {(a, b) for a, b in down if not any(b in reached[other] for other in below[a])}


def width(place: Place) -> float:
    """What a place takes of its floor."""
    return LETTER * len(label(place)) + 18 if isinstance(place, str) else PASSAGE


def label(room: str) -> str:
    """What is written into a box."""
    return room.partition(".")[2]


def _path(arrow: Arrow, floors: dict[str, int]) -> tuple[Place, ...]:
    """An arrow from floor to floor."""
    a, b = arrow
    return (a, *((a, b, floor) for floor in range(floors[a] - 1, floors[b], -1)), b)


def _ordered(rows: list[list[Place]], above: Links, below: Links) -> list[list[Place]]:
    """The rows, each in an order with few crossings."""
    x = {place: float(k) for row in rows for k, place in enumerate(row)}
    best, fewest = dict(x), _all_crossings(rows, x, below)
    for sweep in range(SWEEPS):
        near, turn = (above, rows[::-1]) if sweep % 2 == 0 else (below, rows)
        for row in turn:
            order = sorted(row, key=lambda place: (_middle(x, place, near[place]), str(place)))
            x |= {place: float(k) for k, place in enumerate(order)}
        count = _all_crossings(rows, x, below)
        if count < fewest:
            best, fewest = dict(x), count
    return [sorted(row, key=lambda place: best[place]) for row in rows]


def crossings(x: dict[Place, float], below: Links) -> int:
    """How often the lines from a row to the row below it cross."""
    lines = [(x[upper], x[lower]) for upper, row in below.items() for lower in row]
    return sum((a - c) * (b - d) < 0 for (a, b), (c, d) in combinations(lines, 2))


def _all_crossings(rows: list[list[Place]], x: dict[Place, float], below: Links) -> int:
    return sum(crossings(x, {place: below[place] for place in row}) for row in rows)


def _straightened(rows: list[list[Place]], near: Links) -> dict[Place, float]:
    """Every place is drawn to the middle of its neighbours, again and again, up and down."""
    x: dict[Place, float] = {}
    for row in rows:
        x |= spaced(row, [0.0] * len(row))
    for sweep in range(SWEEPS):
        for row in rows if sweep % 2 else rows[::-1]:
            x |= spaced(row, [_middle(x, place, near[place]) for place in row])
    left = min(middle - width(place) / 2 for place, middle in x.items())
    return {place: middle - left + LEFT for place, middle in x.items()}


def _middle(x: dict[Place, float], place: Place, others: list[Place]) -> float:
    return _mean([x[other] for other in others]) if others else x[place]


def spaced(row: list[Place], wanted: list[float]) -> dict[Place, float]:
    """The places of a row, in this order, as near as can be to where they are wanted.

    Neighbours that would overlap are joined into a block, which lies at the mean of what its
    members want. A and B of width 14, both wanted at 0, with a gap of 22 come to -18 and 18.
    """
    starts, total = [], 0.0  # how far right of the first of its row each would lie if all touched
    for place in row:
        starts.append(total + width(place) / 2)
        total += width(place) + GAP
    blocks: list[list[float]] = []  # the offsets that each block's members want
    for start, middle in zip(starts, wanted, strict=True):
        blocks.append([middle - start])
        while len(blocks) > 1 and _mean(blocks[-2]) >= _mean(blocks[-1]):
            last = blocks.pop()
            blocks[-1] += last
    offsets = [_mean(block) for block in blocks for _ in block]
    return {p: start + offset for p, start, offset in zip(row, starts, offsets, strict=True)}


def _mean(values: list[float]) -> float:
    return sum(values) / len(values)


# What is drawn there.


def colours(room: str) -> tuple[str, str]:
    """What fills a box and what draws its lines."""
    return COLOURS.get(room.partition(".")[0], ("#eeeeee", "#555555"))


def _heads() -> str:
    """The heads of arrows, one for each package, as a line's colour does not reach its head."""
    heads = [
        f'<marker id="{package}" viewBox="0 0 8 8" refX="7" refY="4" markerWidth="7" '
        f'markerHeight="7" orient="auto"><path d="M0 1L8 4L0 7Z" fill="{line}"/></marker>'
        for package, (_, line) in COLOURS.items()
    ]
    return f"<defs>{''.join(heads)}</defs>"


def _legend(floors: Iterable[str]) -> str:
    """The packages that occur, each in its colours, and what an arrow says."""
    packages = {room.partition(".")[0] for room in floors}
    parts, x = [], float(LEFT)
    for package in (name for name in COLOURS if name in packages):
        fill, line = COLOURS[package]
        parts.append(
            f'<rect x="{x:.0f}" y="14" width="14" height="14" rx="3" fill="{fill}" '
            f'stroke="{line}"/>'
            f'<text x="{x + 20:.0f}" y="25.5" fill="{line}">{package}</text>'
        )
        x += 20 + LETTER * len(package) + 24
    says = "An arrow leads to what is imported; a faint one is implied by others."
    return "".join([*parts, f'<text x="{LEFT}" y="48" fill="#666666">{says}</text>'])


def _bands(drawing: Drawing) -> list[str]:
    """Every second floor is shaded, and all are numbered."""
    parts = []
    for floor in range(len(drawing.rows)):
        y = drawing.y(floor)
        if floor % 2 == 0:
            parts.append(
                f'<rect y="{y - FLOOR / 2:.1f}" width="100%" height="{FLOOR}" fill="#f6f7f9"/>'
            )
        parts.append(f'<text x="14" y="{y + 4:.1f}" fill="#666666">floor {floor}</text>')
    return parts


def _box(drawing: Drawing, room: str, floor: int) -> str:
    fill, line = colours(room)
    x, y, wide = drawing.x[room], drawing.y(floor), width(room)
    return (
        f'<g><title>{escape(room)}</title><rect x="{x - wide / 2:.1f}" y="{y - BOX / 2:.1f}" '
        f'width="{wide:.1f}" height="{BOX}" rx="5" fill="{fill}" stroke="{line}"/>'
        f'<text x="{x:.1f}" y="{y + 4.3:.1f}" text-anchor="middle" fill="{line}">'
        f"{escape(label(room))}</text></g>"
    )


def _faint(drawing: Drawing, floors: dict[str, int], arrows: set[Arrow]) -> list[str]:
    """Arrows that others imply, straight and behind the boxes; within a circle of rooms, in red."""
    parts = []
    for a, b in sorted(arrows):
        implied = floors[a] > floors[b]
        colour, opacity = (colours(a)[1], 0.1) if implied else ("#cc0000", 0.8)
        parts.append(
            f'<path d="M{drawing.x[a]:.1f} {drawing.y(floors[a]):.1f}L{drawing.x[b]:.1f} '
            f'{drawing.y(floors[b]):.1f}" stroke="{colour}" stroke-opacity="{opacity}"/>'
        )
    return parts


def _strong(drawing: Drawing, floors: dict[str, int]) -> list[str]:
    """Arrows that no others imply, each through its places, from one spot on a box to another."""
    starts = _spots(drawing, lambda path: (path[0], path[1]))
    ends = _spots(drawing, lambda path: (path[-1], path[-2]))
    parts = []
    for arrow, path in drawing.paths.items():
        xs = [starts[arrow], *(drawing.x[place] for place in path[1:-1]), ends[arrow]]
        first, last = floors[arrow[0]], floors[arrow[1]]
        y = drawing.y(first) + BOX / 2
        line = f"M{xs[0]:.1f} {y:.1f}"
        for step, (x, to) in enumerate(pairwise(xs), start=1):
            end = drawing.y(first - step) - BOX / 2
            bend = (end - y) / 2
            line += f"C{x:.1f} {y + bend:.1f} {to:.1f} {end - bend:.1f} {to:.1f} {end:.1f}"
            y = end + BOX
            line += f"V{y:.1f}" if first - step > last else ""
        package, colour = arrow[0].partition(".")[0], colours(arrow[0])[1]
        parts.append(
            f'<path d="{line}" fill="none" stroke="{colour}" stroke-opacity="0.6" '
            f'stroke-width="1.2" marker-end="url(#{package})"/>'
        )
    return parts


def _spots(
    drawing: Drawing, ends: Callable[[tuple[Place, ...]], tuple[Place, Place]]
) -> dict[Arrow, float]:
    """Where each arrow touches a box: side by side, in the order of what is at their other side."""
    at: dict[Place, list[tuple[float, Arrow]]] = {}
    for arrow, path in drawing.paths.items():
        box, beyond = ends(path)
        at.setdefault(box, []).append((drawing.x[beyond], arrow))
    found: dict[Arrow, float] = {}
    for box, touching in at.items():
        step = min(16.0, (width(box) - 12) / len(touching))
        left = drawing.x[box] - step * (len(touching) - 1) / 2
        found |= {arrow: left + step * k for k, (_, arrow) in enumerate(sorted(touching))}
    return found
