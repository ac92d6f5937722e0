"""Options of every command with values that nobody should give, and places that are no files."""

import os
import random
import socket
from pathlib import Path

from fuzzing.case import Case
from fuzzing.material import SIMULATE, SYSTEM, Material

NUMBERS = [
    "-1",
    "0",
    "1",
    "1000000000",
    "1000000000000",
    str(2**31),
    str(2**63),
    "1e9",
    "9" * 5000,
    "nan",
    "inf",
    "-inf",
    "1e999",
    "1e-320",
    "0.5",
    "",
    " 5",
    "0x5",
    "five",
    "٣",
    "1_0",
    "a\x1b[31mb",
    "x" * 5000,
    "\ud800",
    "a\nb",
]
TEXTS = [
    "",
    "nothing",
    "a\x1b[31mb",
    "x" * 5000,
    "\udc80",
    "a\nb",
    "../..",
    "-",
    ",",
    "a,,b",
    "None",
]
COMMANDS = {
    "map": ("map", "a16.graph", "--system", SYSTEM, "--cores", "8", "-o", "out.map"),
    "simulate": ("simulate", "a16.map", *SIMULATE, "--engine", "fast", "-o", "out"),
    "logits": (
        "logits",
        "a16.graph",
        "--engine",
        "fast",
        "--tokens",
        "tokens.npy",
        "-o",
        "out.npy",
    ),
    "explore": ("explore", "a16.graph", "--system", SYSTEM, "--placers", "block-per-chip"),
    "report": ("report", "run", "-o", "out.json"),
    "systems": ("systems",),
    "inspect": ("inspect", "checkpoint"),
}
NUMERIC = {
    "map": ("--chips", "--cores", "--weight-bits", "--seed"),
    "simulate": ("--new-tokens", "--temperature", "--seed", "--save-every"),
    "logits": ("--new-tokens",),
    "explore": ("--chips", "--weight-bits", "--copies"),
}
TEXTUAL = {
    "map": ("--system", "--placer"),
    "simulate": ("--engine", "--ranks"),
    "logits": ("--engine", "--ranks", "--scheme"),
    "explore": ("--system", "--splits", "--placers", "--copies", "--chips"),
    "report": ("--gpu-rows",),
    "systems": ("",),
    "inspect": ("--codes",),
}
FILES = "a16.graph", "a16.map", "tokens.npy", "run", "checkpoint"
WRITTEN = "out", "out.map", "out.npy", "out.json"


def value(draw: random.Random, material: Material, folder: Path) -> Case:
    """One option of one command."""
    material.bring(folder, *FILES)
    kind, values = (NUMERIC, NUMBERS) if draw.random() < 0.7 else (TEXTUAL, TEXTS)
    name = draw.choice(list(kind))
    option, text = draw.choice(kind[name]), draw.choice(values)
    command = (*COMMANDS[name], *((f"{option}={text}",) if option else (text,)))
    outputs = (*WRITTEN, text) if option == "--codes" and text else WRITTEN
    return Case(f"{name} {option} {text[:30]!r}", (command,), outputs=outputs)


TRAINED = {
    "--hidden": NUMBERS,
    "--layers": NUMBERS,
    "--intermediate": NUMBERS,
    "--batch": NUMBERS,
    "--window": NUMBERS,
    "--seed": NUMBERS,
    "--learning-rate": NUMBERS,
    "--max-seconds": NUMBERS,
    "--corpus": TEXTS,
    "--steps": [number for number in NUMBERS if len(number) < 3],
}


def training(draw: random.Random, material: Material, folder: Path) -> Case:
    """One option of `train`, `convert` or `bench`."""
    material.bring(folder, "checkpoint", "text.txt")
    which = draw.random()
    if which < 0.6:
        option = draw.choice(list(TRAINED))
        text = draw.choice(TRAINED[option])
        sizes = ("--hidden", "8", "--layers", "1", "--intermediate", "8", "--batch", "2")
        command = ("train", "--text", "text.txt", "-o", "out", *sizes, "--window", "8")
        command += ("--steps", "2", f"{option}={text}")
    elif which < 0.8:
        option, text = draw.choice(["--scheme", "--calibrate"]), draw.choice(TEXTS)
        command = ("convert", "checkpoint", "-o", "out.graph", f"{option}={text}")
    else:
        option = draw.choice(
            ["--model", "--mode", "--batch", "--length", "--seconds", "--embedding"]
        )
        text = draw.choice(NUMBERS + TEXTS)
        command = ("bench", "gpu", "--model", "370m", "--mode", "generate", f"{option}={text}")
    outputs = ("out", "out.graph")
    return Case(f"{command[0]} {option} {text[:30]!r}", (command,), outputs=outputs)


