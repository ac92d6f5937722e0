"""A model of full size on the `gpu` engine: the same logits, choices and counts as `fast`, and how
long both take.

The checkpoint is synthetic, of the published shape.  Build the kernels for the CPU first, or `fast`
is very slow: python setup.py build_ext --inplace.  Run on a machine with a GPU:
PYTHONPATH=.:partition:kernels:sims python examples/benchmarks/gpu_engine.py [--model 370m]
[--scheme a16] [--in-flight 64] [--greedy] [-o ROWS]

With --in-flight so many sequences of different lengths are under way at once, and each must come to
what it comes to alone on `fast`; with --greedy the graph chooses the words, as the host would.
"""

import argparse
import json
import sys
import tempfile
from dataclasses import replace
from pathlib import Path

import numpy as np
import torch

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

NEW_TOKENS = 16


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


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--model", default="370m", choices=sorted(PUBLISHED))
    parser.add_argument("--scheme", default="a16", choices=sorted(SCHEMES))
    parser.add_argument("--in-flight", type=int, help="check so many sequences at once instead")
    parser.add_argument("--greedy", action="store_true", help="the graph chooses the words")
    parser.add_argument("--tokens", type=int, default=512, help="of the prompt (default 512)")
    parser.add_argument(
        "-o", "--output", type=Path, default=Path(__file__).parent / "results" / "gpu_engine.json"
    )
    parser.add_argument(
        "--commit", help="recorded in the row where this is no checkout with its history"
    )
    options = parser.parse_args()
    record.check_gpu()
    record.check_output(options.output)
    with tempfile.TemporaryDirectory() as name:
        folder = Path(name) / options.model
        write_synthetic(folder, PUBLISHED[options.model])
        calibration = Path(name) / "ids.npy"
        vocabulary = PUBLISHED[options.model].vocab_size
        np.save(calibration, np.random.default_rng(0).integers(vocabulary, size=(4, 33)))
        checkpoint = read_checkpoint(folder)
        graph = convert.to_graph(
            checkpoint, None, SCHEMES[options.scheme], str(calibration), options.model, print
        ).graph
        if options.in_flight:
            row = together(graph, options.in_flight, greedy=options.greedy)
            row |= record.about(options.commit)
            print(json.dumps(row))
            record.append(options.output, [row])
            return
        mapping = quality.in_one_place(graph)
        job = Job(
            np.random.default_rng(1).integers(vocabulary, size=(1, options.tokens)), NEW_TOKENS
        )
        results = {
            engine: engines.engine_named(engine)(graph, mapping, job) for engine in ("fast", "gpu")
        }
        if not same(results["fast"], results["gpu"]):
            raise SystemExit("the gpu engine differs from fast: no row is written")
        again = engines.engine_named("gpu")(graph, mapping, job)  # everything is compiled now
    row = {
        "what": (
            f"{options.model} {options.scheme}, {options.tokens} tokens and {NEW_TOKENS} "
            "more: bits and counts"
        ),
        **{
            f"{engine}: {phase} s": round(value, 3)
            for engine, run in (*results.items(), ("gpu, compiled", again))
            for phase, value in run.seconds.items()
        },
        "saturations": int(results["gpu"].prefill.saturations.sum()),
        "wrapped": int(results["gpu"].prefill.wrapped.sum()),
        "logits that are not zero": int(np.count_nonzero(results["gpu"].logits)),
        "gpu peak bytes": torch.cuda.max_memory_allocated(),
        "device": torch.cuda.get_device_name(),
        **record.about(options.commit),
    }
    print(json.dumps(row))
    record.append(options.output, [row])


if __name__ == "__main__":
    try:
        main()
    except MMFreeError as error:
        print(error, file=sys.stderr)
        sys.exit(2)
