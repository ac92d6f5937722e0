"""Fills the tables of docs/gpu.md and README.md from measured rows, and draws the picture.

A table stands between `<!-- rows: NAME -->` and `<!-- end -->`, and is written anew.  All its rows
are of one GPU, the one that was measured last or that `--device` names, the latest of each point;
so no figure of one GPU stands over one of another.  What others published, or was measured of the
reference implementation elsewhere, stands in columns that say so.  Run: python
examples/benchmarks/gpu_page.py [--add ROWS] [--device NAME] [--rows ROWS] [--check]
"""

import argparse
import re
import sys
from collections import Counter
from collections.abc import Callable, Iterable, Sequence
from pathlib import Path

import gpu_picture
import gpu_training
import training_gradients

from mmfree_kernels.bench import record, roofline
from mmfree_kernels.bench.record import POINT, Row
from mmfree_kernels.bench.workload import SHAPES
from mmfree_neuro.baselines import published
from mmfree_neuro.baselines.roofline import load as known_gpus
from mmfree_neuro.errors import MMFreeError
from mmfree_neuro.files.writing import save_text

ROOT = Path(__file__).parents[2]
PAGES = ROOT / "docs" / "gpu.md", ROOT / "README.md"
BLOCK = re.compile(r"(<!-- rows: ([a-z ]+) -->\n).*?(<!-- end -->)", re.DOTALL)
EARLIER = gpu_picture.ROWS.with_name("gpu_batches.json")
"""More rows of earlier commits, for what has changed."""
LENGTH = gpu_picture.LENGTH
PUBLISHED_GB = {
    "370m": ("0.32", "4.42"),
    "1.3b": ("0.78", "7.08"),
    "2.7b": ("1.22", "14.07"),
    "13b": ("4.19", "48.5"),
}
"""Of the reference, packed, and of its Transformer++, by arXiv 2406.02528."""
REFERENCE_TRAINING = {
    "370m": ("101,000 / 81,000", "18.5 / 24.5 GB"),
    "1.3b": ("50,800 / 40,700", "38.0 / 50.3 GB"),
}
"""Tokens/s and peak memory of the reference implementation on one H200, with its fused norms and
without."""
NAMES = {"370m": "370M", "1.3b": "1.3B", "2.7b": "2.7B", "13b": "13B shape"}


class Rows:
    """Rows of one device by their point, and all of them."""

    def __init__(self, rows: Iterable[Row]) -> None:
        self.all = list(rows)
        self.at = {tuple(row[name] for name in POINT): row for row in self.all}

    def get(self, impl: str, model: str, mode: str, batch: int, length: int) -> Row | None:
        """The row of a point; None where it was not measured."""
        return self.at.get((impl, model, mode, batch, length))

    def points(self, mode: str) -> list[tuple[str, int, int]]:
        """Models, batches and lengths that were measured in a mode, in the order of tables."""
        found = {
            (row["model"], row["batch"], row["sequence_length"])
            for row in self.all
            if row["mode"] == mode and row["model"] in SHAPES
        }
        return sorted(found, key=lambda p: (list(SHAPES).index(p[0]), p[2] != LENGTH, *p[1:]))


def energy(millijoule: float) -> str:
    """Three digits, or two below ten."""
    return f"{millijoule:,.{2 if millijoule < 10 else 1 if millijoule < 100 else 0}f} mJ"


def speed(row: Row | None) -> str:
    """Tokens a second and the energy of a token."""
    if row is None:
        return ""
    return f"{row['tokens_per_s']:,.0f}, {energy(row['millijoule_per_token'])}"


def share(row: Row | None) -> str:
    """The share of its roofline that a row reaches."""
    found = None if row is None else roofline.share(row, known_gpus())
    return "" if found is None else f"{100 * found:.1f} %"


def gigabytes(row: Row | None, field: str, digits: int = 2) -> str:
    """An amount of memory of a row; nothing where the driver did not tell."""
    return "" if row is None or row[field] is None else f"{row[field] / 1e9:,.{digits}f}"


def table(head: Iterable[str], align: Iterable[str], lines: Iterable[Iterable[str]]) -> str:
    """A table in Markdown, without columns that hold nothing; nothing where it has no lines."""

    def line(cells: Iterable[str]) -> str:
        return "|" + "".join(f" {cell} |" if cell else " |" for cell in cells)

    columns = [column for column in zip(head, align, *lines, strict=True) if any(column[2:])]
    if not columns:
        return ""
    names, marks, *rows = zip(*columns, strict=True)
    return "\n".join([line(names), f"|{'|'.join(marks)}|", *map(line, rows)]) + "\n"


