"""Prompts, texts to train and calibrate on, and files of tokens."""

import io
import random
import struct
from pathlib import Path
from typing import Any

import numpy as np

from fuzzing.case import Case, Must
from fuzzing.kinds import results
from fuzzing.material import Material
from fuzzing.values import change_bytes
from mmfree_neuro.run import run_file

PIECES = [
    b"caf\xe9",
    b"\xff\xfe\x00"[:2],
    "é".encode(),
    "\U0001f600".encode(),
    b"\x1b[31mred\x1b]0;title\x07",
    b"\x1b[2J",
    b"\r\n",
    b"\t",
    b"\x01",
    b"a" * 300,
    "\u202e".encode(),
    "\u2028".encode(),
    b"\xed\xa0\x80",
    b"<s>",
    b"import os\n",
    b"--",
    b"{{ 7 * 7 }}",
    b"<script>",
]


def prompt(draw: random.Random, material: Material, folder: Path) -> Case:
    """Any bytes as a prompt: the model reads these bytes."""
    raw = b"".join(draw.choice(PIECES) for _ in range(draw.choice([0, 1, 1, 2, 5])))
    material.bring(folder, "a16.graph", "a16.map")
    if draw.random() < 0.3:
        raw += draw.choice([b"", b"\0", b"x" * 200_000 if draw.random() < 0.05 else b"\xff"])
        (folder / "prompt.txt").write_bytes(raw)
        given = ("--prompt-file", "prompt.txt")
    else:
        given = (f"--prompt={raw.decode(errors='surrogateescape')}", "--seed=5")
    command = ("simulate", "a16.map", *given, "--new-tokens", "2", "--engine", "fast")

    def verdict(folder: Path) -> str:
        found = bytes(run_file.load_run(folder / "out").only.prompt_tokens[1:])
        return "" if found == raw else f"the model read {found!r}"[:300]

    commands: tuple[tuple[str, ...], ...] = ((*command, "-o", "out"),)
    if draw.random() < 0.3:
        commands += (("report", "out", "-o", draw.choice(["out.json", "out.md", "out.html"])),)
    return Case(
        f"{raw[:40]!r}",
        commands,
        outputs=("out", "out.json", "out.md", "out.html"),
        verdict=verdict,
        must="be accepted",
    )


def _npy(descr: object, fortran: object, shape: object, data: bytes, version: int = 1) -> bytes:
    """A `.npy` file with any header."""
    head = f"{{'descr': {descr!r}, 'fortran_order': {fortran!r}, 'shape': {shape!r}, }}".encode()
    wide = 2 if version == 1 else 4
    head += b" " * (-(len(head) + 7 + wide + 1) % 64) + b"\n"
    return b"\x93NUMPY" + bytes([version, 0]) + len(head).to_bytes(wide, "little") + head + data


def _headers(draw: random.Random, tokens: Any) -> tuple[str, bytes, Must]:
    data = tokens.astype("<i8").tobytes()
    descr, shape, must = draw.choice(
        [
            ("<i8", (1_000_000, 1_000_000), "be refused"),
            ("<i8", (2**62, 2), "be refused"),
            ("<i8", (-2, -5), "be refused"),
            ("<i8", (2, 6), "be refused"),
            ("<i8", (2.0, 5), "be refused"),
            ("<i8", 10, "be refused"),
            ("<i8", (), "be refused"),
            ("<i8", (0, 5), "be refused"),
            ("<i8", (2, 0), "be refused"),
            ("<i8", (2, 5, 1), "be refused"),
            ("<m8[s]", (2, 5), "be refused"),
            ("<M8[D]", (2, 5), "be refused"),
            ("<f8", (2, 5), "be refused"),
            ("<c16", (1, 5), "be refused"),
            ("|O", (2, 5), "be refused"),
            ("|b1", (2, 5), "be refused"),
            ("|S8", (2, 5), "be refused"),
            ("<U2", (2, 5), "be refused"),
            ("|V8", (2, 5), "be refused"),
            ([("a", "<i8")], (2, 5), "be refused"),
            ("nonsense", (2, 5), "be refused"),
            ("", (2, 5), "be refused"),
            (5, (2, 5), "be refused"),
            ("<i8" + "x" * 5000, (2, 5), "be refused"),
            ("<u8", (2, 5), "be accepted"),
            ("<i8", (2, 5), "be accepted"),
            (">i8", (2, 5), "either"),
        ]
    )
    version = draw.choice([1, 1, 2])
    return f"{str(descr)[:20]} {shape}", _npy(descr, False, shape, data, version), must


