"""The kinds of inputs: how each is drawn, its share, and what its commands need."""

from dataclasses import dataclass

from fuzzing.case import Draw
from fuzzing.kinds import checkpoint, graph, image, mapping, options, run, system, text, tokenizer


@dataclass(frozen=True)
class Kind:
    """A kind of input."""

    draw: Draw
    share: int
    """How many of 5,000 inputs are of this kind."""
    needs: str = ""
    """The package that is imported before its children are forked."""
    seconds: float = 20.0
    """How long a command may take."""


KINDS = {
    "graph: bytes": Kind(graph.any_bytes, 250),
    "graph: a bit of an array": Kind(graph.array_bits, 200),
    "graph: where arrays lie": Kind(graph.entries_of_arrays, 250),
    "graph: description": Kind(graph.description, 150),
    "graph: description, mended": Kind(graph.mended_description, 600),
    "graph: lies of matrices": Kind(graph.lies, 150),
    "graph: tokenizer": Kind(tokenizer.embedded, 200),
    "mapping: bytes": Kind(mapping.any_bytes, 150),
    "mapping: a value": Kind(mapping.any_value, 450),
    "mapping: broken": Kind(mapping.broken, 350),
    "mapping: the same": Kind(mapping.equivalent, 50),
    "mapping: broken, in Lava": Kind(mapping.on_lava, 25, "lava"),
    "image: bytes": Kind(image.any_bytes, 150),
    "image: a number": Kind(image.any_number, 300),
    "image: a value": Kind(image.any_value, 150),
    "image: as it was": Kind(image.the_same, 5),
    "system": Kind(system.toml, 350),
    "run": Kind(run.record, 250),
    "run: lies": Kind(run.lying_record, 150),
    "GPU rows": Kind(run.gpu_rows, 150),
    "state: bytes and values": Kind(run.state, 200),
    "state: lies": Kind(run.lying_state, 200),
    "state: of another run": Kind(run.other_run, 15),
    "tokens": Kind(text.tokens, 300),
    "prompt": Kind(text.prompt, 150),
    "configuration": Kind(checkpoint.configuration, 300),
    "safetensors": Kind(checkpoint.tensors, 250),
    "index": Kind(checkpoint.index, 150),
    "options": Kind(options.value, 250),
    "what is read": Kind(options.read, 200),
    "what is written": Kind(options.written, 150),
    ".bin": Kind(checkpoint.bin_file, 120, "torch", 40.0),
    "configuration, computed": Kind(checkpoint.computed, 100, "torch", 40.0),
    "safetensors, computed": Kind(checkpoint.tensors_computed, 100, "torch", 40.0),
    "tokenizer": Kind(checkpoint.tokenizer, 100, "torch", 40.0),
    "texts": Kind(text.corpus, 60, "torch", 40.0),
    "training and other options": Kind(options.training, 100, "torch", 40.0),
}
"""In the order in which they are run."""
