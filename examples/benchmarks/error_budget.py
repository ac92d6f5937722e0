"""What each approximation of the integer model costs by itself, on library modules that training
never saw.

Single approximations replace one thing in the float model as trained (8-bit activations, one scale
per token); whole graphs run on the fast engine, on a quarter of the windows.  A cost is the
difference to the row named beside it, on the same windows. Run: python
examples/benchmarks/error_budget.py [CHECKPOINT] [--windows N] [--quick]
"""

import argparse
import hashlib
import sys
from collections.abc import Callable
from contextlib import redirect_stdout
from dataclasses import dataclass, replace
from pathlib import Path

import numpy as np
import torch
from numpy.typing import NDArray
from rows import device, write
from torch import Tensor

from mmfree_kernels.float_model import evaluate
from mmfree_kernels.float_model.calibrate import calibrate
from mmfree_kernels.float_model.model import HGRNBitModel, Numerics, Tap, from_checkpoint
from mmfree_kernels.ops.bitlinear.naive import rms_norm
from mmfree_neuro.errors import GraphError, RangeError
from mmfree_neuro.graph.machine import Machine
from mmfree_neuro.graph.nodes import Graph
from mmfree_neuro.hgrn_bit import lowering
from mmfree_neuro.hgrn_bit.names import ternary_weights
from mmfree_neuro.integers.fixedpoint import QType, frac_for
from mmfree_neuro.integers.tables import (
    GATE_FRAC,
    ROOT_FIRST,
    ROOT_FRAC,
    SIGMOID_INPUT_FRAC,
    inverse_root_guess,
    sigmoid_table,
)
from mmfree_neuro.lowering.scheme import SCHEMES, Ranges, Scheme
from mmfree_neuro.model import corpus
from mmfree_neuro.model.checkpoint import Checkpoint
from mmfree_neuro.pipeline import engines, quality
from mmfree_neuro.pipeline.families import read_checkpoint
from mmfree_neuro.pipeline.text import windows_for
from mmfree_neuro.run.job import Job
from mmfree_neuro.run.scores import nats

SHIPPED = Path(__file__).parent.parent / "checkpoints" / "stdlib-5m"
TRAINED, WHOLE = "float model as trained", "a16, whole graph"
CHECKED_TOKENS = 6
Nats = NDArray[np.float64]  # [windows, length]


@dataclass(frozen=True, eq=False)
class Row:
    """One line of the table: nats per byte, or why there are none; the cost is against the row
    named `against`."""

    what: str
    nats: Nats | None
    against: str
    note: str = ""


def static(ranges: Ranges, bits: int, power_of_two: bool) -> Tap:
    """Rounds what every ternary product reads, with one scale per tensor from the calibrated
    largest magnitude."""
    high = (1 << (bits - 1)) - 1

    def tap(name: str, value: Tensor) -> Tensor:
        if not name.endswith(".in"):
            return value
        largest = ranges[norm_port(name)].high
        step = 2.0 ** -frac_for(largest, bits) if power_of_two else largest / high
        return (value / step).round().clamp(-high, high) * step

    return tap


def norm_port(name: str) -> str:
    """The calibrated range of what the tap `name` sees: `layers.0.attn.i_proj.in` is
    `layers.0.attn.i`."""
    match name.split("."):
        case ["layers", layer, "attn", "o_proj", "in"]:
            return f"layers.{layer}.o.y"
        case ["layers", layer, "attn", projection, "in"]:
            return f"layers.{layer}.attn.{projection[0]}"
        case ["layers", layer, "mlp", projection, "in"]:
            return f"layers.{layer}.{'mlp' if projection == 'gate_proj' else 'down'}.y"
        case _:
            return "head.y"


def chords(log2_segments: int, end: int) -> Callable[[Tensor], Tensor]:
    """The integers' sigmoid with 2^log2_segments segments on [0, 16), magnitudes held below
    `end`."""
    magnitudes = np.arange(end << SIGMOID_INPUT_FRAC)
    values = (
        Machine().sigmoid(magnitudes, SIGMOID_INPUT_FRAC, sigmoid_table(log2_segments))
        / 2**GATE_FRAC
    )
    table = torch.from_numpy(values.astype(np.float32))

    def sigmoid(x: Tensor) -> Tensor:
        at = (x.abs() * 2**SIGMOID_INPUT_FRAC).clamp(max=len(table) - 1).long()
        y = table.to(x.device)[at]
        return torch.where(x < 0, 1 - y, y)

    return sigmoid


