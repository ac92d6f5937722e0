"""mmfree-neuro eval: how well a model does the tasks of lm-evaluation-harness."""

import argparse
import contextlib
import json
import sys
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

from mmfree_neuro.cli.options import add_calibration, add_command, add_option
from mmfree_neuro.cli.output import show, warn
from mmfree_neuro.errors import InputError, shown
from mmfree_neuro.files.writing import check_outputs, save_text
from mmfree_neuro.pipeline import engines
from mmfree_neuro.pipeline.opened import files_behind
from mmfree_neuro.pipeline.slow_code import slow_code_warnings
from mmfree_neuro.report import terminal


def add(commands: Any) -> None:
    """Declare the command and its options."""
    p = add_command(commands, "eval", run, "eval model.graph --tasks piqa,arc_easy --engine fast")
    add_option(p, "source", type=Path, help="checkpoint folder, graph file or mapping file (.map)")
    add_option(p, "--tasks", required=True, metavar="NAME,…", help="tasks of the harness")
    add_option(
        p,
        "--engine",
        help=f"float, {engines.names_and_needs()} (default gpu where there is a GPU, else fast)",
    )
    add_option(
        p,
        "--in-flight",
        type=int,
        metavar="S",
        help="sequences under way at once, of a checkpoint or a graph file (default 128 on engine "
        "gpu, else 8)",
    )
    add_option(
        p, "--include-path", type=Path, metavar="FOLDER", help="folder with tasks of your own"
    )
    add_option(p, "--num-fewshot", type=int, metavar="N", help="solved examples before each")
    add_option(p, "--limit", type=int, metavar="N", help="only so many documents of each task")
    add_option(p, "-o", "--output", type=Path, help="write all that the harness found as JSON")
    add_calibration(p)


def run(options: argparse.Namespace) -> None:
    """Measure a model on tasks of lm-evaluation-harness, on any engine."""
    for name, value, least in (
        ("--limit", options.limit, 1),
        ("--num-fewshot", options.num_fewshot, 0),
        ("--in-flight", options.in_flight, 1),
    ):
        if value is not None and value < least:
            raise InputError(f"{name} is {value}, must be at least {least}")
    if options.include_path is not None and not options.include_path.is_dir():
        raise InputError(f"{options.include_path}: no such folder, must be one with tasks")
    outputs = [] if options.output is None else [options.output]
    check_outputs(outputs, [*files_behind(options.source)])
    options.engine = options.engine or engines.default_scorer()
    started = time.perf_counter()
    with _quietly():
        found = _evaluate(options)
    content = {
        "engine": options.engine,
        "seconds": time.perf_counter() - started,
        "results": found["results"],
        "versions": found["versions"],
        "documents": {name: some["effective"] for name, some in found["n-samples"].items()},
        "warnings": slow_code_warnings(),
    }
    text = terminal.scores(content)
    warn(content["warnings"])
    if options.output is not None:
        kept = {key: value for key, value in found.items() if key != "samples"}
        save_text(options.output, json.dumps(kept | content, indent=1, default=str) + "\n")
        text += f"\nwrote {options.output}"
    show(json.loads(json.dumps(content, default=float)), text, options.json)


@contextlib.contextmanager
def _quietly() -> Iterator[None]:
    """Whatever the harness prints goes to standard error."""
    with contextlib.redirect_stdout(sys.stderr):
        yield


def _evaluate(options: argparse.Namespace) -> dict[str, Any]:
    try:
        from mmfree_neuro.harness import MMFreeLM
    except ImportError as missing:
        raise InputError(str(missing)) from None
    from lm_eval import simple_evaluate
    from lm_eval.tasks import TaskManager, get_task_dict

    include = None if options.include_path is None else str(options.include_path)
    manager = TaskManager(include_path=include)
    names = [name for name in options.tasks.split(",") if name]
    for name in names:
        if name not in manager.all_tasks:
            raise InputError(f"task {name!r} is not one of the harness, nor in --include-path")
    if not names:
        raise InputError("--tasks is empty, must name at least one task")
    try:
        get_task_dict(names, manager)
    except Exception as error:  # whatever a task, or the library that finds its data, raises
        why = f"{type(error).__name__}: {str(error).partition(chr(10))[0]}"
        raise InputError(f"--tasks {options.tasks} cannot be loaded ({shown(why)})") from None
    model = MMFreeLM(
        str(options.source),
        options.engine,
        options.scheme,
        options.root,
        options.calibrate,
        options.in_flight,
        as_bytes=options.as_bytes,
    )
    try:
        found: dict[str, Any] = simple_evaluate(
            model,
            tasks=names,
            task_manager=manager,
            num_fewshot=options.num_fewshot,
            limit=options.limit,
        )
    finally:
        model.texts.close()
    return found
