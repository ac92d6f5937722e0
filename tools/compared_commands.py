"""The commands that two checkouts are compared by, and the small files that they start from.

Every command of the README is here with quick inputs: the shipped checkpoint, a smaller one for the
slow engines, a page of text to calibrate on, and a few tokens. Commands run in order in one folder,
so later ones take what earlier ones wrote. A line of the texts below is a command: `json:` before
it says to run it with `--json` too, `mpi:` to run it on several ranks.
"""

import json
import shlex
import shutil
import struct
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

SHIPPED = "examples/checkpoints/stdlib-5m"
SMALL = "tests/golden/trained/checkpoint"
ROWS = "examples/benchmarks/results/gpu.json"
SYSTEM = "mmfree_neuro/systems/oheo-gulch.toml"

WORKING = """
--help
--version
convert --help
map --help
explore --help
simulate --help
report --help
logits --help
train --help
bench --help
systems --help
inspect --help
demo --help

json: convert checkpoint -o model.graph --scheme a16 --calibrate text.txt
convert checkpoint -o a8.graph --scheme a8 --calibrate text.txt
convert small -o small.graph --calibrate sequences.npy

json: map model.graph --system kapoho-point -o model.map
json: map model.graph --system kapoho-point --chips 8 -o eight.map
map a8.graph --system kapoho-point --chips 4 -o a8.map
map model.graph --system alia-point --block-per-chip -o blocks.map
map small.graph --system oheo-gulch --cores 20 -o small.map
map small.graph --system kapoho-point --chips 4 -o four.map
map small.graph --system kapoho-point --cores 30 --placer greedy -o greedy.map
map small.graph --system kapoho-point --cores 30 --placer balanced --chips 3 -o balanced.map
map small.graph --system kapoho-point --cores 30 --placer anneal --chips 2 --seed 1 -o anneal.map
map small.graph --system kapoho-point --cores 30 --placer mtkahypar --chips 2 -o mtkahypar.map
map small.graph --system kapoho-point --cores 30 --block-per-chip -o block-per-chip.map
map small.graph --system kapoho-point --cores 30 --spread --chips 2 -o spread.map
map small.graph --system kapoho-point --cores 30 --rows-only --chips 5 -o rows.map
map small.graph --system kapoho-point --cores 30 --refine --placer balanced -o refined.map
map small.graph --system kapoho-point --cores 30 --head-on-host -o host.map
map small.graph --system kapoho-point --cores 30 --weight-bits 8 --chips 2 -o wide.map

json: explore small.graph --system alia-point-32 --chips fewest,8
explore small.graph --system alia-point-32 --chips 3 --weight-bits 2,8 --splits rows,columns \
    --placers chain,balanced --head-on-host -o points.json --picture front.png

json: simulate eight.map --prompt "import os" --new-tokens 8 --engine fast -o run
json: simulate eight.map --prompt os --new-tokens 2 --engine reference -o run-slow
json: simulate eight.map --prompt "import os" --new-tokens 8 --engine lava -o run-lava
simulate model.map --prompt "import os" --new-tokens 8 --engine fast -o run-one-chip
simulate a8.map --prompt "import os" --new-tokens 8 --engine fast -o run-a8
simulate a8.map --prompt "" --new-tokens 2 --engine fast -o run-of-nothing
simulate eight.map --prompt os --new-tokens 8 --engine fast --temperature 0.9 --seed 3 \
    --save-every 4 -o run-drawn
simulate four.map --prompt os --new-tokens 4 --engine reference --temperature 0.9 -o run-small
simulate small.map --prompt os --new-tokens 4 --engine lava-per-core -o run-per-core
simulate block-per-chip.map --prompt os --new-tokens 8 --engine lava --temperature 0.9 -o run-blocks
mpi: simulate eight.map --prompt "import os" --new-tokens 8 --engine mpi -o run-mpi
mpi: simulate eight.map --prompt "import os" --new-tokens 8 --engine mpi -o run-mpi --json
mpi: simulate eight.map --prompt os --new-tokens 8 --engine mpi --placement 0,0,0,1,1,1,1,1 -o run-2

json: report run -o report.md
json: report run-lava -o report.json
json: report run -o report.html
report run -o report-rows.md --gpu-rows rows.json
report run-blocks -o report-blocks.md

json: logits checkpoint --engine float --tokens ids.npy -o logits.npy
logits checkpoint --engine float --tokens ids.npy -o logits.npy --nats nats.npy \
    --new-tokens 8 --chosen greedy.npy
logits model.graph --engine fast --tokens ids.npy -o logits.npy --nats nats.npy \
    --new-tokens 8 --chosen greedy.npy
logits model.graph --engine fast --tokens ids.npy -o logits.npy --nats nats.npy --raw
logits small --engine fast --tokens ids.npy -o logits.npy --scheme a8 --calibrate sequences.npy
logits small.graph --engine reference --tokens ids.npy -o logits.npy --nats nats.npy \
    --new-tokens 2 --chosen greedy.npy
logits four.map --engine lava --tokens ids.npy -o logits.npy --nats nats.npy \
    --new-tokens 8 --chosen greedy.npy
mpi: logits four.map --engine mpi --tokens ids.npy -o logits.npy --nats nats.npy \
    --new-tokens 8 --chosen greedy.npy

train --text text.txt -o trained --steps 2 --batch 2 --window 16 --hidden 32 --layers 1
train --text text.txt -o trained --steps 2 --batch 2 --window 16 --hidden 32 --layers 1 --resume \
    --json

json: inspect checkpoint
inspect checkpoint --codes codes.npz
inspect small
inspect trained
json: inspect model.graph
inspect a8.graph
json: inspect eight.map
inspect blocks.map
inspect host.map
json: inspect run
inspect run-lava

json: systems
json: systems alia-point
systems alia-point-32
systems hala-point
json: systems kapoho-point
systems loihi1-nahuku
systems oheo-gulch
json: systems own.toml

demo --checkpoint small --new-tokens 8 -o demo --report demo.html
"""

