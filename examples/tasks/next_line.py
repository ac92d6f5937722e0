"""The documents of the task `next_line`: in modules of Python's library that no model here was
trained on, some lines, and of four lines the one that follows them; the other three are from
nearby and begin as far to the right."""

from random import Random
from typing import Any

import datasets

from mmfree_neuro.model.corpus import load

BEFORE = 384
"""Characters of what comes before."""
NEARBY = 300
"""Lines."""
COUNT = 200


def documents(**_options: Any) -> dict[str, datasets.Dataset]:
    """`COUNT` documents, the same on every machine with the same Python."""
    text = bytes(load("stdlib").held_out).decode(errors="replace")
    lines, random = text.splitlines(keepends=True), Random(7)
    code = [k for k in range(NEARBY, len(lines)) if _is_code(lines[k - 1]) and _is_code(lines[k])]
    random.shuffle(code)
    found = [one for k in code[: 2 * COUNT] if (one := _document(lines, k, random)) is not None]
    return {"test": datasets.Dataset.from_list(found[:COUNT])}


def _document(lines: list[str], number: int, random: Random) -> dict[str, Any] | None:
    line = lines[number]
    nearby = {other for other in lines[number - NEARBY : number + NEARBY] if _is_code(other)}
    others = sorted(o for o in nearby - {line} if _indent(o) == _indent(line))
    if len(others) < 3:
        return None
    options = [line, *random.sample(others, 3)]
    random.shuffle(options)
    before = "".join(lines[number - NEARBY : number])[-BEFORE:]
    return {"before": before, "lines": options, "answer": options.index(line)}


def _is_code(line: str) -> bool:
    return len(line.strip()) > 8 and not line.lstrip().startswith("#")


def _indent(line: str) -> int:
    return len(line) - len(line.lstrip())
