"""The command line: parses, prints and exits; everything else is in `pipeline`.

Exit status 0: it worked.  2: the input was wrong, and one line says who, what it is and what it
must be.  1: the run was interrupted or died, or there is a bug of ours.
"""

import argparse
import json
import os
import signal
import subprocess
import sys
import traceback
from collections.abc import Callable, Sequence
from dataclasses import asdict, replace
from pathlib import Path
from typing import Any, NoReturn

from tqdm import tqdm

from mmfree_neuro import files
from mmfree_neuro.cost import explore
from mmfree_neuro.errors import InputError, MMFreeError, RunFailed, Served
from mmfree_neuro.lowering.scheme import SCHEMES, scheme_named
from mmfree_neuro.pipeline import bench as bench_
from mmfree_neuro.pipeline import convert as convert_
from mmfree_neuro.pipeline import engines, map, quality
from mmfree_neuro.pipeline import explore as exploring
from mmfree_neuro.pipeline import inspect as inspect_
from mmfree_neuro.pipeline import logits as logits_
from mmfree_neuro.pipeline import report as reporting
from mmfree_neuro.pipeline import simulate as simulate_
from mmfree_neuro.pipeline import text as text_
from mmfree_neuro.report import terminal
from mmfree_neuro.report import terminal as terminal_
from mmfree_neuro.run.job import Job
from mmfree_neuro.run.sampling import Sampling
from mmfree_neuro.systems.load import load_system, system_names

DEMO_CHECKPOINT = Path(__file__).resolve().parent.parent / "examples" / "checkpoints" / "stdlib-5m"
DEMO_PROMPT = 'def read_lines(path):\n    """Return the lines of a file."""\n'


class Parser(argparse.ArgumentParser):
    """A parser whose complaint is one line."""

    def error(self, message: str) -> NoReturn:
        self.exit(2, f"{self.prog}: {message}; see {self.prog} --help\n")


class Bars:
    """Progress for people, on standard error and only when that is a terminal."""

    def __init__(self) -> None:
        self.bars: dict[str, Any] = {}

    def report(self, phase: str, done: int, total: int) -> None:
        """Move the bar of a phase."""
        bar = self.bars.get(phase)
        if bar is None:
            bar = self.bars[phase] = tqdm(
                total=total, initial=done, desc=phase, unit="token", disable=None
            )
        bar.update(done - bar.n)

    def close(self) -> None:
        """Leave the terminal tidy."""
        for bar in self.bars.values():
            bar.close()


def _say(text: str) -> None:
    if sys.stderr.isatty():
        print(f"{text} …", file=sys.stderr)


def _show(content: dict[str, Any], text: str, as_json: bool) -> None:
    print(json.dumps(content, indent=2) if as_json else text)


def convert(options: argparse.Namespace) -> None:
    """Turn a checkpoint into a graph of integers."""
    graph = convert_.convert(
        options.checkpoint, options.output, scheme_named(options.scheme), options.calibrate, _say
    )
    text = (
        f"wrote {options.output}: {terminal.graph_line(graph)}\n{terminal.quality(graph.quality)}"
    )
    content = {"scheme": graph.scheme, "nodes": len(graph.nodes), "quality": graph.quality}
    _show({"graph": str(options.output), **content}, text, options.json)


def map_(options: argparse.Namespace) -> None:
    """Map a graph onto a system."""
    wish = map.Wish(
        _placer(options),
        options.chips,
        options.cores,
        options.spread,
        options.head_on_host,
        options.weight_bits,
        not options.rows_only,
        options.refine,
        options.seed,
    )
    graph, stored = map.map_graph(options.graph, options.system, options.output, wish)
    bounds = map.bounds(graph, stored.mapping, stored.system, options.cores)
    text = (
        f"wrote {options.output}\n{terminal.mapping(graph, stored.mapping, stored.system, bounds)}"
    )
    content = terminal.mapping_content(graph, stored.mapping, stored.system, bounds)
    _show({"mapping": str(options.output), **content}, text, options.json)


def _placer(options: argparse.Namespace) -> str:
    """The placer that is named, or the default."""
    if not options.block_per_chip:
        return options.placer or "chain"
    if options.placer not in (None, "block-per-chip"):
        raise InputError(f"--block-per-chip and --placer {options.placer} contradict each other")
    return "block-per-chip"


