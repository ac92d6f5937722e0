"""mmfree-neuro demo: the whole flow on the checkpoint that ships with the project."""

import argparse
import json
import shlex
import subprocess
import sys
from importlib.util import find_spec
from pathlib import Path
from typing import Any

from mmfree_neuro.cli.options import add_command, add_option
from mmfree_neuro.cli.output import show, tell
from mmfree_neuro.errors import InputError
from mmfree_neuro.lowering.scheme import DEFAULT, SCHEMES
from mmfree_neuro.pipeline.engines import DEFAULT_ENGINE, default_engine

NAME = "stdlib-5m"
_CODE = Path(__file__).resolve().parents[1]
CHECKPOINT = next(
    path
    for path in (_CODE / "shipped" / NAME, _CODE.parent / "examples" / "checkpoints" / NAME)
    if path.is_dir() or path.parent.name != "shipped"
)
"""In an installed package, or else in a checkout."""
SHIPPED_GRAPH = CHECKPOINT.with_name(f"{NAME}.graph")
"""What `convert` makes of it by the default scheme."""
WITHOUT_TORCH = (
    "torch, which `convert` needs, is missing, so the demo starts from the graph that travels with "
    "it."
)
NEXT = """\
{report} has the whole of it. What to try next:

which figure of the chips matters most
    mmfree-neuro sensitivity {run}
eight texts at once
    mmfree-neuro map {graph} --system kapoho-point --in-flight 8 -o many.map
all mappings beside each other
    mmfree-neuro explore {graph} --system kapoho-point --chips fewest,2,4,8"""
PROMPT = 'def read_lines(path):\n    """Return the lines of a file."""\n'


def add(commands: Any) -> None:
    """Declare the command and its options."""
    p = add_command(commands, "demo", run, "demo")
    add_option(
        p,
        "--checkpoint",
        type=Path,
        default=CHECKPOINT,
        help="checkpoint to show (default: the one shipped)",
    )
    add_option(p, "--prompt", default=PROMPT, help="text to continue")
    add_option(
        p, "--new-tokens", type=int, default=160, help="how many tokens to generate (default 160)"
    )
    schemes = " or ".join(sorted(SCHEMES))
    add_option(p, "--scheme", default=DEFAULT, help=f"{schemes} (default {DEFAULT})")
    add_option(
        p,
        "-o",
        "--output",
        type=Path,
        default=Path("demo"),
        help="folder for the intermediate files (default demo)",
    )
    add_option(
        p,
        "--report",
        type=Path,
        default=Path("report.html"),
        help="report to write (default report.html)",
    )


def run(options: argparse.Namespace) -> None:
    """Convert, map, simulate in Lava and report, on several chips and then on the best mapping,
    each step as a command of its own.  Without torch, the shipped checkpoint's graph is there
    already."""
    engine = default_engine()
    runs = "in Lava" if engine == DEFAULT_ENGINE else f"on engine {engine}, as lava-nc is missing"
    checkpoint = options.checkpoint
    if not (checkpoint / "config.json").is_file():
        raise InputError(f"{checkpoint}: no checkpoint there; give one with --checkpoint")
    folder: Path = options.output
    graph, several, best = folder / "model.graph", folder / "model.map", folder / "best.map"
    first = "A checkpoint becomes a graph of integers."
    steps_to_graph = [["convert", str(checkpoint), "-o", str(graph), "--scheme", options.scheme]]
    is_shipped = (checkpoint, options.scheme) == (CHECKPOINT, DEFAULT)
    if is_shipped and find_spec("torch") is None:
        first, steps_to_graph, graph = WITHOUT_TORCH, [], SHIPPED_GRAPH
    text = ["--prompt", options.prompt, "--new-tokens", str(options.new_tokens)]
    text += ["--temperature", "0.5"]
    on, report = ["--system", "kapoho-point"], str(options.report)
    parts = {
        first: steps_to_graph,
        f"It runs on eight chips {runs}, so that messages cross between chips.": [
            ["map", str(graph), *on, "--chips", "8", "-o", str(several)],
            ["simulate", str(several), *text, "--engine", engine, "-o", str(folder / "run")],
            ["report", str(folder / "run"), "-o", str(folder / "report.md")],
        ],
        "Eight chips wait for each other at every step.  The best mapping for one sequence is "
        "another one, and gives the same text:": [
            ["map", str(graph), *on, "--for", "generation", "-o", str(best)],
            ["simulate", str(best), *text, "--engine", "fast", "-o", str(folder / "best")],
            ["report", str(folder / "best"), "-o", report],
        ],
    }
    steps = [step for part in parts.values() for step in part]
    if options.json:
        show({"steps": [_as_json(step) for step in steps]}, "", as_json=True)
        return
    for about, part in parts.items():
        tell(f"{about}\n")
        for step in part:
            tell(f"$ mmfree-neuro {' '.join(_quoted(word) for word in step)}")
            _run(step)
            tell("")
    names = {"report": report, "graph": str(graph), "run": str(folder / "best")}
    tell(NEXT.format(**{name: _quoted(path) for name, path in names.items()}))


def _as_json(step: list[str]) -> dict[str, Any]:
    """One step and what it says as JSON."""
    return {"command": step, "result": json.loads(_run([*step, "--json"], subprocess.PIPE))}


def _run(step: list[str], output: int | None = None) -> str:
    """Run a command, or end with its status; what it printed, where that is caught."""
    command = [sys.executable, "-m", "mmfree_neuro", *step]
    done = subprocess.run(command, check=False, stdout=output, encoding="utf-8", errors="replace")
    if done.returncode:
        raise SystemExit(done.returncode)
    return done.stdout or ""


def _quoted(word: str) -> str:
    """As a shell takes it."""
    return shlex.quote(word)
