"""Measures points and keeps their rows: what was found, on what, by which versions, when, and what
was checked."""

import contextlib
import gc
import importlib.metadata
import json
import os
import re
import subprocess
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from datetime import datetime, timezone
from pathlib import Path
from typing import Any

import torch

from mmfree_kernels.bench import meter as meters
from mmfree_kernels.bench.workload import Builder, Point, Subject, subject, ternary_synapses
from mmfree_neuro.errors import EngineError, InputError, RunFailed, shown
from mmfree_neuro.files.reading import Misfit, parsed_json, read_bytes, reading
from mmfree_neuro.files.writing import check_outputs, save_text

ENERGY = "the whole GPU by NVML's energy counter, idle power included; not the host"
IDLE = (
    f"energy counter over at least {meters.QUIET_S:g} s with a context open and no work, "
    "before the first model of the process was built"
)
FAMILY = {"transformer": "Transformer++"}
SCRIPT = "mmfree-neuro bench gpu"
ROWS = "a file of rows of bench gpu"

Row = dict[str, Any]
POINT = ("impl", "model", "mode", "batch", "sequence_length")
"""What tells the rows of a device from each other."""


@dataclass(frozen=True)
class Bench:
    """A device to measure on."""

    device: torch.device
    meter: meters.Meter
    fence: Callable[[], meters.Wait]
    facts: Row
    """What a row says of the device and its software."""
    memory: Callable[[], Row]
    """What memory is in use now, apart from torch's own count."""


def check_gpu() -> None:
    """EngineError where torch can use no GPU; opens no context."""
    if not torch.cuda.is_available():
        raise EngineError(
            "bench gpu: there is no GPU that torch can use here, must be one to measure on"
        )


def this_gpu() -> Bench:
    """The current CUDA device; EngineError where there is none or its driver has no energy
    counter."""
    check_gpu()
    device = torch.device("cuda", torch.cuda.current_device())
    properties = torch.cuda.get_device_properties(device)
    torch.zeros(1, device=device)  # opens the context, which is what idle power is measured with
    nvml = meters.Nvml(f"GPU-{properties.uuid}")
    facts = {"device": properties.name, "driver": nvml.driver(), "cuda": str(torch.version.cuda)}

    def fence() -> meters.Wait:
        event = torch.cuda.Event()
        event.record()
        return event.synchronize

    def memory() -> Row:
        return {
            "process_bytes": nvml.process_bytes(os.getpid()),
            "device_used_bytes": nvml.used_bytes(),
        }

    return Bench(device, nvml, fence, facts, memory)


def measure_point(
    bench: Bench, point: Point, seconds: float, build: Builder, idle_w: float | None = None
) -> Row:
    """Build, check and measure one point: its row.

    `idle_w` is what the device draws when idle, where a process has measured that already.

    Peak memory is what torch's allocator gave out at once, over loading, compiling, capture and
    work; what the check takes does not count.  What it held reserved during the work, CUDA graphs
    and all, stands beside it.  Raises InputError before anything is loaded where `seconds` are too
    few, WrongResult before anything is measured, and RunFailed where the device has too little
    memory.
    """
    meters.check_seconds(seconds)
    model = subject(point.model)
    idle_w = meters.idle_power_w(bench.meter) if idle_w is None else idle_w
    try:
        _forget(bench.device)
        work = build(point, model, bench.device)
        work.step()
        bench.fence()()
        peak, _ = _peaks(bench.device)
        correctness = work.check()
        _forget(bench.device)
        measured = meters.measure(work, bench.meter, bench.fence, seconds)
    except torch.OutOfMemoryError:
        raise RunFailed(f"{point}: does not fit the memory of {bench.facts['device']}") from None
    while_working, reserved = _peaks(bench.device)
    return {
        "name": f"{FAMILY.get(point.implementation, 'MatMul-free')} {_size(model)}",
        "implementation": work.implementation,
        "impl": point.implementation,
        "precision": work.precision,
        "model": model.name,
        "ternary_synapses": ternary_synapses(model.config),
        "mode": point.mode,
        "batch": point.batch,
        "sequence_length": point.length,
        "tokens_per_s": measured.tokens_per_s,
        "millijoule_per_token": measured.millijoule_per_token,
        "average_w": measured.average_w,
        "idle_w": idle_w,
        "seconds_measured": measured.seconds,
        "steps_measured": measured.steps,
        "tokens_per_step": work.tokens,
        "peak_allocated_bytes": max(peak, while_working),
        "peak_reserved_bytes": reserved,
        **bench.memory(),
        "weights_bytes": work.weights_bytes,
        "power": ENERGY,
        "idle": IDLE,
        "correctness": correctness,
        **bench.facts,
        "script": _command(point, seconds),
        **about(),
    }


