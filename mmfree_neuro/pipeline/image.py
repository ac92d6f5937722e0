"""From a mapping file to a machine image."""

from dataclasses import dataclass
from hashlib import sha256
from pathlib import Path

from mmfree_neuro.errors import InputError, MappingError
from mmfree_neuro.files.reading import read_bytes
from mmfree_neuro.image.write import write_image
from mmfree_neuro.mapping.mapping_file import MAPPING_FILE
from mmfree_neuro.pipeline import opened
from mmfree_neuro.target.image import Image
from mmfree_neuro.target.image_file import check_replaceable
from mmfree_neuro.target.listing import programs_of


@dataclass(frozen=True)
class ImageSummary:
    """What an image amounts to."""

    bytes: int
    """Of all cores of the chips, with their accumulators."""
    files_bytes: int
    chips: int
    cores: int
    programs: int
    steps: int
    fullest_core: dict[str, int]
    """The most that any core of a chip has of each: bytes in all, bytes of synapse lists, groups,
    neurons, input axons, payloads that are sent, accumulators, instructions."""


def text(found: ImageSummary) -> str:
    """What an image amounts to, in three lines."""
    most = ", ".join(
        f"{value:,} {name.replace('_', ' ')}" for name, value in found.fullest_core.items()
    )
    return (
        f"{found.cores} cores on {found.chips} chips, {found.programs} programs, "
        f"{found.bytes / 1e6:.1f} MB on chips\n"
        f"the most of a core: {most}\n"
        f"a token takes {found.steps} steps from the embedding to its results"
    )


def image_of(path: Path, output: Path) -> ImageSummary:
    """Write the image of a mapping file into a folder, and read it back, proved."""
    opened.check_no_image(path, MappingError, MAPPING_FILE)
    check_replaceable(output)
    for read in opened.files_behind(path):
        if read.resolve().parent == output.resolve():
            raise InputError(f"{output}: holds {read.name}, which is read, must be another folder")
    digest = sha256(read_bytes(path, MappingError, MAPPING_FILE)).hexdigest()
    graph, stored = opened.open_mapped(path)
    image = write_image(graph, stored.mapping, stored.system, digest, output)
    return summary_of(image)


def summary_of(image: Image) -> ImageSummary:
    """The summary of an image."""
    cores = [core for cores in image.chips.values() for core in cores]
    most = {
        "bytes": [core.bytes for core in cores],
        "synaptic_bytes": [core.syn.nbytes for core in cores],
        "groups": [len(core.group) for core in cores],
        "neurons": [int(core.group[:, 2].sum()) for core in cores],
        "input_axons": [len(core.axon) for core in cores],
        "map_entries": [core.map_entries for core in cores],
        "accumulators": [core.accumulators for core in cores],
        "instructions": [len(core.code) for core in cores],
    }
    return ImageSummary(
        sum(most["bytes"]),
        sum(file.stat().st_size for file in image.path.iterdir()),
        len(image.chips),
        len(cores),
        len({program for _, core in image.cores for program in programs_of(core)}),
        image.about.steps,
        {name: max(values, default=0) for name, values in most.items()},
    )