def newton_norm(steps: int) -> Callable[[Tensor, Tensor, float], Tensor]:
    """RMSNorm whose root is the integers' first guess and `steps` Newton steps, in exact
    arithmetic."""
    guesses = torch.from_numpy(inverse_root_guess() / 2**ROOT_FRAC)

    def norm(x: Tensor, gain: Tensor, eps: float) -> Tensor:
        radicand = x.float().square().mean(-1, keepdim=True).double() + eps
        fraction, exponent = torch.frexp(radicand)
        odd = exponent % 2
        w, half = torch.ldexp(fraction, -odd), (exponent + odd) // 2
        y = guesses.to(x.device)[(w * 32).long() - ROOT_FIRST]
        for _ in range(steps):
            y = y * (3 - w * y * y) / 2
        return x.float() * torch.ldexp(y, -half).float() * gain

    return norm


def rounded_state(model: HGRNBitModel, ranges: Ranges, bits: int) -> Tap:
    """Runs the recurrence step by step and rounds its state at each, in the format that lowering
    would choose."""
    bounds, room = model.lower_bounds(), 2.0 ** SCHEMES["a16"].headroom_bits
    seen: dict[str, Tensor] = {}

    def recurrence(layer: int) -> Tensor:
        bound = bounds[layer]
        i, f = seen["i"].double(), torch.sigmoid(seen["f"].double())
        f = f if bound is None else bound + (1 - bound) * f
        c = i * torch.sigmoid(i) * (1 - f)
        qtype = QType(bits, frac_for(room * ranges[f"layers.{layer}.h"].high, bits))
        state, states = torch.zeros_like(c[:, 0]), []
        for t in range(c.shape[1]):
            codes = (torch.addcmul(c[:, t], f[:, t], state) * 2.0**qtype.frac).round()
            state = codes.clamp(-qtype.high, qtype.high) * 2.0**-qtype.frac
            states.append(state)
        return torch.stack(states, 1).float()

    def tap(name: str, value: Tensor) -> Tensor:
        match name.split("."):
            case ["layers", _, "attn", ("i" | "f") as port]:
                seen[port] = value
            case ["layers", layer, "attn", "h"]:
                return recurrence(int(layer))
        return value

    return tap


def approximations(model: HGRNBitModel, fixed: Ranges, per_token: Ranges) -> dict[str, Numerics]:
    """The float model with one thing replaced, by what it is."""
    found = {TRAINED: Numerics(), "activations not rounded": Numerics(quantise=False)}
    for bits in (16, 12, 8):
        found[f"activations of {bits} bits, one scale per tensor"] = Numerics(
            static(fixed, bits, False), False
        )
    for bits in (16, 8):
        name = f"activations of {bits} bits, one power-of-two scale per tensor"
        found[name] = Numerics(static(fixed, bits, True), False)
    found["sigmoid and SiLU by 256 segments on [0, 16)"] = Numerics(sigmoid=chords(8, 16))
    found["sigmoid and SiLU by 8 segments on [0, 8)"] = Numerics(sigmoid=chords(4, 8))
    for steps in (1, 2, 3):
        name = f"inverse root by 24 entries and {steps} Newton step{'s' if steps > 1 else ''}"
        found[name] = Numerics(norm=newton_norm(steps))
    found["RMSNorm with eps 1e-3 everywhere"] = Numerics(
        norm=lambda x, gain, _: rms_norm(x, gain, 1e-3)
    )
    for bits in (24, 16, 12, 8):
        found[f"recurrent state of {bits} bits"] = Numerics(
            tap=rounded_state(model, per_token, bits)
        )
    return found


def graph_nats(graph: Graph, windows: NDArray[np.int64]) -> Nats:
    """Nats per byte of a graph on windows [n, length + 1]; refuses where the fast engine is not the
    reference."""
    placed = quality.in_one_place(graph)
    few = Job(windows[:1, :CHECKED_TOKENS])
    fast, reference = (engines.engine_named(name) for name in ("fast", "reference"))
    found, expected = fast(graph, placed, few, silent), reference(graph, placed, few, silent)
    if not np.array_equal(found.logits, expected.logits):
        raise SystemExit("the fast engine differs from the reference: no row is written")
    logits = fast(graph, placed, Job(np.ascontiguousarray(windows[:, :-1])), silent).logits
    return nats(logits.astype(np.float64) * graph.logit_scale, windows[:, 1:])


def silent(_phase: str, _done: int, _total: int, _chosen: object) -> None:
    """No progress."""


def graphs() -> dict[str, tuple[Scheme, str]]:
    """The schemes whose whole graphs are measured, and what each is compared with."""
    a16 = SCHEMES["a16"]
    return {
        WHOLE: (a16, TRAINED),
        "a14, whole graph": (SCHEMES["a14"], TRAINED),
        f"a16, values of 16 bits instead of {a16.value_bits}": (replace(a16, value_bits=16), WHOLE),
        "a8, whole graph": (SCHEMES["a8"], TRAINED),
    }