def explore_(options: argparse.Namespace) -> None:
    """Map a graph in many ways and show which no other beats."""
    chips = [
        None if text == "fewest" else _number(text, "chips") for text in options.chips.split(",")
    ]
    bits = [_number(text, "weight bits") for text in options.weight_bits.split(",")]
    copies = [_number(text, "copies") for text in options.copies.split(",")]
    known_names = {
        "split": (options.splits, explore.SPLITS),
        "placer": (options.placers, map.PLACERS),
    }
    for what, (names, known) in known_names.items():
        for name in names.split(","):
            if name not in known:
                raise InputError(f"{what} {name!r} is not known, must be one of {', '.join(known)}")
    choices = [
        explore.Choice(placer, count, split, width, options.head_on_host, copy)
        for width in bits
        for split in options.splits.split(",")
        for placer in options.placers.split(",")
        for count in chips
        for copy in copies
        if placer != "block-per-chip" or count == chips[0]
    ]
    choices = [replace(c, chips=None) if c.placer == "block-per-chip" else c for c in choices]
    found, failed = exploring.explore(options.graph, options.system, choices, _say)
    if not found:
        raise InputError(
            f"none of {len(choices)} ways to map {options.graph} is possible: {failed[0][1]}"
        )
    content = explore.content(found, failed)
    text = terminal_.table(found, failed)
    if options.picture is not None:
        exploring.draw_front(found, options.picture)
        text += f"\nwrote {options.picture}"
    if options.output is not None:
        with files.whole_file(options.output) as scratch:
            scratch.write_text(json.dumps(content, indent=1), encoding="utf-8")
        text += f"\nwrote {options.output}"
    _show(content, text, options.json)


def _number(text: str, what: str) -> int:
    """A whole number of at least 1."""
    if not text.isdecimal() or int(text) < 1:
        raise InputError(f"{what} are {text!r}, must be whole numbers of at least 1, such as 2,8")
    return int(text)


def simulate(options: argparse.Namespace) -> None:
    """Run a mapping on an engine."""
    sampling = Sampling(options.temperature, options.seed)
    bars = Bars()
    try:
        run = simulate_.simulate(
            options.mapping,
            options.prompt,
            lambda tokens: Job(tokens, options.new_tokens, sampling),
            options.engine,
            options.output,
            bars.report,
            save_every=options.save_every,
            resume=options.resume,
            placement=_placement(options.placement),
        )
    finally:
        bars.close()
    content = {
        "run": str(options.output),
        "engine": run.engine,
        "text": run.text,
        "seconds": run.seconds,
    }
    _show(content, f"{run.prompt}{run.text}\n\n{terminal.speed(run)}", options.json)


def _placement(text: str | None) -> tuple[int, ...] | None:
    """The ranks of the chips in use, in order."""
    if text is None:
        return None
    try:
        return tuple(int(rank) for rank in text.split(","))
    except ValueError:
        raise InputError(f"the placement is {text!r}, must be ranks such as 0,0,1,1") from None


def report_(options: argparse.Namespace) -> None:
    """Write the report of a run."""
    content = reporting.write_report(options.run, options.output, options.gpu_rows)
    _show(content, f"wrote {options.output}\n{terminal.estimates(content)}", options.json)


def logits(options: argparse.Namespace) -> None:
    """Write the logits, the losses or the continuation of token sequences."""
    tokens = text_.load_tokens(options.tokens)
    found: Any
    if options.engine == "float":
        if options.raw:
            raise InputError("--raw writes integers, which the float engine does not have")
        found, chosen = logits_.float_result(options.source, tokens, options.new_tokens)
    else:
        graph, mapping = logits_.load_source(
            options.source, scheme_named(options.scheme), options.calibrate
        )
        bars = Bars()
        try:
            engine = engines.engine_named(options.engine, _placement(options.placement))
            result = engine(graph, mapping, Job(tokens, options.new_tokens), bars.report)
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
        files.save_array(path, array)
    print(f"wrote {', '.join(str(path) for path, _ in outputs)}")


