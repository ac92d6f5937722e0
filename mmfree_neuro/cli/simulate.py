"""mmfree-neuro simulate: a mapping runs on an engine, or a machine image on the emulator."""

import argparse
import sys
from pathlib import Path
from typing import Any

from mmfree_neuro.cli.options import (
    Asked,
    add_bytes,
    add_command,
    add_option,
    add_prompt,
    add_ranks,
    prompt_of,
    prompts_of,
    ranks,
)
from mmfree_neuro.cli.output import Bars, Typing, show, warn
from mmfree_neuro.errors import InputError
from mmfree_neuro.pipeline import engines
from mmfree_neuro.pipeline import simulate as simulating
from mmfree_neuro.report import terminal
from mmfree_neuro.run.job import check_number_of_new_tokens
from mmfree_neuro.run.run_file import RunRecord
from mmfree_neuro.run.sampling import Sampling
from mmfree_neuro.target.image_file import is_image


def add(commands: Any) -> None:
    """Declare the command and its options."""
    p = add_command(
        commands, "simulate", run, 'simulate model.map --prompt "import os" --new-tokens 64 -o run'
    )
    add_option(p, "mapping", type=Path, help="mapping file or machine image")
    add_prompt(p, many=True)
    add_option(
        p,
        "--in-flight",
        type=int,
        metavar="SEQUENCES",
        help="with --prompts: how many are under way at once (default: as many as the mapping has "
        "room for)",
    )
    add_bytes(p)
    add_option(
        p,
        "--new-tokens",
        type=int,
        default=64,
        help="how many tokens to generate at most (default 64)",
    )
    add_option(
        p, "--ignore-eos", action="store_true", help="generate all of them, beyond the text's end"
    )
    add_option(
        p,
        "--engine",
        help=f"{engines.names_and_needs()} (default {engines.DEFAULT_ENGINE}, or "
        f"{engines.INSTEAD} without lava-nc; a machine image runs on engine {engines.EMULATOR})",
    )
    add_option(
        p,
        "--temperature",
        type=float,
        default=0.0,
        help="0 is greedy (default); higher is more random",
    )
    add_option(p, "--seed", type=int, default=0, help="seed of the draws (default 0)")
    add_ranks(p)
    add_option(
        p,
        "--save-every",
        type=int,
        default=256,
        metavar="N",
        help="write the state of the run to its folder every N tokens of each sequence under way "
        "(default 256, 0 never)",
    )
    add_option(
        p,
        "--resume",
        action="store_true",
        help="go on from the state in the run's folder, on any engine",
    )
    add_option(p, "-o", "--output", type=Path, required=True, help="folder to write the run to")


def run(options: argparse.Namespace) -> None:
    """Run a mapping on an engine, or an image on the emulator."""
    if "-" in (options.prompt_file, options.prompts) and engines.is_ranked(options.engine):
        raise InputError(
            f"standard input reaches one rank of engine {options.engine} alone, the prompt must be "
            "in a file"
        )
    tasks = _tasks(options)
    if options.engine is None and not is_image(options.mapping):
        options.engine = engines.default_engine()
        if options.engine == engines.INSTEAD:
            warn([engines.WITHOUT_LAVA])
    live = sys.stdout.isatty() and not options.json and options.prompts is None
    bars = Bars("generate") if live else Bars()
    typing = Typing(tasks[0].prompt, bars)

    def shown(run: RunRecord) -> None:
        bars.close()
        typing.end()
        warn(run.warnings)
        content = {
            "run": str(options.output),
            "engine": run.engine,
            "results": [
                {
                    "prompt": one.prompt,
                    "text": one.text,
                    "tokens": one.new_tokens,
                    "ended": one.ended,
                }
                for one in run.results
            ],
            "seconds": run.seconds,
            "warnings": run.warnings,
        }
        before = "" if live else f"{terminal.texts(run)}\n"
        show(content, f"{before}\n{terminal.speed(run)}", options.json)

    try:
        simulating.simulate(
            options.mapping,
            tasks,
            options.engine,
            options.output,
            bars.show,
            shown,
            typed=typing.show if live else None,
            save_every=options.save_every,
            resume=options.resume,
            ranks_of_chips=ranks(options.ranks),
            in_flight=options.in_flight,
        )
    finally:
        bars.close()
        typing.end()


def _tasks(options: argparse.Namespace) -> list[simulating.Task]:
    """What the command asks to be gone on with."""
    if options.prompts is None:
        if options.in_flight is not None:
            raise InputError("--in-flight is for several prompts, must come with --prompts")
        prompts = [Asked(prompt_of(options))]
    else:
        prompts = prompts_of(options.prompts)
    return [_task(options, asked) for asked in prompts]


def _task(options: argparse.Namespace, asked: Asked) -> simulating.Task:
    """One prompt; what is wrong with it is said with where it stands."""
    try:
        new_tokens = options.new_tokens if asked.new_tokens is None else asked.new_tokens
        sampling = Sampling(
            options.temperature if asked.temperature is None else asked.temperature,
            options.seed if asked.seed is None else asked.seed,
        )
        check_number_of_new_tokens(new_tokens)
    except InputError as problem:
        raise InputError(f"{asked.where}{problem}") from None
    return simulating.Task(
        asked.prompt, new_tokens, sampling, options.ignore_eos, options.special, options.as_bytes
    )
