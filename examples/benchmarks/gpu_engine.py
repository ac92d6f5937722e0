"""A model of full size on the `gpu` engine: the same logits, choices and counts as `fast`, and how
many tokens of text it scores in a second.

The checkpoint is synthetic, of the published shape.  Build the kernels for the CPU first, or `fast`
is very slow: python setup.py build_ext --inplace.  Run on a machine with a GPU:
PYTHONPATH=.:partition:kernels:sims python examples/benchmarks/gpu_engine.py [--model 370m]
[--scheme a8 a14 a16] [--windows 128] [--in-flight 64] [--greedy] [-o ROWS]

A prompt and its continuation, and some windows side by side, must be those of `fast` before windows
of random tokens are scored.  With --in-flight so many sequences of different lengths are under way
at once instead, and each must come to what it comes to alone on `fast`; with --greedy the graph
chooses the words, as the host would.
"""

import argparse
import json
import sys
import tempfile
import time
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray

from mmfree_kernels.bench import record
from mmfree_neuro.errors import MMFreeError
from mmfree_neuro.graph.greedy import with_greedy
from mmfree_neuro.graph.nodes import Graph
from mmfree_neuro.graph.slots import with_slots
from mmfree_neuro.hgrn_bit.config import PUBLISHED
from mmfree_neuro.hgrn_bit.synthetic import write_synthetic
from mmfree_neuro.lowering.scheme import SCHEMES
from mmfree_neuro.pipeline import convert, engines, quality
from mmfree_neuro.pipeline.families import read_checkpoint
from mmfree_neuro.run.job import Job, Result
from mmfree_neuro.run.scores import scored

NEW_TOKENS = 16
CHECKED = 4, 48
"""Windows that `fast` scores, too, and their length."""
LENGTH = 1024


def same(a: Result, b: Result) -> bool:
    """Whether two runs gave the same bits and the same counts, sequence by sequence."""
    return all(
        np.array_equal(one.logits, other.logits)
        and np.array_equal(one.chosen, other.chosen)
        and (one.prefill, one.generate) == (other.prefill, other.generate)
        for one, other in zip(a.outcomes, b.outcomes, strict=True)
    )


def together(graph: Graph, in_flight: int, *, greedy: bool) -> dict[str, object]:
    """Many sequences on the GPU against each alone on `fast`, and how fast both sorts of run are
    once everything is compiled."""
    many, rng = with_slots(graph, in_flight), np.random.default_rng(2)
    many = with_greedy(many) if greedy else many
    prompts = [rng.integers(graph.vocabulary, size=3 + n % 17) for n in range(in_flight)]
    mapping, gpu, fast = quality.in_one_place(many), *map(engines.engine_named, ("gpu", "fast"))
    job = Job(prompts, NEW_TOKENS, keep_logits=not greedy, in_flight=in_flight)
    found, alone = gpu(many, mapping, job), fast(many, mapping, replace(job, in_flight=1))
    if not same(found, alone):
        raise SystemExit("a sequence differs from itself alone on fast: no row is written")
    if greedy:
        on_host = fast(graph, quality.in_one_place(graph), Job(prompts, NEW_TOKENS))
        for one, other in zip(found.outcomes, on_host.outcomes, strict=True):
            if one.chosen.tolist() != other.chosen.tolist():
                raise SystemExit("the graph chooses another word: no row is written")
    rates = {}
    for count in (1, in_flight):
        few = Job(prompts[:count], 4 * NEW_TOKENS, keep_logits=False, in_flight=count)
        run = gpu(many, mapping, few)
        rates[f"gpu, {count} in flight: tokens/s"] = round(
            run.generate.tokens / run.seconds["generate"], 1
        )
    return {
        "what": (
            f"{graph.name} {graph.scheme}{', greedy' * greedy}, {in_flight} sequences: bits and "
            "counts"
        ),
        **rates,
        "device": torch.cuda.get_device_name(),
    }


def alone(graph: Graph, tokens: int) -> dict[str, Any]:
    """A prompt and its continuation on the GPU and on `fast`."""
    mapping, rng = quality.in_one_place(graph), np.random.default_rng(1)
    job = Job(rng.integers(graph.vocabulary, size=(1, tokens)), NEW_TOKENS)
    gpu, fast = map(engines.engine_named, ("gpu", "fast"))
    found, expected = gpu(graph, mapping, job), fast(graph, mapping, job)
    if not same(found, expected):
        raise SystemExit(f"{graph.scheme}: the gpu engine differs from fast: no row is written")
    return {
        "prompt, fast s": round(expected.seconds["prefill"], 3),
        f"{NEW_TOKENS} tokens, fast s": round(expected.seconds["generate"], 3),
        "saturations": int(found.prefill.saturations.sum()),
        "wrapped": int(found.prefill.wrapped.sum()),
        "logits that are not zero": int(np.count_nonzero(found.logits)),
    }