def train(options: argparse.Namespace) -> None:
    """Train a model on bytes."""
    from mmfree_kernels import training
    from mmfree_neuro.model import corpus
    from mmfree_neuro.model.config import ModelConfig, default_intermediate_size

    if options.text is not None and not options.text.is_file():
        raise InputError(f"{options.text}: no such file")
    for name in ("hidden", "layers"):
        if getattr(options, name) < 1:
            raise InputError(f"{name} is {getattr(options, name)}, must be at least 1")
    if options.intermediate < 0 or not options.max_seconds >= 0:
        raise InputError("the gate width and the seconds must not be negative")
    text = corpus.load(options.corpus if options.text is None else str(options.text))
    config = ModelConfig(
        vocab_size=256,
        hidden_size=options.hidden,
        num_hidden_layers=options.layers,
        bos_token_id=0,
        eos_token_id=0,
        intermediate_size=options.intermediate or default_intermediate_size(options.hidden, 4),
    )
    recipe = training.Recipe(
        options.steps, options.batch, options.window, options.learning_rate, seed=options.seed
    )

    def tell(p: training.Progress) -> None:
        if not options.json:
            print(
                f"step {p.step:6d}  loss {p.loss:.4f}  rate {p.learning_rate:.2e}  "
                f"{p.bytes_per_second / 1e3:.1f} kB/s",
                flush=True,
            )

    outcome = training.train(
        config,
        text,
        recipe,
        options.output,
        resume=options.resume,
        max_seconds=options.max_seconds,
        report=tell,
    )
    state = "finished" if outcome.finished else "stopped; --resume goes on"
    line = (
        f"{state} at step {outcome.step}: {outcome.held_out_nats:.4f} nats per byte on "
        f"held-out {text.description}"
    )
    _show(
        {"checkpoint": str(options.output), "corpus": text.description, **asdict(outcome)},
        line,
        options.json,
    )


def bench(options: argparse.Namespace) -> None:
    """Measure speed, energy and memory on this machine's GPU; a result that is wrong is not
    measured."""
    from mmfree_kernels.bench import record

    point = {
        name: getattr(options, name) for name in ("model", "mode", "batch", "length", "embedding")
    }
    point["implementation"] = options.baseline or options.impl or "fast"
    row = bench_.bench_gpu(point, options.seconds, options.output)
    if options.output is not None:
        try:
            record.append(options.output, [row])
        except Exception:
            print(json.dumps(row), flush=True)  # so that what was measured is not lost
            raise
    _show(row, terminal.gpu_row(row), options.json)


def systems(options: argparse.Namespace) -> None:
    """List the systems, or show one."""
    if options.name is not None:
        spec = load_system(options.name)
        _show(asdict(spec), terminal.system(spec), options.json)
        return
    specs = [load_system(name) for name in system_names()]
    content = {
        spec.name: {"chips": int(spec.chips.central), "description": spec.description}
        for spec in specs
    }
    lines = [
        f"{spec.name:16s} {int(spec.chips.central):5d} chips  {spec.description}" for spec in specs
    ]
    _show(content, "\n".join(lines), options.json)


def inspect(options: argparse.Namespace) -> None:
    """Show a checkpoint, a graph, a mapping or a run as text."""
    content, text = inspect_.anything(options.path, convert_.read_checkpoint, map.bounds)
    if options.codes is not None:
        if not options.path.is_dir():
            raise InputError(f"{options.path}: --codes needs a checkpoint folder")
        inspect_.write_codes(convert_.read_checkpoint(options.path), options.codes)
    _show(content, text, options.json)


def demo(options: argparse.Namespace) -> None:
    """Convert, map, simulate in Lava and report, each step as a command of its own."""
    checkpoint = options.checkpoint
    if not (checkpoint / "config.json").is_file():
        raise InputError(f"{checkpoint}: no checkpoint there; give one with --checkpoint")
    folder: Path = options.output
    graph, mapping, run = folder / "model.graph", folder / "model.map", folder / "run"
    steps = [
        ["convert", str(checkpoint), "-o", str(graph), "--scheme", options.scheme],
        ["map", str(graph), "--system", "kapoho-point", "--chips", "8", "-o", str(mapping)],
        [
            "simulate",
            str(mapping),
            "--prompt",
            options.prompt,
            "--new-tokens",
            str(options.new_tokens),
            "--engine",
            "lava",
            "--temperature",
            "0.5",
            "-o",
            str(run),
        ],
        ["report", str(run), "-o", str(folder / "report.md")],
        ["report", str(run), "-o", str(options.report)],
    ]
    for step in steps:
        print(f"$ mmfree-neuro {' '.join(_quoted(word) for word in step)}", flush=True)
        status = subprocess.run(
            [sys.executable, "-m", "mmfree_neuro.cli.main", *step], check=False
        ).returncode
        if status:
            raise SystemExit(status)
        print(flush=True)


