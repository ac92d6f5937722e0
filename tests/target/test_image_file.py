"""Images come back as they were saved, or are refused with one clear line."""

import hashlib
import json
import os
from collections.abc import Callable
from dataclasses import fields, replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from mmfree_neuro.errors import ImageError, InputError
from mmfree_neuro.target.embedding import embedding
from mmfree_neuro.target.image import About, Machine
from mmfree_neuro.target.image_file import digest_of, load_image, save_image
from mmfree_neuro.target.instructions import OWN_STATES, Op
from mmfree_neuro.target.instructions import Instruction as I
from mmfree_neuro.target.layout import HOST_CHIP, IMAGE_FORMAT, SECTIONS, Core

# A host and two cores of chip 3.  Core 2 has two groups, of 40 and of 3 neurons, and five axons:
# 0 and 1 have a ternary list to all of the first group, 2 one of 8 bits to the second, 3 a list of
# ones to each, 4 none.  Core 5 sends the logits of 4 tokens.


def words(*code: I) -> list[int]:
    return [one.word for one in code]


def embed(
    tokens: int = 4,
    values: int = 2,
    width: int = 1,
    group: int = 0,
    ports: Any = (0, 1),
    marks: Any = (0, 1),
) -> Any:
    """EMBED; `marks` are the port of marks and how many slots they tell apart."""
    head = np.array([tokens, values, width, group, *ports, *marks], "<u4").tobytes()
    size = tokens * values * width
    return np.frombuffer(head + bytes(size + -size % 8 + 4 * tokens), np.uint8).copy()


def core(number: int, **sections: Any) -> Core:
    kinds = {"group": ("<u4", 16), "port": ("<u4", 2), "tables": ("<u4", 2), "out": ("<u4", 4)}
    kinds |= dict.fromkeys(("code", "syn"), ("<u8", 1)) | {"axon": ("<u4", 1), "embed": ("u1", 1)}
    made = {}
    for name in SECTIONS:
        kind, width = kinds.get(name, ("<i4", 1))
        rows = np.array(sections.get(name, []), kind)
        made[name] = rows.reshape(-1, width) if width > 1 else rows
    return Core(number, **made)


def row(**numbers: int) -> list[int]:
    """A row of GROUP, 0 where nothing is said."""
    names = "code instructions neurons port ports immediate immediates constant constants state"
    names += " states table tables entry entries outputs"
    return [numbers.get(name, 0) for name in names.split()]


def header(
    format_: int, port: int, count: int, offset: int = 0, delay: int = 0, exponent: int = 0
) -> int:
    return format_ | delay << 4 | exponent << 10 | count << 16 | port << 32 | offset << 44


RESULT = 2 << 4 | HOST_CHIP << 16
FULL = words(
    I(Op.RDC, 0, s=0), I(Op.SKP_C, a=0, s=6), I(Op.MOV, 1, 0, s=0),
    I(Op.MIN, 2, 1, 64, counts=True), I(Op.SHL, 3, 2, s=31),
    I(Op.MUL_SHR, 3, 128, 192, s=62), I(Op.RMW, a=2, b=64), I(Op.SPIKE, a=3, s=0),
)  # fmt: skip
SHORT = words(I(Op.RDC, 0, s=0), I(Op.SPIKE, a=0))
TERNARY_ROW = [header(2, 0, 40, delay=1), 1 | 1 << 33, 1 << 7 | 1 << 32]


