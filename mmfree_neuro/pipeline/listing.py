"""Machine images as text: programs, and what a core holds."""

from dataclasses import dataclass
from pathlib import Path

from mmfree_neuro.errors import ImageError, InputError, shown
from mmfree_neuro.files.reading import Misfit, parsed_json, reading
from mmfree_neuro.files.records import decoded
from mmfree_neuro.target.image import Image
from mmfree_neuro.target.image_file import is_image, load_image
from mmfree_neuro.target.layout import HERE, HOST_CHIP, RESULT, Core
from mmfree_neuro.target.listing import Listed, programs_of, texts

SYMBOLS = "the names of a machine image"


@dataclass(frozen=True)
class CoreSymbols:
    """Names of what a core holds."""

    chip: str
    """The number of its chip, or `host`."""
    core: int
    groups: tuple[tuple[str, int, int], ...]
    """For each group a node, and its neurons from … to before …"""
    axons: tuple[tuple[int, str, str, int, int], ...]
    """Stretches of axons: the first, the node and the port that send there, the first payload, and
    how many axons."""


@dataclass(frozen=True)
class Symbols:
    """What symbols.json says."""

    kinds: dict[str, str]
    """The kind of every node by its name."""
    cores: tuple[CoreSymbols, ...]


def listing(path: Path, program: str | None = None, core: str | None = None) -> str:
    """All programs of an image, or that of a node, or what a core holds."""
    if not is_image(path):
        raise InputError(f"{path}: is no machine image, must be one")
    image = load_image(path)
    symbols = _symbols(image)
    if core is not None:
        return _core(image, symbols, core)
    named = _programs(image, symbols)
    if program is not None and program not in symbols.kinds:
        raise InputError(f"{path}: has no program of {shown(program)}, must be a node's name")
    chosen = symbols.kinds if program is None else [program]
    return texts((symbols.kinds[node], one) for node in chosen for one in named[node])


def _symbols(image: Image) -> Symbols:
    """The names of an image; ImageError where they are not those of its cores."""
    with reading(image.path / "symbols.json", ImageError, SYMBOLS):
        symbols = decoded(Symbols, parsed_json(image.symbols))
        cores = [("host" if chip == HOST_CHIP else str(chip), c.number) for chip, c in image.cores]
        if [(one.chip, one.core) for one in symbols.cores] != cores:
            raise Misfit("its cores are not those of the image")
        for (_, core), one in zip(image.cores, symbols.cores, strict=True):
            if [stop - start for _, start, stop in one.groups] != core.group[:, 2].tolist():
                raise Misfit(f"the groups of core {one.core} of {one.chip} are not the image's")
        held = {node for one in symbols.cores for node, _, _ in one.groups}
        if held != set(symbols.kinds):
            raise Misfit("its kinds are not those of the nodes that cores hold")
    return symbols


def _programs(image: Image, symbols: Symbols) -> dict[str, list[Listed]]:
    """The programs of every node, from the words that its groups run; one, but in an image that
    somebody changed."""
    found: dict[str, dict[Listed, None]] = {}
    for (_, core), names in zip(image.cores, symbols.cores, strict=True):
        for (node, _, _), program in zip(names.groups, programs_of(core), strict=True):
            found.setdefault(node, {})[program] = None
    return {node: list(some) for node, some in found.items()}


def _core(image: Image, symbols: Symbols, wanted: str) -> str:
    """What a core holds."""
    for (chip, core), names in zip(image.cores, symbols.cores, strict=True):
        if f"{names.chip}:{names.core}" == wanted:
            return "\n".join(_lines(chip, core, names)) + "\n"
    raise InputError(f"{image.path}: has no core {shown(wanted)}, must be such as 0:3 or host:0")


def _lines(chip: int, core: Core, names: CoreSymbols) -> list[str]:
    where = "the host" if chip == HOST_CHIP else f"chip {chip}"
    lines = [
        f"core {core.number} of {where}: {core.bytes} bytes, {core.accumulators} accumulators, "
        f"{len(core.axon)} input axons, {len(core.syn)} words of synapse lists"
    ]
    for first, node, port, start, count in names.axons:
        sent = f"{node}.{port} {start} … {start + count - 1}"
        lines.append(f"  axons {first} … {first + count - 1}: {sent}")
    for number, (node, start, stop) in enumerate(names.groups):
        row = core.group[number].tolist()
        lines.append(
            f"  group {number}: {node} {start} … {stop - 1}, {row[1]} instructions, {row[4]} "
            f"ports, {row[14]} output entries"
        )
        lines += [f"    {_entry(one)}" for one in core.out[row[13] : row[13] + row[14]].tolist()]
    return lines


def _entry(entry: list[int]) -> str:
    what, first, count, to = entry
    output, kind, core, chip = what & 15, what >> 4 & 15, what >> 8 & 255, what >> 16
    last = to + count - 1
    there = f"axons {to} … {last} of core {core}"
    if kind == RESULT:
        there = f"results {to} … {last}"
    elif kind != HERE:
        there += " of the host" if chip == HOST_CHIP else f" of chip {chip}"
    return f"output {output} of neurons {first} … {first + count - 1} to {there}"