def _quoted(word: str) -> str:
    return word if word and not set(word) & set(" \n\"'()") else json.dumps(word)


def _option(parser: argparse.ArgumentParser, *names: str, **rest: Any) -> None:
    parser.add_argument(*names, **rest)


def _command(
    commands: Any, name: str, run: Callable[[argparse.Namespace], None], example: str
) -> argparse.ArgumentParser:
    parser: argparse.ArgumentParser = commands.add_parser(
        name,
        help=(run.__doc__ or "").rstrip("."),
        description=run.__doc__,
        epilog=f"example: mmfree-neuro {example}",
    )
    parser.set_defaults(command=run)
    parser.add_argument("--json", action="store_true", help="print JSON for machines")
    return parser


def _calibration(parser: argparse.ArgumentParser) -> None:
    _option(
        parser,
        "--scheme",
        default="a16",
        help=f"how to make integers: {' or '.join(sorted(SCHEMES))} (default a16)",
    )
    _option(
        parser,
        "--calibrate",
        default="stdlib",
        metavar="FILE",
        help=(
            "text, folder of Python sources, or .npy of token ids to calibrate on (default stdlib)"
        ),
    )


def _placing(parser: argparse.ArgumentParser) -> None:
    _option(
        parser,
        "--placement",
        metavar="RANKS",
        help="with --engine mpi, under mpiexec: the rank of each chip in use, as 0,0,1",
    )


def _add_flow(commands: Any) -> None:
    """The four steps from a checkpoint to a report."""
    p = _command(commands, "convert", convert, "convert CHECKPOINT -o model.graph --scheme a16")
    _option(p, "checkpoint", type=Path, help="folder with config.json and weights (hgrn_bit)")
    _option(p, "-o", "--output", type=Path, required=True, help="graph file to write")
    _calibration(p)

    p = _command(
        commands, "map", map_, "map model.graph --system alia-point --block-per-chip -o model.map"
    )
    _option(p, "graph", type=Path, help="graph file")
    _option(p, "--system", required=True, help="name of a system, or a TOML file of your own")
    _option(p, "-o", "--output", type=Path, required=True, help="mapping file to write (.map)")
    _option(p, "--placer", help=f"{', '.join(map.PLACERS)} (default chain)")
    _option(p, "--block-per-chip", action="store_true", help="short for --placer block-per-chip")
    _option(p, "--chips", type=int, help="how many chips to spread over (default: as few as fit)")
    _option(p, "--cores", type=int, help="use at most this many cores of a chip (default: all)")
    _option(
        p,
        "--spread",
        action="store_true",
        help="every node of a chip over all of its cores: faster generation, more messages",
    )
    _option(
        p,
        "--rows-only",
        action="store_true",
        help="divide no sum by columns, even where that saves messages between chips",
    )
    _option(
        p, "--refine", action="store_true", help="swap cores on their chips while that saves hops"
    )
    _option(
        p,
        "--head-on-host",
        action="store_true",
        help="leave the head and its norm to the host, as published",
    )
    _option(
        p,
        "--weight-bits",
        type=int,
        help="what a stored weight takes (default: as the chip's description says)",
    )
    _option(p, "--seed", type=int, default=0, help="seed of placers that draw (default 0)")

    p = _command(
        commands,
        "explore",
        explore_,
        "explore model.graph --system alia-point-32 --chips fewest,24,32",
    )
    _option(p, "graph", type=Path, help="graph file")
    _option(p, "--system", required=True, help="name of a system, or a TOML file of your own")
    _option(
        p, "--chips", default="fewest", help="numbers of chips, as fewest,8,24 (default fewest)"
    )
    _option(
        p,
        "--weight-bits",
        default="2",
        help="what a stored weight takes, as 2,8: changes what fits (default 2)",
    )
    _option(
        p,
        "--splits",
        default="columns,spread",
        help="rows; columns (sums are divided too where it saves messages); "
        "spread (every node over all cores of "
        "its chip) (default columns,spread)",
    )
    _option(
        p,
        "--placers",
        default="chain,block-per-chip",
        help="as chain,balanced (default chain,block-per-chip)",
    )
    _option(
        p,
        "--copies",
        default="1",
        help=(
            "copies of the model, each with a sequence of its own; all share one barrier "
            "(default 1)"
        ),
    )
    _option(
        p,
        "--head-on-host",
        action="store_true",
        help="leave the head and its norm to the host, as published",
    )
    _option(p, "-o", "--output", type=Path, help="write all points as JSON")
    _option(p, "--picture", type=Path, help="draw the fronts as PNG")

    p = _command(
        commands,
        "simulate",
        simulate,
        'simulate model.map --prompt "import os" --new-tokens 64 -o run',
    )
    _option(p, "mapping", type=Path, help="mapping file")
    _option(p, "--prompt", required=True, help="text to continue")
    _option(
        p, "--new-tokens", type=int, default=64, help="how many tokens to generate (default 64)"
    )
    _option(p, "--engine", default="lava", help=f"{', '.join(engines.ENGINES)} (default lava)")
    _option(
        p,
        "--temperature",
        type=float,
        default=0.0,
        help="0 is greedy (default); higher is more random",
    )
    _option(p, "--seed", type=int, default=0, help="seed of the draws (default 0)")
    _placing(p)
    _option(
        p,
        "--save-every",
        type=int,
        default=256,
        metavar="N",
        help="write the state of the run to its folder every N tokens (default 256, 0 never)",
    )
    _option(
        p,
        "--resume",
        action="store_true",
        help="go on from the state in the run's folder, on any engine",
    )
    _option(p, "-o", "--output", type=Path, required=True, help="folder to write the run to")

    p = _command(commands, "report", report_, "report run -o report.html")
    _option(p, "run", type=Path, metavar="RUN", help="folder that simulate wrote")
    _option(
        p, "-o", "--output", type=Path, required=True, help="report.html, report.md or report.json"
    )
    _option(
        p,
        "--gpu-rows",
        type=Path,
        action="append",
        default=[],
        metavar="FILE",
        help="more rows of bench gpu",
    )


