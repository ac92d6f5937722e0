"""A model of full depth, trained here: what the integers of every scheme lose against it.

It trains the 370M shape on the sources and the documentation of this Python's packages, in the
tokens of a tokenizer, for as many seconds as told; called again, it goes on.  With --measure it
then converts the model in every scheme and measures each on held-out tokens on the `gpu` engine,
which is held against `fast` first.  Run on a machine with a GPU:

PYTHONPATH=.:partition:kernels:sims python examples/benchmarks/full_size_quality.py FOLDER
    --tokenizer tokenizer.json [--seconds 600] [--steps 4000] [--fall] [--measure] [-o ROWS]

The family's tokenizer is Mistral's first: `tokenizer.model.v1` of the package mistral-common, which
LlamaTokenizerFast of transformers writes as `tokenizer.json` (with `add_bos_token=True`).
"""

import argparse
import json
import re
import time
from collections import Counter
from dataclasses import asdict
from pathlib import Path
from typing import Any

import error_budget
import numpy as np
import torch
from numpy.typing import NDArray

from mmfree_kernels.bench import record
from mmfree_kernels.float_model import evaluate
from mmfree_kernels.float_model.calibrate import calibrate
from mmfree_kernels.float_model.model import from_checkpoint
from mmfree_kernels.training import train
from mmfree_kernels.training.recipe import DECAY
from mmfree_neuro.graph.nodes import Graph, mark
from mmfree_neuro.graph.slots import with_slots
from mmfree_neuro.graph.summary import summarise
from mmfree_neuro.hgrn_bit import lowering
from mmfree_neuro.hgrn_bit.config import ModelConfig, default_intermediate_size
from mmfree_neuro.hgrn_bit.names import ternary_weights
from mmfree_neuro.lowering.scheme import SCHEMES
from mmfree_neuro.model import corpus, spelt
from mmfree_neuro.model.tokenizer import Spelling, speller
from mmfree_neuro.pipeline import engines, quality
from mmfree_neuro.pipeline.families import read_checkpoint
from mmfree_neuro.run.job import Job
from mmfree_neuro.run.sampling import Sampling
from mmfree_neuro.run.scores import Scores, scored
from mmfree_sims import fast

LENGTH = 1024
CALIBRATION = 8
"""Windows of training text to calibrate on."""
CHECKED = 96
"""Tokens on which an engine must give the bits of `fast`."""
BUDGET = 16
"""Windows for the error budget."""
PROMPTS = "import os\n", "def read_lines(path):\n", "# Installation\n\n"


def tokens_of(options: argparse.Namespace, tokenizer: str) -> corpus.Corpus:
    """The corpus in tokens, kept in the folder when it has been made."""
    kept = options.folder / "tokens.npz"
    if not kept.exists():
        begin = time.monotonic()
        texts = corpus.load_texts(options.corpus)
        found = spelt.corpus_of(texts, tokenizer)
        options.folder.mkdir(parents=True, exist_ok=True)
        np.savez(
            kept,
            train=found.train,
            held_out=found.held_out,
            about=np.array([found.description, str(found.held_out_bytes)]),
        )
        print(
            f"{found.description}: {sum(map(len, texts.train))} bytes, {found.train.size} tokens; "
            f"held out {found.held_out_bytes} bytes, {found.held_out.size} tokens; "
            f"{time.monotonic() - begin:.0f} s",
            flush=True,
        )
    with np.load(kept) as file:
        description, held_out_bytes = file["about"].tolist()
        return corpus.Corpus(file["train"], file["held_out"], description, int(held_out_bytes))


