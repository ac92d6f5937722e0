"""What the pictures of the HTML page are drawn from: where a run stands among other machines, the
energy of a token by part, and how full cores are; `chips` has those of the chips.

The templates of the page make SVG of it that follows the colours of the page.
"""

import math
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass, replace
from itertools import zip_longest
from typing import Any

from mmfree_neuro.baselines.compared import Figures, Theirs
from mmfree_neuro.report.record import Content, Mapped, Phase
from mmfree_neuro.report.wording import LIMITS, PHASES, RAISED, ends, figure, spread


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
                    known_as = landmark(row)
                    found[kind].append(Dot(name, kind, row["mode"], rate, energy, known_as))
        for mode, phase in report["phases"].items():
            if phase is not None:
                name = f"{report['header']['model']} on {report['header']['system']}, estimated"
                rate, energy = phase["tokens_per_s"], phase["millijoule_per_token"]
                said = _short(label) or "this run"
                found["ours"].append(Dot(name, "ours", mode, rate, energy, said))
    known = {dot.words for dot in found["comparable"]}
    found["other"] = [dot for dot in found["other"] if dot.words not in known]
    each = {(dot.kind, dot.words, dot.label): dot for some in found.values() for dot in some}
    return _once(list(each.values()))


LANDMARKS = {
    "Loihi 2, published": ("neuromorphic", "Loihi 2"),
    "Jetson Orin Nano": ("edge GPU", "Orin Nano"),
    "H200": ("GPU", "H200"),
}
"""Machines whose marks have a label, the fastest row of one sequence of each phase: their kinds,
and what their names contain."""
LONGEST_LABEL = 24


def landmark(row: Theirs) -> str:
    """The label of a row of another machine; nothing where it is no landmark."""
    return next(
        (
            name
            for name, (kind, device) in LANDMARKS.items()
            if row["batch"] == 1 and row["device_kind"] == kind and device in row["device"]
        ),
        "",
    )


def _short(label: str) -> str:
    return label if len(label) <= LONGEST_LABEL else f"…{label[1 - LONGEST_LABEL :]}"


def _once(found: Sequence[Dot]) -> list[Dot]:
    """The same, with a landmark's label at its fastest mark of each phase alone."""
    fastest: dict[tuple[str, str], Dot] = {}
    for dot in found:
        known = fastest.setdefault((dot.label, dot.mode), dot)
        if dot.rate["central"] > known.rate["central"]:
            fastest[dot.label, dot.mode] = dot
    return [
        dot if dot.kind == "ours" or dot is fastest[dot.label, dot.mode] else replace(dot, label="")
        for dot in found
    ]


def _one(value: float) -> Figures:
    return {"low": value, "central": value, "high": value}


WIDE, HIGH = 760, 430
LEFT, RIGHT, TOP, BOTTOM = 66, 24, 12, 58


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


CAPTION = "mJ/token; less is better ↓"
LETTER, LINE = 11.5, 24
"""Of a label as it is on a narrow page, where letters are largest beside the picture: the width of
a letter and the height of a line."""
Box = tuple[float, float, float, float]
"""Left, top, right, bottom."""


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
    at = [(across.at(dot.rate["central"]), up.at(dot.energy["central"])) for dot in found]
    lines = [box for mark in marks for box in _crossed(mark["x"], mark["y"])]  # type: ignore[arg-type]
    labels = _placed([dot.label for dot in found], at, lines)
    return {"box": box, "marks": marks, "labels": labels, "kinds": kinds, **ticks} | {
        "caption": CAPTION
    }


def _crossed(x: Sequence[float], y: Sequence[float]) -> list[Box]:
    """What a mark covers with its two lines; x and y are of the low end, the middle and the high
    end."""
    return [(x[0] - 6, y[1] - 6, x[2] + 6, y[1] + 6), (x[1] - 6, y[2] - 6, x[1] + 6, y[0] + 6)]


def _placed(
    labels: Sequence[str], marks: Sequence[tuple[float, float]], lines: Sequence[Box]
) -> list[dict[str, Any]]:
    """Where labels lie, none on another, the last ones chosen first: each where it covers fewest
    marks with their lines and is near its own; one for which there is no room is left out."""
    taken: list[Box] = [(LEFT, TOP, LEFT + 6 + LETTER * len(CAPTION), TOP + LINE)]
    placed = []
    for label, mark in reversed(list(zip(labels, marks, strict=True))):
        choices = []
        others = [other for other in lines if not _holds(other, *mark)]
        for anchor, dx, dy in _around() if label else ():
            x, y = mark[0] + dx, mark[1] + dy
            box = _box(label, anchor, x, y)
            inside = box[0] > LEFT and box[2] < WIDE - 4 and box[1] > TOP and box[3] < HIGH - BOTTOM
            if inside and not any(_overlap(box, other) for other in taken):
                end = min(max(mark[0], box[0]), box[2]), min(max(mark[1], box[1]), box[3])
                covered = 2 * sum(_overlap(box, other) for other in lines)
                covered += 2 * sum(_crosses(mark, end, other) for other in (*others, *taken))
                choices.append((covered + math.hypot(dx, dy) / 50, anchor, x, y, box, end))
        if choices:
            _, anchor, x, y, box, end = min(choices)
            taken.append(box)
            far = math.dist(mark, end) > 16
            line = [round(v, 1) for v in (*mark, *end)] if far else None
            at = {"x": round(x, 1), "y": round(y, 1), "anchor": anchor}
            placed.append({"text": label, "line": line, **at})
    return placed


