"""What a path holds: a checkpoint, a graph, a mapping, a machine image or a run."""

import math
import zipfile
from dataclasses import asdict
from pathlib import Path
from typing import Any

import numpy as np

from mmfree_neuro.files.writing import whole_file
from mmfree_neuro.graph.summary import summarise
from mmfree_neuro.model.checkpoint import Checkpoint
from mmfree_neuro.pipeline import opened
from mmfree_neuro.pipeline.families import family_of, read_checkpoint
from mmfree_neuro.pipeline.image import summary_of, text
from mmfree_neuro.pipeline.map import bounds
from mmfree_neuro.report.terminal import (
    counts,
    counts_content,
    graph_text,
    mapping_content,
    mapping_text,
    speed,
    texts,
)
from mmfree_neuro.run import run_file
from mmfree_neuro.run.folder import holds_run
from mmfree_neuro.target.image import Image
from mmfree_neuro.target.image_file import is_image, load_image


def write_codes(checkpoint: Checkpoint[Any], path: Path) -> None:
    """Write the ternary codes of a checkpoint as an `.npz` file, one matrix in memory at a time."""
    with whole_file(path) as scratch, zipfile.ZipFile(scratch, "w", allowZip64=True) as archive:
        for name, matrix in family_of(checkpoint).codes(checkpoint):
            with archive.open(f"{name}.npy", "w", force_zip64=True) as member:
                np.save(member, matrix, allow_pickle=False)


def _checkpoint(checkpoint: Checkpoint[Any], path: Path) -> tuple[dict[str, Any], str]:
    parameters = sum(math.prod(shape) for shape in checkpoint.config.shapes().values())
    content = {
        "config": asdict(checkpoint.config),
        "parameters": parameters,
        "warnings": list(checkpoint.warnings),
    }
    lines = [f"{path}: {content['parameters']} parameters"]
    lines += [f"  {name} = {value}" for name, value in asdict(checkpoint.config).items()]
    for name, value in family_of(checkpoint).codes(checkpoint):
        lines.append(
            f"  {name} {list(value.shape)}: "
            f"{100 * (1 - np.count_nonzero(value) / value.size):.1f} % zero"
        )
    return content, "\n".join(lines)


def _image(image: Image) -> tuple[dict[str, Any], str]:
    about, found = image.about, summary_of(image)
    content = {
        "format": about.format,
        "system": about.system,
        "graph": about.graph,
        "mapping": about.mapping,
        "greedy": about.greedy,
        **asdict(found),
    }
    words = ", chooses words itself" if about.greedy else ""
    return content, (
        f"{image.path}: {about.format}, for {about.system}{words}\n"
        f"of the graph {about.graph}\n{text(found)}"
    )


def anything(path: Path) -> tuple[dict[str, Any], str]:
    """What a path holds: as content, and as text."""
    if holds_run(path):
        run = run_file.load_run(path)
        content = {
            "engine": run.engine,
            "results": [{"prompt": one.prompt, "text": one.text} for one in run.results],
            "seconds": run.seconds,
            "date": run.date,
            "counts": counts_content(run),
        }
        made = f"{run.mapping.placer} on {run.system.name}, {run.date}"
        return content, f"{texts(run)}\n\n{speed(run)}\n{made}\n\n{counts(run)}"
    if is_image(path):
        return _image(load_image(path))
    if path.is_dir():
        return _checkpoint(read_checkpoint(path), path)
    if opened.is_mapping(path):
        graph, stored = opened.open_mapped(path)
        found = (
            graph,
            stored.mapping,
            stored.system,
            bounds(graph, stored.mapping, stored.system, stored.cores),
        )
        return mapping_content(*found), mapping_text(*found)
    graph, digest = opened.open_graph(path)
    summary = summarise(graph)
    return {
        "sha256": digest,
        **asdict(summary),
        "steps_per_block": summary.steps_per_block,
        "payload_bits": graph.payload_bits,
    }, f"{graph_text(graph)}\nevery array is what its checksum says"
