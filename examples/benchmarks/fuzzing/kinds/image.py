"""Machine images: their files with stale checksums, and numbers of theirs with mended ones."""

import hashlib
import json
import random
from pathlib import Path
from zlib import crc32

import numpy as np

from fuzzing.case import Case
from fuzzing.kinds import results
from fuzzing.material import SIMULATE, Material
from fuzzing.values import change, change_bytes, mended
from mmfree_neuro.target.image_file import digest_of
from mmfree_neuro.target.layout import CORES_MAGIC, DIRECTORY_NUMBERS, SECTIONS

IMAGE = "a16.image"
RUN = ("simulate", IMAGE, *SIMULATE, "-o", "out")
READS = (
    RUN,
    ("logits", IMAGE, "--tokens", "tokens.npy", "--raw", "-o", "out"),
    ("listing", IMAGE),
    ("listing", IMAGE, "--core", "0:1"),
    ("listing", IMAGE, "--program", "layers.0.mlgru"),
)


def _names(folder: Path) -> list[str]:
    return sorted(file.name for file in (folder / IMAGE).iterdir())


def any_bytes(draw: random.Random, material: Material, folder: Path) -> Case:
    """A file of an image with other bytes than it was made with."""
    material.bring(folder, IMAGE, "tokens.npy")
    name = draw.choice(_names(folder))
    path = folder / IMAGE / name
    before = path.read_bytes()
    what, data = change_bytes(draw, before)
    path.write_bytes(data)
    same = data == before or (name == "image.json" and _says(data) == _says(before))
    return Case(
        f"{IMAGE}/{name}: {what}",
        (draw.choice(READS),),
        (IMAGE,),
        ("out",),
        must="either" if same else "be refused",
    )


def _says(data: bytes) -> object:
    """What JSON text says, whatever stands between; None where it is none."""
    try:
        return json.loads(data)
    except (ValueError, RecursionError):
        return None


def any_number(draw: random.Random, material: Material, folder: Path) -> Case:
    """A number of a file of cores that is another one, all checksums mended: the machine may do
    what it likes, but ends well."""
    material.bring(folder, IMAGE, "tokens.npy")
    name = draw.choice([name for name in _names(folder) if name.endswith(".bin")])
    data = bytearray((folder / IMAGE / name).read_bytes())
    width = draw.choice([1, 4, 4, 8])
    at = draw.randrange(len(data) // width) * width
    old = int.from_bytes(data[at : at + width], "little")
    new = draw.choice(
        [
            draw.getrandbits(8 * width),
            old ^ 1 << draw.randrange(8 * width),
            old + draw.choice([-1, 1, 2, 32, 1 << 16]),
            draw.randrange(70),
            (1 << 8 * width) - 1,
        ]
    ) % (1 << 8 * width)
    data[at : at + width] = new.to_bytes(width, "little")
    _write(folder, name, bytes(_with_sums(data)))
    command = draw.choice(READS[:2])
    return Case(f"{IMAGE}/{name}: {width} bytes at {at} are {new}", (command,), (IMAGE,), ("out",))


def any_value(draw: random.Random, material: Material, folder: Path) -> Case:
    """A value of a JSON file of an image that is another one, all checksums mended."""
    material.bring(folder, IMAGE, "tokens.npy")
    name = draw.choice(["image.json", "origin.json", "symbols.json"])
    what, text, where = change(draw, json.loads((folder / IMAGE / name).read_text()))
    if name == "image.json":
        (folder / IMAGE / name).write_text(mended(text))
    else:
        _write(folder, name, text.encode())
    command = draw.choice(READS)
    # What is wrong with the text of a model is told of the model, be it a checkpoint, a graph or an
    # image.
    named = () if where[:1] in (("bos",), ("tokenizer",)) else (IMAGE,)
    return Case(f"{IMAGE}/{name} {where}: {what}", (command,), named, ("out",))


def the_same(_draw: random.Random, material: Material, folder: Path) -> Case:
    """An image as it was made, which gives what its graph gives."""
    material.bring(folder, IMAGE, "tokens.npy")
    command = ("logits", IMAGE, "--tokens", "tokens.npy", "--raw", "-o", "out.npy")
    verdict = results.logits_are(material.logits["a16.graph"])
    return Case("as it was", (command,), (IMAGE,), ("out.npy",), verdict, must="be accepted")


def _with_sums(data: bytearray) -> bytearray:
    """A file of cores whose directories have the checksums of its sections, as far as these lie in
    it."""
    if data[:8] != CORES_MAGIC:
        return data
    numbers = np.frombuffer(bytes(data[: len(data) // 4 * 4]), "<u4")
    for core in range(min(int(numbers[3]), 256)):
        for section in range(len(SECTIONS)):
            at = 4 + DIRECTORY_NUMBERS * core + 2 + 5 * section
            if at + 4 > len(numbers):
                return data
            first, high, length = (int(number) for number in numbers[at : at + 3])
            if not high and 8 * first + length <= len(data):
                checksum = crc32(data[8 * first : 8 * first + length])
                data[4 * at + 12 : 4 * at + 16] = checksum.to_bytes(4, "little")
    return data


def _write(folder: Path, name: str, data: bytes) -> None:
    """A file of the image with other content, and the checksums that it has then."""
    (folder / IMAGE / name).write_bytes(data)
    head = folder / IMAGE / "image.json"
    about = json.loads(head.read_text())
    about["files"][name] = hashlib.sha256(data).hexdigest()
    del about["sha256"]
    head.write_text(json.dumps(about | {"sha256": digest_of(about)}))