def measure(
    checkpoint: Checkpoint, calibration: NDArray[np.int64], windows: NDArray[np.int64]
) -> list[Row]:
    """Every row, graphs first, as they are checked against the reference."""
    fixed, per_token = (calibrate(checkpoint, calibration, SCHEMES[name]) for name in ("a16", "a8"))
    few = windows[:: max(1, min(4, len(windows) // 2))]
    whole: list[Row] = []
    for what, (scheme, against) in graphs().items():
        tell(what)
        ranges = fixed if scheme.activations == "static" else per_token
        try:
            graph = lowering.lower(checkpoint, ternary_weights(checkpoint), ranges, scheme, what)
        except (GraphError, RangeError) as refusal:
            whole.append(Row(what, None, against, f"cannot be lowered: {refusal}"))
            continue
        whole.append(Row(what, graph_nats(graph, few), against))
    model, single = from_checkpoint(checkpoint), []
    if torch.cuda.is_available():
        model.cuda()
    for what, numerics in approximations(model, fixed, per_token).items():
        tell(what)
        single.append(Row(what, evaluate.nats(model, windows, numerics=numerics), TRAINED))
    return single + whole


def tell(what: str) -> None:
    """Says on the standard error what is being measured."""
    print(what, file=sys.stderr, flush=True)


def cost(row: Row, rows: list[Row], windows: int) -> tuple[float, float] | None:
    """Mean difference to the row that it is against, and the standard error of that mean over
    windows."""
    other = next(r.nats for r in rows if r.what == row.against)
    if row.nats is None or other is None:
        return None
    if len(row.nats) < len(other):
        other = other[:: max(1, min(4, windows // 2))]
    differences = (row.nats - other).mean(1)
    return float(differences.mean()), float(differences.std(ddof=1) / len(differences) ** 0.5)


def records(rows: list[Row], about: dict[str, object], windows: int) -> list[dict[str, object]]:
    """The rows as they are stored."""
    found: list[dict[str, object]] = []
    for row in rows:
        record = {
            "what": row.what,
            "value": None,
            "unit": "nats/byte",
            "against": row.against,
        } | about
        priced = cost(row, rows, windows)
        if row.nats is not None and priced is not None:
            record["value"], record["standard_error"] = (round(part, 7) for part in priced)
            record |= {"nats_per_byte": round(float(row.nats.mean()), 6), "bytes": row.nats.size}
        found.append(record | ({"note": row.note} if row.note else {}))
    return found


def table(found: list[dict[str, object]]) -> str:
    """The stored rows as a Markdown table."""
    lines = [
        "| approximation | nats per byte | costs, nats per byte | against | bytes |",
        "|---|---:|---:|---|---:|",
    ]
    for row in found:
        if row["value"] is None:
            lines.append(f"| {row['what']} | none: {row['note']} | | {row['against']} | |")
            continue
        price = (
            f"{row['value']:+.5f} ± {row['standard_error']:.5f}"
            if row["what"] != row["against"]
            else ""
        )
        lines.append(
            f"| {row['what']} | {row['nats_per_byte']:.5f} | {price} | {row['against']} | "
            f"{row['bytes']} |"
        )
    return "\n".join(lines)


def main(folder: Path, count: int, length: int, quick: bool) -> None:
    """Measure, write the rows unless quick, and print the table."""
    checkpoint, text = read_checkpoint(folder), corpus.load("stdlib")
    windows = corpus.windows(text.held_out, length, count)
    weights = ternary_weights(checkpoint).values()
    enough, _ = windows_for(sum(part.size for weight in weights for part in weight.parts))
    calibration = corpus.windows(text.train, length, 2 if quick else enough)[:, :-1]
    torch.set_flush_denormal(True)  # long products of forget gates are slow otherwise
    digests = [
        hashlib.sha256(path.read_bytes()).hexdigest()[:16]
        for path in sorted(folder.glob("*.safetensors"))
    ]
    name = folder.resolve().name
    about: dict[str, object] = {
        "checkpoint": name,
        "weights_sha256": digests,
        "text": text.description,
    }
    found = records(measure(checkpoint, calibration, windows), about, len(windows))
    if not quick:
        with redirect_stdout(sys.stderr):
            write("error_budget", found)
    print(f"{name}, held-out modules of {text.description}, {device()}\n\n{table(found)}\n")
    print(
        "A cost compares the same bytes; whole graphs are measured on fewer windows, so compare "
        "their costs only."
    )


if __name__ == "__main__":
    parser = argparse.ArgumentParser(
        description="What each approximation of the integer model costs by itself."
    )
    parser.add_argument(
        "checkpoint", nargs="?", type=Path, default=SHIPPED, help="a checkpoint folder"
    )
    parser.add_argument(
        "--windows", type=int, default=32, help="held-out windows of 512 bytes (32)"
    )
    parser.add_argument(
        "--quick", action="store_true", help="2 windows of 64 bytes; writes no rows"
    )
    options = parser.parse_args()
    if options.windows < 2:
        parser.error("--windows must be at least 2")
    main(
        options.checkpoint,
        2 if options.quick else options.windows,
        64 if options.quick else 512,
        options.quick,
    )