def _add_tools(commands: Any) -> None:
    """Everything else."""
    p = _command(
        commands,
        "logits",
        logits,
        "logits CHECKPOINT --engine float --tokens ids.npy -o logits.npy",
    )
    _option(p, "source", type=Path, help="checkpoint folder, graph file or mapping file (.map)")
    _option(
        p,
        "--tokens",
        type=Path,
        required=True,
        help=".npy of token ids [batch, time]; each row from a zero state",
    )
    _option(
        p,
        "-o",
        "--output",
        type=Path,
        required=True,
        help="float64 logits [batch, time, vocabulary] to write",
    )
    _option(
        p, "--engine", default="float", help=f"float, {', '.join(engines.ENGINES)} (default float)"
    )
    _placing(p)
    _option(p, "--raw", action="store_true", help="write the integer logits themselves")
    _option(
        p,
        "--nats",
        type=Path,
        metavar="FILE",
        help="also write nats per predicted token [batch, time - 1]",
    )
    _option(
        p,
        "--new-tokens",
        type=int,
        default=0,
        help="also continue every row greedily by this many tokens",
    )
    _option(
        p, "--chosen", type=Path, metavar="FILE", help="write that continuation [batch, new tokens]"
    )
    _calibration(p)

    p = _command(commands, "train", train, "train --corpus stdlib -o checkpoint --steps 2000")
    _option(p, "-o", "--output", type=Path, required=True, help="checkpoint folder to write")
    _option(
        p,
        "--corpus",
        default="stdlib",
        help="stdlib (Python's library, default) or a folder of Python sources",
    )
    _option(p, "--text", type=Path, help="train on the bytes of this file instead")
    for name, value, text in (
        ("hidden", 256, "hidden size"),
        ("layers", 6, "blocks"),
        ("intermediate", 0, "gate width"),
        ("steps", 2000, "optimiser steps"),
        ("batch", 64, "windows a step"),
        ("window", 512, "bytes a window"),
        ("seed", 0, "seed"),
    ):
        _option(
            p,
            f"--{name}",
            type=int,
            default=value,
            help=f"{text} (default {value or 'as published'})",
        )
    _option(
        p, "--learning-rate", type=float, default=4e-3, help="peak of the cosine (default 4e-3)"
    )
    _option(p, "--max-seconds", type=float, default=float("inf"), help="stop early, resumable")
    _option(p, "--resume", action="store_true", help="go on with the run in the output folder")

    p = _command(
        commands, "bench", bench, "bench gpu --model 370m --mode generate --batch 64 -o rows.json"
    )
    _option(p, "where", choices=["gpu"], help="gpu: the one that torch finds")
    _option(
        p,
        "--model",
        required=True,
        help="370m, 1.3b, 2.7b or 13b with random weights, or a checkpoint folder",
    )
    _option(p, "--mode", required=True, help="generate, prefill or train")
    _option(p, "--batch", type=int, help="sequences (default 1, for training 8)")
    _option(
        p,
        "--length",
        type=int,
        help="tokens of a sequence (default 2048, for generation 512 before it)",
    )
    one = p.add_mutually_exclusive_group()
    one.add_argument(
        "--impl", choices=["fast", "naive"], help="this project's kernels (default) or plain torch"
    )
    one.add_argument(
        "--baseline",
        choices=["transformer"],
        help="measure a Transformer++ of the same shape instead",
    )
    _option(
        p,
        "--embedding",
        default="int8",
        help="int8 (default) or bfloat16, for fast generation and prefill",
    )
    _option(
        p,
        "--seconds",
        type=float,
        default=2.0,
        help="measure at least so long (default 2, the least)",
    )
    _option(p, "-o", "--output", type=Path, help="JSON file to add the row to")

    p = _command(commands, "systems", systems, "systems kapoho-point")
    _option(p, "name", nargs="?", help="show this system with every figure and its source")

    p = _command(commands, "inspect", inspect, "inspect model.graph")
    _option(p, "path", type=Path, help="checkpoint folder, graph file, mapping file or run folder")
    _option(
        p, "--codes", type=Path, metavar="FILE", help="write a checkpoint's ternary codes as .npz"
    )

    p = _command(commands, "demo", demo, "demo")
    _option(
        p,
        "--checkpoint",
        type=Path,
        default=DEMO_CHECKPOINT,
        help="checkpoint to show (default: the one shipped)",
    )
    _option(p, "--prompt", default=DEMO_PROMPT, help="text to continue")
    _option(
        p, "--new-tokens", type=int, default=160, help="how many tokens to generate (default 160)"
    )
    _option(p, "--scheme", default="a16", help="a16 (default) or a8")
    _option(
        p,
        "-o",
        "--output",
        type=Path,
        default=Path("demo"),
        help="folder for the intermediate files (default demo)",
    )
    _option(
        p,
        "--report",
        type=Path,
        default=Path("report.html"),
        help="report to write (default report.html)",
    )