READ = {
    "a16.graph": (
        COMMANDS["logits"],
        COMMANDS["map"],
        COMMANDS["simulate"],
        ("inspect", "a16.graph"),
    ),
    "a16.map": (COMMANDS["simulate"], ("inspect", "a16.map")),
    "tokens.npy": (COMMANDS["logits"],),
    "run": (COMMANDS["report"], ("inspect", "run")),
    "run/run.json": (COMMANDS["report"], ("inspect", "run")),
    "checkpoint": (COMMANDS["inspect"],),
    "checkpoint/config.json": (COMMANDS["inspect"],),
    "checkpoint/model.safetensors": (COMMANDS["inspect"],),
    "rows.json": ((*COMMANDS["report"], "--gpu-rows", "rows.json"),),
    "system.toml": (
        ("systems", "system.toml"),
        ("map", "a16.graph", "--system", "system.toml", "-o", "out.map"),
    ),
    "out/state.safetensors": ((*COMMANDS["simulate"], "--resume"),),
}
"""By what is read, the commands that read it."""


def _fifo(path: Path) -> None:
    os.mkfifo(path)


def _socket(path: Path) -> None:
    here = os.getcwd()
    os.chdir(path.parent)  # the name of a socket is short
    try:
        with socket.socket(socket.AF_UNIX) as one:
            one.bind(path.name)
    finally:
        os.chdir(here)


def _device(minor: int, path: Path) -> None:
    os.mknod(path, 0o20666, os.makedev(1, minor))


PLACES = {
    "a FIFO": _fifo,
    "a folder": lambda path: path.mkdir(),
    "missing": lambda path: None,
    "an empty file": lambda path: path.touch(),
    "a link to nothing": lambda path: path.symlink_to("nowhere"),
    "a link to itself": lambda path: path.symlink_to(path.name),
    "a link to a folder": lambda path: path.symlink_to("."),
    "a socket": _socket,
    "an endless device": lambda path: _device(5, path),
    "an empty device": lambda path: _device(3, path),
    "a full device": lambda path: _device(7, path),
}
"""What may stand in the place of a file."""


def _without_devices() -> list[str]:
    """Only the superuser can make devices."""
    return [name for name in PLACES if os.geteuid() == 0 or "device" not in name]


def read(draw: random.Random, material: Material, folder: Path) -> Case:
    """Something else stands where a file or a folder is read."""
    material.bring(folder, *FILES, "rows.json", "system.toml")
    name = draw.choice(list(READ))
    path = folder / name
    if name.startswith("out/"):
        path.parent.mkdir()
    if path.is_dir():
        path.rename(folder / "away")
    path.unlink(missing_ok=True) if not path.is_dir() else None
    place = draw.choice(_without_devices())
    PLACES[place](path)
    command = draw.choice(READ[name])
    names = (path.name, name.split("/")[0], "a16.map")
    return Case(f"{name} is {place}: {command[0]}", (command,), names, WRITTEN, must="be refused")


WRITING = {
    "map": (COMMANDS["map"], "-o"),
    "logits": (COMMANDS["logits"], "-o"),
    "nats": (COMMANDS["logits"], "--nats"),
    "chosen": (COMMANDS["logits"], "--chosen"),
    "simulate": (COMMANDS["simulate"], "-o"),
    "report": (COMMANDS["report"], "-o"),
    "explore": (COMMANDS["explore"], "-o"),
    "picture": (COMMANDS["explore"], "--picture"),
    "codes": (COMMANDS["inspect"], "--codes"),
}
ENDINGS = {"report": ".json", "picture": ".png", "codes": ".npz"}


def written(draw: random.Random, material: Material, folder: Path) -> Case:
    """Something stands already where a command is to write."""
    material.bring(folder, *FILES)
    which = draw.choice(list(WRITING))
    command, option = WRITING[which]
    place = draw.choice([*_without_devices(), "its input", "a link to its input"])
    name = f"there{ENDINGS.get(which, '')}"
    if place == "its input":
        name = _input(draw, which)
    elif place == "a link to its input":
        (folder / name).symlink_to(_input(draw, which))
    else:
        PLACES[place](folder / name)
    inputs = place in ("its input", "a link to its input")
    outputs: tuple[str, ...] = WRITTEN
    if place in ("missing", "an empty file") or (place == "a folder" and which == "simulate"):
        outputs = (*WRITTEN, name)
    if place == "a link to nothing":
        outputs = (*WRITTEN, "nowhere")
    if place == "a link to a folder" and which == "simulate":
        outputs = (*WRITTEN, ".")
    return Case(
        f"{which} writes to {place}: {name}",
        ((*command, option, name),),
        outputs=outputs,
        must="be refused" if inputs else "either",
    )


def _input(draw: random.Random, which: str) -> str:
    """A file that the command reads."""
    return {
        "map": draw.choice(["a16.graph"]),
        "logits": draw.choice(["a16.graph", "tokens.npy"]),
        "nats": draw.choice(["a16.graph", "tokens.npy", "out.npy"]),
        "chosen": draw.choice(["a16.graph", "tokens.npy", "out.npy"]),
        "simulate": draw.choice(["a16.map", "a16.graph", "checkpoint", "."]),
        "report": draw.choice(["run/run.json", "run"]),
        "explore": "a16.graph",
        "picture": "a16.graph",
        "codes": draw.choice(["checkpoint/model.safetensors", "checkpoint/config.json"]),
    }[which]