def cores() -> dict[str, Core]:
    host = core(
        0, group=[row(instructions=2, neurons=2, ports=2, entries=1, outputs=1)],
        port=[[0, 1], [2, 1]], code=SHORT, out=[[1 << 4 | 2 << 8 | 3 << 16, 0, 2, 0]],
        embed=embed(),
    )  # fmt: skip
    two = core(
        2,
        group=[
            row(instructions=8, neurons=40, ports=1, immediates=1, constants=1, states=1, tables=1,
                entries=2, outputs=1),
            row(code=8, instructions=2, neurons=3, port=1, ports=1, entry=2, state=40, outputs=1,
                table=1, constant=40),
        ],
        port=[[0, 3], [120, 2]], code=FULL + SHORT, pool=[99], tables=[[0, 3]], table=[7, 8, 9],
        const=range(40), state=range(40),
        axon=[0 | 1 << 24, 3 | 1 << 24, 6 | 1 << 24, 8 | 2 << 24, 0],
        syn=[*TERNARY_ROW, *TERNARY_ROW, header(3, 1, 3, exponent=2), 0x80FF7F, header(1, 0, 40),
             header(1, 1, 2, offset=1)],
        out=[[0 | 5 << 8 | 3 << 16, 0, 2, 0], [0 | 2 << 8 | 3 << 16, 36, 4, 1]],
    )  # fmt: skip
    five = core(
        5, group=[row(instructions=2, neurons=4, ports=1, entries=2, outputs=1)], port=[[0, 2]],
        code=SHORT, axon=[0 | 1 << 24, 1 | 1 << 24], syn=[header(1, 0, 4), header(1, 0, 4)],
        out=[[RESULT, 0, 3, 1], [RESULT, 3, 1, 0]],
    )  # fmt: skip
    return {"host": host, "two": two, "five": five}


FREE = dict.fromkeys(f.name for f in fields(Machine))
BITS = {"register_bits": 32, "accumulator_bits": 24, "payload_bits": 24, "weight_bits": 8}
ABOUT = About(IMAGE_FORMAT, "g", "m", "a system", Machine(**FREE | BITS), 4, False, 3, 2, (), {})


def saved(
    path: Path, parts: dict[str, Core], about: About = ABOUT, board: Any = ((255, 6),)
) -> Path:
    chips = iter([(3, (parts["two"], parts["five"]))])
    save_image(
        path, about, parts["host"], chips, np.array(board, np.uint8), programs="; ä\n", symbols="{}"
    )
    return path


def message(path: Path) -> str:
    """What is said of an image, behind its name."""
    with pytest.raises(ImageError) as error:
        load_image(path)
    assert str(error.value).startswith(str(path))
    return str(error.value)[len(str(path)) :]


def test_an_image_comes_back(tmp_path: Path) -> None:
    parts = cores()
    image = load_image(saved(tmp_path / "image", parts))
    assert sorted(os.listdir(image.path)) == [
        "board.bin", "chip-0003.bin", "host.bin", "image.json", "origin.json", "programs.asm",
        "symbols.json",
    ]  # fmt: skip
    assert image.about == replace(ABOUT, chips=(3,), files=image.about.files)
    assert image.board.tolist() == [[255, 6]]
    assert [(chip, one.number) for chip, one in image.cores] == [(HOST_CHIP, 0), (3, 2), (3, 5)]
    for (_, found), one in zip(image.cores, parts.values(), strict=True):
        for name in SECTIONS:
            assert np.array_equal(getattr(found, name), getattr(one, name))
            assert getattr(found, name).dtype == getattr(one, name).dtype
    digest = hashlib.sha256("; ä\n".encode()).hexdigest()
    assert image.about.files["programs.asm"] == digest


def test_an_older_image_is_replaced(tmp_path: Path) -> None:
    path = saved(tmp_path / "new" / "image", cores())
    saved(path, cores(), replace(ABOUT, system="another"))
    assert load_image(path).about.system == "another"
    assert os.listdir(path.parent) == ["image"]
    (tmp_path / "empty").mkdir()
    load_image(saved(tmp_path / "empty", cores()))


def test_nothing_else_is_replaced(tmp_path: Path) -> None:
    mixed = saved(tmp_path / "mixed", cores())
    for folder in (tmp_path, mixed):
        (folder / "notes.txt").touch()
    for path, said in {
        tmp_path: "is a folder of something else, must be new, or an image",
        mixed: "holds 'notes.txt', which is no file of an image, must be a folder for an image, or "
        "new",
        tmp_path / "notes.txt": "is no folder, must be a folder for an image, or new",
    }.items():
        with pytest.raises(InputError) as error:
            saved(path, cores())
        assert str(error.value) == f"{path}: {said}"


def test_what_fails_leaves_nothing(tmp_path: Path) -> None:
    path = saved(tmp_path / "image", cores())

    def chips() -> Any:
        yield 3, (cores()["two"],)
        raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        save_image(
            path,
            ABOUT,
            cores()["host"],
            chips(),
            np.zeros((1, 2), np.uint8),
            programs="",
            symbols="",
        )
    assert os.listdir(tmp_path) == ["image"]
    load_image(path)


# What is refused of a core.

