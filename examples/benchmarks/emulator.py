"""Machine images on the emulator: the bits and the counts of the other engines, bytes, and speed.

    python examples/benchmarks/emulator.py                  the checkpoint that is shipped
    python examples/benchmarks/emulator.py CHECKPOINT …
    python examples/benchmarks/emulator.py 370m | 2.7b [FOLDER FOR SEVERAL GB, KEPT]

For a checkpoint every scheme is mapped in three ways: onto one chip, as a chain over many, and with
sums that are divided, and norms that are copied where that pays; schemes of 32 bits onto chips
whose messages have as many.  Of each mapping an image is written, and 64 tokens are read and 64
more generated.  The emulator must give the reference's logits and counts in generation, in
pipelined prefill and without a barrier, and so must the fast engine and Lava, or no row is written.

A model of published shape has drawn codes.  Its image is written and run by the commands as users
run them, and the tokens and counts of the run must be those of the fast engine.
"""

import json
import subprocess
import sys
import tempfile
import time
from contextlib import suppress
from dataclasses import replace
from pathlib import Path

import numpy as np
from measure import CLI, run
from rows import write

from mmfree_neuro.errors import CapacityError
from mmfree_neuro.graph import graph_file
from mmfree_neuro.graph.nodes import Graph
from mmfree_neuro.image.write import write_image
from mmfree_neuro.lowering.scheme import SCHEMES
from mmfree_neuro.mapping.mapping import Mapping
from mmfree_neuro.mapping.mapping_file import StoredMapping, save_mapping
from mmfree_neuro.mapping.request import Request
from mmfree_neuro.pipeline import emulated, map, opened
from mmfree_neuro.pipeline.convert import convert
from mmfree_neuro.run import reference
from mmfree_neuro.run.job import Job, Result
from mmfree_neuro.systems.load import load_system
from mmfree_neuro.systems.spec import Quantity, SystemSpec
from mmfree_neuro.testing import published_graph
from mmfree_sims import fast

SHIPPED = Path(__file__).parents[1] / "checkpoints" / "stdlib-5m"
TOKENS = 64
GENERATED = {"370m": 40, "2.7b": 8}
LAVA = """
import sys
from pathlib import Path
import numpy as np
from mmfree_neuro.pipeline import opened
from mmfree_neuro.run.job import Job
from mmfree_sims.lava import engine

graph, stored = opened.open_mapped(Path(sys.argv[1]))
result = engine.run(graph, stored.mapping, Job(np.load(sys.argv[2]), int(sys.argv[3])))
counts = [array for activity in (result.prefill, result.generate) for array in activity.arrays()]
np.savez(sys.argv[4], result.logits, result.chosen, *counts)
"""


def system_of(graph: Graph, name: str) -> SystemSpec:
    """A system by its name, with messages of 32 bits for schemes whose partial sums may need as
    many."""
    system = load_system(name)
    wide = Quantity(32, 32, 32, "made up, for partial sums of 32 bits")
    if graph.accumulator_bits <= system.chip.payload_bits.central:
        return system
    return replace(system, chip=replace(system.chip, payload_bits=wide))


def mappings(graph: Graph) -> dict[str, tuple[Graph, Mapping]]:
    """A graph on one chip, as a chain over many chips, and on chips so small that sums are divided
    and norms copied."""
    one, many = system_of(graph, "oheo-gulch"), system_of(graph, "kapoho-point")
    digest = graph_file.digest_of(graph)
    return {
        "one chip": map.place(graph, digest, one, Request("balanced")),
        "a chain over many chips": map.place(
            graph, digest, many, Request("chain", chips=6, cores=20, divide=False)
        ),
        "divided sums and copies": divided(graph, digest),
    }


def divided(graph: Graph, digest: str) -> tuple[Graph, Mapping]:
    """A mapping with divided sums, and with copies where a scheme has nodes that are worth it."""
    best: tuple[Graph, Mapping] | None = None
    for chips, cores in ((5, 25), (5, 36), (4, 12), (4, 7), (3, 9), (3, 5), (2, 5)):
        request = Request("chain", chips=chips, cores=cores)
        with suppress(CapacityError):
            found = map.place(graph, digest, system_of(graph, "kapoho-point"), request)
            if found[1].columns and copies(*found):
                return found
            best = found if best is None and found[1].columns else best
    if best is None:
        raise SystemExit(f"{graph.name}: no mapping divides sums: no row is written")
    return best


def copies(graph: Graph, mapping: Mapping) -> int:
    """How many neurons a mapping holds more than once."""
    return sum(shard.size for shard in mapping.shards) - sum(node.size for node in graph.nodes)


def counted(result: Result) -> list[np.ndarray]:
    """Logits, chosen tokens and all counts."""
    parts = (*result.prefill.arrays(), *result.generate.arrays())
    return [result.logits, result.chosen, *parts]


def same(found: list[np.ndarray], expected: list[np.ndarray], what: str) -> None:
    """SystemExit where two results differ."""
    if not all(np.array_equal(a, b) for a, b in zip(found, expected, strict=True)):
        raise SystemExit(f"{what} gives something else than the reference: no row is written")