def provenance(rows: Rows) -> str:
    """Device, software, idle power and commits of all rows."""

    def values(of: Callable[[Row], str]) -> str:
        return ", ".join(sorted({of(row) for row in rows.all}))

    commits = Counter(row["commit"][:9] for row in rows.all)
    idle = [row["idle_w"] for row in rows.all]
    dates = sorted({row["date"][:10] for row in rows.all})
    when = dates[0] if len(dates) == 1 else f"{dates[0]} to {dates[-1]}"
    return (
        f"{values(lambda row: row['device'])}, driver {values(lambda row: row['driver'])}, torch "
        f"{values(lambda row: row['versions']['torch'])}, Triton "
        f"{values(lambda row: row['versions']['triton'])}; idle power {min(idle):.0f} to "
        f"{max(idle):.0f} W; {when}; rows by commit: "
        f"{', '.join(f'{commit} {count}' for commit, count in commits.most_common())}.\n"
    )


def generation(rows: Rows) -> str:
    """Tokens/s, energies and shares of rooflines of all batches."""
    lines = []
    for model, batch, length in rows.points("generate"):
        ours, other, naive = (
            rows.get(impl, model, "generate", batch, length)
            for impl in ("fast", "transformer", "naive")
        )
        after = "" if length == LENGTH else f", after {length:,} tokens"
        memory = gigabytes(ours, "peak_allocated_bytes"), gigabytes(other, "peak_allocated_bytes")
        cells = speed(ours), share(ours), memory[0], speed(other), share(other), memory[1]
        lines.append((NAMES[model], f"{batch}{after}", *cells, speed(naive)))
    side = "of its roofline", "GB"
    head = "model", "batch", "this project", *side, "Transformer++", *side, "plain torch"
    return table(head, ["---", *["---:"] * 8], lines)


def changes(rows: Rows, earlier: Iterable[Row]) -> str:
    """Points of generation that an earlier commit was measured at too, on the same GPU."""
    lines, device = [], {row["device"] for row in rows.all}
    before: dict[tuple[object, ...], Row] = {}
    for row in sorted(earlier, key=lambda row: str(row["date"])):
        if row["device"] in device:
            before.setdefault(tuple(row[name] for name in POINT), row)
    for model, batch, length in rows.points("generate"):
        row, old = (
            found.get(("fast", model, "generate", batch, length)) for found in (rows.at, before)
        )
        if row is not None and old is not None and row["commit"] != old["commit"]:
            times = f"{row['tokens_per_s'] / old['tokens_per_s']:.2f}"
            cells = speed(old), share(old), speed(row), share(row), times
            lines.append((NAMES[model], str(batch), old["commit"][:9], *cells))
    head = "model", "batch", "earlier commit", "then", "of its roofline", "now", "of it", "times"
    return table(head, ["---", "---:", "---", *["---:"] * 5], lines)


def prompts(rows: Rows) -> str:
    """Tokens/s and energies of prompts."""
    lines = [
        (
            NAMES[model],
            f"{length:,}",
            *(
                speed(rows.get(impl, model, "prefill", batch, length))
                for impl in ("fast", "transformer", "naive")
            ),
        )
        for model, batch, length in rows.points("prefill")
        if batch == 1
    ]
    head = "model", "tokens", "this project", "Transformer++", "plain torch"
    return table(head, ["---", *["---:"] * 4], lines)


def memory(rows: Rows) -> str:
    """What prompts take, beside what was published."""
    lines = []
    for model, batch, length in rows.points("prefill"):
        ours, other = (
            rows.get(impl, model, "prefill", batch, length) for impl in ("fast", "transformer")
        )
        if ours is None or not (length == 2048 or other is not None):
            continue
        theirs = PUBLISHED_GB[model] if length == 2048 else ("", "")
        cells = [
            gigabytes(row, field, 3 if field.startswith("peak") else 2)
            for row in (ours, other)
            for field in ("peak_allocated_bytes", "process_bytes")
        ]
        lines.append((NAMES[model], f"{length:,}", *cells, *theirs))
    head = (
        *("model", "tokens", "this project", "by NVML", "Transformer++", "by NVML"),
        *("published for the reference, packed", "Transformer++, published"),
    )
    return table(head, ["---", *["---:"] * 7], lines)


TRAINED = {
    "fast": "this project",
    "transformer": "Transformer++, compiled, nothing recomputed",
    "naive": "naive, every block recomputed",
}


def training(rows: Rows) -> str:
    """Tokens/s, energies and memory of training."""
    lines = []
    for model, batch, length in rows.points("train"):
        for impl, words in TRAINED.items():
            row = rows.get(impl, model, "train", batch, length)
            if row is not None:
                used = f"{gigabytes(row, 'peak_allocated_bytes')} GB"
                cells = f"{row['tokens_per_s']:,.0f}", energy(row["millijoule_per_token"]), used
                lines.append((f"{NAMES[model]}, {words}", *cells))
        if model in REFERENCE_TRAINING:
            rate, used = REFERENCE_TRAINING[model]
            lines.append((f"{NAMES[model]}, reference, fused / plain (H200)", rate, "", used))
    return table(("", "tokens/s", "a token", "peak memory"), ["---", *["---:"] * 3], lines)


def others(everywhere: Sequence[Rows]) -> str:
    """The tables of the GPUs that the page is not about."""
    tables = {"generate": generation, "prefill": prompts, "train": training}
    parts = []
    for rows in everywhere[1:]:
        modes = {row["mode"] for row in rows.all}
        parts += [provenance(rows), *(made(rows) for mode, made in tables.items() if mode in modes)]
    return "\n\n".join(part.strip("\n") for part in parts)