Spoilt = Callable[[Core], Core | None]


def with_(section: str, place: Any, value: Any) -> Spoilt:
    """A core of which one number is another."""

    def spoil(one: Core) -> None:
        getattr(one, section)[place] = value

    return spoil


def without_end(section: str) -> Spoilt:
    return lambda one: replace(one, **{section: getattr(one, section)[:-1]})


def longer(section: str) -> Spoilt:
    def spoil(one: Core) -> Core:
        old = getattr(one, section)
        return replace(one, **{section: np.concatenate([old, np.zeros_like(old[:1])])})

    return spoil


def code(place: int, one: I | int) -> Spoilt:
    return with_("code", place, one.word if isinstance(one, I) else one)


CORE_2 = {
    # rows of GROUP and TABLES
    "group 1 has 0 neurons, must have 1 … 1048576": with_("group", (1, 2), 0),
    "group 0 has 1048577 neurons, must have 1 … 1048576": with_("group", (0, 2), (1 << 20) + 1),
    "group 0 has 65 immediates, must have 0 … 64": with_("group", (0, 6), 65),
    "group 0 has 65 constants, must have 0 … 64": with_("group", (0, 8), 65),
    "group 0 has 4097 states, must have 0 … 4096": with_("group", (0, 10), 4097),
    "group 0 has 17 outputs, must have 0 … 16": with_("group", (0, 15), 17),
    "group 1 has CODE up to 11, must end at 10": with_("group", (1, 0), 9),
    "group 0 has POOL up to 2, must end at 1": with_("group", (0, 5), 1),
    "group 0 has CONST up to 40, must end at 39": without_end("const"),
    "group 0 has TABLES up to 2, must end at 1": with_("group", (0, 12), 2),
    "group 1 begins in PORT at 0, must at 1": with_("group", (1, 3), 0),
    "group 0 begins in STATE at 1, must at 0": with_("group", (0, 9), 1),
    "group 0 begins in OUT at 4294967295, must at 0": with_("group", (0, 13), (1 << 32) - 1),
    "the groups have 40 rows of STATE, which has 39": without_end("state"),
    "the groups have 2 rows of PORT, which has 3": longer("port"),
    "the groups have 2 rows of OUT, which has 3": longer("out"),
    "table 0 ends at 4, TABLE at 3": with_("tables", (0, 1), 4),
    # ports
    "port 0 has 0 slots, must have 1 … 65": with_("port", (0, 1), 0),
    "port 1 has 66 slots, must have 1 … 65": with_("port", (1, 1), 66),
    "port 1 begins at accumulator 119, must at 120, for none is shared or left out": with_(
        "port", (1, 0), 119
    ),
    # programs
    "the program at 7 of CODE overlaps another": with_("group", (1, 0), 7),
    "group 0 has 1 ports, must have 2 for its program": code(0, I(Op.RDC, 0, s=1)),
    "group 0 has 1 immediates, must have 64 for its program": code(6, I(Op.RMW, a=127, b=64)),
    "group 0 has 1 constants, must have 3 for its program": code(6, I(Op.RMW, a=130, b=64)),
    "group 1 has 0 states, must have 1 for its program": code(9, I(Op.SPIKE, a=192)),
    "group 0 has 1 tables, must have 6 for its program": code(2, I(Op.MOV, 1, 0, s=5)),
    "group 1 has 1 outputs, must have 2 for its program": code(9, I(Op.SPIKE, a=0, s=1)),
    # lists
    "the axons have 259 lists, in SYN of 10 words": with_("axon", 0, 255 << 24),
    "axon 4 has a list behind the end of SYN": with_("axon", 4, 10 | 1 << 24),
    "axon 2 has a list of no known format": with_("syn", 6, header(4, 1, 3)),
    "axon 3 has a list past the end of SYN": with_("syn", 9, header(2, 1, 2, offset=1)),
    "axon 3 has a list that shares words with another": with_("axon", 4, 9 | 1 << 24),
    "lists take 8 words, must take all 10 of SYN": with_("syn", 0, header(1, 0, 2, delay=1)),
    "axon 0 has a list of no neurons": with_("syn", 0, header(2, 0, 0, delay=1)),
    "axon 2 has a list with exponent 32, must be at most 31": with_(
        "syn", 6, header(3, 1, 3, exponent=32)
    ),
    "axon 3 has a list to port 2, of 2": with_("syn", 9, header(1, 2, 2)),
    "axon 3 has a list to neurons up to 4, of 3": with_("syn", 9, header(1, 1, 2, offset=2)),
    "axon 2 has a list with delay 1, to a port of 2 slots": with_(
        "syn", 6, header(3, 1, 3, delay=1)
    ),
    "axon 1 has a weight that is +1 and -1": with_("syn", 4, 3 | 1 << 33),
    "axon 0 has a weight behind the end of a list": with_("syn", 2, 1 << 40),
    "axon 2 has a weight behind the end of a list": with_("syn", 7, 0x1000000),
    "EMBED has 56 bytes, must be empty but on the host": lambda one: replace(one, embed=embed()),
}