def _forget(device: torch.device) -> None:
    """Give cached memory back and start the peak anew."""
    gc.collect()
    if device.type == "cuda":
        torch._C._cuda_clearCublasWorkspaces()  # that a check's products left behind
        torch.cuda.empty_cache()
        torch.cuda.reset_peak_memory_stats(device)


def _peaks(device: torch.device) -> tuple[int, int]:
    """The most bytes in tensors at once, and the most reserved for them, since the peaks began
    anew."""
    if device.type != "cuda":
        return 0, 0
    return torch.cuda.max_memory_allocated(device), torch.cuda.max_memory_reserved(device)


def _size(model: Subject) -> str:
    return model.name if model.checkpoint is not None else model.name.upper()


def _command(point: Point, seconds: float) -> str:
    how = (
        "--baseline transformer"
        if point.implementation == "transformer"
        else f"--impl {point.implementation}"
    )
    model = point.model if os.sep not in point.model else "CHECKPOINT"
    what = f"--model {model} --mode {point.mode} --batch {point.batch} --length {point.length}"
    packed = f" --embedding {point.embedding}" if point.packed else ""
    return f"{SCRIPT} {what} {how}{packed} --seconds {seconds:g}"


def about(known_commit: str | None = None) -> Row:
    """By which versions, at which commit and when; a known commit is for where this is no checkout
    with its history."""
    now = datetime.now(timezone.utc).isoformat(timespec="seconds")
    return {"versions": versions(), "commit": known_commit or commit(), "date": now}


def versions() -> dict[str, str]:
    """The versions of the project, torch and Triton."""
    found = {"mmfree-neuro": _project_version(), "torch": torch.__version__}
    with contextlib.suppress(importlib.metadata.PackageNotFoundError):
        found["triton"] = importlib.metadata.version("triton")
    return found


def _project_version() -> str:
    try:
        return importlib.metadata.version("mmfree-neuro")
    except importlib.metadata.PackageNotFoundError:  # a checkout on the path
        text = (_checkout() / "pyproject.toml").read_text(encoding="utf-8")
        found = re.search(r'^version = "(.+)"$', text, re.MULTILINE)
        return found[1] if found else "unknown"


def _checkout() -> Path:
    return Path(__file__).resolve().parents[3]


def commit() -> str:
    """The commit of the checkout that this file belongs to, and whether files differ from it.

    Unknown where this is no checkout, or git is not there to ask.
    """
    folder = _checkout()
    if not (folder / ".git").exists():
        return "unknown"

    def git(*words: str) -> str:
        try:
            done = subprocess.run(
                ["git", *words], capture_output=True, text=True, check=False, cwd=folder
            )
        except OSError:
            return ""
        return done.stdout.strip() if done.returncode == 0 else ""

    head = git("rev-parse", "HEAD") or "unknown"
    return f"{head} dirty" if git("status", "--porcelain", "--untracked-files=no") else head


def load(path: Path) -> list[Row]:
    """The rows of a file; none where there is no file yet."""
    if not os.path.lexists(path):
        return []
    content = read_bytes(path, InputError, ROWS)
    with reading(path, InputError, ROWS):
        rows = parsed_json(content)
        if not isinstance(rows, list) or not all(isinstance(row, dict) for row in rows):
            raise Misfit(f"holds {shown(rows)}, must hold a list of objects")
    return rows


def of_record(rows: Sequence[Row], device: str = "") -> list[Row]:
    """The latest row of each point on one device, the one of which `device` is part of the name,
    and among several the one that was measured last; of the Transformer++ the fastest, as torch
    chooses its kernels by trial and is not as lucky each time.

    Rows of a finer embedding than usual are left out.
    """
    dated = sorted(
        (
            row
            for row in rows
            if device in row["device"] and not row["precision"].endswith("embedding bfloat16")
        ),
        key=lambda row: datetime.fromisoformat(row["date"]),
    )
    found: dict[tuple[object, ...], Row] = {}
    for row in dated:
        if row["device"] == dated[-1]["device"]:
            point = tuple(row[name] for name in POINT)
            before = found.get(point, row)
            if row["impl"] != "transformer" or row["tokens_per_s"] >= before["tokens_per_s"]:
                found[point] = row
    return list(found.values())


def check_output(path: Path) -> None:
    """InputError where rows could not be added to a file; leaves nothing behind."""
    load(path)
    check_outputs([path])


def append(path: Path, rows: list[Row]) -> None:
    """Add rows to a file, which is written whole; a link stays one."""
    together = json.dumps([*load(path), *rows], indent=1, ensure_ascii=False)
    save_text(path, together + "\n", durable=True)
