"""What training takes on GPUs that were not measured: memory by the shapes of a model, days by the
rows of `training_ranks.py`.  Estimates, from what is said here.

PYTHONPATH=.:partition:kernels:sims python examples/benchmarks/training_on_paper.py [ROWS]
"""

import json
import math
import sys
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from mmfree_kernels.bench.workload import SHAPES
from mmfree_neuro.hgrn_bit.config import ModelConfig

ROWS = Path(__file__).parent / "results" / "training_ranks.json"
BATCH, LENGTH = 8, 2048
GPUS = 8, 64, 512
HOST = 8
"""GPUs of a host; between hosts each has a link of its own."""
LINK_BYTES_PER_S = 50e9
"""Source: 400 Gb/s, a ConnectX-7 adapter a GPU, as NVIDIA's DGX H100 has them (its datasheet)."""
TOKENS = 100e9
LOGIT_ROWS = 2048
"""Rows of logits that exist at a time (`ops.loss.fused.ROWS`)."""
UNITS = 5
"""A block's weights, float32, that FSDP has in whole at once: those in use, the next ones as they
arrive and beside that as they are laid out, gradients as they are computed and as they are sent."""

Row = dict[str, Any]


@dataclass(frozen=True)
class Memory:
    """Bytes of one GPU at the worst moment of a step."""

    states: int
    """Its share of weights and of two moments, float32."""
    activations: int
    """What half blocks keep, and at the end of the backward pass its share of gradients."""
    whole: int
    """What is gathered, and gradients before they are reduced."""
    work: int
    """What the backward pass of a half block, or the loss, has at once."""

    @property
    def total(self) -> int:
        return self.states + self.activations + self.whole + self.work


def memory(config: ModelConfig, gpus: int, tokens: int = BATCH * LENGTH) -> Memory:
    """The plan of `train --shard` on so many GPUs, with so many tokens on each, in one piece of
    the fused path as it is by default.

    A half block keeps its input, float32, and i, f and g, bfloat16.  Of a channel of the widest
    layer its backward pass has some ten bytes at once, of one of the stream as many.  Of embeddings
    and head, which share no weights, one is in whole at a time: the head for the loss, its gradient
    while it is reduced, and in the end that of the embeddings, computed and as it is sent.
    """
    hidden, wide, layers = config.hidden_size, config.intermediate_size, config.num_hidden_layers
    weights = config.parameters()
    outside = 4 * sum(
        math.prod(shape) for name, shape in config.each_shape() if "layers." not in name
    )
    block = (4 * weights - outside) // layers
    kept = tokens * layers * (2 * 4 * hidden + 3 * 2 * config.state_size)
    work = tokens * 10 * (wide + hidden)
    logits = config.vocab_size * (4 * LOGIT_ROWS + 9 * hidden)
    states, matrix = 12 * weights // gpus, 4 * config.vocab_size * hidden
    moments = [
        Memory(states, kept, matrix, logits),
        Memory(states, kept, matrix + UNITS * block, work),
        Memory(states, 4 * weights // gpus, 2 * matrix + UNITS * block, work),
    ]
    return max(moments, key=lambda moment: moment.total)


def row_of(rows: list[Row], model: str, count: int, divided: bool = False) -> Row:
    """The last row of so many processes."""
    what = f"training of {model} in {count} processes of {BATCH} x {LENGTH} tokens"
    what += ", the model divided" if divided else ""
    return [row for row in rows if row["what"] == what][-1]


def exposed_s_per_byte(rows: list[Row]) -> tuple[float, float]:
    """Seconds that a step of two GPUs is longer than that of one, by the bytes that each sends:
    the least and the most of the models measured."""
    found = []
    for model in ("370m", "1.3b"):
        row = row_of(rows, model, 2)
        longer = (row["ms a step"] - row["ms a step alone"]) / 1e3
        found.append(longer / (4 * SHAPES[model].parameters()))
    return min(found), max(found)


def step_s(alone_s: float, rates: tuple[float, float], weights: int, gpus: int) -> list[float]:
    """The shortest and the longest step of data parallel training of so many weights.

    At best what two GPUs could not hide stays as it is.  At worst it grows with the bytes that a
    ring sends, twice (gpus - 1) / gpus of the float32 gradients, and between hosts, where each GPU
    sends an eighth of that, nothing is hidden.
    """
    gradients, hosts = 4 * weights, math.ceil(gpus / HOST)
    ring = 2 * gradients * (gpus - 1) / gpus
    between = 2 * gradients / HOST * (hosts - 1) / hosts / LINK_BYTES_PER_S
    return [alone_s + rates[0] * gradients, alone_s + rates[1] * ring + between]


def days(step: float, gpus: int, tokens: float = TOKENS) -> float:
    """Days of a run of so many tokens; nothing fails, and nothing waits for data."""
    return tokens / (gpus * BATCH * LENGTH) * step / 86400


def tables(rows: list[Row]) -> list[str]:
    """Memory of models divided among GPUs, and how long a run of 2.7B takes."""
    memories = [
        f"| {BATCH} × {LENGTH:,} tokens a GPU, the model divided among | 2.7B | 13B shape |"
    ]
    memories.append("|---:|---:|---:|")
    for gpus in (1, 2, *GPUS):
        cells = (f"{memory(SHAPES[name], gpus).total / 1e9:.1f} GB" for name in ("2.7b", "13b"))
        memories.append(f"| {gpus} GPU{'s' * (gpus > 1)} | {' | '.join(cells)} |")
    alone = row_of(rows, "2.7b", 1, divided=True)["ms a step alone"] / 1e3
    runs = [f"| 2.7B, {TOKENS / 1e9:g} B tokens | tokens a step | share of ideal | days |"]
    runs.append("|---:|---:|---:|---:|")
    for gpus in GPUS:
        steps = step_s(alone, exposed_s_per_byte(rows), SHAPES["2.7b"].parameters(), gpus)
        worst, best = sorted(alone / step for step in steps)
        low, high = (days(step, gpus) for step in steps)
        size = f"{gpus * BATCH * LENGTH:,}"
        runs.append(
            f"| {gpus} GPUs | {size} | {worst:.2f} to {best:.2f} | {low:.2g} to {high:.2g} |"
        )
    return ["\n".join(memories), "\n".join(runs)]


if __name__ == "__main__":
    given = Path(sys.argv[1]) if len(sys.argv) > 1 else ROWS
    print("\n\n".join(tables(json.loads(given.read_text(encoding="utf-8")))))