PROGRAMS = {
    "instruction 0: instruction 17 is not known": code(0, 17),
    "instruction 0: RDC has bits that it does not use": code(0, 1 | 1 << 48),
    "instruction 0: RDC has fields that it does not use": code(0, 1 | 1 << 16),
    "instruction 0: RDC writes register 64, must write one of 64": code(0, I(Op.RDC, 64)),
    "instruction 6: RMW reads operand 193, must read 0 … 192": code(6, I(Op.RMW, a=193, b=64)),
    "instruction 6: RMW reads operand 255, must read 0 … 192": code(6, I(Op.RMW, a=2, b=255)),
    "instruction 4: SHL shifts by 32 bits": code(4, I(Op.SHL, 3, 2, s=32)),
    "instruction 5: MUL_SHR shifts by 63 bits": code(5, I(Op.MUL_SHR, 3, 2, 2, s=63)),
    "instruction 2: MOV reads register 5, which was not written": code(2, I(Op.MOV, 1, 5)),
    "instruction 7: SPIKE reads register 3, which was not written": code(1, I(Op.SKP_C, a=0, s=5)),
    "instruction 1: SKP_C skips 7, past the end of the program": code(1, I(Op.SKP_C, a=0, s=7)),
    "the program has RMW more than once": code(5, I(Op.RMW, a=2, b=64)),
    "the program has SPIKE at output 0 more than once": code(6, I(Op.SPIKE, a=2)),
}


def changed(parts: dict[str, Core], name: str, spoil: Spoilt) -> dict[str, Core]:
    return parts | {name: spoil(parts[name]) or parts[name]}


@pytest.mark.parametrize("said", CORE_2)
def test_what_is_refused_of_a_core(said: str, tmp_path: Path) -> None:
    path = saved(tmp_path / "image", changed(cores(), "two", CORE_2[said]))
    assert message(path) == f"/chip-0003.bin: not the cores of a chip: core 2: {said}"


@pytest.mark.parametrize("one", [I(Op.RMW, a=0, b=0), I(Op.MOV, 1, 0, s=OWN_STATES)])
def test_own_states_need_one(one: I, tmp_path: Path) -> None:
    """Group 1 of core 2 has none, whether its program writes it or reads it by its number."""
    path = saved(tmp_path / "image", changed(cores(), "two", code(9, one)))
    assert message(path) == (
        "/chip-0003.bin: not the cores of a chip: core 2: group 1 has 0 states, must have 1 for "
        "its program"
    )


def test_several_states(tmp_path: Path) -> None:
    """Group 0 of core 2 has three states, of which its program reads one by its number and writes
    one; marks say which."""
    parts = cores()
    program = [*FULL[:2], *words(I(Op.MOV, 1, 0, s=OWN_STATES)), *FULL[3:6]]
    program += words(I(Op.RMW, a=2, b=0), I(Op.SPIKE, a=3, s=0))
    group = parts["two"].group.copy()
    group[0, 10], group[1, 9] = 3, 120
    parts["two"] = replace(
        parts["two"],
        group=group,
        code=np.array([*program, *SHORT], "<u8"),
        state=np.arange(120, dtype="<i4"),
    )
    parts["host"] = replace(
        parts["host"],
        group=np.array([row(instructions=2, neurons=2, ports=3, entries=1, outputs=1)], "<u4"),
        port=np.array([[0, 1], [2, 1], [4, 1]], "<u4"),
        embed=embed(marks=(2, 3)),
    )
    image = load_image(saved(tmp_path / "image", parts))
    found = embedding(image.host)
    assert (found.ports, found.slots, found.group) == ((0, 1, 2), 3, 0)
    assert np.array_equal(image.chips[3][0].state, np.arange(120))