def _arrays(draw: random.Random, tokens: Any) -> tuple[str, bytes, Must]:
    """Arrays that NumPy writes by itself."""
    must: Must
    kind, array, must = draw.choice(
        [
            ("int32", tokens.astype(np.int32), "be accepted"),
            ("uint8", tokens.astype(np.uint8), "be accepted"),
            ("big-endian", tokens.astype(">i8"), "be accepted"),
            ("by columns", np.asfortranarray(tokens), "be accepted"),
            ("timedelta64", tokens.astype("m8[s]"), "be refused"),
            ("bool", tokens > 5, "be refused"),
            ("float", tokens.astype(float), "be refused"),
            ("a negative token", np.where(tokens == tokens[0, 0], -1, tokens), "be refused"),
            ("token 256", np.where(tokens == tokens[0, 0], 256, tokens), "be refused"),
            ("token 2^63 + 1", tokens.astype(np.uint64) + np.uint64(2**63), "be refused"),
            ("token -2^63", tokens + np.int64(-(2**63)), "be refused"),
            ("a record", np.zeros((2, 5), [("a", "i8")]), "be refused"),
            ("a text", np.array(["a", "b"]), "be refused"),
            ("no rows", tokens[:0], "be refused"),
        ]
    )
    stream = io.BytesIO()
    np.save(stream, array)
    return kind, stream.getvalue(), must


def _others(draw: random.Random, tokens: Any) -> tuple[str, bytes, Must]:
    stream = io.BytesIO()
    which = draw.choice(["npz", "pickle", "zip junk", "header length", "version"])
    if which == "npz":
        np.savez(stream, tokens=tokens)
        return which, stream.getvalue(), "be refused"
    if which == "pickle":
        np.save(stream, np.array([None, {}], object), allow_pickle=True)
        return which, stream.getvalue(), "be refused"
    if which == "zip junk":
        return which, b"PK\x03\x04" + draw.randbytes(200), "be refused"
    np.save(stream, tokens)
    data = bytearray(stream.getvalue())
    if which == "version":
        data[6] = draw.choice([0, 2, 3, 4, 9, 255])
    else:
        data[8:10] = struct.pack("<H", draw.choice([0, 1, 65535, 30000]))
    return which, bytes(data), "be refused"


def tokens(draw: random.Random, material: Material, folder: Path) -> Case:
    """A file of tokens, read by an engine."""
    material.bring(folder, "a16.graph")
    command = ("logits", "a16.graph", "--raw", "--tokens", "tokens.npy", "-o", "out.npy")
    which, must = draw.random(), "either"
    if which < 0.25:
        what, data = change_bytes(draw, (material.folder / "tokens.npy").read_bytes())
    else:
        make = _headers if which < 0.65 else _arrays if which < 0.85 else _others
        what, data, must = make(draw, material.tokens)
    (folder / "tokens.npy").write_bytes(data)
    verdict = results.logits_are(material.logits["a16.graph"])
    return Case(
        what,
        ((*command, "--engine", draw.choice(["fast", "fast", "reference"])),),
        ("tokens.npy", "token"),
        ("out.npy",),
        verdict if must == "be accepted" else lambda _: "",
        must,  # type: ignore[arg-type]
    )


def corpus(draw: random.Random, material: Material, folder: Path) -> Case:
    """A text to calibrate or to train on, or tokens to calibrate on."""
    name = draw.choice(["text.txt", "tokens.npy"])
    data = draw.choice(
        [
            b"",
            b"a",
            b"a" * 39,
            b"a" * 40,
            b"a" * 41,
            b"\0" * 1000,
            b"\xff" * 1000,
            draw.randbytes(3000),
            (material.folder / "tokens.npy").read_bytes(),
            b"PK\x03\x04" * 50,
        ]
    )
    if name == "tokens.npy" and draw.random() < 0.8:
        make = draw.choice([_headers, _arrays, _others])
        _, data, _ = make(draw, material.tokens)
    (folder / name).write_bytes(data)
    what = f"{name}: {len(data)} bytes, {data[:12]!r}"
    if name == "text.txt" and draw.random() < 0.4:
        train = ("train", "--text", name, "-o", "out", "--hidden", "8", "--layers", "1")
        command = (*train, "--intermediate", "8", "--steps", "2", "--batch", "2", "--window", "8")
        return Case(what, (command,), ("text.txt", "text"), ("out",))
    folder_name = draw.choice(["checkpoint", "worded"])
    material.bring(folder, folder_name)
    command = ("convert", folder_name, "-o", "out.graph", "--calibrate", name)
    return Case(what, (command,), (name, "text"), ("out.graph",))