def _holds(box: Box, x: float, y: float) -> bool:
    return box[0] < x < box[2] and box[1] < y < box[3]


def _crosses(start: tuple[float, float], end: tuple[float, float], box: Box) -> bool:
    """Whether a line goes through a box, seen at some of its points."""
    (x, y), (u, v) = start, end
    return any(_holds(box, x + (u - x) * k / 32, y + (v - y) * k / 32) for k in range(1, 32))


def _around() -> Iterator[tuple[str, float, float]]:
    """Places beside a mark, near ones first: the anchor of a text, and where it is from there."""
    for far in (12, 24, 42, 64, 90, 120, 160):
        near = 0.7 * far
        yield from (("start", far, 7), ("end", -far, 7), ("middle", 0, -far))
        yield from (("start", near, -near), ("end", -near, -near), ("middle", 0, far + 14))
        yield from (("start", near, near + 14), ("end", -near, near + 14))


def _box(text: str, anchor: str, x: float, y: float) -> Box:
    wide = LETTER * len(text)
    left = x - {"start": 0.0, "middle": wide / 2, "end": wide}[anchor]
    return left, y - 0.8 * LINE, left + wide, y + 0.2 * LINE


def _overlap(one: Box, other: Box) -> bool:
    return one[0] < other[2] and other[0] < one[2] and one[1] < other[3] and other[1] < one[3]


# Rows of a picture that is as wide as the page: across in percent, down in pixels.

ENDS = 5.0, 42.0
"""Where the axis of energies begins and ends; figures stand behind it."""
PART, PHASE_ROW, MOST_TICKS = 20, 19, 5


def energy(report: Content) -> dict[str, Any] | None:
    """The energy of a token by part and in all: where the median and the ends of its range are on a
    logarithmic axis.  None where no phase has tokens."""
    phases = {mode: phase for mode, phase in report["phases"].items() if phase is not None}
    if not phases:
        return None
    spans = {mode: [span for _, span in _parts(phase)] for mode, phase in phases.items()}
    central = [s["central"] for some in spans.values() for s in some if s["central"] > 0]
    high = [s["high"] for some in spans.values() for s in some if s["high"] > 0]
    least = min(central or high or [1.0]) / 10
    axis = Axis([least, *high], *ENDS)
    rows: list[dict[str, Any]] = []
    y = 0
    for number, (name, _) in enumerate(_parts(next(iter(phases.values())))):
        marks = []
        for place, mode in enumerate(phases):
            span = spans[mode][number]
            at = [axis.at(max(span[end], least)) for end in ("low", "central", "high")]
            words = {"words": spread(span, "mJ/token"), **_in_parts(span)}
            shown = {"x": at, "y": y + PART + 10 + place * PHASE_ROW, **words}
            marks.append({"mode": mode, "there": span["high"] > 0, **shown})
        rows.append({"name": name, "y": y + 15, "marks": marks})
        y += PART + PHASE_ROW * len(phases) + 6
    ticks = axis.ticks()[:: -(-len(axis.ticks()) // MOST_TICKS)]
    return {"rows": rows, "ticks": ticks, "bottom": y, "high": y + 24}


def _in_parts(span: Figures) -> dict[str, str]:
    """The middle, and the range for which a narrow page has no room."""
    range_ = "" if span["low"] == span["high"] else f" ({ends(span, 'mJ')})"
    return {"middle": figure(span["central"], "mJ"), "range": range_}


def _parts(phase: Phase) -> list[tuple[str, Figures]]:
    parts = [(part["name"], part["millijoule_per_token"]) for part in phase["parts"]]
    return [*parts, ("in all", phase["millijoule_per_token"])]


LIMIT_ROW = 42


def limits(report: Mapped) -> dict[str, Any]:
    """The fullest core and the mean of those in use, in percent of each limit."""
    rows: list[dict[str, Any]] = []
    for name, use in report["mapping"]["use"].items():
        if use["limit"]:
            label, unit = LIMITS[name]
            most, mean = (100 * each / use["limit"] for each in (use["max"], use["mean"]))
            of_limit = f"{figure(most, '%')}, {figure(use['max'])} of {figure(use['limit'], unit)}"
            shown = {"most": round(most, 2), "mean": round(mean, 2), "y": LIMIT_ROW * len(rows)}
            words = f"{of_limit}; mean {figure(mean, '%')}"
            rows.append({"name": label, "of_limit": of_limit, "words": words, **shown})
    return {"rows": rows, "high": LIMIT_ROW * len(rows)}
