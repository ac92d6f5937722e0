"""mmfree-neuro logits: what a model answers, as files that compare equal between engines."""

import argparse
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from mmfree_neuro.cli.options import add_calibration, add_command, add_option, add_ranks, ranks
from mmfree_neuro.cli.output import Bars, show, warn
from mmfree_neuro.errors import InputError
from mmfree_neuro.files.writing import check_outputs, save_array
from mmfree_neuro.graph.summary import summarise
from mmfree_neuro.lowering.scheme import scheme_named
from mmfree_neuro.model import hub
from mmfree_neuro.pipeline import engines
from mmfree_neuro.pipeline import logits as pipeline_logits
from mmfree_neuro.pipeline import text as texts
from mmfree_neuro.pipeline.opened import files_behind
from mmfree_neuro.pipeline.slow_code import slow_code_warnings
from mmfree_neuro.run.job import Job
from mmfree_neuro.run.losses import count_warnings, quality_warnings
from mmfree_neuro.run.scores import nats
from mmfree_neuro.target.image_file import is_image


def add(commands: Any) -> None:
    """Declare the command and its options."""
    p = add_command(
        commands, "logits", run, "logits CHECKPOINT --engine float --tokens ids.npy -o logits.npy"
    )
    add_option(
        p,
        "source",
        type=Path,
        help="checkpoint folder, graph file, mapping file (.map) or machine image",
    )
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
        p,
        "--engine",
        help=f"float, {engines.names_and_needs()} (default float for a checkpoint; for a graph or "
        "a mapping gpu where there is a GPU, else fast; a machine image runs on engine "
        f"{engines.EMULATOR})",
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
    imaged = is_image(options.source)
    options.engine = options.engine or _default_engine(options.source, imaged=imaged)
    floats = options.engine == "float"
    if imaged and options.engine != engines.EMULATOR:
        raise InputError(
            f"{options.source}: is a machine image, which runs on engine {engines.EMULATOR}, not "
            f"on {options.engine}"
        )
    if imaged and options.ranks is not None:
        raise InputError(
            f"{options.source}: is a machine image, which has no ranks to place chips on"
        )
    if not imaged and options.engine == engines.EMULATOR:
        raise InputError(
            f"{options.source}: engine {engines.EMULATOR} runs machine images, must be made one by "
            "mmfree-neuro image"
        )
    if floats and options.raw:
        raise InputError("--raw writes integers, which the float engine does not have")
    check_outputs(
        [options.output, options.nats, options.chosen],
        [*files_behind(options.source), options.tokens, *texts.files_of(options.calibrate)],
    )
    tokens = texts.load_tokens(options.tokens)
    found = _floats if floats else _emulated if imaged else _integers
    outputs, warnings = found(options, tokens)
    warn(warnings)
    for path, array in outputs.items():
        save_array(path, array)
    text = f"wrote {', '.join(map(str, outputs))}, by engine {options.engine}"
    content = {"wrote": [str(path) for path in outputs], "engine": options.engine}
    show(content | {"warnings": warnings}, text, options.json)


def _default_engine(source: Path, *, imaged: bool) -> str:
    """What computes the logits of a source unless an engine is named."""
    if imaged:
        return engines.EMULATOR
    return "float" if hub.located(source).is_dir() else engines.default_scorer()


Outputs = dict[Path, Any]
"""Arrays by the file that each is written to."""


def _floats(options: argparse.Namespace, tokens: NDArray[np.int64]) -> tuple[Outputs, list[str]]:
    found, chosen, warnings = pipeline_logits.float_result(
        options.source, tokens, options.new_tokens
    )
    return _outputs(options, tokens, found, found, chosen), [*warnings]


def _integers(options: argparse.Namespace, tokens: NDArray[np.int64]) -> tuple[Outputs, list[str]]:
    graph, mapping, warnings = pipeline_logits.load_source(
        options.source,
        scheme_named(options.scheme, options.root),
        options.calibrate,
        tokens,
        options.new_tokens,
        as_bytes=options.as_bytes,
        engine=options.engine,
    )
    bars = Bars()
    try:
        engine = engines.engine_named(options.engine, ranks(options.ranks))
        result = engine(graph, mapping, Job(tokens, options.new_tokens), bars.show)
    finally:
        bars.close()
    did = result.prefill + result.generate
    counted = count_warnings(summarise(graph), mapping, did)
    raw = result.logits[:, : tokens.shape[1]]
    natural = raw * graph.logit_scale
    outputs = _outputs(options, tokens, raw if options.raw else natural, natural, result.chosen)
    return outputs, [*warnings, *counted, *slow_code_warnings()]


def _emulated(options: argparse.Namespace, tokens: NDArray[np.int64]) -> tuple[Outputs, list[str]]:
    from mmfree_neuro.pipeline import emulated

    image, bars = emulated.OpenedImage(options.source), Bars()
    try:
        result = emulated.run(image, Job(tokens, options.new_tokens), bars.show)
    finally:
        bars.close()
    did, summary = result.prefill + result.generate, image.origin.summary
    raw = result.logits[:, : tokens.shape[1]]
    natural = raw * image.logit_scale
    outputs = _outputs(options, tokens, raw if options.raw else natural, natural, result.chosen)
    return outputs, [
        *quality_warnings(summary.quality),
        *count_warnings(summary, image.mapping, did),
    ]


def _outputs(
    options: argparse.Namespace,
    tokens: NDArray[np.int64],
    found: NDArray[Any],
    natural: NDArray[Any],
    chosen: NDArray[np.int64],
) -> Outputs:
    """What is asked for, by file; `natural` are the logits `found` in natural units."""
    outputs: Outputs = {options.output: found}
    if options.nats is not None:
        outputs[options.nats] = nats(natural[:, :-1], tokens[:, 1:])
    if options.chosen is not None:
        outputs[options.chosen] = chosen
    return outputs
