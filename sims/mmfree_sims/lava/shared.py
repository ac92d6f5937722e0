"""What the processes of a run share with the user's process: counts, logits and progress, in
anonymous memory.
"""

from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray

from mmfree_neuro.graph.nodes import Graph
from mmfree_neuro.integers.fixedpoint import Ints
from mmfree_neuro.run.job import Job
from mmfree_sims.lava.memory import anonymous
from mmfree_sims.tiles import tallies
from mmfree_sims.tiles.tallies import Tallies

NOBODY = -1
"""No process id."""
COUNTERS = 4
"""What a process counts: vectors received, vectors sent, non-zero payloads sent, saturated
values."""


@dataclass(frozen=True, eq=False)
class Shared:
    """Arrays in memory that is shared by fork."""

    tallies: Tallies
    kept: Tallies
    """What every tile had counted, and its states, when the last state was kept."""
    logits: Ints  # [kept tokens, vocabulary], those of all sequences one after another
    chosen: Ints  # [new tokens], those of all sequences one after another
    known: Ints  # [sequences], how many tokens each has chosen
    stands: Ints  # [sequences, 3], as `host.stands` gives them, with a kept state and at the end
    done: Ints  # [2]: tokens through prefill, tokens generated
    clock: NDArray[
        np.float64
    ]  # [3]: seconds in prefill, seconds generating, monotonic time when all were ready
    # [tiles]: process id of a tile that is at work, 0 before, NOBODY where there is nothing to do
    ready: Ints
    counters: Ints  # [tiles and host, COUNTERS]: what each has received, sent, passed, saturated
    jitter: Ints  # [1]: largest random delay of a packet in microseconds, for tests
    saving: Ints  # [2]: how many states were kept, and how many of them have been taken


def _array(shape: tuple[int, ...], dtype: Any) -> Any:
    count = int(np.prod(shape))
    memory = anonymous(count * np.dtype(dtype).itemsize)
    return np.frombuffer(memory, dtype, count).reshape(shape)


def allocate(graph: Graph, job: Job, tiles: int) -> Shared:
    """Zeroed shared memory for one run."""
    rows = len(job.sequences)
    return Shared(
        tallies.allocate(graph, rows, _array),
        tallies.allocate(graph, rows, _array),
        _array((job.kept_from[-1], graph.vocabulary), np.int64),
        _array((job.chosen_from[-1],), np.int64),
        _array((rows,), np.int64),
        _array((rows, 3), np.int64),
        _array((2,), np.int64),
        _array((3,), np.float64),
        _array((tiles,), np.int64),
        _array((tiles + 1, COUNTERS), np.int64),
        _array((1,), np.int64),
        _array((2,), np.int64),
    )
