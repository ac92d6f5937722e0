"""The bytes of a machine image: sections of a core, rows of sections, and the files of cores.

docs/machine.md is the manual; this file has the same figures as NumPy needs them.
"""

from dataclasses import dataclass, fields
from zlib import crc32

import numpy as np
from numpy.typing import NDArray

Rows = NDArray[np.uint32]
Numbers = NDArray[np.int32]
Bytes = NDArray[np.uint8]

IMAGE_FORMAT = "mmfree-neuro image 3"
CORES_MAGIC, BOARD_MAGIC = b"MMFCORES", b"MMFBOARD"
HOST_CHIP = 65_535
"""The number of the host among the chips."""

GROUP_FIELDS = (
    "code",
    "instructions",
    "neurons",
    "port",
    "ports",
    "immediate",
    "immediates",
    "constant",
    "constants",
    "state",
    "states",
    "table",
    "tables",
    "entry",
    "entries",
    "outputs",
)
"""The numbers of a row of GROUP, in order."""
MOST_IMMEDIATES = MOST_CONSTANTS = 64
MOST_OUTPUTS = 16
MOST_STATES = 4096
"""States of a neuron, one for each sequence that may be under way."""
MOST_CORES, MOST_PORTS, MOST_LISTS, MOST_WORDS = 1 << 8, 1 << 12, (1 << 8) - 1, 1 << 24
"""What fields have room for: cores of a chip, ports of a core, lists of an axon, words of SYN."""
LONGEST_LIST = 65_535
"""Neurons that one synapse list reaches."""

ACCUMULATOR_BYTES = 4
CURRENT_AND_NEXT = 2
"""Slots of a port whose lists have no delays: the one that is read and the one that is filled."""
ALL_ONES, TERNARY, EIGHT_BITS = 1, 2, 3
"""Formats of synapse lists."""
HERE, AWAY, RESULT = 0, 1, 2
"""Kinds of output entries: a core of the same chip, one elsewhere, a logit."""
PORT_OF_HOST, NO_PORT = 6, 255
"""Ports of a chip in board.bin beside the six to its neighbours."""


@dataclass(frozen=True, eq=False)
class Core:
    """The sections of one core, in their order."""

    number: int
    group: Rows  # [groups, 16]
    port: Rows  # [ports, 2]
    code: NDArray[np.uint64]
    pool: Numbers
    tables: Rows  # [tables, 2]
    table: Numbers
    const: Numbers
    state: Numbers
    axon: Rows  # [axons]
    syn: NDArray[np.uint64]
    out: Rows  # [entries, 4]
    embed: Bytes

    @property
    def sections(self) -> tuple[NDArray[np.generic], ...]:
        """The arrays of all sections."""
        return tuple(getattr(self, name) for name in SECTIONS)

    @property
    def accumulators(self) -> int:
        """How many it has, slots counted."""
        owners = np.repeat(np.arange(len(self.group)), self.group[:, 4])
        return int((self.port[:, 1].astype(np.int64) * self.group[owners, 2]).sum())

    @property
    def senders(self) -> NDArray[np.int64]:
        """The group of each row of OUT."""
        return np.repeat(np.arange(len(self.group)), self.group[:, 14])

    @property
    def map_entries(self) -> int:
        """Payloads that its neurons can send, each once, wherever they go: the neurons that some
        row of OUT has, for each output of each group."""
        if not len(self.out):
            return 0
        # A group and one of its outputs have 2^32 numbers of their own, one for each neuron.
        base = (self.senders * MOST_OUTPUTS + (self.out[:, 0] & 15).astype(np.int64)) << 32
        starts = base + self.out[:, 1]
        order = np.argsort(starts, kind="stable")
        starts, stops = starts[order], (starts + self.out[:, 2])[order]
        before = np.maximum.accumulate(np.append(0, stops[:-1]))
        return int(np.maximum(stops - np.maximum(starts, before), 0).sum())

    @property
    def bytes(self) -> int:
        """What it takes of a core's memory: its sections and its accumulators."""
        sections = sum(section.nbytes for section in self.sections)
        return sections + ACCUMULATOR_BYTES * self.accumulators


