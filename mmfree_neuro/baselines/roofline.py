"""What GPUs that nobody measured could at most do: a roofline from data, never a measurement.

A packed model reads all its ternary weights, two bits each, once for every token that it generates,
or once for a whole prompt, and reads and writes its states; a weight is two operations on int8, and
a prompt needs the head at its end alone.  So

    tokens/s = min(memory bandwidth / bytes per token, peak int8 operations / operations per token)

is more than a program reaches that has its weights in memory: norms, gates, activations, launches
and everything else take no time in it.  Weights that stay in a cache are another matter, so a model
of a few megabytes may be faster. Energy lies between idle and full power for that time.
"""

import sys
from dataclasses import dataclass
from importlib import resources
from typing import Any

from mmfree_neuro.baselines.compared import Roofline
from mmfree_neuro.errors import HardwareError
from mmfree_neuro.graph.summary import GraphSummary

if sys.version_info >= (3, 11):
    import tomllib
else:
    import tomli as tomllib

KINDS = ("edge GPU", "GPU")
WEIGHT_BYTES = 1 / 4
STATE_BYTES = 8
"""A state in float32, read and written."""


@dataclass(frozen=True)
class Figure:
    """A number and where it comes from."""

    value: float
    source: str


@dataclass(frozen=True)
class Gpu:
    """What bounds a GPU."""

    name: str
    device_kind: str
    memory_bandwidth_bytes_per_s: Figure
    int8_operations_per_s: Figure
    """Dense; a multiplication and an addition are two."""
    board_power_w: Figure
    idle_power_w: Figure | None
    """None where no source tells."""
    reported_as: tuple[str, ...] = ()
    """What its driver calls it, which rows of measurements have for a device."""


FIGURES = ("memory_bandwidth_bytes_per_s", "int8_operations_per_s", "board_power_w", "idle_power_w")
WORDS = dict(
    zip(FIGURES, ("memory bandwidth", "int8 operations", "board power", "idle power"), strict=True)
)


def _figure(raw: Any, who: str) -> Figure:
    value, source = (
        (raw.get(name) for name in ("value", "source")) if isinstance(raw, dict) else (None, None)
    )
    if not isinstance(value, int | float) or isinstance(value, bool) or not value > 0:
        raise HardwareError(f"{who} must have a value, a number above 0")
    if not isinstance(source, str) or not source:
        raise HardwareError(f"{who} must have a source, a text")
    return Figure(float(value), source)


def parse(text: str, where: str) -> tuple[Gpu, ...]:
    """The GPUs of a TOML text; `where` names the file in messages."""
    try:
        tables = tomllib.loads(text).get("gpu")
    except tomllib.TOMLDecodeError as error:
        raise HardwareError(f"{where}: not readable as TOML ({error})") from None
    if not isinstance(tables, list) or not all(isinstance(table, dict) for table in tables):
        raise HardwareError(f"{where}: must have tables [[gpu]]")
    found = []
    for number, table in enumerate(tables, start=1):
        who = f"{where}: gpu {number}"
        name, kind = table.get("name"), table.get("device_kind")
        if not isinstance(name, str) or not name:
            raise HardwareError(f"{who}: name must be a text")
        if kind not in KINDS:
            raise HardwareError(
                f"{who}: device_kind is {kind!r}, must be one of {', '.join(KINDS)}"
            )
        reported = table.get("reported_as", [])
        if not isinstance(reported, list) or not all(isinstance(one, str) for one in reported):
            raise HardwareError(f"{who}: reported_as must be a list of texts")
        for extra in sorted(table.keys() - {"name", "device_kind", "reported_as", *FIGURES}):
            raise HardwareError(f"{who}: {extra} is not a figure that a GPU may have")
        bandwidth, operations, power = (_figure(table.get(f), f"{who}: {f}") for f in FIGURES[:3])
        idle = _figure(table[FIGURES[3]], f"{who}: {FIGURES[3]}") if FIGURES[3] in table else None
        found.append(Gpu(name, kind, bandwidth, operations, power, idle, tuple(reported)))
    return tuple(found)


def load() -> tuple[Gpu, ...]:
    """The GPUs that come with the project."""
    file = resources.files("mmfree_neuro.baselines") / "gpus.toml"
    return parse(file.read_text(encoding="utf-8"), "gpus.toml")


def reported(gpus: tuple[Gpu, ...], device: str) -> Gpu | None:
    """The GPU that a driver reports by that name; None where none is known."""
    return next((gpu for gpu in gpus if device in gpu.reported_as), None)


SENTENCE = (
    "Rooflines say what this model, its weights packed at two bits, could at most do on a GPU, "
    "whether it was measured "
    "there or not: a bound from memory bandwidth, int8 operations and power, which no program "
    "reaches that has its "
    "weights in memory. They are estimates, no ratio is taken with them, and a model that fits "
    "a GPU's cache may be "
    "faster. Energy is that of a token at this speed, at idle and at full power: at a lower "
    "speed it is more."
)


def estimates(
    gpus: tuple[Gpu, ...], summary: GraphSummary, lengths: dict[str, int]
) -> list[Roofline]:
    """A row for every GPU and mode; `lengths` holds the tokens of the run by the end of each
    mode."""
    return [
        estimate(gpu, summary, mode, length)
        for mode, length in lengths.items()
        if length
        for gpu in gpus
    ]


def estimate(gpu: Gpu, summary: GraphSummary, mode: str, length: int) -> Roofline:
    """The most that a GPU can do with a model, one sequence of `length` tokens; `length` matters
    for prefill alone."""
    synapses = sum(node.ternary_synapses for node in summary.nodes)
    head = summary.nodes[-1].ternary_synapses
    states = sum(node.states for node in summary.nodes)
    together = length if mode == "prefill" else 1
    bytes_ = (synapses * WEIGHT_BYTES + states * STATE_BYTES) / together
    operations = 2 * (synapses - head + head / together)
    memory = gpu.memory_bandwidth_bytes_per_s.value / bytes_
    compute = gpu.int8_operations_per_s.value / operations
    rate = min(memory, compute)
    idle = None if gpu.idle_power_w is None else gpu.idle_power_w.value * 1000 / rate
    return {
        "kind": "estimated, roofline, not measured",
        "device": gpu.name,
        "device_kind": gpu.device_kind,
        "mode": mode,
        "batch": 1,
        "sequence_length": length,
        "bytes_per_token": bytes_,
        "operations_per_token": operations,
        "bound_by": "memory" if memory <= compute else "int8 operations",
        "most_tokens_per_s": rate,
        "millijoule_per_token_at_idle_power": idle,
        "millijoule_per_token_at_board_power": gpu.board_power_w.value * 1000 / rate,
        "sources": {
            name: figure.source for name in FIGURES if (figure := getattr(gpu, name)) is not None
        },
    }
