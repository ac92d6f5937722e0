"""4. The chips inside a Lava program of your own: build them, run them, and read their Vars.

Run: python examples/04_own_lava_program.py [MAPPING FILE]
"""

import sys
import tempfile
from pathlib import Path

import numpy as np
from lava.magma.core.run_conditions import RunSteps
from lava.magma.core.run_configs import Loihi2SimCfg

from mmfree_neuro.hgrn_bit.config import ModelConfig
from mmfree_neuro.lowering.scheme import SCHEMES
from mmfree_neuro.mapping.request import Request
from mmfree_neuro.model import checkpoint
from mmfree_neuro.model.checkpoint import Checkpoint
from mmfree_neuro.pipeline import convert, map, opened
from mmfree_neuro.run.job import Job
from mmfree_sims import fast
from mmfree_sims.lava import engine


def tiny_mapping(folder: Path) -> Path:
    """An untrained model of two blocks, converted and mapped: its text is noise, but it runs at
    once."""
    config = ModelConfig(
        vocab_size=256,
        hidden_size=64,
        num_hidden_layers=2,
        intermediate_size=128,
        bos_token_id=0,
        eos_token_id=0,
    )
    random = np.random.default_rng(1)
    tensors = {
        name: random.normal(float(name.endswith("norm.weight")), 0.1, shape).astype(np.float32)
        for name, shape in config.shapes().items()
    }
    checkpoint.write(folder / "checkpoint", Checkpoint(config, tensors))
    np.save(folder / "tokens.npy", random.integers(0, 256, (8, 64)))
    convert.convert(
        folder / "checkpoint", folder / "model.graph", SCHEMES["a16"], str(folder / "tokens.npy")
    )
    asked = Request("block-per-chip", cores=4)
    map.map_graph(folder / "model.graph", "kapoho-point", folder / "model.map", asked)
    return folder / "model.map"


def main(path: Path) -> None:
    graph, stored = opened.open_mapped(path)
    job = Job(np.array([[0, *b"import"]]), new_tokens=8)

    # `build` returns ordinary Lava Processes, already connected. To watch the traffic, connect a
    # Process of your own to a chip's s_out; a packet is an int32 vector that
    # mmfree_sims.tiles.packets.Reassembly reads.
    host, chips = engine.build_job(graph, stored.mapping, job)

    try:
        # The models are asynchronous: one step is the whole job, from the first token to the last.
        host.run(condition=RunSteps(num_steps=1), run_cfg=Loihi2SimCfg())
        # Vars are read after the run and before the stop, as in every Lava program.
        chosen = host.chosen.get().astype(int).tolist()
        counters = {
            number: chip.counters.get().astype(int).tolist() for number, chip in chips.items()
        }
    finally:
        host.stop()  # Python would wait for ever for processes that were not stopped

    print(f"tokens {chosen}")
    for number, (received, sent, payloads, saturated) in counters.items():
        print(
            f"chip {number}: {received} vectors received, {sent} sent, {payloads} payloads that "
            "were not zero, "
            f"{saturated} values saturated"
        )

    # Timing cannot change a result: every engine chooses the same tokens.
    print(
        "equal to the fast engine: "
        f"{fast.run(graph, stored.mapping, job).chosen[0].tolist() == chosen}"
    )


if __name__ == "__main__":
    if len(sys.argv) > 1:
        main(Path(sys.argv[1]))
    else:
        with tempfile.TemporaryDirectory() as folder:
            main(tiny_mapping(Path(folder)))