WRONG = """
warp
convert small
convert small -o x.graph --shceme a8
map model.graph -o x.map
simulate eight.map --prompt a -o x --new-tokens x
bench gpu --model 370m --mode train --impl naive --baseline transformer

convert nowhere -o x.graph
convert llama -o x.graph
convert no-json -o x.graph
convert cut -o x.graph
convert small -o run --calibrate sequences.npy
convert small -o x.graph --calibrate nowhere.txt
convert small -o x.graph --calibrate ids.npy
convert small -o x.graph --calibrate outside.npy
map nowhere.graph --system oheo-gulch -o x.map
map checkpoint/model.safetensors --system oheo-gulch -o x.map
map cut.graph --system oheo-gulch -o x.map
map model.graph --system cut.toml -o x.map
simulate cut.map --prompt a --engine fast -o x
simulate other/eight.map --prompt a --engine fast -o x
simulate eight.map --prompt a --engine fast -o checkpoint
logits model.graph --engine fast --tokens nowhere.npy -o x.npy
logits model.graph --engine fast --tokens text.npy -o x.npy
logits model.graph --engine fast --tokens floats.npy -o x.npy
logits model.graph --engine fast --tokens outside.npy -o x.npy
logits small --engine float --tokens outside.npy -o x.npy
logits model.graph --engine fast --tokens none.npy -o x.npy
report nowhere -o x.md
report checkpoint -o x.md
report run -o x.pdf
report run -o x.md --gpu-rows nowhere.json
report run -o x.md --gpu-rows wrong-rows.json
report run -o rows.json --gpu-rows rows.json
inspect nowhere
inspect text.txt
inspect model.graph --codes x.npz
train --text nowhere -o x
demo --checkpoint nowhere -o x --report x.html

convert small -o x.graph --scheme a4
map model.graph --system pohoiki -o x.map
map model.graph --system oheo-gulch --placer best -o x.map
map model.graph --system oheo-gulch --block-per-chip --placer greedy -o x.map
map model.graph --system oheo-gulch --chips 2 -o x.map
map model.graph --system oheo-gulch --cores 121 -o x.map
map model.graph --system oheo-gulch --cores 1 -o x.map
map model.graph --system oheo-gulch --weight-bits 9 -o x.map
explore model.graph --system alia-point-32 --chips some
explore model.graph --system alia-point-32 --splits halves
explore model.graph --system alia-point-32 --placers best
explore model.graph --system oheo-gulch --chips 2 --placers chain
simulate eight.map --prompt a --engine warp -o x
simulate eight.map --prompt a --engine gpu -o x
simulate eight.map --prompt a --engine lava-per-core -o x
simulate eight.map --prompt a --engine fast --temperature -1 -o x
simulate eight.map --prompt a --engine fast --seed -1 -o x
simulate eight.map --prompt a --engine fast --new-tokens -1 -o x
simulate eight.map --prompt a --engine fast --save-every -1 -o x
simulate eight.map --prompt a --engine fast --placement 0,0 -o x
simulate eight.map --prompt a --engine mpi --placement first -o x
simulate eight.map --prompt a --engine mpi --placement 0,0 -o x
simulate eight.map --prompt a --engine fast --resume -o run
logits small --engine float --raw --tokens ids.npy -o x.npy
logits small.graph --engine warp --tokens ids.npy -o x.npy
train --text text.txt -o x --hidden 0
train --text text.txt -o trained --steps 3 --batch 2 --hidden 32 --layers 1 --resume
systems pohoiki
bench gpu --model 370m --mode chat
bench gpu --model 370m --mode train --seconds 1
bench gpu --model 370m --mode generate -o x.json
"""
"""What must end with one line: the status of most is 2."""