def side_by_side(graph: Graph, windows: NDArray[np.int64]) -> dict[str, Any]:
    """Windows scored on the GPU, the first of them on `fast`, too; and how fast that is."""
    scorer = engines.scorer_named("gpu")
    many = with_slots(graph, min(scorer.side_by_side, len(windows)))
    mapping = quality.in_one_place(many)
    begin = time.monotonic()
    gpu = scorer.session(many, mapping)
    started = time.monotonic() - begin
    fast = engines.scorer_named("fast").session(many, mapping)
    few = windows[: CHECKED[0], : CHECKED[1] + 1]
    found, expected = (scored(session, few, len(few), 64) for session in (gpu, fast))
    counts = [(gpu.take_activity(slot), fast.take_activity(slot)) for slot in range(len(few))]
    if not (
        np.array_equal(found.chosen, expected.chosen)
        and np.allclose(found.nats, expected.nats, rtol=1e-12, atol=1e-12)
        and all(one == other for one, other in counts)
    ):
        raise SystemExit(f"{graph.scheme}: windows differ from fast: no row is written")
    step, begin = scorer.chunk // many.slots, time.monotonic()
    scored(gpu, windows[:, : 2 * step + 1], many.slots, scorer.chunk)
    compiled = time.monotonic() - begin
    torch.cuda.synchronize()
    begin = time.monotonic()
    scored(gpu, windows, many.slots, scorer.chunk)
    seconds = time.monotonic() - begin
    tokens = windows[:, 1:].size
    return {
        "windows": f"{len(windows)} of {windows.shape[1] - 1}, {many.slots} at once",
        "tokens together": scorer.chunk,
        "to the device s": round(started, 2),
        "compiled and recorded s": round(compiled, 2),
        "scored tokens": tokens,
        "scored tokens/s": round(tokens / seconds),
    }


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--model", default="370m", choices=sorted(PUBLISHED))
    parser.add_argument(
        "--scheme", nargs="+", default=sorted(SCHEMES), choices=sorted(SCHEMES), metavar="SCHEME"
    )
    parser.add_argument("--in-flight", type=int, help="check so many sequences at once instead")
    parser.add_argument("--greedy", action="store_true", help="the graph chooses the words")
    parser.add_argument("--tokens", type=int, default=128, help="of the prompt (default 128)")
    parser.add_argument(
        "--windows", type=int, default=128, help=f"of {LENGTH} tokens to score (default 128)"
    )
    parser.add_argument(
        "-o", "--output", type=Path, default=Path(__file__).parent / "results" / "gpu_engine.json"
    )
    parser.add_argument(
        "--commit", help="recorded in the row where this is no checkout with its history"
    )
    options = parser.parse_args()
    record.check_gpu()
    record.check_output(options.output)
    vocabulary = PUBLISHED[options.model].vocab_size
    with tempfile.TemporaryDirectory() as name:
        folder, begin = Path(name) / options.model, time.monotonic()
        write_synthetic(folder, PUBLISHED[options.model])
        written, checkpoint = time.monotonic() - begin, read_checkpoint(folder)
        for scheme in options.scheme:
            calibration = np.random.default_rng(0).integers(vocabulary, size=(4, 33))
            begin = time.monotonic()
            graph = convert.to_graph(
                checkpoint, None, SCHEMES[scheme], calibration, options.model
            ).graph
            seconds = {"checkpoint s": round(written, 1)}
            seconds["convert s"] = round(time.monotonic() - begin, 1)
            if options.in_flight:
                row: dict[str, Any] = together(graph, options.in_flight, greedy=options.greedy)
            else:
                shape = options.windows, LENGTH + 1
                windows = np.random.default_rng(3).integers(vocabulary, size=shape)
                row = {
                    "what": (
                        f"{options.model} {scheme}: bits and counts of {options.tokens} tokens, "
                        f"{NEW_TOKENS} more, and {CHECKED[0]} windows of {CHECKED[1]}"
                    ),
                    **alone(graph, options.tokens),
                    **side_by_side(graph, windows),
                    "gpu peak bytes": torch.cuda.max_memory_allocated(),
                    "device": torch.cuda.get_device_name(),
                }
            row |= seconds | record.about(options.commit)
            print(json.dumps(row), flush=True)
            record.append(options.output, [row])
            torch.cuda.reset_peak_memory_stats()


if __name__ == "__main__":
    try:
        main()
    except MMFreeError as error:
        print(error, file=sys.stderr)
        sys.exit(2)
