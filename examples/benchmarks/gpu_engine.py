"""A model of full size on the `gpu` engine: the same logits, losses and counts as `fast`, and how
many tokens of text it scores and generates in a second.

The checkpoint is synthetic, of the published shape.  Build the kernels for the CPU first, or `fast`
is very slow: python setup.py build_ext --inplace.  Run on a machine with a GPU:
PYTHONPATH=.:partition:kernels:sims python examples/benchmarks/gpu_engine.py [--model 370m]
[--scheme a8 a14 a16] [--windows 128] [--in-flight 64] [--greedy] [-o ROWS]

A prompt, what goes on from it, and some windows side by side must be those of `fast`, bit for bit
and count for count, before anything is timed.  With --in-flight so many sequences of different
lengths are under way at once instead, and each must come to what it comes to alone on `fast`; with
--greedy the graph chooses the words, as the host would.
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

from mmfree_kernels.bench import record
from mmfree_kernels.float_model.calibrate import calibrate
from mmfree_neuro.errors import MMFreeError
from mmfree_neuro.graph.greedy import with_greedy
from mmfree_neuro.graph.nodes import Graph, mark
from mmfree_neuro.graph.slots import with_slots
from mmfree_neuro.hgrn_bit.config import PUBLISHED
from mmfree_neuro.hgrn_bit.lowering import lower
from mmfree_neuro.hgrn_bit.names import ternary_weights
from mmfree_neuro.hgrn_bit.synthetic import write_synthetic
from mmfree_neuro.integers.fixedpoint import Ints
from mmfree_neuro.lowering.scheme import SCHEMES
from mmfree_neuro.pipeline import engines, quality
from mmfree_neuro.pipeline.engines import ScoringSession
from mmfree_neuro.pipeline.families import read_checkpoint
from mmfree_neuro.run.job import Job, Result
from mmfree_neuro.run.scores import scored

NEW_TOKENS = 16
SLOT = 5
"""Of the prompt that is compared."""
CHECKED = 4, 48
"""Windows that `fast` scores, too, and their length."""
LENGTH = 1024
TURNS = 96
"""Tokens of each sequence for the speed of generation."""


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


def check(gpu: ScoringSession, fast: ScoringSession, windows: Ints, tokens: int) -> dict[str, int]:
    """A prompt in a slot, some tokens after it one by one, one token of each of three sequences,
    and windows side by side, on the GPU and on `fast`: what they have in common, or SystemExit."""
    row, slots = windows[0], np.array([SLOT, 0, 9])
    marks = mark(np.full(tokens, SLOT), np.arange(tokens) == 0)
    turns = [(row[:tokens], marks)]
    turns += [(row[n : n + 1], mark(slots[:1], np.zeros(1, np.bool_))) for n in range(3)]
    turns += [(row[n : n + 3], mark(slots, np.array([False, n == 0, n == 0]))) for n in range(3)]
    logits = 0
    for fed, told in turns:
        found, expected = gpu.feed(fed, told), fast.feed(fed, told)
        if not np.array_equal(found, expected):
            raise SystemExit("logits differ from those of fast: no row is written")
        logits += int(np.count_nonzero(found))
    few = windows[: CHECKED[0], : CHECKED[1] + 1]
    scores, other = (scored(session, few, len(few), 64) for session in (gpu, fast))
    equal = np.array_equal(scores.chosen, other.chosen)
    if not equal or not np.allclose(scores.nats, other.nats, rtol=1e-12, atol=1e-12):
        raise SystemExit("losses differ from those of fast: no row is written")
    if gpu.take_activity(SLOT) != fast.take_activity(SLOT):
        raise SystemExit("counts of a sequence differ from those of fast: no row is written")
    counted = gpu.take_all_activity()
    if counted != fast.take_all_activity():
        raise SystemExit("counts differ from those of fast: no row is written")
    return {
        "tokens checked": sum(len(fed) for fed, _ in turns) + few[:, 1:].size,
        "logits that are not zero": logits,
        "saturated values in windows": int(counted.saturations.sum()),
        "wrapped sums in windows": int(counted.wrapped.sum()),
    }


def generating(session: ScoringSession, sequences: int) -> float:
    """Tokens a second of so many sequences that go on with their likeliest tokens, whose logits go
    to the host."""
    slots, tokens = np.arange(sequences), np.arange(sequences)
    marks = mark(slots, np.zeros(sequences, np.bool_))
    for turn in range(TURNS + 2):
        if turn == 2:  # everything is compiled and recorded
            begin = time.monotonic()
        tokens = session.feed(tokens, marks).argmax(-1)
    return sequences * TURNS / (time.monotonic() - begin)


def measured(graph: Graph, windows: Ints, tokens: int) -> dict[str, Any]:
    """A graph on the GPU, checked first: how fast text is scored, and generated."""
    scorer = engines.scorer_named("gpu")
    many = with_slots(graph, scorer.side_by_side)
    mapping, begin = quality.in_one_place(many), time.monotonic()
    gpu = scorer.session(many, mapping)
    started = time.monotonic() - begin
    checked = check(gpu, engines.scorer_named("fast").session(many, mapping), windows, tokens)
    turn, begin = scorer.chunk // many.slots, time.monotonic()
    scored(gpu, windows[:, : 2 * turn + 1], many.slots, scorer.chunk)
    compiled, begin = time.monotonic() - begin, time.monotonic()
    scored(gpu, windows, many.slots, scorer.chunk)
    seconds = time.monotonic() - begin
    return {
        **checked,
        "windows": f"{len(windows)} of {windows.shape[1] - 1}, {many.slots} at once",
        "tokens together": scorer.chunk,
        "to the device s": round(started, 2),
        "two turns, compiled and recorded s": round(compiled, 2),
        "scored tokens/s": round(windows[:, 1:].size / seconds),
        "generated tokens/s, 1 sequence": round(generating(gpu, 1)),
        "generated tokens/s, 64 sequences": round(generating(gpu, 64)),
        "gpu peak bytes": torch.cuda.max_memory_allocated(),
        "device": torch.cuda.get_device_name(),
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
    vocabulary, rng = PUBLISHED[options.model].vocab_size, np.random.default_rng(3)
    windows = rng.integers(vocabulary, size=(options.windows, LENGTH + 1))
    with tempfile.TemporaryDirectory() as name:
        folder, begin = Path(name) / options.model, time.monotonic()
        write_synthetic(folder, PUBLISHED[options.model])
        written, begin = time.monotonic() - begin, time.monotonic()
        checkpoint = read_checkpoint(folder)
        weights = ternary_weights(checkpoint)
        packed = time.monotonic() - begin
        for scheme in options.scheme:
            begin = time.monotonic()
            calibration = rng.integers(vocabulary, size=(2, 24))
            ranges = calibrate(checkpoint, calibration, SCHEMES[scheme], weights=weights)
            graph = lower(checkpoint, weights, ranges, SCHEMES[scheme], options.model)
            seconds = {
                "checkpoint written s": round(written, 1),
                "weights packed s": round(packed, 1),
                "calibrated and lowered s": round(time.monotonic() - begin, 1),
            }
            if options.in_flight:
                row: dict[str, Any] = together(graph, options.in_flight, greedy=options.greedy)
            else:
                row = {"what": f"{options.model} {scheme}: equal to fast"}
                row |= measured(graph, windows, options.tokens)
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