@dataclass(frozen=True)
class Command:
    """What is said to the command line, and the number of MPI ranks that say it."""

    words: tuple[str, ...]
    ranks: int = 0

    @property
    def name(self) -> str:
        """As a person would type it."""
        before = f"mpiexec -n {self.ranks} " if self.ranks else ""
        return before + shlex.join(("mmfree-neuro", *self.words))


def working(ranks: int) -> list[Command]:
    """Every command in a way that works; those for MPI when there are ranks."""
    return parse(WORKING, ranks)


def after_spoiling() -> list[Command]:
    """No command at all, and wrong inputs, among them the files that `spoil` makes."""
    return [Command(()), *parse(WRONG, 0)]


def parse(text: str, ranks: int) -> list[Command]:
    """The commands of a text, a line each; those for MPI are left out where there are no ranks."""
    found = []
    for line in text.splitlines():
        words = tuple(shlex.split(line))
        if words[:1] == ("json:",):
            found += [Command(words[1:]), Command((*words[1:], "--json"))]
        elif words[:1] == ("mpi:",):
            found += [Command(words[1:], ranks)] if ranks else []
        elif words:
            found.append(Command(words))
    return found


# The files that commands start from.


def lay_inputs(folder: Path, root: Path) -> None:
    """Copy the checkpoints of a checkout, and write text and tokens."""
    shutil.copytree(root / SHIPPED, folder / "checkpoint")
    shutil.copytree(root / SMALL, folder / "small")
    shutil.copy(root / ROWS, folder / "rows.json")
    shutil.copy(root / SYSTEM, folder / "own.toml")
    lines = (f"def line_{n}(path): return open(path).read().split('{n}')\n" for n in range(60))
    (folder / "text.txt").write_text("".join(lines), encoding="utf-8")
    (folder / "text.npy").write_text("1 2 3", encoding="utf-8")
    (folder / "ids.npy").write_bytes(
        npy([[105, 109, 112, 111, 114, 116], [32, 111, 115, 10, 0, 255]])
    )
    (folder / "sequences.npy").write_bytes(
        npy([[(7 * r * c + r) % 256 for c in range(33)] for r in range(8)])
    )
    (folder / "outside.npy").write_bytes(npy([[1, 256]] * 4))
    (folder / "none.npy").write_bytes(npy([[]]))
    (folder / "floats.npy").write_bytes(npy([[0.0, 1.0]]))


def npy(rows: Sequence[Sequence[float]]) -> bytes:
    """Rows of equal length as NumPy stores them, as int64 or float64."""
    values = [value for row in rows for value in row]
    code, letter = ("<f8", "d") if any(isinstance(v, float) for v in values) else ("<i8", "q")
    shape = (len(rows), len(rows[0]))
    header = f"{{'descr': '{code}', 'fortran_order': False, 'shape': {shape}, }}"
    header = header.ljust(-(10 + len(header) + 1) % 64 + len(header)) + "\n"
    start = b"\x93NUMPY\x01\x00" + struct.pack("<H", len(header)) + header.encode()
    return start + struct.pack(f"<{len(values)}{letter}", *values)


def spoil(folder: Path) -> None:
    """Make files that are cut short, or not what they seem to be, out of what commands wrote."""
    if not all((folder / name).exists() for name in ("model.graph", "a8.graph", "eight.map")):
        return  # the commands that should have written them are told to differ already
    for name in ("model.graph", "eight.map"):
        _cut(folder / name, folder / f"cut{Path(name).suffix}")
    shutil.copytree(folder / "small", folder / "cut")
    _cut(folder / "small" / "model.safetensors", folder / "cut" / "model.safetensors")
    for name, change in (("llama", {"model_type": "llama"}), ("no-json", None)):
        (folder / name).mkdir()
        config = json.loads((folder / "small" / "config.json").read_text(encoding="utf-8"))
        text = "{\n" if change is None else json.dumps(config | change)
        (folder / name / "config.json").write_text(text, encoding="utf-8")
    (folder / "other").mkdir()
    shutil.copy(folder / "eight.map", folder / "other")
    shutil.copy(folder / "a8.graph", folder / "other" / "model.graph")
    (folder / "wrong-rows.json").write_text('[{"name": 3}]', encoding="utf-8")
    (folder / "cut.toml").write_text("name = \n", encoding="utf-8")


def _cut(source: Path, target: Path) -> None:
    content = source.read_bytes()
    target.write_bytes(content[: len(content) // 2])