@pytest.mark.parametrize("said", PROGRAMS)
def test_what_is_refused_of_a_program(said: str, tmp_path: Path) -> None:
    path = saved(tmp_path / "image", changed(cores(), "two", PROGRAMS[said]))
    assert message(path) == (
        f"/chip-0003.bin: not the cores of a chip: core 2: the program at 0 of CODE: {said}"
    )


LIMITS = {
    "has 2 groups, must have at most 1": {"groups_per_core": 1},
    "has 43 neurons, must have at most 42": {"neurons_per_core": 42},
    "has 5 input axons, must have at most 4": {"input_axons_per_core": 4},
    "has 6 map entries, must have at most 5": {"map_entries_per_core": 5},
    "has 126 accumulators, must have at most 125": {"accumulators_per_core": 125},
    "has 10 instructions, must have at most 9": {"instructions_per_core": 9},
    "has 1204 memory bytes, must have at most 1203": {"memory_bytes_per_core": 1203},
    "has 80 synaptic bytes, must have at most 79": {"synaptic_bytes_per_core": 79},
    "axon 0 has a list with delay 1, must be at most 0": {"longest_delay": 0},
    "axon 2 has a weight of more than 7 bits": {"weight_bits": 7},
}


@pytest.mark.parametrize("said", LIMITS)
def test_the_limits_of_a_core(said: str, tmp_path: Path) -> None:
    about = replace(ABOUT, machine=replace(ABOUT.machine, **LIMITS[said]))
    path = saved(tmp_path / "image", cores(), about)
    assert message(path) == f"/chip-0003.bin: not the cores of a chip: core 2: {said}"
    wider = {name: value + 1 for name, value in LIMITS[said].items()}
    load_image(saved(path, cores(), replace(ABOUT, machine=replace(ABOUT.machine, **wider))))


def test_payloads_that_can_be_sent_are_counted_once() -> None:
    """Neurons 0 … 3 and 2 … 5 of one output, twice to elsewhere, and 1 … 2 of another."""
    core = cores()["two"]
    rows = [[0, 2, 4, 9], [0, 0, 4, 0], [1 << 8, 2, 4, 1], [1, 1, 2, 5]]
    group = core.group.copy()
    group[:, 14] = [4, *[0] * (len(group) - 1)]
    assert replace(core, group=group, out=np.array(rows, np.uint32)).map_entries == 6 + 2
    assert replace(core, out=np.zeros((0, 4), np.uint32)).map_entries == 0


# What is refused of cores together.