def in_lava(folder: Path, graph: Graph, mapping: Mapping, job: Job) -> list[np.ndarray]:
    """What Lava gives, in a process of its own."""
    whole = folder / "whole.graph"
    save_mapping(
        StoredMapping(mapping, system_of(graph, mapping.system), whole), folder / "one.map"
    )
    np.save(folder / "tokens.npy", job.tokens)
    arguments = [folder / "one.map", folder / "tokens.npy", job.new_tokens, folder / "lava.npz"]
    command = [sys.executable, "-c", LAVA, *(str(argument) for argument in arguments)]
    subprocess.run(command, check=True)
    with np.load(folder / "lava.npz") as arrays:
        return [arrays[name] for name in arrays.files]


def checked(folder: Path, name: str, graph: Graph, mapping: Mapping) -> dict[str, object]:
    """The row of one mapping."""
    rng = np.random.default_rng(1)
    job = Job(rng.integers(0, graph.vocabulary, (1, TOKENS)), TOKENS)
    expected = reference.run(graph, mapping, job)
    wanted = counted(expected)
    system = system_of(graph, mapping.system)
    write_image(graph, mapping, system, "0" * 64, folder / "one.image")
    image = emulated.OpenedImage(folder / "one.image")
    same(counted(emulated.run(image, job)), wanted, f"the emulator, {name},")
    same(counted(fast.run(graph, mapping, job)), wanted, f"the fast engine, {name},")
    same(in_lava(folder, graph, mapping, job), wanted, f"Lava, {name},")
    fed = np.concatenate([job.tokens[0], expected.chosen[0, :-1]])
    machine = emulated.Emulated(image).machine
    one_by_one = np.stack([machine.generate(int(token)) for token in fed])
    same([one_by_one], [expected.logits[0]], f"generation, {name},")
    machine.reset()
    same([machine.prefill(fed)], [expected.logits[0]], f"prefill, {name},")
    machine.reset()
    machine.take_counts()
    same([machine.asynchronous(fed, 5)], [expected.logits[0]], f"without a barrier, {name},")
    markers = int(machine.take_counts().end_markers.sum())
    return {
        "what": name,
        "value": len(fed),
        "unit": "tokens equal on all engines, in all modes",
        "chips": len(mapping.chips),
        "cores": len(mapping.cores),
        "divided_nodes": len(mapping.columns),
        "copies": copies(graph, mapping),
        "image_bytes": sum(core.bytes for cores in image.image.chips.values() for core in cores),
        "end_markers_per_token": markers / len(fed),
    }


def of_checkpoints(paths: list[Path]) -> None:
    """The rows of checkpoints."""
    rows = []
    for path in paths:
        for scheme in SCHEMES.values():
            with tempfile.TemporaryDirectory() as scratch:
                folder = Path(scratch)
                convert(path, folder / "whole.graph", scheme, "stdlib")
                whole, _ = opened.open_graph(folder / "whole.graph")
                for name, (graph, mapping) in mappings(whole).items():
                    what = f"{path.name}, {scheme.name}, {name}"
                    rows.append(checked(folder, what, graph, mapping))
    write("emulator", rows)


def of_published(model: str, folder: Path) -> None:
    """The rows of a model of published shape."""
    graph, mapping, image = (folder / f"{model}.{kind}" for kind in ("graph", "map", "image"))
    graph_file.save_graph(published_graph(model, seed=1), graph)
    system = {"370m": "alia-point-32", "2.7b": "alia-point"}[model]
    placer = {"370m": ["--block-per-chip"], "2.7b": []}[model]
    run([*CLI, "map", str(graph), "--system", system, *placer, "-o", str(mapping)])
    seconds, peak = run([*CLI, "image", str(mapping), "-o", str(image)])
    prompt = ["--prompt", "x", "--bytes", "--new-tokens", str(GENERATED[model])]
    runs = {}
    for what, source, engine in (("fast", mapping, ["--engine", "fast"]), ("emulator", image, [])):
        run([*CLI, "simulate", str(source), *prompt, *engine, "-o", str(folder / what)])
        runs[what] = json.loads((folder / what / "run.json").read_text(encoding="utf-8"))
    for part in ("text", "new_tokens", "prefill", "generate"):
        if runs["fast"][part] != runs["emulator"][part]:
            raise SystemExit(f"{part} of the emulator is another one: no row is written")
    begin = time.perf_counter()
    opened_image = emulated.OpenedImage(image)
    opening = time.perf_counter() - begin
    speeds = {
        what: len(found["new_tokens"]) / max(found["seconds"]["generate"], 1e-9)
        for what, found in runs.items()
    }
    files = sum(file.stat().st_size for file in image.iterdir())
    cores = [core for some in opened_image.image.chips.values() for core in some]
    about = {"chips": len(opened_image.image.chips), "cores": len(cores)}
    write(
        f"emulator_{model}",
        [
            {"what": f"{model}: image written", "value": seconds, "unit": "s"} | about,
            {"what": f"{model}: peak memory", "value": peak, "unit": "B"} | about,
            {"what": f"{model}: files of the image", "value": files, "unit": "B"} | about,
            {"what": f"{model}: image opened and proved", "value": opening, "unit": "s"} | about,
            {
                "what": f"{model}: generation on the emulator",
                "value": speeds["emulator"],
                "unit": "tokens/s",
                "fast_tokens_per_s": speeds["fast"],
            },
        ],
    )


def main() -> None:
    arguments = sys.argv[1:]
    if arguments and arguments[0] in GENERATED:
        with tempfile.TemporaryDirectory() as scratch:
            of_published(arguments[0], Path((*arguments[1:], scratch)[0]))
    else:
        of_checkpoints([Path(path) for path in arguments] or [SHIPPED])


if __name__ == "__main__":
    main()
