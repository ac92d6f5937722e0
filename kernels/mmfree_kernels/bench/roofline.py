"""How near a measured row of generation comes to what the memory of its GPU allows at most.

A step reads every weight once, whatever the batch is, and of each sequence what it carries along:
the packed model two bits a weight, and its state read and written in float32; the Transformer++ two
bytes a weight, and the keys and values of its cache.  Embeddings, of which a step reads one line a
sequence, do not count.  So

    tokens/s = batch * bandwidth / (bytes of weights + batch * bytes of a sequence)

and no more than the GPU's peak of int8 operations, two a weight and token, lets the packed model
do.
"""

from mmfree_kernels.bench.record import Row
from mmfree_kernels.bench.workload import SHAPES
from mmfree_neuro.baselines.roofline import STATE_BYTES, WEIGHT_BYTES, Gpu, reported

BFLOAT16_BYTES = 2


def most_tokens_per_s(row: Row, gpu: Gpu) -> float | None:
    """What a GPU could do at most at the point of a row; None for other work than generation, and
    for models of which only a name is known."""
    config = SHAPES.get(row["model"])
    if row["mode"] != "generate" or config is None:
        return None
    synapses, batch = row["ternary_synapses"], row["batch"]
    bandwidth = gpu.memory_bandwidth_bytes_per_s.value
    if row["impl"] == "transformer":
        key_or_value = config.num_hidden_layers * config.hidden_size * BFLOAT16_BYTES
        cache = 2 * key_or_value * row["sequence_length"]
        return float(batch * bandwidth / (synapses * BFLOAT16_BYTES + batch * cache))
    states = config.num_hidden_layers * config.state_size * STATE_BYTES
    by_memory = batch * bandwidth / (synapses * WEIGHT_BYTES + batch * states)
    return float(min(by_memory, gpu.int8_operations_per_s.value / (2 * synapses)))


def share(row: Row, gpus: tuple[Gpu, ...]) -> float | None:
    """The measured tokens/s of a row over `most_tokens_per_s`; None where that, or the row's GPU,
    is not known."""
    gpu = reported(gpus, row["device"])
    most = None if gpu is None else most_tokens_per_s(row, gpu)
    return None if most is None else float(row["tokens_per_s"] / most)