TOGETHER: dict[str, tuple[str, Spoilt]] = {
    "chip 3 core 5: entry 1 has output 1, of 1": ("five", with_("out", (1, 0), 1 | RESULT)),
    "chip 3 core 2: entry 0 has neurons 39 and 2 on, of 40": ("two", with_("out", (0, 1), 39)),
    "chip 3 core 2: entry 1 has neurons 36 and 0 on, of 40": ("two", with_("out", (1, 2), 0)),
    "chip 3 core 2: entry 0 has kind 3, must be 0, 1 or 2": ("two", with_("out", (0, 0), 3 << 4)),
    "the host: entry 0 leads to chip 3 core 9, not there": (
        "host",
        with_("out", (0, 0), 1 << 4 | 9 << 8 | 3 << 16),
    ),
    "chip 3 core 2: entry 0 leads to chip 4 core 5, not there": (
        "two",
        with_("out", (0, 0), 5 << 8 | 4 << 16),
    ),
    "chip 3 core 2: entry 0 has kind 1 for chip 3, must be 0 on one chip and 1 between two": (
        "two",
        with_("out", (0, 0), 1 << 4 | 5 << 8 | 3 << 16),
    ),
    "the host: entry 0 has kind 0 for chip 3, must be 0 on one chip and 1 between two": (
        "host",
        with_("out", (0, 0), 2 << 8 | 3 << 16),
    ),
    "chip 3 core 2: entry 0 leads to axons 1 and 2 on, of 2": ("two", with_("out", (0, 3), 1)),
    "chip 3 core 5: entry 0 has a result for chip 3 core 5, must be for the host's core 0": (
        "five",
        with_("out", (0, 0), 2 << 4 | 5 << 8 | 3 << 16),
    ),
    "results: result 0 has no sender or two, must have one": ("five", with_("out", (1, 3), 3)),
    "results: result 2 has no sender or two, must have one": (
        "five",
        with_("out", (slice(2), 3), [0, 2]),
    ),
    "results: 3 of them have a sender, must be 4": (
        "five",
        with_("out", slice(2), [[RESULT, 0, 2, 0], [RESULT, 3, 1, 2]]),
    ),
    "EMBED has 0 bytes, must have a header of 32": (
        "host",
        lambda one: replace(one, embed=one.embed[:0]),
    ),
    "EMBED has codes of 3 bytes, must be 1 or 2": ("host", with_("embed", 8, 3)),
    "EMBED is for 0 slots and marks at port 0, must be for 1 … 4096, and 0 for the port of 1": (
        "host",
        lambda one: replace(one, embed=embed(marks=(0, 0))),
    ),
    "EMBED is for 4097 slots and marks at port 2, must be for 1 … 4096, and 0 for the port of 1": (
        "host",
        lambda one: replace(one, embed=embed(marks=(2, 4097))),
    ),
    "EMBED is for 1 slots and marks at port 3, must be for 1 … 4096, and 0 for the port of 1": (
        "host",
        with_("embed", 24, 3),
    ),
    "EMBED has 56 bytes, must have 64, and 0 between codes and scales": (
        "host",
        with_("embed", 8, 2),
    ),
    "EMBED has 5 tokens, must have 4": ("host", lambda one: replace(one, embed=embed(5))),
    "EMBED is for group 1, of 1": ("host", lambda one: replace(one, embed=embed(group=1))),
    "EMBED has 3 values of a token, for a group of 2 neurons": (
        "host",
        lambda one: replace(one, embed=embed(values=3)),
    ),
    "EMBED is for ports 0, 2, must be 2 of 2": (
        "host",
        lambda one: replace(one, embed=embed(ports=(0, 2))),
    ),
    "EMBED is for ports 1, 1, must be 2 of 2": (
        "host",
        lambda one: replace(one, embed=embed(ports=(1, 1))),
    ),
    "EMBED is for ports 0, 1, 2, must be 3 of 2": (
        "host",
        lambda one: replace(one, embed=embed(marks=(2, 3))),
    ),
    "EMBED is for ports 0, 1, 1, must be 3 of 2": (
        "host",
        lambda one: replace(one, embed=embed(marks=(1, 3))),
    ),
    "the host: a list leads to the group that reads the embedding": (
        "host",
        lambda one: replace(
            one,
            port=np.array([[0, 1], [2, 2]], "<u4"),
            axon=np.array([1 << 24], "<u4"),
            syn=np.array([header(1, 1, 1)], "<u8"),
        ),
    ),
}


def test_a_machine_that_chooses_words_has_one_result(tmp_path: Path) -> None:
    greedy = replace(ABOUT, greedy=True)
    assert message(saved(tmp_path / "image", cores(), greedy)) == (
        ": not a machine image: results: 4 of them have a sender, must be 1"
    )
    assert (greedy.results, ABOUT.results) == (1, 4)


@pytest.mark.parametrize("said", TOGETHER)
def test_what_is_refused_of_cores_together(said: str, tmp_path: Path) -> None:
    path = saved(tmp_path / "image", changed(cores(), *TOGETHER[said]))
    assert message(path) == f": not a machine image: {said}"


def test_steps_that_are_too_few(tmp_path: Path) -> None:
    """The host sends to a group, and this one to that of the logits, in two steps."""
    parts = changed(cores(), "two", with_("out", (1, slice(1, 4)), [36, 1, 2]))  # no circle
    load_image(saved(tmp_path / "image", parts))
    for steps in (0, 1):
        assert message(saved(tmp_path / "image", parts, replace(ABOUT, steps=steps))) == (
            f": not a machine image: steps is {steps}, must be at least 2, for so many entries "
            "lead one after another from the embedding to a result"
        )


def test_steps_where_entries_lead_round_in_a_circle(tmp_path: Path) -> None:
    load_image(saved(tmp_path / "image", cores(), replace(ABOUT, steps=0)))