def trained(options: argparse.Namespace, tokenizer: str, text: corpus.Corpus) -> dict[str, Any]:
    """Train, or go on; what came of it."""
    vocabulary = spelt.vocabulary_of(tokenizer)
    config = ModelConfig(
        vocab_size=vocabulary.size,
        hidden_size=options.hidden,
        num_hidden_layers=options.layers,
        intermediate_size=default_intermediate_size(options.hidden, 4),
        bos_token_id=vocabulary.bos,
        eos_token_id=vocabulary.eos,
    )
    state, steps = options.folder / train.STATE, options.steps
    if options.fall:
        step, steps = reached(state)
        if step <= steps * (1 - DECAY):
            steps = -int(-step // (1 - DECAY))
    recipe = train.Recipe(
        steps, options.batch, LENGTH, options.learning_rate, warmup=options.warmup, schedule="wsd"
    )
    curve: list[train.Progress] = []

    def report(progress: train.Progress) -> None:
        curve.append(progress)
        print(json.dumps(asdict(progress)), flush=True)

    outcome = train.train(
        config,
        text,
        recipe,
        options.folder,
        tokenizer=tokenizer,
        resume=state.exists(),
        max_seconds=options.seconds,
        save_every=1 << 30,
        report_every=20,
        look_every=200,
        report=report,
    )
    return {
        "what": "training",
        "parameters": config.parameters(),
        "recipe": asdict(recipe),
        "corpus": text.description,
        "train tokens": int(text.train.size),
        "held-out tokens": int(text.held_out.size),
        "held-out bytes": text.held_out_bytes,
        **asdict(outcome),
        "curve": [[p.step, round(p.loss, 4), p.held_out] for p in curve],
        "tokens/s": round(max((p.tokens_per_second for p in curve), default=0)),
        "gpu peak bytes": torch.cuda.max_memory_allocated() if torch.cuda.is_available() else None,
    }


def reached(state: Path) -> tuple[int, int]:
    """How many steps a run has done, and of how many."""
    if not state.exists():
        raise SystemExit(f"{state}: no such file; there is no run whose rate could fall")
    found = torch.load(state, mmap=True, weights_only=True, map_location="cpu")
    return int(found["step"]), int(found["settings"]["recipe"]["steps"])


def integers(graph: Graph, windows: NDArray[np.int64]) -> tuple[Scores, Any, float]:
    """Losses and choices of a graph on windows, its counts, and the seconds that these took."""
    scorer = engines.scorer_named(engines.default_scorer())
    many = with_slots(graph, min(scorer.side_by_side, len(windows)))
    session = scorer.session(many, quality.in_one_place(many))
    few, starts = windows[0, :CHECKED], np.arange(CHECKED) == 0
    expected = fast.Fast(graph, quality.in_one_place(graph)).feed(few)
    if not np.array_equal(session.feed(few, mark(np.zeros(CHECKED, np.int64), starts)), expected):
        raise SystemExit("the engine differs from fast: no row is written")
    turns = 2 * max(1, scorer.chunk // many.slots)  # the first compiles, the second records
    scored(session, windows[:, : turns + 1], many.slots, scorer.chunk)
    session.take_all_activity()
    begin = time.monotonic()
    found = scored(session, windows, many.slots, scorer.chunk)
    seconds = time.monotonic() - begin
    return found, session.take_all_activity(), seconds


def by_kind(graph: Graph, counts: NDArray[np.integer[Any]]) -> dict[str, int]:
    """Counts of nodes, added over blocks: `layers.*.mlgru`."""
    found: Counter[str] = Counter()
    for node, count in zip(graph.nodes, counts.tolist(), strict=True):
        found[re.sub(r"layers\.\d+\.", "layers.*.", node.name)] += count
    return {name: count for name, count in found.most_common() if count}


def samples(graph: Graph, tokenizer: str) -> dict[str, str]:
    """How the integers go on."""
    found = {}
    with speller(Spelling(graph.vocabulary, tokenizer)) as by:
        for prompt in PROMPTS:
            engine = engines.engine_named("gpu" if torch.cuda.is_available() else "fast")
            job = Job([np.array(by.encode(prompt))], 64, Sampling(0.5, seed=1), keep_logits=False)
            chosen = engine(graph, quality.in_one_place(graph), job).chosen[0]
            found[prompt] = by.decode(chosen.tolist())
    return found


def measured(options: argparse.Namespace, tokenizer: str, text: corpus.Corpus) -> list[Any]:
    """The rows of all schemes, and the error budget."""
    checkpoint = read_checkpoint(options.folder)
    weights = ternary_weights(checkpoint)
    windows = corpus.windows(text.held_out, LENGTH, options.windows)
    calibration = corpus.windows(text.train, LENGTH, CALIBRATION)[:, :-1]
    model = from_checkpoint(checkpoint)
    floats = evaluate.scored(model.cuda() if torch.cuda.is_available() else model, windows, 4)
    del model
    rows: list[Any] = []
    for name, scheme in SCHEMES.items():
        begin = time.monotonic()
        ranges = calibrate(checkpoint, calibration, scheme, weights=weights)
        graph = lowering.lower(checkpoint, weights, ranges, scheme, "full size")
        converted = time.monotonic() - begin
        found, activity, seconds = integers(graph, windows)
        differences = (found.nats - floats.nats).mean(1)
        summary = summarise(graph)
        rows.append(
            {
                "what": f"{name} against the float model",
                "tokens": found.nats.size,
                "float nats": round(float(floats.nats.mean()), 6),
                "integer nats": round(float(found.nats.mean()), 6),
                "perplexity ratio": round(float(np.exp(differences.mean())), 6),
                "standard error of its logarithm": round(
                    float(differences.std(ddof=1) / len(differences) ** 0.5), 6
                ),
                "greedy agreement": round(float((found.chosen == floats.chosen).mean()), 6),
                "saturated values by node": by_kind(graph, activity.saturations),
                "wrapped sums by node": by_kind(graph, activity.wrapped),
                "values": int(found.nats.size * sum(node.size for node in graph.nodes)),
                "accumulator bits needed": summary.accumulator_bits,
                "payload bits needed": summary.payload_bits,
                "convert s": round(converted, 1),
                "tokens/s": round(found.nats.size / seconds, 1),
            }
        )
        print(json.dumps(rows[-1]), flush=True)
        if name == "a14":
            rows.append({"what": "a14 goes on", "samples": samples(graph, tokenizer)})
            print(json.dumps(rows[-1]), flush=True)
    few = windows[:: max(1, len(windows) // BUDGET)][:BUDGET, : LENGTH // 2 + 1]
    budget = error_budget.records(
        error_budget.measure(checkpoint, calibration, few), {"budget": True}, len(few)
    )
    for row in budget:
        row |= {"unit": "nats/token", "tokens": row.pop("bytes", 0)}
        row["nats per token"] = row.pop("nats_per_byte", None)
        print(json.dumps(row), flush=True)
    return [*rows, *budget]


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("folder", type=Path, help="where the model and its state are kept")
    parser.add_argument("--tokenizer", type=Path, required=True, help="tokenizer.json")
    parser.add_argument("--corpus", default="packages", help="as `mmfree-neuro train` has it")
    parser.add_argument("--seconds", type=float, default=600, help="of training (default 600)")
    parser.add_argument("--steps", type=int, default=4000)
    parser.add_argument("--warmup", type=int, default=200)
    parser.add_argument(
        "--fall", action="store_true", help="let the rate fall from here on, whatever --steps says"
    )
    parser.add_argument("--batch", type=int, default=32)
    parser.add_argument("--learning-rate", type=float, default=2e-3)
    parser.add_argument("--hidden", type=int, default=1024)
    parser.add_argument("--layers", type=int, default=24)
    parser.add_argument("--measure", action="store_true", help="measure the schemes behind it")
    parser.add_argument("--windows", type=int, default=128, help=f"of {LENGTH} tokens")
    parser.add_argument(
        "-o",
        "--output",
        type=Path,
        default=Path(__file__).parent / "results" / "full_size_quality.json",
    )
    parser.add_argument("--commit", help="recorded where this is no checkout with its history")
    options = parser.parse_args()
    record.check_output(options.output)
    tokenizer = options.tokenizer.read_text(encoding="utf-8")
    text = tokens_of(options, tokenizer)
    rows: list[Any] = [trained(options, tokenizer, text)] if options.seconds else []
    if options.measure:
        rows += measured(options, tokenizer, text)
    about = record.about(options.commit)
    device = torch.cuda.get_device_name() if torch.cuda.is_available() else error_budget.device()
    record.append(options.output, [row | {"device": device} | about for row in rows])


if __name__ == "__main__":
    main()