def summary(everywhere: Sequence[Rows]) -> str:
    """The few lines of the README: 370M beside its opponent and the reference implementation.

    A line is of the first GPU that has both, and names it where it is not the first of all.
    """
    first = everywhere[0]
    reference = {
        (row.mode, row.batch, row.sequence_length): row
        for row in published.load()
        if (row.model, row.device, row.implementation)
        == ("370m", "NVIDIA H200", "reference implementation")
    }
    lines = []
    for words, mode, batch, length in (
        ("generation, batch 1", "generate", 1, LENGTH),
        ("generation, batch 64", "generate", 64, LENGTH),
        ("prompt of 16,000 tokens", "prefill", 1, 16000),
    ):
        theirs = next(
            row
            for (one, many, _), row in sorted(reference.items(), reverse=True)
            if (one, many) == (mode, batch)
        )
        assert theirs.millijoule_per_token is not None
        cell = f"{theirs.tokens_per_s:,.0f}, {energy(theirs.millijoule_per_token)}"
        where, mine = _both(everywhere, mode, batch, length)
        lines.append((words + where, *map(speed, mine), cell))
    rate, used = (part.split(" / ")[0] for part in REFERENCE_TRAINING["370m"])
    where, mine = _both(everywhere, "train", 8, 2048)
    cells = [
        ""
        if row is None
        else f"{row['tokens_per_s']:,.0f}, {gigabytes(row, 'peak_allocated_bytes', 1)} GB"
        for row in mine
    ]
    lines.append((f"training step, 8 × 2,048{where}", *cells, f"{rate}, {used} GB"))
    (device,) = {row["device"] for row in first.all}
    head = f"370M on one {device}: tokens/s", "this project"
    others = "Transformer++, compiled", "reference code (H200)"
    return table((*head, *others), ["---", *["---:"] * 3], lines)


def _both(
    everywhere: Sequence[Rows], mode: str, batch: int, length: int
) -> tuple[str, list[Row | None]]:
    """This project's row and the opponent's, of the first GPU that has both, and its name."""

    def of(rows: Rows) -> list[Row | None]:
        return [rows.get(impl, "370m", mode, batch, length) for impl in ("fast", "transformer")]

    rows = next((rows for rows in everywhere if all(of(rows))), everywhere[0])
    (device,) = {row["device"] for row in rows.all}
    return "" if rows is everywhere[0] else f" ({device})", of(rows)


def filled(page: str, everywhere: Sequence[Rows], earlier: Iterable[Row]) -> str:
    """A page with its blocks written anew: of the first rows, and `others` of the rest."""
    rows = everywhere[0]
    known = {
        "provenance": provenance,
        "generation": generation,
        "changes": lambda rows: changes(rows, earlier),
        "prompts": prompts,
        "memory": memory,
        "training": training,
        "losses": lambda _rows: gpu_training.table(record.load(gpu_training.ROWS)),
        "gradients": lambda _rows: training_gradients.table(record.load(training_gradients.ROWS)),
        "others": lambda _rows: others(everywhere),
        "summary": lambda _rows: summary(everywhere),
    }

    def written(block: re.Match[str]) -> str:
        content = known[block[2]](rows)
        return f"{block[1]}{chr(10) * bool(content)}{content}{chr(10) * bool(content)}{block[3]}"

    return BLOCK.sub(written, page)


def main(arguments: list[str] | None = None) -> int:
    """Write the pages; 1 where `--check` finds one that is not as it would be written."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--device", default="", help="part of the name of a GPU")
    parser.add_argument("--rows", type=Path, default=gpu_picture.ROWS)
    parser.add_argument(
        "--add", type=Path, action="append", default=[], help="rows to add to --rows first"
    )
    parser.add_argument("--check", action="store_true", help="write nothing")
    options = parser.parse_args(arguments)
    if options.add:
        record.append(options.rows, [row for path in options.add for row in record.load(path)])
    all_rows = record.load(options.rows)
    rows = Rows(record.of_record(all_rows, options.device))
    shown = {row["device"] for row in rows.all}
    rest = sorted({row["device"] for row in all_rows} - shown)
    everywhere = [rows, *(Rows(record.of_record(all_rows, device)) for device in rest)]
    if not rows.all:
        print(f"{options.rows}: there is no row of such a GPU", file=sys.stderr)
        return 2
    earlier = [*record.load(EARLIER), *all_rows]
    stale = False
    for page in PAGES:
        text = page.read_text(encoding="utf-8")
        new = filled(text, everywhere, earlier)
        if new != text:
            stale = True
            print(f"{page.name}: {'is not as its rows' if options.check else 'written'}")
            if not options.check:
                save_text(page, new)
    if not options.check:
        gpu_picture.draw(all_rows, gpu_picture.PICTURE, options.device)
    return int(stale and options.check)


if __name__ == "__main__":
    try:
        sys.exit(main())
    except MMFreeError as error:
        print(error, file=sys.stderr)
        sys.exit(2)