def test_codes_are_filled_up_with_zeros(tmp_path: Path) -> None:
    parts = cores()
    odd = np.concatenate([embed(4, 1)[:37], np.ones(1, np.uint8), embed(4, 1)[38:]])
    path = saved(tmp_path / "image", parts | {"host": replace(parts["host"], embed=odd)})
    assert message(path) == (
        ": not a machine image: EMBED has 56 bytes, must have 56, and 0 between codes and scales"
    )


def test_more_accumulators_than_anybody_has(tmp_path: Path) -> None:
    """64 bytes of a row could ask for half a gigabyte."""
    groups = [row(instructions=2, neurons=1 << 20, port=k, ports=1, outputs=1) for k in range(4)]
    ports = [[65 * k << 20, 65] for k in range(4)]
    parts = cores()
    parts["five"] = core(5, group=groups, port=ports, code=SHORT, axon=[0, 0])
    path = saved(tmp_path / "image", parts)
    size = 67 * 4 * (1 << 20) + 126 + 2 * 43 + 40 + 4 + 2 * 2
    assert message(path) == (
        f": not a machine image: it has {size} neurons, outputs, states and accumulators, must "
        "have at most 268435456"
    )


BOARDS = {
    "board: a port is none of 0 … 6 and 255": [[7, 6]],
    "board: chip 3 has no port for what is for chip 65535": [[255, 255]],
}


@pytest.mark.parametrize("said", BOARDS)
def test_boards(said: str, tmp_path: Path) -> None:
    path = saved(tmp_path / "image", cores(), board=BOARDS[said])
    assert message(path) == f": not a machine image: {said}"


def test_cores_of_a_chip(tmp_path: Path) -> None:
    about = replace(ABOUT, machine=replace(ABOUT.machine, cores_per_chip=1))
    path = saved(tmp_path / "image", cores(), about)
    assert message(path) == ": not a machine image: chip 3 has 2 cores, must have at most 1"


def test_the_host_has_one_core(tmp_path: Path) -> None:
    parts = cores()
    parts["host"] = replace(parts["host"], number=1)
    path = saved(tmp_path / "image", parts)
    assert (
        message(path)
        == "/host.bin: not the cores of a chip: it has cores [1], must have core 0 alone"
    )


# What is refused of files.


def mended(path: Path, name: str, data: bytes) -> None:
    """Another content of a file, which image.json says that it has."""
    (path / name).write_bytes(data)
    about = json.loads((path / "image.json").read_text())
    about["files"][name] = hashlib.sha256(data).hexdigest()
    described(path, about)


def described(path: Path, about: dict[str, Any]) -> None:
    """Another image.json, checksum and all."""
    about = {name: value for name, value in about.items() if name != "sha256"}
    (path / "image.json").write_text(json.dumps(about | {"sha256": digest_of(about)}))


def number(at: int, value: int) -> Callable[[bytes], bytes]:
    """A file of which one number is another."""
    return lambda data: data[: 4 * at] + value.to_bytes(4, "little") + data[4 * at + 4 :]


FILES: dict[str, Callable[[bytes], bytes]] = {
    "it does not begin with MMFCORES": lambda data: b"?" + data[1:],
    "it has 12 bytes, must have whole words and a header, or is cut short": lambda data: data[:12],
    "it is of chip 4, must be of chip 3": number(2, 4),
    "it has 9 cores in 1384 bytes, or is cut short": number(3, 9),
    "its cores are [2, 2], must be in order and below 256": number(4 + 64, 2),
    "its directories have numbers that are not used, must be 0": number(4 + 63, 1),
    "core 2: GROUP begins at word 67, must follow at word 66": number(4 + 2, 67),
    "its sections end at byte 1384, must end at 1392, or it is cut short": lambda data: (
        data + bytes(8)
    ),
    "core 2: GROUP has 124 bytes, must have rows of 64": number(4 + 4, 124),
    "core 2: GROUP is damaged, for it differs from its checksum": number(4 + 5, 0),
}


@pytest.mark.parametrize("said", FILES)
def test_files_of_cores(said: str, tmp_path: Path) -> None:
    path = saved(tmp_path / "image", cores())
    mended(path, "chip-0003.bin", FILES[said]((path / "chip-0003.bin").read_bytes()))
    assert message(path) == f"/chip-0003.bin: not the cores of a chip: {said}"