SECTIONS = tuple(field.name for field in fields(Core) if field.name != "number")
"""The names of the sections, as attributes of a core, in their order."""
SECTION_TYPES: dict[str, tuple[str, int]] = {
    "group": ("<u4", 16),
    "port": ("<u4", 2),
    "code": ("<u8", 1),
    "pool": ("<i4", 1),
    "tables": ("<u4", 2),
    "table": ("<i4", 1),
    "const": ("<i4", 1),
    "state": ("<i4", 1),
    "axon": ("<u4", 1),
    "syn": ("<u8", 1),
    "out": ("<u4", 4),
    "embed": ("u1", 1),
}
"""The type of a section's numbers, and how many of them are a row."""
DIRECTORY_NUMBERS = 64


def row_bytes(section: str) -> int:
    """What a row of a section takes."""
    kind, width = SECTION_TYPES[section]
    return np.dtype(kind).itemsize * width


def format_of(weight_bits: int) -> int:
    """The format of lists of ternary weights that are stored at so many bits."""
    return TERNARY if weight_bits <= 2 else EIGHT_BITS


def list_size(neurons: int, weight_bits: int) -> int:
    """The words of a synapse list with its header; `weight_bits` is 0 where all weights are 1."""
    return 1 + (weight_words(neurons, weight_bits) if weight_bits else 0)


def weight_words(neurons: int, weight_bits: int) -> int:
    """The words in which a list has so many weights."""
    return -(-neurons // (32 if format_of(weight_bits) == TERNARY else 8))


def headers(
    format_: int, delay: int, count: int, port: NDArray[np.int64], offset: NDArray[np.int64]
) -> NDArray[np.uint64]:
    """The header words of synapse lists that differ in their ports and offsets at most."""
    words = format_ | delay << 4 | count << 16 | port << 32 | offset << 44
    return words.view(np.uint64)


def packed_ternary(codes: NDArray[np.int8]) -> NDArray[np.uint64]:
    """The words [lists, words] of ternary lists, from codes [lists, neurons]."""
    lists, count = codes.shape
    width = -(-count // 32)
    planes = np.zeros((lists, width, 2, 32), bool)
    for plane, weight in enumerate((1, -1)):
        padded = np.zeros((lists, width * 32), bool)
        np.equal(codes, weight, out=padded[:, :count])
        planes[:, :, plane] = padded.reshape(lists, width, 32)
    packed = np.packbits(planes.reshape(lists, -1), axis=1, bitorder="little")
    return packed.view("<u8")


def packed_bytes(codes: NDArray[np.int8]) -> NDArray[np.uint64]:
    """The words [lists, words] of lists of eight bits a weight, from weights [lists, neurons]."""
    padded = np.pad(codes, ((0, 0), (0, -codes.shape[1] % 8)))
    return np.ascontiguousarray(padded).view("<u8")


def cores_file(chip: int, cores: tuple[Core, ...]) -> list[bytes]:
    """The content of the file of a chip, in pieces that follow each other."""
    at = 16 + 4 * DIRECTORY_NUMBERS * len(cores)
    directory = np.zeros((len(cores), DIRECTORY_NUMBERS), "<u4")
    pieces: list[bytes] = []
    for row, core in zip(directory, cores, strict=True):
        row[0] = core.number
        for number, (name, section) in enumerate(zip(SECTIONS, core.sections, strict=True)):
            data = np.ascontiguousarray(section, SECTION_TYPES[name][0]).tobytes()
            offset = at // 8
            row[2 + 5 * number : 6 + 5 * number] = (
                offset & 0xFFFFFFFF,
                offset >> 32,
                len(data),
                crc32(data),
            )
            padding = -len(data) % 8
            pieces += [data, bytes(padding)]
            at += len(data) + padding
    head = CORES_MAGIC + np.array([chip, len(cores)], "<u4").tobytes()
    return [head, directory.tobytes(), *pieces]
