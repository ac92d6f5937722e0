"""An image of a mapping runs to the bits and the counts of the reference, whatever its mode."""

from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest

from mmfree_neuro.graph.nodes import Graph
from mmfree_neuro.image.write import write_image
from mmfree_neuro.mapping.mapping import Mapping
from mmfree_neuro.run import reference
from mmfree_neuro.run.job import Job
from mmfree_neuro.systems.spec import SystemSpec
from mmfree_neuro.target.image_file import load_image
from mmfree_sims.emulator.emulator import Emulator

Mapper = Callable[..., Mapping]


@pytest.mark.parametrize("kind", ["chain", "random", "block-per-chip"])
def test_generation_and_prefill(
    kind: str,
    graph: Graph,
    system: SystemSpec,
    make_mapping: Mapper,
    tokens: np.ndarray,
    tmp_path: Path,
) -> None:
    mapping = make_mapping(graph, kind)
    write_image(graph, mapping, system, "0" * 64, tmp_path / "model.image")
    machine = Emulator(load_image(tmp_path / "model.image"))
    expected = reference.run(graph, mapping, Job(tokens[:1]))
    found = np.stack([machine.generate(int(token)) for token in tokens[0]])
    assert np.array_equal(found, expected.logits[0])
    machine.reset()
    assert np.array_equal(machine.prefill(tokens[0]), expected.logits[0])