def test_bytes_between_sections(tmp_path: Path) -> None:
    """POOL of core 2 has one number, and a word."""
    path = saved(tmp_path / "image", cores())
    data = (path / "chip-0003.bin").read_bytes()
    at = 8 * int(np.frombuffer(data, "<u4")[4 + 2 + 15])
    mended(path, "chip-0003.bin", data[: at + 4] + b"\1" + data[at + 5 :])
    assert message(path) == (
        "/chip-0003.bin: not the cores of a chip: core 2: POOL is damaged, for it differs from its "
        "checksum"
    )


def test_boards_that_are_none(tmp_path: Path) -> None:
    path = saved(tmp_path / "image", cores())
    data = (path / "board.bin").read_bytes()
    for spoilt, said in (
        (b"?" + data[1:], "it does not begin with MMFBOARD and 1 chips"),
        (data + bytes(8), "it has 32 bytes, must have 24 and 0 behind its rows"),
        (data[:-1] + b"\1", "it has 24 bytes, must have 24 and 0 behind its rows"),
    ):
        mended(path, "board.bin", spoilt)
        assert message(path) == f"/board.bin: not the board of a machine image: {said}"


@pytest.mark.parametrize(
    "name",
    ["board.bin", "chip-0003.bin", "host.bin", "origin.json", "programs.asm", "symbols.json"],
)
def test_files_that_are_damaged_or_missing(name: str, tmp_path: Path) -> None:
    path = saved(tmp_path / "image", cores())
    with (path / name).open("r+b") as file:
        file.write(b"?")
    assert message(path) == (
        f"/{name}: not a file of a machine image: it is damaged, for it differs from its checksum"
    )
    (path / name).unlink()
    assert message(path) == f"/{name}: no such file, must be a file of a machine image"


HEADS: dict[str, Callable[[dict[str, Any]], Any]] = {
    "format is 'mine', must be 'mmfree-neuro image 3'": lambda about: {"format": "mine"},
    "has no steps, must have one": lambda about: about.pop("steps") and {},
    "has 'colour', must not": lambda about: {"colour": 1},
    ".vocabulary: is '4', must be an integer of at most 64 bits": lambda about: {"vocabulary": "4"},
    "machine.register_bits is 31, must be 32": lambda about: (
        about["machine"].update(register_bits=31) or {}
    ),
    "machine.payload_bits is 33, must be 2 … 32": lambda about: (
        about["machine"].update(payload_bits=33) or {}
    ),
    "machine.longest_delay is -1, must be 0 … 9223372036854775807": lambda about: (
        about["machine"].update(longest_delay=-1) or {}
    ),
    "vocabulary is 0, must be 1 … 2147483647": lambda about: {"vocabulary": 0},
    ".greedy: is 1, must be true or false": lambda about: {"greedy": 1},
    "logit_frac is 63, must be 0 … 62": lambda about: {"logit_frac": 63},
    "steps is 65537, must be 0 … 65536": lambda about: {"steps": 65537},
    "chips is 65535, must be 0 … 65534": lambda about: {"chips": [65535]},
    "chips are not in order": lambda about: {"chips": [3, 3]},
    "files are ['board.bin', 'host.bin', 'origin.json', 'programs.asm', 'symbols.json'], must be "
    "['board.bin', 'chip-0003.bin', 'host.bin', 'origin.json', 'programs.asm', "
    "'symbols.json']": lambda about: about["files"].pop("chip-0003.bin") and {},
}


@pytest.mark.parametrize("said", HEADS)
def test_heads(said: str, tmp_path: Path) -> None:
    path = saved(tmp_path / "image", cores())
    about = json.loads((path / "image.json").read_text())
    described(path, about | HEADS[said](about))
    assert message(path) == f"/image.json: not the head of a machine image: {said}"


def test_a_head_that_is_damaged_or_missing(tmp_path: Path) -> None:
    path = saved(tmp_path / "image", cores())
    about = json.loads((path / "image.json").read_text())
    (path / "image.json").write_text(json.dumps(about | {"steps": 3}))
    assert message(path) == (
        "/image.json: not the head of a machine image: it is damaged, for it differs from its "
        "checksum"
    )
    assert (
        message(tmp_path / "none")
        == "/image.json: no such file, must be the head of a machine image"
    )
