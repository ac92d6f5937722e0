"""The tokenizer inside a graph file, every checksum right."""

import random
from dataclasses import replace
from pathlib import Path

from fuzzing.case import Case
from fuzzing.kinds.checkpoint import changed_tokenizer
from fuzzing.material import SIMULATE, Material
from mmfree_neuro.graph import graph_file
from mmfree_neuro.mapping import mapping_file


def embedded(draw: random.Random, material: Material, folder: Path) -> Case:
    """A run on such a graph."""
    graph, _ = graph_file.load_graph(material.folder / "worded.graph")
    assert graph.tokenizer is not None
    what, text = changed_tokenizer(draw, graph.tokenizer)
    changed = replace(graph, tokenizer=text)
    graph_file.save_graph(changed, folder / "worded.graph")
    stored = mapping_file.load_mapping(material.folder / "worded.map")
    mapping = replace(stored.mapping, graph=graph_file.digest_of(changed))
    stored = replace(stored, mapping=mapping, graph_path=folder / "worded.graph")
    mapping_file.save_mapping(stored, folder / "worded.map")
    command = ("simulate", "worded.map", *SIMULATE, "--engine", "fast", "-o", "out")
    names = ("tokenizer.json", "worded.graph", "worded.map", "prompt")
    return Case(what, (command,), names, ("out",))
