"""mmfree-neuro logits: what a model answers, as files that compare equal between engines."""

import argparse
from pathlib import Path
from typing import Any

from mmfree_neuro.cli.options import add_calibration, add_command, add_option, add_ranks, ranks
from mmfree_neuro.cli.output import Bars, tell
from mmfree_neuro.errors import InputError
from mmfree_neuro.files.writing import save_array
from mmfree_neuro.lowering.scheme import scheme_named
from mmfree_neuro.pipeline import engines, quality
from mmfree_neuro.pipeline import logits as pipeline_logits
from mmfree_neuro.pipeline import text as texts
from mmfree_neuro.run.job import Job


def add(commands: Any) -> None:
    """Declare the command and its options."""
    p = add_command(
        commands, "logits", run, "logits CHECKPOINT --engine float --tokens ids.npy -o logits.npy"
    )
    add_option(p, "source", type=Path, help="checkpoint folder, graph file or mapping file (.map)")
    add_option(
        p,
        "--tokens",
        type=Path,
        required=True,
        help=".npy of token ids [batch, time]; each row from a zero state",
    )
    add_option(
        p,
        "-o",
        "--output",
        type=Path,
        required=True,
        help="float64 logits [batch, time, vocabulary] to write",
    )
    add_option(
        p, "--engine", default="float", help=f"float, {engines.names_and_needs()} (default float)"
    )
    add_ranks(p)
    add_option(p, "--raw", action="store_true", help="write the integer logits themselves")
    add_option(
        p,
        "--nats",
        type=Path,
        metavar="FILE",
        help="also write nats per predicted token [batch, time - 1]",
    )
    add_option(
        p,
        "--new-tokens",
        type=int,
        default=0,
        help="also continue every row greedily by this many tokens",
    )
    add_option(
        p, "--chosen", type=Path, metavar="FILE", help="write that continuation [batch, new tokens]"
    )
    add_calibration(p)


def run(options: argparse.Namespace) -> None:
    """Write the logits, the losses or the continuation of token sequences."""
    tokens = texts.load_tokens(options.tokens)
    found: Any
    if options.engine == "float":
        if options.raw:
            raise InputError("--raw writes integers, which the float engine does not have")
        found, chosen = pipeline_logits.float_result(options.source, tokens, options.new_tokens)
    else:
        graph, mapping = pipeline_logits.load_source(
            options.source,
            scheme_named(options.scheme),
            options.calibrate,
            as_bytes=options.as_bytes,
        )
        bars = Bars()
        try:
            engine = engines.engine_named(options.engine, ranks(options.ranks))
            result = engine(graph, mapping, Job(tokens, options.new_tokens), bars.show)
        finally:
            bars.close()
        raw = result.logits[:, : tokens.shape[1]]
        found, chosen = (raw if options.raw else raw * graph.logit_scale), result.chosen
    outputs: list[tuple[Path, Any]] = [(options.output, found)]
    if options.nats is not None:
        natural = found * graph.logit_scale if options.raw else found
        outputs.append((options.nats, quality.nats(natural[:, :-1], tokens[:, 1:])))
    if options.chosen is not None:
        outputs.append((options.chosen, chosen))
    for path, array in outputs:
        save_array(path, array)
    tell(f"wrote {', '.join(str(path) for path, _ in outputs)}")