def _parser() -> Parser:
    parser = Parser(
        prog="mmfree-neuro",
        description=(
            "Deploys a MatMul-free language model on a Loihi-2-style multi-chip system: "
            "integers, mapping, message-driven "
            "simulation, and estimates of speed and energy with their sources."
        ),
    )
    parser.add_argument(
        "--version",
        action="version",
        version=f"mmfree-neuro {simulate_.versions().get('mmfree-neuro', '?')}",
    )
    commands = parser.add_subparsers(required=True, metavar="COMMAND", parser_class=Parser)

    _add_flow(commands)
    _add_tools(commands)
    return parser


def _interrupt(_number: int, _frame: object) -> NoReturn:
    raise KeyboardInterrupt


def main(arguments: Sequence[str] | None = None) -> int:
    """Run one command; the exit status."""
    options = _parser().parse_args(arguments)
    engine = getattr(options, "engine", "")
    before = signal.signal(signal.SIGTERM, _interrupt)
    try:
        status, message = _attempt(options, engine)
        if message is not None:
            print(f"mmfree-neuro: {message}", file=sys.stderr, flush=True)
        engines.end_ranks(engine, status, waited_for=status == 1)
        return status
    except BrokenPipeError:  # whoever read our output has gone
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
        return 1
    except Exception:
        traceback.print_exc()
        engines.end_ranks(engine, 1, waited_for=True)
        return 1
    finally:
        signal.signal(signal.SIGTERM, before)


def _attempt(options: argparse.Namespace, engine: str) -> tuple[int, str | None]:
    """Run the command; the exit status, and what went wrong unless another rank says it."""
    try:
        options.command(options)
    except Served:
        return 0, None
    except MMFreeError as error:
        refused = engines.refused(engine, str(error))
        return 2, None if refused is None else " ".join(refused.split())
    except RunFailed as error:
        return 1, str(error)
    except KeyboardInterrupt as interrupt:
        told = not engines.is_worker(engine)
        return 1, "; ".join(filter(None, ("interrupted", str(interrupt)))) if told else None
    return 0, None


if __name__ == "__main__":
    sys.exit(main())
